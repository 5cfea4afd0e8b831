"""The pool: psycopg_pool, with what a service needs besides when its server goes away and comes back."""

from __future__ import annotations

import operator
import select
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from time import monotonic
from types import FrameType
from typing import Any, Final
from weakref import WeakSet

import psycopg
import psycopg_pool
from psycopg_pool import ConnectionPool

from audiocatalog.connection import PooledConnection, patient, settings_call
from audiocatalog.errors import ConfigurationError, DatabaseUnavailable, PoolTimeout, printable
from audiocatalog.outcome import note_server
from audiocatalog.translation import interrupt_behind

# After a failed attempt to connect, the next follows so soon; the pool's own pauses double up to minutes.
_RECONNECT_SECONDS: Final = 0.5
# The waits of so many checkouts tell how long callers wait at present.
_WAITS_KEPT: Final = 1000
_RENEWAL_SECONDS: Final = 0.25
_INSIDE: Final = (f"{__package__}.", "contextlib", "tenacity")


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """
    Show how a pool stands; times are in seconds.

    *connections* are open, *in_use* of them held, at the most *size*; *waiting* callers stand in line. *wait_p50* and
    *wait_p99* are of the latest 1,000 checkouts, None before the first. *oldest_holder* has held a connection longest,
    for *oldest_held* seconds: its thread, and with ``debug_pool`` the place in its code.
    """

    size: int
    connections: int
    in_use: int
    waiting: int
    wait_p50: float | None
    wait_p99: float | None
    oldest_held: float | None
    oldest_holder: str | None


