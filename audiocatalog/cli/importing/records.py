"""Records made from the rows of a file, and refusals of rows that cannot be saved.

A ``Plan`` gives the meaning of the columns, and a ``RecordReader`` reads a file with this plan. This module needs
neither a database nor a terminal.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePath
from typing import Any, BinaryIO, Final, Literal, NamedTuple, Self
from uuid import UUID, uuid5

from audiocatalog.cli.importing.columns import FIELDS, IMPORTED, Columns, check_columns, match_columns
from audiocatalog.cli.importing.json_array import JsonArrayFile
from audiocatalog.cli.importing.lines import UTF8, Lines, UnusableFile
from audiocatalog.cli.importing.rows import CsvFile, JsonLinesFile, Place, Row, Source
from audiocatalog.cli.importing.values import How, Reading, read_value, text_of, text_problem
from audiocatalog.cli.text import lone_surrogate, quoted
from audiocatalog.errors import InvalidInput, Problem
from audiocatalog.models.metadata import ExportedRecord, TrackMetadata, TrackRecord, metadata_in
from audiocatalog.models.normalization import composed
from audiocatalog.status import TrackStatus

Format = Literal["csv", "jsonl"]

_SUFFIXES: Final[dict[str, Format]] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
#: Further formats that are read but never written: cells separated by tabs, and arrays of objects.
_READ_SUFFIXES: Final[dict[str, Format]] = {**_SUFFIXES, ".tsv": "csv", ".tab": "csv", ".json": "jsonl"}

#: The namespace of ids that are derived from a path or a column. It must never change, because a second import
#: must derive the same ids as the first.
ID_NAMESPACE: Final = UUID("a3d0c9f4-3b8f-4c8e-9a55-6a1f0d6c2e71")

_MOST_IGNORED_COLUMNS: Final = 100
_MOST_SHAPES: Final = 1000


def format_of(path: PurePath, *, is_read: bool = False) -> Format | None:
    """Return the format that the name of a file shows, or None. Some formats are read but not written: *is_read*."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    return (_READ_SUFFIXES if is_read else _SUFFIXES).get(suffixes[-1]) if suffixes else None


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
            UnusableFile: the text has an unpaired brace.
        """
        parts, literal = list[str](), list[str]()
        for index, piece in enumerate(re.split(r"(\{\{|\}\}|\{[^{}]+\})", text)):
            if index % 2 and piece not in {"{{", "}}"}:
                parts += ["".join(literal), piece[1:-1]]
                literal = []
                continue
            if not index % 2 and re.search("[{}]", piece):
                raise UnusableFile(f"the template {quoted(text)} has a single brace: columns are written {{column}}")
            literal.append(piece[:1] if index % 2 else piece)
        return cls((*parts, "".join(literal)))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns in the template."""
        return self.parts[1::2]

    def fill(self, cells: Mapping[str, Any], encoding: str) -> str | Problem:
        """Return the path for a row, or the problem with one of its cells."""
        filled = list(self.parts)
        for index in range(1, len(filled), 2):
            text = text_of("audio_path", filled[index], cells, encoding)
            if isinstance(text, Problem):
                return text
            filled[index] = text
        return "".join(filled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    The meaning of a file's columns.

    - *columns*: the columns with another name than their field, by field
    - *audio_path*: the template of paths, if no column holds them
    - *id_from*: a column whose values are unique for each track, from which ids are derived
    - *status*: the status of all new tracks; if None, the status in their column, or COMPLETED
    - *units*: the units of bare numbers, by field
    - *restores*: whether the times of creation are read
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    audio_path: Template | None = None
    id_from: str | None = None
    status: TrackStatus | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    restores: bool = False

    def __post_init__(self) -> None:
        if self.audio_path is not None and "audio_path" in self.columns:
            raise UnusableFile("--map audio_path and --audio-path both give the path: leave one of them out")
        if self.id_from is not None and "id" in self.columns:
            raise UnusableFile("--map id and --id-from both give the id: leave one of them out")
        if self.status is not None and "status" in self.columns:
            raise UnusableFile("--map status and --status both give the status: leave one of them out")
        if "created_at" in self.columns and not self.restores:
            raise UnusableFile("--map created_at names times of creation, which only --restore keeps: add --restore")

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are read from a column."""
        elsewhere = {
            "audio_path": self.audio_path is not None,
            "id": self.id_from is not None,
            "status": self.status is not None,
            "created_at": not self.restores,
        }
        return tuple(name for name in FIELDS if not elsewhere.get(name))

    def columns_of(self, columns: Sequence[str]) -> Columns:
        """Return the fields that *columns* hold."""
        return match_columns(columns, self.fields, self.columns, self.named_columns())

    def named_columns(self) -> set[str]:
        """Return the columns that the user named. The file must have these columns."""
        named = set(self.columns.values())
        if self.audio_path is not None:
            named.update(self.audio_path.columns)
        if self.id_from is not None:
            named.add(self.id_from)
        if self.restores:
            named.add(self.columns.get("created_at", "created_at"))
        return named


class RefusedRow(NamedTuple):
    """A row that cannot be saved, and the reason. *source* and *length* are those of ``Row``."""

    place: Place
    reason: str
    source: Source = None
    length: int = 0

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


class ReadRecord(NamedTuple):
    """
    A row and the record that was read from it. *source* and *length* are those of ``Row``.

    *exported*: the record with the status FAILED or a time of creation, which a save cannot set; None without both.
    """

    place: Place
    record: TrackRecord
    source: Source = None
    length: int = 0
    exported: ExportedRecord | None = None

    def refused(self, reason: str) -> RefusedRow:
        """Return the refusal of this row."""
        return RefusedRow(self.place, reason, self.source, self.length)


class RecordReader:
    """
    An iterator over the rows of *file*, each as a record or a refusal, in constant memory.

    Use it in a ``with`` block, which leaves the file open. A JSON file holds one object on each line, or one array.

    - *ignored*: called with unused columns, for CSV at once, for JSON at the first row that has them
    - *keep_sources*: whether records and refusals hold their source
    - *delimiter*: the character between cells; if None, the first line of a CSV file shows it

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
        encoding: str = UTF8,
        delimiter: str | None = None,
    ) -> None:
        self._lines = Lines(file, encoding)
        self._keep_sources = keep_sources
        self._plan = plan
        self._ignored = ignored
        #: The names in the first line of a CSV file.
        self.columns: tuple[str, ...] = ()
        #: The character between the cells of a CSV file.
        self.delimiter = ","
        #: The keys that *plan* maps to fields and that no row of a JSON file has had yet.
        self.absent: set[str] = set()
        #: The columns with another name than their field, by field.
        self.renamed: dict[str, str] = {}
        #: The units of bare numbers, by field.
        self.units: dict[str, str] = dict(plan.units)
        #: The number of converted values, by field and way of conversion.
        self.converted: Counter[tuple[str, How]] = Counter()
        self._unknown: set[str] = set()
        self._shapes: dict[tuple[str, ...], Columns] = {}
        self._table: Columns | None = None
        self._is_own = False
        self._rows: Iterator[Row]
        if file_format == "csv":
            table = CsvFile(self._lines, delimiter)
            self.columns, self.delimiter = table.columns, table.delimiter
            self._table = self._understood(table.columns)
            check_columns(table.columns, self._table, plan.named_columns(), makes_path=plan.audio_path is not None)
            # In this package's own exports, text such as NULL is a value.
            self._is_own = set(IMPORTED) <= set(table.columns)
            self._rows = iter(table)
        else:
            self.absent.update(plan.columns.values())
            self._rows = iter(
                JsonArrayFile(self._lines) if JsonArrayFile.fits(self._lines) else JsonLinesFile(self._lines)
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.__exit__()

    def __iter__(self) -> Iterator[ReadRecord | RefusedRow]:
        for row in self._rows:
            yield self._read(row if self._keep_sources else row._replace(source=None, length=0))

    def skip(self, rows: int) -> Iterator[int]:
        """Skip *rows* rows, and yield the number of each."""
        return (row.place.row for row in islice(self._rows, rows))

    def _understood(self, columns: Sequence[str]) -> Columns:
        """Return the fields that *columns* hold, and report unused columns."""
        found = self._plan.columns_of(columns)
        self.renamed |= found.renamed
        self.units = found.units | self.units
        if len(self._unknown) < _MOST_IGNORED_COLUMNS:
            new = [name for name in found.unused if name not in self._unknown]
            if self._table is None and new:
                self._unknown.update(new)
                self._ignored(new)
        return found

    def _columns_in(self, cells: Mapping[str, Any]) -> Columns:
        """Return the fields that the keys of an object hold. Objects with the same keys share one result."""
        shape = tuple(cells)
        if (found := self._shapes.get(shape)) is None:
            if len(self._shapes) >= _MOST_SHAPES:
                self._shapes.clear()
            found = self._shapes[shape] = self._understood(shape)
        if self.absent:
            self.absent.difference_update([name for name in self.absent if name in cells])
        return found

    def _read(self, row: Row) -> ReadRecord | RefusedRow:
        """Return the record in *row*, or a refusal that names every problem."""
        if row.problem is not None:
            return RefusedRow(row.place, row.problem, row.source, row.length)
        readings = self._readings(row.cells, self._table or self._columns_in(row.cells))
        values = {name: reading.value for name, reading in readings.items()}
        problems = [value for value in values.values() if isinstance(value, Problem)]
        sound: dict[str, Any] = {name: None if isinstance(value, Problem) else value for name, value in values.items()}
        metadata, broken = metadata_in(sound, TrackMetadata)
        problems += broken
        # A path that is refused already must not be reported again.
        path = "-" if sound["audio_path"] is None else sound["audio_path"]
        try:
            exported = ExportedRecord.of(
                metadata,
                path,
                sound["id"],
                sound.get("thumbnail_path"),
                status=sound.get("status") or self._plan.status or TrackStatus.COMPLETED,
                created_at=sound.get("created_at"),
            )
        except InvalidInput as error:
            problems += error.problems
        if problems:
            problems.sort(key=lambda problem: FIELDS.index(problem.field))
            reason = "; ".join(f"{problem.field}: {problem.rule}" for problem in problems)
            return RefusedRow(row.place, reason, row.source, row.length)
        self.converted.update((name, reading.how) for name, reading in readings.items() if reading.how is not None)
        says_more = exported.has_failed or exported.created_at is not None
        return ReadRecord(row.place, exported.record, row.source, row.length, exported if says_more else None)

    def _readings(self, cells: Mapping[str, Any], columns: Columns) -> dict[str, Reading]:
        """Return the value of every field, which is None if unknown, or the problem with it."""
        is_csv, encoding = self._table is not None, self._lines.encoding
        readings: dict[str, Reading] = {}
        for name, column in columns.sources.items():
            cell = cells.get(column)
            if is_csv and cell and (problem := text_problem(name, cell, encoding)):
                readings[name] = Reading(problem)
                continue
            unit = self._plan.units.get(name) or columns.units.get(name)
            # "None", "-" and "Nan" are titles of songs.
            verbatim = self._is_own or not is_csv or name == "title"
            readings[name] = read_value(name, cell, unit=unit, verbatim=verbatim)
        if self._plan.audio_path is not None:
            readings["audio_path"] = Reading(self._plan.audio_path.fill(cells, encoding))
        elif readings.get("audio_path", Reading(None)).value is None:
            readings["audio_path"] = Reading(Problem("audio_path", "missing"))
        readings["id"] = Reading(self._id(cells, columns, readings))
        return readings

    def _id(self, cells: Mapping[str, Any], columns: Columns, readings: Mapping[str, Reading]) -> Any:  # noqa: ANN401
        if self._plan.id_from is not None:
            text = text_of("id", self._plan.id_from, cells, self._lines.encoding)
            return text if isinstance(text, Problem) else uuid5(ID_NAMESPACE, text)
        # In CSV, all rows or none have an id. In JSON, some objects may have one.
        if "id" in columns.sources:
            found = readings["id"].value
            return Problem("id", "missing") if found is None else found
        path = readings["audio_path"].value
        if not isinstance(path, str) or lone_surrogate(path):
            return None  # The path is refused, so the id does not matter.
        # Paths are stored in NFC.
        return uuid5(ID_NAMESPACE, composed(path))


def read_records(file: BinaryIO, file_format: Format, plan: Plan) -> Iterator[ReadRecord | RefusedRow]:
    """
    Yield a record or a refusal for every row of *file*, in constant memory.

    Raises:
        UnusableFile: the file does not fit *plan*.
    """
    with RecordReader(file, file_format, plan) as reader:
        yield from reader
