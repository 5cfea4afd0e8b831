"""Every track is given once, in constant memory, while others write, by statements of bounded work."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from uuid import UUID, uuid4

import psycopg
import pytest

from audiocatalog import (
    Catalog,
    SearchFilters,
    Track,
    TrackMetadata,
    TrackOrder,
    TrackStatus,
    UnitOfWork,
    errors,
)
from audiocatalog.db import execute
from audiocatalog.operations import iteration
from audiocatalog.operations.iteration import TrackScan, scan_sql
from audiocatalog.operations.operation import INDEX_ORDER_SETTINGS, PlannedStatement, Request, Rows
from tests.support.databases import libpq, temporary_database
from tests.support.plans import Node, nodes, plan_of, rows_read, whole_reads
from tests.support.searches import Asked

pytestmark = pytest.mark.both_sides

ORDERS = list(get_args(TrackOrder))
TRACKS = 30_000


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the list of the statements that are sent."""
    sent: list[str] = []
    send = execute.send

    def note(driver: Any, request: Request, *rest: Any) -> Rows:
        if isinstance(request[0], PlannedStatement):
            sent.append(request[0].sql)
        return send(driver, request, *rest)

    monkeypatch.setattr(execute, "send", note)
    return sent


@pytest.fixture
def few_looked_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a statement look at seven tracks at the most."""
    scan_sql.cache_clear()
    monkeypatch.setattr(iteration, "SCAN_LIMIT", 7)
    yield
    scan_sql.cache_clear()


def save(catalog: Catalog, count: int, **values: Any) -> list[UUID]:
    """Save *count* tracks in one transaction, so that they came at the same time; their ids are in no order."""
    with catalog.unit_of_work() as work:
        return [work.save(TrackMetadata(**values), id=uuid4(), audio_path="a").id for _ in range(count)]


def key_of(track: Track, order: TrackOrder) -> tuple[Any, ...]:
    return tuple(getattr(track, column) for column in iteration.key_of(order))


@pytest.mark.parametrize("batch", [1, 3, 12, 13, 1000])
@pytest.mark.parametrize("order", ORDERS)
def test_every_track_is_given_once_in_order(catalog: Catalog, order: TrackOrder, batch: int) -> None:
    ids = save(catalog, 7) + save(catalog, 5)
    tracks = list(catalog.iter_tracks(order_by=order, batch=batch))
    assert sorted(track.id for track in tracks) == sorted(ids)
    keys = [key_of(track, order) for track in tracks]
    assert keys == sorted(keys, reverse=order == "newest")
    assert all(track.status is TrackStatus.COMPLETED for track in tracks)


def test_an_empty_catalogue_gives_nothing(catalog: Catalog) -> None:
    assert list(catalog.iter_tracks()) == []
    assert list(catalog.iter_tracks(SearchFilters(genre="Jazz"))) == []


@pytest.mark.parametrize("batch", [1, 2, 7, 20])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.usefixtures("few_looked_at")
def test_filters_are_met_across_pages(catalog: Catalog, order: TrackOrder, batch: int) -> None:
    """Some pages are full before all was looked at that may be, some find nothing, and some end at their last track."""
    jazz = [*save(catalog, 1, genre="Jazz", year=1959), *save(catalog, 9, genre="Jazz", year=1960)]
    save(catalog, 30, genre="Rock", year=1960)
    jazz += save(catalog, 4, genre="jazz", year=1961)
    save(catalog, 7, genre="Jazz")
    found = list(catalog.iter_tracks(SearchFilters(genre="Jazz", year=(1950, 1970)), order_by=order, batch=batch))
    assert sorted(track.id for track in found) == sorted(jazz)
    keys = [key_of(track, order) for track in found]
    assert keys == sorted(keys, reverse=order == "newest")


@pytest.mark.parametrize(
    "filters",
    [
        SearchFilters(status="COMPLETED"),
        SearchFilters(artist="a", album="b", genre="c", format="d"),
        SearchFilters(year=(None, 2000), duration=(1.5, None), bitrate=5),
        SearchFilters(created_since=datetime(2000, 1, 1, tzinfo=UTC), updated_since=datetime(2000, 1, 1, tzinfo=UTC)),
    ],
)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.usefixtures("few_looked_at")
def test_each_filter_works_in_each_order(catalog: Catalog, order: TrackOrder, filters: SearchFilters) -> None:
    ids = save(catalog, 9, artist="A", album="B", genre="C", format="D", year=1999, duration=2.0, bitrate=5)
    save(catalog, 9)
    expected = 18 if filters.status or filters.created_since else 9
    found = [track.id for track in catalog.iter_tracks(filters, order_by=order, batch=4)]
    assert len(found) == len(set(found)) == expected
    assert set(ids) <= set(found)


@pytest.mark.parametrize("order", ORDERS)
def test_what_stays_is_given_once_while_others_write(catalog: Catalog, order: TrackOrder) -> None:
    """After each track, one is added, one is moved and one is replaced: wherever they stand in the order."""
    ids = save(catalog, 10) + save(catalog, 10)
    seen = []
    for number, track in enumerate(catalog.iter_tracks(order_by=order, batch=3)):
        seen.append(track.id)
        if number < 30:
            save(catalog, 1)
            catalog.update_status(ids[number % 20], TrackStatus.PENDING if number < 20 else TrackStatus.FAILED)
            with catalog.unit_of_work() as work:
                work.save(TrackMetadata(title=f"{number}"), id=ids[-number % 20], audio_path="b", replace=True)
    assert len(seen) == len(set(seen))
    assert set(ids) <= set(seen)


def test_the_arguments_are_checked_at_once(catalog: Catalog) -> None:
    for wrong, field in (
        ({"order_by": "random"}, "order_by"),
        ({"order_by": None}, "order_by"),
        ({"batch": 0}, "batch"),
        ({"batch": 10_001}, "batch"),
        ({"batch": True}, "batch"),
        ({"batch": 2.0}, "batch"),
        ({"filters": "genre"}, "filters"),
    ):
        with pytest.raises(errors.InvalidInput) as caught:
            catalog.iter_tracks(**wrong)
        assert (caught.value.field, caught.value.operation) == (field, "iter_tracks")


@pytest.mark.sync_only
def test_no_more_than_a_batch_is_held(catalog: Catalog, statements: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A track that nobody keeps is gone when the next one comes, and so are the rows of a page."""
    save(catalog, 40)
    pages: list[int] = []
    send = execute.send

    class RowList(list[Any]):
        """A list to which a weak reference can point."""

    alive: list[weakref.ref[Any]] = []

    def note(driver: Any, request: Request, *rest: Any) -> Rows:
        pages.append(sum(one() is not None for one in alive))
        rows = RowList(send(driver, request, *rest))
        alive.append(weakref.ref(rows))
        return rows

    monkeypatch.setattr(execute, "send", note)
    gc.disable()
    try:
        tracks = catalog.iter_tracks(batch=8)
        given: list[weakref.ref[Track]] = []
        for track in tracks:
            given.append(weakref.ref(track))
            assert sum(one() is not None for one in given) <= 2
    finally:
        gc.enable()
    assert len(given) == 40
    # Five full pages, and one to see that nothing is behind them; each is asked for when the one before is gone.
    assert len(statements) == 6
    assert pages == [0] * 6


