"""
The online rebuild of the search vectors, for a new version of their functions (docs/adr/0013).

The table has two columns for vectors. A revision assigns the functions of the new version to the unused column. From
then on, every written row gets a vector in this column. The rebuild runs an UPDATE that changes no value on the older
rows, in small batches, so that PostgreSQL computes their vectors. Then it builds the indexes. After an interrupt, run
the rebuild again: it finds the remaining rows in the table itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

import psycopg
from sqlalchemy import URL

from audiocatalog.db.connector import check_server
from audiocatalog.db.error_translation import translated
from audiocatalog.db.execute import run
from audiocatalog.db.settings import parse_url
from audiocatalog.db.transaction import driver_connection
from audiocatalog.errors import TransientConflict
from audiocatalog.migrations.migrator import LOCK_KEY, connected
from audiocatalog.migrations.vector_columns import Vector, VectorPlan, read_value, read_vectors
from audiocatalog.operations.advisory_locks import holder_of

#: The lock of the rebuilding session. Migrations may run meanwhile, except while the session builds or drops an index.
_REBUILD_KEY: Final = LOCK_KEY + 2
_POLL_INTERVAL: Final = 0.2
#: The number of tracks that a rebuild reads at a time, without a lock, before it fills those that need a vector.
_WINDOW: Final = 8192
#: The rebuild fills every fourth track, then the tracks after these, and so on. Neighbours share a page, and each
#: update leaves an old row version on the page until its transaction ends. With this stride, later updates find room on
#: the page, so they do not write to the indexes.
_STRIDE: Final = 4
# A batch blocks writers of its tracks for its whole duration.
_BATCH_SECONDS: Final = 0.04
_SMALLEST_BATCH: Final = 20
_LARGEST_BATCH: Final = 2000
_SHORTEST_PAUSE: Final = 2.0**-7
_LONGEST_PAUSE: Final = 1.0
_LAST_ID: Final = UUID(int=2**128 - 1)
# No other session queues behind the locks of a rebuild, so it has no timeouts. The next run repeats a batch that was
# lost in a crash, so a commit need not wait for the disk while it holds locks. With the last setting, the session stops
# an index build after its client was killed.
_PREPARE_SESSION: Final = """
SELECT set_config(name, value, false)
FROM (VALUES ('lock_timeout', '0'), ('statement_timeout', '0'), ('transaction_timeout', '0'), ('jit', 'off'),
             ('idle_session_timeout', '0'), ('default_transaction_isolation', 'read committed'),
             ('default_transaction_read_only', 'off'), ('synchronous_commit', 'off'), ('enable_seqscan', 'off'),
             ('enable_bitmapscan', 'off'), ('client_connection_check_interval', '1s')) AS wanted (name, value)
