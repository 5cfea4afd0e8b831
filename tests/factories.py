"""Test data: plausible and different each time, with nothing left to chance that a test could stumble over."""

from __future__ import annotations

from uuid import UUID

import factory

from audiocatalog import Track, TrackMetadata, TrackRecord, TrackStatus
from audiocatalog.identifiers import new_id


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


class TrackFactory(factory.alchemy.SQLAlchemyModelFactory):
    """Write rows as the host's own code might, past the unit of work; conftest's `session` lends it a session."""

    class Meta:
        model = Track
        sqlalchemy_session_persistence = "flush"

    id: UUID = factory.LazyFunction(new_id)
    status = TrackStatus.COMPLETED
    title = factory.Sequence(lambda n: f"Song Number {n}")
    artist = "The Factory"
    audio_path = factory.Sequence(lambda n: f"s3://factory/{n}.mp3")
