"""Read the bytes of a file: unpacked where it is compressed by gzip, and counted as they are stored."""

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
    """Say why the rest of a file cannot be read; *is_garbled* if what was read last may be wrong already."""

    def __init__(self, message: str, *, is_garbled: bool = False) -> None:
        super().__init__(message)
        self.is_garbled = is_garbled


class InputFile:
    """
    Read *file* as *stream*: what it holds, unpacked if its first bytes are those of gzip, whatever its name.

    *size* is the number of bytes that are stored, None for a pipe. It leaves *file* open.

    Raises, also when *stream* is read:
        DamagedFile: the file cannot be read, or is not what gzip has written.
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
        Unpack a compressed file to its end, and leave *stream* where it is; a pipe cannot be tested.

        Only the sums at its end tell that a file is damaged: until then, what stands behind the damage may look like
        any other row. *tested* is told now and then how many bytes were unpacked, and of how many that are stored.

        Raises:
            DamagedFile: the file is not what gzip has written.
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
        """How many of the bytes that are stored have been read."""
        return self._stored.position


class _Counted(io.RawIOBase):
    """Give *beginning* and then the rest of *file*, and count the bytes."""

    def __init__(self, beginning: bytes, file: BinaryIO) -> None:
        self.position = 0
        self._beginning = beginning
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # BufferedReader passes a memoryview.
        with _damage_told():
            # As much as is there: a row that comes through a pipe does not wait for those after it.
            data = self._beginning or self._file.read1(len(buffer))  # type: ignore[attr-defined]  # All files have it.
        self._beginning = b""
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


class _Unpacked(io.RawIOBase):
    """Give what the gzip members in *file* hold, up to the byte from which on they are damaged."""

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
        raise DamagedFile("the compressed file is cut off, its end is missing") from None
    except (gzip.BadGzipFile, zlib.error):
        raise DamagedFile("the compressed file is damaged", is_garbled=True) from None
    except OSError as error:
        raise DamagedFile(f"the file cannot be read: {error.strerror or error}") from None


def size_of(file: IO[bytes]) -> int | None:
    """Return the size of *file*, None if it is a pipe or the like."""
    try:
        status = os.fstat(file.fileno())
    except (AttributeError, io.UnsupportedOperation):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None
