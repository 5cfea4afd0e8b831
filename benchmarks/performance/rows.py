"""The tracks that everybody loads and saves: made once, kept in a file, and read from it in the same order."""

from __future__ import annotations

import itertools
import marshal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

from audiocatalog import TrackMetadata, TrackRecord
from audiocatalog.models.metadata import METADATA_FIELDS
from benchmarks.performance.timing import Progress
from benchmarks.search.data import scale_rows, track_id

_Item = TypeVar("_Item")
#: One track as bare psycopg takes it; what stands in which place is said by ``COLUMNS``.
Values = tuple[Any, ...]

#: The columns that are written; the others have defaults, or are computed by the server.
COLUMNS: Final = ("id", *METADATA_FIELDS, "audio_path", "status")
ACTOR: Final = "benchmark"
#: Tells a process that is started for a part of the work its database; arguments are for everybody to read.
URL_VARIABLE: Final = "AUDIOCATALOG_BENCHMARK_URL"
_STATUS: Final = "COMPLETED"
_BLOCK: Final = 1000


class Tracks:
    """Give the first tracks of a file that ``made`` has written."""

    def __init__(self, path: Path, count: int) -> None:
        self.path = path
        self.count = count

    def values(self, most: int | None = None) -> Iterator[Values]:
        """Give the first *most* tracks, or all, as tuples; ids rise as if each had been made a millisecond later."""
        return itertools.islice(self._all(), self.count if most is None else min(most, self.count))

    def records(self, most: int | None = None) -> Iterator[TrackRecord]:
        """Give the same tracks as a caller of this package makes them, each one validated."""
        return map(record_of, self.values(most))

    def _all(self) -> Iterator[Values]:
        number = 0
        with self.path.open("rb") as file:
            while number < self.count:
                length = int.from_bytes(file.read(4))
                for fields in marshal.loads(file.read(length)):  # noqa: S302 - the file is our own, made by this run.
                    yield (track_id(number), *fields, _STATUS)
                    number += 1


def made(folder: Path, count: int) -> Tracks:
    """Write *count* tracks into a file in *folder*."""
    path = folder / "tracks"
    progress = Progress("making tracks", count)
    with path.open("wb") as file:
        for block in batches(scale_rows(count), _BLOCK):
            fields = [(*(getattr(row.metadata, name) for name in METADATA_FIELDS), row.audio_path) for row in block]
            block_bytes = marshal.dumps(fields)
            file.write(len(block_bytes).to_bytes(4) + block_bytes)
            progress.add(len(block))
    return Tracks(path, count)


def record_of(values: Values, id: UUID | None = None) -> TrackRecord:  # noqa: A002 - the column's name.
    """Return *values* as a record, under another *id* if one is given."""
    own, title, artist, album, genre, year, duration, channels, sample_rate, bitrate, format_, audio_path, _ = values
    metadata = TrackMetadata(
        title=title,
        artist=artist,
        album=album,
        genre=genre,
        year=year,
        duration=duration,
        channels=channels,
        sample_rate=sample_rate,
        bitrate=bitrate,
        format=format_,
    )
    return TrackRecord(metadata, audio_path, id=id or own)


def batches(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """Give *items* in lists of *size*, the last one of what is left."""
    remaining = iter(items)
    while batch := list(itertools.islice(remaining, size)):
        yield batch
