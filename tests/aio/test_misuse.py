"""What a unit of work, a loop or a task is not made for is refused, and harms nothing else."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final
from uuid import uuid4

import pytest
from sqlalchemy import text

from audiocatalog import Catalog, TrackMetadata, TrackRecord, errors
from audiocatalog.aio import AsyncCatalog, AsyncUnitOfWork
from tests.support.cancelling import await_whole

Use = Callable[[AsyncUnitOfWork], Coroutine[Any, Any, object]]


async def find(work: AsyncUnitOfWork) -> None:
    await work.find(uuid4())


async def save(work: AsyncUnitOfWork) -> None:
    await work.save(TrackMetadata(title="other"), audio_path="a")


async def search(work: AsyncUnitOfWork) -> None:
    await work.search("other")


async def load(work: AsyncUnitOfWork) -> None:
    await work.bulk_save([TrackRecord(TrackMetadata(title="other"), "a")])


async def ask_by_the_session(work: AsyncUnitOfWork) -> None:
    await work.session.execute(text("SELECT 1"))


async def wait_on_the_server(work: AsyncUnitOfWork) -> None:
    driver = await work._open().driver()
    await driver.execute("SELECT pg_sleep(0.2)")


async def wait_by_the_session(work: AsyncUnitOfWork) -> None:
    await work.session.execute(text("SELECT pg_sleep(0.2)"))


USES: Final[list[Use]] = [find, save, search, load, ask_by_the_session]


@pytest.mark.parametrize("second", USES)
@pytest.mark.parametrize("first", [wait_on_the_server, wait_by_the_session])
def test_a_second_task_in_a_unit_of_work_is_refused_and_the_first_goes_on(
    database_url: str, catalog: Catalog, first: Use, second: Use
) -> None:
    async def main() -> None:
        async with AsyncCatalog(database_url, pool_size=1) as own:
            async with own.unit_of_work() as work:
                await work.save(TrackMetadata(title="kept"), audio_path="a")
                answers = await asyncio.gather(first(work), second(work), return_exceptions=True)
                await save(work)
            await await_whole(own, 1)
        assert answers[0] is None
        assert isinstance(answers[1], errors.UnitOfWorkBusy)
        assert not answers[1].retryable

    asyncio.run(main())
    assert catalog.search("title:kept").total == 1
    assert catalog.search("title:other").total == 1


def test_tasks_that_take_turns_in_a_unit_of_work_are_served(database_url: str) -> None:
    async def main() -> None:
        async with AsyncCatalog(database_url, pool_size=1) as own, own.unit_of_work() as work:
            for use in USES:
                await asyncio.create_task(use(work))

    asyncio.run(main())


def test_a_unit_of_work_that_is_left_while_another_task_uses_it_is_rolled_back(
    database_url: str, catalog: Catalog
) -> None:
    async def main() -> None:
        async with AsyncCatalog(database_url, pool_size=1) as own:
            with pytest.raises(errors.UnitOfWorkBusy):
                async with own.unit_of_work() as work:
                    await save(work)
                    other = asyncio.create_task(wait_by_the_session(work))
                    await asyncio.sleep(0.05)
            await asyncio.wait([other])
            await await_whole(own, 1)

    asyncio.run(main())
    assert catalog.search("title:other").total == 0


@pytest.mark.parametrize("use", [find, save, ask_by_the_session])
def test_a_unit_of_work_left_open_by_a_task_that_ended_is_closed_and_told(
    database_url: str, catalog: Catalog, use: Use, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with AsyncCatalog(database_url, pool_size=1) as own:
            unit = own.unit_of_work()

            async def begin() -> None:
                await unit.__aenter__()
                await use(unit)

            await asyncio.create_task(begin())
            await await_whole(own, 1)
            with pytest.raises(errors.CatalogError):
                await unit.find(uuid4())
            with pytest.raises(errors.CatalogError):
                await unit.__aexit__(None, None, None)
            await await_whole(own, 1)

    with caplog.at_level(logging.WARNING, "audiocatalog"):
        asyncio.run(main())
    assert [record.message for record in caplog.records if "has ended without leaving" in record.message]
    assert catalog.search("title:other").total == 0


def test_a_session_that_has_committed_is_closed_with_its_task_too(database_url: str) -> None:
    """The session has taken another connection since, which is not that of the unit of work."""

    async def main() -> None:
        async with AsyncCatalog(database_url, pool_size=1) as own:
            unit = own.unit_of_work()

            async def begin() -> None:
                await unit.__aenter__()
                await ask_by_the_session(unit)
                await unit.session.commit()
                await ask_by_the_session(unit)

            await asyncio.create_task(begin())
            await await_whole(own, 1)
            assert unit is not None

    asyncio.run(main())


def test_a_unit_of_work_that_is_forgotten_gives_its_connection_back(database_url: str) -> None:
    async def main() -> None:
        async with AsyncCatalog(database_url, pool_size=1) as own:

            async def hold() -> None:
                forgotten = own._database.transaction()
                await forgotten.__aenter__()

            await asyncio.create_task(hold())
            gc.collect()
            await await_whole(own, 1)

    asyncio.run(main())


def test_each_loop_needs_a_catalogue_of_its_own_while_both_run(database_url: str) -> None:
    async def main() -> None:
        async with AsyncCatalog(database_url, pool_size=1) as own:
            await await_whole(own, 1)
            with pytest.raises(errors.ConfigurationError, match="another event loop"):
                await asyncio.to_thread(lambda: asyncio.run(own.find(uuid4())))
            await await_whole(own, 1)

    asyncio.run(main())


@pytest.mark.parametrize("pending", ["nothing", "a statement", "a unit of work", "a wait for a connection"])
def test_a_catalogue_goes_on_in_the_next_loop_whatever_the_last_one_left(database_url: str, pending: str) -> None:
    catalog = AsyncCatalog(database_url, pool_size=1, pool_timeout=2.0)

    async def statement() -> None:
        async with catalog._database.autocommit() as driver:
            await driver.execute("SELECT pg_sleep(60)")

    async def unit() -> None:
        async with catalog.unit_of_work() as work:
            await work.find(uuid4())
            await asyncio.sleep(60)

    async def leave() -> None:
        await await_whole(catalog, 1)
        works = {
            "nothing": [],
            "a statement": [statement],
            "a unit of work": [unit],
            "a wait for a connection": [unit, unit],
        }[pending]
        tasks = [asyncio.create_task(work()) for work in works]
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in tasks)

    async def go_on() -> None:
        await await_whole(catalog, 1)
        async with catalog.unit_of_work():
            with pytest.raises(errors.PoolTimeout):
                await catalog.find(uuid4())

    asyncio.run(leave())
    asyncio.run(go_on())
    asyncio.run(go_on())
    asyncio.run(catalog.close())


def test_a_plain_function_and_an_async_one_are_told_from_each_other(database_url: str, catalog: Catalog) -> None:
    async def main() -> None:
        async with AsyncCatalog(database_url) as own:
            with pytest.raises(errors.InvalidInput, match="async function"):
                await own.run(lambda _: 5)  # type: ignore[arg-type, return-value]
            await await_whole(own, 1)

    asyncio.run(main())

    async def unit(_: object) -> None: ...

    with pytest.raises(errors.InvalidInput, match="plain function"):
        catalog.run(unit)  # type: ignore[unused-coroutine]


def test_a_synchronous_catalogue_in_a_loop_is_told_once(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with Catalog(database_url) as blocking:
            for _ in range(3):
                blocking.find(uuid4())

    with caplog.at_level(logging.WARNING, "audiocatalog"):
        asyncio.run(main())
    told = [record.message for record in caplog.records if "AsyncCatalog" in record.message]
    assert len(told) == 1
