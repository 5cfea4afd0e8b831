"""The session of an asynchronous unit of work, and the errors that it and a lost COMMIT raise."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy.exc
import uvloop
from sqlalchemy import select, text, update

from audiocatalog import Catalog, Track, TrackMetadata, errors
from audiocatalog.aio import AsyncCatalog, AsyncUnitOfWork, database
from tests.support.cancelling import await_whole
from tests.support.hosts import Note, host_notes
from tests.support.proxy import Loss, proxied

Run = Callable[[Coroutine[Any, Any, object]], object]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_the_host_writes_in_the_same_transaction(database_url: str, catalog: Catalog, run: Run) -> None:
    async def main() -> None:
        async with AsyncCatalog(database_url, pool_size=1) as own:
            async with own.unit_of_work() as work:
                track = await work.save(TrackMetadata(title="kept"), audio_path="a")
                work.session.add(Note(name="kept"))
                assert await work.session.scalar(select(Track.title).where(Track.id == track.id)) == "kept"
                found = await work.session.get(Track, track.id)
                assert found is not None
                assert found.title == "kept"
            with pytest.raises(ArithmeticError):
                async with own.unit_of_work() as work:
                    await work.save(TrackMetadata(title="lost"), audio_path="a")
                    work.session.add(Note(name="lost"))
                    await work.session.flush()
                    raise ArithmeticError
            async with own.unit_of_work() as work:
                assert list(await work.session.scalars(select(Note.name))) == ["kept"]
            await await_whole(own, 1)

    with host_notes(database_url):
        run(main())
    assert catalog.search("lost").total == 0


def test_the_hosts_errors_are_sqlalchemys_and_the_others_are_ours(database_url: str) -> None:
    async def main() -> None:
        async with AsyncCatalog(database_url, pool_size=1, statement_timeout=0.6) as own:
            with pytest.raises(sqlalchemy.exc.ProgrammingError):
                async with own.unit_of_work() as work:
                    await work.session.execute(text("SELECT nothing"))
            with pytest.raises(errors.QueryTimeout):
                async with own.unit_of_work() as work:
                    await work.session.execute(text("SELECT pg_sleep(10)"))
            with pytest.raises(errors.WriteRefused):
                async with own.unit_of_work() as work:
                    await work.session.execute(update(Track).values(title="x"))
            with pytest.raises(errors.TransactionAborted):
                async with own.unit_of_work() as work:
                    with pytest.raises(sqlalchemy.exc.ProgrammingError):
                        await work.session.execute(text("SELECT nothing"))
            with pytest.raises(errors.UnitOfWorkEnded):
                _ = own.unit_of_work().session
            await await_whole(own, 1)

    asyncio.run(main())


def test_the_host_may_commit_and_go_on(database_url: str, catalog: Catalog) -> None:
    async def main() -> None:
        async with AsyncCatalog(database_url, pool_size=1) as own:
            with pytest.raises(ArithmeticError):
                async with own.unit_of_work() as work:
                    await work.save(TrackMetadata(title="kept"), audio_path="a")
                    await work.session.commit()
                    await work.save(TrackMetadata(title="lost"), audio_path="a")
                    raise ArithmeticError
            await await_whole(own, 1)

    asyncio.run(main())
    assert (catalog.search("kept").total, catalog.search("lost").total) == (1, 0)


def test_the_host_may_roll_back_and_go_on(database_url: str, catalog: Catalog) -> None:
    async def main() -> None:
        async with AsyncCatalog(database_url, pool_size=1) as own:
            async with own.unit_of_work() as work:
                await work.save(TrackMetadata(title="lost"), audio_path="a")
                await work.session.rollback()
                await work.save(TrackMetadata(title="kept"), audio_path="a")
            await await_whole(own, 1)

    asyncio.run(main())
    assert (catalog.search("kept").total, catalog.search("lost").total) == (1, 0)


def test_a_session_takes_as_long_as_the_unit_of_work_says(database_url: str) -> None:
    async def main() -> None:
        async with (
            AsyncCatalog(database_url, pool_size=1, statement_timeout=0.5, network_timeout=0.5) as own,
            own.unit_of_work() as work,
        ):
            await work.set_statement_timeout(20)
            await work.session.execute(text("SELECT pg_sleep(1.3)"))

    asyncio.run(main())


async def use_all_but_the_session(own: AsyncCatalog) -> None:
    async with own.unit_of_work() as work:
        track = await work.save(TrackMetadata(title="without"), audio_path="a")
        assert (await work.search("without")).total == 1
        with pytest.raises(errors.ConfigurationError, match=r"install audiocatalog\[asyncio\]"):
            _ = work.session
        assert (await work.get(track.id)).title == "without"
    assert (await own.get(track.id)).title == "without"
    assert [one.id async for one in own.iter_tracks()] == [track.id]


def test_without_greenlet_all_but_the_session_works(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "find_spec", lambda _: None)

    async def main() -> None:
        async with AsyncCatalog(database_url, pool_size=1) as own:
            await use_all_but_the_session(own)
            await await_whole(own, 1)

    asyncio.run(main())


def test_without_greenlet_nothing_imports_it(database_url: str) -> None:
    program = (
        "import asyncio, sys\n"
        "sys.modules['greenlet'] = None\n"
        "from audiocatalog import TrackMetadata, errors\n"
        "from audiocatalog.aio import AsyncCatalog\n"
        "async def main():\n"
        f"    async with AsyncCatalog({database_url!r}) as own, own.unit_of_work() as work:\n"
        "        await work.save(TrackMetadata(title='without'), audio_path='a')\n"
        "        assert (await work.search('without')).total == 1\n"
        "        try:\n"
        "            work.session\n"
        "        except errors.ConfigurationError as error:\n"
        "            print(error)\n"
        "asyncio.run(main())\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "audiocatalog[asyncio]" in answer.stdout


@pytest.mark.parametrize("with_session", [False, True], ids=["", "with a session"])
@pytest.mark.parametrize("loss", ["COMMIT", "its answer"])
def test_a_lost_commit_is_found_out(database_url: str, catalog: Catalog, loss: Loss, *, with_session: bool) -> None:
    tries: list[int] = []

    async def unit(work: AsyncUnitOfWork) -> Track:
        tries.append(1)
        track = await work.save(TrackMetadata(title="once"), audio_path="a")
        if with_session:
            await work.session.execute(text("SELECT 1"))
        return track

    async def main() -> None:
        with proxied(database_url) as proxy:
            async with AsyncCatalog(proxy.url, pool_size=1) as own:
                await await_whole(own, 1)
                proxy.losses = [loss]
                track = await own.run(unit)
                assert proxy.lost == 1
                assert (await own.get(track.id)).title == "once"
                proxy.losses = [loss]
                with pytest.raises(errors.CommitOutcomeUnknown) as caught:
                    async with own.unit_of_work() as work:
                        await work.save(TrackMetadata(title="asked"), audio_path="a", id=uuid4())
                assert await own.was_committed(caught.value) is (loss == "its answer")
                await await_whole(own, 1)

    asyncio.run(main())
    assert len(tries) == (2 if loss == "COMMIT" else 1)
    assert catalog.search("once").total == 1
    assert catalog.search("asked").total == (loss == "its answer")


def test_a_session_that_is_kept_can_do_nothing_after_its_unit(database_url: str) -> None:
    """Otherwise the session would begin a transaction on a connection that is never returned."""

    async def main() -> None:
        async with AsyncCatalog(database_url) as catalog:
            async with catalog.unit_of_work() as work:
                session = work.session
            with pytest.raises(sqlalchemy.exc.InvalidRequestError, match="closed"):
                await session.execute(text("SELECT 1"))
            assert catalog.pool_stats().in_use == 0

    asyncio.run(main())
