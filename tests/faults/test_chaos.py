"""Servers that are killed under eight writers: nothing acknowledged is lost, nothing is done twice, nobody fails."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
from sqlalchemy import make_url

from audiocatalog import Catalog, Track, TrackMetadata, UnitOfWork, errors, migrations
from tests.support.chaos import NAME, at_work, differences, revive, torment
from tests.support.servers import Server, cluster
from tests.support.waiting import wait_until

#: How long the writers are disturbed, in seconds, once for each number of kills.
SECONDS = float(os.environ.get("AUDIOCATALOG_CHAOS_SECONDS", "30"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Give a server that keeps what it has acknowledged."""
    with cluster() as server:
        # What is not committed comes to the disk late, as it would if the server had more to do.
        server.settings |= {"fsync": "on", "full_page_writes": "on", "max_connections": "60", "wal_writer_delay": "10s"}
        server.start()
        yield server


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    """Give the URL of a fresh database of ours."""
    name = f"chaos_{uuid4().hex[:8]}"
    with server.admin() as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0")
    address = server.url(name, application_name=NAME)
    migrations.upgrade(address)
    yield address.render_as_string(hide_password=False)
    with server.admin() as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize(
    ("seconds", "kills"), [(4.0, 2), pytest.param(SECONDS, max(2, round(SECONDS / 3)), marks=pytest.mark.faults)]
)
def test_what_was_acknowledged_is_there_once_and_nobody_fails(
    server: Server, url: str, seconds: float, kills: int, record_property: Callable[[str, object], None]
) -> None:
    name = str(make_url(url).database)
    with Catalog(url, actor="chaos", pool_size=6, retry_delay=0.001, longest_retry_delay=0.001) as catalog:
        with at_work(catalog) as account:
            torment(server, name, account, seconds=seconds, kills=kills)
        assert account.failures == []
        figures = {**account.acknowledged, **account.kills, "slowest": round(account.slowest, 2)}
        record_property("chaos", figures)
        print(f"\nchaos for {seconds:g} s: {sum(account.acknowledged.values())} acknowledged, {figures}")  # noqa: T201
        assert differences(url, account) == []
        assert account.kills["kill"] >= (7 if seconds >= 30 else 1)
        assert account.kills["backends"] >= (24 if seconds >= 30 else 1)
        sessions_come_to_no_more_than_the_pool(server, catalog)


def sessions_come_to_no_more_than_the_pool(server: Server, catalog: Catalog) -> None:
    with server.admin() as admin:

        def sessions() -> int:
            row = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [NAME]).fetchone()
            assert row is not None
            return int(row[0])

        # Sessions that have ended may still be on their way out.
        wait_until(lambda: sessions() <= catalog._settings.pool_size)


def test_twenty_idle_connections_of_a_server_that_was_restarted_fail_nobody(server: Server, url: str) -> None:
    outcomes: list[object] = []
    with Catalog(url, pool_size=20) as catalog:

        def hold(barrier: threading.Barrier) -> None:
            try:
                with catalog.unit_of_work() as work:
                    barrier.wait()
                    outcomes.append(work.find(uuid4()))
            except (errors.CatalogError, threading.BrokenBarrierError) as error:
                outcomes.append(error)

        for restarted in (False, True):
            if restarted:
                server.stop("fast")
                revive(server)
            barrier = threading.Barrier(20, timeout=30)
            threads = [threading.Thread(target=hold, args=[barrier]) for _ in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert outcomes == [None] * 40


def crash_and_give_ids_to_others(server: Server, url: str) -> str | None:
    """Kill the server, and have others write on the next one before a writer comes back; return what was told then."""
    with server.admin(str(make_url(url).database)) as admin:
        row = admin.execute("SELECT max(backend_xid::text::bigint) FROM pg_stat_activity").fetchone()
        assert row is not None
        server.stop("kill")
    host, server.host = server.host, ""
    revive(server)
    with server.admin(str(make_url(url).database)) as admin:
        for _ in range(10):
            admin.execute("SELECT pg_current_xact_id()")
        told = admin.execute("SELECT pg_xact_status(%s::text::xid8)", [row[0]]).fetchone()
    server.stop("fast")
    server.host = host
    revive(server)
    return None if told is None else str(told[0])


@pytest.mark.faults
def test_an_id_that_a_killed_server_gave_to_another_transaction_is_not_taken_for_ours(server: Server, url: str) -> None:
    """What had not come to the disk is forgotten, its transaction's id included: "committed" is said of another one."""
    told: list[str | None] = []

    def unit(work: UnitOfWork) -> Track:
        track = work.save(TrackMetadata(title="once"), audio_path="a")
        if not told:
            told.append(crash_and_give_ids_to_others(server, url))
        return track

    with Catalog(url) as catalog:
        track = catalog.run(unit, deadline=20.0)
        assert told == ["committed"]
        assert catalog.get(track.id).title == "once"
        assert catalog.count_by_status()[2].tracks == 1
