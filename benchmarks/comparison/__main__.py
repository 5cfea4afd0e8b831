"""
Measure this project beside another revision of itself: get, save, search, claim, complete and bulk_save.

    make bench BASELINE=v1.2                                  # in some minutes, with instructions where valgrind is
    make bench BASELINE=HEAD ARGS="--quick"                   # what is not committed beside the last commit; a minute
    make bench BASELINE=0af35d3 ARGS="--only claim --only complete --rounds 31"

The other revision is checked out into a temporary folder and gets an environment and a database of its own, on the same
server. An embedded server does not wait for the disk at a commit, for here that is noise. The two take turns, in the
other order each round; a ratio is that of one round, and its median and quartiles are shown. Client and session run on
one processor. How far the ratios of BASELINE=HEAD are from 1 tells how large a difference has to be to mean anything.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, NoReturn

from audiocatalog.errors import ConfigurationError
from benchmarks import absent
from benchmarks.comparison import report
from benchmarks.comparison.checkout import checked_out, this_one
from benchmarks.comparison.measure import BASELINE, CALLS, NOW, measure, write_material
from benchmarks.search.report import publish
from benchmarks.search.server import running

#: What is set where it is not given, usually and in a quick look, in which each turn makes a quarter of the calls.
_USUAL: Final = {"tracks": 20_000, "rounds": 15, "no_instructions": False}
_QUICK: Final = {"tracks": 2_000, "rounds": 7, "no_instructions": True}
_QUICK_SHARE: Final = 4


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.comparison",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--baseline", required=True, metavar="REV", help="the commit, branch or tag to compare with")
    parser.add_argument("--quick", action="store_true", help="few tracks and rounds, no instructions; not to be quoted")
    parser.add_argument("--only", choices=list(CALLS), action="append", help="compare this alone; may be repeated")
    parser.add_argument("--tracks", type=int, help="in each database; 20,000")
    parser.add_argument("--rounds", type=int, help="turns of each revision; 15")
    parser.add_argument("--no-instructions", action="store_true", default=None, help="count no instructions")
    parser.add_argument(
        "--same-environment",
        action="store_true",
        help="install nothing: the baseline runs with the packages of this environment",
    )
    parser.add_argument("--url", help="a server of yours, on which databases are made; default: an embedded one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables")
    options = parser.parse_args()
    for name, value in (_QUICK if options.quick else _USUAL).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def _compare(options: argparse.Namespace) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory(prefix="audiocatalog-bench-") as folder,
        checked_out(options.baseline, same_environment=options.same_environment) as baseline,
        running(options.url, None, None) as server,
    ):
        revisions = {BASELINE: baseline, NOW: this_one()}
        material = Path(folder) / "material.json"
        write_material(material, options.tracks)
        figures = measure(
            server,
            revisions,
            material,
            rounds=options.rounds,
            share=_QUICK_SHARE if options.quick else 1,
            operations=[name for name in CALLS if name in (options.only or CALLS)],
            is_here=options.url is None,
            is_counted=not options.no_instructions,
        )
        return figures | {
            **{side: revision.name for side, revision in revisions.items()},
            "date": dt.datetime.now(dt.UTC).date().isoformat(),
            "server": server.version(),
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "quick": options.quick,
            "absent": absent.reasons(),
        }


def _end(number: int, _: object) -> NoReturn:
    """End as after an interrupt, so that the worktree and the server are taken away."""
    raise SystemExit(128 + number)


def main() -> int:
    """Compare, and return the exit code: 1 says that something could not be measured, 2 that a setting is wrong."""
    options = _options()
    signal.signal(signal.SIGTERM, _end)
    try:
        found = _compare(options)
    except ConfigurationError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the worktree is removed", file=sys.stderr)
        return 128 + signal.SIGINT
    publish(found, options, report.heading(found), report.tables_of(found))
    return absent.FAILED if found["absent"] else 0


if __name__ == "__main__":
    sys.exit(main())
