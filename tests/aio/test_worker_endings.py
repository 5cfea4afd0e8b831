"""How a pass of an asynchronous worker ends: by a signal, a cancelled task, a loop that is left, or an empty queue."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest

from audiocatalog import Catalog, Claim, Observation, TrackStatus
from audiocatalog.aio import AsyncCatalog
from audiocatalog.aio.waiting import finished, in_background
from audiocatalog.aio.worker import AsyncWorker
from tests.support.lifecycle import Owner, waiting
from tests.support.programs import PATIENCE, program, statuses
from tests.support.waiting import wait_until

PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus


@pytest.fixture
def quick(database_url: str) -> Iterator[Catalog]:
    """Give a synchronous catalogue, to look from outside."""
    with Catalog(database_url, actor="tester", retry_delay=0.001, longest_retry_delay=0.001) as catalog:
        yield catalog


async def nothing(_: Claim) -> None:
    """Do no work."""


async def for_ever(_: Claim) -> None:
    await asyncio.sleep(3600)


def tries(owner: Owner, track: UUID) -> int:
    row = owner.execute("SELECT attempts FROM audio_track_tasks WHERE track_id = %s", [track]).fetchone()
    assert row is not None
    return int(row["attempts"])


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_until, condition)


async def started(worker: AsyncWorker) -> asyncio.Task[int]:
    """Run *worker* in a task, and return it when it waits for work."""
    task = asyncio.create_task(worker.run(nothing))
    await until(lambda: any(loop.upkeep.has_looked_for_dead for loop in worker._loops))
    return task


# Signals.


@pytest.fixture
def hosts() -> Iterator[list[int]]:
    """Give the signals that a handler of the host gets, which must stay set."""
    seen: list[int] = []

    def handle(number: int, _: object) -> None:
        seen.append(number)

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield seen
        assert signal.getsignal(signal.SIGTERM) is handle
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_ends_every_worker_of_the_loop_and_reaches_the_host(database_url: str, hosts: list[int]) -> None:
    async def main() -> None:
        async with AsyncCatalog(database_url) as catalog:
            tasks = [await started(catalog.worker(poll=3600.0)) for _ in range(3)]
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(60):
                assert await asyncio.gather(*tasks) == [0] * 3

    asyncio.run(main())
    assert hosts == [signal.SIGTERM]


def test_workers_that_end_in_the_order_of_their_begin_leave_the_hosts_handler(
    database_url: str, hosts: list[int]
) -> None:
    async def main() -> None:
        async with AsyncCatalog(database_url) as catalog:
            first, second = (catalog.worker(poll=3600.0) for _ in range(2))
            tasks = [await started(first), await started(second)]
            first.stop()
            await tasks[0]
            os.kill(os.getpid(), signal.SIGTERM)
            async with asyncio.timeout(60):
                await tasks[1]

    asyncio.run(main())
    assert hosts == [signal.SIGTERM]


def test_a_handler_that_the_host_has_given_its_loop_is_called_as_well(database_url: str) -> None:
    async def main() -> list[bool]:
        told = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, told.set)
        async with AsyncCatalog(database_url) as catalog:
            task = await started(catalog.worker(poll=3600.0))
            for _ in range(2):  # The second one comes after the worker has put the host's handler back.
                told.clear()
                os.kill(os.getpid(), signal.SIGTERM)
                async with asyncio.timeout(60):
                    await told.wait()
                    await task
        return [loop.remove_signal_handler(signal.SIGTERM)]

    before = signal.getsignal(signal.SIGTERM)
    try:
        assert asyncio.run(main()) == [True]
    finally:
        signal.signal(signal.SIGTERM, before)


# Loops that are left.


@pytest.mark.parametrize("raises", [False, True])
def test_a_catalogue_that_closes_at_once_first_releases_what_a_loop_has_not_yielded(
    database_url: str, quick: Catalog, caplog: pytest.LogCaptureFixture, *, raises: bool
) -> None:
    ids = waiting(quick, 3)

    async def main() -> None:
        async with AsyncCatalog(database_url) as catalog:
            async for _ in catalog.worker(limit=3):
                if raises:
                    raise LookupError
                break

    if raises:
        with pytest.raises(LookupError):
            asyncio.run(main())
    else:
        asyncio.run(main())
    assert statuses(quick, ids) == [PROCESSING, PENDING, PENDING]
    assert [message for message in caplog.messages if "could not" in message] == []
    assert "has not ended its claim" in caplog.text


def test_a_cancelled_loop_counts_no_try(database_url: str, quick: Catalog, owner: Owner) -> None:
    ids = waiting(quick, 3)

    async def main() -> None:
        async with AsyncCatalog(database_url) as catalog:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(None) as limit:
                    async for _ in catalog.worker(limit=3):
                        limit.reschedule(0)
                        await asyncio.sleep(3600)

    asyncio.run(main())
    assert statuses(quick, ids) == [PROCESSING, PENDING, PENDING]
    assert tries(owner, ids[0]) == 0


def test_a_second_loop_of_a_worker_keeps_its_leases_when_the_first_one_ends_late(
    database_url: str, quick: Catalog
) -> None:
    ids = waiting(quick, 3)

    def renewing() -> int:
        return [task.get_name() for task in asyncio.all_tasks()].count("audiocatalog keep_leases")

    async def main() -> None:
        async with AsyncCatalog(database_url) as catalog:
            worker = catalog.worker(limit=2)
            async for claim in worker:
                await catalog.complete(claim)
                break
            async for claim in worker:
                await until(lambda: any(change.reason == "the worker ended" for change in quick.history(ids[1])))
                await asyncio.sleep(0)
                assert renewing() == 1
                await catalog.complete(claim)
                break

    asyncio.run(main())
    assert statuses(quick, ids).count(COMPLETED) == 2


def test_a_worker_that_is_cancelled_while_it_claims_releases_what_it_has_claimed(
    database_url: str, quick: Catalog
) -> None:
    """The cancellation comes after each number of steps of the loop: before, in and after the claim."""
    ids = waiting(quick, 3)

    async def main(steps: int) -> int:
        async with AsyncCatalog(database_url) as catalog:
            await catalog.warm_up()
            task = asyncio.create_task(catalog.worker(limit=3).run(for_ever))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
        return statuses(quick, ids).count(PROCESSING)

    in_work = []
    for steps in range(0, 60, 3):
        in_work.append(asyncio.run(main(steps)))
        for track in ids:
            if quick.get(track).status is PROCESSING:
                quick.update_status(track, PENDING)
    assert max(in_work) <= 1


INTERRUPTED = """
import asyncio, os, signal, sys
from audiocatalog.aio import AsyncCatalog

