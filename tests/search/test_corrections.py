"""What was typed wrong is found all the same, and never stands above what was typed right."""

from __future__ import annotations

from typing import Any

import pytest

from audiocatalog import Catalog, SearchFilters, UnitOfWork
from audiocatalog.db.transaction import driver_connection
from audiocatalog.search.corrections import (
    Alternative,
    CorrectableTerm,
    correctable_terms,
    corrected_parameters,
    excluded_query,
)
from audiocatalog.search.query import Term
from tests.support.searches import count_words, found, save, titles


def correctable(word: str, *known: tuple[str, int], **options: Any) -> CorrectableTerm:
    """Return *word* as it is read where the catalogue knows the words *known*, each with its number of tracks."""
    terms = [Term(word, **options)]
    (one,) = correctable_terms(terms, [word], [(word, other, tracks) for other, tracks in known])
    return one


# Slips


@pytest.mark.parametrize(
    ("word", "meant", "slips"),
    [
        ("nirvana", "nirvana", 0),
        ("nirvna", "nirvana", 1),
        ("nirvaana", "nirvana", 1),
        ("nirvena", "nirvana", 1),
        ("nirvnaa", "nirvana", 1),
        ("nirvn", "nirvana", None),  # Two slips in a short word.
        ("nrvna", "nirvana", None),
        ("nirvnas", "nirvana", 2),
        ("metalica", "metallica", 1),
        ("metalca", "metallica", 2),
        ("metlca", "metallica", None),
        ("cat", "hat", 1),
        ("abc", "xyz", None),
        # A possessive without its apostrophe, and a band by its members.
        ("beatles", "beatle", 0.5),
        ("lashes", "lash", 0.5),
        ("ramone", "ramones", 1),
        # A part of a Hangul word.
        ("소년단", "방탄소년단", 1),
        ("소녀단", "방탄소년단", None),
        # Words that are joined or parted.
        ("jayz", "jay z", 1),
    ],
)
def test_a_word_is_so_many_slips_away(word: str, meant: str, slips: float | None) -> None:
    one = correctable(word, (meant, 7))
    assert one.alternatives == (() if slips is None else (Alternative(meant, slips, 7),))


def test_the_nearest_comes_first_then_the_most_frequent_then_the_alphabet() -> None:
    one = correctable("cars", ("cart", 9), ("bars", 9), ("cars", 1), ("care", 50), ("car", 2))
    assert [other.words for other in one.alternatives] == ["cars", "car", "care", "bars", "cart"]
    assert one.best == "cars"


def test_a_word_that_nobody_knows_is_its_own_best() -> None:
    one = correctable("xyzzy")
    assert (one.best, one.is_sure, one.alternatives) == ("xyzzy", False, ())
    assert 0 < one.weight < correctable("love", ("love", 10**7)).weight


@pytest.mark.parametrize(
    ("known", "sure"),
    [
        ([("cream", 10)], True),
        ([("cream", 10), ("dream", 199)], True),
        ([("cream", 10), ("dream", 201)], False),
        ([("cream", 10), ("creamer", 10**6)], True),
        ([("dream", 10)], False),
        ([], False),
    ],
)
def test_a_known_word_is_sure_unless_a_like_one_is_far_more_frequent(
    known: list[tuple[str, int]], *, sure: bool
) -> None:
    assert correctable("cream", *known).is_sure is sure


def test_rare_words_tell_more_than_common_ones() -> None:
    weights = [correctable("word", ("word", tracks)).weight for tracks in (1, 10, 1000, 10**6)]
    assert weights == sorted(weights, reverse=True)


def test_each_piece_of_a_term_is_in_doubt_by_itself() -> None:
    terms = [Term("AC/DC"), Term("Tunder", field="title", is_prefix=True)]
    words = ["ac dc\nacdc\n", "tunder"]
    found_words = correctable_terms(terms, words, [("tunder", "thunder", 3), ("ac dc", "acdc", 5)])
    assert [(one.word, one.mark, one.is_prefix, one.best) for one in found_words] == [
        ("ac", "", False, "acdc"),
        ("dc", "", False, "acdc"),
        ("tunder", ":A", True, "thunder"),
    ]


@pytest.mark.parametrize(
    ("one", "most", "query"),
    [
        (correctable("cream"), 5, "('cream')"),
        (correctable("cream", ("dream", 9)), 0, "('cream')"),
        (correctable("cream", ("dream", 9), ("cram", 1)), 1, "('cream' | 'dream')"),
        (correctable("jayz", ("jay z", 9)), 5, "('jayz' | 'jay' <-> 'z')"),
        (correctable("crea", is_prefix=True), 5, "('crea' | 'crea':*)"),
        (correctable("crea", is_prefix=True, field="artist"), 5, "('crea':B | 'crea':*B)"),
    ],
)
def test_a_word_is_sought_with_its_alternatives(one: CorrectableTerm, most: int, query: str) -> None:
    assert one.query(most) == query


