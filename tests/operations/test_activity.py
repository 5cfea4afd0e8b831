"""The activity of the last hours, as operators see it: counted, bounded, and the same in every session."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from audiocatalog import Activity, Catalog, TrackMetadata, TrackStatus
from audiocatalog.db.execute import run
from audiocatalog.errors import InvalidInput, QueryTimeout
from audiocatalog.operations import activity
from tests.support.command import locked
from tests.support.databases import libpq

pytestmark = pytest.mark.both_sides

HOUR = timedelta(hours=1)


@pytest.fixture
def admin(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(libpq(database_url), autocommit=True) as connection:
        yield connection


@pytest.fixture
def workshop(database_url: str) -> Iterator[Catalog]:
    """Give a catalogue whose failed tries are repeated in an hour."""
    with Catalog(database_url, actor="tester", retry_delay=3600, longest_retry_delay=3600) as catalog:
        yield catalog


def register(catalog: Catalog, number: int) -> list[UUID]:
    with catalog.unit_of_work() as work:
        return [
            work.save(TrackMetadata(title="x"), audio_path=f"{n}", status=TrackStatus.PENDING).id for n in range(number)
        ]


def shift(admin: psycopg.Connection[Any], track: UUID, version: int, ago: timedelta) -> None:
    """Move a change back in time."""
    admin.execute(
        "UPDATE audio_track_status_changes SET at = now() - %s WHERE track_id = %s AND version = %s",
        [ago, track, version],
    )


def totals(found: Activity) -> tuple[int, int, int]:
    buckets = found.buckets
    return (sum(b.completed for b in buckets), sum(b.failed for b in buckets), sum(b.retried for b in buckets))


class TestActivity:
    def test_of_nothing(self, workshop: Catalog) -> None:
        found = workshop.activity()
        assert len(found.buckets) == 24
        assert totals(found) == (0, 0, 0)
        assert (found.waiting, found.delayed, found.claimed, found.expired, found.unclaimed) == (0, 0, 0, 0, 0)
        assert (found.workers, found.failures, found.time_pending, found.time_processing) == ((), (), None, None)
        assert abs(found.until - datetime.now(UTC)) < timedelta(minutes=1)

    def test_its_parts_are_the_time_that_was_asked_for(self, workshop: Catalog) -> None:
        found = workshop.activity(timedelta(hours=7), 14)
        starts = [bucket.start for bucket in found.buckets]
        assert starts[0] == found.since == found.until - timedelta(hours=7)
        assert {after - before for before, after in itertools.pairwise(starts)} == {HOUR / 2}
        assert starts[-1] + HOUR / 2 == found.until
        assert found.until.utcoffset() == timedelta(0)

    def test_each_change_is_counted_in_its_part(self, workshop: Catalog, admin: psycopg.Connection[Any]) -> None:
        register(workshop, 6)
        claims = workshop.claim(6)
        for claim in claims[:3]:
            workshop.complete(claim)
        workshop.fail(claims[3], "broken", retry=False)
        workshop.fail(claims[4], "broken")
        # Three hours ago; just before the time that is asked for; and now.
        shift(admin, claims[0].track.id, 3, timedelta(hours=2, minutes=30))
        shift(admin, claims[1].track.id, 3, timedelta(hours=4, seconds=1))
        found = workshop.activity(4 * HOUR, 4)
        assert [(b.completed, b.failed, b.retried) for b in found.buckets] == [
            *[(0, 0, 0), (1, 0, 0), (0, 0, 0)],
            (1, 1, 1),
        ]
        assert totals(workshop.activity(5 * HOUR, 1)) == (3, 1, 1)
        assert totals(workshop.activity(timedelta(days=366), 1000)) == (3, 1, 1)

    def test_who_has_what_in_hand(self, workshop: Catalog, admin: psycopg.Connection[Any]) -> None:
        ids = register(workshop, 12)
        workshop.claim(2, worker="ann")
        workshop.claim(3, worker="bob")
        (dead,) = workshop.claim(1, worker="zoe", lease=timedelta(milliseconds=10))
        (failed,) = workshop.claim(1, worker="cid")
        workshop.fail(failed, "broken")
        loose = next(one for one in ids if workshop.get(one).status == "PENDING" and one != failed.track.id)
        workshop.update_status(loose, TrackStatus.PROCESSING)
        admin.execute("SELECT pg_sleep(0.02)")
        found = workshop.activity()
        assert [(load.worker, load.tracks) for load in found.workers] == [("bob", 3), ("ann", 2), ("zoe", 1)]
        assert all(found.since < load.oldest <= found.until for load in found.workers)
        assert (found.claimed, found.expired, found.unclaimed) == (6, 1, 1)
        assert (found.waiting, found.delayed) == (4, 1)
        workshop.release_expired()
        after = workshop.activity()
        assert (after.claimed, after.expired, after.delayed) == (5, 0, 2)
        assert dead.track.id in ids

    def test_the_most_frequent_reasons_come_first(self, workshop: Catalog) -> None:
        ids = register(workshop, 30)
        claims = iter(workshop.claim(30))
        for number, text in enumerate(["b", "a", *(f"rare {n:02}" for n in range(12))]):
            for _ in range(3 if number < 2 else 1):
                workshop.fail(next(claims), text, retry=number % 2 == 0)
        # A track that is done has not failed for the reason that somebody may give.
        done = next(claims)
        workshop.complete(done)
        workshop.update_status(done.track.id, TrackStatus.PENDING, reason="once more")
        workshop.release(next(claims))
        found = workshop.activity()
        assert [(one.reason, one.changes) for one in found.failures] == [
            *[("a", 3), ("b", 3)],
            *[(f"rare {n:02}", 1) for n in range(8)],
        ]
        assert len(ids) == 30

    def test_how_long_tracks_waited_and_were_worked_on(self, workshop: Catalog, admin: psycopg.Connection[Any]) -> None:
        for seconds in range(1, 22):
            (track,) = register(workshop, 1)
            (claim,) = workshop.claim(1)
            workshop.complete(claim)
            shift(admin, track, 1, timedelta(minutes=10, seconds=10 * seconds))
            shift(admin, track, 2, timedelta(minutes=10))
            shift(admin, track, 3, timedelta(minutes=10) - timedelta(seconds=seconds))
        found = workshop.activity(HOUR)
        assert found.time_pending is not None
        assert found.time_processing is not None
        assert (found.time_pending.tracks, found.time_processing.tracks) == (21, 21)
        assert _rounded(found.time_pending) == (110, 200)
        assert _rounded(found.time_processing) == (11, 20)
        # What a track did before the time that is asked for counts where it ended in it.
        shift(admin, track, 1, timedelta(days=3))
        later = workshop.activity(HOUR)
        assert later.time_pending is not None
        assert later.time_pending.tracks == 21
        assert totals(workshop.activity(timedelta(minutes=5))) == (0, 0, 0)

    def test_a_change_of_content_between_two_moves_does_not_matter(self, workshop: Catalog) -> None:
        (track,) = register(workshop, 1)
        (claim,) = workshop.claim(1)
        with workshop.unit_of_work() as work:
            work.save(TrackMetadata(title="y"), id=track, audio_path="p", replace=True)
        workshop.complete(claim)
        found = workshop.activity()
        assert found.time_processing is not None
        assert found.time_processing.tracks == 1

    @pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "Pacific/Apia"])
    def test_it_is_the_same_in_every_session(
        self, workshop: Catalog, admin: psycopg.Connection[Any], zone: str
    ) -> None:
        register(workshop, 2)
        for claim in workshop.claim(2):
            workshop.complete(claim)
        admin.execute("SELECT set_config('TimeZone', %s, false)", [zone])
        admin.execute("SET IntervalStyle = 'sql_standard'")
        since = timedelta(days=300)
        found = run(admin, activity.activity(since, 300), "activity")
        assert totals(found) == (2, 0, 0)
        assert found.until - found.since == since
        assert found.buckets[-1].completed == 2

    def test_a_repeated_call_may_be_prepared(self, workshop: Catalog) -> None:
        for hours in range(1, 12):
            assert len(workshop.activity(timedelta(hours=hours), hours).buckets) == hours

    def test_values_cannot_be_changed(self, workshop: Catalog) -> None:
        found = workshop.activity()
        with pytest.raises(dataclasses.FrozenInstanceError):
            found.expired = 7  # type: ignore[misc]
        assert not hasattr(found, "__dict__")

    @pytest.mark.parametrize(
        ("arguments", "field"),
        [
            ({"since": 24}, "since"),
            ({"since": timedelta(0)}, "since"),
            ({"since": -HOUR}, "since"),
            ({"since": timedelta(days=367)}, "since"),
            ({"since": None}, "since"),
            ({"buckets": 0}, "buckets"),
            ({"buckets": 1001}, "buckets"),
            ({"buckets": 2.0}, "buckets"),
            ({"buckets": True}, "buckets"),
        ],
    )
    def test_bad_input_is_named(self, workshop: Catalog, arguments: dict[str, Any], field: str) -> None:
        with pytest.raises(InvalidInput) as caught:
            workshop.activity(**arguments)
        assert (caught.value.field, caught.value.operation) == (field, "activity")

    def test_it_is_bounded(self, database_url: str) -> None:
        with (
            Catalog(database_url, statement_timeout=0.1, lock_timeout=10) as catalog,
            locked(database_url, "audio_track_tasks"),
        ):
            catalog.find(uuid4())
            with pytest.raises(QueryTimeout):
                catalog.activity()

    def test_the_index_on_the_time_is_used(self, admin: psycopg.Connection[Any], workshop: Catalog) -> None:
        """A year of one track's history, of which the last hour is asked for."""
        (track,) = register(workshop, 1)
        admin.execute(
            "INSERT INTO audio_track_status_changes (track_id, version, from_status, to_status, actor, at) "
            "SELECT %s, 2 * n + 3, 'PROCESSING', 'COMPLETED', 'x', now() - (100000 - n) * interval '5 minutes' "
            "FROM generate_series(1, 100000) AS n",
            [track],
        )
        admin.execute("VACUUM ANALYZE audio_track_status_changes")
        explain = f"EXPLAIN {activity.ACTIVITY.sql}"
        plan = "\n".join(line for (line,) in psycopg.RawCursor(admin).execute(explain, (HOUR.total_seconds(), 24)))
        assert plan.count("Bitmap Index Scan on ix_audio_track_status_changes_at") == 2
        assert "Seq Scan on audio_track_status_changes" not in plan
        assert totals(workshop.activity(HOUR)) == (12, 0, 0)


def _rounded(stay: activity.DurationStats) -> tuple[int, int]:
    return round(stay.median.total_seconds()), round(stay.p95.total_seconds())
