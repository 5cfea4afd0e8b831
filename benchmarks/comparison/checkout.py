"""Another revision of the project: a worktree in a temporary folder, with an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from audiocatalog.errors import ConfigurationError
from benchmarks.performance.timing import say, watched

ROOT: Final = Path(__file__).resolve().parents[2]


class Revision(NamedTuple):
    """Name what is measured: the project in *folder*, carried out by *python*."""

    name: str
    folder: Path
    python: str


def this_one() -> Revision:
    """Return the project as it lies here, with what is not committed."""
    changed = " and what is not committed" if _git("status", "--porcelain") else ""
    return Revision(_described("HEAD") + changed, ROOT, sys.executable)


@contextmanager
def checked_out(revision: str, *, same_environment: bool) -> Iterator[Revision]:
    """
    Give *revision* in a worktree, which is removed afterwards, also after an error or an interrupt.

    Its environment holds what its own constraints name, unless it may run in the *same_environment* as this process.

    Raises:
        ConfigurationError: there is no such revision, or it cannot be installed.
    """
    name = _described(revision)
    with tempfile.TemporaryDirectory(prefix="audiocatalog-baseline-") as temporary:
        folder = Path(temporary) / "project"
        try:
            _git("worktree", "add", "--quiet", "--detach", str(folder), revision)
            python = sys.executable if same_environment else _installed(folder, Path(temporary) / "venv")
            yield Revision(name, folder, python)
        finally:
            if folder.exists():
                _git("worktree", "remove", "--force", str(folder))


def _described(revision: str) -> str:
    return _git("log", "-1", "--format=%h %s", "--end-of-options", f"{revision}^{{commit}}", "--")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - git, without a shell.
    except FileNotFoundError as error:
        raise ConfigurationError("A baseline needs git, which is not installed.") from error
    if done.returncode:
        raise ConfigurationError(f"git {arguments[0]} failed. Name a commit of this repository.\n{done.stderr.strip()}")
    return done.stdout.strip()


def _installed(folder: Path, environment: Path) -> str:
    """Make *environment* with the project in *folder*, and return its interpreter."""
    python = str(environment / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    with watched() as watch:
        for command in ([sys.executable, "-m", "venv", str(environment)], [*pip, "-c", "constraints.txt", "-e", "."]):
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - likewise.
            if done.returncode:
                raise ConfigurationError(f"The baseline cannot be installed:\n{done.stderr[-2000:].strip()}")
    say(f"the baseline's environment was made in {watch.seconds:.0f} s")
    return python
