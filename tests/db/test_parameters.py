"""What a database is named by: it works, or the error is ours, names what is wrong, and repeats no value."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

import psycopg
import pytest
from psycopg import pq, sql
from sqlalchemy import URL, make_url

from audiocatalog import Catalog, errors, migrations
from audiocatalog.db.connection_parameters import connection_parameters, refusal
from audiocatalog.db.settings import parse_url, url_from_environment
from tests.support.databases import libpq
from tests.support.pgbouncer import MISSING, PROGRAM, bouncing
from tests.support.servers import cluster
from tests.support.threads import in_threads
from tests.support.waiting import wait_until

KEYWORDS = sorted(option.keyword.decode() for option in pq.Conninfo.get_defaults())
ODD_VALUES = ("", "x", "REQUIRE", "-1", "99999999999", "é", "a b'\\", "\0")
SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("postgresql://u@/x?host=[::1]:1&host=[::1]:2", "::1,::1", "1,2"),
        ("postgresql://u@/x?host=[::1]:1&host=b", "::1,b", "1,"),
        ("postgresql://u@/x?host=[fe80::1%25eth0]", "fe80::1%eth0", None),
        ("postgresql://u@/x?host=::1,127.0.0.1&port=1,2", "::1,127.0.0.1", "1,2"),
        ("postgresql://u@h1:1,h2:2/x", "h1,h2", "1,2"),
        ("postgresql://u@[::1]:5/x", "::1", "5"),
        ("postgresql://u@/x?host=/run&port=6", "/run", "6"),
        ("postgresql://u@/x", None, None),
    ],
)
def test_hosts_are_told_as_libpq_takes_them(url: str, host: str | None, port: str | None) -> None:
    parameters = connection_parameters(parse_url(url))
    assert (parameters.get("host"), parameters.get("port")) == (host, port)
    assert Catalog(url).pool_stats().connections == 0


@pytest.mark.parametrize(
    ("url", "field"),
    [
        ("postgresql://u@h/x?schema=public", "schema"),
        ("postgresql://u@h/x?pgbouncer=true", "pgbouncer"),
        ("postgresql://u@h/x?sslmode=require&sslmode=disable", "sslmode"),
        ("postgresql://u@h/x?port=1&port=2", "port"),
        ("postgresql://u@/x?host=[::1&host=b", "host"),
        ("postgresql://u@/x?host=a,b&port=1,2,3", "port"),
        ("postgresql://u@h:99999/x", "port"),
        ("postgresql://u@h/x?connect_timeout=soon", "connect_timeout"),
        ("postgresql://u@h/x?application_name=a%00b", "application_name"),
        (URL.create("postgresql", username="u", password="a\0b", host="h", database="x"), "password"),
        (URL.create("postgresql", username="u", password="a\ud800", host="h", database="x"), "password"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_connected(url: str | URL, field: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        Catalog(url)
    assert caught.value.field == field


@pytest.mark.parametrize("name", ["row_factory", "autocommit", "patience", "conninfo", "context", SECRET])
def test_no_parameter_reaches_the_driver_that_is_not_libpqs(name: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="unknown to libpq") as caught:
        Catalog(f"postgresql://u@h/x?{name}=1")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "taken"),
    [
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("a,b", "a,b"),
        ("[::1],b", "::1,b"),
        ("/run/x:y", "/run/x:y"),
        ("h:5432", None),
    ],
)
def test_a_host_of_the_environment_may_have_brackets_but_no_port(host: str, taken: str | None) -> None:
    environment = {"DB_NAME": "x", "DB_HOST": host}
    if taken is None:
        with pytest.raises(errors.ConfigurationError, match="DB_PORT"):
            url_from_environment(environment)
    else:
        assert url_from_environment(environment).host == taken


@pytest.mark.parametrize("port", ["9" * 5000, "54_32", "５４３２", "5432,5433", "0"])
def test_a_port_of_the_environment_is_a_number_that_can_be_one(port: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"(?i)port"):
        Catalog.from_env(environment={"DB_NAME": "x", "DB_PORT": port})
    with pytest.raises(errors.ConfigurationError):
        Catalog(f"postgresql://u@h/x?port={port}&host=a,b,c")


def by_the_environment(host: str) -> None:
    environment = {"DB_NAME": "x", "DB_HOST": host}
    with Catalog.from_env(environment=environment) as catalog:
        catalog.find(uuid4())


def by_a_catalogue(host: str) -> None:
    with Catalog(URL.create("postgresql", host=host, database="x")) as catalog:
        catalog.find(uuid4())


def by_an_upgrade(host: str) -> None:
    migrations.upgrade(URL.create("postgresql", host=host, database="x").render_as_string())


@pytest.mark.parametrize("call", [by_the_environment, by_a_catalogue, by_an_upgrade])
@pytest.mark.parametrize("host", ["a..b", ".a", "a" * 64, "é" * 80, "a\u202eb", "\xad", "\ud800"])
def test_a_host_that_cannot_be_looked_up_is_no_host(call: Callable[[str], None], host: str) -> None:
    with pytest.raises(errors.ConfigurationError) as caught:
        call(host)
    assert (caught.value.field, caught.value.retryable) == ("host", False)
    assert not caught.value.__cause__


@pytest.mark.parametrize(
    "query",
    [
        {"host": ["[::1]:1", "[::1]:2"]},
        {"host": "[::1]", "port": "1"},
        {"host": "127.0.0.1,127.0.0.1", "port": "1"},
    ],
)
def test_an_upgrade_reads_hosts_as_a_catalogue_does(query: dict[str, str | list[str]]) -> None:
    url = URL.create("postgresql", database="x").update_query_dict(query).render_as_string()
    with pytest.raises(errors.DatabaseUnavailable):
        migrations.upgrade(url)
    with Catalog(url) as catalog, pytest.raises(errors.DatabaseUnavailable):
        catalog.find(uuid4())


@pytest.mark.parametrize("name", KEYWORDS)
def test_an_upgrade_takes_every_odd_value_or_raises_one_of_our_errors(database_url: str, name: str) -> None:
    for value in (*ODD_VALUES, "SQL_ASCII"):
        url = make_url(database_url).update_query_dict({"connect_timeout": "2"} | {name: value})
        with suppress(errors.CatalogError):
            migrations.upgrade(url.render_as_string(hide_password=False))


@pytest.mark.parametrize("name", KEYWORDS)
def test_every_odd_value_works_or_is_one_of_our_errors(database_url: str, name: str) -> None:
    for value in ODD_VALUES:
        url = make_url(database_url).update_query_dict({name: value})
        try:
            with Catalog(url, pool_timeout=2.0, connect_timeout=2.0) as catalog:
                assert catalog.find(uuid4()) is None
        except errors.CatalogError:
            continue


@pytest.mark.parametrize(
    "name", ["sslmode", "channel_binding", "target_session_attrs", "gssencmode", "load_balance_hosts", "require_auth"]
)
def test_a_wrong_value_is_told_with_the_name_of_its_parameter(database_url: str, name: str) -> None:
    url = make_url(database_url).update_query_dict({name: SECRET})
    with Catalog(url) as catalog, pytest.raises(errors.ConfigurationError, match=f"the parameter {name} ") as caught:
        catalog.find(uuid4())
    assert not caught.value.retryable
    assert SECRET not in f"{caught.value}{caught.value.__cause__}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("replication", "database"),
        ("channel_binding", "require"),
        ("require_auth", "scram-sha-256"),
        ("sslnegotiation", "direct"),
        ("scram_client_key", "x"),
        ("options", "-c session_preload_libraries=nowhere"),
    ],
)
def test_what_no_second_try_can_mend_is_not_taken_for_a_server_that_is_away(
    database_url: str, name: str, value: str
) -> None:
    if name not in KEYWORDS:
        pytest.skip("this libpq has no such parameter")
    url = make_url(database_url).update_query_dict({name: value})
    with pytest.raises(errors.ConfigurationError, match="parameter"), Catalog(url) as catalog:
        catalog.find(uuid4())


def test_hosts_in_another_state_than_is_asked_for_are_told(database_url: str) -> None:
    url = make_url(database_url).update_query_dict({"target_session_attrs": "read-only"})
    with Catalog(url) as catalog, pytest.raises(errors.DatabaseUnavailable, match="target_session_attrs"):
        catalog.find(uuid4())


@pytest.mark.parametrize("option", ["foo=bar", "statement_timeout=abc", "work_mem=1"])
def test_a_wrong_option_of_the_server_is_told_with_its_name(database_url: str, option: str) -> None:
    url = make_url(database_url).update_query_dict({"options": f"-c {option}"})
    name = option.split("=", maxsplit=1)[0]
    with Catalog(url) as catalog, pytest.raises(errors.ConfigurationError, match=f"the parameter {name} "):
        catalog.find(uuid4())


@pytest.mark.skipif(PROGRAM is None, reason=MISSING)
def test_what_pgbouncer_does_not_take_is_told_with_the_cure(database_url: str) -> None:
    with bouncing(database_url) as bouncer:
        url = make_url(bouncer.url(database_url)).update_query_dict({"options": "-c search_path=music"})
        with Catalog(url, pooler=True) as catalog:
            with pytest.raises(errors.ConfigurationError, match="ignore_startup_parameters") as caught:
                catalog.find(uuid4())
            assert "ALTER ROLE" in str(caught.value)
            assert not caught.value.retryable


@pytest.mark.parametrize(
    "said", ["unsupported startup parameter: options", "unsupported startup parameter in options: search_path"]
)
def test_each_version_of_pgbouncer_is_understood(said: str) -> None:
    assert "ignore_startup_parameters" in (refusal(f"FATAL:  {said}") or "")
    assert refusal("Connection refused") is None


def test_a_password_that_was_changed_is_told_at_once_and_tried_once_a_call() -> None:
    with cluster() as server:
        server.start()
        with server.admin() as admin:
            admin.execute("CREATE ROLE u SUPERUSER LOGIN PASSWORD 'first'")
            (server.data / "pg_hba.conf").write_text("local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
            admin.execute("ALTER SYSTEM SET log_connections = on")
            admin.execute("SELECT pg_reload_conf()")
            migrations.upgrade(server.socket_url())
            current = ["first"]
            asked: list[str] = []

            def password() -> str:
                asked.append(current[0])
                return current[0]

            url = server.url(user="u").set(password="wrong")
            with Catalog(url, password=password, pool_size=2, pool_timeout=30.0) as catalog:
                wait_until(lambda: _answers(catalog))
                asked.clear()
                admin.execute("ALTER ROLE u PASSWORD 'second'")
                admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'u'")
                before = server.log().count("password authentication failed")
                failures: list[errors.CatalogError] = []

                def ask(_: int) -> None:
                    try:
                        catalog.find(uuid4())
                    except errors.CatalogError as error:
                        failures.append(error)

                in_threads(8, ask)
                assert [type(error) for error in failures] == [errors.ConfigurationError] * 8
                tried = server.log().count("password authentication failed") - before
                assert 1 <= tried <= 8  # Waiting for a connection, they would have tried twice a second.
                assert len(asked) == tried
                current[0] = "second"
                wait_until(lambda: _answers(catalog))
                assert asked[-1] == "second"


def _answers(catalog: Catalog) -> bool:
    try:
        return catalog.find(uuid4()) is None
    except errors.ConfigurationError:
        return False


def test_a_password_is_found_in_no_repr_and_no_error(database_url: str) -> None:
    catalog = Catalog(database_url, password=SECRET)
    assert SECRET not in f"{catalog!r}{catalog._database!r}"
    assert Catalog(database_url, password=lambda: "").find(uuid4()) is None
    for wrong in (b"bytes", 1, "a\0b", "\ud800"):
        with pytest.raises(errors.ConfigurationError) as caught:
            Catalog(database_url, password=wrong)  # type: ignore[arg-type]
        assert caught.value.field == "password"
    catalog.close()


@pytest.mark.parametrize("error", [ValueError("no token"), psycopg.OperationalError("its own database"), SystemExit(1)])
def test_what_the_function_of_the_password_raises_is_told(database_url: str, error: BaseException) -> None:
    def fail() -> str:
        raise error

    with Catalog(database_url, password=fail) as catalog, pytest.raises(errors.CatalogError) as caught:
        catalog.find(uuid4())
    assert not caught.value.retryable
    if isinstance(error, Exception):
        assert isinstance(caught.value, errors.ConfigurationError)
        assert caught.value.__cause__ is error


def test_an_error_of_ours_passes_from_the_function_of_the_password(database_url: str) -> None:
    def fail() -> str:
        raise errors.DatabaseUnavailable("the store of secrets is away")

    with Catalog(database_url, password=fail) as catalog:
        with pytest.raises(errors.DatabaseUnavailable, match="store of secrets"):
            catalog.find(uuid4())
        with pytest.raises(errors.ConfigurationError, match="password"):
            Catalog(database_url, password=lambda: 5).find(uuid4())  # type: ignore[arg-type]


def test_a_slow_function_holds_a_caller_no_longer_than_it_would_wait(database_url: str) -> None:
    released = threading.Event()

    def password() -> str:
        assert released.wait(60)
        return ""

    with Catalog(database_url, password=password, pool_timeout=0.2) as catalog:
        for _ in range(2):
            with pytest.raises(errors.DatabaseUnavailable, match=r"within 0\.2 s"):
                catalog.find(uuid4())
        released.set()
        wait_until(lambda: catalog.pool_stats().connections == 1)
        assert catalog.find(uuid4()) is None


def test_without_poll_an_idle_connection_is_checked_all_the_same(database_url: str) -> None:
    """As under eventlet, which takes it away."""
    script = (
        "import select, sys, uuid\n"
        "from audiocatalog import Catalog\n"
        "del select.poll\n"
        "with Catalog(sys.argv[1], pool_size=1) as catalog:\n"
        "    for _ in range(3):\n"
        "        assert catalog.find(uuid.uuid4()) is None\n"
        "    class Chosen:\n"
        "        error = None\n"
        "        def select(*_): raise ValueError('filedescriptor out of range in select()')\n"
        "    sys.modules['audiocatalog.db.connection'].select = Chosen\n"
        "    assert catalog.find(uuid.uuid4()) is None\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script, database_url], check=True, timeout=120)


@pytest.mark.parametrize("make", [str, make_url])
def test_a_working_url_works_as_text_and_as_an_object(database_url: str, make: Callable[[str], str | URL]) -> None:
    with Catalog(make(database_url)) as catalog:
        assert catalog.find(uuid4()) is None
    with psycopg.connect(libpq(database_url)) as admin:
        assert admin.execute(sql.SQL("SELECT 1")).fetchone() == (1,)
