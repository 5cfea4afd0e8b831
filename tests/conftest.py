"""One real server for the whole run, one database built by the migrations, and two ways to leave no trace.

`units` and `work` run inside an outer transaction that is rolled back; `catalog` commits for real, for races and
everything else that needs more than one connection, and its tables are emptied afterwards.

`detour.py` has all of it go another way: through PgBouncer, or as the role of the application.
"""

from __future__ import annotations

import gc
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.orm import Session

from audiocatalog import (
    Catalog,
    UnitOfWork,
    embedded,
    migrations,
)
from audiocatalog.aio import execute as aio_execute
from audiocatalog.db import execute
from audiocatalog.db.host_session import HostSession
from audiocatalog.db.settings import Settings
from audiocatalog.db.transaction import SessionTransaction, Transaction
from audiocatalog.embedded import EmbeddedPostgres
from audiocatalog.operations.operation import Request, Rows
from tests.support.databases import GIVEN_SERVER, TABLES, Units, libpq, temporary_database
from tests.support.detour import (
    AS_APPLICATION,
    THROUGH_POOLER,
    as_application,
    detour,
    detoured,
    skip_what_cannot_be_done,
)
from tests.support.factories import saving_in
from tests.support.lifecycle import Owner
from tests.support.places import use
from tests.support.portability import unexcused_rules
from tests.support.sides import async_catalog

UUID_TEXT = re.compile(r"[0-9a-f]{8}(-?[0-9a-f]{4}){3}-?[0-9a-f]{12}", re.IGNORECASE)


#: Fixtures that a side gives, and those that only the synchronous side has.
FIXTURES_OF_A_SIDE = {"catalog", "work", "database_url", "owner"}
OF_ONE_SIDE = {"units", "connection"}


def pytest_configure() -> None:
    use()
    # A shell's background job ignores Ctrl-C, and so would the programs that tests interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A worker inherits the width of the terminal, which is not for what the tests print.
    os.environ.pop("COLUMNS", None)


