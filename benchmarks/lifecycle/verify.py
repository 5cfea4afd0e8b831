"""What must hold after every run: the history, replayed, is what is stored."""

from __future__ import annotations

from typing import Final

from sqlalchemy import URL

from benchmarks.lifecycle.crew import Shift
from benchmarks.search.server import connected

# A history is whole if its versions count from 1 without a gap, each row begins where the one before ended, the last
# one ends in the stored status, and the track's version is their number. What remains to be done stands in the tasks.
_REPLAY: Final = """
WITH steps AS (
  SELECT track_id, version, from_status, to_status, row_number() OVER one AS place, lag(to_status) OVER one AS before
  FROM audio_track_status_changes WINDOW one AS (PARTITION BY track_id ORDER BY version)
), replayed AS (
  SELECT track_id, count(*) AS changes, max(to_status) FILTER (WHERE is_last) AS last,
    bool_and(version = place AND from_status IS NOT DISTINCT FROM before) AS is_whole
  FROM (SELECT *, lead(version) OVER (PARTITION BY track_id ORDER BY version) IS NULL AS is_last FROM steps) AS s
  GROUP BY track_id
)
SELECT count(*) FILTER (WHERE (r.is_whole AND r.last = t.status AND r.changes = t.version) IS NOT TRUE),
  count(*) FILTER (WHERE CASE t.status WHEN 'COMPLETED' THEN k.track_id IS NOT NULL
                         ELSE k.status IS DISTINCT FROM t.status OR coalesce(k.token >> 32 <> t.version, false) END),
  coalesce(sum(r.changes), 0)::bigint
FROM audio_tracks AS t
LEFT JOIN replayed AS r ON r.track_id = t.id LEFT JOIN audio_track_tasks AS k ON k.track_id = t.id
"""
#: Tracks that were completed again although nobody had asked for it.
_DONE_TWICE: Final = """
SELECT count(*) FROM (
  SELECT to_status, lag(to_status) OVER (PARTITION BY track_id ORDER BY version) AS before
  FROM audio_track_status_changes WHERE to_status IN ('PENDING', 'COMPLETED')
) AS ends WHERE to_status = 'COMPLETED' AND before = 'COMPLETED'"""


def history_is_wrong(url: URL, *, changes: int, with_tasks: bool = True) -> list[str]:
    """Return what is wrong with the histories of all tracks, which ought to have *changes* rows together."""
    with connected(url) as connection:
        broken, tasks, found = connection.execute(_REPLAY).fetchone() or (0, 0, 0)
        ((twice,),) = connection.execute(_DONE_TWICE).fetchall()
    wrong = []
    if broken:
        wrong.append(f"{broken:,} tracks whose history, replayed, is not what is stored")
    if tasks and with_tasks:
        wrong.append(f"{tasks:,} tracks whose task is not that of their status")
    if found != changes:
        wrong.append(f"{found:,} rows of the history in place of {changes:,}")
    if twice:
        wrong.append(f"{twice:,} completed twice")
    return wrong


def statuses_are_wrong(url: URL, table: str, expected: dict[str, int]) -> list[str]:
    """Return what is wrong with the numbers of rows of *table* by their status."""
    with connected(url) as connection:
        rows = connection.execute(f"SELECT status::text, count(*) FROM {table} GROUP BY 1".encode()).fetchall()  # noqa: S608
    found = dict(rows)
    return [] if found == {name: count for name, count in expected.items() if count} else [f"{table} holds {found}"]


def given_wrongly(shifts: list[Shift], jobs: int) -> list[str]:
    """Return what is wrong with what the workers were given: each of *jobs* once."""
    given = [id_ for shift in shifts for id_ in shift.ids]
    if len(given) == len(set(given)) == jobs:
        return []
    return [f"{len(given):,} were given, {len(set(given)):,} different ones, in place of {jobs:,}"]


def rows_are_wrong(url: URL, table: str, expected: int) -> list[str]:
    """Return what is wrong with the number of rows of *table*."""
    with connected(url) as connection:
        ((found,),) = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()  # noqa: S608
    return [] if found == expected else [f"{table} holds {found:,} rows in place of {expected:,}"]
