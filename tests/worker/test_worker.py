"""A worker loop ends what it claims, gives back what it does not, and outlives whatever happens to its connections."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from audiocatalog import Catalog, Claim, Observation, TrackMetadata, TrackStatus, Worker, errors
from audiocatalog.worker.policy import Terms
from tests.support.lifecycle import DISAGREEMENTS, Owner, end_pauses, expire, waiting
from tests.support.programs import PATIENCE, in_a_thread, next_line, program, statuses
from tests.support.waiting import wait_until

PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus

#: No lease ends by itself while a test runs.
LEASE = timedelta(minutes=10)


@pytest.fixture
def _keen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have long leases renewed, and dead workers looked for, every few milliseconds: no test has to keep a lease."""
    monkeypatch.setattr("audiocatalog.worker.policy._RENEWALS_PER_LEASE", 5000)
    monkeypatch.setattr(Terms, "until_taking_back", lambda terms: terms.lease.total_seconds() / 5000)


@contextmanager
def working(
    worker: Worker, handler: Callable[[Claim], TrackMetadata | None] = lambda _: None
) -> Iterator[list[object]]:
    with in_a_thread(lambda: worker.run(handler), worker.stop) as outcome:
        yield outcome


def terminate(owner: Owner, condition: str = "true") -> int:
    """End the connections of the catalogues, and return how many there were."""
    return len(
        owner.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() "
            f"AND application_name = 'audiocatalog' AND {condition}"
        ).fetchall()
    )


def owner_url(owner: Owner) -> str:
    info = owner.info
    return f"postgresql://{info.user}:{info.password}@/{info.dbname}?host={info.host}&port={info.port}"


def lock_the_tasks(owner: Owner) -> psycopg.Connection[Any]:
    locking = psycopg.connect(owner_url(owner))
    locking.execute("LOCK TABLE audio_track_tasks IN ACCESS EXCLUSIVE MODE")
    return locking


def blocked(owner: Owner) -> bool:
    return bool(
        owner.execute(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ).fetchall()
    )


def wait_until_renewed(owner: Owner, *ids: UUID) -> None:
    """Let the leases of the tracks end soon, though not during a test, and return when each has been renewed."""
    soon = "clock_timestamp() + interval '30 s'"
    query = f"SELECT 1 FROM audio_track_tasks WHERE track_id = ANY (%s) AND expires_at > {soon}"
    owner.execute(f"UPDATE audio_track_tasks SET expires_at = {soon} WHERE track_id = ANY (%s)", [list(ids)])
    wait_until(lambda: len(owner.execute(query, [list(ids)]).fetchall()) == len(ids))


def logged(caplog: pytest.LogCaptureFixture, track_id: UUID) -> list[logging.LogRecord]:
    return [record for record in caplog.records if getattr(record, "track_id", None) == track_id]


def wait_until_claiming_failed(caplog: pytest.LogCaptureFixture) -> None:
    wait_until(lambda: any(record.getMessage().startswith("claiming failed") for record in caplog.records))


# What the loop does.


def test_the_loop_works_on_all_that_waits(quick: Catalog) -> None:
    ids = waiting(quick, 7)
    given = []
    for claim in quick.worker(worker="me", limit=3, until_empty=True):
        given.append(claim.track.id)
        assert quick.complete(claim).actor == "me"
    assert given == ids
    assert statuses(quick, ids) == [COMPLETED] * 7


def test_the_loop_gives_the_newest_first_if_that_is_asked_for(quick: Catalog) -> None:
    ids = waiting(quick, 4)
    given = []
    for claim in quick.worker(limit=1, order_by="newest", until_empty=True):
        given.append(claim.track.id)
        quick.complete(claim)
    assert given == ids[::-1]


def test_the_loop_ends_at_once_where_nothing_waits(quick: Catalog) -> None:
    assert list(quick.worker(until_empty=True)) == []
    assert quick.worker(until_empty=True).run(lambda _: None) == 0