async def main(kept):
    kept.append(AsyncCatalog(sys.argv[1]))  # It is never closed.
    async def handle(claim):
        {interrupt}
        await asyncio.sleep(3600)
    worker = kept[0].worker(limit=3)
    if sys.argv[2] == "run":
        await worker.run(handle)
    async for claim in worker:
        await handle(claim)

asyncio.run(main([]))
"""


@pytest.mark.parametrize("use", ["run", "for"])
@pytest.mark.parametrize("interrupt", ["os.kill(os.getpid(), signal.SIGINT)", "sys.exit(3)"], ids=["Ctrl-C", "exit"])
def test_a_program_that_ends_in_the_midst_releases_what_has_not_begun(
    database_url: str, quick: Catalog, owner: Owner, use: str, interrupt: str
) -> None:
    ids = waiting(quick, 3)
    with program(INTERRUPTED.format(interrupt=interrupt), database_url, use) as running:
        _, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == (3 if interrupt == "sys.exit(3)" else -signal.SIGINT)
    assert "Task was destroyed" not in err
    assert statuses(quick, ids) == [PROCESSING, PENDING, PENDING]
    # A bare loop does not see an exception that is not a cancellation.
    assert tries(owner, ids[0]) == ((use, interrupt) == ("for", "sys.exit(3)"))


def test_the_release_of_claims_begins_again_when_the_end_of_the_program_cancels_it() -> None:
    steps: list[str] = []
    begun = asyncio.Event()

    async def release() -> None:
        steps.append("begun")
        begun.set()
        await asyncio.sleep(0.01)
        steps.append("ended")

    async def main() -> None:
        in_background(finished(release))
        await begun.wait()

    asyncio.run(main())
    assert steps == ["begun", "begun", "ended"]


# Empty queues, and listeners.


def test_a_worker_until_empty_waits_for_what_its_handlers_save(database_url: str, quick: Catalog) -> None:
    (first,) = waiting(quick, 1)
    claims: list[Observation] = []

    def observe(observation: Observation) -> None:
        if observation.operation == "claim":
            claims.append(observation)

    async def main() -> int:
        async with AsyncCatalog(database_url, observe=observe) as catalog:
            worker = catalog.worker(until_empty=True, concurrency=4, poll=0.01)

            async def handle(claim: Claim) -> None:
                if claim.track.id == first:
                    await until(lambda: any(loop.upkeep.has_looked_for_dead for loop in worker._loops))
                    looked = len(claims)
                    # The loop finds the queue empty after it has looked for tracks of dead workers.
                    await asyncio.to_thread(wait_until, lambda: len(claims) > looked + 1, within=10.0)
                    await asyncio.to_thread(waiting, quick, 2)

            return await worker.run(handle)

    assert asyncio.run(main()) == 3


def test_a_listener_outlives_the_time_that_an_answer_may_take(
    database_url: str, owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    listeners = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'"

    async def main() -> None:
        async with AsyncCatalog(database_url, statement_timeout=0.5, network_timeout=0.5) as catalog:
            worker = catalog.worker(poll=3600.0, listen=True)
            task = await started(worker)
            await asyncio.to_thread(wait_until, lambda: owner.execute(listeners).fetchall())
            before = owner.execute(listeners).fetchall()
            await asyncio.sleep(2.0)  # Twice as long as an answer may take.
            assert owner.execute(listeners).fetchall() == before
            worker.stop()
            await task

    asyncio.run(main())
    assert "listening" not in caplog.text