class Pool:
    """
    Hand out connections in the order in which callers ask, to none later than it may.

    *parameters* are libpq's. *session_settings* gives what is set on a new connection to a server of some version;
    without it, the server's connections are shared with others, and nothing is. *recycle* seconds, less a little at
    random, are the life of a connection; *patience* is how long an answer may take on it. *debug* notes where each
    connection was taken.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any],
        *,
        size: int,
        session_settings: Callable[[int], Mapping[str, str]] | None,
        recycle: float,
        patience: float,
        network_timeout: float,
        debug: bool,
    ) -> None:
        self._size = size
        self._session_settings = session_settings
        self._debug = debug
        self._waits: deque[float] = deque(maxlen=_WAITS_KEPT)
        self._connections: WeakSet[PooledConnection] = WeakSet()
        self._connections_lock = threading.Lock()
        self._renewal_lock = threading.Lock()
        self._renewed = -_RENEWAL_SECONDS
        self._lost: deque[PooledConnection] = deque()
        self._line: set[object] = set()
        self._failure: tuple[float, psycopg.Error] | None = None
        own = {
            "on_failure": self._note_failure,
            "patience": patience,
            "network_timeout": network_timeout,
        }
        self._pool = ConnectionPool(
            connection_class=PooledConnection,
            kwargs={**parameters, **own},
            min_size=0,
            max_size=size,
            max_lifetime=recycle,
            reconnect_timeout=_RECONNECT_SECONDS,
            reconnect_failed=self._try_again_for_those_who_wait,
            configure=self._configure,
            close_returns=True,
            open=False,
            name="audiocatalog",
        )
        self._pool.open()

    def take(self, timeout: float) -> PooledConnection:
        """
        Return a living connection within *timeout* seconds.

        psycopg_pool's own check waits a second, then two, and so on, after each dead connection that it meets; after a
        restart of the server all of them are dead.

        Raises:
            PoolTimeout: all connections are in use; it says by whom.
            DatabaseUnavailable: no further one could be made.
            psycopg.Error: why the last attempt to make one has failed.
        """
        self._take_back_the_lost()
        handled = sys.exception()  # What the caller is dealing with already is his own business.
        began = monotonic()
        while True:
            place = object()
            self._line.add(place)
            try:
                connection = self._pool.getconn(timeout=max(0.0, began + timeout - monotonic()))
            except psycopg_pool.PoolTimeout:
                raise self._why_in_vain(began, timeout) from None
            except psycopg_pool.PoolClosed:
                raise ConfigurationError("this catalogue has been closed") from None
            except BaseException as error:
                # A lock that is interrupted as it is waited for may raise an error of its own.
                if (signal := interrupt_behind(error, handled)) is None:
                    raise
                raise signal from None
            finally:
                self._line.discard(place)
            try:
                if self._is_alive(connection):
                    connection.mark, connection.leaves_rows = None, False
                    connection.held_by = threading.get_ident()
                    connection.held_at = _place() if self._debug else None
                    connection.held_since = now = monotonic()
                    connection.waited = now - began
                    self._waits.append(connection.waited)
                    return connection
            except BaseException:
                connection.close()
                raise
            connection.close()

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
        with self._renewal_lock:
            if monotonic() < self._renewed + _RENEWAL_SECONDS:
                return  # All that were made before are gone already; the others were as bad from the beginning.
            self._renewed = monotonic()
        self._pool.drain()

    def close(self) -> None:
        """Close the pool, and every connection as it comes back."""
        self._pool.close()

    def abandon(self) -> None:
        """Leave everything as it is, in a forked child: threads and connections are the parent's, and none is here."""
        self._pool._closed = True  # noqa: SLF001  # Or it would wait for its threads as the child ends, five seconds each.

    def figures(self) -> PoolFigures:
        """Return how the pool stands."""
        living = self._living()
        # Each time is read once: another thread may give its connection back meanwhile.
        held = sorted(
            ((since, one) for one in living if (since := one.held_since) is not None), key=operator.itemgetter(0)
        )
        waits = sorted(self._waits)
        return PoolFigures(
            size=self._size,
            connections=len(living),
            in_use=len(held),
            waiting=len(self._line),
            wait_p50=waits[len(waits) // 2] if waits else None,
            wait_p99=waits[len(waits) * 99 // 100] if waits else None,
            oldest_held=monotonic() - held[0][0] if held else None,
            oldest_holder=_describe(held[0][1]) if held else None,
        )

    def _take_back_the_lost(self) -> None:
        lost = None
        try:
            while self._lost:
                lost = self._lost.popleft()
                lost._pool = self._pool  # noqa: SLF001  # psycopg_pool sets it late and forgets it soon.
                lost.close()
        except IndexError:
            return  # Another caller has just taken it back.
        except BaseException:
            # Python tells only once that nobody holds it: who is interrupted leaves it to the next caller.
            if lost is not None and lost.lost is not None:
                self._lost.append(lost)
            raise

    def _try_again_for_those_who_wait(self, pool: ConnectionPool[PooledConnection]) -> None:
        """Begin a new attempt: the pool gives up after the last one, also if callers still wait for it."""
        if self._line:
            pool.check()

    def _living(self) -> list[PooledConnection]:
        with self._connections_lock:  # A set must not grow while it is read.
            known = list(self._connections)
        return [connection for connection in known if not connection.closed]

    def _why_in_vain(self, began: float, timeout: float) -> Exception:
        """Return why no connection was to be had: all are in use, or one that is missing could not be made."""
        figures = self.figures()
        if figures.connections < self._size:
            if self._failure is not None and self._failure[0] >= began - 2 * _RECONNECT_SECONDS:
                return self._failure[1]
            return DatabaseUnavailable(
                f"connect: no new connection could be made within {timeout:g} s", operation="connect", phase="connect"
            )
        holder = ""
        if figures.oldest_held is not None:
            holder = f"; the oldest has been held for {figures.oldest_held:.1f} s by {figures.oldest_holder}"
        advice = "" if self._debug else ", or find who keeps one with debug_pool=True"
        return PoolTimeout(
            f"none of {self._size} connections became free within {timeout:g} s ({figures.in_use} in use, "
            f"{figures.waiting} waiting{holder}): end units of work sooner, or raise pool_size{advice}",
            operation="connect",
            phase="connect",
        )

    def _note_failure(self, error: psycopg.Error) -> None:
        self._failure = monotonic(), error

    def _configure(self, connection: PooledConnection) -> None:
        connection.autocommit = True
        if self._session_settings is not None:
            settings = self._session_settings(connection.info.server_version)
            connection.execute(settings_call(settings, local=False))
        else:
            # Each BEGIN says it, since no session of the server's belongs to this connection.
            connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        note_server(connection)
        self._failure = None
        with self._connections_lock:
            self._connections.add(connection)
        connection.lost = self._lost  # From here on, it is the pool's.

    def _is_alive(self, connection: PooledConnection) -> bool:
        """
        Tell whether the server still holds its end of an idle *connection*.

        A server says so before it hangs up, so an idle socket with something to read is suspect, and only then is a
        round trip spent on asking.
        """
        if connection.closed:
            return False  # Whoever had it was interrupted as he gave it back.
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        if poll.poll(0):
            try:
                with patient(connection, 0):
                    ConnectionPool.check_connection(connection)
            except psycopg.OperationalError:
                return False
        return True


def _describe(connection: PooledConnection) -> str:
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    thread = printable(names.get(connection.held_by, "which has ended"))
    return f"thread {thread}" + (f", taken in {connection.held_at}" if connection.held_at else "")


def _place() -> str:
    """Return the place in the caller's code at which a connection is being taken."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  # inspect.stack reads every source file.
    while frame is not None and frame.f_back and frame.f_globals.get("__name__", "").startswith(_INSIDE):
        frame = frame.f_back
    if frame is None:
        return "unknown"
    return printable(f"{frame.f_code.co_name} ({PurePath(frame.f_code.co_filename).name}:{frame.f_lineno})", 100)
