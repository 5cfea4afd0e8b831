"""Many tracks are read as one is, in one round trip, in the order that they were asked for."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import inspect

from audiocatalog import Catalog, TrackMetadata, TrackStatus, UnitOfWork, errors
from audiocatalog.db import execute
from audiocatalog.models.rows import TRACK_COLUMNS
from audiocatalog.operations.operation import Request, Rows

pytestmark = pytest.mark.both_sides


@pytest.fixture
def ids(catalog: Catalog) -> list[UUID]:
    with catalog.unit_of_work() as work:
        return [work.save(TrackMetadata(title=f"{n}"), id=uuid4(), audio_path="a").id for n in range(5)]


def test_tracks_come_in_the_order_asked_for_each_once(catalog: Catalog, ids: list[UUID]) -> None:
    asked: list[UUID | str] = [ids[3], uuid4(), ids[0], ids[3], str(ids[4]), ids[0], ids[4]]
    found = catalog.get_many(asked)
    assert list(found) == [ids[3], ids[0], ids[4]]
    for track_id, track in found.items():
        one = catalog.get(track_id)
        assert track.id == track_id
        assert track.status is TrackStatus.COMPLETED
        assert [getattr(track, name) for name in TRACK_COLUMNS] == [getattr(one, name) for name in TRACK_COLUMNS]


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset, iter, dict.fromkeys])
def test_any_collection_of_ids_will_do(catalog: Catalog, ids: list[UUID], kind: Callable[[list[UUID]], Any]) -> None:
    assert set(catalog.get_many(kind(ids))) == set(ids)


@pytest.mark.sync_only
def test_it_takes_one_statement_and_none_for_nothing(
    catalog: Catalog, ids: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    send = execute.send

    def note(driver: Any, request: Request, *rest: Any) -> Rows:
        sent.append(request[0].sql)
        return send(driver, request, *rest)

    monkeypatch.setattr(execute, "send", note)
    assert len(catalog.get_many(ids)) == 5
    assert len(sent) == 1
    assert catalog.get_many([]) == {}
    assert len(sent) == 1


def test_a_unit_of_work_finds_what_it_has_written(work: UnitOfWork) -> None:
    track = work.save(TrackMetadata(), audio_path="a")
    work.update_status(track.id, TrackStatus.PENDING)
    assert work.get_many([track.id])[track.id].status is TrackStatus.PENDING


@pytest.mark.parametrize("verb", ["get_many", "update_statuses"])
def test_ids_are_checked(catalog: Catalog, verb: str) -> None:
    call = getattr(catalog, verb)
    more = (TrackStatus.PENDING,) if verb == "update_statuses" else ()
    for wrong in (str(uuid4()), None, 5, [uuid4() for _ in range(10_001)]):
        with pytest.raises(errors.InvalidInput) as caught:
            call(wrong, *more)
        assert (caught.value.field, caught.value.operation) == ("ids", verb)
    with pytest.raises(errors.InvalidInput) as caught:
        call([uuid4(), "no id"], *more)
    assert caught.value.field == "id"
    assert len(call([uuid4()] * 10_001, *more)) == (verb == "update_statuses")


def test_ten_thousand_tracks_can_be_asked_for(catalog: Catalog, ids: list[UUID]) -> None:
    asked = [uuid4() for _ in range(9_995)] + ids
    assert list(catalog.get_many(asked)) == ids


@pytest.mark.parametrize("verb", ["get_many", "update_statuses"])
@pytest.mark.sync_only
def test_ids_that_can_be_read_once_serve_a_second_try(
    catalog: Catalog, ids: list[UUID], verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement that had become stale is executed again, and the iterator would be at its end by then."""
    send, tries = execute.send, []

    def fail_once(driver: Any, request: Request, *rest: Any) -> Rows:
        tries.append(request[0].sql)
        if len(tries) == 1:
            raise errors.StaleStatement("on purpose")
        return send(driver, request, *rest)

    monkeypatch.setattr(execute, "send", fail_once)
    call = getattr(catalog, verb)
    found = call(iter(ids), *((TrackStatus.PENDING,) if verb == "update_statuses" else ()))
    assert list(found) == ids
    assert len(tries) == 2


def test_what_was_read_is_an_object_like_any_other(catalog: Catalog, ids: list[UUID]) -> None:
    track = catalog.get(ids[0])
    assert inspect(track).session is None
    for twin in (pickle.loads(pickle.dumps(track)), copy.copy(track)):  # noqa: S301
        assert [getattr(twin, name) for name in TRACK_COLUMNS] == [getattr(track, name) for name in TRACK_COLUMNS]
    with pytest.raises(AttributeError, match="cannot be assigned"):
        track.title = "other"
