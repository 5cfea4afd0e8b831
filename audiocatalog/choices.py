"""Arguments that are one of a few words, or a number within bounds."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from audiocatalog.errors import InvalidInput, Problem

_Choice = TypeVar("_Choice", bound=StrEnum)


def chosen(choices: type[_Choice], value: object, field: str, operation: str) -> _Choice:
    """
    Return the member of *choices* that *value* is or names.

    Raises:
        InvalidInput: there is none; the error names *field*.
    """
    if isinstance(value, str) and value in set(choices):
        return choices(value)
    raise InvalidInput(Problem(field, f"one of {', '.join(choices)}"), operation=operation)


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
