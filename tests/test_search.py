"""Names are found as people type them, and no query can fail."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from audiocatalog import SearchFilters, TrackMetadata, TrackStatus, UnitOfWork, errors
from audiocatalog.engine import driver_connection
from audiocatalog.search.page import SEARCHED_FIELDS
from audiocatalog.search.statement import COUNTED_HITS, search_statement
from tests.factories import TrackFactory


def save(work: UnitOfWork, **values: Any) -> Any:
    return work.save(TrackMetadata(**values), audio_path="a").id


def found(work: UnitOfWork, query: str, **options: Any) -> list[Any]:
    return [hit.track.id for hit in work.search(query, **options)]


@pytest.mark.parametrize(
    ("name", "queries"),
    [
        # punctuation, as written, split and joined
        ("AC/DC", ["AC/DC", "acdc", "ac dc", "ac-dc", "Ac/Dc"]),
        ("P!nk", ["P!nk", "pink", "p!nk", "PINK"]),
        ("R.E.M.", ["R.E.M.", "rem", "r.e.m", "r e m"]),
        ("blink-182", ["blink-182", "blink 182", "blink182"]),
        ("Ke$ha", ["Ke$ha", "kesha", "keha"]),
        ("A$AP Rocky", ["A$AP Rocky", "asap rocky"]),
        ("a-ha", ["a-ha", "aha", "a ha"]),
        ("Jay-Z", ["Jay-Z", "jay z", "jayz", "JAY‐Z"]),
        ("N.W.A", ["N.W.A", "nwa"]),
        ("alt‐J", ["alt-J", "alt‐J", "altj", "alt j"]),
        ("Guns N’ Roses", ["Guns N' Roses", "guns n roses", "Guns N’ Roses"]),
        ("Hall & Oates", ["Hall & Oates", "hall and oates"]),
        ("Don't Stop", ["dont stop", "don't stop", "don’t stop"]),
        # nothing but signs
        ("!!!", ["!!!"]),
        ("+", ["+"]),
        ("÷", ["÷"]),
        # words that others throw away
        ("The Who", ["The Who", "who", "the"]),
        ("The The", ["The The", "the the"]),
        ("Yes", ["Yes", "yes"]),
        ("It", ["It", "it"]),
        ("Not", ["not"]),
        # accents and letters
        ("Björk", ["Björk", "bjork", "BJÖRK", "Bjo\u0308rk"]),
        ("Sigur Rós", ["sigur ros", "SIGUR RÓS"]),
        ("MØ", ["MØ", "mø", "mo"]),
        ("Mötley Crüe", ["motley crue"]),
        ("Dżem", ["dzem", "Dżem"]),
        ("Czesław Niemen", ["czeslaw niemen"]),
        ("Straße", ["strasse", "STRASSE", "straße"]),
        ("Ænima", ["aenima", "Ænima"]),
        ("ＡＢＢＡ", ["abba"]),
        ("Кино", ["кино", "КИНО"]),
        ("Ёлка", ["елка", "ёлка"]),
        ("Μίκης Θεοδωράκης", ["μικης θεοδωρακης", "ΜΙΚΗΣ"]),
        # scripts
        ("宇多田ヒカル", ["宇多田ヒカル", "宇多田", "ヒカル", "多田ヒ"]),
        ("방탄소년단", ["방탄소년단"]),
        ("คาราบาว", ["คาราบาว", "ราบา"]),
        ("فيروز", ["فيروز"]),
        ("עידן רייכל", ["עידן רייכל", "רייכל"]),
        ("लता मंगेशकर", ["लता मंगेशकर", "लता"]),
    ],
)
def test_a_name_is_found_as_people_type_it(work: UnitOfWork, name: str, queries: list[str]) -> None:
    for field in ("artist", "title"):
        track = save(work, **({"title": "Some Song"} | {field: name}))
        for query in queries:
            assert track in found(work, query), (field, query)


@pytest.mark.parametrize(
    ("name", "query"), [("宇多田", "田多"), ("Radiohead", "radio"), ("AC/DC", "dc ac x"), ("MØ", "moo")]
)
def test_what_is_not_there_is_not_found(work: UnitOfWork, name: str, query: str) -> None:
    save(work, artist=name)
    assert found(work, query) == []


def test_words_may_stand_in_different_fields(work: UnitOfWork) -> None:
    track = save(work, title="Idioteque", artist="Radiohead", album="Kid A", genre="Electronic")
    for query in ("radiohead idioteque", "idioteque kid a", "electronic radiohead"):
        assert found(work, query) == [track]
    assert found(work, "radiohead creep") == []


def test_an_exact_title_comes_first_then_an_exact_artist_then_the_weights(work: UnitOfWork) -> None:
    genre = save(work, title="Something", artist="Somebody", genre="Hurt")
    album = save(work, title="Something", artist="Somebody", album="Hurt")
    longer = save(work, title="Hurt So Good", artist="Somebody")
    artist = save(work, title="Something", artist="Hurt")
    title = save(work, title="Hurt", artist="Somebody")
    page = work.search("hurt")
    assert [hit.track.id for hit in page] == [title, artist, longer, album, genre]
    assert [hit.score for hit in page] == sorted((hit.score for hit in page), reverse=True)


def test_pages_follow_each_other_without_gap_or_overlap(work: UnitOfWork) -> None:
    tracks = {save(work, title="Same Song") for _ in range(25)}
    pages = [found(work, "same song", limit=10, offset=offset) for offset in (0, 10, 20, 30)]
    assert [len(page) for page in pages] == [10, 10, 5, 0]
    assert {track for page in pages for track in page} == tracks


def test_the_total_counts_all_pages_even_from_behind_the_last(work: UnitOfWork) -> None:
    for _ in range(5):
        save(work, title="Counted")
    for offset in (0, 3, 9):
        page = work.search("counted", limit=2, offset=offset)
        assert (page.total, page.total_is_exact) == (5, True)
    assert len(work.search("counted", limit=2)) == 2


def test_a_total_beyond_the_bound_says_so(session: object, work: UnitOfWork) -> None:
    work.session.connection().exec_driver_sql(
        "INSERT INTO audio_tracks (id, status, title, audio_path)"
        f" SELECT gen_random_uuid(), 'COMPLETED', 'many', 'a' FROM generate_series(1, {COUNTED_HITS + 1})"
    )
    page = work.search("many", limit=1)
    assert (page.total, page.total_is_exact) == (COUNTED_HITS, False)


@pytest.mark.parametrize("query", ["", " ", "\t\n", "'", '"', "\\", "\u200b", "\u0300", "\ufeff", "🙂"])
def test_a_query_without_a_word_finds_nothing(work: UnitOfWork, query: str) -> None:
    save(work, title="Something")
    assert found(work, query) == []


HOSTILE = [
    *("&|!():*<->", "((((", "'\"", 'unbalanced "quote', "it's", "\\'", "<b>", "%s %(query)s :query", "$1", "NULL"),
    *("a & | b", "!a", "a:*", "a <-> b", "a:B", "-182", "1e400", "! " * 32, "'; DROP TABLE audio_tracks; --"),
    *("a\x01\x1f\x7f", "a\ud7ff\ue000\uffff", "a\U0010ffff"),
    "a" * 1000,
    "".join(map(chr, range(0x4E00, 0x4E00 + 1000))),
]


@pytest.mark.parametrize("query", HOSTILE)
def test_hostile_queries_are_only_text(work: UnitOfWork, query: str) -> None:
    track = save(work, title=query[:1000])
    assert track in found(work, query)
    assert work.search("still there").total == 0


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.text(max_size=80))
@example(query="'")
@example(query="\x00")
@example(query="\ud800")
def test_any_text_is_a_query_or_is_refused_by_name(work: UnitOfWork, query: str) -> None:
    # With something to find, rank, exactness and highlights are computed as well.
    visible = "".join(letter for letter in query if letter != "\0" and not "\ud800" <= letter <= "\udfff").strip()
    try:
        save(work, title=visible or None, artist="x")
        page = work.search(query)
    except errors.InvalidInput as error:
        assert error.field in {"query", "title"}  # noqa: PT017
    else:
        for hit in page:
            for field, spans in hit.highlights.items():
                assert all(0 <= start < end <= len(getattr(hit.track, field)) for start, end in spans)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(title=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40))
def test_a_title_with_a_word_is_found_by_itself(work: UnitOfWork, title: str) -> None:
    try:
        metadata = TrackMetadata(title=title)
    except errors.InvalidInput:
        return
    track = work.save(metadata, audio_path="a")
    words = (
        work.session.connection()
        .exec_driver_sql("SELECT numnode(audiocatalog_search_query_v1(%s))", (metadata.title,))
        .scalar_one()
    )
    if words:
        filters = SearchFilters(created_since=track.created_at)
        assert track.id in [hit.track.id for hit in work.search(title, filters=filters, limit=100)]


@pytest.mark.parametrize("letter", ["a", "ა", "\U00010400"])
def test_a_word_longer_than_the_parser_takes_is_found(work: UnitOfWork, letter: str) -> None:
    track = save(work, title=letter * 1000)
    assert found(work, letter * 1000) == [track]


def test_highlights_mark_the_original_text(work: UnitOfWork) -> None:
    save(work, title="Jóga (live)", artist="Björk", album="Live at AC/DC's", genre="宇多田ヒカル")
    for query, marked in {
        "bjork joga": {"artist": ["Björk"], "title": ["Jóga"]},
        "live": {"title": ["(live)"], "album": ["Live"]},
        "ヒカル": {"genre": ["ヒカル"]},
        "BJÖRK": {"artist": ["Björk"]},
    }.items():
        (hit,) = work.search(query)
        texts = {field: getattr(hit.track, field) for field in SEARCHED_FIELDS}
        assert {
            field: [texts[field][start:end] for start, end in spans] for field, spans in hit.highlights.items()
        } == marked


# Filters


@pytest.fixture
def shelf(session: object, work: UnitOfWork) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {
        "old": {
            "artist": "Björk",
            "genre": "Pop",
            "year": 1993,
            "duration": 100.0,
            "bitrate": 128_000,
            "format": "mp3",
        },
        "mid": {"artist": "Bjork", "genre": "Electronic", "year": 1997, "duration": 200.0, "format": "FLAC"},
        "new": {"artist": "Radiohead", "genre": "rock", "year": 2007, "album": "In Rainbows", "bitrate": 320_000},
        "bare": {"artist": None, "status": TrackStatus.PENDING},
    }
    return {str(TrackFactory(title="shelf", **values).id): name for name, values in rows.items()}


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (SearchFilters(), "old mid new bare"),
        (SearchFilters(status=TrackStatus.PENDING), "bare"),
        (SearchFilters(status=["PENDING", "COMPLETED"]), "old mid new bare"),
        (SearchFilters(artist="bjork"), "old mid"),
        (SearchFilters(artist=("BJÖRK", "radiohead")), "old mid new"),
        (SearchFilters(genre={"pop", "Rock"}), "old new"),
        (SearchFilters(album="in rainbows"), "new"),
        (SearchFilters(format="flac"), "mid"),
        (SearchFilters(year=1997), "mid"),
        (SearchFilters(year=(1993, 1997)), "old mid"),
        (SearchFilters(year=(1994, None)), "mid new"),
        (SearchFilters(year=(None, 1996)), "old"),
        (SearchFilters(year=(None, None)), "old mid new"),
        (SearchFilters(duration=(150, 200.0)), "mid"),
        (SearchFilters(bitrate=(320_000, None)), "new"),
        (SearchFilters(artist="bjork", year=(1990, 1995)), "old"),
        (SearchFilters(created_since=datetime(2000, 1, 1, tzinfo=UTC)), "old mid new bare"),
        (SearchFilters(updated_since=datetime.now(UTC) + timedelta(days=1)), ""),
    ],
)
def test_filters_narrow_a_search(work: UnitOfWork, shelf: dict[str, Any], filters: SearchFilters, names: str) -> None:
    page = work.search("shelf", filters=filters)
    assert {shelf[str(hit.track.id)] for hit in page} == set(names.split())
    assert page.total == len(names.split())


def test_there_are_no_cursors_yet(work: UnitOfWork) -> None:
    assert work.search("x", after=None).total == 0
    with pytest.raises(errors.InvalidInput, match="after"):
        work.search("x", after="cursor")  # type: ignore[arg-type]


def test_filters_are_search_filters(work: UnitOfWork) -> None:
    with pytest.raises(errors.InvalidInput, match="filters"):
        work.search("x", filters={"year": 1999})  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["force_custom_plan", "force_generic_plan"])
def test_a_search_uses_its_index_and_parses_the_query_once(work: UnitOfWork, mode: str) -> None:
    connection = work.session.connection()
    statement = search_statement(SearchFilters(year=(1990, 1999))).params(query="QUERY", limit=20, offset=0)
    text = str(statement.compile(connection, compile_kwargs={"literal_binds": True})).replace("'QUERY'", "$1")
    connection.exec_driver_sql(f"SET LOCAL plan_cache_mode = {mode}")
    connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # The table is too small to need its index.
    driver = driver_connection(connection)
    driver.execute(f"PREPARE {mode} (text) AS {text}")
    plan = "\n".join(line for (line,) in driver.execute(f"EXPLAIN (VERBOSE) EXECUTE {mode} ('song 77')"))
    driver.execute(f"DEALLOCATE {mode}")
    assert plan.count("ix_audio_tracks_search_vector") == 2, plan  # the hits and their count
    # Where the query is known, it is parsed while planning; elsewhere once, by a scan of the function.
    conditions = [line for line in plan.splitlines() if "Cond" in line or "Filter" in line]
    assert not any("audiocatalog_search_query_v1" in line for line in conditions), plan
