"""Libraries that queue jobs, as their makers advise: pgqueuer on asyncpg, and procrastinate on psycopg."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import URL

from benchmarks import absent
from benchmarks.lifecycle import crew
from benchmarks.lifecycle.claimers import BATCH, MOST_EMPTY_ANSWERS, Task
from benchmarks.lifecycle.crew import Shift
from benchmarks.lifecycle.server import LifecycleServer
from benchmarks.lifecycle.verify import statuses_are_wrong
from benchmarks.search.load import say
from benchmarks.search.server import connected, libpq

PGQUEUER: Final = "pgqueuer on asyncpg"
PROCRASTINATE: Final = "procrastinate, one at a time"
#: What has to be installed for each.
_NEEDS: Final = {PGQUEUER: ("pgqueuer", "asyncpg"), PROCRASTINATE: ("procrastinate",)}
_LOADED_AT_ONCE: Final = 5000
_HEARTBEAT: Final = timedelta(minutes=5)

Claim = Callable[[], Awaitable[Sequence[Any]]]
Complete = Callable[[Sequence[Any]], Awaitable[object]]


def installed() -> list[str]:
    """Return those that can be measured here; the others are noted as absent."""
    return [name for name, modules in _NEEDS.items() if absent.has_modules(name, *modules)]


def fill(server: LifecycleServer, name: str, template: str, jobs: int) -> None:
    """Make the database *template* with *jobs* jobs of the peer *name*, each with the id of a track."""
    begun = time.perf_counter()
    url = server.create(template)
    asyncio.run({PGQUEUER: _fill_pgqueuer, PROCRASTINATE: _fill_procrastinate}[name](url, jobs))
    with connected(url) as connection:
        connection.execute("VACUUM (ANALYZE)")
    say(f"{template}: {jobs:,} jobs wait, loaded in {time.perf_counter() - begun:.1f} s")


def claim_all(task: Task) -> list[Shift]:
    """Claim in tasks of one event loop, and complete if that is asked; the body of a process."""
    return asyncio.run({PGQUEUER: _claim_by_pgqueuer, PROCRASTINATE: _claim_by_procrastinate}[task.contestant](task))


def is_wrong(url: URL, name: str, jobs: int, *, completed: bool) -> list[str]:
    """Return what is wrong with the peer's own tables after a run."""
    if name == PROCRASTINATE:
        return statuses_are_wrong(url, "procrastinate_jobs", {"succeeded" if completed else "doing": jobs})
    if not completed:
        return statuses_are_wrong(url, "pgqueuer", {"picked": jobs})
    with connected(url) as connection:
        rows = connection.execute("SELECT count(DISTINCT job_id) FROM pgqueuer_log WHERE status = 'successful'")
        ((logged,),) = rows.fetchall()
    wrong = [] if logged == jobs else [f"pgqueuer_log holds {logged:,} successes"]
    return wrong + statuses_are_wrong(url, "pgqueuer", {})


async def _fill_pgqueuer(url: URL, jobs: int) -> None:
    asyncpg: Any = importlib.import_module("asyncpg")
    queries: Any = importlib.import_module("pgqueuer.queries")
    connection = await asyncpg.connect(libpq(url))
    try:
        queue = queries.Queries.from_asyncpg_connection(connection)
        await queue.install()
        for start in range(0, jobs, _LOADED_AT_ONCE):
            count = min(_LOADED_AT_ONCE, jobs - start)
            await queue.enqueue(["track"] * count, [uuid4().bytes for _ in range(count)], [0] * count)
    finally:
        await connection.close()


async def _claim_by_pgqueuer(task: Task) -> list[Shift]:
    asyncpg: Any = importlib.import_module("asyncpg")
    queries: Any = importlib.import_module("pgqueuer.queries")
    repository: Any = importlib.import_module("pgqueuer.ports.repository")
    entrypoints = {"track": repository.EntrypointExecutionParameter(concurrency_limit=0)}
    manager = uuid4()
    connections = [await asyncpg.connect(libpq(task.url)) for _ in range(task.workers)]

    def worker(connection: Any) -> tuple[Claim, Complete]:  # noqa: ANN401 - asyncpg has no types.
        queue = queries.Queries.from_asyncpg_connection(connection)

        async def claim() -> Sequence[Any]:
            found: Sequence[Any] = await queue.dequeue(BATCH, entrypoints, manager, None, _HEARTBEAT)
            return found

        async def complete(jobs: Sequence[Any]) -> None:
            await queue.log_jobs([(job, "successful", None) for job in jobs])

        return claim, complete

    try:
        return await _together(task, [worker(connection) for connection in connections])
    finally:
        for connection in connections:
            await connection.close()


async def _fill_procrastinate(url: URL, jobs: int) -> None:
    procrastinate: Any = importlib.import_module("procrastinate")
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=libpq(url)))
    job_of: Any = importlib.import_module("procrastinate.jobs").Job
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for start in range(0, jobs, _LOADED_AT_ONCE):
            waiting = [
                job_of(
                    queue="default", lock=None, queueing_lock=None, task_name="track", task_kwargs={"id": str(uuid4())}
                )
                for _ in range(min(_LOADED_AT_ONCE, jobs - start))
            ]
            await app.job_manager.batch_defer_jobs_async(waiting)


async def _claim_by_procrastinate(task: Task) -> list[Shift]:
    procrastinate: Any = importlib.import_module("procrastinate")
    jobs: Any = importlib.import_module("procrastinate.jobs")
    size = task.workers
    app = procrastinate.App(
        connector=procrastinate.PsycopgConnector(conninfo=libpq(task.url), min_size=size, max_size=size)
    )
    async with app.open_async():
        manager = app.job_manager

        async def worker() -> tuple[Claim, Complete]:
            worker_id = await manager.register_worker()

            async def claim() -> Sequence[Any]:
                job = await manager.fetch_job(None, worker_id)
                return [] if job is None else [job]

            async def complete(done: Sequence[Any]) -> None:
                await manager.finish_job(done[0], jobs.Status.SUCCEEDED, delete_job=False)

            return claim, complete

        return await _together(task, [await worker() for _ in range(size)])


async def _together(task: Task, workers: Sequence[tuple[Claim, Complete]]) -> list[Shift]:
    crew.start_together()
    return await asyncio.gather(*(_drain(task, claim, complete) for claim, complete in workers))


async def _drain(task: Task, claim: Claim, complete: Complete) -> Shift:
    shift = Shift(time.monotonic(), [], [])
    empty = 0
    while len(shift.ids) < task.most and empty < MOST_EMPTY_ANSWERS:
        jobs = await claim()
        if not jobs:
            empty += 1
            continue
        empty = 0
        if task.complete:
            await complete(jobs)
        shift.ends.append(time.monotonic())
        shift.ids.extend(job.id for job in jobs)
    return shift
