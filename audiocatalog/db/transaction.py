"""One transaction on one connection: the driver's own, until the host asks for a session."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, cast

import psycopg
import sqlalchemy.exc
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, event
from sqlalchemy.orm import Session

from audiocatalog.db.commit_outcome import Trace, note_mark, trace_of
from audiocatalog.db.connection import PooledConnection
from audiocatalog.db.error_translation import translated, translated_for_host
from audiocatalog.db.host_session import refuse_writes
from audiocatalog.db.observer import LOGGER
from audiocatalog.errors import CatalogError, CommitOutcomeUnknown, TransactionAborted
from audiocatalog.operations.operation import milliseconds, settings_call

#: In a session's ``info``: whether a COMMIT was sent, whether one is unanswered, and whether it has executed anything.
COMMITTED: Final = "audiocatalog_committed"
COMMITTING: Final = "audiocatalog_committing"
EXECUTED: Final = "audiocatalog_executed"
_SESSION: Final = "audiocatalog_session"


class Transaction(ABC):
    """One transaction: on the driver's connection, until the host asks for a session on the same connection."""

    #: For how many seconds the connection was waited for.
    waited: float | None = None

    @property
    @abstractmethod
    def driver(self) -> psycopg.Connection[Any]:
        """The connection of the driver, once what the host has added to its session is written: reads must see it."""

    @property
    @abstractmethod
    def host_has_committed(self) -> bool:
        """Whether the host sent a COMMIT by its session before the transaction was ended here."""

    @property
    def host_is_committing(self) -> bool:
        """Whether the host has sent a COMMIT that was not answered."""
        return False

    @abstractmethod
    def with_session(self) -> SessionTransaction:
        """Return this transaction as one of a session; from then on, only that one is used."""

    @abstractmethod
    def commit(self, *, traced: bool = False) -> None:
        """
        Commit; if it is *traced*, so that it can be found out whether it took place if the answer is lost.

        Raises:
            TransactionAborted: the server has given the transaction up, and would answer by rolling back.
            CommitOutcomeUnknown: the connection was lost before the answer came.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the connection back; what was not committed is rolled back."""

    def set_statement_timeout(self, seconds: float) -> None:
        """Let each further statement of the transaction take *seconds*."""
        driver = self.driver
        with translated("set_statement_timeout"):
            driver.execute(settings_call({"statement_timeout": milliseconds(seconds)}, local=True))
        if isinstance(driver, PooledConnection):
            # Never less than usual: a savepoint that is rolled back gives the server its old limit back.
            driver.response_timeout = max(driver.response_timeout or 0.0, seconds + driver.network_timeout)
            driver.limit = seconds

    def roll_back(self) -> None:
        """Roll back in whatever state the connection is; a failure is only logged, so as not to hide what led here."""
        try:
            if (driver := self._under_way()) is not None:
                driver.response_timeout = driver.network_timeout  # There is nothing in a rollback that takes time.
            self._roll_back()
        except (sqlalchemy.exc.SQLAlchemyError, psycopg.Error, CatalogError) as error:
            LOGGER.debug("rolling back failed: %s", type(error).__name__)

    @abstractmethod
    def _roll_back(self) -> None: ...

    @abstractmethod
    def _under_way(self) -> PooledConnection | None:
        """Return the connection of the transaction, if one is under way and the connection is the pool's."""


