"""The characters of a track that match the query."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from audiocatalog.models.tables import Track
from audiocatalog.search.folding import Folded, tokenize
from audiocatalog.search.results import SEARCHED_FIELDS, Span


@dataclass(frozen=True, slots=True)
class WantedWords:
    """
    A term of the query, as the server folds and splits it.

    - *spellings*: alternatives, each a run of folded words: ``(("ac", "dc"), ("acdc",))``;
    - *is_prefix*: whether the last word of each spelling is a prefix;
    - *fields*: the fields to look in; None for every searched field.
    """

    spellings: tuple[tuple[str, ...], ...]
    is_prefix: bool = False
    fields: frozenset[str] | None = None
    #: The spellings with a space around each word, as ``tokenize`` writes them; built once for all hits.
    patterns: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        end = "" if self.is_prefix else " "
        patterns = tuple(f" {' '.join(words)}{end}" for words in self.spellings if any(words))
        object.__setattr__(self, "patterns", patterns)


def highlights_of(track: Track, wanted: Collection[WantedWords]) -> dict[str, tuple[Span, ...]]:
    """Return the spans of each field of *track* that match *wanted*, in order, without overlaps."""
    found = {}
    for name in SEARCHED_FIELDS:
        text = getattr(track, name)
        if text and (spans := _matches(tokenize(text), name, wanted)):
            found[name] = _merged(spans, text)
    return found


def _matches(words: Folded, name: str, wanted: Iterable[WantedWords]) -> list[Span]:
    """Return the spans of the field *name* that match *wanted*, in any order."""
    text, starts, ends = words
    spans = []
    for one in wanted:
        if one.fields is not None and name not in one.fields:
            continue
        for pattern in one.patterns:
            at = text.find(pattern)
            while at >= 0:
                last = at + len(pattern) - (1 if one.is_prefix else 2)
                spans.append((starts[at + 1], ends[last]))
                at = text.find(pattern, at + 1)
    return spans


def _merged(spans: Iterable[Span], text: str) -> tuple[Span, ...]:
    """Sort *spans* of *text*, extend each over the combining marks after it, and join those that touch."""
    merged = _joined(sorted(spans))
    if not text.isascii():
        limits = [*(start for start, _ in merged[1:]), len(text)]
        merged = _joined(
            (start, _after_marks(text, end, limit)) for (start, end), limit in zip(merged, limits, strict=True)
        )
    return tuple(merged)


def _joined(spans: Iterable[Span]) -> list[Span]:
    """Join the sorted *spans* that touch or overlap."""
    joined: list[Span] = []
    for start, end in spans:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _after_marks(text: str, at: int, limit: int) -> int:
    """Return the end of the combining marks of *text* that start at *at*; at most *limit*."""
    while at < limit and unicodedata.category(text[at]).startswith("M"):
        at += 1
    return at
