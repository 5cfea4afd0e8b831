"""No parser does more than in proportion to its input: four times the signs cost at most five times the work."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.growth import CONTROL, PARSERS, TIMES
from tests.support.repository import ROOT

pytestmark = pytest.mark.slow

#: Sorting costs a little more than its proportion, and what is small is lost in what every call costs.
MOST: Final = 5.0
assert TIMES < MOST
_INSTRUCTIONS = re.compile(r"I\s+refs:\s+([\d,]+)")

Work = dict[tuple[str, str], list[int]]


def program(way: str, *options: str, under: Sequence[str] = ()) -> list[Any]:
    environment = os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
    command = [*under, sys.executable, "-m", "tests.support.growth", way, *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def steps(*options: str) -> Work:
    work: Work = defaultdict(lambda: [0, 0])
    for count, case, which in program("steps", *options):
        work[tuple(case)][which] = count
    return work


def instructions(folder: Path, *options: str) -> Work:
    """Return the instructions of each child, without those that its parent had come to by then."""
    tool = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
    told = program("instructions", *options, under=(*tool, f"--log-file={folder}/%p.log"))

    def counted(child: int) -> int:
        found = _INSTRUCTIONS.search((folder / f"{child}.log").read_text())
        assert found is not None
        return int(found[1].replace(",", ""))

    counts = [counted(child) for child, _, _ in told]
    marks = [at for at, (_, case, _) in enumerate(told) if case is None]
    work: Work = defaultdict(lambda: [0, 0])
    for first, last in pairwise(marks):
        between = (counts[last] - counts[first]) / (last - first)
        for at in range(first + 1, last):
            _, case, which = told[at]
            work[tuple(case)][which] = round(counts[at] - counts[first] - between * (at - first))
    return work


def growth(work: Work, least: int) -> dict[tuple[str, str], float]:
    """Return how many times the work of the smaller input the larger one costs; less than *least* counts as that."""
    assert {name for name, _ in work} == {parser.name for parser in (*PARSERS, CONTROL)}
    return {case: round(large / max(small, least), 1) for case, (small, large) in work.items()}


@pytest.mark.parametrize("options", [(), pytest.param(("--full",), marks=pytest.mark.faults)])
def test_the_work_of_no_parser_grows_faster_than_its_input(tmp_path: Path, options: tuple[str, ...]) -> None:
    if shutil.which("valgrind") is None:
        found = growth(steps(*options), 100)
    else:
        found = growth(instructions(tmp_path, *options), 50_000)
        # What is quadratic is noticed, within C too.
        assert all(times > 2 * MOST for case, times in found.items() if case[0] == CONTROL.name)
    assert {case: times for case, times in found.items() if times > MOST and case[0] != CONTROL.name} == {}


def test_steps_are_counted_where_there_is_no_valgrind() -> None:
    work = steps()
    found = growth(work, 100)
    assert {case: times for case, times in found.items() if times > MOST and case[0] != CONTROL.name} == {}
    assert sum(large for _, large in work.values()) > 10_000
