"""Every limit of time ends what it is for, in its own words, and leaves nothing behind on the connection."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest
from sqlalchemy import text

from audiocatalog import Catalog, TrackMetadata, TrackStatus, UnitOfWork, errors
from tests.support.command import locked
from tests.support.databases import libpq
from tests.support.frozen import fill, outcome_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.both_sides

_SHOWN = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "plan_cache_mode")
_TABLE = "audio_tracks"


@pytest.fixture(params=[False, True], ids=["straight", "pooler"])
def short(request: pytest.FixtureRequest, database_url: str) -> Iterator[Catalog]:
    """Give a catalogue of one connection, so that the next user has what the last one left."""
    with Catalog(
        database_url,
        pool_size=1,
        pool_timeout=2,
        statement_timeout=1,
        search_timeout=0.5,
        lock_timeout=0.5,
        idle_timeout=1,
        pooler=request.param,
    ) as catalog:
        yield catalog


def of_the_session(catalog: Catalog) -> list[str]:
    """Return what the connection is set to between transactions, and who it is."""
    with catalog.unit_of_work() as work:
        driver = work._open().driver()
        driver.rollback()
        return [str(driver.execute(f"SHOW {name}").fetchone()) for name in _SHOWN]


@pytest.fixture
def clean(short: Catalog) -> Iterator[None]:
    """See that the next user of the connection finds it as the first one did."""
    before = of_the_session(short)
    if short._settings.pooler:
        # What is set for a session would be another client's behind a pooler.
        with psycopg.connect(libpq(short._database.url)) as other:
            assert before == [str(other.execute(f"SHOW {name}").fetchone()) for name in _SHOWN]
    yield
    fill(short, 1)
    assert of_the_session(short) == before


def sleeping(work: UnitOfWork) -> None:
    work.session.execute(text("SELECT pg_sleep(20)"))


def idling(work: UnitOfWork) -> None:
    idle_until_ended(work)
    work.save(TrackMetadata(), audio_path="a")


def idle_until_ended(work: UnitOfWork) -> None:
    """Do nothing in a transaction until the server has lost its patience."""
    driver = work._open().driver()
    process = driver.info.backend_pid  # Behind PgBouncer, to ask is not to be idle.
    with psycopg.connect(driver.info.dsn, autocommit=True, prepare_threshold=None) as admin:
        there = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
        wait_until(lambda: admin.execute(there, [process]).fetchone() is None)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    ("action", "expected", "sqlstate"),
    [(sleeping, errors.QueryTimeout, "57014"), (idling, errors.TransactionAborted, "25P03")],
)
def test_a_unit_of_work_ends_at_its_limits_and_keeps_nothing(
    short: Catalog, action: Callable[[UnitOfWork], None], expected: type[errors.CatalogError], sqlstate: str
) -> None:
    with pytest.raises(expected) as caught, short.unit_of_work() as work:
        track = work.save(TrackMetadata(title="Not kept"), audio_path="a")
        action(work)
    assert caught.value.sqlstate == sqlstate
    assert not caught.value.retryable
    assert short.find(track.id) is None


@pytest.mark.usefixtures("clean")
def test_idleness_that_ends_at_the_commit_keeps_nothing_either(short: Catalog) -> None:
    with pytest.raises(errors.CatalogError) as caught, short.unit_of_work() as work:
        track = work.save(TrackMetadata(title="Not kept"), audio_path="a")
        idle_until_ended(work)
    assert type(caught.value) is errors.TransactionAborted
    assert caught.value.sqlstate == "25P03"
    assert short.find(track.id) is None


@pytest.mark.usefixtures("clean")
def test_waiting_for_a_lock_ends_before_the_statement_does_and_may_be_tried_again(
    short: Catalog, database_url: str
) -> None:
    track = short.run(lambda work: work.save(TrackMetadata(), audio_path="a"))
    with locked(database_url, _TABLE):
        for call in (
            lambda: short.find(track.id),
            lambda: short.update_status(track.id, TrackStatus.PENDING),
            lambda: short.run(lambda work: work.save(TrackMetadata(), audio_path="a"), deadline=0),
        ):
            with pytest.raises(errors.TransientConflict) as caught:
                call()
            assert caught.value.sqlstate == "55P03"
            assert caught.value.retryable
    assert short.get(track.id).version == 1


@pytest.mark.usefixtures("clean")
def test_a_search_has_a_limit_of_its_own(short: Catalog, database_url: str) -> None:
    """A lock is waited for longer here than a search may take, so it is the search's limit that ends it."""
    with Catalog(
        database_url, pool_size=1, search_timeout=0.2, lock_timeout=4, pooler=short._settings.pooler
    ) as catalog:
        fill(catalog, 1)
        with locked(database_url, _TABLE), pytest.raises(errors.QueryTimeout) as caught:
            catalog.search("anything")
        assert caught.value.sqlstate == "57014"
        assert catalog.search("anything").total == 0
        assert of_the_session(catalog)[0] == str(("0" if short._settings.pooler else "5s",))


@pytest.mark.usefixtures("clean")
def test_what_somebody_ends_on_the_server_was_cancelled_and_took_no_time_too_long(
    short: Catalog, database_url: str
) -> None:
    with Catalog(database_url, pool_size=1, pooler=short._settings.pooler) as catalog:
        (pid,) = fill(catalog, 1)

        def cancel() -> None:
            with psycopg.connect(libpq(database_url), autocommit=True) as admin:
                asleep = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
                wait_until(lambda: admin.execute(asleep, [pid]).fetchone() is not None)
                admin.execute("SELECT pg_cancel_backend(%s)", [pid])

        canceller = threading.Thread(target=cancel)
        canceller.start()
        with pytest.raises(errors.OperationCancelled) as caught, catalog.unit_of_work() as work:
            sleeping(work)
        canceller.join()
        assert caught.value.sqlstate == "57014"
        assert not caught.value.retryable
        # The connection is as good as before.
        assert fill(catalog, 1) == [pid]


@pytest.mark.usefixtures("clean")
def test_a_limit_that_strikes_where_the_server_forgets_it_is_a_limit_nevertheless(short: Catalog) -> None:
    """
    The server cannot be interrupted while it reads a statement. It sets the limit anew when it has read one, and takes
    the interrupt that it owes for somebody's wish.
    """
    long = "SELECT 1 WHERE 1 IN (" + "1," * 300_000 + "1)"
    with pytest.raises(errors.QueryTimeout) as caught, short.unit_of_work() as work:
        work.set_statement_timeout(0.005)
        work.session.connection().exec_driver_sql(long)
    assert "canceling statement due to user request" in str(caught.value.__cause__)
    assert "exceeded its timeout" in str(caught.value)


@pytest.mark.parametrize("pooler", [False, True])
def test_a_pool_that_is_used_up_says_by_whom_when_the_time_is_over(database_url: str, *, pooler: bool) -> None:
    with Catalog(database_url, pool_size=2, pool_timeout=0.5, pooler=pooler) as catalog:
        fill(catalog, 2)
        with catalog.unit_of_work(), catalog.unit_of_work():
            outcomes = [outcome_of(catalog.count_by_status) for _ in range(3)]
        for error, seconds in outcomes:
            assert isinstance(error, errors.PoolTimeout)
            assert seconds >= 0.45
            assert re.search(r"none of 2 .* within 0\.5 s .*2 in use, \d+ waiting.* \d\.\d s ago, was by", str(error))
            assert threading.current_thread().name in str(error)
        fill(catalog, 2)
