"""An upgrade of a database that is in use waits for its locks without making others wait, and says for whom."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from audiocatalog import Catalog, errors, migrations
from audiocatalog.migrations.migrator import LOCK_KEY
from tests.support.databases import libpq
from tests.support.factories import TrackRecordFactory
from tests.support.frozen import outcome_of
from tests.support.schemas import schema_of
from tests.support.upgrades import (
    HEAD,
    INDEXED,
    NOW,
    RATED,
    SEEDED,
    VALIDATED,
    holding,
    ini_with,
    meanwhile,
    revision_of,
    seeds_of,
    upgrade,
    upgrading,
)
from tests.support.waiting import wait_until

Log = pytest.LogCaptureFixture


@pytest.fixture
def current(migrated_database: Callable[[], str]) -> str:
    """Give a database at the revision of this code."""
    return migrated_database()


def test_three_upgrades_at_once_from_an_older_revision_all_succeed(empty_database: Callable[[], str]) -> None:
    url, fresh = empty_database(), empty_database()
    upgrade(url, NOW)
    upgrade(fresh)
    processes = [upgrading(url) for _ in range(3)]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, outputs
    assert (revision_of(url), seeds_of(url), schema_of(url)) == (HEAD, 1, schema_of(fresh))


def test_an_upgrade_behind_a_long_transaction_makes_nobody_wait(current: str, caplog: Log) -> None:
    # Each call may wait for one try, of 0.1 s. Behind the transaction, which stays open all the while, it would fail.
    with Catalog(current, lock_timeout=2, statement_timeout=4) as catalog, holding(current) as report:
        record = TrackRecordFactory.build()
        catalog.bulk_save([record])
        with meanwhile(lambda: upgrade(current)):
            while "attempt 4" not in caplog.text:
                catalog.get(record.id)
                catalog.bulk_save([TrackRecordFactory.build()])
            assert revision_of(current) == NOW
            holder = report.info.backend_pid
            report.commit()
    assert revision_of(current) == HEAD
    assert f"upgrade {NOW} -> {RATED} waits for a lock, attempt 4: process {holder} (a long report)" in (caplog.text)
    assert "uses audio_tracks" in caplog.text


def test_giving_up_says_who_was_in_the_way_and_keeps_what_is_done(current: str) -> None:
    with holding(current, "LOCK TABLE audio_search_counts IN SHARE MODE") as other:
        with pytest.raises(errors.TransientConflict) as caught:
            upgrade(current, lock_timeout=1.0)
        assert revision_of(current) == INDEXED
        holder = other.info.backend_pid
    message = str(caught.value)
    assert message.startswith(f"upgrade {INDEXED} -> {SEEDED} did not get its locks within 1 s")
    assert f"process {holder} (a long report) uses audio_search_counts" in message
    assert "upgrade again" in message
    assert (caught.value.retryable, caught.value.sqlstate, caught.value.operation) == (True, "55P03", "upgrade")
    upgrade(current)
    assert seeds_of(current) == 1


def test_the_command_line_gives_up_in_one_line(current: str) -> None:
    with holding(current):
        process = upgrading(current, HEAD, "-x", "lock_timeout=0.5")
        output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert output.splitlines()[-1].startswith(f"FAILED: upgrade {NOW} -> {RATED} did not get its locks within 0.5 s")
    assert "Traceback" not in output


def test_only_the_revision_that_failed_is_tried_again(current: str, caplog: Log) -> None:
    """A relative target stays what it was when the upgrade began."""
    caplog.set_level(logging.INFO, "alembic.runtime.migration")
    upgrade(current, VALIDATED)
    with holding(current, "LOCK TABLE audio_search_counts IN SHARE MODE") as other:
        caplog.clear()
        with meanwhile(lambda: upgrade(current, "+2")):
            wait_until(lambda: "attempt 2" in caplog.text)
            other.commit()
    assert revision_of(current) == SEEDED
    assert caplog.text.count(f"Running upgrade {VALIDATED} -> {INDEXED}") == 1
    assert caplog.text.count(f"Running upgrade {INDEXED} -> {SEEDED}") >= 3


def test_a_second_upgrade_says_that_it_waits(empty_database: Callable[[], str], caplog: Log) -> None:
    url = empty_database()
    with psycopg.connect(libpq(url), autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
        with meanwhile(lambda: upgrade(url, NOW)):
            try:
                wait_until(lambda: "waiting for another upgrade" in caplog.text)
            finally:
                other.execute("SELECT pg_advisory_unlock(%s)", [LOCK_KEY])
    assert revision_of(url) == NOW


def test_an_upgrade_whose_guard_was_ended_stops_before_its_next_step(current: str, caplog: Log) -> None:
    """With the guard's session, its lock is gone, so that another upgrade may have begun."""
    guards = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND (classid::bigint << 32 | objid::bigint) = %s"
    with holding(current) as report, psycopg.connect(libpq(current), autocommit=True) as admin:
        with pytest.raises(errors.DatabaseUnavailable), meanwhile(lambda: upgrade(current)):
            wait_until(lambda: "attempt 1" in caplog.text)
            admin.execute(f"SELECT pg_terminate_backend(pid) FROM ({guards}) AS guards", [LOCK_KEY])
        report.commit()
    assert revision_of(current) == NOW


