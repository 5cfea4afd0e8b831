"""A copy that follows the catalogue misses nothing: however long writers take, and in whichever order they commit."""

from __future__ import annotations

import random
import threading
from contextlib import ExitStack, suppress
from itertools import pairwise
from uuid import UUID, uuid4

import psycopg
import pytest

from audiocatalog import Catalog, ChangePage, Track, TrackMetadata, TrackStatus, UnitOfWork, errors
from audiocatalog.models.rows import TRACK_COLUMNS
from audiocatalog.operations.changes import FeedPosition, changes_sql, update_values
from audiocatalog.operations.operation import GENERIC_PLAN_SETTINGS
from tests.support.changes import new, replace, writer
from tests.support.databases import libpq, temporary_database
from tests.support.plans import nodes, plan_of, rows_read
from tests.support.searches import Asked
from tests.support.threads import in_threads

pytestmark = pytest.mark.both_sides

PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus


class Copy:
    """Keep a copy of the tracks, as a cache or an index would."""

    def __init__(self, source: Catalog | UnitOfWork, limit: int = 1000) -> None:
        self.source = source
        self.limit = limit
        self.cursor: str | None = None
        self.tracks: dict[UUID, Track] = {}

    def page(self) -> ChangePage:
        page = self.source.changes(self.cursor, limit=self.limit)
        assert len(page.tracks) <= self.limit
        assert [track.id for track in page.tracks] == sorted({track.id for track in page.tracks})
        self.cursor = page.next_cursor
        self.tracks.update((track.id, track) for track in page.tracks)
        return page

    def follow(self) -> list[UUID]:
        """Ask for as long as it is worth it, and return what was given, in that order."""
        given: list[UUID] = []
        for _ in range(10_000):
            page = self.page()
            given += (track.id for track in page.tracks)
            if not page.more:
                return given
        pytest.fail("it never comes to an end")


def content(tracks: dict[UUID, Track]) -> dict[UUID, list[object]]:
    return {key: [getattr(track, name) for name in TRACK_COLUMNS] for key, track in tracks.items()}


def stored(catalog: Catalog) -> dict[UUID, list[object]]:
    return content({track.id: track for track in catalog.iter_tracks()})


# What is told


def test_it_begins_with_all_tracks_and_goes_on_with_what_is_written(catalog: Catalog) -> None:
    ids = new(catalog, 5)
    copy = Copy(catalog)
    assert copy.follow() == sorted(ids)
    assert copy.follow() == []
    catalog.update_status(ids[0], PENDING)
    replace(catalog, ids[1])
    (later,) = new(catalog)
    assert copy.follow() == sorted([ids[0], ids[1], later])
    assert copy.follow() == []
    assert content(copy.tracks) == stored(catalog)


def test_every_way_to_write_is_told(catalog: Catalog) -> None:
    ids = new(catalog, 6, status=PENDING)
    copy = Copy(catalog)
    copy.follow()
    claims = {claim.track.id: claim for claim in catalog.claim(6)}
    assert copy.follow() == sorted(ids)
    catalog.renew(claims[ids[0]])
    assert copy.follow() == []
    catalog.complete(claims[ids[1]], TrackMetadata(title="done"))
    catalog.fail(claims[ids[2]], "broken")
    catalog.release(claims[ids[3]])
    catalog.update_statuses([ids[4]], FAILED)
    assert copy.follow() == sorted(ids[1:5])
    with catalog.unit_of_work() as work:
        work.save(TrackMetadata(title="done"), id=ids[1], audio_path="a")
    assert copy.follow() == []
    assert content(copy.tracks) == stored(catalog)


def test_what_was_rolled_back_is_not_told(catalog: Catalog) -> None:
    (track,) = new(catalog)
    copy = Copy(catalog)
    copy.follow()
    with pytest.raises(KeyError), catalog.unit_of_work() as work:
        replace(work, track)
        raise KeyError
    assert copy.follow() == []


def test_an_empty_catalogue_is_a_place_to_begin(catalog: Catalog) -> None:
    copy = Copy(catalog)
    page = copy.page()
    assert (page.tracks, page.more) == ((), False)
    ids = new(catalog, 2)
    assert copy.follow() == sorted(ids)


def test_a_page_can_be_asked_for_again(catalog: Catalog) -> None:
    """As after an answer that was lost, or a copy that could not be stored."""
    ids = new(catalog, 3)
    copy = Copy(catalog)
    copy.follow()
    cursor = copy.cursor
    for _ in range(2):
        catalog.update_status(ids[0], PENDING) if catalog.get(ids[0]).status is COMPLETED else None
        assert [track.id for track in catalog.changes(cursor).tracks] == [ids[0]]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 10_000])
