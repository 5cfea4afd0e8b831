"""How the body of a worker's loop is left, and what becomes of its claim: failed, left alone, or warned of."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from uuid import UUID

import pytest

from audiocatalog import Catalog, Claim, TrackStatus, Worker, errors
from tests.support.lifecycle import Owner, end_pauses, waiting
from tests.support.programs import in_a_thread, program, statuses
from tests.support.waiting import wait_until

PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus

# Whether a bare ``for`` loop finds an exception that C code has raised; otherwise its claim fails with this reason.
FINDS_WHAT_C_RAISED = sys.version_info >= (3, 12) or sys.gettrace() is not None
UNNAMED = "an exception left the body of the loop"


class Broken(Exception):
    """What goes wrong with a track."""


def stored(owner: Owner, track: UUID) -> tuple[str, int, str | None]:
    """Return the status of a track, how many tries are counted, and why the last one failed."""
    row = owner.execute(
        "SELECT status::text, attempts, last_error::text FROM audio_track_tasks WHERE track_id = %s", [track]
    ).fetchone()
    assert row is not None
    return row["status"], row["attempts"], row["last_error"]


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# An exception of the track's.


def raise_at_once(claims: Iterable[Claim]) -> None:
    for _ in claims:
        raise Broken("no audio")


def raise_in_a_call(claims: Iterable[Claim]) -> None:
    def extract() -> None:
        raise Broken("no audio")

    for _ in claims:
        extract()


def raise_through_blocks(claims: Iterable[Claim]) -> None:
    for _ in claims:
        with suppress(KeyError):
            try:
                raise Broken("no audio")
            finally:
                os.getpid()


def raise_after_another_handler(claims: Iterable[Claim]) -> None:
    for _ in claims:
        try:
            raise Broken("no audio")
        except KeyError:
            pass


def raise_again(claims: Iterable[Claim]) -> None:
    for _ in claims:
        try:
            raise Broken("no audio")  # noqa: TRY301
        except Broken:  # noqa: TRY203
            raise


def raise_in_a_handler(claims: Iterable[Claim]) -> None:
    for _ in claims:
        try:
            raise KeyError("the cause")  # noqa: TRY301
        except KeyError as error:
            raise Broken("no audio") from error


def raise_beside_one_that_is_kept(claims: Iterable[Claim]) -> None:
    kept = []
    for _ in claims:
        try:
            raise KeyError("an older one")  # noqa: TRY301
        except KeyError as error:
            kept.append(error)
        raise Broken("no audio")


def raise_in_a_counted_loop(claims: Iterable[Claim]) -> None:
    for _ in enumerate(claims):
        raise Broken("no audio")


def raise_in_an_inner_loop(claims: Iterable[Claim]) -> None:
    while True:
        for _ in claims:
            for _ in range(3):
                raise Broken("no audio")


RAISING = [
    raise_at_once,
    raise_in_a_call,
    raise_through_blocks,
    raise_after_another_handler,
    raise_again,
    raise_in_a_handler,
    raise_beside_one_that_is_kept,
    raise_in_a_counted_loop,
    raise_in_an_inner_loop,
]


@pytest.mark.parametrize("leave", RAISING)
@pytest.mark.parametrize("in_a_block", [False, True], ids=["for", "with"])
def test_an_exception_of_the_body_fails_its_claim_and_goes_on(
    quick: Catalog,
    owner: Owner,
    caplog: pytest.LogCaptureFixture,
    leave: Callable[[Iterable[Claim]], None],
    *,
    in_a_block: bool,
) -> None:
    ids = waiting(quick, 3)
    worker = quick.worker(worker="me", limit=3)
    with pytest.raises(Broken):
        if in_a_block:
            with worker as claims:
                leave(claims)
        else:
            leave(worker)
    assert stored(owner, ids[0]) == ("PENDING", 1, "Broken: no audio")
    assert [stored(owner, track) for track in ids[1:]] == [("PENDING", 0, None)] * 2
    last = quick.history(ids[0])[-1]
    assert (last.actor, last.attempt, last.reason) == ("me", 1, "Broken: no audio")
    assert messages(caplog) == ["Broken left the body of the loop, so the worker failed the claim"]
    assert caplog.records[0].track_id == ids[0]  # type: ignore[attr-defined]  # As extra.


def test_the_loop_itself_may_stand_where_the_exception_is_caught(quick: Catalog, owner: Owner) -> None:
    (track,) = waiting(quick, 1)
    try:
        for _ in quick.worker():
            raise Broken("here")  # noqa: TRY301
    except Broken:
        assert stored(owner, track)[:2] == ("PENDING", 1)


def test_an_exception_of_c_code_fails_the_claim_too(quick: Catalog, owner: Owner) -> None:
    (track,) = waiting(quick, 1)
    with pytest.raises(ZeroDivisionError):
        for claim in quick.worker():
            assert 1 / (claim.attempt - 1)
    reason = "ZeroDivisionError: division by zero" if FINDS_WHAT_C_RAISED else UNNAMED
    assert stored(owner, track) == ("PENDING", 1, reason)


def test_a_body_that_raises_each_time_fails_its_track_in_the_end(quick: Catalog, owner: Owner) -> None:
    bad, good = waiting(quick, 2)
    while quick.get(bad).status is PENDING:
        with suppress(Broken):
            for claim in quick.worker(until_empty=True):
                if claim.track.id == bad:
                    raise Broken("again")
                quick.complete(claim)
        end_pauses(owner)
    quick.worker(until_empty=True).run(lambda _: None)
    assert statuses(quick, [bad, good]) == [FAILED, COMPLETED]
    assert [change.attempt for change in quick.history(bad) if change.reason] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("in_a_block", [False, True], ids=["for", "with"])
def test_what_was_ended_before_the_exception_stays_so(
    quick: Catalog, caplog: pytest.LogCaptureFixture, *, in_a_block: bool
) -> None:
    ids = waiting(quick, 2)

    def complete_and_raise(claims: Iterable[Claim]) -> None:
        for claim in claims:
            quick.complete(claim)
            raise Broken("too late")

    worker = quick.worker()
    with pytest.raises(Broken):
        if in_a_block:
            with worker as claims:
                complete_and_raise(claims)
        else:
            complete_and_raise(worker)
    assert statuses(quick, ids) == [COMPLETED, PENDING]
    assert messages(caplog) == []


def test_what_was_ended_in_a_unit_of_work_that_the_exception_rolled_back_is_failed(
    quick: Catalog, owner: Owner
) -> None:
    (track,) = waiting(quick, 1)
    with pytest.raises(Broken):
        for claim in quick.worker():
            with quick.unit_of_work() as work:
                work.complete(claim)
                raise Broken("half done")
    assert stored(owner, track) == ("PENDING", 1, "Broken: half done")


# What is no failure of the track.


def interrupt(_: Claim) -> None:
    raise KeyboardInterrupt


def interrupt_by_a_signal(_: Claim) -> None:
    signal.raise_signal(signal.SIGINT)


def end_the_program(_: Claim) -> None:
    sys.exit(3)


def end_the_program_by_hand(_: Claim) -> None:
    raise SystemExit(3)


def be_cancelled(_: Claim) -> None:
    raise asyncio.CancelledError


RAISED_BY_C = {interrupt_by_a_signal, end_the_program}


def iterate(worker: Worker, body: Callable[[Claim], None]) -> None:
    for claim in worker:
        body(claim)


def iterate_in_a_block(worker: Worker, body: Callable[[Claim], None]) -> None:
    with worker as claims:
        for claim in claims:
            body(claim)


def run(worker: Worker, body: Callable[[Claim], None]) -> None:
    worker.run(body)


@pytest.mark.parametrize("how", [iterate, iterate_in_a_block, run])
@pytest.mark.parametrize(
    "body", [interrupt, interrupt_by_a_signal, end_the_program, end_the_program_by_hand, be_cancelled]
)
def test_what_ends_the_program_is_no_try_of_its_track(
    quick: Catalog,
    owner: Owner,
    body: Callable[[Claim], None],
    how: Callable[[Worker, Callable[[Claim], None]], None],
) -> None:
    """The claim that was given is left to its lease, because nobody knows how far the work on it has come."""
    ids = waiting(quick, 10)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises((KeyboardInterrupt, SystemExit, asyncio.CancelledError)):
        how(quick.worker(), body)
    if how is iterate and body in RAISED_BY_C and not FINDS_WHAT_C_RAISED:
        assert stored(owner, ids[0]) == ("PENDING", 1, UNNAMED)
        return
    assert [stored(owner, track) for track in ids] == [("PROCESSING", 0, None), *[("PENDING", 0, None)] * 9]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    owner.execute("UPDATE audio_track_tasks SET expires_at = now() - interval '1 s' WHERE expires_at IS NOT NULL")
    (change,) = quick.release_expired()
    assert (change.track_id, change.attempt) == (ids[0], None)
    assert stored(owner, ids[0]) == ("PENDING", 0, None)


def test_a_generator_closed_in_the_body_leaves_its_claim_where_python_shows_it(quick: Catalog, owner: Owner) -> None:
    (track,) = waiting(quick, 1)

    def titles() -> Iterator[str]:
        for claim in quick.worker():
            yield claim.track.title

    generator = titles()
    assert next(generator) == "Untitled"
    generator.close()  # type: ignore[attr-defined]  # A generator.
    assert stored(owner, track)[0] == ("PROCESSING" if FINDS_WHAT_C_RAISED else "PENDING")


# A body that forgets to end its claim.

FORGOTTEN = (
    "the body of the loop has not ended its claim, so its track waits until the lease expires; complete, "
    "fail or release each claim"
)


def test_a_body_that_forgets_its_claim_is_told_once_for_each(
    quick: Catalog, owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    ids = waiting(quick, 4)
    endings: list[Callable[[Claim], object]] = [
        *(quick.complete, lambda _: None, lambda claim: quick.fail(claim, "x"), lambda _: None)
    ]
    for end, claim in zip(endings, quick.worker(limit=3, until_empty=True), strict=False):
        end(claim)
    assert messages(caplog) == [FORGOTTEN] * 2
    assert [record.track_id for record in caplog.records] == [ids[1], ids[3]]  # type: ignore[attr-defined]
    assert [stored(owner, track)[:2] for track in (ids[1], ids[3])] == [("PROCESSING", 1)] * 2


def test_a_body_that_is_left_by_break_is_told_too(quick: Catalog, caplog: pytest.LogCaptureFixture) -> None:
    ids = waiting(quick, 2)
    for claim in quick.worker():
        quick.complete(claim)
        break
    assert messages(caplog) == []
    for _ in quick.worker():
        break
    assert messages(caplog) == [FORGOTTEN]
    assert statuses(quick, ids) == [COMPLETED, PROCESSING]


def test_objects_that_cannot_be_asked_for_their_class_do_no_harm(quick: Catalog, owner: Owner) -> None:
    (track,) = waiting(quick, 1)
    dead = weakref.proxy(Broken("it is gone at once"))
    with pytest.raises(Broken):
        raise_at_once(quick.worker())
    assert stored(owner, track) == ("PENDING", 1, "Broken: no audio")
    del dead


def test_an_exception_that_the_body_has_caught_does_not_count_as_leaving_it(
    quick: Catalog, owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    (track,) = waiting(quick, 1)
    for _ in quick.worker():
        try:
            raise Broken("caught")  # noqa: TRY301
        except Broken as error:
            kept = error
        break
    assert (str(kept), messages(caplog)) == ("caught", [FORGOTTEN])
    assert stored(owner, track) == ("PROCESSING", 1, None)


def test_who_ends_claims_in_another_way_is_not_told(
    quick: Catalog, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In a unit of work, by a renewed copy, many at once, from another catalogue, or by hand."""
    ids = waiting(quick, 5)
    with Catalog(database_url) as other:

        def in_a_unit(claim: Claim) -> None:
            with quick.unit_of_work() as work:
                work.release(claim)
                work.update_status(claim.track.id, FAILED)

        endings: list[Callable[[Claim], object]] = [
            in_a_unit,
            lambda claim: quick.complete(quick.renew(claim)),
            lambda claim: quick.complete_many([claim]),
            other.complete,
            lambda claim: quick.update_status(claim.track.id, FAILED),
        ]
        for end, claim in zip(endings, quick.worker(until_empty=True), strict=False):
            end(claim)
    assert statuses(quick, ids) == [FAILED, COMPLETED, COMPLETED, COMPLETED, FAILED]
    assert messages(caplog) == []


