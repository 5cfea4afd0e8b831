"""What both revisions are given, and how they take turns."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import re
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from benchmarks import absent
from benchmarks.comparison.checkout import Revision
from benchmarks.comparison.side import Side, Turn, opened
from benchmarks.performance.database import settle
from benchmarks.performance.processor import one_processor
from benchmarks.performance.timing import say, spread
from benchmarks.search.data import generated_rows, track_id
from benchmarks.search.server import Server
from benchmarks.search.workload import mistyped

BASELINE: Final = "baseline"
NOW: Final = "now"
SIDES: Final = (BASELINE, NOW)
#: The calls of each operation in a turn, in the order in which the operations come: what is claimed is completed.
CALLS: Final = {"get": 1000, "save": 200, "search": 100, "claim": 30, "complete": 200, "bulk": 4}
#: This many counted calls are enough, because they are counted to the instruction.
_COUNTED_CALLS: Final = {"get": 200, "save": 100, "search": 50, "claim": 20, "complete": 100, "bulk": 2}
_COUNTED: Final = re.compile(r"I\s+refs:\s+([\d,]+)")
_SEED: Final = 5
_QUERIES: Final = 400


def write_material(path: Path, tracks: int) -> None:
    """Write *tracks* made-up tracks and the queries for them into the file at *path*."""
    rows = list(generated_rows(tracks))
    dice = random.Random(_SEED)  # noqa: S311 - the same queries are wanted each time.
    queries = ["the", "love", "night", "lov"]
    for row in dice.choices(rows, k=_QUERIES // 4):
        names = f"{row.metadata.artist} {row.metadata.title}"
        queries += [names, row.metadata.title.split()[0], names[:-1], mistyped(names, dice) or row.metadata.title]
    material = {
        "tracks": [(track_id(number).hex, dataclasses.asdict(row.metadata)) for number, row in enumerate(rows)],
        "queries": queries,
    }
    path.write_text(json.dumps(material), encoding="utf-8")


def measure(
    server: Server,
    revisions: Mapping[str, Revision],
    material: Path,
    *,
    rounds: int,
    share: int,
    operations: list[str],
    is_here: bool,
    is_counted: bool,
) -> dict[str, Any]:
    """Let the *revisions* take turns in each operation, and return what each turn took."""
    urls = {
        side: server.create(f"comparison_{os.getpid()}_{side}").render_as_string(hide_password=False) for side in SIDES
    }
    found: dict[str, Any] = {
        operation: {side: {"us": [], "processor_us": []} for side in SIDES} for operation in operations
    }
    with contextlib.ExitStack() as stack:
        gather = stack.enter_context(one_processor(list(urls.values()), is_here=is_here))
        sides = {
            side: stack.enter_context(opened(revisions[side], urls[side], material, is_here=is_here)) for side in SIDES
        }
        for side in SIDES:
            sides[side].setup()
            settle(urls[side])
        for number in range(-1, rounds):
            gather()
            for operation in operations:
                _round(sides, operation, max(2, CALLS[operation] // share), number, found[operation])
            say(f"round {number + 1} of {rounds}")
    result: dict[str, Any] = {"operations": found}
    if is_counted:
        result["instructions"] = _instructions(revisions, urls, material, operations)
    return result


def _round(sides: Mapping[str, Side], operation: str, calls: int, number: int, figures: dict[str, Any]) -> None:
    """Give each side its turn, in the other order than in the round before; the round -1 warms up."""
    for side in SIDES if number % 2 else reversed(SIDES):
        turn = sides[side].take_turn(operation, calls)
        if number >= 0:
            _keep(figures[side], turn)


def _keep(figures: dict[str, list[float]], turn: Turn) -> None:
    figures["us"].append(1e6 * spread(turn.seconds).median)
    if turn.processor_seconds is not None:
        figures["processor_us"].append(1e6 * turn.processor_seconds / len(turn.seconds))


def _instructions(
    revisions: Mapping[str, Revision], urls: Mapping[str, str], material: Path, operations: list[str]
) -> dict[str, dict[str, float]]:
    """
    Return the instructions that the client executes for one call of each operation.

    A process makes N calls and another one 2 N, after as much preparation; the difference is that of N calls alone.
    """
    if shutil.which("valgrind") is None:
        absent.note("instructions", "there is no valgrind (apt install valgrind, or ask for --no-instructions)")
        return {}

    def counted(job: tuple[str, str, int]) -> int:
        operation, side, times = job
        log = material.with_name(f"valgrind-{operation}-{side}-{times}")
        under = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
        calls = _COUNTED_CALLS[operation]
        command = (*under, f"--log-file={log}")
        with opened(revisions[side], urls[side], material, is_here=False, under=command) as process:
            process.take_turn(operation, calls * times, 2 * calls)
        match = _COUNTED.search(log.read_text(encoding="utf-8"))
        if match is None:
            raise RuntimeError("valgrind has counted nothing")
        say(f"instructions: {operation}, {calls * times} times, {side}: {match[1]}")
        return int(match[1].replace(",", ""))

    jobs = [(operation, side, times) for operation in operations for side in SIDES for times in (1, 2)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            counts = dict(zip(jobs, pool.map(counted, jobs), strict=True))
        finally:
            pool.shutdown(cancel_futures=True)  # An interrupt waits for what runs, and not for what is still to come.
    return {
        operation: {
            side: (counts[operation, side, 2] - counts[operation, side, 1]) / _COUNTED_CALLS[operation]
            for side in SIDES
        }
        for operation in operations
    }
