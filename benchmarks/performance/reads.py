"""How long it takes to get one track, a hundred, and all of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final
from uuid import UUID

from audiocatalog import Catalog
from benchmarks.performance import bare, ours, systems
from benchmarks.performance.database import Databases
from benchmarks.performance.processor import one_processor
from benchmarks.performance.timing import latencies
from benchmarks.search.data import track_id

MANY: Final = 100


def measure(databases: Databases, *, blocks: int, calls: int) -> dict[str, Any]:
    """Return what each read takes."""
    url, count = databases.filled(), databases.filled_count
    dice = random.Random(count)  # noqa: S311 - a repeatable choice is wanted.

    def ids(most: int) -> list[UUID]:
        return [track_id(number) for number in dice.choices(range(count), k=most)]

    def hundred() -> list[UUID]:
        return [track_id(number) for number in dice.sample(range(count), k=min(MANY, count))]

    with ExitStack() as stack:
        opened = systems.opened(url, databases.tracks, count, stack)
        gets = {name: get for found in opened for name, get in found.get.items()}
        many = {name: get for found in opened for name, get in found.get_many.items()}
        few = max(20, calls // 10)
        with one_processor([url], is_here=databases.is_here) as gather:
            one = latencies(gets, lambda: ids(calls), blocks=blocks, what="get", before=gather)
            hundreds = latencies(
                many, lambda: [hundred() for _ in range(few)], blocks=blocks, what=f"get {MANY}", before=gather
            )
        return {
            "tracks": count,
            "get": one,
            "get_many": hundreds,
            "walk": _each(count, latencies(_walkers(url, count), lambda: [None], blocks=blocks, what="all of them")),
        }


def _each(count: int, figures: dict[str, dict[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    """Return the times of whole walks as those of one track."""
    return {
        name: {kind: [value / count for value in values] for kind, values in times.items()}
        for name, times in figures.items()
    }


def _walkers(url: str, count: int) -> dict[str, Callable[[Any], object]]:
    def checked(walk: Callable[[], int]) -> Callable[[Any], object]:
        def act(_: object) -> None:
            # Saves may have added some since.
            if (found := walk()) < count:
                raise RuntimeError(f"{found:,} tracks were read in place of {count:,}")

        return act

    def by_us() -> int:
        with Catalog(url, pool_size=1) as catalog:
            return sum(1 for _ in catalog.iter_tracks())

    return {ours.WALK: checked(by_us), bare.WALK: checked(lambda: bare.walk(url))}
