"""A file of the rows that an import refused, for the user to correct and import."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

from audiocatalog.cli.importing.columns import REASON
from audiocatalog.cli.importing.lines import UTF8, UnusableFile
from audiocatalog.cli.importing.records import Format, RefusedRow
from audiocatalog.cli.writing import csv_line, json_line

# A byte order mark is written only at the beginning of the file. These encodings write no mark.
_WITHOUT_MARK: Final = {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}
#: The reason of an earlier refusal, at the end of a line.
_OLD_REASON: Final = re.compile(rf'"{REASON}"\s*:\s*"(?:[^"\\]|\\.)*"\s*\}}')


class RefusedFile:
    """
    A file at *path* of refused rows, in the format, *columns*, *delimiter* and *encoding* of the imported file.

    Each row is unchanged, with the reason added as its last column, or as its last key in JSON Lines. An import ignores
    the reason. Rows that could not be parsed get no reason.

    The file is created at once, which shows whether its folder is writable. It is removed at the end if no row was
    refused. *kept*: the number of bytes that an interrupted import wrote; this import continues after them.

    Raises:
        UnusableFile: the file exists, or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        file_format: Format,
        columns: Sequence[str] = (),
        *,
        delimiter: str = ",",
        encoding: str = UTF8,
        kept: int | None = None,
    ) -> None:
        self.path = path
        self._is_csv = file_format == "csv"
        self._columns = columns
        self._delimiter = delimiter
        self._encoding = _WITHOUT_MARK.get(encoding, encoding)
        self._mark = "\ufeff" if encoding in _WITHOUT_MARK else ""
        self._is_new = not path.exists()
        self._file = _open(path, kept)
        #: Whether no row has been written.
        self.is_empty = self.length == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self.is_empty and self._is_new:
            self.path.unlink(missing_ok=True)

    @property
    def length(self) -> int:
        """The length of the file in bytes."""
        return self._file.tell()

    def write(self, refusal: RefusedRow) -> bool:
        """Write the row of *refusal*, and return True. Return False for a row that is too long to be kept."""
        if refusal.source is None:
            return False
        if self.is_empty and self._is_csv:
            self._write_cells([*(name for name in self._columns if name != REASON), REASON])
        self.is_empty = False
        if not isinstance(refusal.source, str):
            self._write_cells(self._with_reason(refusal.source, refusal.reason))
        elif self._is_csv:
            self._write(_without_end(refusal.source) + "\n")
        else:
            self._write(_object_with_reason(_without_end(refusal.source), refusal.reason) + "\n")
        return True

    def sync(self) -> None:
        """Write the file to the disk."""
        os.fsync(self._file.fileno())

    def _write_cells(self, cells: Sequence[str]) -> None:
        self._write(csv_line(cells, self._delimiter))

    def _write(self, line: str) -> None:
        mark = "" if self.length else self._mark
        # Bytes that the encoding lacks were read as surrogates. Here the surrogates become those bytes again.
        text = (mark + line).encode(self._encoding, "surrogateescape")
        self._file.write(text)
        # An interruption must not lose a refused row.
        self._file.flush()

    def _with_reason(self, cells: Sequence[str], reason: str) -> list[str]:
        kept, width = list(cells), len(self._columns)
        if REASON in self._columns:
            place = self._columns.index(REASON)
            width -= 1
            # If a row has too many cells, its old reason is in the last cell, not in the column of reasons.
            if place == width and len(kept) > width:
                kept.pop()
            else:
                del kept[place : place + 1]
        return [*kept, *[""] * (width - len(kept)), reason]


def _open(path: Path, kept: int | None) -> BinaryIO:
    """Open the file at *path* to write after *kept* bytes. If *kept* is None, the file must be new or empty."""
    if path.exists() and not path.is_file():
        raise UnusableFile(f"{path} is not a regular file: name another file for the refused rows")
    try:
        file = path.open("ab")
    except OSError as error:
        raise UnusableFile(f"{path}: {error.strerror}") from None
    size = file.tell()
    if not size:
        return file
    if kept is None:
        file.close()
        raise UnusableFile(f"{path} exists: name another file for the refused rows, or remove this file")
    if size < kept:
        file.close()
        raise UnusableFile(f"{path} is shorter than the interrupted import left it: restore the file to continue")
    # The bytes after *kept* belong to rows that will be read again.
    file.truncate(kept)
    file.seek(kept)
    return file


def _without_end(line: str) -> str:
    return line.rstrip("\r\n")


def _object_with_reason(line: str, reason: str) -> str:
    """Return the object in *line* with *reason* as its last key, or *line* itself if it holds no object."""
    bare = line.rstrip()
    place = bare.rfind(f'"{REASON}"')
    if place > 0 and _OLD_REASON.fullmatch(bare, place):
        bare = bare[:place].rstrip().removesuffix(",") + "}"
    try:
        found: Any = json.loads(bare)
    except (ValueError, RecursionError):
        return line
    if not isinstance(found, dict) or REASON in found:
        return line
    # The text is extended and not encoded again, because a number may have more digits than Python keeps.
    comma = ", " if found else ""
    return f"{bare.removesuffix('}')}{comma}{json_line({REASON: reason}).strip().removeprefix('{')}"
