"""How everything here is timed: in turns, after a warm-up, with the spread of what the turns gave."""

from __future__ import annotations

import gc
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from benchmarks import absent

_Figures = dict[str, dict[str, list[float]]]
_PROGRESS_SECONDS: Final = 10.0


def say(text: str) -> None:
    """Tell whoever waits what is going on; the figures alone go to the standard output."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """Say now and then how far a long piece of work has come."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._begun = self._said = time.monotonic()

    def add(self, count: int) -> None:
        """Count what was done."""
        self._done += count
        now = time.monotonic()
        if now > self._said + _PROGRESS_SECONDS:
            self._said = now
            say(f"{self._what}: {self._done:,} of {self._total:,}, {now - self._begun:.0f} s")


class Spread(NamedTuple):
    """Hold the median of several measurements, and their quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Return the median and the quartiles of *values*."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return each of *values* to the one of *others* that was measured in the same turn."""
    return [value / other for value, other in zip(values, others, strict=True)]


def turns(names: Sequence[str], turn: int) -> list[str]:
    """Return the order of a turn, forwards and backwards by turns: what drifts hits the first and the last alike."""
    return list(names) if turn % 2 else list(reversed(names))


def latencies(
    acts: Mapping[str, Callable[[Any], object]],
    arguments: Callable[[], Sequence[Any]],
    *,
    blocks: int,
    what: str,
    before: Callable[[], object] = lambda: None,
) -> _Figures:
    """
    Return what a call of each of *acts* takes in each block, in µs: the median and the 99th percentile.

    In each block everybody has its turn, with *arguments* of its own, one for each call; *before* is called first. The
    first block warms up.
    """
    found: _Figures = {name: {"p50": [], "p99": []} for name in acts}
    for block in range(-1, blocks):
        before()
        for name in filter(absent.is_present, turns(list(acts), block)):
            with absent.attempted(name):
                times = _times(acts[name], arguments())
                if block >= 0:
                    found[name]["p50"].append(statistics.median(times) * 1e6)
                    found[name]["p99"].append(sorted(times)[math.ceil(0.99 * len(times)) - 1] * 1e6)
    found = {name: figures for name, figures in found.items() if absent.is_present(name)}
    for name, figures in found.items():
        say(f"{what}: {name}: p50 {statistics.median(figures['p50']):,.1f} µs")
    return found


def _times(act: Callable[[Any], object], arguments: Sequence[Any]) -> list[float]:
    clock, times = time.perf_counter, []
    gc.collect()
    for argument in arguments:
        begun = clock()
        act(argument)
        times.append(clock() - begun)
    return times


class Watch:
    """Hold what a piece of work took: *seconds* by the clock, and *client* seconds of this process's processor time."""

    seconds = 0.0
    client = 0.0


@contextmanager
def watched() -> Iterator[Watch]:
    """Give a watch that is stopped at the end of the block."""
    gc.collect()
    watch = Watch()
    begun, client = time.perf_counter(), time.process_time()
    yield watch
    watch.seconds, watch.client = time.perf_counter() - begun, time.process_time() - client
