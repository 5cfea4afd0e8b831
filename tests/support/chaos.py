"""Chaos: writers at work while their server is killed under them, and an account of what they were told.

A writer notes what it was told, and nothing else: what is noted must be stored, and what is stored, noted.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import dict_row

from audiocatalog import TRANSITIONS, Catalog, Claim, TrackMetadata, TrackRecord, TrackStatus, UnitOfWork, errors
from tests.support.databases import libpq
from tests.support.lifecycle import DISAGREEMENTS
from tests.support.servers import Server

PENDING, PROCESSING, COMPLETED, _ = TrackStatus
_Result = TypeVar("_Result")

#: A caller's patience, in seconds.
DEADLINE: Final = 20.0
NAME: Final = "chaos"
_ENDED: Final = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = %s AND pid <> pg_backend_pid()"
    " ORDER BY random() LIMIT %s"
)
_TRACKS: Final = "SELECT id, title, status::text, version, audio_path FROM audio_tracks"
_CHANGES: Final = (
    "SELECT track_id, version, from_status::text, to_status::text, actor, operation_id"
    " FROM audio_track_status_changes ORDER BY track_id, version"
)


@dataclass
class Account:
    """What the writers were told, and what went wrong."""

    #: The title that each track ought to have.
    titles: dict[UUID, str] = field(default_factory=dict)
    #: The versions that each track got by moves, with where it went and the operation that it was.
    moves: dict[UUID, list[tuple[int, str, UUID | None]]] = field(default_factory=dict)
    acknowledged: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    def saved(self, identifier: UUID, title: str, first: TrackStatus) -> None:
        self.titles[identifier] = title
        self.moves[identifier] = [(1, str(first), None)]

    def moved(self, identifier: UUID, version: int, to: TrackStatus, operation: UUID | None = None) -> None:
        self.moves[identifier].append((version, str(to), operation))


class Writers:
    """Eight threads, each in its own way, on one catalogue."""

    def __init__(self, catalog: Catalog) -> None:
        self.account = Account()
        self._catalog = catalog
        #: Set when no new work comes; then what is left is done.
        self._closing = threading.Event()
        jobs = [self._save, self._save, self._save_anew, self._replace, self._move, self._load, self._work, self._work]
        self._threads = [threading.Thread(target=self._repeat, args=[job]) for job in jobs]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Let every writer end what it is at, and the workers all that is left."""
        self._closing.set()
        for thread in self._threads:
            thread.join(120)
            assert not thread.is_alive()

    def _repeat(self, job: Callable[[], bool]) -> None:
        while not self._closing.is_set() or job == self._work:
            try:
                idle = job()
            except Exception as error:  # noqa: BLE001  # Whatever a caller sees is a failure.
                self.account.failures.append(f"{job.__name__}: {error!r}")
                return
            if idle and self._closing.is_set():
                return

    def _run(self, name: str, unit: Callable[[UnitOfWork], _Result]) -> _Result:
        return self._timed(name, lambda: self._catalog.run(unit, deadline=DEADLINE))

    def _timed(self, name: str, call: Callable[[], _Result]) -> _Result:
        begun = time.monotonic()
        result = call()
        self.account.slowest = max(self.account.slowest, time.monotonic() - begun)
        self.account.acknowledged[name] += 1
        return result

    def _save(self) -> bool:
        """Save a track under an id, and move it on with operations."""
        identifier, operations = uuid4(), [uuid4(), uuid4()]
        title = f"saved {identifier}"

        def begin(work: UnitOfWork) -> None:
            work.save(TrackMetadata(title=title), audio_path="a", id=identifier, status=PENDING)
            work.update_status(identifier, PROCESSING, operation_id=operations[0])

        self._run("save and move", begin)
        self.account.saved(identifier, title, PENDING)
        self.account.moved(identifier, 2, PROCESSING, operations[0])
        end = self._run("move", lambda work: work.update_status(identifier, COMPLETED, operation_id=operations[1]))
        self.account.moved(identifier, end.version, COMPLETED, operations[1])
        return True

    def _save_anew(self) -> bool:
        """Save a track without an id, so that each try would be another one, and move it without an operation."""
        title = f"anew {uuid4()}"
        track = self._run("save without an id", lambda work: work.save(TrackMetadata(title=title), audio_path="a"))
        self.account.saved(track.id, title, COMPLETED)
        return True

    def _replace(self) -> bool:
        """Replace what was saved, at its version."""
        identifier = self._run("save", lambda work: work.save(TrackMetadata(title="old"), audio_path="a")).id
        self.account.saved(identifier, "old", COMPLETED)
        title = f"new {identifier}"
        self._run(
            "replace",
            lambda work: work.save(
                TrackMetadata(title=title), audio_path="a", id=identifier, replace=True, expected_version=1
            ),
        )
        self.account.titles[identifier] = title
        return True

    def _move(self) -> bool:
        """Move a track in single calls; one whose outcome is unknown is asked for again, as its error says."""
        identifier, title = uuid4(), f"single {uuid4()}"
        self._run("save", lambda work: work.save(TrackMetadata(title=title), audio_path="a", id=identifier))
        self.account.saved(identifier, title, COMPLETED)
        self._single(identifier)
        return True

    def _single(self, identifier: UUID) -> None:
        operation, deadline = uuid4(), time.monotonic() + DEADLINE

        def ask() -> Any:
            while True:
                try:
                    return self._catalog.update_status(identifier, PENDING, operation_id=operation)
                except errors.DatabaseUnavailable:  # CommitOutcomeUnknown is one too.
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)

        change = self._timed("single move", ask)
        self.account.moved(identifier, change.version, PENDING, operation)

    def _load(self) -> bool:
        """Save many at once, for the workers."""
        records = [TrackRecord(TrackMetadata(title=f"work {n}"), "work", id=uuid4(), status=PENDING) for n in range(10)]
        result = self._timed("bulk", lambda: self._catalog.bulk_save(records, batch=5))
        assert result.inserted == len(records)
        for number, record in enumerate(records):
            self.account.saved(record.id, f"work {number}", PENDING)
        time.sleep(0.02)
        return True

    def _work(self) -> bool:
        """Claim what waits and end it; return whether nothing did."""
        claims = self._run("claim", lambda work: work.claim(4, worker="worker"))
        for claim in claims:
            self._account_of(claim).append((claim.token >> 32, str(PROCESSING), None))
            title = f"done {claim.track.id}"
            done = self._run("complete", lambda work: work.complete(claim, TrackMetadata(title=title)))  # noqa: B023
            self._account_of(claim).append((done.version, str(COMPLETED), claim.operation_id))
            self.account.titles[claim.track.id] = title
        return not claims and not any(thread.is_alive() for thread in self._threads[:6])

    def _account_of(self, claim: Claim) -> list[tuple[int, str, UUID | None]]:
        """Return the moves of a claimed track: who saved it may not have been told yet."""
        for _ in range(int(DEADLINE * 100)):
            if claim.track.id in self.account.moves:
                return self.account.moves[claim.track.id]
            time.sleep(0.01)
        raise AssertionError(f"no writer noted the track {claim.track.id}")


