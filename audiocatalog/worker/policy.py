"""The rules of a worker that threads and tasks share: nothing in this module waits."""

from __future__ import annotations

import logging
import random
import threading
import time
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Self
from uuid import UUID

from audiocatalog.db.observer import LOGGER
from audiocatalog.errors import (
    CatalogError,
    ClaimLost,
    CommitOutcomeUnknown,
    InvalidInput,
    PoolTimeout,
    QueryTimeout,
)
from audiocatalog.models.arguments import number_of_seconds, parse_choice
from audiocatalog.models.claim import CLAIM_ORDERS, Claim, ClaimOrder
from audiocatalog.models.limits import CHANGE_LIMITS
from audiocatalog.models.metadata import TrackMetadata
from audiocatalog.operations.claims import checked_count, checked_lease, claim_for_loop
from audiocatalog.operations.operation import Operation

# A lease is renewed when a third of its time has passed, so that one renewal may fail.
_RENEWALS_PER_LEASE: Final = 3
#: One call releases at most this many tracks of dead workers, and locks their rows until the call ends.
TAKEN_BACK: Final = 500
#: A renewal with this lease changes nothing; it only checks that a claim is still held.
MOMENT: Final = timedelta(milliseconds=10)
# The first delay before a retry in seconds, doubled for each further retry, and the limits of that delay.
_FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
_LONGEST_PAUSE_OF_A_CLAIM: Final = 1.0
_TOLD: Final = CHANGE_LIMITS["reason"].characters

#: What the history says of claims that the loop has not begun.
WORKER_ENDED: Final = "the worker ended"
CLAIMING_FAILED: Final = "claiming failed, so the worker retries: %s"
RENEWING_FAILED: Final = "leases could not be renewed, so the worker retries: %s"
TAKING_BACK_FAILED: Final = "tracks of dead workers could not be released, so the worker retries: %s"
LISTENING_FAILED: Final = "listening for waiting tracks failed, so the worker polls: %s"
RELEASING_FAILED: Final = "a claim could not be released, so its track waits until the lease expires: %s"
ENDING_FAILED: Final = "a claim could not be ended, so its track waits until the lease expires: %s"
LEFT_BODY: Final = "%s left the body of the loop, so the worker failed the claim"
LOOP_BLOCKED: Final = (
    "the worker %s could not renew its leases for %.1f s, because other code blocked the event loop: run that code in "
    "a thread, with asyncio.to_thread"
)
NOT_ENDED: Final = (
    "the body of the loop has not ended its claim, so its track waits until the lease expires; complete, fail or "
    "release each claim"
)


@dataclass(frozen=True, slots=True)
class Terms:
    """The checked arguments of a worker."""

    name: str
    limit: int
    lease: timedelta
    order_by: ClaimOrder
    poll: float
    until_empty: bool

    @classmethod
    def checked(
        cls, *, name: str, limit: object, lease: object, order_by: object, poll: object, until_empty: bool
    ) -> Self:
        """Return the terms, or raise InvalidInput, which names the argument that breaks its rule."""
        return cls(
            name,
            checked_count(limit, "limit", "worker"),
            checked_lease(lease, "worker"),
            parse_choice(CLAIM_ORDERS, order_by, "order_by", "worker"),
            number_of_seconds(poll, "poll", "worker", least=0.01, most=3600),
            until_empty,
        )

    def claim(self) -> Operation[list[tuple[Claim, bool]]]:
        """Claim tracks, and return pairs of a claim and whether its work has begun, True for the first claim only."""
        return claim_for_loop(self.limit, lease=self.lease, worker=self.name, order_by=self.order_by)

    def until_renewal(self) -> float:
        """Return the seconds between two renewals."""
        return self.lease.total_seconds() / _RENEWALS_PER_LEASE

    def until_poll(self) -> float:
        """Return the seconds until the loop looks for waiting tracks again; the jitter spreads workers out."""
        return self.poll * random.uniform(0.5, 1.5)  # noqa: S311

    def until_taking_back(self) -> float:
        """Return the seconds until the worker looks for tracks of dead workers again."""
        return self.lease.total_seconds() * random.uniform(0.5, 1.0)  # noqa: S311


class Pauses:
    """The delays between retries, up to *longest* seconds."""

    def __init__(self, longest: float = LONGEST_PAUSE) -> None:
        self._longest = max(longest, _FIRST_PAUSE)
        self.reset()

    def reset(self) -> None:
        """Begin with the first delay again."""
        self._next = _FIRST_PAUSE

    def next(self) -> float:
        """Return the next delay."""
        pause, self._next = self._next, min(self._next * 2, self._longest)
        return pause


