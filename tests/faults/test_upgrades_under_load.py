"""An upgrade while a service reads and writes: nobody waits for long, whatever the upgrade itself has to wait for."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
import pytest

from audiocatalog import Catalog, TrackStatus, migrations
from audiocatalog.embedded import EmbeddedPostgres
from tests.support.databases import libpq
from tests.support.factories import TrackRecordFactory
from tests.support.upgrades import HEAD, NOW, RATED, fill, holding, invalid_indexes_of, meanwhile, revision_of, upgrade
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

READERS = WRITERS = 4
LONG_TRANSACTION = 4.0
#: Nobody may wait for longer; with each statement that waits for its lock for as long as it takes, it is 4 s.
MOST_SECONDS_P99 = 0.25
#: So large a table takes seconds to be rewritten, and its index to be built.
MANY_TRACKS = 200_000


@dataclass
class Load:
    """Read and write in threads, and keep how long each call took, in seconds."""

    catalog: Catalog
    reads: list[float] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def read(self) -> None:
        record = TrackRecordFactory.build()
        self.catalog.bulk_save([record])
        self._repeat(self.reads, [lambda: self.catalog.get(record.id), lambda: self.catalog.search("song", limit=5)])

    def write(self) -> None:
        record = TrackRecordFactory.build(status=TrackStatus.PENDING)
        self.catalog.bulk_save([record])
        moves = (TrackStatus.PROCESSING, TrackStatus.COMPLETED, TrackStatus.PENDING)
        self._repeat(self.writes, [lambda to=to: self.catalog.update_status(record.id, to) for to in moves])  # type: ignore[misc]

    def _repeat(self, seconds: list[float], calls: list[Callable[[], object]]) -> None:
        try:
            while not self.ended.is_set():
                for call in calls:
                    begun = time.monotonic()
                    call()
                    seconds.append(time.monotonic() - begun)
        except Exception as error:  # noqa: BLE001
            self.errors.append(error)


@contextmanager
def load_on(url: str) -> Iterator[Load]:
    with Catalog(url, pool_size=READERS + WRITERS) as catalog:
        load = Load(catalog)
        threads = [threading.Thread(target=work) for work in [load.read] * READERS + [load.write] * WRITERS]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(load.reads) > 100 and len(load.writes) > 100)
        load.reads.clear()
        load.writes.clear()
        try:
            yield load
        finally:
            load.ended.set()
            for thread in threads:
                thread.join()


def p99(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


def test_nobody_waits_behind_an_upgrade_that_waits_for_a_long_transaction(
    empty_database: Callable[[], str], record_property: Callable[[str, object], None]
) -> None:
    url = empty_database()
    migrations.upgrade(url)
    fill(url, tracks=20_000)
    with load_on(url) as load:
        with holding(url) as report, meanwhile(lambda: upgrade(url)) as upgraded:
            begun = time.monotonic()
            threading.Event().wait(LONG_TRANSACTION)
            assert not upgraded.done()
            report.commit()
        took = time.monotonic() - begun
    assert load.errors == []
    assert (revision_of(url), invalid_indexes_of(url)) == (HEAD, [])
    figures = {
        "reads": len(load.reads),
        "writes": len(load.writes),
        "p99 of reads": f"{p99(load.reads) * 1000:.0f} ms",
        "p99 of writes": f"{p99(load.writes) * 1000:.0f} ms",
        "slowest": f"{max(load.reads + load.writes) * 1000:.0f} ms",
        "upgrade": f"{took:.1f} s",
    }
    record_property("upgrade under load", figures)
    print(f"\nupgrade under load: {figures}")  # noqa: T201
    assert p99(load.reads) < MOST_SECONDS_P99
    assert p99(load.writes) < MOST_SECONDS_P99


@pytest.fixture(scope="module")
def large() -> Iterator[str]:
    with EmbeddedPostgres() as server:
        url = server.url("postgres")
        upgrade(url, NOW)
        fill(url, tracks=MANY_TRACKS)
        yield url


def test_no_revision_keeps_a_large_table_to_itself(large: str, record_property: Callable[[str, object], None]) -> None:
    """A read and a write every 5 ms tell for how long any session held a lock."""
    slowest = {"read": 0.0, "write": 0.0}
    statements = {
        "read": "SELECT title FROM audio_tracks LIMIT 1",
        "write": "UPDATE audio_tracks SET year = 1999 WHERE id = (SELECT id FROM audio_tracks LIMIT 1)",
    }
    ended = threading.Event()

    def probe(kind: str) -> int:
        probes = 0
        with psycopg.connect(libpq(large), autocommit=True) as connection:
            while not ended.wait(0.005):
                begun = time.monotonic()
                connection.execute(statements[kind])
                slowest[kind] = max(slowest[kind], time.monotonic() - begun)
                probes += 1
        return probes

    with meanwhile(lambda: probe("read")) as reads, meanwhile(lambda: probe("write")) as writes:
        try:
            begun = time.monotonic()
            upgrade(large)
            took = time.monotonic() - begun
        finally:
            ended.set()
    figures = {kind: f"{seconds * 1000:.0f} ms" for kind, seconds in slowest.items()} | {"upgrade": f"{took:.1f} s"}
    record_property("longest wait", figures)
    print(f"\nlongest wait of {reads.result()} reads and {writes.result()} writes: {figures}")  # noqa: T201
    assert revision_of(large) == HEAD
    assert max(slowest.values()) < 1.0


def test_autovacuum_gives_way_to_an_upgrade(caplog: pytest.LogCaptureFixture) -> None:
    """It does so for who waits for a second, which a migration never does: it would be in the way until it is done."""
    slow = {"autovacuum": "on", "autovacuum_naptime": "1s", "autovacuum_vacuum_cost_delay": "100ms"}
    slow |= {"autovacuum_vacuum_cost_limit": "1", "autovacuum_vacuum_threshold": "1"}
    with EmbeddedPostgres(settings=slow) as server:
        url = server.url("postgres")
        upgrade(url, NOW)
        fill(url, tracks=2000)
        vacuum = "SELECT relid FROM pg_stat_progress_vacuum WHERE relid = 'audio_tracks'::regclass"
        with psycopg.connect(libpq(url), autocommit=True) as connection:
            connection.execute("UPDATE audio_tracks SET year = 1999")
            wait_until(lambda: connection.execute(vacuum).fetchone(), within=60)
            upgrade(url, lock_timeout=30.0)
        assert revision_of(url) == HEAD
    assert f"{NOW} -> {RATED} waits for a lock, attempt 1" in caplog.text
