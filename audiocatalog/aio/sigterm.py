"""SIGTERM, which ends every worker of the process's main thread."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_stops: list[Callable[[], None]] = []
#: The handler of the host, which is called as well, because it may end the rest of the service.
_hosts: Callable[[int, FrameType | None], object] | int | None = None


@contextmanager
def stopped_by_sigterm(stop: Callable[[], None]) -> Iterator[None]:
    """
    Let SIGTERM call *stop* in this block, if the block runs in the main thread; others cannot handle signals.

    Workers of one event loop begin and end in any order, so they share one handler. A handler that the host has
    registered with its event loop is called, too: the signal wakes the loop up in any case.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _add(stop)
    try:
        yield
    finally:
        _remove(stop)


def _add(stop: Callable[[], None]) -> None:
    global _hosts  # noqa: PLW0603  # A process has one handler.
    _stops.append(stop)
    if (current := signal.getsignal(signal.SIGTERM)) is not _handle:
        _hosts = current
        signal.signal(signal.SIGTERM, _handle)


def _remove(stop: Callable[[], None]) -> None:
    _stops.remove(stop)
    # If the host has set another handler meanwhile, that handler stays.
    if not _stops and signal.getsignal(signal.SIGTERM) is _handle:
        signal.signal(signal.SIGTERM, _hosts)


def _handle(number: int, frame: FrameType | None) -> None:
    for stop in tuple(_stops):
        stop()
    if callable(_hosts):
        _hosts(number, frame)
