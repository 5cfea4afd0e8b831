"""The databases of a test run: their URLs and tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import psycopg
from psycopg import sql
from sqlalchemy import URL, make_url

from audiocatalog import UnitOfWork
from tests.support.detour import (
    direct,
)

#: The URL of a server to run on, instead of an embedded one.
GIVEN_SERVER = os.environ.get("AUDIOCATALOG_TEST_DATABASE_URL")
#: Every table, those first that refer to others.
TABLES = (
    "audio_track_tasks",
    "audio_track_edits",
    "audio_track_status_changes",
    "audio_tracks",
    "audio_search_words",
    "audio_search_counts",
)


Units = Callable[[], UnitOfWork]


def libpq(url: str | URL) -> str:
    """Return *url* as libpq takes it, on the direct way to the server: what is done by hand is the superuser's."""
    return direct(make_url(url)).set(drivername="postgresql").render_as_string(hide_password=False)


@contextmanager
def temporary_database(server_url: str, *, template: str = "template0") -> Iterator[str]:
    """Create a database, which is empty or a copy of *template*, give its URL, and drop it."""
    name = f"audiocatalog_test_{uuid4().hex}"
    with psycopg.connect(libpq(server_url), autocommit=True) as admin:
        # Files are copied at a third of the cost of pages. A server that keeps what it writes would wait for the disk.
        strategy = "" if GIVEN_SERVER else " STRATEGY file_copy"
        copy = sql.SQL("CREATE DATABASE {} ENCODING 'UTF8' TEMPLATE {}" + strategy)
        admin.execute(copy.format(sql.Identifier(name), sql.Identifier(template)))
        try:
            yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
        finally:
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
