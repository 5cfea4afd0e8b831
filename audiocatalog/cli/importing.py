"""Turn the rows of a file into records that can be saved, or into the reasons why they cannot.

A ``Plan`` says what the columns mean, and a ``RecordReader`` reads a file by it. Nothing here needs a database or a
terminal.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePath
from typing import Any, BinaryIO, Final, Literal, NamedTuple, Self
from uuid import UUID, uuid5

from audiocatalog.cli.rows import CsvFile, JsonLinesFile, Lines, Place, Row, Source, UnusableFile
from audiocatalog.cli.text import lone_surrogate, quoted
from audiocatalog.errors import InvalidInput, Problem, kind_of
from audiocatalog.metadata import (
    LIMITS,
    METADATA_FIELDS,
    NumberLimit,
    TextLimit,
    TrackMetadata,
    TrackRecord,
    WholeLimit,
)
from audiocatalog.printing import escaped
from audiocatalog.status import TrackStatus

Format = Literal["csv", "jsonl"]

_SUFFIXES: Final[dict[str, Format]] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}

#: The fields that a file can hold.
FIELDS: Final = (*METADATA_FIELDS, "audio_path", "thumbnail_path", "id")

#: The column in which a file of refused rows says why, which an import of that file ignores.
REASON: Final = "refused_because"

#: The namespace of the ids that are made from a path or a column. It must never change: by it, a second import of a
#: file finds the tracks of the first.
ID_NAMESPACE: Final = UUID("a3d0c9f4-3b8f-4c8e-9a55-6a1f0d6c2e71")

_WHOLE_NUMBER: Final = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_NUMBER: Final = re.compile(r"-?(?:[0-9]{1,18}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
_MOST_IGNORED_COLUMNS: Final = 100


def format_of(path: PurePath) -> Format | None:
    """Return the format that the name of a file tells, whether it is compressed or not."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    return _SUFFIXES.get(suffixes[-1]) if suffixes else None


