"""An asynchronous loop that claims waiting tracks, renews their leases, and releases its remaining claims."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from datetime import timedelta
from functools import partial
from types import FrameType, TracebackType
from typing import Final, Protocol, TypeVar
from weakref import ref

from audiocatalog.aio.handler_tasks import HandlerTasks
from audiocatalog.aio.methods import AsyncMethods
from audiocatalog.aio.misuse import result_of
from audiocatalog.aio.upkeep import Listening, Upkeep
from audiocatalog.aio.waiting import finished, in_background
from audiocatalog.db.observer import LOGGER
from audiocatalog.errors import CatalogError, ClaimLost, InvalidInput, Problem
from audiocatalog.models.arguments import whole_number
from audiocatalog.models.claim import Claim, ClaimOrder
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
    may_pass,
    reason_for,
)

_Result = TypeVar("_Result")

_MAX_CONCURRENCY: Final = 1000
Handler = Callable[[Claim], Awaitable[TrackMetadata | None]]


class Run(Protocol):
    """A function of a catalogue that carries out one call."""

    async def __call__(self, name: str, begin: Callable[[], Operation[_Result]], /) -> _Result:
        """Carry out the operation that *begin* returns, as the call *name*."""


class AsyncWorker:
    """
    A loop that claims waiting tracks and yields them one by one, or calls a handler with several at a time.

    ``async for claim in worker`` yields a claim, which the body must complete, fail or release. Background tasks renew
    the leases, and release tracks of dead workers. A try counts when the claim is yielded, so a crash uses up no try of
    a track that is claimed but not begun. A claim that is lost before its turn is not yielded. If a claim is lost
    later, the call that ends the claim raises ``ClaimLost``. If no track waits, the loop looks again after about
    *poll* seconds, or when it is notified. If the body blocks the event loop for longer than half a lease, a warning is
    logged, because no lease can be renewed meanwhile.

    The loop ends on ``stop``, on SIGTERM if it runs in the main thread, and with *until_empty* when no track waits.
    The loop then releases the claims that it has not yielded. A cancelled loop does so too, within five seconds.

    - If an ``Exception`` leaves the body, the loop fails the claim, and the exception propagates.
    - If another exception leaves the body, such as ``CancelledError``, the claim stays until its lease expires, and
      this try does not count.
    - If the body continues or breaks without ending its claim, the loop logs a warning, and the claim stays until its
      lease expires.

    ``run`` and ``async with worker as claims: async for claim in claims`` know the exception that leaves the body.
    ``async for claim in worker`` does not know it: Python closes the iterator of a loop that was left some time later.
    The claim then stays until its lease expires.
    """

    def __init__(
        self,
        catalog: AsyncMethods,
        run: Run,
        *,
        name: str,
        limit: int,
        lease: timedelta,
        order_by: ClaimOrder,
        poll: float,
        until_empty: bool,
        listening: Listening | None,
        concurrency: int = 1,
    ) -> None:
        self._terms = Terms.checked(
            name=name, limit=limit, lease=lease, order_by=order_by, poll=poll, until_empty=until_empty
        )
        self._concurrency = whole_number(concurrency, "concurrency", "worker", most=_MAX_CONCURRENCY)
        self._catalog = catalog
        self._run = run
        self._stopping = False
        self._news = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._upkeep = Upkeep(catalog, self._terms, listening=listening, tell=self._news.set)
        # The exception that leaves the ``async with`` block, and the iterators that open blocks close.
        self._leaving: BaseException | None = None
        self._open: list[AsyncGenerator[Claim]] = []

    def __repr__(self) -> str:
        return f"<AsyncWorker with {len(self._upkeep.claims)} claims>"

    def stop(self) -> None:
        """End the loop after the current claims. Any thread or signal handler may call this method."""
        self._stopping = True
        if self._loop is not None:
            with suppress(RuntimeError):  # The event loop has ended.
                self._loop.call_soon_threadsafe(self._news.set)

    @property
    def stopping(self) -> bool:
        """Whether the loop ends after the current claims."""
        return self._stopping

    async def run(self, handler: Handler) -> int:
        """
        Call *handler* with each claim, and return how many claims were completed.

        The handler's metadata, or None, completes the claim. If the handler raises an exception, the claim fails, the
        track is retried later, and the history keeps the exception's type and text. With *concurrency*, this many
        handlers run at the same time, each in a task of its own.

        Raises:
            InvalidInput: *handler* is not an async function; its claim was released.
            CatalogError: an error that a retry cannot resolve, or that lasted for a whole lease.
        """
        handlers = HandlerTasks(self._concurrency, stop=self.stop)
        begun = self._begun()

        async def leave() -> None:
            await handlers.cancel()
            await begun.aclose()
            await self._upkeep.end()

        self._upkeep.begin()
        try:
            with self._stopped_by_sigterm():
                async for claim in begun:
                    handlers.start(self._work(claim, handler))
                    await handlers.wait_for_a_slot()
                await handlers.wait_for_all()
        finally:
            await finished(leave())
        if handlers.failure is not None:
            raise handlers.failure
        return handlers.done

    async def __aenter__(self) -> AsyncIterator[Claim]:
        self._open.append(self._iterate())
        return self._open[-1]

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leaving = error
        try:
            await finished(self._open.pop().aclose())
        finally:
            self._leaving = None

    def __aiter__(self) -> AsyncIterator[Claim]:
        iterator = self._iterate()
        if (task := asyncio.current_task()) is not None:
            # The exception of a task that has failed may keep its iterator.
            task.add_done_callback(partial(_close, ref(iterator)))
        return iterator

    async def _iterate(self) -> AsyncGenerator[Claim]:
        if self._concurrency > 1:
            rule = "1 for `async for`, which takes one claim after the other; several at a time need run"
            raise InvalidInput(Problem("concurrency", rule, 1), operation="worker")
        self._upkeep.begin()
        try:
            with self._stopped_by_sigterm():
                async with aclosing(self._begun()) as begun:
                    async for claim in begun:
                        try:
                            yield claim
                        except GeneratorExit:
                            await self._end_what_is_left(claim)
                            raise
                        finally:
                            self._upkeep.claims.drop(claim)
                        await self._look_for_end(claim)
        finally:
            await finished(self._upkeep.end())

    async def _begun(self) -> AsyncGenerator[Claim]:
        """Yield claims whose work begins; claims that are not yielded stay held until they are released at the end."""
        self._loop = asyncio.get_running_loop()
        pauses = Pauses(self._terms.poll)
        while (waiting := await self._waiting(pauses)) is not None:
            while waiting and not self._stopping:
                claim, has_begun = waiting.popleft()
                if self._upkeep.claims.holds(claim) and (has_begun or await self._begin(claim)):
                    if self._stopping:
                        break
                    self._upkeep.claims.give(claim)
                    yield claim

    async def _waiting(self, pauses: Pauses) -> deque[tuple[Claim, bool]] | None:
        """Return new claims, with True if their work has begun; or no claims after a pause; or None at the end."""
        if self._stopping:
            return None
        self._news.clear()
        if self._upkeep.failure is not None:
            raise self._upkeep.failure
        has_looked_for_dead = self._upkeep.has_looked_for_dead
        try:
            waiting = deque(await self._run("claim", self._terms.claim))
        except CatalogError as error:
            # If the answer to a claim was lost, its tracks wait until their leases expire.
            if not may_pass(error):
                raise
            LOGGER.warning(CLAIMING_FAILED, error)
            await self._wait(pauses.next())
            return deque()
        pauses.reset()
        if waiting:
            self._upkeep.claims.hold(claim for claim, _ in waiting)
        elif self._terms.until_empty and has_looked_for_dead:
            return None
        else:
            # This wait ends early when tracks of dead workers are released.
            await self._wait(self._terms.until_poll())
        return waiting

    async def _begin(self, claim: Claim) -> bool:
        """Record that the work on *claim* begins, and return whether the claim is still held."""
        has_begun = await self._insist(partial(self._mark, claim, begins=True), before_giving=True)
        if not has_begun and not self._stopping:
            self._upkeep.claims.drop(claim)
        return has_begun

    async def _mark(self, claim: Claim, *, begins: bool) -> None:
        await self._run("begin", lambda: begin(claim, begins=begins))

    async def _work(self, claim: Claim, handler: Handler) -> bool:
        """Call *handler* with *claim*, end the claim, and return whether it was completed."""
        try:
            end, is_done = await self._handled(claim, handler)
            return await self._insist(end) and is_done
        except BaseException as error:
            if not isinstance(error, Exception):
                # The claim stays until its lease expires, and this try does not count.
                await finished(self._forget(claim))
            raise
        finally:
            self._upkeep.claims.drop(claim)

    async def _handled(self, claim: Claim, handler: Handler) -> tuple[Callable[[], Awaitable[object]], bool]:
        """Call *handler* with *claim*, and return the call that ends the claim, and whether the call completes it."""
        try:
            metadata = checked_metadata(await result_of(handler(claim), "handler", "worker"))
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, InvalidInput) and (error.field, error.operation) == ("handler", "worker"):
                await self._catalog.release(claim, actor=self._terms.name)
                raise
            if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                raise
            return partial(self._catalog.fail, claim, reason_for(error), actor=self._terms.name), False
        return partial(self._catalog.complete, claim, metadata, actor=self._terms.name), True

    async def _forget(self, claim: Claim) -> None:
        with suppress(CatalogError):
            await self._mark(claim, begins=False)

    async def _end_what_is_left(self, claim: Claim) -> None:
        """Fail *claim* if an exception is known to have left the loop's body, or warn that the claim has not ended."""
        error = self._leaving
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
                pause = tries.pause_after(error, stopping=self._stopping)
                if pause is None:
                    return False
                await asyncio.sleep(pause)
            else:
                return True

    async def _wait(self, seconds: float) -> None:
        """Wait at most *seconds* for a message of the background tasks or for ``stop``."""
        if not self._stopping:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()

    @contextmanager
    def _stopped_by_sigterm(self) -> Iterator[None]:
        """Let SIGTERM end the loop if the loop runs in the main thread; other threads cannot handle signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(_number: int, _frame: FrameType | None) -> None:
            self.stop()  # Through the event loop, which the signal wakes up.

        # A handler that the host has registered with its event loop is called as well.
        before = signal.signal(signal.SIGTERM, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def _close(iterator: ref[AsyncGenerator[Claim]], _: object) -> None:
    if (left := iterator()) is not None:
        in_background(_closed(left))


async def _closed(iterator: AsyncGenerator[Claim]) -> None:
    await iterator.aclose()


def _is_cancelled() -> bool:
    """Return whether the current task is being cancelled, rather than work that it has awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
