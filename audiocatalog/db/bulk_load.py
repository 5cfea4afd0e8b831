"""Batches of a bulk save, read by the caller's thread and stored over several connections at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final
from uuid import UUID

from audiocatalog.errors import CatalogError, InvalidInput, Problem, kind_of
from audiocatalog.models.arguments import whole_number
from audiocatalog.operations.bulk import Batch, Progress, Record, RecordOutcome, count_batch, read_batches
from audiocatalog.operations.bulk_result import BulkResult, Outcomes

_MAX_BATCH: Final = 100_000
_MAX_CONNECTIONS: Final = 64
#: Store records in one transaction.
StoreBatch = Callable[[Sequence[Record]], Sequence[RecordOutcome]]


def save_in_batches(
    records: Iterable[object],
    store: StoreBatch,
    *,
    batch: int,
    progress: Progress | None,
    connections: int | None,
    stop: Callable[[], object] = lambda: None,
) -> BulkResult:
    """
    Store *records* in batches by *store*, and return the outcome of each.

    Up to *connections* batches are stored at the same time, while the next one is read and checked. If *connections* is
    None, batches are stored one after the other in the caller's thread.

    Raises:
        InvalidInput: names the argument that breaks its rule.
        CatalogError: *store* raised it; every batch that *progress* was called with is stored.
    """
    whole_number(batch, "batch", "bulk_save", most=_MAX_BATCH)
    if connections is not None:
        whole_number(connections, "connections", "bulk_save", most=_MAX_CONNECTIONS)
    if progress is not None and not callable(progress):
        raise InvalidInput(Problem("progress", f"a function, not {kind_of(progress)}"), operation="bulk_save")
    if isinstance(records, str | bytes | Mapping) or not isinstance(records, Iterable):
        raise InvalidInput(Problem("records", f"an iterable of records, not {kind_of(records)}"), operation="bulk_save")
    batches = read_batches(records, batch)
    outcomes = Outcomes()
    result = BulkResult(outcomes=outcomes)
    for one, stored in (
        _stored_ahead(batches, store, connections, stop) if connections is not None else _stored_in_turn(batches, store)
    ):
        told = count_batch(one, stored, result)
        outcomes.append(told.outcomes)
        if progress is not None:
            progress(told)
    return result


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
                except BaseException as error:  # noqa: BLE001  # Whatever it is, what is under way is told of first.
                    batch, stopped = None, error
                valid = batch.valid if batch else []
                ids = {record.id for record in valid}
                # Records of the same id are stored in their order, so they are never under way together.
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
                    raise stopped  # noqa: TRY301  # It is somebody else's, and what is below is for that too.
                if batch is None:
                    return
                under_way.append((batch, ids, executor.submit(store, valid)))
        except BaseException as error:
            if not isinstance(error, Exception):
                # Ctrl-C, say: who leaves shall not wait for what is under way, nor for a server that is gone.
                stop()
                executor.shutdown(wait=False, cancel_futures=True)
            raise
