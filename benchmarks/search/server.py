"""The PostgreSQL that the benchmark measures on, and the databases that it makes there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
from sqlalchemy import URL, make_url

from audiocatalog.embedded import EmbeddedPostgres

#: What every database of the benchmark is called before its own name.
_PREFIX: Final = "audiocatalog_bench_"
_GIGABYTE: Final = 1 << 30


class Server:
    """Make, find and drop databases on one server; what is not to be kept is dropped at the end."""

    def __init__(self, url: str | URL, *, keep: bool) -> None:
        self._url = make_url(url)
        self._keep = keep
        self._made: set[str] = set()

    def url(self, name: str) -> URL:
        """Return the URL of the database *name*."""
        return self._url.set(database=_PREFIX + name)

    def create(self, name: str) -> URL:
        """Make the database *name*, empty, in place of one that may be there, and return its URL."""
        with connected(self._url) as connection:
            connection.execute(_drop(name))
            connection.execute(f'CREATE DATABASE "{_PREFIX}{name}"'.encode())
        self._made.add(name)
        return self.url(name)

    def exists(self, name: str) -> bool:
        """Tell whether there is a database *name*."""
        with connected(self._url) as connection:
            found = connection.execute("SELECT FROM pg_database WHERE datname = %s", [_PREFIX + name]).fetchone()
        return found is not None

    def version(self) -> str:
        """Return the server's version and what of its settings bears on the figures."""
        with connected(self._url) as connection:
            row = connection.execute(
                "SELECT current_setting('server_version'), current_setting('shared_buffers'), "
                "current_setting('max_parallel_workers_per_gather')"
            ).fetchone()
        version, buffers, workers = row or ("?", "?", "?")
        return f"PostgreSQL {version}, shared_buffers {buffers}, {workers} parallel workers a query"

    def clear(self) -> None:
        """Drop what was made, unless it is to be kept."""
        if self._keep:
            return
        with connected(self._url) as connection:
            for name in self._made:
                connection.execute(_drop(name))


def _drop(name: str) -> bytes:
    return f'DROP DATABASE IF EXISTS "{_PREFIX}{name}" WITH (FORCE)'.encode()


@contextmanager
def running(url: str | None, keep: Path | None, shared_buffers: str | None) -> Iterator[Server]:
    """Give the server at *url*, or an embedded one, whose cluster lies under *keep* where that is given."""
    if url is not None:
        server = Server(url, keep=keep is not None)
        try:
            yield server
        finally:
            server.clear()
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    settings = {
        # A quarter of the memory, as the manual advises.
        "shared_buffers": shared_buffers or f"{max(128 << 20, min(memory // 4, 8 * _GIGABYTE)) >> 20}MB",
        "effective_cache_size": f"{memory // 2 >> 20}MB",
        "maintenance_work_mem": "512MB",
    }
    with EmbeddedPostgres(None if keep is None else keep / "postgres", settings=settings) as embedded:
        yield Server(embedded.url(), keep=True)


@contextmanager
def connected(url: str | URL) -> Iterator[psycopg.Connection[Any]]:
    """Give a connection of psycopg's own, in autocommit."""
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        yield connection


def libpq(url: str | URL) -> str:
    """Return *url* as libpq reads it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def plain_name(text: str) -> str:
    """Return *text* as a part of a database's or a file's name."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
