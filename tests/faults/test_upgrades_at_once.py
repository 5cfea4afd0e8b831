"""Upgrades that begin together, and upgrades that are killed: whatever happens, one head and one schema come of it."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from multiprocessing.context import ForkServerContext
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from tests.support.databases import libpq
from tests.support.schemas import schema_of
from tests.support.upgrades import (
    HEAD,
    NOW,
    OLDER,
    VALIDATED,
    fill,
    holding,
    invalid_indexes_of,
    revision_of,
    seeds_of,
    upgrade,
)

pytestmark = pytest.mark.faults

ROUNDS, AT_ONCE = 20, 5
LONGEST = 60.0


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Give processes that begin at once: what they need is imported before they are forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["tests.support.upgrades", "audiocatalog.migrations", "audiocatalog.migrations.alembic_operations"]
    )
    return context


@contextmanager
def copy_of(url: str) -> Iterator[str]:
    """Give a copy of the database at *url*, to which nobody may be connected."""
    template, copy = str(make_url(url).database), f"audiocatalog_test_{uuid4().hex}"
    with psycopg.connect(libpq(make_url(url).set(database="postgres")), autocommit=True) as admin:
        names = sql.Identifier(copy), sql.Identifier(template)
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*names))
        try:
            yield make_url(url).set(database=copy).render_as_string(hide_password=False)
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(copy)))


@pytest.mark.parametrize("older", OLDER)
def test_five_upgrades_at_once_all_succeed(
    empty_database: Callable[[], str], processes: ForkServerContext, older: str
) -> None:
    origin, fresh = empty_database(), empty_database()
    upgrade(origin, older)
    upgrade(fresh)
    expected = schema_of(fresh)
    for _ in range(ROUNDS):
        with copy_of(origin) as url:
            upgraders = [processes.Process(target=upgrade, args=[url]) for _ in range(AT_ONCE)]
            for upgrader in upgraders:
                upgrader.start()
            for upgrader in upgraders:
                upgrader.join(LONGEST)
            assert [upgrader.exitcode for upgrader in upgraders] == [0] * AT_ONCE
            assert (revision_of(url), seeds_of(url), invalid_indexes_of(url)) == (HEAD, 1, [])
            assert schema_of(url) == expected


@pytest.mark.parametrize(
    ("older", "kills", "busy"),
    [("base", 15, False), (NOW, 15, False), (VALIDATED, 20, True)],
    ids=["from nothing", "with rows", "while somebody writes"],
)
def test_an_upgrade_that_was_killed_at_any_moment_is_finished_by_the_next(
    empty_database: Callable[[], str], processes: ForkServerContext, older: str, kills: int, *, busy: bool
) -> None:
    """The next one begins at once, while the server may still be at what the killed one has asked for."""
    origin, fresh = empty_database(), empty_database()
    if older != "base":
        upgrade(origin, NOW)
        fill(origin, tracks=20_000)
        upgrade(origin, older)
    upgrade(fresh)
    expected = schema_of(fresh)
    for _ in range(2):  # The first process waits for the server that forks the others.
        with copy_of(origin) as url:
            begun = time.monotonic()
            unharmed = processes.Process(target=upgrade, args=[url])
            unharmed.start()
            unharmed.join(LONGEST)
            duration = time.monotonic() - begun
    moments = random.Random(6)  # noqa: S311  # No secret.
    found: dict[str | None, int] = {}
    left = 0
    for _ in range(kills):
        with copy_of(origin) as url:
            # An index waits for who writes its table, so that the build is there to be killed.
            with holding(url, "LOCK TABLE audio_tracks IN ROW EXCLUSIVE MODE") if busy else nullcontext():
                victim = processes.Process(target=upgrade, args=[url])
                victim.start()
                victim.join(moments.uniform(0, 2 * duration if busy else duration))
                victim.kill()
                victim.join()
            revision = revision_of(url)
            found[revision] = found.get(revision, 0) + 1
            left += len(invalid_indexes_of(url))
            upgrade(url)
            assert (revision_of(url), seeds_of(url), invalid_indexes_of(url)) == (HEAD, 1, [])
            assert schema_of(url) == expected
    assert left or not busy
    print(f"\nfrom {older}, in {duration:.2f} s: killed at {found}, {left} invalid indexes left")  # noqa: T201
