"""A COMMIT that never arrives, or whose answer never does: what is reported is what is stored, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import select, text

from audiocatalog import Catalog, Track, TrackMetadata, TrackRecord, TrackStatus, UnitOfWork, errors
from audiocatalog.operations.bulk_result import BulkOutcome
from tests.support.databases import libpq
from tests.support.proxy import Loss, Proxy, proxied

PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus
METADATA = TrackMetadata(title="Idioteque", artist="Radiohead")
LOSSES: tuple[Loss, ...] = ("its answer", "COMMIT")


class Distant(NamedTuple):
    """A catalogue behind a proxy, and its neighbour at the server."""

    catalog: Catalog
    near: Catalog
    proxy: Proxy


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.faults)], ids=["straight", "pooler"])
def distant(database_url: str, catalog: Catalog, request: pytest.FixtureRequest) -> Iterator[Distant]:
    with proxied(database_url) as proxy, Catalog(proxy.url, pool_size=2, pool_timeout=1.0, pooler=request.param) as far:
        far.health()
        yield Distant(far, catalog, proxy)


@pytest.fixture
def favourites(database_url: str) -> Iterator[None]:
    """Make a table of the host's own, in which nothing of ours takes part."""
    with psycopg.connect(libpq(database_url), autocommit=True) as admin:
        admin.execute("CREATE TABLE favourites (name uuid NOT NULL)")
        admin.execute("GRANT ALL ON favourites TO PUBLIC")
        yield
        admin.execute("DROP TABLE favourites")


class Told(NamedTuple):
    """What the caller was told: how many tracks and history rows, or rows of the host's, there are more now."""

    tracks: int
    changes: int
    favourites: int = 0


def saved(catalog: Catalog, status: TrackStatus = COMPLETED) -> Track:
    return catalog.run(lambda work: work.save(METADATA, audio_path="a", status=status))


def save_with_an_id(distant: Distant, lose: Callable[[], None]) -> Told:
    identifier = uuid4()
    lose()
    track = distant.catalog.run(lambda work: work.save(METADATA, audio_path="a", id=identifier))
    assert track.id == identifier
    return Told(1, 1)


def save_without_an_id(distant: Distant, lose: Callable[[], None]) -> Told:
    """Each try is another track, so that nothing but the truth about the last one helps."""
    lose()
    track = distant.catalog.run(lambda work: work.save(METADATA, audio_path="a"))
    assert distant.near.get(track.id).title == METADATA.title
    return Told(1, 1)


def replace(distant: Distant, lose: Callable[[], None]) -> Told:
    track = saved(distant.near)
    lose()
    other = TrackMetadata(title="Kid A")
    changed = distant.catalog.run(
        lambda work: work.save(other, audio_path="a", id=track.id, replace=True, expected_version=1)
    )
    assert (changed.version, distant.near.get(track.id).version) == (2, 2)
    return Told(1, 1)


def move_with_an_operation(distant: Distant, lose: Callable[[], None]) -> Told:
    track, operation = saved(distant.near), uuid4()
    lose()
    change = distant.catalog.run(lambda work: work.update_status(track.id, PENDING, operation_id=operation))
    assert (change.version, change.operation_id) == (2, operation)
    return Told(1, 2)


def move_without_an_operation(distant: Distant, lose: Callable[[], None]) -> Told:
    track = saved(distant.near)
    lose()
    change = distant.catalog.run(lambda work: work.update_status(track.id, PENDING, expected=COMPLETED))
    assert change.version == 2
    return Told(1, 2)


def move_many(distant: Distant, lose: Callable[[], None]) -> Told:
    ids = [saved(distant.near).id for _ in range(3)]
    lose()
    outcomes = distant.catalog.run(lambda work: work.update_statuses(ids, PENDING))
    assert [outcomes[one].version for one in ids] == [2, 2, 2]  # type: ignore[union-attr]
    return Told(3, 6)


def claim_and_complete(distant: Distant, lose: Callable[[], None]) -> Told:
    track = saved(distant.near, PENDING)
    lose()
    (claim,) = distant.catalog.run(lambda work: work.claim(1))
    lose()
    change = distant.catalog.run(lambda work: work.complete(claim, TrackMetadata(title="Done")))
    assert (claim.track.id, claim.attempt, change.version) == (track.id, 1, 3)
    return Told(1, 3)


def rows_of_the_host(distant: Distant, lose: Callable[[], None]) -> Told:
    """No statement of ours has told which transaction this is."""
    lose()
    name = uuid4()
    distant.catalog.run(
        lambda work: work.session.execute(text("INSERT INTO favourites VALUES (:name)"), {"name": name})
    )
    return Told(0, 0, favourites=1)


def both_in_one_unit(distant: Distant, lose: Callable[[], None]) -> Told:
    def unit(work: UnitOfWork) -> UUID:
        track = work.save(METADATA, audio_path="a")
        work.session.execute(text("INSERT INTO favourites VALUES (:name)"), {"name": track.id})
        work.update_status(track.id, PENDING)
        return track.id

    lose()
    assert distant.near.get(distant.catalog.run(unit)).status is PENDING
    return Told(1, 2, favourites=1)


