"""What a search returns: a page of hits, each with its score and the places that matched."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from audiocatalog.models import Track

#: The fields that a search looks into.
SEARCHED_FIELDS: Final = ("title", "artist", "album", "genre")

Span = tuple[int, int]

# A word for highlighting: what stands between spaces, or one character of a script that is written without them.
_WORD = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30fa\u30fd-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
    r"|[^\s\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30fa\u30fd-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"
)


@dataclass(frozen=True, slots=True)
class Hit:
    """
    Hold one *track* that a search found.

    *score* is comparable within one search only: higher is better. *highlights* maps the names of the matched fields
    to spans ``(start, end)`` of characters of their original text.
    """

    track: Track
    score: float
    highlights: Mapping[str, tuple[Span, ...]]


@dataclass(frozen=True, slots=True)
class SearchPage:
    """
    Hold a page of *hits*, best first, and how many there are in all.

    *total* is counted up to a bound; beyond it, *total_is_exact* is False and *total* is that bound.
    """

    hits: tuple[Hit, ...]
    total: int
    total_is_exact: bool

    def __iter__(self) -> Iterator[Hit]:
        """Go through the hits."""
        return iter(self.hits)

    def __len__(self) -> int:
        """Return how many hits this page holds."""
        return len(self.hits)


def words_of(tracks: Collection[Track]) -> list[str]:
    """Return every different word of the searched fields of *tracks*."""
    found = {
        match.group()
        for track in tracks
        for field in SEARCHED_FIELDS
        for match in _WORD.finditer(getattr(track, field) or "")
    }
    return sorted(found)


def highlights_of(track: Track, matching: Collection[str]) -> dict[str, tuple[Span, ...]]:
    """Return where the *matching* words stand in *track*; matches that touch are one span."""
    found = {}
    for field in SEARCHED_FIELDS:
        spans: list[Span] = []
        for match in _WORD.finditer(getattr(track, field) or ""):
            if match.group() not in matching:
                continue
            start, end = match.span()
            if spans and spans[-1][1] == start:
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((start, end))
        if spans:
            found[field] = tuple(spans)
    return found
