"""The background threads of a worker: they renew leases, release tracks of dead workers, and LISTEN."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Final

import psycopg

from audiocatalog.db.observer import LOGGER
from audiocatalog.errors import CatalogError
from audiocatalog.methods import Methods
from audiocatalog.operations.claims import CHANNEL
from audiocatalog.worker.policy import (
    LISTENING_FAILED,
    RELEASING_FAILED,
    RENEWING_FAILED,
    TAKEN_BACK,
    TAKING_BACK_FAILED,
    WORKER_ENDED,
    HeldClaims,
    Pauses,
    Terms,
    may_pass,
)

# A listening thread checks at this interval whether it must end.
_LISTENING_SECONDS: Final = 0.5

Listening = Callable[[], AbstractContextManager[psycopg.Connection[Any]]]


class Upkeep:
    """
    The claims that a loop holds, and the threads that renew these claims and release tracks of dead workers.

    The threads call *tell* to wake up the loop: after a notification, after they released tracks, or after a failure.
    A *failure* is an error that no retry can resolve, so that the loop raises it.
    """

    def __init__(
        self, catalog: Methods, terms: Terms, *, listening: Listening | None, tell: Callable[[], None]
    ) -> None:
        self._catalog = catalog
        self._terms = terms
        self._listening = listening
        self._tell = tell
        self._ended = threading.Event()
        self._looked_for_dead = threading.Event()
        self.claims = HeldClaims()
        self.failure: CatalogError | None = None

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

    def _keep_leases(self) -> None:
        while not self._ended.wait(self._terms.until_renewal()):
            held = self.claims.held()
            try:
                outcomes = self._catalog.renew_many(held, lease=self._terms.lease)
            except CatalogError as error:
                # The next renewal, or the end of the claim, shows whether the claim is still held.
                LOGGER.warning(RENEWING_FAILED, error)
            else:
                self.claims.note_renewals(held, outcomes)

    def _take_back(self) -> None:
        """Release tracks with expired leases: repeat at once while there are more, otherwise about once per lease."""
        pauses = Pauses()
        while not self._ended.is_set():
            try:
                found = self._catalog.release_expired(TAKEN_BACK, actor=self._terms.name)
            except CatalogError as error:
                if not may_pass(error):
                    self.failure = error
                    self._tell()
                    return
                LOGGER.warning(TAKING_BACK_FAILED, error)
                self._looked_for_dead.set()
                self._tell()
                self._ended.wait(pauses.next())
                continue
            pauses.reset()
            is_all = len(found) < TAKEN_BACK
            if is_all:
                self._looked_for_dead.set()
            if found or is_all:
                self._tell()
            if is_all:
                self._ended.wait(self._terms.until_taking_back())

    def _listen(self, listening: Listening) -> None:
        pauses = Pauses()
        while not self._ended.is_set():
            try:
                with listening() as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    # Notifications that were sent before LISTEN were missed.
                    self._tell()
                    pauses.reset()
                    while not self._ended.is_set():
                        for _ in connection.notifies(timeout=_LISTENING_SECONDS, stop_after=1):
                            self._tell()
            except (CatalogError, psycopg.Error) as error:
                # The loop continues to poll.
                LOGGER.warning(LISTENING_FAILED, type(error).__name__)
                self._ended.wait(pauses.next())

    def _give_back(self) -> None:
        for claim in self.claims.held():
            try:
                self._catalog.release(claim, reason=WORKER_ENDED, actor=self._terms.name)
            except CatalogError as error:
                LOGGER.warning(RELEASING_FAILED, error)
            self.claims.drop(claim)

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
