"""A server whose clock is set back hides no track from workers, and no time is negative."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from audiocatalog import Catalog, TrackMetadata, TrackRecord, TrackStatus, migrations
from tests.support.lifecycle import DISAGREEMENTS, Owner, claimed, waiting
from tests.support.servers import cluster

PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus
HOUR = timedelta(hours=1)

#: Whatever is stored was written an hour from now: as if the clock had been set back by an hour since.
SET_BACK = (
    """
    UPDATE audio_track_tasks SET since = since + interval '1 hour', ready_at = ready_at + interval '1 hour',
      expires_at = expires_at + interval '1 hour'""",
    "UPDATE audio_track_status_changes SET at = at + interval '1 hour'",
)


@pytest.fixture
def patient(database_url: str) -> Iterator[Catalog]:
    """Give a catalogue whose failed tries are repeated in half an hour or so."""
    with Catalog(database_url, actor="tester", retry_delay=1800, longest_retry_delay=1800) as catalog:
        yield catalog


def set_back(owner: Owner) -> None:
    for statement in SET_BACK:
        owner.execute(statement)


def ids_of(catalog: Catalog, limit: int, order: Any = "oldest") -> list[UUID]:
    return [claim.track.id for claim in catalog.claim(limit, order_by=order)]


@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_what_waits_can_be_claimed_whatever_the_clock_says(patient: Catalog, owner: Owner, order: Any) -> None:
    before = waiting(patient, 3)
    set_back(owner)
    found = patient.activity()
    assert (found.waiting, found.delayed) == (3, 0)
    after = waiting(patient, 2)
    # By the clock, what came later came first.
    if order == "oldest":
        assert ids_of(patient, 4) == [*after, *before[:2]]
    else:
        assert set(ids_of(patient, 4, order)) >= set(after)
    assert len(ids_of(patient, 10, order)) == 1
    assert owner.execute(DISAGREEMENTS).fetchall() == []


def test_what_was_loaded_or_moved_by_hand_can_be_claimed_too(patient: Catalog, owner: Owner) -> None:
    patient.bulk_save(TrackRecord(TrackMetadata(), f"{number}", status=PENDING) for number in range(3))
    (claim,) = patient.claim(1)
    patient.release(claim)
    (moved,) = waiting(patient, 1)
    patient.update_status(moved, FAILED)
    patient.update_status(moved, PENDING)
    set_back(owner)
    assert len(ids_of(patient, 10)) == 4


def test_a_pause_does_not_outlast_a_clock_that_is_set_back(patient: Catalog, owner: Owner) -> None:
    """How much of the pause is over cannot be told then: the track is tried too soon rather than too late."""
    claim = claimed(patient)
    patient.fail(claim, "broken")
    assert ids_of(patient, 1) == []
    assert (patient.activity().waiting, patient.activity().delayed) == (0, 1)
    set_back(owner)
    assert (patient.activity().waiting, patient.activity().delayed) == (1, 0)
    (again,) = patient.claim(1)
    assert (again.track.id, again.attempt, again.last_error) == (claim.track.id, 2, "broken")


def test_a_pause_is_kept_while_the_clock_goes_on(patient: Catalog, owner: Owner) -> None:
    claim = claimed(patient)
    patient.fail(claim, "broken")
    owner.execute(
        "UPDATE audio_track_tasks SET since = since - interval '1 minute', ready_at = ready_at - interval '1 minute'"
    )
    assert ids_of(patient, 10) == []


def test_what_is_hidden_is_found_by_an_index_however_much_is_delayed(patient: Catalog, owner: Owner) -> None:
    """A claim that finds too little looks for what the clock hides; it must not read all that is delayed for that."""
    patient.bulk_save(TrackRecord(TrackMetadata(), f"{number}", status=PENDING) for number in range(3000))
    owner.execute("UPDATE audio_track_tasks SET since = now(), ready_at = now() + interval '1 hour'")
    owner.execute("VACUUM ANALYZE audio_track_tasks")
    plan = "\n".join(
        row["QUERY PLAN"]
        for row in owner.execute(
            "EXPLAIN SELECT k.track_id FROM audio_track_tasks AS k WHERE k.since > now() AND k.ready_at > now()"
            " ORDER BY k.since, k.track_id LIMIT 10"
        ).fetchall()
    )
    assert "ix_audio_track_tasks_since" in plan
    assert ids_of(patient, 10) == []


def test_no_status_lasts_less_than_no_time(patient: Catalog, owner: Owner) -> None:
    (track,) = waiting(patient, 1)
    set_back(owner)
    (claim,) = patient.claim()
    patient.complete(claim)
    history = patient.history(track)
    assert [change.duration is not None and change.duration >= timedelta(0) for change in history] == [
        True,
        True,
        False,
    ]
    assert history[0].duration == timedelta(0)
    assert history[0].at > history[1].at
    found = patient.activity()
    assert found.time_pending is not None
    assert (found.time_pending.median, found.time_pending.p95) == (timedelta(0), timedelta(0))
    assert sum(bucket.completed for bucket in found.buckets) == 1


def test_no_age_is_less_than_none(patient: Catalog, owner: Owner) -> None:
    waiting(patient, 2)
    patient.claim(1, worker="w")
    patient.refresh_vocabulary()
    set_back(owner)
    owner.execute("UPDATE audio_search_counts SET at = at + interval '1 hour'")
    found = patient.activity()
    assert [load.oldest <= found.until for load in found.workers] == [True]
    assert patient.health().vocabulary_age == 0
    oldest = [count.oldest for count in patient.count_by_status() if count.oldest]
    assert [at <= found.until + timedelta(minutes=1) for at in oldest] == [True, True]


def test_the_first_answer_is_given_though_it_lies_ahead(patient: Catalog, owner: Owner) -> None:
    """An answer that was lost is asked for again after the clock was set back."""
    claim, other = (claimed(patient) for _ in range(2))
    done, failed = patient.complete(claim), patient.fail(other, "broken")
    set_back(owner)
    assert patient.complete(claim).version == done.version
    assert patient.fail(other, "broken").version == failed.version


def test_a_lease_ends_later_by_as_much_as_the_clock_was_set_back(patient: Catalog, owner: Owner) -> None:
    """It cannot be made to end sooner: its worker may be at work."""
    claim = claimed(patient, lease=timedelta(minutes=1))
    set_back(owner)
    assert patient.release_expired() == []
    assert patient.renew(claim, lease=timedelta(minutes=1)).expires_at > claim.expires_at + HOUR / 2
    assert patient.complete(claim).to_status is COMPLETED


# With a clock that is really set back.


LIBRARY = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


@pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed (apt install faketime)")
def test_a_server_that_is_started_again_an_hour_earlier() -> None:
    with cluster() as server:
        server.start()
        migrations.upgrade(server.socket_url())
        with Catalog(server.socket_url(), actor="w", retry_delay=60) as catalog:
            ids = waiting(catalog, 6)
            leased, failing, *_ = catalog.claim(2, lease=HOUR * 2)
            catalog.fail(failing, "broken")
            server.stop()
            server.environment = {"LD_PRELOAD": str(LIBRARY), "FAKETIME": "-1h", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
            server.start()
            with server.admin() as admin:
                assert admin.execute("SELECT max(at) > now() FROM audio_track_status_changes").fetchone() == (True,)
            found = catalog.run(lambda _: catalog.activity(), deadline=30)
            assert (found.waiting, found.delayed, found.claimed) == (5, 0, 1)
            (later,) = waiting(catalog, 1)
            assert set(ids_of(catalog, 10)) == {later, *ids} - {leased.track.id}
            assert catalog.complete(leased).to_status is COMPLETED
            lasted = [change.duration for change in catalog.history(leased.track.id)]
            assert lasted[-1] is None
            assert min(one for one in lasted if one is not None) == timedelta(0)
