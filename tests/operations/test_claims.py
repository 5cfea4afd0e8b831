"""A claim is a lease with a token: its holder ends it once, and a worker that lost it changes nothing."""

from __future__ import annotations

import dataclasses
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import text

from audiocatalog import (
    Catalog,
    Claim,
    StatusChange,
    Task,
    TrackMetadata,
    TrackStatus,
    UnitOfWork,
    errors,
)
from audiocatalog.models.rows import CHANGE_COLUMNS, TRACK_COLUMNS
from tests.support.databases import libpq
from tests.support.factories import TrackMetadataFactory
from tests.support.lifecycle import DISAGREEMENTS, Owner, claimed, end_pauses, expire, waiting
from tests.support.threads import race
from tests.support.waiting import wait_until_blocked

pytestmark = pytest.mark.both_sides

PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus


#: What is stored of a track, in all three tables.
STORED = """
SELECT to_jsonb(t) AS track, to_jsonb(k) AS task,
  (SELECT jsonb_agg(to_jsonb(c) ORDER BY c.version) FROM audio_track_status_changes AS c WHERE c.track_id = t.id)
    AS history
FROM audio_tracks AS t LEFT JOIN audio_track_tasks AS k ON k.track_id = t.id WHERE t.id = %s
"""


def task_of(owner: Owner, track_id: UUID) -> dict[str, Any] | None:
    assert owner.execute(DISAGREEMENTS).fetchall() == []
    return owner.execute("SELECT * FROM audio_track_tasks WHERE track_id = %s", [track_id]).fetchone()


def stored(owner: Owner, track_id: UUID) -> object:
    return owner.execute(STORED, [track_id]).fetchone()


def facts(change: StatusChange) -> list[object]:
    return [getattr(change, name) for name in CHANGE_COLUMNS]


@contextmanager
def lock_held(database_url: str, track_id: UUID) -> Iterator[None]:
    """Lock a track, so that all other sessions wait for it."""
    with psycopg.connect(libpq(database_url)) as other:
        other.execute("SELECT 1 FROM audio_tracks WHERE id = %s FOR UPDATE", [track_id])
        yield
        other.rollback()


# What a claim is.


@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_tracks_are_claimed_in_the_order_that_is_asked_for(catalog: Catalog, order: Any) -> None:
    ids = waiting(catalog, 6)
    if order == "newest":
        ids.reverse()
    claims = [catalog.claim(4, order_by=order), catalog.claim(order_by=order), catalog.claim(order_by=order)]
    assert [[claim.track.id for claim in some] for some in claims] == [ids[:4], ids[4:], []]


def test_the_oldest_comes_first_however_the_tasks_lie_on_the_disk(catalog: Catalog, owner: Owner) -> None:
    ids = waiting(catalog, 12)
    order = [*ids[1::2], *ids[-2::-2]]
    for identifier, place in sorted((identifier, place) for place, identifier in enumerate(order)):
        owner.execute(
            "UPDATE audio_track_tasks SET ready_at = now() - %s * interval '1 s' WHERE track_id = %s",
            [100 - place, identifier],
        )
    assert [claim.track.id for claim in catalog.claim(5)] == order[:5]
    assert [claim.track.id for claim in catalog.claim(20)] == order[5:]


