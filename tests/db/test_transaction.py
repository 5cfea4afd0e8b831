"""A unit of work is one transaction on one connection: the driver's own, until its session is asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import pytest
import sqlalchemy.exc
from sqlalchemy import Engine, event, select, text

from audiocatalog import Catalog, Track, TrackMetadata, TrackStatus, UnitOfWork, errors
from tests.support.databases import libpq
from tests.support.hosts import Note, host_notes
from tests.support.waiting import wait_until, wait_until_blocked

PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus

TITLES = select(Track.title).order_by(Track.title)


@pytest.fixture(params=[False, True], ids=["straight", "pooler"])
def pooler(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def small(database_url: str, *, pooler: bool) -> Iterator[Catalog]:
    """Give a catalogue of one connection, so that whatever is not given back is missed at once."""
    settings = {"pool_timeout": 2.0, "lock_timeout": 0.2}
    with Catalog(database_url, actor="tester", pool_size=1, pooler=pooler, **settings) as catalog:  # type: ignore[arg-type]
        yield catalog


def save(work: UnitOfWork, title: str) -> Track:
    return work.save(TrackMetadata(title=title), audio_path="a", status=PENDING)


def titles(catalog: Catalog) -> list[str]:
    with catalog.unit_of_work() as work:
        return list(work.session.scalars(TITLES))


def assert_full(catalog: Catalog) -> None:
    """The pool has all it has opened, but for the one that asks; what was lost it replaces in the background."""
    wait_until(lambda: (pool := catalog.health().pool).in_use == pool.connections == 1)


@contextmanager
def sessions_opened() -> Iterator[list[object]]:
    """Collect the connections that SQLAlchemy takes."""
    opened: list[object] = []

    def note(connection: object) -> None:
        opened.append(connection)

    event.listen(Engine, "engine_connect", note)
    try:
        yield opened
    finally:
        event.remove(Engine, "engine_connect", note)


def test_without_its_session_a_unit_of_work_does_without_sqlalchemy(small: Catalog) -> None:
    small.warm_up()  # Behind a pooler, SQLAlchemy gets to know the server beforehand.
    with sessions_opened() as opened:
        with small.unit_of_work() as work:
            track = save(work, "Plain")
            work.update_status(track.id, FAILED)
            work.update_status(track.id, PENDING)
            (claim,) = work.claim()
            work.complete(work.renew(claim), TrackMetadata(title="Done"))
            assert work.search("done").total == 1
            assert len(work.history(track.id)) == 5
        with pytest.raises(RuntimeError), small.unit_of_work() as work:
            save(work, "Rolled back")
            raise RuntimeError
        small.update_status(track.id, PENDING)
    assert opened == []
    assert titles(small) == ["Done"]
    assert_full(small)


def test_the_session_sees_what_was_saved_before_it_was_asked_for(small: Catalog) -> None:
    with small.unit_of_work() as work:
        save(work, "First")
        assert list(work.session.scalars(TITLES)) == ["First"]
        assert work.session is work.session
        save(work, "Second")
        assert list(work.session.scalars(TITLES)) == ["First", "Second"]
    assert titles(small) == ["First", "Second"]
    assert_full(small)


NOTES = select(Note.name).order_by(Note.name)


@pytest.fixture
def notes(database_url: str) -> Iterator[Callable[[Catalog], list[str]]]:
    """Make the host's own table, and give a function that reads it."""

    def read(catalog: Catalog) -> list[str]:
        with catalog.unit_of_work() as work:
            return list(work.session.scalars(NOTES))

    with host_notes(database_url):
        yield read


def test_both_commit_together(small: Catalog, notes: Callable[[Catalog], list[str]]) -> None:
    with small.unit_of_work() as work:
        save(work, "By the catalogue")
        work.session.add(Note(name="by the host"))
    assert (titles(small), notes(small)) == (["By the catalogue"], ["by the host"])
    assert_full(small)


@pytest.mark.parametrize("first", ["session", "save"])
def test_both_roll_back_together(small: Catalog, notes: Callable[[Catalog], list[str]], first: str) -> None:
    with pytest.raises(RuntimeError), small.unit_of_work() as work:
        if first == "session":
            work.session.add(Note(name="by the host"))
        save(work, "By the catalogue")
        work.session.add(Note(name="by the host too"))
        work.session.flush()
        raise RuntimeError
    assert (titles(small), notes(small)) == ([], [])
    assert_full(small)


