"""An asynchronous worker ends what it claims, releases what it does not, and leaves nothing when it is cancelled."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import anyio
import pytest

from audiocatalog import Catalog, Claim, TrackMetadata, TrackStatus, errors
from audiocatalog.aio import AsyncCatalog
from audiocatalog.aio.worker import AsyncWorker
from audiocatalog.worker.policy import Terms
from tests.support.lifecycle import DISAGREEMENTS, Owner, end_pauses, expire, waiting
from tests.support.programs import next_line, program, statuses
from tests.support.waiting import wait_until

PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus
LEASE = timedelta(minutes=10)

Body = Callable[[AsyncCatalog], Awaitable[object]]
Use = Callable[..., Any]


@pytest.fixture
def quick(database_url: str) -> Catalog:
    """Give a synchronous catalogue, to look from outside."""
    return Catalog(database_url, actor="tester", retry_delay=0.001, longest_retry_delay=0.001)


@pytest.fixture
def use(database_url: str) -> Use:
    """Give a function that runs *body* with an asynchronous catalogue, and finds pool and loop as they should be."""

    async def main(body: Body, settings: dict[str, Any]) -> object:
        settings = {"actor": "tester", "retry_delay": 0.001, "longest_retry_delay": 0.001, **settings}
        async with AsyncCatalog(database_url, **settings) as catalog:
            found = await body(catalog)
            others = [task for task in asyncio.all_tasks() if "audiocatalog" in task.get_name()]
            await asyncio.sleep(0)
            assert [task for task in others if not task.done()] == []
            await until(lambda: catalog.pool_stats().in_use == 0)
            return found

    def run(body: Body, **settings: Any) -> Any:
        return asyncio.run(main(body, settings))

    return run


@pytest.fixture
def _keen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have long leases renewed, and dead workers looked for, every few milliseconds: no test has to keep a lease."""
    monkeypatch.setattr("audiocatalog.worker.policy._RENEWALS_PER_LEASE", 5000)
    monkeypatch.setattr(Terms, "until_taking_back", lambda terms: terms.lease.total_seconds() / 5000)


async def nothing(_: Claim) -> None:
    """Do no work."""


async def until(condition: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, condition)


def attempts(quick: Catalog, owner: Owner) -> list[int]:
    """Claim all that waits, and return how often each was tried, this claim included."""
    end_pauses(owner)
    return [claim.attempt for claim in quick.claim(limit=100)]


# What the loop does.


def test_the_loop_works_on_all_that_waits(use: Use, quick: Catalog) -> None:
    ids = waiting(quick, 7)

    async def body(catalog: AsyncCatalog) -> list[UUID]:
        given = []
        async for claim in catalog.worker(worker="me", limit=3, until_empty=True):
            given.append(claim.track.id)
            assert (await catalog.complete(claim)).actor == "me"
        return given

    assert use(body) == ids
    assert statuses(quick, ids) == [COMPLETED] * 7


def test_a_handler_completes_with_what_it_returns(use: Use, quick: Catalog) -> None:
    ids = waiting(quick, 3)

    async def handle(claim: Claim) -> TrackMetadata:
        await asyncio.sleep(0)
        return TrackMetadata(title=f"Found {claim.attempt}")

    assert use(lambda catalog: catalog.worker(worker="me", until_empty=True).run(handle)) == 3
    assert [quick.get(identifier).title for identifier in ids] == ["Found 1"] * 3
    assert {quick.history(identifier)[-1].actor for identifier in ids} == {"me"}


def test_several_handlers_run_at_the_same_time_and_no_more(use: Use, quick: Catalog) -> None:
    ids = waiting(quick, 12)
    running = 0
    seen: list[int] = []
    full = asyncio.Event()

    async def handle(_: Claim) -> None:
        nonlocal running
        running += 1
        seen.append(running)
        if running == 4:
            full.set()
        await full.wait()
        await asyncio.sleep(0.001)
        running -= 1

    assert use(lambda catalog: catalog.worker(concurrency=4, limit=3, until_empty=True).run(handle)) == 12
    assert max(seen) == 4
    assert statuses(quick, ids) == [COMPLETED] * 12


