"""The background threads of a worker: they renew leases, release tracks of dead workers, and LISTEN."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import psycopg

from audiocatalog.db.observer import LOGGER
from audiocatalog.errors import CatalogError, ClaimLost, CommitOutcomeUnknown, PoolTimeout, QueryTimeout
from audiocatalog.methods import Methods
from audiocatalog.models.claim import Claim
from audiocatalog.operations.claims import CHANNEL

# A lease is renewed when a third of its time has passed, so that one renewal may fail.
_RENEWALS_PER_LEASE: Final = 3
#: One call releases at most this many tracks of dead workers, and locks their rows until the call ends.
_TAKEN_BACK: Final = 500
# A listening thread checks at this interval whether it must end.
_LISTENING_SECONDS: Final = 0.5
# The first delay before a retry in seconds, doubled for each further retry, and the limit of that delay.
FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0

Listening = Callable[[], AbstractContextManager[psycopg.Connection[Any]]]


class Upkeep:
    """
    The claims that a loop holds, and the threads that renew these claims and release tracks of dead workers.

    The threads call *tell* to wake up the loop: after a notification, after they released tracks, or after a failure.
    A *failure* is an error that no retry can resolve, so that the loop raises it.
    """

    def __init__(
        self, catalog: Methods, *, name: str, lease: timedelta, listening: Listening | None, tell: Callable[[], None]
    ) -> None:
        self._catalog = catalog
        self._name = name
        self._lease = lease
        self._listening = listening
        self._tell = tell
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._held: dict[UUID, Claim] = {}
        self._looked_for_dead = threading.Event()
        #: The claim that the body works on, or has ended already.
        self.given: Claim | None = None
        self.failure: CatalogError | None = None

    def __len__(self) -> int:
        return len(self._held)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Renew the leases of the held claims, and release those that are still held at the end."""
        self._ended.clear()
        self._looked_for_dead.clear()
        self.failure = None
        with ExitStack() as stack:
            stack.enter_context(self._in_background(self._keep_leases))
            stack.enter_context(self._in_background(self._take_back))
            if self._listening is not None:
                stack.enter_context(self._in_background(self._listen, self._listening))
            stack.callback(self._give_back)
            yield

    @property
    def has_looked_for_dead(self) -> bool:
        """Whether the tracks that dead workers had at the loop's start were released, or an attempt failed."""
        return self._looked_for_dead.is_set()

    def hold(self, claims: Iterable[Claim]) -> None:
        """Replace the held claims with *claims*."""
        with self._lock:
            self._held = {claim.track.id: claim for claim in claims}

    def holds(self, claim: Claim) -> bool:
        """Return whether *claim* is held; a lost claim is not."""
        with self._lock:
            return self._held.get(claim.track.id) is claim

    def drop(self, claim: Claim) -> None:
        """Stop holding *claim*, but not a newer claim of the same track."""
        with self._lock:
            if self._held.get(claim.track.id) is claim:
                del self._held[claim.track.id]

    def _keep_leases(self) -> None:
        interval = self._lease.total_seconds() / _RENEWALS_PER_LEASE
        while not self._ended.wait(interval):
            with self._lock:
                held = list(self._held.values())
            try:
                outcomes = self._catalog.renew_many(held, lease=self._lease)
            except CatalogError as error:
                # The next renewal, or the end of the claim, shows whether the claim is still held.
                LOGGER.warning("leases could not be renewed, so the worker retries: %s", error)
                continue
            for claim, outcome in zip(held, outcomes, strict=True):
                if isinstance(outcome, ClaimLost):
                    # The body may have ended its claim, and may now do other work.
                    is_given = claim is self.given
                    LOGGER.log(
                        logging.DEBUG if is_given else logging.WARNING,
                        "%s",
                        outcome,
                        extra={"track_id": outcome.track_id},
                    )
                    self.drop(claim)

    def _take_back(self) -> None:
        """Release tracks with expired leases: repeat at once while there are more, otherwise about once per lease."""
        pause = FIRST_PAUSE
        while not self._ended.is_set():
            try:
                found = self._catalog.release_expired(_TAKEN_BACK, actor=self._name)
            except CatalogError as error:
                if not may_pass(error):
                    self.failure = error
                    self._tell()
                    return
                LOGGER.warning("tracks of dead workers could not be released, so the worker retries: %s", error)
                self._looked_for_dead.set()
                self._tell()
                self._ended.wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pause = FIRST_PAUSE
            is_all = len(found) < _TAKEN_BACK
            if is_all:
                self._looked_for_dead.set()
            if found or is_all:
                self._tell()
            if is_all:
                self._ended.wait(self._lease.total_seconds() * random.uniform(0.5, 1.0))  # noqa: S311

    def _listen(self, listening: Listening) -> None:
        pause = FIRST_PAUSE
        while not self._ended.is_set():
            try:
                with listening() as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    # Notifications that were sent before LISTEN were missed.
                    self._tell()
                    pause = FIRST_PAUSE
                    while not self._ended.is_set():
                        for _ in connection.notifies(timeout=_LISTENING_SECONDS, stop_after=1):
                            self._tell()
            except (CatalogError, psycopg.Error) as error:
                # The loop continues to poll.
                LOGGER.warning("listening for waiting tracks failed, so the worker polls: %s", type(error).__name__)
                self._ended.wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    def _give_back(self) -> None:
        with self._lock:
            held, self._held = list(self._held.values()), {}
        for claim in held:
            try:
                self._catalog.release(claim, reason="the worker ended", actor=self._name)
            except CatalogError as error:
                LOGGER.warning("a claim could not be released, so its track waits until the lease expires: %s", error)

    @contextmanager
    def _in_background(self, task: Callable[..., None], *arguments: Listening) -> Iterator[None]:
        name = f"audiocatalog {task.__name__.strip('_')}"
        thread = threading.Thread(target=task, args=arguments, name=name, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()


def may_pass(error: CatalogError) -> bool:
    """Return whether the loop continues after *error*, because the server or the pool, not the call, caused it."""
    return error.retryable or isinstance(error, CommitOutcomeUnknown | PoolTimeout | QueryTimeout)
