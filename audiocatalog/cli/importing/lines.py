"""The lines of a text file, one at a time: decoded, bounded in length, and put back where a record is read again."""

from __future__ import annotations

import codecs
import io
from collections import deque
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, Self

from audiocatalog.cli.importing.input_file import DamagedFile
from audiocatalog.cli.text import quoted

#: Rows of more characters, or of more lines, are refused. The longest text of a track is far shorter.
LONGEST_ROW: Final = 16 * 2**20
MOST_LINES: Final = 100_000

_PART: Final = 2**16
#: The first bytes of files that are not UTF-8 text, and what to tell the user about them.
_OTHER_FORMATS: Final = {
    b"\xff\xfe": "the file is UTF-16 text: name that by --encoding utf-16",
    b"\xfe\xff": "the file is UTF-16 text: name that by --encoding utf-16",
    b"PK\x03\x04": "the file is a spreadsheet or a zip archive: export it as CSV",
    b"\x1f\x8b": "the file is compressed twice: unpack it first, as by `gunzip -c FILE`",
    **dict.fromkeys(
        (b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh91AY&SY"), "the file is compressed, and not by gzip: unpack it first"
    ),
}
_LONGEST_BEGINNING: Final = max(map(len, _OTHER_FORMATS))
UTF8: Final = "UTF-8"
# Codecs that are no encodings of files, or whose decoders take quadratic time.
_NO_ENCODINGS: Final = frozenset(
    {"idna", "punycode", "undefined", "unicode_escape", "unicode-escape", "raw_unicode_escape", "raw-unicode-escape"}
)


class UnusableFile(ValueError):
    """Refuse a whole file, because it cannot be read with the given options."""


class TooLong(Exception):
    """A row is longer than ``LONGEST_ROW`` or ``MOST_LINES``."""


def encoding_of(name: str) -> str:
    """
    Return the encoding that *name* names, as it is written in messages.

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
    Give the lines of *file*, remember those of the current record, and put lines back.

    Used in a ``with`` block, which leaves the file open. Bytes that are not of *encoding* become lone surrogates; a
    cell with one is refused later, if it is used.

    Raises:
        UnusableFile: the file is no text, by its first bytes.
    """

    def __init__(self, file: BinaryIO, encoding: str = UTF8) -> None:
        #: The name of the encoding, as messages have it.
        self.encoding = encoding
        # Bytes that are wrong in UTF-16 or UTF-32 shift all that follows: such a file is damaged.
        errors = "strict" if encoding.startswith(("utf-16", "utf-32")) else "surrogateescape"
        codec = "utf-8-sig" if encoding == UTF8 else encoding
        self._text = io.TextIOWrapper(file, encoding=codec, errors=errors, newline="")
        self._returned: deque[str] = deque()
        self._record: list[str] = []
        self._number = 0
        self._known_until = 0
        self._known: type[Exception] = TooLong
        #: The characters of the current record that have been read.
        self.length = 0
        if first := self._readline():
            self._returned.append(first)
            if encoding == UTF8:
                _check_format(first)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # A generator that is abandoned ends some time later; the file may be closed by then.
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
        """Return the first line of the file, which is not read yet; None if there is none."""
        return self._returned[0] if self._returned else None

    def parts(self) -> Iterator[str]:
        """Give the rest of the file, whatever its lines, in parts of a bounded length."""
        while self._returned:
            yield self._returned.popleft()
        while part := self._decoded(lambda: self._text.read(_PART)):
            yield part

    def begin_record(self) -> int:
        """Forget the lines of the last record; return the number of the next line."""
        self._record.clear()
        self.length = 0
        return self._number + 1

    @property
    def first_of_record(self) -> str | None:
        """The first line of the current record, None if it is too long to be kept."""
        return self._record[0] if len(self._record[0]) <= LONGEST_ROW else None

    def put_back_all_but_the_first(self, known: type[Exception]) -> bool:
        """
        Put back the lines of the record after its first, and return whether there are any.

        Until these are read again, *known* is raised where a record goes on in one of them.
        """
        again = self._record[1:]
        if again:
            self._known_until, self._known = max(self._number, self._known_until), known
        self._returned.extendleft(reversed(again))
        self._number -= len(again)
        return bool(again)

    def _readline(self) -> str:
        # A line ends in \n, \r\n or \r; the text layer knows all three.
        return self._decoded(lambda: self._text.readline(LONGEST_ROW + 1))

    def _decoded(self, read: Callable[[], str]) -> str:
        try:
            return read()
        except UnicodeError:
            raise DamagedFile(f"the file is not {self.encoding}", is_garbled=True) from None

    def _cut(self, line: str) -> str:
        """Skip the rest of a line that is too long, and return the beginning that was read."""
        rest = line
        while rest and rest[-1] not in "\r\n":
            rest = self._readline()
        return line if line[-1] in "\r\n" else f"{line}\n"


def _check_format(first_line: str) -> None:
    first_bytes = first_line[:_LONGEST_BEGINNING].encode(errors="surrogateescape")
    for beginning, what in _OTHER_FORMATS.items():
        if first_bytes.startswith(beginning):
            raise UnusableFile(what)
