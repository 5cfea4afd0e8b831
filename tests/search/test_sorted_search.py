"""Orders, filters and facets, each against what plain Python or plain SQL makes of the same tracks."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, get_args
from uuid import UUID

import psycopg
import pytest
from sqlalchemy import Connection

from audiocatalog import SearchFilters, Track, TrackMetadata, TrackStatus, UnitOfWork, errors
from audiocatalog.db import execute
from audiocatalog.operations.operation import PlannedStatement, Request, Rows
from audiocatalog.search.results import FACET_FIELDS, FACETS, SearchOrder
from tests.support.factories import TrackFactory
from tests.support.searches import found, insert_many, save, set_times, titles

pytestmark = pytest.mark.both_sides

BEGIN = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
def shelf(connection: Connection, work: UnitOfWork) -> dict[UUID, str]:
    """Give the name of each of a few tracks that hold the word shelf."""
    rows: dict[str, dict[str, Any]] = {
        "old": {"artist": "Björk", "genre": "Pop", "year": 1993, "duration": 100.0, "bitrate": 128, "format": "mp3"},
        "mid": {"artist": "Bjork", "genre": "Hip-Hop", "year": 1997, "duration": 200.0, "format": "FLAC"},
        "new": {"artist": "Radiohead", "genre": "rock", "year": 2007, "album": "In Rainbows", "bitrate": 320},
        "odd": {"artist": "!!!", "genre": "C:\\'x", "album": "+", "year": 2007, "duration": 200.9},
        "bare": {"artist": None, "status": TrackStatus.PENDING},
    }
    named = {}
    for day, (name, values) in enumerate(rows.items()):
        track = TrackFactory(title="shelf", **values)
        set_times(connection, track.id, BEGIN + timedelta(days=day), BEGIN)
        named[track.id] = name
    return named


FILTERS = [
    (SearchFilters(status=TrackStatus.PENDING), "bare"),
    (SearchFilters(status=["PENDING", "COMPLETED"]), "old mid new odd bare"),
    (SearchFilters(status="FAILED"), ""),
    (SearchFilters(artist="bjork"), "old mid"),
    (SearchFilters(artist=("BJÖRK", "radio-head")), "old mid new"),
    (SearchFilters(artist="!!!"), "odd"),
    (SearchFilters(artist="bjor"), ""),
    (SearchFilters(genre={"pop", "Rock"}), "old new"),
    (SearchFilters(genre="hip hop"), "mid"),
    (SearchFilters(genre="hiphop"), "mid"),
    (SearchFilters(genre="hip"), ""),
    (SearchFilters(genre="C:\\'x"), "odd"),
    (SearchFilters(album="in rainbows"), "new"),
    (SearchFilters(album="+"), "odd"),
    (SearchFilters(album="rainbows"), ""),
    (SearchFilters(format="flac"), "mid"),
    (SearchFilters(format=["flac", "MP3"]), "old mid"),
    (SearchFilters(year=1997), "mid"),
    (SearchFilters(year=(1993, 1997)), "old mid"),
    (SearchFilters(year=(1994, None)), "mid new odd"),
    (SearchFilters(year=(None, 1996)), "old"),
    (SearchFilters(year=(None, None)), "old mid new odd"),
    (SearchFilters(duration=(150, 200.0)), "mid"),
    (SearchFilters(duration=(150, None)), "mid odd"),
    (SearchFilters(bitrate=(320, None)), "new"),
    (SearchFilters(artist="bjork", year=(1990, 1995)), "old"),
    (SearchFilters(genre=["rock", "pop"], year=2007, bitrate=(1, None)), "new"),
    (SearchFilters(created_since=BEGIN), "old mid new odd bare"),
    (SearchFilters(created_since=BEGIN + timedelta(days=2)), "new odd bare"),
    (SearchFilters(updated_since=BEGIN + timedelta(seconds=1)), ""),
]


@pytest.mark.parametrize(("filters", "names"), FILTERS)
@pytest.mark.parametrize("query", ["shel", "nothing OR title:shelf ", ""])
def test_filters_narrow_whatever_is_asked(
    work: UnitOfWork, shelf: dict[UUID, str], query: str, filters: SearchFilters, names: str
) -> None:
    for sort in ("relevance", "title"):
        page = work.search(query, filters=filters, order_by=sort)
        assert sorted(shelf[hit.track.id] for hit in page) == sorted(names.split())
        assert (page.total, page.is_total_exact) == (len(names.split()), True)


def test_no_filter_narrows_nothing(work: UnitOfWork, shelf: dict[UUID, str]) -> None:
    assert len(work.search("shelf", filters=SearchFilters())) == 5


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("year:2007", "new odd"),
        ("year:..1997 -pop", "mid"),
        ("duration:3:20", "mid odd"),
        ("duration:..1:40", "old"),
        ("year:1990.. -artist:bjork", "new odd"),
        ("-shelf year:1990..", ""),
    ],
)
def test_ranges_alone_list_what_they_leave(work: UnitOfWork, shelf: dict[UUID, str], query: str, names: str) -> None:
    page = work.search(query)
    assert sorted(shelf[hit.track.id] for hit in page) == sorted(names.split())
    assert page.total == len(names.split())


def test_a_list_without_words_has_the_newest_first(work: UnitOfWork, shelf: dict[UUID, str]) -> None:
    page = work.search("", filters=SearchFilters(created_since=BEGIN))
    assert [shelf[hit.track.id] for hit in page] == ["bare", "odd", "new", "mid", "old"]
    assert {hit.score for hit in page} == {0.0}


# Orders


@pytest.fixture
def mixed(connection: Connection, work: UnitOfWork) -> list[Track]:
    """Give tracks of all sorts, a hundred of them with the word mixed."""
    tracks: list[Any] = []
    for n in range(120):
        title = f"{['Mixed', 'mixed', 'MÎXED', 'Other'][n % 4 if n % 5 else 0]} {'xaßé'[n % 3]}{n % 7}"
        artist = [None, "zz top", "Änne", "the Who", "AC/DC", "Ðz"][n % 6]
        created_at = BEGIN + timedelta(seconds=n * 37 % 50)
        year = 1990 + n % 9 if n % 3 else None
        tracks.append(TrackFactory(title=title, artist=artist, year=year).id)
        set_times(connection, tracks[-1], created_at, created_at)
    return list(work.get_many(tracks).values())


def name_of(text: str | None) -> str:
    plain = str.maketrans({"î": "i", "ä": "a", "é": "e", "ð": "d", "ß": "ss", "/": "", " ": ""})
    return (text or "").lower().translate(plain)


ORDERS: dict[str, Callable[[Track], tuple[Any, ...]]] = {
    "title": lambda track: (name_of(track.title), name_of(track.artist), track.id),
    "artist": lambda track: (track.artist is None, name_of(track.artist), name_of(track.title), track.id),
    "year": lambda track: (track.year is None, -(track.year or 0), -track.id.int),
    "newest": lambda track: (-track.created_at.timestamp(), -track.id.int),
}


@pytest.mark.parametrize("sort", ORDERS)
@pytest.mark.parametrize("query", ["mixed", "", "mixed -the"])
def test_an_order_is_the_one_that_python_makes(work: UnitOfWork, mixed: list[Track], sort: Any, query: str) -> None:
    kept = [track for track in mixed if not query or name_of(track.title).startswith("mixed")]
    if "-the" in query:
        kept = [track for track in kept if track.artist != "the Who"]
    filters = SearchFilters(status=TrackStatus.COMPLETED)
    pages = [found(work, query, filters=filters, order_by=sort, limit=100, offset=offset) for offset in (0, 100)]
    assert pages[0] + pages[1] == [track.id for track in sorted(kept, key=ORDERS[sort])]


@pytest.mark.parametrize("sort", ["title", "artist", "year", "newest"])
@pytest.mark.sync_only
def test_an_order_of_many_is_the_order_of_few(work: UnitOfWork, sort: Any) -> None:
    # A sample shows that many match, and the table is walked instead of sorted.
    columns = {"title": "'Many ' || n % 40", "artist": "'Band ' || n % 9", "year": "1950 + n % 70"}
    insert_many(work.session.connection(), 4000, **columns, created_at="now() - n % 977 * interval '1 day'")
    listed = [hit.track for hit in work.search("many", order_by=sort, limit=100)]
    key = ORDERS[sort]
    assert [key(track) for track in listed] == sorted(key(track) for track in listed)
    direct = work.session.connection().exec_driver_sql(
        "SELECT id FROM audio_tracks ORDER BY "
        + {
            "title": "title_name, artist_name, id",
            "artist": "artist_name, title_name, id",
            "year": "year DESC, id DESC",
            "newest": "created_at DESC, id DESC",
        }[sort]
        + " LIMIT 100"
    )
    assert [track.id for track in listed] == list(direct.scalars())


def test_another_order_is_never_widened(work: UnitOfWork) -> None:
    save(work, title="Nirvana Song")
    for sort in get_args(SearchOrder):
        assert bool(work.search("nirvana other ", order_by=sort).hits) == (sort == "relevance")


@pytest.mark.parametrize("sort", ["", "TITLE", "score", "title; DROP TABLE x", None, 5, ["title"], b"title", {}])
def test_an_order_that_is_none_is_refused(work: UnitOfWork, sort: Any) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        work.search("x", order_by=sort)
    assert (caught.value.field, caught.value.operation) == ("order_by", "search")


@pytest.mark.parametrize("query", ["", "  \t", "\u200b \u2060"])
def test_an_empty_box_lists_what_is_completed_the_newest_first(work: UnitOfWork, query: str) -> None:
    tracks = [
        work.save(TrackMetadata(title=f"Track {n}", genre="Rock" if n % 2 else "Pop"), audio_path="a", status=status)
        for n, status in enumerate([TrackStatus.COMPLETED, TrackStatus.PENDING] * 3 + [TrackStatus.COMPLETED])
    ]
    kept = [track.id for track in reversed(tracks) if track.status is TrackStatus.COMPLETED]
    page = work.search(query, limit=3, facets=["genre", "status"])
    assert [hit.track.id for hit in page] == kept[:3]
    assert (page.total, page.is_total_exact, page.is_partial) == (4, True, False)
    assert {name: dict(facet.values) for name, facet in page.facets.items()} == {
        "genre": {"Pop": 4},
        "status": {"COMPLETED": 4},
    }
    assert found(work, query, limit=3, after=page.next_cursor) == kept[3:]
    assert titles(work, query, order_by="title") == ["Track 0", "Track 2", "Track 4", "Track 6"]
    assert work.search(query, filters=SearchFilters()).total == 4


@pytest.mark.parametrize("query", ['""', "!!!", "-", "''"])
def test_signs_are_no_empty_box(work: UnitOfWork, query: str) -> None:
    save(work, title="A Track")
    page = work.search(query, facets=["genre"])
    assert (page.total, page.facets["genre"].values) == (0, ())


@pytest.mark.sync_only
def test_a_list_of_everything_is_counted_so_far_and_says_so(work: UnitOfWork) -> None:
    insert_many(work.session.connection(), 10_050, title="'T' || n", genre="'Rock'")
    page = work.search("", facets=["genre"])
    assert (page.total, page.is_total_exact, len(page)) == (10_000, False, 20)
    assert not page.facets["genre"].is_exact


# When time runs out


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the server end the first statement of every search."""
    send = execute.send

    def end_or_send(driver: psycopg.Connection[Any], request: Request, *rest: Any) -> Rows:
        statement, _ = request
        if isinstance(statement, PlannedStatement) and "scanned_0" not in statement.sql:
            raise errors.QueryTimeout("on purpose")
        return send(driver, request, *rest)

    monkeypatch.setattr(execute, "send", end_or_send)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("query", ["one OR two OR three ", ""])
