"""Readers of the rows of CSV and JSON Lines files. A bad row does not affect the others.

This module does not depend on the meaning of the columns. At most one row is held in memory, and each line is parsed at
most twice, so that the time is linear in the length of the file.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from audiocatalog.cli.importing.lines import Lines, TooLong, UnusableFile
from audiocatalog.cli.text import lone_surrogate, quoted
from audiocatalog.errors import kind_of

#: The source of a row: the cells of a CSV row, or the text of a row of JSON. None if the source is not kept.
Source = Sequence[str] | str | None

#: The delimiters that are recognized. If the first line does not decide, the first of these is used.
DELIMITERS: Final = (",", ";", "\t", "|")
_MOST_DIGITS: Final = 100
# The line in which some spreadsheets name the delimiter, before the names of the columns.
_SEPARATOR: Final = re.compile(r'"?sep=(.)"?[\r\n]*', re.IGNORECASE)


class Place(NamedTuple):
    """
    The number of a row, from 1, and its *line* in the file, if the line does not follow from the number.

    >>> str(Place(17)), str(Place(17, 23))
    ('row 17', 'row 17 (line 23)')

    """

    row: int
    line: int | None = None

    def __str__(self) -> str:
        return f"row {self.row}" if self.line is None else f"row {self.row} (line {self.line})"


class Row(NamedTuple):
    """
    The cells of a row by column, or the *problem* if the row cannot be read.

    *source* is None if the line is too long. *length* is the number of characters of the row.
    """

    place: Place
    cells: dict[str, Any]
    problem: str | None = None
    source: Source = None
    length: int = 0


class _Record(NamedTuple):
    """A CSV record that begins in *line*: its *cells*, or the *problem* with its *source*."""

    line: int
    cells: list[str]
    problem: str | None
    source: Source
    length: int


class CsvFile:
    """
    The rows of a CSV file, whose first line names the *columns*. Cells that a row lacks are left out.

    If *delimiter* is None, the reader uses the delimiter that splits the first line into the most columns.

    Raises:
        UnusableFile: the file is empty, or its first line cannot be read.
    """

    def __init__(self, lines: Lines, delimiter: str | None = None) -> None:
        self._lines = lines
        self._lines_before = 1
        first_line = lines.peek() or ""
        if (separator := _SEPARATOR.fullmatch(first_line)) is not None:
            next(lines)
            self._lines_before = 2
            delimiter = delimiter or separator[1]
        #: The character between cells.
        self.delimiter = delimiter or _delimiter_of(first_line)
        self._records = self._read_records()
        first = next(self._records, None)
        if first is None:
            raise UnusableFile("the file is empty: its first line must hold the names of the columns")
        if first.problem:
            raise UnusableFile(
                f"the first line, which must hold the names of the columns, cannot be read: {first.problem}"
            )
        self.columns = tuple(name.strip() for name in first.cells)

    def __iter__(self) -> Iterator[Row]:
        width = len(self.columns)
        for row, record in enumerate(self._records, 1):
            place = Place(row, None if record.line == row + self._lines_before else record.line)
            count = len(record.cells)
            too_many = f"{count} cells, but the file has {width} columns" if count > width else None
            cells = dict(zip(self.columns, record.cells, strict=False))
            yield Row(place, cells, record.problem or too_many, record.source, record.length)

    def _read_records(self) -> Iterator[_Record]:
        """
        Yield the records in order.

        A quotation mark that is never closed turns many lines into one cell, and the parser reports it far below the
        cause. So only the first line is refused, and the lines after it are put back and read again as rows. If a
        cell is still open at the end of such a line, it would end in the same error, so that line is refused at
        once. Therefore, no line is read a third time.
        """
        lines = self._lines
        usual_limit = csv.field_size_limit(sys.maxsize)
        known = ""
        try:
            while True:
                reader = csv.reader(lines, strict=True, delimiter=self.delimiter)
                try:
                    start = lines.begin_record()
                    for cells in reader:
                        if cells:  # An empty line has no cells.
                            yield _Record(start, cells, None, cells, lines.length)
                        start = lines.begin_record()
                except _StillOpen:
                    yield _Record(start, [], known, lines.first_of_record, lines.length)
                except (csv.Error, TooLong) as error:
                    source, length = lines.first_of_record, lines.length
                    several = lines.put_back_all_but_the_first(_StillOpen)
                    doubt = isinstance(error, csv.Error) or several
                    known = f"{error}{': is a quotation mark missing or not doubled?' if doubt else ''}"
                    yield _Record(start, [], known, source, length)
                else:
                    return
        finally:
            csv.field_size_limit(usual_limit)


class _StillOpen(Exception):
    """A cell continues into lines that are known to end in an error."""


class JsonLinesFile:
    """The rows of a JSON Lines file, one object on each line. Empty lines are skipped."""

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
                cells, problem = parse_object(text, self._lines.encoding)
            except TooLong as error:
                text, cells, problem = None, {}, str(error)
            count += 1
            yield Row(Place(count, None if line == count else line), cells, problem, text, self._lines.length)


def parse_object(text: str, encoding: str = "UTF-8") -> tuple[dict[str, Any], str | None]:
    """Return the object that *text* holds, or the problem with it."""
    if (character := lone_surrogate(text)) is not None:
        return {}, f"not {encoding}: it holds the byte {quoted(character)}"
    try:
        value = json.loads(text, parse_int=_whole_number, parse_constant=_refuse_constant, object_pairs_hook=_object_of)
    except RecursionError:
        return {}, "not readable as JSON: nested too deeply"
    except json.JSONDecodeError as error:
        return {}, f"not readable as JSON: {error.msg} at character {error.pos + 1}"
    except ValueError as error:
        return {}, f"not readable as JSON: {error}"
    if not isinstance(value, dict):
        return {}, f"a JSON object was expected, not {kind_of(value)}"
    return value, None


def _delimiter_of(first_line: str) -> str:
    """Return the delimiter that splits *first_line* into the most columns."""
    line = first_line.rstrip("\r\n")
    if sum(delimiter in line for delimiter in DELIMITERS) <= 1:
        return next((delimiter for delimiter in DELIMITERS if delimiter in line), DELIMITERS[0])
    usual_limit = csv.field_size_limit(sys.maxsize)
    try:
        widths = [len(next(csv.reader([line], delimiter=delimiter), [])) for delimiter in DELIMITERS]
    finally:
        csv.field_size_limit(usual_limit)
    return DELIMITERS[widths.index(max(widths))]


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the key {quoted(name)} is repeated")
            seen.add(name)
    return found


def _whole_number(digits: str) -> int:
    # Python's conversion of digits takes quadratic time.
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of more than {_MOST_DIGITS} digits")
    return int(digits)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
