"""The figures of a pool, and the holders of its connections."""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from pathlib import PurePath
from types import FrameType
from typing import Final

from audiocatalog.connection import PooledConnection
from audiocatalog.errors import printable

_INSIDE: Final = (f"{__package__}.", "contextlib", "tenacity")


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """
    The state of a pool; times are in seconds.

    - *size*: how many connections it may have
    - *connections*: how many are open
    - *in_use*: how many of them are held
    - *waiting*: how many callers stand in line
    - *wait_p50*, *wait_p99*: how long the latest 1,000 checkouts waited; None before the first
    - *oldest_held*: for how long a connection has been held, the longest of all
    - *oldest_holder*: the thread that holds that one, and with ``debug_pool`` the place in its code
    - *searching*: how many of the held connections serve searches
    - *most_searches*: how many of them may do so
    """

    size: int
    connections: int
    in_use: int
    waiting: int
    wait_p50: float | None
    wait_p99: float | None
    oldest_held: float | None
    oldest_holder: str | None
    searching: int
    most_searches: int


def describe_holder(connection: PooledConnection) -> str:
    """Return who holds *connection*, and where it was taken if that was noted."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    thread = printable(names.get(connection.held_by, "which has ended"))
    return f"thread {thread}" + (f", taken in {connection.held_at}" if connection.held_at else "")


def place_in_the_callers_code() -> str:
    """Return the place in the caller's code at which a connection is being taken."""
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  # inspect.stack reads every source file.
    while frame is not None and frame.f_back and frame.f_globals.get("__name__", "").startswith(_INSIDE):
        frame = frame.f_back
    if frame is None:
        return "unknown"
    return printable(f"{frame.f_code.co_name} ({PurePath(frame.f_code.co_filename).name}:{frame.f_lineno})", 100)
