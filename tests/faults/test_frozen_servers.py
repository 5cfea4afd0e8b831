"""A server that is frozen at any moment of a call: the call ends within its deadline, and the pool is full again.

The deadline of a statement is `statement_timeout` (or what its operation has instead) and `network_timeout`, that of a
new connection `connect_timeout`, and of waiting for one of the pool `pool_timeout`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest
from sqlalchemy import make_url, text

from audiocatalog import (
    BulkResult,
    Catalog,
    Track,
    TrackMetadata,
    TrackRecord,
    TrackStatus,
    UnitOfWork,
    errors,
    migrations,
)
from audiocatalog.embedded import EmbeddedPostgres
from audiocatalog.operations import bulk
from tests.support.factories import TrackRecordFactory
from tests.support.frozen import SilentProxy, family, fill, frozen, outcome_of, silenced_by
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

_SIZE = 2
_LIMITS = {"statement_timeout": 0.3, "search_timeout": 0.3, "lock_timeout": 0.2, "network_timeout": 0.3}
_DEADLINE = 0.6
_POOL_TIMEOUT = 1.0
#: The least that psycopg takes.
_CONNECT_TIMEOUT = 2.0
#: What is promised beyond the deadline.
_SLACK = 0.5
#: They are made beforehand, for that takes as long as the slack on a busy machine.
_RECORDS = TrackRecordFactory.build_batch(2)

Call = Callable[[Catalog, Track], object]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        migrations.upgrade(server.url())
        yield server


@pytest.fixture(params=[False, True], ids=["straight", "pooler"])
def small(request: pytest.FixtureRequest, server: EmbeddedPostgres) -> Iterator[Catalog]:
    """Give a catalogue whose pool is full."""
    catalog = impatient(server, pooler=request.param)
    with catalog:
        fill(catalog, _SIZE)
        yield catalog


@pytest.fixture
def track(small: Catalog) -> Track:
    return small.run(lambda work: work.save(TrackMetadata(title="Before"), audio_path="a", status=TrackStatus.PENDING))


def impatient(server: EmbeddedPostgres, url: object = None, *, pooler: bool = False) -> Catalog:
    address = make_url(url or server.url()).update_query_dict({"connect_timeout": "2"})  # type: ignore[arg-type]
    return Catalog(address, pool_size=_SIZE, pool_timeout=_POOL_TIMEOUT, pooler=pooler, **_LIMITS)  # type: ignore[arg-type]


def send(number: signal.Signals, pids: Iterable[int]) -> None:
    for pid in pids:
        os.kill(pid, number)


def in_a_unit(action: Callable[[UnitOfWork, Track], object]) -> Call:
    def call(catalog: Catalog, track: Track) -> None:
        with catalog.unit_of_work() as work:
            action(work, track)

    return call


STATEMENTS: dict[str, Call] = {
    "get": lambda catalog, track: catalog.get(track.id),
    "get_many": lambda catalog, track: catalog.get_many([track.id]),
    "search": lambda catalog, _: catalog.search("before"),
    "explain": lambda catalog, track: catalog.explain("before", track.id),
    "history": lambda catalog, track: catalog.history(track.id),
    "iter_tracks": lambda catalog, _: list(catalog.iter_tracks()),
    "updated_since": lambda catalog, _: catalog.changes(None),
    "stats": lambda catalog, _: catalog.count_by_status(),
    "activity": lambda catalog, _: catalog.activity(),
    "health": lambda catalog, _: catalog.health(),
    "claim in a unit": in_a_unit(lambda work, _: work.claim()),
    "get in a unit": in_a_unit(lambda work, track: work.get(track.id)),
    "save in a unit": in_a_unit(lambda work, _: work.save(TrackMetadata(), audio_path="a")),
    "update_status in a unit": in_a_unit(lambda work, track: work.update_status(track.id, TrackStatus.PROCESSING)),
    "bulk_save in a unit": in_a_unit(lambda work, _: work.bulk_save(_RECORDS)),
    "the session": in_a_unit(lambda work, _: work.session.execute(text("SELECT 1"))),
    "an object of the session": in_a_unit(lambda work, track: work.session.get(Track, track.id)),
}


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_ends_within_its_deadline(name: str, small: Catalog, track: Track) -> None:
    with frozen(*fill(small, _SIZE)):
        error, seconds = outcome_of(lambda: STATEMENTS[name](small, track))
        assert isinstance(error, errors.DatabaseUnavailable), repr(error)
        assert not isinstance(error, errors.CommitOutcomeUnknown)
        assert error.retryable
        assert seconds <= _DEADLINE + _SLACK
    fill(small, _SIZE)
    assert small.get(track.id).version == 1


def test_a_copy_that_freezes_half_way_is_made_again_on_another_connection(
    small: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch may take a minute, which is too long for a test; what was copied of it is not stored twice."""
    monkeypatch.setattr(bulk, "_STATEMENT_SECONDS", 1.0)
    records, pids = TrackRecordFactory.build_batch(1200), fill(small, _SIZE)
    with ExitStack() as freezer:

        def half_way() -> Iterator[TrackRecord]:
            yield from records[:500]
            freezer.enter_context(frozen(*pids))
            yield from records[500:]

        results: list[BulkResult] = []
        error, seconds = outcome_of(lambda: results.append(small.bulk_save(half_way(), batch=200)))
        assert error is None
        assert seconds < 20
    assert results[0].inserted == 1200
    fill(small, _SIZE)
    assert set(small.get_many(record.id for record in records)) == {record.id for record in records}