@pytest.mark.parametrize("sort", ["title", "artist", "year", "newest"])
@pytest.mark.sync_only
def test_an_order_that_takes_too_long_is_told_from_its_beginning(work: UnitOfWork, query: str, sort: Any) -> None:
    connection = work.session.connection()
    insert_many(
        connection,
        10_020,
        title="'one ' || lpad(n::text, 5, '0')",
        artist="'By ' || lpad(n::text, 5, '0')",
        year="9999 - n % 3",
        genre="CASE n % 2 WHEN 0 THEN 'Pop' ELSE 'Rock' END",
        created_at="timestamptz '2020-01-01' - n * interval '1 second'",
    )
    page = work.search(query, order_by=sort, facets=["genre"])
    assert (page.is_partial, page.total, page.is_total_exact, len(page)) == (True, 10_000, False, 20)
    assert not page.facets["genre"].is_exact
    if sort != "year":
        assert [hit.track.title for hit in page] == [f"one {n:05}" for n in range(1, 21)]
        behind = work.search(query, order_by=sort, after=page.next_cursor)
        assert [hit.track.title for hit in behind] == [f"one {n:05}" for n in range(21, 41)]
    else:
        assert {hit.track.year for hit in page} == {9999}
    # What stands behind the first 10,000 is not looked at, and the page does not claim that it was.
    rare = work.search(query, order_by="title", filters=SearchFilters(artist=["By 00007", "By 10019"]))
    assert ([hit.track.title for hit in rare], rare.is_partial, rare.is_total_exact) == (["one 00007"], True, False)