def test_a_claim_holds_the_whole_track_as_it_is_now(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        saved = work.save(TrackMetadataFactory(), audio_path="a", thumbnail_path="b", status=PENDING)
    (claim,) = catalog.claim()
    found = catalog.get(saved.id)
    assert {name: getattr(claim.track, name) for name in TRACK_COLUMNS} == {
        name: getattr(found, name) for name in TRACK_COLUMNS
    }
    assert (claim.track.status, claim.track.outcome) == (PROCESSING, None)


def test_a_claim_has_a_token_a_worker_a_try_and_an_end(catalog: Catalog, owner: Owner) -> None:
    claim = claimed(catalog, lease=timedelta(minutes=3), worker="extractor 3")
    assert (claim.worker, claim.attempt, claim.last_error) == ("extractor 3", 1, None)
    assert claim.token >> 32 == 2 == claim.track.version == catalog.get(claim.track.id).version
    task = task_of(owner, claim.track.id)
    assert task is not None
    change = catalog.history(claim.track.id)[-1]
    assert (change.from_status, change.to_status, change.actor, change.attempt) == (
        PENDING,
        PROCESSING,
        "extractor 3",
        1,
    )
    assert task == {
        "track_id": claim.track.id,
        "status": "PROCESSING",
        "since": change.at,
        "ready_at": None,
        "expires_at": change.at + timedelta(minutes=3),
        "token": claim.token,
        "worker": "extractor 3",
        "begun": True,
        "attempts": 1,
        "last_error": None,
    }
    assert claim.expires_at == task["expires_at"]


def test_the_worker_is_the_actor_of_the_catalogue_unless_it_is_named(catalog: Catalog) -> None:
    assert claimed(catalog).worker == "tester"


def test_a_claim_tells_a_log_the_end_of_its_id_alone(catalog: Catalog) -> None:
    claim = claimed(catalog, worker="secret worker")
    assert repr(claim) == f"<Claim of …{claim.track.id.hex[-8:]}, token {claim.token}, attempt 1>"


def test_a_claim_can_be_handed_to_another_process(catalog: Catalog) -> None:
    claim = claimed(catalog)
    copy = pickle.loads(pickle.dumps(claim))  # noqa: S301
    assert catalog.complete(copy).to_status is COMPLETED
    # What one process has done with it makes it no other claim.
    assert copy.has_ended
    assert not claim.has_ended
    assert {copy} == {claim}


def test_nothing_waits_nothing_is_claimed(catalog: Catalog) -> None:
    assert catalog.claim() == []
    assert catalog.release_expired() == []
    with catalog.unit_of_work() as work:
        work.save(TrackMetadata(), audio_path="a")
    assert catalog.claim() == []


def test_two_claimers_share_nothing_and_do_not_wait_for_each_other(catalog: Catalog) -> None:
    ids = waiting(catalog, 5)
    with catalog.unit_of_work() as work:
        first = work.claim(3)
        second = catalog.claim(5)
        assert catalog.claim() == []
    assert [claim.track.id for claim in first] == ids[:3]
    assert [claim.track.id for claim in second] == ids[3:]


def test_a_track_that_somebody_is_moving_is_passed_over(catalog: Catalog) -> None:
    moving, other = waiting(catalog, 2)
    with catalog.unit_of_work() as work:
        work.update_status(moving, FAILED)
        assert [claim.track.id for claim in catalog.claim()] == [other]
    assert catalog.claim() == []


def test_a_claim_in_a_unit_of_work_that_rolls_back_gives_everything_back(catalog: Catalog, owner: Owner) -> None:
    ids = waiting(catalog, 3)
    before = [stored(owner, identifier) for identifier in ids]
    with pytest.raises(RuntimeError), catalog.unit_of_work() as work:
        assert len(work.claim()) == 3
        raise RuntimeError
    assert [stored(owner, identifier) for identifier in ids] == before
    assert [claim.attempt for claim in catalog.claim()] == [1, 1, 1]


@pytest.mark.parametrize("end", ["complete", "fail", "release", "renew"])
def test_a_claim_that_was_rolled_back_does_not_open_that_of_another(catalog: Catalog, owner: Owner, end: str) -> None:
    """It never was; the next claim of the track must not have its token."""
    (identifier,) = waiting(catalog, 1)
    with pytest.raises(RuntimeError), catalog.unit_of_work() as work:
        (lost,) = work.claim(worker="the first")
        raise RuntimeError
    (held,) = catalog.claim(worker="the second")
    before = stored(owner, identifier)
    with pytest.raises(errors.ClaimLost):
        ENDS[end](catalog, lost)
    assert stored(owner, identifier) == before
    assert catalog.complete(held).to_status is COMPLETED


def test_a_track_saved_in_a_unit_of_work_that_rolls_back_leaves_no_task(catalog: Catalog, owner: Owner) -> None:
    with pytest.raises(RuntimeError), catalog.unit_of_work() as work:
        work.save(TrackMetadata(), audio_path="a", status=PENDING)
        raise RuntimeError
    assert owner.execute("SELECT * FROM audio_track_tasks").fetchall() == []


def test_all_of_it_works_in_one_unit_of_work(work: UnitOfWork) -> None:
    """Time stands still in a transaction; leases and pauses go by the clock."""
    track = work.save(TrackMetadata(), audio_path="a", status=PENDING)
    (first,) = work.claim()
    work.release(first)
    (second,) = work.claim()
    assert (second.attempt, second.token >> 32) == (1, (first.token >> 32) + 2)
    assert work.renew(second, lease=timedelta(hours=1)).expires_at > second.expires_at
    work.complete(second, TrackMetadata(title="At once"))
    assert (work.get(track.id).title, work.get(track.id).status) == ("At once", COMPLETED)
    assert work.session.get(Task, track.id) is None
    history = work.history(track.id)
    assert [change.attempt for change in history] == [None, 1, None, 1, 1]
    assert [change.at for change in history] == sorted(change.at for change in history)


# How a claim is renewed.


def test_renewing_prolongs_a_lease_and_never_shortens_it(catalog: Catalog, owner: Owner) -> None:
    claim = claimed(catalog, lease=timedelta(minutes=1))
    longer = catalog.renew(claim, lease=timedelta(minutes=2))
    assert longer.expires_at > claim.expires_at + timedelta(seconds=59)
    assert dataclasses.replace(longer, expires_at=claim.expires_at) == claim
    assert catalog.renew(claim, lease=timedelta(seconds=1)).expires_at == longer.expires_at
    task = task_of(owner, claim.track.id)
    assert task is not None
    assert task["expires_at"] == longer.expires_at
    assert len(catalog.history(claim.track.id)) == 2


def test_of_many_each_is_renewed_that_holds(catalog: Catalog, owner: Owner) -> None:
    waiting(catalog, 4)
    claims = catalog.claim()
    expire(owner, claims[1])
    catalog.complete(claims[2])
    outcomes = catalog.renew_many(claims[::-1], lease=timedelta(hours=1))
    assert [type(outcome) for outcome in outcomes] == [Claim, errors.ClaimLost, errors.ClaimLost, Claim]
    assert [outcome.track.id for outcome in outcomes if isinstance(outcome, Claim)] == [
        claims[3].track.id,
        claims[0].track.id,
    ]
    assert catalog.renew_many([]) == []


# How a claim is completed.


def test_a_completed_track_is_done_and_has_no_task(catalog: Catalog, owner: Owner) -> None:
    claim = claimed(catalog, worker="extractor")
    change = catalog.complete(claim)
    assert (change.from_status, change.to_status, change.actor, change.reason, change.attempt, change.version) == (
        PROCESSING,
        COMPLETED,
        "extractor",
        None,
        1,
        3,
    )
    assert facts(catalog.history(claim.track.id)[-1]) == facts(change)
    track = catalog.get(claim.track.id)
    assert (track.status, track.version, track.title) == (COMPLETED, 3, "Untitled")
    assert task_of(owner, claim.track.id) is None


def test_metadata_is_stored_with_the_completion_and_found(catalog: Catalog) -> None:
    claim = claimed(catalog)
    metadata = TrackMetadataFactory(title="Hyperballad \\u0000 'quoted' \"twice\"", duration=0.1 + 0.2)
    change = catalog.complete(claim, metadata, actor="somebody else")
    track = catalog.get(claim.track.id)
    assert {name: getattr(track, name) for name in dataclasses.asdict(metadata)} == dataclasses.asdict(metadata)
    assert (track.status, track.version, track.audio_path) == (COMPLETED, 3, "a")
    assert change.actor == "somebody else"
    assert [hit.track.id for hit in catalog.search("hyperballad").hits] == [track.id]
    assert catalog.search("untitled").total == 0


def test_metadata_that_is_unknown_by_now_is_stored_as_unknown(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        work.save(TrackMetadataFactory(), audio_path="a", status=PENDING)
    (claim,) = catalog.claim()
    catalog.complete(claim, TrackMetadata(title="Little is known"))
    track = catalog.get(claim.track.id)
    assert (track.title, track.artist, track.year, track.duration) == ("Little is known", None, None, None)


def test_of_many_each_is_completed_that_holds_with_its_own_metadata(catalog: Catalog, owner: Owner) -> None:
    waiting(catalog, 6)
    claims = catalog.claim()
    expire(owner, claims[2], claims[3])
    titled = [(claim, TrackMetadata(title=f"Number {place}")) for place, claim in enumerate(claims)]
    before = stored(owner, claims[2].track.id), stored(owner, claims[3].track.id)
    outcomes = catalog.complete_many([titled[5], claims[4], titled[3], claims[2], (claims[1], None), titled[0]])
    done = [outcome.track_id if isinstance(outcome, StatusChange) else None for outcome in outcomes]
    assert done == [claims[5].track.id, claims[4].track.id, None, None, claims[1].track.id, claims[0].track.id]
    assert {type(outcome) for outcome in outcomes} == {StatusChange, errors.ClaimLost}
    titles = [catalog.get(claim.track.id).title for claim in claims]
    assert titles == ["Number 0", "Untitled", "Untitled", "Untitled", "Untitled", "Number 5"]
    assert (stored(owner, claims[2].track.id), stored(owner, claims[3].track.id)) == before
    assert catalog.complete_many([]) == []


def test_of_many_that_are_completed_each_is_the_work_of_its_own_worker(catalog: Catalog) -> None:
    waiting(catalog, 2)
    claims = [*catalog.claim(1, worker="one"), *catalog.claim(1, worker="two")]
    changes = catalog.complete_many(claims)
    assert [change.actor for change in changes if isinstance(change, StatusChange)] == ["one", "two"]
    assert [catalog.history(claim.track.id)[-1].actor for claim in claims] == ["one", "two"]


def test_what_was_saved_while_it_was_claimed_is_no_reason_to_lose_the_claim(catalog: Catalog) -> None:
    claim = claimed(catalog)
    with catalog.unit_of_work() as work:
        work.save(TrackMetadata(title="Corrected"), id=claim.track.id, audio_path="b", replace=True)
    assert catalog.complete(claim).version == 4
    assert catalog.get(claim.track.id).title == "Corrected"


ENDS: dict[str, Callable[[Catalog, Claim], object]] = {
    "complete": lambda catalog, claim: catalog.complete(claim),
    "complete with metadata": lambda catalog, claim: catalog.complete(claim, TrackMetadata(title="Too late")),
    "fail": lambda catalog, claim: catalog.fail(claim, "too late"),
    "fail for good": lambda catalog, claim: catalog.fail(claim, "too late", retry=False),
    "release": lambda catalog, claim: catalog.release(claim),
    "renew": lambda catalog, claim: catalog.renew(claim),
}


@pytest.mark.parametrize("end", ["complete", "complete with metadata", "fail", "fail for good", "release"])
def test_an_end_that_is_repeated_gets_its_first_answer(catalog: Catalog, owner: Owner, end: str) -> None:
    claim = claimed(catalog)
    first = ENDS[end](catalog, claim)
    before = stored(owner, claim.track.id)
    again = ENDS[end](catalog, claim)
    assert isinstance(first, StatusChange)
    assert isinstance(again, StatusChange)
    assert facts(again) == facts(first)
    assert stored(owner, claim.track.id) == before


@pytest.mark.parametrize("second", ["complete", "fail", "release", "renew"])
@pytest.mark.parametrize("first", ["complete", "fail", "fail for good", "release"])
def test_a_claim_that_has_ended_cannot_end_in_another_way(
    catalog: Catalog, owner: Owner, first: str, second: str
) -> None:
    if first.startswith(second):
        return
    claim = claimed(catalog)
    ENDS[first](catalog, claim)
    before = stored(owner, claim.track.id)
    with pytest.raises(errors.ClaimLost) as caught:
        ENDS[second](catalog, claim)
    assert (caught.value.track_id, caught.value.token, caught.value.operation) == (claim.track.id, claim.token, second)
    assert stored(owner, claim.track.id) == before


def test_the_first_answer_is_given_even_after_another_claim(catalog: Catalog, owner: Owner) -> None:
    claim = claimed(catalog)
    first = catalog.fail(claim, "slip")
    end_pauses(owner)
    (other,) = catalog.claim()
    assert facts(catalog.fail(claim, "slip")) == facts(first)
    assert catalog.complete(other).attempt == 2


def test_a_completion_sent_by_eight_threads_is_done_once(catalog: Catalog) -> None:
    for _ in range(5):
        claim = claimed(catalog)
        outcomes = race(8, lambda: facts(catalog.complete(claim, TrackMetadata(title="Once"))))  # noqa: B023
        assert outcomes == [outcomes[0]] * 8
        assert len(catalog.history(claim.track.id)) == 3


def test_a_completion_whose_answer_was_lost_is_asked_for_again(
    catalog: Catalog, owner: Owner, database_url: str
) -> None:
    claim, outcome = claimed(catalog), []
    with lock_held(catalog._database.url.render_as_string(hide_password=False), claim.track.id):
        asking = threading.Thread(target=lambda: outcome.extend(race(1, lambda: catalog.complete(claim))))
        asking.start()
        wait_until_blocked(database_url, "audio_tracks")
        owner.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
            "AND datname = current_database()"
        )
        asking.join()
    (error,) = outcome
    assert type(error) is errors.CommitOutcomeUnknown
    assert catalog.complete(claim).version == catalog.complete(claim).version == 3


# How a claim is lost.


def expired(_: Catalog, owner: Owner, claim: Claim) -> None:
    expire(owner, claim)


def taken_back(catalog: Catalog, owner: Owner, claim: Claim) -> None:
    expire(owner, claim)
    catalog.release_expired()


def taken_back_for_good(catalog: Catalog, owner: Owner, claim: Claim) -> None:
    owner.execute("UPDATE audio_track_tasks SET attempts = 5")
    taken_back(catalog, owner, claim)


def claimed_by_another(catalog: Catalog, owner: Owner, claim: Claim) -> Claim:
    taken_back(catalog, owner, claim)
    end_pauses(owner)
    (other,) = catalog.claim(worker="another")
    assert other.token > claim.token
    return other


def completed_by_another(catalog: Catalog, owner: Owner, claim: Claim) -> None:
    catalog.complete(claimed_by_another(catalog, owner, claim))


def moved_by_hand_to(*statuses: TrackStatus) -> Callable[[Catalog, Owner, Claim], None]:
    def move(catalog: Catalog, _: Owner, claim: Claim) -> None:
        for status in statuses:
            catalog.update_status(claim.track.id, status)

    return move


LOSSES: dict[str, Callable[[Catalog, Owner, Claim], object]] = {
    "expired": expired,
    "taken back": taken_back,
    "taken back for good": taken_back_for_good,
    "claimed by another": claimed_by_another,
    "completed by another": completed_by_another,
    "moved by hand to PENDING": moved_by_hand_to(PENDING),
    "moved by hand to PENDING and PROCESSING": moved_by_hand_to(PENDING, PROCESSING),
    "moved by hand to FAILED": moved_by_hand_to(FAILED),
    "moved by hand to COMPLETED": moved_by_hand_to(COMPLETED),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_whoever_wakes_up_late_changes_nothing(catalog: Catalog, owner: Owner, loss: str) -> None:
    claim = claimed(catalog)
    LOSSES[loss](catalog, owner, claim)
    before = stored(owner, claim.track.id)
    for end in ENDS.values():
        with pytest.raises(errors.ClaimLost) as caught:
            end(catalog, claim)
        assert (caught.value.track_id, caught.value.token) == (claim.track.id, claim.token)
        assert not caught.value.retryable
    assert stored(owner, claim.track.id) == before
    assert catalog.search("late").total == 0
    assert owner.execute(DISAGREEMENTS).fetchall() == []


def test_a_lost_claim_does_not_spoil_the_unit_of_work(catalog: Catalog, owner: Owner) -> None:
    claim, other = claimed(catalog), claimed(catalog)
    expire(owner, claim)
    with catalog.unit_of_work() as work:
        with pytest.raises(errors.ClaimLost):
            work.complete(claim)
        work.complete(other)
    assert catalog.get(other.track.id).status is COMPLETED


@pytest.mark.parametrize("token", [1, 3, 2**31 - 1])
def test_a_token_that_is_made_up_opens_nothing(catalog: Catalog, token: int) -> None:
    claim = claimed(catalog)
    with pytest.raises(errors.ClaimLost):
        catalog.complete(dataclasses.replace(claim, token=token))
    assert catalog.complete(claim).to_status is COMPLETED


# How a claim fails.


def test_a_failed_track_waits_longer_after_each_try(catalog: Catalog, owner: Owner) -> None:
    claim = claimed(catalog)
    pauses = []
    for attempt in range(1, 5):
        assert claim.attempt == attempt
        change = catalog.fail(claim, f"error {attempt}")
        task = task_of(owner, claim.track.id)
        assert task is not None
        assert (change.to_status, change.reason, change.attempt) == (PENDING, f"error {attempt}", attempt)
        assert (task["attempts"], task["last_error"], task["since"]) == (attempt, f"error {attempt}", change.at)
        pauses.append((task["ready_at"] - change.at).total_seconds())
        assert catalog.claim() == []
        end_pauses(owner)
        (claim,) = catalog.claim()
        assert claim.last_error == f"error {attempt}"
    expected = [10.0, 20.0, 40.0, 80.0]
    assert all(full / 2 <= pause <= full for pause, full in zip(pauses, expected, strict=True))


def test_no_pause_is_longer_than_the_longest(database_url: str, owner: Owner) -> None:
    with Catalog(database_url, max_attempts=1000, retry_delay=10.0, longest_retry_delay=15.0) as catalog:
        claim = claimed(catalog)
        owner.execute("UPDATE audio_track_tasks SET attempts = 900")
        change = catalog.fail(claim, None)
        task = task_of(owner, claim.track.id)
        assert task is not None
        assert 7.5 <= (task["ready_at"] - change.at).total_seconds() <= 15.0


def test_what_failed_together_is_not_tried_together(catalog: Catalog, owner: Owner) -> None:
    waiting(catalog, 5)
    pauses = set()
    for claim in catalog.claim():
        change = catalog.fail(claim, "the service is down")
        task = task_of(owner, claim.track.id)
        assert task is not None
        pauses.add(task["ready_at"] - change.at)
    assert len(pauses) == 5


def test_without_retry_a_track_is_failed_at_once(catalog: Catalog, owner: Owner) -> None:
    claim = claimed(catalog)
    change = catalog.fail(claim, "no audio at all", retry=False)
    assert (change.to_status, change.reason, change.attempt) == (FAILED, "no audio at all", 1)
    task = task_of(owner, claim.track.id)
    assert task is not None
    assert (task["status"], task["attempts"], task["last_error"], task["ready_at"]) == (
        "FAILED",
        1,
        "no audio at all",
        None,
    )


def test_a_track_is_tried_so_often_and_failed_then(database_url: str, owner: Owner) -> None:
    with Catalog(database_url, max_attempts=2) as catalog:
        claim = claimed(catalog)
        assert catalog.fail(claim, "one").to_status is PENDING
        end_pauses(owner)
        (claim,) = catalog.claim()
        assert catalog.fail(claim, "two").to_status is FAILED
        assert catalog.get(claim.track.id).status is FAILED
        end_pauses(owner)
        assert catalog.claim() == []


@pytest.mark.parametrize("error", [None, "", "  ", "x" * 1000, "é" * 1000])
def test_an_error_is_kept_as_a_reason_is(catalog: Catalog, owner: Owner, error: str | None) -> None:
    kept = error if error is not None and error.strip() else None
    claim = claimed(catalog)
    assert catalog.fail(claim, error).reason == kept
    end_pauses(owner)
    (again,) = catalog.claim()
    assert again.last_error == kept


def test_a_failed_track_begins_anew_when_it_is_moved_by_hand(catalog: Catalog, owner: Owner) -> None:
    claim = claimed(catalog)
    catalog.fail(claim, "broken", retry=False)
    change = catalog.update_status(claim.track.id, PENDING, reason="new codec")
    task = task_of(owner, claim.track.id)
    assert task is not None
    assert (task["attempts"], task["last_error"], task["ready_at"], task["since"]) == (0, None, change.at, change.at)
    (again,) = catalog.claim()
    assert (again.attempt, again.last_error) == (1, None)


# How a claim is given back.


def test_a_released_track_waits_no_longer_and_was_not_tried(catalog: Catalog, owner: Owner) -> None:
    claim = claimed(catalog)
    catalog.fail(claim, "the first error")
    end_pauses(owner)
    (claim,) = catalog.claim()
    change = catalog.release(claim, reason="shutting down")
    assert (change.to_status, change.reason, change.attempt) == (PENDING, "shutting down", None)
    task = task_of(owner, claim.track.id)
    assert task is not None
    assert (task["attempts"], task["last_error"], task["ready_at"]) == (1, "the first error", change.at)
    (again,) = catalog.claim()
    assert (again.attempt, again.last_error) == (2, "the first error")


def test_a_release_never_fails_a_track(database_url: str) -> None:
    with Catalog(database_url, max_attempts=1) as catalog:
        claim = claimed(catalog)
        for _ in range(5):
            assert catalog.release(claim).to_status is PENDING
            (claim,) = catalog.claim()
            assert claim.attempt == 1


# How a lease runs out.


def test_only_what_has_run_out_is_taken_back(catalog: Catalog, owner: Owner) -> None:
    waiting(catalog, 4)
    dead, alive = catalog.claim(2, worker="dead"), catalog.claim(1)
    (by_hand,) = waiting(catalog, 1)
    catalog.update_status(by_hand, PROCESSING)
    expire(owner, *dead)
    changes = catalog.release_expired(actor="janitor")
    assert {change.track_id for change in changes} == {claim.track.id for claim in dead}
    for change in changes:
        assert (change.from_status, change.to_status, change.actor, change.attempt) == (
            PROCESSING,
            PENDING,
            "janitor",
            1,
        )
        assert change.reason == "the lease of dead ran out"
        assert facts(catalog.history(change.track_id)[-1]) == facts(change)
        task = task_of(owner, change.track_id)
        assert task is not None
        assert 5.0 <= (task["ready_at"] - change.at).total_seconds() <= 10.0
        assert (task["attempts"], task["last_error"]) == (1, change.reason)
    assert catalog.get(alive[0].track.id).status is PROCESSING
    assert catalog.get(by_hand).status is PROCESSING
    assert catalog.release_expired() == []


def test_what_has_run_out_first_is_taken_back_first(catalog: Catalog, owner: Owner) -> None:
    waiting(catalog, 3)
    claims = catalog.claim()
    for claim in (claims[1], claims[2], claims[0]):
        expire(owner, claim)
    found = [change.track_id for _ in range(4) for change in catalog.release_expired(1)]
    assert found == [claims[1].track.id, claims[2].track.id, claims[0].track.id]


def test_what_ran_out_too_often_is_failed(database_url: str, owner: Owner) -> None:
    with Catalog(database_url, max_attempts=1, actor="janitor") as catalog:
        claim = claimed(catalog, worker="w" * 200)
        expire(owner, claim)
        (change,) = catalog.release_expired()
        assert (change.to_status, change.actor) == (FAILED, "janitor")
        assert change.reason == f"the lease of {'w' * 200} ran out"
        task = task_of(owner, claim.track.id)
        assert task is not None
        assert task["last_error"] == change.reason


def test_a_claim_that_is_being_renewed_is_left_alone_and_not_waited_for(catalog: Catalog, owner: Owner) -> None:
    """The lease has run out for all who look, but for the one whose renewal is not committed yet."""
    waiting(catalog, 2)
    renewed, dead = catalog.claim(lease=timedelta(seconds=2))
    with catalog.unit_of_work() as work:
        work.renew(renewed, lease=timedelta(minutes=5))
        owner.execute("SELECT pg_sleep_until(%s::timestamptz + interval '10 ms')", [dead.expires_at])
        assert [change.track_id for change in catalog.release_expired()] == [dead.track.id]
    assert catalog.release_expired() == []
    assert catalog.complete(renewed).to_status is COMPLETED


def test_a_lease_that_runs_out_while_one_waits_for_the_track_is_lost(
    catalog: Catalog, owner: Owner, database_url: str
) -> None:
    """What counts is the moment when the track is locked, not that when the call was made."""
    claim, outcome = claimed(catalog, lease=timedelta(seconds=1)), []
    with lock_held(catalog._database.url.render_as_string(hide_password=False), claim.track.id):
        asking = threading.Thread(target=lambda: outcome.extend(race(1, lambda: catalog.complete(claim))))
        asking.start()
        wait_until_blocked(database_url, "audio_tracks")
        owner.execute("SELECT pg_sleep_until(%s::timestamptz + interval '10 ms')", [claim.expires_at])
    asking.join()
    assert [type(error) for error in outcome] == [errors.ClaimLost]
    assert catalog.get(claim.track.id).status is PROCESSING


# What is refused before anything is sent.


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        *(({"limit": limit}, "limit") for limit in (0, -1, 1001, True, 1.0, "1", None)),
        *(({"lease": lease}, "lease") for lease in (timedelta(0), timedelta(days=8), timedelta(-1), 60, None)),
        *(({"worker": worker}, "worker") for worker in (5, "", " ", "a\0b", "x" * 201)),
        *(({"order_by": order}, "order_by") for order in ("OLDEST", "", None, 1)),
    ],
)
def test_a_claim_names_the_argument_that_is_wrong(catalog: Catalog, arguments: dict[str, object], field: str) -> None:
    (identifier,) = waiting(catalog, 1)
    with pytest.raises(errors.InvalidInput) as caught:
        catalog.claim(**arguments)  # type: ignore[arg-type]
    assert caught.value.field == field
    assert catalog.get(identifier).status is PENDING