def test_claims_begin_only_when_a_handler_is_free(use: Use, quick: Catalog, owner: Owner) -> None:
    waiting(quick, 5)
    begun: list[int] = []

    async def body(catalog: AsyncCatalog) -> None:
        worker = catalog.worker(concurrency=2, limit=5)

        async def handle(_: Claim) -> None:
            begun.append(1)
            if len(begun) == 2:
                worker.stop()
            await asyncio.sleep(0.01)

        assert await worker.run(handle) == 2

    use(body)
    assert attempts(quick, owner) == [1, 1, 1]


def test_a_loop_over_claims_takes_one_after_the_other(use: Use, quick: Catalog) -> None:
    waiting(quick, 1)

    async def body(catalog: AsyncCatalog) -> None:
        async for _ in catalog.worker(concurrency=2):
            pytest.fail("nothing is yielded")

    with pytest.raises(errors.InvalidInput, match=r"concurrency: .* run") as caught:
        use(body)
    assert caught.value.field == "concurrency"


@pytest.mark.parametrize("concurrency", [0, 1001, 1.5, "4", True, None])
def test_a_number_of_handlers_is_checked(use: Use, concurrency: Any) -> None:
    async def body(catalog: AsyncCatalog) -> None:
        catalog.worker(concurrency=concurrency)

    with pytest.raises(errors.InvalidInput) as caught:
        use(body)
    assert caught.value.field == "concurrency"


def test_a_handler_that_raises_fails_its_track_and_no_other(use: Use, quick: Catalog) -> None:
    bad, good = waiting(quick, 2)

    async def handle(claim: Claim) -> None:
        if claim.track.id == bad:
            raise ValueError("no such \0 codec \ud800")

    assert use(lambda catalog: catalog.worker(until_empty=True, concurrency=2).run(handle), max_attempts=1) == 1
    assert statuses(quick, [bad, good]) == [FAILED, COMPLETED]
    assert quick.history(bad)[-1].reason == "ValueError: no such  codec ?"


def test_a_handler_whose_own_work_was_cancelled_fails_its_track(use: Use, quick: Catalog) -> None:
    (bad,) = waiting(quick, 1)

    async def handle(_: Claim) -> None:
        work = asyncio.ensure_future(asyncio.sleep(60))
        work.cancel()
        await work

    assert use(lambda catalog: catalog.worker(until_empty=True).run(handle), max_attempts=1) == 0
    assert quick.get(bad).status is FAILED
    assert "CancelledError" in (quick.history(bad)[-1].reason or "")


def test_what_a_handler_returns_is_checked(use: Use, quick: Catalog) -> None:
    (bad,) = waiting(quick, 1)

    async def handle(_: Claim) -> Any:
        return "metadata"

    assert use(lambda catalog: catalog.worker(until_empty=True).run(handle), max_attempts=1) == 0
    assert "must return a TrackMetadata" in (quick.history(bad)[-1].reason or "")


@pytest.mark.parametrize("plain", [lambda _: None, functools.partial(print, "x"), None], ids=["lambda", "partial", "-"])
def test_a_plain_handler_is_refused_before_anything_is_claimed(use: Use, quick: Catalog, plain: Any) -> None:
    (identifier,) = waiting(quick, 1)
    with pytest.raises(errors.InvalidInput, match="handler: an async function") as caught:
        use(lambda catalog: catalog.worker(until_empty=True).run(plain))
    assert caught.value.field == "handler"
    assert [change.to_status for change in quick.history(identifier)] == [PENDING]


class Handler:
    async def __call__(self, _: Claim) -> None:
        """Do no work."""


@functools.wraps(nothing)
def decorated(claim: Claim) -> Awaitable[None]:
    return nothing(claim)


@pytest.mark.parametrize("handler", [Handler(), functools.partial(nothing), decorated], ids=["object", "partial", "-"])
def test_a_handler_may_be_any_kind_of_async_function(use: Use, quick: Catalog, handler: Any) -> None:
    waiting(quick, 1)
    assert use(lambda catalog: catalog.worker(until_empty=True).run(handler)) == 1


def test_a_decorator_that_makes_a_handler_plain_is_refused_and_its_track_waits_again(
    use: Use, quick: Catalog, owner: Owner
) -> None:
    waiting(quick, 2)

    @functools.wraps(nothing)
    def made_plain(_: Claim) -> Any:
        return None

    with pytest.raises(errors.InvalidInput, match="handler: an async function"):
        use(lambda catalog: catalog.worker(until_empty=True).run(made_plain))
    assert attempts(quick, owner) == [1, 1]


