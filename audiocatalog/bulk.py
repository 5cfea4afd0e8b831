"""Many tracks at once: each batch is copied into a table of the session and stored from there.

The statements are two functions and a COPY between them: alembic/functions/bulk_v1.sql. Who calls says how a batch
becomes a transaction.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import Final, NamedTuple
from uuid import UUID

from audiocatalog.bulk_result import MOST_REFUSALS, BulkBatch, BulkOutcome, BulkResult, OnConflict, Outcomes, Refusal
from audiocatalog.errors import (
    CatalogError,
    CatalogInternalError,
    ConstraintViolation,
    InvalidInput,
    Problem,
    SaveConflict,
    kind_of,
    translated,
)
from audiocatalog.metadata import METADATA_FIELDS, TrackRecord, clean_reason
from audiocatalog.models import CONTENT_COLUMNS
from audiocatalog.operations import Driver, rows_of
from audiocatalog.pool import raw_cursor, settings_call

BATCH: Final = 5_000
_MOST_IN_A_BATCH: Final = 100_000
_MOST_CONNECTIONS: Final = 64
#: A batch takes a second or so; on a slow or busy server it may take this long, and wait as long for others.
_STATEMENT_TIMEOUT: Final = "60s"

_STAGE: Final = "SELECT audiocatalog_stage_v1()"
_COPY: Final = (
    f"COPY pg_temp.audiocatalog_stage (place, id, status, {', '.join(CONTENT_COLUMNS)}) FROM STDIN (FORMAT BINARY)"
)
_TYPES: Final = (
    *("int4", "uuid", "text", "text", "text", "text", "text"),
    *("int4", "float8", "int4", "int4", "int4", "text", "text", "text"),
)
_LOAD: Final = "SELECT * FROM audiocatalog_load_v1($1, $2, $3, $4)"
_READ_LIMITS: Final = "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"
_metadata_of: Final = attrgetter(*METADATA_FIELDS)
#: Errors that one record can cause. Any other error would stop the next record as well.
_BAD_RECORD: Final = (InvalidInput, ConstraintViolation, CatalogInternalError)


class Stored(NamedTuple):
    """Say what became of a record that was sent: *error* if it was refused, *skipped* if other content was left."""

    outcome: BulkOutcome
    error: CatalogError | None = None
    skipped: bool = False


#: Store records in one transaction.
Store = Callable[[Sequence[TrackRecord]], Sequence[Stored]]
Progress = Callable[[BulkBatch], object]


class _Batch(NamedTuple):
    """Hold what was read at once: the items as they were given, and each one's record or why it is none."""

    start: int
    items: Sequence[object]
    records: Sequence[TrackRecord | CatalogError]

    @property
    def sound(self) -> list[TrackRecord]:
        return [record for record in self.records if isinstance(record, TrackRecord)]


