"""Who runs where: a client and a server that hand a small question to and fro are timed on one processor."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from benchmarks.search.server import connected

_SESSIONS: Final = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend'"""


@contextmanager
def one_processor(urls: Sequence[str], *, is_here: bool) -> Iterator[Callable[[], None]]:
    """
    Keep this thread on one processor, and give what brings the sessions of the databases at *urls* to the same one.

    Left to itself, the scheduler puts some connections on the client's processor and others elsewhere, as it happens.
    On a virtual machine, waking another processor takes longer than a get: 31 µs become 110, for one connection and
    not for the next. Where the server is not *is_here*, or the system does not let itself be told, nothing is done.
    """
    if not is_here or not hasattr(os, "sched_setaffinity"):
        yield lambda: None
        return
    before = os.sched_getaffinity(0)
    chosen = {max(before)}

    def gather() -> None:
        for url in urls:
            with connected(url) as connection:
                pids = [pid for (pid,) in connection.execute(_SESSIONS).fetchall()]
            for pid in pids:
                # Our own session of a moment ago has ended since.
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(pid, chosen)

    os.sched_setaffinity(0, chosen)
    try:
        yield gather
    finally:
        os.sched_setaffinity(0, before)