@dataclass(frozen=True, slots=True)
class Template:
    """
    A pattern for paths: *parts* are literal text and, at every odd index, the name of a column.

    >>> Template.parse("s3://music/{id}.mp3").parts
    ('s3://music/', 'id', '.mp3')

    """

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Return the template in *text*, where ``{column}`` stands for a cell, and ``{{`` and ``}}`` for braces.

        Raises:
            UnusableFile: a brace stands alone.
        """
        literals, parts = re.split(r"(\{\{|\}\}|\{[^{}]+\})", text), [""]
        for index, piece in enumerate(literals):
            if index % 2 and piece not in {"{{", "}}"}:
                parts += [piece[1:-1], ""]
                continue
            if not index % 2 and re.search("[{}]", piece):
                raise UnusableFile(f"the template {quoted(text)} has a single brace: columns are written {{column}}")
            parts[-1] += piece[:1] if index % 2 else piece
        return cls(tuple(parts))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns in the template."""
        return self.parts[1::2]

    def fill(self, cells: Mapping[str, Any]) -> str | Problem:
        """Return the path for a row, or the problem with one of its cells."""
        filled = list(self.parts)
        for index in range(1, len(filled), 2):
            text = _text_of("audio_path", filled[index], cells)
            if isinstance(text, Problem):
                return text
            filled[index] = text
        return "".join(filled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    What the columns of a file mean.

    *columns* maps fields to columns of another name. *audio_path* makes the path of each row. *id_from* names a column
    whose values differ from track to track; ids are made from them. *status* is the status of new tracks.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    audio_path: Template | None = None
    id_from: str | None = None
    status: TrackStatus = TrackStatus.COMPLETED

    def __post_init__(self) -> None:
        if self.audio_path is not None and "audio_path" in self.columns:
            raise UnusableFile("the path comes either from a column or from a template, not from both")
        if self.id_from is not None and "id" in self.columns:
            raise UnusableFile("the id is either a column of UUIDs or made from one, not both")

    def sources(self) -> dict[str, str]:
        """Return the column of each field that is read from a column."""
        sources = {name: self.columns.get(name, name) for name in FIELDS}
        if self.audio_path is not None:
            del sources["audio_path"]
        if self.id_from is not None:
            del sources["id"]
        return sources

    def named_columns(self) -> set[str]:
        """Return the columns that the user named, which the file must have."""
        named = set(self.columns.values())
        if self.audio_path is not None:
            named.update(self.audio_path.columns)
        if self.id_from is not None:
            named.add(self.id_from)
        return named


class Refusal(NamedTuple):
    """The place of a row that cannot be saved, and the reason; *source* and *length* are those of ``Row``."""

    place: Place
    reason: str
    source: Source = None
    length: int = 0

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class ReadRecord(NamedTuple):
    """The place of a row, and the record that was read from it; *source* and *length* are those of ``Row``."""

    place: Place
    record: TrackRecord
    source: Source = None
    length: int = 0

    def refused(self, reason: str) -> Refusal:
        """Return the refusal of this row."""
        return Refusal(self.place, reason, self.source, self.length)


class RecordReader:
    """
    Give a record or a refusal for every row of *file*, in constant memory.

    *ignored* is called with the columns that are not used: for CSV at once, for JSON Lines at the first row that has
    them. With *keep_sources*, records and refusals hold what stands in the file.

    Used in a ``with`` block, which leaves the file open.

    Raises:
        UnusableFile: the file does not fit *plan*.
    """

    def __init__(
        self,
        file: BinaryIO,
        file_format: Format,
        plan: Plan,
        *,
        ignored: Callable[[Sequence[str]], None] = lambda _: None,
        keep_sources: bool = False,
    ) -> None:
        self._lines = Lines(file)
        self._keep_sources = keep_sources
        #: The names in the first line of a CSV file.
        self.columns: tuple[str, ...] = ()
        #: The keys that *plan* maps to fields, and that no row of a JSON Lines file has had until now.
        self.absent: set[str] = set()
        if file_format == "csv":
            table = CsvFile(self._lines)
            self.columns = table.columns
            sources = _columns_of_fields(table.columns, plan, ignored)
            self._rows = iter(table)
        else:
            sources = plan.sources()
            self.absent.update(plan.columns.values())
            self._rows = _telling_of_unknown_keys(JsonLinesFile(self._lines), plan, ignored, self.absent)
        self._builder = _Builder(plan, sources, from_text=file_format == "csv")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.__exit__()

    def __iter__(self) -> Iterator[ReadRecord | Refusal]:
        for row in self._rows:
            yield self._builder.build(row if self._keep_sources else row._replace(source=None, length=0))

    def skip(self, rows: int) -> Iterator[int]:
        """Pass over so many *rows*, and give the number of each."""
        return (row.place.row for row in islice(self._rows, rows))


def read_records(file: BinaryIO, file_format: Format, plan: Plan) -> Iterator[ReadRecord | Refusal]:
    """
    Give a record or a refusal for every row of *file*, in constant memory.

    Raises:
        UnusableFile: the file does not fit *plan*.
    """
    with RecordReader(file, file_format, plan) as reader:
        yield from reader


def _columns_of_fields(columns: Sequence[str], plan: Plan, ignored: Callable[[Sequence[str]], None]) -> dict[str, str]:
    """Return the column of each field that one of the *columns* of a CSV file holds."""
    present, sources, named = set(columns), plan.sources(), plan.named_columns()
    if missing := sorted(named - present):
        raise UnusableFile(f"there is no column {', '.join(map(quoted, missing))}: {_columns_are(columns)}")
    sources = {name: column for name, column in sources.items() if column in present}
    used = named | set(sources.values())
    if twice := sorted(column for column in used if columns.count(column) > 1):
        raise UnusableFile(f"there are several columns {', '.join(map(quoted, twice))}")
    if plan.audio_path is None and "audio_path" not in sources:
        raise UnusableFile(
            "there is no column audio_path: name the one that holds the paths by --map audio_path=COLUMN, "
            f"or make them by --audio-path 's3://music/{{COLUMN}}.mp3'; {_columns_are(columns)}"
        )
    if sources.keys().isdisjoint(METADATA_FIELDS):
        raise UnusableFile(
            f"no column tells anything of a track: name some by --map FIELD=COLUMN; {_columns_are(columns)}"
        )
    if unused := [column for column in columns if column not in used and column != REASON]:
        ignored(unused)
    return sources


def _telling_of_unknown_keys(
    rows: Iterable[Row], plan: Plan, ignored: Callable[[Sequence[str]], None], absent: set[str]
) -> Iterator[Row]:
    """Pass the rows of a JSON Lines file on, name the keys that are not used, and take those that are from *absent*."""
    known = plan.named_columns() | set(plan.sources().values()) | {REASON}
    unknown: set[str] = set()
    for row in rows:
        new = [name for name in row.cells if name not in known and name not in unknown]
        if new and len(unknown) < _MOST_IGNORED_COLUMNS:
            unknown.update(new)
            ignored(new)
        if absent:
            absent.difference_update([name for name in absent if name in row.cells])
        yield row


class _Builder:
    """Make records from rows, and collect every problem of a row, not only the first."""

    def __init__(self, plan: Plan, sources: Mapping[str, str], *, from_text: bool) -> None:
        self._plan = plan
        self._sources = sources
        self._from_text = from_text

    def build(self, row: Row) -> ReadRecord | Refusal:
        """Return the record in *row*, or its refusal."""
        if row.problem is not None:
            return Refusal(row.place, row.problem, row.source, row.length)
        values = self._values(row.cells)
        problems = [value for value in values.values() if isinstance(value, Problem)]
        sound: dict[str, Any] = {name: None if isinstance(value, Problem) else value for name, value in values.items()}
        told: dict[str, Any] = {name: sound.get(name) for name in METADATA_FIELDS}
        try:
            metadata = TrackMetadata(**told)
        except InvalidInput as error:
            problems += error.problems
            metadata = TrackMetadata()
        # A path that is refused above must not be refused a second time below.
        path = "-" if sound["audio_path"] is None else sound["audio_path"]
        try:
            record = TrackRecord(metadata, path, sound["id"], sound.get("thumbnail_path"), self._plan.status)
        except InvalidInput as error:
            problems += error.problems
        if problems:
            problems.sort(key=lambda problem: FIELDS.index(problem.field))
            reason = "; ".join(f"{problem.field}: {problem.rule}" for problem in problems)
            return Refusal(row.place, reason, row.source, row.length)
        return ReadRecord(row.place, record, row.source, row.length)

    def _values(self, cells: Mapping[str, Any]) -> dict[str, Any]:
        """Return the value of every field, None where it is unknown, or the problem with it."""
        values = {name: cells.get(column) for name, column in self._sources.items()}
        if self._from_text:
            values = {name: _from_text(name, cell or "") for name, cell in values.items()}
        if self._plan.audio_path is not None:
            values["audio_path"] = self._plan.audio_path.fill(cells)
        elif values["audio_path"] is None:
            values["audio_path"] = Problem("audio_path", "missing")
        values["id"] = self._id(cells, values)
        return values

    def _id(self, cells: Mapping[str, Any], values: Mapping[str, Any]) -> Any:  # noqa: ANN401  # JSON holds anything.
        if self._plan.id_from is not None:
            text = _text_of("id", self._plan.id_from, cells)
            return text if isinstance(text, Problem) else uuid5(ID_NAMESPACE, text)
        # In CSV, all rows have an id or none has; in JSON Lines, some objects may have one.
        column = self._sources.get("id")
        if column is not None and (self._from_text or column in cells):
            return Problem("id", "missing") if values["id"] is None else values["id"]
        path = values["audio_path"]
        if not isinstance(path, str) or lone_surrogate(path):
            return None  # The path is refused, so the id does not matter.
        # Paths are stored in NFC.
        return uuid5(ID_NAMESPACE, unicodedata.normalize("NFC", path))


def _text_of(name: str, column: str, cells: Mapping[str, Any]) -> str | Problem:
    """Return the text in *column*, from which the field *name* is made, or the problem with it."""
    value = cells.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or value == "":
        return Problem(name, f"the column {quoted(column)} is empty")
    if not isinstance(value, str):
        return Problem(name, f"the column {quoted(column)} must be text or a whole number, not {kind_of(value)}")
    if lone_surrogate(value):
        return Problem(name, f"the column {quoted(column)} is not UTF-8")
    return value


def _from_text(name: str, cell: str) -> str | float | Problem | None:
    """Return the value of a CSV cell, None if the cell is empty, or the problem with it."""
    if not cell:
        return None
    if broken := lone_surrogate(cell):
        return Problem(name, f"not UTF-8: it holds the byte {escaped(broken)}")
    limit = LIMITS.get(name)
    if limit is None or isinstance(limit, TextLimit):
        return cell
    return _number_from_text(name, cell, limit) if cell.strip() else None


def _number_from_text(name: str, cell: str, limit: WholeLimit | NumberLimit) -> float | Problem:
    text = cell.strip()
    if isinstance(limit, WholeLimit):
        kind = "whole number"
        if _WHOLE_NUMBER.fullmatch(text):
            return int(text)
    else:
        kind = "number"
        if _NUMBER.fullmatch(text):
            return float(text)
    return Problem(name, f"a {kind} from {limit.lowest:.0f} to {limit.highest:.0f}, not {quoted(cell)}")


def _columns_are(columns: Sequence[str]) -> str:
    return f"its columns are {', '.join(map(quoted, columns))}"