# What crashes with one track.

CRASHING = """
import os, signal, sys
from datetime import timedelta
from uuid import UUID
from audiocatalog import Catalog

def handle(claim):
    if claim.track.id == UUID(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

with Catalog(sys.argv[1], actor="w", max_attempts=3, retry_delay=0.001, longest_retry_delay=0.001) as catalog:
    catalog.worker(limit=10, lease=timedelta(hours=1), until_empty=True).run(handle)
"""


def test_a_track_that_kills_its_process_fails_itself_alone(database_url: str, owner: Owner) -> None:
    with Catalog(database_url, actor="w", max_attempts=3, retry_delay=0.001) as catalog:
        ids = waiting(catalog, 10)
        poison = ids[4]
        for attempt in (1, 2, 3):
            # Behind all others, so that it takes them with it each time.
            with program(CRASHING, database_url, str(poison)) as running:
                running.communicate(timeout=60)
            assert running.returncode == -signal.SIGKILL
            owner.execute("UPDATE audio_track_tasks SET expires_at = now() - interval '1 s' WHERE token IS NOT NULL")
            changes = {change.track_id: change for change in catalog.release_expired()}
            assert changes.pop(poison).attempt == attempt
            assert {change.attempt for change in changes.values()} <= {None}
            if attempt == 1:
                assert set(changes) == set(ids[5:])
                assert statuses(catalog, ids[:4]) == [COMPLETED] * 4
            end_pauses(owner)
        assert catalog.get(poison).status is FAILED
        assert [change.reason for change in catalog.history(poison)][-1] == "the lease of w ran out"
        catalog.worker(until_empty=True).run(lambda _: None)
        assert statuses(catalog, [track for track in ids if track != poison]) == [COMPLETED] * 9
        for track in ids[5:]:
            assert {change.attempt for change in catalog.history(track)} <= {None, 1}