#: Calls that are their own transaction: the server may have kept what it was asked to.
ALONE: dict[str, Call] = {
    "update_status": lambda catalog, track: catalog.update_status(track.id, TrackStatus.PROCESSING),
    "claim": lambda catalog, _: catalog.claim(),
}


@pytest.mark.parametrize("name", ALONE)
def test_a_call_that_is_its_own_transaction_does_not_claim_to_know(name: str, small: Catalog, track: Track) -> None:
    with frozen(*fill(small, _SIZE)):
        error, seconds = outcome_of(lambda: ALONE[name](small, track))
        # Behind a pooler its limits are set first, and that is what hangs: then nothing was done.
        expected = errors.DatabaseUnavailable if small._settings.pooler else errors.CommitOutcomeUnknown
        assert type(error) is expected
        assert seconds <= _DEADLINE + _SLACK
    fill(small, _SIZE)


@pytest.mark.parametrize("with_session", [False, True], ids=["", "with a session"])
@pytest.mark.parametrize("everything", [False, True], ids=["its backend freezes", "the whole server freezes"])
def test_a_commit_ends_within_its_deadline(
    server: EmbeddedPostgres, small: Catalog, *, everything: bool, with_session: bool
) -> None:
    """The server has been asked to commit, and will when it thaws; until then nobody can know."""
    identifier = uuid4()
    with ExitStack() as freezer:

        def commit() -> None:
            with small.unit_of_work() as work:
                work.save(TrackMetadata(title="Committed?"), audio_path="a", id=identifier)
                if with_session:
                    work.session.execute(text("SELECT 1"))
                freezer.enter_context(frozen(*(family(server.pid) if everything else family(server.pid)[1:])))

        error, seconds = outcome_of(commit)
        assert type(error) is errors.CommitOutcomeUnknown
        assert seconds <= _DEADLINE + _SLACK
    fill(small, _SIZE)
    wait_until(lambda: small.find(identifier) is not None)


def test_a_rollback_ends_within_its_deadline_and_lets_the_first_error_pass(
    server: EmbeddedPostgres, small: Catalog, track: Track
) -> None:
    with ExitStack() as freezer:

        def fail() -> None:
            with small.unit_of_work() as work:
                work.update_status(track.id, TrackStatus.PROCESSING)
                freezer.enter_context(frozen(*family(server.pid)))
                raise ArithmeticError

        error, seconds = outcome_of(fail)
        assert isinstance(error, ArithmeticError)
        assert seconds <= _DEADLINE + _SLACK
    fill(small, _SIZE)
    assert small.get(track.id).version == 1


def test_a_checkout_that_asks_a_suspect_connection_ends_within_its_deadline(small: Catalog, track: Track) -> None:
    """A connection on which something waits to be read is asked whether it lives, before it is given away."""
    pids = fill(small, _SIZE)
    leave_news(small)
    with frozen(*pids):
        error, seconds = outcome_of(lambda: small.get(track.id))
        # The postmaster still opens connections, so the call may also have had one that lives.
        assert error is None or isinstance(error, errors.DatabaseUnavailable | errors.PoolTimeout)
        assert seconds <= _POOL_TIMEOUT + _CONNECT_TIMEOUT + _SLACK
    fill(small, _SIZE)
    assert small.get(track.id).version == 1


def leave_news(catalog: Catalog) -> None:
    """Leave a notification on every idle connection."""
    with ExitStack() as stack:
        for _ in range(_SIZE):
            stack.enter_context(catalog.unit_of_work()).session.execute(text("LISTEN news"))
    with catalog.unit_of_work() as work:
        work.session.execute(text("NOTIFY news"))


def test_the_first_use_of_a_frozen_server_ends_when_connecting_may_take_no_longer(server: EmbeddedPostgres) -> None:
    with impatient(server) as catalog:
        with frozen(server.pid):
            error, seconds = outcome_of(lambda: catalog.find(uuid4()))
            assert isinstance(error, errors.DatabaseUnavailable)
            assert seconds <= _CONNECT_TIMEOUT + _SLACK
        # What was wrong a moment ago is taken to be so for a second.
        wait_until(lambda: outcome_of(lambda: catalog.find(uuid4())).error is None, within=5)
        fill(catalog, _SIZE)


