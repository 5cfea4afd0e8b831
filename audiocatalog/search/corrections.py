"""What else may have been meant, where nothing matches what was typed: like words, joined or parted ones, fewer words.

The server tells which words it knows that look like the typed ones; this module chooses among them and writes the
statement of the second round trip.
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

#: So many alternatives are tried in all, shared among the words; where every word is in doubt, fewer.
_MAX_ALTERNATIVES: Final = 60
_MAX_ALTERNATIVES_OF_ALL: Final = 30
#: So many words may be missing from a track.
MAX_MISSING: Final = 3
#: Which ones, is tried for the words that tell most.
_MAX_INFORMATIVE: Final = 6
#: Words of more letters may differ by edit operations.
_MAX_ONE_EDIT_LENGTH: Final = 5
#: A word is in doubt if a like one is so many times as frequent.
_DOUBT_RATIO: Final = 20
#: Shorter beginnings are left out: an index reads every word that begins so, once for each way to leave others out.
_MIN_PREFIX_LENGTH: Final = 3
#: A word that was found, if it is no shorter than this and a like one is so many times as frequent.
_MIN_MISTYPED_LENGTH: Final = 6
_MISTYPED_RATIO: Final = 100
#: In so many ways a text is read as names, one word exchanged for another in each.
_MAX_VARIANTS: Final = 48
#: Stages that look for all words; those behind look for fewer, and are content with fewer tracks.
ALL_WORDS_STAGES: Final = 2
#: What lies between a name and its possessive: less than a slip.
_POSSESSIVE: Final = 0.5
#: Above every hit that holds other words than were typed.
AS_TYPED: Final = 100.0


class Alternative(NamedTuple):
    """Say which *words* (one, or two in a row) may be meant, how far away, and how many tracks hold them."""

    words: str
    edit_distance: float
    tracks: int


@dataclass(frozen=True, slots=True)
class CorrectableTerm:
    """
    Hold one *word* that was typed and what else may be meant by it, best first.

    *mark* binds it to a field; *is_prefix* says that it may go on.
    """

    word: str
    mark: str
    is_prefix: bool
    alternatives: tuple[Alternative, ...]

    @property
    def best(self) -> str:
        """The word, or what is most likely meant by it."""
        return self.alternatives[0].words if self.alternatives else self.word

    @property
    def is_sure(self) -> bool:
        """Whether the catalogue knows the word, and no like word that is far more frequent."""
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
        """Whether even a word that was found looks like a slip or a possessive of a far more frequent one."""
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
        """How much the word tells: the rarer, the more; next to nothing if nobody knows it."""
        tracks = sum(alternative.tracks for alternative in self.alternatives)
        return 1.0 / (2.0 + math.log(1 + tracks)) if tracks else 0.02

    @property
    def highlighted(self) -> WantedWords:
        """What to mark in a hit."""
        spellings = [(self.word,), *(tuple(other.words.split()) for other in self.alternatives)]
        return WantedWords(tuple(dict.fromkeys(spellings)), is_prefix=self.is_prefix)

    def query(self, max_alternatives: int) -> str:
        """Return what finds the word or one of its *max_alternatives* likely alternatives."""
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
    Return the words of the term *terms*, each with what may be meant by it.

    *words* are those of each term as the server wrote them, *similar* its words that look like them.
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
    """Return the edit distance between two words, None if it is too large."""
    if word == meant:
        return 0.0
    # People leave out the apostrophe of a possessive, and name a band by its members.
    if word in {f"{meant}s", f"{meant}es"}:
        return _POSSESSIVE
    # A part of a Hangul word stands for the word.
    if "\uac00" <= word[0] <= "\ud7a3" and word in meant:
        return 1.0
    most = 1 if len(word) <= _MAX_ONE_EDIT_LENGTH else 2
    edit_distance = OSA.distance(word, meant, score_cutoff=most)
    return float(edit_distance) if edit_distance <= most else None


def _portion(whole: int, words: Sequence[CorrectableTerm]) -> int:
    return max(4, whole // len(words))


def _stages(meant: Sequence[CorrectableTerm]) -> list[str | None]:
    """
    Return what is sought, each only where the one before found nothing.

    All words, those in doubt widened; all words widened; then, of the words that tell most, all but one, two, three.
    """
    careful = [one.query(0 if one.is_sure else _portion(_MAX_ALTERNATIVES, meant)) for one in meant]
    bold = [one.query(_portion(_MAX_ALTERNATIVES_OF_ALL, meant)) for one in meant]
    stages: list[str | None] = [" & ".join(careful), " & ".join(bold)]
    informative = sorted(range(len(meant)), key=lambda place: -meant[place].weight)[:_MAX_INFORMATIVE]
    for missing in range(1, MAX_MISSING + 1):
        size = len(informative) - missing
        chosen = combinations(informative, size) if size > 0 else ()
        stages.append(" | ".join(f"({' & '.join(careful[place] for place in places)})" for places in chosen) or None)
    return stages


def excluded_query(terms: Sequence[Term], words: Sequence[str]) -> str | None:
    """Return what finds the excluded *terms*, whose words the server has written; None if there is none."""
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
    Return what the statement is executed with, besides the page.

    *literal* is every word of a text that excludes something: its hyphens may belong to a name after all. The few
    *typed_hits*, with their scores, hold the words as they were typed and stand before all others.
    """
    typed = [one.word for one in correctable]
    best = [one.best.replace(" ", "") for one in correctable]
    near = [one.query(_portion(_MAX_ALTERNATIVES, correctable)) for one in correctable]
    max_alternatives = _portion(_MAX_VARIANTS, correctable)
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
        # One word may be a part of a name; of several, a whole name says enough.
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
    """Return *names* with the article that people leave out or add."""
    for name in names:
        yield from (name, f"the{name}", name.removeprefix("the") or name)


def _runs(words: Sequence[str]) -> Iterable[str]:
    """Return every run of *words* as one name."""
    words = words[:MAX_NAME_WORDS]
    for first in range(len(words)):
        for last in range(first + 1, len(words) + 1):
            yield "".join(words[first:last])


def _pairs(words: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Return every two runs of *words* that stand side by side, with up to one word before or three behind them."""
    words = words[:MAX_NAME_WORDS]
    for first in range(min(2, len(words))):
        for last in range(max(len(words) - MAX_MISSING, first + 2), len(words) + 1):
            if first == 0 or last == len(words):
                for middle in range(first + 1, last):
                    yield "".join(words[first:middle]), "".join(words[middle:last])
