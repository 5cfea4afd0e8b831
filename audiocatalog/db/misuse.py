"""Checks of synchronous calls: they must stay out of event loops, and must get plain functions."""

from __future__ import annotations

import asyncio
import inspect
from typing import Final, TypeVar

from audiocatalog.db.observer import LOGGER
from audiocatalog.errors import InvalidInput, Problem
from audiocatalog.models.arguments import is_async

_Result = TypeVar("_Result")
_BLOCKS: Final = (
    "a Catalog was called from a coroutine, so its calls block the event loop: use audiocatalog.aio.AsyncCatalog, or "
    "call the Catalog in a thread with asyncio.to_thread"
)


def is_in_an_event_loop() -> bool:
    """Return whether the caller runs in an event loop, which blocking calls would stop; if so, log a warning."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    LOGGER.warning(_BLOCKS)
    return True


def result_of(result: _Result, field: str = "unit", operation: str = "run") -> _Result:
    """
    Return the *result* of a function of the caller.

    Raises:
        InvalidInput: the function is asynchronous, so it has not ended.
    """
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()  # Otherwise Python would warn that it was never awaited.
        raise _refusal(field, operation)
    return result


def refuse_async(function: object, field: str, operation: str) -> None:
    """
    Check that a *function* of the caller can be called, and is not asynchronous.

    Raises:
        InvalidInput: the function is asynchronous, or is not a function.
    """
    if is_async(function) or not callable(function):
        raise _refusal(field, operation)


def _refusal(field: str, operation: str) -> InvalidInput:
    rule = "a plain function, not an async one; audiocatalog.aio.AsyncCatalog takes async functions"
    return InvalidInput(Problem(field, rule), operation=operation)
