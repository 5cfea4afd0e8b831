"""Exactness comes first, then closeness, and nothing is left to chance."""

from __future__ import annotations

from uuid import UUID

import pytest

from audiocatalog import SearchFilters, UnitOfWork
from audiocatalog.models.ids import new_id
from tests.support.searches import count_words, found, insert_many, save, titles

#: From the most exact to the least; each is saved after those that it must stand before.
DARK_SIDE = {
    "exact title": {"title": "Dark Side", "artist": "Somebody Else"},
    "exact artist": {"title": "Some Song", "artist": "Dark Side"},
    "title and artist": {"title": "Dark", "artist": "Side"},
    "artist and title": {"title": "Side", "artist": "Dark"},
    "all words in one field": {"title": "Side by Side in the Dark", "artist": "Somebody Else"},
    "title begins": {"title": "Dark Sidewalks in the Rain", "artist": "Somebody Else"},
    "names begin": {"title": "Side Effects", "artist": "Dark"},
    "all words": {"title": "Another Side", "artist": "The Dark Room"},
    "beginnings": {"title": "In the Dark", "artist": "Somebody", "album": "Sidewalks"},
}


def test_the_more_exact_comes_first(work: UnitOfWork) -> None:
    kinds = {save(work, **values): kind for kind, values in reversed(DARK_SIDE.items())}
    order = [kinds[track] for track in found(work, "dark side")]
    both = {"title and artist", "artist and title"}
    assert set(order[2:4]) == both
    assert [kind for kind in order if kind not in both] == [kind for kind in DARK_SIDE if kind not in both]


def test_behind_a_space_the_last_word_does_not_go_on(work: UnitOfWork) -> None:
    kinds = {save(work, **values): kind for kind, values in reversed(DARK_SIDE.items())}
    order = [kinds[track] for track in found(work, "Dark Side ")]
    assert order[:2] == ["exact title", "exact artist"]
    assert set(DARK_SIDE) - set(order) == {"title begins", "beginnings"}


def test_a_title_that_goes_on_comes_before_words_in_several_fields(work: UnitOfWork) -> None:
    scattered = save(work, title="Love", artist="Crazy Horse", album="Little")
    begins = save(work, title="Crazy Little Lovebirds", artist="Queen")
    exact = save(work, title="Crazy Little Love", artist="Queen")
    assert found(work, "crazy little love") == [exact, begins, scattered]


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"title": "Hurt"}, {"title": "Hurt So Good"}),
        ({"title": "Hurt"}, {"title": "Song", "album": "Hurt"}),
        ({"title": "Hurt So Good"}, {"title": "Song", "album": "Hurt"}),
        ({"title": "Song", "album": "Hurt"}, {"title": "Song", "genre": "Hurt"}),
        ({"title": "Hurt So Good"}, {"title": "Hurtful Words Said Twice"}),
        ({"title": "Song", "artist": "Hurt"}, {"title": "Hurt So Good"}),
        ({"title": "Song", "artist": "The Hurt"}, {"title": "The Hurt Locker"}),
        ({"title": "So Hurt"}, {"title": "So Much Longer Than That and Hurt at the End"}),
    ],
)
def test_of_two_tracks_the_better_comes_first_whichever_is_older(
    work: UnitOfWork, better: dict[str, str], worse: dict[str, str]
) -> None:
    for first, second in ((better, worse), (worse, better)):
        older, newer = (save(work, **({"artist": "Somebody"} | values)) for values in (first, second))
        good, bad = (older, newer) if first is better else (newer, older)
        order = found(work, "hurt", limit=100)
        assert order.index(good) < order.index(bad)


@pytest.mark.parametrize("query", ["hounds kate bush", "kate bush hounds", "Kate Bush - Hounds", "hounds, Kate Bush "])
def test_artist_and_title_find_their_track_in_either_order(work: UnitOfWork, query: str) -> None:
    save(work, title="Hounds of Kate", artist="Bush by Bush")
    track = save(work, title="Hounds", artist="Kate Bush")
    save(work, title="Kate Bush by Hounds and Others", artist="Somebody")
    assert found(work, query)[0] == track


# One name, and both a title and an artist.


@pytest.mark.parametrize(("of_the_artist", "of_the_title"), [(5, 2), (2, 5), (30, 5), (5, 30)])
def test_an_exact_artist_with_more_tracks_than_titles_leads(
    work: UnitOfWork, of_the_artist: int, of_the_title: int
) -> None:
    for number in range(of_the_artist):
        save(work, title=f"Song {number}", artist="Kino")
    for number in range(of_the_title):
        save(work, title="Kino", artist=f"Band {number}")
    hits = [hit.track for hit in work.search("kino", limit=10)]
    kinds = ["artist" if track.artist == "Kino" else "title" for track in hits]
    leading = "artist" if of_the_artist > of_the_title else "title"
    assert kinds[0] == leading
    assert set(kinds) == {"artist", "title"}, "both belong on the first page"


@pytest.mark.parametrize("query", ["beatles", "the beatles", "Beatles", "THE BEATLES "])
def test_an_artist_is_found_with_and_without_the_article(work: UnitOfWork, query: str) -> None:
    save(work, title="Something About the Beatles and Their Time", artist="Somebody")
    of_the_artist = {save(work, title=title, artist="The Beatles") for title in ("Yesterday", "Help!", "Something")}
    assert set(found(work, query)[:3]) == of_the_artist


@pytest.mark.parametrize("query", ["eagles", "the eagles"])
def test_an_article_that_the_artist_does_not_have_is_no_matter(work: UnitOfWork, query: str) -> None:
    save(work, title="Where the Eagles Fly", artist="Somebody")
    track = save(work, title="Desperado", artist="Eagles")
    assert found(work, query)[0] == track


