"""A fair pool of connections in which no place can be lost."""

from __future__ import annotations

import copy
import math
import random
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Final
from weakref import ref

from audiocatalog.db.connection import PooledConnection, is_alive
from audiocatalog.db.error_translation import interrupt_behind
from audiocatalog.db.holders import describe_holder, place_in_the_callers_code
from audiocatalog.db.observer import LOGGER
from audiocatalog.db.pool_parts import Lock, Maker, Turn
from audiocatalog.errors import (
    CatalogError,
    CatalogInternalError,
    ConfigurationError,
    DatabaseUnavailable,
    PoolTimeout,
    TooManySearches,
    kind_of,
)
from audiocatalog.operations.monitoring import PoolStats

_CLOSED: Final = "this catalogue has been closed"
# After a failed attempt to connect, the next one follows after this time, as long as somebody waits for it.
_RECONNECT_SECONDS: Final = 0.5
# An error that another attempt cannot mend is raised for every caller of this time, without another attempt.
_SHARED_SECONDS: Final = 1.0
# Waiting callers look at this interval for what does not wake them, such as a place whose holder has vanished.
_LOOK_SECONDS: Final = 0.1
# At most this many threads connect at the same time.
_MOST_MAKERS: Final = 3
_WAITS_KEPT: Final = 1000
_RENEWAL_SECONDS: Final = 0.25
# A connection that was idle for this time is closed.
_MOST_IDLE_SECONDS: Final = 600.0


