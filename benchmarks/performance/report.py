"""The figures as tables."""

from __future__ import annotations

import statistics
from typing import Any, Final

from benchmarks.performance import bare, ours, tasks, vectors
from benchmarks.performance.reach import Reach, reached
from benchmarks.performance.timing import ratios, spread
from benchmarks.search.report import Table
from benchmarks.search.report import heading as measured_on

_QUARTILES: Final = "quartiles"


def heading(found: dict[str, Any]) -> str:
    """Return on what the figures were measured."""
    facts = [measured_on(found), found["machine"], f"load average before {found['load']:.1f}"]
    return " · ".join(facts)


def tables_of(found: dict[str, Any]) -> list[Table]:
    """Return the tables of whatever was measured, and last what was to be reached."""
    tables: list[Table] = []
    if "loads" in found:
        tables += [_load_table(found["loads"][part]) for part in ("many", "few")]
    if "vectors" in found:
        tables.append(_vector_table(found["vectors"]))
    if "reads" in found:
        reads = found["reads"]
        about = f"of {reads['tracks']:,}"
        tables.append(_latency_table(f"Get one track {about}, by id", reads["get"], ours.GET))
        tables.append(_latency_table(f"Get 100 tracks {about}, by ids", reads["get_many"], ours.GET_MANY))
        tables.append(
            _latency_table(
                f"Read all of {reads['tracks']:,} tracks in their order, µs a track", reads["walk"], ours.WALK
            )
        )
    if "saves" in found:
        tables.append(_latency_table("Save a new track with its history, committed", found["saves"]["save"], ours.SAVE))
    tables += _crew_tables(found)
    if loads := {**found.get("memory", {}), **found.get("scale", {}).get("loads", {})}:
        tables.append(_memory_table(loads))
    if "scale" in found:
        tables += [
            _latency_table(f"As the table grows: {what}", figures, None)
            for what, figures in found["scale"]["figures"].items()
        ]
    if calls := found.get("instructions", {}).get("calls"):
        tables.append(_instruction_table(calls))
    if lines := reached(found):
        tables.append(_reach_table(lines))
    return tables


def wrongs(found: dict[str, Any]) -> list[str]:
    """Return everything that was wrong with the tables after a load."""
    parts = found.get("loads", {}).values()
    return [
        f"{name}: {text}" for part in parts for name, figures in part["systems"].items() for text in figures["wrong"]
    ]


def _load_table(part: dict[str, Any]) -> Table:
    rows, systems, making = part["rows"], part["systems"], part["making"]
    title = (
        f"Load {rows:,} new tracks with their history, {part['runs']} runs; making the rows takes "
        f"{1e6 * making['tuples'] / rows:.1f} µs a tuple, {1e6 * making['records'] / rows:.1f} µs a validated record"
    )
    lines = []
    for name, figures in systems.items():
        rates = [rows / seconds for seconds in figures["seconds"]]
        client = 1e6 * statistics.median(figures["client"]) / rows
        own = ours.LOAD_TWO if name == bare.COPY_TWO else ours.LOAD
        ours_to_it = spread(ratios(figures["seconds"], systems[own]["seconds"]))
        lines.append(
            [
                name,
                f"{statistics.median(rates):,.0f}",
                _range(rates),
                f"{1e6 / statistics.median(rates):,.1f}",
                f"{client:,.1f}",
                f"{ours_to_it.median:.2f}",
                "; ".join(figures["wrong"]) or "yes",
            ]
        )
    columns = [
        "contestant",
        "rows a second",
        _QUARTILES,
        "µs a row",
        "client's CPU, µs a row",
        "bulk_save over as many connections to it",
        "all is there",
    ]
    return Table(title, columns, lines)


def _vector_table(part: dict[str, Any]) -> Table:
    rows, systems = part["rows"], part["systems"]
    plain = systems[vectors.PLAIN]["seconds"]
    lines = []
    for name, figures in systems.items():
        rates = [rows / seconds for seconds in figures["seconds"]]
        lines.append(
            [
                name,
                f"{statistics.median(rates):,.0f}",
                _range(rates),
                f"{1e6 / statistics.median(rates):,.1f}",
                f"{spread(ratios(plain, figures['seconds'])).median:.2f}",
                f"{figures['bytes'] / rows:,.0f}",
            ]
        )
    columns = ["table", "rows a second", _QUARTILES, "µs a row", "rate to to_tsvector's", "bytes a row, with indexes"]
    return Table(f"COPY {rows:,} tracks without their history, {part['runs']} runs", columns, lines)


