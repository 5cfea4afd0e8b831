"""How long a search takes as the table grows, by the kind of query."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.search.data import scale_rows, scale_source
from benchmarks.search.load import Database, Reuse, filled, refresh_vocabulary, say
from benchmarks.search.peers import systems_of
from benchmarks.search.server import Server
from benchmarks.search.systems import ask_all, errors, latency
from benchmarks.search.workload import workload


def measure(
    server: Server,
    folder: Path,
    *,
    scales: list[int],
    peers: list[str],
    peer_limit: int,
    most: int | None,
    runs: int,
    reuse: Reuse,
    refresh: bool,
) -> dict[str, Any]:
    """Load each of the *scales*, smallest first, ask every kind of query, and return the figures."""
    source = scale_source()
    result: dict[str, Any] = {"source": source, "scales": sorted(scales), "load_seconds": {}, "kinds": {}}
    for scale in sorted(scales):
        database = filled(
            server,
            f"scale_{scale}",
            f"{source} {scale}",
            lambda scale=scale: scale_rows(scale),  # type: ignore[misc]  # The loop's value, not its last.
            reuse,
        )
        if refresh:
            refresh_vocabulary(database.url)
        result["load_seconds"][str(scale)] = database.seconds
        _measure_scale(
            database,
            folder,
            peers=peers if scale <= peer_limit else [],
            most=most,
            runs=runs,
            scale=scale,
            kinds=result["kinds"],
        )
    return result


def _measure_scale(
    database: Database,
    folder: Path,
    *,
    peers: list[str],
    most: int | None,
    runs: int,
    scale: int,
    kinds: dict[str, Any],
) -> None:
    """Add the figures of one scale to *kinds*, by kind of query, system and scale."""
    queries_by_kind = workload(database, most)
    for system in systems_of(database, folder, peers):
        say(f"{database.name}: {sum(map(len, queries_by_kind.values()))} queries by {system.name}")
        for kind, queries in queries_by_kind.items():
            answers = ask_all(system, queries, runs=runs)
            answered = sum(bool(answer.numbers) for answer in answers)
            figures = latency(answers) | {"queries": len(queries), "answered": answered, "errors": errors(answers)}
            slowest = max(zip(answers, queries, strict=True), key=lambda pair: pair[0].seconds, default=None)
            if slowest is not None:
                figures["slowest"] = slowest[1].text
            kinds.setdefault(kind, {}).setdefault(system.name, {})[str(scale)] = figures
        system.close()
