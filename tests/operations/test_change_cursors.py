"""What is handed back as a cursor is one that was given, or is refused: it never is an error of the database."""

from __future__ import annotations

import base64
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audiocatalog import Catalog, errors, migrations
from audiocatalog.operations.changes import FeedPosition, Snapshot
from audiocatalog.operations.pagination import read_cursor, write_cursor
from tests.support.changes import new, replace, writer
from tests.support.databases import libpq, temporary_database

pytestmark = pytest.mark.both_sides


def test_a_cursor_is_checked(catalog: Catalog) -> None:
    good = read_cursor(catalog.changes().next_cursor)
    origin, old, _, _, step = good
    some = uuid4().hex
    some_numbers: tuple[object, ...] = (0, -1, 1.5, True, None, "1", 2**41, [])
    wrong: list[object] = [
        "",
        "x",
        "é",
        "\ud800",
        5,
        b"W10",
        True,
        "A" * 100_000,
        base64.b64encode(b"[" * 100_000).decode(),
        *(
            write_cursor(parts)
            for parts in (
                [],
                {},
                "abcde",
                [*good, 1],
                good[:4],
                [None, old, None, None, step],
                [origin, None, None, None, step],
                [origin, old, None, some, step],
                [origin, old, old, None, step],
                [origin, old, old, "x", step],
                [origin, old, old, 7, step],
                [origin, 5, None, None, step],
                *([origin, old, None, None, one] for one in some_numbers),
                *([one, old, None, None, step] for one in some_numbers[2:6]),
                *(
                    [origin, text, None, None, step]
                    for text in (
                        "", "1", "1:2", "0:1:", "2:1:", "1:2:2", "5:9:4", "5:9:6,5", "5:9:6,6", "5:9:6,", "1:2:\n",
                        "-1:2:", "1:2:x", "٣:٤:", f"1:{2**62}:", f"1:{'9' * 30}:", "1:2:;DROP", " 1:2:",
                    )
                ),
            )
        ),
    ]  # fmt: skip
    for cursor in wrong:
        with pytest.raises(errors.InvalidInput) as caught:
            catalog.changes(cursor)  # type: ignore[arg-type]
        assert (caught.value.field, caught.value.operation) == ("after", "changes")
    assert catalog.changes(write_cursor(good)).tracks == ()


@given(st.one_of(st.text(), st.binary().map(lambda data: base64.urlsafe_b64encode(data).decode())))
def test_no_text_is_taken_for_a_cursor(text: str) -> None:
    with pytest.raises(errors.InvalidInput):
        FeedPosition.parse(text)


_snapshots = st.builds(
    lambda low, more: Snapshot(low, low + max(more, default=0) + 1, tuple(sorted(low + one for one in more))),
    st.integers(1, 2**60),
    st.sets(st.integers(0, 1000), max_size=20),
).filter(lambda snapshot: all(xid % 2**32 for xid in (snapshot.xmin, snapshot.xmax, *snapshot.running)))


@given(st.integers(0, 2**32), _snapshots, st.one_of(st.none(), st.tuples(_snapshots, st.uuids())))
def test_a_place_survives_being_written(origin: int, old: Snapshot, window: tuple[Snapshot, UUID] | None) -> None:
    place = FeedPosition(origin, old, *(window or (None, None)))
    assert FeedPosition.parse(place.text()) == place


_xids = st.one_of(st.integers(-5, 50), st.integers(-5, 5).map(lambda n: 2**32 + n), st.integers(0, 2**64))


@given(_xids, _xids, st.lists(_xids, max_size=3))
def test_what_is_taken_for_a_snapshot_is_one_to_the_server(
    migrated_url: str, xmin: int, xmax: int, running: list[int]
) -> None:
    text = f"{xmin}:{xmax}:{','.join(map(str, running))}"
    try:
        snapshot = Snapshot.parse(text)
    except ValueError:
        return
    with psycopg.connect(libpq(migrated_url), autocommit=True) as connection:
        for one in (snapshot, Snapshot(snapshot.behind(1), snapshot.behind(1))):
            assert connection.execute("SELECT %s::pg_snapshot::text", [str(one)]).fetchone() == (str(one),)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 2**32])
def test_a_window_ends_at_no_number_that_is_no_transaction(step: int) -> None:
    assert Snapshot(5, 2**32 - 1).behind(step) == 2**32 + max(3, step - 1)


@pytest.mark.parametrize("ahead", [1, 10**6, 2**61])
def test_a_cursor_of_a_server_that_is_ahead_is_refused(catalog: Catalog, ahead: int) -> None:
    """Of another cluster, or of this one before it was restored: what it was given is not what is here."""
    new(catalog, 1)
    place = FeedPosition.parse(catalog.changes().next_cursor)
    assert place.old is not None
    number = min(place.old.xmax + ahead, 2**62 - 1)
    for wrong in (
        place._replace(old=Snapshot(number, number)),
        place._replace(new=Snapshot(number, number), after=UUID(int=0)),
        FeedPosition(place.origin, None, Snapshot(number, number), UUID(int=0)),
    ):
        with pytest.raises(errors.InvalidInput, match="start again") as caught:
            catalog.changes(wrong.text())
        assert caught.value.field == "after"


def test_a_cursor_that_takes_a_running_transaction_for_ended_is_refused(catalog: Catalog, database_url: str) -> None:
    (track,) = new(catalog)
    with writer(database_url) as work:
        replace(work, track)
        new(catalog)
        place = FeedPosition.parse(catalog.changes().next_cursor)
        assert place.old is not None
        assert place.old.running
        with pytest.raises(errors.InvalidInput, match="start again"):
            catalog.changes(place._replace(old=place.old._replace(running=())).text())


def test_a_cursor_of_another_database_is_refused(catalog: Catalog, server_url: str) -> None:
    cursor = catalog.changes().next_cursor
    with temporary_database(server_url) as url:
        migrations.upgrade(url)
        with Catalog(url) as other, pytest.raises(errors.InvalidInput, match="start again"):
            other.changes(cursor)


def test_the_limit_is_checked(catalog: Catalog) -> None:
    for limit in (0, -1, 10_001, True, 2.0, "5", None):
        with pytest.raises(errors.InvalidInput) as caught:
            catalog.changes(limit=limit)  # type: ignore[arg-type]
        assert caught.value.field == "limit"
