"""Batches of a bulk save: one task reads them, and several store them."""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from functools import partial
from typing import Final, Generic, TypeVar
from uuid import UUID

from audiocatalog.aio.execute import AsyncDriver, run
from audiocatalog.aio.retry import AsyncRunner
from audiocatalog.db.bulk_load import check_arguments
from audiocatalog.errors import CatalogError
from audiocatalog.operations.bulk import Batch, BatchStore, Record, RecordOutcome, ReportBatch, count_batch, record_of
from audiocatalog.operations.bulk_result import BulkResult, Outcomes

_Unit = TypeVar("_Unit")
#: Store records in one transaction.
StoreBatch = Callable[[Sequence[Record]], Awaitable[Sequence[RecordOutcome]]]
# After this many records were checked, which takes about a millisecond, other tasks get a turn.
_CHECKED_AT_ONCE: Final = 50


class AsyncBatchLoader(Generic[_Unit]):
    """A loader that stores each batch in a unit of work of its own, with retries."""

    def __init__(
        self, runner: AsyncRunner[_Unit], batches: BatchStore, driver_of: Callable[[_Unit], Awaitable[AsyncDriver]]
    ) -> None:
        self._runner = runner
        self._batches = batches
        self._driver_of = driver_of

    async def save(
        self,
        records: Iterable[object] | AsyncIterable[object],
        *,
        batch: int,
        progress: ReportBatch | None,
        connections: int,
    ) -> BulkResult:
        """Store *records* as ``save_in_batches`` does."""
        return await save_in_batches(records, self._store, batch=batch, progress=progress, connections=connections)

    async def _store(self, records: Sequence[Record]) -> Sequence[RecordOutcome]:
        """Store *records* in one transaction."""
        if not records:
            return []
        return await self._runner.run_with_retry(partial(self._store_in, records))

    async def _store_in(self, records: Sequence[Record], work: _Unit) -> Sequence[RecordOutcome]:
        return await run(await self._driver_of(work), self._batches.store(records), "bulk_save")


async def save_in_batches(
    records: Iterable[object] | AsyncIterable[object],
    store: StoreBatch,
    *,
    batch: int,
    progress: ReportBatch | None,
    connections: int | None,
) -> BulkResult:
    """
    Store *records* with calls of *store*, each with at most *batch* records; return the outcome of each record.

    At most *connections* batches are stored at a time, while the next one is read and checked. If *connections* is
    None, one batch is stored after the other.

    Raises:
        InvalidInput: an argument breaks its rule; the error names it.
        CatalogError: *store* raised it. Every batch that was passed to *progress* is stored.
    """
    check_arguments(records, Iterable | AsyncIterable, batch=batch, progress=progress, connections=connections)
    outcomes = Outcomes()
    result = BulkResult(outcomes=outcomes)
    batches = _read_batches(records, batch)
    stored_batches = _stored_ahead(batches, store, connections) if connections else _stored_in_turn(batches, store)
    # When the load fails, its batches under way have ended before the caller sees the error.
    async with aclosing(batches), aclosing(stored_batches):
        async for one, stored in stored_batches:
            progressed = count_batch(one, stored, result)
            outcomes.append(progressed.outcomes)
            if progress is not None:
                answer = progress(progressed)
                if inspect.isawaitable(answer):
                    await answer
    return result


async def _each(records: Iterable[object] | AsyncIterable[object]) -> AsyncIterator[object]:
    if isinstance(records, AsyncIterable):
        async for record in records:
            yield record
        return
    for record in records:
        yield record


async def _read_batches(records: Iterable[object] | AsyncIterable[object], size: int) -> AsyncGenerator[Batch]:
    """Yield *records* in batches of *size*, with every record checked, as ``read_batches`` does."""
    start = 0
    items: list[object] = []
    checked: list[Record | CatalogError] = []
    async for item in _each(records):
        items.append(item)
        checked.append(record_of(item))
        if len(items) % _CHECKED_AT_ONCE == 0:
            await asyncio.sleep(0)
        if len(items) == size:
            yield Batch(start, items, checked)
            start += size
            items, checked = [], []
    if items:
        yield Batch(start, items, checked)


async def _stored_in_turn(
    batches: AsyncIterator[Batch], store: StoreBatch
) -> AsyncGenerator[tuple[Batch, Sequence[RecordOutcome]]]:
    async for batch in batches:
        yield batch, await store(batch.valid)


async def _stored_ahead(
    batches: AsyncIterator[Batch], store: StoreBatch, connections: int
) -> AsyncGenerator[tuple[Batch, Sequence[RecordOutcome]]]:
    under_way: deque[tuple[Batch, AbstractSet[UUID], asyncio.Future[Sequence[RecordOutcome]]]] = deque()
    try:
        while True:
            stopped: BaseException | None = None
            batch: Batch | None = None
            try:
                batch = await anext(batches, None)
            except Exception as error:  # noqa: BLE001  # The batches in progress are reported first.
                stopped = error
            valid = batch.valid if batch else []
            ids = {record.id for record in valid}
            # Batches that contain the same id are not stored at the same time, so that their records are stored in
            # order.
            while under_way and (
                batch is None or len(under_way) == connections or any(ids & others for _, others, _ in under_way)
            ):
                first, _, task = under_way[0]
                try:
                    stored = await task
                except CatalogError as error:
                    if stopped is not None:
                        raise stopped from error
                    raise
                under_way.popleft()
                yield first, stored
            if stopped is not None:
                raise stopped
            if batch is None:
                return
            under_way.append((batch, ids, asyncio.ensure_future(store(valid))))
    finally:
        for _, _, task in under_way:
            task.cancel()
        await asyncio.gather(*(task for _, _, task in under_way), return_exceptions=True)
