"""What a caller hands in: the metadata of a track and the record around it, validated and frozen.

The rules of every field stand here once, as ``LIMITS``; the CHECK constraints of ``models.py`` are made of them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, Self, final
from uuid import UUID

from audiocatalog.errors import IllegalTransition, InvalidInput, Problem, kind_of, printable
from audiocatalog.models.arguments import parse_choice
from audiocatalog.models.ids import new_id, parse_id
from audiocatalog.models.normalization import composed
from audiocatalog.models.redaction import discreet
from audiocatalog.status import TRANSITIONS, TrackStatus


class TextLimit(NamedTuple):
    """Allow text of at most *characters* characters (code points, after NFC)."""

    characters: int


class WholeLimit(NamedTuple):
    """Allow whole numbers from *lowest* to *highest*."""

    lowest: int
    highest: int


class NumberLimit(NamedTuple):
    """Allow finite numbers from *lowest* to *highest*."""

    lowest: float
    highest: float


Limit = TextLimit | WholeLimit | NumberLimit

LIMITS: Final[Mapping[str, Limit]] = {
    "title": TextLimit(1000),
    "artist": TextLimit(1000),
    "album": TextLimit(1000),
    "genre": TextLimit(200),
    "year": WholeLimit(1000, 9999),
    "duration": NumberLimit(0.0, 31_536_000.0),  # seconds; a year of sound
    "channels": WholeLimit(1, 256),
    "sample_rate": WholeLimit(1, 100_000_000),  # Hz; DSD1024 runs at 45 MHz
    "bitrate": WholeLimit(1, 2_000_000_000),  # bit/s
    "format": TextLimit(50),
    "audio_path": TextLimit(4096),
    "thumbnail_path": TextLimit(4096),
}

TEXT_LIMITS: Final = {field: limit for field, limit in LIMITS.items() if isinstance(limit, TextLimit)}
NUMBER_LIMITS: Final = {field: limit for field, limit in LIMITS.items() if not isinstance(limit, TextLimit)}

#: The rules of what accompanies a change of status.
CHANGE_LIMITS: Final[Mapping[str, TextLimit]] = {"actor": TextLimit(200), "reason": TextLimit(1000)}

#: The inside of a regular expression's brackets: every character that leaves no mark on a page. Spaces, controls and
#: formats (Unicode categories Z, Cc and Cf), fillers and other default-ignorables. Its twin in SQL is
#: ``audiocatalog_visible_v1``; a test compares the two for every character there is.
INVISIBLE: Final = (
    r"\u0001-\u0020\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680"
    r"\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0"
    r"\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    r"\U000e0000-\U000e0fff"
)
_VISIBLE = re.compile(f"[^{INVISIBLE}]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# NFC makes one character of at most four (U+1F82, say); longer text is refused before a copy of it is made.
_NFC_SHRINKS_AT_MOST = 4
_MOST_UNKNOWN_NAMED = 20


def clean_text(field: str, value: object, limit: TextLimit) -> str | Problem | None:
    """Return *value* in NFC, None where it has no visible character, or the rule of *field* that it breaks."""
    # Most text is this simple, and needs nothing of what follows.
    if type(value) is str and len(value) <= limit.characters and value.isascii() and value.isprintable():
        return None if value.isspace() or not value else value
    # An object may pose as a string by its __class__; only its type tells.
    if not issubclass(type(value), str):
        return Problem(field, f"text, not {kind_of(value)}")
    text = str.__str__(value)  # The characters of a subclass, such as a member of an enum.
    if len(text) <= limit.characters * _NFC_SHRINKS_AT_MOST:
        if "\0" in text:
            return Problem(field, "no NUL character")
        if _SURROGATE.search(text):
            return Problem(field, "no lone surrogates")
        text = composed(text)
    if len(text) > limit.characters:
        return Problem(field, f"at most {limit.characters:,} characters, not {len(text):,}", limit.characters)
    return text if _VISIBLE.search(text) else None


def _clean_whole(field: str, value: object, limit: WholeLimit) -> int | Problem:
    if type(value) is int and limit.lowest <= value <= limit.highest:
        return value
    rule = f"a whole number from {limit.lowest} to {limit.highest}"
    # bool is a subclass of int, but True is no year.
    if not issubclass(type(value), int) or isinstance(value, bool):
        return Problem(field, f"{rule}, not {kind_of(value)}", tuple(limit))
    number = int.__index__(value)  # type: ignore[arg-type]  # The number of a subclass, such as a member of an enum.
    return number if limit.lowest <= number <= limit.highest else Problem(field, rule, tuple(limit))


def _clean_number(field: str, value: object, limit: NumberLimit) -> float | Problem:
    # NaN compares false with everything, so it fails this test as infinity does.
    if issubclass(type(value), int | float) and value is not True and value is not False:
        if limit.lowest <= value <= limit.highest:  # type: ignore[operator]
            return float(value) + 0.0  # type: ignore[arg-type]  # The sum makes -0.0 the one zero.
        unlike = ""
    else:
        unlike = f", not {kind_of(value)}"
    return Problem(field, f"a number from {limit.lowest:.0f} to {limit.highest:.0f}{unlike}", tuple(limit))


_Clean = Callable[[object], object]


def _cleaner(field: str, limit: Limit) -> _Clean:
    """Return the function that gives a value of *field* as it is stored, None, or the rule that it breaks."""
    match limit:
        case TextLimit():
            return lambda value: clean_text(field, value, limit)
        case WholeLimit():
            return lambda value: _clean_whole(field, value, limit)
        case NumberLimit():
            return lambda value: _clean_number(field, value, limit)


_CLEANERS: Final[Mapping[str, _Clean]] = {field: _cleaner(field, limit) for field, limit in LIMITS.items()}


def _required(field: str, cleaned: object) -> object:
    return Problem(field, "at least one visible character") if cleaned is None else cleaned


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackMetadata:
    """
    Hold the metadata of one track, validated when it is made.

    Nothing is coerced: ``year=True``, ``year=1999.7`` and ``duration="5"`` are refused. Text is brought to NFC; a
    missing title is "Untitled", other text without a visible character is None.

    *duration* is in seconds, *sample_rate* in Hz, *bitrate* in bit/s, *channels* a count, *year* a calendar year.

    Raises:
        InvalidInput: names every field that breaks its rule, with the limit.

    >>> TrackMetadata(title="Jóga", artist="Björk", year=1997, duration=305.0).title
    'Jóga'

    """

    title: str = "Untitled"
    artist: str | None = None
    album: str | None = None
    genre: str | None = None
    year: int | None = None
    duration: float | None = None
    channels: int | None = None
    sample_rate: int | None = None
    bitrate: int | None = None
    format: str | None = None

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
                cleaned = _required(field, cleaned)
            if isinstance(cleaned, Problem):
                problems.append(cleaned)
            elif cleaned is not value:
                object.__setattr__(self, field, cleaned)
        if problems:
            raise InvalidInput(problems)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """
        Return the metadata in *values*, a plain dictionary as an extractor gives it; missing keys are unknown values.

        Raises:
            InvalidInput: names unknown keys as well as every field that breaks its rule.

        >>> TrackMetadata.from_mapping({"title": "Army of Me", "year": 1995}).year
        1995

        """
        if not isinstance(values, Mapping):
            raise InvalidInput(Problem("metadata", f"a mapping of field names to values, not {kind_of(values)}"))
        problems: list[Problem] = []
        try:
            metadata = cls(**{key: values[key] for key in METADATA_FIELDS if key in values})
        except InvalidInput as error:
            problems += error.problems
        problems += _unknown_fields(values, METADATA_FIELDS)
        if problems:
            raise InvalidInput(problems)
        return metadata


METADATA_FIELDS: Final = tuple(field.name for field in dataclasses.fields(TrackMetadata))


@final  # A dataclass made of it would have a constructor of its own, which checks nothing.
@dataclass(frozen=True, slots=True, init=False)
class TrackRecord:
    """
    Hold everything that one save stores: the metadata, where the sound lies, the id and the first status.

    *id* is a UUID or its text; without one, a new UUID of version 7 is made. The paths are data: they are never
    opened. *status* is the status of a track that does not exist yet, PENDING or COMPLETED.

    Raises:
        InvalidInput: names every field that breaks its rule.
        IllegalTransition: no track begins in *status*.

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
        id: UUID | str | None = None,  # noqa: A002  # The column's name, which callers know.
        thumbnail_path: str | None = None,
        status: TrackStatus = TrackStatus.COMPLETED,
    ) -> None:
        path = _required("audio_path", _CLEANERS["audio_path"](audio_path))
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
        Return the record in *values*, a plain dictionary of the fields of ``TrackMetadata`` and of this class.

        Raises:
            InvalidInput: names unknown keys as well as every field that breaks its rule.
            IllegalTransition: no track begins in its status.

        >>> TrackRecord.from_mapping({"title": "Jóga", "audio_path": "s3://music/joga.flac"}).metadata.title
        'Jóga'

        """
        if not isinstance(values, Mapping):
            raise InvalidInput(Problem("record", f"a mapping of field names to values, not {kind_of(values)}"))
        problems: list[Problem] = []
        metadata = TrackMetadata()
        try:
            metadata = TrackMetadata(**{key: values[key] for key in METADATA_FIELDS if key in values})
        except InvalidInput as error:
            problems += error.problems
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
        """Return the twelve values that a save compares and stores, by column."""
        values = {field: getattr(self.metadata, field) for field in METADATA_FIELDS}
        return values | {"audio_path": self.audio_path, "thumbnail_path": self.thumbnail_path}

    def is_content_of(self, track: object) -> bool:
        """Tell whether *track* holds this record's content."""
        return all(getattr(track, name) == value for name, value in self.content().items())


