"""What is stored: two tables, their columns, constraints and indexes, each with its reason.

The rules that keep PgBouncer, replicas and Citus possible are kept here: ids made by the application, every unique
key holds the track's id, no triggers, no sequences, every constraint named.
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
    """Say what a save did."""

    #: The id was new.
    INSERTED = "inserted"
    #: Other content was replaced; the version rose by one.
    UPDATED = "updated"
    #: The same content was there already; nothing was written.
    UNCHANGED = "unchanged"


#: The type of each column that has a rule of its own.
_KNOWN: Final = ", ".join(repr(str(status)) for status in TrackStatus)
_STATUS: Final = domain("status", StatusText(), "ck_audio_tracks_status_known", f"VALUE IN ({_KNOWN})")
#: An instant that there is: ``infinity`` is none.
_TIME: Final = domain("time", TIMESTAMP(timezone=True), "ck_audiocatalog_time_finite", "isfinite(VALUE)")
_COUNT: Final = domain("count", Integer(), "ck_audiocatalog_count_range", "VALUE >= 1")
_FIELDS: Final = {field: domain_for(field, limit) for field, limit in LIMITS.items()}
_CHANGE_FIELDS: Final = {
    field: domain_for(field, limit, "audio_track_status_changes") for field, limit in CHANGE_LIMITS.items()
}
#: All of them as PostgreSQL has them; Alembic compares them by no more than their names.
DOMAINS: Final = tuple(
    column_type.domain for column_type in (_STATUS, _TIME, _COUNT, *_FIELDS.values(), *_CHANGE_FIELDS.values())
)


def _written_by() -> Any:  # noqa: ANN401  # What SQLAlchemy makes of it depends on where it stands.
    """
    Return the column for the transaction that wrote a row: what is committed late is told from what is old by it.

    The system column ``xmin`` would do for all but savepoints, whose ids no snapshot knows.
    """
    return mapped_column(
        BigInteger, server_default=text("pg_current_xact_id()::text::bigint"), deferred=True, deferred_raiseload=True
    )


def _index_of_writing(table: str) -> Index:
    """Return an index on when and by whom rows were written: they come in this order, so that the smallest will do."""
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
    Show one track as it was when it was read; to change it, use ``save`` and ``update_status``.

    It holds plain values: it never loads anything later and stays readable after its unit of work has ended.
    """

    __tablename__ = "audio_tracks"

    #: Made by the application (UUID version 7 unless given), never changed.
    id: Mapped[UUID] = mapped_column(primary_key=True, sort_order=-2)
    status: Mapped[TrackStatus] = mapped_column(_STATUS, sort_order=-2)
    #: Not unique: a unique key without the id would keep the table on one machine for ever.
    audio_path: Mapped[str] = mapped_column(_FIELDS["audio_path"])
    thumbnail_path: Mapped[str | None] = mapped_column(_FIELDS["thumbnail_path"])
    created_at: Mapped[datetime] = mapped_column(_TIME, server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(_TIME, server_default=func.now())
    #: Raised by one by every write; tells a writer that somebody else was there.
    version: Mapped[int] = mapped_column(_COUNT, server_default="1")
    #: What a search looks into. Stored, for PostgreSQL 18 would make it virtual by default and could not index it;
    #: never read back, for it is as long as the rest of the row.
    search_vector: Mapped[str] = mapped_column(
        TSVECTOR,
        Computed(f"{SEARCH_VECTOR_FUNCTION}(title, artist, album, genre, year)", persisted=True),
        deferred=True,
        deferred_raiseload=True,
    )
    #: Where the next version of the vector is made beside this one (docs/adr/0013); nothing is there until then.
    search_vector_b: Mapped[str | None] = mapped_column(
        TSVECTOR,
        Computed(f"{NO_VECTOR_FUNCTION}(title, artist, album, genre, year)", persisted=True),
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
        # Room on a page for the next versions of its rows, of which a worker claims many at once: then a change of
        # status writes no index.
        {"postgresql_with": {"fillfactor": 60}},
    )
    # Without this, every ORM insert would have the server send the whole search vector back.
    __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012

    @property
    def outcome(self) -> SaveOutcome | None:
        """What the save did that returned this object; None if it was read."""
        return self.__dict__.get("_outcome")

    @discreetly
    def __repr__(self) -> str:
        """Return the end of the id, and the status."""
        return f"<Track {short(self.id)} {self.status} version {self.version}>"


class StatusChange(Base):
    """Show one move of a track: from where (None at first), to where, by whom, why and when."""

    __tablename__ = "audio_track_status_changes"

    track_id: Mapped[UUID] = mapped_column(ForeignKey(Track.id), primary_key=True)
    #: The version that the track got by this move: the row's own order, whatever the clocks say.
    version: Mapped[int] = mapped_column(_COUNT, primary_key=True)
    from_status: Mapped[TrackStatus | None] = mapped_column(StatusText)
    to_status: Mapped[TrackStatus] = mapped_column(StatusText)
    actor: Mapped[str] = mapped_column(_CHANGE_FIELDS["actor"])
    reason: Mapped[str | None] = mapped_column(_CHANGE_FIELDS["reason"])
    #: Given by a caller who may have to ask again: the second time, the first answer is returned.
    operation_id: Mapped[UUID | None]
    #: Which try of the track it belongs to, counted from 1; None where nobody had claimed it.
    attempt: Mapped[int | None] = mapped_column(Integer)
    #: The clock's time after the row was locked; the start of the transaction would put overlapping moves out of order.
    at: Mapped[datetime] = mapped_column(_TIME, server_default=func.clock_timestamp())
    xact_id: Mapped[int] = _written_by()

    __table_args__ = (
        CheckConstraint(f"{LEGAL_MOVE_FUNCTION}(from_status, to_status)", name="legal_transition"),
        # One answer for each operation id; also the index by which it is found again.
        UniqueConstraint("track_id", "operation_id"),
        _index_of_writing("audio_track_status_changes"),
    )
    __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012

    @property
    def duration(self) -> timedelta | None:
        """How long the track stayed in *to_status*; None if it is still there, or if this was not read as history."""
        return self.__dict__.get("_duration")

    @discreetly
    def __repr__(self) -> str:
        """Return the move without its actor and reason, which are data."""
        return f"<StatusChange of {short(self.track_id)}: {self.from_status} -> {self.to_status}>"


class TrackEdit(Base):
    """Show that the content of a track was replaced, by whom and why; written by the functions that replace it."""

    __tablename__ = "audio_track_edits"

    track_id: Mapped[UUID] = mapped_column(ForeignKey(Track.id), primary_key=True)
    #: The version that the track got by it.
    version: Mapped[int] = mapped_column(_COUNT, primary_key=True)
    actor: Mapped[str] = mapped_column(_CHANGE_FIELDS["actor"])
    reason: Mapped[str | None] = mapped_column(_CHANGE_FIELDS["reason"])
    at: Mapped[datetime] = mapped_column(_TIME, server_default=func.clock_timestamp())
    xact_id: Mapped[int] = _written_by()

    __table_args__ = (_index_of_writing("audio_track_edits"),)
    __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012

    @discreetly
    def __repr__(self) -> str:
        """Return the end of the id, and the version."""
        return f"<TrackEdit of {short(self.track_id)} version {self.version}>"


class Task(Base):
    """
    Show what remains to be done with a track that is not COMPLETED; written by the functions that move tracks.

    It is a table of its own, because the claims are found by it: an index on the tracks themselves would have each
    change of status write all their indexes, those of the searches too.
    """

    __tablename__ = "audio_track_tasks"

    track_id: Mapped[UUID] = mapped_column(ForeignKey(Track.id), primary_key=True)
    #: The track's own status.
    status: Mapped[TrackStatus] = mapped_column(_STATUS)
    #: When the track came to it.
    since: Mapped[datetime] = mapped_column(_TIME)
    #: From when a waiting track may be claimed; None if it does not wait.
    ready_at: Mapped[datetime | None] = mapped_column(_TIME)
    #: When the lease of a claimed track ends; None if it has none.
    expires_at: Mapped[datetime | None] = mapped_column(_TIME)
    #: What fences the claim: the version that the track got by it, and 32 bits of chance behind that.
    token: Mapped[int | None] = mapped_column(BigInteger)
    worker: Mapped[str | None] = mapped_column(_CHANGE_FIELDS["actor"])
    #: Whether the work on a claimed track has begun, so that this try is counted.
    begun: Mapped[bool] = mapped_column(server_default="false")
    #: How many tries were begun since the track was last moved by hand.
    attempts: Mapped[int] = mapped_column(Integer, server_default="0")
    #: Why the last try failed.
    last_error: Mapped[str | None] = mapped_column(_CHANGE_FIELDS["reason"])

    __table_args__ = (
        # Columns that do not fit each other would hide a track from workers or from figures.
        CheckConstraint(
            f"{LEGAL_TASK_FUNCTION}(status, since, ready_at, expires_at, token, worker, begun, attempts)",
            name="legal_task",
        ),
        # Those that wait, and those whose lease may have run out; neither holds what the other one does.
        Index("ix_audio_track_tasks_ready_at", "ready_at", "track_id", postgresql_where=text("ready_at IS NOT NULL")),
        # Those that wait, by when they came: one that came after now was hidden by a clock that was set back.
        Index("ix_audio_track_tasks_since", "since", "track_id", postgresql_where=text("ready_at IS NOT NULL")),
        Index(
            "ix_audio_track_tasks_expires_at", "expires_at", "track_id", postgresql_where=text("expires_at IS NOT NULL")
        ),
    )
    __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012

    @discreetly
    def __repr__(self) -> str:
        """Return the end of the id, and the status."""
        return f"<Task of {short(self.track_id)} {self.status}>"


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