FOREIGN: Sequence[Any] = (None, "x", 5, uuid4(), {"track": 1}, TrackMetadata())


@pytest.mark.parametrize("end", ENDS)
def test_what_is_no_claim_is_refused(catalog: Catalog, end: str) -> None:
    for foreign in FOREIGN:
        with pytest.raises(errors.InvalidInput) as caught:
            ENDS[end](catalog, foreign)
        assert caught.value.field == "claim"


@pytest.mark.parametrize("metadata", ["x", 5, {"title": "x"}, []])
def test_what_is_no_metadata_is_refused(catalog: Catalog, metadata: TrackMetadata) -> None:
    claim = claimed(catalog)
    with pytest.raises(errors.InvalidInput) as caught:
        catalog.complete(claim, metadata)
    assert caught.value.field == "metadata"
    assert catalog.get(claim.track.id).status is PROCESSING


@pytest.mark.parametrize("error", ["a\0b", "x" * 1001, "\ud800", 5, ValueError("x")])
def test_what_is_no_error_text_is_refused(catalog: Catalog, error: str) -> None:
    claim = claimed(catalog)
    with pytest.raises(errors.InvalidInput) as caught:
        catalog.fail(claim, error)
    assert caught.value.field == "error"
    with pytest.raises(errors.InvalidInput) as caught:
        catalog.release(claim, reason=error)
    assert caught.value.field == "reason"
    assert catalog.get(claim.track.id).status is PROCESSING


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        (lambda catalog, claim: catalog.fail(claim, None, retry="yes"), "retry"),
        (lambda catalog, claim: catalog.fail(claim, None, actor=""), "actor"),
        (lambda catalog, claim: catalog.complete(claim, actor=5), "actor"),
        (lambda catalog, claim: catalog.renew(claim, lease=5), "lease"),
        (lambda catalog, claim: catalog.renew(claim, lease=timedelta(0)), "lease"),
        (lambda catalog, claim: catalog.renew_many([claim, claim]), "claims"),
        (lambda catalog, claim: catalog.renew_many([claim, None]), "claim"),
        (lambda catalog, claim: catalog.complete_many([claim, (claim, None)]), "claims"),
        (lambda catalog, claim: catalog.complete_many([claim, "x"]), "claim"),
        (lambda catalog, claim: catalog.complete_many(claim), "claims"),
        (lambda catalog, claim: catalog.complete_many([(claim,)]), "claims"),
        (lambda catalog, claim: catalog.complete_many([(claim, None, None)]), "claims"),
        (lambda catalog, claim: catalog.renew_many([claim] * 1001), "claims"),
        (lambda catalog, _: catalog.release_expired(0), "limit"),
        (lambda catalog, _: catalog.release_expired(1001), "limit"),
        (lambda catalog, _: catalog.release_expired(actor="\0"), "actor"),
    ],
)
def test_any_other_wrong_argument_is_named_too(
    catalog: Catalog, owner: Owner, ask: Callable[[Catalog, Claim], object], field: str
) -> None:
    claim = claimed(catalog)
    before = stored(owner, claim.track.id)
    with pytest.raises(errors.InvalidInput) as caught:
        ask(catalog, claim)
    assert caught.value.field == field
    assert stored(owner, claim.track.id) == before


