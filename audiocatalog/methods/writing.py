"""Methods that save tracks and move them between statuses."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from audiocatalog.errors import CatalogError
from audiocatalog.methods.calls import Calls
from audiocatalog.models.metadata import TrackMetadata, TrackRecord
from audiocatalog.models.tables import StatusChange, Track
from audiocatalog.operations import moves
from audiocatalog.status import StatusName, TrackStatus


class Writing(Calls):
    """Writes of tracks."""

    def save(
        self,
        metadata: TrackMetadata,
        *,
        audio_path: str,
        id: UUID | str | None = None,  # noqa: A002  # Callers know the column by this name.
        thumbnail_path: str | None = None,
        status: TrackStatus | StatusName = TrackStatus.COMPLETED,
        replace: bool = False,
        expected_version: int | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> Track:
        """
        Store a track and return the track; its ``outcome`` tells what the save did.

        - If no track has this *id*, or *id* is None, the save inserts a track in *status*: ``inserted``.
        - If the track already has this content, the save changes nothing: ``unchanged``. So a save can be repeated,
          even if the track is no longer at *expected_version*.
        - If the track has other content, *replace* overwrites it: ``updated``. If *expected_version* is given, the
          save overwrites only that version. A save never changes the status of an existing track.

        *actor* and *reason* are recorded in the history.

        Raises:
            InvalidInput: a field or an argument breaks its rule; the error names each such field, and nothing was sent.
            IllegalTransition: a new track cannot have *status*.
            SaveConflict: the track has other content and *replace* is False, or the track is not at *expected_version*.
            TrackNotFound: *expected_version* was given, and no track has this id.

        >>> with catalog.unit_of_work() as work:  # doctest: +SKIP
        ...     track = work.save(TrackMetadata(title="Jóga", artist="Björk"), audio_path="s3://music/joga.flac")

        """
        return self._run(
            "save",
            lambda: self._save(
                TrackRecord(metadata, audio_path, id, thumbnail_path, status),
                actor,
                reason,
                replace=replace,
                expected_version=expected_version,
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
        """
        Store *record*, whose fields are already validated, as ``save`` does.

        Raises:
            InvalidInput: an argument breaks its rule.
            SaveConflict: the track has other content and *replace* is False, or the track is not at *expected_version*.
            TrackNotFound: *expected_version* was given, and no track has this id.
        """
        return self._run(
            "save_record", lambda: self._save(record, actor, reason, replace=replace, expected_version=expected_version)
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
        Move the track with *id* to the status *to* and return the change, a row of its history.

        If *expected* is given, the track moves only from that status, otherwise from any status that ``TRANSITIONS``
        allows. A call with the *operation_id* of an earlier call returns the earlier answer, so retries are safe.

        Raises:
            IllegalTransition: ``TRANSITIONS`` forbids the move from the track's status.
            TransitionConflict: the track is not in *expected*, or another caller moved the track at the same moment.
            TrackNotFound: no track has this id.
            InvalidInput: an argument breaks its rule; the error names it.
            CommitOutcomeUnknown: outside a unit of work, if the connection was lost before the answer. Retry with the
                same *operation_id*, and the track moves once.
        """
        return self._run(
            "update_status",
            lambda: moves.update_status(id, self._move(to, actor, reason, expected, operation_id)),
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
        Move each track as ``update_status`` does, and return the change or the error of each id.

        The call accepts at most 10,000 ids. An error for one track does not stop the others. The tracks are locked in
        the order of their ids, so that two such calls cannot deadlock.

        Raises:
            InvalidInput: an argument breaks its rule; nothing was moved.
            IllegalTransition: ``TRANSITIONS`` forbids the move from *expected*; nothing was moved.

        >>> outcomes = work.update_statuses(ids, TrackStatus.PENDING, reason="new codec")  # doctest: +SKIP
        >>> [id for id, outcome in outcomes.items() if isinstance(outcome, errors.CatalogError)]  # doctest: +SKIP
        []

        """
        return self._run(
            "update_statuses",
            lambda: moves.update_statuses(ids, self._move(to, actor, reason, expected, operation_id)),
        )