def test_pages_join_without_a_gap(catalog: Catalog, limit: int) -> None:
    ids = new(catalog, 7)
    copy = Copy(catalog, limit)
    assert copy.follow() == sorted(ids)
    for track in ids[:3]:
        replace(catalog, track)
    catalog.update_statuses(ids[2:6], PENDING)
    assert copy.follow() == sorted(ids[:6])
    assert content(copy.tracks) == stored(catalog)


@pytest.mark.parametrize("limit", [1, 3])
def test_what_is_written_between_the_pages_is_told_later(catalog: Catalog, limit: int) -> None:
    """Of the first copy as of a window of changes, ahead of the page that was read and behind it."""
    ids = sorted(new(catalog, 9))
    copy = Copy(catalog, limit)
    copy.page()
    replace(catalog, ids[0], "behind")
    replace(catalog, ids[8], "ahead")
    copy.follow()
    assert content(copy.tracks) == stored(catalog)
    catalog.update_statuses(ids, PENDING)
    copy.page()
    replace(catalog, ids[0], "behind again")
    replace(catalog, ids[8], "ahead again")
    first, last = UUID(int=0), UUID(int=2**128 - 1)
    with catalog.unit_of_work() as work:
        for track in (first, last):
            work.save(TrackMetadata(), id=track, audio_path="a")
    copy.follow()
    assert content(copy.tracks) == stored(catalog)
    assert copy.follow() == []


def test_more_says_when_it_is_worth_it(catalog: Catalog) -> None:
    new(catalog, 4)
    copy = Copy(catalog, 2)
    assert [copy.page().more for _ in range(3)] == [True, True, False]
    assert copy.page().more is False


# Those who commit late


def test_a_transaction_that_commits_after_the_poll_is_told_then(catalog: Catalog, database_url: str) -> None:
    ids = new(catalog, 3)
    copy = Copy(catalog)
    with writer(database_url) as work:
        replace(work, ids[0])
        added = work.save(TrackMetadata(), id=UUID(int=1), audio_path="a").id
        assert copy.follow() == sorted(ids)
        work.update_status(ids[1], PENDING)
        assert copy.follow() == []
    assert copy.follow() == sorted([ids[0], ids[1], added])
    assert content(copy.tracks) == stored(catalog)


@pytest.mark.parametrize("is_kept", [True, False])
def test_savepoints_hide_nothing(catalog: Catalog, database_url: str, *, is_kept: bool) -> None:
    """A savepoint has an id of its own, which no snapshot names; what it has written counts by its transaction."""
    ids = new(catalog, 4)
    copy = Copy(catalog)
    copy.follow()
    with writer(database_url) as work:
        with work.session.begin_nested():
            replace(work, ids[0])
            with work.session.begin_nested():
                work.update_status(ids[1], PENDING)
        copy.follow()
        point = work.session.begin_nested()
        replace(work, ids[2])
        if is_kept:
            point.commit()
        else:
            point.rollback()
        # Others begin later and commit sooner, so that the ids of the savepoints are among those that have ended.
        replace(catalog, ids[3])
        assert copy.follow() == [ids[3]]
        assert copy.follow() == []
    assert copy.follow() == sorted(ids[: 3 if is_kept else 2])
    assert content(copy.tracks) == stored(catalog)


def test_savepoints_of_the_driver_hide_nothing(catalog: Catalog, database_url: str) -> None:
    (track,) = new(catalog)
    copy = Copy(catalog)
    copy.follow()
    with psycopg.connect(libpq(database_url)) as other, other.transaction(), other.transaction():
        other.execute(
            "SELECT audiocatalog_move_v1(%s, 'PENDING', '{COMPLETED}', 'somebody', NULL, NULL, false)", [track]
        )
        copy.follow()
    assert copy.follow() == [track]


def test_long_transactions_hold_up_nobody_else(catalog: Catalog, database_url: str) -> None:
    """One has written before all polls, one begins between them; others are reported at once, and once."""
    ids = new(catalog, 12)
    copy = Copy(catalog)
    with ExitStack() as late:
        with writer(database_url) as long:
            replace(long, ids[0])
            copy.follow()
            for turn in range(2, 10):
                if turn == 5:
                    replace(late.enter_context(writer(database_url)), ids[1])
                replace(catalog, ids[turn])
                assert copy.follow() == [ids[turn]]
                assert copy.follow() == []
            long.update_status(ids[10], PENDING)
        assert copy.follow() == sorted([ids[0], ids[10]])
        replace(catalog, ids[11])
        assert copy.follow() == [ids[11]]
    assert copy.follow() == [ids[1]]
    assert copy.follow() == []
    assert content(copy.tracks) == stored(catalog)


