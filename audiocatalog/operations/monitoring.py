"""The state of the tracks, the server, its schema, and this process's pool, for operators and probes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from audiocatalog.models.base import status_of
from audiocatalog.models.sql_names import SCHEMA_REVISION, VERSION_TABLE
from audiocatalog.operations.operation import Operation, Statement
from audiocatalog.status import TrackStatus

#: Expired leases are counted up to this number: a probe must not scan a table.
MAX_STUCK: Final = 1000
#: Count all tracks, and the unfinished ones by their status.
COUNT_BY_STATUS: Final = Statement("""
SELECT status::text, count(*), least(min(since), now()) FROM audio_track_tasks GROUP BY status
UNION ALL SELECT NULL, count(*), NULL FROM audio_tracks
""")
_HEALTH: Final = f"""
SELECT current_setting('server_version'), current_setting('server_encoding'), pg_is_in_recovery(),
  (SELECT version_num FROM {VERSION_TABLE}),
  (SELECT greatest(extract(epoch FROM clock_timestamp() - max(at)), 0)::float8 FROM audio_search_counts
   HAVING max(at) IS NOT NULL),
  """
HEALTH_WITH_CLAIMS: Final = Statement(
    f"{_HEALTH}(SELECT count(*) FROM (SELECT 1 FROM audio_track_tasks WHERE expires_at <= now() "
    f"LIMIT {MAX_STUCK}) AS t)"
)
HEALTH_WITHOUT_CLAIMS: Final = Statement(f"{_HEALTH}NULL")


class StatusCount(NamedTuple):
    """
    The number of *tracks* in a *status*.

    *oldest*: when the longest-waiting track entered this status; None for COMPLETED.
    """

    status: TrackStatus
    tracks: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class PoolStats:
    """
    The state of a pool; times are in seconds.

    - *size*: the maximum number of connections
    - *connections*: the number of open connections
    - *in_use*: the number of connections that are checked out
    - *waiting*: the number of callers in the queue
    - *wait_p50*, *wait_p99*: the median and the 99th percentile of the latest 1,000 waits; None before a checkout
    - *oldest_held*: the time since the oldest checkout that has not ended; None if no connection is checked out
    - *oldest_holder*: the thread of that checkout, and with ``debug_pool`` the line of code
    - *searching*: the number of connections that searches use
    - *most_searches*: the maximum number of connections that searches may use
    """

    size: int
    connections: int
    in_use: int
    waiting: int
    wait_p50: float | None
    wait_p99: float | None
    oldest_held: float | None
    oldest_holder: str | None
    searching: int
    most_searches: int


@dataclass(frozen=True, slots=True)
class Health:
    """
    The state of the server, its schema, the work in it, and the pool; times are in seconds.

    - *server_version*, *server_encoding*, *is_standby*: facts about the server
    - *schema_revision*: the database's revision
    - *expected_revision*: the revision that this code expects
    - *vocabulary_age*: the age of the spelling vocabulary; None if the words were never counted
    - *stuck_claims*: the number of expired leases, at most 1,000; None if the role may not read claims
    - *pool*: this process's connections
    """

    server_version: str
    server_encoding: str
    is_standby: bool
    schema_revision: str
    expected_revision: str
    vocabulary_age: float | None
    stuck_claims: int | None
    pool: PoolStats


def count_by_status() -> Operation[list[StatusCount]]:
    """Return how many tracks are in each status, in the order of ``TrackStatus``."""
    rows = yield COUNT_BY_STATUS, ()
    unfinished = {name: StatusCount(status_of(name), *rest) for name, *rest in rows if name is not None}
    (total,) = (tracks for name, tracks, _ in rows if name is None)
    done = total - sum(count.tracks for count in unfinished.values())
    found = {TrackStatus.COMPLETED: StatusCount(TrackStatus.COMPLETED, done, None)} | unfinished
    return [found.get(status, StatusCount(status, 0, None)) for status in TrackStatus]


def health(pool: Callable[[], PoolStats], *, with_claims: bool) -> Operation[Health]:
    """
    Return the state of the server, and the state of the pool that *pool* returns.

    Raises:
        PermissionDenied: the role may not count claims; call again without *with_claims*.
    """
    row: tuple[Any, ...]
    (row,) = yield HEALTH_WITH_CLAIMS if with_claims else HEALTH_WITHOUT_CLAIMS, ()
    version, encoding, is_standby, revision, vocabulary_age, stuck_claims = row
    return Health(
        server_version=version,
        server_encoding=encoding,
        is_standby=is_standby,
        schema_revision=revision,
        expected_revision=SCHEMA_REVISION,
        vocabulary_age=vocabulary_age,
        stuck_claims=stuck_claims,
        pool=pool(),
    )
