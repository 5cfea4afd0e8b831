"""Write rows as CSV and JSON Lines, and a file that is there only when it is complete."""

from __future__ import annotations

import csv
import gzip
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final

from audiocatalog.errors.printing import json_text
from audiocatalog.models.characters import INVISIBLE


class _Returned:
    """A file that returns what is written to it."""

    def write(self, text: str) -> str:
        return text


# Where a formula may begin: in front of a sign, and of what a spreadsheet may skip before it (blanks, invisible
# characters, quotation marks). A spreadsheet that takes semicolons or tabs for separators begins a cell behind those,
# and behind the end of a line, for it does not know our quotation marks.
_FORMULA: Final = re.compile(rf"""^(?=[\t\r\n])|(?:^|(?<=[;\t|\r\n])(?!\n))(?=[{INVISIBLE}"'`´‘’“”]*[=+\-@＝＋－＠])""")


@lru_cache
def _csv(delimiter: str) -> Any:  # noqa: ANN401  # The type is private to its module.
    # Told that a line ends in \r\n, the writer puts a cell in quotes for either of them.
    return csv.writer(_Returned(), lineterminator="\r\n", delimiter=delimiter)


def csv_line(cells: Iterable[Any], delimiter: str = ",") -> str:
    r"""
    Return *cells* as a line of CSV, parted by *delimiter*, which ends in ``\n``.

    >>> csv_line(["Jóga", None, 305.5, "a, b"])
    'Jóga,,305.5,"a, b"\n'

    """
    line: str = _csv(delimiter).writerow(cells)
    return f"{line[:-2]}\n"


def json_line(values: Mapping[str, Any]) -> str:
    r"""
    Return *values* as a line of JSON.

    >>> json_line({"title": "Jóga", "year": None})
    '{"title": "Jóga", "year": null}\n'

    """
    return f"{json_text(values)}\n"


def spreadsheet_cell(value: Any) -> Any:  # noqa: ANN401  # Cells of every type.
    """
    Return *value* so that no spreadsheet takes it for a formula: an apostrophe stands where one could begin.

    The signs are those of OWASP's page on CSV injection, also behind blanks and quotation marks. Numbers stay numbers.

    >>> spreadsheet_cell("=1+1"), spreadsheet_cell("a=1"), spreadsheet_cell("a;=1"), spreadsheet_cell(-1)
    ("'=1+1", 'a=1', "a;'=1", -1)

    """
    return _FORMULA.sub("'", value) if isinstance(value, str) else value


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """
    Give a file that takes the place of the one at *path* in one step when it is complete, and is removed on an error.

    What is no regular file, such as a pipe, is written to as it is.
    """
    with _named(path):
        path = Path(os.path.realpath(path))
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                yield file
            return
        with _temporary_beside(path) as file:
            temporary = Path(file.name)
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), _mode_of(path))
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        _sync_folder(path.parent)


@contextmanager
def compressed(file: BinaryIO) -> Iterator[BinaryIO]:
    """Give a file that is written to *file* as gzip."""
    # Without a name and a time in it, the same content makes the same file. Level 6 is the one of the program gzip.
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, mtime=0, filename="") as content:
        yield content  # type: ignore[misc]  # It does what a BinaryIO does.


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let an error of the system name *path*, where it names no file: that of a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from None


def _temporary_beside(path: Path) -> Any:  # noqa: ANN401  # The type is private to its module.
    try:
        return tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False)
    except OSError as error:
        # Nobody knows the temporary name.
        raise type(error)(error.errno, error.strerror, str(path)) from None


def _mode_of(path: Path) -> int:
    """Return the permissions of the file at *path*, or those that a new file gets; a temporary one is private."""
    with suppress(FileNotFoundError):
        return path.stat().st_mode & 0o777
    # The mask can only be read by setting it.
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


def _sync_folder(folder: Path) -> None:
    """Bring the new name to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
