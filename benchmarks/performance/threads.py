"""What eight threads get done over a pool of four connections, beside four threads with a bare connection each."""

from __future__ import annotations

import functools
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Final

from audiocatalog import Catalog
from audiocatalog.models.ids import new_id
from benchmarks.performance import bare, ours
from benchmarks.performance.database import Databases
from benchmarks.performance.rows import ACTOR, Values
from benchmarks.performance.timing import say, turns
from benchmarks.search.data import track_id

THREADS: Final = 8
CONNECTIONS: Final = 4
OURS: Final = f"audiocatalog: {THREADS} threads on {CONNECTIONS} connections"
OURS_WITHOUT_QUEUE: Final = f"audiocatalog: {CONNECTIONS} threads on {CONNECTIONS} connections"
BARE: Final = f"bare psycopg: {CONNECTIONS} threads, a connection each"
GETS: Final = "get"
MIXED: Final = "80 % get, 20 % save"
_ONE_IN: Final = {GETS: 0, MIXED: 5}
_PATIENCE_SECONDS: Final = 60.0

#: Do one thing, the n-th of a thread.
Act = Callable[[int], object]


def measure(databases: Databases, *, blocks: int, seconds: float) -> dict[str, Any]:
    """Return the calls a second of each crew in each block, and what the slowest of its threads did to the mean."""
    url, count = databases.filled(), databases.filled_count
    contents = list(databases.tracks.values(1000))
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        catalog = stack.enter_context(Catalog(url, actor=ACTOR, pool_size=CONNECTIONS))
        connections = [stack.enter_context(bare.connect(url)) for _ in range(CONNECTIONS)]
        for kind, one_in in _ONE_IN.items():

            def by_us(number: int, one_in: int = one_in) -> Act:
                save = functools.partial(ours.save, catalog)
                return _mixed(catalog.get, save, number, count=count, contents=contents, one_in=one_in)

            def by_hand(number: int, one_in: int = one_in) -> Act:
                one = bare.contestant(connections[number])
                get, save = one.get[bare.GET], one.save[bare.SAVE_BY_FUNCTION]
                return _mixed(get, save, number, count=count, contents=contents, one_in=one_in)

            crews = {
                OURS: [by_us(number) for number in range(THREADS)],
                OURS_WITHOUT_QUEUE: [by_us(number) for number in range(CONNECTIONS)],
                BARE: [by_hand(number) for number in range(CONNECTIONS)],
            }
            found[kind] = _measure(crews, kind, blocks, seconds)
    return {"threads": THREADS, "connections": CONNECTIONS, "seconds": seconds, "kinds": found}


def _mixed(
    get: Callable[[Any], object],
    save: Callable[[Values], object],
    number: int,
    *,
    count: int,
    contents: Sequence[Values],
    one_in: int,
) -> Act:
    """Return what a thread does: it gets a track, and each *one_in*-th time, where that is not 0, saves a new one."""
    dice = random.Random(number)  # noqa: S311 - a repeatable choice is wanted.

    def act(step: int) -> object:
        if one_in and step % one_in == 0:
            return save((new_id(), *contents[step % len(contents)][1:]))
        return get(track_id(dice.randrange(count)))

    return act


def _measure(crews: dict[str, list[Act]], kind: str, blocks: int, seconds: float) -> dict[str, Any]:
    found: dict[str, Any] = {name: {"rates": [], "slowest": []} for name in crews}
    for block in range(-1, blocks):
        for name in turns(list(crews), block):
            done = _run(crews[name], seconds)
            if block >= 0:
                found[name]["rates"].append(sum(done) / seconds)
                found[name]["slowest"].append(min(done) / statistics.mean(done))
    for name, figures in found.items():
        say(f"threads, {kind}: {name}: {statistics.median(figures['rates']):,.0f} a second")
    return found


def _run(acts: Sequence[Act], seconds: float) -> list[int]:
    """Return how often each of *acts* was called, each in a thread of its own, in so many seconds."""
    barrier = threading.Barrier(len(acts), timeout=_PATIENCE_SECONDS)

    def work(act: Act) -> int:
        done = 0
        barrier.wait()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            act(done)
            done += 1
        return done

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(work, acts))