# Facets


#: Spellings of few names, and of some that are alike and not the same.
ODD = [
    *(
        "Hip Hop",
        "Hip-Hop",
        "HIPHOP",
        "hip hop",
        "Hip‐Hop",
        "Ｈｉｐ Ｈｏｐ",
        "Hip Hop!",
        "Hip & Hop",
        "R&B",
        "R & B",
        "R and B",
    ),
    *(
        "Björk",
        "Bjork",
        "BJO\u0308RK",
        "Björk ",
        "ac/dc",
        "AC DC",
        "acdc",
        "P!nk",
        "Pink",
        "Ke$ha",
        "Kesha",
        "\u0640",
        "!!!",
    ),
    *(
        "! ! !",
        "'",
        "\\",
        "O'Hara",
        "OHara",
        "日本",
        "日 本",
        "ß",
        "SS",
        "x" * 50,
        "X" * 50,
        "الله",
        "mp3",
        "MP3",
        ".mp3",
    ),
]


def test_a_filter_finds_as_many_as_the_facet_tells(work: UnitOfWork) -> None:
    dice = random.Random(18)  # noqa: S311
    for number in range(250):
        values: dict[str, Any] = {name: dice.choice([None, *ODD, *ODD[:8]]) for name in FACET_FIELDS}
        status = dice.choice([TrackStatus.PENDING, TrackStatus.COMPLETED])
        metadata = TrackMetadata(title="Odd", year=dice.choice([None, 1989, 1990, 1999, 2000]), **values)
        work.save(metadata, audio_path=str(number), status=status)
    everything = [TrackStatus.PENDING, TrackStatus.COMPLETED]
    asked: list[tuple[str, SearchOrder]] = [("odd", "relevance"), ("odd", "title"), ("", "relevance"), ("", "artist")]
    for query, sort in asked:
        page = work.search(query, order_by=sort, filters=SearchFilters(status=everything), facets=FACETS)
        assert tuple(page.facets) == FACETS
        for name, facet in page.facets.items():
            assert facet.is_exact
            assert len(facet.values) > 1
            for value, tracks in facet.values:
                wanted: dict[str, Any] = {"status": everything}
                wanted |= {"year": (value, int(value) + 9)} if name == "decade" else {name: value}
                assert work.search(query, order_by=sort, filters=SearchFilters(**wanted)).total == tracks, (name, value)