def test_an_async_handler_of_a_synchronous_worker_is_refused_before_anything_is_claimed(
    quick: Catalog, owner: Owner
) -> None:
    waiting(quick, 1)
    handler: Any = nothing
    for refused in (handler, functools.partial(handler), cast("Any", Handler()), cast("Any", None)):
        with pytest.raises(errors.InvalidInput, match="handler: a plain function"):
            quick.worker(until_empty=True).run(refused)
    assert attempts(quick, owner) == [1]


def test_a_plain_function_that_returns_a_coroutine_is_refused_and_its_track_waits_again(
    quick: Catalog, owner: Owner
) -> None:
    waiting(quick, 2)
    handler: Any = lambda claim: nothing(claim)  # noqa: E731, PLW0108
    with pytest.raises(errors.InvalidInput, match="handler: a plain function"):
        quick.worker(until_empty=True).run(handler)
    assert attempts(quick, owner) == [1, 1]


# How it is left.


def test_an_exception_that_leaves_the_block_fails_its_claim_and_releases_the_others(
    use: Use, quick: Catalog, owner: Owner
) -> None:
    bad, *others = waiting(quick, 3)

    async def body(catalog: AsyncCatalog) -> None:
        async with catalog.worker(limit=3) as claims:
            async for claim in claims:
                assert claim.track.id == bad
                raise LookupError("no such file")

    with pytest.raises(LookupError):
        use(body)
    assert quick.history(bad)[-1].reason == "LookupError: no such file"
    assert {quick.history(other)[-1].reason for other in others} == {"the worker ended"}
    assert sorted(attempts(quick, owner)) == [1, 1, 2]


