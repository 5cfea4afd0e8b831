"""Writers of CSV and JSON Lines, and of files that appear only when they are complete."""

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


# The places where a formula may begin: before a sign, or before blanks, invisible characters and quotation marks that a
# spreadsheet may skip. A spreadsheet that splits cells at semicolons or tabs ignores our quotation marks, so a cell may
# also begin after these and after the end of a line.
_FORMULA: Final = re.compile(rf"""^(?=[\t\r\n])|(?:^|(?<=[;\t|\r\n])(?!\n))(?=[{INVISIBLE}"'`´‘’“”]*[=+\-@＝＋－＠])""")


@lru_cache
def _csv(delimiter: str) -> Any:  # noqa: ANN401  # The type is private to its module.
    # With this line end, the writer quotes a cell that holds \r or \n.
    return csv.writer(_Returned(), lineterminator="\r\n", delimiter=delimiter)


def csv_line(cells: Iterable[Any], delimiter: str = ",") -> str:
    r"""
    Return *cells* as a line of CSV that ends in ``\n``.

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
    Return *value* with an apostrophe wherever a spreadsheet could begin a formula. Numbers stay numbers.

    The signs are those of OWASP's page on CSV injection. Blanks and quotation marks may precede them.

    >>> spreadsheet_cell("=1+1"), spreadsheet_cell("a=1"), spreadsheet_cell("a;=1"), spreadsheet_cell(-1)
    ("'=1+1", 'a=1', "a;'=1", -1)

    """
    return _FORMULA.sub("'", value) if isinstance(value, str) else value


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """
    Yield a temporary file that replaces the file at *path* when the block ends, and is removed on an error.

    If *path* is not a regular file, such as a pipe, yield that file itself.
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
    """Yield a file whose content is compressed into *file* by gzip."""
    # Without a name and a time, equal content gives equal files. Level 6 is the default of the program gzip.
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=6, mtime=0, filename="") as content:
        yield content  # type: ignore[misc]  # A GzipFile has the methods of a BinaryIO.


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Add *path* to errors of the system that name no file, such as the error of a full disk."""
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
        # The user knows *path*, but not the temporary name.
        raise type(error)(error.errno, error.strerror, str(path)) from None


def _mode_of(path: Path) -> int:
    """Return the permissions of the file at *path*, or those of a new file. ``replaced`` sets them."""
    with suppress(FileNotFoundError):
        return path.stat().st_mode & 0o777
    # Python can read the mask only by setting it.
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


def _sync_folder(folder: Path) -> None:
    """Write the folder, and so the new name, to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
