"""Connections: settings of a session that must not matter, a server that goes away, and the time that callers wait."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import URL, make_url, text

from audiocatalog import Catalog, SaveOutcome, TrackMetadata, TrackStatus, errors
from audiocatalog.db.pool import Pool
from audiocatalog.db.settings import is_unverified, parse_url
from tests.support.databases import libpq
from tests.support.detour import THROUGH_POOLER
from tests.support.factories import TrackRecordFactory
from tests.support.frozen import outcome_of
from tests.support.threads import in_threads
from tests.support.waiting import wait_until


@contextmanager
def database_settings(url: str, **settings: str) -> Iterator[None]:
    """Set what every new session of the database begins with."""
    name = make_url(url).database
    with psycopg.connect(libpq(url), autocommit=True) as admin:
        for setting, value in settings.items():
            admin.execute(f"ALTER DATABASE \"{name}\" SET {setting} = '{value}'")
        try:
            yield
        finally:
            admin.execute(f'ALTER DATABASE "{name}" RESET ALL')


@pytest.mark.parametrize("pooler", [False, True])
def test_no_default_of_the_database_or_the_environment_changes_what_is_read(
    database_url: str, monkeypatch: pytest.MonkeyPatch, *, pooler: bool
) -> None:
    monkeypatch.setenv("PGTZ", "Asia/Tokyo")
    monkeypatch.setenv("PGDATESTYLE", "SQL, DMY")
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    record = TrackRecordFactory(metadata=TrackMetadata(title="宇多田 0/1", duration=0.1 + 0.2))
    with (
        database_settings(database_url, DateStyle="German", extra_float_digits="0", TimeZone="Asia/Tokyo"),
        Catalog(database_url, pooler=pooler) as catalog,
    ):
        catalog.run(lambda work: work.save_record(record))
        assert catalog.run(lambda work: work.save_record(record)).outcome is SaveOutcome.UNCHANGED
        found = catalog.get(record.id)
        assert str(found.created_at.utcoffset()) == "0:00:00"
        assert found.duration == 0.1 + 0.2
        assert catalog.search("宇多田").total == 1


@pytest.mark.parametrize("setting", ["standard_conforming_strings", "search_path"])
def test_words_depend_on_no_setting_of_the_session(database_url: str, setting: str) -> None:
    value = {"standard_conforming_strings": "off", "search_path": "evil, public, pg_catalog"}[setting]
    words = "SELECT audiocatalog_search_vector_v1('AC/DC', '宇多田ヒカル', 'Rock’n’Roll', E'C:\\\\X', 1999)"
    with psycopg.connect(libpq(database_url), autocommit=True) as admin:
        admin.execute("CREATE SCHEMA evil")
        admin.execute("CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS $$ SELECT 'pwned'::text $$")
        try:
            usual = admin.execute(words).fetchone()
            admin.execute(f"SET {setting} = {value}")
            changed = admin.execute(words).fetchone()
        finally:
            admin.execute("DROP SCHEMA evil CASCADE")
    assert usual == changed


@pytest.mark.parametrize("pooler", [False, True])
def test_a_single_move_waits_for_a_lock_no_longer_than_it_may(database_url: str, *, pooler: bool) -> None:
    with Catalog(database_url, lock_timeout=0.3, pooler=pooler) as catalog:
        track = catalog.run(lambda work: work.save(TrackMetadata(), audio_path="a"))
        with psycopg.connect(libpq(database_url)) as other:
            other.execute("UPDATE audio_tracks SET updated_at = now() WHERE id = %s", [track.id])
            # By its class, it is the limit on waiting for locks that has ended it.
            error, _ = outcome_of(lambda: catalog.update_status(track.id, TrackStatus.PENDING))
            assert isinstance(error, errors.TransientConflict)


def test_a_row_that_refers_to_a_track_does_not_hold_it_up(database_url: str, catalog: Catalog) -> None:
    track = catalog.run(lambda work: work.save(TrackMetadata(), audio_path="a"))
    with psycopg.connect(libpq(database_url)) as host:
        host.execute("CREATE TABLE favourites (track_id uuid REFERENCES audio_tracks)")
        host.commit()
        try:
            host.execute("INSERT INTO favourites VALUES (%s)", [track.id])
            assert catalog.update_status(track.id, TrackStatus.PENDING).version == 2
        finally:
            host.rollback()
            host.execute("DROP TABLE favourites")


def test_a_warm_connection_survives_a_migration(migrated_database: Callable[[], str]) -> None:
    """A statement that was prepared before a column changed its type fails once in the server, and never outside."""
    url = migrated_database()
    with Catalog(url, pool_size=1) as catalog:
        track = catalog.run(lambda work: work.save(TrackMetadata(), audio_path="a", status=TrackStatus.PENDING))
        for _ in range(12):
            catalog.get(track.id)
        with psycopg.connect(libpq(url), autocommit=True) as admin:
            admin.execute("ALTER TABLE audio_tracks ALTER format TYPE varchar(60)")
        for _ in range(12):
            assert catalog.get(track.id).id == track.id
        assert catalog.update_status(track.id, TrackStatus.PROCESSING).version == 2


def test_a_single_move_whose_answer_is_lost_has_an_unknown_outcome(database_url: str) -> None:
    with Catalog(database_url, lock_timeout=20, statement_timeout=20) as catalog:
        track = catalog.run(lambda work: work.save(TrackMetadata(), audio_path="a"))
        caught: list[errors.CatalogError] = []

        def move() -> None:
            try:
                catalog.update_status(track.id, TrackStatus.PENDING)
            except errors.CatalogError as error:
                caught.append(error)

        with psycopg.connect(libpq(database_url)) as other:
            other.execute("UPDATE audio_tracks SET updated_at = now() WHERE id = %s", [track.id])
            thread = threading.Thread(target=move)
            thread.start()
            with psycopg.connect(libpq(database_url), autocommit=True) as admin:
                end_who_waits = (
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
                wait_until(lambda: admin.execute(end_who_waits).fetchall())
            thread.join()
    assert [type(error) for error in caught] == [errors.CommitOutcomeUnknown]
    assert not caught[0].retryable


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_shares_no_connection(database_url: str) -> None:
    with Catalog(database_url, pool_size=2) as catalog:
        tracks = [catalog.run(lambda work: work.save(TrackMetadata(), audio_path="a")).id for _ in range(20)]
        children = []
        for _ in range(3):
            child = os.fork()
            if child == 0:
                try:
                    right = all(catalog.get(track).id == track for _ in range(20) for track in tracks)
                    os._exit(0 if right else 1)
                except BaseException:  # noqa: BLE001
                    os._exit(2)
            children.append(child)
        for _ in range(20):
            assert [catalog.get(track).id for track in tracks] == tracks
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]


def test_lost_connections_do_not_use_up_the_pool(database_url: str) -> None:
    with (
        Catalog(database_url, pool_size=1, pool_timeout=2) as catalog,
        psycopg.connect(libpq(database_url), autocommit=True) as admin,
    ):
        for _ in range(4):
            with pytest.raises(errors.DatabaseUnavailable), catalog.unit_of_work() as work:
                process = work.session.connection().exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
                admin.execute("SELECT pg_terminate_backend(%s, 5000)", [process])
                work.find(uuid4())
        assert catalog.health().pool.connections == 1


def test_behind_a_pooler_a_lost_commit_of_a_single_call_is_one_of_our_errors(database_url: str) -> None:
    with (
        Catalog(database_url, pooler=True) as catalog,
        psycopg.connect(libpq(database_url), autocommit=True) as admin,
    ):
        with pytest.raises(errors.CommitOutcomeUnknown), catalog._database.autocommit() as driver:
            process = driver.info.backend_pid
            driver.execute("SELECT 1")
            admin.execute("SELECT pg_terminate_backend(%s, 5000)", [process])
        assert catalog.find(uuid4()) is None


def test_an_outage_is_told_as_one_and_ends_when_the_server_is_back(migrated_database: Callable[[], str]) -> None:
    url = migrated_database()
    name = make_url(url).database
    with (
        psycopg.connect(libpq(make_url(url).set(database="postgres")), autocommit=True) as admin,
        Catalog(url, pool_size=2, pool_timeout=0.5) as catalog,
    ):
        assert catalog.find(uuid4()) is None
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name])
        for _ in range(4):
            with pytest.raises(errors.CatalogError) as caught:
                catalog.find(uuid4())
            assert not isinstance(caught.value, errors.PoolTimeout)
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        # Each call in vain has waited for half a second.
        answers = (outcome_of(lambda: catalog.find(uuid4())).error for _ in range(6))
        assert None in answers


def tried_connections(server: socket.socket) -> int:
    """Return how many clients have connected to *server*, which has accepted none."""
    server.setblocking(False)
    tried = 0
    with suppress(BlockingIOError):
        while True:
            server.accept()[0].close()
            tried += 1
    return tried


def test_callers_of_a_silent_server_wait_together_and_not_in_turn() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u:p@127.0.0.1:{silent.getsockname()[1]}/x?connect_timeout=2"
        with Catalog(url) as catalog:
            outcomes: list[object] = []

            def ask() -> None:
                try:
                    catalog.find(uuid4())
                except errors.DatabaseUnavailable as error:
                    outcomes.append(error)

            threads = [threading.Thread(target=ask) for _ in range(15)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(outcomes) == 15
            # In turn, each would have tried for itself.
            assert 1 <= tried_connections(silent) < len(threads) / 2


def test_many_who_wait_in_vain_open_no_connections_of_their_own(database_url: str) -> None:
    url = make_url(database_url).update_query_dict({"application_name": "many_who_wait"})
    with Catalog(url, pool_size=1, pool_timeout=0.5) as catalog, catalog.unit_of_work() as work:
        most = 0

        def ask() -> None:
            with pytest.raises(errors.PoolTimeout):
                catalog.find(uuid4())

        threads = [threading.Thread(target=ask) for _ in range(40)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            count = (
                work.session.connection()
                .exec_driver_sql(
                    "SELECT count(*), pg_stat_clear_snapshot() FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name = 'many_who_wait'"
                )
                .scalar_one()
            )
            most = max(most, count)
            time.sleep(0.01)
        # The unit of work's own, one that asks whether the server is there, and those that a busy server still ends.
        assert most < len(threads) / 2


def named(database_url: str, name: str) -> URL:
    """Return the URL for sessions that the server tells from others by their *name*."""
    return make_url(database_url).update_query_dict({"application_name": name})


def pool_of(catalog: Catalog) -> Pool:
    pool = catalog._database._pool
    assert pool is not None
    return pool


def sessions(database_url: str, name: str) -> int:
    with psycopg.connect(libpq(database_url), autocommit=True) as admin:
        row = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = %s", [name]).fetchone()
    assert row is not None
    return int(row[0])


def test_connections_are_made_side_by_side_once_the_server_has_answered(database_url: str) -> None:
    made: list[threading.Barrier] = []
    both = threading.Barrier(2)

    def password() -> str:
        """Be asked for each connection: from the second one on, two are being made, or none ever is."""
        if made:
            both.wait(60)
        made.append(both)
        return make_url(database_url).password or "none"

    with Catalog(database_url, password=password, pool_size=3, pool_timeout=120) as catalog:
        catalog.find(uuid4())
        all_hold = threading.Barrier(3)

        def hold(_: int) -> None:
            with catalog.unit_of_work() as work:
                work.find(uuid4())
                all_hold.wait(120)

        in_threads(3, hold)
    assert len(made) == 3


@pytest.mark.skipif(THROUGH_POOLER, reason="PgBouncer's sessions are others than the pool's")
def test_a_connection_that_was_idle_for_long_is_closed(database_url: str) -> None:
    with Catalog(named(database_url, "idle"), pool_size=3) as catalog:
        catalog.warm_up()
        connections = list(pool_of(catalog)._idle)  # They are not closed for want of a reference.
        for connection in connections:
            connection.idle_since -= 3600
        catalog.find(uuid4())
        assert catalog.pool_stats().connections == 2
        assert [connection.closed for connection in connections].count(True) == 1
        wait_until(lambda: sessions(database_url, "idle") == 2)


@pytest.mark.skipif(THROUGH_POOLER, reason="PgBouncer's sessions are others than the pool's")
def test_a_pool_that_is_renewed_closes_what_is_idle_at_once_and_the_others_later(database_url: str) -> None:
    with Catalog(named(database_url, "renewed"), pool_size=3) as catalog:
        catalog.warm_up()
        with catalog.unit_of_work() as work:
            pid = work.session.scalar(text("SELECT pg_backend_pid()"))
            idle = list(pool_of(catalog)._idle)
            pool_of(catalog).renew()
            assert [connection.closed for connection in idle] == [True, True]
            wait_until(lambda: sessions(database_url, "renewed") == 1)
        with catalog.unit_of_work() as work:
            assert work.session.scalar(text("SELECT pg_backend_pid()")) != pid


def test_the_figures_tell_for_how_long_a_connection_has_been_held(catalog: Catalog) -> None:
    began = time.monotonic()
    with catalog.unit_of_work() as work:
        work.find(uuid4())
        oldest = catalog.pool_stats().oldest_held
        assert oldest is not None
        assert 0 <= oldest <= time.monotonic() - began


def test_a_pool_is_warmed_on_request(database_url: str) -> None:
    with Catalog(database_url, pool_size=4) as catalog:
        assert catalog.pool_stats().connections == 0
        catalog.warm_up()
        assert (catalog.pool_stats().connections, catalog.pool_stats().in_use) == (4, 0)
        with catalog.unit_of_work():
            catalog.warm_up()
        assert catalog.pool_stats().connections == 4


def test_warming_tells_why_it_cannot(database_url: str) -> None:
    with Catalog("postgresql://u@127.0.0.1:1/x") as catalog, pytest.raises(errors.DatabaseUnavailable):
        catalog.warm_up(timeout=1)
    with Catalog(database_url) as catalog, pytest.raises(errors.InvalidInput, match="timeout"):
        catalog.warm_up(timeout=-1)


@pytest.mark.parametrize("debug_pool", [False, True])
def test_who_waits_in_vain_is_told_who_keeps_the_connections(database_url: str, *, debug_pool: bool) -> None:
    with (
        Catalog(database_url, pool_size=2, pool_timeout=0.2, debug_pool=debug_pool) as catalog,
        catalog.unit_of_work(),
        catalog.unit_of_work(),
        pytest.raises(errors.PoolTimeout) as caught,
    ):
        catalog.find(uuid4())
    message = str(caught.value)
    assert message.startswith("none of 2 connections became free within 0.2 s (2 in use, ")
    assert f"by thread {threading.current_thread().name}" in message
    place = "checked out in test_who_waits_in_vain_is_told_who_keeps_the_connections (test_pool.py:"
    assert (place in message) is debug_pool
    assert ("debug_pool=True" in message) is not debug_pool


def test_a_connection_that_is_forgotten_comes_back(database_url: str) -> None:
    with Catalog(database_url, pool_size=1, pool_timeout=2) as catalog:
        catalog.warm_up()
        for _ in range(3):
            forgotten = catalog._database._take()
            assert catalog.pool_stats().in_use == 1
            del forgotten
            gc.collect()
            assert catalog.find(uuid4()) is None
        assert (catalog.pool_stats().connections, catalog.pool_stats().in_use) == (1, 0)


def test_connections_are_replaced_when_they_are_old(database_url: str) -> None:
    def process(catalog: Catalog) -> object:
        with catalog._database.autocommit() as driver:
            return driver.info.backend_pid

    with Catalog(database_url, pool_size=1, pool_recycle=3600) as lasting:
        assert process(lasting) == process(lasting)
    with Catalog(database_url, pool_size=1, pool_recycle=0.2) as catalog:
        first = process(catalog)
        wait_until(lambda: process(catalog) != first)


def test_a_long_statement_of_the_hosts_own_may_be_allowed(database_url: str) -> None:
    with Catalog(database_url, statement_timeout=0.2, network_timeout=1) as catalog:
        with pytest.raises(errors.QueryTimeout), catalog.unit_of_work() as work:
            work.session.execute(text("SELECT pg_sleep(60)"))
        with catalog.unit_of_work() as work:
            work.set_statement_timeout(60)
            work.session.execute(text("SELECT pg_sleep(1.3)"))
        with pytest.raises(errors.QueryTimeout), catalog.unit_of_work() as work:
            work.session.execute(text("SELECT pg_sleep(60)"))
        with pytest.raises(errors.InvalidInput, match="seconds"), catalog.unit_of_work() as work:
            work.set_statement_timeout(0)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://u:p@h1:1,h2:2/x?target_session_attrs=read-write", ("h1:1", "h2:2")),
        ("postgresql+psycopg://h1,h2,h3/x", ("h1", "h2", "h3")),
        ("postgresql://u:p%40ss@h1:1,h2/x", ("h1:1", "h2")),
    ],
)
def test_a_url_may_name_several_hosts(url: str, hosts: tuple[str, ...]) -> None:
    parsed = parse_url(url)
    assert (parsed.query["host"], parsed.host, parsed.database) == (hosts, None, "x")
    assert Catalog(url).pool_stats().connections == 0


@pytest.mark.parametrize("url", ["postgresql://u:p@ss/w0rd@host/db", "postgresql://u:p@ss@host/db"])
def test_an_at_that_is_not_encoded_is_refused(url: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="%40") as caught:
        parse_url(url)
    assert "ss" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize(
    ("url", "warned"),
    [
        ("postgresql://u@db.example/x", True),
        ("postgresql://u@db.example/x?sslmode=require", True),
        ("postgresql://u@db.example/x?sslmode=verify-full", False),
        ("postgresql://u@db1,127.0.0.1/x", True),
        ("postgresql://u@localhost:5432,127.0.0.1/x", False),
        ("postgresql://u@[::1]:1/x", False),
        ("postgresql://u@/x?host=/tmp", False),
        ("postgresql:///x", False),
    ],
)
def test_a_remote_server_that_proves_nothing_is_told(
    url: str, *, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    assert is_unverified(parse_url(url)) is warned
