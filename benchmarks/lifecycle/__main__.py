"""
Measure transitions, claims, races and killed workers, beside bare psycopg, an ORM and libraries that queue jobs.

    make bench-lifecycle                                    # on an embedded server, durable, in some minutes
    make bench-lifecycle ARGS="--quick"                     # a look, whose figures are not to be quoted
    make bench-lifecycle ARGS="--only claims --runs 5 --plots docs/lifecycle --markdown tables.md"

The contestants take turns in each run; before each, they get a fresh copy of the same data, vacuumed and written to the
disk. After each, the history is replayed. The rates are medians of the runs, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any, Final

from audiocatalog.errors import ConfigurationError
from benchmarks import absent
from benchmarks.lifecycle import claims, kills, moves, plots, races, report
from benchmarks.lifecycle.server import LifecycleServer, running
from benchmarks.search.report import publish

_PARTS: Final = ("transitions", "claims", "races", "kills")
#: In a quick look, everything is divided by this, as far as it still means something.
_QUICK: Final = 100


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.lifecycle", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=_PARTS, action="append", help="measure this part alone; may be repeated")
    parser.add_argument("--quick", action="store_true", help="a small part of everything, once; not to be quoted")
    parser.add_argument("--runs", type=int, default=3, help="times each contestant is timed")
    parser.add_argument("--tracks", type=int, default=100_000, help="so many wait when the claims begin")
    parser.add_argument("--many", type=int, default=1_000_000, help="and so many where the queue is long")
    parser.add_argument("--url", help="a server of yours, on which databases are made; default: an embedded one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write the pictures; needs matplotlib")
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="measure nothing, show an earlier run's figures")
    return parser.parse_args()


def _measure(server: LifecycleServer, options: argparse.Namespace) -> dict[str, Any]:
    parts = options.only or _PARTS
    share = _QUICK if options.quick else 1
    runs = 1 if options.quick else options.runs
    found: dict[str, Any] = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "server": f"{server.version()}, {server.durability()}",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "quick": options.quick,
    }
    if "transitions" in parts:
        found["transitions"] = moves.measure(server, tracks=max(80, 4000 // share), runs=runs)
    if "claims" in parts:
        tracks, many = options.tracks // share, options.many // share
        found["claims"] = claims.measure(server, tracks=tracks, many=many, first=tracks // 2, runs=runs)
    if "races" in parts:
        found["races"] = races.measure(server, tracks=max(20, 1000 // share))
    if "kills" in parts:
        found["kills"] = kills.measure(server, moments=max(4, 100 // share))
    return found | {"absent": absent.reasons()}


def main() -> int:
    """
    Run what was asked for, and return the exit code.

    1 says that something was lost or done twice, or that a contestant could not run, 2 that a setting is wrong.
    """
    options = _options()
    try:
        if options.from_json:
            found = json.loads(options.from_json.read_text(encoding="utf-8"))
        else:
            with running(options.url) as server:
                found = _measure(server, options)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    publish(found, options, report.heading(found), report.tables_of(found), plots.draw)
    return absent.FAILED if report.wrongs(found) or found.get("absent") else 0


if __name__ == "__main__":
    sys.exit(main())
