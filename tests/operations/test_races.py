"""Races for the same track: one caller gets it, and the history names no other."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest

from audiocatalog import TRANSITIONS, Catalog, Claim, StatusChange, TrackMetadata, TrackStatus, errors
from tests.support.lifecycle import DISAGREEMENTS, Owner, end_pauses, waiting
from tests.support.programs import program
from tests.support.threads import in_threads
from tests.support.waiting import wait_until_blocked

PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus

#: What a racer may be told; anything else, a deadlock above all, fails the test.
DEFEATS = (errors.TransitionConflict, errors.IllegalTransition, errors.ClaimLost)


@pytest.fixture
def racing(database_url: str, owner: Owner) -> Iterator[Catalog]:
    """Give a catalogue with patience; at the end, all of what was raced for is as the rules have it."""
    before = deadlocks(owner)
    with Catalog(
        database_url, actor="racer", pool_size=12, pool_timeout=60, lock_timeout=60, statement_timeout=60
    ) as it:
        yield it
        assert owner.execute(DISAGREEMENTS).fetchall() == []
        for row in owner.execute("SELECT id FROM audio_tracks").fetchall():
            assert_legal(it, row["id"])
    # A session tells the statistics of its deadlocks when it ends.
    assert deadlocks(owner) == before


def deadlocks(owner: Owner) -> int:
    row = owner.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert row is not None
    return int(row["deadlocks"])


def assert_legal(catalog: Catalog, identifier: UUID) -> None:
    history = catalog.history(identifier)
    status: TrackStatus | None = None
    for change in history:
        assert change.from_status == status
        assert change.to_status in TRANSITIONS[status]
        status = change.to_status
    assert status is catalog.get(identifier).status
    assert [change.version for change in history] == list(range(1, len(history) + 1))
    assert [change.at for change in history] == sorted(change.at for change in history)


def test_of_thirty_two_threads_one_wins_each_track(racing: Catalog) -> None:
    ids = waiting(racing, 60)
    barrier = threading.Barrier(32)
    outcomes: dict[UUID, list[object]] = {identifier: [] for identifier in ids}

    def take_part(number: int) -> None:
        for identifier in ids:
            barrier.wait()
            try:
                change = racing.update_status(identifier, PROCESSING, expected=PENDING, actor=f"{number}")
                outcomes[identifier].append(change)
            except errors.TransitionConflict as error:
                outcomes[identifier].append(error)

    in_threads(32, take_part)
    for identifier, some in outcomes.items():
        (winner,) = [outcome for outcome in some if isinstance(outcome, StatusChange)]
        assert len(some) == 32
        assert [change.actor for change in racing.history(identifier)] == ["racer", winner.actor]


#: Races for the tracks one after the other, each at a time that was agreed on, by several threads.
RACER = """
import json, sys, threading, time
from uuid import UUID
from audiocatalog import Catalog, TrackStatus, errors

url, start, name, *ids = sys.argv[1:]
outcomes = []

def race(catalog, number):
    for place, id in enumerate(ids):
        time.sleep(max(0.0, float(start) + place * 0.02 - time.time()))
        try:
            catalog.update_status(id, TrackStatus.PROCESSING, expected=TrackStatus.PENDING, actor=f"{name} {number}")
            outcomes.append([id, f"{name} {number}"])
        except errors.TransitionConflict:
            outcomes.append([id, None])
        except Exception as error:
            outcomes.append([id, repr(error)])

