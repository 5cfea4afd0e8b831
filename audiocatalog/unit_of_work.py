"""A unit of work: a transaction with the methods of a catalogue."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psycopg
import sqlalchemy.exc

from audiocatalog.db.bulk_load import save_in_batches
from audiocatalog.db.error_translation import of_host, underlying_interrupt
from audiocatalog.db.execute import carry_out
from audiocatalog.db.observer import Observer
from audiocatalog.db.settings import Settings
from audiocatalog.db.transaction import Transaction
from audiocatalog.errors import CatalogError, Phase, UnitOfWorkEnded
from audiocatalog.methods import Methods
from audiocatalog.models.arguments import number_of_seconds
from audiocatalog.models.metadata import ExportedRecord, TrackRecord
from audiocatalog.operations.bulk import BATCH, ReportBatch
from audiocatalog.operations.bulk_result import BulkResult, ConflictRule, OnConflict
from audiocatalog.operations.operation import Execution, Operation

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

_Result = TypeVar("_Result")


class UnitOfWork(Methods):
    """
    A transaction: all of its changes are committed, or none.

    Use a unit of work as a ``with`` block: a clean exit commits, and an exception rolls back. A unit of work belongs to
    one thread. The exit from the block can raise these errors.

    Raises:
        TransactionAborted: the block caught an error of the database, so the server has rolled everything back.
        CommitOutcomeUnknown: the connection was lost during COMMIT.
        ConstraintViolation: a deferred constraint of the host failed at COMMIT.
        TransientConflict: the server could not serialize the transaction; run the unit of work again.
        DatabaseUnavailable: the connection was lost before COMMIT; nothing was committed.
    """

    def __init__(
        self,
        transactions: Callable[[], AbstractContextManager[Transaction]],
        *,
        actor: str,
        settings: Settings,
        observer: Observer | None = None,
        traced: bool = False,
    ) -> None:
        super().__init__(actor, settings, observer or Observer(None, slow_after=settings.slow_after))
        self._scope = transactions()
        self._has_begun = False
        self._traced = traced
        self._began = 0.0
        self._handled: BaseException | None = None
        self._transaction: Transaction | None = None

    def __enter__(self) -> Self:
        if self._has_begun:
            raise UnitOfWorkEnded("this unit of work was entered before; create a new one for each `with` block")
        self._has_begun = True
        self._began = perf_counter()
        self._handled = sys.exception()
        try:
            self._transaction = self._scope.__enter__()
        except CatalogError as error:
            self._observer.unit_ended(self._began, None, error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        transaction = self._open()
        self._transaction = None
        waited = transaction.waited
        try:
            failure = self._end(transaction, error)
        except BaseException as interrupted:  # noqa: BLE001  # Raised after the connection is back in the pool.
            failure = interrupted
        try:
            # The scope needs the failure, because some failures mean that the pool must replace all connections.
            # contextlib sets the exception's traceback to the one passed here.
            self._scope.__exit__(
                None if failure is None else type(failure), failure, None if failure is None else failure.__traceback__
            )
        finally:
            self._observer.unit_ended(self._began, waited, failure)
        if failure is not None and failure is not error:
            raise failure from (failure.__cause__ if error is None else error)

    def _end(self, transaction: Transaction, error: BaseException | None) -> BaseException | None:
        """Commit, or roll back if there was an *error*, and return the exception to raise, if any."""
        if error is None:
            try:
                transaction.commit(traced=self._traced)
            except BaseException as failure:  # noqa: BLE001  # The caller raises it.
                transaction.roll_back()
                return failure
            return None
        transaction.roll_back()
        if isinstance(error, sqlalchemy.exc.DBAPIError | sqlalchemy.exc.PendingRollbackError | psycopg.Error):
            phase: Phase = "commit" if transaction.host_is_committing else "statement"
            # Our own methods translate their errors, so this error comes from the host's session.
            return underlying_interrupt(error, self._handled) or of_host(error, operation="unit_of_work", phase=phase)
        return error

    @property
    def session(self) -> Session:
        """
        The SQLAlchemy session of this transaction, for the host's own statements and joins.

        The first access creates the session, on this unit of work's connection. An error in a statement of the host
        is raised as SQLAlchemy's exception, whether ``execute``, a flush or the commit sent the statement.

        Raises:
            UnitOfWorkEnded: outside the ``with`` block.
        """
        transaction = self._transaction = self._open().with_session()
        return transaction.session

    def bulk_save(
        self,
        records: Iterable[TrackRecord | ExportedRecord | Mapping[str, Any]],
        *,
        batch: int = BATCH,
        on_conflict: OnConflict | ConflictRule = "skip",
        progress: ReportBatch | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> BulkResult:
        """
        Store many tracks in this transaction; ``Catalog.bulk_save`` describes the arguments.

        Nothing is committed before the unit of work ends, and every new track stays locked until then. For more than
        about 100,000 tracks, use ``Catalog.bulk_save``. A batch of 5,000 records may take one minute and wait 20
        seconds for locks; these timeouts replace the others. If the iterator *records* takes longer than
        ``idle_timeout`` for the next batch, the server ends the transaction.

        Raises:
            InvalidInput: an argument breaks its rule; the error names it.
            TransientConflict: a deadlock or a lock timeout with other writers; run the unit of work again.
            QueryTimeout: the server did not store even one record within ``statement_timeout``.
            CatalogInternalError: the server rejected every record of a batch.

        """
        with self._observer.call("bulk_save", is_long=True):
            batches = self._batch_store(on_conflict, actor, reason)
            return save_in_batches(
                records,
                lambda part: self._perform("bulk_save", batches.store(part)),
                batch=batch,
                progress=progress,
                connections=None,  # The records may come from this unit of work, which belongs to one thread.
            )

    def set_statement_timeout(self, seconds: float) -> None:
        """
        Set the timeout of each further statement in this unit of work to *seconds*, instead of ``statement_timeout``.

        Use this method for long statements of the host. Searches and bulk saves keep their timeouts.

        Raises:
            InvalidInput: *seconds* is not a number from 0.001 to 86,400.
            UnitOfWorkEnded: outside the ``with`` block.

        >>> with catalog.unit_of_work() as work:  # doctest: +SKIP
        ...     work.set_statement_timeout(60)
        ...     work.session.execute(report)

        """
        with self._observer.call("set_statement_timeout"):
            self._open().set_statement_timeout(number_of_seconds(seconds, "seconds", "set_statement_timeout"))

    def _perform(self, name: str, operation: Operation[_Result], *, searching: bool = False) -> _Result:  # noqa: ARG002
        execution = Execution(operation)
        return carry_out(self._open().driver(), execution, name)

    def _open(self) -> Transaction:
        if self._transaction is None:
            raise UnitOfWorkEnded("this unit of work has not begun, or has ended; use it inside its `with` block")
        return self._transaction
