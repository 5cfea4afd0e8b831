"""What is stored: two tables, their columns, constraints and indexes, each with its reason.

The rules that keep PgBouncer, replicas and Citus possible are kept here: ids made by the application, every unique
key holds the track's id, no triggers, no sequences, every constraint named.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP, TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from audiocatalog.metadata import CHANGE_LIMITS, LIMITS, METADATA_FIELDS, NumberLimit, TextLimit, WholeLimit
from audiocatalog.status import TRANSITIONS, TrackStatus

#: The newest revision in alembic/versions; a database that stands before it is refused.
SCHEMA_REVISION: Final = "0001"
#: Alembic's own table, under a name of ours: a host service may run its own migrations in the same database.
VERSION_TABLE: Final = "audiocatalog_version"
#: The SQL functions of alembic/functions/search_v1.sql: both sides of a search fold text by them.
SEARCH_VECTOR_FUNCTION: Final = "audiocatalog_search_vector_v1"
FOLD_FUNCTION: Final = "audiocatalog_fold_v1"
WORDS_FUNCTION: Final = "audiocatalog_words_v1"
NAME_FUNCTION: Final = "audiocatalog_name_v1"
SPELL_FUNCTION: Final = "audiocatalog_spell_v1"
SLIPS_FUNCTION: Final = "audiocatalog_slips_v1"
#: The parts of the table that common words are sought in: one track of so many, chosen by its id.
SAMPLES: Final = (4096, 512, 64, 8)
#: The SQL function of alembic/functions/visible_v1.sql, twin of ``metadata.INVISIBLE``.
VISIBLE_FUNCTION: Final = "audiocatalog_visible_v1"

#: The columns that a save compares and stores.
CONTENT_COLUMNS: Final = (*METADATA_FIELDS, "audio_path", "thumbnail_path")


class SaveOutcome(StrEnum):
    """Say what a save did."""

    #: The id was new.
    INSERTED = "inserted"
    #: Other content was replaced; the version rose by one.
    UPDATED = "updated"
    #: The same content was there already; nothing was written.
    UNCHANGED = "unchanged"


class Base(DeclarativeBase):
    """Collect the tables and name their constraints by one convention."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )

    def __setattr__(self, name: str, value: object) -> None:
        """
        Refuse every assignment: what was read is not the way to write.

        SQLAlchemy itself fills objects below this method, so reading and constructing them works as ever.
        """
        if name.startswith("_sa_"):
            super().__setattr__(name, value)
            return
        raise AttributeError(
            f"{type(self).__name__}.{name} cannot be assigned: use save(..., replace=True) for a track's content "
            "and update_status() for its status"
        )

    def __delattr__(self, name: str) -> None:
        """Refuse every deletion as well."""
        raise AttributeError(f"{type(self).__name__}.{name} cannot be deleted")

    def __init__(self, **values: Any) -> None:  # noqa: ANN401  # Columns of every type.
        """Make an object of the named columns, such as a test's factory does."""
        for name, value in values.items():
            if name not in type(self).__mapper__.attrs:
                raise TypeError(f"{type(self).__name__} has no column {name!r}")
            super().__setattr__(name, value)


class StatusText(TypeDecorator[TrackStatus]):
    """
    Store a status as text and read it as a ``TrackStatus``.

    A name that this version of the code does not know, written by a newer one, is read as plain text: a service must
    not fail over tracks of others while a deploy is under way.
    """

    impl = Text
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> TrackStatus | None:  # noqa: ARG002
        """Return the status that *value* names."""
        return None if value is None else status_of(value)


_STATUS_BY_NAME: Final[dict[str, TrackStatus]] = {str(status): status for status in TrackStatus}


def status_of(name: str) -> TrackStatus:
    """Return the status that *name* names, or a name that only newer code knows as it is."""
    return _STATUS_BY_NAME.get(name, name)  # type: ignore[arg-type]


def _text(field: str) -> String:
    """Return the type of *field*: ``varchar(n)``, whose length check fires before the search vector is computed."""
    limit = LIMITS[field]
    assert isinstance(limit, TextLimit)  # noqa: S101
    return String(limit.characters)


