"""Ctrl-C and SIGTERM at any moment: nothing is half written, and no connection is lost, here or on the server."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.synchronize import Event
from types import FrameType
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import make_url, text

from audiocatalog import Catalog, TrackMetadata, TrackStatus, errors
from audiocatalog.db.pool_parts import Lock
from tests.support.databases import libpq
from tests.support.interrupts import Interrupted, whole
from tests.support.lifecycle import DISAGREEMENTS, Owner
from tests.support.waiting import wait_until

PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus
#: The sessions of a program that is interrupted go by this name.
NAME = "interrupted"
#: Seconds after which a program has ended that was interrupted; a machine busy with other things takes longer.
END_SECONDS = 5.0

# Signals to a program


def save_pairs(url: str, at_work: Event) -> None:
    """Save tracks by twos, each two in a unit of work, and move them, until a signal ends it."""
    with Catalog(url, actor=NAME, pool_size=2) as catalog, suppress(KeyboardInterrupt):
        number = 0
        while True:
            number += 1
            title = f"{os.getpid()} {number}"
            with catalog.unit_of_work() as work:
                pair = [work.save(TrackMetadata(title=title), audio_path="a", status=PENDING).id for _ in range(2)]
                if number % 3 == 0:
                    work.session.execute(text("SELECT pg_sleep(0.01)"))
                work.update_statuses(pair, FAILED)
            catalog.search(title)
            catalog.run(lambda work: work.update_statuses(pair, PENDING))  # noqa: B023
            at_work.set()


def sessions(owner: Owner) -> int:
    row = owner.execute("SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = %s", [NAME]).fetchone()
    assert row is not None
    return int(row["n"])


@pytest.mark.parametrize("moments", [6, pytest.param(100, marks=pytest.mark.faults)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_program_that_is_interrupted_leaves_nothing_half_done(
    database_url: str, owner: Owner, number: signal.Signals, moments: int
) -> None:
    url = make_url(database_url).update_query_dict({"application_name": NAME}).render_as_string(hide_password=False)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    dice = random.Random(3)  # noqa: S311  # No secret.
    slowest = 0.0
    for _ in range(moments):
        at_work = context.Event()
        program = context.Process(target=save_pairs, args=(url, at_work))
        program.start()
        # One in ten is hit as it begins, the others at their work.
        if dice.random() > 0.1:
            assert at_work.wait(30)
        time.sleep(dice.uniform(0, 0.05))
        assert program.pid is not None
        os.kill(program.pid, number)
        sent = time.monotonic()
        program.join(END_SECONDS)
        slowest = max(slowest, time.monotonic() - sent)
        assert program.exitcode is not None
    print(f"\n{number.name} at {moments} moments: ended within {slowest:.2f} s")  # noqa: T201
    wait_until(lambda: sessions(owner) == 0, within=5.0)
    pairs = owner.execute("SELECT title, count(*) AS n FROM audio_tracks GROUP BY title").fetchall()
    assert len(pairs) > moments / 2
    assert [pair for pair in pairs if pair["n"] != 2] == []
    assert owner.execute(DISAGREEMENTS).fetchall() == []
    halves = owner.execute(
        "SELECT title FROM audio_tracks AS t JOIN audio_track_status_changes AS c ON c.track_id = t.id"
        " GROUP BY title HAVING count(*) NOT IN (4, 6) OR count(DISTINCT t.status) > 1"
    ).fetchall()
    assert halves == []


def test_ctrl_c_ends_a_statement_that_takes_long(database_url: str, owner: Owner) -> None:
    """The server is told to stop it, so that it does not go on for nobody."""
    context = multiprocessing.get_context("forkserver")
    program = context.Process(target=sleep_on_the_server, args=(database_url,))
    program.start()
    busy = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%%pg_sleep(30)%%' AND pid <> %s"
    own = [owner.info.backend_pid]
    wait_until(lambda: owner.execute(busy, own).fetchall())
    assert program.pid is not None
    os.kill(program.pid, signal.SIGINT)
    program.join(END_SECONDS)
    assert program.exitcode == 0
    wait_until(lambda: not owner.execute(busy, own).fetchall(), within=5.0)


def sleep_on_the_server(url: str) -> None:
    with Catalog(url, statement_timeout=60) as catalog, suppress(KeyboardInterrupt), catalog.unit_of_work() as work:
        work.session.execute(text("SELECT pg_sleep(30)"))


# Signals whose handlers raise, in a process that goes on


@contextmanager
def interruptions(dice: random.Random) -> Iterator[Callable[[Callable[[], object]], bool]]:
    """Give what runs a call that is interrupted at a random moment of its first half millisecond."""
    armed = False

    def raise_it(_: int, __: FrameType | None) -> None:
        if armed:
            raise Interrupted

    def interrupted(call: Callable[[], object]) -> bool:
        nonlocal armed
        try:
            armed = True
            signal.setitimer(signal.ITIMER_REAL, dice.uniform(1e-6, 600e-6))
            call()
        except Interrupted:
            return True
        finally:
            armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        return False

    before = signal.signal(signal.SIGALRM, raise_it)
    try:
        yield interrupted
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def unit_of_work(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        pair = [work.save(TrackMetadata(title="pair"), audio_path="a", status=PENDING).id for _ in range(2)]
        work.update_statuses(pair, FAILED)


def unit_with_a_session(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        work.session.connection()
        work.save(TrackMetadata(title="pair"), audio_path="a")
        work.save(TrackMetadata(title="pair"), audio_path="a")


def single_read(catalog: Catalog) -> None:
    catalog.find(uuid4())


def search(catalog: Catalog) -> None:
    catalog.search("pair")


CALLS: list[Callable[[Catalog], None]] = [unit_of_work, unit_with_a_session, single_read, search]


@pytest.mark.usefixtures("drop_what_no_caller_sees")
@pytest.mark.faults
@pytest.mark.parametrize("times", [1500])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers")
def test_what_interrupts_a_call_costs_the_pool_no_place(
    database_url: str, owner: Owner, call: Callable[[Catalog], None], times: int
) -> None:
    """Where places are lost, it is about one in a hundred times."""
    assert threading.current_thread() is threading.main_thread()
    with Catalog(database_url, pool_size=3, pool_timeout=5.0) as catalog:
        whole(catalog, 3)
        with interruptions(random.Random(5)) as interrupted:  # noqa: S311  # No secret.
            hit = 0
            for turn in range(times):
                hit += interrupted(lambda: call(catalog))
                assert not has_the_pools_lock(catalog)
                if turn % 20 == 0:
                    gc.collect()  # What an interrupted session held may hang in a circle, until Python looks for such.
                assert catalog.find(uuid4()) is None
        assert hit > times / 10
        gc.collect()
        whole(catalog, 3)
    odd = owner.execute("SELECT count(*) % 2 AS odd FROM audio_tracks").fetchone()
    assert odd == {"odd": 0}
    assert owner.execute(DISAGREEMENTS).fetchall() == []


@pytest.mark.parametrize("release", [1, 2])
def test_an_interrupt_as_the_pools_lock_is_released_leaves_it_to_others(
    database_url: str, monkeypatch: pytest.MonkeyPatch, release: int
) -> None:
    """The lock is released once as a connection is taken, and once as it is given back."""
    done = 0
    leave = Lock.__exit__

    def interrupted(lock: Lock, *details: Any) -> None:
        nonlocal done
        done += 1
        if done == release:
            raise Interrupted
        leave(lock, *details)

    with Catalog(database_url, pool_size=1) as catalog:
        whole(catalog, 1)
        monkeypatch.setattr(Lock, "__exit__", interrupted)
        with suppress(Interrupted):  # pytest.raises would keep the frames, and with them the connection.
            catalog.find(uuid4())
        assert done >= release
        assert not has_the_pools_lock(catalog)
        gc.collect()  # What the interrupted call held may hang in a circle.
        whole(catalog, 1)


def has_the_pools_lock(catalog: Catalog) -> bool:
    """Tell whether this thread still has the lock, for which every other one would wait until it is replaced."""
    pool: Any = catalog._database._pool
    return bool(pool._lock._lock._is_owned())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, Interrupted])
def test_what_is_no_error_passes_untouched_and_rolls_back(
    database_url: str, catalog: Catalog, error: type[BaseException]
) -> None:
    runs: list[Any] = []

    def unit(work: Any) -> None:
        runs.append(work.save(TrackMetadata(), audio_path="a"))
        raise error

    with pytest.raises(error):
        catalog.run(unit)
    assert len(runs) == 1
    with pytest.raises(errors.TrackNotFound):
        catalog.get(runs[0].id)
    with psycopg.connect(libpq(database_url)) as admin:
        open_ones = admin.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
        ).fetchone()
    assert open_ones == (0,)
