"""What else may have been meant, where nothing matches what was typed: like words, joined or parted ones, fewer words.

The server tells which words it knows that look like the typed ones; this module chooses among them and writes the
statement of the second round trip.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from typing import Any, Final, NamedTuple
from uuid import UUID

from rapidfuzz.distance import OSA

from audiocatalog.search.highlights import WantedWords
from audiocatalog.search.query import Term
from audiocatalog.search.terms_sql import MOST_WORDS_OF_NAMES, mark_of
from audiocatalog.search.typed_sql import CANDIDATE, ENOUGH, MOST_WORDS, Shape, paged, samples, told

#: So many alternatives are tried in all, shared among the words; where every word is in doubt, fewer.
_MOST_ALTERNATIVES: Final = 60
_FEWER_ALTERNATIVES: Final = 30
#: So many words may be missing from a track.
_MOST_MISSING: Final = 3
#: Which ones, is tried for the words that tell most.
_MOST_TELLING: Final = 6
#: Words of more letters may differ by two slips.
_SHORT: Final = 5
#: A word is in doubt if a like one is so many times as frequent.
_DOUBTFUL: Final = 20
#: Shorter beginnings are left out: an index reads every word that begins so, once for each way to leave others out.
_LEAST_BEGINNING: Final = 3
#: A word that was found, if it is no shorter than this and a like one is so many times as frequent.
_LONG: Final = 6
_MISTYPED: Final = 100
#: In so many ways a text is read as names, one word exchanged for another in each.
_MOST_READINGS: Final = 48
#: Fewer samples than for words that match: these seldom do.
_SAMPLES: Final = (64, 8)
#: Stages that look for all words; those behind look for fewer, and are content with fewer tracks.
_WHOLE_STAGES: Final = 2
_ENOUGH_WITHOUT: Final = 10
_MOST_TRACKS_BY_NAME: Final = 50
_MOST_TRACKS_BY_PAIR: Final = 20
#: What lies between a name and its possessive: less than a slip.
_POSSESSIVE: Final = 0.5
#: Above every hit that holds other words than were typed.
AS_TYPED: Final = 100.0


class Alternative(NamedTuple):
    """Say which *words* (one, or two in a row) may be meant, how many slips away, and how many tracks hold them."""

    words: str
    slips: float
    tracks: int


@dataclass(frozen=True, slots=True)
class Doubtful:
    """
    Hold one *word* that was typed and what else may be meant by it, best first.

    *mark* binds it to a field; *open* says that it may go on.
    """

    word: str
    mark: str
    open: bool
    alternatives: tuple[Alternative, ...]

    @property
    def best(self) -> str:
        """The word, or what is most likely meant by it."""
        return self.alternatives[0].words if self.alternatives else self.word

    @property
    def is_sure(self) -> bool:
        """Whether the catalogue knows the word, and no like word that is far more frequent."""
        if any(other.slips == _POSSESSIVE for other in self.alternatives):
            return False
        frequent = max((other.tracks for other in self.alternatives[1:] if other.slips <= 1), default=0)
        return (
            bool(self.alternatives)
            and not self.alternatives[0].slips
            and frequent < _DOUBTFUL * self.alternatives[0].tracks
        )

    @property
    def looks_mistyped(self) -> bool:
        """Whether even a word that was found looks like a slip or a possessive of a far more frequent one."""
        return any(
            other.slips == _POSSESSIVE
            or (
                len(self.word) >= _LONG and other.slips <= 1 and other.tracks >= _MISTYPED * self.alternatives[0].tracks
            )
            for other in self.alternatives[1:]
        )

    @property
    def weight(self) -> float:
        """How much the word tells: the rarer, the more; next to nothing if nobody knows it."""
        tracks = sum(alternative.tracks for alternative in self.alternatives)
        return 1.0 / (2.0 + math.log(1 + tracks)) if tracks else 0.02

    @property
    def wanted(self) -> WantedWords:
        """What to mark in a hit."""
        spellings = [(self.word,), *(tuple(other.words.split()) for other in self.alternatives)]
        return WantedWords(tuple(dict.fromkeys(spellings)), prefix=self.open)

    def query(self, most: int) -> str:
        """Return what finds the word or one of its *most* likely alternatives."""
        found = [f"'{self.word}'{self.mark}"]
        if self.open and len(self.word) >= _LEAST_BEGINNING:
            found.append(f"'{self.word}':*{self.mark.removeprefix(':')}")
        found += [
            " <-> ".join(f"'{word}'{self.mark}" for word in alternative.words.split())
            for alternative in self.alternatives[:most]
        ]
        return f"({' | '.join(dict.fromkeys(found))})"


def doubtful_words(terms: Sequence[Term], words: Sequence[str], known: Iterable[Sequence[Any]]) -> list[Doubtful]:
    """
    Return the words of the wanted *terms*, each with what may be meant by it.

    *words* are those of each term as the server wrote them, *known* its words that look like them.
    """
    alternatives = _alternatives(known)
    found: list[Doubtful] = []
    for term, written in zip(terms, words, strict=True):
        mark = mark_of(term)
        pieces = written.split("\n")[0].split()
        found += [
            Doubtful(piece, mark, term.prefix and place == len(pieces), alternatives.get(piece, ()))
            for place, piece in enumerate(pieces, 1)
        ]
    for place in range(len(found) - 1):
        one, other = found[place : place + 2]
        for joined in alternatives.get(f"{one.word} {other.word}", ()):
            for at in (place, place + 1):
                found[at] = replace(found[at], alternatives=(*found[at].alternatives, joined))
    return found[:MOST_WORDS]


def _alternatives(known: Iterable[Sequence[Any]]) -> Mapping[str, tuple[Alternative, ...]]:
    found: dict[str, dict[str, Alternative]] = {}
    for word, meant, tracks in known:
        slips = 1.0 if " " in word or " " in meant else _slips(word, meant)
        if slips is not None:
            found.setdefault(word, {})[meant] = Alternative(meant, slips, tracks)
    return {
        word: tuple(sorted(choice.values(), key=lambda one: (one.slips, -one.tracks, one.words))[:_MOST_ALTERNATIVES])
        for word, choice in found.items()
    }


def _slips(word: str, meant: str) -> float | None:
    """Return how many slips lie between two words, None if too many."""
    if word == meant:
        return 0.0
    # People leave out the apostrophe of a possessive, and name a band by its members.
    if word in {f"{meant}s", f"{meant}es"}:
        return _POSSESSIVE
    # A part of a Hangul word stands for the word.
    if "\uac00" <= word[0] <= "\ud7a3" and word in meant:
        return 1.0
    most = 1 if len(word) <= _SHORT else 2
    slips = OSA.distance(word, meant, score_cutoff=most)
    return float(slips) if slips <= most else None


def _share(whole: int, words: Sequence[Doubtful]) -> int:
    return max(4, whole // len(words))


def _stages(meant: Sequence[Doubtful]) -> list[str | None]:
    """
    Return what is sought, each only where the one before found nothing.

    All words, those in doubt widened; all words widened; then, of the words that tell most, all but one, two, three.
    """
    careful = [one.query(0 if one.is_sure else _share(_MOST_ALTERNATIVES, meant)) for one in meant]
    bold = [one.query(_share(_FEWER_ALTERNATIVES, meant)) for one in meant]
    stages: list[str | None] = [" & ".join(careful), " & ".join(bold)]
    telling = sorted(range(len(meant)), key=lambda place: -meant[place].weight)[:_MOST_TELLING]
    for missing in range(1, _MOST_MISSING + 1):
        size = len(telling) - missing
        chosen = combinations(telling, size) if size > 0 else ()
        stages.append(" | ".join(f"({' & '.join(careful[place] for place in places)})" for places in chosen) or None)
    return stages


def unwanted_query(terms: Sequence[Term], words: Sequence[str]) -> str | None:
    """Return what finds the excluded *terms*, whose words the server has written; None if there is none."""
    found = []
    for term, written in zip(terms, words, strict=True):
        mark = mark_of(term)
        parted, joined, *_ = [*written.split("\n"), ""]
        spellings = [parted.split(), *([] if term.phrase else ([word] for word in joined.split()))]
        found += [" <-> ".join(f"'{word}'{mark}" for word in spelling) for spelling in spellings if spelling]
    return " | ".join(f"({spelling})" for spelling in found) or None


def widened_parameters(
    doubtful: Sequence[Doubtful],
    *,
    unwanted: str | None = None,
    literal: Sequence[str] = (),
    typed_hits: Sequence[tuple[UUID, float]] = (),
) -> dict[str, Any]:
    """
    Return what the statement is executed with, besides the page.

    *literal* is every word of a text that excludes something: its hyphens may belong to a name after all. The few
    *typed_hits*, with their scores, hold the words as they were typed and stand before all others.
    """
    typed = [one.word for one in doubtful]
    best = [one.best.replace(" ", "") for one in doubtful]
    near = [one.query(_share(_MOST_ALTERNATIVES, doubtful)) for one in doubtful]
    most = _share(_MOST_READINGS, doubtful)
    readings = [typed, best] + [
        [*best[:place], alternative.words.replace(" ", ""), *best[place + 1 :]]
        for place, one in enumerate(doubtful)
        if not one.is_sure
        for alternative in one.alternatives[:most]
    ]
    runs = {run for reading in readings for run in _runs(reading)}
    likely = dict(zip(typed, best, strict=True))
    whole_readings = [literal, [likely.get(word, word) for word in literal]]
    whole_runs = {run for reading in whole_readings for run in _runs(reading)} - runs
    pairs = {pair for reading in (*readings, *whole_readings) for pair in _pairs(reading)}
    whole_names = {"".join(reading) for reading in (*readings, *whole_readings)} - {""}
    return {
        "near": near,
        "exact": [one.query(sum(other.slips <= _POSSESSIVE for other in one.alternatives)) for one in doubtful],
        # One word may be a part of a name; of several, a whole name says enough.
        "names_suffice": len(doubtful) > 1,
        "weights": [one.weight for one in doubtful],
        "stages": _stages([one for one in doubtful if one.alternatives] or doubtful),
        "required": " & ".join(query for query, one in zip(near, doubtful, strict=True) if one.mark) or None,
        "unwanted": unwanted,
        "typed_ids": [identifier for identifier, _ in typed_hits],
        "typed_scores": [AS_TYPED + score for _, score in typed_hits],
        "literal": sorted(whole_runs),
        "names": sorted({"".join(typed), "".join(best)}),
        "artist_names": sorted(set(_with_articles({"".join(typed), "".join(best)}))),
        "other_names": sorted(whole_names),
        "runs": sorted(runs | whole_runs),
        "likely_runs": sorted({run for reading in (typed, best, *whole_readings) for run in _runs(reading)}),
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
    words = words[:MOST_WORDS_OF_NAMES]
    for first in range(len(words)):
        for last in range(first + 1, len(words) + 1):
            yield "".join(words[first:last])


def _pairs(words: Sequence[str]) -> Iterable[tuple[str, str]]:
    """Return every two runs of *words* that stand side by side, with up to one word before or three behind them."""
    words = words[:MOST_WORDS_OF_NAMES]
    for first in range(min(2, len(words))):
        for last in range(max(len(words) - _MOST_MISSING, first + 2), len(words) + 1):
            if first == 0 or last == len(words):
                for middle in range(first + 1, last):
                    yield "".join(words[first:middle]), "".join(words[middle:last])


# Names that were meant, as a whole; how many of the words are there, the telling ones more; how much of what was typed
# the names make up; and how alike they are in length. Below 10 in all.
_SCORED: Final = """
  SELECT t.id, false AS accented,
    CASE
      WHEN t.artist_name = ANY (asked.artist_names)
        OR asked.names && ARRAY[t.title_name, t.title_name || t.artist_name, t.artist_name || t.title_name] THEN 3.0
      WHEN asked.other_names
        && ARRAY[t.title_name, t.artist_name, t.title_name || t.artist_name, t.artist_name || t.title_name] THEN 2.0
      ELSE 0.0
    END
    + 3.0 * (SELECT coalesce(sum(CASE WHEN t.search_vector @@ exact THEN weight
        WHEN t.search_vector @@ near THEN 0.8 * weight END), 0) FROM wanted)
    + 3.0 * least(1.0, (CASE WHEN t.title_name = ANY (asked.likely_runs) THEN char_length(t.title_name) ELSE 0 END
        + CASE WHEN t.artist_name = ANY (asked.likely_runs) THEN char_length(t.artist_name) ELSE 0 END) / asked.length)
    + 0.9 * least(asked.length, t.length) / greatest(asked.length, t.length) AS score,
    CASE WHEN t.title_name = ANY (asked.names) THEN 'T'
      WHEN t.artist_name = ANY (asked.artist_names) THEN 'A' END AS exact
  FROM (
    SELECT *, char_length(title_name) + char_length(artist_name) AS length FROM source OFFSET 0
  ) AS t, asked
  UNION ALL
  SELECT id, false, score, NULL
  FROM unnest(%(typed_ids)s::uuid[], %(typed_scores)s::float8[]) AS typed(id, score)"""


@lru_cache(maxsize=256)
def widened_sql(shape: Shape) -> str:
    """Return the statement for tracks that hold words like the typed ones, or some of them."""
    # What is named by the text with its hyphens may hold what its reading as a query excludes.
    meets = f"""((t.search_vector @@ (SELECT unwanted FROM asked)) IS NOT TRUE
      OR (ARRAY[t.title_name, t.artist_name] && (SELECT literal FROM asked)
        AND (t.title LIKE ANY (%(hyphened)s::text[]) OR t.artist LIKE ANY (%(hyphened)s::text[]))))
    AND (t.search_vector @@ (SELECT required FROM asked)) IS NOT FALSE{shape.narrowed}"""
    tables: list[str] = []
    sources = ["SELECT *, 0 AS share FROM named"]
    gates = ["NOT (%(names_suffice)s AND (SELECT strong FROM named_well))"]
    for stage in range(_WHOLE_STAGES + _MOST_MISSING):
        words = f"t.search_vector @@ (SELECT stages[{stage + 1}] FROM asked)"
        enough = ENOUGH if stage < _WHOLE_STAGES else _ENOUGH_WITHOUT
        more, found = samples(f"stage_{stage}", words, f" AND {meets}", *gates, shares=_SAMPLES, enough=enough)
        tables += more
        sources += found
        gates += [f"NOT EXISTS (SELECT 1 FROM stage_{stage}_{share})" for share in (*_SAMPLES, 1)]
    return f"""
