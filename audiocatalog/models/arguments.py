"""Arguments that are one of a few words, or a number within bounds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeVar

from audiocatalog.errors import InvalidInput, Problem

_DAY: Final = 86_400
_Choice = TypeVar("_Choice", bound=str)


def parse_choice(choices: Iterable[_Choice], value: object, field: str, operation: str | None = None) -> _Choice:
    """
    Return the one of *choices*, a ``Literal``'s texts or the members of an enum of texts, that equals *value*.

    Raises:
        InvalidInput: none does; the error names *field*.
    """
    # An enum is not called: its error would hold the text, however long it is.
    chosen = next((one for one in choices if one == value), None) if isinstance(value, str) else None
    if chosen is None:
        raise InvalidInput(Problem(field, f"one of {', '.join(choices)}"), operation=operation)
    return chosen


def whole_number(value: object, field: str, operation: str, *, most: int) -> int:
    """
    Return *value*, a whole number from 1 to *most*.

    Raises:
        InvalidInput: it is none; the error names *field*.
    """
    # bool is a subclass of int, but True is no number of anything.
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InvalidInput(Problem(field, f"a whole number from 1 to {most:,}", (1, most)), operation=operation)
    return int(value)


def number_of_seconds(value: object, field: str, operation: str, *, least: float = 0.001) -> float:
    """
    Return *value*, a number of seconds from *least* to a day.

    Raises:
        InvalidInput: it is none; the error names *field*.
    """
    # No comparison holds for NaN.
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= _DAY:
        rule = f"a number of seconds from {least:g} to {_DAY}"
        raise InvalidInput(Problem(field, rule, (least, _DAY)), operation=operation)
    return float(value)
