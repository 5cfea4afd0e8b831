"""beets' library, in its own SQLite file: no server, no history, and an index on the id alone."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from benchmarks.performance.contestant import Contestant
from benchmarks.performance.rows import Values

GET: Final = "beets: lib.get_item (SQLite)"
SAVE: Final = "beets: lib.add (SQLite, no history)"
LOAD: Final = "beets: lib.add, one transaction (SQLite, no history)"
NEEDS: Final = "beets"


@contextmanager
def opened(rows: Iterator[Values]) -> Iterator[Contestant]:
    """Open a new library that holds *rows*; only those can be got from it."""
    with _library() as library:
        numbers = _add(library, rows)
        numbers_in_turn = list(numbers.values())

        def get(id_: UUID) -> object:
            # beets numbers its items itself. Ids that it does not hold stand for any that it does.
            found = library.get_item(numbers.get(id_) or numbers_in_turn[id_.int % len(numbers_in_turn)])
            if found is None:
                raise LookupError(id_)
            return found

        yield Contestant(get={GET: get}, save={SAVE: lambda values: library.add(_item(values))})


def load(_url: str, rows: Iterator[Values]) -> None:
    """Add *rows* to a new library; a library is made in some tenths of a second."""
    with _library() as library:
        _add(library, rows)


def _add(library: Any, rows: Iterator[Values]) -> dict[UUID, int]:  # noqa: ANN401 - imported where it is used.
    with library.transaction():
        return {values[0]: library.add(_item(values)) for values in rows}


def _item(values: Values) -> Any:  # noqa: ANN401 - likewise.
    _, title, artist, album, genre, year, duration, channels, sample_rate, bitrate, format_, audio_path, _ = values
    return importlib.import_module("beets.library").Item(
        title=title,
        artist=artist or "",
        album=album or "",
        genres=[genre] if genre else [],
        year=year or 0,
        length=duration or 0.0,
        channels=channels or 0,
        samplerate=sample_rate or 0,
        bitrate=bitrate or 0,
        format=format_ or "",
        path=audio_path.encode(),
    )


@contextmanager
def _library() -> Iterator[Any]:
    with tempfile.TemporaryDirectory(prefix="audiocatalog-bench-beets-") as folder:
        os.environ.setdefault("BEETSDIR", folder)  # Or the settings of whoever runs this would be read.
        # A new library migrates itself and prints the name of each backup that it makes.
        with contextlib.redirect_stdout(io.StringIO()):
            library: Any = importlib.import_module("beets.library").Library(str(Path(folder) / "library.db"), folder)
        try:
            yield library
        finally:
            library._close()  # noqa: SLF001 - beets closes its connections at the end of the process otherwise.