def test_a_handler_completes_with_what_it_returns(quick: Catalog) -> None:
    ids = waiting(quick, 3)
    done = quick.worker(worker="me", until_empty=True).run(lambda claim: TrackMetadata(title=f"Found {claim.attempt}"))
    assert done == 3
    assert [quick.get(identifier).title for identifier in ids] == ["Found 1"] * 3
    assert {quick.history(identifier)[-1].actor for identifier in ids} == {"me"}


def test_a_handler_that_raises_fails_its_track_and_no_other(quick: Catalog) -> None:
    bad, good = waiting(quick, 2)

    def handle(claim: Claim) -> None:
        if claim.track.id == bad and claim.attempt == 1:
            raise ValueError("no such \0 codec \ud800")

    done = 0
    while quick.get(bad).status is PENDING:
        done += quick.worker(until_empty=True).run(handle)
    assert done == 2
    assert statuses(quick, [bad, good]) == [COMPLETED, COMPLETED]
    told = [(change.to_status, change.reason) for change in quick.history(bad) if change.reason]
    assert told == [(PENDING, "ValueError: no such  codec ?")]


def test_a_track_that_fails_each_time_is_failed_in_the_end(quick: Catalog, owner: Owner) -> None:
    (identifier,) = waiting(quick, 1)
    tries = []

    def handle(claim: Claim) -> None:
        tries.append((claim.attempt, claim.last_error))
        raise OSError("broken")

    while quick.get(identifier).status is PENDING:
        assert quick.worker(until_empty=True).run(handle) == 0
        end_pauses(owner)
    assert tries == [(1, None), *((attempt, "OSError: broken") for attempt in range(2, 6))]
    assert quick.get(identifier).status is FAILED


@pytest.mark.parametrize(
    "text",
    ["x" * 5000, "\u0958" * 1000, "\U0001d160" * 990, "", "\n\n", "a\nb", "\ud800" * 2000],
    ids=["long", "grows in NFC", "grows threefold", "empty", "blank", "two lines", "surrogates"],
)
def test_whatever_a_handler_raises_can_be_told(database_url: str, text: str) -> None:
    def handle(_: Claim) -> None:
        raise LookupError(text)

    with Catalog(database_url, max_attempts=1) as catalog:
        (identifier,) = waiting(catalog, 1)
        assert catalog.worker(until_empty=True).run(handle) == 0
        assert catalog.get(identifier).status is FAILED
        reason = catalog.history(identifier)[-1].reason
    assert reason is not None
    assert reason.startswith("LookupError:")
    assert len(reason) <= 1000


