"""The pool of tasks: first come, first served; limits of time that a busy loop neither stretches nor breaks."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import uvloop
from sqlalchemy import text

from audiocatalog import BulkOutcome, Catalog, TrackMetadata, TrackRecord, errors
from audiocatalog.aio import AsyncCatalog
from audiocatalog.aio.bulk_load import save_in_batches
from audiocatalog.aio.connection import AsyncPooledConnection
from audiocatalog.db.connection import PooledConnection
from audiocatalog.db.connector import Connector
from audiocatalog.operations.bulk import RecordOutcome

Run = Callable[[Coroutine[Any, Any, object]], object]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.param
    return found


def test_who_comes_first_is_served_first(database_url: str, run: Run) -> None:
    served: list[int] = []

    async def ask(catalog: AsyncCatalog, number: int) -> None:
        async with catalog.unit_of_work() as work:
            served.append(number)
            await work.find(uuid4())

    async def main() -> None:
        async with AsyncCatalog(database_url, pool_size=1) as catalog:
            await catalog.warm_up()
            async with asyncio.TaskGroup() as group:
                for number in range(40):
                    group.create_task(ask(catalog, number))

    run(main())
    assert served == list(range(40))


def test_no_task_is_starved(database_url: str, run: Run) -> None:
    """A task that asks again stands behind those that wait, however long the server takes for each."""
    checkouts: list[int] = []
    overtaken: list[int] = []

    async def ask(catalog: AsyncCatalog, number: int) -> None:
        while len(checkouts) < 400:
            before = len(checkouts)
            async with catalog.unit_of_work() as work:
                overtaken.append(len(checkouts) - before)
                checkouts.append(number)
                await work.find(uuid4())

    async def main() -> None:
        async with AsyncCatalog(database_url, pool_size=2, pool_timeout=60) as catalog, asyncio.TaskGroup() as group:
            await catalog.warm_up()
            for number in range(16):
                group.create_task(ask(catalog, number))

    run(main())
    assert set(checkouts) == set(range(16))
    assert max(overtaken) <= 16


BLOCKED = 0.9
CALLS: dict[str, Callable[[AsyncCatalog], Coroutine[Any, Any, object]]] = {
    "find": lambda catalog: catalog.find(uuid4()),
    "search": lambda catalog: catalog.search("x"),
    "claim": lambda catalog: catalog.claim(),
    "bulk_save": lambda catalog: catalog.bulk_save([TrackRecord(TrackMetadata(title="x" * 900), "a")] * 20),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("moment", "run"), [(0.0, asyncio.run), (0.002, asyncio.run), (0.001, uvloop.run)])
def test_a_loop_that_is_blocked_by_other_code_is_not_blamed_on_the_server(
    database_url: str, call: str, moment: float, run: Run
) -> None:
    async def block() -> None:
        await asyncio.sleep(moment)
        time.sleep(BLOCKED)  # noqa: ASYNC251  # It is what must not be done.

    async def main() -> None:
        limits = {"statement_timeout": 0.3, "search_timeout": 0.3, "network_timeout": 0.3, "pool_timeout": 0.5}
        async with AsyncCatalog(database_url, pool_size=1, **limits) as catalog:  # type: ignore[arg-type]
            await catalog.warm_up()
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(CALLS[call](catalog))
                group.create_task(block())

    run(main())


def test_a_loop_that_is_blocked_while_the_first_connection_is_opened_is_not_blamed_either(
    database_url: str, run: Run
) -> None:
    async def main() -> None:
        async with AsyncCatalog(database_url, pool_size=1, pool_timeout=0.8) as catalog:
            tasks = [asyncio.create_task(catalog.find(uuid4())) for _ in range(2)]
            await asyncio.sleep(0.001)
            time.sleep(BLOCKED)  # noqa: ASYNC251  # It is what must not be done.
            assert await asyncio.gather(*tasks) == [None, None]

    run(main())


def test_limits_of_time_hold_while_the_loop_is_busy(database_url: str, run: Run) -> None:
    ended = False

    async def be_busy() -> None:
        while not ended:
            time.sleep(0.05)  # noqa: ASYNC251  # It is what a busy loop does.
            await asyncio.sleep(0)

    async def main() -> None:
        nonlocal ended
        limits = {"statement_timeout": 0.6, "network_timeout": 1.0, "pool_timeout": 0.9}
        async with AsyncCatalog(database_url, pool_size=1, **limits) as catalog:  # type: ignore[arg-type]
            await catalog.warm_up()
            busy = asyncio.create_task(be_busy())
            try:
                with pytest.raises(errors.QueryTimeout):
                    async with catalog.unit_of_work() as work:
                        await work.session.execute(text("SELECT pg_sleep(60)"))
                async with catalog.unit_of_work():
                    began = time.monotonic()
                    with pytest.raises(errors.PoolTimeout):
                        await catalog.find(uuid4())
                    assert 0.35 < time.monotonic() - began < 20
            finally:
                ended = True
                await busy

    run(main())


def test_a_catalogue_closes_with_calls_under_way(database_url: str, run: Run) -> None:
    async def main() -> None:
        catalog = AsyncCatalog(database_url, pool_size=1)
        async with catalog.unit_of_work() as work:
            await work.save(TrackMetadata(title="kept"), audio_path="a")
            waiting = asyncio.create_task(catalog.find(uuid4()))
            await asyncio.sleep(0)
            await catalog.close()
            with pytest.raises(errors.ConfigurationError, match="closed"):
                await waiting
            await work.save(TrackMetadata(title="kept"), audio_path="a")
        with pytest.raises(errors.ConfigurationError, match="closed"):
            await catalog.find(uuid4())
        await catalog.close()
        assert catalog.pool_stats().connections == 0

    run(main())
    with Catalog(database_url) as catalog:
        assert catalog.search("kept").total == 2


def test_a_catalogue_closes_while_its_first_connection_is_opened(database_url: str) -> None:
    async def main() -> None:
        catalog = AsyncCatalog(database_url, pool_size=1)
        waiting = asyncio.create_task(catalog.find(uuid4()))
        await asyncio.sleep(0)
        await catalog.close()
        with pytest.raises(errors.ConfigurationError, match="closed"):
            await waiting
        assert catalog.pool_stats().connections == 0

    asyncio.run(main())


def test_a_connection_that_ends_before_the_loop_has_it_is_an_outage(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next caller tries again."""
    connect, ended = Connector.connect, list[PooledConnection]()

    def connect_and_end(connector: Connector) -> PooledConnection:
        connection = connect(connector)
        if not ended:
            ended.append(connection)
            connection.disconnect()
        return connection

    monkeypatch.setattr(Connector, "connect", connect_and_end)

    async def main() -> None:
        async with AsyncCatalog(database_url, pool_size=1) as catalog:
            with pytest.raises(errors.DatabaseUnavailable) as caught:
                await catalog.find(uuid4())
            assert caught.value.retryable
            assert await catalog.run(lambda work: work.find(uuid4())) is None

    asyncio.run(main())


