"""Interrupts at any line, and what must hold after them."""

from __future__ import annotations

from contextlib import ExitStack
from uuid import uuid4

from audiocatalog import Catalog


class Interrupted(BaseException):
    """What a soft time limit raises in the midst of anything."""


def whole(catalog: Catalog, size: int) -> None:
    """Hold every place of the pool at once, and find it full then."""
    with ExitStack() as stack:
        for _ in range(size):
            assert stack.enter_context(catalog.unit_of_work()).find(uuid4()) is None