class DriverTransaction(Transaction):
    """A transaction on *driver*, without a session, which would cost more than most of what the package does."""

    def __init__(self, driver: PooledConnection, open_session: Callable[[PooledConnection], Session]) -> None:
        self._driver = driver
        self._open_session = open_session
        self._successor: SessionTransaction | None = None
        self.waited = driver.waited

    def begin(self, settings: str | None) -> None:
        """Leave autocommit, and set what holds for this transaction alone, where *settings* is a statement."""
        self._driver.autocommit = False
        if settings is not None:
            self._driver.execute(settings)

    @property
    def driver(self) -> PooledConnection:
        """The connection."""
        return self._driver

    @property
    def host_has_committed(self) -> bool:
        """Whether the host did so by the session that goes on with this transaction."""
        return self._successor is not None and self._successor.host_has_committed

    def with_session(self) -> SessionTransaction:
        """Return the transaction of a session on the same connection, which belongs to the session from then on."""
        if self._successor is None:
            with translated("session"):
                self._successor = SessionTransaction(self._open_session(self._driver), waited=self.waited)
        return self._successor

    def commit(self, *, traced: bool = False) -> None:  # noqa: ARG002  # What was sent has left its mark anyhow.
        """Commit; an error about a lost answer always tells which transaction it was."""
        try:
            with translated("commit", "commit"):
                refuse_to_commit_an_aborted_transaction(self._driver)
                self._driver.commit()
        except CommitOutcomeUnknown as error:
            error.trace = trace_of(self._driver)
            raise

    def close(self) -> None:
        """Give the connection back, or close the session that has it."""
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
    """A transaction of *session*, which has its connection."""

    def __init__(self, session: Session, *, waited: float | None = None) -> None:
        self.session = session
        self.waited = waited
        self._host_had_committed: bool | None = None

    @property
    def driver(self) -> psycopg.Connection[Any]:
        """The connection of the session, after a flush."""
        with translated_for_host("flush"):
            self.session.flush()
        with translated("session"):
            return driver_connection(self.session.connection())

    @property
    def host_has_committed(self) -> bool:
        """Whether the host did so."""
        return COMMITTED in self.session.info if self._host_had_committed is None else self._host_had_committed

    @property
    def host_is_committing(self) -> bool:
        """Whether the host has sent a COMMIT that was not answered."""
        return bool(self.session.info.get(COMMITTING))

    def with_session(self) -> SessionTransaction:
        """Return itself."""
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
        """Close the session, which gives the connection back."""
        self.session.close()

    def _roll_back(self) -> None:
        # A rollback expires what the session holds; the host's objects stay readable as they are.
        self.session.expunge_all()
        self.session.rollback()

    def _trace(self) -> Trace | None:
        """Ask for the mark of what the session has written; COMMIT is not sent yet: what fails may be tried again."""
        # The host may have ended its session's transaction, and begun another on another connection.
        driver = self._under_way()
        if driver is None:
            return None
        refuse_to_commit_an_aborted_transaction(driver)
        with translated("commit"):
            note_mark(driver)
        # A hook of the host's may still write; if nothing else has, it is not known by what mark.
        self.session.info[EXECUTED] = False
        return trace_of(driver)

    def _under_way(self) -> PooledConnection | None:
        if not self.session.in_transaction():
            return None
        with translated("session"):
            driver = driver_connection(self.session.connection())
        return driver if isinstance(driver, PooledConnection) else None


def watch_commits(session: Session) -> None:
    """Have ``before_commit`` know of *session*, whose host may commit by itself, with hooks of its own."""
    event.listen(session, "after_begin", _note_session)
    event.listen(session, "after_commit", _note_answer)


def _note_session(session: Session, _: object, connection: Connection) -> None:
    session.info[COMMITTING] = False
    connection.info[_SESSION] = session


def _note_answer(session: Session) -> None:
    session.info[COMMITTING] = False


def before_commit(connection: Connection) -> None:
    """Refuse a COMMIT that would roll back, and note that one is about to be sent."""
    refuse_to_commit_an_aborted_transaction(driver_connection(connection))
    session: Session | None = connection.info.get(_SESSION)
    if session is not None:
        session.info[COMMITTED] = session.info[COMMITTING] = True


def before_execution(connection: Connection, *details: Any) -> None:  # noqa: ANN401  # What SQLAlchemy's event tells.
    """Refuse a statement of the host's that writes a table of ours, and note that it has something executed."""
    _cursor, _statement, _parameters, context, _executemany = details
    refuse_writes(context.compiled, driver_connection(connection))
    session: Session | None = connection.info.get(_SESSION)
    if session is not None:
        session.info[EXECUTED] = True


def driver_connection(connection: Connection) -> psycopg.Connection[Any]:
    """Return the psycopg connection below *connection*."""
    return cast("psycopg.Connection[Any]", connection.connection.driver_connection)


def refuse_to_commit_an_aborted_transaction(driver: psycopg.Connection[Any]) -> None:
    """
    Refuse to commit what the server has given up: it would answer COMMIT by rolling back, without an error.

    Raises:
        TransactionAborted: it has.
    """
    if driver.info.transaction_status == TransactionStatus.INERROR:
        raise TransactionAborted(
            "nothing was kept: an error inside the unit of work was caught and the work went on, "
            "but the server had already rolled everything back",
            operation="commit",
            phase="commit",
        )
