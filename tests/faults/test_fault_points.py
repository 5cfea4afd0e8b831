"""The connection is cut at each message in turn: what was being done is stored whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text

from audiocatalog import Catalog, Track, TrackMetadata, TrackRecord, TrackStatus, UnitOfWork, errors
from tests.support.interrupts import whole
from tests.support.lifecycle import DISAGREEMENTS, Owner
from tests.support.proxy import Proxy, proxied

pytestmark = pytest.mark.both_sides

PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus
METADATA: Final = TrackMetadata(title="new", artist="whole or not at all")
#: More messages than any of these sends.
MOST_MESSAGES: Final = 60
STORED = """
SELECT t.id, t.title, t.status::text, t.version, array_agg(c.to_status::text ORDER BY c.version) AS history
FROM audio_tracks AS t LEFT JOIN audio_track_status_changes AS c ON c.track_id = t.id GROUP BY t.id ORDER BY t.id
"""


class Scene:
    """Three tracks that are there before, and what is done with them."""

    def __init__(self, near: Catalog) -> None:
        self.ids = [uuid4() for _ in range(3)]
        self.new = [uuid4() for _ in range(4)]
        self.operation = uuid4()
        for identifier in self.ids:  # One after the other, so that they are claimed in this order.
            near.run(lambda work: self._save(work, identifier))  # noqa: B023

    @staticmethod
    def _save(work: UnitOfWork, identifier: UUID) -> None:
        work.save(TrackMetadata(title="old"), audio_path="a", id=identifier, status=PENDING)


Act = Callable[[Scene, UnitOfWork], object]


def save(scene: Scene, work: UnitOfWork) -> None:
    for identifier in scene.new:
        work.save(METADATA, audio_path="a", id=identifier)
    work.save(METADATA, audio_path="a", id=scene.ids[0], replace=True)


def move(scene: Scene, work: UnitOfWork) -> None:
    for identifier in scene.ids:
        work.update_status(identifier, FAILED, operation_id=scene.operation)
    work.update_statuses(scene.ids, PENDING)
    for identifier in scene.ids:
        work.update_status(identifier, PROCESSING, expected=PENDING)


def claim_and_end(scene: Scene, work: UnitOfWork) -> None:
    claims = work.claim(3)
    if len(claims) < 3:
        raise errors.TransientConflict(
            "the server has not seen yet that the last try was cut off, and holds its tracks"
        )
    work.renew_many(claims)
    first, second, third = claims
    work.complete(first, METADATA)
    work.fail(second, "broken", retry=False)
    work.release(third)


def load(scene: Scene, work: UnitOfWork) -> None:
    work.bulk_save([TrackRecord(METADATA, "a", id=identifier) for identifier in (*scene.new, *scene.ids)], batch=3)
    work.bulk_save([TrackRecord(METADATA, "a", id=scene.ids[0])], on_conflict="replace")


def all_of_it_with_a_session(scene: Scene, work: UnitOfWork) -> None:
    work.save(METADATA, audio_path="a", id=scene.new[0])
    track = work.session.scalars(select(Track).where(Track.id == scene.new[0])).one()
    assert track.title == METADATA.title
    by_the_owner = "INSERT INTO audio_tracks (id, status, title, audio_path) VALUES (:id, 'COMPLETED', 'by hand', 'a')"
    work.session.execute(text(by_the_owner), {"id": scene.new[1]})
    work.update_status(scene.ids[0], FAILED)
    work.search("old")
    assert work.history(scene.ids[0])


SLOW: Final = pytest.mark.faults
ACTS: Final = [
    save,
    claim_and_end,
    *(pytest.param(act, marks=SLOW) for act in (move, load, all_of_it_with_a_session)),
]


@pytest.fixture(params=[False, pytest.param(True, marks=SLOW)], ids=["straight", "pooler"])
def distant(database_url: str, request: pytest.FixtureRequest) -> Iterator[tuple[Catalog, Proxy]]:
    with proxied(database_url) as proxy, Catalog(proxy.url, pool_size=1, pooler=request.param) as catalog:
        yield catalog, proxy


def stored(owner: Owner) -> list[dict[str, Any]]:
    assert owner.execute(DISAGREEMENTS).fetchall() == []
    return owner.execute(STORED).fetchall()


def clear(owner: Owner) -> None:
    for table in ("audio_track_tasks", "audio_track_edits", "audio_track_status_changes", "audio_tracks"):
        owner.execute(f"DELETE FROM {table}")


def done_by(act: Act, near: Catalog, far: Catalog, owner: Owner) -> list[tuple[Any, ...]]:
    """Return what is stored when nothing comes between; from now on, *far* sends the same messages each time."""
    scene = Scene(near)
    with far.unit_of_work() as work:
        act(scene, work)
    return named(stored(owner), scene)


def named(rows: list[dict[str, Any]], scene: Scene) -> list[tuple[Any, ...]]:
    places = {identifier: place for place, identifier in enumerate([*scene.ids, *scene.new])}
    return sorted((places[row["id"]], row["title"], row["status"], row["version"], *row["history"]) for row in rows)


def cut_points(distant: tuple[Catalog, Proxy], *, answered: bool, around: Callable[[Catalog], object]) -> Iterator[int]:
    """Give the number of each message that is going to be lost, until one comes after the end."""
    catalog, proxy = distant
    for message in range(1, MOST_MESSAGES):
        assert catalog.find(UUID(int=0)) is None  # The pool is warm.
        around(catalog)
        before = proxy.lost
        proxy.doom(message, answered=answered)
        yield message
        if proxy.lost == before:
            return
    pytest.fail("it sends more messages than MOST_MESSAGES")


@pytest.mark.parametrize("answered", [False, True], ids=["message lost", "answer lost"])
@pytest.mark.parametrize("act", ACTS)
def test_a_unit_of_work_is_stored_whole_or_not_at_all(
    catalog: Catalog, owner: Owner, distant: tuple[Catalog, Proxy], act: Act, *, answered: bool
) -> None:
    far, proxy = distant
    whole_of_it = done_by(act, catalog, far, owner)
    outcomes: list[str] = []
    scene = Scene(catalog)

    def begin_anew(_: Catalog) -> None:
        nonlocal scene
        clear(owner)
        scene = Scene(catalog)

    for _ in cut_points(distant, answered=answered, around=begin_anew):
        nothing_of_it = named(stored(owner), scene)
        try:
            with far.unit_of_work() as work:
                act(scene, work)
            outcome = "done"
        except errors.DatabaseUnavailable as error:
            outcome = type(error).__name__
        proxy.doom(0, answered=answered)
        whole(far, 1)  # Not one place of the pool is lost, and what the server was at has ended.
        found = named(stored(owner), scene)
        assert found == (whole_of_it if outcome == "done" or found != nothing_of_it else nothing_of_it)
        assert outcome != "DatabaseUnavailable" or found == nothing_of_it
        outcomes.append(outcome)
    print(f"\n{act.__name__}: cut at {len(outcomes) - 1} messages")  # noqa: T201
    assert outcomes[-1] == "done"
    assert outcomes.count("DatabaseUnavailable") >= 5


@pytest.mark.parametrize("answered", [False, True], ids=["message lost", "answer lost"])
@pytest.mark.parametrize("act", ACTS)
def test_run_does_it_once_wherever_the_connection_is_cut(
    catalog: Catalog, owner: Owner, distant: tuple[Catalog, Proxy], act: Act, *, answered: bool
) -> None:
    far, proxy = distant
    whole_of_it = done_by(act, catalog, far, owner)
    scene = Scene(catalog)

    def begin_anew(_: Catalog) -> None:
        nonlocal scene
        clear(owner)
        scene = Scene(catalog)

    points = 0
    for _ in cut_points(distant, answered=answered, around=begin_anew):
        far.run(lambda work: act(scene, work))
        proxy.doom(0, answered=answered)
        assert named(stored(owner), scene) == whole_of_it
        whole(far, 1)
        points += 1
    assert points > 6


@pytest.mark.parametrize("answered", [False, True], ids=["message lost", "answer lost"])
def test_a_load_stores_each_batch_once_wherever_the_connection_is_cut(
    catalog: Catalog, owner: Owner, distant: tuple[Catalog, Proxy], *, answered: bool
) -> None:
    far, proxy = distant
    for _ in cut_points(distant, answered=answered, around=lambda _: clear(owner)):
        records = [TrackRecord(METADATA, "a") for _ in range(7)]
        result = far.bulk_save(records, batch=3)
        proxy.doom(0, answered=answered)
        assert (result.inserted, result.unchanged) == (7, 0)
        assert [(row["version"], row["history"]) for row in stored(owner)] == [(1, ["COMPLETED"])] * 7
        whole(far, 1)