def test_nobody_else_sees_it_before_the_end(
    small: Catalog, catalog: Catalog, notes: Callable[[Catalog], list[str]]
) -> None:
    with small.unit_of_work() as work:
        save(work, "Hidden")
        assert catalog.count_by_status()[0].tracks == 0
        work.session.add(Note(name="hidden too"))
        work.session.flush()
        assert (titles(catalog), notes(catalog)) == ([], [])
    assert (titles(catalog), notes(catalog)) == (["Hidden"], ["hidden too"])


def test_the_host_may_commit_in_the_middle_and_go_on(small: Catalog) -> None:
    with pytest.raises(RuntimeError), small.unit_of_work() as work:
        save(work, "One")
        work.session.commit()
        save(work, "Two")
        assert list(work.session.scalars(TITLES)) == ["One", "Two"]
        work.session.commit()
        save(work, "Three")
        raise RuntimeError
    assert titles(small) == ["One", "Two"]
    assert_full(small)


def test_the_host_may_roll_back_in_the_middle_and_go_on(small: Catalog) -> None:
    with small.unit_of_work() as work:
        save(work, "One")
        work.session.rollback()
        save(work, "Two")
    assert titles(small) == ["Two"]
    assert_full(small)


def test_a_savepoint_of_the_host_holds_what_the_catalogue_did_in_it(small: Catalog) -> None:
    with small.unit_of_work() as work:
        save(work, "Kept")
        with pytest.raises(RuntimeError), work.session.begin_nested():
            save(work, "Dropped")
            raise RuntimeError
        with work.session.begin_nested():
            save(work, "Kept too")
    assert titles(small) == ["Kept", "Kept too"]
    assert_full(small)


def test_the_host_may_begin_a_transaction_beside_it(database_url: str) -> None:
    """Its engine takes another connection of the pool, and gives that one back too."""
    with Catalog(database_url, pool_size=2) as catalog:
        with catalog.unit_of_work() as work:
            save(work, "In the unit")
            with work.session.get_bind().connect() as beside:  # type: ignore[union-attr]
                assert beside.execute(text("SELECT count(*) FROM audio_tracks")).scalar_one() == 0
        assert titles(catalog) == ["In the unit"]
        health = catalog.health()
        assert (health.pool.in_use, health.pool.connections) == (1, 2)


# Errors that are caught inside, where the server has given everything up.


def swallow_a_lock_time_out(work: UnitOfWork, locked: Track) -> None:
    with pytest.raises(errors.TransientConflict):
        work.update_status(locked.id, FAILED)


def swallow_a_lock_time_out_of_many(work: UnitOfWork, locked: Track) -> None:
    with pytest.raises(errors.TransientConflict):
        work.update_statuses([locked.id], FAILED)


def swallow_an_error_of_the_driver(work: UnitOfWork, _: Track) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        work._open().driver().execute("SELECT 1 / 0")


def swallow_an_error_of_the_session(work: UnitOfWork, _: Track) -> None:
    with pytest.raises(sqlalchemy.exc.DataError):
        work.session.execute(text("SELECT 1 / 0"))


SWALLOWERS: list[Callable[[UnitOfWork, Track], None]] = [
    swallow_a_lock_time_out,
    swallow_a_lock_time_out_of_many,
    swallow_an_error_of_the_driver,
    swallow_an_error_of_the_session,
]


@pytest.mark.parametrize("swallow", SWALLOWERS)
def test_a_swallowed_error_raises_at_the_end_with_and_without_a_session(
    small: Catalog, catalog: Catalog, swallow: Callable[[UnitOfWork, Track], None]
) -> None:
    with catalog.unit_of_work() as other:
        locked = save(other, "Locked")
    with catalog.unit_of_work() as other:
        other.update_status(locked.id, PROCESSING)
        with pytest.raises(errors.TransactionAborted) as caught, small.unit_of_work() as work:
            save(work, "Lost")
            swallow(work, locked)
        assert (caught.value.phase, caught.value.retryable) == ("commit", False)
    assert titles(small) == ["Locked"]
    assert_full(small)


