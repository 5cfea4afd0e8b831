"""Recent activity and the work in progress, for operators.

One statement with several parts reads both; the first column of each row names the part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from audiocatalog.errors import InvalidInput, Problem
from audiocatalog.models.arguments import whole_number
from audiocatalog.models.redaction import discreet
from audiocatalog.operations.operation import Operation, Statement

_SHORTEST: Final = timedelta(seconds=1)
_LONGEST: Final = timedelta(days=366)
#: The maximum number of buckets.
MAX_BUCKETS: Final = 1000
#: Durations are measured on at most this many of the latest changes, because each also needs the previous change.
MAX_MEASURED: Final = 10_000
_MAX_REASONS: Final = 10
_MAX_WORKERS: Final = 100

#: Read the activity of the last $1 seconds, in $2 parts of equal length, and the work in progress. The index on the
#: time of changes finds the changes. $1 is in seconds, because the length of a day depends on the session's time zone.
ACTIVITY: Final = Statement(f"""
WITH counted AS MATERIALIZED (
  SELECT least($2 - 1, floor(extract(epoch FROM at - now() + $1 * interval '1 second') * $2 / $1))::integer AS place,
    to_status, CASE WHEN to_status <> 'COMPLETED' THEN reason::text END AS reason, count(*) AS changes
  FROM audio_track_status_changes
  WHERE at >= now() - $1::double precision * interval '1 second'
    AND (
      to_status IN ('COMPLETED', 'FAILED')
      OR (from_status = 'PROCESSING' AND to_status = 'PENDING' AND attempt IS NOT NULL)
    )
  GROUP BY 1, 2, 3
), latest AS (
  SELECT track_id, version, from_status, at FROM audio_track_status_changes
  WHERE at >= now() - $1::double precision * interval '1 second'
    AND (from_status = 'PROCESSING' OR (from_status = 'PENDING' AND to_status = 'PROCESSING'))
  ORDER BY at DESC, track_id DESC, version DESC LIMIT {MAX_MEASURED}
), stays AS (
  SELECT from_status, greatest(extract(epoch FROM at - before), 0)::double precision AS seconds
  FROM (
    SELECT track_id, version, from_status, at, lag(at) OVER (PARTITION BY track_id ORDER BY version) AS before
    FROM audio_track_status_changes WHERE track_id IN (SELECT track_id FROM latest)
  ) AS every JOIN latest USING (track_id, version, from_status, at)
  WHERE before IS NOT NULL
)
SELECT 'until' AS kind, NULL::text COLLATE "C" AS label, NULL::bigint AS number, now() AS at,
  NULL::double precision[] AS seconds
