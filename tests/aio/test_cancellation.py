"""A task that is cancelled at any await leaves no connection taken and no unit of work half written."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import nullcontext, suppress
from typing import Any, Final
from uuid import uuid4

import anyio
import psycopg
import pytest
from sqlalchemy import make_url, select, text

from audiocatalog import Catalog, Track, TrackMetadata, TrackRecord, TrackStatus
from audiocatalog.aio import AsyncCatalog, AsyncUnitOfWork, connection
from tests.support.cancelling import MOMENTS, MOST_AWAITS, Moment, Steps, await_whole, cancelled_at, contention
from tests.support.databases import libpq
from tests.support.detour import THROUGH_POOLER
from tests.support.lifecycle import DISAGREEMENTS, Owner, end_pauses, waiting
from tests.support.waiting import wait_until

PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus
SIZE: Final = 2
NAME: Final = "cancelled"

Call = Callable[[AsyncCatalog], Coroutine[Any, Any, object]]


async def get(catalog: AsyncCatalog) -> None:
    await catalog.find(uuid4())


async def save(catalog: AsyncCatalog) -> None:
    """Single calls that write: each is stored whole or not at all."""
    ids = [uuid4(), uuid4()]
    await catalog.bulk_save([TrackRecord(TrackMetadata(title="pair"), "a", id=one, status=PENDING) for one in ids])
    await catalog.update_statuses(ids, FAILED)


async def search(catalog: AsyncCatalog) -> None:
    await catalog.search("pair", facets=["artist"])


async def claim_and_complete(catalog: AsyncCatalog) -> None:
    for claim in await catalog.claim(2):
        await catalog.complete(claim, TrackMetadata(title="pair", artist="claimed"))


async def bulk_save(catalog: AsyncCatalog) -> None:
    """Each batch has two records, so that a half batch shows."""
    records = [TrackRecord(TrackMetadata(title="pair"), "a") for _ in range(8)]
    await catalog.bulk_save(records, batch=2, connections=2)


async def unit_of_work(catalog: AsyncCatalog) -> None:
    async with catalog.unit_of_work() as work:
        pair = [(await work.save(TrackMetadata(title="pair"), audio_path="a", status=PENDING)).id for _ in range(2)]
        await work.update_statuses(pair, FAILED)


async def search_in_a_unit(catalog: AsyncCatalog) -> None:
    async with catalog.unit_of_work() as work:
        await save_a_pair(work)
        await work.search("pair")


async def iter_tracks(catalog: AsyncCatalog) -> None:
    async for _ in catalog.iter_tracks(batch=20):
        pass


async def changes(catalog: AsyncCatalog) -> None:
    await catalog.changes(None, limit=5)


async def save_a_pair(work: AsyncUnitOfWork) -> None:
    await work.save(TrackMetadata(title="pair"), audio_path="a")
    await work.save(TrackMetadata(title="pair"), audio_path="a")


async def run(catalog: AsyncCatalog) -> None:
    await catalog.run(save_a_pair)


async def session(catalog: AsyncCatalog) -> None:
    async with catalog.unit_of_work() as work:
        await work.save(TrackMetadata(title="pair"), audio_path="a")
        await work.session.scalars(select(Track.id).limit(1))
        await work.save(TrackMetadata(title="pair"), audio_path="a")


async def session_that_commits(catalog: AsyncCatalog) -> None:
    """Commit through the session, so that it goes on with another connection."""
    async with catalog.unit_of_work() as work:
        await save_a_pair(work)
        await work.session.execute(text("SELECT 1"))
        await work.session.commit()
        await work.session.execute(text("SELECT 1"))
        await save_a_pair(work)


async def health(catalog: AsyncCatalog) -> None:
    await catalog.health()


CALLS: Final[list[Call]] = [
    *(get, save, search, claim_and_complete, bulk_save, unit_of_work, search_in_a_unit, iter_tracks, changes, run),
    *(session, session_that_commits, health),
]


@pytest.fixture
def url(database_url: str, catalog: Catalog) -> str:
    """Give the URL of a database with some tracks, half of which wait."""
    catalog.bulk_save([TrackRecord(TrackMetadata(title="pair"), "a", status=status) for status in [PENDING] * 60])
    return make_url(database_url).update_query_dict({"application_name": NAME}).render_as_string(hide_password=False)


def sessions(url: str, *, only: str = "true") -> int:
    with psycopg.connect(libpq(url), autocommit=True) as admin:
        ours = "application_name = %s AND pid <> pg_backend_pid()"
        asked = f"SELECT count(*) FROM pg_stat_activity WHERE {ours} AND {only}"
        row = admin.execute(asked, [NAME]).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def whole(owner: Owner, url: str) -> Iterator[None]:
    yield
    assert owner.execute("SELECT count(*) % 2 AS odd FROM audio_tracks").fetchone() == {"odd": 0}
    assert owner.execute(DISAGREEMENTS).fetchall() == []
    if not THROUGH_POOLER:
        wait_until(lambda: sessions(url) == 0)


@pytest.fixture
def every_answer_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no call that is alone get its answer without the event loop, for such an answer has no await to cancel."""
    monkeypatch.setattr(connection, "_MAX_MISSES", 0)