def test_a_new_connection_of_the_pool_to_a_frozen_server_ends_in_time(small: Catalog, server: EmbeddedPostgres) -> None:
    send(signal.SIGTERM, fill(small, _SIZE))
    with frozen(server.pid):
        error, seconds = outcome_of(lambda: small.find(uuid4()))
        assert isinstance(error, errors.DatabaseUnavailable), repr(error)
        assert seconds <= _POOL_TIMEOUT + _CONNECT_TIMEOUT + _SLACK
    wait_until(lambda: outcome_of(lambda: small.find(uuid4())).error is None, within=5)
    fill(small, _SIZE)


@pytest.mark.parametrize("threads", [8])
def test_many_callers_of_a_frozen_server_end_together(small: Catalog, server: EmbeddedPostgres, threads: int) -> None:
    """Two of them wait for answers, the others for a connection; nobody waits for all who came before."""
    with frozen(*family(server.pid)):
        outcomes: list[tuple[BaseException | None, float]] = []
        callers = [
            threading.Thread(target=lambda: outcomes.append(outcome_of(lambda: small.find(uuid4()))))
            for _ in range(threads)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert all(isinstance(error, errors.DatabaseUnavailable | errors.PoolTimeout) for error, _ in outcomes)
        longest = max(seconds for _, seconds in outcomes)
        assert longest <= _POOL_TIMEOUT + max(_DEADLINE, _CONNECT_TIMEOUT) + 2 * _SLACK
    fill(small, _SIZE)


def test_a_catalogue_closes_although_its_server_is_frozen(server: EmbeddedPostgres) -> None:
    catalog = impatient(server)
    fill(catalog, _SIZE)
    with frozen(*family(server.pid)):
        error, seconds = outcome_of(catalog.close)
        assert error is None
        assert seconds <= _CONNECT_TIMEOUT + _SLACK


def test_what_is_run_again_outlasts_a_server_that_thaws(small: Catalog, track: Track, server: EmbeddedPostgres) -> None:
    pids = family(server.pid)
    thaw = threading.Timer(2, lambda: send(signal.SIGCONT, pids))
    with frozen(*pids):
        thaw.start()
        error, seconds = outcome_of(lambda: small.run(lambda work: work.get(track.id), deadline=20))
        thaw.join()
    assert error is None
    assert seconds < 10
    fill(small, _SIZE)


#: What is sent at each step between the first byte of a connection and the first of a call's own statements.
STEPS = {
    "the check of the schema": (b"to_regclass", False),
    "the settings of a session": (b"extra_float_digits", False),
    "what SQLAlchemy asks first": (b"pg_catalog.version()", True),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_server_that_falls_silent_while_a_connection_is_made_ready_ends_the_call_in_time(
    server: EmbeddedPostgres, step: str
) -> None:
    word, with_session = STEPS[step]
    with silenced_by(word, server.url()) as proxy, impatient(server, proxy.url) as catalog:

        def call() -> None:
            with catalog.unit_of_work() as work:
                if with_session:
                    work.session.execute(text("SELECT 1"))

        error, seconds = outcome_of(call)
        assert proxy.silent.is_set()
        assert isinstance(error, errors.DatabaseUnavailable | errors.PoolTimeout), repr(error)
        assert seconds <= _POOL_TIMEOUT + _CONNECT_TIMEOUT + _DEADLINE + _SLACK
        speak(proxy)
        wait_until(lambda: outcome_of(call).error is None, within=5)


def speak(proxy: SilentProxy) -> None:
    """Let what comes from now on pass."""
    proxy.word = b"\x00 nobody sends this \x00"


@pytest.mark.parametrize("everything", [False, True], ids=["the backends freeze", "the whole server freezes"])
def test_ctrl_c_ends_a_wait_for_a_frozen_server_promptly(
    server: EmbeddedPostgres, track: Track, small: Catalog, *, everything: bool
) -> None:
    with Catalog(server.url(), pool_size=_SIZE, statement_timeout=60, network_timeout=60) as patient:
        pids = fill(patient, _SIZE)
        # The signal goes to the main thread, where this runs: a call in another thread would not hear it.
        interruption = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
        with frozen(*(family(server.pid) if everything else pids)):
            begun = time.monotonic()
            interruption.start()
            with pytest.raises(KeyboardInterrupt):
                patient.get(track.id)
            assert time.monotonic() - begun < 0.5 + 1
        fill(patient, _SIZE)
        assert patient.get(track.id).version == 1
