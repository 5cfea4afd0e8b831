"""The rows of a CSV or JSON Lines file, one at a time, so that no row can take another one down with it.

It knows nothing of tracks, and keeps no more than one row in memory.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any, BinaryIO, Final, NamedTuple, Self

from audiocatalog.cli.text import quoted

#: A row longer than this is refused. The text that a track can hold is 400 times shorter.
LONGEST_ROW: Final = 16 * 2**20

#: What a file begins with that is no text in UTF-8.
_OTHER_FORMATS: Final = {
    b"\xff\xfe": "the file is UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "the file is UTF-16 text: save it as UTF-8",
    b"PK\x03\x04": "the file is a spreadsheet or a zip archive: export it as CSV",
    b"\x1f\x8b": "the file is compressed: unpack it first, as by `gunzip -c FILE | audiocatalog import --format csv -`",
}


class UnusableFile(ValueError):
    """Say why no row of a file can be read with the options that were given."""


class Place(NamedTuple):
    """
    Say where a row stands: the *row*, counted from 1, and the *line* of the file unless it follows from the row.

    >>> str(Place(17)), str(Place(17, 23))
    ('row 17', 'row 17 (line 23)')

    """

    row: int
    line: int | None = None

    def __str__(self) -> str:
        return f"row {self.row}" if self.line is None else f"row {self.row} (line {self.line})"


class Row(NamedTuple):
    """Hold the cells of a row, by their columns, or the *problem* for which they cannot be told."""

    place: Place
    cells: dict[str, Any]
    problem: str | None = None


class CsvFile:
    """Read CSV: *columns* come from the first line, then every row is a mapping of them to text, "" where missing."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._records = self._read_records()
        first = next(self._records, None)
        if first is None:
            raise UnusableFile("the file is empty: its first line must hold the names of its columns")
        _, _, names, problem = first
        if problem:
            raise UnusableFile(f"the first line, which must hold the names of its columns, cannot be read: {problem}")
        self.columns = tuple(name.strip() for name in names)

    def __iter__(self) -> Iterator[Row]:
        width = len(self.columns)
        for count, line, cells, problem in self._records:
            row = count - 1
            place = Place(row, None if line == row + 1 else line)
            too_many = f"{len(cells)} cells, but the file has {width} columns" if len(cells) > width else None
            yield Row(place, dict(zip(self.columns, cells, strict=False)), problem or too_many)

    def _read_records(self) -> Iterator[tuple[int, int, list[str], str | None]]:
        """
        Give each record's count, first line, cells and problem.

        A quotation mark that nobody closed makes one cell of many lines. The error then stands far below its cause, so
        only the first line is refused and the others are read again, as what they were before that mark.
        """
        lines, count = self._lines, 0
        usual_limit = csv.field_size_limit(sys.maxsize)
        try:
            while True:
                reader = csv.reader(lines, strict=True)
                try:
                    start = lines.begin_record()
                    for cells in reader:
                        if cells:  # An empty line has none.
                            count += 1
                            yield count, start, cells, None
                        start = lines.begin_record()
                except (csv.Error, _TooLong) as error:
                    count += 1
                    several = lines.take_back_all_but_the_first()
                    doubt = isinstance(error, csv.Error) or several
                    yield count, start, [], f"{error}{': is a quotation mark missing or not doubled?' if doubt else ''}"
                else:
                    return
        finally:
            csv.field_size_limit(usual_limit)


class JsonLinesFile:
    """Read JSON Lines: one object on each line; empty lines are left out."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def __iter__(self) -> Iterator[Row]:
        count = 0
        while True:
            line = self._lines.begin_record()
            try:
                text = next(self._lines, None)
                if text is None:
                    return
                if not text.strip():
                    continue
                cells, problem = _parse_object(text)
            except _TooLong as error:
                cells, problem = {}, str(error)
            count += 1
            yield Row(Place(count, None if line == count else line), cells, problem)


class _TooLong(Exception):
    """Say that a row is longer than ``LONGEST_ROW``."""

    def __init__(self) -> None:
        super().__init__(f"longer than {LONGEST_ROW:,} characters")


class Lines:
    """
    Hand out the lines of *file*, remember those of the record that is being read, and take lines back.

    Used in a ``with`` block, which leaves the file open. Bytes that are not UTF-8 become lone surrogates, by which the
    cell that holds them is refused later, alone.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self._returned: deque[str] = deque()
        self._record: list[str] = []
        self._length = 0
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A reader that was given up ends some time later, perhaps after its file.
        if not self._text.closed:
            self._text.detach()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        # A line may end in \r alone, and inside a record any line may: the text layer knows all three ends.
        line = self._returned.popleft() if self._returned else self._text.readline(LONGEST_ROW + 1)
        if not line:
            raise StopIteration
        if self._number == 0:
            _check_format(line)
        self._number += 1
        self._length += len(line)
        if len(line) > LONGEST_ROW:
            line = self._cut(line)
        self._record.append(line)
        if self._length > LONGEST_ROW:
            raise _TooLong
        return line

    def begin_record(self) -> int:
        """Forget the lines of the last record and return the number of the next line."""
        self._record.clear()
        self._length = 0
        return self._number + 1

    def take_back_all_but_the_first(self) -> bool:
        """Hand out the record's other lines once more, and say whether there are any."""
        again = self._record[1:]
        self._returned.extendleft(reversed(again))
        self._number -= len(again)
        return bool(again)

    def _cut(self, line: str) -> str:
        """Leave out the rest of a line of which no more than the beginning was read."""
        rest = line
        while rest and rest[-1] not in "\r\n":
            rest = self._text.readline(LONGEST_ROW + 1)
        return line if line[-1] in "\r\n" else f"{line}\n"


def _check_format(first_line: str) -> None:
    first_bytes = first_line[:4].encode(errors="surrogateescape")
    for beginning, what in _OTHER_FORMATS.items():
        if first_bytes.startswith(beginning):
            raise UnusableFile(what)


def _parse_object(text: str) -> tuple[dict[str, Any], str | None]:
    """Return the object that *text* is, or the reason why it is none."""
    if (character := next((c for c in text if "\udc80" <= c <= "\udcff"), None)) is not None:
        return {}, f"not UTF-8: it holds the byte {quoted(character)}"
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object_of)
    except RecursionError:
        return {}, "not readable as JSON: nested too deeply"
    except json.JSONDecodeError as error:
        return {}, f"not readable as JSON: {error.msg} at character {error.pos + 1}"
    except ValueError as error:
        # Python refuses whole numbers of thousands of digits in a sentence about its own settings.
        reason = "a number of too many digits" if str(error).startswith("Exceeds") else str(error)
        return {}, f"not readable as JSON: {reason}"
    if not isinstance(value, dict):
        return {}, f"a JSON object was expected, not {type(value).__name__}"
    return value, None


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{quoted(twice)} stands there twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
