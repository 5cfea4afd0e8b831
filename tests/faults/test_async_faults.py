"""Frozen and killed servers under the asynchronous side: each await ends in time, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Final
from uuid import uuid4

import pytest
from sqlalchemy import make_url, text

from audiocatalog import Track, TrackMetadata, TrackStatus, errors, migrations
from audiocatalog.aio import AsyncCatalog, AsyncUnitOfWork
from tests.support.cancelling import await_whole
from tests.support.chaos import NAME, Account, differences, torment
from tests.support.frozen import family, frozen
from tests.support.servers import Server, cluster

pytestmark = pytest.mark.faults

PENDING, PROCESSING, COMPLETED, _ = TrackStatus
SIZE: Final = 2
LIMITS: Final[dict[str, Any]] = {
    "statement_timeout": 0.3,
    "search_timeout": 0.3,
    "lock_timeout": 0.2,
    "network_timeout": 0.3,
    "pool_size": SIZE,
    "pool_timeout": 1.0,
}
#: A statement's limit, that of the pool and that of a new connection, and what is promised beyond.
DEADLINE, POOL_TIMEOUT, CONNECT_TIMEOUT, SLACK = 0.6, 1.0, 2.0, 0.5
SECONDS = float(os.environ.get("AUDIOCATALOG_CHAOS_SECONDS", "30"))
Call = Callable[[AsyncCatalog, Track], Coroutine[Any, Any, object]]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with cluster() as server:
        server.settings |= {"fsync": "on", "full_page_writes": "on", "max_connections": "60"}
        server.start()
        yield server


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    name = f"aio_{uuid4().hex[:8]}"
    with server.admin() as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    address = server.url(name, application_name=NAME)
    migrations.upgrade(address)
    yield address.update_query_dict({"connect_timeout": "2"}).render_as_string(hide_password=False)
    with server.admin() as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def in_a_unit(use: Callable[[AsyncUnitOfWork, Track], Coroutine[Any, Any, object]]) -> Call:
    async def call(catalog: AsyncCatalog, track: Track) -> None:
        async with catalog.unit_of_work() as work:
            await use(work, track)

    return call


async def iterate(catalog: AsyncCatalog, _: Track) -> list[Track]:
    return [track async for track in catalog.iter_tracks()]


STATEMENTS: Final[dict[str, Call]] = {
    "get": lambda catalog, track: catalog.get(track.id),
    "search": lambda catalog, _: catalog.search("before"),
    "history": lambda catalog, track: catalog.history(track.id),
    "iter_tracks": iterate,
    "changes": lambda catalog, _: catalog.changes(None),
    "health": lambda catalog, _: catalog.health(),
    "claim": lambda catalog, _: catalog.claim(),
    "update_status": lambda catalog, track: catalog.update_status(track.id, PROCESSING),
    "get in a unit": in_a_unit(lambda work, track: work.get(track.id)),
    "save in a unit": in_a_unit(lambda work, _: work.save(TrackMetadata(), audio_path="a")),
    "the session": in_a_unit(lambda work, _: work.session.execute(text("SELECT 1"))),
}


async def timed(call: Coroutine[Any, Any, object]) -> tuple[BaseException | None, float]:
    began = time.monotonic()
    try:
        await asyncio.wait_for(call, 30)
    except errors.CatalogError as error:
        return error, time.monotonic() - began
    return None, time.monotonic() - began


@pytest.mark.parametrize("pooler", [False, True], ids=["straight", "pooler"])
@pytest.mark.parametrize("name", STATEMENTS)
def test_an_await_ends_within_its_limit(server: Server, url: str, name: str, *, pooler: bool) -> None:
    async def main() -> float:
        async with AsyncCatalog(url, pooler=pooler, **LIMITS) as catalog:
            await await_whole(catalog, SIZE)
            async with catalog.unit_of_work() as work:
                track = await work.save(TrackMetadata(title="Before"), audio_path="a", status=PENDING)
            with frozen(*family(server.pid)[1:]):
                error, seconds = await timed(STATEMENTS[name](catalog, track))
            assert isinstance(error, errors.DatabaseUnavailable), repr(error)
            assert seconds <= DEADLINE + SLACK
            await await_whole(catalog, SIZE)
            return seconds

    print(f"\n{name}: {asyncio.run(main()):.2f} s")  # noqa: T201


@pytest.mark.parametrize("with_session", [False, True], ids=["", "with a session"])
def test_a_commit_and_a_rollback_end_within_their_limits(server: Server, url: str, *, with_session: bool) -> None:
    async def main() -> None:
        async with AsyncCatalog(url, **LIMITS) as catalog:
            await await_whole(catalog, SIZE)
            for error in (None, ArithmeticError()):
                with ExitStack() as freezer:

                    async def unit(error: BaseException | None = error) -> None:
                        async with catalog.unit_of_work() as work:
                            await work.save(TrackMetadata(), audio_path="a")
                            if with_session:
                                await work.session.execute(text("SELECT 1"))
                            freezer.enter_context(frozen(*family(server.pid)))
                            if error is not None:
                                raise error

                    began = time.monotonic()
                    with pytest.raises(errors.CommitOutcomeUnknown if error is None else ArithmeticError):
                        await unit()
                    assert time.monotonic() - began <= DEADLINE + SLACK
                await await_whole(catalog, SIZE)

    asyncio.run(main())


def test_many_tasks_of_a_frozen_server_end_together(server: Server, url: str) -> None:
    async def main() -> None:
        async with AsyncCatalog(url, **LIMITS) as catalog:
            await await_whole(catalog, SIZE)
            with frozen(*family(server.pid)):
                ends = await asyncio.gather(*(timed(catalog.find(uuid4())) for _ in range(20)))
            assert all(isinstance(error, errors.DatabaseUnavailable | errors.PoolTimeout) for error, _ in ends)
            assert max(seconds for _, seconds in ends) <= POOL_TIMEOUT + max(DEADLINE, CONNECT_TIMEOUT) + 2 * SLACK
            await await_whole(catalog, SIZE)

    asyncio.run(main())


def test_a_first_call_and_a_close_end_in_time(server: Server, url: str) -> None:
    async def main() -> None:
        catalog = AsyncCatalog(url, **LIMITS)
        with frozen(*family(server.pid)):
            error, seconds = await timed(catalog.find(uuid4()))
            assert isinstance(error, errors.DatabaseUnavailable)
            assert seconds <= CONNECT_TIMEOUT + SLACK
            error, seconds = await timed(catalog.close())
            assert error is None
            assert seconds <= CONNECT_TIMEOUT + SLACK

    asyncio.run(main())


class Writers:
    """Eight tasks, each in its own way, and a ninth that is cancelled all the time."""

    def __init__(self, catalog: AsyncCatalog) -> None:
        self.account = Account()
        self.ended = False
        self._catalog = catalog

    async def run(self) -> None:
        jobs = [self.save, self.save, self.save_anew, self.replace, self.load, self.move, self.move, self.save_anew]
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(self.repeat(job))
            group.create_task(self.cancel())

    async def repeat(self, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while not self.ended:
            try:
                await job()
            except Exception as error:  # noqa: BLE001  # Whatever a caller sees is a failure.
                self.account.failures.append(f"{job.__name__}: {error!r}")
                return

    async def cancel(self) -> None:
        dice = random.Random(3)  # noqa: S311  # No secret.
        while not self.ended:
            task = asyncio.create_task(self._catalog.search("saved"))
            await asyncio.wait([task], timeout=dice.uniform(0, 0.01))
            task.cancel()
            await asyncio.wait([task])

    async def timed(self, name: str, unit: Callable[[AsyncUnitOfWork], Coroutine[Any, Any, Any]]) -> Any:
        began = time.monotonic()
        result = await self._catalog.run(unit, deadline=20)
        self.account.slowest = max(self.account.slowest, time.monotonic() - began)
        self.account.acknowledged[name] += 1
        return result

    async def save(self) -> None:
        identifier, title = uuid4(), f"saved {uuid4()}"
        await self.timed("save", lambda work: work.save(TrackMetadata(title=title), audio_path="a", id=identifier))
        self.account.saved(identifier, title, COMPLETED)

    async def save_anew(self) -> None:
        title = f"anew {uuid4()}"
        track = await self.timed("save anew", lambda work: work.save(TrackMetadata(title=title), audio_path="a"))
        self.account.saved(track.id, title, COMPLETED)

    async def replace(self) -> None:
        track = await self.timed("save", lambda work: work.save(TrackMetadata(title="old"), audio_path="a"))
        new = TrackMetadata(title=f"new {track.id}")
        await self.timed(
            "replace", lambda work: work.save(new, audio_path="a", id=track.id, replace=True, expected_version=1)
        )
        self.account.saved(track.id, str(new.title), COMPLETED)

    async def load(self) -> None:
        ids = [uuid4() for _ in range(6)]
        records = [{"title": "loaded", "audio_path": "a", "id": str(one)} for one in ids]
        result = await self._catalog.bulk_save(records, batch=2, connections=2)
        assert result.inserted + result.unchanged == 6
        self.account.acknowledged["bulk_save"] += 1
        for one in ids:
            self.account.saved(one, "loaded", COMPLETED)

    async def move(self) -> None:
        identifier, operations = uuid4(), [uuid4(), uuid4()]

        async def begin(work: AsyncUnitOfWork) -> None:
            await work.save(TrackMetadata(title="moved"), audio_path="a", id=identifier, status=PENDING)
            await work.update_status(identifier, PROCESSING, operation_id=operations[0])

        await self.timed("save and move", begin)
        await self.timed("move", lambda work: work.update_status(identifier, COMPLETED, operation_id=operations[1]))
        self.account.saved(identifier, "moved", PENDING)
        self.account.moved(identifier, 2, PROCESSING, operations[0])
        self.account.moved(identifier, 3, COMPLETED, operations[1])


@pytest.mark.usefixtures("drop_what_no_caller_sees")
def test_chaos_under_tasks_loses_nothing(server: Server, url: str) -> None:
    """The loop has a thread of its own, for a server ends with the thread that has started it."""
    catalog = AsyncCatalog(url, actor="chaos", pool_size=6)
    writers = Writers(catalog)
    account = writers.account

    async def write() -> None:
        async with catalog:
            await writers.run()
            await await_whole(catalog, 6)

    with ThreadPoolExecutor(1) as loop:
        written = loop.submit(asyncio.run, write())
        try:
            kills = max(2, round(SECONDS / 3))
            torment(server, str(make_url(url).database), account, seconds=SECONDS, kills=kills)
        finally:
            writers.ended = True
        written.result(120)
    gc.collect()  # Connections that were lost in a pipeline raise errors in their ends.
    figures = {**account.acknowledged, **account.kills, "slowest": round(account.slowest, 2)}
    print(f"\nchaos for {SECONDS:g} s: {sum(account.acknowledged.values())} acknowledged, {figures}")  # noqa: T201
    assert account.failures == []
    assert differences(url, account) == []
    assert account.kills["kill"] >= 1
