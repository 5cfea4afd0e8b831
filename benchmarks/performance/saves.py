"""How long it takes to save one new track with the first row of its history."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from typing import Any

from audiocatalog.models.ids import new_id
from benchmarks.performance import systems
from benchmarks.performance.database import Databases
from benchmarks.performance.processor import one_processor
from benchmarks.performance.rows import Tracks, Values
from benchmarks.performance.timing import latencies


def measure(databases: Databases, *, blocks: int, calls: int) -> dict[str, Any]:
    """Return what a save takes; the table grows by as many for each of them."""
    url, count = databases.filled(), databases.filled_count
    new = NewTracks(databases.tracks)
    with ExitStack() as stack:
        opened = systems.opened(url, databases.tracks, count, stack)
        saves = {name: save for found in opened for name, save in found.save.items()}
        with one_processor([url], is_here=databases.is_here) as gather:
            figures = latencies(saves, lambda: new.take(calls), blocks=blocks, what="save", before=gather)
    return {"tracks": count, "save": figures}


class NewTracks:
    """Give tracks that nobody has saved: the content of those in the file, again and again, under new ids."""

    def __init__(self, tracks: Tracks) -> None:
        self._contents = itertools.cycle(tracks.values(10_000))

    def take(self, count: int) -> list[Values]:
        """Return the next *count*."""
        return [(new_id(), *values[1:]) for values in itertools.islice(self._contents, count)]
