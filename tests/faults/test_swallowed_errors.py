"""An error that is caught inside a unit of work has undone all of it on the server: the end says so, always.

PostgreSQL answers the COMMIT of such a transaction by rolling back, and neither psycopg nor SQLAlchemy tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy.exc
from sqlalchemy import insert, select, text

from audiocatalog import Catalog, SearchFilters, Track, TrackMetadata, TrackStatus, UnitOfWork, errors
from audiocatalog.models.ids import new_id
from tests.support.databases import libpq
from tests.support.hosts import Note, host_notes

PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus
WRONG = text("SELECT 1 / 0")
ANY_ERROR = (sqlalchemy.exc.SQLAlchemyError, psycopg.Error, errors.CatalogError)


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.faults)], ids=["straight", "pooler"])
def small(database_url: str, request: pytest.FixtureRequest) -> Iterator[Catalog]:
    """Give a catalogue of one connection that waits for nobody."""
    with (
        host_notes(database_url),
        Catalog(database_url, pool_size=1, pool_timeout=2.0, lock_timeout=0.1, pooler=request.param) as catalog,
    ):
        yield catalog


def duplicate(work: UnitOfWork) -> Note:
    """Return a row of the host's that is there already."""
    work.session.execute(insert(Note).values(name="there"))
    return Note(name="there")


def core(work: UnitOfWork) -> None:
    work.session.connection().execute(WRONG)


def core_with_raw_sql(work: UnitOfWork) -> None:
    work.session.connection().exec_driver_sql("SELECT nothing_of_the_kind")


def orm_query(work: UnitOfWork) -> None:
    work.session.scalars(select(Track).where(text("1 / 0 = 1"))).all()


def orm_flush(work: UnitOfWork) -> None:
    work.session.add(duplicate(work))
    work.session.flush()


def orm_autoflush(work: UnitOfWork) -> None:
    work.session.add(duplicate(work))
    work.session.scalars(select(Track)).all()


def orm_flush_before_one_of_our_verbs(work: UnitOfWork) -> None:
    work.session.add(duplicate(work))
    work.find(uuid4())


def cursor_of_the_driver(work: UnitOfWork) -> None:
    driver: Any = work.session.connection().connection.driver_connection
    driver.cursor().execute("SELECT 1 / 0")


def copy_of_the_driver(work: UnitOfWork) -> None:
    driver: Any = work.session.connection().connection.driver_connection
    with driver.cursor().copy("COPY audio_tracks (id) FROM STDIN") as copy:
        copy.write("no id\n")


def savepoint_that_is_released(work: UnitOfWork) -> None:
    """The error is caught inside the savepoint, so that nobody rolls back to it."""
    with work.session.begin_nested(), suppress(*ANY_ERROR):
        work.session.execute(WRONG)


def move_of_a_locked_track(work: UnitOfWork) -> None:
    work.update_status(LOCKED, FAILED)


def moves_of_locked_tracks(work: UnitOfWork) -> None:
    work.update_statuses([LOCKED], FAILED)


def save_over_a_locked_track(work: UnitOfWork) -> None:
    work.save(TrackMetadata(title="other"), audio_path="a", id=LOCKED, replace=True)


def search_that_takes_too_long(work: UnitOfWork) -> None:
    work.session.execute(text("SET LOCAL statement_timeout = '1ms'"))
    work.session.execute(text("SELECT pg_sleep(1)"))
    work.search("anything", filters=SearchFilters(year=(1990, 2000)))


def statement_of_a_host_that_times_out(work: UnitOfWork) -> None:
    work.session.execute(text("SET LOCAL statement_timeout = '5ms'"))
    work.session.execute(text("SELECT pg_sleep(1)"))


LOCKED = new_id()
SWALLOWED: list[Callable[[UnitOfWork], None]] = [
    core,
    core_with_raw_sql,
    orm_query,
    orm_flush,
    orm_autoflush,
    orm_flush_before_one_of_our_verbs,
    cursor_of_the_driver,
    copy_of_the_driver,
    savepoint_that_is_released,
    move_of_a_locked_track,
    moves_of_locked_tracks,
    save_over_a_locked_track,
    search_that_takes_too_long,
    statement_of_a_host_that_times_out,
]


