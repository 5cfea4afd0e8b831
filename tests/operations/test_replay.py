"""Whatever is done with tracks, in whatever order: their histories, replayed, give what is stored of them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test
from psycopg.rows import dict_row

from audiocatalog import TRANSITIONS, Catalog, Claim, StatusChange, TrackMetadata, TrackStatus, errors
from tests.support.databases import TABLES, libpq
from tests.support.lifecycle import DISAGREEMENTS, Owner

PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus

#: How many histories are made up; 10,000 of them take some minutes.
EXAMPLES = int(os.environ.get("AUDIOCATALOG_REPLAY_EXAMPLES", "25"))
MOST_ATTEMPTS = 3

#: All that is stored, a row for each track.
STORED = """
SELECT t.id, t.status, t.version, t.title, k.attempts, k.token, k.worker, k.last_error, k.expires_at, h.history
FROM audio_tracks AS t LEFT JOIN audio_track_tasks AS k ON k.track_id = t.id
CROSS JOIN LATERAL (
  SELECT array_agg(ROW (c.version, c.from_status, c.to_status, c.attempt, c.reason, extract(epoch FROM c.at)::float8)
    ORDER BY c.version) AS history
  FROM audio_track_status_changes AS c WHERE c.track_id = t.id
) AS h
"""


@dataclasses.dataclass
class Model:
    """What a track should be by now."""

    status: TrackStatus
    title: str = "0"
    version: int = 1
    attempts: int = 0
    #: May it be claimed at once, if it waits?
    ready: bool = True
    token: int | None = None
    worker: str | None = None
    expired: bool = False
    last_error: str | None = None
    #: The moves, each with what it belongs to: from, to, attempt, reason, version.
    history: list[tuple[object, ...]] = dataclasses.field(default_factory=list)
    #: How each claim ended that did: what was done, and the answer.
    ends: dict[int, tuple[str, int]] = dataclasses.field(default_factory=dict)

    def move(self, to: TrackStatus, *, attempt: int | None = None, reason: str | None = None) -> None:
        self.version += 1
        self.history.append((self.version, self.status, to, attempt, reason))
        self.status, self.token, self.worker, self.expired = to, None, None, False

    def move_by_hand(self, to: TrackStatus, reason: str | None) -> None:
        self.move(to, reason=reason)
        self.attempts, self.ready, self.last_error = 0, True, reason if to is FAILED else None

    def fail(self, reason: str | None, *, retry: bool = True) -> None:
        self.move(PENDING if retry and self.attempts < MOST_ATTEMPTS else FAILED, attempt=self.attempts, reason=reason)
        self.ready, self.last_error = False, reason

    def holds(self, claim: Claim) -> bool:
        return self.token == claim.token and not self.expired


class Lifecycle(RuleBasedStateMachine):
    """Do things with a few tracks, and with a model of each."""

    catalog: Catalog
    owner: Owner

    tracks: Bundle[UUID] = Bundle("tracks")
    claims: Bundle[Claim] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[UUID, Model] = {}

    def teardown(self) -> None:
        for table in TABLES[:4]:
            self.owner.execute(f"DELETE FROM {table}")

    # What is done to tracks.

    @rule(target=tracks, status=st.sampled_from([PENDING, PENDING, COMPLETED]))
    def save(self, status: TrackStatus) -> UUID:
        with self.catalog.unit_of_work() as work:
            track = work.save(TrackMetadata(title="0"), audio_path="a", id=uuid4(), status=status)
        self.models[track.id] = Model(status, history=[(1, None, status, None, None)])
        return track.id

    @rule(track=tracks, title=st.integers(0, 3).map(str))
    def replace(self, track: UUID, title: str) -> None:
        with self.catalog.unit_of_work() as work:
            saved = work.save(TrackMetadata(title=title), audio_path="a", id=track, replace=True)
        model = self.models[track]
        model.version += title != model.title
        model.title = title
        assert saved.version == model.version

    @rule(
        track=tracks,
        to=st.sampled_from(TrackStatus),
        expected=st.none() | st.sampled_from(TrackStatus),
        reason=st.none() | st.just("by hand"),
    )
    def move(self, track: UUID, to: TrackStatus, expected: TrackStatus | None, reason: str | None) -> None:
        model = self.models[track]
        start = model.status if expected is None else expected
        if to not in TRANSITIONS[start]:
            with pytest.raises(errors.IllegalTransition):
                self.catalog.update_status(track, to, expected=expected, reason=reason)
        elif start is not model.status:
            with pytest.raises(errors.TransitionConflict):
                self.catalog.update_status(track, to, expected=expected, reason=reason)
        else:
            change = self.catalog.update_status(track, to, expected=expected, reason=reason)
            model.move_by_hand(to, reason)
            assert change.version == model.version

    @rule(to=st.sampled_from(TrackStatus))
    def move_all(self, to: TrackStatus) -> None:
        outcomes = self.catalog.update_statuses(list(self.models), to, reason="all of them")
        for track, model in self.models.items():
            outcome = outcomes[track]
            if to in TRANSITIONS[model.status]:
                model.move_by_hand(to, "all of them")
                assert isinstance(outcome, StatusChange)
                assert outcome.version == model.version
            else:
                assert isinstance(outcome, errors.IllegalTransition)

    # What workers do.

    @rule(
        target=claims,
        limit=st.integers(1, 3),
        worker=st.sampled_from(["one", "two"]),
        order=st.sampled_from(["oldest", "newest"]),
    )
    def claim(self, limit: int, worker: str, order: Any) -> Any:
        due = {track for track, model in self.models.items() if model.status is PENDING and model.ready}
        claims = self.catalog.claim(limit, worker=worker, order_by=order)
        assert len(claims) == min(limit, len(due))
        for claim in claims:
            assert claim.track.id in due
            model = self.models[claim.track.id]
            model.attempts += 1
            assert (claim.attempt, claim.last_error) == (model.attempts, model.last_error)
            model.move(PROCESSING, attempt=model.attempts)
            model.token, model.worker = claim.token, worker
            assert (claim.token >> 32, claim.track.version, claim.track.title) == (
                model.version,
                model.version,
                model.title,
            )
        return multiple(*claims)

    @rule(claim=claims)
    def renew(self, claim: Claim) -> None:
        if self.models[claim.track.id].holds(claim):
            assert self.catalog.renew(claim, lease=timedelta(hours=2)).token == claim.token
        else:
            with pytest.raises(errors.ClaimLost):
                self.catalog.renew(claim)

    @rule(claim=claims, title=st.none() | st.integers(4, 6).map(str))
    def complete(self, claim: Claim, title: str | None) -> None:
        def complete(model: Model) -> None:
            model.move(COMPLETED, attempt=model.attempts)
            model.title = model.title if title is None else title

        metadata = None if title is None else TrackMetadata(title=title)
        self._end(claim, "complete", lambda: self.catalog.complete(claim, metadata), complete)

    @rule(claim=claims, retry=st.booleans(), error=st.none() | st.sampled_from(["slip", "crash"]))
    def fail(self, claim: Claim, error: str | None, *, retry: bool) -> None:
        self._end(
            claim,
            "fail",
            lambda: self.catalog.fail(claim, error, retry=retry),
            lambda model: model.fail(error, retry=retry),
        )

    @rule(claim=claims)
    def release(self, claim: Claim) -> None:
        def release(model: Model) -> None:
            model.move(PENDING)
            model.attempts, model.ready = model.attempts - 1, True

        self._end(claim, "release", lambda: self.catalog.release(claim), release)

    def _end(self, claim: Claim, how: str, end: Callable[[], StatusChange], then: Callable[[Model], None]) -> None:
        model = self.models[claim.track.id]
        if model.holds(claim):
            then(model)
            model.ends[claim.token] = how, model.version
            assert end().version == model.version
        elif claim.token in model.ends and model.ends[claim.token][0] == how:
            assert end().version == model.ends[claim.token][1]
        else:
            with pytest.raises(errors.ClaimLost):
                end()

    # What time does.

    @rule(claim=claims)
    def expire(self, claim: Claim) -> None:
        done = self.owner.execute(
            "UPDATE audio_track_tasks SET expires_at = clock_timestamp() - interval '1 s' "
            "WHERE track_id = %s AND token = %s",
            [claim.track.id, claim.token],
        )
        model = self.models[claim.track.id]
        assert done.rowcount == (model.token == claim.token)
        model.expired = model.expired or model.token == claim.token

    @rule()
    def end_pauses(self) -> None:
        self.owner.execute("UPDATE audio_track_tasks SET ready_at = clock_timestamp() WHERE ready_at IS NOT NULL")
        for model in self.models.values():
            model.ready = True

    @rule(limit=st.integers(1, 3))
    def release_expired(self, limit: int) -> None:
        due = {track for track, model in self.models.items() if model.expired}
        changes = self.catalog.release_expired(limit)
        assert len(changes) == min(limit, len(due))
        for change in changes:
            assert change.track_id in due
            model = self.models[change.track_id]
            model.fail(f"the lease of {model.worker} ran out")
            assert (change.version, change.to_status) == (model.version, model.status)

    @rule(track=tracks, limit=st.integers(1, 3))
    def think_better_of_it(self, track: UUID, limit: int) -> None:
        """Do much of the above in a unit of work that is rolled back."""
        with pytest.raises(ZeroDivisionError), self.catalog.unit_of_work() as work:
            work.save(TrackMetadata(), audio_path="a", status=PENDING)
            for claim in work.claim(limit):
                work.fail(claim, "never was")
            work.release_expired()
            work.save(TrackMetadata(title="never was"), audio_path="a", id=track, replace=True)
            work.update_statuses([track], FAILED)
            raise ZeroDivisionError

    # What holds at any time.

    @invariant()
    def what_is_stored_is_what_the_history_tells(self) -> None:
        assert self.owner.execute(DISAGREEMENTS).fetchall() == []
        rows = self.owner.execute(STORED).fetchall()
        assert {row["id"] for row in rows} == set(self.models)
        for row in rows:
            model = self.models[row["id"]]
            assert (row["status"], row["version"], row["title"]) == (model.status, model.version, model.title)
            history = [(int(version), *rest, float(at)) for version, *rest, at in map(_values, row["history"])]
            assert [moved[:-1] for moved in history] == model.history
            assert_replays(history, row["status"], row["version"])
            if model.status is COMPLETED:
                assert row["attempts"] is None
            else:
                assert (row["attempts"], row["token"], row["worker"], row["last_error"]) == (
                    model.attempts,
                    model.token,
                    model.worker,
                    model.last_error,
                )


def _values(row: tuple[Any, ...]) -> tuple[Any, ...]:
    version, start, to, attempt, reason, at = row
    return version, start, to, None if attempt is None else int(attempt), reason, at


def assert_replays(history: list[tuple[Any, ...]], status: str, version: int) -> None:
    """Replay *history*: each move begins where the one before ended, later and at a greater version."""
    reached: tuple[str | None, int, float] = (None, 0, 0.0)
    for number, start, to, _, _, at in history:
        assert (start, number > reached[1], at >= reached[2]) == (reached[0], True, True)
        assert to in TRANSITIONS[None if start is None else TrackStatus(start)]
        reached = to, number, at
    assert reached[0] == status
    assert reached[1] <= version


@pytest.fixture
def lifecycle(database_url: str) -> Iterator[type[Lifecycle]]:
    """Give the machine a catalogue where nothing waits for so short a time that a test would notice its end."""
    with (
        Catalog(database_url, max_attempts=MOST_ATTEMPTS, retry_delay=3600) as catalog,
        psycopg.connect(libpq(database_url), autocommit=True, row_factory=dict_row) as owner,
    ):
        Lifecycle.catalog, Lifecycle.owner = catalog, owner
        yield Lifecycle


def test_every_history_replays_to_what_is_stored(lifecycle: type[Lifecycle]) -> None:
    run_state_machine_as_test(
        lifecycle,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
