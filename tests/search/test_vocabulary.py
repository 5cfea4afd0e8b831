"""The words are counted in the background of everything else, and only what changed is written."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from audiocatalog import Catalog, TrackMetadata, errors
from audiocatalog.search.vocabulary import LOCK, REFRESH
from tests.support.databases import libpq
from tests.support.searches import found, save

pytestmark = pytest.mark.both_sides

Admin = psycopg.Connection[Any]


@pytest.fixture
def admin(database_url: str) -> Iterator[Admin]:
    """Give a connection beside the catalogue's."""
    with psycopg.connect(libpq(database_url), autocommit=True) as connection:
        yield connection


def words(admin: Admin) -> dict[str, int]:
    rows: list[tuple[str, int]] = admin.execute("SELECT word, tracks FROM audio_search_words").fetchall()
    return dict(rows)


def places(admin: Admin) -> list[tuple[Any, ...]]:
    """Return which transaction wrote each word, and where it stands: both change with every write."""
    return admin.execute("SELECT word, xmin::text, ctid::text FROM audio_search_words ORDER BY word").fetchall()


def keep(catalog: Catalog, **values: Any) -> None:
    with catalog.unit_of_work() as work:
        save(work, **values)


def test_every_word_is_counted_once_for_each_track_that_holds_it(catalog: Catalog, admin: Admin) -> None:
    keep(catalog, title="Time Time Time", artist="AC/DC", album="Time", genre="Rock", year=1999)
    keep(catalog, title="Björk's Time", artist="!!!")
    keep(catalog, title="宇多")
    counted = catalog.refresh_vocabulary()
    once = ["ac", "dc", "acdc", "rock", "1999", "宇", "多", "bjorks", "bjork", "s"]
    assert words(admin) == {"time": 2} | dict.fromkeys(once, 1)
    assert (counted.tracks, counted.words) == (3, len(words(admin)))
    assert abs((datetime.now(UTC) - counted.at).total_seconds()) < 60
    rows = admin.execute("SELECT at, tracks, words FROM audio_search_counts").fetchall()
    assert rows == [tuple(counted)]


def test_an_empty_catalogue_has_no_words(catalog: Catalog, admin: Admin) -> None:
    counted = catalog.refresh_vocabulary()
    assert (counted.tracks, counted.words, words(admin)) == (0, 0, {})


def test_a_second_count_writes_no_word(catalog: Catalog, admin: Admin) -> None:
    insert_many_committed(admin, 200)
    first = catalog.refresh_vocabulary()
    before = places(admin)
    second = catalog.refresh_vocabulary()
    assert (second.tracks, second.words, places(admin)) == (first.tracks, first.words, before)
    assert second.at > first.at


def insert_many_committed(admin: Admin, number: int) -> None:
    admin.execute(
        "INSERT INTO audio_tracks (id, status, title, artist, audio_path)"
        " SELECT gen_random_uuid(), 'COMPLETED', 'common word' || n, 'band' || n % 10, 'a'"
        f" FROM generate_series(1, {number}) AS n"
    )


def test_only_what_changed_by_more_than_a_tenth_is_written(catalog: Catalog, admin: Admin) -> None:
    insert_many_committed(admin, 100)
    catalog.refresh_vocabulary()
    before = {word: place for word, *place in places(admin)}
    keep(catalog, title="common song", artist="band5 band6")
    catalog.refresh_vocabulary()
    after = {word: place for word, *place in places(admin)}
    assert {word for word in after if after[word] != before.get(word)} == {"song"}
    for _ in range(15):
        keep(catalog, title="common")
    catalog.refresh_vocabulary()
    assert words(admin)["common"] == 116


def test_words_that_are_gone_are_deleted(catalog: Catalog, admin: Admin) -> None:
    with catalog.unit_of_work() as work:
        track = save(work, title="Brontosaurus", artist="The Move")
    catalog.refresh_vocabulary()
    assert "brontosaurus" in words(admin)
    with catalog.unit_of_work() as work:
        work.save(TrackMetadata(title="Diplodocus", artist="The Move"), audio_path="a", id=track, replace=True)
    catalog.refresh_vocabulary()
    assert words(admin) == {"diplodocus": 1, "the": 1, "move": 1}
    assert found(catalog, "brontosarus") == []
    assert found(catalog, "diplodcus") == [track]


def test_a_count_blocks_nobody_and_waits_for_nobody(catalog: Catalog, admin: Admin, database_url: str) -> None:
    with catalog.unit_of_work() as work:
        track = save(work, title="Brontosaurus")
    with psycopg.connect(libpq(database_url)) as counting:
        counting.execute(LOCK.sql)
        psycopg.RawCursor(counting).execute(REFRESH.sql, (datetime.now(UTC),))
        # Its transaction is still open.
        keep(catalog, title="Diplodocus")
        with catalog.unit_of_work() as work:
            work.save(TrackMetadata(title="Brontosaurus Two"), audio_path="a", id=track, replace=True)
        assert found(catalog, "brontosaurus two") == [track]
        assert found(catalog, "brontosarus") == [], "the words are seen when the count ends"
        counting.commit()
    assert found(catalog, "brontosarus") == [track]

    with psycopg.connect(libpq(database_url)) as writing:
        writing.execute("UPDATE audio_tracks SET title = 'Stegosaurus' WHERE id = %s", [track])
        assert catalog.refresh_vocabulary().tracks == 2
        assert "stegosaurus" not in words(admin)


def test_of_two_counts_at_once_one_gives_way(catalog: Catalog, admin: Admin, database_url: str) -> None:
    keep(catalog, title="Brontosaurus")
    with psycopg.connect(libpq(database_url)) as counting:
        counting.execute(LOCK.sql)
        with pytest.raises(errors.TransientConflict) as caught:
            catalog.refresh_vocabulary()
        assert (caught.value.retryable, caught.value.operation) == (True, "refresh_vocabulary")
        assert words(admin) == {}
        counting.rollback()
    assert catalog.refresh_vocabulary().words == 1


def test_a_count_that_takes_too_long_changes_nothing(catalog: Catalog, admin: Admin) -> None:
    keep(catalog, title="Diplodocus")
    catalog.refresh_vocabulary()
    insert_many_committed(admin, 3000)
    before = places(admin)
    with pytest.raises(errors.QueryTimeout) as caught:
        catalog.refresh_vocabulary(timeout=0.001)
    assert caught.value.operation == "refresh_vocabulary"
    assert places(admin) == before
    assert admin.execute("SELECT count(*) FROM audio_search_counts").fetchone() == (1,)
    # The limit was this count's alone.
    assert catalog.refresh_vocabulary().tracks == 3001


@pytest.mark.parametrize("timeout", [0, 0.0009, -1, 86_401, True, "5", None, float("nan"), float("inf"), [1]])
def test_a_limit_that_is_none_is_refused(catalog: Catalog, timeout: Any) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        catalog.refresh_vocabulary(timeout=timeout)
    assert (caught.value.field, caught.value.operation) == ("timeout", "refresh_vocabulary")


@pytest.mark.parametrize("pooler", [False, True])
def test_the_longest_words_are_counted(database_url: str, admin: Admin, *, pooler: bool) -> None:
    with Catalog(database_url, pooler=pooler) as catalog:
        keep(catalog, title="ſ" * 1000, artist="宇" * 1000, album="a" * 1000, genre="=" * 200)
        catalog.refresh_vocabulary()
        assert max(map(len, words(admin))) <= 200
        assert not any(word.startswith("=") for word in words(admin))