def test_excluded_terms_are_excluded_as_they_are_spelled() -> None:
    terms = [Term("AC/DC"), Term("live", field="title"), Term("radio edit", is_phrase=True), Term("!!!")]
    words = ["ac dc\nacdc\n", "live", "radio edit\nradioedit\n", "\n=symbol:212121\n"]
    assert excluded_query(terms, words) == (
        "('ac' <-> 'dc') | ('acdc') | ('live':A) | ('radio' <-> 'edit') | ('=symbol:212121')"
    )
    assert excluded_query([], []) is None


def test_readings_hold_the_typed_words_and_their_alternatives() -> None:
    asked = corrected_parameters([correctable("nirvna", ("nirvana", 3)), correctable("hurt", ("hurt", 5))])
    assert asked["names"] == ["nirvanahurt", "nirvnahurt"]
    assert {"nirvana", "nirvna", "hurt", "nirvanahurt"} <= set(asked["runs"])
    assert ("nirvana", "hurt") in list(zip(asked["heads"], asked["tails"], strict=True))
    assert asked["weights"] == sorted(asked["weights"], reverse=True)


@pytest.mark.parametrize("number", [1, 2, 5, 16, 32])
def test_the_readings_of_any_number_of_words_are_bounded_and_parse(work: UnitOfWork, number: int) -> None:
    words = [f"word{chr(97 + n)}" for n in range(number)]
    known = [(word, f"{word[:-1]}{chr(97 + n)}", n + 1) for word in words for n in range(26)]
    asked = corrected_parameters(correctable_terms([Term(word) for word in words], words, known))
    assert len(asked["runs"]) <= 20_000
    assert len(asked["heads"]) <= 20_000
    assert sum(stage.count("'") // 2 for stage in asked["stages"] if stage) <= 5_000
    driver = driver_connection(work.session.connection())
    for name in ("near", "exact", "stages"):
        row = driver.execute("SELECT %s::tsquery[]", [asked[name]]).fetchone()
        assert row is not None
        assert len(row[0]) == len(asked[name])


# From typing to hits


@pytest.fixture
def music(work: UnitOfWork) -> UnitOfWork:
    """Give a unit of work in which some music is stored and its words are counted."""
    for title, artist in [
        ("Enter Sandman", "Metallica"),
        ("Nothing Else Matters", "Metallica"),
        ("Everybody", "Backstreet Boys"),
        ("99 Problems", "Jay-Z"),
        ("봄날", "방탄소년단"),
        ("Smells Like Teen Spirit", "Nirvana"),
        ("Come as You Are", "Nirvana"),
        ("Mother", "Pink Floyd"),
        ("Time", "Pink Floyd"),
        ("Time", "Hans Zimmer"),
        ("Dreams", "Fleetwood Mac"),
        ("Don't Stop", "Fleetwood Mac"),
    ]:
        save(work, title=title, artist=artist)
    count_words(work)
    return work


@pytest.mark.parametrize(
    ("query", "title", "suggestion"),
    [
        pytest.param("metalica sandman", "Enter Sandman", "metallica sandman", id="a letter left out"),
        pytest.param("mettallica sandman", "Enter Sandman", "metallica sandman", id="a letter added"),
        pytest.param("metellica sandman", "Enter Sandman", "metallica sandman", id="a letter changed"),
        pytest.param("metallcia sandman", "Enter Sandman", "metallica sandman", id="two letters swapped"),
        pytest.param("fleetwod mac dreems", "Dreams", "fleetwood mac dreams", id="two words wrong"),
        pytest.param("artist:nirvna spirit", "Smells Like Teen Spirit", "nirvana spirit", id="in a field"),
        pytest.param('"smels like"', "Smells Like Teen Spirit", "smells like", id="in a phrase"),
        pytest.param("back street boys", "Everybody", None, id="a word parted"),
        pytest.param("enter sand man", "Enter Sandman", None, id="the last word parted"),
        pytest.param("pinkfloyd mother ", "Mother", None, id="two words joined"),
        pytest.param("봄날 소년단", "봄날", None, id="a part of a Hangul word"),
        pytest.param("pink floyd mother full album", "Mother", None, id="words too many"),
        pytest.param("smells like teen spirit official video hd", "Smells Like Teen Spirit", None, id="more of them"),
        pytest.param("enter night sandman metallica", "Enter Sandman", None, id="a word between"),
        pytest.param("fleetwood macs dreams", "Dreams", None, id="a possessive"),
        pytest.param("metalica sandmann lyrics", "Enter Sandman", None, id="a bit of each"),
    ],
)
def test_what_was_meant_comes_first(music: UnitOfWork, query: str, title: str, suggestion: str | None) -> None:
    page = music.search(query)
    assert page.hits[0].track.title == title
    if suggestion is not None:
        assert page.suggestion == suggestion


@pytest.mark.parametrize(
    ("query", "artist"),
    [
        ("jayz", "Jay-Z"),
        ("jay z", "Jay-Z"),
        ("jya z", "Jay-Z"),
        ("backstreetboys", "Backstreet Boys"),
        ("back street boys", "Backstreet Boys"),
        ("bakcstreet boys", "Backstreet Boys"),
        ("fleetwoodmac", "Fleetwood Mac"),
        ("nirvanna", "Nirvana"),
        ("the nirvana", "Nirvana"),
        ("pink floid", "Pink Floyd"),
    ],
)
def test_an_artist_is_found_by_a_name_typed_wrong(music: UnitOfWork, query: str, artist: str) -> None:
    assert music.search(query).hits[0].track.artist == artist


def test_a_suggestion_is_told_only_where_words_were_exchanged(music: UnitOfWork) -> None:
    assert music.search("metallica").suggestion is None
    assert music.search("metallica sandman lyrics").suggestion is None
    assert music.search("xyzzy qwertz").suggestion is None
    assert music.search("metalica").suggestion == "metallica"


def test_highlights_mark_what_was_meant(music: UnitOfWork) -> None:
    hit = music.search("metalica sandmn").hits[0]
    track, highlights = hit.track, hit.highlights
    marked = {field: [getattr(track, field)[start:end] for start, end in spans] for field, spans in highlights.items()}
    assert marked == {"title": ["Sandman"], "artist": ["Metallica"]}


def test_nothing_widened_stands_above_what_was_typed(music: UnitOfWork) -> None:
    exact = save(music, title="Metalica", artist="A Tribute")
    words = save(music, title="The Songs of Metalica and Others", artist="A Tribute")
    assert found(music, "metalica")[:2] == [exact, words]
    assert found(music, "metalica tribute")[:2] == [exact, words]


def test_a_new_word_is_found_exactly_before_the_words_are_counted_and_by_typo_after(music: UnitOfWork) -> None:
    track = save(music, title="Brontosaurus", artist="The Move")
    assert found(music, "brontosaurus") == [track]
    assert found(music, "brontosarus") == []
    count_words(music)
    page = music.search("brontosarus")
    assert ([hit.track.id for hit in page], page.suggestion) == ([track], "brontosaurus")


def test_a_word_of_tracks_that_are_gone_does_no_harm(music: UnitOfWork) -> None:
    music.session.connection().exec_driver_sql("DELETE FROM audio_track_status_changes")
    music.session.connection().exec_driver_sql("DELETE FROM audio_tracks WHERE artist = 'Metallica'")
    assert music.search("metalica").total == 0


@pytest.mark.parametrize(
    "excluded", ["spirit", "smells", '"teen spirit"', "title:teen", "Spirit!", "title:“teen spirit”"]
)
def test_excluded_words_stay_excluded(music: UnitOfWork, excluded: str) -> None:
    assert titles(music, f"nirvanna -{excluded}") == ["Come as You Are"]


def test_a_field_stays_the_field(music: UnitOfWork) -> None:
    save(music, title="Metallica", artist="Somebody")
    assert set(titles(music, "artist:metalica sandman other")) <= {"Enter Sandman", "Nothing Else Matters"}


def test_filters_and_ranges_hold_for_widened_hits(music: UnitOfWork) -> None:
    track = save(music, title="One", artist="Metallica", year=1988, genre="Metal")
    assert found(music, "metalica", filters=SearchFilters(genre="metal")) == [track]
    assert found(music, "metalica year:1988") == [track]
    assert found(music, "metalica year:1989") == []


def test_the_total_of_widened_hits_counts_them_all(music: UnitOfWork) -> None:
    page = music.search("metalica", limit=1)
    assert (page.total, page.is_total_exact, len(page)) == (2, True, 1)


def test_a_catalogue_without_counted_words_finds_with_fewer_words(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        track = save(work, title="Enter Sandman", artist="Metallica")
    assert found(catalog, "enter sandman full album") == [track]
    assert found(catalog, "entre sandmann") == []
