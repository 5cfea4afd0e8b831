"""How many instructions the client's processor executes for a call: a figure that no neighbour on the machine moves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks import absent
from benchmarks.performance import bare, ours
from benchmarks.performance.database import Databases
from benchmarks.performance.rows import URL_VARIABLE
from benchmarks.performance.timing import say

_ROOT: Final = Path(__file__).resolve().parents[2]
_COUNTED: Final = re.compile(r"I\s+refs:\s+([\d,]+)")
_VALGRIND: Final = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")


class _Call(NamedTuple):
    """Name what a process does, by whom, and how often in the shorter of its two runs."""

    what: str
    system: str
    times: int


#: What the systems are called in the arguments of the process.
_SYSTEMS: Final = (ours.GET, bare.GET)


def _calls(share: int) -> list[_Call]:
    return [
        *(_Call("get", system, 1000 // share) for system in _SYSTEMS),
        *(_Call("get 100", system, 100 // share) for system in _SYSTEMS),
        *(_Call("save", system, 500 // share) for system in _SYSTEMS),
        *(_Call("load", system, 4000 // share) for system in (ours.LOAD, bare.COPY)),
    ]


def measure(databases: Databases, *, share: int, is_counted: bool = True) -> dict[str, Any]:
    """
    Return the instructions of a call, or of a row of a load.

    A process does N of them and another one 2 N; the difference is that of N calls alone, without the start of Python.
    Where they need not be counted, the processes run without valgrind, which takes ten seconds to start Python.
    """
    if not is_counted:
        for call in _calls(share):
            _run(databases, databases.filled(), call, call.times, [])
        return {}
    if shutil.which(_VALGRIND[0]) is None:
        absent.note("instructions", "there is no valgrind (apt install valgrind)")
        return {}
    url, calls = databases.filled(), _calls(share)
    runs = [(call, times) for call in calls for times in (1, 2)]
    # The counts do not depend on who else runs.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counted = list(pool.map(lambda run: _counted(databases, url, run[0], run[0].times * run[1]), runs))
    found: dict[str, Any] = {}
    for call, single, double in zip(calls, counted[::2], counted[1::2], strict=True):
        found.setdefault(call.what, {})[call.system] = (double - single) / call.times
    return {"calls": found}


def _counted(databases: Databases, url: str, call: _Call, count: int) -> int:
    found = _COUNTED.search(_run(databases, url, call, count, _VALGRIND))
    if found is None:
        raise RuntimeError("valgrind has counted nothing")
    say(f"instructions: {call.what}, {count:,} times: {call.system}: {found[1]}")
    return int(found[1].replace(",", ""))


def _run(databases: Databases, url: str, call: _Call, count: int, under: Sequence[str]) -> str:
    """Do *call* *count* times in a process *under* a command, and return what it writes to its standard error."""
    command = [
        *(*under, sys.executable, "-m", "benchmarks.performance.calls"),
        *(str(databases.tracks.path), call.system, call.what, str(count)),
    ]
    environment = os.environ | {"PYTHONHASHSEED": "0", URL_VARIABLE: url}
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - our own.
    if done.returncode:
        raise RuntimeError(f"{call.what} by {call.system} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stderr