#: Whether others want the connections, and whether there is a pooler.
SCENES: Final = [
    pytest.param(True, False, id="contended"),
    pytest.param(False, False, id="alone", marks=pytest.mark.faults),
    pytest.param(True, True, id="contended behind a pooler", marks=pytest.mark.faults),
    pytest.param(False, True, id="alone behind a pooler", marks=pytest.mark.faults),
]


@pytest.mark.usefixtures("whole", "every_answer_is_awaited")
@pytest.mark.parametrize(("contended", "pooler"), SCENES)
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_is_cancelled_at_any_await_takes_nothing_with_it(
    url: str, call: Call, moment: Moment, *, pooler: bool, contended: bool
) -> None:
    async def main() -> int:
        async with AsyncCatalog(url, pool_size=SIZE, pooler=pooler, pool_timeout=20) as catalog:
            await call(catalog)
            for at in range(1, MOST_AWAITS):
                async with contention(catalog, 3) if contended else nullcontext():
                    is_there, error = await cancelled_at(lambda: call(catalog), at, moment)
                if not is_there:
                    assert error is None
                    return at - 1
                assert error is None or isinstance(error, asyncio.CancelledError), repr(error)
                await await_whole(catalog, SIZE)
        pytest.fail("it has more awaits than MOST_AWAITS")

    cancellations = asyncio.run(main())
    print(f"\n{call.__name__}: cancelled at {cancellations} awaits")  # noqa: T201
    assert cancellations > 0


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("call", [get, unit_of_work, session])
def test_the_first_call_of_all_is_cancelled_at_any_await(url: str, call: Call) -> None:
    """It waits for a connection that is being opened, which the next caller gets."""

    async def main() -> int:
        for at in range(1, MOST_AWAITS):
            async with AsyncCatalog(url, pool_size=SIZE) as catalog:
                is_there, error = await cancelled_at(lambda catalog=catalog: call(catalog), at)  # type: ignore[misc]
                assert error is None or isinstance(error, asyncio.CancelledError)
                await await_whole(catalog, SIZE)
            if not is_there:
                return at - 1
        pytest.fail("it has more awaits than MOST_AWAITS")

    assert asyncio.run(main()) > 0


# Other ways to be cancelled