def _rules() -> list[CheckConstraint]:
    """Return the CHECKs that refuse in SQL what ``TrackMetadata`` refuses in Python."""
    checks = []
    for field, limit in LIMITS.items():
        match limit:
            case TextLimit():
                checks.append(CheckConstraint(f"{VISIBLE_FUNCTION}({field})", name=f"{field}_visible"))
            case WholeLimit(lowest, highest):
                checks.append(CheckConstraint(f"{field} BETWEEN {lowest} AND {highest}", name=f"{field}_range"))
            case NumberLimit(lowest, highest):
                # NaN sorts above infinity in PostgreSQL, so the upper bound refuses both.
                between = f"{field} BETWEEN {lowest:.0f} AND {highest:.0f}"
                checks.append(CheckConstraint(between, name=f"{field}_range"))
    return checks


def _one_of(column: str, statuses: frozenset[TrackStatus]) -> str:
    return f"{column} IN ({', '.join(repr(str(status)) for status in TrackStatus if status in statuses)})"


def _legal_moves() -> str:
    """Return the table of statuses as the text of a CHECK."""
    moves = " OR ".join(
        f"(from_status {'IS NULL' if start is None else f'= {str(start)!r}'} AND {_one_of('to_status', ends)})"
        for start, ends in TRANSITIONS.items()
    )
    # A comparison with no status is null, and a CHECK lets null pass.
    return f"coalesce({moves}, false)"


class Track(Base):
    """
    Show one track as it was when it was read; to change it, use ``save`` and ``update_status``.

    It holds plain values: it never loads anything later and stays readable after its unit of work has ended.
    """

    __tablename__ = "audio_tracks"

    #: Made by the application (UUID version 7 unless given), never changed.
    id: Mapped[UUID] = mapped_column(primary_key=True)
    status: Mapped[TrackStatus] = mapped_column(StatusText)
    artist: Mapped[str | None] = mapped_column(_text("artist"))
    title: Mapped[str] = mapped_column(_text("title"))
    album: Mapped[str | None] = mapped_column(_text("album"))
    genre: Mapped[str | None] = mapped_column(_text("genre"))
    year: Mapped[int | None] = mapped_column(Integer)
    #: Seconds.
    duration: Mapped[float | None] = mapped_column(Double)
    channels: Mapped[int | None] = mapped_column(Integer)
    #: Hz.
    sample_rate: Mapped[int | None] = mapped_column(Integer)
    #: Bit/s.
    bitrate: Mapped[int | None] = mapped_column(Integer)
    format: Mapped[str | None] = mapped_column(_text("format"))
    #: Not unique: a unique key without the id would keep the table on one machine for ever.
    audio_path: Mapped[str] = mapped_column(_text("audio_path"))
    thumbnail_path: Mapped[str | None] = mapped_column(_text("thumbnail_path"))
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    #: Raised by one by every write; tells a writer that somebody else was there.
    version: Mapped[int] = mapped_column(Integer, server_default="1")
    #: What a search looks into. Stored, for PostgreSQL 18 would make it virtual by default and could not index it;
    #: never read back, for it is as long as the rest of the row.
    search_vector: Mapped[str] = mapped_column(
        TSVECTOR,
        Computed(f"{SEARCH_VECTOR_FUNCTION}(title, artist, album, genre, year)", persisted=True),
        deferred=True,
        deferred_raiseload=True,
    )
    #: The title as one name, folded, without spaces and punctuation: found as a whole, by its beginning, and sorted by.
    title_name: Mapped[str] = mapped_column(
        String(200, collation="C"),
        Computed(f"{NAME_FUNCTION}({FOLD_FUNCTION}(title))", persisted=True),
        deferred=True,
        deferred_raiseload=True,
    )
    #: Likewise; empty where the artist is not known.
    artist_name: Mapped[str] = mapped_column(
        String(200, collation="C"),
        Computed(f"coalesce({NAME_FUNCTION}({FOLD_FUNCTION}(artist)), '')", persisted=True),
        deferred=True,
        deferred_raiseload=True,
    )

    __table_args__ = (
        CheckConstraint(_one_of("status", frozenset(TrackStatus)), name="status_known"),
        CheckConstraint("version >= 1", name="version_range"),
        *(CheckConstraint(f"isfinite({field})", name=f"{field}_range") for field in ("created_at", "updated_at")),
        *_rules(),
        # A track is found by its words, common words in a part of the table that stands for all of it.
        # What is written last is kept in a list that every search reads: a short one.
        Index(
            "ix_audio_tracks_search_vector",
            "search_vector",
            postgresql_using="gin",
            postgresql_with={"gin_pending_list_limit": 128},
        ),
        *(
            Index(
                f"ix_audio_tracks_search_vector_{share}",
                "search_vector",
                postgresql_using="gin",
                postgresql_with={"gin_pending_list_limit": 128},
                postgresql_where=text(f"(uuid_hash(id) & {share - 1}) = 0"),
            )
            for share in SAMPLES
        ),
        # Or by its names as a whole, by one and the beginning of the other, and in their order.
        Index("ix_audio_tracks_title_name", "title_name", "artist_name", "id"),
        Index("ix_audio_tracks_artist_name", "artist_name", "title_name", "id"),
        # The order and the ranges by which people narrow a search; no status: its moves must not write any index.
        Index("ix_audio_tracks_year", "year", "id"),
        Index("ix_audio_tracks_created_at", "created_at", "id"),
    )
    # Without this, every ORM insert would have the server send the whole search vector back.
    __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012

    @property
    def outcome(self) -> SaveOutcome | None:
        """What the save did that returned this object; None if it was read."""
        return self.__dict__.get("_outcome")

    def __repr__(self) -> str:
        """Return the id and status alone: a log line must not spill what the track holds."""
        return f"<Track {self.id} {self.status} version {self.version}>"


