"""One connection of the pool: psycopg's, with an end to every wait and a cursor that is kept."""

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
    AnothersConnection,
    ServerSilent,
    interrupt_behind,
    over_its_limit,
    without_data,
)

if TYPE_CHECKING:
    from psycopg.abc import PQGen

_RV = TypeVar("_RV")
# How long a server that is given up, or whose caller has been interrupted, is asked to stop what it is doing.
_CANCEL_SECONDS: Final = 0.3
# A statement in a pipeline is sent at most this long before its answer is waited for.
_LIMIT_SLACK: Final = 0.005


#: This process; a forked child has another one.
_process: object = object()


def _begin_in_a_child() -> None:
    global _process  # noqa: PLW0603
    _process = object()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_a_child)


class Home(Protocol):
    """Where a connection goes when it is closed: its pool."""

    def give_back(self, connection: PooledConnection) -> None:
        """Take *connection* back, whatever state it is in."""


class PooledConnection(psycopg.Connection[Any]):
    """
    A connection that may be handed to SQLAlchemy many times, and that no server can keep waiting for ever.

    *response_timeout*: the seconds that an answer may take, which are the statement's time limit and a share for the
    network. No setting of libpq or of the server ends the wait for a frozen server, whose kernel goes on acknowledging
    what is sent. *limit*: the statement's time limit itself.
    """

    limit: float | None = None
    default_limit: float | None = None
    response_timeout: float | None = None
    default_response_timeout: float | None = None
    network_timeout: float = 0.0
    #: Since when, by which thread and, where that is noted, at which place in its code it is held.
    held_since: float | None = None
    held_by: int = 0
    held_at: str | None = None
    #: For commit_outcome.py, after an unanswered COMMIT: the server, the transaction's mark, and what it wrote.
    server: str | None = None
    mark: str | None = None
    wrote_history: bool = False
    #: How long its holder had to wait for it.
    waited: float = 0.0
    cached_cursor: psycopg.RawCursor[Any] | None = None
    #: The process that opened it.
    process: object = None
    #: The pool that it belongs to, and what only that pool uses.
    home: Home | None = None
    _poller: Any = None
    generation: int = 0
    expires_at: float = 0.0
    idle_since: float = 0.0
    is_searching: bool = False
    #: A thread that was interrupted as it gave this back: it may do so again, when another has it already.
    interrupted_giver: int = 0

    @classmethod
    def connect(  # type: ignore[override]  # Its own arguments stand beside the parameters of libpq.
        cls,
        conninfo: str = "",
        *,
        response_timeout: float | None = None,
        network_timeout: float = 0.0,
        **parameters: Any,  # noqa: ANN401  # Whatever libpq takes.
    ) -> Self:
        """Connect as psycopg does; what it says when that fails names no user and no database."""
        try:
            connection = super().connect(conninfo, **parameters)
        except psycopg.Error as error:
            raise without_data(error) from None
        connection.process = _process
        connection.response_timeout = connection.default_response_timeout = response_timeout
        connection.network_timeout = network_timeout
        connection.limit = connection.default_limit = (
            None if response_timeout is None else response_timeout - network_timeout
        )
        return connection

    def wait(self, gen: PQGen[_RV], interval: float = 0.1, timeout: float | None = None) -> _RV:
        """
        Wait for the server until *gen* has what it wants, or until *timeout* or the connection's response_timeout ends.

        A wait that is broken off leaves a connection in the middle of an answer: it is closed, after the server has
        been asked to stop.

        Raises:
            ServerSilent: the response_timeout has ended.
        """
        if self.process is not _process:
            raise AnothersConnection("this connection belongs to the process that this one was forked from")
        began = monotonic()
        try:
            return _wait_for(gen, self.pgconn.socket, interval, self.response_timeout if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as error:  # noqa: SLF001  # It is what psycopg's own overrides catch.
            if timeout is not None:
                raise
            self._give_up()
            raise ServerSilent("the server did not answer in time") from error
        except (ValueError, psycopg.InternalError) as error:
            # A server that ends within a transaction says why, and PgBouncer adds a word of its own: psycopg, which
            # expects one answer to COMMIT or COPY, calls two an error of the program.
            if self.pgconn.status == ConnStatus.OK or getattr(error, "sqlstate", None) is not None:
                raise
            raise psycopg.OperationalError("the connection was lost") from error
        except psycopg.errors.QueryCanceled as error:
            self._note_the_limit(error, monotonic() - began)
            raise
        except psycopg.Error:
            raise
        except BaseException:
            # A signal, such as Ctrl-C. psycopg would wait ten seconds for a server that is frozen.
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self._give_up()
            raise

    def _note_the_limit(self, error: psycopg.errors.QueryCanceled, seconds: float) -> None:
        if self.limit is not None and seconds >= self.limit - _LIMIT_SLACK:
            over_its_limit(error)

    def _give_up(self) -> None:
        with suppress(Exception):
            self.cancel_safe(timeout=_CANCEL_SECONDS)
        self.pgconn.finish()

    def add_notice_handler(self, callback: Callable[[psycopg.errors.Diagnostic], None]) -> None:
        """Add *callback* once: SQLAlchemy takes each checkout for a new connection, and adds its own each time."""
        with suppress(ValueError):
            self.remove_notice_handler(callback)
        super().add_notice_handler(callback)

    def close(self) -> None:
        """Go back to the pool, or hang up if there is none; it can be repeated."""
        if self.process is not _process:
            return  # To hang up would end it for the parent as well.
        if self.home is None:
            super().close()
            return
        me = threading.get_ident()
        if me == self.interrupted_giver != self.held_by:
            return  # SQLAlchemy closes again what it was interrupted at.
        try:
            self.home.give_back(self)
        except BaseException:
            self.interrupted_giver = me
            if self.held_since is not None and self.held_by == me:
                self.hang_up()
            raise

    def has_something_to_read(self) -> bool:
        """Tell whether the server has sent something that was not asked for."""
        if self._poller is not None:
            return bool(self._poller.poll(0))
        if hasattr(select, "poll"):
            self._poller = select.poll()
            self._poller.register(self.fileno(), select.POLLIN)
            return bool(self._poller.poll(0))
        try:  # eventlet takes poll away.
            return bool(select.select([self.fileno()], (), (), 0)[0])
        except ValueError:
            return True  # It is too large a number for select: the server is asked.

    def hang_up(self) -> None:
        """Close the connection itself."""
        self.pgconn.finish()

    def reset(self) -> None:
        """Prepare it for its next holder: end its transaction, or close it."""
        self.response_timeout, self.limit = self.default_response_timeout, self.default_limit
        if self._pipeline is not None or self.pgconn.pipeline_status != PipelineStatus.OFF:
            self.hang_up()  # Its holder was interrupted in a pipeline, which looks idle.
        status = self.pgconn.transaction_status
        if status in {TransactionStatus.INTRANS, TransactionStatus.INERROR}:
            try:
                self.rollback()
            except psycopg.Error:
                self.hang_up()
        elif status == TransactionStatus.ACTIVE:
            self.hang_up()

    def __del__(self, _warn: object = None, /) -> None:
        """Hang up a connection that a caller has lost, by an interrupt or by mistake, which frees its place."""
        if self.process is _process:
            self.hang_up()

    def __repr__(self) -> str:
        """Return the state alone: psycopg's own names the user, and SQLAlchemy logs it."""
        state = "closed" if self.closed else TransactionStatus(self.pgconn.transaction_status).name.lower()
        return f"<PooledConnection, {state}>"


def is_alive(connection: PooledConnection) -> bool:
    """
    Tell whether the server still holds its end of an idle *connection*.

    A server says so before it hangs up, so an idle socket with something to read is suspect, and only then is a
    round trip spent on asking.
    """
    if connection.closed:
        return False
    if not connection.has_something_to_read():
        return True
    try:
        with client_timeout(connection, 0):
            connection.autocommit = True  # Or a transaction would be begun with it.
            connection.execute("")
    except psycopg.OperationalError:
        return False
    return True


def _wait_for(gen: PQGen[_RV], descriptor: int, interval: float, timeout: float | None) -> _RV:
    """Wait as psycopg does; under eventlet, which psycopg does not notice, in the way that lets green threads run."""
    if hasattr(select, "poll") or not isinstance(select.select, FunctionType):
        return waiting.wait(gen, descriptor, interval, timeout)
    return waiting.wait_select(gen, descriptor, interval, timeout)


@contextmanager
def client_timeout(driver: psycopg.Connection[Any], seconds: float | None) -> Iterator[None]:
    """Let an answer on *driver* take *seconds* plus the network's share; None leaves the usual limit."""
    if seconds is None or not isinstance(driver, PooledConnection):
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
    Read what a failed pipeline has left unread, so that *driver* stays usable; return what failed, if *error* hides it.

    An error that comes after the last statement, when the transaction is ended, is followed by one answer more than
    psycopg 3.3 reads; it then complains that the pipeline cannot be left.
    """
    pipe = driver.pgconn
    if pipe.status == ConnStatus.BAD or pipe.pipeline_status == PipelineStatus.OFF:
        return None
    if interrupt_behind(error) is not None:
        # A signal came before all was sent, and what was not asked will not be answered.
        pipe.finish()
        return None
    # The driver's own way of waiting ends, whatever the server does.
    while pipe.status != ConnStatus.BAD and (result := driver.wait(generators.fetch(pipe))) is not None:
        if result.status == ExecStatus.PIPELINE_SYNC:
            pipe.exit_pipeline_mode()
            break
    return error.__context__ if isinstance(error.__context__, psycopg.Error) else None


def shutdown_socket(driver: psycopg.Connection[Any]) -> None:
    """End, from another thread, whatever is waited for on *driver*: its thread finds the connection lost."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(driver.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)


def raw_cursor(driver: psycopg.Connection[Any]) -> psycopg.RawCursor[Any]:
    """
    Return a cursor whose placeholders are ``$1``, ``$2``, to be used at once.

    A connection of the pool keeps one: a new cursor looks up anew how each type is sent and read, which costs as much
    as sending a statement.
    """
    if not isinstance(driver, PooledConnection):
        return psycopg.RawCursor(driver)
    if driver.cached_cursor is None:
        driver.cached_cursor = psycopg.RawCursor(driver)
    return driver.cached_cursor


def transaction_settings(settings: Mapping[str, str]) -> str:
    """Return statements that set *settings* for a transaction without a snapshot: it may still choose its isolation."""
    return "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in settings.items())
