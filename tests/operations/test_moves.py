"""Tracks move by the table, each move with its row of history; the table is the same in Python, SQL and the README."""

from __future__ import annotations

import re
import threading
from uuid import UUID, uuid4

import pytest

from audiocatalog import TRANSITIONS, Catalog, TrackMetadata, TrackStatus, UnitOfWork, errors
from audiocatalog.operations.moves import Move, outcome_of
from audiocatalog.status import diagram, sources
from tests.support.repository import ROOT
from tests.support.threads import race
from tests.support.waiting import wait_until_blocked

pytestmark = pytest.mark.both_sides

PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus

#: How to bring a new track into each status.
WAYS = {
    PENDING: (PENDING,),
    PROCESSING: (PENDING, PROCESSING),
    COMPLETED: (COMPLETED,),
    FAILED: (PENDING, FAILED),
}


def bring_to(work: UnitOfWork, status: TrackStatus) -> UUID:
    first, *rest = WAYS[status]
    track = work.save(TrackMetadata(), audio_path="a", status=first)
    for step in rest:
        work.update_status(track.id, step)
    return track.id


@pytest.mark.parametrize("expecting", [False, True], ids=["from anywhere", "from the expected"])
@pytest.mark.parametrize("to", TrackStatus)
@pytest.mark.parametrize("start", TrackStatus)
def test_every_pair_moves_as_the_table_says(
    work: UnitOfWork, start: TrackStatus, to: TrackStatus, *, expecting: bool
) -> None:
    identifier = bring_to(work, start)
    before = work.get(identifier)
    expected = start if expecting else None
    if to in TRANSITIONS[start]:
        change = work.update_status(identifier, to, expected=expected)
        after = work.get(identifier)
        assert (change.from_status, change.to_status, change.version) == (start, to, before.version + 1)
        assert (after.status, after.version) == (to, change.version)
        assert work.history(identifier)[-1].at == change.at
    else:
        with pytest.raises(errors.IllegalTransition) as caught:
            work.update_status(identifier, to, expected=expected)
        assert (caught.value.from_status, caught.value.to_status) == (start, to)
        assert work.get(identifier).version == before.version


def test_sources_turn_the_table_round() -> None:
    for to in TrackStatus:
        assert sources(to) == {start for start in TrackStatus if to in TRANSITIONS[start]}


@pytest.mark.parametrize("document", ["README.md", "docs/lifecycle.md"])
def test_the_documents_draw_the_table(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    # `make diagram` draws it anew.
    assert re.findall(r"^```mermaid\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL) == [diagram()]


def test_a_change_says_who_why_and_when(work: UnitOfWork) -> None:
    identifier = bring_to(work, PENDING)
    change = work.update_status(identifier, PROCESSING, actor="worker 7", reason="taken from the queue")
    assert (change.track_id, change.actor, change.reason) == (identifier, "worker 7", "taken from the queue")
    assert change.operation_id is None
    assert change.at.utcoffset() is not None
    assert work.update_status(identifier, COMPLETED).actor == "tester"


def test_the_history_is_in_the_order_of_the_moves(work: UnitOfWork) -> None:
    identifier = bring_to(work, PENDING)
    moves = [PROCESSING, FAILED, PENDING, PROCESSING, COMPLETED]
    for to in moves:
        work.update_status(identifier, to)
    history = work.history(identifier)
    assert [change.to_status for change in history] == [PENDING, *moves]
    assert [change.from_status for change in history] == [None, PENDING, *moves[:-1]]
    assert [change.version for change in history] == [1, 2, 3, 4, 5, 6]
    assert [change.at for change in history] == sorted(change.at for change in history)


def test_a_track_that_is_elsewhere_is_a_conflict(work: UnitOfWork) -> None:
    identifier = bring_to(work, COMPLETED)
    with pytest.raises(errors.TransitionConflict) as caught:
        work.update_status(identifier, PROCESSING, expected=PENDING)
    assert (caught.value.expected, caught.value.actual) == (PENDING, COMPLETED)


@pytest.mark.parametrize("expected", [None, PENDING])
def test_an_unknown_track_is_not_found(work: UnitOfWork, expected: TrackStatus | None) -> None:
    with pytest.raises(errors.TrackNotFound):
        work.update_status(uuid4(), PROCESSING, expected=expected)


def test_an_unknown_track_has_no_history(work: UnitOfWork) -> None:
    unknown = uuid4()
    with pytest.raises(errors.TrackNotFound) as caught:
        work.history(unknown)
    assert (caught.value.track_id, caught.value.operation) == (unknown, "history")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"to": "DONE"}, "to"),
        ({"to": None}, "to"),
        ({"to": PROCESSING, "expected": "DONE"}, "expected"),
        ({"to": PROCESSING, "operation_id": "no uuid"}, "operation_id"),
    ],
)
def test_wrong_arguments_are_named(work: UnitOfWork, arguments: dict[str, object], field: str) -> None:
    identifier = bring_to(work, PENDING)
    with pytest.raises(errors.InvalidInput) as caught:
        work.update_status(identifier, **arguments)  # type: ignore[arg-type]
    assert caught.value.field == field