def save_in_batches(
    records: Iterable[object], store: Store, *, batch: int, progress: Progress | None, connections: int | None
) -> BulkResult:
    """
    Hand *records* to *store* in batches, and return what became of them.

    So many batches are stored at the same time as *connections* says, while the next one is read and checked; one after
    the other, in the caller's thread, if that is None.

    Raises:
        InvalidInput: names the argument that breaks its rule.
        CatalogError: what *store* raised; all batches that *progress* was told of are stored.
    """
    for name, value, highest in (
        ("batch", batch, _MOST_IN_A_BATCH),
        ("connections", 1 if connections is None else connections, _MOST_CONNECTIONS),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= highest:
            rule = f"a whole number from 1 to {highest}"
            raise InvalidInput(Problem(name, rule, (1, highest)), operation="bulk_save")
    if progress is not None and not callable(progress):
        raise InvalidInput(Problem("progress", f"a function, not {kind_of(progress)}"), operation="bulk_save")
    if isinstance(records, str | bytes | Mapping) or not isinstance(records, Iterable):
        raise InvalidInput(Problem("records", f"an iterable of records, not {kind_of(records)}"), operation="bulk_save")
    batches = _read(records, batch)
    outcomes = Outcomes()
    result = BulkResult(outcomes=outcomes)
    for one, stored in (
        _stored_ahead(batches, store, connections) if connections is not None else _stored_in_turn(batches, store)
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


def _record_of(item: object) -> TrackRecord | CatalogError:
    if isinstance(item, TrackRecord):
        return item
    try:
        if isinstance(item, Mapping):
            return TrackRecord.from_mapping(item)
        problem = Problem("record", f"a TrackRecord or a mapping of its fields, not {kind_of(item)}")
        return InvalidInput(problem, operation="bulk_save")
    except CatalogError as error:
        return error


def _stored_in_turn(batches: Iterator[_Batch], store: Store) -> Iterator[tuple[_Batch, Sequence[Stored]]]:
    for batch in batches:
        yield batch, store(batch.sound)


def _stored_ahead(
    batches: Iterator[_Batch], store: Store, connections: int
) -> Iterator[tuple[_Batch, Sequence[Stored]]]:
    under_way: deque[tuple[_Batch, AbstractSet[UUID], Future[Sequence[Stored]]]] = deque()
    with ThreadPoolExecutor(connections, thread_name_prefix="audiocatalog-bulk") as executor:
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
                first, _, stored = under_way.popleft()
                yield first, stored.result()
            if stopped is not None:
                raise stopped
            if batch is None:
                return
            under_way.append((batch, ids, executor.submit(store, sound)))


def _tell(batch: _Batch, stored: Iterable[Stored], result: BulkResult) -> BulkBatch:
    """Count what became of *batch* in *result*, and return it for ``progress``."""
    answers = iter(stored)
    outcomes, refusals = [], []
    for offset, (item, record) in enumerate(zip(batch.items, batch.records, strict=True)):
        answer = next(answers) if isinstance(record, TrackRecord) else Stored(BulkOutcome.REFUSED, record)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Store batches, each within the transaction of a driver's connection."""

    on_conflict: OnConflict
    actor: str
    reason: str | None
    notify: bool

    @classmethod
    def checked(cls, on_conflict: object, *, actor: str, reason: object, notify: bool) -> Load:
        """
        Return a load whose arguments are sound.

        Raises:
            InvalidInput: names the one that is not.
        """
        return cls(on_conflict=OnConflict.parse(on_conflict), actor=actor, reason=clean_reason(reason), notify=notify)

    def store(self, driver: Driver, records: Sequence[TrackRecord]) -> list[Stored]:
        """
        Store *records* as if one after the other, but for those that the database refuses.

        An error that no record has caused leaves the transaction as it was before.
        """
        # This begins the transaction where nothing has yet: what comes next is a savepoint in it, and ends with it.
        with translated("bulk_save"):
            ((statement, lock),) = rows_of(driver, _READ_LIMITS, ())
        try:
            with translated("bulk_save"), driver.transaction():
                _limit(driver, _STATEMENT_TIMEOUT, _STATEMENT_TIMEOUT)
                stored = self._store_in_rounds(driver, records)
                _limit(driver, statement, lock)
                return stored
        except _BAD_RECORD as error:
            if len(records) == 1:
                return [Stored(BulkOutcome.REFUSED, error)]
        # One of them is to blame: find it by halves.
        middle = len(records) // 2
        return self.store(driver, records[:middle]) + self.store(driver, records[middle:])

    def _store_in_rounds(self, driver: Driver, records: Sequence[TrackRecord]) -> list[Stored]:
        """Send what comes with the same id again after what came first: one statement stores a track only once."""
        rounds: list[list[int]] = []
        times: dict[UUID, int] = {}
        for place, record in enumerate(records):
            earlier = times.get(record.id, 0)
            times[record.id] = earlier + 1
            if earlier == len(rounds):
                rounds.append([])
            rounds[earlier].append(place)
        stored: dict[int, Stored] = {}
        for places in rounds:
            stored |= self._load(driver, records, places)
        return [stored[place] for place in range(len(records))]

    def _load(self, driver: Driver, records: Sequence[TrackRecord], places: Sequence[int]) -> dict[int, Stored]:
        cursor = raw_cursor(driver)
        cursor.execute(_STAGE)
        with cursor.copy(_COPY) as copy:
            copy.set_types(_TYPES)
            for place in places:
                record = records[place]
                copy.write_row(
                    (
                        *(place, record.id, str(record.status), *_metadata_of(record.metadata)),
                        *(record.audio_path, record.thumbnail_path),
                    )
                )
        values = (self.on_conflict is OnConflict.REPLACE, self.actor, self.reason, self.notify)
        ((inserted, updated, same, other, versions),) = rows_of(driver, _LOAD, values)
        stored = dict.fromkeys(inserted or (), Stored(BulkOutcome.INSERTED))
        stored |= dict.fromkeys(updated or (), Stored(BulkOutcome.UPDATED))
        stored |= dict.fromkeys(same or (), Stored(BulkOutcome.UNCHANGED))
        for place, version in zip(other or (), versions or (), strict=True):
            if self.on_conflict is OnConflict.ERROR:
                stored[place] = Stored(BulkOutcome.REFUSED, SaveConflict(records[place].id, actual=version))
            else:
                stored[place] = Stored(BulkOutcome.UNCHANGED, skipped=True)
        return stored


def _limit(driver: Driver, statement: str, lock: str) -> None:
    """Set time limits for what is left of the transaction."""
    rows_of(driver, settings_call({"statement_timeout": statement, "lock_timeout": lock}, local=True), ())
