"""The change feed: the tracks that changed since a reader's last page, without a gap.

Each write of a track adds a row with its transaction's id to one of two logs. A snapshot of the server shows which
transactions had ended. Each page covers a window: the transactions that ended between the reader's last snapshot and
the next. A window depends neither on clocks nor on how long a writer takes. The tracks of a window are read by their
ids, page by page, in their current state.

If a transaction had not ended at a snapshot, its id is not below the snapshot's ``xmin``, so the log's index skips
older rows. Times cannot replace ids. A transaction with an id at or above a snapshot's ``xmax`` may have begun before
that snapshot, because ``xmax`` follows the last id that has *ended*. So the rows of this transaction may be older than
every time that the reader knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self
from uuid import UUID

from audiocatalog.errors import InvalidInput, Problem
from audiocatalog.models.arguments import whole_number
from audiocatalog.models.redaction import discreet
from audiocatalog.models.rows import TRACK_COLUMNS, track_of
from audiocatalog.models.tables import Track
from audiocatalog.operations.operation import GENERIC_PLAN_SETTINGS, INDEX_ORDER_SETTINGS, Operation, PlannedStatement
from audiocatalog.operations.pagination import read_cursor, write_cursor
from audiocatalog.operations.tracks import MAX_TRACKS

_LOGS: Final = ("audio_track_status_changes", "audio_track_edits")
#: The first window covers at most this many transactions.
_FIRST_STEP: Final = 10_000
_LONGEST_STEP: Final = 2**40
_XIDS: Final = 2**62
# A transaction id is an epoch and a 32-bit counter; the first three numbers of each epoch are not transactions.
_EPOCH: Final = 2**32
_FIRST_XID: Final = 3
_SNAPSHOT: Final = re.compile(r"([0-9]{1,19}):([0-9]{1,19}):((?:[0-9]{1,19}(?:,[0-9]{1,19})*)?)")


@dataclass(frozen=True, slots=True)
class ChangePage:
    """
    A page of changed tracks.

    - *tracks*: the tracks in the order of their ids, in their current state
    - *next_cursor*: the cursor of the next page, to be stored with the copy
    - *more*: whether to read the next page at once; if not, nothing else had changed when this page was read
    """

    tracks: Sequence[Track]
    next_cursor: str
    more: bool

    __repr__ = discreet


class Snapshot(NamedTuple):
    """
    PostgreSQL's ``pg_snapshot``: which transactions had ended.

    The ended transactions have ids below *xmin*, or ids below *xmax* that were not *running*.
    """

    xmin: int
    xmax: int
    running: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the snapshot in *text*, or raise ValueError if *text* is not a valid ``pg_snapshot``."""
        match = _SNAPSHOT.fullmatch(text)
        if match is None:
            raise ValueError
        snapshot = cls(int(match[1]), int(match[2]), tuple(int(xid) for xid in match[3].split(",") if xid))
        xmin, xmax, running = snapshot
        if not xmin <= xmax < _XIDS or list(running) != sorted({xid for xid in running if xmin <= xid < xmax}):
            raise ValueError
        if any(xid % _EPOCH == 0 for xid in (xmin, xmax, *running)):
            raise ValueError
        return snapshot

    def covers(self, other: Snapshot) -> bool:
        """Return whether every transaction that had ended at *other* had also ended at this snapshot."""
        still_running = set(other.running)
        return self.xmax >= other.xmax and all(xid >= other.xmax or xid in still_running for xid in self.running)

    def behind(self, step: int) -> int:
        """Return the transaction id *step* ids after this snapshot's *xmax*."""
        xid = min(self.xmax + step, _XIDS - 1)
        return xid + max(0, _FIRST_XID - xid % _EPOCH)

    def __str__(self) -> str:
        """Return the snapshot in PostgreSQL's notation."""
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, self.running))}"


