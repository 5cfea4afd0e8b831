"""The PostgreSQL that the lifecycle is measured on: durable, and with a fresh copy of the data for each run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy import URL

from audiocatalog.embedded import EmbeddedPostgres
from benchmarks.search.server import Server, connected

_RUN: Final = "lifecycle_run"
_GIGABYTE: Final = 1 << 30


class LifecycleServer(Server):
    """Copy databases that were filled once, so that every run begins with the same files."""

    def fresh(self, template: str) -> URL:
        """Return the URL of a copy of the database *template*, which takes the place of the last one."""
        url = self.create_from(template, _RUN)
        with connected(url) as connection:
            connection.execute("SET statement_timeout = 0")
            connection.execute("VACUUM (ANALYZE)")
            connection.execute("CHECKPOINT")
        return url

    def create_from(self, template: str, name: str) -> URL:
        """Make the database *name* as a copy of *template*, and return its URL."""
        source, target = self.url(template).database, self.url(name).database
        with connected(self._url) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{target}" WITH (FORCE)'.encode())
            connection.execute(f'CREATE DATABASE "{target}" TEMPLATE "{source}" STRATEGY FILE_COPY'.encode())
        self._made.add(name)
        return self.url(name)

    def durability(self) -> str:
        """Return the settings that say what a commit costs."""
        names = ("fsync", "synchronous_commit", "full_page_writes", "autovacuum", "max_wal_size")
        with connected(self._url) as connection:
            row = connection.execute("SELECT " + ", ".join(f"current_setting('{name}')" for name in names)).fetchone()
        return ", ".join(f"{name} {value}" for name, value in zip(names, row or (), strict=True))


@contextmanager
def running(url: str | None) -> Iterator[LifecycleServer]:
    """Give the server at *url*, or an embedded one with the settings of a server that may not lose anything."""
    if url is not None:
        server = LifecycleServer(url, keep=False)
        try:
            yield server
        finally:
            server.clear()
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    settings = {
        # A quarter of the memory, as the manual advises; and no checkpoint in the midst of one run and not of another.
        "shared_buffers": f"{max(128 << 20, min(memory // 4, 8 * _GIGABYTE)) >> 20}MB",
        "effective_cache_size": f"{memory // 2 >> 20}MB",
        "maintenance_work_mem": "512MB",
        "max_wal_size": "8GB",
        "max_connections": "200",
    }
    with EmbeddedPostgres(durable=True, settings=settings) as embedded:
        yield LifecycleServer(embedded.url(), keep=True)
