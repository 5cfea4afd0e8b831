"""The pool: psycopg_pool, with what a service needs besides when its server goes away and comes back."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import psycopg
from psycopg_pool import ConnectionPool

# After a failed attempt to connect, the next follows so soon; the pool's own pauses double up to minutes.
_RECONNECT_SECONDS: Final = 0.5
_LONGEST_LIFE_SECONDS: Final = 1800.0


class PooledConnection(psycopg.Connection[Any]):
    """A connection that may be handed to SQLAlchemy many times, and that keeps a cursor for our own statements."""

    kept_cursor: psycopg.RawCursor[Any] | None = None

    def add_notice_handler(self, callback: Callable[[psycopg.errors.Diagnostic], None]) -> None:
        """Add *callback* once: SQLAlchemy takes each checkout for a new connection, and adds its own each time."""
        if callback not in self._notice_handlers:
            super().add_notice_handler(callback)

    def close(self) -> None:
        """
        Go back to the pool.

        psycopg takes a connection that is lost for closed already and leaves it where it is, so that the pool would
        count it among its own for ever.
        """
        pool: Pool | None = getattr(self, "_pool", None)
        if pool is None:
            super().close()
        else:
            pool.putconn(self)


Pool = ConnectionPool[PooledConnection]


def raw_cursor(driver: psycopg.Connection[Any]) -> psycopg.RawCursor[Any]:
    """
    Return a cursor whose placeholders are ``$1``, ``$2``, to be used at once.

    A connection of the pool keeps one: a new cursor looks up anew how each type is sent and read, which costs as much
    as sending a statement.
    """
    if not isinstance(driver, PooledConnection):
        return psycopg.RawCursor(driver)
    if driver.kept_cursor is None:
        driver.kept_cursor = psycopg.RawCursor(driver)
    return driver.kept_cursor


def open_pool(parameters: Mapping[str, Any], *, size: int, timeout: float, session_settings: Mapping[str, str]) -> Pool:
    """Return a pool that connects with *parameters* when it is asked to, and sets *session_settings* each time."""
    pool = ConnectionPool(
        connection_class=PooledConnection,
        kwargs=dict(parameters),
        min_size=0,
        max_size=size,
        timeout=timeout,
        max_lifetime=_LONGEST_LIFE_SECONDS,
        reconnect_timeout=_RECONNECT_SECONDS,
        reconnect_failed=_try_again_for_those_who_wait,
        configure=lambda connection: _set(connection, session_settings),
        close_returns=True,
        open=False,
        name="audiocatalog",
    )
    pool.open()
    return pool


def take(pool: Pool, timeout: float) -> PooledConnection:
    """
    Return a living connection of *pool* within *timeout* seconds.

    The pool's own check waits a second, then two, and so on, after each dead connection that it meets; after a restart
    of the server all of them are dead.
    """
    deadline = time.monotonic() + timeout
    while True:
        connection = pool.getconn(timeout=max(0.0, deadline - time.monotonic()))
        try:
            if _is_alive(connection):
                return connection
        except BaseException:
            pool.putconn(connection)
            raise
        pool.putconn(connection)


def settings_call(settings: Mapping[str, str], *, local: bool) -> str:
    """Return the statement that sets *settings*, for the transaction or for the session."""
    calls = ", ".join(f"set_config('{name}', '{value}', {str(local).lower()})" for name, value in settings.items())
    return f"SELECT {calls}"


def _set(connection: PooledConnection, settings: Mapping[str, str]) -> None:
    if not settings:
        return
    connection.autocommit = True
    connection.execute(settings_call(settings, local=False))


def _is_alive(connection: PooledConnection) -> bool:
    """
    Tell whether the server still holds its end of an idle *connection*.

    A server says so before it hangs up, so an idle socket with something to read is suspect, and only then is a round
    trip spent on asking.
    """
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        try:
            ConnectionPool.check_connection(connection)
        except psycopg.OperationalError:
            return False
    return True


def _try_again_for_those_who_wait(pool: Pool) -> None:
    """Begin a new attempt: the pool gives up after the last one, also if callers still wait for it."""
    if pool.get_stats().get("requests_waiting"):
        pool.check()
