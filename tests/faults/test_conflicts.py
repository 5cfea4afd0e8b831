"""Where the server chooses a loser among transactions, at a statement or at COMMIT, `run` has all of them win."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import pytest
from sqlalchemy import func, select, text

from audiocatalog import Catalog, Track, TrackMetadata, TrackStatus, UnitOfWork, errors
from tests.support.lifecycle import Owner
from tests.support.threads import in_threads

PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus


@pytest.fixture
def patient(database_url: str) -> Iterator[Catalog]:
    """Give a catalogue that waits for locks longer than the server needs to find a deadlock."""
    with Catalog(database_url, pool_size=4, lock_timeout=2.0) as catalog:
        yield catalog


@pytest.mark.parametrize("pairs", [2, pytest.param(20, marks=pytest.mark.faults)])
def test_two_who_lock_in_each_others_way_both_get_through(patient: Catalog, owner: Owner, pairs: int) -> None:
    """Of each pair of random orders, both hold what the other wants next; the server finds out after a second."""
    dice = random.Random(20)  # noqa: S311  # No secret.
    slowest, retried = 0.0, 0
    for _ in range(pairs):
        ids = [patient.run(lambda work: work.save(TrackMetadata(), audio_path="a")).id for _ in range(4)]
        one, other = dice.sample(ids, 4), dice.sample(ids, 4)
        other[0], other[1] = (one[1], one[0])
        other[2:] = [identifier for identifier in ids if identifier not in one[:2]]
        barrier = threading.Barrier(2, timeout=20)
        runs = [0, 0]
        took = [0.0, 0.0]

        def take_part(number: int, orders: tuple[list[UUID], list[UUID]] = (one, other)) -> None:
            def unit(work: UnitOfWork) -> None:
                runs[number] += 1  # noqa: B023
                for place, identifier in enumerate(orders[number]):
                    work.save(TrackMetadata(title=f"{number}"), audio_path="a", id=identifier, replace=True)
                    if place == 0 and runs[number] == 1:  # noqa: B023
                        barrier.wait()  # noqa: B023

            begun = time.monotonic()
            patient.run(unit)
            took[number] = time.monotonic() - begun  # noqa: B023

        in_threads(2, take_part)
        retried += sum(runs) - 2
        slowest = max(slowest, *took)
        titles = {row["title"] for row in owner.execute("SELECT title FROM audio_tracks WHERE id = ANY (%s)", [ids])}
        assert len(titles) == 1  # The whole of the one that came last.
    print(f"\n{pairs} deadlocks: {retried} tries more, the slowest took {slowest:.2f} s")  # noqa: T201
    assert retried >= pairs
    assert slowest < 3 + 2  # A second for the server to find out, one for the pause, and what a busy machine adds.


def serializable_by_the_statement(work: UnitOfWork) -> None:
    work.session.execute(text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))


def serializable_by_the_session(work: UnitOfWork) -> None:
    work.session.rollback()
    work.session.connection(execution_options={"isolation_level": "SERIALIZABLE"})


@pytest.mark.parametrize("pooler", [False, True], ids=["straight", "pooler"])
@pytest.mark.parametrize("begin", [serializable_by_the_statement, serializable_by_the_session])
def test_who_fails_to_serialize_at_commit_is_run_again(
    database_url: str, owner: Owner, begin: Callable[[UnitOfWork], None], *, pooler: bool
) -> None:
    """Each looks for a track, and saves one if there is none: of two at once, one must see the other."""
    with Catalog(database_url, pool_size=4, pooler=pooler) as catalog:
        for _ in range(3):
            duty = f"duty {uuid4()}"
            barrier = threading.Barrier(2, timeout=20)
            runs = [0, 0]

            def take_part(number: int, duty: str = duty) -> None:
                def unit(work: UnitOfWork) -> None:
                    runs[number] += 1  # noqa: B023
                    begin(work)
                    on_duty = work.session.scalar(select(func.count()).where(Track.title == duty))
                    if not on_duty:
                        work.save(TrackMetadata(title=duty), audio_path="a")
                    if runs[number] == 1:  # noqa: B023
                        barrier.wait()  # noqa: B023

                catalog.run(unit)

            in_threads(2, take_part)
            assert sum(runs) == 3
            found = owner.execute("SELECT count(*) AS n FROM audio_tracks WHERE title = %s", [duty]).fetchone()
            assert found == {"n": 1}


def test_what_others_hold_too_long_is_tried_again_until_they_let_go(database_url: str, catalog: Catalog) -> None:
    track = catalog.run(lambda work: work.save(TrackMetadata(), audio_path="a"))
    released = threading.Event()
    tries: list[int] = []

    def unit(work: UnitOfWork) -> None:
        tries.append(1)
        if len(tries) == 3:
            released.set()
        work.update_status(track.id, PENDING)

    def hold(holding: threading.Event) -> None:
        with catalog.unit_of_work() as work:
            work.save(TrackMetadata(title="held"), audio_path="a", id=track.id, replace=True)
            holding.set()
            assert released.wait(20)

    holding = threading.Event()
    holder = threading.Thread(target=hold, args=[holding])
    holder.start()
    assert holding.wait(20)
    with Catalog(database_url, lock_timeout=0.05) as hasty:
        hasty.run(unit)
    holder.join()
    assert len(tries) >= 3
    assert catalog.get(track.id).status is PENDING


def test_within_an_open_unit_nothing_is_tried_again(database_url: str, catalog: Catalog) -> None:
    """The whole unit has to be run again, for the server has undone all of it; that is up to the caller."""
    track = catalog.run(lambda work: work.save(TrackMetadata(), audio_path="a"))
    with catalog.unit_of_work() as other, Catalog(database_url, lock_timeout=0.05) as hasty:
        other.save(TrackMetadata(title="held"), audio_path="a", id=track.id, replace=True)
        with pytest.raises(errors.TransientConflict) as caught, hasty.unit_of_work() as work:
            work.update_status(track.id, PENDING)
        assert caught.value.retryable