class Pool:
    """
    A pool of at most *size* connections, which *connect* makes.

    Callers are served in the order in which they ask. At most *searches* connections are lent to searches at a time.
    *recycle* seconds, less a little at random, are the life of a connection. With *debug*, the pool notes where each
    connection was taken.

    **Nothing is counted.** An interrupt (a signal, an exception thrown into a thread, a killed greenlet) can end a
    caller between any two steps, and a counter would stay wrong until the process ends. So the pool looks at what there
    is. It alone owns the idle connections, it knows lent connections by weak references, and it knows threads that
    connect by their being alive. When a caller vanishes, its connection is collected, and its place is free.

    **No step shares a connection.** A connection leaves the idle ones by one atomic ``popitem``. The lock keeps the
    order and the bounds; each block under it leaves the pool in order at every call, where an interrupt may end it.
    """

    def __init__(
        self,
        connect: Callable[[], PooledConnection],
        *,
        size: int,
        searches: int,
        recycle: float,
        debug: bool,
    ) -> None:
        self._connect = connect
        self._size = size
        self._most_searches = searches
        self._recycle = recycle
        self._debug = debug
        self._lock = Lock()
        #: In the order of their return; a dict, because adding twice or removing twice does no harm.
        self._idle: dict[PooledConnection, None] = {}
        self._line: dict[Turn, None] = {}
        self._known: list[ref[PooledConnection]] = []
        self._makers: list[Maker] = []
        self._waits: deque[float] = deque(maxlen=_WAITS_KEPT)
        self._untold: deque[CatalogError] = deque(maxlen=_MOST_MAKERS)
        #: When the last attempt to connect failed, if it did, and why.
        self._failure: tuple[float, CatalogError] | None = None
        self._has_worked = False
        self._generation = 0
        self._renewed = -math.inf
        self._closed = False

    def take(self, timeout: float, *, searching: bool = False) -> PooledConnection:
        """
        Return a living connection within *timeout* seconds; *searching* says that it is for a search.

        Raises:
            PoolTimeout: all connections are in use; it says by whom.
            TooManySearches: other searches hold all connections that searches may have.
            DatabaseUnavailable: no further connection could be made.
            CatalogError: why the last attempt to make one has failed.
        """
        handled = sys.exception()  # What the caller is dealing with already is its own business.
        began = monotonic()
        turn: Turn | None = None
        connection: PooledConnection | None = None
        try:
            while True:
                if (connection := self._take_idle(searching=searching)) is None:
                    turn = Turn(began, began + timeout, searching=searching)
                    connection = self._wait(turn, timeout)
                    turn = None  # It must not be given back twice.
                if is_alive(connection):
                    break
                connection.hang_up()
                connection.close()
            connection.mark, connection.wrote_history = None, False
            connection.held_at = place_in_the_callers_code() if self._debug else None
            connection.waited = monotonic() - began
            self._waits.append(connection.waited)
        except BaseException as error:
            self._lock.let_go()
            if turn is not None:
                self._leave(turn)
            if connection is not None:
                connection.close()
            # A lock that is interrupted as it is waited for may raise an error of its own.
            if (signal := interrupt_behind(error, handled)) is None or signal is error:
                raise
            raise signal from None
        return connection

    def give_back(self, connection: PooledConnection) -> None:
        """Take *connection* back, whatever state it is in. Giving it back twice does no harm."""
        try:
            self._take_back(connection)
        except BaseException:
            self._lock.let_go()
            raise

    def _take_back(self, connection: PooledConnection) -> None:
        if connection.held_since is None:
            return
        connection.reset()
        now = monotonic()
        is_old = connection.generation != self._generation or connection.expires_at <= now
        if is_old or self._closed:
            connection.hang_up()
        makers: list[Maker] = []
        stale: PooledConnection | None = None
        with self._lock:
            if connection.closed or self._closed:
                connection.held_since = None
                makers = self._makers_missing(spare=is_old)
            elif connection.held_since is not None:
                connection.idle_since = now
                # These two have no call between them: nothing can interrupt them.
                connection.held_since = None
                self._idle[connection] = None
                self._serve()
                stale = self._stale(now)
        if self._closed:
            connection.hang_up()
        if stale is not None:
            stale.hang_up()
        self._start(makers)

    def warm(self, timeout: float) -> None:
        """
        Open every connection within *timeout* seconds, so that no caller waits for it.

        Raises as ``take`` does.
        """
        deadline = monotonic() + timeout
        taken: list[PooledConnection] = []
        try:
            while len(self._living()) < self._size:
                taken.append(self.take(max(0.0, deadline - monotonic())))
        finally:
            for connection in taken:
                connection.close()

    def renew(self) -> None:
        """Replace every connection: the idle ones now, the others when they come back."""
        with self._lock:
            if monotonic() < self._renewed + _RENEWAL_SECONDS:
                return  # All that were made before are gone already; the others were as bad from the beginning.
            self._renewed = monotonic()
            self._generation += 1
            idle = list(self._idle)
            self._idle.clear()
        for connection in idle:
            connection.hang_up()

    def close(self) -> None:
        """Close the pool, and every connection as it comes back."""
        with self._lock:
            self._closed = True
            idle = list(self._idle)
            self._idle.clear()
            self._tell(list(self._line), ConfigurationError(_CLOSED))
        for connection in idle:
            connection.hang_up()

    def abandon(self) -> None:
        """Leave everything as it is, in a forked child: threads and connections are the parent's, and none is here."""
        self._closed = True

    def figures(self) -> PoolStats:
        """Return how the pool stands."""
        with self._lock:
            living = self._living()
            held = sorted((since, id(one), one) for one in living if (since := one.held_since) is not None)
            waiting = len(self._line)
        waits = sorted(self._waits.copy())
        return PoolStats(
            size=self._size,
            connections=len(living),
            in_use=len(held),
            waiting=waiting,
            wait_p50=waits[len(waits) // 2] if waits else None,
            wait_p99=waits[len(waits) * 99 // 100] if waits else None,
            oldest_held=monotonic() - held[0][0] if held else None,
            oldest_holder=describe_holder(held[0][2]) if held else None,
            searching=sum(one.is_searching for *_, one in held),
            most_searches=self._most_searches,
        )

    # Taking turns

    def _take_idle(self, *, searching: bool) -> PooledConnection | None:
        """Return the idle connection that was used last; while there is one, no caller waits that could have it."""
        me, now = threading.get_ident(), monotonic()
        with self._lock:
            if not self._idle or (searching and self._searching() >= self._most_searches):
                return None
            connection, _ = self._idle.popitem()
            connection.is_searching, connection.held_by, connection.held_since = searching, me, now
            return connection

    def _wait(self, turn: Turn, timeout: float) -> PooledConnection:
        """Stand in line until *turn* comes, and return its connection."""
        with self._lock:
            if self._closed:
                raise ConfigurationError(_CLOSED)
            self._line[turn] = None
        while not turn.has_come:
            self._serve_the_line()
            left = turn.deadline - monotonic()
            if left <= 0 or turn.gate.acquire(timeout=min(left, _LOOK_SECONDS)):
                break
        with self._lock:
            self._line.pop(turn, None)
        if turn.connection is not None:
            return turn.connection
        raise self._why_in_vain(turn, timeout) if turn.error is None else _again(turn.error)

    def _leave(self, turn: Turn) -> None:
        """Leave the line, and give back what came meanwhile."""
        with self._lock:
            self._line.pop(turn, None)
        if (connection := turn.connection) is not None:
            turn.connection = None
            connection.close()

    def _serve_the_line(self) -> None:
        """Give idle connections to waiting callers, and make missing ones; a place that was lost is regained here."""
        with self._lock:
            self._serve()
            makers = self._makers_missing()
            self._refuse_the_line()
        while self._untold:
            with suppress(IndexError):  # Another caller has just told it.
                LOGGER.warning("a connection could not be made: %s", self._untold.popleft())
        self._start(makers)

    def _serve(self) -> None:
        now = monotonic()
        while self._idle and (turn := self._next_in_line(now)) is not None:
            connection, _ = self._idle.popitem()
            connection.is_searching, connection.held_by, connection.held_since = turn.is_searching, turn.thread, now
            turn.connection = connection
            self._line.pop(turn, None)
            turn.call()

    def _next_in_line(self, now: float) -> Turn | None:
        may_search = self._searching() < self._most_searches if self._line else False
        for turn in list(self._line):
            if now > turn.deadline + _SHARED_SECONDS:
                self._line.pop(turn, None)  # Its caller was interrupted, even as it left the line.
            elif may_search or not turn.is_searching:
                return turn
        return None

    def _tell(self, turns: list[Turn], error: CatalogError) -> None:
        for turn in turns:
            turn.error = error
            self._line.pop(turn, None)
            turn.call()

    def _refuse_the_line(self) -> None:
        """Tell those who wait why the last attempt to connect failed, if the next would too and no connection lives."""
        if self._failure is None or not self._failure_is_final or self._living() or self._makers_under_way():
            return
        failed, error = self._failure
        self._tell([turn for turn in self._line if turn.began < failed + _SHARED_SECONDS], error)

    # What there is

    def _living(self) -> list[PooledConnection]:
        return [one for known in list(self._known) if (one := known()) is not None and not one.closed]

    def _searching(self) -> int:
        return sum(one.is_searching and one.held_since is not None for one in self._living())

    def _stale(self, now: float) -> PooledConnection | None:
        """Take the connection that has been idle longest out of the pool, if that is too long."""
        oldest = next(iter(self._idle), None)
        if oldest is None or oldest.idle_since > now - _MOST_IDLE_SECONDS:
            return None
        self._idle.pop(oldest, None)
        return oldest

    # Making connections

    def _makers_under_way(self) -> list[Maker]:
        now = monotonic()
        self._makers = [maker for maker in self._makers if maker.is_under_way(now)]
        return self._makers

    @property
    def _failure_is_final(self) -> bool:
        """Whether another attempt would fail as the last one did; of a server never seen, this is taken to be so."""
        return self._failure is not None and not (self._failure[1].retryable and self._has_worked)

    def _makers_missing(self, *, spare: bool = False) -> list[Maker]:
        """Return threads, not started yet, that make the connections which those who wait need, or a *spare* one."""
        # Whether the server is there, one attempt tells.
        most = _MOST_MAKERS if self._failure is None and self._has_worked else 1
        room = min(self._size - len(self._living()), most) - len(self._makers_under_way())
        if self._closed or room <= 0 or not (self._line or spare):
            return []
        able = list(self._line)
        if self._failure is not None:
            failed, _ = self._failure
            if self._failure_is_final:
                # Each caller may try once: a server counts wrong passwords, and locks the account.
                able = [turn for turn in able if turn.began >= failed + _SHARED_SECONDS]
            elif monotonic() < failed + _RECONNECT_SECONDS:
                return []
        searches = sum(turn.is_searching for turn in able)
        too_many = max(0, searches - max(0, self._most_searches - self._searching()))
        wanted = len(able) - too_many + spare - len(self._makers)
        makers = [Maker(self._make) for _ in range(min(wanted, room))]
        self._makers += makers
        return makers

    def _start(self, makers: list[Maker]) -> None:
        for maker in makers:
            try:
                maker.start()
            except RuntimeError:
                maker.has_ended = True
                raise DatabaseUnavailable(
                    "connect: the system allows this process no further thread, which a new connection needs",
                    operation="connect",
                    phase="connect",
                ) from None

    def _make(self, maker: Maker) -> None:
        """Make one connection, in a thread of its own: no caller waits for it longer than it may."""
        with self._lock:
            others = [other for other in self._makers_under_way() if other is not maker]
            if self._closed or len(self._living()) + len(others) >= self._size:
                maker.has_ended = True
                return
            generation = self._generation
        try:
            connection = self._connect()
        except CatalogError as error:
            self._note_failure(error, maker)
            return
        except BaseException as error:  # noqa: BLE001  # Otherwise no caller would hear of it.
            # Its text may quote what was to be connected with.
            told = f"connect: an unexpected {kind_of(error)}"
            self._note_failure(CatalogInternalError(told, operation="connect", phase="connect"), maker)
            return
        connection.generation = generation
        connection.idle_since = monotonic()
        connection.expires_at = connection.idle_since + self._recycle * random.uniform(0.95, 1.0)  # noqa: S311
        with self._lock:
            maker.has_ended = True
            if not self._closed:
                self._has_worked, self._failure = True, None
                connection.home = self
                self._known = [known for known in self._known if known() is not None]
                self._known.append(ref(connection))
                self._idle[connection] = None
                self._serve()
        if connection.home is None:
            connection.close()
        else:
            del connection  # Otherwise this thread would still hold it if its caller vanishes.
            self._serve_the_line()

    def _note_failure(self, error: CatalogError, maker: Maker) -> None:
        # A caller logs it: if this thread did, Python would keep a record of the thread for ever.
        self._untold.append(error)
        # The error is kept, but not its frames, which hold the parameters.
        error.__traceback__ = None
        with self._lock:
            maker.has_ended = True
            self._failure = monotonic(), error
            self._refuse_the_line()

    def _why_in_vain(self, turn: Turn, timeout: float) -> CatalogError:
        """Return why no connection was to be had: all are in use, or one that is missing could not be made."""
        figures = self.figures()
        if turn.is_searching and figures.searching >= self._most_searches:
            return TooManySearches(
                f"search: {figures.searching} searches of this catalogue were running for {timeout:g} s, as many as "
                "max_searches allows: try again later, make searches cheaper, or raise max_searches and pool_size",
                operation="search",
                phase="connect",
            )
        if figures.connections < self._size:
            if self._failure is not None:
                return _again(self._failure[1])
            return DatabaseUnavailable(
                f"connect: no new connection could be made within {timeout:g} s", operation="connect", phase="connect"
            )
        holder = ""
        if figures.oldest_held is not None:
            holder = f"; the oldest has been held for {figures.oldest_held:.1f} s by {figures.oldest_holder}"
        advice = "" if self._debug else ", or find who keeps one with debug_pool=True"
        return PoolTimeout(
            f"none of {self._size} connections became free within {timeout:g} s ({figures.in_use} in use, "
            f"{figures.waiting + 1} waiting{holder}): end units of work sooner, or raise pool_size{advice}",
            operation="connect",
            phase="connect",
        )


def _again(error: CatalogError) -> CatalogError:
    """Return a copy of *error* for another thread to raise: each writes into its own."""
    told = copy.copy(error)
    told.__cause__ = error.__cause__
    return told
