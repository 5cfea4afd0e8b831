"""
The metadata of a track: the only list of its fields, with name, type, limit and unit.

Tables, statements, filters, import and export derive from this list. docs/adding-a-field.md describes how to add a
field.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self, TypeVar, final
from uuid import UUID

from audiocatalog.errors import IllegalTransition, InvalidInput, Problem, kind_of, printable
from audiocatalog.models.arguments import parse_choice
from audiocatalog.models.ids import new_id, parse_id
from audiocatalog.models.limits import Limit, NumberLimit, TextLimit, WholeLimit, cleaner, required
from audiocatalog.models.redaction import discreet
from audiocatalog.status import TRANSITIONS, StatusName, TrackStatus

if TYPE_CHECKING:
    from sqlalchemy.orm import Mapped

#: The unit of a number. audiocatalog/cli/units.py defines the notations of each unit.
Unit = Literal["s", "Hz", "bit/s", "ch", "year"]


class MetadataField(NamedTuple):
    """The limit of a field, the unit of a number, and whether searches count tracks by the field."""

    limit: Limit
    unit: Unit | None = None
    is_facet: bool = False


#: The values that a search can count among its hits: the fields that are facets, the decade of the year, and the
#: status.
FacetName = Literal["artist", "genre", "format", "decade", "status"]


def _text(characters: int, *, default: str | None = None, is_facet: bool = False) -> Any:  # noqa: ANN401
    """Return a field of text, of at most *characters* characters."""
    field = MetadataField(TextLimit(characters), is_facet=is_facet)
    return dataclasses.field(default=default, metadata={"field": field})


def _whole(lowest: int, highest: int, unit: Unit | None = None) -> Any:  # noqa: ANN401
    """Return a field of whole numbers."""
    return dataclasses.field(default=None, metadata={"field": MetadataField(WholeLimit(lowest, highest), unit)})


def _number(lowest: float, highest: float, unit: Unit | None = None) -> Any:  # noqa: ANN401
    """Return a field of numbers, with or without a fraction."""
    return dataclasses.field(default=None, metadata={"field": MetadataField(NumberLimit(lowest, highest), unit)})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackMetadata:
    """
    The metadata of one track; the constructor validates it.

    The constructor coerces nothing: ``year=True``, ``year=1999.7`` and ``duration="5"`` are refused. Text is
    normalized to NFC. A missing title becomes "Untitled"; other text without a visible character becomes None. The
    units are seconds for *duration*, Hz for *sample_rate* and bit/s for *bitrate*.

    Raises:
        InvalidInput: a field breaks its rule; the error names every such field, with its limit.

    >>> TrackMetadata(title="Jóga", artist="Björk", year=1997, duration=305.0).title
    'Jóga'

    """

    title: str = _text(1000, default="Untitled")
    artist: str | None = _text(1000, is_facet=True)
    album: str | None = _text(1000)
    genre: str | None = _text(200, is_facet=True)
    year: int | None = _whole(1000, 9999, "year")
    duration: float | None = _number(0.0, 31_536_000.0, "s")  # The maximum is one year.
    channels: int | None = _whole(1, 256, "ch")
    sample_rate: int | None = _whole(1, 100_000_000, "Hz")  # DSD1024 runs at 45 MHz.
    bitrate: int | None = _whole(1, 2_000_000_000, "bit/s")
    format: str | None = _text(50, is_facet=True)

    __repr__ = discreet

    def __post_init__(self) -> None:
        problems = []
        for field in METADATA_FIELDS:
            value = getattr(self, field)
            if value is None:
                if field == "title":
                    object.__setattr__(self, field, "Untitled")
                continue
            cleaned = _CLEANERS[field](value)
            if field == "title":
                cleaned = required(field, cleaned)
            if isinstance(cleaned, Problem):
                problems.append(cleaned)
            elif cleaned is not value:
                object.__setattr__(self, field, cleaned)
        if problems:
            raise InvalidInput(problems)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """
        Return the metadata in *values*, a mapping such as an extractor's dictionary; missing keys become None.

        Raises:
            InvalidInput: a field breaks its rule, or a key is unknown; the error names every such key.

        >>> TrackMetadata.from_mapping({"title": "Army of Me", "year": 1995}).year
        1995

        """
        if not isinstance(values, Mapping):
            raise InvalidInput(Problem("metadata", f"a mapping of field names to values, not {kind_of(values)}"))
        metadata, problems = metadata_in(values, cls)
        problems += _unknown_fields(values, METADATA_FIELDS)
        if problems:
            raise InvalidInput(problems)
        return metadata


_Metadata = TypeVar("_Metadata", bound=TrackMetadata)


class MetadataColumns:
    """The metadata fields as columns of ``Track``, for type checkers; ``models/tables.py`` creates the columns."""

    title: Mapped[str]
    artist: Mapped[str | None]
    album: Mapped[str | None]
    genre: Mapped[str | None]
    year: Mapped[int | None]
    duration: Mapped[float | None]
    channels: Mapped[int | None]
    sample_rate: Mapped[int | None]
    bitrate: Mapped[int | None]
    format: Mapped[str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataFilters:
    """The metadata fields of ``SearchFilters``: values for text, ranges for numbers."""

    genre: str | Collection[str] | None = None
    format: str | Collection[str] | None = None
    artist: str | Collection[str] | None = None
    album: str | Collection[str] | None = None
    year: int | tuple[int | None, int | None] | None = None
    duration: float | tuple[float | None, float | None] | None = None
    bitrate: int | tuple[int | None, int | None] | None = None


#: The version of the SQL functions that take or return metadata. A revision that adds fields creates the next version.
CONTENT_VERSION: Final = 1
FIELDS: Final[Mapping[str, MetadataField]] = {
    field.name: field.metadata["field"] for field in dataclasses.fields(TrackMetadata)
}
METADATA_FIELDS: Final = tuple(FIELDS)
_PATHS: Final = ("audio_path", "thumbnail_path")
#: The columns that a save compares and stores.
CONTENT_COLUMNS: Final = (*METADATA_FIELDS, *_PATHS)
LIMITS: Final[Mapping[str, Limit]] = {
    **{name: field.limit for name, field in FIELDS.items()},
    **dict.fromkeys(_PATHS, TextLimit(4096)),
}
TEXT_LIMITS: Final = {field: limit for field, limit in LIMITS.items() if isinstance(limit, TextLimit)}
NUMBER_LIMITS: Final = {field: limit for field, limit in LIMITS.items() if not isinstance(limit, TextLimit)}
_CLEANERS: Final = {field: cleaner(field, limit) for field, limit in LIMITS.items()}
_MAX_UNKNOWN_NAMED: Final = 20


@final  # A dataclass that inherits from this class would get a constructor without checks.
@dataclass(frozen=True, slots=True, init=False)
class TrackRecord:
    """
    The content of one save: the metadata, the paths, the id and the first status.

    - *audio_path*, *thumbnail_path*: texts of at most 4,096 characters; the package never opens the files
    - *id*: a UUID or its text; a new UUID of version 7 by default
    - *status*: the status of a new track, PENDING or COMPLETED

    Raises:
        InvalidInput: a field breaks its rule; the error names every such field.
        IllegalTransition: a new track cannot have *status*.

    >>> TrackRecord(TrackMetadata(title="Jóga"), "s3://music/joga.flac").status
    <TrackStatus.COMPLETED: 'COMPLETED'>

    """

    metadata: TrackMetadata
    audio_path: str
    id: UUID
    thumbnail_path: str | None
    status: TrackStatus

    __repr__ = discreet

    def __init__(
        self,
        metadata: TrackMetadata,
        audio_path: str,
        id: UUID | str | None = None,  # noqa: A002  # Callers know the column by this name.
        thumbnail_path: str | None = None,
        status: TrackStatus | StatusName = TrackStatus.COMPLETED,
    ) -> None:
        path = required("audio_path", _CLEANERS["audio_path"](audio_path))
        thumbnail = None if thumbnail_path is None else _CLEANERS["thumbnail_path"](thumbnail_path)
        problems = [cleaned for cleaned in (path, thumbnail) if isinstance(cleaned, Problem)]
        if not isinstance(metadata, TrackMetadata):
            problems.insert(0, Problem("metadata", f"a TrackMetadata, not {kind_of(metadata)}"))
        try:
            identifier = new_id() if id is None else parse_id(id)
        except InvalidInput as error:
            problems += error.problems
        try:
            first = parse_choice(TrackStatus, status, "status")
        except InvalidInput as error:
            problems += error.problems
        if problems:
            raise InvalidInput(problems, operation="save")
        object.__setattr__(self, "metadata", metadata)
        object.__setattr__(self, "audio_path", path)
        object.__setattr__(self, "id", identifier)
        object.__setattr__(self, "thumbnail_path", thumbnail)
        object.__setattr__(self, "status", first)
        if self.status not in TRANSITIONS[None]:
            raise IllegalTransition(None, self.status, track_id=self.id, allowed=TRANSITIONS[None])

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> TrackRecord:
        """
        Return the record in *values*, a mapping of the fields of ``TrackMetadata`` and of this class.

        Raises:
            InvalidInput: a field breaks its rule, or a key is unknown; the error names every such key.
            IllegalTransition: a new track cannot have the record's status.

        >>> TrackRecord.from_mapping({"title": "Jóga", "audio_path": "s3://music/joga.flac"}).metadata.title
        'Jóga'

        """
        if not isinstance(values, Mapping):
            raise InvalidInput(Problem("record", f"a mapping of field names to values, not {kind_of(values)}"))
        metadata, problems = metadata_in(values, TrackMetadata)
        if values.get("audio_path") is None:
            problems.append(Problem("audio_path", "missing"))
        given = {key: values[key] for key in RECORD_FIELDS if values.get(key) is not None}
        no_first: IllegalTransition | None = None
        try:
            record = cls(
                metadata,
                given.get("audio_path", "-"),
                given.get("id"),
                given.get("thumbnail_path"),
                given.get("status", TrackStatus.COMPLETED),
            )
        except InvalidInput as error:
            problems += error.problems
        except IllegalTransition as error:
            no_first = error
        problems += _unknown_fields(values, RECORD_FIELDS)
        if problems:
            raise InvalidInput(problems, operation="save")
        if no_first is not None:
            raise no_first
        return record

    def content(self) -> dict[str, Any]:
        """Return the values that a save compares and stores, by column."""
        values = {field: getattr(self.metadata, field) for field in METADATA_FIELDS}
        return values | {"audio_path": self.audio_path, "thumbnail_path": self.thumbnail_path}

    def is_content_of(self, track: object) -> bool:
        """Return whether *track* has this record's content."""
        return all(getattr(track, name) == value for name, value in self.content().items())


