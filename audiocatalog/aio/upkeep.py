"""The background tasks of an asynchronous worker: they renew leases, release tracks of dead workers, and LISTEN."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from time import monotonic
from typing import Any, Final

import psycopg

from audiocatalog.aio.methods import AsyncMethods
from audiocatalog.db.observer import LOGGER
from audiocatalog.errors import CatalogError
from audiocatalog.models.claim import Claim
from audiocatalog.operations.claims import CHANNEL
from audiocatalog.worker.policy import (
    LISTENING_FAILED,
    LOOP_BLOCKED,
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

# A wait without a timeout would end when an answer to a statement would be too late.
_LISTENING_SECONDS: Final = 60.0
# The loop is watched in steps of this share of a lease, but not more often than every 10 ms.
_STEPS_PER_LEASE: Final = 10
_SHORTEST_STEP: Final = 0.01

Listening = Callable[[], AbstractAsyncContextManager[psycopg.AsyncConnection[Any]]]


class Upkeep:
    """
    The claims that a loop holds, and the tasks that renew these claims and release tracks of dead workers.

    The tasks call *tell* to wake up the loop: after a notification, after they released tracks, or after a failure.
    A *failure* is an error that no retry can resolve, so that the loop raises it.
    """

    def __init__(
        self, catalog: AsyncMethods, terms: Terms, *, listening: Listening | None, tell: Callable[[], None]
    ) -> None:
        self._catalog = catalog
        self._terms = terms
        self._listening = listening
        self._tell = tell
        self._tasks: list[asyncio.Task[None]] = []
        self._claiming: asyncio.Task[list[tuple[Claim, bool]]] | None = None
        self.has_looked_for_dead = False
        self.claims = HeldClaims()
        self.failure: CatalogError | None = None

    def begin(self) -> None:
        """Start the tasks."""
        self._start(self._keep_leases())
        self._start(self._take_back())
        self._start(self._watch_the_loop())
        if self._listening is not None:
            self._start(self._listen(self._listening))

    async def hold_what(self, claiming: Coroutine[Any, Any, list[tuple[Claim, bool]]]) -> list[tuple[Claim, bool]]:
        """
        Await *claiming*, hold its claims, and return them.

        If this task is cancelled meanwhile, the claims are held all the same, so that ``end`` releases them.
        """

        async def hold() -> list[tuple[Claim, bool]]:
            found = await claiming
            self.claims.hold(claim for claim, _ in found)
            return found

        self._claiming = asyncio.create_task(hold(), name="audiocatalog claim")
        await asyncio.wait([self._claiming])
        return self._claiming.result()

    async def end(self) -> None:
        """Stop the tasks, and release the claims that are still held; a call that was cancelled may be repeated."""
        if self._claiming is not None:
            await asyncio.gather(self._claiming, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for claim in self.claims.held():
            try:
                await self._catalog.release(claim, reason=WORKER_ENDED, actor=self._terms.name)
            except CatalogError as error:
                LOGGER.warning(RELEASING_FAILED, error)
            self.claims.drop(claim)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        name = f"audiocatalog {getattr(work, '__name__', 'upkeep').strip('_')}"
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(self._terms.until_renewal())
            held = self.claims.held()
            try:
                outcomes = await self._catalog.renew_many(held, lease=self._terms.lease)
            except CatalogError as error:
                # The next renewal, or the end of the claim, shows whether the claim is still held.
                LOGGER.warning(RENEWING_FAILED, error)
            else:
                self.claims.note_renewals(held, outcomes)

    async def _watch_the_loop(self) -> None:
        """Report a handler that blocks the event loop for longer than half a lease."""
        lease = self._terms.lease.total_seconds()
        step = max(_SHORTEST_STEP, lease / _STEPS_PER_LEASE)
        now = monotonic()
        while True:
            before = now
            await asyncio.sleep(step)
            now = monotonic()
            if now - before > lease / 2 + _SHORTEST_STEP:
                LOGGER.warning(LOOP_BLOCKED, self._terms.name, now - before)

    async def _take_back(self) -> None:
        """Release tracks with expired leases: repeat at once while there are more, otherwise about once per lease."""
        pauses = Pauses()
        while True:
            try:
                found = await self._catalog.release_expired(TAKEN_BACK, actor=self._terms.name)
            except CatalogError as error:
                if not may_pass(error):
                    self.failure = error
                    self._tell()
                    return
                LOGGER.warning(TAKING_BACK_FAILED, error)
                self.has_looked_for_dead = True
                self._tell()
                await asyncio.sleep(pauses.next())
                continue
            pauses.reset()
            is_all = len(found) < TAKEN_BACK
            self.has_looked_for_dead |= is_all
            if found or is_all:
                self._tell()
            if is_all:
                await asyncio.sleep(self._terms.until_taking_back())

    async def _listen(self, listening: Listening) -> None:
        pauses = Pauses()
        while True:
            try:
                async with listening() as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    # Notifications that were sent before LISTEN were missed.
                    self._tell()
                    pauses.reset()
                    while True:
                        async for _ in connection.notifies(timeout=_LISTENING_SECONDS):
                            self._tell()
            except (CatalogError, psycopg.Error) as error:
                # The loop continues to poll.
                LOGGER.warning(LISTENING_FAILED, type(error).__name__)
                await asyncio.sleep(pauses.next())