@pytest.mark.sync_only
def test_a_page_is_read_when_its_first_track_is_asked_for(catalog: Catalog, statements: list[str]) -> None:
    save(catalog, 4)
    tracks = catalog.iter_tracks(batch=2)
    assert statements == []
    next(tracks)
    next(tracks)
    assert len(statements) == 1
    next(tracks)
    assert len(statements) == 2


@pytest.mark.parametrize("pooler", [False, True])
def test_a_catalogue_holds_no_connection_between_tracks(database_url: str, *, pooler: bool) -> None:
    with Catalog(database_url, pool_size=1, pool_timeout=2, pooler=pooler) as catalog:
        ids = save(catalog, 6)
        seen = []
        for track in catalog.iter_tracks(SearchFilters(status="COMPLETED"), batch=2):
            seen.append(track.id)
            assert catalog.get(track.id).version == 1
            with psycopg.connect(libpq(database_url), autocommit=True) as admin:
                row = admin.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND application_name = 'audiocatalog' AND state LIKE 'idle in transaction%'"
                ).fetchone()
            assert row == (0,)
        assert sorted(seen) == sorted(ids)


def test_a_unit_of_work_sees_what_it_has_written(work: UnitOfWork) -> None:
    ids = [work.save(TrackMetadata(), audio_path="a").id for _ in range(5)]
    tracks = work.iter_tracks(order_by="newest", batch=2)
    first = next(tracks)
    # All have come at the same time, that of the transaction, and the lowest id is the last of them.
    later = work.save(TrackMetadata(), audio_path="a", id=UUID(int=1)).id
    assert sorted([first.id, *(track.id for track in tracks)]) == sorted([*ids, later])


