"""Bare psycopg 3, by hand: what the server and its driver can do with the same tables and nothing in between."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

import psycopg

from audiocatalog.db.settings import CONNECTION_DEFAULTS
from audiocatalog.models.rows import TRACK_COLUMNS
from audiocatalog.operations.bulk import BATCH
from audiocatalog.operations.tracks import FIND, INSERT
from benchmarks.performance.contestant import Contestant
from benchmarks.performance.rows import ACTOR, COLUMNS, Values, batches
from benchmarks.search.server import libpq

GET: Final = "bare psycopg: prepared, tuples"
GET_MANY: Final = "bare psycopg: = ANY, prepared, tuples"
SAVE: Final = "bare psycopg: two INSERTs in a transaction"
SAVE_BY_FUNCTION: Final = "bare psycopg: our function in a transaction"
COPY: Final = "bare psycopg: COPY binary, one transaction"
COPY_BATCHES: Final = f"bare psycopg: COPY binary, {BATCH:,} a transaction"
COPY_TWO: Final = "bare psycopg: COPY binary over two connections"
COPY_TEXT: Final = "bare psycopg: COPY text, one transaction"
EXECUTEMANY: Final = f"bare psycopg: executemany, {BATCH:,} a transaction"
EXECUTE: Final = "bare psycopg: execute, one transaction"
WALK: Final = "bare psycopg: server-side cursor, tuples"

_NAMES: Final = ", ".join(COLUMNS)
_TYPES: Final = ("uuid", *["text"] * 4, "int4", "float8", *["int4"] * 3, *["text"] * 3)
_PLACES: Final = ", ".join(f"${place}" for place in range(1, len(COLUMNS) + 1))
_HISTORY: Final = "audio_track_status_changes (track_id, version, to_status, actor)"
_INSERT_TRACK: Final = f"INSERT INTO audio_tracks ({_NAMES}) VALUES ({_PLACES})"  # noqa: S608 - constants of ours.
_INSERT_CHANGE: Final = f"INSERT INTO {_HISTORY} VALUES ($1, 1, $2, $3)"  # noqa: S608 - likewise.
_FIND_MANY: Final = f"SELECT {', '.join(TRACK_COLUMNS)} FROM audio_tracks WHERE id = ANY($1)"  # noqa: S608 - likewise.
_WALK: Final = f"SELECT {', '.join(TRACK_COLUMNS)} FROM audio_tracks ORDER BY id"  # noqa: S608 - likewise.


def connect(url: str) -> psycopg.Connection[Any]:
    """Return a connection in autocommit with the driver's settings of a catalogue, every statement prepared."""
    return psycopg.connect(libpq(url), autocommit=True, prepare_threshold=0, **CONNECTION_DEFAULTS)


@contextmanager
def opened(url: str) -> Iterator[Contestant]:
    """Open one connection with one cursor."""
    with connect(url) as connection:
        yield contestant(connection)


def contestant(connection: psycopg.Connection[Any]) -> Contestant:
    """Return what one *connection* can do."""
    cursor = psycopg.RawCursor(connection)

    def get_many(ids: Sequence[UUID]) -> object:
        return cursor.execute(_FIND_MANY, (ids,)).fetchall()

    def save(values: Values) -> None:
        with connection.transaction():
            cursor.execute(_INSERT_TRACK, values)
            cursor.execute(_INSERT_CHANGE, (values[0], values[-1], ACTOR))

    return Contestant(
        get={GET: lambda id_: cursor.execute(FIND.sql, (id_,)).fetchone()},
        get_many={GET_MANY: get_many},
        save={SAVE: save, SAVE_BY_FUNCTION: _saving_by_function(connection)},
    )


def _saving_by_function(connection: psycopg.Connection[Any]) -> Callable[[Values], object]:
    """Return what saves a track as this package does, by the function of its schema, without its Python."""
    cursor = psycopg.RawCursor(connection)

    def save(values: Values) -> object:
        arguments = (values[0], values[-1], *values[1:-1], None, ACTOR, None, False)
        with connection.transaction():
            return cursor.execute(INSERT.sql, arguments).fetchone()

    return save


