"""Waiting for a state instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

import psycopg
from sqlalchemy import URL

T = TypeVar("T")
# The lock of a row is waited for as the end of the transaction that holds it, which belongs to no database.
_IS_BLOCKED: Final = """
SELECT 1 FROM pg_locks AS waits JOIN pg_locks AS has USING (pid)
WHERE NOT waits.granted AND has.relation = %s::regclass
  AND has.database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


def wait_until(condition: Callable[[], T], *, within: float = 60.0) -> T:
    """Return what *condition* returns once that is true; *within* is for a failure alone, however slow the machine."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not so within {within} s"
        time.sleep(0.005)
    return found


def wait_until_blocked(url: str | URL, table: str) -> None:
    """Return when a session that has used *table* in the database at *url* waits for a lock."""
    from tests.support.databases import libpq

    with psycopg.connect(libpq(url), autocommit=True) as admin:
        wait_until(lambda: admin.execute(_IS_BLOCKED, [table], prepare=False).fetchone())
