"""Where the tracks and the queries come from: files of AUDIOCATALOG_DATA, and generators."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from uuid import UUID

from audiocatalog import TrackMetadata
from audiocatalog.errors import InvalidInput
from benchmarks.search.generator import generated_tracks

#: Names the folder of real tracks and queries.
FOLDER_VARIABLE: Final = "AUDIOCATALOG_DATA"
_SEED: Final = 7
# What the ids of the benchmark begin with in place of the time at which they were made.
_FIRST_MILLISECOND: Final = 1_700_000_000_000
_Item = TypeVar("_Item")


class Row(NamedTuple):
    """Hold one track to load; *key* is its name in the file of queries."""

    key: str
    metadata: TrackMetadata
    audio_path: str


class NoDataError(Exception):
    """Say which file is missing and how to name the folder."""


def data_file(name: str) -> Path:
    """
    Return the path of a file of the data folder.

    Raises:
        NoDataError: no folder is named, or the file is not there.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        raise NoDataError(f"{FOLDER_VARIABLE} names no folder with {name}.")
    path = Path(folder) / name
    if not path.is_file():
        raise NoDataError(f"There is no {name} in the folder that {FOLDER_VARIABLE} names: {folder}.")
    return path


def queries_of(name: str, most: int | None) -> list[dict[str, Any]]:
    """Return the queries in a file of the data folder, or *most* of them, always the same ones."""
    with data_file(name).open(encoding="utf-8") as lines:
        return sample([json.loads(line) for line in lines], most)


def sample(items: list[_Item], most: int | None) -> list[_Item]:
    """Return *items*, or *most* of them, always the same ones."""
    if most is None or most >= len(items):
        return items
    return random.Random(_SEED).sample(items, most)  # noqa: S311 - a repeatable choice is wanted.


def catalogue_rows(name: str) -> Iterator[Row]:
    """Give the tracks of a catalogue in the data folder."""
    with gzip.open(data_file(name), "rt", encoding="utf-8", newline="") as lines:
        for values in csv.DictReader(lines):
            yield Row(values["id"], _metadata(values), f"/music/{values['id']}")


def scale_source() -> str:
    """Return where the synthetic tracks come from: the data folder's generator, or else our own."""
    try:
        data_file("scale_tracks.py")
    except NoDataError:
        return "generator.py"
    return "scale_tracks.py"


def scale_rows(count: int) -> Iterator[Row]:
    """Give *count* synthetic tracks, the same ones each time."""
    yield from generated_rows(count) if scale_source() == "generator.py" else _numbered(_rows_of_script(count))


def generated_rows(count: int) -> Iterator[Row]:
    """Give *count* tracks of our own generator."""
    return _numbered(generated_tracks(count))


def _numbered(rows: Iterable[Mapping[str, str]]) -> Iterator[Row]:
    for number, values in enumerate(rows):
        yield Row(str(number), _metadata(values), values["audio_path"].replace("\0", ""))


def _rows_of_script(count: int) -> Iterator[dict[str, str]]:
    command = [sys.executable, str(data_file("scale_tracks.py")), str(count), "--bitrate-unit", "bps"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603 - a script of our own, no shell.
        if process.stdout is None:
            raise NoDataError("scale_tracks.py has no output.")
        yield from csv.DictReader(io.TextIOWrapper(process.stdout, encoding="utf-8", newline=""))
    if process.returncode:
        raise NoDataError(f"scale_tracks.py ended with {process.returncode}.")


def _metadata(values: Mapping[str, str]) -> TrackMetadata:
    """Return the metadata in *values*, without the fields that break a rule: a track of a query must not be lost."""
    fields: dict[str, Any] = {
        name: values.get(name, "").replace("\0", "") or None for name in ("title", "artist", "album", "genre", "format")
    }
    for name in ("year", "channels", "sample_rate", "bitrate"):
        fields[name] = int(float(values[name])) if values.get(name) else None
    fields["duration"] = float(values["duration_seconds"]) if values.get("duration_seconds") else None
    try:
        return TrackMetadata(**fields)
    except InvalidInput as error:
        return TrackMetadata(**(fields | {problem.field: None for problem in error.problems}))


def track_id(number: int) -> UUID:
    """Return the id of the track *number*: a UUID of version 7, as if each had been made a millisecond later."""
    scattered = number * 0x9E37_79B9_7F4A_7C15
    value = (_FIRST_MILLISECOND + number) << 80 | 0x7 << 76 | (scattered >> 8 & 0xFFF) << 64
    return UUID(int=value | 0x2 << 62 | scattered & (1 << 62) - 1)


def track_number(id: UUID) -> int:  # noqa: A002 - the column's name.
    """Return the number of the track with *id*."""
    return (id.int >> 80) - _FIRST_MILLISECOND


def numbers_of(keys: Mapping[str, int], wanted: Iterable[str]) -> frozenset[int]:
    """Return the numbers of the tracks that the keys *wanted* name, as far as they were loaded."""
    return frozenset(keys[key] for key in wanted if key in keys)
