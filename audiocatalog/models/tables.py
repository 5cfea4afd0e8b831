"""The tables, with their columns, constraints and indexes.

To allow PgBouncer, replicas and Citus, the tables follow these rules: the application makes the ids, every unique key
contains the track's id, every constraint has a name, and there are no triggers and no sequences.
"""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    ForeignKey,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, TIMESTAMP, TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import TypeEngine

from audiocatalog.models.base import Base, StatusText, domain, domain_for
from audiocatalog.models.limits import CHANGE_LIMITS
from audiocatalog.models.metadata import LIMITS, METADATA_FIELDS, MetadataColumns
from audiocatalog.models.redaction import discreetly, short
from audiocatalog.models.sql_names import (
    FOLD_FUNCTION,
    LEGAL_MOVE_FUNCTION,
    LEGAL_TASK_FUNCTION,
    NAME_FUNCTION,
    NO_VECTOR_FUNCTION,
    SAMPLES,
    SEARCH_VECTOR_FUNCTION,
    SLIPS_FUNCTION,
)
from audiocatalog.status import TrackStatus


class SaveOutcome(StrEnum):
    """The outcome of a save."""

    #: The id was new.
    INSERTED = "inserted"
    #: Other content was replaced; the version rose by one.
    UPDATED = "updated"
    #: The track had the same content already; nothing was written.
    UNCHANGED = "unchanged"


# The domains of columns that have a rule.
_KNOWN: Final = ", ".join(repr(str(status)) for status in TrackStatus)
_STATUS: Final = domain("status", StatusText(), "ck_audio_tracks_status_known", f"VALUE IN ({_KNOWN})")
#: A finite time: ``infinity`` is refused.
_TIME: Final = domain("time", TIMESTAMP(timezone=True), "ck_audiocatalog_time_finite", "isfinite(VALUE)")
_COUNT: Final = domain("count", Integer(), "ck_audiocatalog_count_range", "VALUE >= 1")
_FIELDS: Final = {field: domain_for(field, limit) for field, limit in LIMITS.items()}
_CHANGE_FIELDS: Final = {
    field: domain_for(field, limit, "audio_track_status_changes") for field, limit in CHANGE_LIMITS.items()
}
#: All domains; Alembic compares them only by name.
DOMAINS: Final = tuple(
    column_type.domain for column_type in (_STATUS, _TIME, _COUNT, *_FIELDS.values(), *_CHANGE_FIELDS.values())
)


def _written_by() -> Any:  # noqa: ANN401  # SQLAlchemy's type depends on the annotation of the attribute.
    """
    Return the column for the id of the transaction that wrote a row, which shows readers the rows committed late.

    The system column ``xmin`` is not enough, because a snapshot does not know the ids of savepoints.
    """
    return mapped_column(
        BigInteger, server_default=text("pg_current_xact_id()::text::bigint"), deferred=True, deferred_raiseload=True
    )


def _generated(kind: TypeEngine[Any], expression: str) -> Any:  # noqa: ANN401
    """
    Return a generated column that only statements read.

    The column is declared as stored, because PostgreSQL 18 makes generated columns virtual by default, and cannot index
    virtual columns.
    """
    return mapped_column(kind, Computed(expression, persisted=True), deferred=True, deferred_raiseload=True)


def _index_of_vectors(share: int) -> Index:
    """Return the index on the vectors of all tracks, or of a sample of 1 in *share* tracks."""
    # Every search also reads an index's list of pending entries, so the list is short.
    return Index(
        "ix_audio_tracks_search_vector" + ("" if share == 1 else f"_{share}"),
        "search_vector",
        postgresql_using="gin",
        postgresql_with={"gin_pending_list_limit": 128},
        postgresql_where=None if share == 1 else text(f"(uuid_hash(id) & {share - 1}) = 0"),
    )


def _index_of_writing(table: str) -> Index:
    """Return a BRIN index on time and transaction; this small index works because rows are inserted in this order."""
    return Index(
        f"ix_{table}_at_xact_id",
        "at",
        "xact_id",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
    )


if TYPE_CHECKING:
    _MetadataColumns = MetadataColumns
else:
    _MetadataColumns = type(
        "MetadataColumns",
        (),
        {field: mapped_column(_FIELDS[field], nullable=field != "title", sort_order=-1) for field in METADATA_FIELDS},
    )


