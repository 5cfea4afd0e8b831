"""One of the two revisions at work: its process, its database, and the processor time that both take."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.comparison.checkout import Revision
from benchmarks.performance.rows import URL_VARIABLE
from benchmarks.search.server import connected

_DRIVER: Final = Path(__file__).with_name("driver.py")
_SESSIONS: Final = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"""
_STOP_SECONDS: Final = 20.0


class Turn(NamedTuple):
    """Hold what each call took by the clock, and what all took of processors, in the client and in its session."""

    seconds: list[float]
    processor_seconds: float | None


class Side:
    """A process of one revision, which waits for what it is told to do on the database at *url*."""

    def __init__(self, revision: Revision, url: str, process: subprocess.Popen[str], *, is_here: bool) -> None:
        self.revision = revision
        self.url = url
        self._process = process
        self._is_here = is_here

    def setup(self) -> None:
        """Make the schema and save the tracks."""
        self._tell("setup")

    def take_turn(self, operation: str, count: int, prepared: int | None = None) -> Turn:
        """Make *count* calls of *operation*, after as many, or *prepared*, were made ready."""
        self._tell(f"prepare {operation} {prepared or count}")
        with connected(self.url) as connection:
            sessions = [pid for (pid,) in connection.execute(_SESSIONS).fetchall()]
        pids = [self._process.pid, *sessions] if self._is_here else []
        before = _processor_seconds(pids)
        seconds = self._tell(f"run {count}")
        after = _processor_seconds(pids)
        return Turn(seconds, None if before is None or after is None else after - before)

    def _tell(self, command: str) -> list[float]:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process has no pipes")
        try:
            print(command, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            answer = ""
        else:
            answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.revision.name}: the process has ended with {self._process.wait(_STOP_SECONDS)}")
        found: list[float] = json.loads(answer)
        return found


@contextmanager
def opened(revision: Revision, url: str, material: Path, *, is_here: bool, under: Sequence[str] = ()) -> Iterator[Side]:
    """Start the process of *revision*, *under* a command such as valgrind if that is given, and end it afterwards."""
    # The folder of the revision comes first, so that its code is found also in an environment that holds another one.
    environment = os.environ | {"PYTHONPATH": str(revision.folder), "PYTHONHASHSEED": "0", URL_VARIABLE: url}
    command = [*under, revision.python, "-P", str(_DRIVER), str(material)]
    # In a session of its own, an interrupt from the terminal does not end it in the midst of a call.
    with subprocess.Popen(  # noqa: S603 - our own script, without a shell.
        command,
        cwd=revision.folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield Side(revision, url, process, is_here=is_here)
            if process.stdin is not None:
                process.stdin.close()
            process.wait(_STOP_SECONDS)
        finally:
            process.kill()


def _processor_seconds(pids: Sequence[int]) -> float | None:
    """Return what the processes have taken of processors since they were started, as Linux counts it to the ns."""
    total = 0
    try:
        for pid in pids:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                total += int((thread / "schedstat").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return None
    return total / 1e9 if pids else None