WITH wanted AS MATERIALIZED (
  SELECT near, exact, weight / sum(weight) OVER () AS weight
  FROM unnest(%(near)s::tsquery[], %(exact)s::tsquery[], %(weights)s::float8[]) AS wanted(near, exact, weight)
),
asked AS MATERIALIZED (
  SELECT %(names)s::varchar[] AS names, %(other_names)s::varchar[] AS other_names, %(runs)s::text[] AS runs,
    %(likely_runs)s::text[] AS likely_runs, %(artist_names)s::varchar[] AS artist_names,
    %(length)s::float8 AS length,
    %(stages)s::tsquery[] AS stages, %(unwanted)s::tsquery AS unwanted, %(required)s::tsquery AS required,
    %(literal)s::varchar[] AS literal
),
named AS MATERIALIZED (
  {_named(meets)}
),
named_well AS MATERIALIZED (
  SELECT coalesce(bool_or(t.title_name = ANY (asked.other_names) OR t.artist_name = ANY (asked.other_names)
    OR (t.title_name = ANY (asked.runs) AND t.artist_name = ANY (asked.runs)
      AND char_length(t.title_name) + char_length(t.artist_name) >= 0.75 * asked.length)), false) AS strong
  FROM named AS t, asked
),
{",".join(tables)},{paged(_SCORED, sources, shape.facets)}""" + told(
        words="NULL", little="false", known="NULL", facets=shape.facets
    )


def _named(meets: str) -> str:
    """Return the tracks whose title, artist or both are among the names that may be meant."""

    def by(names: str, column: str, other: str) -> str:
        return f"""SELECT found.* FROM asked, unnest(asked.{names}) AS meant(name) CROSS JOIN LATERAL ({CANDIDATE}
    WHERE t.{column} = meant.name AND {meets}
    ORDER BY t.{column}, t.{other}, t.id LIMIT {_MOST_TRACKS_BY_NAME}) AS found"""

    def by_pair(column: str, other: str) -> str:
        return f"""SELECT found.* FROM unnest(%(heads)s::text[], %(tails)s::text[]) AS pair(head, tail)
    CROSS JOIN LATERAL ({CANDIDATE}
    WHERE t.{column} = pair.head AND t.{other} = pair.tail AND {meets}
    ORDER BY t.id LIMIT {_MOST_TRACKS_BY_PAIR}) AS found"""

    return "\n  UNION ALL ".join(
        (
            by("other_names", "title_name", "artist_name"),
            by("runs", "artist_name", "title_name"),
            by("artist_names", "artist_name", "title_name"),
            by_pair("title_name", "artist_name"),
            by_pair("artist_name", "title_name"),
        )
    )
