"""The pool serves callers in the order they came, keeps to its size, and grows by nothing, whatever is done to it."""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy.exc
from sqlalchemy import QueuePool, create_engine, make_url, text

from audiocatalog import Catalog, errors
from tests.support.databases import libpq
from tests.support.interrupts import whole
from tests.support.threads import in_threads
from tests.support.waiting import wait_until

THREADS = 16
CONNECTIONS = 2
SECONDS = 4.0
#: A connection is held for 5 ms, by a sleep on the server, which costs no core.
HELD = "SELECT pg_sleep(0.005)"


def taking_turns(hold: Callable[[], object], too_late: type[Exception]) -> tuple[list[int], int]:
    """Return how often each thread got a connection in some seconds, and how often one waited in vain."""
    turns, late = [0] * THREADS, [0] * THREADS
    barrier = threading.Barrier(THREADS)

    def take_part(number: int) -> None:
        barrier.wait()
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            try:
                hold()
            except too_late:
                late[number] += 1
            else:
                turns[number] += 1

    in_threads(THREADS, take_part)
    return turns, sum(late)


@pytest.mark.faults
def test_sixteen_threads_share_two_connections_evenly(
    database_url: str, record_property: Callable[[str, object], None]
) -> None:
    """SQLAlchemy's own pool, in the same run, shows that it need not be so: most of its threads get nothing."""
    engine = create_engine(database_url, poolclass=QueuePool, pool_size=CONNECTIONS, max_overflow=0, pool_timeout=1.0)

    def hold_one_of_sqlalchemy() -> None:
        with engine.connect() as connection:
            connection.exec_driver_sql(HELD)

    with Catalog(database_url, pool_size=CONNECTIONS, pool_timeout=1.0) as catalog:

        def hold_one_of_ours() -> None:
            with catalog.unit_of_work() as work:
                work.session.execute(text(HELD))

        hold_one_of_ours()
        ours, our_late = taking_turns(hold_one_of_ours, errors.PoolTimeout)
    theirs, their_late = taking_turns(hold_one_of_sqlalchemy, sqlalchemy.exc.TimeoutError)
    engine.dispose()
    figures = {
        "ours": f"{min(ours)} to {max(ours)} turns of a thread, {our_late} too late",
        "QueuePool": f"{min(theirs)} to {max(theirs)} turns, {their_late} too late, {theirs.count(0)} starved",
    }
    record_property("fairness", figures)
    print(f"\n{THREADS} threads, {CONNECTIONS} connections, {SECONDS:g} s: {figures}")  # noqa: T201
    assert our_late == 0
    assert min(ours) >= 0.8 * sum(ours) / THREADS


def sessions(admin: psycopg.Connection[tuple[Any, ...]]) -> int:
    row = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'checkouts'").fetchone()
    assert row is not None
    return int(row[0])


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell how much memory is held")
@pytest.mark.parametrize("checkouts", [1_500, pytest.param(50_000, marks=pytest.mark.faults)])
def test_checkouts_under_terminated_sessions_leave_the_pool_as_it_was(  # Its parts share much.
    database_url: str, checkouts: int, record_property: Callable[[str, object], None]
) -> None:
    size = 4
    url = make_url(database_url).update_query_dict({"application_name": "checkouts"})
    done, failed = [0] * size, [0] * size
    memory: list[int] = []
    killed: list[object] = []

    def take_part(catalog: Catalog, number: int) -> None:
        dice = random.Random(number)  # noqa: S311  # No secret.
        for turn in range(checkouts // size):
            try:
                if dice.random() < 0.2:
                    with catalog.unit_of_work() as work:
                        work.find(uuid4())
                        _ = 1 / (dice.random() > 0.1)  # One in ten units fails by itself.
                else:
                    catalog.find(uuid4())
            except ZeroDivisionError:
                pass
            except errors.DatabaseUnavailable:  # Its session was ended as it was at work.
                failed[number] += 1
            done[number] += 1
            if number == 0 and turn % 50 == 0:
                terminate()  # It may be the connection of any thread: the others work meanwhile.
            if number == 0 and turn == checkouts // size // 5:
                memory.append(resident())

    def terminate() -> None:
        with psycopg.connect(libpq(database_url), autocommit=True) as admin:
            killed.extend(
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity WHERE"
                    " application_name = 'checkouts' ORDER BY random() LIMIT 1) AS one"
                ).fetchall()
            )

    with Catalog(url, pool_size=size) as catalog:
        in_threads(size, lambda number: take_part(catalog, number))
        memory.append(resident())
        whole(catalog, size)
        with psycopg.connect(libpq(database_url), autocommit=True) as admin:
            # One that was ended a moment ago may still be on its way out.
            wait_until(lambda: sessions(admin) <= size, within=5.0)
    growth = (memory[1] - memory[0]) / 2**20
    figures = {"checkouts": sum(done), "ended": len(killed), "failed": sum(failed), "growth_MB": round(growth, 2)}
    record_property("checkouts", figures)
    print(f"\n{figures}")  # noqa: T201
    assert sum(done) == checkouts // size * size
    assert len(killed) >= checkouts / 1000
    # A terminated session fails at most one checkout, the one that uses it at that moment.
    assert sum(failed) <= len(killed)
    assert growth < 5
