"""Corrections of a query without matches: similar words, joined or split words, fewer words.

The first statement returns the words of the vocabulary that are similar to the typed ones. This module chooses among
these words and makes the parameters of the second statement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Final, NamedTuple
from uuid import UUID

from rapidfuzz.distance import OSA

from audiocatalog.search.highlights import WantedWords
from audiocatalog.search.query import Term
from audiocatalog.search.terms_sql import MAX_NAME_WORDS, mark_of
from audiocatalog.search.typed_sql import MAX_WORDS

#: The maximum numbers of alternatives of all words together: if only doubtful words are corrected, and if all are.
_MAX_ALTERNATIVES: Final = 60
_MAX_ALTERNATIVES_OF_ALL: Final = 30
#: The maximum number of words that a track may lack.
MAX_MISSING: Final = 3
#: A track may lack only words that are among this many rarest words of the query.
_MAX_INFORMATIVE: Final = 6
#: The corrections of longer words differ by at most two edits, those of other words by one.
_MAX_ONE_EDIT_LENGTH: Final = 5
#: A word of the vocabulary is doubtful if a similar word is this many times as frequent.
_DOUBT_RATIO: Final = 20
#: Shorter prefixes are not searched for, because each stage would read every word with the prefix from the index.
_MIN_PREFIX_LENGTH: Final = 3
#: A matching word looks mistyped if it has at least 6 letters and a similar word is at least 100 times as frequent.
_MIN_MISTYPED_LENGTH: Final = 6
_MISTYPED_RATIO: Final = 100
#: The maximum number of variants of the query for the comparison of names, each with one word replaced.
_MAX_VARIANTS: Final = 48
#: The number of stages that require all words; later stages require fewer.
ALL_WORDS_STAGES: Final = 2
#: The distance between a name and its possessive: below 1, because users omit the apostrophe on purpose.
_POSSESSIVE: Final = 0.5
#: The points that put hits for the words as typed before hits for corrected words.
AS_TYPED: Final = 100.0


class Alternative(NamedTuple):
    """A word or a pair of words that may be meant, its distance from the typed word, and its number of tracks."""

    words: str
    edit_distance: float
    tracks: int


@dataclass(frozen=True, slots=True)
class CorrectableTerm:
    """
    A typed word and its alternatives, best first.

    *mark*: the weight label that limits *word* to a field in a tsquery. *is_prefix*: whether longer words match too.
    """

    word: str
    mark: str
    is_prefix: bool
    alternatives: tuple[Alternative, ...]

    @property
    def best(self) -> str:
        """The best alternative, or the word itself."""
        return self.alternatives[0].words if self.alternatives else self.word

    @property
    def is_sure(self) -> bool:
        """Whether the vocabulary has the word, but no similar word that is far more frequent."""
        if any(other.edit_distance == _POSSESSIVE for other in self.alternatives):
            return False
        frequent = max((other.tracks for other in self.alternatives[1:] if other.edit_distance <= 1), default=0)
        return (
            bool(self.alternatives)
            and not self.alternatives[0].edit_distance
            and frequent < _DOUBT_RATIO * self.alternatives[0].tracks
        )

    @property
    def looks_mistyped(self) -> bool:
        """Whether a matching word looks like a typo or the possessive of a far more frequent word."""
        return any(
            other.edit_distance == _POSSESSIVE
            or (
                len(self.word) >= _MIN_MISTYPED_LENGTH
                and other.edit_distance <= 1
                and other.tracks >= _MISTYPED_RATIO * self.alternatives[0].tracks
            )
            for other in self.alternatives[1:]
        )

    @property
    def weight(self) -> float:
        """The information that the word carries: high for a rare word, close to 0 if the vocabulary lacks the word."""
        tracks = sum(alternative.tracks for alternative in self.alternatives)
        return 1.0 / (2.0 + math.log(1 + tracks)) if tracks else 0.02

    @property
    def highlighted(self) -> WantedWords:
        """The words to highlight in a hit."""
        spellings = [(self.word,), *(tuple(other.words.split()) for other in self.alternatives)]
        return WantedWords(tuple(dict.fromkeys(spellings)), is_prefix=self.is_prefix)

    def query(self, max_alternatives: int) -> str:
        """Return the tsquery for the word or one of its first *max_alternatives* alternatives."""
        found = [f"'{self.word}'{self.mark}"]
        if self.is_prefix and len(self.word) >= _MIN_PREFIX_LENGTH:
            found.append(f"'{self.word}':*{self.mark.removeprefix(':')}")
        found += [
            " <-> ".join(f"'{word}'{self.mark}" for word in alternative.words.split())
            for alternative in self.alternatives[:max_alternatives]
        ]
        return f"({' | '.join(dict.fromkeys(found))})"


def correctable_terms(
    terms: Sequence[Term], words: Sequence[str], similar: Iterable[Sequence[Any]]
) -> list[CorrectableTerm]:
    """
    Return the words of *terms* with their alternatives.

    *words*: the words of each term, as the server splits them. *similar*: rows of a word, a similar word of the
    vocabulary, and the number of tracks with the similar word.
    """
    alternatives = _alternatives(similar)
    found: list[CorrectableTerm] = []
    for term, written in zip(terms, words, strict=True):
        mark = mark_of(term)
        pieces = written.split("\n")[0].split()
        found += [
            CorrectableTerm(piece, mark, term.is_prefix and place == len(pieces), alternatives.get(piece, ()))
            for place, piece in enumerate(pieces, 1)
        ]
    for place in range(len(found) - 1):
        one, other = found[place : place + 2]
        for joined in alternatives.get(f"{one.word} {other.word}", ()):
            for at in (place, place + 1):
                found[at] = replace(found[at], alternatives=(*found[at].alternatives, joined))
    return found[:MAX_WORDS]


def _alternatives(similar: Iterable[Sequence[Any]]) -> Mapping[str, tuple[Alternative, ...]]:
    found: dict[str, dict[str, Alternative]] = {}
    for word, meant, tracks in similar:
        edit_distance = 1.0 if " " in word or " " in meant else _edit_distance(word, meant)
        if edit_distance is not None:
            found.setdefault(word, {})[meant] = Alternative(meant, edit_distance, tracks)
    return {
        word: tuple(
            sorted(choice.values(), key=lambda one: (one.edit_distance, -one.tracks, one.words))[:_MAX_ALTERNATIVES]
        )
        for word, choice in found.items()
    }


def _edit_distance(word: str, meant: str) -> float | None:
    """Return the edit distance between two words; None if it is too large."""
    if word == meant:
        return 0.0
    # Users omit the apostrophe of a possessive, and type the name of a band in the plural.
    if word in {f"{meant}s", f"{meant}es"}:
        return _POSSESSIVE
    # A part of a Hangul word also finds the word.
    if "\uac00" <= word[0] <= "\ud7a3" and word in meant:
        return 1.0
    most = 1 if len(word) <= _MAX_ONE_EDIT_LENGTH else 2
    edit_distance = OSA.distance(word, meant, score_cutoff=most)
    return float(edit_distance) if edit_distance <= most else None


def _per_word(whole: int, words: Sequence[CorrectableTerm]) -> int:
    return max(4, whole // len(words))


def _stages(meant: Sequence[CorrectableTerm]) -> list[str | None]:
    """
    Return the tsqueries of the stages. The server evaluates a stage only if the stage before it found nothing.

    The stages require:

    - all words, or alternatives of the doubtful words;
    - all words, or alternatives of any word;
    - all but one, then two, then three of the rarest words.
    """
    doubtful_corrected = [one.query(0 if one.is_sure else _per_word(_MAX_ALTERNATIVES, meant)) for one in meant]
    all_corrected = [one.query(_per_word(_MAX_ALTERNATIVES_OF_ALL, meant)) for one in meant]
    stages: list[str | None] = [" & ".join(doubtful_corrected), " & ".join(all_corrected)]
    informative = sorted(range(len(meant)), key=lambda place: -meant[place].weight)[:_MAX_INFORMATIVE]
    for missing in range(1, MAX_MISSING + 1):
        size = len(informative) - missing
        chosen = combinations(informative, size) if size > 0 else ()
        stages.append(
            " | ".join(f"({' & '.join(doubtful_corrected[place] for place in places)})" for places in chosen) or None
        )
    return stages


def excluded_query(terms: Sequence[Term], words: Sequence[str]) -> str | None:
    """Return the tsquery for the excluded *terms*, or None without words. *words*: the words of each term."""
    found = []
    for term, written in zip(terms, words, strict=True):
        mark = mark_of(term)
        parted, joined, *_ = [*written.split("\n"), ""]
        spellings = [parted.split(), *([] if term.is_phrase else ([word] for word in joined.split()))]
        found += [" <-> ".join(f"'{word}'{mark}" for word in spelling) for spelling in spellings if spelling]
    return " | ".join(f"({spelling})" for spelling in found) or None


def corrected_parameters(
    correctable: Sequence[CorrectableTerm],
    *,
    excluded: str | None = None,
    literal: Sequence[str] = (),
    typed_hits: Sequence[tuple[UUID, float]] = (),
) -> dict[str, Any]:
    """
    Return the parameters of the corrected statement, without those of the page.

    *literal*: every word of a query with exclusions, because a hyphen may belong to a name. *typed_hits*: the ids and
    scores of the hits for the words as typed, which precede all other hits.
    """
    typed = [one.word for one in correctable]
    best = [one.best.replace(" ", "") for one in correctable]
    near = [one.query(_per_word(_MAX_ALTERNATIVES, correctable)) for one in correctable]
    max_alternatives = _per_word(_MAX_VARIANTS, correctable)
    variants = [typed, best] + [
        [*best[:place], alternative.words.replace(" ", ""), *best[place + 1 :]]
        for place, one in enumerate(correctable)
        if not one.is_sure
        for alternative in one.alternatives[:max_alternatives]
    ]
    runs = {run for variant in variants for run in _runs(variant)}
    likely = dict(zip(typed, best, strict=True))
    whole_variants = [literal, [likely.get(word, word) for word in literal]]
    whole_runs = {run for variant in whole_variants for run in _runs(variant)} - runs
    pairs = {pair for variant in (*variants, *whole_variants) for pair in _pairs(variant)}
    whole_names = {"".join(variant) for variant in (*variants, *whole_variants)} - {""}
    return {
        "near": near,
        "exact": [
            one.query(sum(other.edit_distance <= _POSSESSIVE for other in one.alternatives)) for one in correctable
        ],
        # If a name of several words is found, no other search is needed. A single word may be part of a longer name.
        "names_suffice": len(correctable) > 1,
        "weights": [one.weight for one in correctable],
        "stages": _stages([one for one in correctable if one.alternatives] or correctable),
        "required": " & ".join(query for query, one in zip(near, correctable, strict=True) if one.mark) or None,
        "excluded": excluded,
        "typed_ids": [identifier for identifier, _ in typed_hits],
        "typed_scores": [AS_TYPED + score for _, score in typed_hits],
        "literal": sorted(whole_runs),
        "names": sorted({"".join(typed), "".join(best)}),
        "artist_names": sorted(set(_with_articles({"".join(typed), "".join(best)}))),
        "other_names": sorted(whole_names),
        "runs": sorted(runs | whole_runs),
        "likely_runs": sorted({run for variant in (typed, best, *whole_variants) for run in _runs(variant)}),
        "heads": [head for head, _ in pairs],
        "tails": [tail for _, tail in pairs],
        "length": max(1, len("".join(typed))),
    }


def _with_articles(names: Iterable[str]) -> Iterable[str]:
    """Return each of *names* as it is, with "the" before it, and without "the"."""
    for name in names:
        yield from (name, f"the{name}", name.removeprefix("the") or name)


def _runs(words: Sequence[str]) -> Iterable[str]:
    """Return every run of adjacent words as one name."""
    words = words[:MAX_NAME_WORDS]
    for first in range(len(words)):
        for last in range(first + 1, len(words) + 1):
            yield "".join(words[first:last])


def _pairs(words: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Return every pair of adjacent runs of *words*, with at most one word before the pair or three after it."""
    words = words[:MAX_NAME_WORDS]
    for first in range(min(2, len(words))):
        for last in range(max(len(words) - MAX_MISSING, first + 2), len(words) + 1):
            if first == 0 or last == len(words):
                for middle in range(first + 1, last):
                    yield "".join(words[first:middle]), "".join(words[middle:last])
