"""Searches may not have every connection of the pool: something is always kept for what else a service does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg
import pytest

from audiocatalog import Catalog, SearchPage, TrackMetadata, errors
from audiocatalog.db.settings import Settings, settings_from_environment
from tests.support.databases import libpq
from tests.support.waiting import wait_until

pytestmark = pytest.mark.both_sides


@contextmanager
def searches_that_take_long(database_url: str, catalog: Catalog, number: int) -> Iterator[list[Any]]:
    """Have *number* searches run until the block ends; give what becomes of them."""
    outcomes: list[Any] = []

    def search() -> None:
        try:
            outcomes.append(catalog.search("nothing"))
        except errors.CatalogError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=search) for _ in range(number)]
    with ExitStack() as stack:
        for thread in threads:
            stack.callback(thread.join)
        admin = stack.enter_context(psycopg.connect(libpq(database_url)))
        admin.execute("LOCK TABLE audio_tracks IN ACCESS EXCLUSIVE MODE")
        for thread in threads:
            thread.start()
        wait_until(lambda: catalog.pool_stats().searching == min(number, catalog.pool_stats().most_searches))
        yield outcomes


def patient_catalog(url: str, **settings: Any) -> Catalog:
    return Catalog(url, search_timeout=30.0, lock_timeout=30.0, statement_timeout=30.0, **settings)


@pytest.mark.parametrize(("pool_size", "most"), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 4), (8, 6), (16, 12), (1000, 750)])
def test_by_default_a_quarter_of_the_pool_is_kept_and_at_least_one(pool_size: int, most: int) -> None:
    assert Settings(pool_size=pool_size).searches == most
    assert most < pool_size or pool_size == 1
    assert Catalog("postgresql://localhost/x", pool_size=pool_size).pool_stats().most_searches == most


def test_it_is_a_setting_with_a_variable() -> None:
    assert settings_from_environment({"AUDIOCATALOG_MAX_SEARCHES": "2"}) == {"max_searches": 2}
    assert Settings(pool_size=2, max_searches=2).searches == 2
    for wrong in (0, 6, -1, True, "2", 1.5):
        with pytest.raises(errors.ConfigurationError, match="max_searches") as caught:
            Catalog("postgresql://localhost/x", pool_size=5, max_searches=wrong)  # type: ignore[arg-type]
        assert caught.value.field == "max_searches"
    with pytest.raises(errors.ConfigurationError, match="AUDIOCATALOG_MAX_SEARCHES"):
        settings_from_environment({"AUDIOCATALOG_MAX_SEARCHES": "many"})


@pytest.mark.parametrize("pooler", [False, True])
def test_searches_leave_a_connection_for_everything_else(database_url: str, *, pooler: bool) -> None:
    with patient_catalog(database_url, pool_size=3, pool_timeout=0.5, pooler=pooler) as catalog:
        catalog.warm_up()
        with searches_that_take_long(database_url, catalog, 2) as outcomes:
            for _ in range(3):
                assert catalog.health().pool.size == 3
            with pytest.raises(errors.TooManySearches, match="raise max_searches") as caught:
                catalog.search("nothing")
            assert isinstance(caught.value, TimeoutError)
            assert (caught.value.operation, caught.value.retryable) == ("search", False)
            with pytest.raises(errors.TooManySearches):
                catalog.explain("nothing", "01890a5d-ac96-774b-bcce-b302099a8057")
            figures = catalog.pool_stats()
            assert (figures.searching, figures.in_use, figures.waiting) == (2, 2, 0)
        assert [type(outcome) for outcome in outcomes] == [SearchPage, SearchPage]
        assert catalog.search("nothing").total == 0
        assert catalog.pool_stats().searching == 0


def test_searches_wait_in_turn_and_hold_nothing_meanwhile(database_url: str) -> None:
    with patient_catalog(database_url, pool_size=2, pool_timeout=30.0) as catalog:
        catalog.warm_up()
        order: list[int] = []

        def search(number: int) -> None:
            with catalog._database.autocommit(searching=True):
                order.append(number)

        first = catalog._database._take(searching=True)
        threads = []
        for number in range(5):
            threads.append(threading.Thread(target=search, args=[number]))
            threads[-1].start()
            wait_until(lambda: catalog.pool_stats().waiting == len(threads))
        assert catalog.pool_stats().in_use == 1
        assert catalog.health().pool.waiting == 5
        first.close()
        for thread in threads:
            thread.join()
        assert order == [0, 1, 2, 3, 4]


def test_a_search_whose_holder_has_vanished_is_not_counted(database_url: str) -> None:
    with patient_catalog(database_url, pool_size=2, pool_timeout=5.0) as catalog:
        catalog.warm_up()
        vanished = catalog._database._take(searching=True)
        assert catalog.pool_stats().searching == 1
        del vanished
        assert catalog.search("nothing").total == 0


def test_a_search_inside_a_unit_of_work_has_its_connection_already(database_url: str) -> None:
    with patient_catalog(database_url, pool_size=3, max_searches=1) as catalog, catalog.unit_of_work() as work:
        work.save(TrackMetadata(title="Idioteque"), audio_path="a")
        running = catalog._database._take(searching=True)
        assert work.search("idioteque").total == 1
        running.close()
