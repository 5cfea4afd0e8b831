"""From records to the catalogue, in units of work that are large enough to be fast and small enough to be repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from audiocatalog import Catalog, SaveOutcome, UnitOfWork
from audiocatalog.cli.importing import ReadRecord, Refusal
from audiocatalog.errors import CatalogError, CatalogInternalError, ConstraintViolation, InvalidInput, SaveConflict

#: Rows in one unit of work.
BATCH: Final = 500
#: What the row itself is to blame for. Any other error would meet the next row as well.
_BAD_ROW: Final = (InvalidInput, ConstraintViolation, CatalogInternalError)


@dataclass(slots=True)
class Tally:
    """Count the rows whose fate is certain: saved by a commit, or refused."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    refused: int = 0

    @property
    def saved(self) -> int:
        """Rows that the catalogue holds now."""
        return self.inserted + self.updated + self.unchanged

    @property
    def rows(self) -> int:
        """Rows in all."""
        return self.saved + self.refused

    def add(self, outcome: SaveOutcome) -> None:
        """Count a row that was saved."""
        setattr(self, outcome, getattr(self, outcome) + 1)


def save_records(
    catalog: Catalog,
    items: Iterable[ReadRecord | Refusal],
    *,
    replace: bool,
    tally: Tally,
    refused: Callable[[Refusal], None],
    saved: Callable[[], None] = lambda: None,
) -> None:
    """
    Save every record of *items* that can be saved, and tell *refused* of each other one, in their order.

    *tally* counts as it goes, so that it is right also after an error; *saved* is called after every unit of work.

    Raises:
        CatalogError: the catalogue cannot go on, whatever the next row is. Nothing that *tally* counts is lost.
    """
    remaining = iter(items)
    while batch := list(islice(remaining, BATCH)):
        outcomes = iter(_save(catalog, [item for item in batch if isinstance(item, ReadRecord)], replace=replace))
        for item in batch:
            outcome = item if isinstance(item, Refusal) else next(outcomes)
            if isinstance(outcome, Refusal):
                tally.refused += 1
                refused(outcome)
            else:
                tally.add(outcome)
        saved()


def _save(catalog: Catalog, records: list[ReadRecord], *, replace: bool) -> list[SaveOutcome | Refusal]:
    """Save *records* in one unit of work, or each in one of its own if one of them is an obstacle to the others."""
    if not records:
        return []
    try:
        return catalog.run(lambda work: [_save_one(work, record, replace=replace) for record in records])
    except _BAD_ROW as error:
        if len(records) == 1:
            return [Refusal(records[0].place, _reason(error))]
    return [outcome for record in records for outcome in _save(catalog, [record], replace=replace)]


def _save_one(work: UnitOfWork, record: ReadRecord, *, replace: bool) -> SaveOutcome | Refusal:
    try:
        track = work.save_record(record, replace=replace)
    except SaveConflict:
        # Found by reading, so that the transaction is sound and the other rows can go on in it.
        return Refusal(
            record.place, f"id: track {record.id} exists with other content, which --replace would overwrite"
        )
    assert track.outcome is not None  # noqa: S101
    return track.outcome


def _reason(error: CatalogError) -> str:
    return f"{error} (SQLSTATE {error.sqlstate})" if isinstance(error, CatalogInternalError) else str(error)