def test_a_load_that_fails_has_ended_its_batches_before_its_caller_hears_of_it() -> None:
    under_way: Counter[str] = Counter()

    async def store(records: object) -> list[Any]:
        under_way["begun"] += 1
        try:
            await asyncio.sleep(0 if under_way["begun"] == 1 else 60)
        finally:
            under_way["ended"] += 1
        return [RecordOutcome(BulkOutcome.INSERTED, None) for _ in records]  # type: ignore[attr-defined]

    def refuse(_: object) -> None:
        raise ArithmeticError

    async def main() -> None:
        records = [TrackRecord(TrackMetadata(), "a") for _ in range(6)]
        with pytest.raises(ArithmeticError):
            await save_in_batches(records, store, batch=1, progress=refuse, connections=3)
        assert under_way["begun"] == under_way["ended"] == 3

    asyncio.run(main())


def test_a_call_whose_connection_is_closed_meanwhile_ends(database_url: str) -> None:
    """No data arrives at a closed socket, so nothing but the end of the connection wakes the task."""

    async def main() -> None:
        async with (
            AsyncCatalog(database_url, pool_size=1, statement_timeout=60) as catalog,
            catalog.unit_of_work() as work,
        ):
            driver = await work._open().driver()
            sleeping = asyncio.create_task(driver.execute("SELECT pg_sleep(60)"))
            await asyncio.sleep(0.1)
            assert isinstance(driver, AsyncPooledConnection)
            driver.disconnect()
            done, _ = await asyncio.wait([sleeping], timeout=10)
            assert done == {sleeping}
            assert isinstance(sleeping.exception(), psycopg.OperationalError)
            raise LookupError

    with pytest.raises(LookupError):
        asyncio.run(main())
