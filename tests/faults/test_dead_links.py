"""A link that drops every packet, as a pulled cable or a lost machine does: no call waits for it beyond 16 seconds."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from uuid import uuid4

import psycopg
import pytest
from sqlalchemy import text

from audiocatalog import Catalog, TrackMetadata, UnitOfWork, errors
from tests.support.databases import libpq
from tests.support.factories import TrackRecordFactory
from tests.support.frozen import fill, outcome_of
from tests.support.proxy import Proxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

_NAME = f"audiocatalog-{os.getpid()}"
#: Addresses that are set aside for measurements between networks, and lead nowhere.
_NEAR, _FAR, _BITS = "198.18.7.1", "198.18.7.2", 30
_LONGEST = 16.0


class Link:
    """A network namespace at the other end of a virtual cable."""

    def __init__(self, stack: ExitStack) -> None:
        ip("netns", "add", _NAME)
        # The cable goes with the namespace that holds one of its ends.
        stack.callback(ip, "netns", "del", _NAME)
        near, far = "audiocatalog0", "audiocatalog1"
        ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", _NAME)
        ip("addr", "add", f"{_NEAR}/{_BITS}", "dev", near)
        ip("link", "set", near, "up")
        ip("-n", _NAME, "addr", "add", f"{_FAR}/{_BITS}", "dev", far)
        ip("-n", _NAME, "link", "set", far, "up")

    @contextmanager
    def cut(self) -> Iterator[None]:
        """Drop whatever the other end sends, its acknowledgements included."""
        ip("-n", _NAME, "route", "add", "blackhole", f"{_NEAR}/32")
        try:
            yield
        finally:
            ip("-n", _NAME, "route", "del", "blackhole", f"{_NEAR}/32")

    def listen(self) -> socket.socket:
        """Return a socket that is reached at the other end."""
        listeners = []

        def run() -> None:
            # A thread can be in another network than its process; its sockets stay there when it has ended.
            with open(f"/run/netns/{_NAME}", "rb") as namespace:  # noqa: PTH123
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0) == 0:
                    listeners.append(socket.create_server((_FAR, 0)))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return listeners[0]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@pytest.fixture
def link() -> Iterator[Link]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("making a network namespace takes root and the program `ip`")
    with ExitStack() as stack:
        try:
            yield Link(stack)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespace can be made here: {error.stderr.decode().strip()}")


@pytest.fixture
def far(link: Link, database_url: str) -> Iterator[Proxy]:
    """Give a proxy before the server that is reached over the link."""
    proxy = Proxy(database_url)
    proxy._listener.close()
    proxy._listener = link.listen()
    proxy.url = proxy.url.set(host=_FAR, port=proxy._listener.getsockname()[1])
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    yield proxy
    with suppress(OSError):
        proxy.close()
    thread.join()


Step = Callable[[UnitOfWork], object]

#: What is done before the link is cut, and what after it.
STEPS: dict[str, tuple[Step, Step]] = {
    "a read": (lambda _: None, lambda work: work.find(uuid4())),
    "a search": (lambda _: None, lambda work: work.search("anything")),
    "a write": (lambda _: None, lambda work: work.save(TrackMetadata(), audio_path="a")),
    "a commit": (lambda work: work.save(TrackMetadata(), audio_path="a"), lambda _: None),
    "a copy": (lambda _: None, lambda work: work.bulk_save(TrackRecordFactory.build_batch(5000))),
    "the session": (
        lambda work: work.session.execute(text("SELECT 1")),
        lambda work: work.session.execute(text("SELECT 1")),
    ),
}
#: What needs no unit of work: the first use of a catalogue, and calls on connections that lie in the pool.
CALLS: dict[str, Callable[[Catalog], object]] = {
    "the first use": lambda catalog: catalog.find(uuid4()),
    "a read of its own": lambda catalog: catalog.find(uuid4()),
    "a commit of its own": lambda catalog: catalog.claim(),
}
#: What waits for an answer as the link is cut.
_LONG = "a long answer"

Endings = dict[str, tuple[BaseException | None, float]]


class Callers:
    """Make all calls at the same time, each from a catalogue with the settings that a service has if it names none."""

    def __init__(self, catalogs: dict[str, Catalog]) -> None:
        self.catalogs = catalogs
        self.endings: Endings = {}
        self.cut = threading.Event()
        self._ready = threading.Barrier(len(STEPS) + 1)
        self._threads: list[threading.Thread] = []

    def begin_steps(self) -> None:
        """Return when every unit of work has done what it does while the link is whole."""
        self._threads += [threading.Thread(target=self._take_steps, args=[name]) for name in STEPS]
        self._threads += [threading.Thread(target=self._call, args=[_LONG, _sleep])]
        for thread in self._threads:
            thread.start()
        self._ready.wait(30)

    def go_on(self) -> None:
        """Return when every call has ended, over a link that is cut."""
        self.cut.set()
        calls = [threading.Thread(target=self._call, args=call) for call in CALLS.items()]
        for thread in calls:
            thread.start()
        for thread in (*calls, *self._threads):
            thread.join()

    def _call(self, name: str, action: Callable[[Catalog], object]) -> None:
        self.endings[name] = outcome_of(lambda: action(self.catalogs[name]), patience=90)

    def _take_steps(self, name: str) -> None:
        before, after = STEPS[name]
        begun = 0.0

        def run() -> None:
            nonlocal begun
            with self.catalogs[name].unit_of_work() as work:
                before(work)
                self._ready.wait(30)
                self.cut.wait(30)
                begun = time.monotonic()
                after(work)

        error, _ = outcome_of(run, patience=90)
        self.endings[name] = error, time.monotonic() - begun


def _sleep(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        work.session.execute(text("SELECT pg_sleep(4)"))


@pytest.fixture
def callers(far: Proxy) -> Iterator[Callers]:
    with ExitStack() as stack:
        catalogs = {name: stack.enter_context(Catalog(far.url)) for name in (*STEPS, *CALLS, _LONG)}
        for name in (*list(CALLS)[1:], _LONG):
            fill(catalogs[name], 2)
        yield Callers(catalogs)


def test_no_call_over_a_dead_link_takes_longer_than_16_seconds(link: Link, callers: Callers, database_url: str) -> None:
    callers.begin_steps()
    with psycopg.connect(libpq(database_url), autocommit=True) as admin:
        asleep = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = current_database()"
        wait_until(lambda: admin.execute(asleep).fetchone() is not None)
    with link.cut():
        callers.go_on()
    assert callers.endings.keys() == callers.catalogs.keys()
    for name, (error, seconds) in callers.endings.items():
        assert isinstance(error, errors.DatabaseUnavailable), (name, error)
        assert isinstance(error, errors.CommitOutcomeUnknown) == ("a commit" in name), name
        assert seconds < _LONGEST, (name, seconds)
    # The link is there again: each catalogue works as before.
    for catalog in callers.catalogs.values():
        wait_until(lambda catalog=catalog: outcome_of(lambda: catalog.find(uuid4())).error is None, within=15)  # type: ignore[misc]
        fill(catalog, 5)