JOIN pg_settings USING (name)
WHERE name <> 'client_connection_check_interval' OR version() !~* 'windows|visual c|mingw'"""
# The transactions that write the table: a running statement may still use a function that was replaced meanwhile.
_WRITERS: Final = """
SELECT virtualtransaction FROM pg_locks
WHERE locktype = 'relation' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND relation = 'audio_tracks'::regclass
  AND mode NOT IN ('AccessShareLock', 'RowShareLock', 'ShareUpdateExclusiveLock')
  AND pid IS DISTINCT FROM pg_backend_pid()"""


class RebuildStep(NamedTuple):
    """The current *step*, and the number of processed *tracks*, or None if the step processes no tracks."""

    step: str
    tracks: int | None = None


_Report = Callable[[RebuildStep], None]


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """The result for one column: numbers of tracks read and *filled*, names of indexes, and the duration in seconds."""

    column: str
    tracks: int
    filled: int
    dropped: Sequence[str]
    built: Sequence[str]
    seconds: float


def plan_rebuild(url: str | URL, *, everything: bool = False) -> list[VectorPlan]:
    """
    Return a plan for each column of vectors that ``rebuild`` would change in the database at *url*; change nothing.

    With *everything*, the plans include columns that are complete.

    Raises:
        SchemaMismatch: the database holds no audiocatalog schema.
        ConfigurationError: the URL is wrong.
        DatabaseUnavailable: the server cannot be reached.
    """
    with _session(parse_url(url)) as driver, translated("rebuild"):
        return [vector.plan() for vector in read_vectors(driver) if everything or not vector.is_complete()]


def rebuild(
    url: str | URL,
    *,
    everything: bool = False,
    rate: float | None = None,
    timeout: float = 300.0,
    report: _Report = lambda _: None,
) -> list[Rebuilt]:
    """
    Fill each column of vectors with its current functions, and build its indexes, while services work.

    - *everything*: whether to check complete columns too.
    - *rate*: the maximum number of tracks per second; None for no limit.
    - *timeout*: the seconds to wait for other rebuilds and upgrades. The wait for transactions that hold tracks or are
      older than an index has no timeout.
    - *report*: called with the progress after each step and after each 8192 tracks.

    Readers are not blocked, and a writer of a track that is being filled waits for about 40 ms. An interrupted rebuild
    continues when it is run again.

    The URL must name the owner of the tables, and lead to the server itself, not to a pooler.

    Raises:
        ConfigurationError: the URL is wrong.
        PermissionDenied: the role of *url* does not own the tables.
        SchemaMismatch: the database holds no audiocatalog schema, or was upgraded meanwhile.
        TransientConflict: another rebuild or an upgrade is running.
        DatabaseUnavailable: the server cannot be reached, or the connection was lost.

    >>> rebuild("postgresql://owner@localhost/music")  # doctest: +SKIP
    """
    with _session(parse_url(url)) as driver, translated("rebuild"), _holding(driver, _REBUILD_KEY, timeout):
        vectors = [vector for vector in read_vectors(driver) if everything or not vector.is_complete()]
        return [_rebuilt(vector, rate, timeout, report) for vector in vectors]


def _rebuilt(vector: Vector, rate: float | None, timeout: float, report: _Report) -> Rebuilt:
    """Do the remaining work for one column."""
    driver, begin = vector.driver, time.monotonic()
    report(RebuildStep("waiting for transactions that write tracks"))
    _await_writers(driver)
    dropped = vector.to_drop()
    for name in dropped:
        report(RebuildStep(f"dropping {name}"))
        with _holding(driver, LOCK_KEY, timeout):
            driver.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    tracks = filled = 0
    pace = _Pace(rate)
    for window in _windows(driver, vector.differs):
        filled += _fill(vector, window.due, pace, report)
        tracks += window.tracks
        report(RebuildStep(f"{'emptying' if vector.is_spare else 'filling'} {vector.column}", tracks))
    built = vector.to_build()
    for name in built:
        report(RebuildStep(f"building {name}"))
        with _holding(driver, LOCK_KEY, timeout):
            driver.execute(vector.index_sql(name))
    report(RebuildStep("collecting statistics"))
    driver.execute("ANALYZE audio_tracks")
    return Rebuilt(vector.column, tracks, filled, dropped, built, time.monotonic() - begin)


class _Window(NamedTuple):
    """A number of consecutive *tracks*, and the ids of the tracks that are *due*."""

    tracks: int
    due: list[UUID]


def _windows(driver: psycopg.Connection[Any], differs: str) -> Iterator[_Window]:
    first: UUID | None = UUID(int=0)
    while first is not None:
        rows = driver.execute(
            f"SELECT id, {differs} FROM audio_tracks WHERE id >= %s ORDER BY id LIMIT {_WINDOW}", [first]
        ).fetchall()
        due = [track for track, is_due in rows if is_due]
        yield _Window(len(rows), [track for start in range(_STRIDE) for track in due[start::_STRIDE]])
        is_last = len(rows) < _WINDOW or rows[-1][0] == _LAST_ID
        first = None if is_last else UUID(int=rows[-1][0].int + 1)


class _Pace:
    """The adaptive size of batches, and the pauses for a maximum rate."""

    def __init__(self, rate: float | None) -> None:
        self._size = _SMALLEST_BATCH
        self._rate = rate

    def batches(self, due: Sequence[UUID]) -> Iterator[Sequence[UUID]]:
        """Yield batches of the tracks that are *due*; the size follows the measured duration of each batch."""
        start = 0
        while start < len(due):
            batch = due[start : start + self._size]
            begin = time.monotonic()
            yield batch
            seconds = time.monotonic() - begin
            fitting = int(len(batch) * _BATCH_SECONDS / max(seconds, 1e-6))
            self._size = max(_SMALLEST_BATCH, min(fitting, 2 * self._size, _LARGEST_BATCH))
            start += len(batch)
            if self._rate is not None:
                time.sleep(max(0.0, len(batch) / self._rate - seconds))


def _fill(vector: Vector, due: list[UUID], pace: _Pace, report: _Report) -> int:
    """Fill the tracks that are *due*, retry locked tracks with backoff, and return the number of filled tracks."""
    filled, pause = 0, _SHORTEST_PAUSE
    while due:
        left = set(due)
        for batch in pace.batches(due):
            left -= vector.compute(batch)
        filled += len(due) - len(left)
        due = vector.due_among(left)
        if due:
            if pause == _LONGEST_PAUSE:
                report(RebuildStep("waiting for transactions that hold tracks"))
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
    return filled


def _await_writers(driver: psycopg.Connection[Any]) -> None:
    """
    Wait for the transactions that may still write tracks with functions that were replaced.

    Later transactions use the new functions.
    """
    writers = {transaction for (transaction,) in driver.execute(_WRITERS)}
    while writers := writers & {transaction for (transaction,) in driver.execute(_WRITERS)}:
        time.sleep(_POLL_INTERVAL)


@contextmanager
def _session(url: URL) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection in autocommit mode, without the timeouts of a service."""
    with connected(url) as connection:
        driver = driver_connection(connection)
        with translated("rebuild"):
            check_server(driver)
            driver.execute(_PREPARE_SESSION)
        yield driver


@contextmanager
def _holding(driver: psycopg.Connection[Any], key: int, timeout: float) -> Iterator[None]:
    """
    Hold an advisory lock in the session that does the work, because the session may go on after its client has died.

    The session polls for the lock, because a wait inside the server would deadlock with another session's concurrent
    index build.
    """
    deadline = time.monotonic() + timeout
    while not read_value(driver, f"SELECT pg_try_advisory_lock({key})"):
        if time.monotonic() > deadline:
            holder = run(driver, holder_of(key), "rebuild")
            raise TransientConflict(
                f"another rebuild or an upgrade has been running for {timeout:g} s: {holder} holds the lock; wait "
                "until that process has released the lock, or end that process",
                operation="rebuild",
            )
        time.sleep(_POLL_INTERVAL)
    try:
        yield
    finally:
        if not driver.closed:
            driver.execute(f"SELECT pg_advisory_unlock({key})")
