"""One pass of an asynchronous worker: it claims waiting tracks, and ends or releases each claim."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, aclosing, suppress
from functools import partial
from typing import Protocol, TypeVar

from audiocatalog.aio.methods import AsyncMethods
from audiocatalog.aio.misuse import result_of
from audiocatalog.aio.upkeep import Listening, Upkeep
from audiocatalog.aio.waiting import finished
from audiocatalog.db.observer import LOGGER
from audiocatalog.errors import CatalogError, ClaimLost
from audiocatalog.models.claim import Claim
from audiocatalog.models.metadata import TrackMetadata
from audiocatalog.operations.claims import begin
from audiocatalog.operations.operation import Operation
from audiocatalog.worker.policy import (
    CLAIMING_FAILED,
    ENDING_FAILED,
    LEFT_BODY,
    MOMENT,
    NOT_ENDED,
    Insistence,
    Pauses,
    Terms,
    checked_metadata,
    is_misuse,
    may_pass,
    reason_for,
)

_Result = TypeVar("_Result")

Handler = Callable[[Claim], Awaitable[TrackMetadata | None]]


class Run(Protocol):
    """A function of a catalogue that carries out one call."""

    async def __call__(self, name: str, begin: Callable[[], Operation[_Result]], /) -> _Result:
        """Carry out the operation that *begin* returns, as the call *name*."""


class ClaimLoop:
    """
    One pass of a worker: the claims that it holds, and the tasks that renew them.

    *is_stopping* returns whether the pass ends after the current claims.
    """

    def __init__(
        self,
        catalog: AsyncMethods,
        run: Run,
        terms: Terms,
        *,
        listening: Listening | None,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._catalog = catalog
        self._run = run
        self._terms = terms
        self._is_stopping = is_stopping
        self._event_loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        #: Whether handlers work on claims, and may fail them or save more tracks.
        self.is_busy: Callable[[], bool] = lambda: False
        #: The exception that leaves the body of the loop, if it is known.
        self.leaving: BaseException | None = None
        self.upkeep = Upkeep(catalog, terms, listening=listening, tell=self._news.set)

    def tell(self) -> None:
        """Wake up the loop if it waits."""
        self._news.set()

    def tell_from_any_thread(self) -> None:
        """Wake up the loop if it waits; any thread or signal handler may call this method."""
        with suppress(RuntimeError):  # The event loop has ended.
            self._event_loop.call_soon_threadsafe(self._news.set)

    async def one_by_one(self, running: AbstractContextManager[None]) -> AsyncGenerator[Claim]:
        """Yield claims in the block *running*, and log a warning of each claim that the body has not ended."""
        with running:
            self.upkeep.begin()
            try:
                async with aclosing(self.begun()) as begun:
                    async for claim in begun:
                        try:
                            yield claim
                        except GeneratorExit:
                            await finished(partial(self._end_what_is_left, claim))
                            raise
                        finally:
                            self.upkeep.claims.drop(claim)
                        await self._look_for_end(claim)
            finally:
                await finished(self.upkeep.end)

    async def begun(self) -> AsyncGenerator[Claim]:
        """Yield claims whose work begins; claims that are not yielded stay held until they are released at the end."""
        pauses = Pauses(self._terms.poll)
        while (waiting := await self._waiting(pauses)) is not None:
            while waiting and not self._is_stopping():
                claim, has_begun = waiting.popleft()
                if self.upkeep.claims.holds(claim) and (has_begun or await self._begin(claim)):
                    if self._is_stopping():
                        break
                    self.upkeep.claims.give(claim)
                    yield claim

    async def work(self, claim: Claim, handler: Handler) -> bool:
        """Call *handler* with *claim*, end the claim, and return whether it was completed."""
        try:
            end, is_done = await self._handled(claim, handler)
            return await self._insist(end) and is_done
        except BaseException as error:
            if not isinstance(error, Exception):
                # The claim stays until its lease expires, and this try does not count.
                await finished(partial(self._forget, claim))
            raise
        finally:
            self.upkeep.claims.drop(claim)

    async def _waiting(self, pauses: Pauses) -> deque[tuple[Claim, bool]] | None:
        """Return new claims, with True if their work has begun; or no claims after a pause; or None at the end."""
        if self._is_stopping():
            return None
        self._news.clear()
        if self.upkeep.failure is not None:
            raise self.upkeep.failure
        has_looked_for_dead = self.upkeep.has_looked_for_dead
        try:
            waiting = deque(await self.upkeep.hold_what(self._run("claim", self._terms.claim)))
        except CatalogError as error:
            # If the answer to a claim was lost, its tracks wait until their leases expire.
            if not may_pass(error):
                raise
            LOGGER.warning(CLAIMING_FAILED, error)
            await self._wait(pauses.next())
            return deque()
        pauses.reset()
        if not waiting:
            if self._terms.until_empty and has_looked_for_dead and not self.is_busy():
                return None
            # This wait ends early when tracks of dead workers are released, or when a handler has ended.
            await self._wait(self._terms.until_poll())
        return waiting

    async def _begin(self, claim: Claim) -> bool:
        """Record that the work on *claim* begins, and return whether the claim is still held."""
        has_begun = await self._insist(partial(self._mark, claim, begins=True), before_giving=True)
        if not has_begun and not self._is_stopping():
            self.upkeep.claims.drop(claim)
        return has_begun

    async def _mark(self, claim: Claim, *, begins: bool) -> None:
        await self._run("begin", lambda: begin(claim, begins=begins))

    async def _handled(self, claim: Claim, handler: Handler) -> tuple[Callable[[], Awaitable[object]], bool]:
        """Call *handler* with *claim*, and return the call that ends the claim, and whether the call completes it."""
        try:
            metadata = checked_metadata(await result_of(handler(claim), "handler", "worker"))
        except (Exception, asyncio.CancelledError) as error:
            if is_misuse(error):
                await self._catalog.release(claim, actor=self._terms.name)
                raise
            if isinstance(error, asyncio.CancelledError) and is_cancelled():
                raise
            return partial(self._catalog.fail, claim, reason_for(error), actor=self._terms.name), False
        return partial(self._catalog.complete, claim, metadata, actor=self._terms.name), True

    async def _forget(self, claim: Claim) -> None:
        with suppress(CatalogError):
            await self._mark(claim, begins=False)

    async def _end_what_is_left(self, claim: Claim) -> None:
        """Fail *claim* if an exception is known to have left the loop's body, or warn that the claim has not ended."""
        error = self.leaving
        try:
            if error is None:
                await self._look_for_end(claim)
            elif isinstance(error, Exception):
                await self._catalog.fail(claim, reason_for(error), actor=self._terms.name)
                LOGGER.warning(LEFT_BODY, type(error).__name__, extra={"track_id": claim.track.id})
            else:
                await self._mark(claim, begins=False)
        except ClaimLost:
            pass  # The body has ended the claim.
        except CatalogError as failure:
            LOGGER.warning(ENDING_FAILED, failure)

    async def _look_for_end(self, claim: Claim) -> None:
        """Log a warning unless *claim* has ended; ask the server whether another process has ended it."""
        if claim.has_ended:
            return
        with suppress(CatalogError):
            await self._catalog.renew(claim, lease=MOMENT)
            LOGGER.warning(NOT_ENDED, extra={"track_id": claim.track.id})

    async def _insist(self, call: Callable[[], Awaitable[object]], *, before_giving: bool = False) -> bool:
        """
        Make a *call* about a claim, retry temporary errors, and return whether the claim was still held.

        If the errors last until the lease may have expired, the last error is raised. With *before_giving*, the claim
        counts as lost instead, because it was not yielded yet.
        """
        tries = Insistence(self._terms.lease, before_giving=before_giving)
        while True:
            try:
                await call()
            except CatalogError as error:
                pause = tries.pause_after(error, stopping=self._is_stopping())
                if pause is None:
                    return False
                await asyncio.sleep(pause)
            else:
                return True

    async def _wait(self, seconds: float) -> None:
        """Wait at most *seconds* for a message of the background tasks or for ``stop``."""
        if not self._is_stopping():
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()


def is_cancelled() -> bool:
    """Return whether the current task is being cancelled, rather than work that it has awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
