"""Many tracks at once: each batch is copied into a table of the session and stored from there.

The statements are two functions and a COPY between them: alembic/functions/bulk_v1.sql. Who calls says how a batch
becomes a transaction.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import Final, NamedTuple
from uuid import UUID

from psycopg.pq import TransactionStatus

from audiocatalog.bulk_result import MOST_REFUSALS, BulkBatch, BulkOutcome, BulkResult, OnConflict, Outcomes, Refusal
from audiocatalog.choices import chosen, whole_number
from audiocatalog.connection import patient, raw_cursor
from audiocatalog.errors import (
    CatalogError,
    CatalogInternalError,
    ConstraintViolation,
    InvalidInput,
    Problem,
    QueryTimeout,
    SaveConflict,
    kind_of,
)
from audiocatalog.metadata import METADATA_FIELDS, ExportedRecord, TrackRecord, clean_reason
from audiocatalog.models import CONTENT_COLUMNS, TRANSACTION_MARK
from audiocatalog.operations import Driver, rows_of, written
from audiocatalog.settings import Settings, milliseconds
from audiocatalog.status import TrackStatus
from audiocatalog.transitions import MOVE_MANY, move_values
from audiocatalog.translation import translated

BATCH: Final = 5_000
_MOST_IN_A_BATCH: Final = 100_000
_MOST_CONNECTIONS: Final = 64
#: A whole batch takes a second or so; on a slow or busy server it may take this long, and a smaller one its share.
_STATEMENT_SECONDS: Final = 60.0
#: A part of a batch that was too slow may take this long, or its share of the above.
_PART_SECONDS: Final = 1.0
#: It waits for others not as long: that can be tried again.
_LOCK_SECONDS: Final = 20.0
_LOCK_SHARE: Final = 0.8
#: If this many records of a batch were too slow, each alone, and none could be stored, the server is too slow.
_MOST_SLOW: Final = 20
_TOO_SLOW: Final = (
    "bulk_save: this record alone took longer than a save may (statement_timeout), so it was refused; shorten its "
    "texts, or allow more"
)

_STAGE: Final = "SELECT audiocatalog_stage_v1()"
_COPY: Final = (
    f"COPY pg_temp.audiocatalog_stage (place, round, id, status, {', '.join(CONTENT_COLUMNS)}) "
    "FROM STDIN (FORMAT BINARY)"
)
_TYPES: Final = (
    *("int4", "int4", "uuid", "text", "text", "text", "text", "text"),
    *("int4", "float8", "int4", "int4", "int4", "text", "text", "text"),
)
_LOAD: Final = "SELECT * FROM audiocatalog_load_v1($1, $2, $3, $4)"
_RESTORE: Final = f"SELECT audiocatalog_restore_v1($1, $2), {TRANSACTION_MARK}"
_READ_LIMITS: Final = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"
_LIMIT: Final = (
    f"SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true), {TRANSACTION_MARK}"
)
_REMEDY: Final = 'on_conflict="replace" overwrites it'
_metadata_of: Final = attrgetter(*METADATA_FIELDS)
#: Errors that one record can cause. Any other error would stop the next record as well.
_BAD_RECORD: Final = (InvalidInput, ConstraintViolation, CatalogInternalError)


class Stored(NamedTuple):
    """Say what became of a record that was sent: *error* if it was refused, *skipped* if other content was left."""

    outcome: BulkOutcome
    error: CatalogError | None = None
    skipped: bool = False


#: What is stored: a record, or one with what another catalogue said of it.
Record = TrackRecord | ExportedRecord
#: Store records in one transaction.
StoreBatch = Callable[[Sequence[Record]], Sequence[Stored]]
Progress = Callable[[BulkBatch], object]


class _Batch(NamedTuple):
    """Hold what was read at once: the items as they were given, and each one's record or why it is none."""

    start: int
    items: Sequence[object]
    records: Sequence[Record | CatalogError]

    @property
    def sound(self) -> list[Record]:
        return [record for record in self.records if not isinstance(record, CatalogError)]


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
    Hand *records* to *store* in batches, and return what became of them.

    So many batches are stored at the same time as *connections* says, while the next one is read and checked; one after
    the other, in the caller's thread, if that is None.

    Raises:
        InvalidInput: names the argument that breaks its rule.
        CatalogError: what *store* raised; all batches that *progress* was told of are stored.
    """
    whole_number(batch, "batch", "bulk_save", most=_MOST_IN_A_BATCH)
    if connections is not None:
        whole_number(connections, "connections", "bulk_save", most=_MOST_CONNECTIONS)
    if progress is not None and not callable(progress):
        raise InvalidInput(Problem("progress", f"a function, not {kind_of(progress)}"), operation="bulk_save")
    if isinstance(records, str | bytes | Mapping) or not isinstance(records, Iterable):
        raise InvalidInput(Problem("records", f"an iterable of records, not {kind_of(records)}"), operation="bulk_save")
    batches = _read(records, batch)
    outcomes = Outcomes()
    result = BulkResult(outcomes=outcomes)
    for one, stored in (
        _stored_ahead(batches, store, connections, stop) if connections is not None else _stored_in_turn(batches, store)
    ):
        told = _tell(one, stored, result)
        outcomes.append(told.outcomes)
        if progress is not None:
            progress(told)
    return result


def _read(items: Iterable[object], size: int) -> Iterator[_Batch]:
    remaining, start = iter(items), 0
    while part := list(islice(remaining, size)):
        yield _Batch(start, part, [_record_of(item) for item in part])
        start += len(part)


def _record_of(item: object) -> Record | CatalogError:
    if isinstance(item, TrackRecord | ExportedRecord):
        return item
    try:
        if isinstance(item, Mapping):
            return TrackRecord.from_mapping(item)
        problem = Problem("record", f"a TrackRecord or a mapping of its fields, not {kind_of(item)}")
        return InvalidInput(problem, operation="bulk_save")
    except CatalogError as error:
        return error


def _stored_in_turn(batches: Iterator[_Batch], store: StoreBatch) -> Iterator[tuple[_Batch, Sequence[Stored]]]:
    for batch in batches:
        yield batch, store(batch.sound)


def _stored_ahead(
    batches: Iterator[_Batch], store: StoreBatch, connections: int, stop: Callable[[], object]
) -> Iterator[tuple[_Batch, Sequence[Stored]]]:
    under_way: deque[tuple[_Batch, AbstractSet[UUID], Future[Sequence[Stored]]]] = deque()
    with ThreadPoolExecutor(connections, thread_name_prefix="audiocatalog-bulk") as executor:
        try:
            while True:
                stopped: BaseException | None = None
                try:
                    batch = next(batches, None)
                except BaseException as error:  # noqa: BLE001  # Whatever it is, what is under way is told of first.
                    batch, stopped = None, error
                sound = batch.sound if batch else []
                ids = {record.id for record in sound}
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
                under_way.append((batch, ids, executor.submit(store, sound)))
        except BaseException as error:
            if not isinstance(error, Exception):
                # Ctrl-C, say: who leaves shall not wait for what is under way, nor for a server that is gone.
                stop()
                executor.shutdown(wait=False, cancel_futures=True)
            raise


def _tell(batch: _Batch, stored: Iterable[Stored], result: BulkResult) -> BulkBatch:
    """Count what became of *batch* in *result*, and return it for ``progress``."""
    answers = iter(stored)
    outcomes, refusals = [], []
    for offset, (item, record) in enumerate(zip(batch.items, batch.records, strict=True)):
        answer = Stored(BulkOutcome.REFUSED, record) if isinstance(record, CatalogError) else next(answers)
        outcomes.append(answer.outcome)
        result.skipped += answer.skipped
        if answer.error is not None:
            refusals.append(Refusal(batch.start + offset, item, answer.error))
    result.inserted += outcomes.count(BulkOutcome.INSERTED)
    result.updated += outcomes.count(BulkOutcome.UPDATED)
    result.unchanged += outcomes.count(BulkOutcome.UNCHANGED)
    result.refused += len(refusals)
    result.refusals += refusals[: MOST_REFUSALS - len(result.refusals)]
    return BulkBatch(batch.start, outcomes, refusals, result)


@dataclass(slots=True)
class _Counts:
    """Count what became of the records of one batch so far."""

    stored: int = 0
    slow: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Store batches, each within the transaction of a driver's connection."""

    on_conflict: OnConflict
    actor: str
    reason: str | None
    settings: Settings

    @classmethod
    def checked(cls, on_conflict: object, *, actor: str, reason: object, settings: Settings) -> Load:
        """
        Return a load whose arguments are sound.

        Raises:
            InvalidInput: names the one that is not.
        """
        choice = chosen(OnConflict, on_conflict, "on_conflict", "bulk_save")
        return cls(on_conflict=choice, actor=actor, reason=clean_reason(reason), settings=settings)

    def store(self, driver: Driver, records: Sequence[Record]) -> Sequence[Stored]:
        """
        Store *records* as if one after the other, but for those that the database refuses or that are too slow.

        A batch that runs into its time limit is halved. A record that is alone may take ``statement_timeout``, as a
        save does. Each one that takes longer costs that, and about a second for each time that it was halved with
        others.

        An error that no record has caused leaves the transaction as it was before.
        """
        stored = self._store_what_can_be(driver, records, self._seconds(len(records)), _Counts())
        first = stored[0].error
        if len(records) > 1 and all(isinstance(one.error, CatalogInternalError) for one in stored):
            assert first is not None  # noqa: S101
            raise first  # No record is to blame for what befalls all of them.
        return stored

    def _store_what_can_be(
        self, driver: Driver, records: Sequence[Record], seconds: float, counts: _Counts
    ) -> Sequence[Stored]:
        try:
            stored = self._store(driver, records, seconds)
        except QueryTimeout as error:
            if driver.info.transaction_status == TransactionStatus.INERROR:
                raise  # The limit struck outside the savepoint: nothing more can be done in this transaction.
            if len(records) == 1:
                counts.slow += 1
                if counts.slow >= _MOST_SLOW and not counts.stored:
                    raise
                return [_refused(QueryTimeout(_TOO_SLOW, operation="bulk_save", sqlstate=error.sqlstate))]
        except _BAD_RECORD as error:
            if len(records) == 1:
                return [_refused(error)]
        else:
            counts.stored += len(stored)
            return stored
        # One of them is to blame: find it by halves. They are in the order of their ids, as all writers have it.
        places = sorted(range(len(records)), key=lambda place: records[place].id)
        middle = len(places) // 2
        halves = [
            self._store_what_can_be(
                driver, [records[place] for place in half], self._seconds(len(half), part=True), counts
            )
            for half in (places[:middle], places[middle:])
        ]
        by_place = dict(zip(places, (one for half in halves for one in half), strict=True))
        return [by_place[place] for place in range(len(records))]

    def _seconds(self, count: int, *, part: bool = False) -> float:
        """Return for how long *count* records may take, as a batch or as a *part* of one that was too slow."""
        alone = self.settings.statement_timeout
        least = min(alone, _PART_SECONDS) if part and count > 1 else alone
        return max(least, _STATEMENT_SECONDS * min(count, BATCH) / BATCH)

    def _store(self, driver: Driver, records: Sequence[Record], seconds: float) -> Sequence[Stored]:
        # This begins the transaction where nothing has yet: what comes next is a savepoint in it, and ends with it.
        with translated("bulk_save"):
            ((statement, lock),) = rows_of(driver, _READ_LIMITS, ())
        with translated("bulk_save"), patient(driver, seconds), driver.transaction():
            _limit(
                driver,
                milliseconds(seconds),
                milliseconds(min(max(_LOCK_SECONDS, self.settings.lock_timeout), _LOCK_SHARE * seconds)),
            )
            self._stage(driver, [one.record if isinstance(one, ExportedRecord) else one for one in records])
            values = (self.on_conflict is OnConflict.REPLACE, self.actor, self.reason, self.settings.notify)
            ((inserted, updated, same, other, versions),) = rows_of(driver, _LOAD, values)
            self._restore(driver, [records[place] for place in inserted or ()])
            _limit(driver, statement, lock)
        stored = dict.fromkeys(inserted or (), Stored(BulkOutcome.INSERTED))
        stored |= dict.fromkeys(updated or (), Stored(BulkOutcome.UPDATED))
        stored |= dict.fromkeys(same or (), Stored(BulkOutcome.UNCHANGED))
        for place, version in zip(other or (), versions or (), strict=True):
            if self.on_conflict is OnConflict.ERROR:
                stored[place] = _refused(SaveConflict(records[place].id, actual=version, remedy=_REMEDY))
            else:
                stored[place] = Stored(BulkOutcome.UNCHANGED, skipped=True)
        return [stored[place] for place in range(len(records))]

    def _restore(self, driver: Driver, inserted: Sequence[Record]) -> None:
        """Bring what has just been inserted to where it was in the catalogue that it was exported from."""
        exported = [record for record in inserted if isinstance(record, ExportedRecord)]
        if failed := sorted(record.id for record in exported if record.has_failed):
            values = move_values(
                failed,
                TrackStatus.FAILED,
                actor=self.actor,
                reason=self.reason,
                expected=TrackStatus.PENDING,
                operation_id=None,
                notify=False,
            )
            written(driver, MOVE_MANY, values)
        if created := {record.id: record.created_at for record in exported if record.created_at is not None}:
            written(driver, _RESTORE, (list(created), list(created.values())))

    def _stage(self, driver: Driver, records: Sequence[TrackRecord]) -> None:
        """Copy *records* to the server; what comes with the same id again is for a later round."""
        cursor = raw_cursor(driver)
        cursor.execute(_STAGE)
        seen: Counter[UUID] = Counter()
        with cursor.copy(_COPY) as copy:
            copy.set_types(_TYPES)
            for place, record in enumerate(records):
                copy.write_row(
                    (
                        *(place, seen[record.id], record.id, str(record.status), *_metadata_of(record.metadata)),
                        *(record.audio_path, record.thumbnail_path),
                    )
                )
                seen[record.id] += 1


def _refused(error: CatalogError) -> Stored:
    """Return the refusal of a record; where its error was raised is forgotten: those frames hold the whole batch."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        below, link.__context__ = link.__context__, None
        link = below
    return Stored(BulkOutcome.REFUSED, error)


def _limit(driver: Driver, statement: str, lock: str) -> None:
    """Set time limits for what is left of the transaction."""
    written(driver, _LIMIT, (statement, lock))
