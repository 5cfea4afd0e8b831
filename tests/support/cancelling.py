"""Tasks that are cancelled at a chosen await, and what must hold of a catalogue afterwards."""

from __future__ import annotations

import asyncio
import inspect
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Literal, TypeVar
from uuid import uuid4

from audiocatalog.aio import AsyncCatalog

_Result = TypeVar("_Result")
#: The moments of a cancellation: while the task waits, or when its answer is there and the task has not seen it yet.
Moment = Literal["waiting", "answered"]
MOMENTS: Final[tuple[Moment, ...]] = ("waiting", "answered")
#: More awaits than any call has.
MOST_AWAITS: Final = 400


class Steps:
    """The awaits of *coroutine*, of which the one with the number *at* is cancelled, or disturbed by *disturb*."""

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, object],
        at: int,
        moment: Moment = "waiting",
        disturb: Callable[[], object] | None = None,
    ) -> None:
        self._coroutine = coroutine
        self._at = at
        self._moment = moment
        self._disturb = disturb
        self.taken = 0

    @types.coroutine
    def run(self) -> Generator[Any, Any, object]:
        """Go through the awaits."""
        assert inspect.iscoroutine(self._coroutine)
        disturb = self._disturb or asyncio.current_task().cancel  # type: ignore[union-attr]
        step: Callable[[], Any] = lambda: self._coroutine.send(None)  # noqa: E731
        while True:
            try:
                waited_for = step()
            except StopIteration as end:
                return end.value
            self.taken += 1
            if self.taken == self._at:
                if self._moment == "waiting" or waited_for is None:
                    disturb()
                else:
                    waited_for.add_done_callback(lambda _: disturb())
            try:
                answer = yield waited_for
            except BaseException as error:  # noqa: BLE001  # The coroutine gets it.
                step = lambda error=error: self._coroutine.throw(error)  # type: ignore[misc]  # noqa: E731
            else:
                step = lambda answer=answer: self._coroutine.send(answer)  # type: ignore[misc]  # noqa: E731


async def cancelled_at(
    call: Callable[[], Coroutine[Any, Any, object]], at: int, moment: Moment = "waiting"
) -> tuple[bool, BaseException | None]:
    """
    Make *call* in a task that is cancelled at its await number *at*.

    Return whether the call has at least *at* awaits, and the error of the call.
    """
    steps = Steps(call(), at, moment)
    task = asyncio.ensure_future(_awaited(steps.run()))
    await asyncio.wait([task])
    error: BaseException | None = asyncio.CancelledError() if task.cancelled() else task.exception()
    return steps.taken >= at, error


async def _awaited(work: Awaitable[_Result]) -> _Result:
    return await work


async def await_whole(catalog: AsyncCatalog, size: int) -> None:
    """Hold every place of the pool at once, and find it full then."""
    async with AsyncExitStack() as stack:
        for _ in range(size):
            work = await stack.enter_async_context(catalog.unit_of_work())
            assert await work.find(uuid4()) is None
    async with asyncio.timeout(60):
        while catalog.pool_stats().in_use:  # noqa: ASYNC110  # Nothing tells that a connection has come back.
            await asyncio.sleep(0.001)


@asynccontextmanager
async def contention(catalog: AsyncCatalog, callers: int) -> AsyncIterator[list[int]]:
    """Let *callers* tasks ask for a connection all the time, which must not fail; give how often each was answered."""
    answered, ended = [0] * callers, asyncio.Event()

    async def ask(number: int) -> None:
        while not ended.is_set():
            assert await catalog.find(uuid4()) is None
            answered[number] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(callers):
            group.create_task(ask(number))
        try:
            yield answered
        finally:
            ended.set()
