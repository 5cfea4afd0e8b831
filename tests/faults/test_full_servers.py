"""A server that has no connection left for us, starts or shuts down: told as an outage, which ends by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from uuid import uuid4

import psycopg
import pytest

from audiocatalog import Catalog, TrackMetadata, errors, migrations
from audiocatalog.migrations.grants import grant_rights
from tests.support.databases import libpq
from tests.support.frozen import fill, outcome_of
from tests.support.servers import Server, cluster, standby_of, wait_for_replay
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

_DATABASE = "music"
_ROLE = "service"
_RECOVERY = 5.0


@pytest.fixture(scope="module")
def small_server() -> Iterator[Server]:
    """Give a server with room for eight connections, three of them for the superuser alone."""
    with cluster() as server:
        server.settings |= {"max_connections": "8", "superuser_reserved_connections": "3", "max_wal_senders": "3"}
        server.start()
        with server.admin() as admin:
            admin.execute(f"CREATE DATABASE {_DATABASE}")
            admin.execute(f"CREATE ROLE {_ROLE} LOGIN")
        migrations.upgrade(server.url(_DATABASE))
        grant_rights(server.url(_DATABASE), _ROLE)
        yield server


@pytest.fixture
def server(small_server: Server) -> Iterator[Server]:
    yield small_server
    small_server.stop("immediate")
    small_server.start()


Fault = Callable[[Server], AbstractContextManager[None]]


@contextmanager
def others_have_all_connections(server: Server) -> Iterator[None]:
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(psycopg.connect(libpq(server.url(_DATABASE, user=_ROLE))))
            except psycopg.OperationalError:
                break
        yield


def altered(change: str, back: str) -> Fault:
    @contextmanager
    def fault(server: Server) -> Iterator[None]:
        with server.admin() as admin:
            admin.execute(change)
            try:
                yield
            finally:
                admin.execute(back)

    return fault


#: Each keeps new connections out for as long as it lasts.
FULL: dict[str, Fault] = {
    "too many connections": others_have_all_connections,
    "too many of the role": altered(
        f"ALTER ROLE {_ROLE} CONNECTION LIMIT 0", f"ALTER ROLE {_ROLE} CONNECTION LIMIT -1"
    ),
    "too many of the database": altered(
        f"ALTER DATABASE {_DATABASE} CONNECTION LIMIT 0", f"ALTER DATABASE {_DATABASE} CONNECTION LIMIT -1"
    ),
    "no connections allowed": altered(
        f"ALTER DATABASE {_DATABASE} ALLOW_CONNECTIONS false", f"ALTER DATABASE {_DATABASE} ALLOW_CONNECTIONS true"
    ),
}


@pytest.mark.parametrize("warm", [False, True], ids=["at the first use", "in a running service"])
@pytest.mark.parametrize("name", FULL)
def test_a_full_server_is_told_as_an_outage_and_the_service_goes_on_by_itself(
    server: Server, name: str, *, warm: bool
) -> None:
    with Catalog(server.url(_DATABASE, user=_ROLE), pool_size=2, pool_timeout=1) as catalog:
        if warm:
            fill(catalog, 2)
            lose_connections(server)
        with FULL[name](server):
            for _ in range(3):
                with pytest.raises(errors.DatabaseUnavailable) as caught:
                    catalog.find(uuid4())
                assert caught.value.retryable
                assert caught.value.phase == "connect"
        assert_recovers(catalog)


def lose_connections(server: Server) -> None:
    with server.admin() as admin:
        admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s", [_ROLE])


def assert_recovers(catalog: Catalog) -> None:
    """It works again within seconds, and then always."""
    begun = time.monotonic()
    wait_until(lambda: outcome_of(lambda: catalog.find(uuid4())).error is None, within=_RECOVERY)
    assert time.monotonic() - begun < _RECOVERY
    fill(catalog, 2)
    for _ in range(5):
        assert catalog.find(uuid4()) is None


def test_a_pool_lives_with_fewer_connections_than_it_may_have(server: Server) -> None:
    """Of five it gets one: callers take turns, and nobody is turned away."""
    with server.admin() as admin:
        admin.execute(f"ALTER ROLE {_ROLE} CONNECTION LIMIT 1")
    with Catalog(server.url(_DATABASE, user=_ROLE), pool_size=5, pool_timeout=5) as catalog:
        for _ in range(10):
            assert catalog.find(uuid4()) is None
        with catalog.unit_of_work() as work:
            assert work.find(uuid4()) is None
    with server.admin() as admin:
        admin.execute(f"ALTER ROLE {_ROLE} CONNECTION LIMIT -1")


def test_a_server_that_shuts_down_while_others_still_work_takes_nobody_new(server: Server) -> None:
    """A smart shutdown waits for those who are there: they finish what they do, and the next call waits for a start."""
    with Catalog(server.url(_DATABASE, user=_ROLE), pool_size=2, pool_timeout=1) as catalog:
        with catalog.unit_of_work() as work:
            server.signal("smart")
            work.save(TrackMetadata(title="At the last moment"), audio_path="a")
            wait_until(lambda: "shutting down" in str(outcome_of(lambda: server.admin().close()).error))
            with pytest.raises(errors.DatabaseUnavailable):
                catalog.find(uuid4())
            track = work.save(TrackMetadata(title="And after"), audio_path="a")
        server.stop("fast")
        with pytest.raises(errors.DatabaseUnavailable):
            catalog.find(uuid4())
        server.start()
        assert_recovers(catalog)
        assert catalog.get(track.id).title == "And after"


@pytest.mark.parametrize("mode", ["fast", "immediate", "kill"])
def test_a_unit_of_work_that_a_shutdown_ends_may_be_run_again(server: Server, mode: str) -> None:
    with Catalog(server.url(_DATABASE, user=_ROLE), pool_size=2, pool_timeout=1) as catalog:
        fill(catalog, 2)
        with pytest.raises(errors.DatabaseUnavailable) as caught, catalog.unit_of_work() as work:
            lost = work.save(TrackMetadata(), audio_path="a")
            server.stop(mode)  # type: ignore[arg-type]
            work.find(lost.id)
        assert caught.value.retryable
        # A server that ends in order always says why; one that does not, if it comes to it.
        assert caught.value.sqlstate in {"fast": ("57P01",)}.get(mode, ("57P01", "57P02", None))
        server.start()
        assert_recovers(catalog)
        assert catalog.find(lost.id) is None


def test_a_server_that_is_still_starting_is_told_as_an_outage(small_server: Server) -> None:
    """A standby that nobody may read is such a server, and stays one until it is promoted."""
    with standby_of(small_server) as standby:
        wait_for_replay(small_server, standby)
        standby.stop()
        standby.settings["hot_standby"] = "off"
        standby.begin()
        with Catalog(standby.url(_DATABASE, user=_ROLE), pool_size=2, pool_timeout=1) as catalog:
            # At first nothing listens on its port, then a server that says that it is not ready.
            wait_until(lambda: "not accepting connections" in str(outcome_of(lambda: standby.admin().close()).error))
            for _ in range(3):
                with pytest.raises(errors.DatabaseUnavailable) as caught:
                    catalog.find(uuid4())
                assert caught.value.retryable
            assert standby.run("pg_ctl", "promote", "-D", str(standby.data), "-t", "30").returncode == 0
            assert_recovers(catalog)
