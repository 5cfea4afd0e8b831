"""What the tests of searches share: tracks by the handful or by the thousand, and what a search makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Connection

from audiocatalog import Catalog, TrackMetadata, UnitOfWork
from audiocatalog.db import execute
from audiocatalog.db.execute import run
from audiocatalog.db.transaction import driver_connection
from audiocatalog.operations.operation import PlannedStatement, Request, Rows
from audiocatalog.search.vocabulary import refresh_vocabulary
from tests.support.detour import as_owner

#: Columns that a row may leave out.
_DEFAULTS = {"status": "'COMPLETED'", "audio_path": "'a'", "id": "gen_random_uuid()"}


def save(work: UnitOfWork, **values: Any) -> UUID:
    """Store a track of these *values* and return its id."""
    return work.save(TrackMetadata(**values), audio_path="a").id


def found(work: UnitOfWork | Catalog, query: str, **options: Any) -> list[UUID]:
    """Return the ids of one page."""
    return [hit.track.id for hit in work.search(query, **options)]


def titles(work: UnitOfWork | Catalog, query: str, **options: Any) -> list[str]:
    """Return the titles of one page."""
    return [hit.track.title for hit in work.search(query, **options)]


def insert_many(connection: Connection, number: int, **columns: str) -> None:
    """Insert *number* tracks whose *columns* are SQL, in which ``n`` counts from 1."""
    written = _DEFAULTS | columns
    with as_owner(connection):
        driver_connection(connection).execute(
            f"INSERT INTO audio_tracks ({', '.join(written)}) SELECT {', '.join(written.values())}"
            f" FROM generate_series(1, {number}) AS n"
        )


def set_times(connection: Connection, track_id: UUID, created_at: datetime, updated_at: datetime) -> None:
    """Have a track come from another time."""
    statement = "UPDATE audio_tracks SET created_at = %s, updated_at = %s WHERE id = %s"
    with as_owner(connection):
        driver_connection(connection).execute(statement, [created_at, updated_at, track_id])


def count_words(work: UnitOfWork) -> None:
    """Refresh the vocabulary inside the unit of work, which may not end."""
    run(driver_connection(work.session.connection()), refresh_vocabulary(timeout=60), "refresh_vocabulary")


class Asked(NamedTuple):
    """Hold one statement of a search as it was sent."""

    statement: str
    parameters: Mapping[str, Any]
    planned: Mapping[str, str]


@contextmanager
def what_is_asked() -> Iterator[list[Asked]]:
    """Give the list of the statements of all searches inside, each of which is sent as ever in one round trip."""
    asked: list[Asked] = []
    send = execute.send

    def note(driver: psycopg.Connection[Any], request: Request, *rest: Any) -> Rows:
        statement, values = request
        if isinstance(statement, PlannedStatement):
            asked.append(Asked(statement.sql, dict(values), statement.settings))
        return send(driver, request, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "send", note)
        yield asked