def test_the_latest_transaction_of_all_is_not_taken_for_ended(catalog: Catalog, database_url: str) -> None:
    """
    It has an id that is not below the ``xmax`` of any snapshot, for nothing that began later has ended.

    What it wrote is older than the snapshots that are taken meanwhile: their times tell nothing of it.
    """
    ids = new(catalog, 2)
    copy = Copy(catalog)
    copy.follow()
    with writer(database_url) as work:
        replace(work, ids[0])
        for _ in range(5):
            assert copy.follow() == []
        assert copy.cursor is not None
        last = FeedPosition.parse(copy.cursor).old
        written = work.session.connection().exec_driver_sql("SELECT max(xact_id) FROM audio_track_edits").scalar_one()
        assert last is not None
        assert written >= last.xmax
    assert copy.follow() == [ids[0]]


@pytest.mark.parametrize("begins", ["before", "after"])
def test_the_own_writes_of_a_unit_of_work_are_told_when_it_has_committed(
    catalog: Catalog, database_url: str, begins: str
) -> None:
    """PostgreSQL's own snapshot takes the transaction that asks for ended, if a later one has; it may write more."""
    ids = new(catalog, 3)
    start = catalog.changes().next_cursor
    with catalog.unit_of_work() as work:
        if begins == "before":
            replace(work, ids[0])
            replace(catalog, ids[1])
        page = work.changes(start)
        assert [track.id for track in page.tracks] == ([ids[1]] if begins == "before" else [])
        work.update_status(ids[2], PENDING)
        replace(work, ids[0], "again")
        follow_up = work.changes(page.next_cursor)
        assert follow_up.tracks == ()
    assert [track.id for track in catalog.changes(follow_up.next_cursor).tracks] == sorted([ids[0], ids[2]])
    assert [track.id for track in catalog.changes(page.next_cursor).tracks] == sorted([ids[0], ids[2]])


def test_a_transaction_that_sees_the_past_waits_for_nothing_and_skips_nothing(
    catalog: Catalog, database_url: str
) -> None:
    """In REPEATABLE READ, what a cursor has been given may not be visible yet."""
    ids = new(catalog, 3)
    start = catalog.changes().next_cursor
    with catalog.unit_of_work() as work:
        work.session.connection(execution_options={})
        work.session.connection().exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        work.get(ids[0])
        catalog.update_statuses(ids, PENDING)
        half = catalog.changes(start, limit=2)
        page = work.changes(half.next_cursor)
        assert (page.tracks, page.next_cursor, page.more) == ((), half.next_cursor, False)
        assert work.changes(start).tracks == ()
    assert [track.id for track in catalog.changes(page.next_cursor).tracks] == sorted(ids)[2:]


@pytest.mark.parametrize("pooler", [False, True])
def test_it_works_behind_a_pooler_and_assigns_no_transaction_id(database_url: str, *, pooler: bool) -> None:
    with Catalog(database_url, pooler=pooler) as catalog:
        ids = new(catalog, 3)
        copy = Copy(catalog, 2)
        assert copy.follow() == sorted(ids)
        replace(catalog, ids[0])
        assert copy.follow() == [ids[0]]
        cursors = {copy.page().next_cursor for _ in range(8)}
        # The place is the same as long as nothing ends, so that reading takes no id of its own.
        assert len(cursors) == 1
        with catalog.unit_of_work() as work:
            work.session.connection().exec_driver_sql("SET TRANSACTION READ ONLY")
            assert Copy(work).follow() == sorted(ids)


# Long absences


