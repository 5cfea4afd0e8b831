"""How tracks are saved and moved."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from audiocatalog.errors import CatalogError
from audiocatalog.methods.calls import Calls
from audiocatalog.models.metadata import TrackMetadata, TrackRecord
from audiocatalog.models.tables import StatusChange, Track
from audiocatalog.operations import moves, tracks
from audiocatalog.status import StatusName, TrackStatus


class Writing(Calls):
    """Writes of tracks."""

    def save(
        self,
        metadata: TrackMetadata,
        *,
        audio_path: str,
        id: UUID | str | None = None,  # noqa: A002  # The column's name, which callers know.
        thumbnail_path: str | None = None,
        status: TrackStatus | StatusName = TrackStatus.COMPLETED,
        replace: bool = False,
        expected_version: int | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> Track:
        """
        Store a track and return it; its ``outcome`` says what was done.

        A new *id* (a new one is made if None) is inserted in *status*, with the first row of its history, by *actor*
        for *reason*. An id that already holds the same content is left as it is, so that a save can be repeated,
        whatever its version is by then: also at another version than *expected_version*, which is then a success with
        the outcome ``unchanged``. Other content is overwritten only with *replace*, and then only at
        *expected_version*, if that is given; a track's status is never touched.

        Raises:
            InvalidInput: names every bad field; nothing was sent.
            IllegalTransition: no track begins in *status*.
            SaveConflict: the id holds other content that was not to be replaced, or not at this version.
            TrackNotFound: *expected_version* was given for an id that does not exist.

        >>> with catalog.unit_of_work() as work:  # doctest: +SKIP
        ...     track = work.save(TrackMetadata(title="Jóga", artist="Björk"), audio_path="s3://music/joga.flac")

        """
        return self._run(
            "save",
            lambda: tracks.save(
                TrackRecord(metadata, audio_path, id=id, thumbnail_path=thumbnail_path, status=status),
                replace=replace,
                expected_version=expected_version,
                actor=self._actor_or_default(actor),
                reason=reason,
                notify=self._settings.notify,
            ),
        )

    def save_record(
        self,
        record: TrackRecord,
        *,
        replace: bool = False,
        expected_version: int | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> Track:
        """Store *record*, a save that was validated before, as ``save`` does."""
        return self._run(
            "save_record",
            lambda: tracks.save(
                record,
                replace=replace,
                expected_version=expected_version,
                actor=self._actor_or_default(actor),
                reason=reason,
                notify=self._settings.notify,
            ),
        )

    def update_status(
        self,
        id: UUID | str,  # noqa: A002
        to: TrackStatus | StatusName,
        *,
        reason: str | None = None,
        actor: str | None = None,
        expected: TrackStatus | StatusName | None = None,
        operation_id: UUID | str | None = None,
    ) -> StatusChange:
        """
        Move the track with *id* to the status *to* and return the row of its history that says so.

        With *expected*, the track moves only from that status; without, from any that the table allows. A repeated
        *operation_id* is answered with the first answer, so that a lost answer can be asked for again.

        Raises:
            IllegalTransition: the table forbids the move from the status it is in.
            TransitionConflict: the track is not *expected*, or somebody else moved it at the same moment.
            TrackNotFound: there is no such track.
            InvalidInput: names the argument that breaks its rule.
            CommitOutcomeUnknown: outside a unit of work, if the connection was lost before the answer came. Ask again
                with the same *operation_id*, if one was given: then the move is made once.
        """
        return self._run(
            "update_status",
            lambda: moves.update_status(
                id,
                to,
                actor=self._actor_or_default(actor),
                reason=reason,
                expected=expected,
                operation_id=operation_id,
                notify=self._settings.notify,
            ),
        )

    def update_statuses(
        self,
        ids: Iterable[UUID | str],
        to: TrackStatus | StatusName,
        *,
        reason: str | None = None,
        actor: str | None = None,
        expected: TrackStatus | StatusName | None = None,
        operation_id: UUID | str | None = None,
    ) -> dict[UUID, StatusChange | CatalogError]:
        """
        Move each track as ``update_status`` does, and return what became of it: the change, or the error that it got.

        The tracks are locked in the order of their ids, so that two such calls never wait for each other in a circle.
        At most 10,000 ids; one of them that cannot be moved does not keep the others from moving.

        Raises:
            InvalidInput: names the argument that breaks its rule; nothing was moved.

        >>> outcomes = work.update_statuses(ids, TrackStatus.PENDING, reason="new codec")  # doctest: +SKIP
        >>> [id for id, outcome in outcomes.items() if isinstance(outcome, errors.CatalogError)]  # doctest: +SKIP
        []

        """
        return self._run(
            "update_statuses",
            lambda: moves.update_statuses(
                ids,
                to,
                actor=self._actor_or_default(actor),
                reason=reason,
                expected=expected,
                operation_id=operation_id,
                notify=self._settings.notify,
            ),
        )
