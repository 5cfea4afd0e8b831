"""A transaction on one connection, run by the driver until the host requests a session."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import psycopg
import sqlalchemy.exc
from psycopg.pq import TransactionStatus
from sqlalchemy import URL, Connection, Engine, NullPool, event
from sqlalchemy.orm import Session

from audiocatalog.db.commit_outcome import TransactionRef, mark_query, note_mark, transaction_ref
from audiocatalog.db.connection import PooledConnection
from audiocatalog.db.error_translation import translated, translated_for_host
from audiocatalog.db.host_session import refuse_writes
from audiocatalog.db.observer import LOGGER, log_slow_statements
from audiocatalog.errors import CatalogError, CommitOutcomeUnknown, TransactionAborted
from audiocatalog.operations.operation import milliseconds, settings_call

#: Keys of a session's ``info``: whether a COMMIT was sent, whether one is unanswered, whether a statement was executed.
COMMITTED: Final = "audiocatalog_committed"
COMMITTING: Final = "audiocatalog_committing"
EXECUTED: Final = "audiocatalog_executed"
_SESSION: Final = "audiocatalog_session"


class Transaction(ABC):
    """A transaction on the driver's connection, or of a session on the same connection."""

    #: Seconds that the unit of work waited for the connection.
    waited: float | None = None

    @abstractmethod
    def driver(self) -> psycopg.Connection[Any]:
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
    def with_session(self) -> SessionTransaction:
        """Return a transaction of a session, which continues and replaces this transaction."""

    @abstractmethod
    def commit(self, *, traced: bool = False) -> None:
        """
        Commit. If *traced*, the outcome can be looked up after a lost answer.

        Raises:
            TransactionAborted: an earlier error has aborted the transaction, and COMMIT would roll back.
            CommitOutcomeUnknown: the connection was lost before the answer arrived.
            CatalogError: the translation of another error of the driver.
        """

    @abstractmethod
    def close(self) -> None:
        """Roll back uncommitted work, and return the connection to the pool."""

    def set_statement_timeout(self, seconds: float) -> None:
        """Set the timeout of each further statement of the transaction to *seconds*."""
        driver = self.driver()
        with translated("set_statement_timeout"):
            driver.execute(settings_call({"statement_timeout": milliseconds(seconds)}, local=True))
        if isinstance(driver, PooledConnection):
            driver.allow(seconds)

    def roll_back(self) -> None:
        """Roll back in any state of the connection; a failure is only logged, so that it hides no earlier error."""
        try:
            if (driver := self._under_way()) is not None:
                driver.response_timeout = driver.network_timeout  # A rollback is fast on the server.
            self._roll_back()
        except (sqlalchemy.exc.SQLAlchemyError, psycopg.Error, CatalogError) as error:
            LOGGER.debug("rolling back failed: %s", type(error).__name__)

    @abstractmethod
    def _roll_back(self) -> None: ...

    @abstractmethod
    def _under_way(self) -> PooledConnection | None:
        """Return the connection of the pool on which the transaction is open, or None."""


class DriverTransaction(Transaction):
    """A transaction on *driver* without a session, because a session costs more than most calls of the package."""

    def __init__(self, driver: PooledConnection, open_session: Callable[[PooledConnection], Session]) -> None:
        self._driver = driver
        self._open_session = open_session
        self._successor: SessionTransaction | None = None
        self.waited = driver.waited

    def begin(self, settings: str | None) -> None:
        """Leave autocommit, and execute the statement *settings* if there is one."""
        self._driver.autocommit = False
        if settings is not None:
            self._driver.execute(settings)

    def driver(self) -> PooledConnection:
        """Return the driver's connection."""
        return self._driver

    @property
    def host_has_committed(self) -> bool:
        """Whether the host sent a COMMIT through the session that continues this transaction."""
        return self._successor is not None and self._successor.host_has_committed

    def with_session(self) -> SessionTransaction:
        """Return the transaction of a session, which owns the connection from then on."""
        if self._successor is None:
            with translated("session"):
                self._successor = SessionTransaction(self._open_session(self._driver), waited=self.waited)
        return self._successor

    def commit(self, *, traced: bool = False) -> None:  # noqa: ARG002  # Every statement of ours returns its mark.
        """Commit; a CommitOutcomeUnknown always carries the identity of the transaction."""
        try:
            with translated("commit", "commit"):
                refuse_to_commit_an_aborted_transaction(self._driver)
                self._driver.commit()
        except CommitOutcomeUnknown as error:
            error.trace = transaction_ref(self._driver)
            raise

    def close(self) -> None:
        """Return the connection to the pool, or close the session that owns the connection."""
        if self._successor is not None:
            self._successor.close()
            return
        if self._driver.info.transaction_status != TransactionStatus.IDLE:
            self.roll_back()
        self._driver.close()

    def _roll_back(self) -> None:
        self._driver.rollback()

    def _under_way(self) -> PooledConnection:
        return self._driver


