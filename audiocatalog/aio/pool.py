"""A first-come, first-served pool of connections for the tasks of one event loop."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Final
from weakref import ref

from audiocatalog.aio.connection import AsyncPooledConnection, is_alive
from audiocatalog.aio.waiting import BLOCKED_SECONDS, in_background
from audiocatalog.db.holders import describe_holder, place_in_the_callers_code
from audiocatalog.db.observer import LOGGER
from audiocatalog.db.pool_policy import (
    CLOSED,
    RECONNECT_SECONDS,
    RENEWAL_SECONDS,
    WAITS_KEPT,
    Policy,
    copy_of,
    is_stale,
)
from audiocatalog.db.settings import Settings
from audiocatalog.errors import CatalogError, CatalogInternalError, ConfigurationError, kind_of
from audiocatalog.operations.monitoring import PoolStats

# While callers wait, the pool looks at their deadlines at least this often. If it looks late, other code has blocked
# the event loop.
_WATCH_SECONDS: Final = 0.05
#: Ends the wait of a caller whose time is over.
_TIMEOUT: Final = CatalogError("the time to wait for a connection is over")


@dataclass(eq=False, slots=True)
class Turn:
    """A caller's place in the queue: the caller began to wait at *began* and gives up at *deadline*."""

    answer: asyncio.Future[AsyncPooledConnection]
    began: float
    deadline: float
    is_searching: bool


