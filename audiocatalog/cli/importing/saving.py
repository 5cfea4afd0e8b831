"""The saving of a file's records by ``Catalog.bulk_save``, with an outcome for each row in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple
from uuid import UUID

from audiocatalog import BulkBatch, BulkOutcome, Catalog, ExportedRecord, OnConflict, TrackRecord
from audiocatalog.cli.importing.input_file import DamagedFile
from audiocatalog.cli.importing.records import ReadRecord, RefusedRow
from audiocatalog.errors import CatalogError, CatalogInternalError, SaveConflict

#: The maximum numbers of characters and refusals that wait for a full batch. If more wait, a smaller batch is saved.
_MOST_CHARACTERS: Final = 2**25
_MOST_REFUSALS: Final = 10_000


@dataclass(slots=True)
class Tally:
    """The numbers of rows that were committed or refused."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    refused: int = 0

    @property
    def saved(self) -> int:
        """The number of rows that are in the catalogue."""
        return self.inserted + self.updated + self.unchanged

    @property
    def rows(self) -> int:
        """The number of all rows."""
        return self.saved + self.refused

    def add(self, outcome: BulkOutcome) -> None:
        """Count a row with *outcome*."""
        setattr(self, outcome, getattr(self, outcome) + 1)


class Committed(NamedTuple):
    """The *position* in the file up to which all rows are done, and the id of the last saved row."""

    position: int | None
    last_id: UUID | None


def save_records(
    catalog: Catalog,
    items: Iterable[ReadRecord | RefusedRow],
    *,
    on_conflict: OnConflict,
    batch: int,
    tally: Tally,
    refused: Callable[[RefusedRow], None],
    committed: Callable[[Committed], None] = lambda _: None,
    position: Callable[[], int | None] = lambda: None,
) -> None:
    """
    Save the records of *items* in batches, and call *refused* in order for each row that cannot be saved.

    *position* returns the number of bytes that have been read. After each batch, *tally* is updated and *committed* is
    called, so *tally* is correct even after an error.

    Raises:
        CatalogError: an error that no row caused. The rows that *tally* counts as saved are committed.
        DamagedFile: the file cannot be read to its end. All rows before the damage are saved.
    """
    flight = _Flight(iter(items), tally, refused, committed, position)
    while not flight.has_ended:
        catalog.bulk_save(
            flight.records(), batch=batch, on_conflict=on_conflict, progress=flight.land, reason="imported"
        )
        flight.settle()
    if flight.damage is not None:
        raise flight.damage


@dataclass(slots=True)
class _Flight:
    """The rows that are read but not yet committed or reported as refused. ``bulk_save`` reads ahead of its commits."""

    items: Iterator[ReadRecord | RefusedRow]
    tally: Tally
    refused: Callable[[RefusedRow], None]
    committed: Callable[[Committed], None]
    position: Callable[[], int | None]
    has_ended: bool = False
    damage: DamagedFile | None = None
    _waiting: deque[tuple[ReadRecord | RefusedRow, int | None]] = field(default_factory=deque)
    _characters: int = 0
    _refusals: int = 0
    _last_position: int | None = None
    _last_id: UUID | None = None

    def records(self) -> Iterator[TrackRecord | ExportedRecord]:
        """Yield records until the file ends or too many rows wait."""
        while self._refusals < _MOST_REFUSALS and self._characters < _MOST_CHARACTERS:
            try:
                item = next(self.items, None)
            except DamagedFile as error:
                # The rows before the damage can be saved.
                self.damage, item = error, None
            if item is None:
                self.has_ended = True
                return
            self._waiting.append((item, self.position()))
            self._characters += item.length
            if isinstance(item, ReadRecord):
                yield item.exported or item.record
            else:
                self._refusals += 1
                if len(self._waiting) == self._refusals:
                    # No record waits before these refusals.
                    self._settle_refusals()

    def land(self, batch: BulkBatch) -> None:
        """Settle the rows of a committed *batch*, and the refusals before and directly after them."""
        errors = {refusal.position: refusal.error for refusal in batch.refusals}
        for position, outcome in enumerate(batch.outcomes, batch.start):
            record = self._next_record()
            if outcome is BulkOutcome.REFUSED:
                self._refuse(record.refused(reason_of(errors[position], record.record)))
            else:
                self.tally.add(outcome)
                self._last_id = record.record.id
        self._settle_refusals()
        self.committed(Committed(self._last_position, self._last_id))

    def settle(self) -> None:
        """Settle the refusals that remain when all records are committed."""
        self._settle_refusals()
        self.committed(Committed(self._last_position, self._last_id))

    def _settle_refusals(self) -> None:
        while self._waiting and isinstance(refusal := self._waiting[0][0], RefusedRow):
            self._next()
            self._settle_refusal(refusal)

    def _next_record(self) -> ReadRecord:
        """Settle the refusals before the next record, and return that record."""
        while isinstance(item := self._next(), RefusedRow):
            self._settle_refusal(item)
        return item

    def _settle_refusal(self, refusal: RefusedRow) -> None:
        self._refusals -= 1
        self._refuse(refusal)

    def _next(self) -> ReadRecord | RefusedRow:
        item, self._last_position = self._waiting.popleft()
        self._characters -= item.length
        return item

    def _refuse(self, refusal: RefusedRow) -> None:
        self.tally.add(BulkOutcome.REFUSED)
        self.refused(refusal)


def reason_of(error: CatalogError, record: TrackRecord) -> str:
    """Return why *record* was refused, in the words of the command line."""
    if isinstance(error, SaveConflict):
        return f"id: track {record.id} exists with other content, which --replace would overwrite"
    return f"{error} (SQLSTATE {error.sqlstate})" if isinstance(error, CatalogInternalError) else str(error)