def test_a_status_may_be_named_by_its_text(work: UnitOfWork) -> None:
    identifier = bring_to(work, PENDING)
    assert work.update_status(identifier, "PROCESSING").to_status is PROCESSING


def test_a_repeated_operation_gets_its_first_answer(work: UnitOfWork) -> None:
    identifier, operation = bring_to(work, PENDING), uuid4()
    first = work.update_status(identifier, PROCESSING, operation_id=operation)
    work.update_status(identifier, COMPLETED)
    again = work.update_status(identifier, PROCESSING, operation_id=str(operation))
    assert (again.version, again.at, again.operation_id) == (first.version, first.at, operation)
    assert work.get(identifier).status is COMPLETED
    assert len(work.history(identifier)) == 3


def test_an_operation_id_stands_for_one_move(work: UnitOfWork) -> None:
    identifier, operation = bring_to(work, PENDING), uuid4()
    work.update_status(identifier, PROCESSING, operation_id=operation)
    with pytest.raises(errors.InvalidInput) as caught:
        work.update_status(identifier, COMPLETED, operation_id=operation)
    assert caught.value.field == "operation_id"
    assert work.get(identifier).status is PROCESSING


def test_one_operation_id_may_serve_two_tracks(work: UnitOfWork) -> None:
    operation = uuid4()
    tracks = [bring_to(work, PENDING) for _ in range(2)]
    changes = [work.update_status(track, PROCESSING, operation_id=operation) for track in tracks]
    assert [change.track_id for change in changes] == tracks


def test_of_sixteen_threads_exactly_one_moves_a_track(catalog: Catalog) -> None:
    for _ in range(20):
        with catalog.unit_of_work() as work:
            identifier = bring_to(work, PENDING)
        outcomes = race(16, lambda: catalog.update_status(identifier, PROCESSING, expected=PENDING))  # noqa: B023
        losers = [outcome for outcome in outcomes if isinstance(outcome, errors.CatalogError)]
        assert len(losers) == 15
        assert {type(loser) for loser in losers} == {errors.TransitionConflict}
        with catalog.unit_of_work() as work:
            assert [change.to_status for change in work.history(identifier)] == [PENDING, PROCESSING]


def test_a_race_without_expectation_has_one_winner_too(catalog: Catalog) -> None:
    for _ in range(10):
        with catalog.unit_of_work() as work:
            identifier = bring_to(work, PENDING)
        outcomes = race(8, lambda: catalog.update_status(identifier, PROCESSING))  # noqa: B023
        losers = [outcome for outcome in outcomes if isinstance(outcome, errors.CatalogError)]
        assert len(losers) == 7
        # Who saw the track waiting lost the race; who came after it asks for a move that is not in the table.
        assert {type(loser) for loser in losers} <= {errors.TransitionConflict, errors.IllegalTransition}


def test_one_operation_sent_by_eight_threads_is_done_once(catalog: Catalog) -> None:
    for _ in range(10):
        with catalog.unit_of_work() as work:
            identifier = bring_to(work, PENDING)
        operation = uuid4()
        outcomes = race(
            8,
            lambda: catalog.update_status(identifier, PROCESSING, operation_id=operation).version,  # noqa: B023
        )
        assert outcomes == [2] * 8


def test_a_move_that_waits_for_a_lock_sees_what_the_winner_left(catalog: Catalog, database_url: str) -> None:
    """The loser's snapshot shows PENDING; only the row under the lock tells the truth."""
    with catalog.unit_of_work() as work:
        identifier = bring_to(work, PENDING)
    outcome: list[object] = []

    def move_second() -> None:
        try:
            outcome.append(catalog.update_status(identifier, FAILED))
        except errors.CatalogError as error:
            outcome.append(error)

    with catalog.unit_of_work() as first:
        first.update_status(identifier, PROCESSING)
        first.update_status(identifier, COMPLETED)
        second = threading.Thread(target=move_second)
        second.start()
        wait_until_blocked(database_url, "audio_tracks")
    second.join()
    (error,) = outcome
    assert isinstance(error, errors.TransitionConflict)
    assert (error.expected, error.actual) == (PENDING, COMPLETED)


def test_a_move_that_was_never_legal_lost_no_race() -> None:
    """Whatever another session did meanwhile: the move would have been refused before it, too."""
    identifier = uuid4()
    illegal = outcome_of((identifier, "PENDING", "FAILED", None), Move(COMPLETED, "me", None))
    assert isinstance(illegal, errors.IllegalTransition)
    late = outcome_of((identifier, "PROCESSING", "FAILED", None), Move(COMPLETED, "me", None))
    assert isinstance(late, errors.TransitionConflict)


def test_two_saves_of_a_new_id_at_once_insert_it_once(catalog: Catalog) -> None:
    identifier = uuid4()

    def save() -> object:
        with catalog.unit_of_work() as work:
            return work.save(TrackMetadata(title="Twice"), id=identifier, audio_path="a").outcome

    assert sorted(str(outcome) for outcome in race(8, save)) == ["inserted"] + ["unchanged"] * 7