class AsyncPool:
    """
    A pool of connections to one server for the tasks of one event loop; *connect* returns a new connection.

    Callers are served in the order in which they ask. The pool owns the idle connections, and holds weak references to
    those checked out: if a task ends without returning its connection, the garbage collector closes the connection, and
    its slot becomes free. No method waits while the pool is between two states, so a cancelled task leaves it whole.
    """

    def __init__(self, connect: Callable[[], Awaitable[AsyncPooledConnection]], settings: Settings) -> None:
        self._connect = connect
        self._policy = Policy(settings)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle: dict[AsyncPooledConnection, None] = {}
        self._queue: dict[Turn, None] = {}
        self._known: dict[int, ref[AsyncPooledConnection]] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self._held = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_due = math.inf
        self._waits: deque[float] = deque(maxlen=WAITS_KEPT)
        self._generation = 0
        self._renewed = -math.inf
        self._closed = False

    async def take(self, timeout: float, *, searching: bool = False) -> AsyncPooledConnection:
        """
        Return a working connection within *timeout* seconds; if *searching*, it is for a search.

        Raises:
            PoolTimeout: all connections are in use. The message names the task that has held a connection longest.
            TooManySearches: searches hold their maximum number of connections.
            ConfigurationError: the catalogue is closed, belongs to another event loop, or its server refuses the
                connection.
            DatabaseUnavailable: no new connection could be opened.
            CatalogError: the last attempt to connect failed with this error.
        """
        self._bind()
        began = monotonic()
        while True:
            connection = self._take_idle(searching=searching)
            if connection is None:
                connection = await self._wait(began, timeout, searching=searching)
                if connection.idle_since >= began and not connection.closed:
                    break  # It has just worked for its last holder.
            if not connection.closed and not connection.has_something_to_read():
                break
            try:
                if await is_alive(connection):
                    break
            except BaseException:
                connection.disconnect()
                self.give_back(connection)
                raise
            connection.disconnect()
            self.give_back(connection)
        connection.mark, connection.wrote_history = None, False
        connection.held_at = place_in_the_callers_code() if self._policy.debug else None
        connection.waited = monotonic() - began
        self._waits.append(connection.waited)
        return connection

    def give_back(self, connection: AsyncPooledConnection) -> None:
        """Take *connection* back in any state, without waiting; a second call does no harm."""
        if connection.held_since is None or connection.is_returning:
            return
        connection.is_returning = True
        connection.response_timeout, connection.limit = connection.default_response_timeout, connection.default_limit
        if connection.is_clean or connection.closed:
            self._take_back(connection)
            return
        try:
            in_background(self._recover(connection))
        except RuntimeError:  # The event loop has ended.
            connection.disconnect()
            self._take_back(connection)

    async def _recover(self, connection: AsyncPooledConnection) -> None:
        try:
            await connection.recover()
        except BaseException:
            connection.disconnect()
            raise
        finally:
            self._take_back(connection)

    def _take_back(self, connection: AsyncPooledConnection) -> None:
        now = monotonic()
        is_old = connection.generation != self._generation or connection.expires_at <= now
        if is_old or self._closed:
            connection.disconnect()
        connection.held_since, connection.held_by, connection.lock.caller = None, None, None
        connection.checkout += 1
        connection.is_returning = False
        self._held -= 1
        if connection.closed:
            self._known.pop(id(connection), None)
            self._open_missing(spare=is_old)
        else:
            connection.idle_since = now
            self._idle[connection] = None
        self._serve()
        oldest = next(iter(self._idle), None)
        if oldest is not None and is_stale(oldest, now):
            del self._idle[oldest]
            self._disconnect(oldest)

    async def warm(self, timeout: float) -> None:
        """
        Open every connection within *timeout* seconds, so that no caller waits for one.

        Raises:
            PoolTimeout: all connections are in use.
            ConfigurationError: the catalogue is closed, or its server refuses the connection.
            DatabaseUnavailable: a connection could not be opened.
            CatalogError: the last attempt to connect failed with this error.
        """
        deadline = monotonic() + timeout
        taken: list[AsyncPooledConnection] = []
        try:
            while len(self._known) < self._policy.size:
                taken.append(await self.take(max(0.0, deadline - monotonic())))
        finally:
            for connection in taken:
                self.give_back(connection)

    @property
    def is_quiet(self) -> bool:
        """Whether no more than one connection is checked out."""
        return self._held <= 1

    def renew(self) -> None:
        """Replace every connection: idle ones now, the others when they are given back."""
        if monotonic() < self._renewed + RENEWAL_SECONDS:
            return  # All older connections are already closed, and newer ones need no replacement.
        self._renewed = monotonic()
        self._generation += 1
        self._disconnect_idle()

    async def close(self) -> None:
        """Close the pool: idle connections now, the others when they are given back."""
        self._closed = True
        self._disconnect_idle()
        self._fail(list(self._queue), ConfigurationError(CLOSED))
        # A connection that is being opened is closed as soon as it is there.
        if self._opening and self._loop is asyncio.get_running_loop():
            await asyncio.wait(self._opening)

    def stats(self) -> PoolStats:
        """Return the pool's current statistics."""
        living = self._living()
        held = [one for one in living if one.held_since is not None]
        stats, oldest = self._policy.stats(
            held, living=len(living), waiting=len(self._queue), waits=self._waits, now=monotonic()
        )
        if oldest is None:
            return stats
        task = oldest.held_by() if oldest.held_by is not None else None
        name = None if task is None else task.get_name()
        return replace(stats, oldest_holder=describe_holder("task", name, oldest.held_at))

    def _bind(self) -> None:
        """Bind the pool to the running loop, or to the next one after the end of its loop."""
        loop = asyncio.get_running_loop()
        if loop is self._loop:
            return
        if self._loop is not None and not self._loop.is_closed():
            raise ConfigurationError("this catalogue belongs to another event loop: make a catalogue for each loop")
        self._loop = loop
        self._queue.clear()
        self._opening.clear()
        self._alarm, self._alarm_due = None, math.inf
        # The tasks that held some of the connections ended with their loop.
        for connection in self._living():
            connection.disconnect()
        self._idle.clear()
        self._known.clear()
        self._held = 0

    # Taking turns

    def _take_idle(self, *, searching: bool) -> AsyncPooledConnection | None:
        """Return the idle connection that was used last, or None; no waiting caller can use an idle connection."""
        if not self._idle or (searching and self._searching() >= self._policy.searches):
            return None
        connection, _ = self._idle.popitem()
        self._held += 1
        self._hold(connection, asyncio.current_task(), searching=searching)
        return connection

    def _hold(self, connection: AsyncPooledConnection, task: asyncio.Task[Any] | None, *, searching: bool) -> None:
        connection.is_searching, connection.held_since = searching, monotonic()
        connection.held_by = None if task is None else ref(task)

    async def _wait(self, began: float, timeout: float, *, searching: bool) -> AsyncPooledConnection:
        """Wait in the queue, and return the connection that was assigned to this caller."""
        if self._closed:
            raise ConfigurationError(CLOSED)
        answer = asyncio.get_running_loop().create_future()
        turn = Turn(answer, began, began + timeout, searching)
        self._queue[turn] = None
        self._open_missing()
        self._fail_queue()
        self._set_alarm(turn.deadline)
        try:
            connection: AsyncPooledConnection = await answer
        except asyncio.CancelledError:
            # The connection may have been assigned in the moment of the cancellation.
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                self.give_back(answer.result())
            raise
        except CatalogError as error:
            raise (
                self._policy.timeout_error(turn, timeout, self.stats()) if error is _TIMEOUT else copy_of(error)
            ) from None
        finally:
            self._queue.pop(turn, None)
        self._hold(connection, asyncio.current_task(), searching=searching)
        return connection

    def _set_alarm(self, deadline: float) -> None:
        """Let the pool look at *deadline* for callers whose time is over."""
        now = monotonic()
        due = min(max(deadline, now), now + _WATCH_SECONDS)
        if due < self._alarm_due:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm, self._alarm_due = asyncio.get_running_loop().call_later(due - now, self._end_waits), due

    def _end_waits(self) -> None:
        late = monotonic() - self._alarm_due
        self._alarm, self._alarm_due = None, math.inf
        if not self._queue:
            return
        if late > BLOCKED_SECONDS:
            # While the loop was blocked, no holder could return its connection, and no caller could check it out.
            LOGGER.warning("the event loop was blocked for %.1f s by other code: run that code in a thread", late)
            for turn in self._queue:
                turn.deadline += late
        now = monotonic()
        self._fail([turn for turn in self._queue if turn.deadline <= now], _TIMEOUT)
        if self._queue:
            self._set_alarm(min(turn.deadline for turn in self._queue))

    def _serve_queue(self) -> None:
        """Give idle connections to waiting callers, and open missing ones."""
        self._serve()
        self._open_missing()
        self._fail_queue()

    def _serve(self) -> None:
        while self._idle and (turn := self._next_turn()) is not None:
            connection, _ = self._idle.popitem()
            self._hold(connection, None, searching=turn.is_searching)
            del self._queue[turn]
            self._held += 1
            turn.answer.set_result(connection)

    def _next_turn(self) -> Turn | None:
        may_search: bool | None = None
        for turn in self._queue:
            if turn.answer.done():
                continue  # Its task was cancelled, and leaves the queue by itself.
            if not turn.is_searching:
                return turn
            if may_search is None:
                may_search = self._searching() < self._policy.searches
            if may_search:
                return turn
        return None

    def _fail(self, turns: list[Turn], error: CatalogError) -> None:
        for turn in turns:
            self._queue.pop(turn, None)
            if not turn.answer.done():
                turn.answer.set_exception(error)

    def _fail_queue(self) -> None:
        """Raise the last connection error in waiting callers, if a retry cannot help and no connection is open."""
        if (failure := self._policy.failure) is not None and self._policy.failure_is_final:
            turns = self._policy.failed_turns(list(self._queue), living=len(self._known), opening=len(self._opening))
            self._fail(turns, failure[1])

    # Open connections

    def _living(self) -> list[AsyncPooledConnection]:
        return [one for known in self._known.values() if (one := known()) is not None]

    def _searching(self) -> int:
        return sum(one.is_searching and one.held_since is not None for one in self._living())

    def _disconnect(self, connection: AsyncPooledConnection) -> None:
        self._known.pop(id(connection), None)
        connection.disconnect()

    def _disconnect_idle(self) -> None:
        idle = list(self._idle)
        self._idle.clear()
        for connection in idle:
            self._disconnect(connection)

    def _forget(self, key: int) -> None:
        """Open another connection if callers wait: the garbage collector has found one that was never returned."""
        if self._known.pop(key, None) is not None:
            self._held -= 1
        if self._loop is not None and self._queue and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._serve_queue)

    # Opening connections

    def _open_missing(self, *, spare: bool = False) -> None:
        living = len(self._known)
        if self._closed or not (self._queue or spare) or living + len(self._opening) >= self._policy.size:
            return
        missing = self._policy.missing(
            self._queue,
            now=monotonic(),
            living=living,
            opening=len(self._opening),
            searching=self._searching(),
            spare=spare,
        )
        for _ in range(missing):
            task = in_background(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        """Open one connection in a task of its own, so that no caller waits beyond its timeout."""
        generation = self._generation
        try:
            connection = await self._connect()
        except CatalogError as error:
            self._note_failure(error)
            return
        except Exception as error:  # noqa: BLE001  # Otherwise no caller would get the error.
            # The error's own text may quote a connection parameter.
            message = f"connect: an unexpected {kind_of(error)}"
            self._note_failure(CatalogInternalError(message, operation="connect", phase="connect"))
            return
        if self._closed:
            connection.disconnect()
            return
        self._policy.connected(connection, generation=generation, now=monotonic())
        self._policy.succeeded()
        connection.home = self
        key = id(connection)
        self._known[key] = ref(connection, lambda _: self._forget(key))
        self._idle[connection] = None
        self._opening.discard(asyncio.current_task())
        self._serve_queue()

    def _note_failure(self, error: CatalogError) -> None:
        LOGGER.warning("a connection could not be opened: %s", error)
        # The frames of the traceback hold the connection parameters.
        error.__traceback__ = None
        self._policy.failure = monotonic(), error
        asyncio.get_running_loop().call_later(RECONNECT_SECONDS, self._serve_queue)
        self._opening.discard(asyncio.current_task())
        self._fail_queue()
