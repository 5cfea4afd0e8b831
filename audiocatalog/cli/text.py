"""Text of other people's made fit for a terminal, and numbers made fit for people."""

from __future__ import annotations

import itertools
import re
from typing import Final

# What moves the cursor, changes colours or turns the line around: controls, line separators, the direction overrides
# of bidirectional text, and the lone surrogates that stand for bytes which are not UTF-8.
_UNPRINTABLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_ESCAPED_BYTES: Final = range(0xDC80, 0xDD00)
_LONGEST_QUOTE: Final = 40
_UNITS: Final = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))


def printable(text: str) -> str:
    r"""
    Return *text* with every character that would act on a terminal written out.

    >>> printable("one\ntwo")
    'one\\ntwo'

    """
    return _UNPRINTABLE.sub(lambda match: _written_out(match.group()), text)


def quoted(text: str) -> str:
    """Return *text* between quotation marks, printable and not too long for a message."""
    shown = text if len(text) <= _LONGEST_QUOTE else f"{text[: _LONGEST_QUOTE - 1]}…"
    return f'"{printable(shown)}"'


def counted(number: int, noun: str) -> str:
    """
    Return *number* with its *noun*, in the plural where it is one.

    >>> counted(1, "row"), counted(12_000, "row")
    ('1 row', '12,000 rows')

    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def clock(seconds: float) -> str:
    """
    Return a length of sound as players show it.

    >>> clock(225.4), clock(3725)
    ('3:45', '1:02:05')

    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def time_span(seconds: float) -> str:
    """
    Return a span of time in the two largest units that say something.

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


def _written_out(character: str) -> str:
    code = ord(character)
    if code in _ESCAPED_BYTES:
        return f"\\x{code - 0xDC00:02x}"
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"  # noqa: PLR2004
    )