def _latency_table(title: str, figures: dict[str, Any], own: str | None) -> Table:
    first = next(iter(figures))
    lines = []
    for name, system in figures.items():
        of, to = (own, name) if own else (name, first)
        share = spread(ratios(figures[of]["p50"], figures[to]["p50"]))
        low, high = (f"{value:,.1f}" for value in (spread(system["p50"]).low, spread(system["p50"]).high))
        lines.append(
            [
                name,
                f"{statistics.median(system['p50']):,.1f}",
                f"{low}–{high}",
                f"{statistics.median(system['p99']):,.1f}",
                f"{share.median:.2f}",
                f"{share.low:.2f}–{share.high:.2f}",
            ]
        )
    relation = "ours to it" if own else "to the first"
    blocks = len(figures[first]["p50"])
    columns = ["contestant", "p50, µs", _QUARTILES, "p99, µs", relation, _QUARTILES]
    return Table(f"{title}; medians of {blocks} blocks", columns, lines)


def _crew_tables(found: dict[str, Any]) -> list[Table]:
    tables: list[Table] = []
    if "threads" in found:
        tables += [_crew_table(kind, crews, found["threads"]) for kind, crews in found["threads"]["kinds"].items()]
    if "tasks" in found:
        tables += [
            _latency_table(f"{kind} with await, beside the same without", figures, tasks.ASYNC)
            for kind, figures in found["tasks"]["latency"].items()
        ]
        tables.append(_crew_table(tasks.GET, found["tasks"]["crews"], found["tasks"], "task"))
    return tables


def _crew_table(kind: str, crews: dict[str, Any], about: dict[str, Any], what: str = "thread") -> Table:
    lines = [
        [
            name,
            f"{statistics.median(crew['rates']):,.0f}",
            _range(crew["rates"]),
            f"{statistics.median(crew['slowest']):.2f}",
        ]
        for name, crew in crews.items()
    ]
    title = f"{what.capitalize()}s: {kind}, {about['seconds']:g} s a turn"
    return Table(title, ["crew", "calls a second", _QUARTILES, f"slowest {what} to the mean"], lines)


def _memory_table(loads: dict[str, Any]) -> Table:
    lines = [
        [
            f"{int(count):,}",
            f"{load['before'] / 1e6:.0f}",
            f"{load['peak'] / 1e6:.0f}",
            f"{int(count) / load['seconds']:,.0f}",
            f"{load['seconds']:,.0f}",
        ]
        for count, load in sorted(loads.items(), key=lambda item: int(item[0]))
    ]
    columns = ["tracks", "MB before", "peak, MB", "rows a second", "s"]
    return Table("Memory of a process that loads tracks by bulk_save", columns, lines)


def _instruction_table(calls: dict[str, Any]) -> Table:
    lines = []
    for what, systems in calls.items():
        mine, theirs = (
            next(count for name, count in systems.items() if name.startswith(prefix))
            for prefix in ("audiocatalog", "bare")
        )
        lines.append([what, f"{mine:,.0f}", f"{theirs:,.0f}", f"{mine / theirs:.2f}"])
    names = {"load": f"a row of a load ({bare.COPY.partition(': ')[2]})"}
    lines = [[names.get(what, what), *rest] for what, *rest in lines]
    return Table("Instructions of the client for a call", ["", "audiocatalog", "bare psycopg", "ratio"], lines)


def _reach_table(lines: list[Reach]) -> Table:
    rows = []
    for line in lines:
        found = line.spread
        spreads = f"{found.low:.2f}–{found.high:.2f}" if len(line.values) > 1 else ""
        asked = f"{'≥' if line.at_least else '≤'} {line.bound:g}"
        verdict = "yes" if line.is_met else "NO"
        rows.append([line.what, asked, f"{found.median:.2f}", spreads, line.ours, line.theirs, verdict])
    columns = ["to be reached", "asked", "measured", _QUARTILES, "ours", "beside it", "met"]
    return Table("Against what was to be reached: medians of the turns' own ratios", columns, rows)


def _range(values: list[float]) -> str:
    found = spread(values)
    return f"{found.low:,.0f}–{found.high:,.0f}"
