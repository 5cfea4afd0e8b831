"""psycopg2 as a first design uses it: a cursor for each call, values written into the text, a commit for each track."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

from audiocatalog.models.rows import TRACK_COLUMNS
from benchmarks.performance.contestant import Contestant
from benchmarks.performance.rows import ACTOR, COLUMNS, Values
from benchmarks.search.server import libpq

GET: Final = "psycopg2: execute in a transaction, tuples"
SAVE: Final = "psycopg2: execute twice, commit"
LOAD: Final = "psycopg2: execute twice, commit, for each track"
NEEDS: Final = "psycopg2"
_PLACES: Final = ", ".join(["%s"] * len(COLUMNS))
_INSERT: Final = f"INSERT INTO audio_tracks ({', '.join(COLUMNS)}) VALUES ({_PLACES})"  # noqa: S608 - constants of ours.
_INSERT_CHANGE: Final = """
INSERT INTO audio_track_status_changes (track_id, version, to_status, actor) VALUES (%s, 1, %s, %s)"""
_FIND: Final = f"SELECT {', '.join(TRACK_COLUMNS)} FROM audio_tracks WHERE id = %s"  # noqa: S608 - likewise.


@contextmanager
def opened(url: str) -> Iterator[Contestant]:
    """Open one connection, which is kept."""
    with _connected(url) as connection:

        def get(id_: UUID) -> object:
            with connection, connection.cursor() as cursor:
                cursor.execute(_FIND, (id_,))
                return cursor.fetchone()

        yield Contestant(get={GET: get}, save={SAVE: lambda values: _save(connection, values)})


def load(url: str, rows: Iterator[Values]) -> None:
    """Store *rows*, each with its history, in a transaction for each."""
    with _connected(url) as connection:
        for values in rows:
            _save(connection, values)


def _save(connection: Any, values: Values) -> None:  # noqa: ANN401 - psycopg2 has no types.
    with connection, connection.cursor() as cursor:  # The connection's block ends the transaction, not the connection.
        cursor.execute(_INSERT, values)
        cursor.execute(_INSERT_CHANGE, (values[0], values[-1], ACTOR))


@contextmanager
def _connected(url: str) -> Iterator[Any]:
    psycopg2: Any = importlib.import_module("psycopg2")
    importlib.import_module("psycopg2.extras").register_uuid()
    connection = psycopg2.connect(libpq(url))
    try:
        yield connection
    finally:
        connection.close()