async def in_a_group(call: Callable[[], Coroutine[Any, Any, object]], at: int) -> bool:
    """Let a sibling of *call* fail at its await number *at*, for which the group cancels it."""
    failed = asyncio.Event()

    async def sibling() -> None:
        await failed.wait()
        raise ArithmeticError

    steps = Steps(call(), at, disturb=failed.set)
    with suppress(BaseExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(sibling())
            await steps.run()
            failed.set()
    return steps.taken >= at


async def in_a_timeout(call: Callable[[], Coroutine[Any, Any, object]], at: int) -> bool:
    """Let the time of *call* be over at its await number *at*."""
    with suppress(TimeoutError):
        async with asyncio.timeout(None) as timeout:
            steps = Steps(call(), at, disturb=lambda: timeout.reschedule(0))
            await steps.run()
    return steps.taken >= at


async def in_a_scope(call: Callable[[], Coroutine[Any, Any, object]], at: int) -> bool:
    """Cancel the scope of *call* at its await number *at*: from then on, anyio cancels each further await as well."""
    with anyio.CancelScope() as scope:
        steps = Steps(call(), at, disturb=scope.cancel)
        await steps.run()
    return steps.taken >= at


async def in_a_shield(call: Callable[[], Coroutine[Any, Any, object]], at: int) -> bool:
    """Cancel the task that waits for *call*, which goes on in another one."""
    outer: asyncio.Task[None]
    steps = Steps(call(), at, disturb=lambda: outer.cancel())  # noqa: PLW0108  # The task is made below.
    inner = asyncio.ensure_future(whole_of(steps))
    outer = asyncio.ensure_future(waiting_for(asyncio.shield(inner)))
    with suppress(asyncio.CancelledError):
        await outer
    await inner
    return steps.taken >= at


async def waiting_for(work: Awaitable[object]) -> None:
    await work


async def whole_of(steps: Steps) -> None:
    await steps.run()


@pytest.mark.usefixtures("whole", "every_answer_is_awaited")
@pytest.mark.parametrize("call", [search, claim_and_complete, bulk_save, unit_of_work, session_that_commits])
@pytest.mark.parametrize("way", [in_a_group, in_a_timeout, in_a_scope, in_a_shield])
def test_every_way_to_cancel_leaves_the_pool_whole(url: str, way: Callable[..., Any], call: Call) -> None:
    async def main() -> int:
        async with AsyncCatalog(url, pool_size=SIZE) as catalog:
            await call(catalog)
            for at in range(1, MOST_AWAITS):
                is_there = await way(lambda: call(catalog), at)
                await await_whole(catalog, SIZE)
                if not is_there:
                    return at - 1
        pytest.fail("it has more awaits than MOST_AWAITS")

    assert asyncio.run(main()) > 0


# At random


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("times", [100, pytest.param(1000, marks=pytest.mark.faults)])
def test_cancellations_at_random_moments_leave_nothing_behind(url: str, times: int) -> None:
    """Eight tasks on two connections go through ten kinds of calls, and are cancelled at moments of no choice."""
    dice = random.Random(13)  # noqa: S311  # No secret.
    figures: Counter[str] = Counter()

    async def disturbed(catalog: AsyncCatalog) -> None:
        while figures["cancelled"] < times:
            call = dice.choice(CALLS)
            task = asyncio.create_task(call(catalog))
            await asyncio.wait([task], timeout=dice.uniform(0, 0.01))
            figures["cancelled" if task.cancel() else "ended"] += 1
            await asyncio.wait([task])
            if not task.cancelled() and task.exception() is not None:
                raise AssertionError from task.exception()

    async def main() -> None:
        async with AsyncCatalog(url, pool_size=SIZE, pool_timeout=60) as catalog:
            async with asyncio.TaskGroup() as group:
                for _ in range(8):
                    group.create_task(disturbed(catalog))
            await await_whole(catalog, SIZE)
            await asyncio.to_thread(wait_until, lambda: sessions(url) <= SIZE)

    asyncio.run(main())
    print(f"\n{dict(figures)}")  # noqa: T201
    assert figures["cancelled"] >= times


def test_a_claim_whose_call_was_cancelled_can_be_claimed_after_its_lease(
    database_url: str, catalog: Catalog, owner: Owner
) -> None:
    (identifier,) = waiting(catalog, 1)

    async def main() -> int:
        async with AsyncCatalog(database_url, pool_size=1, max_attempts=1000) as own:
            await await_whole(own, 1)
            for at in range(1, MOST_AWAITS):
                is_there, _ = await cancelled_at(own.claim, at, "answered")
                await await_whole(own, 1)
                # The server may have given the claim away, to a caller that did not hear of it.
                owner.execute("UPDATE audio_track_tasks SET expires_at = now() WHERE expires_at IS NOT NULL")
                await own.release_expired()
                end_pauses(owner)
                claims = await own.claim()
                assert [claim.track.id for claim in claims] == [identifier]
                await own.release(claims[0])
                if not is_there:
                    return at - 1
        pytest.fail("it has more awaits than MOST_AWAITS")

    assert asyncio.run(main()) > 0
    assert owner.execute(DISAGREEMENTS).fetchall() == []


def test_a_statement_whose_task_was_cancelled_is_ended_on_the_server(url: str) -> None:
    async def sleep(catalog: AsyncCatalog) -> None:
        async with catalog.unit_of_work() as work:
            await work.session.execute(text("SELECT pg_sleep(60)"))

    async def main() -> None:
        async with AsyncCatalog(url, pool_size=1, statement_timeout=60) as catalog:
            task = asyncio.create_task(sleep(catalog))
            await asyncio.to_thread(wait_until, lambda: sessions(url, only="wait_event = 'PgSleep'"))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(wait_until, lambda: not sessions(url, only="wait_event = 'PgSleep'"))
            await await_whole(catalog, 1)

    asyncio.run(main())
