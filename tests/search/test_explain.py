"""Every hit can say why it stands where it stands, and every other track why it is not there."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from audiocatalog import Catalog, SearchFilters, UnitOfWork, errors
from audiocatalog.models.ids import new_id
from audiocatalog.search.results import TermExplanation
from tests.support.searches import count_words, found, insert_many, save

pytestmark = pytest.mark.both_sides

TRACKS: dict[str, dict[str, Any]] = {
    "title": {"title": "Dark Side", "artist": "Somebody Else"},
    "artist": {"title": "Some Song", "artist": "Dark Side"},
    "both": {"title": "Side", "artist": "Dark"},
    "one field": {"title": "Side by Side in the Dark", "artist": "Somebody Else"},
    "title begins": {"title": "Dark Sidewalks", "artist": "Somebody Else"},
    "all words": {"title": "Another Side", "artist": "The Dark Room", "album": "Live", "year": 1973, "duration": 100.0},
    "beginnings": {"title": "In the Dark", "artist": "Somebody", "album": "Sidewalks"},
    "none": {"title": "Bright", "artist": "Somebody", "album": "Side"},
}


@pytest.fixture
def dark(work: UnitOfWork) -> dict[str, UUID]:
    return {kind: save(work, **values) for kind, values in TRACKS.items()}


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("title", "the title is the query"),
        ("artist", "the artist is the query"),
        ("both", "title and artist together are the query"),
        ("one field", "one field contains all words"),
        ("title begins", "the title begins with the query"),
        ("all words", "the track contains all words"),
        ("beginnings", "the track contains all words, the last as a prefix"),
    ],
)
def test_a_hit_says_in_which_way_it_is_exact(work: UnitOfWork, dark: dict[str, UUID], kind: str, reason: str) -> None:
    explained = work.explain("dark side", dark[kind])
    order = found(work, "dark side")
    assert (explained.id, explained.position) == (dark[kind], order.index(dark[kind]) + 1)
    assert explained.reason.removeprefix(f"hit {explained.position} of 7: ").split(", and the first")[0] == reason
    assert explained.unmet == ()


def test_positions_and_scores_are_those_of_the_search(work: UnitOfWork, dark: dict[str, UUID]) -> None:
    for query in ("dark side", "dark", "d", "side OR bright ", "artist:dark"):
        page = work.search(query, limit=100)
        for position, hit in enumerate(page, 1):
            explained = work.explain(query, hit.track.id)
            assert (explained.position, explained.score) == (position, hit.score), query
            assert f"hit {position} of {page.total}" in explained.reason


def test_terms_say_in_which_fields_they_are(work: UnitOfWork) -> None:
    track = save(work, title="Time", artist="AC/DC", album="Time Machine", genre="Rock", year=1999)
    explained = work.explain('time acdc "time machine" genre:rock 1999 title:machine mach -live', track)
    assert explained.terms == (
        TermExplanation("time", ("title", "album")),
        TermExplanation("acdc", ("artist",)),
        TermExplanation("time machine", ("album",)),
        TermExplanation("genre:rock", ("genre or year",)),
        TermExplanation("1999", ("genre or year",)),
        TermExplanation("title:machine", ()),
        TermExplanation("mach", ()),
        TermExplanation("live", (), excluded=True),
    )
    # The last word may go on.
    assert work.explain("time mach", track).terms[1] == TermExplanation("mach", ("album",))


def test_initials_and_the_whole_text_are_told(work: UnitOfWork) -> None:
    initials = save(work, title="Hurt", artist="Nine Inch Nails")
    whole = save(work, title="Bird Sprite -Awakening of Light-", artist="Somebody")
    assert "the artist has these initials" in work.explain("nin ", initials).reason
    assert "punctuation included" in work.explain("Bird Sprite -Awakening of Light-", whole).reason


@pytest.mark.sync_only
def test_a_widened_hit_says_so(work: UnitOfWork) -> None:
    track = save(work, title="Enter Sandman", artist="Metallica")
    count_words(work)
    explained = work.explain("metalica sandman", track)
    assert explained.position == 1
    assert "no track contains all words as typed" in explained.reason
    assert "'metallica sandman'" in explained.reason
    assert explained.terms == (TermExplanation("metalica", ()), TermExplanation("sandman", ("title",)))


# What is not there


@pytest.mark.parametrize(
    ("query", "kind", "reason"),
    [
        ("dark side", "none", "not found: the track does not contain 'dark'"),
        ("dark side ", "title begins", "not found: the track does not contain 'side'"),
        ("title:dark side", "all words", "not found: the track does not contain 'title:dark'"),
        ("dark side -live", "all words", "not found: the track contains words that the query excludes: 'live'"),
        (
            "side -artist:somebody",
            "none",
            "not found: the track contains words that the query excludes: 'artist:somebody'",
        ),
        ("dark side year:1990..", "all words", "not found: the track does not meet these conditions: year"),
        ("dark side year:1990..", "title", "not found: the track does not meet these conditions: year"),
        ("dark side duration:1:41..", "all words", "not found: the track does not meet these conditions: duration"),
        (
            "dark side year:1990 duration:5",
            "all words",
            "not found: the track does not meet these conditions: year, duration",
        ),
    ],
)
def test_an_absent_track_says_what_is_missing(
    work: UnitOfWork, dark: dict[str, UUID], query: str, kind: str, reason: str
) -> None:
    explained = work.explain(query, dark[kind])
    assert dark[kind] not in found(work, query)
    assert (explained.position, explained.score, explained.reason) == (None, None, reason)


def test_an_absent_track_says_which_filters_it_does_not_meet(work: UnitOfWork, dark: dict[str, UUID]) -> None:
    filters = SearchFilters(genre="Rock", album="live", status="COMPLETED", year=(1980, None))
    explained = work.explain("dark side duration:..5", dark["all words"], filters=filters)
    assert explained.unmet == ("genre", "year", "duration")
    assert explained.reason == "not found: the track does not meet these conditions: genre, year, duration"
    met = work.explain("dark side", dark["all words"], filters=SearchFilters(album="live", year=1973))
    assert (met.position, met.unmet) == (1, ())


@pytest.mark.sync_only
def test_a_track_that_others_stand_in_front_of_says_so(work: UnitOfWork) -> None:
    track = save(work, title="Brontosaurus Song", artist="Somebody")
    save(work, title="Song", artist="Somebody")
    count_words(work)
    explained = work.explain("brontosarus something song", track)
    assert explained.position == 1
    # Of a word as common as this, not every track is looked at.
    insert_many(work.session.connection(), 5000, title="'Common ' || n")
    hits = set(found(work, "common", limit=100))
    absent = [
        explained
        for identifier in work.session.connection()
        .exec_driver_sql("SELECT id FROM audio_tracks WHERE title LIKE 'Common %%' ORDER BY id LIMIT 30")
        .scalars()
        if identifier not in hits and (explained := work.explain("common ", identifier)).position is None
    ]
    assert all("as common" in one.reason or "so common" in one.reason or "more closely" in one.reason for one in absent)
    assert absent


# How it is asked, and read


def test_it_is_read_as_lines(work: UnitOfWork, dark: dict[str, UUID]) -> None:
    first, *others = str(work.explain("room dark side", dark["all words"])).splitlines()
    assert first.startswith("hit 1 of ")
    assert first.endswith(": the track contains all words")
    assert others == ["  'room' in artist", "  'dark' in artist", "  'side' in title"]
    assert str(work.explain("dark side -live", dark["all words"])).splitlines() == [
        "not found: the track contains words that the query excludes: 'live'",
        "  'dark' in artist",
        "  'side' in title",
        "  excluded: 'live' in album",
    ]
    assert "  'dark' in nowhere" in str(work.explain("dark side", dark["none"]))


def test_the_catalogue_explains_too(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        track = save(work, title="Dark Side")
        inside = work.explain("dark side", str(track))
    assert catalog.explain("dark side", track) == inside
    assert catalog.explain("dark side", track, filters=SearchFilters(year=1990)).unmet == ("year",)


def test_an_unknown_track_cannot_be_explained(work: UnitOfWork) -> None:
    unknown = new_id()
    with pytest.raises(errors.TrackNotFound) as caught:
        work.explain("dark side", unknown)
    assert (caught.value.operation, caught.value.track_id) == ("explain", unknown)


@pytest.mark.parametrize("query", ["", " ", "\u200b", "year:1990", "year:1990 -live", str(new_id())])
def test_a_query_without_a_word_cannot_be_explained(work: UnitOfWork, query: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        work.explain(query, save(work, title="Song"))
    assert (caught.value.field, caught.value.operation) == ("query", "explain")


@pytest.mark.parametrize("query", ["x" * 1001, "a\0b", None])
def test_a_query_out_of_bounds_is_refused(work: UnitOfWork, query: Any) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        work.explain(query, new_id())
    assert caught.value.field == "query"


def test_an_id_that_is_none_is_refused(work: UnitOfWork) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        work.explain("dark side", "no id")
    assert caught.value.field == "id"


def test_a_long_paste_is_explained_by_the_words_that_count(work: UnitOfWork) -> None:
    track = save(work, title="Signal", artist="The Long Paste")
    pasted = "signal paste " * 16 + "nowhere to be found"
    page = work.search(pasted)
    assert ([hit.track.id for hit in page], page.ignored_terms) == ([track], 4)
    explanation = work.explain(pasted, track)
    assert (explanation.position, explanation.score, explanation.ignored_terms) == (1, page.hits[0].score, 4)
    assert len(explanation.terms) == 32
    assert str(explanation).endswith("not searched for: the last 4 terms, beyond the limit of 32")
    assert work.explain("signal paste", track).ignored_terms == 0
