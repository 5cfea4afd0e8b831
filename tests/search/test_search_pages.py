"""Pages neither skip nor repeat a track, and what is said of all hits is true."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from uuid import UUID

import pytest

from audiocatalog import Catalog, SearchFilters, TrackMetadata, TrackRecord, UnitOfWork, errors
from audiocatalog.search.results import SearchOrder
from tests.support.searches import found, insert_many, save

pytestmark = pytest.mark.both_sides

SORTS = list(get_args(SearchOrder))
LONG_AGO = datetime(2001, 2, 3, tzinfo=UTC)


@pytest.fixture
def thirty(work: UnitOfWork) -> list[UUID]:
    """Give thirty tracks that hold one word, alike in pairs and in threes."""
    records = [
        TrackRecord(
            TrackMetadata(
                title=f"Common {'ABCDE'[n % 5]}",
                artist=[None, "Zed", "Änne", "anna"][n % 4],
                year=[None, 1990, 2001][n % 3],
            ),
            audio_path="a",
        )
        for n in range(30)
    ]
    assert work.bulk_save(records).inserted == 30
    return [record.id for record in records]


@pytest.mark.parametrize("sort", SORTS)
def test_limit_and_offset_cut_the_same_list(work: UnitOfWork, thirty: list[UUID], sort: SearchOrder) -> None:
    whole = found(work, "common", limit=100, order_by=sort)
    assert sorted(whole) == sorted(thirty)
    for limit, offset in ((1, 0), (7, 0), (7, 7), (10, 25), (10, 30), (100, 10_000)):
        page = work.search("common", limit=limit, offset=offset, order_by=sort)
        assert [hit.track.id for hit in page] == whole[offset : offset + limit]
        assert (page.total, page.is_total_exact, page.is_partial) == (30, True, False)
        assert (page.next_cursor is not None) == (offset + limit < 30)


def walk(catalog: Catalog | UnitOfWork, query: str, between: Callable[[], None], **options: Any) -> Iterator[UUID]:
    """Go through all hits by cursors, with something done *between* the pages."""
    after = None
    while True:
        page = catalog.search(query, after=after, **options)
        yield from (hit.track.id for hit in page)
        if (after := page.next_cursor) is None:
            return
        between()


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("query", ["common", "common b", "title:common ", ""])
def test_cursors_walk_every_hit_once(work: UnitOfWork, thirty: list[UUID], sort: SearchOrder, query: str) -> None:
    options: dict[str, Any] = {"order_by": sort, "filters": SearchFilters(status="COMPLETED")}
    whole = found(work, query, limit=100, **options)
    assert len(whole) == (6 if query == "common b" else 30)
    for limit in (1, 4, 15, 30):
        assert list(walk(work, query, lambda: None, limit=limit, **options)) == whole


@pytest.mark.parametrize("sort", SORTS)
def test_cursors_neither_skip_nor_repeat_while_others_write(catalog: Catalog, sort: SearchOrder) -> None:
    def save_some(number: int, kind: str) -> list[UUID]:
        with catalog.unit_of_work() as work:
            return [
                save(work, title=f"Common {kind} {n % 5}", artist=f"Band {n % 3}", year=1990 + n % 4)
                for n in range(number)
            ]

    steady, changing = save_some(40, "Steady"), save_some(10, "Changing")
    calls = 0

    def others_write() -> None:
        nonlocal calls
        calls += 1
        save_some(3, "New")
        with catalog.unit_of_work() as work:
            for place, track in enumerate(changing):
                metadata = TrackMetadata(title=f"Common Changed {calls * 7 % (place + 2)}", year=1980 + calls + place)
                work.save(metadata, audio_path="a", id=track, replace=True)

    walked = list(walk(catalog, "common", others_write, limit=6, order_by=sort))
    counted = Counter(walked)
    assert calls >= 6
    assert {track: counted[track] for track in steady} == dict.fromkeys(steady, 1)
    order = found(catalog, "steady", limit=100, order_by=sort)
    assert [track for track in walked if track in set(steady)] == order


def test_cursors_walk_what_was_found_by_widening(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        steady = [save(work, title=f"Nirvana {n}", artist="Somebody") for n in range(25)]
    catalog.refresh_vocabulary()

    def others_write() -> None:
        with catalog.unit_of_work() as work:
            save(work, title="Nirvana Again", artist="Somebody")

    assert catalog.search("nirvanna").suggestion == "nirvana"
    walked = Counter(walk(catalog, "nirvanna", others_write, limit=6))
    assert {track: walked[track] for track in steady} == dict.fromkeys(steady, 1)


def test_a_widened_walk_stays_one_when_somebody_saves_what_was_typed(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        steady = [save(work, title=f"Nirvana {n}", artist="Somebody") for n in range(12)]
    catalog.refresh_vocabulary()
    first = catalog.search("nirvanna", limit=5)
    with catalog.unit_of_work() as work:
        save(work, title="Nirvanna", artist="Somebody")
    walked = [hit.track.id for hit in first] + list(walk_on(catalog, "nirvanna", first.next_cursor))
    assert sorted(track for track in walked if track in set(steady)) == sorted(steady)


def walk_on(catalog: Catalog, query: str, after: str | None) -> Iterator[UUID]:
    while after is not None:
        page = catalog.search(query, after=after, limit=5)
        yield from (hit.track.id for hit in page)
        after = page.next_cursor


# Cursors that are none


@pytest.fixture
def cursor(work: UnitOfWork, thirty: list[UUID]) -> str:
    following = work.search("common", limit=5).next_cursor
    assert following is not None
    return following


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ("common a", {}),
        ("common ", {}),
        ("Common", {}),
        ("common", {"order_by": "title"}),
        ("common", {"filters": SearchFilters(year=1990)}),
        ("common", {"filters": SearchFilters(status="COMPLETED")}),
    ],
)
def test_a_cursor_belongs_to_its_search(work: UnitOfWork, cursor: str, query: str, options: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        work.search(query, after=cursor, **options)
    assert (caught.value.field, caught.value.operation) == ("after", "search")


@pytest.mark.parametrize(
    ("filters", "others"),
    [
        ({"year": 1990}, [{"year": 2001}, {"year": (1990, 2001)}, {"year": (1990, None)}, {"year": (None, 1990)}]),
        ({"status": "COMPLETED"}, [{"status": "FAILED"}, {"status": ["COMPLETED", "FAILED"]}]),
        ({"artist": "Zed"}, [{"artist": "Änne"}, {"artist": ["Zed", "Änne"]}, {"album": "Zed"}]),
        ({"created_since": LONG_AGO}, [{"created_since": LONG_AGO + timedelta(1)}, {"updated_since": LONG_AGO}]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_cursor_belongs_to_the_values_of_its_filters(
    work: UnitOfWork, thirty: list[UUID], filters: dict[str, Any], others: list[dict[str, Any]]
) -> None:
    after = work.search("common", filters=SearchFilters(**filters), limit=1).next_cursor
    assert after is not None
    assert work.search("common", filters=SearchFilters(**filters), after=after)
    for other in others:
        with pytest.raises(errors.InvalidInput, match="same query, filters and order_by"):
            work.search("common", filters=SearchFilters(**other), after=after)


def test_a_cursor_does_not_depend_on_the_order_of_a_filters_values(work: UnitOfWork, thirty: list[UUID]) -> None:
    """Sets of text have another order in each process."""
    after = work.search("common", filters=SearchFilters(artist=["Zed", "Änne"]), limit=1).next_cursor
    assert work.search("common", filters=SearchFilters(artist=["Änne", "Zed"]), after=after)


@pytest.mark.parametrize("options", [{"limit": 7}, {"facets": ["genre"]}, {"filters": SearchFilters()}])
def test_a_cursor_may_go_on_with_another_page(work: UnitOfWork, cursor: str, options: dict[str, Any]) -> None:
    whole = found(work, "common", limit=100)
    assert found(work, "common", after=cursor, **({"limit": 20} | options))[:7] == whole[5:12]


def test_a_cursor_and_an_offset_exclude_each_other(work: UnitOfWork, cursor: str) -> None:
    with pytest.raises(errors.InvalidInput, match="after") as caught:
        work.search("common", after=cursor, offset=1)
    assert caught.value.field == "offset"


@pytest.mark.parametrize(
    "after",
    ["", "x", "cursor", "====", "é", "\ud800", "\0", "a" * 100_000, "bnVsbA", "W10", "e30", 5, b"x", True, ["x"], {}],
)
def test_garbage_is_no_cursor(work: UnitOfWork, after: Any) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        work.search("common", after=after)
    assert (caught.value.field, caught.value.operation) == ("after", "search")


def forged(cursor: str, place: int, value: str) -> str:
    """Return *cursor* with the item at *place* written anew as JSON."""
    items = [json.dumps(item) for item in json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))]
    items[place] = value
    return base64.urlsafe_b64encode(f"[{','.join(items)}]".encode()).decode().rstrip("=")


WRONG = [
    *("null", "true", "[]", "{}", '"x"', "-1", "1.5", "NaN", "Infinity", "-Infinity", "1e999", "9" * 5000),
    *("[" * 500 + "]" * 500, "[null]", '["x"]', "[[]]", "[{}]", "[1,2,3,4,5]", '"\\ud800"', '"\\u0000"', '["\\u0000"]'),
    *("[NaN]", "[true]", "[" + "9" * 400 + "]", '["' + "9" * 5000 + '"]', "[-5]", "[7, 1]", '{"a":1}', "[1e400]"),
]


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("place", range(5), ids=["mark", "way", "level", "key", "id"])
def test_a_forged_cursor_is_refused_or_gives_a_page(
    work: UnitOfWork, thirty: list[UUID], sort: SearchOrder, place: int
) -> None:
    cursor = work.search("common", limit=5, order_by=sort).next_cursor
    assert cursor is not None
    for value in WRONG:
        try:
            page = work.search("common", after=forged(cursor, place, value), order_by=sort)
        except errors.InvalidInput as error:
            assert error.field == "after", (value, str(error))  # noqa: PT017
        else:
            assert place in {2, 3}, value
            assert len(page) <= 30


@pytest.mark.parametrize(
    ("sort", "key"),
    [
        *((sort, key) for sort in ("title", "artist") for key in ([0, "\0", "x"], [0, "\ud800", "x"], [0, {}, []])),
        *(("year", key) for key in ([0, "x"], [0, "9" * 30], [0, "\0"], [0, None], [0, "1990; --"], [1, 1990])),
        *(("newest", key) for key in ([0, "x"], [0, "\ud800"], [0, "2024-13-01"], [0, "9" * 400], [0, None])),
        *((sort, [part, "a", "b"]) for sort in ("title", "year", "newest") for part in (2**70, -1, -7, 5, 0.5, True)),
    ],
)
def test_a_forged_key_of_the_right_shape_is_refused_or_gives_a_page(
    work: UnitOfWork, thirty: list[UUID], sort: Any, key: list[object]
) -> None:
    cursor = work.search("common", limit=5, order_by=sort).next_cursor
    assert cursor is not None
    try:
        page = work.search("common", after=forged(cursor, 3, json.dumps(key)), order_by=sort)
    except errors.InvalidInput as error:
        assert error.field == "after"  # noqa: PT017
    else:
        assert len(page) <= 30
    assert work.search("common").total == 30, "the unit of work goes on"


@pytest.mark.parametrize("sort", SORTS)
def test_a_cursor_of_another_way_is_refused_or_gives_a_page(
    work: UnitOfWork, thirty: list[UUID], sort: SearchOrder
) -> None:
    cursor = work.search("common", limit=5, order_by=sort).next_cursor
    assert cursor is not None
    for way in ("typed", "corrected", "title", "artist", "year", "newest"):
        try:
            page = work.search("common", after=forged(cursor, 1, f'"{way}"'), order_by=sort)
        except errors.InvalidInput as error:
            assert error.field == "after", way  # noqa: PT017
        else:
            assert len(page) <= 30


# Totals


def test_the_total_counts_all_pages_even_from_behind_the_last(work: UnitOfWork) -> None:
    for _ in range(5):
        save(work, title="Counted")
    for offset in (0, 3, 9):
        page = work.search("counted", limit=2, offset=offset)
        assert (page.total, page.is_total_exact) == (5, True)
    assert len(work.search("counted", limit=2)) == 2


@pytest.mark.sync_only
def test_a_total_is_exact_up_to_a_thousand(work: UnitOfWork) -> None:
    insert_many(work.session.connection(), 1000, title="'many ' || n")
    for sort in SORTS:
        page = work.search("many", limit=1, order_by=sort, facets=["status"])
        assert (page.total, page.is_total_exact) == (1000, True)
        assert page.facets["status"].is_exact


@pytest.mark.sync_only
def test_a_greater_total_is_an_estimate_and_says_so(work: UnitOfWork) -> None:
    insert_many(
        work.session.connection(), 6000, title="'many ' || n", genre="CASE n % 3 WHEN 0 THEN 'Rock' ELSE 'Pop' END"
    )
    for sort in SORTS:
        page = work.search("many", limit=10, order_by=sort, facets=["genre", "status"])
        assert not page.is_total_exact
        assert 0.7 * 6000 <= page.total <= 1.3 * 6000
        assert (page.is_partial, len(page)) == (False, 10)
        genres = {value.value: value.tracks for value in page.facets["genre"].values}
        assert not page.facets["genre"].is_exact
        assert 0.6 * 4000 <= genres["Pop"] <= 1.4 * 4000
        assert 0.6 * 2000 <= genres["Rock"] <= 1.4 * 2000


@pytest.mark.sync_only
def test_pages_of_a_sample_follow_each_other_too(work: UnitOfWork) -> None:
    insert_many(work.session.connection(), 6000, title="'many ' || n % 100")
    walked: list[UUID] = []
    after = None
    for _ in range(6):
        page = work.search("many", limit=20, after=after)
        walked += (hit.track.id for hit in page)
        after = page.next_cursor
        assert after is not None
    assert len(set(walked)) == 120
    assert walked == found(work, "many", limit=100) + found(work, "many", limit=20, offset=100)
