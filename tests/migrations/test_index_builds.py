"""An index is built beside readers and writers, whatever a build that was broken off has left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from alembic import command

from audiocatalog import errors
from audiocatalog.embedded import server as embedded
from tests.support.databases import libpq, temporary_database
from tests.support.schemas import schema_of
from tests.support.upgrades import (
    HEAD,
    INDEXED,
    INI,
    NOW,
    VALIDATED,
    config_for,
    holding,
    invalid_indexes_of,
    meanwhile,
    revision_of,
    upgrade,
    upgrading,
)
from tests.support.waiting import wait_until

INDEX = "ix_audio_tracks_rating"
BUILD = f"CREATE INDEX CONCURRENTLY {INDEX} ON audio_tracks (rating, id)"
#: What a transaction holds that writes a track; a build waits for it, and other writers do not.
WRITING = "LOCK TABLE audio_tracks IN ROW EXCLUSIVE MODE"
#: What a migrator's session does, and whether it waits.
WORKING_ON = "SELECT pid FROM pg_stat_activity WHERE query LIKE %s AND state = 'active' AND pid <> pg_backend_pid()"

Log = pytest.LogCaptureFixture


@pytest.fixture
def validated(empty_database: Callable[[], str]) -> str:
    """Give a database at the revision before the one that builds an index."""
    url = empty_database()
    upgrade(url, VALIDATED)
    return url


def leave_an_invalid_index(url: str, build: str = BUILD) -> None:
    """Begin an index and give up, as a migrator does who is killed."""
    with holding(url, WRITING), psycopg.connect(libpq(url), autocommit=True) as other:
        other.execute("SET lock_timeout = '10ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            other.execute(build)
    assert invalid_indexes_of(url) == [INDEX]


def definition_of(url: str) -> tuple[int, str]:
    with psycopg.connect(libpq(url)) as connection:
        row = connection.execute("SELECT %s::regclass::oid::int, pg_get_indexdef(%s::regclass)", [INDEX] * 2).fetchone()
    assert row is not None
    return int(row[0]), str(row[1])


@pytest.mark.parametrize("build", [BUILD, BUILD.replace("rating, id", "year")], ids=["the same", "another one"])
def test_an_invalid_leftover_is_replaced(validated: str, empty_database: Callable[[], str], build: str) -> None:
    leave_an_invalid_index(validated, build)
    upgrade(validated)
    fresh = empty_database()
    upgrade(fresh)
    assert (invalid_indexes_of(validated), schema_of(validated)) == ([], schema_of(fresh))


def test_a_finished_index_is_kept(validated: str) -> None:
    """The migrator was killed after the build and before its revision was marked as done."""
    with psycopg.connect(libpq(validated), autocommit=True) as other:
        other.execute(BUILD)
    before = definition_of(validated)
    upgrade(validated)
    assert (definition_of(validated), revision_of(validated)) == (before, HEAD)


def test_an_index_of_that_name_on_another_table_is_not_taken_for_it(validated: str) -> None:
    with psycopg.connect(libpq(validated), autocommit=True) as other:
        other.execute(f"CREATE INDEX {INDEX} ON audio_track_edits (at)")
    with pytest.raises(errors.CatalogError):
        upgrade(validated)
    assert revision_of(validated) == VALIDATED


def test_a_build_waits_for_older_transactions_and_says_for_whom(validated: str, caplog: Log) -> None:
    """Its waits hold up nobody, so that the short limit of other statements, and its retries, do not apply."""
    with holding(validated, WRITING) as it, meanwhile(lambda: upgrade(validated, INDEXED)):
        wait_until(lambda: f"for the transaction of process {it.info.backend_pid}" in caplog.text)
        with psycopg.connect(libpq(validated), autocommit=True) as other:
            other.execute("SET lock_timeout = '1s'; UPDATE audio_tracks SET year = 1999")
        it.commit()
    assert (invalid_indexes_of(validated), revision_of(validated)) == ([], INDEXED)
    assert "building an index: waiting for writers before build" in caplog.text
    assert "attempt 1" not in caplog.text


def test_a_build_that_waits_for_too_long_gives_up_and_can_be_repeated(validated: str) -> None:
    with holding(validated, WRITING), pytest.raises(errors.TransientConflict, match=r"\(a long report\) uses"):
        upgrade(validated, INDEXED, lock_timeout=0.5)
    assert invalid_indexes_of(validated) == [INDEX]
    upgrade(validated)
    assert invalid_indexes_of(validated) == []


def test_the_next_limits_are_the_short_ones_again(validated: str, caplog: Log) -> None:
    upgrade(validated, INDEXED)
    lock = "LOCK TABLE audio_search_counts IN SHARE MODE"
    with holding(validated, lock) as other, meanwhile(lambda: upgrade(validated)):
        wait_until(lambda: "attempt 2" in caplog.text)
        other.commit()
    assert revision_of(validated) == HEAD


@pytest.mark.parametrize(
    ("revision", "at_work", "lock"),
    [
        ("the column", "ALTER TABLE%", "ACCESS SHARE"),
        ("the index", "CREATE INDEX CONCURRENTLY%", "ROW EXCLUSIVE"),
    ],
)
def test_a_migrator_that_was_killed_leaves_nothing_that_the_next_cannot_mend(
    empty_database: Callable[[], str], revision: str, at_work: str, lock: str
) -> None:
    url, fresh = empty_database(), empty_database()
    upgrade(url, VALIDATED if revision == "the index" else NOW)
    with psycopg.connect(libpq(url), autocommit=True) as admin:
        with holding(url, f"LOCK TABLE audio_tracks IN {lock} MODE"):
            killed = upgrading(url)
            wait_until(lambda: admin.execute(WORKING_ON, [at_work]).fetchone())
            killed.send_signal(signal.SIGKILL)
            killed.communicate()
        upgrade(url)
    upgrade(fresh)
    assert (revision_of(url), invalid_indexes_of(url), schema_of(url)) == (HEAD, [], schema_of(fresh))


def test_the_next_upgrade_waits_for_what_a_killed_one_has_begun_in_the_server(validated: str, caplog: Log) -> None:
    """Its guard is gone with it, but the session that builds may not have noticed yet."""
    with psycopg.connect(libpq(validated), autocommit=True) as admin, holding(validated, WRITING):
        killed = upgrading(validated)
        builder = wait_until(lambda: admin.execute(WORKING_ON, ["CREATE INDEX CONCURRENTLY%"]).fetchone())
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        with meanwhile(lambda: upgrade(validated, VALIDATED)):
            wait_until(lambda: "waiting for another upgrade" in caplog.text)
        # It looked for its client, and ended.
        assert admin.execute("SELECT FROM pg_stat_activity WHERE pid = %s", builder).fetchone() is None


def test_an_index_can_be_dropped_beside_writers(validated: str) -> None:
    before = schema_of(validated)
    upgrade(validated, INDEXED)
    with holding(validated, "LOCK TABLE audio_track_edits IN ROW EXCLUSIVE MODE"):
        command.downgrade(config_for(validated), "-1")
    assert schema_of(validated) == before


@pytest.fixture
def database_and_psql(tmp_path: Path) -> Iterator[tuple[str, str, Path]]:
    programs, _ = embedded._find_binaries(None)
    with (
        embedded.EmbeddedPostgres() as server,
        temporary_database(server.url()) as one,
        temporary_database(server.url()) as other,
    ):
        yield one, other, programs / "psql"


def test_printed_sql_builds_the_same_and_mends_the_same(database_and_psql: tuple[str, str, Path]) -> None:
    upgraded, printed, psql = database_and_psql
    upgrade(upgraded)
    upgrade(printed, VALIDATED)
    leave_an_invalid_index(printed)
    sql = subprocess.run(
        [sys.executable, "-m", "alembic", "-c", str(INI), "upgrade", f"{VALIDATED}:head", "--sql"],
        check=True,
        capture_output=True,
        timeout=60,
    ).stdout
    run: list[str | Path] = [psql, "--quiet", "--set=ON_ERROR_STOP=1", libpq(printed)]
    done = subprocess.run(run, input=sql, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert (revision_of(printed), schema_of(printed)) == (HEAD, schema_of(upgraded))
