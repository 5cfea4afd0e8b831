"""What a catalogue does in one call and a unit of work does in its transaction: the same words, the same rules."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
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
from audiocatalog.engine import Settings
from audiocatalog.errors import CatalogError, ClaimLost, InvalidInput, Phase, Problem
from audiocatalog.explaining import explain_hit
from audiocatalog.identifiers import parse_id
from audiocatalog.metadata import TrackMetadata, clean_actor, clean_reason
from audiocatalog.models import StatusChange, Track
from audiocatalog.operations import Driver, find_track, move_track, move_tracks, read_history, required
from audiocatalog.search.explanation import Explanation
from audiocatalog.search.filters import SearchFilters
from audiocatalog.search.page import SearchPage, SearchSort
from audiocatalog.search.request import Request
from audiocatalog.searching import search_tracks
from audiocatalog.status import TrackStatus

_Result = TypeVar("_Result")
_LEASE: Final = timedelta(minutes=5)


class Verbs(ABC):
    """Read, search, move and claim tracks, each call in one round trip unless it says otherwise."""

    def __init__(self, actor: str, settings: Settings) -> None:
        self._actor = actor
        self._settings = settings

    @abstractmethod
    def _perform(self, operation: Callable[[Driver, Phase], _Result]) -> _Result:
        """Do *operation* on a connection, whose loss means what the phase says."""

    def get(self, id: UUID | str) -> Track:  # noqa: A002
        """
        Return the track with *id*.

        Raises:
            TrackNotFound: there is none.
            InvalidInput: *id* is no UUID.
        """
        return required(self.find(id), id)

    def find(self, id: UUID | str) -> Track | None:  # noqa: A002
        """
        Return the track with *id*, or None if there is none.

        Raises:
            InvalidInput: *id* is no UUID.
        """
        track_id = parse_id(id)
        return self._perform(lambda driver, _: find_track(driver, track_id))

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
            )
        )

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
        return self._perform(
            lambda driver, phase: move_tracks(
                driver,
                ids,
                to,
                actor=who,
                reason=reason,
                expected=expected,
                operation_id=operation_id,
                notify=self._settings.notify,
                phase=phase,
            )
        )

    def history(self, id: UUID | str) -> list[StatusChange]:  # noqa: A002
        """
        Return every status change of the track with *id*, oldest first; the first has no ``from_status``.

        The ``lasted`` of each says how long the track stayed in the status that it led to.

        Raises:
            TrackNotFound: there is no such track.
            InvalidInput: *id* is no UUID.
        """
        track_id = parse_id(id)
        return self._perform(lambda driver, _: read_history(driver, track_id))

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
            lambda driver, phase: claim_tracks(driver, limit=limit, lease=lease, worker=name, order=order, phase=phase)
        )

    def renew(self, claim: Claim, *, lease: timedelta = _LEASE) -> Claim:
        """
        Prolong *claim* to *lease* from now, if that is later, and return it with its new end.

        Raises:
            ClaimLost: it no longer holds.
        """
        (outcome,) = self.renew_many([claim], lease=lease)
        return _or_raise(outcome)

    def renew_many(self, claims: Sequence[Claim], *, lease: timedelta = _LEASE) -> list[Claim | ClaimLost]:
        """
        Prolong *claims* as ``renew`` does, and return what became of each: the claim, or the error that it got.

        Raises:
            InvalidInput: names what breaks its rule; nothing was changed.
        """
        return self._perform(lambda driver, phase: renew_claims(driver, claims, lease=lease, phase=phase))

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
        (outcome,) = self.complete_many([(claim, metadata)], actor=actor)
        return _or_raise(outcome)

    def complete_many(
        self, claims: Sequence[Claim | tuple[Claim, TrackMetadata | None]], *, actor: str | None = None
    ) -> list[StatusChange | ClaimLost]:
        """
        Complete *claims*, with or without metadata, and return what became of each: the change, or the error it got.

        One that no longer holds does not keep the others from being completed.

        Raises:
            InvalidInput: names what breaks its rule; nothing was changed.
        """
        found, metadata = split_pairs(claims)
        who = None if actor is None else clean_actor(actor)
        return self._perform(lambda driver, phase: complete_claims(driver, found, metadata, actor=who, phase=phase))

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

    def release(self, claim: Claim, *, reason: str | None = None, actor: str | None = None) -> StatusChange:
        """
        Give the track of *claim* back, as if it had not been tried: it waits at once.

        Raises:
            ClaimLost: the claim no longer holds; nothing was changed.
        """
        return self._give_up(claim, "release", reason=clean_reason(reason), actor=actor, retry=True, counted=False)

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
            )
        )

    def search(
        self,
        query: str,
        *,
        filters: SearchFilters | None = None,
        limit: int = 20,
        offset: int = 0,
        after: str | None = None,
        sort: SearchSort | str = SearchSort.RELEVANCE,
        facets: Collection[str] = (),
    ) -> SearchPage:
        """
        Return the tracks that *query* finds, best first.

        Words are found whatever their case, accents and punctuation, in title, artist, album, genre and year; the last
        one may go on, unless a space follows it. A query may hold ``"phrases"``, ``-exclusions``, ``one OR another``,
        ``artist:``, ``title:``, ``album:`` and ``genre:`` before a word, ``year:1990..1999`` and ``duration:..4:30``;
        an id finds its track. Whatever fits none of this is a word. Where no track holds all words, those that hold
        like ones, or most of them, are found instead; behind the few tracks that hold a single word which looks like a
        slip, those that hold what may have been meant. The page's *suggestion* says it. A
        query without words lists what its ranges and the filters leave, the newest first, or nothing if there is none.

        *filters* narrow the search. *limit* is from 1 to 100, *offset* from 0 to 10,000; *after* is the ``next`` of
        the page before and neither skips nor repeats a track while others are written. *sort* is another order.
        *facets* names what to count among the hits: genre, decade, artist, format, status.

        Raises:
            InvalidInput: the query is longer than 1,000 characters or 32 terms, or another argument breaks its rule.
            QueryTimeout: it took longer than the catalogue's ``search_timeout``; the unit of work goes on.

        >>> page = catalog.search("ac dc", filters=SearchFilters(year=(1975, 1980)))  # doctest: +SKIP
        >>> [hit.track.title for hit in page.hits]  # doctest: +SKIP
        ['Highway to Hell']

        """
        timeout = self._settings.search_timeout
        request = Request.make(
            query,
            filters=filters,
            limit=limit,
            offset=offset,
            after=after,
            sort=sort,
            facets=facets,
            timeout=timeout,
        )
        return self._perform(lambda driver, _: search_tracks(driver, request, timeout=timeout))

    def explain(self, query: str, id: UUID | str, *, filters: SearchFilters | None = None) -> Explanation:  # noqa: A002
        """
        Say why the track with *id* stands where it stands in the search for *query*, or why it is not there.

        Raises:
            TrackNotFound: there is no such track.
            InvalidInput: the query holds no word, or an argument breaks its rule.

        >>> print(work.explain("ac dc live", track.id))  # doctest: +SKIP
        not found: it does not hold 'live'
          'ac' in artist
          'dc' in artist
          'live' in nowhere

        """
        timeout = self._settings.search_timeout
        return self._perform(lambda driver, _: explain_hit(driver, query, id, filters=filters, timeout=timeout))

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
            )
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
