"""What a catalogue for asyncio costs beside its synchronous twin, and what a hundred tasks do beside bare drivers."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Final

import psycopg

from audiocatalog import Catalog
from audiocatalog.aio import AsyncCatalog
from audiocatalog.db.settings import CONNECTION_DEFAULTS
from audiocatalog.operations.tracks import FIND
from benchmarks import absent
from benchmarks.performance.database import Databases
from benchmarks.performance.rows import ACTOR
from benchmarks.performance.timing import say, turns
from benchmarks.search.data import track_id
from benchmarks.search.server import libpq

TASKS: Final = 100
CONNECTIONS: Final = 8
SYNC: Final = "audiocatalog.Catalog"
ASYNC: Final = "audiocatalog.aio.AsyncCatalog"
OURS: Final = f"audiocatalog: {TASKS} tasks on {CONNECTIONS} connections"
BARE: Final = f"bare psycopg: {CONNECTIONS} tasks, an AsyncConnection each"
ASYNCPG: Final = f"asyncpg: {CONNECTIONS} tasks, a connection each"
GET: Final = "get"
SEARCH: Final = "search"
_QUERIES: Final = ("love", "the night", "blue sky", "live at")

#: Do one thing, the n-th of a task.
Act = Callable[[int], Awaitable[object]]


def measure(databases: Databases, *, blocks: int, calls: int, seconds: float) -> dict[str, Any]:
    """Return the latency of calls on both sides, and the calls a second of each crew in each block."""
    url, count = databases.filled(), databases.filled_count
    return {
        "tasks": TASKS,
        "connections": CONNECTIONS,
        "seconds": seconds,
        "latency": _latency(url, count, blocks=blocks, calls=calls),
        "crews": asyncio.run(_throughput(url, count, blocks=blocks, seconds=seconds)),
    }


def _latency(url: str, count: int, *, blocks: int, calls: int) -> dict[str, Any]:
    """Return the median and the 99th percentile of each block, in µs."""
    dice = random.Random(count)  # noqa: S311 - a repeatable choice is wanted.
    found: dict[str, Any] = {kind: {name: {"p50": [], "p99": []} for name in (SYNC, ASYNC)} for kind in (GET, SEARCH)}
    with asyncio.Runner() as runner, ExitStack() as stack:
        catalog = stack.enter_context(Catalog(url, actor=ACTOR, pool_size=1))
        twin = AsyncCatalog(url, actor=ACTOR, pool_size=1)
        stack.callback(lambda: runner.run(twin.close()))
        for block in range(-1, blocks):
            ids = [track_id(number) for number in dice.choices(range(count), k=calls)]
            queries = list(itertools.islice(itertools.cycle(_QUERIES), max(len(_QUERIES), calls // 20)))
            for name in turns([SYNC, ASYNC], block):
                for kind, arguments in ((GET, ids), (SEARCH, queries)):
                    if name == SYNC:
                        times = _times(getattr(catalog, kind), arguments)
                    else:
                        times = runner.run(_times_awaited(getattr(twin, kind), arguments))
                    if block >= 0:
                        found[kind][name]["p50"].append(statistics.median(times) * 1e6)
                        found[kind][name]["p99"].append(sorted(times)[int(0.99 * (len(times) - 1))] * 1e6)
    return found


def _times(act: Callable[[Any], object], arguments: Sequence[Any]) -> list[float]:
    clock, times = time.perf_counter, []
    for argument in arguments:
        begun = clock()
        act(argument)
        times.append(clock() - begun)
    return times


async def _times_awaited(act: Callable[[Any], Awaitable[object]], arguments: Sequence[Any]) -> list[float]:
    clock, times = time.perf_counter, []
    for argument in arguments:
        begun = clock()
        await act(argument)
        times.append(clock() - begun)
    return times


async def _throughput(url: str, count: int, *, blocks: int, seconds: float) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        catalog = await stack.enter_async_context(AsyncCatalog(url, actor=ACTOR, pool_size=CONNECTIONS))
        await catalog.warm_up()
        crews = {
            OURS: [_getting(catalog.get, number, count) for number in range(TASKS)],
            BARE: [_getting(await _bare(url, stack), number, count) for number in range(CONNECTIONS)],
        }
        if absent.has_modules(ASYNCPG, "asyncpg"):
            crews[ASYNCPG] = [_getting(await _asyncpg(url, stack), number, count) for number in range(CONNECTIONS)]
        found: dict[str, Any] = {name: {"rates": [], "slowest": []} for name in crews}
        for block in range(-1, blocks):
            for name in turns(list(crews), block):
                done = await _run(crews[name], seconds)
                if block >= 0:
                    found[name]["rates"].append(sum(done) / seconds)
                    found[name]["slowest"].append(min(done) / statistics.mean(done))
    for name, figures in found.items():
        say(f"tasks, {GET}: {name}: {statistics.median(figures['rates']):,.0f} a second")
    return found


def _getting(get: Callable[[Any], Awaitable[object]], number: int, count: int) -> Act:
    dice = random.Random(number)  # noqa: S311 - a repeatable choice is wanted.
    return lambda _: get(track_id(dice.randrange(count)))


async def _bare(url: str, stack: AsyncExitStack) -> Callable[[Any], Awaitable[object]]:
    connection = await psycopg.AsyncConnection.connect(
        libpq(url), autocommit=True, prepare_threshold=0, **CONNECTION_DEFAULTS
    )
    stack.push_async_callback(connection.close)
    cursor = psycopg.AsyncRawCursor(connection)

    async def get(id_: Any) -> object:  # noqa: ANN401 - an id.
        await cursor.execute(FIND.sql, (id_,))
        return await cursor.fetchone()

    return get


async def _asyncpg(url: str, stack: AsyncExitStack) -> Callable[[Any], Awaitable[object]]:
    asyncpg: Any = importlib.import_module("asyncpg")
    # Between two statements, its statement_timeout goes on.
    connection = await asyncpg.connect(libpq(url), server_settings={"statement_timeout": "0"})
    stack.push_async_callback(connection.close)
    statement = await connection.prepare(FIND.sql)
    get: Callable[[Any], Awaitable[object]] = statement.fetchrow
    return get


async def _run(acts: Sequence[Act], seconds: float) -> list[int]:
    """Return how often each of *acts* was called, each in a task of its own, in this many seconds."""
    end = time.perf_counter() + seconds

    async def work(act: Act) -> int:
        done = 0
        while time.perf_counter() < end:
            await act(done)
            done += 1
        return done

    return list(await asyncio.gather(*(work(act) for act in acts)))
