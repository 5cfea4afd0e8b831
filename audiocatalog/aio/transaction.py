"""A transaction on one awaited connection, run by the driver until the host uses its session."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, cast

import psycopg
import sqlalchemy.exc

from audiocatalog.aio.connection import AsyncPooledConnection
from audiocatalog.aio.execute import begin_call
from audiocatalog.db.commit_outcome import TransactionRef, mark_query, note_mark, transaction_ref
from audiocatalog.db.error_translation import translated, translated_for_host
from audiocatalog.db.observer import LOGGER
from audiocatalog.db.transaction import COMMITTED, COMMITTING, EXECUTED, refuse_to_commit_an_aborted_transaction
from audiocatalog.errors import CatalogError, CommitOutcomeUnknown, UnitOfWorkEnded
from audiocatalog.operations.operation import milliseconds, settings_call

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

#: The key of a session's ``info`` that holds the connection on which its first transaction runs.
HANDED_OVER: Final = "audiocatalog_handed_over"
#: The key of a session's ``info`` that holds the last connection which the session checked out, and its checkout.
TAKEN: Final = "audiocatalog_taken"
_LEFT_OPEN: Final = (
    "the task that began this unit of work has ended without leaving the `async with` block, so the unit of work was "
    "rolled back; begin and end it in one task"
)


class AsyncTransaction(ABC):
    """A transaction on the driver's connection, or of a session on the same connection."""

    #: Seconds that the unit of work waited for the connection.
    waited: float | None = None

    @abstractmethod
    async def driver(self) -> psycopg.AsyncConnection[Any]:
        """Return the driver's connection. The host's session is flushed first, so that reads see its changes."""

    @property
    @abstractmethod
    def host_has_committed(self) -> bool:
        """Whether the host sent a COMMIT through its session before this transaction ended."""

    @property
    def host_is_committing(self) -> bool:
        """Whether the host has sent a COMMIT that was not answered."""
        return False

    @abstractmethod
    def with_session(self) -> AsyncSessionTransaction:
        """Return a transaction of a session; it continues this transaction and replaces it."""

    @abstractmethod
    async def commit(self, *, traced: bool = False) -> None:
        """
        Commit. If *traced*, the outcome can be looked up if the answer is lost.

        Raises:
            TransactionAborted: an earlier error has aborted the transaction, and COMMIT would roll back.
            UnitOfWorkBusy: another task's call is under way.
            CommitOutcomeUnknown: the connection was lost before the answer arrived.
            CatalogError: the translation of another error of the driver.
        """

    @abstractmethod
    async def close(self) -> None:
        """Roll back what was not committed, and return the connection."""

    async def set_statement_timeout(self, seconds: float) -> None:
        """Set the timeout of each further statement of the transaction to *seconds*."""
        driver = await self.driver()
        with translated("set_statement_timeout"):
            await driver.execute(settings_call({"statement_timeout": milliseconds(seconds)}, local=True))
        if isinstance(driver, AsyncPooledConnection):
            driver.allow(seconds)

    async def roll_back(self) -> None:
        """Roll back in any state of the connection; a failure is only logged, so that it hides no earlier error."""
        try:
            if (driver := await self._under_way()) is not None:
                driver.response_timeout = driver.network_timeout  # A rollback is fast on the server.
            await self._roll_back()
        except (sqlalchemy.exc.SQLAlchemyError, psycopg.Error, CatalogError) as error:
            LOGGER.debug("rolling back failed: %s", type(error).__name__)

    @abstractmethod
    async def _roll_back(self) -> None: ...

    @abstractmethod
    async def _under_way(self) -> AsyncPooledConnection | None:
        """Return the connection of the pool on which the transaction is open, or None."""


class AsyncDriverTransaction(AsyncTransaction):
    """A transaction on *driver* without a session, because a session costs more than most calls of the package."""

    def __init__(self, driver: AsyncPooledConnection, open_session: Callable[[], AsyncSession]) -> None:
        self._driver = driver
        self._open_session = open_session
        self._successor: AsyncSessionTransaction | None = None
        self._checkout = driver.checkout
        self._task: asyncio.Task[Any] | None = None
        self._has_ended = False
        self.waited = driver.waited

    async def begin(self, settings: str | None) -> None:
        """Leave autocommit, and execute the statement *settings* if there is one; end with the current task."""
        self._task = asyncio.current_task()
        if self._task is not None:
            self._task.add_done_callback(self._end_with_the_task)
        await self._driver.set_autocommit(False)
        if settings is not None:
            await self._driver.execute(settings)

    async def driver(self) -> psycopg.AsyncConnection[Any]:
        """Return the driver's connection."""
        return self.connection

    def refuse_others(self) -> None:
        """
        Check that no other task uses the connection.

        Raises:
            UnitOfWorkBusy: another task's call or statement is under way.
        """
        if self._driver.checkout == self._checkout:
            self._driver.lock.refuse_others()

    @property
    def connection(self) -> AsyncPooledConnection:
        """The driver's connection."""
        if self._has_ended:
            raise UnitOfWorkEnded(_LEFT_OPEN)
        return self._driver

    @property
    def host_has_committed(self) -> bool:
        """Whether the host sent a COMMIT through the session that continues this transaction."""
        return self._successor is not None and self._successor.host_has_committed

    def with_session(self) -> AsyncSessionTransaction:
        """Return the transaction of a session, which takes over the connection with its first statement."""
        if self._successor is None:
            session = self._open_session()
            session.info[HANDED_OVER] = self.connection
            self._successor = AsyncSessionTransaction(session, self)
        return self._successor

    async def commit(self, *, traced: bool = False) -> None:  # noqa: ARG002  # Every statement of ours returns its mark.
        """Commit; a CommitOutcomeUnknown always carries the identity of the transaction."""
        driver = self.connection
        begin_call(driver)
        try:
            with translated("commit", "commit"):
                refuse_to_commit_an_aborted_transaction(driver)
                await driver.commit()
        except CommitOutcomeUnknown as error:
            error.trace = transaction_ref(driver)
            raise
        finally:
            driver.lock.caller = None

    async def close(self) -> None:
        """Return the connection, or close the session that owns it."""
        if self._successor is None:
            self.release()
        else:
            await self._successor.close()

    def release(self, *, broken: bool = False) -> None:
        """
        Return the connection, whose transaction the pool rolls back if it is still open.

        A connection that SQLAlchemy has not returned is *broken*, because SQLAlchemy may still use it.
        """
        if self._has_ended:
            return
        self._has_ended = True
        if self._task is not None:
            self._task.remove_done_callback(self._end_with_the_task)
        _give_back(self._driver, self._checkout, broken=broken)
        if self._successor is not None and TAKEN in self._successor.session.info:
            # After a commit of the host, its session has checked out another connection.
            _give_back(*self._successor.session.info.pop(TAKEN), broken=broken)

    def _end_with_the_task(self, _: object) -> None:
        if not self._has_ended:
            LOGGER.warning(_LEFT_OPEN)
            self.release(broken=True)

    async def _roll_back(self) -> None:
        await self._driver.rollback()

    async def _under_way(self) -> AsyncPooledConnection:
        return self._driver