class Insistence:
    """The retries of a call about a claim, until the claim's lease of *lease* may have expired."""

    def __init__(self, lease: timedelta, *, before_giving: bool) -> None:
        self._deadline = time.monotonic() + lease.total_seconds()
        self._pauses = Pauses(_LONGEST_PAUSE_OF_A_CLAIM)
        self._before_giving = before_giving

    def pause_after(self, error: CatalogError, *, stopping: bool) -> float | None:
        """
        Return the delay before the next retry, or None if the claim is lost.

        A claim that is not yielded yet counts as lost if the errors last, or if the loop is *stopping*.

        Raises:
            CatalogError: *error*, if a retry cannot resolve it, or if the errors lasted for a whole lease.
        """
        if isinstance(error, ClaimLost):
            LOGGER.warning("%s", error, extra={"track_id": error.track_id})
            return None
        # A retry is safe, because a repeated call gets the first answer.
        if not may_pass(error):
            raise error
        if self._before_giving and stopping:
            return None
        pause = self._pauses.next()
        if time.monotonic() + pause > self._deadline:
            if self._before_giving:
                return None
            raise error
        return pause


class HeldClaims:
    """The claims that a loop holds, and those whose work has begun; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[UUID, Claim] = {}
        self._given: dict[UUID, Claim] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, claims: Iterable[Claim]) -> None:
        """Hold *claims*, too."""
        with self._lock:
            self._held.update((claim.track.id, claim) for claim in claims)

    def holds(self, claim: Claim) -> bool:
        """Return whether *claim* is held; a lost claim is not."""
        with self._lock:
            return self._held.get(claim.track.id) is claim

    def give(self, claim: Claim) -> None:
        """Note that the work on *claim* begins."""
        with self._lock:
            self._given[claim.track.id] = claim

    def drop(self, claim: Claim) -> None:
        """Stop holding *claim*, but not a newer claim of the same track."""
        with self._lock:
            if self._held.get(claim.track.id) is claim:
                del self._held[claim.track.id]
            if claim.has_ended and self._given.get(claim.track.id) is claim:
                del self._given[claim.track.id]

    def held(self) -> list[Claim]:
        """Return all held claims, and forget about those whose work has ended."""
        with self._lock:
            self._given = {track: claim for track, claim in self._given.items() if self._held.get(track) is claim}
            return list(self._held.values())

    def note_renewals(self, renewed: Sequence[Claim], outcomes: Sequence[Claim | ClaimLost]) -> None:
        """Stop holding the claims that a renewal has found lost."""
        for claim, outcome in zip(renewed, outcomes, strict=True):
            if isinstance(outcome, ClaimLost):
                # The body may have ended its claim, and may now do other work.
                is_given = claim.has_ended or self._given.get(claim.track.id) is claim
                level = logging.DEBUG if is_given else logging.WARNING
                LOGGER.log(level, "%s", outcome, extra={"track_id": outcome.track_id})
                self.drop(claim)


def may_pass(error: CatalogError) -> bool:
    """Return whether the loop continues after *error*, because the server or the pool caused it, not the call."""
    return error.retryable or isinstance(error, CommitOutcomeUnknown | PoolTimeout | QueryTimeout)


def is_misuse(error: BaseException) -> bool:
    """Return whether *error* says that the handler is a function of the wrong kind, which is not the track's fault."""
    return isinstance(error, InvalidInput) and (error.field, error.operation) == ("handler", "worker")


def checked_metadata(metadata: object) -> TrackMetadata | None:
    """Return the *metadata* that a handler has returned, or raise TypeError."""
    if metadata is None or isinstance(metadata, TrackMetadata):
        return metadata
    raise TypeError(f"the handler must return a TrackMetadata or None, not a {type(metadata).__name__}")


def reason_for(error: BaseException) -> str:
    """Return the type and the text of *error* in the form that the history can store."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # An exception whose text cannot be read must not end the loop.
        text = "(no text)"
    written = f"{type(error).__name__}: {text}".replace("\0", "").encode("utf-8", "replace").decode("utf-8")
    # NFC can lengthen a text, and the history's limit counts the characters of NFC.
    return unicodedata.normalize("NFC", written[:_TOLD])[:_TOLD]
