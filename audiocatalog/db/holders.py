"""The callers that have checked out a pool's connections, for its statistics and errors."""

from __future__ import annotations

import inspect
import threading
from pathlib import PurePath
from typing import Final

from audiocatalog.db.connection import PooledConnection
from audiocatalog.errors import printable

_INSIDE: Final = ("audiocatalog.", "contextlib", "tenacity")


def name_of_thread(connection: PooledConnection) -> str | None:
    """Return the name of the thread that checked out *connection*, or None if the thread has ended."""
    return {thread.ident: thread.name for thread in threading.enumerate()}.get(connection.held_by)


def describe_holder(kind: str, name: str | None, place: str | None) -> str:
    """Return the thread or task that checked out a connection and, if debug_pool is on, its line of code."""
    holder = f"{kind} {printable('that has ended' if name is None else name)}"
    return holder + (f", checked out in {place}" if place else "")


def place_in_the_callers_code() -> str:
    """Return the function and line of the caller's code that checks out a connection."""
    frame = inspect.currentframe()  # inspect.stack would read every source file.
    while frame is not None and frame.f_back and frame.f_globals.get("__name__", "").startswith(_INSIDE):
        frame = frame.f_back
    if frame is None:
        return "unknown"
    return printable(f"{frame.f_code.co_name} ({PurePath(frame.f_code.co_filename).name}:{frame.f_lineno})", 100)
