"""The outcomes of a bulk save."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, NamedTuple, overload

from audiocatalog.errors import CatalogError
from audiocatalog.models.redaction import discreetly

#: A result keeps at most this many refusals; ``progress`` gets all of them, batch by batch.
MOST_REFUSALS: Final = 1_000


#: The name of an ``OnConflict``; every argument that accepts an ``OnConflict`` also accepts its name.
ConflictRule = Literal["skip", "replace", "error"]


class OnConflict(StrEnum):
    """The treatment of a record whose track exists with other content."""

    #: The track stays as it is; the record counts as unchanged.
    SKIP = "skip"
    #: The track's content is replaced; its status stays.
    REPLACE = "replace"
    #: The record is refused with ``SaveConflict``.
    ERROR = "error"


class BulkOutcome(StrEnum):
    """The outcome of one record."""

    #: The id was new.
    INSERTED = "inserted"
    #: Other content was replaced; the version rose by one.
    UPDATED = "updated"
    #: The track stays as it was, with the same content, or with other content under ``skip``.
    UNCHANGED = "unchanged"
    #: Nothing of the record was stored; its ``Refusal`` has the error.
    REFUSED = "refused"


class Refusal(NamedTuple):
    """A refused *record* as the caller passed it, its *position* among the records from 0, and the *error*."""

    position: int
    record: object
    error: CatalogError

    @discreetly
    def __repr__(self) -> str:
        """Return the position and the class of the error, without the data."""
        return f"<Refusal {self.position} {type(self.error).__name__}>"


_CODES: Final = {outcome: code for code, outcome in enumerate(BulkOutcome)}
_OUTCOMES: Final = tuple(BulkOutcome)


class Outcomes(Sequence[BulkOutcome]):
    """The outcome of every record, in at most one byte each; batches with equal outcomes share their bytes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._starts: list[int] = []
        self._length = 0

    def append(self, outcomes: Iterable[BulkOutcome]) -> None:
        """Add the outcomes of a batch."""
        part = bytes(map(_CODES.__getitem__, outcomes))
        self._starts.append(self._length)
        self._parts.append(self._parts[-1] if self._parts and self._parts[-1] == part else part)
        self._length += len(part)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[BulkOutcome]:
        return (_OUTCOMES[code] for part in self._parts for code in part)

    @overload
    def __getitem__(self, index: int) -> BulkOutcome: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[BulkOutcome]: ...
    def __getitem__(self, index: int | slice) -> BulkOutcome | Sequence[BulkOutcome]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._length))]
        place = range(self._length)[index]
        part = bisect_right(self._starts, place) - 1
        return _OUTCOMES[self._parts[part][place - self._starts[part]]]

    def __repr__(self) -> str:
        return f"<{self._length} outcomes>"


@dataclass(slots=True)
class BulkResult:
    """
    The counts of the outcomes of a ``bulk_save``.

    - *inserted*, *updated*, *unchanged*, *refused*: how many records had this outcome
    - *skipped*: how many of the unchanged tracks have other content than their records
    - *refusals*: the first 1,000 refusals
    - *outcomes*: the outcome of every record, in order
    """

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    refused: int = 0
    skipped: int = 0
    refusals: list[Refusal] = field(default_factory=list, repr=False)
    outcomes: Sequence[BulkOutcome] = field(default_factory=Outcomes, repr=False)

    @property
    def records(self) -> int:
        """The number of records."""
        return self.inserted + self.updated + self.unchanged + self.refused


@dataclass(frozen=True, slots=True)
class BulkBatch:
    """
    A stored batch, the argument of ``progress``.

    - *start*: the position of the batch's first record
    - *outcomes*: the outcome of each record of the batch
    - *refusals*: the refused records of the batch
    - *result*: the counts of all batches so far; later batches change this object
    """

    start: int
    outcomes: Sequence[BulkOutcome] = field(repr=False)
    refusals: Sequence[Refusal] = field(repr=False)
    result: BulkResult
