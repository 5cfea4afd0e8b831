"""One round trip tells how the server, its schema, the work in it and the pool stand."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest

from audiocatalog import Catalog, TrackMetadata, TrackStatus
from audiocatalog.models.ids import new_id
from audiocatalog.models.sql_names import SCHEMA_REVISION
from tests.support.databases import libpq

pytestmark = pytest.mark.both_sides


@pytest.fixture
def small(database_url: str) -> Iterator[Catalog]:
    with Catalog(database_url, pool_size=3, debug_pool=True) as catalog:
        yield catalog


def test_it_tells_of_server_and_schema(catalog: Catalog) -> None:
    health = catalog.health()
    assert health.server_version.split(".")[0].isdigit()
    assert (health.server_encoding, health.is_standby) == ("UTF8", False)
    assert (health.schema_revision, health.expected_revision) == (SCHEMA_REVISION, SCHEMA_REVISION)


def test_it_tells_how_old_the_vocabulary_is(catalog: Catalog, database_url: str) -> None:
    assert catalog.health().vocabulary_age is None
    catalog.refresh_vocabulary()
    with psycopg.connect(libpq(database_url), autocommit=True) as admin:
        admin.execute("UPDATE audio_search_counts SET at = at - interval '1 hour'")
    age = catalog.health().vocabulary_age
    assert age is not None
    assert 3600 <= age < 3700


def test_it_counts_claims_that_nobody_holds_any_more(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        for _ in range(3):
            work.save(TrackMetadata(), audio_path="a", status=TrackStatus.PENDING)
    catalog.claim(1, lease=timedelta(hours=1))
    assert catalog.health().stuck_claims == 0
    catalog.claim(2, lease=timedelta(milliseconds=10))
    threading.Event().wait(0.02)
    assert catalog.health().stuck_claims == 2
    catalog.release_expired()
    assert catalog.health().stuck_claims == 0


def test_it_tells_who_holds_connections(small: Catalog) -> None:
    with small.unit_of_work() as first, small.unit_of_work() as second:
        assert first.find(new_id()) is second.find(new_id()) is None
        health = small.health()
        assert (health.pool.size, health.pool.connections, health.pool.in_use, health.pool.waiting) == (3, 3, 3, 0)
        assert health.pool.oldest_held is not None
        assert health.pool.oldest_held > 0
        assert health.pool.oldest_holder is not None
        assert "checked out in test_it_tells_who_holds_connections (test_health.py:" in health.pool.oldest_holder
        assert health.pool.oldest_holder.startswith(f"thread {threading.current_thread().name}")
    pool = small.pool_stats()
    assert (pool.connections, pool.in_use, pool.oldest_held, pool.oldest_holder) == (3, 0, None, None)


def test_it_tells_how_long_callers_wait(small: Catalog) -> None:
    assert (small.pool_stats().wait_p50, small.pool_stats().wait_p99) == (None, None)
    small.warm_up()
    for _ in range(50):
        small.count_by_status()
    pool = small.pool_stats()
    assert pool.wait_p50 is not None
    assert pool.wait_p99 is not None
    assert 0 < pool.wait_p50 <= pool.wait_p99


def test_a_catalogue_that_was_not_used_has_figures_too(database_url: str) -> None:
    with Catalog(database_url) as catalog:
        assert (catalog.pool_stats().size, catalog.pool_stats().connections) == (5, 0)