def test_an_artist_called_the_the_keeps_both_words(work: UnitOfWork) -> None:
    track = save(work, title="Infected", artist="The The")
    save(work, title="The Song", artist="The Band")
    assert found(work, "the the")[0] == track


# Accents and initials.


@pytest.mark.parametrize(
    ("query", "expected"),
    [("mø", "MØ"), ("MØ", "MØ"), ("Björk", "Björk"), ("bjo\u0308rk", "Björk"), ("кёльн", "Кёльн")],
)
def test_an_accented_query_prefers_the_accented_hit(work: UnitOfWork, query: str, expected: str) -> None:
    plain = {"MØ": "Mo", "Björk": "Bjork", "Кёльн": "Кельн"}[expected]
    for name in (plain, expected, plain):
        save(work, title="Song", artist=name)
    hits = [hit.track.artist for hit in work.search(query)]
    assert hits == [expected, plain, plain]


def test_accents_never_stand_above_exactness(work: UnitOfWork) -> None:
    exact = save(work, title="Bjork", artist="Somebody")
    save(work, title="A Song About Björk", artist="Somebody")
    assert found(work, "björk")[0] == exact


def test_a_plain_query_takes_accented_and_plain_alike(work: UnitOfWork) -> None:
    tracks = [save(work, title="Song", artist=artist) for artist in ("Björk", "Bjork", "BJÖRK")]
    assert found(work, "bjork") == tracks


@pytest.mark.parametrize(
    ("query", "artist"),
    [("nin ", "Nine Inch Nails"), ("NIN ", "Nine Inch Nails"), ("ratm", "Rage Against the Machine")],
)
def test_initials_find_the_artist(work: UnitOfWork, query: str, artist: str) -> None:
    track = save(work, title="Hurt", artist=artist)
    save(work, title="Hurt", artist="Nine Nails")
    assert found(work, query) == [track]


def test_initials_stand_behind_what_is_called_so(work: UnitOfWork) -> None:
    initials = save(work, title="Hurt", artist="Nine Inch Nails")
    artist = save(work, title="Tribute", artist="NIN")
    title = save(work, title="NIN", artist="Somebody")
    word = save(work, title="The NIN Remixes", artist="Somebody")
    order = found(work, "nin")
    assert set(order[:2]) == {artist, title}
    assert order.index(initials) < order.index(word)


# The order is total, and the same each time.


def test_tracks_that_are_alike_stand_in_the_order_of_their_ids(work: UnitOfWork) -> None:
    ids = sorted(new_id() for _ in range(30))
    for identifier in (ids[0::3] + ids[2::3] + ids[1::3])[::-1]:
        work.session.connection().exec_driver_sql(
            "INSERT INTO audio_tracks (id, status, title, artist, audio_path)"
            " VALUES (%s, 'COMPLETED', 'Same Old Song', 'Somebody', 'a')",
            (identifier,),
        )
    for query in ("same old", "song somebody", "old", "so"):
        assert found(work, query, limit=100) == ids
        assert found(work, query, limit=10, offset=10) == ids[10:20]


def test_the_same_search_gives_the_same_page(work: UnitOfWork) -> None:
    insert_many(work.session.connection(), 300, title="'Song ' || n % 7", artist="'Band ' || n % 5")
    for query in ("song", "band 3", "song 1 band", "so"):
        pages = [[(hit.track.id, hit.score) for hit in work.search(query, limit=50)] for _ in range(3)]
        assert pages[0] == pages[1] == pages[2]
        keys = [(-score, identifier) for identifier, score in pages[0]]
        assert keys == sorted(keys)


def test_filters_leave_the_order_as_it_is(work: UnitOfWork) -> None:
    saved: list[UUID] = [save(work, **values, year=1990 + place) for place, values in enumerate(DARK_SIDE.values())]
    order = found(work, "dark side")
    assert sorted(order) == sorted(saved)
    narrowed = found(work, "dark side", filters=SearchFilters(year=(1991, 1995)))
    assert narrowed == [track for track in order if track in narrowed]
    assert len(narrowed) == 5


def test_what_was_typed_wrong_never_stands_above_what_was_typed_right(work: UnitOfWork) -> None:
    right = save(work, title="Some Song", artist="Somebody", genre="Nivana")
    save(work, title="Nirvana", artist="Nirvana")
    count_words(work)
    assert found(work, "nivana")[0] == right


def test_the_whole_text_is_a_name_where_it_is_one_signs_and_all(work: UnitOfWork) -> None:
    save(work, title="Bird Sprite", artist="Somebody")
    save(work, title="Bird Sprite", artist="Another")
    named = save(work, title="Bird Sprite -Awakening of Light-", artist="Somebody")
    assert found(work, "Bird Sprite -Awakening of Light-")[0] == named


def test_a_beginning_finds_more_the_more_of_it_is_typed(work: UnitOfWork) -> None:
    for title in ("Radio", "Radioactive", "Radio Ga Ga", "Radical", "Rain", "R"):
        save(work, title=title, artist="Somebody")
    assert titles(work, "r")[0] == "R"
    assert set(titles(work, "r")) == {"Radio", "Radioactive", "Radio Ga Ga", "Radical", "Rain", "R"}
    assert set(titles(work, "rad")) == {"Radio", "Radioactive", "Radio Ga Ga", "Radical"}
    assert titles(work, "radio") == ["Radio", "Radio Ga Ga", "Radioactive"]
    assert titles(work, "radio ") == ["Radio", "Radio Ga Ga"]
