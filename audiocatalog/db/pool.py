"""A first-come, first-served pool of connections that never loses a slot."""

from __future__ import annotations

import math
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Final
from weakref import ref

from audiocatalog.db.connection import PooledConnection, is_alive
from audiocatalog.db.error_translation import underlying_interrupt
from audiocatalog.db.holders import describe_holder, name_of_thread, place_in_the_callers_code
from audiocatalog.db.observer import LOGGER
from audiocatalog.db.pool_parts import Lock, Maker, Turn
from audiocatalog.db.pool_policy import (
    CLOSED,
    MAX_OPENING,
    RENEWAL_SECONDS,
    SHARED_SECONDS,
    WAITS_KEPT,
    Policy,
    copy_of,
    is_stale,
)
from audiocatalog.db.settings import Settings
from audiocatalog.errors import (
    CatalogError,
    CatalogInternalError,
    ConfigurationError,
    DatabaseUnavailable,
    kind_of,
)
from audiocatalog.operations.monitoring import PoolStats

# Waiting callers poll at this interval, because some events do not wake them, such as the end of a thread that holds a
# connection.
_POLL_SECONDS: Final = 0.1


class Pool:
    """
    A pool of connections to one server; *connect* returns a new connection.

    Callers are served in the order of their requests.

    **The pool keeps no counters.** An interrupt (a signal, an exception thrown into a thread, a killed greenlet) can
    end a caller between any two steps, and a counter would stay wrong until the process ends. Instead, the pool owns
    the idle connections, has weak references to the others, and checks which connecting threads are alive. If
    a caller ends without returning its connection, the garbage collector closes the connection, and its slot becomes
    free.

    **No two callers get the same connection.** One atomic ``popitem`` removes the connection from the idle ones. The
    lock only protects the order and the limits. An interrupt may end a locked block at any call, so the pool is in a
    valid state at each call.
    """

    def __init__(self, connect: Callable[[], PooledConnection], settings: Settings) -> None:
        self._connect = connect
        self._policy = Policy(settings)
        self._lock = Lock()
        #: Idle connections in the order of their return. An interrupted step on a dict can be repeated.
        self._idle: dict[PooledConnection, None] = {}
        self._queue: dict[Turn, None] = {}
        self._known: list[ref[PooledConnection]] = []
        self._makers: list[Maker] = []
        self._waits: deque[float] = deque(maxlen=WAITS_KEPT)
        self._unlogged: deque[CatalogError] = deque(maxlen=MAX_OPENING)
        self._generation = 0
        self._renewed = -math.inf
        self._closed = False

    def take(self, timeout: float, *, searching: bool = False) -> PooledConnection:
        """
        Check out a working connection within *timeout* seconds; *searching* is True for a search.

        Raises:
            PoolTimeout: all connections are in use. The message names the thread of the oldest checkout.
            TooManySearches: searches use their maximum number of connections.
            ConfigurationError: the catalogue is closed, or its server refuses the connection.
            DatabaseUnavailable: no new connection could be opened.
            CatalogError: the last attempt to connect failed with this error.
        """
        handled = sys.exception()  # The exception that the caller was already handling is ignored.
        began = monotonic()
        turn: Turn | None = None
        connection: PooledConnection | None = None
        try:
            while True:
                if (connection := self._take_idle(searching=searching)) is None:
                    turn = Turn(began, began + timeout, searching=searching)
                    connection = self._wait(turn, timeout)
                    turn = None  # Otherwise the connection would be returned twice.
                if is_alive(connection):
                    break
                connection.disconnect()
                connection.close()
            connection.mark, connection.wrote_history = None, False
            connection.held_at = place_in_the_callers_code() if self._policy.debug else None
            connection.waited = monotonic() - began
            self._waits.append(connection.waited)
        except BaseException as error:
            self._lock.release()
            if turn is not None:
                self._leave(turn)
            if connection is not None:
                connection.close()
            # A signal during a wait for the lock may make the lock raise an error of its own.
            if (signal := underlying_interrupt(error, handled)) is None or signal is error:
                raise
            raise signal from None
        return connection

    def give_back(self, connection: PooledConnection) -> None:
        """Return *connection*, in any state, to the pool; a second call has no effect."""
        try:
            self._take_back(connection)
        except BaseException:
            self._lock.release()
            raise

    def _take_back(self, connection: PooledConnection) -> None:
        if connection.held_since is None:
            return
        connection.reset()
        now = monotonic()
        is_old = connection.generation != self._generation or connection.expires_at <= now
        if is_old or self._closed:
            connection.disconnect()
        makers: list[Maker] = []
        stale: PooledConnection | None = None
        with self._lock:
            if connection.closed or self._closed:
                connection.held_since = None
                makers = self._makers_missing(spare=is_old)
            elif connection.held_since is not None:
                connection.idle_since = now
                # There is no call between these two lines, so an interrupt cannot separate them.
                connection.held_since = None
                self._idle[connection] = None
                self._serve()
                stale = self._stale(now)
        if self._closed:
            connection.disconnect()
        if stale is not None:
            stale.disconnect()
        self._start(makers)

    def warm(self, timeout: float) -> None:
        """
        Open every connection within *timeout* seconds, so that no caller waits for one.

        Raises:
            PoolTimeout: all connections are in use.
            ConfigurationError: the catalogue is closed, or its server refuses the connection.
            DatabaseUnavailable: a connection could not be opened.
            CatalogError: the last attempt to connect failed with this error.
        """
        deadline = monotonic() + timeout
        taken: list[PooledConnection] = []
        try:
            while len(self._living()) < self._policy.size:
                taken.append(self.take(max(0.0, deadline - monotonic())))
        finally:
            for connection in taken:
                connection.close()

    def renew(self) -> None:
        """Replace every connection: idle ones now, the others when they are returned."""
        with self._lock:
            if monotonic() < self._renewed + RENEWAL_SECONDS:
                return  # All older connections are already closed, and newer ones need no replacement.
            self._renewed = monotonic()
            self._generation += 1
            idle = list(self._idle)
            self._idle.clear()
        for connection in idle:
            connection.disconnect()

    def close(self) -> None:
        """Close the pool: idle connections now, the others when they are returned."""
        with self._lock:
            self._closed = True
            idle = list(self._idle)
            self._idle.clear()
            self._fail(list(self._queue), ConfigurationError(CLOSED))
        for connection in idle:
            connection.disconnect()

    def abandon(self) -> None:
        """Stop using the pool in a forked child: the connections and the threads belong to the parent process."""
        self._closed = True

    def stats(self) -> PoolStats:
        """Return the pool's current statistics."""
        with self._lock:
            living = self._living()
            held = [one for one in living if one.held_since is not None]
            waiting = len(self._queue)
        stats, oldest = self._policy.stats(
            held, living=len(living), waiting=waiting, waits=self._waits.copy(), now=monotonic()
        )
        if oldest is None:
            return stats
        return replace(stats, oldest_holder=describe_holder("thread", name_of_thread(oldest), oldest.held_at))

    # Checkouts

    def _take_idle(self, *, searching: bool) -> PooledConnection | None:
        """Check out the most recently used idle connection, or return None if there is none."""
        # No waiting caller can use a connection that is still idle, so this caller overtakes no other caller.
        me, now = threading.get_ident(), monotonic()
        with self._lock:
            if not self._idle or (searching and self._searching() >= self._policy.searches):
                return None
            connection, _ = self._idle.popitem()
            connection.is_searching, connection.held_by, connection.held_since = searching, me, now
            return connection

    def _wait(self, turn: Turn, timeout: float) -> PooledConnection:
        """Wait in the queue for *turn*, and return its connection."""
        with self._lock:
            if self._closed:
                raise ConfigurationError(CLOSED)
            self._queue[turn] = None
        while not turn.has_come:
            self._serve_queue()
            left = turn.deadline - monotonic()
            if left <= 0 or turn.gate.acquire(timeout=min(left, _POLL_SECONDS)):
                break
        with self._lock:
            self._queue.pop(turn, None)
        if turn.connection is not None:
            return turn.connection
        raise (self._policy.timeout_error(turn, timeout, self.stats()) if turn.error is None else copy_of(turn.error))

    def _leave(self, turn: Turn) -> None:
        """Remove *turn* from the queue, and return a connection that was assigned to *turn* meanwhile."""
        with self._lock:
            self._queue.pop(turn, None)
        if (connection := turn.connection) is not None:
            turn.connection = None
            connection.close()

    def _serve_queue(self) -> None:
        """Give idle connections to waiting callers, and start threads that open missing connections."""
        with self._lock:
            self._serve()
            makers = self._makers_missing()
            self._fail_queue()
        while self._unlogged:
            with suppress(IndexError):  # Another caller has just logged the error.
                LOGGER.warning("a connection could not be opened: %s", self._unlogged.popleft())
        self._start(makers)

    def _serve(self) -> None:
        now = monotonic()
        while self._idle and (turn := self._next_turn(now)) is not None:
            connection, _ = self._idle.popitem()
            connection.is_searching, connection.held_by, connection.held_since = turn.is_searching, turn.thread, now
            turn.connection = connection
            self._queue.pop(turn, None)
            turn.call()

    def _next_turn(self, now: float) -> Turn | None:
        may_search = self._searching() < self._policy.searches if self._queue else False
        for turn in list(self._queue):
            if now > turn.deadline + SHARED_SECONDS:
                self._queue.pop(turn, None)  # This caller was interrupted while it left the queue.
            elif may_search or not turn.is_searching:
                return turn
        return None

    def _fail(self, turns: list[Turn], error: CatalogError) -> None:
        for turn in turns:
            turn.error = error
            self._queue.pop(turn, None)
            turn.call()

    def _fail_queue(self) -> None:
        """Raise the last connection error in waiting callers, if a retry cannot help and no connection is open."""
        if (failure := self._policy.failure) is None or not self._policy.failure_is_final:
            return
        living, opening = len(self._living()), len(self._makers_under_way())
        self._fail(self._policy.failed_turns(list(self._queue), living=living, opening=opening), failure[1])

    # Open connections

    def _living(self) -> list[PooledConnection]:
        return [one for known in list(self._known) if (one := known()) is not None and not one.closed]

    def _searching(self) -> int:
        return sum(one.is_searching and one.held_since is not None for one in self._living())

    def _stale(self, now: float) -> PooledConnection | None:
        """Remove and return the connection that has been idle longest, if it has been idle too long."""
        oldest = next(iter(self._idle), None)
        if oldest is None or not is_stale(oldest, now):
            return None
        self._idle.pop(oldest, None)
        return oldest

    # Opening connections

    def _makers_under_way(self) -> list[Maker]:
        now = monotonic()
        self._makers = [maker for maker in self._makers if maker.is_under_way(now)]
        return self._makers

    def _makers_missing(self, *, spare: bool = False) -> list[Maker]:
        """Return unstarted threads that will open connections for waiting callers, or one *spare* connection."""
        if self._closed or not (self._queue or spare):
            return []
        missing = self._policy.missing(
            list(self._queue),
            now=monotonic(),
            living=len(self._living()),
            opening=len(self._makers_under_way()),
            searching=self._searching(),
            spare=spare,
        )
        makers = [Maker(self._make) for _ in range(missing)]
        self._makers += makers
        return makers

    def _start(self, makers: list[Maker]) -> None:
        for maker in makers:
            try:
                maker.start()
            except RuntimeError:
                maker.has_ended = True
                raise DatabaseUnavailable(
                    "connect: the operating system started no new thread: raise the limit, or use fewer threads",
                    operation="connect",
                    phase="connect",
                ) from None

    def _make(self, maker: Maker) -> None:
        """Open one connection in a separate thread, so that no caller waits beyond its timeout."""
        with self._lock:
            others = [other for other in self._makers_under_way() if other is not maker]
            if self._closed or len(self._living()) + len(others) >= self._policy.size:
                maker.has_ended = True
                return
            generation = self._generation
        try:
            connection = self._connect()
        except CatalogError as error:
            self._note_failure(error, maker)
            return
        except BaseException as error:  # noqa: BLE001  # Otherwise no caller would get the error.
            # The error's own text may quote a connection parameter.
            message = f"connect: an unexpected {kind_of(error)}"
            self._note_failure(CatalogInternalError(message, operation="connect", phase="connect"), maker)
            return
        self._policy.connected(connection, generation=generation, now=monotonic())
        with self._lock:
            maker.has_ended = True
            if not self._closed:
                self._policy.succeeded()
                connection.home = self
                self._known = [known for known in self._known if known() is not None]
                self._known.append(ref(connection))
                self._idle[connection] = None
                self._serve()
        if connection.home is None:
            connection.close()
        else:
            del connection  # Otherwise this thread would keep the connection alive after its caller has ended.
            self._serve_queue()

    def _note_failure(self, error: CatalogError, maker: Maker) -> None:
        # A caller logs the error: if this thread logged it, Python would keep a record of the thread for ever.
        self._unlogged.append(error)
        # The frames of the traceback hold the connection parameters.
        error.__traceback__ = None
        with self._lock:
            maker.has_ended = True
            self._policy.failure = monotonic(), error
            self._fail_queue()
