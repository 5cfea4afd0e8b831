"""The bytes of a file, decompressed if it is a gzip file, and the position in the stored file."""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, BinaryIO, Final

_GZIP: Final = b"\x1f\x8b"
_CHUNK: Final = 2**17


class DamagedFile(Exception):
    """The rest of a file cannot be read. If *is_garbled*, the data before the damage may be wrong too."""

    def __init__(self, message: str, *, is_garbled: bool = False) -> None:
        super().__init__(message)
        self.is_garbled = is_garbled


class InputFile:
    """
    The content of *file* as *stream*, decompressed if its first bytes are those of gzip.

    *size* is the number of stored bytes, or None for a pipe. *file* stays open.

    Raises, also when *stream* is read:
        DamagedFile: the file cannot be read, or is a damaged gzip file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.size = size_of(file)
        self._file = file
        self._start = 0 if self.size is None else file.tell()
        with _damage_told():
            self._beginning = file.read(len(_GZIP))
        self._stored = _Counted(self._beginning, file)
        self.stream: BinaryIO = io.BufferedReader(self._stored, _CHUNK)
        if self._beginning == _GZIP:
            self.stream = io.BufferedReader(_Unpacked(self.stream), _CHUNK)

    def test(self, tested: Callable[[int, int], None]) -> None:
        """
        Decompress a gzip file to its end without moving *stream*. A pipe is not tested.

        Only the checksum at the end shows damage. Until then, rows after the damage may look like any other rows.
        *tested* is called with the number of decompressed bytes and the position in the stored file.

        Raises:
            DamagedFile: the gzip file is damaged.
        """
        if self._beginning != _GZIP or self.size is None:
            return
        place = self._file.tell()
        self._file.seek(self._start)
        stored = _Counted(b"", self._file)
        content = _Unpacked(io.BufferedReader(stored, _CHUNK))
        buffer, unpacked = memoryview(bytearray(_CHUNK)), 0
        while length := content.readinto(buffer):
            unpacked += length
            tested(unpacked, stored.position)
        self._file.seek(place)

    @property
    def position(self) -> int:
        """The number of stored bytes that have been read."""
        return self._stored.position


class _Counted(io.RawIOBase):
    """A raw file of *beginning* and the rest of *file*, with the number of bytes read."""

    def __init__(self, beginning: bytes, file: BinaryIO) -> None:
        self.position = 0
        self._beginning = beginning
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # BufferedReader passes a memoryview.
        with _damage_told():
            # read1 returns the available bytes, so a row in a pipe does not wait for the next row.
            data = self._beginning or self._file.read1(len(buffer))  # type: ignore[attr-defined]  # All files have it.
        self._beginning = b""
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


class _Unpacked(io.RawIOBase):
    """A raw file of the decompressed gzip members in *file*, up to the first damage."""

    def __init__(self, file: BinaryIO) -> None:
        self._unpacker = gzip.GzipFile(fileobj=file)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with _damage_told():
            data = self._unpacker.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def _damage_told() -> Iterator[None]:
    try:
        yield
    except EOFError:
        raise DamagedFile("the compressed file is cut off: its end is missing") from None
    except (gzip.BadGzipFile, zlib.error):
        raise DamagedFile("the compressed file is damaged", is_garbled=True) from None
    except OSError as error:
        raise DamagedFile(f"the file cannot be read: {error.strerror or error}") from None


def size_of(file: IO[bytes]) -> int | None:
    """Return the size of *file* in bytes, or None if it is not a regular file."""
    try:
        status = os.fstat(file.fileno())
    except (AttributeError, io.UnsupportedOperation):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