with Catalog(url, pool_size=4, pool_timeout=60, lock_timeout=60, statement_timeout=60) as catalog:
    catalog.health()
    threads = [threading.Thread(target=race, args=[catalog, number]) for number in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
print(json.dumps(outcomes))
"""


def test_of_four_processes_with_four_threads_each_one_wins_each_track(racing: Catalog, database_url: str) -> None:
    ids = waiting(racing, 40)
    start = time.time() + 2
    racers = [program(RACER, database_url, str(start), f"process {number}", *map(str, ids)) for number in range(4)]
    outcomes: list[list[Any]] = []
    for racer in racers:
        out, err = racer.communicate(timeout=120)
        assert (racer.returncode, err) == (0, "")
        outcomes += json.loads(out)
    assert Counter(identifier for identifier, _ in outcomes) == dict.fromkeys(map(str, ids), 16)
    winners = dict(outcome for outcome in outcomes if outcome[1] is not None)
    assert len([outcome for outcome in outcomes if outcome[1] is not None]) == len(winners) == 40
    for identifier, winner in winners.items():
        assert [change.actor for change in racing.history(identifier)] == ["racer", winner]


@pytest.mark.parametrize("order", ["oldest", "newest"])
def test_eight_claimers_take_each_track_once(racing: Catalog, order: Any) -> None:
    with racing.unit_of_work() as work:
        ids = [work.save(TrackMetadata(), audio_path="a", status=PENDING).id for _ in range(400)]
    taken: list[Claim] = []

    def take_part(number: int) -> None:
        while claims := racing.claim(7, worker=f"{number}", order_by=order):
            taken.extend(claims)

    in_threads(8, take_part)
    assert sorted(claim.track.id for claim in taken) == sorted(ids)
    assert {(claim.token >> 32, claim.attempt) for claim in taken} == {(2, 1)}


def test_eight_workers_do_each_track_once_though_half_of_the_tries_fail(
    database_url: str, racing: Catalog, owner: Owner
) -> None:
    """Some fail, some die, some come too late, and somebody takes back all the while what has run out."""
    with racing.unit_of_work() as work:
        ids = [work.save(TrackMetadata(), audio_path="a", status=PENDING).id for _ in range(150)]
    done: list[UUID] = []

    def work_on(catalog: Catalog, number: int) -> None:
        turn = number
        while len(done) < len(ids):
            for claim in catalog.claim(3, worker=f"{number}"):
                turn += 1
                try:
                    match turn % 6:
                        case 0:
                            catalog.fail(claim, "again")
                        case 1:
                            catalog.release(claim)
                        case 2:
                            owner.execute(
                                "UPDATE audio_track_tasks SET expires_at = now() - interval '1 s' "
                                "WHERE track_id = %s AND token = %s",
                                [claim.track.id, claim.token],
                            )
                            catalog.complete(claim)
                            pytest.fail("a claim was completed after its lease")
                        case _:
                            catalog.complete(catalog.renew(claim), TrackMetadata(title=f"{number}"))
                            done.append(claim.track.id)
                except errors.ClaimLost:
                    assert turn % 6 == 2
            catalog.release_expired()
            end_pauses(owner)

    with Catalog(
        database_url, pool_size=8, max_attempts=1000, retry_delay=0.001, lock_timeout=60, statement_timeout=60
    ) as catalog:
        in_threads(8, lambda number: work_on(catalog, number))
    assert sorted(done) == sorted(ids)


@pytest.mark.parametrize("to", [PENDING, FAILED, COMPLETED])
def test_either_a_hand_moves_a_track_or_its_worker_completes_it(racing: Catalog, owner: Owner, to: TrackStatus) -> None:
    """Both begin at once, now the one a little earlier, now the other."""
    rounds = 60
    waiting(racing, rounds)
    claims = racing.claim(rounds, worker="worker")
    barrier = threading.Barrier(2)
    wins: dict[str, set[UUID]] = {"hand": set(), "worker": set()}
    lost = [0, 0]

    def take_part(number: int) -> None:
        for turn, claim in enumerate(claims):
            barrier.wait()
            if turn % 3 == number:
                time.sleep(0.0005)
            try:
                if number:
                    racing.update_status(claim.track.id, to, expected=PROCESSING, actor="hand")
                    wins["hand"].add(claim.track.id)
                else:
                    racing.complete(claim, TrackMetadata(title="By the worker"))
                    wins["worker"].add(claim.track.id)
            except (errors.ClaimLost, errors.TransitionConflict)[number]:
                lost[number] += 1

    in_threads(2, take_part)
    assert wins["hand"] | wins["worker"] == {claim.track.id for claim in claims}
    assert wins["hand"] & wins["worker"] == set()
    assert lost == [len(wins["hand"]), len(wins["worker"])]
    for winner, ids in wins.items():
        for identifier in ids:
            track = racing.get(identifier)
            assert (track.title, track.version) == ("By the worker" if winner == "worker" else "Untitled", 3)
            assert racing.history(identifier)[-1].actor == winner


@pytest.mark.parametrize("first", ["hand", "worker"])
def test_who_holds_the_track_first_wins_it(racing: Catalog, database_url: str, first: str) -> None:
    """In a known order: the one waits for the lock of the other, and sees under it that it is too late."""
    for _ in range(10):
        waiting(racing, 1)
        (claim,) = racing.claim()
        raised: list[errors.CatalogError] = []

        def come_second(claim: Claim = claim, raised: list[errors.CatalogError] = raised) -> None:
            try:
                if first == "hand":
                    racing.complete(claim, TrackMetadata(title="Too late"))
                else:
                    racing.update_status(claim.track.id, FAILED)
            except errors.CatalogError as error:
                raised.append(error)

        second = threading.Thread(target=come_second)
        with racing.unit_of_work() as work:
            if first == "hand":
                work.update_status(claim.track.id, FAILED)
            else:
                work.complete(claim)
            second.start()
            wait_until_blocked(database_url, "audio_tracks")
        second.join()
        assert isinstance(raised[0], DEFEATS)
        assert racing.get(claim.track.id).status is (FAILED if first == "hand" else COMPLETED)
        assert len(racing.history(claim.track.id)) == 3


def test_a_lease_that_runs_out_has_one_heir(racing: Catalog, owner: Owner) -> None:
    """The late worker, two janitors and a hand all want the same tracks at the same moment."""
    waiting(racing, 40)
    claims = racing.claim(40)
    owner.execute("UPDATE audio_track_tasks SET expires_at = clock_timestamp() + interval '5 ms'")
    ended: list[UUID] = []

    def take_part(number: int) -> None:
        for claim in claims:
            try:
                if number == 0:
                    ended.append(racing.complete(claim).track_id)
                elif number == 1:
                    ended.append(racing.update_status(claim.track.id, FAILED, expected=PROCESSING).track_id)
                else:
                    ended.extend(change.track_id for change in racing.release_expired(3))
            except DEFEATS:
                pass

    in_threads(4, take_part)
    assert sorted(ended) == sorted(claim.track.id for claim in claims)


def test_everything_at_once_ends_without_a_deadlock(racing: Catalog, owner: Owner) -> None:
    """Lists in all orders, claims, ends, renewals and moves by hand of the same thirty tracks."""
    ids = waiting(racing, 30)
    orders = [ids, ids[::-1], sorted(ids), sorted(ids, reverse=True)]

    def take_part(number: int) -> None:
        mine = orders[number % 4]
        held: list[Claim] = []
        for turn in range(12):
            match (number + turn) % 6:
                case 0:
                    racing.update_statuses(mine, PENDING)
                case 1:
                    held = racing.claim(15, order_by=("oldest", "newest")[turn % 2])
                case 2:
                    racing.renew_many(held[::-1])
                case 3:
                    racing.complete_many([(claim, TrackMetadata(title=f"{turn}")) for claim in held])
                case 4:
                    racing.update_statuses(mine, FAILED)
                case _:
                    racing.release_expired()
                    racing.update_statuses(mine[:10], PROCESSING)

    in_threads(8, take_part)
