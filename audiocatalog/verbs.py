"""What a catalogue does in one call and a unit of work does in its transaction: the same words, the same rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final, TypeVar
from uuid import UUID

from audiocatalog.claiming import (
    claim_tracks,
    complete_claims,
    give_claims_up,
    release_expired_claims,
    renew_claims,
)
from audiocatalog.claims import Claim, ClaimOrder, Retries, split_pairs
from audiocatalog.errors import CatalogError, ClaimLost, InvalidInput, Problem
from audiocatalog.metadata import TrackMetadata, clean_actor, clean_reason
from audiocatalog.models import StatusChange
from audiocatalog.observing import Observer, observed
from audiocatalog.operations import ids_of, move_track, move_tracks
from audiocatalog.reads import Reads
from audiocatalog.settings import Settings
from audiocatalog.status import TrackStatus

_Result = TypeVar("_Result")
_LEASE: Final = timedelta(minutes=5)


class Verbs(Reads):
    """Read, search, move and claim tracks, each call in one round trip unless it says otherwise."""

    def __init__(self, actor: str, settings: Settings, observer: Observer) -> None:
        super().__init__(settings, observer)
        self._actor = actor

    @observed
    def update_status(
        self,
        id: UUID | str,  # noqa: A002
        to: TrackStatus,
        *,
        reason: str | None = None,
        actor: str | None = None,
        expected: TrackStatus | None = None,
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
        who = self._actor_or_default(actor)
        return self._perform(
            lambda driver, phase: move_track(
                driver,
                id,
                to,
                actor=who,
                reason=reason,
                expected=expected,
                operation_id=operation_id,
                notify=self._settings.notify,
                phase=phase,
            ),
        )

    @observed
    def update_statuses(
        self,
        ids: Iterable[UUID | str],
        to: TrackStatus,
        *,
        reason: str | None = None,
        actor: str | None = None,
        expected: TrackStatus | None = None,
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
        who = self._actor_or_default(actor)
        identifiers = ids_of(ids, "update_statuses")
        return self._perform(
            lambda driver, phase: move_tracks(
                driver,
                identifiers,
                to,
                actor=who,
                reason=reason,
                expected=expected,
                operation_id=operation_id,
                notify=self._settings.notify,
                phase=phase,
            ),
        )

    @observed
    def claim(
        self,
        limit: int = 10,
        *,
        lease: timedelta = _LEASE,
        worker: str | None = None,
        order: ClaimOrder | str = ClaimOrder.OLDEST,
    ) -> list[Claim]:
        """
        Take up to *limit* waiting tracks into the hands of *worker* (the catalogue's actor if None), for *lease*.

        Each becomes PROCESSING and is nobody else's until the lease runs out; an empty list says that none is waiting.
        No caller waits for another. Renew the lease if the work takes longer, and end it by ``complete``, ``fail`` or
        ``release``. *worker* is a name for the history; what fences a claim is its token, so that names may repeat.

        Raises:
            InvalidInput: *limit* is none from 1 to 1,000, or another argument breaks its rule.

        >>> for claim in catalog.claim(limit=10, worker="extractor 3"):  # doctest: +SKIP
        ...     catalog.complete(claim, extract(claim.track.audio_path))

        """
        name = self._actor_or_default(worker, "worker")
        return self._perform(
            lambda driver, phase: claim_tracks(driver, limit=limit, lease=lease, worker=name, order=order, phase=phase),
        )

    @observed
    def renew(self, claim: Claim, *, lease: timedelta = _LEASE) -> Claim:
        """
        Prolong *claim* to *lease* from now, if that is later, and return it with its new end.

        Raises:
            ClaimLost: it no longer holds.
        """
        (outcome,) = self._renew([claim], lease)
        return _or_raise(outcome)

    @observed
    def renew_many(self, claims: Sequence[Claim], *, lease: timedelta = _LEASE) -> list[Claim | ClaimLost]:
        """
        Prolong *claims* as ``renew`` does, and return what became of each: the claim, or the error that it got.

        Raises:
            InvalidInput: names what breaks its rule; nothing was changed.
        """
        return self._renew(claims, lease)

    @observed
    def complete(
        self, claim: Claim, metadata: TrackMetadata | None = None, *, actor: str | None = None
    ) -> StatusChange:
        """
        End *claim*: its track is COMPLETED, with *metadata* if that is given, both or neither.

        Called again, it returns the first answer. The history says that the claim's worker did it, unless *actor* is
        given.

        Raises:
            ClaimLost: the claim no longer holds; nothing was changed.
            InvalidInput: *metadata* is no ``TrackMetadata``.
        """
        (outcome,) = self._complete([(claim, metadata)], actor)
        return _or_raise(outcome)

    @observed
    def complete_many(
        self, claims: Sequence[Claim | tuple[Claim, TrackMetadata | None]], *, actor: str | None = None
    ) -> list[StatusChange | ClaimLost]:
        """
        Complete *claims*, with or without metadata, and return what became of each: the change, or the error it got.

        One that no longer holds does not keep the others from being completed.

        Raises:
            InvalidInput: names what breaks its rule; nothing was changed.
        """
        return self._complete(claims, actor)

    @observed
    def fail(self, claim: Claim, error: str | None, *, retry: bool = True, actor: str | None = None) -> StatusChange:
        """
        End *claim* by an *error*, which the history and the next claim tell.

        The track waits for its next try, longer after each one, as the catalogue's settings say; without *retry*, or
        when it has been tried as often as they allow, it is FAILED. Called again, it returns the first answer.

        Raises:
            ClaimLost: the claim no longer holds; nothing was changed.
            InvalidInput: *error* is no text of at most 1,000 characters.
        """
        if not isinstance(retry, bool):
            raise InvalidInput(Problem("retry", "True or False"), operation="fail")
        return self._give_up(claim, "fail", reason=clean_reason(error, "error"), actor=actor, retry=retry, counted=True)

    @observed
    def release(self, claim: Claim, *, reason: str | None = None, actor: str | None = None) -> StatusChange:
        """
        Give the track of *claim* back, as if it had not been tried: it waits at once.

        Raises:
            ClaimLost: the claim no longer holds; nothing was changed.
        """
        return self._give_up(claim, "release", reason=clean_reason(reason), actor=actor, retry=True, counted=False)

    @observed
    def release_expired(self, limit: int = 1000, *, actor: str | None = None) -> list[StatusChange]:
        """
        Take back up to *limit* tracks whose leases have run out, and return the changes.

        They wait for their next try, longer after each one; those that have been tried as often as the settings allow
        are FAILED. A claim that is renewed at the same moment is left alone. Worker loops do this by themselves.
        """
        who = self._actor_or_default(actor)
        return self._perform(
            lambda driver, phase: release_expired_claims(
                driver, limit=limit, actor=who, retries=self._retries(), notify=self._settings.notify, phase=phase
            ),
        )

    def _renew(self, claims: Sequence[Claim], lease: timedelta) -> list[Claim | ClaimLost]:
        return self._perform(lambda driver, phase: renew_claims(driver, claims, lease=lease, phase=phase))

    def _complete(
        self, claims: Sequence[Claim | tuple[Claim, TrackMetadata | None]], actor: str | None
    ) -> list[StatusChange | ClaimLost]:
        found, metadata = split_pairs(claims)
        who = None if actor is None else clean_actor(actor)
        return self._perform(lambda driver, phase: complete_claims(driver, found, metadata, actor=who, phase=phase))

    def _give_up(
        self, claim: Claim, operation: str, *, reason: str | None, actor: str | None, retry: bool, counted: bool
    ) -> StatusChange:
        who = None if actor is None else clean_actor(actor)
        (outcome,) = self._perform(
            lambda driver, phase: give_claims_up(
                driver,
                [claim],
                operation=operation,
                reason=reason,
                actor=who,
                retry=retry,
                counted=counted,
                retries=self._retries(),
                notify=self._settings.notify,
                phase=phase,
            ),
        )
        return _or_raise(outcome)

    def _retries(self) -> Retries:
        settings = self._settings
        return Retries(settings.max_attempts, settings.retry_delay, settings.longest_retry_delay)

    def _actor_or_default(self, actor: str | None, field: str = "actor") -> str:
        return self._actor if actor is None else clean_actor(actor, field)


def _or_raise(outcome: _Result | ClaimLost) -> _Result:
    if isinstance(outcome, ClaimLost):
        raise outcome
    return outcome
