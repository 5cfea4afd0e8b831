"""One transaction, and what can be done in it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from time import perf_counter
from types import TracebackType
from typing import Any, Self, TypeVar

import psycopg
import sqlalchemy.exc
from sqlalchemy.orm import Session

from audiocatalog.db.bulk_load import save_in_batches
from audiocatalog.db.error_translation import interrupt_behind, of_host
from audiocatalog.db.execute import carry_out
from audiocatalog.db.observer import Observer
from audiocatalog.db.settings import Settings
from audiocatalog.db.transaction import Transaction
from audiocatalog.errors import CatalogError, Phase, UnitOfWorkEnded
from audiocatalog.methods import Methods
from audiocatalog.models.arguments import number_of_seconds
from audiocatalog.models.metadata import ExportedRecord, TrackRecord
from audiocatalog.operations.bulk import BATCH, BatchStore, Progress
from audiocatalog.operations.bulk_result import BulkResult, ConflictRule, OnConflict
from audiocatalog.operations.operation import Execution, Operation

_Result = TypeVar("_Result")


class UnitOfWork(Methods):
    """
    Do several things in one transaction: all of them are kept, or none.

    Used in a ``with`` block: it commits on a clean exit and rolls back on any exception. It belongs to one thread.

    Raises, on exit:
        TransactionAborted: an error of the database was caught inside the block, so that nothing could be kept.
        CommitOutcomeUnknown: the connection was lost while committing.
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
            raise UnitOfWorkEnded("a unit of work can be entered only once; ask the catalogue for a new one")
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
        except BaseException as interrupted:  # noqa: BLE001  # The connection is given back first.
            failure = interrupted
        try:
            # The scope learns of the failure: some say that all connections are to be replaced.
            # contextlib leaves on an exception the traceback that it is given here.
            self._scope.__exit__(
                None if failure is None else type(failure), failure, None if failure is None else failure.__traceback__
            )
        finally:
            self._observer.unit_ended(self._began, waited, failure)
        if failure is not None and failure is not error:
            raise failure from (failure.__cause__ if error is None else error)

    def _end(self, transaction: Transaction, error: BaseException | None) -> BaseException | None:
        """Commit, or roll back if there was an *error*, and return what is to be raised of either."""
        if error is None:
            try:
                transaction.commit(traced=self._traced)
            except BaseException as failure:  # noqa: BLE001  # It is raised where the unit of work ends.
                transaction.roll_back()
                return failure
            return None
        transaction.roll_back()
        if isinstance(error, sqlalchemy.exc.DBAPIError | sqlalchemy.exc.PendingRollbackError | psycopg.Error):
            phase: Phase = "commit" if transaction.host_is_committing else "statement"
            # Our own calls have translated theirs: this one is the host's.
            return interrupt_behind(error, self._handled) or of_host(error, operation="unit_of_work", phase=phase)
        return error

    @property
    def session(self) -> Session:
        """
        The SQLAlchemy session of this transaction, for statements and joins of the host's own.

        It is made when it is first asked for, on the connection that the unit of work already has. An error about a
        statement of the host's stays as SQLAlchemy raised it, wherever it is sent: by ``execute``, by a flush before a
        call of this class, or at the end.

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
        progress: Progress | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> BulkResult:
        """
        Store many tracks in this transaction, as ``Catalog.bulk_save`` does in many of its own.

        Nothing is kept before the unit of work ends, and every new track is locked until then: for more than some
        hundred thousand, use the catalogue's. A batch of 5,000 may take a minute, and wait 20 seconds for others,
        whatever the limits of the rest. *records* are read within the transaction, which the server ends if nothing is
        asked of it for 10 seconds.

        Raises:
            InvalidInput: names the argument that breaks its rule.
            TransientConflict: others write the same tracks in another order, or for too long; run the unit again.

        """
        with self._observer.call("bulk_save", is_long=True):
            settings = self._settings
            batches = BatchStore.checked(
                on_conflict,
                actor=self._actor_or_default(actor),
                reason=reason,
                notify=settings.notify,
                statement_timeout=settings.statement_timeout,
                lock_timeout=settings.lock_timeout,
            )
            return save_in_batches(
                records,
                lambda part: self._perform("bulk_save", batches.store(part)),
                batch=batch,
                progress=progress,
                connections=None,  # The records may come from this unit of work itself, which belongs to one thread.
            )

    def set_statement_timeout(self, seconds: float) -> None:
        """
        Let each statement of what is left of this unit of work take *seconds*, instead of ``statement_timeout``.

        It is for long statements of the host's own; searches and bulk saves keep their limits.

        Raises:
            InvalidInput: *seconds* is no number from 0.001 to 86,400.

        >>> with catalog.unit_of_work() as work:  # doctest: +SKIP
        ...     work.set_statement_timeout(60)
        ...     work.session.execute(report)

        """
        with self._observer.call("set_statement_timeout"):
            self._open().set_statement_timeout(number_of_seconds(seconds, "seconds", "set_statement_timeout"))

    def _perform(self, name: str, operation: Operation[_Result], *, searching: bool = False) -> _Result:  # noqa: ARG002
        execution = Execution(operation)
        return carry_out(self._open().driver, execution, name)

    def _open(self) -> Transaction:
        if self._transaction is None:
            raise UnitOfWorkEnded("this unit of work has ended, or has not begun: use it inside its `with` block")
        return self._transaction
