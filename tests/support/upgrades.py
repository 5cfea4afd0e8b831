"""Upgrades beyond the newest revision, to those that only tests run (tests/revisions), and what to do meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psycopg
from alembic import command
from alembic.config import Config

from audiocatalog import Catalog, Track, TrackStatus
from audiocatalog.models.sql_names import SCHEMA_REVISION, VERSION_TABLE
from tests.support.databases import libpq
from tests.support.factories import TrackMetadataFactory, TrackRecordFactory
from tests.support.repository import ROOT

INI = ROOT / "tests" / "revisions" / "alembic.ini"
#: The revision of this code, and those of the tests behind it.
NOW, RATED, VALIDATED, INDEXED, SEEDED = (f"{int(SCHEMA_REVISION) + n:04}" for n in range(5))
HEAD = SEEDED
OLDER = ("base", NOW, RATED, VALIDATED, INDEXED)
INVALID_INDEXES = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid OR NOT indisready"

T = TypeVar("T")


REVISION = '''"""Try something."""

from alembic import op

revision = "{next}"
down_revision = "{now}"


def upgrade() -> None:
    {body}
'''


def ini_with(folder: Path, body: str) -> Path:
    """Write a revision that does *body*, and return the configuration that has it next."""
    (folder / "something.py").write_text(REVISION.format(next=RATED, now=NOW, body=body), encoding="utf-8")
    ini = folder / "alembic.ini"
    here = INI.read_text(encoding="utf-8").replace("%(here)s/../..", str(INI.parents[2]))
    ini.write_text(here, encoding="utf-8")
    return ini


def config_for(url: str, *, ini: Path = INI, **attributes: object) -> Config:
    config = Config(ini)
    config.attributes |= {"url": url, **attributes}
    return config


def upgrade(url: str, revision: str = HEAD, *, ini: Path = INI, **attributes: object) -> None:
    """Upgrade within this process, which can do so for one database at a time."""
    if revision != "base":
        command.upgrade(config_for(url, ini=ini, **attributes), revision)


def upgrading(url: str, revision: str = HEAD, *options: str) -> subprocess.Popen[str]:
    """Begin an upgrade by the command line of Alembic."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "alembic", "-c", str(INI), *options, "upgrade", revision],
        cwd=ROOT,
        env=os.environ | {"AUDIOCATALOG_DATABASE_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def revision_of(url: str) -> str | None:
    with psycopg.connect(libpq(url)) as connection:
        row = connection.execute("SELECT to_regclass(%s)", [VERSION_TABLE]).fetchone()
        if row is None or row[0] is None:
            return None
        row = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()
        return None if row is None else str(row[0])


def seeds_of(url: str) -> int:
    """Return how often the last revision has left its row."""
    with psycopg.connect(libpq(url)) as connection:
        return len(connection.execute("SELECT FROM audio_search_counts WHERE at = '2000-01-01'").fetchall())


def invalid_indexes_of(url: str) -> list[str]:
    with psycopg.connect(libpq(url)) as connection:
        return [name for (name,) in connection.execute(INVALID_INDEXES)]


def fill(url: str, tracks: int) -> None:
    with Catalog(url) as catalog:
        catalog.bulk_save(TrackRecordFactory.build() for _ in range(tracks))


@contextmanager
def holding(url: str, statement: str = "SELECT count(*) FROM audio_tracks") -> Iterator[psycopg.Connection]:
    """Give a transaction that has run *statement*, and stays open for as long as the test likes."""
    with psycopg.connect(libpq(url), application_name="a long report") as connection:
        connection.execute(statement)
        yield connection


@contextmanager
def meanwhile(work: Callable[[], T]) -> Iterator[Future[T]]:
    """Do *work* in a thread; wait for it at the end, and raise what it raised."""
    with ThreadPoolExecutor(1, thread_name_prefix="meanwhile") as pool:
        future = pool.submit(work)
        yield future
        future.result(timeout=60)


def use(catalog: Catalog) -> None:
    """Do everything that a service does all day, and look at what comes of it."""
    saved, loaded = TrackMetadataFactory.build(), TrackRecordFactory.build()
    track = catalog.run(lambda work: work.save(saved, audio_path="s3://music/a.mp3", status=TrackStatus.PENDING))
    assert catalog.bulk_save([loaded]).inserted == 1
    assert catalog.get(track.id).title == saved.title
    assert catalog.find(loaded.id) is not None
    assert any(hit.track.id == loaded.id for hit in catalog.search(f'"{loaded.metadata.title}"', limit=100).hits)
    assert catalog.update_status(loaded.id, TrackStatus.PENDING, reason="again").from_status is TrackStatus.COMPLETED
    for claim in catalog.claim(limit=10, order_by="newest"):
        catalog.complete(catalog.renew(claim), TrackMetadataFactory.build())
    assert catalog.history(track.id)[-1].to_status is TrackStatus.COMPLETED
    assert track.id in catalog.get_many([track.id, loaded.id])
    assert {track.id, loaded.id} <= {each.id for each in catalog.iter_tracks(order_by="id", batch=100)}
    assert catalog.run(lambda work: work.session.get(Track, track.id)) is not None
    assert catalog.changes(limit=10_000).tracks
    assert catalog.count_by_status()
