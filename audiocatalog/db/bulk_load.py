"""The batches of a bulk save: the caller's thread reads the records, and several connections store the batches."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import UnionType
from typing import Final, Generic, TypeVar
from uuid import UUID

from audiocatalog.db.connection import shutdown_socket
from audiocatalog.db.execute import Driver, run
from audiocatalog.db.misuse import result_of
from audiocatalog.db.retry import Runner
from audiocatalog.errors import CatalogError, InvalidInput, Problem, kind_of
from audiocatalog.models.arguments import whole_number
from audiocatalog.operations.bulk import (
    Batch,
    BatchStore,
    Record,
    RecordOutcome,
    ReportBatch,
    count_batch,
    read_batches,
)
from audiocatalog.operations.bulk_result import BulkResult, Outcomes

_Unit = TypeVar("_Unit")
_MAX_BATCH: Final = 100_000
_MAX_CONNECTIONS: Final = 64
#: A function that stores records in one transaction, and returns their outcomes.
StoreBatch = Callable[[Sequence[Record]], Sequence[RecordOutcome]]


def save_in_batches(
    records: Iterable[object],
    store: StoreBatch,
    *,
    batch: int,
    progress: ReportBatch | None,
    connections: int | None,
    stop: Callable[[], object] = lambda: None,
) -> BulkResult:
    """
    Store *records* in calls of *store*, at most *batch* records per call, and return the outcome of each record.

    At most *connections* batches are stored at a time, while the next batch is read and checked. If *connections* is
    None, the caller's thread stores one batch after another.

    Raises:
        InvalidInput: an argument breaks its rule; the error names it.
        CatalogError: *store* raised this error. Every batch that was passed to *progress* is stored.
    """
    check_arguments(records, Iterable, batch=batch, progress=progress, connections=connections)
    batches = read_batches(records, batch)
    outcomes = Outcomes()
    result = BulkResult(outcomes=outcomes)
    for one, stored in (
        _stored_ahead(batches, store, connections, stop) if connections is not None else _stored_in_turn(batches, store)
    ):
        progressed = count_batch(one, stored, result)
        outcomes.append(progressed.outcomes)
        if progress is not None:
            result_of(progress(progressed), "progress", "bulk_save")
    return result


def check_arguments(
    records: object,
    kinds: type | UnionType,
    *,
    batch: int,
    progress: ReportBatch | None,
    connections: int | None,
) -> None:
    """
    Check the arguments of a bulk save; the type of *records* must be one of *kinds*.

    Raises:
        InvalidInput: an argument breaks its rule; the error names it.
    """
    whole_number(batch, "batch", "bulk_save", most=_MAX_BATCH)
    if connections is not None:
        whole_number(connections, "connections", "bulk_save", most=_MAX_CONNECTIONS)
    if progress is not None and not callable(progress):
        raise InvalidInput(Problem("progress", f"a function, not {kind_of(progress)}"), operation="bulk_save")
    if isinstance(records, str | bytes | Mapping) or not isinstance(records, kinds):
        raise InvalidInput(Problem("records", f"an iterable of records, not {kind_of(records)}"), operation="bulk_save")


def _stored_in_turn(batches: Iterator[Batch], store: StoreBatch) -> Iterator[tuple[Batch, Sequence[RecordOutcome]]]:
    for batch in batches:
        yield batch, store(batch.valid)


def _stored_ahead(
    batches: Iterator[Batch], store: StoreBatch, connections: int, stop: Callable[[], object]
) -> Iterator[tuple[Batch, Sequence[RecordOutcome]]]:
    under_way: deque[tuple[Batch, AbstractSet[UUID], Future[Sequence[RecordOutcome]]]] = deque()
    with ThreadPoolExecutor(connections, thread_name_prefix="audiocatalog-bulk") as executor:
        try:
            while True:
                stopped: BaseException | None = None
                try:
                    batch = next(batches, None)
                except BaseException as error:  # noqa: BLE001  # The batches in progress are reported first.
                    batch, stopped = None, error
                valid = batch.valid if batch else []
                ids = {record.id for record in valid}
                # Batches that contain the same id are not stored at the same time, so that their records are stored in
                # order.
                while under_way and (
                    batch is None or len(under_way) == connections or any(ids & others for _, others, _ in under_way)
                ):
                    first, _, answer = under_way.popleft()
                    try:
                        stored = answer.result()
                    except CatalogError as error:
                        if stopped is not None:
                            raise stopped from error
                        raise
                    yield first, stored
                if stopped is not None:
                    raise stopped  # noqa: TRY301  # The handler below handles this error too.
                if batch is None:
                    return
                under_way.append((batch, ids, executor.submit(store, valid)))
        except BaseException as error:
            if not isinstance(error, Exception):
                # After Ctrl-C, the caller does not wait for batches in progress or for a dead server.
                stop()
                executor.shutdown(wait=False, cancel_futures=True)
            raise


class BatchLoader(Generic[_Unit]):
    """A loader that stores each batch in a unit of work of *runner*, with retries."""

    def __init__(self, runner: Runner[_Unit], batches: BatchStore, driver_of: Callable[[_Unit], Driver]) -> None:
        self._runner = runner
        self._batches = batches
        self._driver_of = driver_of
        self._stopped = threading.Event()
        self._under_way: set[Driver] = set()

    def save(
        self, records: Iterable[object], *, batch: int, progress: ReportBatch | None, connections: int
    ) -> BulkResult:
        """Store *records* as ``save_in_batches`` does."""
        return save_in_batches(
            records, self._store, stop=self._stop, batch=batch, progress=progress, connections=connections
        )

    def _store(self, records: Sequence[Record]) -> Sequence[RecordOutcome]:
        """Store *records* in one transaction."""
        if not records:
            return []
        return self._runner.run_with_retry(partial(self._store_in, records), self._stopped.is_set)

    def _stop(self) -> None:
        """End every batch in progress by closing its connection."""
        self._stopped.set()
        for driver in list(self._under_way):
            shutdown_socket(driver)

    def _store_in(self, records: Sequence[Record], work: _Unit) -> Sequence[RecordOutcome]:
        driver = self._driver_of(work)
        self._under_way.add(driver)
        try:
            return run(driver, self._batches.store(records), "bulk_save")
        finally:
            self._under_way.discard(driver)