class AsyncSessionTransaction(AsyncTransaction):
    """A transaction of *session*, which continues the transaction *before* from its first statement on."""

    def __init__(self, session: AsyncSession, before: AsyncDriverTransaction) -> None:
        self.session = session
        self._before = before
        self.waited = before.waited
        self._host_had_committed: bool | None = None

    @property
    def _is_waiting(self) -> bool:
        """Whether the session has not sent a statement yet."""
        return HANDED_OVER in self.session.info

    async def driver(self) -> psycopg.AsyncConnection[Any]:
        """Return the connection of the session. The session is flushed first, so that reads see its changes."""
        self._before.refuse_others()  # A flush that fails would end the transaction of the other task.
        with translated_for_host("flush"):
            await self.session.flush()
        if self._is_waiting:
            return self._before.connection
        with translated("session"):
            return await _driver_of(self.session)

    @property
    def host_has_committed(self) -> bool:
        """Whether the host sent a COMMIT through this session."""
        return COMMITTED in self.session.info if self._host_had_committed is None else self._host_had_committed

    @property
    def host_is_committing(self) -> bool:
        """Whether the host has sent a COMMIT that was not answered."""
        return bool(self.session.info.get(COMMITTING))

    def with_session(self) -> AsyncSessionTransaction:
        """Return this transaction."""
        return self

    async def commit(self, *, traced: bool = False) -> None:
        """Flush and commit."""
        self._host_had_committed = self.host_has_committed
        with translated_for_host("flush"):
            await self.session.flush()
        if self._is_waiting:
            await self._before.commit(traced=traced)
            return
        trace = await self._trace() if traced else None
        try:
            with translated_for_host("commit", "commit"):
                await self.session.commit()
        except CommitOutcomeUnknown as error:
            if trace is not None and (trace.mark is not None or not self.session.info.get(EXECUTED)):
                error.trace = trace
            raise

    async def close(self) -> None:
        """Close the session, which gives the connection back."""
        was_used = self.session.info.pop(HANDED_OVER, None) is None
        try:
            await self.session.close()
        finally:
            self._before.release(broken=was_used)

    async def _roll_back(self) -> None:
        # A rollback expires the objects of a session. The host's objects are expunged first, so they stay readable.
        self.session.expunge_all()
        if self._is_waiting:
            await self._before.roll_back()
        else:
            await self.session.rollback()

    async def _trace(self) -> TransactionRef | None:
        """Return the identity of the session's transaction, before COMMIT is sent, so that a failure can be retried."""
        # The host may have ended this transaction and begun another one, on another connection.
        driver = await self._under_way()
        if driver is None:
            return None
        refuse_to_commit_an_aborted_transaction(driver)
        with translated("commit"):
            cursor = await driver.execute(mark_query(driver))
            note_mark(driver, await cursor.fetchone())
        # A hook of the host may still write after the mark was read. `commit` detects such a write with this flag.
        self.session.info[EXECUTED] = False
        return transaction_ref(driver)

    async def _under_way(self) -> AsyncPooledConnection | None:
        if self._is_waiting or not self.session.in_transaction():
            return None
        with translated("session"):
            driver = await _driver_of(self.session)
        return driver if isinstance(driver, AsyncPooledConnection) else None


def _give_back(driver: AsyncPooledConnection, checkout: int, *, broken: bool) -> None:
    """Return *driver* unless it was returned since the *checkout*."""
    if driver.checkout == checkout and driver.home is not None:
        if broken and not driver.is_returning:
            driver.forfeit()
        driver.home.give_back(driver)


async def _driver_of(session: AsyncSession) -> psycopg.AsyncConnection[Any]:
    connection = await session.connection()
    raw = await connection.get_raw_connection()
    return cast("psycopg.AsyncConnection[Any]", raw.driver_connection)
