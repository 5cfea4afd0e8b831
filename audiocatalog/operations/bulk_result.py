"""What became of each of many tracks that were saved at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal, NamedTuple, overload

from audiocatalog.errors import CatalogError
from audiocatalog.models.redaction import discreetly

#: So many refusals are kept in a result; all of them are told batch by batch.
MOST_REFUSALS: Final = 1_000


#: The name of an ``OnConflict``, which may stand wherever one may.
ConflictRule = Literal["skip", "replace", "error"]


class OnConflict(StrEnum):
    """Say what becomes of a record whose id holds other content already."""

    #: The track stays as it is; the record counts as unchanged.
    SKIP = "skip"
    #: The track's content is replaced; its status is never touched.
    REPLACE = "replace"
    #: The record is refused with ``SaveConflict``.
    ERROR = "error"


class BulkOutcome(StrEnum):
    """Say what became of one record."""

    #: The id was new.
    INSERTED = "inserted"
    #: Other content was replaced; the version rose by one.
    UPDATED = "updated"
    #: The track stays as it was: it held the same content, or other content that was to be skipped.
    UNCHANGED = "unchanged"
    #: Nothing of it was stored; its ``Refusal`` says why.
    REFUSED = "refused"


class Refusal(NamedTuple):
    """Say why a *record* was refused, at its *position* in what was handed in, counted from 0."""

    position: int
    #: What stood there, as it was given.
    record: object
    error: CatalogError

    @discreetly
    def __repr__(self) -> str:
        """Return the place and the kind of the error alone; the rest is data."""
        return f"<Refusal {self.position} {type(self.error).__name__}>"


_CODES: Final = {outcome: code for code, outcome in enumerate(BulkOutcome)}
_OUTCOMES: Final = tuple(BulkOutcome)


class Outcomes(Sequence[BulkOutcome]):
    """Hold an outcome for every record in a byte, or less: equal batches share their bytes."""

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
    Count what became of the records of a ``bulk_save``.

    *skipped* is how many of the *unchanged* hold other content than their records. *outcomes* has one for every record,
    in their order, and *refusals* the first thousand of those that say why.
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
        """How many records there were."""
        return self.inserted + self.updated + self.unchanged + self.refused


@dataclass(frozen=True, slots=True)
class BulkBatch:
    """
    Tell of one batch that has been stored, for ``progress``.

    *start* is the position of its first record; *outcomes* has one for each, and *refusals* says why some were refused.
    *result* counts all batches so far, this one included, and goes on counting.
    """

    start: int
    outcomes: Sequence[BulkOutcome] = field(repr=False)
    refusals: Sequence[Refusal] = field(repr=False)
    result: BulkResult
