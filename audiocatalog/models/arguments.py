"""Checks of arguments: a choice among words, or a number in a range."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

from audiocatalog.errors import InvalidInput, Problem

_DAY: Final = 86_400
_Choice = TypeVar("_Choice", bound=str)


def parse_choice(choices: Iterable[_Choice], value: object, field: str, operation: str | None = None) -> _Choice:
    """Return the member of *choices* that equals *value*, or raise InvalidInput."""
    # The error of an enum's constructor would quote *value*, which may be data.
    chosen = next((one for one in choices if one == value), None) if isinstance(value, str) else None
    if chosen is None:
        raise InvalidInput(Problem(field, f"one of {', '.join(choices)}"), operation=operation)
    return chosen


def whole_number(value: object, field: str, operation: str, *, most: int) -> int:
    """Return *value*, a whole number from 1 to *most*, or raise InvalidInput."""
    # bool is a subclass of int, but True is not a number.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InvalidInput(Problem(field, f"a whole number from 1 to {most:,}", (1, most)), operation=operation)
    return int(value)


def number_of_seconds(value: object, field: str, operation: str, *, least: float = 0.001) -> float:
    """Return *value*, a number of seconds from *least* to 86,400, or raise InvalidInput."""
    # NaN fails every comparison.
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= _DAY:
        rule = f"a number of seconds from {least:g} to {_DAY}"
        raise InvalidInput(Problem(field, rule, (least, _DAY)), operation=operation)
    return float(value)
