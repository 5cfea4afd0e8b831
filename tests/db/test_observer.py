"""What a service can count and log: every call by its name, a line for each unit that was rolled back, and no data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DataError

from audiocatalog import (
    Catalog,
    Claim,
    Observation,
    TrackMetadata,
    TrackRecord,
    TrackStatus,
    UnitOfWork,
    errors,
)

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


@dataclass
class Scene:
    """Something to call, beside what a call needs: a waiting track, a claim that holds, and one that is lost."""

    on: Any
    track: UUID
    claim: Claim
    lost: Claim


class Calls(NamedTuple):
    """Two calls of a verb, one that goes well and one that does not, and the error that leaves the latter."""

    good: Callable[[Scene], object]
    bad: Callable[[Scene], object]
    error: str = "InvalidInput"


NOWHERE = uuid4()
RECORD = TrackRecord(TrackMetadata(title="x"), "x")
UNKNOWN = errors.CommitOutcomeUnknown("lost")
UNKNOWN.trace = (None, None, False)
MOVED = TrackStatus.FAILED


def closed(one: Scene) -> Any:
    one.on.close()
    return one.on


#: What asks nothing of the server: it makes something that does, or looks at this process alone.
UNOBSERVED = {"close", "from_env", "pool_stats", "session", "unit_of_work", "worker"}
COMMON = {
    "save": Calls(lambda one: one.on.save(RECORD.metadata, audio_path="a"), lambda one: one.on.save(5, audio_path="a")),
    "save_record": Calls(lambda one: one.on.save_record(RECORD), lambda one: one.on.save_record(5)),
    "get": Calls(lambda one: one.on.get(one.track), lambda one: one.on.get(NOWHERE), "TrackNotFound"),
    "find": Calls(lambda one: one.on.find(one.track), lambda one: one.on.find("no id")),
    "get_many": Calls(lambda one: one.on.get_many([one.track]), lambda one: one.on.get_many("no ids")),
    "history": Calls(lambda one: one.on.history(one.track), lambda one: one.on.history(NOWHERE), "TrackNotFound"),
    "search": Calls(lambda one: one.on.search("x"), lambda one: one.on.search("x" * 2000)),
    "explain": Calls(
        lambda one: one.on.explain("x", one.track), lambda one: one.on.explain("x", NOWHERE), "TrackNotFound"
    ),
    "iter_tracks": Calls(lambda one: list(one.on.iter_tracks()), lambda one: one.on.iter_tracks(order_by="yeer")),
    "changes": Calls(lambda one: one.on.changes(), lambda one: one.on.changes("no cursor")),
    "update_status": Calls(
        lambda one: one.on.update_status(one.track, MOVED),
        lambda one: one.on.update_status(one.track, TrackStatus.COMPLETED),
        "IllegalTransition",
    ),
    "update_statuses": Calls(
        lambda one: one.on.update_statuses([one.track], MOVED), lambda one: one.on.update_statuses(5, MOVED)
    ),
    "claim": Calls(lambda one: one.on.claim(1), lambda one: one.on.claim(0)),
    "renew": Calls(lambda one: one.on.renew(one.claim), lambda one: one.on.renew(one.lost), "ClaimLost"),
    "renew_many": Calls(lambda one: one.on.renew_many([one.claim]), lambda one: one.on.renew_many([5])),
    "complete": Calls(lambda one: one.on.complete(one.claim), lambda one: one.on.complete(one.lost), "ClaimLost"),
    "complete_many": Calls(lambda one: one.on.complete_many([one.claim]), lambda one: one.on.complete_many(5)),
    "fail": Calls(lambda one: one.on.fail(one.claim, "why"), lambda one: one.on.fail(one.lost, "why"), "ClaimLost"),
    "release": Calls(lambda one: one.on.release(one.claim), lambda one: one.on.release(one.lost), "ClaimLost"),
    "release_expired": Calls(lambda one: one.on.release_expired(), lambda one: one.on.release_expired(0)),
    "bulk_save": Calls(lambda one: one.on.bulk_save([RECORD]), lambda one: one.on.bulk_save([], batch=0)),
}
OF_A_CATALOG = COMMON | {
    "run": Calls(lambda one: one.on.run(lambda _: None), lambda one: one.on.run(lambda _: None, deadline=-1)),
    "was_committed": Calls(
        lambda one: one.on.was_committed(UNKNOWN), lambda one: one.on.was_committed(UNKNOWN, deadline=-1)
    ),
    "refresh_vocabulary": Calls(
        lambda one: one.on.refresh_vocabulary(), lambda one: one.on.refresh_vocabulary(timeout=-1)
    ),
    "count_by_status": Calls(
        lambda one: one.on.count_by_status(), lambda one: closed(one).count_by_status(), "ConfigurationError"
    ),
    "activity": Calls(lambda one: one.on.activity(), lambda one: one.on.activity(buckets=0)),
    "health": Calls(lambda one: one.on.health(), lambda one: closed(one).health(), "ConfigurationError"),
    "warm_up": Calls(lambda one: one.on.warm_up(), lambda one: one.on.warm_up(timeout=-1)),
}
OF_A_UNIT = COMMON | {
    "set_statement_timeout": Calls(
        lambda one: one.on.set_statement_timeout(1), lambda one: one.on.set_statement_timeout(-1)
    ),
}


@pytest.fixture
def scene(watched: Catalog, catalog: Catalog, seen: list[Observation]) -> Scene:
    """Prepare a scene by another catalogue than the one that is watched."""
    names = ["track", "claim", "lost"]
    records = [TrackRecord(TrackMetadata(title=name), name, status=TrackStatus.PENDING) for name in names]
    catalog.bulk_save(records)
    claims = {claim.track.id: claim for claim in catalog.claim(len(names))}
    track, claim, lost = (claims[record.id] for record in records)
    catalog.release(track)
    catalog.update_status(lost.track.id, TrackStatus.PENDING)
    watched.warm_up()
    seen.clear()
    return Scene(watched, track.track.id, claim, lost)


def told(seen: list[Observation]) -> list[tuple[str, str | None]]:
    return [(one.operation, one.error) for one in seen]


@pytest.mark.parametrize(("kind", "calls"), [(Catalog, OF_A_CATALOG), (UnitOfWork, OF_A_UNIT)])
def test_every_public_verb_is_called_here(kind: type, calls: dict[str, Calls]) -> None:
    public = {name for name in dir(kind) if not name.startswith("_")}
    assert public - UNOBSERVED == calls.keys()


@pytest.mark.parametrize("name", OF_A_CATALOG)
def test_a_call_is_told_once_by_its_name_with_its_error(scene: Scene, seen: list[Observation], name: str) -> None:
    calls = OF_A_CATALOG[name]
    calls.good(scene)
    units = [("unit_of_work", None)] if name == "run" else []
    assert told(seen) == [*units, (name, None)]
    assert all(one.duration > 0 for one in seen)
    seen.clear()
    with pytest.raises(errors.CatalogError):
        calls.bad(scene)
    assert told(seen) == [(name, calls.error)]


@pytest.mark.parametrize("name", OF_A_UNIT)
def test_so_is_a_call_in_a_unit_of_work(scene: Scene, seen: list[Observation], name: str) -> None:
    calls = OF_A_UNIT[name]
    with scene.on.unit_of_work() as work:
        scene.on = work
        calls.good(scene)
        assert told(seen) == [(name, None)]
        seen.clear()
        with pytest.raises(errors.CatalogError):
            calls.bad(scene)
    assert told(seen) == [(name, calls.error), ("unit_of_work", None)]
    assert seen[1].waited is not None
    assert 0 <= seen[1].waited < seen[1].duration


def test_a_loop_over_tracks_is_told_of_batch_by_batch(watched: Catalog, seen: list[Observation]) -> None:
    watched.bulk_save([TrackRecord(TrackMetadata(), "a") for _ in range(5)])
    seen.clear()
    assert len(list(watched.iter_tracks(batch=2))) == 5
    assert told(seen) == [("iter_tracks", None)] * 3


def test_a_run_is_told_with_each_of_its_tries(watched: Catalog, seen: list[Observation]) -> None:
    def unit(_: UnitOfWork) -> None:
        if len(seen) < 2:
            raise errors.TransientConflict("again")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        watched.run(unit)
    assert told(seen) == [
        *[("unit_of_work", "TransientConflict")] * 2,
        ("unit_of_work", "ZeroDivisionError"),
        ("run", "ZeroDivisionError"),
    ]


def test_a_load_is_told_as_one_with_what_its_records_raise(watched: Catalog, seen: list[Observation]) -> None:
    def records() -> Iterator[TrackRecord]:
        yield RECORD
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        watched.bulk_save(records())
    assert watched.bulk_save([RECORD] * 3, batch=1).records == 3
    assert told(seen) == [("bulk_save", "ZeroDivisionError"), ("bulk_save", None)]


def test_a_unit_of_work_that_fails_is_told_with_its_error(watched: Catalog, seen: list[Observation]) -> None:
    with pytest.raises(DataError), watched.unit_of_work() as work:
        work.session.execute(text("SELECT 1 / 0"))
    assert [(one.operation, one.error, one.sqlstate) for one in seen] == [("unit_of_work", "DataError", "22012")]


def test_a_call_after_the_end_is_told_as_well(watched: Catalog, seen: list[Observation]) -> None:
    with watched.unit_of_work() as work:
        pass
    seen.clear()
    with pytest.raises(errors.UnitOfWorkEnded):
        work.get(NOWHERE)
    assert told(seen) == [("get", "UnitOfWorkEnded")]


def test_a_unit_that_gets_no_connection_is_told(database_url: str, seen: list[Observation]) -> None:
    with Catalog(database_url, pool_size=1, pool_timeout=0.1, observe=seen.append) as catalog:
        catalog.warm_up(timeout=60)
        seen.clear()
        with catalog.unit_of_work(), pytest.raises(errors.PoolTimeout):
            catalog.run(save)
    assert told(seen) == [("unit_of_work", "PoolTimeout"), ("run", "PoolTimeout"), ("unit_of_work", None)]


def test_an_observer_that_fails_costs_nothing(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    def observe(_: Observation) -> None:
        raise ZeroDivisionError(SECRET)

    with Catalog(database_url, observe=observe) as catalog:
        track = catalog.run(save)
        assert catalog.get(track).title == SECRET
    assert "the function `observe` failed and must be corrected: ZeroDivisionError" in caplog.messages
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("statement", "level", "error", "sqlstate"),
    [
        ("SELECT 1 / 0", logging.WARNING, "DataError", "22012"),
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
        pytest.raises((errors.CatalogError, DataError, ZeroDivisionError)),
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


def test_what_takes_as_long_as_its_caller_is_not_called_slow(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Catalog(database_url, slow_after=0.001) as catalog:
        catalog.warm_up()
        caplog.clear()
        catalog.run(lambda work: work.session.execute(text("SELECT pg_sleep(0.01)")))
        catalog.bulk_save([RECORD])
    assert {record.__dict__["operation"] for record in caplog.records} <= {"session", "unit_of_work"}


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
    (line,) = (message for message in caplog.messages if message.startswith("attempt 1 of a unit of work"))
    assert "DatabaseUnavailable" in line
