"""Every track that meets some filters, one after the other, in constant memory."""

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

#: With filters, one statement reads at most this many tracks, however few of them meet the filters.
SCAN_LIMIT: Final = 10_000


#: The orders in which all tracks can be read: by id, or by when they came. What they sort by never changes.
TrackOrder = Literal["id", "oldest", "newest"]
_ORDERS: Final[tuple[TrackOrder, ...]] = get_args(TrackOrder)


def key_of(order: TrackOrder) -> tuple[str, ...]:
    """Return the columns that *order* sorts by."""
    return ("id",) if order == "id" else ("created_at", "id")


@dataclass(frozen=True, slots=True)
class TrackScan:
    """
    Which tracks are read, and how.

    *filtered*: the conditions that the tracks must meet. *bounded*: those of them that can limit the index scan.
    """

    order: TrackOrder
    batch: int
    filtered: tuple[str, ...]
    bounded: tuple[str, ...]
    parameters: Mapping[str, Any]

    @classmethod
    def make(cls, filters: object, order_by: object, batch: object) -> Self:
        """
        Return the scan that the arguments of ``iter_tracks`` describe.

        Raises:
            InvalidInput: names the argument that breaks its rule.
        """
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


class Page(NamedTuple):
    """Hold the *rows* of a page, and the key behind which the next one begins; None if there is none."""

    rows: Sequence[tuple[Any, ...]]
    after: Mapping[str, Any] | None


@lru_cache(maxsize=256)
def scan_sql(
    order: TrackOrder, batch: int, filtered: tuple[str, ...], bounded: tuple[str, ...], *, is_first: bool
) -> str:
    """
    Return the statement for the next page of a scan, behind the track whose key is ``after_id`` and the like.

    At most *batch* rows come back, in order, each with its place among those that were looked at and whether it meets
    the conditions. If that took all that may be looked at, the last one comes back in any case, to tell where to go on.

    The numbers are constants: a plan for any number at all would expect a tenth of the table. The first page is a
    statement of its own: one that may or may not begin behind a key could not look that key up in an index.
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


def read_page(scan: TrackScan, after: Mapping[str, Any] | None, *, timeout: float) -> Operation[Page]:
    """Return the next page of *scan*, behind the key that the page before it gave."""
    sql = scan_sql(scan.order, scan.batch, scan.filtered, scan.bounded, is_first=after is None)
    statement = PlannedStatement(sql, INDEX_ORDER_SETTINGS, timeout)
    rows = yield statement, {**scan.parameters, **(after or {})}
    if not rows or (len(rows) < scan.batch and rows[-1][0] < max(scan.batch, SCAN_LIMIT)):
        return Page(rows, None)
    last = dict(zip(TRACK_COLUMNS, rows[-1][2:], strict=True))
    return Page(rows, {f"after_{column}": last[column] for column in key_of(scan.order)})


def tracks_of(rows: Sequence[tuple[Any, ...]]) -> Iterator[Track]:
    """Give the tracks in the rows of a page, each made when it is asked for."""
    return (track_of(row[2:]) for row in rows if row[1])
