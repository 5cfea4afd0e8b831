"""Waiting for a state instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, within: float = 60.0) -> T:
    """Return what *condition* returns once that is true; *within* is for a failure alone, however slow the machine."""
    deadline = time.monotonic() + within
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not so within {within} s"
        time.sleep(0.005)
    return found
