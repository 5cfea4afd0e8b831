"""From the rows of a file to records that can be saved, or the reason why one cannot."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, NamedTuple
from uuid import UUID, uuid5

from audiocatalog.cli.plan import FIELDS, Format, Plan, text_of
from audiocatalog.cli.rows import CsvFile, JsonLinesFile, Lines, Place, Row, UnusableFile
from audiocatalog.cli.text import printable, quoted
from audiocatalog.errors import InvalidInput, Problem
from audiocatalog.metadata import (
    LIMITS,
    METADATA_FIELDS,
    NumberLimit,
    TextLimit,
    TrackMetadata,
    TrackRecord,
    WholeLimit,
)

#: The namespace of the ids that are made from a path or a column. It never changes: importing a file for the second
#: time finds the tracks of the first time by it.
ID_NAMESPACE: Final = UUID("a3d0c9f4-3b8f-4c8e-9a55-6a1f0d6c2e71")

_WHOLE_NUMBER: Final = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_NUMBER: Final = re.compile(r"-?(?:[0-9]{1,18}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_MOST_IGNORED_COLUMNS: Final = 100


class Refusal(NamedTuple):
    """Say which row of a file cannot be saved, and why."""

    place: Place
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True, slots=True)
class ReadRecord(TrackRecord):
    """Hold a record that was read from a file, and its *place* there."""

    place: Place = field(kw_only=True)


def read_records(
    file: BinaryIO, file_format: Format, plan: Plan, *, ignored: Callable[[Sequence[str]], None] = lambda _: None
) -> Iterator[ReadRecord | Refusal]:
    """
    Give a record or a refusal for every row of *file*, in constant memory.

    *ignored* is told once of every column that means nothing: for CSV at the start, for JSON Lines where it is met.

    Raises:
        UnusableFile: the file as a whole does not fit *plan*: before its first row, if it is CSV.
    """
    with Lines(file) as lines:
        if file_format == "csv":
            yield from _read_csv(CsvFile(lines), plan, ignored)
        else:
            yield from _read_json_lines(JsonLinesFile(lines), plan, ignored)


def _read_csv(file: CsvFile, plan: Plan, ignored: Callable[[Sequence[str]], None]) -> Iterator[ReadRecord | Refusal]:
    present, sources, named = set(file.columns), plan.sources(), plan.named_columns()
    if missing := sorted(named - present):
        raise UnusableFile(f"there is no column {', '.join(map(quoted, missing))}: {_columns_are(file.columns)}")
    sources = {name: column for name, column in sources.items() if column in present}
    used = named | set(sources.values())
    if twice := sorted(column for column in used if file.columns.count(column) > 1):
        raise UnusableFile(f"there are several columns {', '.join(map(quoted, twice))}")
    if plan.audio_path is None and "audio_path" not in sources:
        raise UnusableFile(
            "there is no column audio_path: name the one that holds the paths by --map audio_path=COLUMN, "
            f"or make them by --audio-path 's3://music/{{COLUMN}}.mp3'; {_columns_are(file.columns)}"
        )
    if sources.keys().isdisjoint(METADATA_FIELDS):
        raise UnusableFile(
            f"no column tells anything of a track: name some by --map FIELD=COLUMN; {_columns_are(file.columns)}"
        )
    if unused := [column for column in file.columns if column not in used]:
        ignored(unused)
    builder = _Builder(plan, sources, from_text=True)
    for row in file:
        yield builder.build(row)


def _read_json_lines(
    file: JsonLinesFile, plan: Plan, ignored: Callable[[Sequence[str]], None]
) -> Iterator[ReadRecord | Refusal]:
    builder = _Builder(plan, plan.sources(), from_text=False)
    known = plan.named_columns() | set(plan.sources().values())
    unknown: set[str] = set()
    for row in file:
        new = [name for name in row.cells if name not in known and name not in unknown]
        if new and len(unknown) < _MOST_IGNORED_COLUMNS:
            unknown.update(new)
            ignored(new)
        yield builder.build(row)


class _Builder:
    """Make records of rows, and tell every rule that a row breaks, not only the first."""

    def __init__(self, plan: Plan, sources: Mapping[str, str], *, from_text: bool) -> None:
        self._plan = plan
        self._sources = sources
        self._from_text = from_text

    def build(self, row: Row) -> ReadRecord | Refusal:
        """Return the record that *row* holds, or why it holds none."""
        if row.problem is not None:
            return Refusal(row.place, row.problem)
        values = self._values(row.cells)
        problems = [value for value in values.values() if isinstance(value, Problem)]
        sound: dict[str, Any] = {name: None if isinstance(value, Problem) else value for name, value in values.items()}
        told: dict[str, Any] = {name: sound.get(name) for name in METADATA_FIELDS}
        try:
            metadata = TrackMetadata(**told)
        except InvalidInput as error:
            problems += error.problems
            metadata = TrackMetadata()
        # A path that was found wrong above is not to be complained of twice.
        path = "-" if sound["audio_path"] is None else sound["audio_path"]
        try:
            record = ReadRecord(
                metadata, path, sound["id"], sound.get("thumbnail_path"), self._plan.status, place=row.place
            )
        except InvalidInput as error:
            problems += error.problems
        if problems:
            problems.sort(key=lambda problem: FIELDS.index(problem.field))
            return Refusal(row.place, "; ".join(f"{problem.field}: {problem.rule}" for problem in problems))
        return record

    def _values(self, cells: Mapping[str, Any]) -> dict[str, Any]:
        """Return a value for every field of a row, None where it is unknown, or the problem with it."""
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
            text = text_of("id", self._plan.id_from, cells)
            return text if isinstance(text, Problem) else uuid5(ID_NAMESPACE, text)
        # A CSV file has an id column or has none, but each object of JSON Lines may have an id of its own.
        column = self._sources.get("id")
        if column is not None and (self._from_text or column in cells):
            return Problem("id", "missing") if values["id"] is None else values["id"]
        path = values["audio_path"]
        if not isinstance(path, str) or _SURROGATE.search(path):
            return None
        # The form in which the path will be stored.
        return uuid5(ID_NAMESPACE, unicodedata.normalize("NFC", path))


def _from_text(name: str, cell: str) -> str | float | Problem | None:
    """Return the value that the text in a CSV cell stands for, None if there is no text."""
    if not cell:
        return None
    if broken := _SURROGATE.search(cell):
        return Problem(name, f"not UTF-8: it holds the byte {printable(broken.group())}")
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
