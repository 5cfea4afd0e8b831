"""What a service can count and log: every call by its name, a line for each unit that was rolled back, and no data."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from audiocatalog import Catalog, Observation, TrackMetadata, TrackStatus, UnitOfWork, errors

SECRET = "a planted title"


@pytest.fixture
def seen() -> list[Observation]:
    return []


@pytest.fixture
def watched(database_url: str, seen: list[Observation]) -> Iterator[Catalog]:
    """Give a catalogue whose observations are kept."""
    with Catalog(database_url, observe=seen.append) as catalog:
        yield catalog


def save(work: UnitOfWork) -> Any:
    return work.save(TrackMetadata(title=SECRET), audio_path="a", status=TrackStatus.PENDING).id


def test_every_call_is_told_by_its_name(watched: Catalog, seen: list[Observation]) -> None:
    track = watched.run(save)
    watched.get(track)
    watched.get_many([track])
    watched.search("planted")
    watched.explain("planted", track)
    watched.update_status(track, TrackStatus.PROCESSING)
    watched.update_statuses([track], TrackStatus.PENDING)
    watched.history(track)
    (claim,) = watched.claim(1)
    watched.complete(watched.renew(claim))
    watched.release_expired()
    list(watched.iter_tracks())
    watched.updated_since(None)
    watched.stats()
    watched.activity()
    watched.health()
    assert [one.operation for one in seen] == [
        *("save", "unit_of_work", "find", "get_many", "search", "explain", "update_status", "update_statuses"),
        *("history", "claim", "renew", "complete", "release_expired", "iter_tracks", "updated_since"),
        *("stats", "activity", "health"),
    ]
    assert {(one.error, one.sqlstate) for one in seen} == {(None, None)}
    assert all(one.duration > 0 for one in seen)
    (unit,) = (one for one in seen if one.operation == "unit_of_work")
    assert unit.waited is not None
    assert 0 <= unit.waited < unit.duration


def test_a_call_that_fails_is_told_with_its_error(watched: Catalog, seen: list[Observation]) -> None:
    track = watched.run(save)
    seen.clear()
    with pytest.raises(errors.IllegalTransition):
        watched.update_status(track, TrackStatus.COMPLETED)
    with pytest.raises(errors.InvalidInput), watched.unit_of_work() as work:
        work.session.execute(text("SELECT 1 / 0"))
    assert [(one.operation, one.error, one.sqlstate) for one in seen] == [
        ("update_status", "IllegalTransition", None),
        ("unit_of_work", "InvalidInput", "22012"),
    ]


def test_a_unit_that_gets_no_connection_is_told(database_url: str, seen: list[Observation]) -> None:
    with (
        Catalog(database_url, pool_size=1, pool_timeout=0.1, observe=seen.append) as catalog,
        catalog.unit_of_work(),
        pytest.raises(errors.PoolTimeout),
    ):
        catalog.run(save)
    assert [(one.operation, one.error) for one in seen] == [("unit_of_work", "PoolTimeout"), ("unit_of_work", None)]


def test_an_observer_that_fails_costs_nothing(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    def observe(_: Observation) -> None:
        raise ZeroDivisionError(SECRET)

    with Catalog(database_url, observe=observe) as catalog:
        track = catalog.run(save)
        assert catalog.get(track).title == SECRET
    assert "the hook that observes the catalogue failed: ZeroDivisionError" in caplog.messages
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("statement", "level", "error", "sqlstate"),
    [
        ("SELECT 1 / 0", logging.WARNING, "InvalidInput", "22012"),
        ("SELECT pg_terminate_backend(pg_backend_pid())", logging.WARNING, "DatabaseUnavailable", "57P01"),
        (None, logging.INFO, "ZeroDivisionError", None),
    ],
)
def test_a_unit_that_is_rolled_back_leaves_one_line(  # noqa: PLR0917  # One for each fact.
    catalog: Catalog,
    caplog: pytest.LogCaptureFixture,
    statement: str | None,
    level: int,
    error: str,
    sqlstate: str | None,
) -> None:
    with (
        caplog.at_level(logging.INFO, "audiocatalog"),
        pytest.raises((errors.CatalogError, ZeroDivisionError)),
        catalog.unit_of_work() as work,
    ):
        save(work)
        if statement is None:
            raise ZeroDivisionError(SECRET)
        work.session.execute(text(statement))
    (record,) = (record for record in caplog.records if record.name == "audiocatalog")
    facts = {name: record.__dict__[name] for name in ("operation", "error", "sqlstate")}
    assert (record.levelno, facts) == (level, {"operation": "unit_of_work", "error": error, "sqlstate": sqlstate})
    assert record.__dict__["duration"] > 0
    assert record.getMessage().startswith("a unit of work was rolled back after 0.")
    assert SECRET not in caplog.text


def test_a_unit_that_is_kept_leaves_no_line(catalog: Catalog, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "audiocatalog"):
        catalog.run(save)
        catalog.find(uuid4())
    assert [record for record in caplog.records if record.name == "audiocatalog"] == []


def test_a_slow_call_is_logged_by_its_name(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    with Catalog(database_url, slow_after=0.001) as catalog:
        catalog.refresh_vocabulary()
    slow = [record for record in caplog.records if record.__dict__.get("operation") == "refresh_vocabulary"]
    assert [record.levelname for record in slow] == ["WARNING"]
    assert slow[0].getMessage().startswith("refresh_vocabulary took 0.")


def test_a_slow_statement_of_the_hosts_own_is_logged_without_its_text(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Catalog(database_url, slow_after=0.05) as catalog, catalog.unit_of_work() as work:
        work.session.execute(text(f"SELECT pg_sleep(0.1), '{SECRET}'"))
        work.session.execute(text("SELECT 1"))
    slow = [record for record in caplog.records if record.__dict__.get("operation") == "session"]
    assert len(slow) == 1
    assert slow[0].getMessage().startswith("session took 0.1")
    assert SECRET not in caplog.text


def test_another_try_is_logged(catalog: Catalog, caplog: pytest.LogCaptureFixture) -> None:
    tries = []

    def unit(work: UnitOfWork) -> None:
        tries.append(work)
        if len(tries) == 1:
            work.session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with caplog.at_level(logging.INFO, "audiocatalog"):
        catalog.run(unit)
    (line,) = (message for message in caplog.messages if message.startswith("try 1 of a unit of work"))
    assert "DatabaseUnavailable" in line
