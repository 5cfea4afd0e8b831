"""A psycopg connection that is awaited, with a timeout for every answer, and no harm from cancelled tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar
from weakref import ref

import psycopg
from psycopg.pq import ConnStatus, ExecStatus, PipelineStatus, TransactionStatus

from audiocatalog.db.connection import PooledConnection, PooledState, next_result, shutdown_socket, wait_in_a_loop
from audiocatalog.db.error_translation import ServerUnresponsive, underlying_interrupt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from psycopg.abc import PQGen

_RV = TypeVar("_RV")
# The timeout of a cancel request, and of the answer to it.
_CANCEL_SECONDS: Final = 0.3
_RECOVERY_SECONDS: Final = 2.0
# If data has arrived that the loop could not read yet, the server is given this time more.
_GRACE_SECONDS: Final = 0.1

_background: set[asyncio.Task[None]] = set()


def in_background(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run *work* in a task of its own, which the end of the caller's task does not cancel."""
    task = asyncio.get_running_loop().create_task(work)
    _background.add(task)  # The loop itself refers to its tasks only weakly.
    task.add_done_callback(_background.discard)
    return task


class Home(Protocol):
    """The owner to which a closed connection returns: its pool."""

    def give_back(self, connection: AsyncPooledConnection) -> None:
        """Take *connection* back in any state."""


class AsyncPooledConnection(PooledState, psycopg.AsyncConnection[Any]):
    """A connection that returns to its pool when it is closed, with a timeout for every answer."""

    #: The task that has checked out the connection, and the one whose call is under way on it.
    held_by: ref[asyncio.Task[Any]] | None = None
    caller: asyncio.Task[Any] | None = None
    #: How often the connection was returned to its pool.
    checkout: int = 0
    cached_cursor: psycopg.AsyncRawCursor[Any] | None = None
    #: The connection's pool.
    home: Home | None = None
    #: The rest of an answer that a cancelled task did not wait for.
    _unread: PQGen[Any] | None = None
    _is_unresponsive = False

    @classmethod
    async def adopt(cls, driver: PooledConnection) -> Self:
        """Return a connection that takes the place of *driver*, which a thread has opened."""
        connection = cls(driver.forget())
        connection.begin_in_this_process(driver.response_timeout, driver.network_timeout)
        connection.prepare_threshold = driver.prepare_threshold
        connection.server = driver.server
        await connection.set_isolation_level(driver.isolation_level)
        await connection.set_autocommit(driver.autocommit)
        return connection

    async def wait(self, gen: PQGen[_RV], interval: float = 0.1, timeout: float | None = None) -> _RV:
        """
        Wait until *gen* is done, for at most *timeout* seconds; None means response_timeout.

        If the task is cancelled, the rest of the answer is left to ``recover``.

        Raises:
            ServerUnresponsive: the response_timeout has ended.
            ForkedConnectionError: the connection belongs to the parent process.
        """
        self.refuse_in_a_child()
        if timeout is not None:
            return await super().wait(gen, interval, timeout)
        began = monotonic()
        loop = asyncio.get_running_loop()
        limit = self.response_timeout
        timer = _Timer(loop, limit, self) if limit is not None else None
        try:
            return await wait_in_a_loop(gen, self, interval)
        except (ValueError, psycopg.InternalError, psycopg.OperationalError) as error:
            if self._is_unresponsive:
                raise ServerUnresponsive("the server did not answer in time") from error
            if isinstance(error, psycopg.errors.QueryCanceled):
                self.note_the_limit(error, monotonic() - began)
            # When a server shuts down in a transaction, the server and PgBouncer each send an error. psycopg expects
            # one answer to COMMIT or COPY, and reports two answers as a programming error.
            if (
                isinstance(error, psycopg.OperationalError)
                or self.pgconn.status == ConnStatus.OK
                or getattr(error, "sqlstate", None) is not None
            ):
                raise
            raise psycopg.OperationalError("the connection was lost") from error
        except psycopg.Error:
            raise
        except BaseException:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self._unread = gen
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def give_up(self) -> None:
        """End the wait for a server that does not answer."""
        self._is_unresponsive = True
        in_background(self._cancel_and_disconnect())
        shutdown_socket(self)

    async def _cancel_and_disconnect(self) -> None:
        with suppress(Exception):
            await self.cancel_safe(timeout=_CANCEL_SECONDS)
        self.disconnect()

    @property
    def is_clean(self) -> bool:
        """Whether the next holder can use the connection as it is."""
        return (
            not self.closed
            and not self.is_in_a_pipeline
            and self.caller is None
            and self.pgconn.transaction_status == TransactionStatus.IDLE
        )

    async def recover(self) -> None:
        """Prepare the connection for its next holder: end its statement and its transaction, or disconnect."""
        unread, self._unread = self._unread, None
        try:
            async with asyncio.timeout(_RECOVERY_SECONDS):
                if unread is not None and not self.is_in_a_pipeline and self.caller is None:
                    await self.cancel_safe(timeout=_CANCEL_SECONDS)
                    with suppress(psycopg.Error):
                        await wait_in_a_loop(unread, self, 0.1)
                if self.pgconn.transaction_status in {TransactionStatus.INTRANS, TransactionStatus.INERROR}:
                    await self.rollback()
        except (psycopg.Error, TimeoutError, OSError):
            self.disconnect()
        if not self.is_clean:
            self.disconnect()

    async def close(self) -> None:
        """Return the connection to its pool, or disconnect if it has no pool; a second call does no harm."""
        if self.home is None:
            self.disconnect()
        else:
            self.home.give_back(self)


