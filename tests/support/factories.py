"""Test data: plausible and different each time, with nothing left to chance that a test could stumble over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import factory

from audiocatalog import Track, TrackMetadata, TrackRecord, TrackStatus, UnitOfWork
from audiocatalog.models.ids import new_id

_lent: list[UnitOfWork] = []


class TrackMetadataFactory(factory.Factory[TrackMetadata]):
    class Meta:
        model = TrackMetadata

    title = factory.Sequence(lambda n: f"Song Number {n}")
    artist = factory.Sequence(lambda n: f"Band {n % 7}")
    album = "First Album"
    genre = "Rock"
    year = 1999
    duration = 201.5
    channels = 2
    sample_rate = 44_100
    bitrate = 320_000
    format = "mp3"


class TrackRecordFactory(factory.Factory[TrackRecord]):
    class Meta:
        model = TrackRecord

    metadata = factory.SubFactory(TrackMetadataFactory)
    id: UUID = factory.LazyFunction(new_id)
    audio_path = factory.Sequence(lambda n: f"s3://music/{n}.mp3")
    thumbnail_path = None
    status = TrackStatus.COMPLETED


class TrackFactory(factory.Factory[Track]):
    """Save tracks in the unit of work of conftest's `work`."""

    class Meta:
        model = Track

    id: UUID = factory.LazyFunction(new_id)
    status = TrackStatus.COMPLETED
    title = factory.Sequence(lambda n: f"Song Number {n}")
    artist = "The Factory"
    audio_path = factory.Sequence(lambda n: f"s3://factory/{n}.mp3")

    @classmethod
    def _create(cls, _model: type[Track], *_: Any, **values: Any) -> Track:
        own = {name: values.pop(name) for name in ("id", "status", "audio_path")}
        return _lent[-1].save(TrackMetadata(**values), **own)


@contextmanager
def saving_in(work: UnitOfWork) -> Iterator[None]:
    """Have the factory save its tracks in *work*."""
    _lent.append(work)
    try:
        yield
    finally:
        _lent.pop()
