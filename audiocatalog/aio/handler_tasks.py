"""The tasks in which a worker's handlers run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class HandlerTasks:
    """
    The tasks of a worker's handlers, at most *most* at a time.

    - *stop*: is called after an error that ends the worker.
    - *tell*: is called when a task has ended.
    - *done*: the number of completed claims.
    - *failure*: the first error that ends the worker.
    """

    def __init__(self, most: int, *, stop: Callable[[], None], tell: Callable[[], None]) -> None:
        self._most = most
        self._stop = stop
        self._tell = tell
        self._working: set[asyncio.Task[bool]] = set()
        self.done = 0
        self.failure: BaseException | None = None

    def start(self, work: Coroutine[Any, Any, bool]) -> None:
        """Run *work*, which returns whether it completed its claim, in a task of its own."""
        task = asyncio.create_task(work, name="audiocatalog handler")
        self._working.add(task)
        task.add_done_callback(self._end)

    def are_working(self) -> bool:
        """Return whether a task has not ended."""
        return bool(self._working)

    async def wait_for_a_slot(self) -> None:
        """Wait until another task may start."""
        while len(self._working) >= self._most:
            await self._wait(asyncio.FIRST_COMPLETED)

    async def wait_for_all(self) -> None:
        """Wait until every task has ended."""
        while self._working:
            await self._wait(asyncio.ALL_COMPLETED)

    async def cancel(self) -> None:
        """Cancel every task, and wait until it has ended."""
        for task in self._working:
            task.cancel()
        await self.wait_for_all()

    async def _wait(self, until: str) -> None:
        await asyncio.wait(set(self._working), return_when=until)
        await asyncio.sleep(0)  # The callbacks of the tasks run after this one is woken.

    def _end(self, task: asyncio.Task[bool]) -> None:
        self._working.discard(task)
        self._tell()
        if task.cancelled():
            return
        if (failure := task.exception()) is None:
            self.done += task.result()
        else:
            self.failure = self.failure or failure
            self._stop()
