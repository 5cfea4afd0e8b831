"""Transitions a second where nobody is in the way of anybody: each thread has its own tracks."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Final, NamedTuple
from uuid import UUID

import psycopg

from audiocatalog import Catalog, TrackStatus
from audiocatalog.operations.moves import MOVE
from audiocatalog.operations.moves import Move as CheckedMove
from benchmarks import absent
from benchmarks.lifecycle import crew, orm, verify
from benchmarks.lifecycle.crew import Shift
from benchmarks.lifecycle.load import ids_of, waiting_tracks
from benchmarks.lifecycle.server import LifecycleServer
from benchmarks.search.load import say
from benchmarks.search.server import libpq

TEMPLATE: Final = "lifecycle_moves"
THREADS: Final = 8
#: So many tracks of each thread are moved before the clock runs: connections, plans and caches are there then.
_WARM_TRACKS: Final = 20

#: Move the track of an id from a status to another one.
Move = Callable[[UUID, TrackStatus, TrackStatus], object]
#: Give each thread, by its number, its way to move tracks.
Mover = Callable[[str, int], AbstractContextManager[Callable[[int], Move]]]

#: The least that moves a track and says so: its caller knows the status, and nothing else is kept.
BARE_MOVE: Final = """
WITH moved AS (
  UPDATE audio_tracks SET status = $2, version = version + 1, updated_at = now()
  WHERE id = $1 AND status = $3
  RETURNING id, version
)
INSERT INTO audio_track_status_changes (track_id, version, from_status, to_status, actor)
SELECT id, version, $3, $2, $4 FROM moved RETURNING track_id, version, at"""


class Task(NamedTuple):
    """Tell a process what to measure."""

    contestant: str
    url: str
    tracks: int


@contextmanager
def _audiocatalog(url: str, threads: int) -> Iterator[Callable[[int], Move]]:
    with Catalog(url, actor="benchmark", pool_size=threads) as catalog:
        yield lambda _: lambda id_, _before, to: catalog.update_status(id_, to)


@contextmanager
def _unit_of_work(url: str, threads: int) -> Iterator[Callable[[int], Move]]:
    with Catalog(url, actor="benchmark", pool_size=threads) as catalog:

        def move(id_: UUID, _before: TrackStatus, to: TrackStatus) -> object:
            with catalog.unit_of_work() as work:
                return work.update_status(id_, to)

        yield lambda _: move


@contextmanager
def connections(url: str, count: int) -> Iterator[list[psycopg.Connection[Any]]]:
    """Give *count* connections of psycopg's own, in autocommit, every statement prepared."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(psycopg.connect(libpq(url), autocommit=True, prepare_threshold=0)) for _ in range(count)
        ]


@contextmanager
def _same_statement(url: str, threads: int) -> Iterator[Callable[[int], Move]]:
    with connections(url, threads) as found:
        yield lambda number: _bare_statement(found[number])


@contextmanager
def _same_statement_in_transaction(url: str, threads: int) -> Iterator[Callable[[int], Move]]:
    with connections(url, threads) as found:
        yield lambda number: _in_transaction(found[number], _bare_statement(found[number]))


@contextmanager
def _two_tables(url: str, threads: int) -> Iterator[Callable[[int], Move]]:
    with connections(url, threads) as found:
        yield lambda number: _bare_two_tables(found[number])


@contextmanager
def _two_tables_in_transaction(url: str, threads: int) -> Iterator[Callable[[int], Move]]:
    with connections(url, threads) as found:
        yield lambda number: _in_transaction(found[number], _bare_two_tables(found[number]))


def _bare_statement(connection: psycopg.Connection[Any]) -> Move:
    cursor = psycopg.RawCursor(connection)

    def move(id_: UUID, _before: TrackStatus, to: TrackStatus) -> object:
        values = CheckedMove(to, "benchmark", None).values(id_)
        return cursor.execute(MOVE.sql, values).fetchone()

    return move


def _bare_two_tables(connection: psycopg.Connection[Any]) -> Move:
    cursor = psycopg.RawCursor(connection)

    def move(id_: UUID, before: TrackStatus, to: TrackStatus) -> object:
        row = cursor.execute(BARE_MOVE, (id_, str(to), str(before), "benchmark")).fetchone()
        if row is None:
            raise RuntimeError(f"{id_} was not {before}")
        return row

    return move


