"""
Measure what a search finds and how long it takes, beside the SQL of the manual, SQLite FTS5 and tantivy.

    make bench-search                                                 # on an embedded server, in some minutes
    make bench-search ARGS="--only quality --catalogue catalogue_30k.csv.gz --queries 300"      # a quick look
    make bench-search ARGS="--scales 100000,1000000,10000000 --keep DIR --plots docs/search --markdown tables.md"

Quality needs the folder AUDIOCATALOG_DATA (default: ../shared/data from the project's root); without it, ask for
`--only names` or `--only latency`, which then makes tracks of its own. Everything is measured by one client, after a
warm-up of the same queries. Loading is not measured, but its time is reported.
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
from benchmarks.search import hostile, latency, names, plans, plots, quality, report
from benchmarks.search.data import NoDataError, data_file
from benchmarks.search.load import Reuse
from benchmarks.search.peers import PEERS, installed
from benchmarks.search.server import Server, running

_PARTS: Final = ("quality", "names", "latency", "hostile", "plans")
_NO_DATA: Final = 3


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
    return parser.parse_args()


def _measure(server: Server, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    parts = options.only or _PARTS
    peers = installed(options.peers)
    reuse = Reuse(options.reload, options.stale_ok)
    found: dict[str, Any] = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "server": server.version(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    if "quality" in parts:
        found["quality"] = quality.measure(
            server,
            folder,
            catalogue=options.catalogue,
            peers=peers,
            most=options.queries,
            runs=options.runs,
            reuse=reuse,
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
        found["hostile"] = hostile.measure(server, queries=options.hostile_queries, reuse=reuse)
    if "plans" in parts:
        found["plans"] = plans.measure(server, scale=max(options.scales), reuse=reuse)
    return found


def _run(options: argparse.Namespace) -> dict[str, Any]:
    if options.from_json:
        earlier: dict[str, Any] = json.loads(options.from_json.read_text(encoding="utf-8"))
        return earlier
    if "quality" in (options.only or _PARTS):
        data_file(options.catalogue)  # Better to know now than after the server's start.
    with contextlib.ExitStack() as stack:
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="audiocatalog-bench-")))
        server = stack.enter_context(running(options.url, options.keep, options.shared_buffers))
        return _measure(server, folder, options)


def main() -> int:
    """Run what was asked for; 3 says that the data are missing, 2 that a setting is wrong."""
    options = _options()
    try:
        found = _run(options)
    except NoDataError as error:
        print(f"Skipped: {error} Without it, try --only names or --only latency.", file=sys.stderr)
        return _NO_DATA
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    report.publish(found, options, report.heading(found), report.tables_of(found), plots.draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
