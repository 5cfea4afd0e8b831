"""What memory a process takes that loads tracks, however many there are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.performance.database import Databases
from benchmarks.performance.rows import URL_VARIABLE, Tracks
from benchmarks.performance.timing import say

_ROOT: Final = Path(__file__).resolve().parents[2]
_PROGRESS_SECONDS: Final = 15.0


def measure(databases: Databases, *, counts: list[int]) -> dict[str, Any]:
    """Return the memory of a load of each of *counts* tracks."""
    return {str(count): loaded(databases.fresh(), databases.tracks, count) for count in counts}


def loaded(url: str, tracks: Tracks, count: int) -> dict[str, Any]:
    """Load *count* of *tracks* into the database at *url*, in a process of its own, and return what that took."""
    command = [sys.executable, "-m", "benchmarks.performance.loader", str(tracks.path), str(count)]
    environment = os.environ | {URL_VARIABLE: url}
    curve: list[list[float]] = []
    figures: dict[str, Any] = {}
    said = time.monotonic()
    with subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own.
        assert process.stdout is not None  # noqa: S101
        for line in process.stdout:
            figures = json.loads(line)
            if "rows" in figures:
                curve.append([figures["rows"], figures["memory"], figures["seconds"]])
                if time.monotonic() > said + _PROGRESS_SECONDS:
                    said = time.monotonic()
                    rows, memory, seconds = curve[-1]
                    say(f"loading {count:,}: {rows:,.0f} after {seconds:,.0f} s, {memory / 1e6:.0f} MB")
    if process.returncode or figures.get("inserted") != count:
        raise RuntimeError(f"the load of {count:,} tracks ended with {process.returncode}: {figures}")
    say(f"loading {count:,}: {count / figures['seconds']:,.0f} a second, peak {figures['peak'] / 1e6:.0f} MB")
    return figures | {"curve": curve}
