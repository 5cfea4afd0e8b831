"""Those who claim in threads: this package, and bare psycopg by the same functions or by statements of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from itertools import islice
from typing import Any, Final, NamedTuple
from uuid import uuid4

import psycopg

from audiocatalog import Catalog
from audiocatalog.models.claim import Claim
from audiocatalog.models.rows import TRACK_COLUMNS
from audiocatalog.operations.claims import CLAIM, COMPLETE
from benchmarks.lifecycle import crew
from benchmarks.lifecycle.crew import Shift
from benchmarks.lifecycle.moves import connections

BATCH: Final = 10
_LEASE: Final = timedelta(minutes=5)
_VERSION: Final = TRACK_COLUMNS.index("version")
_WARM_CALLS: Final = 20
#: Whoever is given nothing so often in a row goes home: others may hold the last ones for a moment.
MOST_EMPTY_ANSWERS: Final = 3

OURS: Final = "audiocatalog"
SAME: Final = "bare psycopg: our functions"
OWN: Final = "bare psycopg: its own tables and SQL"
#: With completion alone: ten at a time, each completed by itself; and the loop, which also marks each one as begun.
SINGLY: Final = "audiocatalog, each completed by itself"
LOOP: Final = "audiocatalog, a worker's loop"


class Task(NamedTuple):
    """Tell a process what to measure: each of its *workers* claims until *most* are taken, or none is left."""

    contestant: str
    url: str
    workers: int
    complete: bool
    most: int


class Claimer(NamedTuple):
    """Hold what one worker does."""

    warm: Callable[[], object]
    claim: Callable[[], Sequence[Any]]
    complete: Callable[[Sequence[Any]], object]
    id_of: Callable[[Any], Any]


Crew = Callable[[str, int], AbstractContextManager[Callable[[int], Claimer]]]


@contextmanager
def _audiocatalog(url: str, workers: int) -> Iterator[Callable[[int], Claimer]]:
    with Catalog(url, actor="benchmark", pool_size=workers) as catalog:
        claimer = _ours(catalog, lambda: catalog.claim(BATCH, lease=_LEASE))
        yield lambda _: claimer._replace(complete=catalog.complete_many)


@contextmanager
def _each_by_itself(url: str, workers: int) -> Iterator[Callable[[int], Claimer]]:
    with Catalog(url, actor="benchmark", pool_size=workers) as catalog:
        claimer = _ours(catalog, lambda: catalog.claim(BATCH, lease=_LEASE))
        yield lambda _: claimer


@contextmanager
def _loop(url: str, workers: int) -> Iterator[Callable[[int], Claimer]]:
    # Each loop has threads of its own for leases and recovery, which need a connection now and then.
    with Catalog(url, actor="benchmark", pool_size=2 * workers) as catalog:

        def claimer(_: int) -> Claimer:
            claims = iter(catalog.worker(limit=BATCH, lease=_LEASE, until_empty=True))
            return _ours(catalog, lambda: list(islice(claims, 1)))

        yield claimer


def _ours(catalog: Catalog, claim: Callable[[], Sequence[Claim]]) -> Claimer:
    """Return who completes each claim by itself."""
    nobody = uuid4()
    return Claimer(
        warm=lambda: catalog.find(nobody),
        claim=claim,
        complete=lambda claims: [catalog.complete(one) for one in claims],
        id_of=lambda one: one.track.id,
    )


@contextmanager
def _same_functions(url: str, workers: int) -> Iterator[Callable[[int], Claimer]]:
    with connections(url, workers) as found:
        yield lambda number: _bare(found[number], CLAIM.sql, (BATCH, _LEASE, "benchmark", False), _complete_by_function)


@contextmanager
def _own_tables(url: str, workers: int) -> Iterator[Callable[[int], Claimer]]:
    with connections(url, workers) as found:
        yield lambda number: _bare(found[number], _OWN_CLAIM, (BATCH, _LEASE, "benchmark"), _complete_own)


def _bare(
    connection: psycopg.Connection[Any],
    claim: str,
    values: tuple[Any, ...],
    complete: Callable[[psycopg.RawCursor[Any], Sequence[Any]], object],
) -> Claimer:
    cursor = psycopg.RawCursor(connection)
    return Claimer(
        warm=lambda: cursor.execute("SELECT 1").fetchall(),
        claim=lambda: cursor.execute(claim, values).fetchall(),
        complete=lambda rows: complete(cursor, rows),
        id_of=lambda row: row[0],
    )


def _complete_by_function(cursor: psycopg.RawCursor[Any], rows: Sequence[Any]) -> object:
    # By its name: the function's columns are followed by the mark of the transaction.
    place = [column.name for column in cursor.description or ()].index("token")
    ids, tokens = [row[0] for row in rows], [row[place] for row in rows]
    return cursor.execute(COMPLETE.sql, (ids, tokens, [uuid4() for _ in rows], "benchmark", None)).fetchall()


def _complete_own(cursor: psycopg.RawCursor[Any], rows: Sequence[Any]) -> object:
    return cursor.execute(
        _OWN_COMPLETE, ([row[0] for row in rows], [row[_VERSION] for row in rows], "benchmark")
    ).fetchall()


_OWN_CLAIM: Final = f"""
WITH due AS (
  SELECT id FROM benchmark.tracks WHERE status = 'PENDING' AND ready_at <= now()
  ORDER BY ready_at, id LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
), moved AS (
  UPDATE benchmark.tracks AS t SET status = 'PROCESSING', version = t.version + 1, updated_at = now(),
    attempts = t.attempts + 1, expires_at = now() + $2, worker = $3
  FROM due WHERE t.id = due.id
  RETURNING t.*
), logged AS (
  INSERT INTO benchmark.history (track_id, version, from_status, to_status, actor, attempt)
  SELECT id, version, 'PENDING', 'PROCESSING', $3, attempts FROM moved
)
SELECT {", ".join(TRACK_COLUMNS)}, attempts, expires_at FROM moved"""  # noqa: S608 - constants of ours.
_OWN_COMPLETE: Final = """
WITH moved AS (
  UPDATE benchmark.tracks AS t SET status = 'COMPLETED', version = t.version + 1, updated_at = now(),
    expires_at = NULL, worker = NULL
  FROM unnest($1::uuid[], $2::integer[]) AS asked (id, token)
  WHERE t.id = asked.id AND t.version = asked.token AND t.status = 'PROCESSING' AND t.expires_at > now()
  RETURNING t.id, t.version, t.attempts
)
INSERT INTO benchmark.history (track_id, version, from_status, to_status, actor, attempt)
SELECT id, version, 'PROCESSING', 'COMPLETED', $3, attempts FROM moved
RETURNING track_id, version, from_status, to_status, actor, attempt, at"""

CREWS: Final[dict[str, Crew]] = {
    OURS: _audiocatalog,
    SAME: _same_functions,
    OWN: _own_tables,
    SINGLY: _each_by_itself,
    LOOP: _loop,
}


def claim_all(task: Task) -> list[Shift]:
    """Claim in threads, and complete if that is asked; the body of a process."""
    with CREWS[task.contestant](task.url, task.workers) as claimers:

        def work(number: int, start: Callable[[], object]) -> Shift:
            claimer = claimers(number)
            for _ in range(_WARM_CALLS):
                claimer.warm()
            start()
            return _drain(claimer, complete=task.complete, most=task.most)

        return crew.in_threads(task.workers, work)


def _drain(claimer: Claimer, *, complete: bool, most: int) -> Shift:
    shift = Shift(time.monotonic(), [], [])
    empty = 0
    while len(shift.ids) < most and empty < MOST_EMPTY_ANSWERS:
        claims = claimer.claim()
        if not claims:
            empty += 1
            continue
        empty = 0
        if complete:
            claimer.complete(claims)
        shift.ends.append(time.monotonic())
        shift.ids.extend(claimer.id_of(claim) for claim in claims)
    return shift