def _in_transaction(connection: psycopg.Connection[Any], inner: Move) -> Move:
    def move(id_: UUID, before: TrackStatus, to: TrackStatus) -> object:
        with connection.transaction():
            return inner(id_, before, to)

    return move


OURS: Final = "audiocatalog: update_status"
OURS_IN_UNIT: Final = "audiocatalog: update_status in a unit of work"
BARE: Final = "bare psycopg: two tables, status known"
BARE_IN_TRANSACTION: Final = "bare psycopg: two tables, in a transaction"
SAME: Final = "bare psycopg: our statement"
SAME_IN_TRANSACTION: Final = "bare psycopg: our statement, in a transaction"
ORM: Final = "SQLAlchemy ORM: read for update, check, write"
MOVERS: Final[dict[str, Mover]] = {
    OURS: _audiocatalog,
    SAME: _same_statement,
    BARE: _two_tables,
    OURS_IN_UNIT: _unit_of_work,
    SAME_IN_TRANSACTION: _same_statement_in_transaction,
    BARE_IN_TRANSACTION: _two_tables_in_transaction,
    ORM: orm.mover,
}
#: They keep no tasks, for they write two tables alone.
_WITHOUT_TASKS: Final = {BARE, BARE_IN_TRANSACTION, ORM}
_STEPS: Final = ((TrackStatus.PENDING, TrackStatus.PROCESSING), (TrackStatus.PROCESSING, TrackStatus.COMPLETED))


def move_all(task: Task) -> list[Shift]:
    """Move the tracks from PENDING to COMPLETED, in threads; the body of a process."""
    warm_ones = THREADS * _WARM_TRACKS
    ids = ids_of(task.url, task.tracks + warm_ones)
    with MOVERS[task.contestant](task.url, THREADS) as mover:

        def work(number: int, start: Callable[[], object]) -> Shift:
            move = mover(number)
            for id_ in ids[number:warm_ones:THREADS]:
                for before, to in _STEPS:
                    move(id_, before, to)
            mine, ends = ids[warm_ones + number :: THREADS], []
            start()
            begun = time.monotonic()
            for id_ in mine:
                for before, to in _STEPS:
                    move(id_, before, to)
                    ends.append(time.monotonic())
            return Shift(begun, ends, mine)

        return crew.in_threads(THREADS, work)


def measure(server: LifecycleServer, *, tracks: int, runs: int) -> dict[str, Any]:
    """Return the transitions a second of each contestant."""
    total = tracks + THREADS * _WARM_TRACKS
    waiting_tracks(server, TEMPLATE, total)
    systems: dict[str, Any] = {name: {"rates": [], "us": [], "wrong": []} for name in MOVERS}
    order = list(MOVERS)
    for run in range(runs):
        for name in filter(absent.is_present, order):
            url = server.fresh(TEMPLATE)
            with absent.attempted(name):
                shifts = crew.run(move_all, [Task(name, url.render_as_string(hide_password=False), tracks)])
                found = systems[name]
                found["rates"].append(crew.rate(shifts, 2 * tracks))
                found["us"].append(1e6 * statistics.median(_seconds(shifts)))
                found["wrong"] += verify.history_is_wrong(url, changes=3 * total, with_tasks=name not in _WITHOUT_TASKS)
                found["wrong"] += verify.statuses_are_wrong(url, "audio_tracks", {"COMPLETED": total})
                say(f"transitions {run + 1}/{runs}: {name}: {found['rates'][-1]:,.0f} a second {found['wrong'] or ''}")
        order.append(order.pop(0))  # Nobody is always the first, or right after the same other one.
    present = {name: found for name, found in systems.items() if absent.is_present(name)}
    return {"tracks": tracks, "threads": THREADS, "runs": runs, "systems": present}


def _seconds(shifts: list[Shift]) -> list[float]:
    return [
        end - begun for shift in shifts for begun, end in zip([shift.begun, *shift.ends[:-1]], shift.ends, strict=True)
    ]
