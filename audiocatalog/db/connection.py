"""A psycopg connection for the pool, with a timeout for every wait and a cached cursor."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from time import monotonic
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeVar

import psycopg
from psycopg import generators, waiting
from psycopg.pq import ConnStatus, ExecStatus, PipelineStatus, TransactionStatus

from audiocatalog.db.error_translation import (
    ForkedConnectionError,
    ServerUnresponsive,
    over_its_limit,
    redacted,
    underlying_interrupt,
)

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn, PGresult

_RV = TypeVar("_RV")
# The timeout of a cancel request, sent after a response timeout or an interrupt.
_CANCEL_SECONDS: Final = 0.3
# In a pipeline, the wait for an answer begins at most this long after the statement was sent.
_LIMIT_SLACK: Final = 0.005


#: The identity of this process: an object that a forked child replaces.
_process: object = object()


def _begin_in_a_child() -> None:
    global _process  # noqa: PLW0603
    _process = object()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_a_child)


class Home(Protocol):
    """The owner of a connection, such as a pool; a closed connection returns to its owner."""

    def give_back(self, connection: PooledConnection) -> None:
        """Accept *connection*, which its caller returns in any state."""


class PooledState(psycopg.BaseConnection[Any]):
    """
    The state that the pool adds to a connection, whether the connection's methods block or are awaited.

    - *limit*: the statement timeout, in seconds.
    - *response_timeout*: the maximum wait for an answer, in seconds: *limit* plus *network_timeout*. This timeout ends
      the wait for a frozen server. No setting of libpq or of the server ends this wait, because the kernel of a frozen
      server still acknowledges packets.
    """

    limit: float | None = None
    default_limit: float | None = None
    response_timeout: float | None = None
    default_response_timeout: float | None = None
    network_timeout: float = 0.0
    #: The time of the checkout and, if debug_pool is on, its line in the caller's code.
    held_since: float | None = None
    held_at: str | None = None
    #: For commit_outcome.py: the server, the transaction's mark, and whether it wrote history or edits.
    server: str | None = None
    mark: str | None = None
    wrote_history: bool = False
    #: How long the caller waited for this connection, in seconds.
    waited: float = 0.0
    #: The process that opened the connection.
    process: object = None
    #: Fields that only the pool uses.
    _poller: Any = None
    generation: int = 0
    expires_at: float = 0.0
    idle_since: float = 0.0
    is_searching: bool = False

    def begin_in_this_process(self, response_timeout: float | None, network_timeout: float) -> None:
        """Set the timeouts of a new connection, and bind it to this process."""
        self.process = _process
        self.response_timeout = self.default_response_timeout = response_timeout
        self.network_timeout = network_timeout
        self.limit = self.default_limit = None if response_timeout is None else response_timeout - network_timeout

    def allow(self, seconds: float) -> None:
        """Let each further statement of the transaction take *seconds*."""
        # The response timeout never decreases, because a rollback to a savepoint restores the server's old timeout.
        self.response_timeout = max(self.response_timeout or 0.0, seconds + self.network_timeout)
        self.limit = seconds

    def refuse_in_a_child(self) -> None:
        """
        Check that this process opened the connection.

        Raises:
            ForkedConnectionError: the connection belongs to the parent process.
        """
        if self.process is not _process:
            raise ForkedConnectionError("the parent process opened this connection; use a new one in the child process")

    def note_the_limit(self, error: psycopg.errors.QueryCanceled, seconds: float) -> None:
        """Mark *error* as a timeout if its statement ran for the whole limit."""
        if self.limit is not None and seconds >= self.limit - _LIMIT_SLACK:
            over_its_limit(error)

    def add_notice_handler(self, callback: Callable[[psycopg.errors.Diagnostic], None]) -> None:
        """Add *callback* once: SQLAlchemy treats each checkout as a new connection and adds its callback again."""
        with suppress(ValueError):
            self.remove_notice_handler(callback)
        super().add_notice_handler(callback)

    def has_something_to_read(self) -> bool:
        """Return whether the server has sent anything while the connection was idle."""
        if self._poller is not None:
            return bool(self._poller.poll(0))
        if hasattr(select, "poll"):
            self._poller = select.poll()
            self._poller.register(self.fileno(), select.POLLIN)
            return bool(self._poller.poll(0))
        try:  # eventlet removes select.poll.
            return bool(select.select([self.fileno()], (), (), 0)[0])
        except ValueError:
            return True  # The descriptor is too large for select, so the caller has to ask the server.

    def disconnect(self) -> None:
        """Close the connection to the server."""
        self.pgconn.finish()

    @property
    def is_in_a_pipeline(self) -> bool:
        """Whether a caller was interrupted in a pipeline, so that the connection only looks idle."""
        return self._pipeline is not None or self.pgconn.pipeline_status != PipelineStatus.OFF

    def forget(self) -> PGconn:
        """Return the connection of libpq for another object, which must close the connection from then on."""
        self.process = None
        return self.pgconn

    def __del__(self, _warn: object = None, /) -> None:
        """Disconnect a leaked connection, so that the pool can reuse its slot."""
        if self.process is _process:
            self.disconnect()

    def __repr__(self) -> str:
        """Return only the state, because SQLAlchemy logs the repr and psycopg's repr names the user."""
        state = "closed" if self.closed else TransactionStatus(self.pgconn.transaction_status).name.lower()
        return f"<{type(self).__name__}, {state}>"


