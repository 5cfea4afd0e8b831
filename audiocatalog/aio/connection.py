"""A psycopg connection that is awaited, with a timeout for every answer, and no harm from cancelled tasks."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Coroutine
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, Self, TypeVar
from weakref import ref

import psycopg
from psycopg.pq import ConnStatus, ExecStatus, PipelineStatus, TransactionStatus

from audiocatalog.aio.waiting import Reader, in_background, running_loop, watchdog_of
from audiocatalog.db.connection import (
    PooledConnection,
    PooledState,
    client_timeout,
    next_result,
    shutdown_socket,
    wait_in_a_loop,
)
from audiocatalog.db.error_translation import ServerUnresponsive, underlying_interrupt
from audiocatalog.errors import UnitOfWorkBusy

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn

_RV = TypeVar("_RV")
# The timeout of a cancel request, and of the answer to it.
_CANCEL_SECONDS: Final = 0.3
_RECOVERY_SECONDS: Final = 2.0
# An idle event loop needs about 25 microseconds to wait for a socket. A call that is alone waits for its answer for as
# long without the loop, because a server on the same machine has often answered a read by then.
_SHORT_WAIT_SECONDS: Final = 0.00008
# After this many answers that took longer, only each 64th call tries it again.
_MAX_MISSES: Final = 4
_TRY_AGAIN: Final = 63

#: psycopg's states "waits for data" and "data has arrived".
_READABLE: Final = 1

_BUSY: Final = "another task's call is under way in this unit of work: give each task a unit of work of its own"


class Home(Protocol):
    """The owner to which a closed connection returns: its pool."""

    @property
    def is_quiet(self) -> bool:
        """Whether no more than one connection is checked out."""

    def give_back(self, connection: AsyncPooledConnection) -> None:
        """Take *connection* back in any state."""


class CallerLock(asyncio.Lock):
    """A lock around each statement of a connection that refuses a second task instead of letting it wait."""

    #: The task whose call, of one or more statements, is under way.
    caller: asyncio.Task[Any] | None = None

    @property
    def is_taken(self) -> bool:
        """Whether a call or a statement is under way."""
        return self.caller is not None or self.locked()

    def refuse_others(self) -> None:
        """
        Check that no other task uses the connection.

        Raises:
            UnitOfWorkBusy: another task's call or statement is under way.
        """
        if self.locked() or self.caller not in {None, asyncio.current_task()}:
            raise UnitOfWorkBusy(_BUSY)

    async def acquire(self) -> Literal[True]:
        """Acquire the lock."""
        self.refuse_others()
        return await super().acquire()


class AsyncPooledConnection(PooledState, psycopg.AsyncConnection[Any]):
    """A connection that returns to its pool when it is closed, with a timeout for every answer."""

    lock: CallerLock
    #: The task that has checked out the connection.
    held_by: ref[asyncio.Task[Any]] | None = None
    #: How often the connection was returned to its pool, and whether it is being returned.
    checkout: int = 0
    is_returning = False
    cached_cursor: psycopg.AsyncRawCursor[Any] | None = None
    #: The connection's pool.
    home: Home | None = None
    #: The rest of an answer that a cancelled task did not wait for.
    _unread: PQGen[Any] | None = None
    _is_unresponsive = False
    _reader: Reader | None = None
    _is_forfeited = False
    #: How many answers in a row took longer than a short wait.
    _misses = 0

    @classmethod
    async def adopt(cls, driver: PooledConnection) -> Self:
        """Return a connection that takes the place of *driver*, which a thread has opened."""
        connection = cls(driver.forget())
        connection.lock = CallerLock()
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
        if self.home is None:
            return await self._wait(gen, self._answer_by_psycopg(gen, interval))
        return await self._wait(gen, self._answer(gen, interval))

    async def _wait(self, gen: PQGen[_RV], answer: Coroutine[Any, Any, _RV]) -> _RV:
        """Await the *answer* of *gen* within the response_timeout."""
        began = monotonic()
        watchdog = watchdog_of(asyncio.get_running_loop())
        if self.response_timeout is not None:
            watchdog.deadlines[self] = began + self.response_timeout
            watchdog.wake()
        try:
            return await answer
        except (ValueError, psycopg.InternalError, psycopg.OperationalError) as error:
            self._stop_reading()
            if isinstance(error, psycopg.errors.QueryCanceled):
                self.note_the_limit(error, monotonic() - began)
            if (lost := self._lost(error)) is None:
                raise
            raise lost from error
        except BaseException as error:
            self._stop_reading()
            if not isinstance(error, psycopg.Error) and self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self._unread = gen
            raise
        finally:
            watchdog.deadlines.pop(self, None)

    async def _answer(self, gen: PQGen[_RV], interval: float) -> _RV:
        """Return the answer of *gen*; for a wait to send data, let psycopg do it."""
        loop = asyncio.get_running_loop()
        watchdog = watchdog_of(loop)
        if self._reader is None or self._reader.loop is not loop:
            self._reader = Reader(loop, self.pgconn.socket)
        try:
            state = next(gen)
            if state == _READABLE and self._comes_shortly():
                state = gen.send(_READABLE)
            while state == _READABLE:
                await self._reader.wait()
                watchdog.has_yielded()
                state = gen.send(_READABLE)
        except StopIteration as end:
            await watchdog.let_others_run()
            answer: _RV = end.value
            return answer
        self._stop_reading()
        return await wait_in_a_loop(_resumed(gen, state), self, interval)

    async def _answer_by_psycopg(self, gen: PQGen[_RV], interval: float) -> _RV:
        return await wait_in_a_loop(gen, self, interval)

    def _stop_reading(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _lost(self, error: Exception) -> psycopg.OperationalError | None:
        """Return the error of a lost connection that *error* hides, or None."""
        if self._is_unresponsive:
            return ServerUnresponsive("the server did not answer in time")
        # When a server shuts down in a transaction, the server and PgBouncer each send an error. psycopg expects one
        # answer to COMMIT or COPY, and reports two answers as a programming error.
        is_said = isinstance(error, psycopg.OperationalError) or getattr(error, "sqlstate", None) is not None
        return (
            None
            if is_said or self.pgconn.status == ConnStatus.OK
            else psycopg.OperationalError("the connection was lost")
        )

    def _comes_shortly(self) -> bool:
        """Wait shortly, without the event loop, for an answer to a call that is alone, and return whether it comes."""
        if self.home is None or not self.home.is_quiet:
            return False
        self._misses += 1
        if (self._misses & _TRY_AGAIN) > _MAX_MISSES:
            return False
        try:
            comes = bool(select.select([self.pgconn.socket], (), (), _SHORT_WAIT_SECONDS)[0])
        except ValueError:
            return False  # The descriptor is too large for select.
        if comes:
            self._misses = 0
        return comes

    def give_up(self) -> None:
        """End the wait for a server that does not answer."""
        self._is_unresponsive = True
        in_background(self._cancel_and_disconnect())
        shutdown_socket(self)

    def disconnect(self) -> None:
        """Close the connection to the server."""
        reader, self._reader = self._reader, None
        if reader is not None and reader.loop is not running_loop():
            # The garbage collector may run in any thread. A loop that is closed raises an error.
            with suppress(RuntimeError):
                reader.loop.call_soon_threadsafe(_close, reader, self.pgconn)
                return
        if reader is not None:
            reader.close()
        self.pgconn.finish()

    def forfeit(self) -> None:
        """Refuse further checkouts, because the last holder may still use the connection."""
        self._is_forfeited = True

    async def _cancel_and_disconnect(self) -> None:
        if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
            with suppress(Exception):
                await self.cancel_safe(timeout=_CANCEL_SECONDS)
        self.disconnect()

    @property
    def is_clean(self) -> bool:
        """Whether the next holder can use the connection as it is."""
        return (
            not self.closed
            and not self._is_forfeited
            and not self.is_in_a_pipeline
            and not self.lock.is_taken
            and self.pgconn.transaction_status == TransactionStatus.IDLE
        )

    async def recover(self) -> None:
        """Prepare the connection for its next holder: end its statement and its transaction, or disconnect."""
        unread, self._unread = self._unread, None
        if self._is_forfeited or self.lock.is_taken:
            await self._cancel_and_disconnect()
            return
        try:
            async with asyncio.timeout(_RECOVERY_SECONDS):
                if unread is not None:
                    await self.cancel_safe(timeout=_CANCEL_SECONDS)
                    self._stop_reading()
                    with suppress(psycopg.Error):
                        await wait_in_a_loop(unread, self, 0.1)
                    await self._read_rest_of_pipeline()
                if self.pgconn.transaction_status in {TransactionStatus.INTRANS, TransactionStatus.INERROR}:
                    await self.rollback()
        except (psycopg.Error, TimeoutError, OSError):
            self.disconnect()
        if not self.is_clean:
            self.disconnect()

    async def _read_rest_of_pipeline(self) -> None:
        """Read the answers to a cancelled pipeline, up to the one to its end, and leave the pipeline mode."""
        while self.pgconn.pipeline_status != PipelineStatus.OFF:
            result = await wait_in_a_loop(next_result(self), self, 0.1)
            if result is None or result.status == ExecStatus.PIPELINE_SYNC:
                self.pgconn.exit_pipeline_mode()

    async def close(self) -> None:
        """Return the connection to its pool, or disconnect if it has no pool; a second call does no harm."""
        if self.home is None:
            self.disconnect()
        else:
            self.home.give_back(self)


def _close(reader: Reader, pgconn: PGconn) -> None:
    reader.close()
    pgconn.finish()


def _resumed(gen: PQGen[_RV], state: Any) -> PQGen[_RV]:  # noqa: ANN401  # An enumeration that psycopg hides.
    """Return *gen*, which has already yielded *state*, from its beginning."""
    try:
        while True:
            ready = yield state
            state = gen.send(ready)
    except StopIteration as end:
        answer: _RV = end.value
        return answer


async def leave_pipeline(driver: psycopg.AsyncConnection[Any], error: Exception) -> psycopg.Error | None:
    """Read the answers that a failed pipeline has left, as ``db.connection.leave_pipeline`` does."""
    pipe = driver.pgconn
    if pipe.status == ConnStatus.BAD or pipe.pipeline_status == PipelineStatus.OFF:
        return None
    if underlying_interrupt(error) is not None:
        return None  # The pool cancels the statement when the connection is back.
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
        with client_timeout(connection, 0):
            await connection.set_autocommit(True)  # Otherwise the statement would begin a transaction.
            await connection.execute("")
    except psycopg.OperationalError:
        return False
    return True