def many_at_once(distant: Distant, lose: Callable[[], None]) -> Told:
    lose()
    result = distant.catalog.bulk_save(TrackRecord(METADATA, "a") for _ in range(5))
    assert list(result.outcomes) == [BulkOutcome.INSERTED] * 5
    return Told(5, 5)


UNITS: list[Callable[[Distant, Callable[[], None]], Told]] = [
    save_with_an_id,
    save_without_an_id,
    replace,
    move_with_an_operation,
    move_without_an_operation,
    move_many,
    claim_and_complete,
    rows_of_the_host,
    both_in_one_unit,
    many_at_once,
]
COUNT = text(
    "SELECT (SELECT count(*) FROM audio_tracks), (SELECT count(*) FROM audio_track_status_changes),"
    " (SELECT count(*) FROM favourites)"
)


# Ten units, straight and through a pooler, ten times: 200 of each loss.
@pytest.mark.parametrize("rounds", [1, pytest.param(10, marks=pytest.mark.faults)])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.usefixtures("favourites")
def test_run_finds_out_what_became_of_a_commit(
    distant: Distant, unit: Callable[[Distant, Callable[[], None]], Told], loss: Loss, rounds: int
) -> None:
    ordered: list[Loss] = []

    def lose() -> None:
        ordered.append(loss)
        distant.proxy.losses = [loss]

    told = [unit(distant, lose) for _ in range(rounds)]
    assert distant.proxy.lost == len(ordered)
    with distant.near.unit_of_work() as work:
        found = work.session.execute(COUNT).one()
    assert tuple(found) == tuple(sum(column) for column in zip(*told, strict=True))


@pytest.mark.parametrize("losses", [["its answer"], ["COMMIT"], ["COMMIT", "COMMIT", None, "its answer"]])
def test_the_unit_of_work_itself_leaves_it_to_its_caller(distant: Distant, losses: list[Loss | None]) -> None:
    """What carries an id can be asked for again until it is answered, and is done once."""
    identifier, operation = uuid4(), uuid4()
    distant.proxy.losses = list(losses)
    told: list[tuple[object, bool]] = []
    while True:
        try:
            with distant.catalog.unit_of_work() as work:
                work.save(METADATA, audio_path="a", id=identifier)
                change = work.update_status(identifier, PENDING, operation_id=operation)
            break
        except errors.CommitOutcomeUnknown as error:
            told.append((error.phase, error.retryable))
    first_answer = next((place for place, loss in enumerate(losses) if loss is None), len(losses))
    assert told == [("commit", False)] * first_answer
    assert [(one.version, one.operation_id) for one in distant.near.history(identifier)] == [(1, None), (2, operation)]
    assert change.version == 2


@pytest.mark.parametrize("answered", [True, False])
def test_a_single_call_is_asked_for_again_by_its_operation(
    database_url: str, catalog: Catalog, *, answered: bool
) -> None:
    """It is its own transaction, and has no COMMIT that could be lost."""
    with proxied(database_url) as proxy, Catalog(proxy.url, pool_size=1) as far:
        for _ in range(5):
            track, operation = saved(catalog), uuid4()
            assert far.find(track.id)
            proxy.doom(1, answered=answered)
            with pytest.raises(errors.CommitOutcomeUnknown):
                far.update_status(track.id, PENDING, operation_id=operation)
            assert catalog.get(track.id).version == (2 if answered else 1)
            assert far.update_status(track.id, PENDING, operation_id=operation).version == 2
            assert len(catalog.history(track.id)) == 2


def test_a_commit_that_nobody_can_tell_of_stays_unknown(distant: Distant) -> None:
    """The server is out of reach from the loss on, until the deadline."""
    distant.proxy.losses = ["its answer"]

    def unit(work: UnitOfWork) -> Track:
        distant.proxy.close()
        return work.save(METADATA, audio_path="a")

    with pytest.raises(errors.CommitOutcomeUnknown):
        distant.catalog.run(unit, deadline=1.0)
    with distant.near.unit_of_work() as work:
        assert len(work.session.scalars(select(Track)).all()) == 1


def test_what_a_unit_calls_beside_itself_is_not_taken_for_its_own_commit(distant: Distant) -> None:
    """A run inside a unit resolves its own loss; the loss of a single call inside it is the caller's to resolve."""
    track = saved(distant.near)

    def unit(work: UnitOfWork) -> Track:
        assert work.find(track.id)
        distant.proxy.losses = ["its answer"]
        inner = distant.catalog.run(lambda other: other.save(METADATA, audio_path="inner"))
        return work.save(METADATA, audio_path="outer", id=inner.id.__class__(int=inner.id.int ^ 1))

    outer = distant.catalog.run(unit)
    assert outer.audio_path == "outer"
    assert distant.proxy.lost == 1
    assert distant.near.count_by_status()[2].tracks == 3

    def unit_with_a_single_call(work: UnitOfWork) -> Any:
        assert work.find(track.id)
        raise errors.CommitOutcomeUnknown("of another transaction", phase="commit")

    with pytest.raises(errors.CommitOutcomeUnknown):
        distant.catalog.run(unit_with_a_single_call)
