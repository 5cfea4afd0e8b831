"""Servers that fall silent: they hold their connections, and what is sent is acknowledged, but nobody answers.

No setting of TCP or of the server ends a wait for such a peer; only the client's own clock does.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import URL, text

from audiocatalog import Catalog
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """Stop these processes, and let them go on in the end, whatever happens."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        for pid in pids:
            wait_until(lambda pid=pid: _state(pid) == "T")  # type: ignore[misc]
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def family(postmaster: int) -> list[int]:
    """Return the processes of a server: first the one that accepts connections, then all that it has started."""
    found = [postmaster]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # Behind the name, which may hold anything, come the state and the parent.
                if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == postmaster:
                    found.append(int(entry.name))
    return found


def fill(catalog: Catalog, size: int) -> list[int]:
    """
    Take *size* connections at once, give them back and return the pids of the server's processes behind them.

    So a pool is made to open all that it may, and so it shows that none is lost and none still taken.
    """
    with ExitStack() as stack:
        works = [stack.enter_context(catalog.unit_of_work()) for _ in range(size)]
        pids = [int(work.session.scalar(text("SELECT pg_backend_pid()")) or 0) for work in works]
    assert len(set(pids)) == size
    return pids


class Outcome(NamedTuple):
    """Say how a call ended, and after how many seconds."""

    error: BaseException | None
    seconds: float


def outcome_of(call: Callable[[], object], *, patience: float = 30.0) -> Outcome:
    """Make *call* in a thread of its own, which is left behind if the call never ends: the test goes on and fails."""
    outcomes: list[Outcome] = []

    def run() -> None:
        begun, caught = time.monotonic(), None
        try:
            call()
        except BaseException as error:  # noqa: BLE001  # Whatever it is, the test asks for it.
            caught = error
        outcomes.append(Outcome(caught, time.monotonic() - begun))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(patience)
    assert outcomes, f"the call has not ended after {patience} s"
    return outcomes[0]


class SilentProxy(Proxy):
    """Pass everything on until a client sends *word*; from then on, that connection stays open and nothing passes."""

    def __init__(self, url: str | URL, word: bytes) -> None:
        super().__init__(url)
        self.word = word
        self.silent = threading.Event()
        self._ended = threading.Event()

    def close(self) -> None:
        self._ended.set()
        super().close()

    def _pass_on(self, client: socket.socket) -> None:
        with client, self._server() as server, suppress(OSError):
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    if source is client and self.word in data:
                        self.silent.set()
                        self._ended.wait()
                        return
                    (server if source is client else client).sendall(data)


@contextmanager
def silenced_by(word: bytes, url: str | URL) -> Iterator[SilentProxy]:
    """Run a proxy before the server at *url* that falls silent on each connection which sends *word*."""
    proxy = SilentProxy(url, word)
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()


def _state(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""