def test_a_claim_that_is_lost_is_found_out_when_its_work_would_begin(
    quick: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    ids = waiting(quick, 3)
    given = []
    for claim in quick.worker(limit=3, until_empty=True):
        given.append(claim.track.id)
        if claim.track.id == ids[0]:
            quick.update_status(ids[1], FAILED)
        quick.complete(claim)
    assert given == [ids[0], ids[2]]
    assert [record.track_id for record in caplog.records] == [ids[1]]  # type: ignore[attr-defined]


def test_what_a_loop_has_claimed_is_counted_as_it_is_begun(quick: Catalog, owner: Owner) -> None:
    ids = waiting(quick, 3)
    seen = []
    for claim in quick.worker(limit=3, until_empty=True):
        seen.append([stored(owner, track)[1] for track in ids if quick.get(track).status is PROCESSING])
        assert claim.attempt == 1
        assert quick.activity().claimed == len(seen[-1])
        quick.complete(claim)
    assert seen == [[1, 0, 0], [1, 0], [1]]
    assert {tuple(change.attempt for change in quick.history(track)) for track in ids} == {(None, 1, 1)}


def test_a_mark_that_is_made_twice_counts_one_try(quick: Catalog, owner: Owner) -> None:
    waiting(quick, 2)
    worker = quick.worker(limit=2)
    (first, first_has_begun), (second, second_has_begun) = worker._claim()
    assert (first_has_begun, second_has_begun) == (True, False)
    for _ in range(2):
        worker._mark(first, begins=True)
        worker._mark(second, begins=True)
    assert [stored(owner, claim.track.id)[1] for claim in (first, second)] == [1, 1]
    quick.complete(first)
    with pytest.raises(errors.ClaimLost):
        worker._mark(first, begins=True)
    # Whatever has begun is released as if it had not been tried.
    quick.release(second)
    assert stored(owner, second.track.id)[:2] == ("PENDING", 0)


@pytest.mark.parametrize("end", ["complete", "fail"])
def test_ending_what_has_not_begun_counts_it(quick: Catalog, owner: Owner, end: str) -> None:
    waiting(quick, 2)
    (_, (claim, has_begun)) = quick.worker(limit=2)._claim()
    assert not has_begun
    change = quick.complete(claim) if end == "complete" else quick.fail(claim, "x")
    assert change.attempt == 1
    if end == "fail":
        assert stored(owner, claim.track.id) == ("PENDING", 1, "x")


# What dead workers leave.


def test_a_loop_takes_back_all_that_dead_workers_hold_and_works_meanwhile(
    quick: Catalog, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It asks again while the answer is full, not once for each half of its lease; the body waits for none of it."""
    monkeypatch.setattr("audiocatalog.worker.upkeep.TAKEN_BACK", 3)
    waiting(quick, 20)
    dead = quick.claim(20, worker="dead")
    owner.execute("UPDATE audio_track_tasks SET expires_at = now() - interval '1 s'")
    worker = quick.worker(worker="heir")

    def expired() -> int:
        return quick.activity().expired

    def loop() -> None:
        for claim in worker:
            # The first body does not end before all are taken back.
            wait_until(lambda: expired() == 0)
            quick.complete(claim)

    with in_a_thread(loop, worker.stop):
        wait_until(lambda: all(quick.get(claim.track.id).status is COMPLETED for claim in dead))


def test_a_loop_until_empty_does_what_dead_workers_hold(quick: Catalog, owner: Owner) -> None:
    ids = waiting(quick, 5)
    (first, *_) = quick.worker(worker="dead", limit=5)._claim()
    assert first[0].track.id == ids[0]
    owner.execute("UPDATE audio_track_tasks SET expires_at = now() - interval '1 s'")
    assert quick.worker(until_empty=True, poll=3600).run(lambda _: None) >= 4
    assert statuses(quick, ids[1:]) == [COMPLETED] * 4


def test_an_error_of_taking_back_that_does_not_pass_ends_the_loop(database_url: str) -> None:
    with Catalog(database_url) as catalog:
        worker = catalog.worker(poll=3600)

        def refuse(*_: object, **__: object) -> None:
            raise errors.PermissionDenied("no")

        catalog.release_expired = refuse  # type: ignore[assignment,method-assign]
        with pytest.raises(errors.PermissionDenied):
            worker.run(lambda _: None)
