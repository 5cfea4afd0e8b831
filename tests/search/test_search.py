"""Names are found as people type them, and no query can fail."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from audiocatalog import FacetName, SearchFilters, TrackMetadata, UnitOfWork, errors
from audiocatalog.search.results import FACETS, SEARCHED_FIELDS

pytestmark = pytest.mark.both_sides


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
        ("L'Arc~en~Ciel", ["L'Arc~en~Ciel", "l’arc en ciel", "larc en ciel", "arc en ciel", "l arc en ciel"]),
        ("Rock'n'Roll", ["Rock'n'Roll", "Rock’n’Roll", "rock n roll", "rocknroll", "rock 'n' roll"]),
        ("'N Sync", ["'N Sync", "nsync", "n sync", "*NSYNC", "’n sync"]),
        # nothing but signs
        ("!!!", ["!!!"]),
        ("+", ["+"]),
        ("÷", ["÷"]),
        ("Alt-J (∆)", ["∆", "alt-j", "altj ∆"]),
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
    ("name", "query"),
    [
        ("宇多田", "田多"),
        ("宇多田", '"田多"'),
        ("Radiohead", "radio "),
        ("AC/DC", "dc ac x"),
        ("MØ", "moo"),
        ("MØ", "m "),
    ],
)
def test_what_is_not_there_is_not_found_as_it_was_typed(work: UnitOfWork, name: str, query: str) -> None:
    save(work, title="Song", artist=name, album=name, genre=name)
    assert found(work, query, order_by="newest") == []


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ('"dark side"', "album phrase"),
        ("dark side ", "album phrase apart"),
        ("dark -side ", "dark"),
        ("side -artist:dark ", "album phrase"),
        ('dark -"dark side"', "apart dark"),
        ("title:dark ", "phrase dark"),
        ("album:dark OR artist:dark ", "album apart"),
        ("dark year:1973", "album"),
        ("dark year:1980..", "phrase"),
        ("dark duration:..1:40", "dark"),
        ("dark duration:1:41..", "apart"),
        ("dar", "album apart dark phrase"),
        ("dar ", ""),
    ],
)
def test_a_query_means_what_its_language_says(work: UnitOfWork, query: str, names: str) -> None:
    saved = {
        save(work, title="Money", album="The Dark Side of the Moon", year=1973): "album",
        save(work, title="Dark Side", artist="Somebody", year=1984): "phrase",
        save(work, title="Side", artist="Dark", duration=120.0): "apart",
        save(work, title="Dark", artist="Somebody", duration=100.5): "dark",
    }
    assert sorted(saved[track] for track in found(work, query, order_by="newest")) == sorted(names.split())


def test_a_query_that_is_an_id_is_a_lookup(work: UnitOfWork) -> None:
    track = save(work, title="By Its Id")
    save(work, title=str(track))
    for query in (str(track), str(track).upper(), track.hex):
        page = work.search(query)
        assert ([hit.track.id for hit in page], page.total, page.next_cursor) == ([track], 1, None)
    assert work.search("01890a5d-ac96-774b-bcce-b302099a8057").total == 0


def test_words_may_stand_in_different_fields(work: UnitOfWork) -> None:
    track = save(work, title="Idioteque", artist="Radiohead", album="Kid A", genre="Electronic")
    for query in ("radiohead idioteque", "idioteque kid a", "electronic radiohead"):
        assert found(work, query) == [track]
    assert found(work, "radiohead creep", order_by="newest") == []


def test_an_exact_title_comes_first_then_an_exact_artist_then_the_weights(work: UnitOfWork) -> None:
    genre = save(work, title="Something", artist="Somebody", genre="Hurt")
    album = save(work, title="Something", artist="Somebody", album="Hurt")
    longer = save(work, title="Hurt So Good", artist="Somebody")
    artist = save(work, title="Something", artist="Hurt")
    title = save(work, title="Hurt", artist="Somebody")
    page = work.search("hurt")
    assert [hit.track.id for hit in page] == [title, artist, longer, album, genre]
    assert [hit.score for hit in page] == sorted((hit.score for hit in page), reverse=True)


# An empty box lists everything, tests/search/test_sorted_search.py: these hold signs.
@pytest.mark.parametrize("query", ["'", '"', "\\", "\u0300", "🙂"])
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
@pytest.mark.sync_only
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
@pytest.mark.sync_only
def test_a_title_with_a_word_is_found_by_itself(work: UnitOfWork, title: str) -> None:
    try:
        metadata = TrackMetadata(title=title)
    except errors.InvalidInput:
        return
    track = work.save(metadata, audio_path="a")
    name = (
        work.session.connection()
        .exec_driver_sql("SELECT audiocatalog_name_v1(audiocatalog_fold_v1(%s))", (metadata.title,))
        .scalar_one()
    )
    if name:
        filters = SearchFilters(created_since=track.created_at)
        try:
            page = work.search(title, filters=filters, limit=100)
        except errors.InvalidInput as error:
            assert error.limit == 32  # noqa: PT017  # Signs that stand for several words make too many.
        else:
            assert track.id in [hit.track.id for hit in page]


@pytest.mark.parametrize("letter", ["a", "ა", "\U00010400"])
def test_a_word_longer_than_the_parser_takes_is_found(work: UnitOfWork, letter: str) -> None:
    track = save(work, title=letter * 1000)
    assert found(work, letter * 1000) == [track]


def test_highlights_mark_the_original_text(work: UnitOfWork) -> None:
    save(work, title="Jóga (live)", artist="Björk", album="Live at AC/DC's", genre="宇多田ヒカル")
    for query, marked in {
        "bjork joga": {"artist": ["Björk"], "title": ["Jóga"]},
        "live": {"title": ["live"], "album": ["Live"]},
        "ヒカル": {"genre": ["ヒカル"]},
        "BJÖRK": {"artist": ["Björk"]},
    }.items():
        (hit,) = work.search(query)
        texts = {field: getattr(hit.track, field) for field in SEARCHED_FIELDS}
        assert {
            field: [texts[field][start:end] for start, end in spans] for field, spans in hit.highlights.items()
        } == marked


def test_filters_are_search_filters(work: UnitOfWork) -> None:
    with pytest.raises(errors.InvalidInput, match="filters"):
        work.search("x", filters={"year": 1999})  # type: ignore[arg-type]


def test_what_can_be_counted_is_named_by_its_type() -> None:
    assert set(FACETS) == set(get_args(FacetName))