def test_a_unit_of_work_that_has_ended_gives_no_more(catalog: Catalog) -> None:
    save(catalog, 4)
    with catalog.unit_of_work() as work:
        tracks = work.iter_tracks(batch=2)
        next(tracks)
    next(tracks)
    with pytest.raises(errors.UnitOfWorkEnded):
        next(tracks)


def test_a_page_that_takes_too_long_is_a_timeout_and_the_unit_goes_on(database_url: str) -> None:
    with Catalog(database_url, statement_timeout=0.3, lock_timeout=60) as catalog, catalog.unit_of_work() as work:
        with psycopg.connect(libpq(database_url)) as other:
            other.execute("LOCK TABLE audio_tracks")
            with pytest.raises(errors.QueryTimeout) as caught:
                list(work.iter_tracks(SearchFilters(format="ogg")))
            assert caught.value.operation == "iter_tracks"
        assert list(work.iter_tracks()) == []


# What the statements cost


@pytest.fixture(scope="module")
def library(server_url: str, migrated_template: str) -> Iterator[str]:
    """Give a database that is large enough for plans to matter."""
    with temporary_database(server_url, template=migrated_template) as url:
        with psycopg.connect(libpq(url), autocommit=True) as admin:
            admin.execute(
                "INSERT INTO audio_tracks (id, status, title, genre, year, audio_path, created_at)"
                " SELECT gen_random_uuid(), 'COMPLETED', 't', 'genre' || n % 50, 1950 + n % 70, 'a',"
                f" now() - n * interval '1 minute' FROM generate_series(1, {TRACKS}) AS n"
            )
            admin.execute("VACUUM ANALYZE audio_tracks")
        yield url


def plan(url: str, walk: TrackScan, *, is_first: bool, **after: Any) -> Node:
    statement = scan_sql(walk.order, walk.batch, walk.filtered, walk.bounded, is_first=is_first)
    if is_first and not walk.parameters:
        # What is prepared for this test takes at least one parameter.
        statement, after = f"{statement} OFFSET %(none)s", {"none": 0}
    with psycopg.connect(libpq(url), autocommit=True, prepare_threshold=None) as connection:
        return plan_of(connection, Asked(statement, {**walk.parameters, **after}, INDEX_ORDER_SETTINGS))


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("filters", [None, SearchFilters(genre="none"), SearchFilters(genre="genre7")])
@pytest.mark.parametrize("order", ORDERS)
def test_a_statement_walks_the_index_of_its_order_and_no_further_than_it_may(
    library: str, order: TrackOrder, filters: SearchFilters | None, *, is_first: bool
) -> None:
    walk = TrackScan.make(filters, order, 100)
    middle = {"after_created_at": datetime.now(UTC) - timedelta(minutes=TRACKS / 2), "after_id": UUID(int=2**127)}
    found = plan(library, walk, is_first=is_first, **middle)
    assert whole_reads(found) == []
    assert {node["Node Type"] for node in nodes(found)}.isdisjoint({"Sort", "Incremental Sort", "Bitmap Heap Scan"})
    (scan,) = (node for node in nodes(found) if node.get("Relation Name") == "audio_tracks")
    expected = "pk_audio_tracks" if order == "id" else "ix_audio_tracks_created_at"
    assert scan["Index Name"] == expected
    if not is_first:
        # Where the page begins is looked up; nothing before it is read and thrown away.
        assert "ROW(" in scan["Index Cond"] or order == "id"
        assert scan.get("Rows Removed by Filter", 0) == 0
    if filters is None:
        assert rows_read(found) == walk.batch
    elif filters.genre == ("none",):
        assert rows_read(found) == iteration.SCAN_LIMIT
    else:
        # Every fiftieth meets the filter, so that the page is full before all was looked at that may be.
        assert walk.batch <= rows_read(found) < iteration.SCAN_LIMIT


@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_a_walk_in_order_of_time_begins_or_ends_at_a_filter_of_time(library: str, order: TrackOrder) -> None:
    since = datetime.now(UTC) - timedelta(minutes=50)
    walk = TrackScan.make(SearchFilters(created_since=since), order, 1000)
    found = plan(library, walk, is_first=True)
    assert rows_read(found) <= 50


def test_a_filter_that_nothing_meets_costs_few_statements(library: str, statements: list[str]) -> None:
    with Catalog(library) as catalog:
        assert list(catalog.iter_tracks(SearchFilters(genre="none"), batch=10)) == []
    # Three that look at 10,000 each, and one to see that nothing is behind them.
    assert len(statements) == 4