class SessionTransaction(Transaction):
    """A transaction of *session*, which owns its connection."""

    def __init__(self, session: Session, *, waited: float | None = None) -> None:
        self.session = session
        self.waited = waited
        self._host_had_committed: bool | None = None

    def driver(self) -> psycopg.Connection[Any]:
        """Return the connection of the session. The session is flushed first, so that reads see its changes."""
        with translated_for_host("flush"):
            self.session.flush()
        with translated("session"):
            return driver_connection(self.session.connection())

    @property
    def host_has_committed(self) -> bool:
        """Whether the host sent a COMMIT through this session."""
        return COMMITTED in self.session.info if self._host_had_committed is None else self._host_had_committed

    @property
    def host_is_committing(self) -> bool:
        """Whether the host has sent a COMMIT that was not answered."""
        return bool(self.session.info.get(COMMITTING))

    def with_session(self) -> SessionTransaction:
        """Return this transaction."""
        return self

    def commit(self, *, traced: bool = False) -> None:
        """Flush and commit."""
        self._host_had_committed = self.host_has_committed
        with translated_for_host("flush"):
            self.session.flush()
        trace = self._trace() if traced else None
        try:
            with translated_for_host("commit", "commit"):
                self.session.commit()
        except CommitOutcomeUnknown as error:
            if trace is not None and (trace.mark is not None or not self.session.info.get(EXECUTED)):
                error.trace = trace
            raise

    def close(self) -> None:
        """Close the session, which returns the connection to the pool."""
        self.session.close()

    def _roll_back(self) -> None:
        # A rollback expires the objects of a session. The host's objects are expunged first, so they stay readable.
        self.session.expunge_all()
        self.session.rollback()

    def _trace(self) -> TransactionRef | None:
        """Return the identity of the session's transaction, before COMMIT, so that the outcome can be looked up."""
        # The host may have ended this transaction and begun another one, on another connection.
        driver = self._under_way()
        if driver is None:
            return None
        refuse_to_commit_an_aborted_transaction(driver)
        with translated("commit"):
            note_mark(driver, driver.execute(mark_query(driver)).fetchone())
        # A hook of the host may still write after the mark was read. `commit` detects such a write with this flag.
        self.session.info[EXECUTED] = False
        return transaction_ref(driver)

    def _under_way(self) -> PooledConnection | None:
        if not self.session.in_transaction():
            return None
        with translated("session"):
            driver = driver_connection(self.session.connection())
        return driver if isinstance(driver, PooledConnection) else None


#: The options of every engine that a host's sessions use.
ENGINE_OPTIONS: Final[Mapping[str, Any]] = {
    "poolclass": NullPool,  # Our pool serves callers in the order of their requests; SQLAlchemy's pool does not.
    "hide_parameters": True,
    "logging_name": "audiocatalog",
    "use_native_hstore": False,  # Otherwise the first connection would look up the type of an extension.
}


def engine_url(url: URL) -> URL:
    """Return *url* without hosts and ports, because libpq accepts forms that SQLAlchemy cannot read."""
    return url.difference_update_query(["host", "port"])


def watch_engine(engine: Engine, *, slow_after: float, limits: Callable[[], str | None] | None) -> None:
    """
    Check and observe the host's statements and commits on *engine*.

    Behind a pooler, *limits* returns the statement that sets the timeouts in each transaction.
    """
    event.listen(engine, "commit", before_commit)
    event.listen(engine, "before_cursor_execute", before_execution)
    log_slow_statements(engine, slow_after)
    if limits is not None:
        event.listen(engine, "begin", lambda connection: _limit(connection, limits() or ""))


def _limit(connection: Connection, limits: str) -> None:
    """Execute *limits* in a new transaction; a transaction that was handed over has these timeouts, or has failed."""
    if driver_connection(connection).info.transaction_status == TransactionStatus.IDLE:
        connection.connection.cursor().execute(limits)


def watch_commits(session: Session) -> None:
    """Let ``before_commit`` find *session*, because its host may commit without the unit of work."""
    event.listen(session, "after_begin", _note_session)
    event.listen(session, "after_commit", _note_answer)


def _note_session(session: Session, _: object, connection: Connection) -> None:
    session.info[COMMITTING] = False
    connection.info[_SESSION] = session


def _note_answer(session: Session) -> None:
    session.info[COMMITTING] = False


def before_commit(connection: Connection) -> None:
    """
    Record that a COMMIT is about to be sent.

    Raises:
        TransactionAborted: the transaction is aborted, so COMMIT would roll it back.
    """
    refuse_to_commit_an_aborted_transaction(driver_connection(connection))
    session: Session | None = connection.info.get(_SESSION)
    if session is not None:
        session.info[COMMITTED] = session.info[COMMITTING] = True


def before_execution(connection: Connection, *details: Any) -> None:  # noqa: ANN401  # Arguments of SQLAlchemy's event.
    """
    Check a statement that the application executes in its session, and record it.

    Raises:
        WriteRefused: the statement writes a table of ours.
    """
    _cursor, _statement, _parameters, context, _executemany = details
    refuse_writes(context.compiled, connection)
    session: Session | None = connection.info.get(_SESSION)
    if session is not None:
        session.info[EXECUTED] = True


def driver_connection(connection: Connection) -> psycopg.Connection[Any]:
    """Return the psycopg connection below *connection*."""
    return cast("psycopg.Connection[Any]", connection.connection.driver_connection)


def refuse_to_commit_an_aborted_transaction(driver: psycopg.BaseConnection[Any]) -> None:
    """
    Check that the transaction is not aborted; otherwise the server would answer COMMIT by rolling back, without error.

    Raises:
        TransactionAborted: an earlier error has aborted the transaction.
    """
    if driver.info.transaction_status == TransactionStatus.INERROR:
        raise TransactionAborted(
            "the unit of work caught an error that had aborted the transaction, so the server rolled everything back: "
            "let errors leave the `with` block, then run the unit of work again",
            operation="commit",
            phase="commit",
        )
