"""How fast many tracks are loaded into empty tables, and how fast they are loaded again when nothing has changed."""

from __future__ import annotations

import gc
import itertools
import statistics
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sqlalchemy import make_url

from benchmarks import absent
from benchmarks.lifecycle.verify import history_is_wrong
from benchmarks.performance import bare, beets_library, ours, systems
from benchmarks.performance.contestant import Loader
from benchmarks.performance.database import Databases, settle
from benchmarks.performance.rows import Values
from benchmarks.performance.timing import Progress, Watch, say, turns, watched

_WARM_ROWS: Final = 50
#: What is loaded into a file of its own is not looked for in PostgreSQL.
_ELSEWHERE: Final = {beets_library.LOAD}


def measure(databases: Databases, *, rows: int, few: int, runs: int) -> dict[str, Any]:
    """Load *rows* by this package and by bare COPY, then the *few* that the slower ones have the time for, by all."""
    everybody = systems.loaders()
    best = {name: everybody[name] for name in (ours.LOAD, bare.COPY, bare.COPY_BATCHES)}
    # Two are beside two: where the server has cores to spare, they are a matter of its cores and of nothing else.
    best |= {ours.LOAD_TWO: ours.load_over_two, bare.COPY_TWO: bare.copy_over_two}
    url, every_row = databases.fresh(), databases.tracks.values()
    for name, load in (everybody | best).items():
        with absent.attempted(name):
            load(url, itertools.islice(every_row, _WARM_ROWS))
    return {
        "many": _measure(databases, best, rows=rows, runs=runs, around=True),
        "few": _measure(databases, everybody, rows=few, runs=runs, around=False),
    }


def _measure(
    databases: Databases, contestants: Mapping[str, Loader], *, rows: int, runs: int, around: bool
) -> dict[str, Any]:
    """Time each of *contestants*; with *around*, also our second load, and our load of records that are there."""
    found: dict[str, Any] = {}
    names = list(contestants)
    if around:
        names.insert(1, ours.LOAD_MADE)
    for run in range(runs):
        for name in filter(absent.is_present, turns(names, run + 1)):
            url = databases.fresh()
            with absent.attempted(name):
                if name == ours.LOAD_MADE:
                    watch = _load_made(databases, url, rows)
                else:
                    watch = _load(databases, name, contestants[name], url, rows)
                wrong = [] if name in _ELSEWHERE else _wrong(url, rows)
                _keep(found, name, watch, rows, wrong)
            if around and name == ours.LOAD:
                settle(url)
                watch = _load(databases, ours.LOAD_AGAIN, _load_again, url, rows)
                _keep(found, ours.LOAD_AGAIN, watch, rows, _wrong(url, rows))
    found = {name: figures for name, figures in found.items() if absent.is_present(name)}
    return {"rows": rows, "runs": runs, "systems": found, "making": _making(databases, rows, runs)}


def _load(databases: Databases, name: str, load: Loader, url: str, rows: int) -> Watch:
    progress = Progress(name, rows)

    def told() -> Iterator[Values]:
        for number, values in enumerate(databases.tracks.values(rows), 1):
            # By blocks: a count for each row would be a part of what is measured.
            if not number & 0xFFFF:
                progress.add(0x10000)
            yield values

    with watched() as watch:
        load(url, told())
    return watch


def _load_made(databases: Databases, url: str, rows: int) -> Watch:
    """Load records that are all in memory, so that no time is spent on making them."""
    records = list(databases.tracks.records(rows))
    gc.collect()
    gc.freeze()  # A service does not hold a million objects that the collector goes through again and again.
    try:
        with watched() as watch:
            ours.load_records(url, records)
    finally:
        gc.unfreeze()
    return watch


def _load_again(url: str, rows: Iterator[Values]) -> None:
    result = ours.load(url, rows)
    if result.inserted or result.updated:
        raise RuntimeError(f"what was unchanged was written: {result}")


def _keep(found: dict[str, Any], name: str, watch: Watch, rows: int, wrong: list[str]) -> None:
    figures = found.setdefault(name, {"seconds": [], "client": [], "wrong": []})
    figures["seconds"].append(watch.seconds)
    figures["client"].append(watch.client)
    figures["wrong"] += wrong
    say(f"load {rows:,}, run {len(figures['seconds'])}: {name}: {rows / watch.seconds:,.0f} a second {wrong or ''}")


def _making(databases: Databases, rows: int, runs: int) -> dict[str, float]:
    """Return what it takes to give the rows to somebody who does nothing with them, in seconds."""
    makers = {"tuples": databases.tracks.values, "records": databases.tracks.records}
    found: dict[str, list[float]] = {name: [] for name in makers}
    for run in range(runs):
        for name in turns(list(makers), run):
            with watched() as watch:
                for _ in makers[name](rows):
                    pass
            found[name].append(watch.seconds)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def _wrong(url: str, rows: int) -> list[str]:
    """Return what is wrong with the tables after a load: every track is there, and its history, replayed, agrees."""
    return history_is_wrong(make_url(url), changes=rows)
