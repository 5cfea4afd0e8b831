"""
Measure how fast tracks are loaded, read and saved, beside bare psycopg and the libraries that people use instead.

    make bench                                        # on an embedded server, durable; about an hour
    make bench ARGS="--quick"                         # a look in a minute, whose figures are not to be quoted
    make bench ARGS="--only reads --only saves"       # some minutes
    make bench ARGS="--full --json all.json --markdown tables.md --plots docs/performance"     # 10 million too: hours
    make bench ARGS="--from-json some.json --from-json others.json"               # show what was measured, as one run

Loads take about 40 minutes of it; the part with 10 million tracks (`--only scale`, or `--full`) takes one to two hours
and 40 GB of disk. Everybody has a turn in each block or run, forwards and backwards by turns, after a warm-up; the
ratios are those of one turn each, of which medians and quartiles are shown. Gets and saves of one track are timed on
one processor, with the server's session on the same, unless the server is yours. Each load gets new tables, and what it
has written is replayed afterwards. The client's instructions are counted where valgrind is.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from audiocatalog.errors import ConfigurationError
from benchmarks import absent
from benchmarks.lifecycle.server import LifecycleServer, running
from benchmarks.performance import (
    instructions,
    loads,
    memory,
    plots,
    reads,
    report,
    rows,
    saves,
    scale,
    tasks,
    threads,
    vectors,
)
from benchmarks.performance.database import Databases
from benchmarks.performance.timing import say, watched
from benchmarks.search.report import publish

_USUAL: Final = ("loads", "reads", "saves", "threads", "tasks", "memory", "instructions")
_PARTS: Final = (*_USUAL, "scale")
_SMALL: Final = 100_000
#: Others are at work where the load average is above this.
_BUSY: Final = 0.5
#: In a quick look, everything is divided by this.
_QUICK: Final = 100


def _number(text: str) -> int:
    number = int(text.replace("_", "").replace(",", ""))
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1")
    return number


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.performance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", choices=_PARTS, action="append", help="measure this part alone; may be repeated")
    parser.add_argument("--full", action="store_true", help="the part with 10 million tracks as well")
    parser.add_argument(
        "--quick", action="store_true", help="a hundredth of everything; instructions are not counted; not to be quoted"
    )
    parser.add_argument("--rows", type=_number, default=1_000_000, help="tracks loaded beside bare COPY; 1,000,000")
    parser.add_argument("--peer-rows", type=_number, default=30_000, help="tracks loaded beside everybody; 30,000")
    parser.add_argument("--vector-rows", type=_number, default=200_000, help="beside to_tsvector; 200,000")
    parser.add_argument("--tracks", type=_number, default=_SMALL, help="in the table that is read; 100,000")
    parser.add_argument("--scale-rows", type=_number, default=10_000_000, help="in the large table; 10,000,000")
    parser.add_argument("--runs", type=_number, default=3, help="times each load is timed; 3")
    parser.add_argument("--blocks", type=_number, default=11, help="turns of each read and save; 11")
    parser.add_argument("--url", help="a server of yours, on which databases are made; default: an embedded one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write the pictures; needs matplotlib")
    parser.add_argument(
        "--from-json",
        type=Path,
        metavar="FILE",
        action="append",
        help="measure nothing, show earlier figures; repeatable",
    )
    options = parser.parse_args()
    if options.quick:
        for name in ("rows", "peer_rows", "vector_rows", "tracks", "scale_rows"):
            setattr(options, name, max(1000, getattr(options, name) // _QUICK))
        options.runs, options.blocks = 1, 3
    return options


def _measure(server: LifecycleServer, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    parts = options.only or [part for part in _PARTS if part in _USUAL or options.full]
    found: dict[str, Any] = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "server": f"{server.version()}, {server.durability()}",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "machine": _machine(),
        "load": os.getloadavg()[0],
        "quick": options.quick,
    }
    sizes = {"loads": options.rows, "memory": options.rows, "scale": options.scale_rows}
    count = max(options.tracks, options.vector_rows, *(sizes.get(part, 0) for part in parts))
    if found["load"] > _BUSY:
        say(f"This machine is busy (load average {found['load']:.1f}): what is measured now will not be worth much.")
    databases = Databases(server, rows.made(folder, count), options.tracks, is_here=options.url is None)
    for part in parts:
        say(f"— {part}")
        with watched() as watch:
            found |= _measurers(databases, options)[part]()
        found.setdefault("seconds", {})[part] = watch.seconds
        say(f"— {part}: {watch.seconds:,.0f} s")
    return found | {"absent": absent.reasons()}


def _machine() -> str:
    """Return the processor and the memory, as far as the system tells."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{processor}, {memory / (1 << 30):.0f} GB, {platform.system()} {platform.release()}"


def _measurers(databases: Databases, options: argparse.Namespace) -> dict[str, Callable[[], dict[str, Any]]]:
    quick, runs, blocks = options.quick, options.runs, options.blocks
    small = min(_SMALL, max(1000, options.scale_rows // 10))
    return {
        "loads": lambda: {
            "loads": loads.measure(databases, rows=options.rows, few=options.peer_rows, runs=runs),
            "vectors": vectors.measure(databases, rows=options.vector_rows, runs=runs),
        },
        "reads": lambda: {"reads": reads.measure(databases, blocks=blocks, calls=100 if quick else 1000)},
        "saves": lambda: {"saves": saves.measure(databases, blocks=blocks, calls=50 if quick else 500)},
        "threads": lambda: {
            "threads": threads.measure(databases, blocks=min(blocks, 7), seconds=0.3 if quick else 3.0)
        },
        "tasks": lambda: {
            "tasks": tasks.measure(
                databases, blocks=blocks, calls=100 if quick else 1000, seconds=0.3 if quick else 3.0
            )
        },
        "memory": lambda: {
            "memory": memory.measure(
                databases, counts=sorted({min(_SMALL, max(1000, options.rows // 10)), options.rows})
            )
        },
        "instructions": lambda: {
            "instructions": instructions.measure(databases, share=50 if quick else 1, is_counted=not quick)
        },
        "scale": lambda: {
            "scale": scale.measure(
                databases, sizes=sorted({small, options.scale_rows}), blocks=blocks, calls=100 if quick else 1000
            )
        },
    }


def _earlier(files: list[Path]) -> dict[str, Any]:
    """Return the figures of several runs as those of one; what a later file holds as well is taken from it."""
    found: dict[str, Any] = {}
    for file in files:
        figures = json.loads(file.read_text(encoding="utf-8"))
        figures["seconds"] = found.get("seconds", {}) | figures.get("seconds", {})
        found |= figures
    return found


def main() -> int:
    """
    Run what was asked for, and return the exit code.

    1 says that a load left something wrong behind, or that a contestant could not run, 2 that a setting is wrong.
    """
    options = _options()
    try:
        if options.from_json:
            found = _earlier(options.from_json)
        else:
            with tempfile.TemporaryDirectory(prefix="audiocatalog-bench-") as folder, running(options.url) as server:
                found = _measure(server, Path(folder), options)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    publish(found, options, report.heading(found), report.tables_of(found), plots.draw)
    return absent.FAILED if report.wrongs(found) or found.get("absent") else 0


if __name__ == "__main__":
    sys.exit(main())