def test_a_loop_that_is_left_releases_what_it_has_not_yielded(
    use: Use, quick: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    first, *others = waiting(quick, 3)

    async def body(catalog: AsyncCatalog) -> None:
        async for _ in catalog.worker(limit=3):
            break
        await until(lambda: statuses(quick, others) == [PENDING] * 2)

    use(body)
    assert quick.get(first).status is PROCESSING
    assert "has not ended its claim" in caplog.text


def test_a_loop_in_a_task_that_failed_releases_what_it_has_not_yielded(use: Use, quick: Catalog) -> None:
    _, *others = waiting(quick, 3)

    async def body(catalog: AsyncCatalog) -> None:
        async def work() -> None:
            async for _ in catalog.worker(limit=3):
                raise LookupError

        task = asyncio.create_task(work())
        await asyncio.wait([task])
        await until(lambda: statuses(quick, others) == [PENDING] * 2)
        assert isinstance(task.exception(), LookupError)

    use(body)


async def by_timeout(work: Coroutine[Any, Any, object], begun: asyncio.Event) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(None) as limit:
            asyncio.get_running_loop().create_task(_expire(limit, begun))
            await work


async def _expire(limit: asyncio.Timeout, begun: asyncio.Event) -> None:
    await begun.wait()
    limit.reschedule(0)


async def by_cancellation(work: Coroutine[Any, Any, object], begun: asyncio.Event) -> None:
    task = asyncio.create_task(work)
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_a_group(work: Coroutine[Any, Any, object], begun: asyncio.Event) -> None:
    async def fail() -> None:
        await begun.wait()
        raise LookupError

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(work)
            group.create_task(fail())


async def by_a_scope(work: Coroutine[Any, Any, object], begun: asyncio.Event) -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:

            async def cancel() -> None:
                await begun.wait()
                scope.cancel()

            group.start_soon(cancel)
            await work
    assert scope.cancelled_caught


@pytest.mark.parametrize("cancel", [by_timeout, by_cancellation, by_a_group, by_a_scope])
@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_cancelled_worker_releases_its_claims_and_counts_no_try(
    use: Use, quick: Catalog, owner: Owner, cancel: Any, concurrency: int
) -> None:
    ids = waiting(quick, 5)

    async def body(catalog: AsyncCatalog) -> None:
        begun = asyncio.Event()
        running = 0

        async def handle(_: Claim) -> None:
            nonlocal running
            running += 1
            if running == concurrency:
                begun.set()
            await asyncio.sleep(60)

        await cancel(catalog.worker(limit=5, concurrency=concurrency).run(handle), begun)

    use(body)
    found = statuses(quick, ids)
    assert sorted(found) == sorted([PROCESSING] * concurrency + [PENDING] * (5 - concurrency))
    owner.execute(
        "UPDATE audio_track_tasks SET expires_at = clock_timestamp() - interval '1 s' WHERE token IS NOT NULL"
    )
    quick.release_expired()
    assert attempts(quick, owner) == [1] * 5
    assert owner.execute(DISAGREEMENTS).fetchall() == []


@pytest.mark.parametrize("cancel", [by_timeout, by_cancellation, by_a_group, by_a_scope])
def test_a_cancelled_loop_that_waits_leaves_at_once(use: Use, cancel: Any) -> None:
    async def body(catalog: AsyncCatalog) -> None:
        begun = asyncio.Event()

        async def work() -> None:
            async with catalog.worker(poll=3600.0) as claims:
                asyncio.get_running_loop().call_later(0.05, begun.set)
                async for _ in claims:
                    pytest.fail("nothing waits")

        began = time.monotonic()
        await cancel(work(), begun)
        assert time.monotonic() - began < 60

    use(body)


def test_any_thread_may_stop_it(use: Use) -> None:
    async def body(catalog: AsyncCatalog) -> None:
        worker = catalog.worker(poll=3600.0)
        assert not worker.stopping
        threading.Timer(0.05, worker.stop).start()
        assert await worker.run(nothing) == 0
        assert worker.stopping

    use(body)


STOPPED = """
import asyncio, sys
from audiocatalog.aio import AsyncCatalog

async def main():
    async with AsyncCatalog(sys.argv[1]) as catalog:
        async def handle(claim):
            print("begun", flush=True)
            await asyncio.sleep(0.3)
        print("done", await catalog.worker(limit=3, poll=3600.0).run(handle), flush=True)

{run}
"""


@pytest.mark.slow
@pytest.mark.parametrize("run", ["asyncio.run(main())", "import uvloop; uvloop.run(main())"], ids=["asyncio", "uvloop"])
def test_sigterm_ends_it_after_its_work(database_url: str, quick: Catalog, run: str) -> None:
    ids = waiting(quick, 3)
    with program(STOPPED.format(run=run), database_url) as running:
        assert next_line(running) == "begun"
        running.send_signal(signal.SIGTERM)
        out, err = running.communicate(timeout=30)
    assert (out.strip(), err, running.returncode) == ("done 1", "", 0)
    assert statuses(quick, ids) == [COMPLETED, PENDING, PENDING]


def test_the_hosts_handler_of_signals_is_put_back(use: Use) -> None:
    before = signal.getsignal(signal.SIGTERM)
    found: list[object] = []

    async def body(catalog: AsyncCatalog) -> None:
        worker = catalog.worker(until_empty=True)
        asyncio.get_running_loop().call_soon(lambda: found.append(signal.getsignal(signal.SIGTERM)))
        await worker.run(nothing)

    use(body)
    assert found != [before]
    assert signal.getsignal(signal.SIGTERM) is before


# Leases.


@pytest.mark.usefixtures("_keen")
def test_leases_are_renewed_while_handlers_work(use: Use, quick: Catalog, owner: Owner) -> None:
    ids = waiting(quick, 2)

    def renewed(claim: Claim) -> bool:
        soon = "expires_at > clock_timestamp() + interval '30 s'"
        found = owner.execute(f"SELECT 1 FROM audio_track_tasks WHERE track_id = %s AND {soon}", [claim.track.id])
        return found.fetchone() is not None

    async def handle(claim: Claim) -> None:
        owner.execute("UPDATE audio_track_tasks SET expires_at = clock_timestamp() + interval '20 s'")
        await until(lambda: renewed(claim))

    async def body(catalog: AsyncCatalog) -> None:
        assert await catalog.worker(lease=LEASE, until_empty=True).run(handle) == 2

    use(body)
    assert statuses(quick, ids) == [COMPLETED] * 2


@pytest.mark.usefixtures("_keen")
def test_a_claim_that_is_lost_completes_nothing(
    use: Use, quick: Catalog, owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    (identifier,) = waiting(quick, 1)

    async def handle(claim: Claim) -> None:
        expire(owner, claim)
        await until(lambda: quick.get(identifier).status is not PROCESSING or quick.get(identifier).version > 3)
        worker.stop()

    worker: AsyncWorker

    async def body(catalog: AsyncCatalog) -> None:
        nonlocal worker
        worker = catalog.worker(lease=LEASE)
        assert await worker.run(handle) == 0

    use(body)
    assert quick.get(identifier).status is PENDING
    assert any(getattr(record, "track_id", None) == identifier for record in caplog.records)


def test_a_handler_that_blocks_the_loop_is_reported(use: Use, quick: Catalog, caplog: pytest.LogCaptureFixture) -> None:
    waiting(quick, 1)

    async def handle(_: Claim) -> None:
        time.sleep(0.4)  # noqa: ASYNC251  # This is what is reported.

    use(lambda catalog: catalog.worker(worker="me", lease=timedelta(seconds=0.5), until_empty=True).run(handle))
    assert "the worker me could not renew its leases" in caplog.text


def test_tracks_of_dead_workers_are_released(use: Use, quick: Catalog, owner: Owner) -> None:
    (identifier,) = waiting(quick, 1)
    (claim,) = quick.claim(worker="dead")
    expire(owner, claim)

    async def body(catalog: AsyncCatalog) -> None:
        while quick.get(identifier).status is not COMPLETED:
            await catalog.worker(until_empty=True).run(nothing)

    use(body)
    assert quick.history(identifier)[-1].to_status is COMPLETED


def test_two_workers_share_the_work_and_do_nothing_twice(use: Use, quick: Catalog, owner: Owner) -> None:
    ids = waiting(quick, 20)
    given: list[UUID] = []

    async def handle(claim: Claim) -> None:
        given.append(claim.track.id)
        await asyncio.sleep(0)

    async def body(catalog: AsyncCatalog) -> int:
        workers = [catalog.worker(worker=f"w{n}", limit=2, concurrency=2, until_empty=True) for n in range(2)]
        return sum(await asyncio.gather(*(worker.run(handle) for worker in workers)))

    assert use(body) == 20
    assert sorted(given) == sorted(ids)
    assert owner.execute(DISAGREEMENTS).fetchall() == []


def test_a_track_that_is_announced_wakes_the_loop(use: Use, database_url: str) -> None:
    async def body(catalog: AsyncCatalog) -> None:
        worker = catalog.worker(poll=3600.0, listen=True)

        async def handle(_: Claim) -> None:
            worker.stop()

        async def save() -> None:
            with Catalog(database_url, notify=True) as other:
                while not worker.stopping:
                    await asyncio.to_thread(waiting, other, 1)
                    await asyncio.sleep(0.05)

        saving = asyncio.create_task(save())
        assert await worker.run(handle) >= 1
        await saving

    use(body)


def test_an_error_that_no_retry_resolves_ends_the_loop(use: Use, quick: Catalog, owner: Owner) -> None:
    waiting(quick, 1)
    owner.execute("ALTER TABLE audio_track_tasks RENAME TO hidden_tasks")
    try:
        with pytest.raises(errors.SchemaMismatch):
            use(lambda catalog: catalog.worker(until_empty=True).run(nothing))
    finally:
        owner.execute("ALTER TABLE hidden_tasks RENAME TO audio_track_tasks")


def test_an_outage_while_claiming_is_passed(use: Use, quick: Catalog, caplog: pytest.LogCaptureFixture) -> None:
    ids = waiting(quick, 1)
    caplog.set_level(logging.WARNING)

    async def body(catalog: AsyncCatalog) -> int:
        await catalog.warm_up()
        worker = catalog.worker(until_empty=True, poll=0.01)
        real = worker._run
        failures = iter([errors.DatabaseUnavailable("gone"), errors.PoolTimeout("busy")])

        async def run(name: str, begin: Any) -> Any:
            if name == "claim" and (failure := next(failures, None)) is not None:
                raise failure
            return await real(name, begin)

        worker._run = run
        return await worker.run(nothing)

    assert use(body) == 1
    assert statuses(quick, ids) == [COMPLETED]
    assert caplog.text.count("claiming failed") == 2
