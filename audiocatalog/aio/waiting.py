"""What an event loop does for the connections of a pool: it reports arrived data, and ends waits that are too long."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

from audiocatalog.db.observer import LOGGER

# The interval at which deadlines are checked. A timer for each wait would cost more than sending a statement.
_WATCH_SECONDS: Final = 0.1
#: If a timer fires later than this, other code has blocked the event loop.
BLOCKED_SECONDS: Final = 0.25
# A task that never had to wait for this long lets the others run.
_BUSY_SECONDS: Final = 0.005
# The loop may report data once more after it was read.
_MAX_UNEXPECTED: Final = 2

# A cancelled task has this many seconds to leave.
_FINISHING_SECONDS: Final = 5.0

_background: set[asyncio.Task[None]] = set()


def in_background(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run *work* in a task of its own, which the end of the caller's task does not cancel."""
    task = asyncio.get_running_loop().create_task(work)
    _background.add(task)  # The loop itself refers to its tasks only weakly.
    task.add_done_callback(_background.discard)
    return task


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class Waiting(Protocol):
    """A connection that waits for an answer."""

    @property
    def closed(self) -> bool:
        """Whether the connection is closed."""

    def has_something_to_read(self) -> bool:
        """Return whether the server has sent anything."""

    def give_up(self) -> None:
        """End the wait for a server that does not answer."""


class Watchdog:
    """The deadlines of the waits of one event loop, on the clock ``monotonic``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._is_awake = False
        self._yielded = 0.0
        self.deadlines: dict[Waiting, float] = {}

    def wake(self) -> None:
        """Check the deadlines from now on, until no connection waits."""
        if not self._is_awake:
            self._is_awake = True
            self._check_later(monotonic())

    def has_yielded(self) -> None:
        """Note that the other tasks of the loop have run."""
        self._yielded = monotonic()

    async def let_others_run(self) -> None:
        """Let the other tasks of the loop run, if they have not run for some time."""
        now = monotonic()
        if now - self._yielded > _BUSY_SECONDS:
            self._yielded = now
            await asyncio.sleep(0)

    def _check_later(self, now: float) -> None:
        self._loop.call_later(_WATCH_SECONDS, self._check, now + _WATCH_SECONDS)

    def _check(self, due: float) -> None:
        now = monotonic()
        if (late := now - due) > BLOCKED_SECONDS:
            # While the loop was blocked, a statement may have waited to be sent.
            for connection in self.deadlines:
                self.deadlines[connection] += late
        for connection, deadline in list(self.deadlines.items()):
            # After code that has blocked the loop, an answer may have arrived that the loop has not read yet.
            if deadline <= now and (connection.closed or not connection.has_something_to_read()):
                del self.deadlines[connection]
                connection.give_up()
        self._is_awake = bool(self.deadlines)
        if self._is_awake:
            self._check_later(now)


_watchdogs: WeakKeyDictionary[asyncio.AbstractEventLoop, Watchdog] = WeakKeyDictionary()


def watchdog_of(loop: asyncio.AbstractEventLoop) -> Watchdog:
    """Return the watchdog of *loop*."""
    if (watchdog := _watchdogs.get(loop)) is None:
        watchdog = _watchdogs[loop] = Watchdog(loop)
    return watchdog


class Reader:
    """
    The socket of a connection, which stays registered with its event loop between answers.

    To register a socket for each answer costs more than to send the statement. Close the reader before the socket,
    because the system may give the socket's number to another socket at once.
    """

    __slots__ = ("_descriptor", "_is_registered", "_unexpected", "_waiter", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
        self.loop = loop
        self._descriptor = descriptor
        self._is_registered = False
        self._unexpected = 0
        self._waiter: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        """Wait until data has arrived."""
        self._waiter = self.loop.create_future()
        self._unexpected = 0
        if not self._is_registered:
            self.loop.add_reader(self._descriptor, self._report)
            self._is_registered = True
        try:
            await self._waiter
        finally:
            self._waiter = None

    def close(self) -> None:
        """End the registration, and wake up a task that still waits: it finds that the connection is closed."""
        if self.loop.is_closed():
            return
        if self._is_registered:
            self._is_registered = False
            self.loop.remove_reader(self._descriptor)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _report(self) -> None:
        if self._waiter is None:
            # The server disconnects an idle connection, or sends a notice. The loop would report it again and again.
            self._unexpected += 1
            if self._unexpected > _MAX_UNEXPECTED:
                self.close()
        elif not self._waiter.done():
            self._waiter.set_result(None)


async def finished(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """
    Await *work* to its end, and then raise the cancellation of this task, if any.

    A cancelled task gives the work a few seconds. A cancel scope of anyio cancels each wait of its task, so the work
    runs in a task of its own. ``asyncio.run`` cancels that task, too, when its program ends: the work then begins again
    in another task, so it must be safe to repeat.
    """
    task = in_background(work())
    loop = asyncio.get_running_loop()
    cancellation: asyncio.CancelledError | None = None
    end = loop.time() + _FINISHING_SECONDS if isinstance(sys.exception(), asyncio.CancelledError) else None
    while not task.done() or task.cancelled():
        if task.cancelled():
            task = in_background(work())
            end = end or loop.time() + _FINISHING_SECONDS
        try:
            await asyncio.wait([task], timeout=None if end is None else max(0.0, end - loop.time()))
        except asyncio.CancelledError as error:
            cancellation = error
            end = end or loop.time() + _FINISHING_SECONDS
        if end is not None and loop.time() >= end and (not task.done() or task.cancelled()):
            LOGGER.warning(
                "a cancelled task could not release its claims in time, so their tracks wait until the leases expire"
            )
            task.cancel()
            break
    if cancellation is not None:
        raise cancellation
    if task.done():
        task.result()
