"""SQLAlchemy's ORM as its tutorial shows it: declared classes, a session for each piece of work, add and commit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import TIMESTAMP, Engine, ForeignKey, create_engine, func, make_url, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from benchmarks.performance.contestant import Contestant
from benchmarks.performance.rows import ACTOR, COLUMNS, Values, batches

GET: Final = "SQLAlchemy ORM: session.get"
GET_MANY: Final = "SQLAlchemy ORM: select, in_"
SAVE: Final = "SQLAlchemy ORM: add, commit"
MERGE: Final = "SQLAlchemy ORM: merge, commit"
LOAD: Final = "SQLAlchemy ORM: add_all, 1,000 a commit"
LOAD_LEAN: Final = "SQLAlchemy ORM: add_all, defaults made in Python"
_BATCH: Final = 1000


class _Base(DeclarativeBase):
    type_annotation_map: Final = {datetime: TIMESTAMP(timezone=True)}


class _Columns:
    """The columns of a track without those that the server fills in."""

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


class _Change(_Base):
    __tablename__ = "audio_track_status_changes"

    track_id: Mapped[UUID] = mapped_column(ForeignKey("audio_tracks.id"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    to_status: Mapped[str]
    actor: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class _Track(_Columns, _Base):
    """The table as it is: times and version are the server's, and SQLAlchemy asks for them back."""

    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    version: Mapped[int] = mapped_column(server_default="1")
    changes: Mapped[list[_Change]] = relationship()


class _LeanBase(DeclarativeBase):
    type_annotation_map: Final = {datetime: TIMESTAMP(timezone=True)}


def _now() -> datetime:
    return datetime.now(UTC)


class _LeanChange(_LeanBase):
    __tablename__ = "audio_track_status_changes"

    track_id: Mapped[UUID] = mapped_column(ForeignKey("audio_tracks.id"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    to_status: Mapped[str]
    actor: Mapped[str]
    at: Mapped[datetime] = mapped_column(default=_now)


class _LeanTrack(_Columns, _LeanBase):
    """The same with nothing to be asked for back: then SQLAlchemy inserts by psycopg's executemany."""

    created_at: Mapped[datetime] = mapped_column(default=_now)
    updated_at: Mapped[datetime] = mapped_column(default=_now)
    version: Mapped[int] = mapped_column(default=1)
    changes: Mapped[list[_LeanChange]] = relationship()


@contextmanager
def opened(url: str) -> Iterator[Contestant]:
    """Open an engine, and for each call a session on it."""
    with _engine(url) as engine:

        def get(id_: UUID) -> object:
            with Session(engine) as session:
                return session.get(_Track, id_)

        def get_many(ids: Sequence[UUID]) -> object:
            with Session(engine) as session:
                return session.scalars(select(_Track).where(_Track.id.in_(ids))).all()

        def save(values: Values) -> None:
            with Session(engine) as session:
                session.add(_track(_Track, _Change, values))
                session.commit()

        def merge(values: Values) -> None:
            with Session(engine) as session:
                session.merge(_track(_Track, _Change, values))
                session.commit()

        yield Contestant(get={GET: get}, get_many={GET_MANY: get_many}, save={SAVE: save, MERGE: merge})


def load(url: str, rows: Iterator[Values]) -> None:
    """Add a thousand objects and their history, commit, and so on."""
    _load(url, rows, _Track, _Change)


def load_lean(url: str, rows: Iterator[Values]) -> None:
    """Do the same with classes that fetch nothing back."""
    _load(url, rows, _LeanTrack, _LeanChange)


def _load(url: str, rows: Iterator[Values], track: type[Any], change: type[Any]) -> None:
    with _engine(url) as engine, Session(engine) as session:
        for batch in batches(rows, _BATCH):
            session.add_all([_track(track, change, values) for values in batch])
            session.commit()


def _track(track: type[Any], change: type[Any], values: Values) -> Any:  # noqa: ANN401 - one of two classes.
    changes = [change(track_id=values[0], version=1, to_status=values[-1], actor=ACTOR)]
    return track(**dict(zip(COLUMNS, values, strict=True)), changes=changes)


@contextmanager
def _engine(url: str) -> Iterator[Engine]:
    engine = create_engine(make_url(url).set(drivername="postgresql+psycopg"))
    try:
        yield engine
    finally:
        engine.dispose()
