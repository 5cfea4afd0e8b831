"""A scan of all tracks that meet some filters, in constant memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, Self, get_args

from audiocatalog.errors import InvalidInput, Problem, kind_of
from audiocatalog.models.arguments import parse_choice, whole_number
from audiocatalog.models.filters import SearchFilters
from audiocatalog.models.rows import TRACK_COLUMNS, track_of
from audiocatalog.models.tables import Track
from audiocatalog.operations.operation import INDEX_ORDER_SETTINGS, Operation, PlannedStatement
from audiocatalog.operations.tracks import MAX_TRACKS

#: With filters, one statement reads at most this many tracks, or one batch if a batch is larger.
SCAN_LIMIT: Final = 10_000


#: The orders of a scan: by id, or by time of creation. The sort key of a track never changes.
TrackOrder = Literal["id", "oldest", "newest"]
_ORDERS: Final[tuple[TrackOrder, ...]] = get_args(TrackOrder)


def key_of(order: TrackOrder) -> tuple[str, ...]:
    """Return the columns that *order* sorts by."""
    return ("id",) if order == "id" else ("created_at", "id")


@dataclass(frozen=True, slots=True)
class TrackScan:
    """
    A scan of tracks.

    - *filtered*: the conditions that the tracks must meet
    - *bounded*: the conditions that can limit the index scan
    """

    order: TrackOrder
    batch: int
    filtered: tuple[str, ...]
    bounded: tuple[str, ...]
    parameters: Mapping[str, Any]

    @classmethod
    def make(cls, filters: object, order_by: object, batch: object) -> Self:
        """Return the scan that the arguments of ``iter_tracks`` describe, or raise InvalidInput."""
        if filters is None:
            filters = SearchFilters()
        if not isinstance(filters, SearchFilters):
            raise InvalidInput(Problem("filters", f"SearchFilters, not {kind_of(filters)}"), operation="iter_tracks")
        way = parse_choice(_ORDERS, order_by, "order_by", "iter_tracks")
        size = whole_number(batch, "batch", "iter_tracks", most=MAX_TRACKS)
        written, parameters = filters.conditions()
        conditions = dict(zip(filters.given, written, strict=True))
        bound = conditions.get("created_since") if "created_at" in key_of(way) else None
        return cls(way, size, tuple(written), () if bound is None else (bound,), parameters)


class ScanPage(NamedTuple):
    """The *rows* of a page, and the key *after* which the next page begins; the key is None after the last page."""

    rows: Sequence[tuple[Any, ...]]
    after: Mapping[str, Any] | None


@lru_cache(maxsize=256)
def scan_sql(
    order: TrackOrder, batch: int, filtered: tuple[str, ...], bounded: tuple[str, ...], *, is_first: bool
) -> str:
    """
    Return the statement for the next page of a scan, after the key in parameters such as ``after_id``.

    The statement returns at most *batch* rows, in order. Each row has its position among the tracks that were read,
    and whether it meets the conditions. If the statement reaches its limit of tracks, it also returns the last track;
    the next page begins after this track.

    The numbers are constants, because a generic plan for a parameter would expect a tenth of the table. The first page
    is a separate statement, because one statement for both cases could not look up the key in an index.
    """
    sign, direction = ("<", " DESC") if order == "newest" else (">", "")
    key = key_of(order)
    sort = ", ".join(f"t.{column}{direction}" for column in key)
    conditions = list(bounded)
    if not is_first:
        names, values = (", ".join(form.format(column) for column in key) for form in ("t.{}", "%(after_{})s"))
        conditions.append(f"({names}) {sign} ({values})")
    where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
    columns = ", ".join(f"t.{column}" for column in TRACK_COLUMNS)
    if not filtered:
        return f"SELECT 0, true, {columns} FROM audio_tracks AS t {where}ORDER BY {sort} LIMIT {batch}"
    looked_at = max(batch, SCAN_LIMIT)
    meets = " AND ".join(f"({condition})" for condition in filtered)
    return f"""
SELECT * FROM (
  SELECT row_number() OVER (ORDER BY {sort}) AS place, ({meets}) IS TRUE AS meets, {columns}
  FROM (SELECT * FROM audio_tracks AS t {where}ORDER BY {sort} LIMIT {looked_at}) AS t
) AS t
WHERE meets OR place = {looked_at}
ORDER BY {sort} LIMIT {batch}"""


def read_page(scan: TrackScan, after: Mapping[str, Any] | None, *, timeout: float) -> Operation[ScanPage]:
    """Return the next page of *scan*, after the key of the previous page; *timeout* is in seconds."""
    sql = scan_sql(scan.order, scan.batch, scan.filtered, scan.bounded, is_first=after is None)
    statement = PlannedStatement(sql, INDEX_ORDER_SETTINGS, timeout)
    rows = yield statement, {**scan.parameters, **(after or {})}
    if not rows or (len(rows) < scan.batch and rows[-1][0] < max(scan.batch, SCAN_LIMIT)):
        return ScanPage(rows, None)
    last = dict(zip(TRACK_COLUMNS, rows[-1][2:], strict=True))
    return ScanPage(rows, {f"after_{column}": last[column] for column in key_of(scan.order)})


def tracks_of(rows: Sequence[tuple[Any, ...]]) -> Iterator[Track]:
    """Yield the tracks in the rows of a page, and create each track only when the caller needs it."""
    return (track_of(row[2:]) for row in rows if row[1])