def test_spellings_of_one_value_are_told_as_the_most_frequent(work: UnitOfWork) -> None:
    for genre, number in {"HIPHOP": 2, "Hip-Hop": 3, "hip hop": 2, "Jazz": 6}.items():
        for _ in range(number):
            save(work, title="Spelled", genre=genre)
    facet = work.search("spelled", facets=["genre"]).facets["genre"]
    assert [tuple(value) for value in facet.values] == [("Hip-Hop", 7), ("Jazz", 6)]


def test_an_id_has_the_facets_of_its_track(work: UnitOfWork) -> None:
    track = work.save(TrackMetadata(title="One", genre="Rock", year=1995), audio_path="a", status=TrackStatus.PENDING)
    facets = work.search(str(track.id), facets=FACETS).facets
    expected = {"genre": (("Rock", 1),), "decade": ((1990, 1),), "status": (("PENDING", 1),)}
    assert {name: facet.values for name, facet in facets.items()} == dict.fromkeys(FACETS, ()) | expected
    assert work.search(str(UUID(int=1)), facets=["genre"]).facets["genre"].values == ()


@pytest.mark.parametrize(
    ("query", "sort"), [("mixed", "relevance"), ("mixed", "title"), ("", "newest"), ("zz top", "year")]
)
def test_facets_count_what_a_plain_group_by_counts(work: UnitOfWork, mixed: list[Track], query: str, sort: Any) -> None:
    page = work.search(query, filters=SearchFilters(status="COMPLETED"), order_by=sort, facets=list(FACETS), limit=5)
    kept = {
        "mixed": [track for track in mixed if name_of(track.title).startswith("mixed")],
        "zz top": [track for track in mixed if track.artist == "zz top"],
        "": mixed,
    }[query]
    assert (page.total, tuple(page.facets)) == (len(kept), FACETS)
    readers: dict[str, Callable[[Track], Any]] = {
        **{name: attrgetter(name) for name in (*FACET_FIELDS, "status")},
        "decade": lambda track: track.year and track.year // 10 * 10,
    }
    for name, facet in page.facets.items():
        counted = Counter(value for track in kept if (value := readers[name](track)) is not None)
        as_one: dict[Any, Counter[Any]] = defaultdict(Counter)
        for value, tracks in counted.items():
            as_one[name_of(value) if name in FACET_FIELDS else value][value] += tracks
        expected = {max(same, key=same.__getitem__): same.total() for same in as_one.values()}
        assert sorted(tracks for _, tracks in facet.values) == sorted(expected.values()), name
        assert {name_of(str(value)) for value, _ in facet.values} == {name_of(str(value)) for value in expected}
        assert [value.tracks for value in facet.values] == sorted(expected.values(), reverse=True)
        assert (facet.is_exact, facet.is_complete) == (True, True)