class Track(_MetadataColumns, Base):
    """
    A track as it was when it was read; ``save`` and ``update_status`` change the stored track.

    The object contains plain values: it loads nothing later, and stays readable after its unit of work has ended.
    """

    __tablename__ = "audio_tracks"

    #: The application makes the id, a UUID of version 7 by default; the id of a track never changes.
    id: Mapped[UUID] = mapped_column(primary_key=True, sort_order=-2)
    status: Mapped[TrackStatus] = mapped_column(_STATUS, sort_order=-2)
    #: Not unique, because a unique key without the id would rule out sharding.
    audio_path: Mapped[str] = mapped_column(_FIELDS["audio_path"])
    thumbnail_path: Mapped[str | None] = mapped_column(_FIELDS["thumbnail_path"])
    created_at: Mapped[datetime] = mapped_column(_TIME, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(_TIME, server_default=func.now())
    #: Every write adds 1 to the version, so that a writer notices other writers.
    version: Mapped[int] = mapped_column(_COUNT, server_default="1")
    #: The words that searches match. The package never reads this column, because it is as long as the rest of the row.
    search_vector: Mapped[str] = _generated(TSVECTOR(), f"{SEARCH_VECTOR_FUNCTION}(title, artist, album, genre, year)")
    #: The next version of the vector during a rebuild (docs/adr/0013); null otherwise.
    search_vector_b: Mapped[str | None] = _generated(
        TSVECTOR(), f"{NO_VECTOR_FUNCTION}(title, artist, album, genre, year)"
    )
    #: The folded title without spaces and punctuation, for exact matches, prefix matches and sorting.
    title_name: Mapped[str] = _generated(String(200, collation="C"), f"{NAME_FUNCTION}({FOLD_FUNCTION}(title))")
    #: The folded artist in the same form; empty if the artist is null.
    artist_name: Mapped[str] = _generated(
        String(200, collation="C"), f"coalesce({NAME_FUNCTION}({FOLD_FUNCTION}(artist)), '')"
    )

    __table_args__ = (
        # Searches by words use these indexes; searches for common words use a partial index, a sample of the table.
        *map(_index_of_vectors, (1, *SAMPLES)),
        # These indexes serve searches by names or beginnings of names, and lists sorted by name.
        Index("ix_audio_tracks_title_name", "title_name", "artist_name", "id"),
        Index("ix_audio_tracks_artist_name", "artist_name", "title_name", "id"),
        # These indexes serve lists sorted by year or time, and ranges. Status has no index, because a move must not
        # write an index.
        Index("ix_audio_tracks_year", "year", "id"),
        Index("ix_audio_tracks_created_at", "created_at", "id"),
        # A page has room for new versions of its rows, so a change of status is a HOT update, which writes no index. A
        # worker claims many tracks of one page at once.
        {"postgresql_with": {"fillfactor": 60}},
    )

    @property
    def outcome(self) -> SaveOutcome | None:
        """The outcome of the save that returned this object; None if a read returned it."""
        return self.__dict__.get("_outcome")

    @discreetly
    def __repr__(self) -> str:
        return f"<Track {short(self.id)} {self.status} version {self.version}>"


class StatusChange(Base):
    """A move of a track from one status to another; a new track moves from None."""

    __tablename__ = "audio_track_status_changes"

    track_id: Mapped[UUID] = mapped_column(ForeignKey(Track.id), primary_key=True)
    #: The track's version after this move; versions order the history, because clocks may be wrong.
    version: Mapped[int] = mapped_column(_COUNT, primary_key=True)
    from_status: Mapped[TrackStatus | None] = mapped_column(StatusText)
    to_status: Mapped[TrackStatus] = mapped_column(StatusText)
    actor: Mapped[str] = mapped_column(_CHANGE_FIELDS["actor"])
    reason: Mapped[str | None] = mapped_column(_CHANGE_FIELDS["reason"])
    #: The caller's id for the call, which makes a retry safe: the retry returns the first answer.
    operation_id: Mapped[UUID | None]
    #: The number of the try that the change belongs to, from 1; None if the track was not claimed.
    attempt: Mapped[int | None] = mapped_column(Integer)
    #: The time after the row was locked; the transaction's start would put overlapping moves out of order.
    at: Mapped[datetime] = mapped_column(_TIME, server_default=func.clock_timestamp())
    xact_id: Mapped[int] = _written_by()

    __table_args__ = (
        CheckConstraint(f"{LEGAL_MOVE_FUNCTION}(from_status, to_status)", name="legal_transition"),
        # An operation id has one answer, which this index also finds.
        UniqueConstraint("track_id", "operation_id"),
        _index_of_writing("audio_track_status_changes"),
    )

    @property
    def duration(self) -> timedelta | None:
        """
        How long the track stayed in *to_status*.

        None if the track still has this status, or if ``history`` did not return this object.
        """
        return self.__dict__.get("_duration")

    @discreetly
    def __repr__(self) -> str:
        """Return the move without its actor and reason, because they are data."""
        return f"<StatusChange of {short(self.track_id)}: {self.from_status} -> {self.to_status}>"


class TrackEdit(Base):
    """A replacement of a track's content; the SQL functions that replace content write the row."""

    __tablename__ = "audio_track_edits"

    track_id: Mapped[UUID] = mapped_column(ForeignKey(Track.id), primary_key=True)
    #: The track's version after the replacement.
    version: Mapped[int] = mapped_column(_COUNT, primary_key=True)
    actor: Mapped[str] = mapped_column(_CHANGE_FIELDS["actor"])
    reason: Mapped[str | None] = mapped_column(_CHANGE_FIELDS["reason"])
    at: Mapped[datetime] = mapped_column(_TIME, server_default=func.clock_timestamp())
    xact_id: Mapped[int] = _written_by()

    __table_args__ = (_index_of_writing("audio_track_edits"),)

    @discreetly
    def __repr__(self) -> str:
        return f"<TrackEdit of {short(self.track_id)} version {self.version}>"


class Task(Base):
    """
    The remaining work on a track that is not COMPLETED; the SQL functions that move tracks write the row.

    Claims need an index on these columns. With such an index on the tracks, each change of status would write all
    indexes of the tracks, including those for searches. So these columns are in a separate table.
    """

    __tablename__ = "audio_track_tasks"

    track_id: Mapped[UUID] = mapped_column(ForeignKey(Track.id), primary_key=True)
    #: The track's status.
    status: Mapped[TrackStatus] = mapped_column(_STATUS)
    #: When the track entered the status.
    since: Mapped[datetime] = mapped_column(_TIME)
    #: When a waiting track may be claimed; None if the track does not wait.
    ready_at: Mapped[datetime | None] = mapped_column(_TIME)
    #: When the lease of a claimed track ends; None if the track has no lease.
    expires_at: Mapped[datetime | None] = mapped_column(_TIME)
    #: The fencing token of the claim: the track's version after the claim, then 32 random bits.
    token: Mapped[int | None] = mapped_column(BigInteger)
    worker: Mapped[str | None] = mapped_column(_CHANGE_FIELDS["actor"])
    #: Whether the work on a claimed track has begun, so that this try counts.
    begun: Mapped[bool] = mapped_column(server_default="false")
    #: How many tries have begun since a caller last moved the track.
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    #: Why the last try failed.
    last_error: Mapped[str | None] = mapped_column(_CHANGE_FIELDS["reason"])

    __table_args__ = (
        # Inconsistent columns would hide a track from workers or from counts.
        CheckConstraint(
            f"{LEGAL_TASK_FUNCTION}(status, since, ready_at, expires_at, token, worker, begun, attempts)",
            name="legal_task",
        ),
        # Waiting tracks and claimed tracks have separate partial indexes.
        Index("ix_audio_track_tasks_ready_at", "ready_at", "track_id", postgresql_where=text("ready_at IS NOT NULL")),
        # If the clock was set back, tracks may wait since a time in the future. Claims find these tracks by this index;
        # otherwise the tracks would stay hidden.
        Index("ix_audio_track_tasks_since", "since", "track_id", postgresql_where=text("ready_at IS NOT NULL")),
        Index(
            "ix_audio_track_tasks_expires_at", "expires_at", "track_id", postgresql_where=text("expires_at IS NOT NULL")
        ),
    )

    @discreetly
    def __repr__(self) -> str:
        return f"<Task of {short(self.track_id)} {self.status}>"


class SearchWord(Base):
    """A word of the tracks with its latest count; searches also find words that have no row here."""

    __tablename__ = "audio_search_words"

    word: Mapped[str] = mapped_column(String(200, collation="C"), primary_key=True)
    #: How many tracks contain the word.
    tracks: Mapped[int] = mapped_column(Integer)
    #: The word, and its forms with one letter removed: two words that share one of these are one or two edits apart.
    slips: Mapped[list[str]] = mapped_column(
        ARRAY(Text), Computed(f"{SLIPS_FUNCTION}(word)", persisted=True), deferred=True
    )

    __table_args__ = (
        CheckConstraint("tracks >= 1", name="tracks_range"),
        # The words are written all at once and then read, so a list of pending entries would only slow down searches.
        Index("ix_audio_search_words_slips", "slips", postgresql_using="gin", postgresql_with={"fastupdate": "off"}),
    )


class SearchCount(Base):
    """A count of the words: its time, the number of tracks, and the number of words."""

    __tablename__ = "audio_search_counts"

    at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), primary_key=True)
    tracks: Mapped[int] = mapped_column(BigInteger)
    words: Mapped[int] = mapped_column(Integer)
