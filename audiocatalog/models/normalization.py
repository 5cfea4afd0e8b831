"""The composed form (NFC) of a text, computed in time proportional to the length of the text."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from itertools import groupby
from typing import Final

# Python sorts the marks of one letter by insertion, which takes quadratic time. So runs of at least this many marks
# are sorted here first; no script puts this many marks on a letter. The ranges contain every mark, and no Chinese,
# Japanese or Korean letter, so that the slow path runs for few texts.
_MANY_MARKS: Final = 32
_MAY_BE_MARKS: Final = (
    r"[\u0300-\u1fff\u20d0-\u20ff\u2cef-\u2cf1\u2d7f-\u2dff\u302a-\u302f\u3099\u309a\ua66f-\uabef\ufb1e\ufe20-\ufe2f"
    rf"\U00010100-\U0001ffff]{{{_MANY_MARKS},}}"
)


def composed(text: str) -> str:
    r"""
    Return *text* in NFC.

    >>> composed("Bjo\u0308rk")
    'Björk'

    """
    if len(text) >= _MANY_MARKS and not text.isascii():
        text = re.sub(_MAY_BE_MARKS, _in_order, text)
    return unicodedata.normalize("NFC", text)


def _in_order(match: re.Match[str]) -> str:
    """Return the matched text with its long runs of marks decomposed and in canonical order."""
    pieces: list[str] = []
    for are_marks, group in groupby(match.group(), _is_mark):
        piece = "".join(group)
        pieces.append(_sorted(piece) if are_marks and len(piece) >= _MANY_MARKS else piece)
    return "".join(pieces)


def _is_mark(character: str) -> bool:
    """Return whether *character*, or every character that it decomposes to, combines with the preceding character."""
    return all(map(unicodedata.combining, unicodedata.normalize("NFD", character)))


def _sorted(marks: str) -> str:
    by_class: dict[int, list[str]] = defaultdict(list)
    for character in marks:
        for mark in unicodedata.normalize("NFD", character):
            by_class[unicodedata.combining(mark)].append(mark)
    return "".join("".join(by_class[order]) for order in sorted(by_class))
