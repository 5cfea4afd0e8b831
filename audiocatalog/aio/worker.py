"""An asynchronous loop that claims waiting tracks, renews their leases, and releases its remaining claims."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from types import AsyncGeneratorType, TracebackType
from typing import Final, cast
from weakref import ref

from audiocatalog.aio.claim_loop import ClaimLoop, Handler, Run, is_cancelled
from audiocatalog.aio.handler_tasks import HandlerTasks
from audiocatalog.aio.methods import AsyncMethods
from audiocatalog.aio.misuse import refuse_plain
from audiocatalog.aio.sigterm import stopped_by_sigterm
from audiocatalog.aio.upkeep import Listening
from audiocatalog.aio.waiting import finished, in_background, running_loop
from audiocatalog.db.observer import LOGGER
from audiocatalog.errors import InvalidInput, Problem
from audiocatalog.models.arguments import whole_number
from audiocatalog.models.claim import Claim, ClaimOrder
from audiocatalog.worker.policy import RELEASING_FAILED, Terms

_MAX_CONCURRENCY: Final = 1000
# The generators of loops that were left and may not be closed yet.
_left: set[AsyncGeneratorType[Claim, None]] = set()


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
    ``async for claim in worker`` knows only whether its task was cancelled. After any other exception, the claim stays
    until its lease expires, this try counts, and a warning is logged. The other claims are released in the background;
    the catalogue's ``close`` waits for that.
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
        finish_first: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._terms = Terms.checked(
            name=name, limit=limit, lease=lease, order_by=order_by, poll=poll, until_empty=until_empty
        )
        self._concurrency = whole_number(concurrency, "concurrency", "worker", most=_MAX_CONCURRENCY)
        self._catalog = catalog
        self._run = run
        self._listening = listening
        self._finish_first = finish_first
        self._stopping = False
        self._loops: set[ClaimLoop] = set()
        # The iterators that open ``async with`` blocks close.
        self._open: list[Claims] = []

    def __repr__(self) -> str:
        return f"<AsyncWorker with {sum(len(loop.upkeep.claims) for loop in self._loops)} claims>"

    def stop(self) -> None:
        """End the loop after the current claims. Any thread or signal handler may call this method."""
        self._stopping = True
        for loop in tuple(self._loops):
            loop.tell_from_any_thread()

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
            InvalidInput: *handler* is not an async function.
            CatalogError: an error that a retry cannot resolve, or that lasted for a whole lease.
        """
        refuse_plain(handler, "handler", "worker")
        loop = self._new_loop()
        handlers = HandlerTasks(self._concurrency, stop=self.stop, tell=loop.tell)
        loop.is_busy = handlers.are_working
        begun = loop.begun()

        async def leave() -> None:
            await handlers.cancel()
            await begun.aclose()
            await loop.upkeep.end()

        with self._running(loop):
            loop.upkeep.begin()
            try:
                async for claim in begun:
                    handlers.start(loop.work(claim, handler))
                    await handlers.wait_for_a_slot()
                await handlers.wait_for_all()
            finally:
                await finished(leave)
        if handlers.failure is not None:
            raise handlers.failure
        return handlers.done

    async def __aenter__(self) -> AsyncIterator[Claim]:
        self._open.append(self._claims())
        return self._open[-1]

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await finished(partial(self._open.pop().aclose, error))

    def __aiter__(self) -> AsyncIterator[Claim]:
        claims = self._claims()
        if (task := asyncio.current_task()) is not None:
            # The exception of a task that has failed may keep its iterator.
            task.add_done_callback(partial(_leave, ref(claims)))
        return claims

    def _claims(self) -> Claims:
        if self._concurrency > 1:
            rule = "1 for `async for`, which takes one claim after the other; several at a time need run"
            raise InvalidInput(Problem("concurrency", rule, 1), operation="worker")
        loop = self._new_loop()
        return Claims(loop, loop.one_by_one(self._running(loop)), finish_first=self._finish_first)

    def _new_loop(self) -> ClaimLoop:
        return ClaimLoop(
            self._catalog, self._run, self._terms, listening=self._listening, is_stopping=lambda: self._stopping
        )

    @contextmanager
    def _running(self, loop: ClaimLoop) -> Iterator[None]:
        """Let ``stop`` and SIGTERM end *loop* in this block."""
        self._loops.add(loop)
        try:
            with stopped_by_sigterm(self.stop):
                yield
        finally:
            self._loops.discard(loop)


class Claims(AsyncIterator[Claim]):
    """
    The claims of one ``async for`` statement.

    Python drops this iterator at the moment when the statement is left. An asynchronous generator alone would be closed
    later, when it cannot be known any more whether the task was cancelled, or when the catalogue is closed.
    """

    def __init__(
        self,
        loop: ClaimLoop,
        generator: AsyncGenerator[Claim],
        *,
        finish_first: Callable[[asyncio.Task[None]], None],
    ) -> None:
        self._loop = loop
        self._generator = cast("AsyncGeneratorType[Claim, None]", generator)
        self._finish_first = finish_first
        self._event_loop = asyncio.get_running_loop()
        self._has_begun = False

    def __anext__(self) -> Awaitable[Claim]:
        self._has_begun = True
        return self._generator.__anext__()

    async def aclose(self, error: BaseException | None = None) -> None:
        """End the loop, whose body was left by *error*, and release the claims that it has not yielded."""
        self._loop.leaving = error
        await self._generator.aclose()

    def __del__(self) -> None:
        self.leave()

    def leave(self, task: asyncio.Task[object] | None = None) -> None:
        """End the loop in the background, because its statement was left, or because its *task* has ended."""
        if not self._has_begun or self._generator.ag_frame is None or self._generator.ag_running:
            return
        # The garbage collector may call this method in any thread.
        is_here = running_loop() is self._event_loop
        if task.cancelled() if task is not None else is_here and is_cancelled():
            self._loop.leaving = asyncio.CancelledError()
        try:
            if is_here:
                _close(self._generator, self._finish_first)
            else:
                self._event_loop.call_soon_threadsafe(_close, self._generator, self._finish_first)
        except RuntimeError:
            LOGGER.warning(RELEASING_FAILED, "the event loop has ended")


def _leave(claims: ref[Claims], task: asyncio.Task[object]) -> None:
    if (left := claims()) is not None:
        left.leave(task)


def _close(generator: AsyncGeneratorType[Claim, None], finish_first: Callable[[asyncio.Task[None]], None]) -> None:
    async def close() -> None:
        await generator.aclose()

    # ``asyncio.run`` cancels all tasks when its program ends, and then closes the generators that exist.
    _left.difference_update([one for one in _left if one.ag_frame is None])
    _left.add(generator)
    finish_first(in_background(close()))