RECORD_FIELDS: Final = (*METADATA_FIELDS, "audio_path", "id", "thumbnail_path", "status")


@dataclass(frozen=True, slots=True)
class ExportedRecord:
    """
    A record that another catalogue has exported, with what a save cannot say: that it failed, and when it was created.

    A track begins as the status table allows: one that was FAILED there is saved as PENDING and moved to FAILED in the
    same transaction; one that was PROCESSING there is PENDING here, since no worker of this catalogue holds it.
    *created_at* None means now. Only the owner of the schema may give another time.

    Raises:
        InvalidInput: names every field that breaks its rule, such as a *created_at* without a time zone.

    >>> record = TrackRecord(TrackMetadata(title="Jóga"), "s3://music/joga.flac", status=TrackStatus.PENDING)
    >>> ExportedRecord(record, has_failed=True).id == record.id
    True

    """

    record: TrackRecord
    has_failed: bool = False
    created_at: datetime | None = None

    __repr__ = discreet

    def __post_init__(self) -> None:
        """Check what the types do not."""
        problems = []
        if not isinstance(self.record, TrackRecord):
            problems.append(Problem("record", f"a TrackRecord, not {kind_of(self.record)}"))
        elif self.has_failed and self.record.status is not TrackStatus.PENDING:
            problems.append(Problem("has_failed", "true only where the record's status is PENDING"))
        if self.created_at is not None and (
            not isinstance(self.created_at, datetime) or self.created_at.utcoffset() is None
        ):
            problems.append(Problem("created_at", "a datetime with its time zone"))
        if problems:
            raise InvalidInput(problems, operation="save")

    @classmethod
    def of(
        cls,
        metadata: TrackMetadata,
        audio_path: str,
        id: UUID | str | None,  # noqa: A002  # The column's name, which callers know.
        thumbnail_path: str | None,
        *,
        status: TrackStatus,
        created_at: datetime | None = None,
    ) -> ExportedRecord:
        """
        Return the record of a track that had *status* where it was exported.

        Raises:
            InvalidInput: names every field that breaks its rule.
        """
        there = parse_choice(TrackStatus, status, "status")
        first = TrackStatus.COMPLETED if there is TrackStatus.COMPLETED else TrackStatus.PENDING
        record = TrackRecord(metadata, audio_path, id, thumbnail_path, first)
        return cls(record, there is TrackStatus.FAILED, created_at)

    @property
    def id(self) -> UUID:
        """The track's id."""
        return self.record.id