class StatusChange(Base):
    """Show one move of a track: from where (None at first), to where, by whom, why and when."""

    __tablename__ = "audio_track_status_changes"

    track_id: Mapped[UUID] = mapped_column(ForeignKey(Track.id), primary_key=True)
    #: The version that the track got by this move: the row's own order, whatever the clocks say.
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    from_status: Mapped[TrackStatus | None] = mapped_column(StatusText)
    to_status: Mapped[TrackStatus] = mapped_column(StatusText)
    actor: Mapped[str] = mapped_column(String(CHANGE_LIMITS["actor"].characters))
    reason: Mapped[str | None] = mapped_column(String(CHANGE_LIMITS["reason"].characters))
    #: Given by a caller who may have to ask again: the second time, the first answer is returned.
    operation_id: Mapped[UUID | None]
    #: The clock's time after the row was locked; the start of the transaction would put overlapping moves out of order.
    at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.clock_timestamp())

    __table_args__ = (
        CheckConstraint(_legal_moves(), name="legal_transition"),
        CheckConstraint("version >= 1", name="version_range"),
        CheckConstraint("isfinite(at)", name="at_range"),
        *(CheckConstraint(f"{VISIBLE_FUNCTION}({field})", name=f"{field}_visible") for field in CHANGE_LIMITS),
        # One answer for each operation id; also the index by which it is found again.
        UniqueConstraint("track_id", "operation_id"),
    )
    __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012

    def __repr__(self) -> str:
        """Return the move without its actor and reason, which are data."""
        return f"<StatusChange {self.track_id} {self.from_status} -> {self.to_status}>"


class SearchWord(Base):
    """Hold a word of the tracks, as it was when the words were last counted; a new word is found without being here."""

    __tablename__ = "audio_search_words"

    word: Mapped[str] = mapped_column(String(200, collation="C"), primary_key=True)
    #: How many tracks hold it.
    tracks: Mapped[int] = mapped_column(Integer)
    #: The word and what is left of it without each of its letters: two words that share one differ by a slip or two.
    slips: Mapped[list[str]] = mapped_column(
        ARRAY(Text), Computed(f"{SLIPS_FUNCTION}(word)", persisted=True), deferred=True
    )

    __table_args__ = (
        CheckConstraint("tracks >= 1", name="tracks_range"),
        # Written all at once, and read right after: nothing may wait in a list.
        Index("ix_audio_search_words_slips", "slips", postgresql_using="gin", postgresql_with={"fastupdate": "off"}),
    )


class SearchCount(Base):
    """Tell when the words were counted, in how many tracks, and how many words there were."""

    __tablename__ = "audio_search_counts"

    at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), primary_key=True)
    tracks: Mapped[int] = mapped_column(BigInteger)
    words: Mapped[int] = mapped_column(Integer)


# Objects are made of rows without a session (tracks.track_of), which nothing else would configure the mapping for.
Base.registry.configure()
