# Made from audiocatalog/unit_of_work.py by `make twins`: change that module.
"""A unit of work: a transaction with the methods of a catalogue."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psycopg
import sqlalchemy.exc

from audiocatalog.aio.bulk_load import save_in_batches
from audiocatalog.aio.execute import carry_out
from audiocatalog.aio.methods import AsyncMethods
from audiocatalog.aio.transaction import AsyncTransaction
from audiocatalog.db.error_translation import of_host, underlying_interrupt
from audiocatalog.db.observer import Observer
from audiocatalog.db.settings import Settings
from audiocatalog.errors import CatalogError, Phase, UnitOfWorkEnded
from audiocatalog.models.arguments import number_of_seconds
from audiocatalog.models.metadata import ExportedRecord, TrackRecord
from audiocatalog.operations.bulk import BATCH, ReportBatch
from audiocatalog.operations.bulk_result import BulkResult, ConflictRule, OnConflict
from audiocatalog.operations.operation import Execution, Operation

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

_Result = TypeVar("_Result")


class AsyncUnitOfWork(AsyncMethods):
    """
    A transaction: all of its changes are committed, or none.

    Use a unit of work as an ``async with`` block: a clean exit commits, and an exception rolls back. A unit of work
    belongs to one task. The exit from the block can raise these errors.

    Raises:
        TransactionAborted: the block caught an error of the database, so the server has rolled everything back.
        CommitOutcomeUnknown: the connection was lost during COMMIT.
        ConstraintViolation: a deferred constraint of the host failed at COMMIT.
        TransientConflict: the server could not serialize the transaction; run the unit of work again.
        DatabaseUnavailable: the connection was lost before COMMIT; nothing was committed.
    """

    def __init__(
        self,
        transactions: Callable[[], AbstractAsyncContextManager[AsyncTransaction]],
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
        self._transaction: AsyncTransaction | None = None

    async def __aenter__(self) -> Self:
        if self._has_begun:
            raise UnitOfWorkEnded("this unit of work was entered before; create a new one for each `async with` block")
        self._has_begun = True
        self._began = perf_counter()
        self._handled = sys.exception()
        try:
            self._transaction = await self._scope.__aenter__()
        except CatalogError as error:
            self._observer.unit_ended(self._began, None, error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        transaction = self._open()
        self._transaction = None
        waited = transaction.waited
        try:
            failure = await self._end(transaction, error)
        except BaseException as interrupted:  # noqa: BLE001  # Raised after the connection is back in the pool.
            failure = interrupted
        try:
            # The scope needs the failure, because some failures mean that the pool must replace all connections.
            # contextlib sets the exception's traceback to the one passed here.
            await self._scope.__aexit__(
                None if failure is None else type(failure), failure, None if failure is None else failure.__traceback__
            )
        finally:
            self._observer.unit_ended(self._began, waited, failure)
        if failure is not None and failure is not error:
            raise failure from (failure.__cause__ if error is None else error)

    async def _end(self, transaction: AsyncTransaction, error: BaseException | None) -> BaseException | None:
        """Commit, or roll back if there was an *error*, and return the exception to raise, if any."""
        if error is None:
            try:
                await transaction.commit(traced=self._traced)
            except BaseException as failure:  # noqa: BLE001  # The caller raises it.
                await transaction.roll_back()
                return failure
            return None
        await transaction.roll_back()
        if isinstance(error, sqlalchemy.exc.DBAPIError | sqlalchemy.exc.PendingRollbackError | psycopg.Error):
            phase: Phase = "commit" if transaction.host_is_committing else "statement"
            # Our own methods translate their errors, so this error comes from the host's session.
            return underlying_interrupt(error, self._handled) or of_host(error, operation="unit_of_work", phase=phase)
        return error

    @property
    def session(self) -> AsyncSession:
        """
        The SQLAlchemy session of this transaction, for the host's own statements and joins.

        The first access creates the session, on this unit of work's connection. An error in a statement of the host
        is raised as SQLAlchemy's exception, whether ``execute``, a flush or the commit sent the statement.

        Raises:
            UnitOfWorkEnded: outside the ``async with`` block.
        """
        transaction = self._transaction = self._open().with_session()
        return transaction.session

    async def bulk_save(
        self,
        records: Iterable[TrackRecord | ExportedRecord | Mapping[str, Any]]
        | AsyncIterable[TrackRecord | ExportedRecord | Mapping[str, Any]],
        *,
        batch: int = BATCH,
        on_conflict: OnConflict | ConflictRule = "skip",
        progress: ReportBatch | None = None,
        actor: str | None = None,
        reason: str | None = None,
    ) -> BulkResult:
        """
        Store many tracks in this transaction; ``AsyncCatalog.bulk_save`` describes the arguments.

        Nothing is committed before the unit of work ends, and every new track stays locked until then. For more than
        about 100,000 tracks, use ``AsyncCatalog.bulk_save``. A batch of 5,000 records may take one minute and wait 20
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
            return await save_in_batches(
                records,
                lambda part: self._perform("bulk_save", batches.store(part)),
                batch=batch,
                progress=progress,
                connections=None,  # The records may come from this unit of work, which belongs to one task.
            )

    async def set_statement_timeout(self, seconds: float) -> None:
        """
        Set the timeout of each further statement in this unit of work to *seconds*, instead of ``statement_timeout``.

        Use this method for long statements of the host. Searches and bulk saves keep their timeouts.

        Raises:
            InvalidInput: *seconds* is not a number from 0.001 to 86,400.
            UnitOfWorkEnded: outside the ``async with`` block.

        >>> async with catalog.unit_of_work() as work:  # doctest: +SKIP
        ...     await work.set_statement_timeout(60)
        ...     await work.session.execute(report)

        """
        with self._observer.call("set_statement_timeout"):
            await self._open().set_statement_timeout(number_of_seconds(seconds, "seconds", "set_statement_timeout"))

    async def _perform(self, name: str, operation: Operation[_Result], *, searching: bool = False) -> _Result:  # noqa: ARG002
        execution = Execution(operation)
        return await carry_out(await self._open().driver(), execution, name)

    def _open(self) -> AsyncTransaction:
        if self._transaction is None:
            raise UnitOfWorkEnded("this unit of work has not begun, or has ended; use it inside its `async with` block")
        return self._transaction