def _unknown_fields(values: Mapping[Any, Any], fields: Sequence[str]) -> list[Problem]:
    """Return a problem for each key that is none of *fields*, and one for all beyond the twentieth."""
    unknown = [key for key in values if not (issubclass(type(key), str) and key in fields)]
    problems = [
        Problem(printable(key), "no such field")
        if issubclass(type(key), str)
        else Problem("metadata", f"field names are text, not {kind_of(key)}")
        for key in unknown[:_MOST_UNKNOWN_NAMED]
    ]
    if len(unknown) > _MOST_UNKNOWN_NAMED:
        problems.append(Problem("metadata", f"{len(unknown) - _MOST_UNKNOWN_NAMED:,} more fields are unknown"))
    if problems:
        problems[-1] = problems[-1]._replace(rule=f"{problems[-1].rule}; the fields are {', '.join(fields)}")
    return problems


def clean_actor(actor: object, field: str = "actor") -> str:
    """
    Return *actor*, who does something, in NFC; an error names *field*.

    Raises:
        InvalidInput: it is no text, has no visible character or more than 200 characters, or holds NUL or surrogates.
    """
    return str(_refused(_required(field, clean_text(field, actor, CHANGE_LIMITS["actor"]))))


def clean_reason(reason: object, field: str = "reason") -> str | None:
    """
    Return *reason*, why something is done, in NFC; None where it shows nothing. An error names *field*.

    Raises:
        InvalidInput: it is no text, has more than 1,000 characters, or holds NUL or surrogates.
    """
    cleaned = None if reason is None else _refused(clean_text(field, reason, CHANGE_LIMITS["reason"]))
    return None if cleaned is None else str(cleaned)


def _refused(cleaned: object) -> object:
    if isinstance(cleaned, Problem):
        raise InvalidInput(cleaned)
    return cleaned