def test_work_that_goes_on_after_a_swallowed_error_is_refused(small: Catalog) -> None:
    with pytest.raises(errors.TransactionAborted), small.unit_of_work() as work:
        swallow_an_error_of_the_driver(work, save(work, "Lost"))
        with pytest.raises(errors.TransactionAborted):
            save(work, "Lost too")
        with pytest.raises(errors.TransactionAborted):
            work.claim()
    assert titles(small) == []
    assert_full(small)


# Connections that are lost.


def terminate(database_url: str, pid: int) -> None:
    with psycopg.connect(libpq(database_url), autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


@pytest.mark.parametrize("with_session", [False, True])
def test_a_connection_that_is_lost_inside_is_replaced(small: Catalog, database_url: str, *, with_session: bool) -> None:
    with pytest.raises(errors.DatabaseUnavailable) as caught, small.unit_of_work() as work:
        save(work, "Lost")
        pid = (
            work.session.scalar(text("SELECT pg_backend_pid()"))
            if with_session
            else work._open().driver().info.backend_pid
        )
        terminate(database_url, int(pid))
        save(work, "Lost too")
    assert caught.value.retryable
    assert titles(small) == []
    assert_full(small)


@pytest.mark.parametrize("with_session", [False, True])
def test_a_connection_that_is_lost_at_the_end_leaves_the_outcome_open(
    small: Catalog, database_url: str, *, with_session: bool
) -> None:
    with pytest.raises(errors.CommitOutcomeUnknown), small.unit_of_work() as work:
        save(work, "Lost")
        pid = (
            work.session.scalar(text("SELECT pg_backend_pid()"))
            if with_session
            else work._open().driver().info.backend_pid
        )
        terminate(database_url, int(pid))
    assert titles(small) == []
    assert_full(small)


def test_one_connection_serves_calls_and_units_of_both_kinds_in_turn(small: Catalog) -> None:
    for turn in range(5):
        with small.unit_of_work() as work:
            track = save(work, f"{turn}")
            if turn % 2:
                assert work.session.get(Track, track.id) is not None
        small.update_status(track.id, FAILED)
        assert small.get(track.id).status is FAILED
        assert small.search(f"{turn}").total == 1
    assert len(titles(small)) == 5
    assert_full(small)


def test_limits_of_time_hold_in_a_unit_of_either_kind(small: Catalog) -> None:
    """Behind a pooler they are set for each transaction: also for one that the host begins after its own commit."""
    with small.unit_of_work() as work:
        shown = work._open().driver().execute("SHOW lock_timeout").fetchone()
        assert shown == ("200ms",)
        assert work.session.scalar(text("SHOW lock_timeout")) == "200ms"
        work.session.commit()
        assert work.session.scalar(text("SHOW lock_timeout")) == "200ms"


def test_threads_that_share_one_connection_take_turns(small: Catalog) -> None:
    failures: list[Exception] = []

    def take_turns(number: int) -> None:
        try:
            for turn in range(4):
                with small.unit_of_work() as work:
                    save(work, f"{number} {turn}")
                    if (number + turn) % 2:
                        work.session.flush()
        except errors.CatalogError as error:
            failures.append(error)

    threads = [threading.Thread(target=take_turns, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(titles(small)) == 16
    assert_full(small)


def test_an_answer_that_is_awaited_ends_with_its_connection(
    small: Catalog, catalog: Catalog, database_url: str
) -> None:
    """The unit of work was not committing, so it may be run again."""
    with catalog.unit_of_work() as other:
        locked = save(other, "Locked")
    small.health()
    caught: list[errors.CatalogError] = []

    def move() -> None:
        try:
            with small.unit_of_work() as work:
                work._open().driver().execute("SET LOCAL lock_timeout = '60s'")
                work.update_status(locked.id, FAILED)
        except errors.CatalogError as error:
            caught.append(error)

    with catalog.unit_of_work() as other:
        other.update_status(locked.id, PROCESSING)
        moving = threading.Thread(target=move)
        moving.start()
        wait_until_blocked(database_url, "audio_tracks")
        with psycopg.connect(libpq(database_url), autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
        moving.join()
    assert [type(error) for error in caught] == [errors.DatabaseUnavailable]
    assert_full(small)