def test_what_has_gone_on_for_long_is_told_in_parts(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part grows where it holds little, and shrinks where it takes several pages."""
    ids = new(catalog, 20)
    copy = Copy(catalog, 4)
    copy.follow()
    assert copy.cursor is not None
    place = FeedPosition.parse(copy.cursor)
    copy.cursor = place._replace(step=2).text()
    for turn in range(5):
        for track in ids:
            replace(catalog, track, f"{turn}")
    steps = []
    for _ in range(1000):
        page = copy.page()
        steps.append(FeedPosition.parse(page.next_cursor).step)
        if not page.more:
            break
    assert content(copy.tracks) == stored(catalog)
    assert max(steps) > 2
    assert any(after < before for before, after in pairwise(steps))


def test_a_part_ends_before_what_is_still_running(catalog: Catalog, database_url: str) -> None:
    ids = new(catalog, 6)
    copy = Copy(catalog)
    copy.follow()
    replace(catalog, ids[1])
    with writer(database_url) as work:
        replace(work, ids[0])
        for track in ids[2:]:
            replace(catalog, track)
        assert copy.cursor is not None
        copy.cursor = FeedPosition.parse(copy.cursor)._replace(step=1).text()
        assert sorted(copy.follow()) == sorted(ids[1:])
    assert copy.follow() == [ids[0]]


# Many at once


def write_anything(work: UnitOfWork, track_id: UUID, chance: random.Random) -> None:
    match chance.randrange(4):
        case 0:
            work.save(TrackMetadata(), id=uuid4(), audio_path="a", status=chance.choice([PENDING, COMPLETED]))
        case 1:
            replace(work, track_id, f"{chance.random()}")
        case 2:
            work.update_statuses([track_id], PENDING)
        case _:
            work.update_statuses([track_id], FAILED)


def write_in_one_transaction(work: UnitOfWork, ids: list[UUID], chance: random.Random) -> None:
    # In the order of their ids, so that nobody waits in a circle.
    for track_id in sorted(chance.sample(ids, chance.randint(1, 4))):
        if chance.random() < 0.5:
            write_anything(work, track_id, chance)
            continue
        point = work.session.begin_nested()
        write_anything(work, track_id, chance)
        point.rollback() if chance.random() < 0.3 else point.commit()
    if chance.random() < 0.2:
        raise KeyError


@pytest.mark.parametrize("limit", [3, 1000])
def test_a_copy_equals_the_table_whatever_happens_meanwhile(database_url: str, limit: int) -> None:
    """Six threads save, replace, move, claim and roll back, in transactions short and long, with savepoints."""
    writing = threading.Semaphore(0)
    with Catalog(database_url, pool_size=10, pool_timeout=60, lock_timeout=60, statement_timeout=60) as catalog:
        ids = new(catalog, 30)
        copy = Copy(catalog, limit)

        def write(number: int) -> None:
            chance = random.Random(number)  # noqa: S311  # No secret.
            for _ in range(40):
                with suppress(KeyError, errors.TransientConflict), catalog.unit_of_work() as work:
                    write_in_one_transaction(work, ids, chance)
                for claim in catalog.claim(chance.randint(1, 3)):
                    with suppress(errors.ClaimLost):
                        catalog.complete(claim, TrackMetadata(title="claimed"))

        def take_part(number: int) -> None:
            if number:
                try:
                    write(number)
                finally:
                    writing.release()
            else:
                ended = 0
                while ended < 6:
                    ended += writing.acquire(blocking=False)
                    copy.page()

        in_threads(7, take_part)
        copy.follow()
        assert content(copy.tracks) == stored(catalog)
        assert len(copy.tracks) > 30
        assert copy.follow() == []


# What it costs


def test_the_log_is_not_read_from_its_beginning(server_url: str, migrated_template: str) -> None:
    """Of a hundred thousand rows, no more are looked at than stand in the last parts that the index knows."""
    with (
        temporary_database(server_url, template=migrated_template) as url,
        psycopg.connect(libpq(url), autocommit=True) as owner,
        Catalog(url) as catalog,
    ):
        owner.execute(
            "INSERT INTO audio_tracks (id, status, title, audio_path)"
            " SELECT gen_random_uuid(), 'COMPLETED', 't', 'a' FROM generate_series(1, 20000)"
        )
        owner.execute(
            "INSERT INTO audio_track_edits (track_id, version, actor)"
            " SELECT id, n, 'somebody' FROM audio_tracks, generate_series(12, 16) AS n"
        )
        owner.execute(
            "INSERT INTO audio_track_status_changes (track_id, version, to_status, actor)"
            " SELECT id, 1, 'COMPLETED', 'somebody' FROM audio_tracks"
        )
        owner.execute("VACUUM ANALYZE")
        copy = Copy(catalog, 10_000)
        copy.follow()
        assert copy.cursor is not None
        place = FeedPosition.parse(copy.cursor)
        catalog.update_status(next(iter(copy.tracks)), PENDING)
        for is_first in (True, False):
            behind = place if is_first else place._replace(new=place.old, after=UUID(int=0))
            asked = Asked(changes_sql(is_first=is_first), update_values(behind, 1000), GENERIC_PLAN_SETTINGS)
            plan = plan_of(owner, asked)
            for node in nodes(plan):
                if node.get("Relation Name", "").startswith("audio_track_"):
                    assert node["Node Type"] == "Bitmap Heap Scan"
                    assert node.get("Rows Removed by Index Recheck", 0) < 5000
            assert rows_read(plan) <= 1
