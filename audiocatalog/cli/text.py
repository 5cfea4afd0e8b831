"""Text, counts and times, formatted for a terminal."""

from __future__ import annotations

import itertools
from typing import Final

from audiocatalog.errors.printing import escaped

_LONGEST_QUOTE: Final = 40
_UNITS: Final = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def lone_surrogate(text: str) -> str | None:
    """Return the first lone surrogate in *text*, which UTF-8 cannot encode, or None."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return text[error.start]
    return None


def quoted(text: str) -> str:
    """Return at most 40 characters of *text* in quotation marks, with control characters escaped."""
    shown = text if len(text) <= _LONGEST_QUOTE else f"{text[: _LONGEST_QUOTE - 1]}…"
    return f'"{escaped(shown)}"'


def counted(number: int, noun: str) -> str:
    """
    Return *number* and *noun*, in the plural unless the number is 1.

    >>> counted(1, "row"), counted(12_000, "row")
    ('1 row', '12,000 rows')

    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def about(number: int, digits: int = 3) -> str:
    """
    Return an estimated *number*, rounded to *digits* digits.

    >>> about(15_704), about(984), about(984, digits=2)
    ('about 15,700', 'about 984', 'about 980')

    """
    return f"about {round(number, min(0, digits - len(str(number)))):,}"


def clock(seconds: float) -> str:
    """
    Return the length of a track as players show it.

    >>> clock(225.4), clock(3725)
    ('3:45', '1:02:05')

    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def time_span(seconds: float) -> str:
    """
    Return a span of time in its one or two largest units.

    >>> time_span(0.0421), time_span(75), time_span(93_784)
    ('42 ms', '1 min 15 s', '1 d 2 h')

    """
    seconds = max(0.0, seconds)
    if round(seconds, 3) < 1:
        return f"{seconds * 1000:.0f} ms"
    if round(seconds, 1) < 60:  # noqa: PLR2004  # A minute.
        return f"{seconds:.3g} s"
    rest = round(seconds)
    for (large, size), (small, part) in itertools.pairwise(_UNITS):
        if rest >= size:
            count, rest = divmod(rest, size)
            return f"{count} {large} {rest // part} {small}" if rest >= part else f"{count} {large}"
    return f"{rest} s"
