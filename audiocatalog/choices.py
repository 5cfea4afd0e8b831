"""Arguments that are one of a few words."""

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