#: Settings that a careful administrator gives the role or the database of a service.
STRICT = {
    "idle_in_transaction_session_timeout": "250ms",
    "idle_session_timeout": "250ms",
    "statement_timeout": "250ms",
    "lock_timeout": "1ms",
    "transaction_timeout": "250ms",
}
#: It takes longer than each of these.
SLOW = 'op.execute("SELECT pg_sleep(0.4)"); __import__("time").sleep(0.4); op.execute("SELECT pg_sleep(0.4)")'


def test_the_limits_of_services_do_not_stand_in_the_way(current: str, tmp_path: Path) -> None:
    name = make_url(current).database
    with psycopg.connect(libpq(current), autocommit=True) as admin:
        known = {setting for (setting,) in admin.execute("SELECT name FROM pg_settings")}
        for setting in STRICT.keys() & known:
            admin.execute(f"ALTER DATABASE \"{name}\" SET {setting} = '{STRICT[setting]}'")
        upgrade(current, RATED, ini=ini_with(tmp_path, SLOW))
        admin.execute(f'ALTER DATABASE "{name}" RESET ALL')
    assert revision_of(current) == RATED


SLEEP = 'op.execute("SELECT pg_sleep(0.3)")'


@pytest.mark.parametrize(
    ("body", "ends"),
    [
        (SLEEP, True),
        (f"with op.long_step(5):\n        {SLEEP}", False),
        (f"with op.long_step(5):\n        {SLEEP}\n    {SLEEP}", True),
        (f"with op.get_context().autocommit_block(), op.long_step(5):\n        {SLEEP}", False),
    ],
    ids=["a step that is too long", "a declared one", "one that is declared, and one not", "one without transaction"],
)
def test_a_step_is_ended_unless_its_revision_declares_it_as_long(
    current: str, tmp_path: Path, body: str, *, ends: bool
) -> None:
    limited = make_url(current).update_query_dict({"options": "-c statement_timeout=150ms"})
    url, ini = limited.render_as_string(hide_password=False), ini_with(tmp_path, body)
    if ends:
        with pytest.raises(errors.QueryTimeout):
            upgrade(url, RATED, ini=ini)
    else:
        upgrade(url, RATED, ini=ini)
    assert revision_of(current) == (NOW if ends else RATED)


def test_a_migrator_that_hangs_within_a_transaction_does_not_keep_its_locks(current: str, tmp_path: Path) -> None:
    """Its machine may be gone, or its process stopped; all other sessions wait for the table that it was changing."""
    limited = make_url(current).update_query_dict({"options": "-c idle_in_transaction_session_timeout=300ms"})
    go_on = tmp_path / "go on"
    hang = f"import time, pathlib\n    while not pathlib.Path({str(go_on)!r}).exists(): time.sleep(0.01)"
    ini = ini_with(tmp_path, f'op.execute("LOCK TABLE audio_tracks")\n    {hang}\n    op.execute("SELECT 1")')
    url = limited.render_as_string(hide_password=False)
    with pytest.raises(errors.TransactionAborted), meanwhile(lambda: upgrade(url, RATED, ini=ini)):
        try:
            wait_until(lambda: locks_of(current))
            error, _ = outcome_of(lambda: count_tracks(current))
        finally:
            go_on.touch()
        assert error is None
    assert revision_of(current) == NOW


def count_tracks(url: str) -> int:
    with psycopg.connect(libpq(url)) as reader:
        return reader.execute("SELECT FROM audio_tracks").rowcount


def locks_of(url: str) -> list[tuple[object, ...]]:
    with psycopg.connect(libpq(url)) as connection:
        return connection.execute(
            "SELECT pid FROM pg_locks"
            " WHERE relation = 'audio_tracks'::regclass AND granted AND mode = 'AccessExclusiveLock'"
        ).fetchall()


def test_the_limits_are_those_that_are_promised(empty_database: Callable[[], str], tmp_path: Path) -> None:
    url = empty_database()
    upgrade(url, NOW)
    names = ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout")
    settings = " || ' ' || ".join(f"current_setting('{name}')" for name in names)
    upgrade(url, RATED, ini=ini_with(tmp_path, f'op.execute("CREATE TABLE limits AS SELECT {settings} AS them")'))
    with psycopg.connect(libpq(url)) as connection:
        assert connection.execute("SELECT them FROM limits").fetchall() == [("100ms 5s 10s 0",)]


def test_code_whose_successor_has_upgraded_leaves_the_schema_as_it_is(empty_database: Callable[[], str]) -> None:
    """An old instance that is started again during a deploy may begin with an upgrade, as it always does."""
    url = empty_database()
    upgrade(url, RATED)
    before = schema_of(url)
    migrations.upgrade(url)
    assert (migrations.current(url), schema_of(url)) == (RATED, before)


def test_code_that_is_two_revisions_behind_cannot_upgrade(empty_database: Callable[[], str]) -> None:
    url = empty_database()
    upgrade(url, VALIDATED)
    with pytest.raises(errors.SchemaMismatch):
        migrations.upgrade(url)