def walk(url: str) -> int:
    """Read all tracks in the order of their ids, a thousand a round trip, and return how many there are."""
    with connect(url) as connection, connection.transaction(), connection.cursor("walk") as cursor:
        cursor.itersize = 1000
        return sum(1 for _ in cursor.execute(_WALK))


def copy_binary(url: str, rows: Iterator[Values]) -> None:
    """Copy all tracks, then all of their history, each by one COPY, in one transaction."""
    with _loading(url) as connection, connection.transaction():
        _copy(connection, rows)


def copy_batches(url: str, rows: Iterator[Values]) -> None:
    """Do the same in a transaction for each batch."""
    with _loading(url) as connection:
        for batch in batches(rows, BATCH):
            with connection.transaction():
                _copy(connection, iter(batch))


def copy_over_two(url: str, rows: Iterator[Values]) -> None:
    """Do the same over two connections, each of which takes the next batch when it has stored one."""
    remaining, lock = batches(rows, BATCH), threading.Lock()

    def take() -> list[Values] | None:
        with lock:
            return next(remaining, None)

    def store(_: int) -> None:
        with _loading(url) as connection:
            while batch := take():
                with connection.transaction():
                    _copy(connection, iter(batch))

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(store, range(2)))


def copy_text(url: str, rows: Iterator[Values]) -> None:
    """Copy all tracks, then all of their history, as text."""
    ids = []
    with _loading(url) as connection, connection.transaction(), connection.cursor() as cursor:
        with cursor.copy(f"COPY audio_tracks ({_NAMES}) FROM STDIN".encode()) as copy:
            for values in rows:
                ids.append(values[0])
                copy.write_row(values)
        with cursor.copy(f"COPY {_HISTORY} FROM STDIN".encode()) as copy:
            for id_ in ids:
                copy.write_row((id_, 1, "COMPLETED", ACTOR))


def copy_tracks(connection: psycopg.Connection[Any], table: str, rows: Iterator[Values]) -> list[UUID]:
    """Copy tracks alone into *table*, in binary, and return their ids."""
    ids = []
    with connection.cursor().copy(f"COPY {table} ({_NAMES}) FROM STDIN (FORMAT BINARY)".encode()) as copy:
        copy.set_types(_TYPES)
        for values in rows:
            ids.append(values[0])
            copy.write_row(values)
    return ids


def executemany(url: str, rows: Iterator[Values]) -> None:
    """Insert batches by ``executemany``, which psycopg sends in a pipeline; the history by a second one."""
    with _loading(url) as connection:
        cursor = psycopg.RawCursor(connection)
        for batch in batches(rows, BATCH):
            with connection.transaction():
                cursor.executemany(_INSERT_TRACK, batch)
                cursor.executemany(_INSERT_CHANGE, [(values[0], values[-1], ACTOR) for values in batch])


def execute(url: str, rows: Iterator[Values]) -> None:
    """Insert each track and its history by two calls of ``execute``, all in one transaction."""
    with _loading(url) as connection, connection.transaction():
        cursor = psycopg.RawCursor(connection)
        for values in rows:
            cursor.execute(_INSERT_TRACK, values)
            cursor.execute(_INSERT_CHANGE, (values[0], values[-1], ACTOR))


def _copy(connection: psycopg.Connection[Any], rows: Iterator[Values]) -> None:
    ids = copy_tracks(connection, "audio_tracks", rows)
    with connection.cursor().copy(f"COPY {_HISTORY} FROM STDIN (FORMAT BINARY)".encode()) as copy:
        copy.set_types(("uuid", "int4", "text", "text"))
        for id_ in ids:
            copy.write_row((id_, 1, "COMPLETED", ACTOR))


@contextmanager
def _loading(url: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(url) as connection:
        connection.execute("SET statement_timeout = 0")  # A server of the user's may limit it.
        yield connection
