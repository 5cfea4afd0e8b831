"""Fill a database with tracks as fast as PostgreSQL takes them, and know one that was filled before."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import psycopg
from sqlalchemy import URL

from audiocatalog import Catalog, TrackMetadata, migrations
from benchmarks.search.data import Row, track_id
from benchmarks.search.server import Server, connected

_TABLES: Final = ("audio_tracks", "audio_track_status_changes")
_FIELDS: Final = tuple(field.name for field in dataclasses.fields(TrackMetadata))
_COLUMNS: Final = ("id", "status", "audio_path", *_FIELDS)
_WORD: Final = re.compile(r"\w+")
_PROGRESS_ROWS: Final = 100_000
# Refreshing the vocabulary of ten million tracks is one long statement.
_LONG_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Database:
    """
    Name a filled database.

    *token* is different for each filling, so that what was made of another one is told apart. *seconds* is how long
    the filling took, its indexes and its vocabulary included.
    """

    name: str
    url: URL
    token: str
    tracks: int
    seconds: float
    source: str


class Reuse(NamedTuple):
    """Say what becomes of a database that was kept: *reload* it always, or not even if it is *stale_ok*."""

    reload: bool = False
    stale_ok: bool = False


def say(text: str) -> None:
    """Print what is going on."""
    print(text, flush=True)


def filled(server: Server, name: str, source: str, rows: Callable[[], Iterator[Row]], reuse: Reuse) -> Database:
    """Return the database *name* with the tracks that *rows* gives, as it was kept, or filled now."""
    if not reuse.reload and server.exists(name):
        kept = _kept(server, name, None if reuse.stale_ok else _fingerprint(source))
        if kept is not None:
            say(f"{name}: {kept.tracks:,} tracks are there")
            return kept
        say(f"{name}: what is there is unfinished, or of another schema; it is made anew")
    url = server.create(name)
    migrations.upgrade(url)
    begun = time.perf_counter()
    with connected(url) as connection:
        # A server of the user's may limit the time of a statement.
        connection.execute("SET statement_timeout = 0; SET maintenance_work_mem = '512MB'; CREATE SCHEMA benchmark")
        words: Counter[str] = Counter()
        tracks = _copy(connection, name, rows(), words)
        _store_words(connection, words)
        say(f"{name}: vacuuming")
        connection.execute("VACUUM (ANALYZE)")
        refresh_vocabulary(url)
        seconds = time.perf_counter() - begun
        token = uuid.uuid4().hex[:8]
        connection.execute(
            "CREATE TABLE benchmark.load (fingerprint text, source text, token text, tracks integer, seconds float)"
        )
        connection.execute(
            "INSERT INTO benchmark.load VALUES (%s, %s, %s, %s, %s)",
            [_fingerprint(source), source, token, tracks, seconds],
        )
    say(f"{name}: {tracks:,} tracks in {seconds:.1f} s, {tracks / seconds:,.0f} a second")
    return Database(name, url, token, tracks, seconds, source)


def refresh_vocabulary(url: URL) -> None:
    """Have the catalogue count its words anew, in case its schema keeps them."""
    with Catalog(url, actor="benchmark", pool_size=1, statement_timeout=_LONG_SECONDS) as catalog:
        refresh = getattr(catalog, "refresh_vocabulary", None)
        if refresh is not None:
            begun = time.perf_counter()
            refresh()
            say(f"vocabulary refreshed in {time.perf_counter() - begun:.1f} s")


def _kept(server: Server, name: str, fingerprint: str | None) -> Database | None:
    """Return the database *name* if its filling came to an end and its schema's files are those of today."""
    with connected(server.url(name)) as connection:
        try:
            row = connection.execute(
                "SELECT fingerprint, source, token, tracks, seconds FROM benchmark.load"
            ).fetchone()
        except psycopg.errors.UndefinedTable:
            return None
    if row is None or fingerprint not in {None, row[0]}:
        return None
    return Database(name, server.url(name), row[2], row[3], row[4], row[1])


def _fingerprint(source: str) -> str:
    """Return a digest of the schema's files and of *source*: before a release, a revision may still be edited."""
    digest = hashlib.sha256(source.encode())
    folder = migrations.config_path().parent / "alembic"
    for path in sorted(folder.rglob("*")):
        if path.suffix in {".py", ".sql"}:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _copy(connection: psycopg.Connection[Any], name: str, rows: Iterator[Row], words: Counter[str]) -> int:
    """Store *rows* with their history, count their *words*, and return how many there are."""
    restore = _set_aside(connection)
    number = 0
    begun = time.perf_counter()
    columns = ", ".join(_COLUMNS)
    with connection.cursor() as cursor, cursor.copy(f"COPY audio_tracks ({columns}) FROM STDIN".encode()) as copy:
        for number, row in enumerate(rows, start=1):
            track = row.metadata
            copy.write_row(
                (track_id(number), "COMPLETED", row.audio_path, *(getattr(track, field) for field in _FIELDS))
            )
            words.update(_plain_words(f"{track.title} {track.artist} {track.album}"))
            if number % _PROGRESS_ROWS == 0:
                say(f"{name}: {number:,} tracks copied, {time.perf_counter() - begun:.0f} s")
    connection.execute(
        "INSERT INTO audio_track_status_changes (track_id, version, from_status, to_status, actor)"
        " SELECT id, 1, NULL, 'COMPLETED', 'benchmark' FROM audio_tracks"
    )
    for statement in restore:
        say(f"{name}: {statement.decode()}")
        connection.execute(statement)
    return number


def _plain_words(text: str) -> set[str]:
    """Return the words of *text* that every system reads as one: letters without accents, and nothing else."""
    return {word for word in _WORD.findall(text.lower()) if word.isascii() and word.isalpha()}


def _set_aside(connection: psycopg.Connection[Any]) -> list[bytes]:
    """Drop the indexes and foreign keys of the tables, and return what makes them again, faster than row by row."""
    keys = connection.execute(
        "SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE contype = 'f' AND conrelid = ANY (%s::regclass[])",
        [list(_TABLES)],
    ).fetchall()
    indexes = connection.execute(
        "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index WHERE NOT indisprimary"
        " AND indrelid = ANY (%s::regclass[])"
        " AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)",
        [list(_TABLES)],
    ).fetchall()
    for table, constraint, _ in keys:
        connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {constraint}".encode())
    for index, _ in indexes:
        connection.execute(f"DROP INDEX {index}".encode())
    return [
        *(definition.encode() for _, definition in indexes),
        *(f"ALTER TABLE {table} ADD CONSTRAINT {name} {definition}".encode() for table, name, definition in keys),
    ]


def _store_words(connection: psycopg.Connection[Any], words: Counter[str]) -> None:
    """Store in how many tracks each word stands: the queries of the latencies are chosen by it."""
    connection.execute("CREATE TABLE benchmark.words (word text PRIMARY KEY, tracks integer NOT NULL)")
    with connection.cursor() as cursor, cursor.copy("COPY benchmark.words FROM STDIN") as copy:
        for item in words.items():
            copy.write_row(item)
