"""Whether a get and a save take as long in a large table as in a small one."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

from benchmarks.performance import bare, memory, ours
from benchmarks.performance.contestant import Contestant
from benchmarks.performance.database import Databases, give_settings, settle
from benchmarks.performance.processor import one_processor
from benchmarks.performance.rows import Values
from benchmarks.performance.saves import NewTracks
from benchmarks.performance.timing import latencies, say, watched
from benchmarks.search.data import track_id

OURS: Final = "audiocatalog"
BARE: Final = "bare psycopg"
ANY: Final = "get, any track"
LATEST: Final = "get, one of the latest 100,000"
SAVE: Final = "save"
_LATEST: Final = 100_000


def measure(databases: Databases, *, sizes: list[int], blocks: int, calls: int) -> dict[str, Any]:
    """Load each of *sizes* by ``bulk_save``, then read and save in all of them in turns."""
    loads, urls = {}, {}
    for size in sizes:
        urls[size] = databases.named(f"performance_{size}")
        loads[str(size)] = memory.loaded(urls[size], databases.tracks, size)
        say(f"{size:,} tracks: vacuuming")
        with watched() as watch:
            settle(urls[size])
        give_settings(urls[size])
        loads[str(size)]["vacuum_seconds"] = watch.seconds
    with ExitStack() as stack:
        opened = {
            (system, size): stack.enter_context(open_(urls[size]))
            for size in sizes
            for system, open_ in ((OURS, ours.opened), (BARE, bare.opened))
        }
        gather = stack.enter_context(one_processor(list(urls.values()), is_here=databases.is_here))
        timed = functools.partial(latencies, blocks=blocks, before=gather)
        new = NewTracks(databases.tracks)
        figures = {
            ANY: timed(_gets(opened, lambda size: (0, size)), _places(calls), what=ANY),
            LATEST: timed(_gets(opened, lambda size: (max(0, size - _LATEST), size)), _places(calls), what=LATEST),
            SAVE: timed(_saves(opened), lambda: new.take(calls), what=SAVE),
        }
    return {"sizes": sizes, "loads": loads, "figures": figures}


def name(system: str, size: int) -> str:
    """Return what *system* on a table of *size* tracks is called."""
    return f"{system}, {size:,} tracks"


def _places(calls: int) -> Callable[[], list[float]]:
    """Return what gives the places of the tracks to get, from 0 to 1, by the same dice for everybody."""
    dice = random.Random(calls)  # noqa: S311 - a repeatable choice is wanted.
    return lambda: [dice.random() for _ in range(calls)]


def _gets(
    opened: dict[tuple[str, int], Contestant], span: Callable[[int], tuple[int, int]]
) -> dict[str, Callable[[float], object]]:
    """Return what gets the track at a place of the *span* of the numbers of a table's size."""

    def getting(contestant: Contestant, size: int) -> Callable[[float], object]:
        first, end = span(size)
        (get,) = contestant.get.values()
        return lambda place: get(track_id(first + int(place * (end - first))))

    return {name(system, size): getting(contestant, size) for (system, size), contestant in opened.items()}


def _saves(opened: dict[tuple[str, int], Contestant]) -> dict[str, Callable[[Values], object]]:
    saves = {OURS: ours.SAVE, BARE: bare.SAVE}
    return {name(system, size): found.save[saves[system]] for (system, size), found in opened.items()}