@pytest.fixture
def locked(catalog: Catalog, database_url: str) -> Iterator[None]:
    """Have somebody else hold a track."""
    catalog.run(lambda work: work.save(TrackMetadata(title="locked"), audio_path="a", id=LOCKED, status=PENDING))
    with psycopg.connect(libpq(database_url)) as other:
        other.execute("SELECT FROM audio_tracks WHERE id = %s FOR UPDATE", [LOCKED])
        yield
        other.rollback()


def commit_by_the_unit(work: UnitOfWork) -> None:
    """Leave it to the end of the block."""


def commit_by_the_host(work: UnitOfWork) -> None:
    work.session.commit()


def commit_by_the_host_who_goes_on(work: UnitOfWork) -> None:
    with suppress(*ANY_ERROR):
        work.session.flush()
    work.session.commit()
    work.save(TrackMetadata(title="after"), audio_path="a")


@pytest.mark.parametrize("commit", [commit_by_the_unit, commit_by_the_host, commit_by_the_host_who_goes_on])
@pytest.mark.parametrize("swallow", SWALLOWED)
@pytest.mark.usefixtures("locked")
def test_a_swallowed_error_raises_at_the_end(
    small: Catalog, catalog: Catalog, swallow: Callable[[UnitOfWork], None], commit: Callable[[UnitOfWork], None]
) -> None:
    reached_the_end = False
    with pytest.raises(errors.TransactionAborted) as caught, small.unit_of_work() as work:
        work.save(TrackMetadata(title="before"), audio_path="a")
        with suppress(*ANY_ERROR):
            swallow(work)
            # A savepoint that hid the error from the block is no end yet.
            assert swallow is savepoint_that_is_released
        reached_the_end = True
        commit(work)
    assert reached_the_end
    assert not caught.value.retryable
    with catalog.unit_of_work() as reader:
        assert list(reader.session.scalars(select(Track.title))) == ["locked"]
    # The one connection is as good as before.
    assert small.run(lambda work: work.save(TrackMetadata(title="next"), audio_path="a")).version == 1


@pytest.mark.parametrize("swallow", [each for each in SWALLOWED if each is not savepoint_that_is_released])
@pytest.mark.usefixtures("locked")
def test_an_error_inside_a_savepoint_that_is_rolled_back_costs_no_more_than_that(
    small: Catalog, catalog: Catalog, swallow: Callable[[UnitOfWork], None]
) -> None:
    with small.unit_of_work() as work:
        work.save(TrackMetadata(title="before"), audio_path="a")
        with pytest.raises(ANY_ERROR), work.session.begin_nested():
            swallow(work)
        work.save(TrackMetadata(title="after"), audio_path="a")
    with catalog.unit_of_work() as reader:
        assert sorted(reader.session.scalars(select(Track.title))) == ["after", "before", "locked"]


@pytest.mark.usefixtures("locked")
def test_run_does_not_repeat_what_swallows_its_errors(small: Catalog) -> None:
    runs: list[UnitOfWork] = []

    def unit(work: UnitOfWork) -> None:
        runs.append(work)
        with suppress(errors.TransientConflict):
            work.update_status(LOCKED, FAILED)

    with pytest.raises(errors.TransactionAborted):
        small.run(unit)
    assert len(runs) == 1


def test_an_engine_of_the_host_is_guarded_as_well(small: Catalog) -> None:
    """The session's engine is the catalogue's: a host that begins a transaction of its own on it is told too."""
    with small.unit_of_work() as work:
        engine: Any = work.session.get_bind()
    with (
        pytest.raises(errors.TransactionAborted),
        engine.begin() as connection,
        suppress(sqlalchemy.exc.DataError),
    ):
        connection.execute(WRONG)
