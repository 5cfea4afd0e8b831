"""Calls that are interrupted while others wait for the same connections: no place is lost, and nobody else notices."""

from __future__ import annotations

import ctypes
import gc
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import make_url

from audiocatalog import Catalog
from audiocatalog.db.pool_parts import Maker, Turn
from tests.support.databases import libpq
from tests.support.interrupts import Interrupted, whole
from tests.support.waiting import wait_until

#: Seconds for which calls are interrupted, here and with the slow tests.
SHORT, LONG = 1.5, 40.0
LENGTHS = [SHORT, pytest.param(LONG, marks=pytest.mark.faults)]
#: The least of calls to interrupt in a second; on two idle cores it is about forty.
LEAST = 2
APPLICATION = "interrupted_under_contention"


class Load:
    """Threads that keep asking, and note every error that they see."""

    def __init__(self, catalog: Catalog, threads: int) -> None:
        self.seen: list[BaseException] = []
        self._ended = threading.Event()
        self._catalog = catalog
        self._threads = [threading.Thread(target=self._ask, args=[number]) for number in range(threads)]

    def _ask(self, number: int) -> None:
        while not self._ended.is_set():
            try:
                if number % 2:
                    self._catalog.find(uuid4())
                else:
                    with self._catalog.unit_of_work() as work:
                        work.find(uuid4())
            except BaseException as error:  # noqa: BLE001  # Whatever it is, the test shows it.
                self.seen.append(error)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()


def sessions(admin: psycopg.Connection[Any]) -> int:
    row = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [APPLICATION]).fetchone()
    assert row is not None
    return int(row[0])


@contextmanager
def contended(url: str, size: int) -> Iterator[Catalog]:
    """Give a catalogue of *size* connections while others take them; find it whole, and nobody disturbed, after."""
    named = make_url(url).update_query_dict({"application_name": APPLICATION})
    with Catalog(named, pool_size=size, pool_timeout=5.0) as catalog:
        catalog.warm_up()
        with Load(catalog, size + 1) as load:
            yield catalog
        assert load.seen == []
        # Twice: a place that comes back only after somebody has waited in vain is lost as well.
        for _ in range(2):
            whole(catalog, size)
        with psycopg.connect(libpq(url), autocommit=True) as admin:
            # Those that an interrupt has ended may still be on their way out.
            wait_until(lambda: sessions(admin) <= size)


@pytest.mark.usefixtures("drop_what_no_caller_sees")
@pytest.mark.parametrize("seconds", LENGTHS)
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers")
def test_signals_cost_no_place_while_others_wait(database_url: str, size: int, seconds: float) -> None:
    assert threading.current_thread() is threading.main_thread()
    dice = random.Random(size)  # noqa: S311  # No secret.
    armed = False
    hit = 0

    def raise_it(_: int, __: FrameType | None) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Interrupted

    def ask(catalog: Catalog) -> None:
        # A function of its own: where a `while` ends a `try`, Python 3.13 leaves the jump back outside of the `try`.
        while armed:
            catalog.find(uuid4())

    before = signal.signal(signal.SIGALRM, raise_it)
    try:
        with contended(database_url, size) as catalog:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                try:
                    armed = True
                    signal.setitimer(signal.ITIMER_REAL, dice.uniform(0.0005, 0.02))
                    ask(catalog)
                except Interrupted:
                    hit += 1
            armed = False
            gc.collect()  # What an interrupted call held may hang in a circle, until Python looks for such.
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    print(f"\n{hit} calls interrupted by signals in {seconds:g} s, {size} connections")  # noqa: T201
    assert hit > seconds * LEAST


def throw_into(thread: threading.Thread, error: type[BaseException] | None) -> None:
    """Have *error* raised in *thread* at its next step, or take back what was not raised yet."""
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), error and ctypes.py_object(error))


@pytest.mark.usefixtures("drop_what_no_caller_sees")
@pytest.mark.parametrize("seconds", LENGTHS)
@pytest.mark.parametrize("size", [2, 4])
def test_exceptions_thrown_into_threads_cost_no_place_while_others_wait(
    database_url: str, size: int, seconds: float
) -> None:
    """As soft time limits do it. The threads that are hit go on, as those of a server do."""
    hit = 0
    dice = random.Random(size)  # noqa: S311  # No secret.
    ended = threading.Event()
    #: Whether a thread is inside of a call, where it may be hit.
    inside = [False] * (size + 1)

    with contended(database_url, size) as catalog:

        def ask(number: int) -> None:
            nonlocal hit
            while not ended.is_set():
                try:
                    try:
                        inside[number] = True
                        if number % 2:
                            catalog.find(uuid4())
                        else:
                            catalog.search("nothing")
                    finally:
                        inside[number] = False
                except Interrupted:
                    hit += 1

        targets = [threading.Thread(target=ask, args=[number]) for number in range(size + 1)]
        for thread in targets:
            thread.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            number = dice.randrange(len(targets))
            if inside[number] and targets[number].is_alive():
                throw_into(targets[number], Interrupted)
            time.sleep(dice.uniform(0.001, 0.02))
        ended.set()
        for thread in targets:
            thread.join()
        gc.collect()
    print(f"\n{hit} exceptions thrown into calls in {seconds:g} s, {size} connections")  # noqa: T201
    assert hit > seconds * LEAST


def test_a_place_that_is_lost_in_any_way_comes_back_to_who_waits(database_url: str) -> None:
    """A waiting caller looks for itself: nobody tells it that a holder has vanished."""
    with Catalog(database_url, pool_size=2, pool_timeout=5.0) as catalog:
        catalog.warm_up()
        held = [catalog._database._take() for _ in range(2)]
        found: list[object] = []
        waiting = threading.Thread(target=lambda: found.append(catalog.find(uuid4())))
        waiting.start()
        wait_until(lambda: catalog.pool_stats().waiting == 1)
        del held[:]
        waiting.join()
        assert found == [None]
        assert catalog.pool_stats().connections <= 2
        whole(catalog, 2)


def test_a_place_in_the_line_that_nobody_stands_in_costs_nothing(database_url: str) -> None:
    """A caller that is interrupted even as it leaves the line stays in it."""
    with Catalog(database_url, pool_size=1, pool_timeout=5.0) as catalog:
        catalog.warm_up()
        pool = catalog._database._opened_pool()
        with catalog.unit_of_work():
            for began in (time.monotonic() - 60, time.monotonic()):
                pool._queue[Turn(began, began + 5.0, searching=False)] = None
        # The second one was given a connection, which nobody takes.
        assert catalog.find(uuid4()) is None
        assert catalog.pool_stats().waiting == 0
        whole(catalog, 1)


def test_a_thread_that_was_never_started_or_died_is_not_waited_for(database_url: str) -> None:
    with Catalog(database_url, pool_size=1, pool_timeout=5.0) as catalog:
        catalog.warm_up()
        pool = catalog._database._opened_pool()
        catalog._database._take().disconnect()
        died = Maker(lambda _: sys.exit())
        died.start()
        pool._makers += [Maker(pool._make), died]
        assert catalog.find(uuid4()) is None
        whole(catalog, 1)


def test_a_lock_that_was_left_locked_is_replaced(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audiocatalog.db.pool_parts._LOCK_SECONDS", 0.2)
    with Catalog(database_url, pool_size=2) as catalog:
        catalog.warm_up()
        lock = catalog._database._opened_pool()._lock
        interrupted = threading.Thread(target=lock.__enter__)
        interrupted.start()
        interrupted.join()
        whole(catalog, 2)
