"""A batch of a bulk save: a COPY into a temporary table, and SQL functions that store its rows.

The functions are in alembic/functions/bulk_v1.sql.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import Any, Final, NamedTuple
from uuid import UUID

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
from audiocatalog.models.limits import COPY_TYPES
from audiocatalog.models.metadata import (
    CONTENT_COLUMNS,
    CONTENT_VERSION,
    LIMITS,
    METADATA_FIELDS,
    ExportedRecord,
    TrackRecord,
)
from audiocatalog.operations.bulk_result import (
    MOST_REFUSALS,
    BulkBatch,
    BulkOutcome,
    BulkResult,
    OnConflict,
    Refusal,
)
from audiocatalog.operations.moves import MOVE_MANY, Move
from audiocatalog.operations.operation import TRANSACTION_MARK, Copy, Operation, Statement, milliseconds
from audiocatalog.status import TrackStatus

BATCH: Final = 5_000
#: The timeout of a full batch in seconds; a smaller batch gets its share. A batch usually takes about one second.
_STATEMENT_SECONDS: Final = 60.0
#: The minimum timeout, in seconds, of a part of a batch that was too slow; a large part gets its share of the timeout.
_PART_SECONDS: Final = 1.0
#: The lock timeout in seconds; it is shorter, because a lock timeout can be retried.
_LOCK_SECONDS: Final = 20.0
_LOCK_SHARE: Final = 0.8
#: If this many single records were too slow, and no record of the batch was stored, the server is too slow.
_MAX_SLOW: Final = 20
_TOO_SLOW: Final = (
    "bulk_save: this record alone took longer than statement_timeout, so it was refused; shorten its texts, or raise "
    "statement_timeout"
)

STAGE: Final = Statement(f"SELECT audiocatalog_stage_v{CONTENT_VERSION}()")
# The columns of the temporary table, and the type of each in the COPY.
_STAGED: Final = {
    "place": "int4",
    "round": "int4",
    "id": "uuid",
    "status": "text",
    **{field: COPY_TYPES[type(LIMITS[field])] for field in CONTENT_COLUMNS},
}
_COPY: Final = f"COPY pg_temp.audiocatalog_stage ({', '.join(_STAGED)}) FROM STDIN (FORMAT BINARY)"
_TYPES: Final = tuple(_STAGED.values())
LOAD: Final = Statement(
    f"SELECT inserted, updated, same, other, other_versions FROM audiocatalog_load_v{CONTENT_VERSION}($1, $2, $3, $4)"
)
RESTORE: Final = Statement(f"SELECT audiocatalog_restore_v1($1, $2), {TRANSACTION_MARK}", writes=True)
READ_LIMITS: Final = Statement("SELECT current_setting('statement_timeout'), current_setting('lock_timeout')")
#: Set the timeouts of the rest of the transaction.
LIMIT: Final = Statement(
    f"SELECT set_config('statement_timeout', $1, true), set_config('lock_timeout', $2, true), {TRANSACTION_MARK}",
    writes=True,
)
_SAVEPOINT: Final = Statement("SAVEPOINT audiocatalog_batch", is_command=True)
_RELEASE: Final = Statement("RELEASE audiocatalog_batch", is_command=True)
_ROLL_BACK: Final = Statement("ROLLBACK TO audiocatalog_batch; RELEASE audiocatalog_batch", is_command=True)
_REMEDY: Final = 'on_conflict="replace" overwrites it'
_metadata_of: Final = attrgetter(*METADATA_FIELDS)
#: Errors that one record can cause. Any other error would recur for the next record.
_BAD_RECORD: Final = (InvalidInput, ConstraintViolation, CatalogInternalError)


class RecordOutcome(NamedTuple):
    """The outcome of one record, the *error* of a refused record, and whether the track was *skipped*."""

    outcome: BulkOutcome
    error: CatalogError | None = None
    skipped: bool = False


Record = TrackRecord | ExportedRecord
ReportBatch = Callable[[BulkBatch], object]


class Batch(NamedTuple):
    """The items of a batch, and for each item a record, or the error of an item that breaks a rule."""

    start: int
    items: Sequence[object]
    records: Sequence[Record | CatalogError]

    @property
    def valid(self) -> list[Record]:
        """The records to store."""
        return [record for record in self.records if not isinstance(record, CatalogError)]


def read_batches(items: Iterable[object], size: int) -> Iterator[Batch]:
    """Yield *items* in batches of *size*, with every item checked."""
    remaining, start = iter(items), 0
    while part := list(islice(remaining, size)):
        yield Batch(start, part, [record_of(item) for item in part])
        start += len(part)


def record_of(item: object) -> Record | CatalogError:
    """Return the record that *item* describes, or the error of an invalid *item*."""
    if isinstance(item, TrackRecord | ExportedRecord):
        return item
    try:
        if isinstance(item, Mapping):
            return TrackRecord.from_mapping(item)
        problem = Problem("record", f"a TrackRecord or a mapping of its fields, not {kind_of(item)}")
        return InvalidInput(problem, operation="bulk_save")
    except CatalogError as error:
        return error


def count_batch(batch: Batch, stored: Iterable[RecordOutcome], result: BulkResult) -> BulkBatch:
    """Add the outcomes of *batch* to *result*, and return the argument of ``progress``."""
    answers = iter(stored)
    outcomes, refusals = [], []
    for offset, (item, record) in enumerate(zip(batch.items, batch.records, strict=True)):
        answer = RecordOutcome(BulkOutcome.REFUSED, record) if isinstance(record, CatalogError) else next(answers)
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
class _Tally:
    """The counts of a batch: stored records, and single records that were too slow."""

    stored: int = 0
    slow: int = 0
    #: Whether the transaction can continue; False after a lost connection or an error before the savepoint.
    can_go_on: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStore:
    """A loader that stores batches within a transaction; *statement_timeout* and *lock_timeout* are in seconds."""

    on_conflict: OnConflict
    actor: str
    reason: str | None
    notify: bool
    statement_timeout: float
    lock_timeout: float

    def store(self, records: Sequence[Record]) -> Operation[Sequence[RecordOutcome]]:
        """
        Store *records* in order, and skip those that the database rejects or that are too slow.

        A batch that exceeds its timeout is halved. The timeout of a single record is ``statement_timeout``. Each
        record that exceeds this timeout takes that long, plus about one second for each batch that contains the record.
        After an error that no record caused, the transaction is as it was before.

        Raises:
            QueryTimeout: the server did not store even one record within ``statement_timeout``.
            CatalogInternalError: the server rejected every record.
            CatalogError: an error that no record caused.
        """
        if not records:
            return []
        outcomes = yield from self._store_valid(records, self._seconds(len(records)), _Tally())
        first = outcomes[0].error
        if first is not None and len(records) > 1 and all(isinstance(o.error, CatalogInternalError) for o in outcomes):
            raise first  # If every record fails in this way, no record is the cause.
        return outcomes

    def _store_valid(
        self, records: Sequence[Record], seconds: float, progress: _Tally
    ) -> Operation[Sequence[RecordOutcome]]:
        try:
            outcomes = yield from self._store(records, seconds, progress)
        except QueryTimeout as error:
            if not progress.can_go_on:
                raise
            if len(records) == 1:
                progress.slow += 1
                if progress.slow >= _MAX_SLOW and not progress.stored:
                    raise
                return [_refused(QueryTimeout(_TOO_SLOW, operation="bulk_save", sqlstate=error.sqlstate))]
        except _BAD_RECORD as error:
            if len(records) == 1:
                return [_refused(error)]
        else:
            progress.stored += len(outcomes)
            return outcomes
        # Halve the batch to find the record that caused the error. All writers lock tracks in the order of their ids.
        places = sorted(range(len(records)), key=lambda place: records[place].id)
        middle = len(places) // 2
        by_place: dict[int, RecordOutcome] = {}
        for half in (places[:middle], places[middle:]):
            part = [records[place] for place in half]
            found = yield from self._store_valid(part, self._seconds(len(half), part=True), progress)
            by_place.update(zip(half, found, strict=True))
        return [by_place[place] for place in range(len(records))]

    def _seconds(self, count: int, *, part: bool = False) -> float:
        """Return the timeout of *count* records, as a batch or as a *part* of a batch that was too slow."""
        alone = self.statement_timeout
        least = min(alone, _PART_SECONDS) if part and count > 1 else alone
        return max(least, _STATEMENT_SECONDS * min(count, BATCH) / BATCH)

    def _store(self, records: Sequence[Record], seconds: float, progress: _Tally) -> Operation[Sequence[RecordOutcome]]:
        """Store *records* within *seconds*, all or none of them."""
        try:
            # The savepoint needs a transaction, which this statement begins if none has begun.
            ((statement_limit, lock_limit),) = yield READ_LIMITS, ()
            yield _SAVEPOINT, ()
            lock_seconds = min(max(_LOCK_SECONDS, self.lock_timeout), _LOCK_SHARE * seconds)
            yield LIMIT._replace(timeout=seconds), (milliseconds(seconds), milliseconds(lock_seconds))
            yield STAGE._replace(timeout=seconds), ()
            yield Copy(_COPY, _TYPES, seconds), _rows_of(records)
            values = (self.on_conflict is OnConflict.REPLACE, self.actor, self.reason, self.notify)
            ((inserted, updated, same, other, versions),) = yield LOAD._replace(timeout=seconds), values
            yield from self._restore([records[place] for place in inserted or ()], seconds)
            yield LIMIT._replace(timeout=seconds), (statement_limit, lock_limit)
        except CatalogError:
            try:
                yield _ROLL_BACK, ()
            except CatalogError:
                progress.can_go_on = False
            raise
        yield _RELEASE, ()
        outcomes = dict.fromkeys(inserted or (), RecordOutcome(BulkOutcome.INSERTED))
        outcomes |= dict.fromkeys(updated or (), RecordOutcome(BulkOutcome.UPDATED))
        outcomes |= dict.fromkeys(same or (), RecordOutcome(BulkOutcome.UNCHANGED))
        for place, version in zip(other or (), versions or (), strict=True):
            if self.on_conflict is OnConflict.ERROR:
                outcomes[place] = _refused(SaveConflict(records[place].id, actual=version, remedy=_REMEDY))
            else:
                outcomes[place] = RecordOutcome(BulkOutcome.UNCHANGED, skipped=True)
        return [outcomes[place] for place in range(len(records))]

    def _restore(self, inserted: Sequence[Record], seconds: float) -> Operation[None]:
        """Set the status and the time of creation of inserted records to those in the exporting catalogue."""
        exported = [record for record in inserted if isinstance(record, ExportedRecord)]
        if failed := sorted(record.id for record in exported if record.has_failed):
            move = Move(TrackStatus.FAILED, self.actor, self.reason, expected=TrackStatus.PENDING)
            yield MOVE_MANY._replace(timeout=seconds), move.values(failed)
        if created := {record.id: record.created_at for record in exported if record.created_at is not None}:
            yield RESTORE._replace(timeout=seconds), (list(created), list(created.values()))


def _rows_of(records: Iterable[Record]) -> Iterator[tuple[Any, ...]]:
    """Yield a row for each record; a record that has the id of an earlier record belongs to a later round."""
    seen: Counter[UUID] = Counter()
    for place, one in enumerate(records):
        record = one.record if isinstance(one, ExportedRecord) else one
        yield (
            *(place, seen[record.id], record.id, str(record.status), *_metadata_of(record.metadata)),
            *(record.audio_path, record.thumbnail_path),
        )
        seen[record.id] += 1


def _refused(error: CatalogError) -> RecordOutcome:
    """Return the refusal of a record, without its error's tracebacks, whose frames hold the whole batch in memory."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        below, link.__context__ = link.__context__, None
        link = below
    return RecordOutcome(BulkOutcome.REFUSED, error)