@contextmanager
def at_work(catalog: Catalog) -> Iterator[Account]:
    """Have the writers work meanwhile, and end what they are at."""
    writers = Writers(catalog)
    writers.start()
    try:
        yield writers.account
    finally:
        writers.finish()


def torment(server: Server, database: str, account: Account, *, seconds: float, kills: int) -> None:
    """Kill *server* so often within *seconds*, now in one way and now in another, and backends in between."""
    dice = random.Random(7)  # noqa: S311  # No secret.
    begun = time.monotonic()
    for number in range(kills):
        until = begun + seconds * (number + 1) / (kills + 1)
        while time.monotonic() < until:
            account.kills["backends"] += terminate(server, database, dice.randint(1, 3))
            time.sleep(min(0.3, max(0.0, until - time.monotonic())))
        # One in four is `pg_ctl stop -m immediate`; at least seven of nine are kills.
        mode: Any = "immediate" if number % 4 == 3 else "kill"
        server.stop(mode)
        account.kills[mode] += 1
        revive(server)
    while time.monotonic() < begun + seconds:
        account.kills["backends"] += terminate(server, database, dice.randint(1, 3))
        time.sleep(0.3)


def terminate(server: Server, database: str, count: int) -> int:
    """End at most *count* of the catalogue's sessions, and return how many there were."""
    with suppress(psycopg.OperationalError), server.admin(database) as admin:
        rows = admin.execute(f"SELECT pg_terminate_backend(pid) FROM ({_ENDED}) AS ended", [NAME, count]).fetchall()
        return sum(done for (done,) in rows)
    return 0


def revive(server: Server) -> None:
    """Start a server that was killed: what it leaves behind may keep the next one from starting for a moment."""
    deadline = time.monotonic() + 60
    while True:
        try:
            server.start()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def differences(url: str, account: Account) -> list[str]:
    """Return in what the database differs from what the writers were told; both are read in full."""
    with psycopg.connect(libpq(url), row_factory=dict_row) as reader:
        tracks = {row["id"]: row for row in reader.execute(_TRACKS)}
        stored: dict[UUID, list[dict[str, Any]]] = {}
        for row in reader.execute(_CHANGES):
            stored.setdefault(row["track_id"], []).append(row)
        found = [f"a task that is not its track's: {row['id']}" for row in reader.execute(DISAGREEMENTS)]
    found += [f"lost: {one}" for one in account.titles.keys() - tracks.keys()]
    found += [f"doubled or unheard of: {one}" for one in tracks.keys() - account.titles.keys()]
    found += [f"without a history: {one}" for one in tracks.keys() - stored.keys()]
    found += [f"a history without a track: {one}" for one in stored.keys() - tracks.keys()]
    for identifier in tracks.keys() & account.titles.keys() & stored.keys():
        track, history = tracks[identifier], stored[identifier]
        told = sorted(account.moves[identifier], key=lambda move: move[0])  # By two threads, in any order.
        moves = [(row["version"], row["to_status"], row["operation_id"]) for row in history]
        if moves != told:
            found.append(f"{identifier} moved {moves}, not {told}")
        if track["title"] != account.titles[identifier]:
            found.append(f"{identifier} is {track['title']!r}, not {account.titles[identifier]!r}")
        if track["status"] != COMPLETED:
            found.append(f"stuck: {identifier} is {track['status']}")
        if not replays(history, track["status"]):
            found.append(f"{identifier} is {track['status']}, which its history does not come to")
    return found


def replays(history: list[dict[str, Any]], status: str) -> bool:
    """Tell whether each move begins where the one before ended, as the table allows, and the last ends in *status*."""
    reached: str | None = None
    for row in history:
        if (
            row["from_status"] != reached
            or row["to_status"] not in TRANSITIONS[None if reached is None else TrackStatus(reached)]
        ):
            return False
        reached = row["to_status"]
    return reached == status
