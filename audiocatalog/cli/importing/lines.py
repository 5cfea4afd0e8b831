"""The lines of a text file, decoded and bounded in length. A reader can put lines back."""

from __future__ import annotations

import codecs
import io
from collections import deque
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, Self

from audiocatalog.cli.importing.input_file import DamagedFile
from audiocatalog.cli.text import quoted

#: The maximum numbers of characters and lines of a row. Longer rows are refused.
LONGEST_ROW: Final = 16 * 2**20
MOST_LINES: Final = 100_000

_PART: Final = 2**16
#: The first bytes of files that are not UTF-8 text, and the message about each.
_OTHER_FORMATS: Final = {
    b"\xff\xfe": "the file is UTF-16 text: add --encoding utf-16",
    b"\xfe\xff": "the file is UTF-16 text: add --encoding utf-16",
    b"PK\x03\x04": "the file is a spreadsheet or a zip archive: export it as CSV",
    b"\x1f\x8b": "the file is compressed twice: decompress it once, for example by `gunzip -c FILE`",
    **dict.fromkeys(
        (b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh91AY&SY"),
        "the file is compressed, but not by gzip: decompress it first",
    ),
}
_LONGEST_BEGINNING: Final = max(map(len, _OTHER_FORMATS))
UTF8: Final = "UTF-8"
# Codecs that are not encodings of files, or that take quadratic time to decode.
_NO_ENCODINGS: Final = frozenset(
    {"idna", "punycode", "undefined", "unicode_escape", "unicode-escape", "raw_unicode_escape", "raw-unicode-escape"}
)


class UnusableFile(ValueError):
    """A file cannot be read with the given options."""


class TooLong(Exception):
    """A row is longer than ``LONGEST_ROW`` or ``MOST_LINES``."""


def encoding_of(name: str) -> str:
    """
    Return the encoding with *name*, as messages write it.

    Raises:
        UnusableFile: there is no such encoding of text.
    """
    try:
        found = codecs.lookup(name).name
        "".encode(found)
    except (LookupError, ValueError):
        found = "undefined"
    if found in _NO_ENCODINGS:
        raise UnusableFile(f"--encoding: there is no encoding {quoted(name)}; use one such as utf-8, cp1252 or utf-16")
    return UTF8 if found in {"utf-8", "utf-8-sig", "ascii"} else found


class Lines:
    """
    The lines of *file*. The lines of the current record can be put back.

    Use it in a ``with`` block, which leaves the file open. Bytes that *encoding* lacks become lone surrogates. If a
    field is read from a cell with a lone surrogate, the row is refused later.

    Raises:
        UnusableFile: the first bytes show that the file is not text.
    """

    def __init__(self, file: BinaryIO, encoding: str = UTF8) -> None:
        #: The name of the encoding, as messages write it.
        self.encoding = encoding
        # In UTF-16 and UTF-32, a wrong byte shifts everything after it, so the file is damaged.
        errors = "strict" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
        codec = "utf-8-sig" if encoding == UTF8 else encoding
        self._text = io.TextIOWrapper(file, encoding=codec, errors=errors, newline="")
        self._returned: deque[str] = deque()
        self._record: list[str] = []
        self._number = 0
        self._known_until = 0
        self._known: type[Exception] = TooLong
        #: The number of characters of the current record.
        self.length = 0
        if first := self._readline():
            self._returned.append(first)
            if encoding == UTF8:
                _check_format(first)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # An abandoned generator may end after the file is closed.
        if not self._text.closed:
            self._text.detach()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._record and self._number < self._known_until:
            raise self._known
        line = self._returned.popleft() if self._returned else self._readline()
        if not line:
            raise StopIteration
        self._number += 1
        self.length += len(line)
        if len(line) > LONGEST_ROW:
            line = self._cut(line)
        self._record.append(line)
        if self.length > LONGEST_ROW:
            raise TooLong(f"longer than {LONGEST_ROW:,} characters")
        if len(self._record) > MOST_LINES:
            raise TooLong(f"longer than {MOST_LINES:,} lines")
        return line

    def peek(self) -> str | None:
        """Return the first line of the file without reading it, or None if the file is empty."""
        return self._returned[0] if self._returned else None

    def parts(self) -> Iterator[str]:
        """Yield the rest of the file in parts of bounded length, without regard to lines."""
        while self._returned:
            yield self._returned.popleft()
        while part := self._decoded(lambda: self._text.read(_PART)):
            yield part

    def begin_record(self) -> int:
        """Begin a record, and return the number of its first line."""
        self._record.clear()
        self.length = 0
        return self._number + 1

    @property
    def first_of_record(self) -> str | None:
        """The first line of the current record, or None if it is too long to be kept."""
        return self._record[0] if len(self._record[0]) <= LONGEST_ROW else None

    def put_back_all_but_the_first(self, known: type[Exception]) -> bool:
        """
        Put back all lines of the record but its first, and return whether there are such lines.

        Until these lines are read again, a record that continues into another of them raises *known*.
        """
        again = self._record[1:]
        if again:
            self._known_until, self._known = max(self._number, self._known_until), known
        self._returned.extendleft(reversed(again))
        self._number -= len(again)
        return bool(again)

    def _readline(self) -> str:
        # The text layer ends lines at \n, \r\n and \r.
        return self._decoded(lambda: self._text.readline(LONGEST_ROW + 1))

    def _decoded(self, read: Callable[[], str]) -> str:
        try:
            return read()
        except UnicodeError:
            raise DamagedFile(f"the file is not {self.encoding}", is_garbled=True) from None

    def _cut(self, line: str) -> str:
        """Skip the rest of a line that is too long, and return its beginning."""
        rest = line
        while rest and rest[-1] not in "\r\n":
            rest = self._readline()
        return line if line[-1] in "\r\n" else f"{line}\n"


def _check_format(first_line: str) -> None:
    first_bytes = first_line[:_LONGEST_BEGINNING].encode(errors="surrogateescape")
    for beginning, what in _OTHER_FORMATS.items():
        if first_bytes.startswith(beginning):
            raise UnusableFile(what)
