"""Read the rows of a CSV or JSON Lines file one at a time; a bad row does not affect the others.

Nothing here knows what a track is. At most one row is held in memory.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Final, NamedTuple, Self

from audiocatalog.cli.text import lone_surrogate, quoted
from audiocatalog.errors import kind_of

#: Rows of more characters are refused. The longest text of a track is far shorter.
LONGEST_ROW: Final = 16 * 2**20

#: The first bytes of files that are not UTF-8 text, and what to tell the user about them.
_OTHER_FORMATS: Final = {
    b"\xff\xfe": "the file is UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "the file is UTF-16 text: save it as UTF-8",
    b"PK\x03\x04": "the file is a spreadsheet or a zip archive: export it as CSV",
    b"\x1f\x8b": "the file is compressed twice: unpack it first, as by `gunzip -c FILE`",
    **dict.fromkeys(
        (b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh91AY&SY"), "the file is compressed, and not by gzip: unpack it first"
    ),
}
_LONGEST_BEGINNING: Final = max(map(len, _OTHER_FORMATS))

#: What stands in a file: the cells of a CSV row, else the text of its line; None where it is not kept.
Source = Sequence[str] | str | None


class UnusableFile(ValueError):
    """Refuse a whole file, because it cannot be read with the given options."""


class Place(NamedTuple):
    """
    The place of a row: its number from 1, and its *line* in the file unless that follows from the number.

    >>> str(Place(17)), str(Place(17, 23))
    ('row 17', 'row 17 (line 23)')

    """

    row: int
    line: int | None = None

    def __str__(self) -> str:
        return f"row {self.row}" if self.line is None else f"row {self.row} (line {self.line})"


class Row(NamedTuple):
    """
    The cells of a row by column, and the *problem* if the row cannot be read.

    *source* is not kept of a line that is too long. *length* is the number of characters that were read.
    """

    place: Place
    cells: dict[str, Any]
    problem: str | None = None
    source: Source = None
    length: int = 0


class _Record(NamedTuple):
    """What the lines from *line* on hold in CSV: *cells*, or the *problem* with *source*."""

    line: int
    cells: list[str]
    problem: str | None
    source: Source
    length: int


class CsvFile:
    """Read CSV: *columns* come from the first line; each further row maps them to its cells, as far as it has any."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._records = self._read_records()
        first = next(self._records, None)
        if first is None:
            raise UnusableFile("the file is empty: its first line must hold the names of its columns")
        if first.problem:
            raise UnusableFile(
                f"the first line, which must hold the names of its columns, cannot be read: {first.problem}"
            )
        self.columns = tuple(name.strip() for name in first.cells)

    def __iter__(self) -> Iterator[Row]:
        width = len(self.columns)
        for row, record in enumerate(self._records, 1):
            place = Place(row, None if record.line == row + 1 else record.line)
            count = len(record.cells)
            too_many = f"{count} cells, but the file has {width} columns" if count > width else None
            cells = dict(zip(self.columns, record.cells, strict=False))
            yield Row(place, cells, record.problem or too_many, record.source, record.length)

    def _read_records(self) -> Iterator[_Record]:
        """
        Give the records one after the other.

        A quotation mark that is never closed makes many lines one cell, and the error is noticed far below its cause.
        So only the first line is refused, and the lines after it are read again as rows of their own.
        """
        lines = self._lines
        usual_limit = csv.field_size_limit(sys.maxsize)
        try:
            while True:
                reader = csv.reader(lines, strict=True)
                try:
                    start = lines.begin_record()
                    for cells in reader:
                        if cells:  # An empty line has no cells.
                            yield _Record(start, cells, None, cells, lines.length)
                        start = lines.begin_record()
                except (csv.Error, _TooLong) as error:
                    source, length = lines.first_of_record, lines.length
                    several = lines.put_back_all_but_the_first()
                    doubt = isinstance(error, csv.Error) or several
                    problem = f"{error}{': is a quotation mark missing or not doubled?' if doubt else ''}"
                    yield _Record(start, [], problem, source, length)
                else:
                    return
        finally:
            csv.field_size_limit(usual_limit)


class JsonLinesFile:
    """Read JSON Lines: one object on each line. Empty lines are skipped."""

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
                text, cells, problem = None, {}, str(error)
            count += 1
            yield Row(Place(count, None if line == count else line), cells, problem, text, self._lines.length)


class _TooLong(Exception):
    """The row is longer than ``LONGEST_ROW``."""

    def __init__(self) -> None:
        super().__init__(f"longer than {LONGEST_ROW:,} characters")


class Lines:
    """
    Give the lines of *file*, remember those of the current record, and put lines back.

    Used in a ``with`` block, which leaves the file open. Bytes that are not UTF-8 become lone surrogates; a cell with
    one is refused later, if it is used.

    Raises:
        UnusableFile: the file is no text, by its first bytes.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self._returned: deque[str] = deque()
        self._record: list[str] = []
        self._number = 0
        #: The characters of the current record that have been read.
        self.length = 0
        self._returned.extend(filter(None, [self._text.readline(LONGEST_ROW + 1)]))
        if self._returned:
            _check_format(self._returned[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A generator that is abandoned ends some time later; the file may be closed by then.
        if not self._text.closed:
            self._text.detach()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        # A line ends in \n, \r\n or \r; the text layer knows all three.
        line = self._returned.popleft() if self._returned else self._text.readline(LONGEST_ROW + 1)
        if not line:
            raise StopIteration
        self._number += 1
        self.length += len(line)
        if len(line) > LONGEST_ROW:
            line = self._cut(line)
        self._record.append(line)
        if self.length > LONGEST_ROW:
            raise _TooLong
        return line

    def begin_record(self) -> int:
        """Forget the lines of the last record; return the number of the next line."""
        self._record.clear()
        self.length = 0
        return self._number + 1

    @property
    def first_of_record(self) -> str | None:
        """The first line of the current record, None if it is too long to be kept."""
        return self._record[0] if len(self._record[0]) <= LONGEST_ROW else None

    def put_back_all_but_the_first(self) -> bool:
        """Put back the lines of the record after its first, and return whether there are any."""
        again = self._record[1:]
        self._returned.extendleft(reversed(again))
        self._number -= len(again)
        return bool(again)

    def _cut(self, line: str) -> str:
        """Skip the rest of a line that is too long, and return the beginning that was read."""
        rest = line
        while rest and rest[-1] not in "\r\n":
            rest = self._text.readline(LONGEST_ROW + 1)
        return line if line[-1] in "\r\n" else f"{line}\n"


def _check_format(first_line: str) -> None:
    first_bytes = first_line[:_LONGEST_BEGINNING].encode(errors="surrogateescape")
    for beginning, what in _OTHER_FORMATS.items():
        if first_bytes.startswith(beginning):
            raise UnusableFile(what)


def _parse_object(text: str) -> tuple[dict[str, Any], str | None]:
    """Return the object that *text* holds, or the problem with it."""
    if (character := lone_surrogate(text)) is not None:
        return {}, f"not UTF-8: it holds the byte {quoted(character)}"
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object_of)
    except RecursionError:
        return {}, "not readable as JSON: nested too deeply"
    except json.JSONDecodeError as error:
        return {}, f"not readable as JSON: {error.msg} at character {error.pos + 1}"
    except ValueError as error:
        # Python's own message for a number of thousands of digits is about a setting of the interpreter.
        reason = "a number of too many digits" if str(error).startswith("Exceeds") else str(error)
        return {}, f"not readable as JSON: {reason}"
    if not isinstance(value, dict):
        return {}, f"a JSON object was expected, not {kind_of(value)}"
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
