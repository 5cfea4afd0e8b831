"""One transaction on one connection: the driver's own, until the host asks for a session."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import psycopg
import sqlalchemy.exc
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, event
from sqlalchemy.orm import Session

from audiocatalog.db.commit_outcome import Trace, note_mark, trace_of
from audiocatalog.db.connection import PooledConnection
from audiocatalog.db.error_translation import translated, translated_for_host
from audiocatalog.db.host_session import refuse_writes
from audiocatalog.errors import CatalogError, CommitOutcomeUnknown, TransactionAborted
from audiocatalog.operations.operation import milliseconds, settings_call

#: In a session's ``info``: whether a COMMIT was sent, whether one is unanswered, and whether it has executed anything.
COMMITTED: Final = "audiocatalog_committed"
COMMITTING: Final = "audiocatalog_committing"
EXECUTED: Final = "audiocatalog_executed"
_SESSION: Final = "audiocatalog_session"
_logger: Final = logging.getLogger("audiocatalog")


class Transaction:
    """
    Hold a transaction on *driver*, a connection of the pool, or one that *session* already has.

    What the package does itself needs no session, which costs more than most of it; *open_session* makes one that goes
    on with the same transaction, and from then on the connection is the session's.
    """

    def __init__(
        self,
        driver: PooledConnection | None = None,
        open_session: Callable[[PooledConnection], Session] | None = None,
        *,
        session: Session | None = None,
    ) -> None:
        self._driver = driver
        self._open_session = open_session
        self._session = session
        self._host_had_committed: bool | None = None
        #: For how many seconds the connection was waited for.
        self.waited = None if driver is None else driver.waited

    @property
    def host_has_committed(self) -> bool:
        """Whether the host sent a COMMIT by its session before the transaction was ended here."""
        if self._host_had_committed is not None:
            return self._host_had_committed
        return self._session is not None and COMMITTED in self._session.info

    @property
    def host_is_committing(self) -> bool:
        """Whether the host has sent a COMMIT that was not answered."""
        return self._session is not None and bool(self._session.info.get(COMMITTING))

    def begin(self, settings: str | None) -> None:
        """Leave autocommit, and set what holds for this transaction alone, where *settings* is a statement."""
        assert self._driver is not None  # noqa: S101  # A session begins by itself.
        self._driver.autocommit = False
        if settings is not None:
            self._driver.execute(settings)

    @property
    def driver(self) -> psycopg.Connection[Any]:
        """The connection of the driver, once what the host has added to its session is written: reads must see it."""
        if self._session is None:
            assert self._driver is not None  # noqa: S101  # There is one or the other.
            return self._driver
        with translated_for_host("flush"):
            self._session.flush()
        with translated("session"):
            return driver_connection(self._session.connection())

    @property
    def session(self) -> Session:
        """The session of this transaction, made when it is asked for."""
        if self._session is None:
            assert self._driver is not None  # noqa: S101
            assert self._open_session is not None  # noqa: S101
            with translated("session"):
                self._session = self._open_session(self._driver)
            self._driver = None
        return self._session

    def allow(self, seconds: float) -> None:
        """Let each statement of what is left of the transaction take so many *seconds*."""
        driver = self.driver
        with translated("allow"):
            driver.execute(settings_call({"statement_timeout": milliseconds(seconds)}, local=True))
        if isinstance(driver, PooledConnection):
            # Never less than usual: a savepoint that is rolled back gives the server its old limit back.
            driver.response_timeout = max(driver.response_timeout or 0.0, seconds + driver.network_timeout)
            driver.limit = seconds

    def commit(self, *, traced: bool = False) -> None:
        """
        Commit; if it is *traced*, so that it can be found out whether it took place if the answer is lost.

        Raises:
            TransactionAborted: the server has given the transaction up, and would answer by rolling back.
            CommitOutcomeUnknown: the connection was lost before the answer came.
        """
        self._host_had_committed = self.host_has_committed
        if self._session is not None:
            with translated_for_host("flush"):
                self._session.flush()
        trace = self._trace() if traced and self._session is not None else None
        try:
            if self._session is not None:
                with translated_for_host("commit", "commit"):
                    self._session.commit()
            elif self._driver is not None:
                with translated("commit", "commit"):
                    refuse_to_commit_an_aborted_transaction(self._driver)
                    self._driver.commit()
        except CommitOutcomeUnknown as error:
            if self._session is None:
                error.trace = None if self._driver is None else trace_of(self._driver)
            elif trace is not None and (trace.mark is not None or not self._session.info.get(EXECUTED)):
                error.trace = trace
            raise

    def roll_back(self) -> None:
        """Roll back, whatever state the connection is in: the error that led here is the one to be told."""
        try:
            if (driver := self._under_way()) is not None:
                driver.response_timeout = driver.network_timeout  # There is nothing in a rollback that takes time.
            if self._session is not None:
                # A rollback expires what the session holds; the host's objects stay readable as they are.
                self._session.expunge_all()
                self._session.rollback()
            elif self._driver is not None:
                self._driver.rollback()
        except (sqlalchemy.exc.SQLAlchemyError, psycopg.Error, CatalogError) as error:
            _logger.debug("rolling back failed: %s", type(error).__name__)

    def _trace(self) -> Trace | None:
        """Ask for the mark of what the session has written; COMMIT is not sent yet: what fails may be tried again."""
        assert self._session is not None  # noqa: S101
        # The host may have ended its session's transaction, and begun another on another connection.
        driver = self._under_way()
        if driver is None:
            return None
        refuse_to_commit_an_aborted_transaction(driver)
        with translated("commit"):
            note_mark(driver)
        # A hook of the host's may still write; if nothing else has, it is not known by what mark.
        self._session.info[EXECUTED] = False
        return trace_of(driver)

    def _under_way(self) -> PooledConnection | None:
        """Return the connection of the transaction, if one is under way and the connection is the pool's."""
        if self._session is None:
            return self._driver
        if not self._session.in_transaction():
            return None
        with translated("session"):
            driver = driver_connection(self._session.connection())
        return driver if isinstance(driver, PooledConnection) else None

    def close(self) -> None:
        """Give the connection back; what was not committed is rolled back."""
        if self._session is not None:
            self._session.close()
        elif self._driver is not None:
            if self._driver.info.transaction_status != TransactionStatus.IDLE:
                self.roll_back()
            self._driver.close()


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
    found = connection.connection.driver_connection
    assert isinstance(found, psycopg.Connection)  # noqa: S101
    return found


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
