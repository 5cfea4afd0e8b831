"""The kinds of values of fields, with their limits, and the functions that check a value."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from audiocatalog.errors import InvalidInput, Problem, kind_of
from audiocatalog.models.characters import INVISIBLE
from audiocatalog.models.normalization import composed


class TextLimit(NamedTuple):
    """Text of at most *characters* characters: code points, after NFC."""

    characters: int


class WholeLimit(NamedTuple):
    """Whole numbers from *lowest* to *highest*."""

    lowest: int
    highest: int


class NumberLimit(NamedTuple):
    """Finite numbers from *lowest* to *highest*."""

    lowest: float
    highest: float


Limit = TextLimit | WholeLimit | NumberLimit
#: The type of each kind of value in a binary COPY.
COPY_TYPES: Final[Mapping[type[Limit], str]] = {TextLimit: "text", WholeLimit: "int4", NumberLimit: "float8"}

#: The limits of the texts in a change of status.
CHANGE_LIMITS: Final[Mapping[str, TextLimit]] = {"actor": TextLimit(200), "reason": TextLimit(1000)}

#: A pattern for one visible character.
VISIBLE: Final = re.compile(f"[^{INVISIBLE}]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# NFC composes one character from at most four, such as U+1F82. Longer text is refused before it is copied.
_NFC_SHRINKS_AT_MOST = 4


def clean_text(field: str, value: object, limit: TextLimit) -> str | Problem | None:
    """Return *value* in NFC, None if it has no visible character, or the rule of *field* that *value* breaks."""
    # Most texts are this simple, and need no further check.
    if type(value) is str and len(value) <= limit.characters and value.isascii() and value.isprintable():
        return None if value.isspace() or not value else value
    # An object can set its __class__ to str; only its type is reliable.
    if not issubclass(type(value), str):
        return Problem(field, f"text, not {kind_of(value)}")
    text = str.__str__(value)  # A subclass, such as an enum, may have a __str__ of its own.
    if len(text) <= limit.characters * _NFC_SHRINKS_AT_MOST:
        if "\0" in text:
            return Problem(field, "no NUL character")
        if _SURROGATE.search(text):
            return Problem(field, "no lone surrogates")
        text = composed(text)
    if len(text) > limit.characters:
        return Problem(field, f"at most {limit.characters:,} characters, not {len(text):,}", limit.characters)
    return text if VISIBLE.search(text) else None


def _clean_whole(field: str, value: object, limit: WholeLimit) -> int | Problem:
    if type(value) is int and limit.lowest <= value <= limit.highest:
        return value
    rule = f"a whole number from {limit.lowest} to {limit.highest}"
    # bool is a subclass of int, but True is not a year.
    if not issubclass(type(value), int) or isinstance(value, bool):
        return Problem(field, f"{rule}, not {kind_of(value)}", tuple(limit))
    number = int.__index__(value)  # type: ignore[arg-type]  # The value may be of a subclass, such as an enum.
    return number if limit.lowest <= number <= limit.highest else Problem(field, rule, tuple(limit))


def _clean_number(field: str, value: object, limit: NumberLimit) -> float | Problem:
    # NaN fails every comparison, so NaN is refused like infinity.
    if issubclass(type(value), int | float) and value is not True and value is not False:
        if limit.lowest <= value <= limit.highest:  # type: ignore[operator]
            return float(value) + 0.0  # type: ignore[arg-type]  # The sum turns -0.0 into 0.0.
        unlike = ""
    else:
        unlike = f", not {kind_of(value)}"
    return Problem(field, f"a number from {limit.lowest:.0f} to {limit.highest:.0f}{unlike}", tuple(limit))


Clean = Callable[[object], object]


def cleaner(field: str, limit: Limit) -> Clean:
    """Return a function that cleans a value of *field*: it returns the stored value, None, or the broken rule."""
    match limit:
        case TextLimit():
            return lambda value: clean_text(field, value, limit)
        case WholeLimit():
            return lambda value: _clean_whole(field, value, limit)
        case NumberLimit():
            return lambda value: _clean_number(field, value, limit)


def required(field: str, cleaned: object) -> object:
    """Return *cleaned*; if it is None, return the rule that *field* must not be empty."""
    return Problem(field, "at least one visible character") if cleaned is None else cleaned


def required_text(field: str, value: object, limit: TextLimit) -> str:
    """Return the text *value* in NFC, or raise InvalidInput if it breaks its rule or has no visible character."""
    return str(_refused(required(field, clean_text(field, value, limit))))


def clean_actor(actor: object, field: str = "actor") -> str:
    """Return *actor*, the author of a change, in NFC, or raise InvalidInput if it breaks its rule."""
    return required_text(field, actor, CHANGE_LIMITS["actor"])


def clean_reason(reason: object, field: str = "reason") -> str | None:
    """Return *reason* in NFC, None if it has no visible character, or raise InvalidInput if it breaks its rule."""
    cleaned = None if reason is None else _refused(clean_text(field, reason, CHANGE_LIMITS["reason"]))
    return None if cleaned is None else str(cleaned)


def _refused(cleaned: object) -> object:
    if isinstance(cleaned, Problem):
        raise InvalidInput(cleaned)
    return cleaned
