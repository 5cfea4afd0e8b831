"""At a million tracks, a new version of the search vector is made while others read and write, and nobody waits."""

from __future__ import annotations

import itertools
import math
import os
import random
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import psycopg
import pytest

from audiocatalog import Catalog, TrackMetadata, TrackStatus, migrations
from audiocatalog.embedded import EmbeddedPostgres
from audiocatalog.errors import TransientConflict
from audiocatalog.migrations import vector_rebuild as rebuilding
from tests.support.databases import libpq
from tests.support.vectors import expand, wrong_vectors

pytestmark = pytest.mark.faults

TRACKS = int(os.environ.get("AUDIOCATALOG_TEST_REBUILD_TRACKS", "1000000"))
#: No session may wait for a lock that long, in milliseconds; the server logs those that do. A table that is rewritten
#: lets all sessions wait for 9 seconds at this size. Calls take longer where others use the machine.
LONGEST_WAIT = 250
_WAITING = re.compile(r"still waiting for \w+ on (?:relation|transaction|tuple)[^\n]*")
_SECONDS_BETWEEN_PROBES = 0.005
#: Made-up names, with words that are common and rare, under ids that rise like those that are made from the time.
_FILL = """
INSERT INTO audio_tracks (id, status, title, artist, album, genre, year, duration, channels, sample_rate, bitrate,
                          format, audio_path)
SELECT
  (lpad(to_hex(1700000000000 + n), 12, '0') || '7' || left(md5(n::text), 3) || '8' || right(md5(n::text), 15))::uuid,
  'COMPLETED', 'Song ' || left(md5('a' || n %% 50000), 5) || ' ' || left(md5('b' || n %% 999), 4),
  'The ' || left(md5('c' || n %% 20000), 7) || ' Band', 'Album ' || left(md5('d' || n %% 100000), 6),
  (ARRAY['Rock', 'Pop', 'Jazz', 'Folk'])[1 + n %% 4], 1950 + n %% 75, 200, 2, 44100, 320000, 'mp3', 's3://music/' || n
FROM generate_series(%s::integer, %s::integer) AS n"""
_LOG = """
INSERT INTO audio_track_status_changes (track_id, version, to_status, actor)
SELECT id, 1, status, 'loader' FROM audio_tracks"""


@pytest.fixture
def url() -> Iterator[str]:
    """Give a database with all these tracks and the first row of their history."""
    settings = {"log_lock_waits": "on", "deadlock_timeout": f"{LONGEST_WAIT}ms"}
    with EmbeddedPostgres(settings={"shared_buffers": "256MB", "max_wal_size": "2GB", **settings}) as server:
        url = server.url()
        migrations.upgrade(url)
        with psycopg.connect(libpq(url), autocommit=True) as admin:
            for first in range(1, TRACKS + 1, 100_000):
                admin.execute(_FILL, [first, min(TRACKS, first + 99_999)])
            admin.execute(_LOG)
            admin.execute("VACUUM ANALYZE")
        yield url


class Probes:
    """Ask for the same thing every few milliseconds, and note how long each answer took."""

    def __init__(self, *probes: Callable[[], None]) -> None:
        self.seconds: dict[str, list[float]] = {probe.__name__: [] for probe in probes}
        self.failures: list[BaseException] = []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=[probe]) for probe in probes]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, probe: Callable[[], None]) -> None:
        try:
            while not self._end.wait(_SECONDS_BETWEEN_PROBES):
                begin = time.perf_counter()
                probe()
                self.seconds[probe.__name__].append(time.perf_counter() - begin)
        except BaseException as error:  # noqa: BLE001
            self.failures.append(error)

    def __str__(self) -> str:
        return "; ".join(
            f"{name}: {len(taken)} times, p50 {1000 * statistics.median(taken):.1f}, p99 {1000 * p99(taken):.1f}, "
            f"longest {1000 * max(taken):.1f} ms"
            for name, taken in self.seconds.items()
        )