def pytest_xdist_auto_num_workers() -> int:
    """Return the number of workers of ``-n auto``: one more than cores, for tests also wait."""
    # Snapshots, roles and locks of a server are seen from all its databases: workers do not share one.
    return 0 if GIVEN_SERVER else min(8, 1 + (os.cpu_count() or 1))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a parameter whose value is another one in each process by its argument: all workers name tests alike."""
    made_anew = isinstance(val, bytes) or (isinstance(val, str) and UUID_TEXT.search(val))
    return argname if made_anew else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of a module that is marked `both_sides` over the asynchronous side as well."""
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    used = set(metafunc.fixturenames)
    if "both_sides" in marks and "sync_only" not in marks and used & FIXTURES_OF_A_SIDE and not used & OF_ONE_SIDE:
        metafunc.fixturenames.insert(0, "side")
        metafunc.parametrize("side", ["sync", "async"], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "server_url" in getattr(item, "fixturenames", ()) or _starts_servers(getattr(item, "module", None)):
            item.add_marker("server")
    skip_what_cannot_be_done(items)


def pytest_collection_finish() -> None:
    # Thousands of tests are no garbage: neither each collection nor a test that asks for referrers looks at them again.
    gc.freeze()


def _starts_servers(module: object) -> bool:
    """Tell whether the tests of *module* have the means to start servers of their own."""
    return any(
        value is EmbeddedPostgres
        or value is embedded
        or value is embedded.server
        or getattr(value, "__module__", None) == "tests.support.servers"
        for value in vars(module).values()
    )


@pytest.fixture(autouse=True)
def _no_server_unless_it_is_marked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that starts a server and is not marked so, for it would not be run on each PostgreSQL."""
    if request.node.get_closest_marker("server"):
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUDIOCATALOG_PG_BIN", "/a test that starts a server is marked `server`")
        yield


@pytest.fixture(scope="session", autouse=True)
def _check_every_statement() -> Iterator[None]:
    """Fail a test that has the package send a statement which could not be sent to distributed tables."""
    send, aio_send, seen = execute.send, aio_execute.send, set[str]()

    def check(request: Request) -> None:
        sql = request[0].sql
        if sql not in seen:
            assert unexcused_rules(sql) == set(), sql
            seen.add(sql)

    def check_and_send(driver: psycopg.Connection[Any], request: Request, *rest: Any) -> Rows:
        check(request)
        return send(driver, request, *rest)

    async def check_and_await(driver: psycopg.AsyncConnection[Any], request: Request, *rest: Any) -> Rows:
        check(request)
        return await aio_send(driver, request, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "send", check_and_send)
        patch.setattr(aio_execute, "send", check_and_await)
        yield


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """Give the URL of a maintenance database: of `AUDIOCATALOG_TEST_DATABASE_URL`, or of an embedded server."""
    if GIVEN_SERVER:
        yield GIVEN_SERVER
        return
    # Its log of changes is kept in memory too, where there is room: little of it.
    with EmbeddedPostgres(settings={"max_wal_size": "256MB"}) as server:
        yield server.url("postgres")


@pytest.fixture(scope="session", autouse=True)
def _detour(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have every catalogue go the way that the environment names."""
    if not THROUGH_POOLER and not AS_APPLICATION:
        yield
        return
    with detour(request.getfixturevalue("server_url")):
        yield


@pytest.fixture
def empty_database(server_url: str) -> Iterator[Callable[[], str]]:
    """Give a function that creates empty databases, which are dropped after the test."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(temporary_database(server_url))


@pytest.fixture(scope="session")
def migrated_template(server_url: str) -> Iterator[str]:
    """Give the name of a database that the migrations built, to copy: a copy takes a tenth of the time of an upgrade.

    Nothing connects to it, for a database in use cannot be copied.
    """
    with temporary_database(server_url) as url:
        migrations.upgrade(url)
        yield make_url(url).database or ""


@pytest.fixture
def migrated_database(server_url: str, migrated_template: str) -> Iterator[Callable[[], str]]:
    """Give a function that creates databases at the revision of this code, which are dropped after the test."""
    with ExitStack() as opened:
        yield lambda: opened.enter_context(temporary_database(server_url, template=migrated_template))


@pytest.fixture(scope="session")
def migrated_url(server_url: str, migrated_template: str) -> Iterator[str]:
    """Give the URL of the migrated database that most tests share."""
    with temporary_database(server_url, template=migrated_template) as url:
        yield url


@pytest.fixture(scope="session")
def engine(migrated_url: str) -> Iterator[Engine]:
    arguments = {"prepare_threshold": None} if THROUGH_POOLER else {}
    # It is the superuser's: what a test prepares by hand the application may not do. `units` are the application's.
    url = make_url(detoured(migrated_url)).set(username=make_url(migrated_url).username)
    # Tests in an outer transaction take turns on one connection, for a new one costs more than most of them.
    engine = create_engine(url, pool_size=1, pool_pre_ping=True, connect_args=arguments)

    @event.listens_for(engine, "checkout")
    def as_if_it_were_new(driver: psycopg.Connection[Any], *_: object) -> None:
        if not THROUGH_POOLER:
            driver.autocommit = True
            driver.execute("DISCARD ALL", prepare=False)
            driver.autocommit = False

    yield engine
    engine.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """Give a connection in a transaction that is rolled back after the test."""
    with engine.connect() as connection, connection.begin() as outer:
        yield connection
        outer.rollback()


@pytest.fixture
def units(connection: Connection) -> Units:
    """Give a function that begins units of work inside the outer transaction."""

    @contextmanager
    def transactions() -> Iterator[Transaction]:
        with (
            as_application(connection),
            HostSession(connection, join_transaction_mode="create_savepoint", expire_on_commit=False) as session,
        ):
            yield SessionTransaction(session)

    return lambda: UnitOfWork(transactions, actor="tester", settings=Settings(search_timeout=5.0))


@pytest.fixture
def work(side: str, server_url: str, request: pytest.FixtureRequest) -> Iterator[UnitOfWork]:
    """Give one open unit of work, in which the factories save as well; nothing of it is kept."""
    if side == "sync":
        with request.getfixturevalue("units")() as work, saving_in(work):
            yield work
        return
    with suppress(RolledBack), request.getfixturevalue("shared_async_catalog").unit_of_work() as work:
        with saving_in(work):
            yield work
        raise RolledBack


class RolledBack(Exception):
    """Leave a unit of work so that nothing of it is kept."""


@pytest.fixture
def session(work: UnitOfWork) -> Session:
    """Give the session of the open unit of work."""
    return work.session


@pytest.fixture(scope="session")
def empty_tables(migrated_url: str) -> Iterator[Callable[[], None]]:
    """Give a function that empties all tables of the migrated database, on one connection for all tests."""
    delete = "; ".join(f"DELETE FROM {table}" for table in TABLES)
    with ExitStack() as opened:
        connections: list[psycopg.Connection[Any]] = []

        def connect() -> psycopg.Connection[Any]:
            connection = psycopg.connect(libpq(migrated_url), autocommit=True)
            opened.callback(connection.close)
            connections[:] = [connection]
            return connection

        def empty() -> None:
            try:
                (connections[0] if connections else connect()).execute(delete)
            except psycopg.OperationalError:  # A test has ended every session of the database.
                connect().execute(delete)

        yield empty


@pytest.fixture
def database_url(migrated_url: str, empty_tables: Callable[[], None]) -> Iterator[str]:
    """Give the migrated database for real commits; its tables are emptied after the test."""
    yield migrated_url
    empty_tables()


@pytest.fixture(scope="session")
def shared_catalog(migrated_url: str) -> Iterator[Catalog]:
    with Catalog(migrated_url, actor="tester", pool_size=8) as catalog:
        yield catalog


@pytest.fixture(scope="session")
def shared_async_catalog(migrated_url: str) -> Iterator[Catalog]:
    with async_catalog(migrated_url, actor="tester", pool_size=8, search_timeout=5.0) as catalog:
        yield catalog


@pytest.fixture
def side(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Tell over which side a test runs; over the asynchronous one, `Catalog` is what its module says for that side."""
    side = str(getattr(request, "param", "sync"))
    if side == "async" and hasattr(request.module, "Catalog"):
        monkeypatch.setattr(request.module, "Catalog", async_catalog)
    return side


@pytest.fixture
def catalog(side: str, request: pytest.FixtureRequest, database_url: str) -> Catalog:
    """Give a catalogue that commits for real."""
    found: Catalog = request.getfixturevalue("shared_catalog" if side == "sync" else "shared_async_catalog")
    return found


@pytest.fixture
def owner(database_url: str) -> Iterator[Owner]:
    """Give a connection past the catalogue, which may write whatever it likes, times above all."""
    with psycopg.connect(libpq(database_url), autocommit=True, row_factory=dict_row) as connection:
        yield connection
