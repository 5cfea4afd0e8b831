"""A search, which is sent in a pipeline, is cancelled on the server too, and its connection is kept."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from sqlalchemy import make_url

from audiocatalog.aio import AsyncCatalog
from tests.support.databases import libpq

_WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@pytest.mark.parametrize("in_a_unit", [False, True], ids=["alone", "in a unit of work"])
def test_a_cancelled_search_ends_on_the_server_and_its_connection_is_used_again(
    database_url: str, *, in_a_unit: bool
) -> None:
    asyncio.run(cancel_a_search(database_url, in_a_unit=in_a_unit))


async def cancel_a_search(url: str, *, in_a_unit: bool) -> None:
    with psycopg.connect(libpq(url)) as holder, psycopg.connect(libpq(url), autocommit=True) as admin:

        async def until_waiting(expected: int) -> list[int]:
            while len(found := [pid for (pid,) in admin.execute(_WAITING)]) != expected:  # noqa: ASYNC110  # The server sends no event.
                await asyncio.sleep(0.005)
            return found

        async with AsyncCatalog(
            make_url(url), pool_size=1, statement_timeout=300.0, search_timeout=300.0, lock_timeout=300.0
        ) as catalog:

            async def search() -> None:
                if not in_a_unit:
                    await catalog.search("joga")
                    return
                async with catalog.unit_of_work() as work:
                    await work.search("joga")

            pids = []
            for _ in range(3):
                holder.execute("LOCK TABLE audio_tracks")
                async with asyncio.timeout(60):
                    searching = asyncio.create_task(search())
                    pids += await until_waiting(1)
                    searching.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await searching
                    await until_waiting(0)
                holder.rollback()
                assert (await catalog.search("joga")).total == 0
            assert len(set(pids)) == 1
