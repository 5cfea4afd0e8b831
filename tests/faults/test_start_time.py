"""A service that imports the package starts little later than one that imports the libraries below it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults

_LIBRARIES = "import psycopg, sqlalchemy.orm, sqlalchemy.dialects.postgresql.psycopg"
_PACKAGE = "import audiocatalog"
_REPEATS = 7


def processor_seconds(bytecode: Path, *programs: str) -> list[float]:
    """Return the least that Python needs for each of *programs*, once all is compiled, as installers do it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(bytecode)
    spent: list[list[float]] = [[] for _ in programs]
    for _ in range(1 + _REPEATS):
        # By turns: the processor's time for the same work depends on what else the machine does meanwhile.
        for program, each in zip(programs, spent, strict=True):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", program], check=True, timeout=60, env=environment)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            each.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return [min(each[1:]) for each in spent]


def test_the_package_adds_less_than_half_to_what_its_libraries_take(tmp_path: Path) -> None:
    """SQLAlchemy and psycopg alone take most of it, which nobody who maps tables can do without."""
    libraries, package = processor_seconds(tmp_path, _LIBRARIES, _PACKAGE)
    print(f"\n{package * 1000:.0f} ms, of which {libraries * 1000:.0f} ms are the libraries'")  # noqa: T201
    assert package < 1.5 * libraries, f"{package * 1000:.0f} ms, of which {libraries * 1000:.0f} ms are the libraries'"