RECORD_FIELDS: Final = (*METADATA_FIELDS, "audio_path", "id", "thumbnail_path", "status")


@dataclass(frozen=True, slots=True)
class ExportedRecord:
    """
    A record that another catalogue exported, with facts that a save cannot set.

    - *record*: its status is PENDING or COMPLETED; a track that was PROCESSING becomes PENDING, because no worker of
      this catalogue has claimed it
    - *has_failed*: the track is saved as PENDING and moved to FAILED in the same transaction
    - *created_at*: None means now; only the owner of the schema may set another time

    Raises:
        InvalidInput: a field breaks its rule, such as a *created_at* without a time zone.

    >>> record = TrackRecord(TrackMetadata(title="Jóga"), "s3://music/joga.flac", status=TrackStatus.PENDING)
    >>> ExportedRecord(record, has_failed=True).id == record.id
    True

    """

    record: TrackRecord
    has_failed: bool = False
    created_at: datetime | None = None

    __repr__ = discreet

    def __post_init__(self) -> None:
        problems = []
        if not isinstance(self.record, TrackRecord):
            problems.append(Problem("record", f"a TrackRecord, not {kind_of(self.record)}"))
        elif self.has_failed and self.record.status is not TrackStatus.PENDING:
            problems.append(Problem("has_failed", "true only if the record's status is PENDING"))
        if self.created_at is not None and (
            not isinstance(self.created_at, datetime) or self.created_at.utcoffset() is None
        ):
            problems.append(Problem("created_at", "a datetime with a time zone"))
        if problems:
            raise InvalidInput(problems, operation="save")

    @classmethod
    def of(
        cls,
        metadata: TrackMetadata,
        audio_path: str,
        id: UUID | str | None,  # noqa: A002  # Callers know the column by this name.
        thumbnail_path: str | None,
        *,
        status: TrackStatus,
        created_at: datetime | None = None,
    ) -> ExportedRecord:
        """
        Return the record of a track that had *status* in the exporting catalogue.

        Raises:
            InvalidInput: a field breaks its rule; the error names every such field.
        """
        there = parse_choice(TrackStatus, status, "status")
        first = TrackStatus.COMPLETED if there is TrackStatus.COMPLETED else TrackStatus.PENDING
        record = TrackRecord(metadata, audio_path, id, thumbnail_path, first)
        return cls(record, there is TrackStatus.FAILED, created_at)

    @property
    def id(self) -> UUID:
        """The track's id."""
        return self.record.id


def metadata_in(values: Mapping[str, Any], kind: type[_Metadata]) -> tuple[_Metadata, list[Problem]]:
    """Return the metadata in *values*, which may have other keys, or empty metadata with the broken rules."""
    try:
        return kind(**{key: values[key] for key in METADATA_FIELDS if key in values}), []
    except InvalidInput as error:
        return kind(), list(error.problems)


def _unknown_fields(values: Mapping[Any, Any], fields: Sequence[str]) -> list[Problem]:
    """Return a problem for each of the first 20 keys that are not in *fields*, and one problem for the others."""
    unknown = [key for key in values if not (issubclass(type(key), str) and key in fields)]
    problems = [
        Problem(printable(key), "no such field")
        if issubclass(type(key), str)
        else Problem("metadata", f"field names are text, not {kind_of(key)}")
        for key in unknown[:_MAX_UNKNOWN_NAMED]
    ]
    if len(unknown) > _MAX_UNKNOWN_NAMED:
        problems.append(Problem("metadata", f"{len(unknown) - _MAX_UNKNOWN_NAMED:,} more fields are unknown"))
    if problems:
        problems[-1] = problems[-1]._replace(rule=f"{problems[-1].rule}; the fields are {', '.join(fields)}")
    return problems
