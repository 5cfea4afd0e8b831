"""Programs that a test starts in a process or thread of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from audiocatalog import Catalog, TrackStatus
from tests.support.command import UNSET
from tests.support.repository import ROOT

#: A machine that is busy with other things may need so long for what takes a moment.
PATIENCE = 30.0


def statuses(catalog: Catalog, ids: list[UUID]) -> list[TrackStatus]:
    return [catalog.get(identifier).status for identifier in ids]


@contextmanager
def in_a_thread(run: Callable[[], object], stop: Callable[[], None]) -> Iterator[list[object]]:
    """Run a loop in a thread to its end, and give what it returns or raises."""
    outcome: list[object] = []

    def take_part() -> None:
        try:
            outcome.append(run())
        except Exception as error:  # noqa: BLE001  # Whatever it is, the test looks at it.
            outcome.append(error)

    thread = threading.Thread(target=take_part)
    thread.start()
    try:
        yield outcome
    finally:
        stop()
        thread.join(PATIENCE)
    assert not thread.is_alive()


def program(code: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name not in UNSET}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, env=environment, text=True
    )


def next_line(running: subprocess.Popen[str]) -> str:
    assert running.stdout is not None
    return running.stdout.readline().strip()
