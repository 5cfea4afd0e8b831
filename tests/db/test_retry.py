"""What runs again, and what must not: units of work whose COMMIT was not answered, or that committed by themselves."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from audiocatalog import Catalog, TrackMetadata, TrackStatus, UnitOfWork, errors
from audiocatalog.db.commit_outcome import TransactionRef
from audiocatalog.models.ids import new_id
from tests.support.databases import libpq
from tests.support.proxy import Proxy, proxied

PENDING, PROCESSING = TrackStatus.PENDING, TrackStatus.PROCESSING


@pytest.fixture
def proxy(database_url: str) -> Iterator[Proxy]:
    with proxied(database_url) as proxy:
        yield proxy


@pytest.fixture
def distant(proxy: Proxy) -> Iterator[Catalog]:
    """Give a catalogue behind the proxy, that is connected."""
    with Catalog(proxy.url) as catalog:
        catalog.warm_up()
        yield catalog


@pytest.fixture
def host_rows(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Give a connection to a database with a table of the host's."""
    with psycopg.connect(libpq(database_url), autocommit=True) as admin:
        admin.execute("CREATE TABLE host_rows (n int)")
        admin.execute("GRANT ALL ON host_rows TO PUBLIC")
        yield admin
        admin.execute("DROP TABLE host_rows")


def rows(admin: psycopg.Connection[Any]) -> int:
    found = admin.execute("SELECT count(*) FROM host_rows").fetchone()
    assert found is not None
    return int(found[0])


def test_a_first_track_that_does_not_move_does_not_hide_that_others_did(
    catalog: Catalog, distant: Catalog, proxy: Proxy
) -> None:
    moved = catalog.run(lambda work: work.save(TrackMetadata(), audio_path="a", status=PENDING)).id
    missing = "00000000-0000-7000-8000-000000000001"  # Before the other one, in the order of ids.
    tries = []

    def unit(work: UnitOfWork) -> Any:
        tries.append(work)
        return work.update_statuses([missing, moved], PROCESSING)

    proxy.losses = ["its answer"]
    outcome = distant.run(unit)
    assert (len(tries), proxy.lost) == (1, 1)
    assert {str(track): type(what).__name__ for track, what in outcome.items()} == {
        missing: "TrackNotFound",
        str(moved): "StatusChange",
    }
    assert len(catalog.history(moved)) == 2


def test_a_unit_inside_whose_answer_is_lost_is_not_taken_for_the_one_around_it(distant: Catalog, proxy: Proxy) -> None:
    def unit(work: UnitOfWork) -> None:
        work.find(new_id())
        proxy.losses = ["its answer"]
        with distant.unit_of_work() as inner:
            inner.save(TrackMetadata(), audio_path="a")

    with pytest.raises(errors.CommitOutcomeUnknown):
        distant.run(unit)


@pytest.mark.parametrize("loss", ["COMMIT", "its answer"])
def test_what_the_host_commits_by_itself_is_not_done_twice(
    distant: Catalog, proxy: Proxy, host_rows: psycopg.Connection[Any], loss: Any
) -> None:
    tries = []

    def unit(work: UnitOfWork) -> None:
        tries.append(work)
        work.session.execute(text("INSERT INTO host_rows VALUES (1)"))
        proxy.losses = [loss]
        work.session.commit()

    with pytest.raises(errors.CommitOutcomeUnknown) as caught:
        distant.run(unit)
    assert (len(tries), caught.value.retryable) == (1, False)
    assert rows(host_rows) == (0 if loss == "COMMIT" else 1)


def test_a_unit_that_has_committed_in_the_middle_is_not_run_again(
    distant: Catalog, host_rows: psycopg.Connection[Any]
) -> None:
    def unit(work: UnitOfWork) -> None:
        work.session.execute(text("INSERT INTO host_rows VALUES (1)"))
        work.session.commit()
        work.session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with pytest.raises(errors.CommitOutcomeUnknown, match="committed through its session"):
        distant.run(unit)
    assert rows(host_rows) == 1


@pytest.mark.parametrize("loss", ["COMMIT", "its answer"])
def test_what_a_hook_of_the_hosts_writes_at_the_last_moment_is_not_written_twice(
    distant: Catalog, proxy: Proxy, host_rows: psycopg.Connection[Any], loss: Any
) -> None:
    tries = []

    def write(session: Session) -> None:
        session.execute(text("INSERT INTO host_rows VALUES (1)"))

    def unit(work: UnitOfWork) -> None:
        tries.append(work)
        event.listen(work.session, "before_commit", write)
        proxy.losses = [loss] if len(tries) == 1 else []

    try:
        distant.run(unit)
    except errors.CommitOutcomeUnknown:
        assert len(tries) == 1
    assert rows(host_rows) <= 1


def test_an_exception_keeps_the_places_that_it_has_come_through(catalog: Catalog) -> None:
    def deep() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught, catalog.unit_of_work():
        deep()
    assert "deep" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


def test_a_single_call_that_is_refused_for_certain_is_no_unknown_outcome(database_url: str) -> None:
    with Catalog(
        f"{database_url}{'&' if '?' in database_url else '?'}options=-cdefault_transaction_read_only=on"
    ) as reader:
        with pytest.raises(errors.DatabaseUnavailable) as caught:
            reader.claim()
        assert not isinstance(caught.value, errors.CommitOutcomeUnknown)
        assert (caught.value.sqlstate, caught.value.retryable) == ("25006", True)


def test_a_server_that_stays_read_only_is_not_connected_to_again_and_again(database_url: str) -> None:
    url = f"{database_url}{'&' if '?' in database_url else '?'}options=-cdefault_transaction_read_only=on"
    with Catalog(url, pool_size=3) as reader, psycopg.connect(libpq(database_url), autocommit=True) as admin:
        reader.warm_up()
        count = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"
        before: Any = admin.execute(count).fetchone()
        for _ in range(200):
            with pytest.raises(errors.DatabaseUnavailable):
                reader.claim()
        admin.execute("SELECT pg_sleep(1.1), pg_stat_clear_snapshot()")  # The server tells of sessions once a second.
        after: Any = admin.execute(count).fetchone()
    assert after[0] - before[0] < 60


def test_a_comma_in_a_password_names_no_host() -> None:
    for url in ("postgresql://music:123,b@127.0.0.1:1/music", "postgresql://music:a,b@127.0.0.1:1/music"):
        with Catalog(url) as catalog, pytest.raises(errors.DatabaseUnavailable, match="no server listens at this"):
            catalog.count_by_status()
    for url in (
        "postgresql://first:x,second:2/db",
        "postgresql://u@[::1]:1,[::1]:2/db",
        "postgresql://u:1,b?x@h/music",
    ):
        with pytest.raises(errors.ConfigurationError):
            Catalog(url)


def test_what_became_of_a_commit_is_asked_again_only_after_errors_that_may_pass(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[errors.CatalogError | str] = [
        errors.DatabaseUnavailable("gone", operation="run", phase="statement"),
        "in progress",
        "committed",
        errors.SchemaMismatch("another schema", operation="run"),
        "committed",
    ]

    def ask(*_: object) -> str:
        answer = answers.pop(0)
        if isinstance(answer, errors.CatalogError):
            raise answer
        return answer

    monkeypatch.setattr("audiocatalog.db.retry.run", ask)
    trace = TransactionRef("a server", "1|2|3", wrote_history=True)
    assert catalog._runner.outcome_of(trace, 60.0) is True
    with pytest.raises(errors.SchemaMismatch):
        catalog._runner.outcome_of(trace, 60.0)
    assert answers == ["committed"]