def p99(taken: list[float]) -> float:
    return sorted(taken)[math.floor(0.99 * len(taken))]


def waits(admin: psycopg.Connection[Any]) -> list[str]:
    """Return what the server has noted of those who waited for somebody else's lock on the table or a row."""
    (folder,) = admin.execute("SHOW data_directory").fetchone() or ("",)
    return _WAITING.findall((Path(folder) / "server.log").read_text(encoding="utf-8"))


def sizes(admin: psycopg.Connection[Any]) -> tuple[int, ...]:
    """Return the bytes of the table, its indexes and the log that was written, and how many updates wrote indexes."""
    row = admin.execute(
        "SELECT pg_table_size('audio_tracks'), pg_indexes_size('audio_tracks'), (pg_current_wal_lsn() - '0/0')::bigint,"
        " n_tup_upd - n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'audio_tracks'"
    ).fetchone()
    return tuple(row or ())


def test_a_million_tracks_are_rebuilt_while_nobody_waits(
    url: str, record_property: Callable[[str, object], None]
) -> None:
    chance = random.Random(1)  # noqa: S311  # It chooses tracks.
    with psycopg.connect(libpq(url), autocommit=True) as admin, Catalog(url, actor="probe", pool_size=6) as catalog:
        some = admin.execute("SELECT id, title::text FROM audio_tracks TABLESAMPLE BERNOULLI (3)").fetchall()
        ids: list[UUID] = [track for track, _ in some]
        moved: dict[UUID, int] = {}
        saved: list[UUID] = []
        # Each track is moved once, so that every acknowledged move can be found again.
        to_move = iter(chance.sample(ids, len(ids)))

        def read() -> None:
            assert catalog.get(chance.choice(ids)).title

        def search() -> None:
            assert catalog.search(chance.choice(some)[1], limit=5).hits

        def move() -> None:
            track = next(to_move, None)
            if track is not None:
                moved[track] = catalog.update_status(track, TrackStatus.PENDING).version

        def save() -> None:
            with catalog.unit_of_work() as work:
                saved.append(work.save(TrackMetadata(title="Saved Meanwhile"), audio_path="p").id)

        with Probes(read, search, move, save) as before:
            time.sleep(5)
        size_before = sizes(admin)
        with Probes(read, search, move, save) as meanwhile:
            admin.execute(expand(2))
            (rebuilt,) = rebuilding.rebuild(url)
        size_after = sizes(admin)
        table, indexes, log, updates = (after - before for before, after in zip(size_before, size_after, strict=True))
        record_property("rebuilt", f"{rebuilt.filled:,} tracks in {rebuilt.seconds:.0f} s")
        record_property("megabytes of table, indexes, log", [size // 1_000_000 for size in (table, indexes, log)])
        record_property("updates that wrote indexes", updates)
        record_property("before", str(before))
        record_property("meanwhile", str(meanwhile))
        assert (before.failures, meanwhile.failures) == ([], [])
        taken = list(itertools.chain.from_iterable(meanwhile.seconds.values()))
        assert len(taken) > rebuilt.seconds * 20
        for name, seconds in meanwhile.seconds.items():
            assert p99(seconds) < LONGEST_WAIT / 1000, name
        assert waits(admin) == []
        assert rebuilt.filled <= TRACKS + len(saved)
        assert (wrong_vectors(admin, "search_vector_b", 2), wrong_vectors(admin, "search_vector", 1)) == (0, 0)
        (count,) = admin.execute("SELECT count(*) FROM audio_tracks").fetchone() or ()
        assert count == TRACKS + len(saved)
        found = admin.execute(
            "SELECT track_id, version FROM audio_track_status_changes WHERE track_id = ANY (%s) AND version > 1",
            [list(moved)],
        ).fetchall()
        assert dict(found) == moved

        # It would have been noted.
        with psycopg.connect(libpq(url)) as other:
            other.execute("LOCK TABLE audio_tracks")
            with pytest.raises(TransientConflict):
                catalog.get(ids[0])
        assert waits(admin) != []