@pytest.mark.sync_only
def test_a_facet_tells_the_most_frequent_values_and_that_there_are_others(work: UnitOfWork) -> None:
    genre = "'Genre ' || ceil((sqrt(8 * n + 1) - 1) / 2)"
    insert_many(work.session.connection(), 24 * 25 // 2, title="'Counted'", genre=genre)
    facet = work.search("counted", facets=["genre"]).facets["genre"]
    assert (len(facet.values), facet.is_exact, facet.is_complete) == (20, True, False)
    assert [tuple(value) for value in facet.values] == [(f"Genre {n}", n) for n in range(24, 4, -1)]
    assert work.search("counted", facets=["decade"]).facets["decade"].values == ()


def test_facets_are_told_only_where_they_are_asked_for(work: UnitOfWork) -> None:
    save(work, title="Counted", genre="Rock")
    assert work.search("counted").facets == {}
    assert set(work.search("counted", facets={"status", "genre"}).facets) == {"status", "genre"}
    assert work.search("nothing of it", facets=["genre"]).facets["genre"].values == ()


def test_facets_count_what_was_found_by_widening(work: UnitOfWork) -> None:
    for genre in ("Rock", "Rock", "Pop"):
        save(work, title="Nirvana Song", genre=genre)
    page = work.search("nirvana other ", facets=["genre"])
    assert dict(page.facets["genre"].values) == {"Rock": 2, "Pop": 1}


@pytest.mark.parametrize(
    "facets", ["genre", ["year"], ["genre", 5], [["genre"]], 5, None, {"genre": 1}, [None], b"genre"]
)
def test_facets_that_are_none_are_refused(work: UnitOfWork, facets: Any) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        work.search("x", facets=facets)
    assert (caught.value.field, caught.value.operation) == ("facets", "search")
