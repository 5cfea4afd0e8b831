"""What was to be reached, and what was: each line is a ratio of two figures of the same turns of one run."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from benchmarks.performance import alchemy, bare, ours, scale, tasks, threads, vectors
from benchmarks.performance.timing import Spread, ratios, spread

_MEGABYTE: Final = 1e6
#: The size that the least memory is measured at.
_SMALL: Final = 100_000


class Reach(NamedTuple):
    """Hold one line: *values*, ratios of *ours* to *theirs*, were to be at least, or at the most, *bound*."""

    what: str
    at_least: bool
    bound: float
    values: list[float]
    ours: str
    theirs: str

    @property
    def spread(self) -> Spread:
        """The median and quartiles of what was measured."""
        return spread(self.values)

    @property
    def is_met(self) -> bool:
        """Whether the median is within the bound."""
        return self.spread.median >= self.bound if self.at_least else self.spread.median <= self.bound


def reached(found: dict[str, Any]) -> list[Reach]:
    """Return the lines of whatever was measured."""
    lines: list[Reach] = []
    if "loads" in found and bare.COPY in found["loads"]["many"]["systems"]:
        lines += _loads(found["loads"])
    if "vectors" in found:
        lines += _vectors(found["vectors"])
    lines += _memory(found)
    if "reads" in found:
        lines += _latency(found["reads"]["get"], "catalog.get, p50, to bare prepared psycopg", ours.GET, bare.GET, 3)
        lines += _latency(
            found["reads"]["get_many"], "get_many(100) to bare psycopg's = ANY", ours.GET_MANY, bare.GET_MANY, 2
        )
    if "saves" in found:
        lines += _saves(found["saves"])
    if "scale" in found:
        lines += _scale(found["scale"])
    if "threads" in found:
        lines += _threads(found["threads"])
    if "tasks" in found:
        lines += _tasks(found["tasks"])
    return lines


def _loads(loads: dict[str, Any]) -> Iterator[Reach]:
    many, few = loads["many"], loads["few"]
    rows, systems = many["rows"], many["systems"]
    copied = systems[bare.COPY]["seconds"]
    for what, name, bound in (
        (f"bulk_save of {rows:,} new tracks to bare binary COPY", ours.LOAD, 0.75),
        ("the same with records that were made before", ours.LOAD_MADE, 0.75),
        ("bulk_save of the same again, all unchanged, to that COPY", ours.LOAD_AGAIN, 0.5),
    ):
        seconds = systems[name]["seconds"]
        yield Reach(what, True, bound, ratios(copied, seconds), _rate(rows, seconds), _rate(rows, copied))
    rows, systems = few["rows"], few["systems"]
    for what, name in (
        (f"bulk_save of {rows:,} to SQLAlchemy's add_all", alchemy.LOAD),
        ("the same to add_all without server defaults", alchemy.LOAD_LEAN),
    ):
        if name not in systems:
            continue
        own, other = systems[ours.LOAD]["seconds"], systems[name]["seconds"]
        yield Reach(what, True, 15, ratios(other, own), _rate(rows, own), _rate(rows, other))


def _vectors(vectors_found: dict[str, Any]) -> Iterator[Reach]:
    rows, systems = vectors_found["rows"], vectors_found["systems"]
    plain = systems[vectors.PLAIN]["seconds"]
    for what, name in (
        ("COPY with our computed vector and its index to a plain to_tsvector and its index", vectors.ONE),
        ("COPY into our whole table, names and samples too, to the same", vectors.WHOLE),
    ):
        seconds = systems[name]["seconds"]
        yield Reach(what, True, 0.5, ratios(plain, seconds), _rate(rows, seconds), _rate(rows, plain))


def _memory(found: dict[str, Any]) -> Iterator[Reach]:
    loads = {**found.get("memory", {}), **found.get("scale", {}).get("loads", {})}
    if not loads:
        return
    sizes = sorted(map(int, loads))
    small = min(sizes[:-1] or sizes, key=lambda size: abs(size - _SMALL))
    most, least = (loads[str(size)]["peak"] / _MEGABYTE for size in (sizes[-1], small))
    yield Reach(f"peak memory in MB of loading {sizes[-1]:,}", False, 200, [most], f"{most:.0f} MB", "")
    if len(sizes) > 1:
        what = f"the same to loading {small:,}"
        yield Reach(what, False, 1.2, [most / least], f"{most:.0f} MB", f"{least:.0f} MB")


def _saves(saves: dict[str, Any]) -> Iterator[Reach]:
    figures = saves["save"]
    what = "unit_of_work and save, p50, to two INSERTs in a bare transaction"
    yield from _latency(figures, what, ours.SAVE, bare.SAVE, 2)
    yield from _latency(figures, "the same to our function in a bare transaction", ours.SAVE, bare.SAVE_BY_FUNCTION, 2)


def _scale(found: dict[str, Any]) -> Iterator[Reach]:
    sizes, figures = found["sizes"], found["figures"]
    large, small = (scale.name(scale.OURS, size) for size in (sizes[-1], sizes[0]))
    for what in (scale.ANY, scale.LATEST, scale.SAVE):
        title = f"{what}, p50, at {sizes[-1]:,} tracks to {sizes[0]:,}"
        yield from _latency(figures[what], title, large, small, 1.3)


def _threads(found: dict[str, Any]) -> Iterator[Reach]:
    for kind, crews in found["kinds"].items():
        own, other = crews[threads.OURS], crews[threads.BARE]
        rates = [f"{statistics.median(crew['rates']):,.0f}/s" for crew in (own, other)]
        what = f"{found['threads']} threads on {found['connections']} connections, {kind}"
        title = f"{what}, to {found['connections']} bare connections"
        yield Reach(title, True, 0.8, ratios(own["rates"], other["rates"]), *rates)
        yield Reach(f"{what}: the slowest thread to the mean", True, 0.8, own["slowest"], "", "")


def _tasks(found: dict[str, Any]) -> Iterator[Reach]:
    for kind, figures in found["latency"].items():
        yield from _latency(figures, f"{kind} with await, p50, to the same without", tasks.ASYNC, tasks.SYNC, 1.5)
    crews, what = found["crews"], f"{found['tasks']} tasks on {found['connections']} connections, {tasks.GET}"
    own, other = crews[tasks.OURS], crews[tasks.BARE]
    rates = [f"{statistics.median(crew['rates']):,.0f}/s" for crew in (own, other)]
    title = f"{what}, to {found['connections']} bare connections"
    yield Reach(title, True, 0.7, ratios(own["rates"], other["rates"]), *rates)
    yield Reach(f"{what}: the slowest task to the mean", True, 0.8, own["slowest"], "", "")


def _latency(figures: dict[str, Any], what: str, own: str, other: str, bound: float) -> Iterator[Reach]:
    if other in figures:
        mine, theirs = figures[own]["p50"], figures[other]["p50"]
        yield Reach(what, False, bound, ratios(mine, theirs), _microseconds(mine), _microseconds(theirs))


def _rate(rows: int, seconds: Sequence[float]) -> str:
    return f"{rows / statistics.median(seconds):,.0f}/s"


def _microseconds(values: Sequence[float]) -> str:
    return f"{statistics.median(values):,.1f} µs"