UNION ALL
SELECT 'task', label, number, NULL, NULL
FROM (
  SELECT count(*) FILTER (WHERE ready_at <= now() OR (ready_at IS NOT NULL AND since > clock.at)) AS waiting,
    count(*) FILTER (WHERE ready_at > now() AND since <= clock.at) AS delayed,
    count(*) FILTER (WHERE status = 'PROCESSING' AND token IS NOT NULL) AS claimed,
    count(*) FILTER (WHERE expires_at <= now()) AS expired,
    count(*) FILTER (WHERE status = 'PROCESSING' AND token IS NULL) AS unclaimed
  FROM audio_track_tasks CROSS JOIN (SELECT clock_timestamp() AS at) AS clock
) AS tasks
CROSS JOIN LATERAL (
  VALUES ('waiting', waiting), ('delayed', delayed), ('claimed', claimed), ('expired', expired),
    ('unclaimed', unclaimed)
) AS one (label, number)
UNION ALL
(
  SELECT 'worker', worker::text, count(*), least(min(since), now()), NULL
  FROM audio_track_tasks WHERE status = 'PROCESSING' AND token IS NOT NULL
  GROUP BY worker ORDER BY count(*) DESC, worker COLLATE "C" LIMIT {_MAX_WORKERS}
)
UNION ALL
SELECT to_status, place::text, sum(changes)::bigint, NULL, NULL FROM counted GROUP BY place, to_status
UNION ALL
(
  SELECT 'reason', reason, sum(changes)::bigint, NULL, NULL FROM counted WHERE reason IS NOT NULL
  GROUP BY reason ORDER BY sum(changes) DESC, reason COLLATE "C" LIMIT {_MAX_REASONS}
)
UNION ALL
SELECT 'stay', from_status, count(*), NULL, percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY seconds)
FROM stays GROUP BY from_status
ORDER BY kind, number DESC, label
""")


@dataclass(frozen=True, slots=True)
class ActivityBucket:
    """
    The changes in one part of the period.

    - *start*: the beginning of the part
    - *completed*: tracks that became COMPLETED
    - *failed*: tracks that became FAILED
    - *retried*: failed tries of tracks that wait for a retry
    """

    start: datetime
    completed: int
    failed: int
    retried: int


@dataclass(frozen=True, slots=True)
class WorkerLoad:
    """The claims of a *worker*: the number of *tracks*, and the time of the *oldest* claim."""

    worker: str
    tracks: int
    oldest: datetime

    __repr__ = discreet


@dataclass(frozen=True, slots=True)
class FailureReason:
    """The *reason* of failures or failed tries, and the number of *changes* with this reason."""

    reason: str
    changes: int

    __repr__ = discreet


@dataclass(frozen=True, slots=True)
class DurationStats:
    """The time that *tracks* stayed in a status: the *median* and the 95th percentile, *p95*."""

    tracks: int
    median: timedelta
    p95: timedelta


@dataclass(frozen=True, slots=True)
class Activity:
    """
    The activity from *since* to *until*, and the work in progress at *until*.

    - *buckets*: the parts of this period, of equal length
    - *waiting*: tracks that may be claimed now
    - *delayed*: tracks that wait for their next retry
    - *claimed*: tracks with a claim, whether the work on them has begun or not
    - *expired*: tracks whose lease has expired; ``release_expired`` releases these tracks
    - *unclaimed*: tracks in PROCESSING without a claim, which stay there until a caller moves them
    - *workers*: at most 100 workers with claims, those with the most claims first
    - *failures*: the ten most frequent reasons of failures
    - *time_pending*: how long tracks waited for a worker, measured on the 10,000 latest changes; None if no track
      has waited
    - *time_processing*: how long tracks were PROCESSING, measured on the same changes; None if no change shows it
    """

    since: datetime
    until: datetime
    buckets: tuple[ActivityBucket, ...]
    waiting: int
    delayed: int
    claimed: int
    expired: int
    unclaimed: int
    workers: tuple[WorkerLoad, ...]
    failures: tuple[FailureReason, ...]
    time_pending: DurationStats | None
    time_processing: DurationStats | None

    __repr__ = discreet


def activity(since: object, buckets: object) -> Operation[Activity]:
    """Return the activity of the last *since*, a timedelta, in *buckets* parts, or raise InvalidInput."""
    if not isinstance(since, timedelta) or not _SHORTEST <= since <= _LONGEST:
        raise InvalidInput(Problem("since", "a timedelta from 1 second to 366 days"), operation="activity")
    count = whole_number(buckets, "buckets", "activity", most=MAX_BUCKETS)
    return _activity_of((yield ACTIVITY, (since.total_seconds(), count)), since, count)


def _activity_of(rows: Sequence[tuple[Any, ...]], since: timedelta, buckets: int) -> Activity:
    """Return the activity in the rows of ``ACTIVITY``."""
    by_kind: dict[str, list[tuple[Any, ...]]] = {}
    for kind, *values in rows:
        by_kind.setdefault(kind, []).append(tuple(values))
    ((_, _, until, _),) = by_kind["until"]
    counts = {
        kind: {int(place): number for place, number, *_ in by_kind.get(kind, ())}
        for kind in ("COMPLETED", "FAILED", "PENDING")
    }
    tasks = {label: number for label, number, *_ in by_kind["task"]}
    stays = {
        label: DurationStats(number, timedelta(seconds=seconds[0]), timedelta(seconds=seconds[1]))
        for label, number, _, seconds in by_kind.get("stay", ())
    }
    begin = until - since
    return Activity(
        since=begin,
        until=until,
        buckets=tuple(
            ActivityBucket(
                begin + since * place / buckets,
                *(counts[kind].get(place, 0) for kind in ("COMPLETED", "FAILED", "PENDING")),
            )
            for place in range(buckets)
        ),
        **tasks,
        workers=tuple(WorkerLoad(worker, number, at) for worker, number, at, _ in by_kind.get("worker", ())),
        failures=tuple(FailureReason(reason, number) for reason, number, *_ in by_kind.get("reason", ())),
        time_pending=stays.get("PENDING"),
        time_processing=stays.get("PROCESSING"),
    )
