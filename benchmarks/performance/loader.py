"""
A process that loads tracks by ``bulk_save`` and tells what memory that takes; ``memory.py`` starts it.

It imports what a service imports and nothing else, and reads its tracks from a file.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from audiocatalog import Catalog, TrackRecord
from benchmarks.performance.rows import ACTOR, URL_VARIABLE, Tracks

_SAMPLES: Final = 100
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Load the tracks that the arguments name, and print a line of JSON for each hundredth, and one for the whole."""
    url, path, count = os.environ[URL_VARIABLE], Path(sys.argv[1]), int(sys.argv[2])
    before = peak_memory()
    begun = time.perf_counter()
    with Catalog(url, actor=ACTOR, pool_size=1) as catalog:
        result = catalog.bulk_save(_told(Tracks(path, count).records(), count, begun))
    seconds = time.perf_counter() - begun
    _tell(inserted=result.inserted, before=before, peak=peak_memory(), seconds=seconds)


def _told(records: Iterator[TrackRecord], count: int, begun: float) -> Iterator[TrackRecord]:
    step = max(1, count // _SAMPLES)
    for number, record in enumerate(records):
        if number % step == 0:
            _tell(rows=number, memory=_memory(), seconds=time.perf_counter() - begun)
        yield record


def peak_memory() -> int:
    """
    Return the most memory that this process has had in RAM, in bytes.

    Linux hands the ``ru_maxrss`` of whoever started a process on to it, so that a small child of a large parent seems
    large; what /proc says is the process's own.
    """
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) << 10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def _memory() -> int:
    """Return what this process has in RAM now, or had at the most, where the system does not say it."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE
    return peak_memory()


def _tell(**figures: float) -> None:
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