class _Timer:
    """A timer that gives up a wait of *connection* after *seconds*."""

    __slots__ = ("_connection", "_handle", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, connection: AsyncPooledConnection) -> None:
        self._loop = loop
        self._connection = connection
        self._handle = loop.call_later(seconds, self._end)

    def _end(self) -> None:
        # After code that has blocked the loop, the answer may be there, and nobody has read it yet.
        if not self._connection.closed and self._connection.has_something_to_read():
            self._handle = self._loop.call_later(_GRACE_SECONDS, self._end)
        else:
            self._connection.give_up()

    def cancel(self) -> None:
        self._handle.cancel()


@asynccontextmanager
async def client_timeout(driver: psycopg.AsyncConnection[Any], seconds: float | None) -> AsyncIterator[None]:
    """Set the response timeout of *driver* to *seconds* plus network_timeout; None keeps the default."""
    if seconds is None or not isinstance(driver, AsyncPooledConnection):
        yield
        return
    before = driver.response_timeout, driver.limit
    driver.response_timeout, driver.limit = seconds + driver.network_timeout, seconds
    try:
        yield
    finally:
        driver.response_timeout, driver.limit = before


async def leave_pipeline(driver: psycopg.AsyncConnection[Any], error: Exception) -> psycopg.Error | None:
    """Read the answers that a failed pipeline has left, as ``db.connection.leave_pipeline`` does."""
    pipe = driver.pgconn
    if pipe.status == ConnStatus.BAD or pipe.pipeline_status == PipelineStatus.OFF:
        return None
    if underlying_interrupt(error) is not None:
        pipe.finish()
        return None
    while pipe.status != ConnStatus.BAD and (result := await driver.wait(next_result(driver))) is not None:
        if result.status == ExecStatus.PIPELINE_SYNC:
            pipe.exit_pipeline_mode()
            break
    return error.__context__ if isinstance(error.__context__, psycopg.Error) else None


def raw_cursor(driver: psycopg.AsyncConnection[Any]) -> psycopg.AsyncRawCursor[Any]:
    """Return a cursor with the placeholders ``$1``, ``$2``; a connection of the pool caches its cursor."""
    if not isinstance(driver, AsyncPooledConnection):
        return psycopg.AsyncRawCursor(driver)
    if driver.cached_cursor is None:
        driver.cached_cursor = psycopg.AsyncRawCursor(driver)
    return driver.cached_cursor


async def is_alive(connection: AsyncPooledConnection) -> bool:
    """Return whether an idle *connection* still works, as ``db.connection.is_alive`` does."""
    if connection.closed:
        return False
    if not connection.has_something_to_read():
        return True
    try:
        async with client_timeout(connection, 0):
            await connection.set_autocommit(True)  # Otherwise the statement would begin a transaction.
            await connection.execute("")
    except psycopg.OperationalError:
        return False
    return True
