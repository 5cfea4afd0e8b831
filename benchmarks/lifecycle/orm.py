"""What a team writes with an ORM: read the row for update, look whether the move is legal, write it and its history."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import TIMESTAMP, create_engine, make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from audiocatalog import TrackStatus

_LEGAL: Final = {("PENDING", "PROCESSING"), ("PROCESSING", "COMPLETED")}


class _Base(DeclarativeBase):
    type_annotation_map: Final = {datetime: TIMESTAMP(timezone=True)}


class _Track(_Base):
    """The columns of a track that its readers want."""

    __tablename__ = "audio_tracks"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    status: Mapped[str]
    artist: Mapped[str | None]
    title: Mapped[str]
    album: Mapped[str | None]
    genre: Mapped[str | None]
    year: Mapped[int | None]
    duration: Mapped[float | None]
    channels: Mapped[int | None]
    sample_rate: Mapped[int | None]
    bitrate: Mapped[int | None]
    format: Mapped[str | None]
    audio_path: Mapped[str]
    thumbnail_path: Mapped[str | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    version: Mapped[int]


class _Change(_Base):
    __tablename__ = "audio_track_status_changes"

    track_id: Mapped[UUID] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    from_status: Mapped[str | None]
    to_status: Mapped[str]
    actor: Mapped[str]
    at: Mapped[datetime]


@contextmanager
def mover(url: str, threads: int) -> Iterator[Callable[[int], Callable[[UUID, TrackStatus, TrackStatus], Any]]]:
    """Give each thread its way to move tracks; they share an engine with a connection for each."""
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"), pool_size=threads, max_overflow=0)

    def move(id_: UUID, _before: TrackStatus, to: TrackStatus) -> None:
        with Session(engine) as session, session.begin():
            track = session.get_one(_Track, id_, with_for_update=True)
            if (track.status, str(to)) not in _LEGAL:
                raise RuntimeError(f"{track.status} to {to} is not legal")
            before, track.status = track.status, str(to)
            track.version += 1
            track.updated_at = datetime.now(UTC)
            session.add(
                _Change(
                    track_id=id_,
                    version=track.version,
                    from_status=before,
                    to_status=str(to),
                    actor="benchmark",
                    at=datetime.now(UTC),
                )
            )

    try:
        yield lambda _: move
    finally:
        engine.dispose()