def test_a_beginning_by_itself_does_not_wait_for_the_disk_and_nothing_else_is_affected(
    catalog: Catalog, owner: Owner
) -> None:
    claim = claimed(catalog)
    begin = "SELECT FROM audiocatalog_begin_v1(%s, %s, true)"
    owner.execute("SET synchronous_commit = on")

    def setting() -> object:
        return owner.execute("SHOW synchronous_commit").fetchone()

    with owner.transaction():
        owner.execute(begin, [claim.track.id, claim.token])
        assert setting() == {"synchronous_commit": "off"}
    assert setting() == {"synchronous_commit": "on"}
    with owner.transaction():
        owner.execute("CREATE TEMPORARY TABLE written AS SELECT 1")
        owner.execute(begin, [claim.track.id, claim.token])
        assert setting() == {"synchronous_commit": "on"}


# Many tracks are moved at once, by hand.


def test_of_many_each_is_moved_that_can_be(catalog: Catalog, owner: Owner) -> None:
    ids = waiting(catalog, 4)
    catalog.update_status(ids[1], PROCESSING)
    catalog.update_status(ids[2], FAILED)
    unknown = uuid4()
    outcomes = catalog.update_statuses([*ids, unknown, str(ids[0])], FAILED, reason="the disk is gone")
    assert list(outcomes) == [*ids, unknown]
    assert [type(outcome) for outcome in outcomes.values()] == [
        *(StatusChange, StatusChange, errors.IllegalTransition, StatusChange, errors.TrackNotFound)
    ]
    for identifier, outcome in outcomes.items():
        if isinstance(outcome, StatusChange):
            assert facts(outcome) == facts(catalog.history(identifier)[-1])
            assert (outcome.to_status, outcome.reason, outcome.version) == (FAILED, "the disk is gone", outcome.version)
            assert task_of(owner, identifier)
    assert catalog.update_statuses([], FAILED) == {}