class FeedPosition(NamedTuple):
    """
    A reader's position in the feed.

    - *origin*: the oid of the table that was read, which differs in a restored copy
    - *old*: the snapshot up to which the reader has read all ended transactions; None at the beginning
    - *new*: the end of the current window; None between windows
    - *after*: the id of the last track that the reader got in this window
    - *step*: the maximum number of transactions in the next window
    """

    origin: int = 0
    old: Snapshot | None = None
    new: Snapshot | None = None
    after: UUID | None = None
    step: int = _FIRST_STEP

    def text(self) -> str:
        """Return the cursor's text."""
        old, new = (snapshot and str(snapshot) for snapshot in (self.old, self.new))
        return write_cursor([self.origin, old, new, self.after and self.after.hex, self.step])

    @classmethod
    def parse(cls, value: object) -> Self:
        """Return the position in the cursor *value*, the beginning if *value* is None, or raise InvalidInput."""
        if value is None:
            return cls()
        try:
            origin, old, new, after, step = read_cursor(value)
            place = cls(
                origin,
                None if old is None else Snapshot.parse(old),
                None if new is None else Snapshot.parse(new),
                None if after is None else UUID(hex=after),
                step,
            )
            counts = type(origin) is int and type(step) is int and 0 < step <= _LONGEST_STEP
        except (TypeError, ValueError, AttributeError):
            raise _no_cursor() from None
        if not counts or (place.new is None) != (place.after is None) or place.last is None:
            raise _no_cursor()
        return place

    @property
    def last(self) -> Snapshot | None:
        """The last snapshot that was taken for this reader."""
        return self.new or self.old

    def behind(
        self, tracks: Sequence[Track], new: Snapshot, origin: int, *, is_full: bool, is_cut: bool
    ) -> FeedPosition:
        """
        Return the position after a page of *tracks*.

        The size of a window adapts to the reader. The size doubles if the page had room for more tracks. The size
        halves if the window took several pages, because each page reads the log of the whole window.
        """
        if is_full:
            return self._replace(origin=origin, new=new, after=tracks[-1].id)
        step = self.step
        if self.old is not None and self.after is not None:
            step = max(1, step // 2)
        elif self.old is not None and is_cut:
            step = min(_LONGEST_STEP, step * 2)
        return FeedPosition(origin, old=new, step=step)


def _no_cursor() -> InvalidInput:
    return InvalidInput(Problem("after", "the `next_cursor` of an earlier page, or None"), operation="changes")


_ANOTHER: Final = Problem(
    "after",
    "this cursor is from another database, or from before a restore of this database; start again with after=None",
)

# The current snapshot, and the snapshot at the end of the window.
#
# PostgreSQL's snapshot counts the reader's own transaction as ended, so the statement adds its id to the running
# ones. A standby's snapshot names no running transaction, so every transaction from xmin on counts as running. If more
# than *step* transactions have ended since the last window, this window ends before the current snapshot, at an id
# that follows only ended transactions.
_MOMENT: Final = """
present AS MATERIALIZED (
  SELECT pg_is_in_recovery() OR current_setting('transaction_isolation') IN ('repeatable read', 'serializable') AS lags,
    pg_snapshot_xmin(taken) AS xmin, ended.xmax,
    (pg_snapshot_xmin(taken)::text || ':' || ended.xmax::text || ':' || coalesce((
      SELECT string_agg(xid::text, ',' ORDER BY xid)
      FROM (SELECT pg_snapshot_xip(taken) UNION SELECT pg_current_xact_id_if_assigned()) AS running (xid)
      WHERE xid < ended.xmax
    ), ''))::pg_snapshot AS snapshot
  FROM pg_current_snapshot() AS taken,
    LATERAL (SELECT CASE WHEN pg_is_in_recovery() THEN pg_snapshot_xmin(taken) ELSE pg_snapshot_xmax(taken) END)
      AS ended (xmax)
),
moment AS MATERIALIZED (
  SELECT 'audio_tracks'::regclass::oid::bigint AS origin, lags, snapshot::text AS present,
    coalesce(%(new)s::pg_snapshot, CASE WHEN xmin::text::bigint > %(end)s::bigint
      THEN (%(end)s::bigint || ':' || %(end)s::bigint || ':')::pg_snapshot ELSE snapshot END) AS new
  FROM present
)"""
# The columns before those of the track: the table's oid, whether the server may lag, and the snapshots.
_FACTS: Final = ("moment.origin", "moment.lags", "moment.present", "moment.new::text")
_TRACK: Final = slice(len(_FACTS), None)
_COLUMNS: Final = ", ".join(f"t.{column}" for column in TRACK_COLUMNS)


def _page_sql(tracks: str) -> str:
    return f"""
WITH {_MOMENT}
SELECT {", ".join(_FACTS)}, {_COLUMNS}
FROM moment LEFT JOIN ({tracks}) AS t ON true
ORDER BY t.id"""


def copying_sql(*, is_first: bool) -> str:
    """Return the statement for a page of all tracks; the first pages of a reader use it."""
    where = "" if is_first else "WHERE t.id > %(after)s "
    return _page_sql(f"SELECT {_COLUMNS} FROM audio_tracks AS t {where}ORDER BY t.id LIMIT %(limit)s")


def changes_sql(*, is_first: bool) -> str:
    """
    Return the statement for a page of the changes between two snapshots.

    The statement reads the log by transaction ids. ``OFFSET 0`` stops the planner from using an index in the order of
    the tracks, because a scan of that index would read the whole log.
    """
    behind = "" if is_first else "\n      AND (c.track_id > %(after)s) IS TRUE"
    logged = "\n    UNION ALL\n".join(
        f"""    (SELECT c.track_id FROM {log} AS c
      WHERE c.xact_id >= %(begin)s::bigint
      AND c.xact_id < (SELECT pg_snapshot_xmax(new)::text::bigint FROM moment){behind}
      AND pg_visible_in_snapshot(c.xact_id::text::xid8, (SELECT new FROM moment))
      AND NOT pg_visible_in_snapshot(c.xact_id::text::xid8, %(old)s::pg_snapshot) OFFSET 0)"""
        for log in _LOGS
    )
    return _page_sql(f"""
  SELECT {_COLUMNS} FROM audio_tracks AS t WHERE t.id = ANY (ARRAY(
    SELECT DISTINCT logged.track_id FROM (
{logged}
    ) AS logged ORDER BY logged.track_id LIMIT %(limit)s
  ))
""")


_STATEMENTS: Final[Mapping[tuple[bool, bool], tuple[str, Mapping[str, str]]]] = {
    (True, True): (copying_sql(is_first=True), INDEX_ORDER_SETTINGS),
    (True, False): (copying_sql(is_first=False), INDEX_ORDER_SETTINGS),
    (False, True): (changes_sql(is_first=True), GENERIC_PLAN_SETTINGS),
    (False, False): (changes_sql(is_first=False), GENERIC_PLAN_SETTINGS),
}


def update_values(place: FeedPosition, limit: int) -> dict[str, Any]:
    """Return the values of the statement for the page after *place*."""
    return {
        "new": place.new and str(place.new),
        "end": _XIDS - 1 if place.old is None else place.old.behind(place.step),
        "old": place.old and str(place.old),
        "begin": place.old and place.old.xmin,
        "after": place.after,
        "limit": limit,
    }


def read_changes(after: str | None, *, limit: object, timeout: float) -> Operation[ChangePage]:
    """Return the page after the cursor *after*, or raise InvalidInput; *timeout* is in seconds."""
    place = FeedPosition.parse(after)
    size = whole_number(limit, "limit", "changes", most=MAX_TRACKS)
    sql, settings = _STATEMENTS[place.old is None, place.after is None]
    rows = yield PlannedStatement(sql, settings, timeout), update_values(place, size)
    origin, lags, *snapshots = rows[0][: len(_FACTS)]
    present, new = map(Snapshot.parse, snapshots)
    if place.last is not None:
        is_ahead = not present.covers(place.last)
        if origin != place.origin or (is_ahead and not lags):
            raise InvalidInput(_ANOTHER, operation="changes")
        if is_ahead:
            # The reader is ahead of this server, which is a standby, or of this transaction, which began earlier.
            return ChangePage((), place.text(), more=False)
    # A page without tracks has one row with a null id.
    found = [row[_TRACK] for row in rows]
    tracks = tuple(track_of(track) for track in found if track[0] is not None)
    is_full = len(tracks) == size
    is_cut = new != present
    following = place.behind(tracks, new, origin, is_full=is_full, is_cut=is_cut)
    return ChangePage(tracks, following.text(), more=is_full or is_cut)