class PooledConnection(PooledState, psycopg.Connection[Any]):
    """A connection that returns to its pool when it is closed, with a timeout for every answer."""

    #: The thread that has checked out the connection.
    held_by: int = 0
    cached_cursor: psycopg.RawCursor[Any] | None = None
    #: The connection's pool.
    home: Home | None = None
    #: The id of a thread that was interrupted while it returned this connection. This thread may return the connection
    #: again after another thread has checked it out.
    interrupted_giver: int = 0

    @classmethod
    def connect(  # type: ignore[override]  # This method adds arguments to the parameters of libpq.
        cls,
        conninfo: str = "",
        *,
        response_timeout: float | None = None,
        network_timeout: float = 0.0,
        **parameters: Any,  # noqa: ANN401  # Any parameter of libpq.
    ) -> Self:
        """
        Connect as psycopg does, and set the timeouts of the connection.

        Raises:
            psycopg.Error: the connection failed. The message names neither user nor database.
        """
        try:
            connection = super().connect(conninfo, **parameters)
        except psycopg.Error as error:
            raise redacted(error) from None
        connection.begin_in_this_process(response_timeout, network_timeout)
        return connection

    def wait(self, gen: PQGen[_RV], interval: float = 0.1, timeout: float | None = None) -> _RV:
        """
        Wait until *gen* is done, for at most *timeout* seconds; None means response_timeout.

        An interrupted wait leaves the connection in the middle of an answer. After an interrupt, the statement is
        cancelled on the server and the connection is closed.

        Raises:
            ServerUnresponsive: the server did not answer within response_timeout.
            ForkedConnectionError: the connection belongs to the parent process.
        """
        self.refuse_in_a_child()
        began = monotonic()
        try:
            return _wait_for(gen, self.pgconn.socket, interval, self.response_timeout if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as error:  # noqa: SLF001  # psycopg's own overrides catch this error.
            if timeout is not None:
                raise
            self._give_up()
            raise ServerUnresponsive("the server did not answer in time") from error
        except (ValueError, psycopg.InternalError) as error:
            # When a server shuts down in a transaction, the server and PgBouncer each send an error. psycopg expects
            # one answer to COMMIT or COPY, and reports two answers as a programming error.
            if self.pgconn.status == ConnStatus.OK or getattr(error, "sqlstate", None) is not None:
                raise
            raise psycopg.OperationalError("the connection was lost") from error
        except psycopg.errors.QueryCanceled as error:
            self.note_the_limit(error, monotonic() - began)
            raise
        except psycopg.Error:
            raise
        except BaseException:
            # After a signal such as Ctrl-C, psycopg would wait ten seconds for a frozen server.
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self._give_up()
            raise

    def _give_up(self) -> None:
        with suppress(Exception):
            self.cancel_safe(timeout=_CANCEL_SECONDS)
        self.pgconn.finish()

    def close(self) -> None:
        """Return the connection to its pool, or disconnect if it has no pool; a second call has no effect."""
        if self.process is not _process:
            return  # A disconnect would end the parent's session too.
        if self.home is None:
            super().close()
            return
        me = threading.get_ident()
        if me == self.interrupted_giver != self.held_by:
            return  # After an interrupt, SQLAlchemy closes the connection a second time.
        try:
            self.home.give_back(self)
        except BaseException:
            self.interrupted_giver = me
            if self.held_since is not None and self.held_by == me:
                self.disconnect()
            raise

    def reset(self) -> None:
        """Prepare the connection for its next caller: roll back its transaction, or disconnect."""
        self.response_timeout, self.limit = self.default_response_timeout, self.default_limit
        if self.is_in_a_pipeline:
            self.disconnect()
        status = self.pgconn.transaction_status
        if status in {TransactionStatus.INTRANS, TransactionStatus.INERROR}:
            try:
                self.rollback()
            except psycopg.Error:
                self.disconnect()
        elif status == TransactionStatus.ACTIVE:
            self.disconnect()


def is_alive(connection: PooledConnection) -> bool:
    """
    Return whether an idle *connection* still works.

    A server sends a message before it disconnects. So the check needs a round trip only if the idle socket has unread
    data.
    """
    if connection.closed:
        return False
    if not connection.has_something_to_read():
        return True
    try:
        with client_timeout(connection, 0):
            connection.autocommit = True  # Otherwise the statement would begin a transaction.
            connection.execute("")
    except psycopg.OperationalError:
        return False
    return True


def _wait_for(gen: PQGen[_RV], descriptor: int, interval: float, timeout: float | None) -> _RV:
    """Wait as psycopg does; under eventlet, which psycopg does not detect, let other green threads run."""
    if hasattr(select, "poll") or not isinstance(select.select, FunctionType):
        return waiting.wait(gen, descriptor, interval, timeout)
    return waiting.wait_select(gen, descriptor, interval, timeout)


@contextmanager
def client_timeout(driver: psycopg.BaseConnection[Any], seconds: float | None) -> Iterator[None]:
    """Set the response timeout of *driver* to *seconds* plus network_timeout; None keeps the default."""
    if seconds is None or not isinstance(driver, PooledState):
        yield
        return
    before = driver.response_timeout, driver.limit
    driver.response_timeout, driver.limit = seconds + driver.network_timeout, seconds
    try:
        yield
    finally:
        driver.response_timeout, driver.limit = before


def leave_pipeline(driver: psycopg.Connection[Any], error: Exception) -> psycopg.Error | None:
    """
    Read the answers that a failed pipeline has left, so that *driver* stays usable.

    Return the server's error if *error* hides it, otherwise None. After an error at the end of a transaction, the
    server sends one answer more than psycopg 3.3 reads. Then psycopg raises an error about the end of the pipeline
    instead of the server's error.
    """
    pipe = driver.pgconn
    if pipe.status == ConnStatus.BAD or pipe.pipeline_status == PipelineStatus.OFF:
        return None
    if underlying_interrupt(error) is not None:
        # A signal interrupted the sending, so the remaining answers will not arrive.
        pipe.finish()
        return None
    # `driver.wait` has a timeout, so the loop ends even if the server is frozen.
    while pipe.status != ConnStatus.BAD and (result := driver.wait(next_result(driver))) is not None:
        if result.status == ExecStatus.PIPELINE_SYNC:
            pipe.exit_pipeline_mode()
            break
    return error.__context__ if isinstance(error.__context__, psycopg.Error) else None


def next_result(driver: psycopg.BaseConnection[Any]) -> PQGen[PGresult | None]:
    """Return the generator that reads the next answer of a pipeline."""
    following: PQGen[PGresult | None] = generators.fetch(driver.pgconn)
    return following


async def wait_in_a_loop(gen: PQGen[_RV], driver: psycopg.BaseConnection[Any], interval: float) -> _RV:
    """Wait as psycopg does in an event loop, but do not cancel the statement when the task is cancelled."""
    return await waiting.wait_async(gen, driver.pgconn.socket, interval)


def shutdown_socket(driver: psycopg.BaseConnection[Any]) -> None:
    """Shut down the socket of *driver* from another thread; a thread that waits on the socket gets an error."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(driver.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


def raw_cursor(driver: psycopg.Connection[Any]) -> psycopg.RawCursor[Any]:
    """
    Return a cursor with the placeholders ``$1``, ``$2``; a later call may return the same cursor.

    A connection of the pool caches its cursor, because a new cursor looks up each type's adapter again. This lookup
    costs as much as sending a statement.
    """
    if not isinstance(driver, PooledConnection):
        return psycopg.RawCursor(driver)
    if driver.cached_cursor is None:
        driver.cached_cursor = psycopg.RawCursor(driver)
    return driver.cached_cursor


def transaction_settings(settings: Mapping[str, str]) -> str:
    """Return SET LOCAL statements for *settings*; SET takes no snapshot, so the isolation level can still be set."""
    return "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in settings.items())
