"""The handle a service keeps: it opens nothing too early, waits no longer than it says, and explains what is wrong."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import make_url

from audiocatalog import Catalog, TrackMetadata, TrackStatus, UnitOfWork, errors, migrations
from audiocatalog.aio import AsyncCatalog
from audiocatalog.db.schema_check import NEXT_REVISION
from audiocatalog.db.settings import Settings, parse_url, url_from_environment
from audiocatalog.embedded import EmbeddedPostgres
from audiocatalog.models.sql_names import SCHEMA_REVISION
from tests.support.databases import libpq
from tests.support.frozen import outcome_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.both_sides

SECRET = "p%40ss%2Fw%3Ard"


def test_importing_and_constructing_open_nothing() -> None:
    script = (
        "import socket, sys, threading\n"
        "sys.addaudithook(lambda name, _: name.startswith('socket.connect') and sys.exit(name))\n"
        "from audiocatalog import Catalog\n"
        "catalog = Catalog('postgresql://user:secret@127.0.0.1:1/none')\n"
        "assert threading.active_count() == 1\n"
        "assert 'secret' not in repr(catalog)\n"
        "assert 'alembic.config' not in sys.modules\n"
        "catalog.close()\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)


def test_one_shot_reads_find_what_was_committed(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        track = work.save(TrackMetadata(title="One Shot"), audio_path="a")
    assert catalog.get(track.id).title == "One Shot"
    assert catalog.find(str(track.id)) is not None
    assert catalog.find(uuid4()) is None
    assert [hit.track.id for hit in catalog.search("one shot")] == [track.id]
    with pytest.raises(errors.TrackNotFound):
        catalog.get(uuid4())


def test_a_status_moves_in_one_call(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        track = work.save(TrackMetadata(), audio_path="a", status=TrackStatus.PENDING)
    change = catalog.update_status(track.id, TrackStatus.PROCESSING, reason="by hand", actor="operator")
    assert (change.actor, change.reason, change.version) == ("operator", "by hand", 2)
    assert catalog.get(track.id).status is TrackStatus.PROCESSING
    with pytest.raises(errors.IllegalTransition):
        catalog.update_status(track.id, TrackStatus.PROCESSING)


def test_stats_count_every_status(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        for _ in range(3):
            work.save(TrackMetadata(), audio_path="a", status=TrackStatus.PENDING)
        work.save(TrackMetadata(), audio_path="a")
    assert {count.status: count.tracks for count in catalog.count_by_status()} == {
        TrackStatus.PENDING: 3,
        TrackStatus.PROCESSING: 0,
        TrackStatus.COMPLETED: 1,
        TrackStatus.FAILED: 0,
    }


def test_health_shows_server_schema_and_pool(catalog: Catalog) -> None:
    health = catalog.health()
    assert (health.schema_revision, health.expected_revision) == (SCHEMA_REVISION, SCHEMA_REVISION)
    assert int(health.server_version.split(".")[0]) >= 15
    assert health.server_encoding == "UTF8"
    assert (health.pool.size, health.pool.waiting, health.pool.in_use) == (8, 0, 1)
    assert 1 <= health.pool.connections <= 8


def test_times_are_utc_whatever_the_database_is_set_to(catalog: Catalog, database_url: str) -> None:
    with catalog.unit_of_work() as work:
        track = work.save(TrackMetadata(), audio_path="a")
    name = make_url(database_url).database
    with psycopg.connect(libpq(database_url), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE \"{name}\" SET TimeZone = 'Asia/Tokyo'")
        try:
            with Catalog(database_url) as other:
                found = other.get(track.id)
        finally:
            admin.execute(f'ALTER DATABASE "{name}" RESET TimeZone')
    assert found.created_at == track.created_at
    assert found.created_at.utcoffset() == track.created_at.utcoffset()
    assert str(found.created_at.utcoffset()) == "0:00:00"


# Running a unit again


def test_run_returns_what_the_unit_returns_and_commits(catalog: Catalog) -> None:
    track = catalog.run(lambda work: work.save(TrackMetadata(title="Run"), audio_path="a"))
    assert catalog.get(track.id).title == "Run"


def test_run_tries_again_what_can_be_tried_again(catalog: Catalog) -> None:
    """Two units that lock two tracks in opposite order deadlock; one is chosen, and runs again."""
    first, second = (catalog.run(lambda work: work.save(TrackMetadata(), audio_path="a")).id for _ in range(2))
    barrier, runs = threading.Barrier(2, timeout=60), []

    def rename_both(name: str, order: tuple[UUID, UUID]) -> Callable[[UnitOfWork], None]:
        def unit(work: UnitOfWork) -> None:
            runs.append(name)
            for step, identifier in enumerate(order):
                work.save(TrackMetadata(title=name), id=identifier, audio_path="a", replace=True)
                if step == 0 and len(runs) <= 2:
                    barrier.wait()

        return unit

    orders = {"one": (first, second), "two": (second, first)}
    threads = [threading.Thread(target=catalog.run, args=(rename_both(*item),)) for item in orders.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) > 2
    assert {(track.title, track.version) for track in catalog.get_many([first, second]).values()} == {(runs[-1], 3)}


def test_run_does_not_repeat_what_cannot_succeed(catalog: Catalog) -> None:
    runs = []

    def unit(work: UnitOfWork) -> None:
        runs.append(work)
        work.get(uuid4())

    with pytest.raises(errors.TrackNotFound):
        catalog.run(unit)
    assert len(runs) == 1


def test_run_gives_up_at_its_deadline(catalog: Catalog) -> None:
    runs = []

    def unit(work: UnitOfWork) -> None:
        runs.append(work)
        if len(runs) > 1000:
            pytest.fail("it does not give up")
        raise errors.TransientConflict("on purpose")

    with pytest.raises(errors.TransientConflict):
        catalog.run(unit, deadline=1)
    assert len(runs) > 1


# The pool


def test_a_full_pool_says_so_in_time(database_url: str) -> None:
    with Catalog(database_url, pool_size=1, pool_timeout=0.2) as catalog:
        catalog.warm_up(timeout=60)
        with catalog.unit_of_work():
            error, seconds = outcome_of(lambda: catalog.find(uuid4()))
        assert isinstance(error, errors.PoolTimeout)
        assert str(error).startswith("none of 1 connections became free within 0.2 s")
        assert seconds > 0.15


def test_every_connection_comes_back_whatever_happens_inside(database_url: str) -> None:
    with Catalog(database_url, pool_size=1, pool_timeout=2) as catalog:
        for error in (ValueError, KeyboardInterrupt):
            for _ in range(3):
                with pytest.raises(error), catalog.unit_of_work() as work:
                    work.save(TrackMetadata(), audio_path="a")
                    raise error
        assert catalog.health().pool.connections == 1


def test_idle_connections_that_the_server_ended_are_replaced(database_url: str) -> None:
    with Catalog(database_url, pool_size=3) as catalog:
        barrier = threading.Barrier(3)

        def use() -> None:
            with catalog.unit_of_work():
                barrier.wait()

        threads = [threading.Thread(target=use) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with psycopg.connect(libpq(database_url), autocommit=True) as admin:
            ended = admin.execute(
                "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'audiocatalog'"
            ).fetchone()
        assert ended is not None
        assert ended[0] >= 3
        for _ in range(6):
            assert catalog.find(uuid4()) is None


def test_a_connection_that_dies_inside_a_unit_is_an_outage(database_url: str) -> None:
    with Catalog(database_url) as catalog:
        with pytest.raises(errors.DatabaseUnavailable) as caught, catalog.unit_of_work() as work:
            work.save(TrackMetadata(title="Lost"), audio_path="a")
            process = work.session.connection().exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
            with psycopg.connect(libpq(database_url), autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(%s, 5000)", [process])
            work.find(uuid4())
        assert caught.value.retryable
        assert catalog.search("lost").total == 0


def test_a_closed_catalogue_says_that_it_is_closed(database_url: str) -> None:
    catalog = Catalog(database_url)
    catalog.find(uuid4())
    catalog.close()
    catalog.close()
    with pytest.raises(errors.ConfigurationError, match="closed"):
        catalog.find(uuid4())


def test_behind_a_pooler_nothing_is_left_on_the_connection(database_url: str) -> None:
    with Catalog(database_url, pooler=True, pool_size=1, statement_timeout=4.0) as catalog:
        with catalog.unit_of_work() as work:
            limit = work.session.connection().exec_driver_sql("SHOW statement_timeout").scalar_one()
            work.save(TrackMetadata(title="Pooled"), audio_path="a")
        assert limit == "4s"
        for _ in range(10):
            assert catalog.search("pooled").total == 1
        with catalog._database._take() as driver:
            driver.autocommit = True
            for setting in ("statement_timeout", "lock_timeout"):
                row = driver.execute("SELECT current_setting(%s)", [setting]).fetchone()
                assert row == ("0",)
            assert driver.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)
            driver.autocommit = False


def test_a_statement_that_takes_too_long_is_ended(database_url: str) -> None:
    with (
        Catalog(database_url, statement_timeout=0.2) as catalog,
        pytest.raises(errors.QueryTimeout),
        catalog.unit_of_work() as work,
    ):
        work.session.connection().exec_driver_sql("SELECT pg_sleep(10)")


def test_a_search_leaves_the_time_limit_as_it_was(database_url: str) -> None:
    with Catalog(database_url, statement_timeout=7.0, search_timeout=1.0) as catalog, catalog.unit_of_work() as work:
        work.search("anything")
        assert work.session.connection().exec_driver_sql("SHOW statement_timeout").scalar_one() == "7s"


# What is wrong is said


def test_no_server_is_an_outage_that_is_told_at_once() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        url = f"postgresql://u:{SECRET}@127.0.0.1:{port}/none"
        with Catalog(url, pool_timeout=3600, connect_timeout=3600) as catalog:
            for call in (lambda: catalog.find(uuid4()), lambda: catalog.unit_of_work().__enter__()):
                error = outcome_of(call, patience=60).error
                assert isinstance(error, errors.DatabaseUnavailable)
                assert error.phase == "connect"
                assert "ss/w:rd" not in str(error)


def test_a_missing_schema_names_the_command_that_makes_it(empty_database: Callable[[], str]) -> None:
    with Catalog(empty_database()) as catalog, pytest.raises(errors.SchemaMismatch, match="audiocatalog upgrade"):
        catalog.find(uuid4())


def test_an_older_schema_is_refused(migrated_database: Callable[[], str]) -> None:
    url = migrated_database()
    with psycopg.connect(libpq(url), autocommit=True) as admin:
        admin.execute("UPDATE audiocatalog_version SET version_num = '0000'")
    with Catalog(url) as catalog, pytest.raises(errors.SchemaMismatch, match="0000"):
        catalog.find(uuid4())


def test_a_newer_schema_is_the_next_deploys_and_works(migrated_database: Callable[[], str]) -> None:
    url = migrated_database()
    with psycopg.connect(libpq(url), autocommit=True) as admin:
        admin.execute("UPDATE audiocatalog_version SET version_num = '" + NEXT_REVISION + "'")
    with Catalog(url) as catalog:
        assert catalog.find(uuid4()) is None


@pytest.fixture(scope="module")
def guarded_server() -> Iterator[EmbeddedPostgres]:
    """Give a server that asks the role `secretive` for its password."""
    with EmbeddedPostgres() as server:
        with psycopg.connect(libpq(server.url()), autocommit=True) as admin:
            admin.execute("CREATE ROLE secretive LOGIN SUPERUSER PASSWORD 'p@ss/w:rd%20'")
            folder = admin.execute("SHOW data_directory").fetchone()
            assert folder is not None
            rules = "(VALUES ('local all secretive scram-sha-256'), ('local all all trust'))"
            admin.execute(f"COPY {rules} TO '{folder[0]}/pg_hba.conf'")
            admin.execute("SELECT pg_reload_conf()")
        guarded = make_url(server.url()).set(username="secretive")
        wait_until(lambda: isinstance(outcome_of(lambda: psycopg.connect(libpq(guarded))).error, psycopg.Error))
        yield server


def test_a_wrong_password_is_a_mistake_of_configuration(guarded_server: EmbeddedPostgres) -> None:
    url = make_url(guarded_server.url()).set(username="secretive", password="wrong-and-secret")
    with Catalog(url) as catalog, pytest.raises(errors.ConfigurationError) as caught:
        catalog.find(uuid4())
    assert "wrong-and-secret" not in str(caught.value)
    with pytest.raises(errors.ConfigurationError):
        migrations.upgrade(url)


def test_a_password_full_of_signs_works_everywhere(guarded_server: EmbeddedPostgres) -> None:
    url = make_url(guarded_server.url()).set(username="secretive", password="p@ss/w:rd%20")
    text = url.render_as_string(hide_password=False)
    assert "%" in text
    migrations.upgrade(text)
    with Catalog(text) as catalog:
        assert catalog.health().schema_revision == SCHEMA_REVISION


def test_a_database_that_is_not_there_is_a_mistake_of_configuration(server_url: str) -> None:
    with Catalog(make_url(server_url).set(database="not_there")) as catalog, pytest.raises(errors.ConfigurationError):
        catalog.find(uuid4())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "not a url",
        "mysql://localhost/x",
        "sqlite:///x",
        f"postgresql://u:{SECRET}@host:port/x",
        "postgresql+psycopg2://h/x",
        5,
        None,
    ],
)
def test_a_url_that_is_none_of_postgresql_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        Catalog(url)
    assert "ss%2Fw" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_the_scheme_means_psycopg_3(scheme: str) -> None:
    assert parse_url(f"{scheme}://localhost/x").drivername == "postgresql+psycopg"


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("pool_size", 0), ("pool_size", True), ("pool_size", 1.5), ("pool_timeout", 0), ("pool_timeout", "5"),
        ("statement_timeout", -1), ("statement_timeout", float("nan")), ("search_timeout", float("inf")),
        ("lock_timeout", None),
    ],
)  # fmt: skip
def test_a_setting_out_of_its_range_is_named(setting: str, value: object) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        Catalog("postgresql://localhost/x", **{setting: value})  # type: ignore[arg-type]
    assert caught.value.field == setting


@pytest.mark.parametrize("actor", ["", " ", "x" * 201, 5, "a\0b"])
def test_an_actor_is_somebody(actor: object) -> None:
    with pytest.raises(errors.InvalidInput, match="actor"):
        Catalog("postgresql://localhost/x", actor=actor)  # type: ignore[arg-type]


def test_the_environment_names_the_database_in_two_ways() -> None:
    whole = url_from_environment({"AUDIOCATALOG_DATABASE_URL": "postgresql://a@b/c", "DB_NAME": "ignored"})
    parts = url_from_environment(
        {"DB_HOST": "h", "DB_PORT": "6432", "DB_NAME": "n", "DB_USER": "u", "DB_PASSWORD": "p@ss/w:rd%"}
    )
    assert (whole.host, whole.database) == ("b", "c")
    assert (parts.host, parts.port, parts.database, parts.username, parts.password) == (
        "h", 6432, "n", "u", "p@ss/w:rd%",
    )  # fmt: skip
    with pytest.raises(errors.ConfigurationError, match=r"AUDIOCATALOG_DATABASE_URL.*DB_HOST"):
        url_from_environment({})
    with pytest.raises(errors.ConfigurationError, match="DB_PORT"):
        url_from_environment({"DB_NAME": "n", "DB_PORT": "abc"})


def test_the_environment_sets_the_catalogue_up(database_url: str) -> None:
    environment = {
        "AUDIOCATALOG_DATABASE_URL": database_url,
        "AUDIOCATALOG_ACTOR": "night-shift",
        "AUDIOCATALOG_POOL_SIZE": "2",
        "AUDIOCATALOG_POOLER": "true",
    }
    with Catalog.from_env(environment=environment) as catalog:
        assert catalog.health().pool.size == 2
        track = catalog.run(lambda work: work.save(TrackMetadata(), audio_path="a"))
        with catalog.unit_of_work() as work:
            assert work.history(track.id)[0].actor == "night-shift"
    with pytest.raises(errors.ConfigurationError, match="AUDIOCATALOG_POOL_SIZE"):
        Catalog.from_env(environment=environment | {"AUDIOCATALOG_POOL_SIZE": "many"})


def test_a_catalogue_shows_no_part_of_its_url_that_could_be_secret() -> None:
    for url in (f"postgresql://u:{SECRET}@h/d", f"postgresql:///d?host=h&user=u&password={SECRET}"):
        shown = repr(Catalog(url))
        assert shown == "<Catalog d at h>"


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_in_another_encoding_is_refused(server_url: str, encoding: str) -> None:
    name = f"audiocatalog_{encoding.lower()}_{os.getpid()}"
    with psycopg.connect(libpq(server_url), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
        try:
            url = make_url(server_url).set(database=name)
            with pytest.raises(errors.ConfigurationError, match="UTF8"):
                migrations.upgrade(url)
            with Catalog(url) as catalog, pytest.raises(errors.ConfigurationError, match="UTF8"):
                catalog.find(uuid4())
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("attempt", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_catalogue_is_neither_pickled_nor_copied(database_url: str, attempt: Callable[[Catalog], object]) -> None:
    with Catalog(database_url) as catalog:
        catalog.find(uuid4())
        with pytest.raises(TypeError, match="create one in each process"):
            attempt(catalog)


def test_every_setting_is_an_argument_with_the_same_default() -> None:
    arguments = inspect.signature(Catalog).parameters
    settings = {field.name: field.default for field in dataclasses.fields(Settings)}
    assert {name: arguments[name].default for name in settings} == settings


def test_every_setting_that_is_given_is_kept() -> None:
    given = {field.name: _another(field.default) for field in dataclasses.fields(Settings)}
    catalog = Catalog("postgresql://localhost/nowhere", **given)
    assert dataclasses.asdict(catalog._settings) == given


def _another(default: object) -> Any:
    """Return a value of a setting other than its *default*."""
    if isinstance(default, bool) or default is None:
        return True if default is False else 1
    assert isinstance(default, int | float)
    return default + 1


@pytest.mark.parametrize("field", ["observe", "password"])
@pytest.mark.parametrize("kind", [Catalog, AsyncCatalog])
def test_an_async_function_is_refused_where_a_plain_one_is_called(database_url: str, kind: Any, field: str) -> None:
    async def function(*_: object) -> str:
        return "secret"

    with pytest.raises(errors.ConfigurationError, match=f"{field} must be") as caught:
        kind(database_url, **{field: function})
    assert caught.value.field == field


@pytest.mark.parametrize("unit", [None, 5, "work"])
def test_what_is_run_must_be_a_function(database_url: str, unit: Any) -> None:
    with Catalog(database_url) as catalog, pytest.raises(errors.InvalidInput, match="unit: a function"):
        catalog.run(unit)