def test_a_handler_that_returns_what_is_no_metadata_fails_its_track_and_no_other(quick: Catalog) -> None:
    """The mistake is the handler's; the loop must not die of it, and the next one after it."""
    bad, good = waiting(quick, 2)
    outcome = quick.worker(until_empty=True).run(
        lambda claim: {"title": "x"} if claim.track.id == bad else None  # type: ignore[arg-type,return-value]
    )
    assert outcome == 1
    assert quick.get(good).status is COMPLETED
    assert any(change.reason and "metadata" in change.reason.lower() for change in quick.history(bad))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        *(({"poll": poll}, "poll") for poll in (0, -1, 3601, True, "1", None, float("nan"))),
        *(({"limit": limit}, "limit") for limit in (0, 1001, None)),
        *(({"lease": lease}, "lease") for lease in (timedelta(0), timedelta(days=8), 5)),
        ({"order_by": "latest"}, "order_by"),
        ({"worker": ""}, "worker"),
    ],
)
def test_a_loop_names_the_argument_that_is_wrong(quick: Catalog, arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(errors.InvalidInput) as caught:
        quick.worker(**arguments)
    assert caught.value.field == field


# How leases are kept and lost.


@pytest.mark.usefixtures("_keen")
def test_a_lease_is_kept_alive_while_the_body_works(quick: Catalog, owner: Owner) -> None:
    ids = waiting(quick, 2)
    given = []
    for claim in quick.worker(limit=2, lease=LEASE, until_empty=True):
        given.append(claim.attempt)
        wait_until_renewed(owner, *ids[len(given) - 1 :])  # The second one waits all the while for its turn.
        assert quick.complete(claim).attempt == 1
    assert given == [1, 1]
    assert statuses(quick, ids) == [COMPLETED, COMPLETED]


@pytest.mark.usefixtures("_keen")
def test_a_lease_is_kept_alive_after_a_renewal_that_failed(
    quick: Catalog, owner: Owner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (identifier,) = waiting(quick, 1)
    renew, failures = quick.renew_many, [errors.QueryTimeout("too late", operation="renew", phase="statement")]

    def renew_many(*claims: Any, **lease: Any) -> object:
        if failures:
            raise failures.pop()
        return renew(*claims, **lease)

    monkeypatch.setattr(quick, "renew_many", renew_many)
    for claim in quick.worker(lease=LEASE, until_empty=True):
        wait_until(lambda: [one for one in caplog.messages if one.startswith("leases could not be renewed")])
        wait_until_renewed(owner, identifier)
        quick.complete(claim)
    assert failures == []
    assert quick.get(identifier).status is COMPLETED


@pytest.mark.usefixtures("_keen")
def test_a_claim_that_is_lost_before_its_turn_is_not_given(quick: Catalog, caplog: pytest.LogCaptureFixture) -> None:
    ids = waiting(quick, 3)
    given = []
    for claim in quick.worker(limit=3, lease=LEASE, until_empty=True):
        given.append(claim.track.id)
        if claim.track.id == ids[0]:
            quick.update_status(ids[1], FAILED)
            wait_until(lambda: logged(caplog, ids[1]))
        quick.complete(claim)
    assert given == [ids[0], ids[2]]
    assert statuses(quick, ids) == [COMPLETED, FAILED, COMPLETED]


def test_a_claim_that_is_lost_in_the_body_is_logged_and_not_fatal(
    quick: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    lost, other = waiting(quick, 2)

    def handle(claim: Claim) -> None:
        if claim.track.id == lost:
            quick.update_status(lost, FAILED)

    assert quick.worker(until_empty=True).run(handle) == 1
    assert statuses(quick, [lost, other]) == [FAILED, COMPLETED]
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "audiocatalog")
    assert record.track_id == lost  # type: ignore[attr-defined]  # As extra.


@pytest.mark.usefixtures("_keen")
def test_a_claim_that_ended_well_is_not_logged_as_lost(quick: Catalog, caplog: pytest.LogCaptureFixture) -> None:
    """The body may go on for a while after it: a warning that another caller moved the track would not be true."""
    caplog.set_level(logging.DEBUG, "audiocatalog")
    (identifier,) = waiting(quick, 1)
    for claim in quick.worker(lease=LEASE, until_empty=True):
        quick.complete(claim)
        wait_until(lambda: logged(caplog, identifier))  # The next renewal has found that the claim has ended.
    assert [record.levelno for record in caplog.records] == [logging.DEBUG]


@pytest.mark.usefixtures("_keen")
def test_a_late_renewal_of_an_old_claim_does_not_drop_the_new_one(
    database_url: str, owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    """
    The renewal of two claims waits for the first track, which another session has locked. Meanwhile the second track
    is moved, and is claimed anew. That the old claim is lost says nothing about the new one, which must be kept alive.
    """
    with Catalog(database_url, lock_timeout=60, statement_timeout=60) as catalog:
        ids = sorted(waiting(catalog, 2))
        for place, identifier in enumerate(ids):
            owner.execute(
                "UPDATE audio_track_tasks SET ready_at = now() - %s WHERE track_id = %s",
                [timedelta(9 - place), identifier],
            )
        given = []
        with psycopg.connect(owner_url(owner)) as locking:
            for claim in catalog.worker(limit=2, lease=LEASE, until_empty=True):
                given.append(claim.track.id)
                if claim.track.id == ids[0]:
                    # A renewal locks the tracks of all claims that are held, also of one that has just ended.
                    catalog.complete(claim)
                    locking.execute("SELECT 1 FROM audio_tracks WHERE id = %s FOR NO KEY UPDATE", [ids[0]])
                    wait_until(lambda: blocked(owner))
                    for status in (FAILED, PENDING):
                        catalog.update_status(ids[1], status)
                    continue
                (lost_before_its_turn,) = logged(caplog, ids[1])
                assert lost_before_its_turn.levelno == logging.WARNING
                locking.rollback()
                wait_until(lambda: len(logged(caplog, ids[1])) == 2)  # The renewal has found so, too.
                wait_until_renewed(owner, ids[1])
                catalog.complete(claim)
        assert given == ids
        assert statuses(catalog, ids) == [COMPLETED, COMPLETED]


def test_the_loop_takes_back_what_dead_workers_hold(quick: Catalog, owner: Owner) -> None:
    ids = waiting(quick, 3)
    dead = quick.claim(2, worker="dead")
    expire(owner, *dead)
    tries = {}

    def handle(claim: Claim) -> None:
        tries[claim.track.id] = claim.attempt

    with working(quick.worker(lease=LEASE, poll=0.05), handle):
        wait_until(lambda: len(tries) == 3)
    assert tries == {ids[0]: 2, ids[1]: 2, ids[2]: 1}
    assert "the lease of dead ran out" in {change.reason for change in quick.history(ids[0])}


@pytest.mark.usefixtures("_keen")
def test_the_loop_takes_back_what_workers_leave_that_die_later(quick: Catalog) -> None:
    with working(quick.worker(lease=LEASE, poll=0.05)):
        (identifier,) = waiting(quick, 1)
        wait_until(lambda: quick.get(identifier).status is COMPLETED)
        with quick.unit_of_work() as work:
            track = work.save(TrackMetadata(), audio_path="a", status=PENDING)
            (dead,) = work.claim(worker="dead", lease=timedelta(milliseconds=10))
        assert dead.track.id == track.id
        wait_until(lambda: quick.get(track.id).status is COMPLETED)
    assert [change.attempt for change in quick.history(track.id)] == [None, 1, 1, 2, 2]


# How the loop ends.


class Looks:
    """What a loop with one track at a time has claimed: whether it has looked for more since it was given the last."""

    def __init__(self) -> None:
        self._count = 0
        self._at_the_last = sys.maxsize

    def observe(self, observation: Observation) -> None:
        self._count += observation.operation == "claim"

    def given(self) -> None:
        self._at_the_last = self._count

    def has_looked_again(self) -> bool:
        return self._count > self._at_the_last


class OnPurpose(Exception):
    pass


def leave_by_break(worker: Worker) -> None:
    for _ in worker:
        break


def leave_by_an_interrupt(worker: Worker) -> None:
    def handle(_: Claim) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worker.run(handle)


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_an_interrupt])
def test_a_body_that_is_left_keeps_its_claim_and_gives_the_others_back(
    quick: Catalog, leave: Callable[[Worker], None]
) -> None:
    ids = waiting(quick, 3)
    threads = threading.active_count()
    handler = signal.getsignal(signal.SIGTERM)
    leave(quick.worker(worker="me", limit=3))
    assert statuses(quick, ids) == [PROCESSING, PENDING, PENDING]
    for identifier in ids[1:]:
        last = quick.history(identifier)[-1]
        assert (last.actor, last.reason, last.attempt) == ("me", "the worker ended", None)
    assert {claim.attempt for claim in quick.claim()} == {1}
    assert threading.active_count() == threads
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_loop_is_stopped_from_another_thread_after_the_claim_at_hand(quick: Catalog) -> None:
    ids = waiting(quick, 3)
    given, go_on = threading.Event(), threading.Event()
    worker = quick.worker(limit=3, poll=3600)

    def handle(_: Claim) -> None:
        given.set()
        assert go_on.wait(PATIENCE)

    assert not worker.stopping
    with working(worker, handle) as outcome:
        assert given.wait(PATIENCE)
        worker.stop()
        assert worker.stopping
        go_on.set()
    assert outcome == [1]
    assert statuses(quick, ids) == [COMPLETED, PENDING, PENDING]
    assert [claim.attempt for claim in quick.claim()] == [1, 1]


@pytest.mark.parametrize("listen", [False, True])
def test_a_loop_that_waits_is_stopped_at_once(database_url: str, *, listen: bool) -> None:
    looks = Looks()
    with Catalog(database_url, observe=looks.observe) as catalog:
        waiting(catalog, 1)
        with working(catalog.worker(poll=3600, listen=listen), lambda _: looks.given()) as outcome:
            wait_until(looks.has_looked_again)
    assert outcome == [1]


def test_a_loop_in_a_thread_leaves_the_signals_alone(quick: Catalog) -> None:
    waiting(quick, 1)
    found = []
    with working(quick.worker(poll=0.01), lambda _: found.append(signal.getsignal(signal.SIGTERM))):
        wait_until(lambda: found)
    assert found == [signal.getsignal(signal.SIGTERM)]


# Programs that are ended by signals.

PROGRAM = """
import sys, time
from audiocatalog import Catalog

def handle(claim):
    print("given", flush=True)
    if sys.stdin.readline() == "tell when you are told to stop\\n":
        while not worker.stopping:
            time.sleep(0.01)
        print("stopping", flush=True)
        sys.stdin.readline()

with Catalog(sys.argv[1], actor="program") as catalog:
    worker = catalog.worker(limit=3, poll=0.05)
    print(worker.run(handle), flush=True)
"""

#: Sends SIGTERM to itself at the n-th line that runs in the worker and in what it waits by, for n from 1 on, until
#: there are no more lines before the loop waits for good; then the signal comes while it waits.
AT_EVERY_LINE = """
import faulthandler, os, signal, sys, threading
from audiocatalog import Catalog, Worker
from audiocatalog.worker import loop as module, policy, upkeep

MAIN = threading.main_thread().ident

WATCHED = {module.__file__, policy.__file__, upkeep.__file__, threading.__file__}

def run(catalog, moment):
    lines, was_sent, came_late = 0, False, False

    def trace(frame, event, _):
        nonlocal lines, was_sent
        if frame.f_code.co_filename not in WATCHED:
            return None
        if event == "line" and signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            lines += 1
            if lines == moment and not was_sent:
                was_sent = True
                signal.raise_signal(signal.SIGTERM)
        return trace

    def waits_for_good():
        is_waiting = sys._current_frames()[MAIN].f_code is Worker._wait.__code__
        return is_waiting and loop._upkeep.has_looked_for_dead and loop._news.empty()

    def send_late():
        nonlocal was_sent, came_late
        while not ended.wait(0.01) and not was_sent:
            if waits_for_good():
                was_sent = came_late = True
                os.kill(os.getpid(), signal.SIGTERM)

    loop, ended = catalog.worker(poll=3600), threading.Event()
    late = threading.Thread(target=send_late)
    late.start()
    sys.settrace(trace)
    try:
        list(loop)
    finally:
        sys.settrace(None)
        ended.set()
        late.join()
    return not came_late

with Catalog(sys.argv[1], actor="program") as catalog:
    moment = 1
    while True:
        faulthandler.dump_traceback_later(60, exit=True)
        if not run(catalog, moment):
            break
        moment += 1
print(moment)
"""


def tell(running: subprocess.Popen[str], line: str) -> None:
    assert running.stdin is not None
    running.stdin.write(line + "\n")
    running.stdin.flush()


def test_a_program_that_is_terminated_ends_what_it_is_at_and_gives_back_the_rest(
    quick: Catalog, database_url: str
) -> None:
    ids = waiting(quick, 5)
    with program(PROGRAM, database_url) as running:
        assert next_line(running) == "given"
        tell(running, "tell when you are told to stop")
        running.terminate()
        assert next_line(running) == "stopping"
        out, err = running.communicate("\n", timeout=PATIENCE)
    assert (running.returncode, out, err) == (0, "1\n", "")
    assert statuses(quick, ids) == [COMPLETED, *[PENDING] * 4]
    assert [claim.attempt for claim in quick.claim()] == [1] * 4


def test_a_program_that_is_terminated_while_nothing_waits_just_ends(quick: Catalog, database_url: str) -> None:
    (identifier,) = waiting(quick, 1)
    with program(PROGRAM, database_url) as running:
        assert next_line(running) == "given"
        tell(running, "")
        wait_until(lambda: quick.get(identifier).status is COMPLETED)
        running.terminate()
        out, err = running.communicate(timeout=PATIENCE)
    assert (running.returncode, out, err) == (0, "1\n", "")


def expire_all(owner: Owner) -> None:
    owner.execute(
        "UPDATE audio_track_tasks SET expires_at = clock_timestamp() - interval '1 s' WHERE token IS NOT NULL"
    )


def test_the_track_of_a_program_that_is_killed_comes_back(quick: Catalog, database_url: str, owner: Owner) -> None:
    ids = waiting(quick, 2)
    with program(PROGRAM, database_url) as running:
        assert next_line(running) == "given"
        running.kill()
        running.communicate(timeout=PATIENCE)
    expire_all(owner)
    tries = {}

    def handle(claim: Claim) -> TrackMetadata:
        tries[claim.track.id] = claim.attempt
        return TrackMetadata(title="Rescued")

    with working(quick.worker(worker="heir", poll=0.05), handle):
        wait_until(lambda: len(tries) == 2)
    assert tries == {ids[0]: 2, ids[1]: 1}
    assert statuses(quick, ids) == [COMPLETED, COMPLETED]
    for identifier, attempts in zip(ids, ([None, 1, 1, 2, 2], [None, 1, None, 1, 1]), strict=True):
        history = quick.history(identifier)
        assert [change.attempt for change in history] == attempts
        assert [change.reason for change in history] == [None, None, "the lease of program ran out", None, None]


def test_a_signal_may_come_at_any_moment(quick: Catalog, database_url: str) -> None:
    """A handler runs between any two lines of the main thread, also where that holds the lock of an event."""
    with program(AT_EVERY_LINE, database_url) as running:
        out, err = running.communicate(timeout=120)
    assert (running.returncode, err) == (0, "")
    assert int(out) > 10


def test_a_signal_that_does_not_interrupt_a_wait_is_noticed(quick: Catalog) -> None:
    """A signal may arrive just before the thread blocks: its handler runs when the wait ends, which would be late."""
    loop = quick.worker(poll=3600)
    with in_a_thread(lambda: list(loop), lambda: setattr(loop, "_stopping", True)) as outcome:
        wait_until(lambda: loop._upkeep.has_looked_for_dead and loop._news.empty())
    assert outcome == [[]]


# How the loop is woken up.


@pytest.fixture
def notifying(database_url: str) -> Iterator[Catalog]:
    with Catalog(database_url, actor="uploader", notify=True, retry_delay=0.001) as catalog:
        yield catalog


def listeners(owner: Owner) -> list[dict[str, Any]]:
    return owner.execute(
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'"
    ).fetchall()


def test_a_loop_that_listens_wakes_up_long_before_it_would_look(
    database_url: str, notifying: Catalog, owner: Owner
) -> None:
    """
    It would look after half an hour. The ways to become PENDING are told alike.

    A track that becomes PENDING when the loop has looked in vain is found by a notification alone, but for the few
    looks of the beginning: there are fewer of these than tracks.
    """
    looks = Looks()
    with Catalog(database_url, observe=looks.observe) as catalog:
        (identifier,) = waiting(catalog, 1)
        with working(catalog.worker(poll=3600, listen=True), lambda _: looks.given()):
            wait_until(lambda: listeners(owner))
            for tries in range(1, 6):
                wait_until(looks.has_looked_again)
                assert len(catalog.history(identifier)) == 3 * tries
                notifying.update_status(identifier, PENDING)
                wait_until(lambda: len(catalog.history(identifier)) == 3 * tries + 3)  # noqa: B023


def test_a_loop_listens_again_when_its_listener_was_cut_off(quick: Catalog, notifying: Catalog, owner: Owner) -> None:
    done: list[UUID] = []
    with working(quick.worker(poll=3600, listen=True), lambda claim: done.append(claim.track.id)):
        wait_until(lambda: listeners(owner))
        ids = waiting(notifying, 1)
        wait_until(lambda: done == ids)
        assert terminate(owner, "query LIKE 'LISTEN %'") == 1
        ids += waiting(notifying, 1)
        wait_until(lambda: done == ids)
        wait_until(lambda: listeners(owner))
        ids += waiting(notifying, 1)
        wait_until(lambda: done == ids)


def test_what_is_rolled_back_wakes_nobody(notifying: Catalog, owner: Owner) -> None:
    owner.execute("LISTEN audiocatalog_pending")
    with pytest.raises(OnPurpose), notifying.unit_of_work() as work:
        work.save(TrackMetadata(), audio_path="a", status=PENDING)
        raise OnPurpose
    owner.execute("NOTIFY audiocatalog_pending, 'of the test'")  # Notifications come in the order of the commits.
    (first,) = owner.notifies(timeout=PATIENCE, stop_after=1)
    assert first.payload == "of the test"


WAKING: dict[str, Callable[[Catalog, Owner], object]] = {
    "save": lambda catalog, _: waiting(catalog, 1),
    "move": lambda catalog, owner: catalog.update_status(waiting_silently(owner), PENDING),
    "release": lambda catalog, owner: catalog.release(claim_silently(owner, catalog)),
    "fail": lambda catalog, owner: catalog.fail(claim_silently(owner, catalog), "x"),
    "take back": lambda catalog, owner: take_back(owner, claim_silently(owner, catalog), catalog),
}


def take_back(owner: Owner, claim: Claim, catalog: Catalog) -> None:
    expire(owner, claim)
    catalog.release_expired()


def waiting_silently(owner: Owner) -> UUID:
    with Catalog(owner_url(owner)) as catalog, catalog.unit_of_work() as work:
        return work.save(TrackMetadata(), audio_path="a").id


def claim_silently(owner: Owner, catalog: Catalog) -> Claim:
    with Catalog(owner_url(owner)) as silent:
        waiting(silent, 1)
    (claim,) = catalog.claim()
    return claim


@pytest.mark.parametrize("way", WAKING)
def test_every_way_to_wait_again_is_told(notifying: Catalog, quick: Catalog, owner: Owner, way: str) -> None:
    owner.execute("LISTEN audiocatalog_pending")
    WAKING[way](notifying, owner)
    assert len(list(owner.notifies(timeout=PATIENCE, stop_after=1))) == 1


# What happens to its connections.


def test_the_loop_outlives_its_connections(quick: Catalog, owner: Owner) -> None:
    done: list[UUID] = []
    with working(quick.worker(poll=0.01), lambda claim: done.append(claim.track.id)) as outcome:
        for number in range(1, 11):
            waiting(quick, 1)
            wait_until(lambda: len(done) >= number or outcome)  # noqa: B023
            terminate(owner)
    assert not [error for error in outcome if isinstance(error, Exception)]
    assert len(done) >= 10


def test_the_loop_outlives_a_connection_that_is_lost_while_it_claims(quick: Catalog, owner: Owner) -> None:
    """Whether it has claimed anything, it cannot know; if it has, the lease runs out."""
    done: list[UUID] = []
    with working(quick.worker(poll=0.01), lambda claim: done.append(claim.track.id)) as outcome:
        (first,) = waiting(quick, 1)
        wait_until(lambda: quick.get(first).status is COMPLETED)
        with lock_the_tasks(owner) as locking:
            wait_until(lambda: blocked(owner))
            assert terminate(owner, "wait_event_type = 'Lock'") == 1
            locking.rollback()
        (second,) = waiting(quick, 1)
        wait_until(lambda: done == [first, second] or outcome)
    assert outcome == [2]


@pytest.mark.parametrize("limit", ["statement_timeout", "lock_timeout"])
def test_the_loop_outlives_a_claim_that_takes_too_long(
    database_url: str, quick: Catalog, owner: Owner, caplog: pytest.LogCaptureFixture, limit: str
) -> None:
    """A server that is slow for a while is no reason to end for good."""
    settings: dict[str, Any] = {"statement_timeout": 10.0, "lock_timeout": 10.0} | {limit: 0.1}
    with (
        Catalog(database_url, **settings) as slow,
        working(slow.worker(poll=0.01)) as outcome,
    ):
        (first,) = waiting(quick, 1)
        wait_until(lambda: quick.get(first).status is COMPLETED)
        with lock_the_tasks(owner) as locking:
            wait_until_claiming_failed(caplog)
            locking.rollback()
        (second,) = waiting(quick, 1)
        wait_until(lambda: quick.get(second).status is COMPLETED or outcome)
    assert outcome == [2]


def is_held(catalog: Catalog, stack: ExitStack) -> bool:
    """Take a connection of *catalog*, to be given back with *stack*, unless the others of the loop are quicker."""
    try:
        stack.enter_context(catalog.unit_of_work())
    except errors.PoolTimeout:
        return False
    return True


def test_the_loop_outlives_a_pool_that_is_empty_for_a_while(
    database_url: str, quick: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    with Catalog(database_url, pool_size=1, pool_timeout=0.1) as small, working(small.worker(poll=0.01)) as outcome:
        (first,) = waiting(quick, 1)
        wait_until(lambda: quick.get(first).status is COMPLETED)
        with ExitStack() as held:
            wait_until(lambda: is_held(small, held))
            wait_until_claiming_failed(caplog)
        (second,) = waiting(quick, 1)
        wait_until(lambda: quick.get(second).status is COMPLETED or outcome)
    assert outcome == [2]


def test_a_claim_that_fails_is_no_empty_queue(quick: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop may end when nothing waits; after an error it does not know that."""
    waiting(quick, 2)
    worker = quick.worker(limit=1, until_empty=True)
    claim = worker._claim
    calls: list[int] = []

    def fail_the_second_time() -> list[tuple[Claim, bool]]:
        calls.append(len(calls))
        if len(calls) == 2:
            raise errors.QueryTimeout("too late", operation="claim", phase="statement")
        return claim()

    def handle(_: Claim) -> None:
        wait_until(lambda: worker._upkeep.has_looked_for_dead)

    monkeypatch.setattr(worker, "_claim", fail_the_second_time)
    assert worker.run(handle) == 2
    assert calls == [0, 1, 2, 3]


@pytest.mark.parametrize("ending", ["completing", "failing"])
def test_a_connection_that_is_lost_while_a_claim_is_ended_is_no_matter(
    quick: Catalog, owner: Owner, ending: str
) -> None:
    (identifier,) = waiting(quick, 1)
    handling, go_on = threading.Event(), threading.Event()

    def handle(claim: Claim) -> None:
        handling.set()
        assert go_on.wait(PATIENCE)
        if ending == "failing" and claim.attempt == 1:
            raise OnPurpose

    with working(quick.worker(poll=0.01), handle) as outcome:
        assert handling.wait(PATIENCE)
        with lock_the_tasks(owner) as locking:
            go_on.set()
            wait_until(lambda: blocked(owner))
            assert terminate(owner, "wait_event_type = 'Lock'") >= 1
            locking.rollback()
        wait_until(lambda: quick.get(identifier).status is COMPLETED or outcome)
    assert outcome == [1]
    tries = [1, 1] if ending == "completing" else [1, 1, 2, 2]
    assert [change.attempt for change in quick.history(identifier)] == [None, *tries]
    assert owner.execute(DISAGREEMENTS).fetchall() == []


def test_two_loops_share_the_work_and_do_nothing_twice(quick: Catalog) -> None:
    ids = waiting(quick, 60)
    done: list[UUID] = []
    loops = [quick.worker(worker=f"{number}", limit=4, poll=0.01) for number in range(3)]
    with (
        working(loops[0], lambda claim: done.append(claim.track.id)),
        working(loops[1], lambda claim: done.append(claim.track.id)),
        working(loops[2], lambda claim: done.append(claim.track.id)),
    ):
        wait_until(lambda: len(done) >= 60)
    assert sorted(done) == sorted(ids)
    assert {len(quick.history(identifier)) for identifier in ids} == {3}