def test_of_many_each_conflict_tells_what_was_expected(catalog: Catalog) -> None:
    ids = waiting(catalog, 2)
    catalog.update_status(ids[0], PROCESSING)
    outcomes = catalog.update_statuses(ids, FAILED, expected=PENDING)
    conflict, change = outcomes.values()
    assert isinstance(conflict, errors.TransitionConflict)
    assert (conflict.expected, conflict.actual) == (PENDING, PROCESSING)
    assert isinstance(change, StatusChange)


def test_one_operation_on_many_tracks_is_done_once_on_each(catalog: Catalog) -> None:
    ids, operation = waiting(catalog, 5), uuid4()
    outcomes = race(8, lambda: catalog.update_statuses(ids, PROCESSING, operation_id=operation))
    for outcome in outcomes:
        assert isinstance(outcome, dict)
        assert list(outcome) == ids
        assert {change.version for change in outcome.values()} == {2}
    assert {len(catalog.history(identifier)) for identifier in ids} == {2}


def test_lists_in_opposite_orders_do_not_wait_in_a_circle(catalog: Catalog) -> None:
    ids = waiting(catalog, 20)
    circles = []

    def take_turns(places: list[UUID]) -> None:
        for turn in range(10):
            try:
                catalog.update_statuses(places, (PROCESSING, PENDING)[turn % 2])
            except errors.CatalogError as error:
                circles.append(error)

    threads = [threading.Thread(target=take_turns, args=[places]) for places in (ids, ids[::-1], sorted(ids))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert circles == []


def test_claims_that_are_ended_in_opposite_orders_do_not_wait_in_a_circle(catalog: Catalog) -> None:
    waiting(catalog, 20)
    claims = catalog.claim(20)
    backwards = claims[::-1]
    asks: Iterator[Callable[[], object]] = iter(
        [
            lambda: catalog.renew_many(claims),
            lambda: catalog.renew_many(backwards),
            lambda: catalog.complete_many(claims),
            lambda: catalog.complete_many(backwards),
            lambda: catalog.update_statuses([claim.track.id for claim in backwards], PENDING),
        ]
        * 3
    )
    outcomes = race(15, lambda: next(asks)())  # noqa: PLW0108
    assert [outcome for outcome in outcomes if isinstance(outcome, errors.CatalogError)] == []


@pytest.mark.parametrize("ids", ["", str(uuid4()), [5], [None], ["x"]])
def test_what_are_no_ids_is_refused(catalog: Catalog, ids: list[UUID]) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        catalog.update_statuses(ids, PENDING)
    assert caught.value.field in {"id", "ids"}


def test_too_many_ids_are_refused(catalog: Catalog) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        catalog.update_statuses([uuid4() for _ in range(10_001)], PENDING)
    assert (caught.value.field, caught.value.limit) == ("ids", 10_000)


def test_moving_many_by_hand_takes_them_from_their_workers(catalog: Catalog, owner: Owner) -> None:
    waiting(catalog, 3)
    claims = catalog.claim()
    catalog.update_statuses([claim.track.id for claim in claims], PENDING)
    assert [type(outcome) for outcome in catalog.complete_many(claims)] == [errors.ClaimLost] * 3
    assert [claim.attempt for claim in catalog.claim()] == [1, 1, 1]
    assert owner.execute(DISAGREEMENTS).fetchall() == []


# What the history tells.


def test_the_history_tells_every_try_and_how_long_each_status_lasted(catalog: Catalog, owner: Owner) -> None:
    claim = claimed(catalog, worker="one")
    catalog.fail(claim, "slip")
    end_pauses(owner)
    (claim,) = catalog.claim(worker="two")
    catalog.complete(claim)
    catalog.update_status(claim.track.id, PENDING)
    history = catalog.history(claim.track.id)
    assert [(str(change.to_status), change.attempt, change.actor, change.reason) for change in history] == [
        ("PENDING", None, "tester", None),
        ("PROCESSING", 1, "one", None),
        ("PENDING", 1, "one", "slip"),
        ("PROCESSING", 2, "two", None),
        ("COMPLETED", 2, "two", None),
        ("PENDING", None, "tester", None),
    ]
    assert [change.version for change in history] == [1, 2, 3, 4, 5, 6]
    times = [change.at for change in history]
    assert times == sorted(times)
    assert [change.duration for change in history] == [
        *(later - earlier for earlier, later in pairwise(times)),
        None,
    ]


def test_one_operation_sent_by_sixteen_threads_is_one_row(catalog: Catalog) -> None:
    for _ in range(5):
        (identifier,) = waiting(catalog, 1)
        operation = uuid4()
        outcomes = race(16, lambda: facts(catalog.update_status(identifier, FAILED, operation_id=operation)))  # noqa: B023
        assert outcomes == [outcomes[0]] * 16
        assert [change.operation_id for change in catalog.history(identifier)] == [None, operation]


# Units of work that see the past.

SECOND: dict[str, Callable[[UnitOfWork, Claim], object]] = {
    "move": lambda work, claim: work.update_status(claim.track.id, COMPLETED),
    "move many": lambda work, claim: work.update_statuses([claim.track.id], COMPLETED),
    "complete": lambda work, claim: work.complete(claim),
    "fail": lambda work, claim: work.fail(claim, "x"),
    "renew": lambda work, claim: work.renew(claim),
    "take back": lambda work, _: work.release_expired(),
    "save": lambda work, claim: work.save(TrackMetadata(title="x"), id=claim.track.id, audio_path="b", replace=True),
}


@pytest.mark.parametrize("second", SECOND)
def test_who_sees_the_past_gives_way_to_who_changed_it(catalog: Catalog, owner: Owner, second: str) -> None:
    claim = claimed(catalog)
    expire(owner, claim) if second == "take back" else None
    with pytest.raises(errors.TransientConflict) as caught, catalog.unit_of_work() as work:
        work.session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        assert work.get(claim.track.id).status is PROCESSING
        catalog.update_status(claim.track.id, PENDING)
        SECOND[second](work, claim)
    assert (caught.value.sqlstate, caught.value.retryable) == ("40001", True)
    assert catalog.get(claim.track.id).status is PENDING


def test_who_sees_the_past_claims_nothing_twice(catalog: Catalog) -> None:
    waiting(catalog, 1)
    with pytest.raises(errors.TransientConflict), catalog.unit_of_work() as work:
        work.session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        work.find(uuid4())
        (claim,) = catalog.claim()
        work.claim()
    assert catalog.complete(claim).version == 3


def test_a_lease_that_was_renewed_is_not_taken_back_by_who_sees_the_past(catalog: Catalog, owner: Owner) -> None:
    """In the past the lease has run out; that it was prolonged since shows in the task alone, not in the track."""
    claim = claimed(catalog)
    expire(owner, claim)
    with pytest.raises(errors.TransientConflict), catalog.unit_of_work() as work:
        work.session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        work.get(claim.track.id)
        owner.execute("UPDATE audio_track_tasks SET expires_at = clock_timestamp() + interval '1 h'")
        work.release_expired()
    assert catalog.complete(claim).to_status is COMPLETED
