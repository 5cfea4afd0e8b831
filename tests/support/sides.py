"""The asynchronous side behind a synchronous face, so that the same tests run over both sides.

Every call of a face runs on one event loop, in a thread of its own. A unit of work has one task for its whole life, as
its rules ask for; plain functions and iterators that a test passes run in threads, where they may call faces again.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from types import TracebackType
from typing import Any, Final

import psycopg
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.util import greenlet_spawn

from audiocatalog.aio import AsyncCatalog, AsyncUnitOfWork
from audiocatalog.aio.database import AsyncDatabase
from audiocatalog.aio.pool import AsyncPool
from audiocatalog.aio.transaction import AsyncTransaction

_FACED: Final = (
    *(AsyncCatalog, AsyncUnitOfWork, AsyncDatabase, AsyncPool, AsyncTransaction),
    *(psycopg.AsyncConnection, psycopg.AsyncCursor, psycopg.AsyncRawCursor),
)
_END: Final = object()
#: No call of a test takes longer, in seconds.
_PATIENCE: Final = 30
Work = Callable[[], Any]


class Actor:
    """A task that does one piece of work after the other for threads that wait for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._has_ended = False
        self._queue: asyncio.Queue[tuple[Work, Future[Any]] | None] = asyncio.Queue()

    async def serve(self) -> None:
        """Do what is asked for until the end."""
        while (asked := await self._queue.get()) is not None:
            work, answer = asked
            try:
                answer.set_result(await _awaited(work))
            except BaseException as error:  # noqa: BLE001  # The thread that waits gets it.
                answer.set_exception(error)

    def call(self, work: Work) -> Any:
        """Return what *work* returns, in another thread than the loop's."""
        if self._has_ended:
            return _running().call(work)
        answer: Future[Any] = Future()
        self._loop.call_soon_threadsafe(self._queue.put_nowait, (work, answer))
        return answer.result(_PATIENCE)

    def end(self) -> None:
        """Let the task end."""
        self._has_ended = True
        self._loop.call_soon_threadsafe(self._queue.put_nowait, None)


class _Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.threads = ThreadPoolExecutor(64)
        # A loop refers to its tasks only weakly, and a test may forget a unit of work with its task.
        self._serving: set[Future[None]] = set()
        threading.Thread(target=self.loop.run_forever, name="event loop", daemon=True).start()

    def call(self, work: Work) -> Any:
        """Return what *work* returns, which has a task of its own."""
        assert threading.current_thread().name != "event loop", "a face was called in the loop"
        actor = self.actor()
        try:
            return actor.call(work)
        finally:
            actor.end()

    def actor(self) -> Actor:
        """Return a task for several calls."""
        actor = Actor(self.loop)
        serving = asyncio.run_coroutine_threadsafe(actor.serve(), self.loop)
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)
        return actor


@cache
def _running() -> _Loop:
    return _Loop()


async def _awaited(work: Work) -> Any:
    result = work()
    return await result if inspect.isawaitable(result) else result


class Face:
    """An object of the asynchronous side, whose methods return what theirs return when they are awaited."""

    def __init__(self, twin: Any, call: Callable[[Work], Any] | None = None) -> None:
        self._twin = twin
        self._call = call or _running().call
        self._actors: list[Actor] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._twin, name)
        if isinstance(found, AsyncSession):
            return SessionFace(found.sync_session, self._call)
        if not inspect.isroutine(found):
            return self._faced(found)

        def method(*arguments: Any, **options: Any) -> Any:
            arguments, options = self._translated(name, arguments, options)
            return self._faced(self._call(lambda: found(*arguments, **options)))

        return method

    def __setattr__(self, name: str, value: object) -> None:
        if name in {"_twin", "_call", "_actors"}:
            super().__setattr__(name, value)
        else:
            setattr(self._twin, name, value)

    def __enter__(self) -> Any:
        actor = _running().actor()
        self._actors.append(actor)
        if not isinstance(self._twin, AsyncCatalog):
            self._call = actor.call
        entered = actor.call(self._twin.__aenter__)
        return self if entered is self._twin else self._faced(entered)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Any:
        actor = self._actors.pop()
        try:
            return actor.call(lambda: self._twin.__aexit__(kind, error, traceback))
        finally:
            actor.end()

    def __repr__(self) -> str:
        return repr(self._twin)

    def __reduce__(self) -> Any:
        return self._twin.__reduce__()

    def _faced(self, value: Any) -> Any:
        if inspect.isasyncgen(value):
            return self._each(value)
        if isinstance(value, _FACED) or hasattr(value, "__aenter__"):
            return Face(value, self._call if not isinstance(self._twin, AsyncCatalog) else None)
        return value

    def _each(self, items: Any) -> Iterator[Any]:
        try:
            while (item := self._call(lambda: anext(items, _END))) is not _END:
                yield item
        finally:
            self._call(items.aclose)

    def _translated(
        self, name: str, arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if name in {"run", "bulk_save"} and arguments:
            first = arguments[0]
            if name == "run" and callable(first):
                arguments = (_unit(first), *arguments[1:])
            elif name == "bulk_save" and isinstance(first, Iterator):
                arguments = (_in_threads(first), *arguments[1:])
            if callable(progress := options.get("progress")):
                options = {**options, "progress": lambda batch: _in_thread(progress, batch)}
        return arguments, options


def _unit(function: Callable[..., Any]) -> Callable[[AsyncUnitOfWork], Any]:
    async def unit(work: AsyncUnitOfWork) -> Any:
        actor = Actor(asyncio.get_running_loop())
        done = asyncio.ensure_future(_in_thread(function, Face(work, actor.call)))
        done.add_done_callback(lambda _: actor.end())
        await actor.serve()
        return done.result()

    return unit


async def _in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(_running().threads, function, *arguments)


async def _in_threads(items: Iterator[Any]) -> AsyncIterator[Any]:
    while (item := await _in_thread(next, items, _END)) is not _END:
        yield item


class SessionFace:
    """The synchronous session, or a connection of it, inside an asynchronous one."""

    def __init__(self, twin: Any, call: Callable[[Work], Any]) -> None:
        self.__dict__.update(_twin=twin, _call=call)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._twin, name)
        if not inspect.isroutine(found):
            return found

        def method(*arguments: Any, **options: Any) -> Any:
            result = self._call(lambda: greenlet_spawn(found, *arguments, **options))
            return SessionFace(result, self._call) if isinstance(result, Connection) else result

        return method

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._twin, name, value)

    def __contains__(self, item: object) -> bool:
        return item in self._twin

    def __iter__(self) -> Iterator[Any]:
        return iter(self._twin)


def async_catalog(*arguments: Any, **options: Any) -> Any:
    """Return the asynchronous catalogue with these arguments, behind a synchronous face."""
    return Face(_running().call(lambda: AsyncCatalog(*arguments, **options)))


async_catalog.from_env = lambda **options: Face(AsyncCatalog.from_env(**options))  # type: ignore[attr-defined]
