"""Checks of arguments: a choice among words, or a number in a range."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TypeVar

from audiocatalog.errors import InvalidInput, Problem

_Choice = TypeVar("_Choice", bound=str)


def parse_choice(choices: Iterable[_Choice], value: object, field: str, operation: str | None = None) -> _Choice:
    """Return the member of *choices* that equals *value*, or raise InvalidInput."""
    # The error of an enum's constructor would quote *value*, which may be data.
    chosen = next((one for one in choices if one == value), None) if isinstance(value, str) else None
    if chosen is None:
        raise InvalidInput(Problem(field, f"one of {', '.join(choices)}"), operation=operation)
    return chosen


def is_between(value: object, lowest: float, highest: float, *, whole: bool = False) -> bool:
    """Return whether *value* is a number, or a *whole* number, from *lowest* to *highest*."""
    # bool is a subclass of int, but True is not a number. NaN fails every comparison.
    if not isinstance(value, int | float) or isinstance(value, bool) or (whole and not isinstance(value, int)):
        return False
    return lowest <= value <= highest


def whole_number(value: object, field: str, operation: str, *, most: int) -> int:
    """Return *value*, a whole number from 1 to *most*, or raise InvalidInput."""
    if not isinstance(value, int) or not is_between(value, 1, most):
        raise InvalidInput(Problem(field, f"a whole number from 1 to {most:,}", (1, most)), operation=operation)
    return int(value)


def number_of_seconds(value: object, field: str, operation: str, *, least: float = 0.001, most: int = 86_400) -> float:
    """Return *value*, a number of seconds from *least* to *most*, or raise InvalidInput."""
    if not isinstance(value, int | float) or not is_between(value, least, most):
        rule = f"a number of seconds from {least:g} to {most}"
        raise InvalidInput(Problem(field, rule, (least, most)), operation=operation)
    return float(value)


def is_async(function: object) -> bool:
    """Return whether *function* is declared with ``async def``, or an object whose ``__call__`` is."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
