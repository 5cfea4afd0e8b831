"""
Measure what a search finds and how long it takes, beside the SQL of the manual, SQLite FTS5 and tantivy.

    make bench-search                                                 # on an embedded server, in some minutes
    make bench-search ARGS="--quick"                                  # a look, whose figures are not to be quoted
    make bench-search ARGS="--scales 100000,1000000,10000000 --keep DIR --plots docs/search --markdown tables.md"

AUDIOCATALOG_DATA names a folder of real tracks and queries; without it, and in a quick look, both are made up.
Everything is measured by one client, after a warm-up of the same queries. Loading is not measured, but its time is
reported.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from audiocatalog.errors import ConfigurationError
from benchmarks import absent
from benchmarks.search import hostile, latency, names, plans, plots, quality, report
from benchmarks.search.data import FOLDER_VARIABLE, NoDataError, data_file
from benchmarks.search.known_items import Material, of_folder, of_our_own
from benchmarks.search.load import Reuse
from benchmarks.search.peers import PEERS, installed
from benchmarks.search.server import Server, running

_PARTS: Final = ("quality", "names", "latency", "hostile", "plans")
_GENERATED_TRACKS: Final = 100_000
_MOST_HOSTILE_TRACKS: Final = 100_000
#: What a quick look sets.
_QUICK: Final = {"scales": [1_000, 4_000], "tracks": 2_000, "queries": 8, "runs": 1, "hostile_queries": 200}


def _whole_numbers(text: str) -> list[int]:
    return sorted({int(part.replace("_", "")) for part in text.split(",")})


def _peers(text: str) -> list[str]:
    peers = [] if text == "none" else text.split(",")
    if unknown := sorted(set(peers) - set(PEERS)):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: the peers are {', '.join(PEERS)}, or none")
    return peers


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=_PARTS, action="append", help="measure this part alone; may be repeated")
    parser.add_argument("--catalogue", default="catalogue.csv.gz", help="the file whose tracks are searched in quality")
    parser.add_argument("--tracks", type=int, default=_GENERATED_TRACKS, help="made up for quality, without a folder")
    parser.add_argument("--quick", action="store_true", help="few made-up tracks and queries, once; not to be quoted")
    parser.add_argument("--scales", type=_whole_numbers, default=[100_000, 1_000_000], help="numbers of tracks")
    parser.add_argument("--peers", type=_peers, default=list(PEERS), help="naive,fts5,tantivy or none")
    parser.add_argument(
        "--peer-limit", type=int, default=1_000_000, help="the largest scale at which peers are measured"
    )
    parser.add_argument("--queries", type=int, help="at most so many queries of each file and kind, for a quick look")
    parser.add_argument("--runs", type=int, default=3, help="times each query of a latency is asked; the median counts")
    parser.add_argument("--hostile-queries", type=int, default=20_000, help="so many random and hostile ones")
    parser.add_argument("--url", help="a server of yours, on which databases are made; default: an embedded one")
    parser.add_argument(
        "--shared-buffers", help="of the embedded server; default: a quarter of the memory, at most 8 GB"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the loaded databases and indexes for other runs")
    parser.add_argument("--reload", action="store_true", help="load anew what was kept")
    parser.add_argument("--stale-ok", action="store_true", help="use what was kept although the schema's files changed")
    parser.add_argument("--refresh-vocabulary", action="store_true", help="of kept scales, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write the pictures; needs matplotlib")
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="measure nothing, show an earlier run's figures")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(_QUICK)
        os.environ.pop(FOLDER_VARIABLE, None)
    return options


def _measure(server: Server, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    parts = options.only or _PARTS
    material = _material(options) if "quality" in parts else None
    peers = installed(options.peers)
    reuse = Reuse(options.reload, options.stale_ok)
    found: dict[str, Any] = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "server": server.version(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "quick": options.quick,
    }
    if material is not None:
        found["quality"] = quality.measure(
            server, folder, material=material, peers=peers, runs=options.runs, reuse=reuse
        )
    if "names" in parts:
        found["names"] = names.measure(server, folder, peers=peers, reuse=reuse)
    if "latency" in parts:
        found["latency"] = latency.measure(
            server,
            folder,
            scales=options.scales,
            peers=peers,
            peer_limit=options.peer_limit,
            most=options.queries,
            runs=options.runs,
            reuse=reuse,
            refresh=options.refresh_vocabulary,
        )
    if "hostile" in parts:
        found["hostile"] = hostile.measure(
            server, queries=options.hostile_queries, tracks=min(_MOST_HOSTILE_TRACKS, max(options.scales)), reuse=reuse
        )
    if "plans" in parts:
        found["plans"] = plans.measure(server, scale=max(options.scales), reuse=reuse)
    return found | {"absent": absent.reasons()}


def _material(options: argparse.Namespace) -> Material:
    """Return the catalogue and the queries of the data folder where one is named, or else made-up ones."""
    if os.environ.get(FOLDER_VARIABLE):
        return of_folder(options.catalogue, options.queries)
    return of_our_own(options.tracks, options.queries)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    if options.from_json:
        earlier: dict[str, Any] = json.loads(options.from_json.read_text(encoding="utf-8"))
        return earlier
    if "quality" in (options.only or _PARTS) and os.environ.get(FOLDER_VARIABLE):
        data_file(options.catalogue)  # Better to know now than after the server's start.
    with contextlib.ExitStack() as stack:
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="audiocatalog-bench-")))
        server = stack.enter_context(running(options.url, options.keep, options.shared_buffers))
        return _measure(server, folder, options)


def main() -> int:
    """Run what was asked for; 1 says that a contestant could not run, 2 that a setting is wrong or a file missing."""
    options = _options()
    try:
        found = _run(options)
    except (NoDataError, ConfigurationError) as error:
        print(error, file=sys.stderr)
        return 2
    report.publish(found, options, report.heading(found), report.tables_of(found), plots.draw)
    return absent.FAILED if found.get("absent") else 0


if __name__ == "__main__":
    sys.exit(main())
