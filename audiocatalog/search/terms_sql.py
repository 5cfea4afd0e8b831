"""How a query is handed to the server, and the SQL that reads it with the functions that made the stored words.

The common table expressions of ``READ`` give two tables to the statements: ``asked``, one row that holds everything a
track is compared with, and ``pair``, the ways in which the typed words may be one name and another.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from audiocatalog.models.sql_names import FOLD_FUNCTION, NAME_FUNCTION, SPELL_FUNCTION, WORDS_FUNCTION
from audiocatalog.search.query import Query, Term

#: What sorts behind every name that begins with the same characters.
LAST: Final = "chr(1114111)"
#: The weights of the fields in a search vector.
_WEIGHT_OF: Final = {None: "", "title": "A", "artist": "B", "album": "C", "genre": "D"}
#: Beside a word that no more tracks hold, the beginning of another is looked for in those, not in the index.
_RARE: Final = 2000
#: Longer texts are no artist and title side by side.
MOST_WORDS_OF_NAMES: Final = 16
#: So many words at the end of a text may belong to neither ("lyrics", "full album").
_MOST_WORDS_BEHIND: Final = 3

READ: Final = f"""
term AS MATERIALIZED (
  SELECT place, part, wanted, reading, field, phrase, open, words, name,
    split_part(words, E'\\n', 1) !~ '[^ ]' AS symbol
  FROM (
    SELECT *, {WORDS_FUNCTION}(folded) AS words, {NAME_FUNCTION}(folded) AS name
    FROM (
      SELECT *, {FOLD_FUNCTION}(text) AS folded
      FROM unnest(%(texts)s::text[], %(parts)s::int[], %(wanted)s::bool[], %(readings)s::int[], %(fields)s::text[],
          %(phrases)s::bool[], %(open)s::text[])
        WITH ORDINALITY AS typed(text, part, wanted, reading, field, phrase, open, place)
    ) AS folded
  ) AS named
),
-- A sign between words, such as the hyphen of "Artist - Title", is sought only where nothing else is. The beginning of
-- a word is left to the check of each row where another word is rare: an index reads all words that begin so.
spelled AS MATERIALIZED (
  SELECT part, wanted, reading,
    replace(replace(spelling, '~', mark), '^', mark_open) AS loose,
    replace(replace(spelling, '~', mark), '^', mark) AS whole,
    CASE WHEN field IN ('', 'A') THEN replace(replace(spelling, '~', ':A'), '^', ':A') ELSE '' END AS in_title,
    CASE WHEN field IN ('', 'B') THEN replace(replace(spelling, '~', ':B'), '^', ':B') ELSE '' END AS in_artist,
    CASE WHEN open = '' OR NOT beside_rare THEN replace(replace(spelling, '~', mark), '^', mark_open) ELSE '' END
      AS driving
  FROM (
    SELECT *, {SPELL_FUNCTION}(words, phrase) AS spelling,
      CASE field WHEN '' THEN '' ELSE ':' || field END AS mark,
      CASE field || open WHEN '' THEN '' ELSE ':' || field || open END AS mark_open,
      open <> '' AND EXISTS (
        SELECT 1 FROM term AS other LEFT JOIN audio_search_words AS known ON known.word = other.words
        WHERE other.reading = 0 AND other.open = '' AND NOT other.symbol AND coalesce(known.tracks, 0) <= {_RARE}
      ) AS beside_rare
    FROM term OFFSET 0
  ) AS term
  WHERE part IS NOT NULL AND NOT (wanted AND symbol AND EXISTS (SELECT 1 FROM term WHERE wanted AND NOT symbol))
),
part AS MATERIALIZED (
  SELECT coalesce(bool_and(reading = 0), false) AS bare,
    '(' || string_agg(nullif(loose, ''), ' | ') || ')' AS loose,
    '(' || string_agg(nullif(whole, ''), ' | ') || ')' AS whole,
    '(' || string_agg(nullif(in_title, ''), ' | ') || ')' AS in_title,
    '(' || string_agg(nullif(in_artist, ''), ' | ') || ')' AS in_artist,
    '(' || string_agg(nullif(driving, ''), ' | ') || ')' AS driving
  FROM spelled WHERE wanted GROUP BY part
),
-- What was typed as one name: the bare words (reading 0), and the whole text where it holds more (reading 1).
spoken AS MATERIALIZED (
  SELECT reading,
    nullif(coalesce(string_agg(name, '' ORDER BY place) FILTER (WHERE NOT symbol),
      string_agg(name, '' ORDER BY place)), '') AS name,
    array_agg(name ORDER BY place) FILTER (WHERE NOT symbol) AS names,
    bool_or(open <> '') AS open
  FROM term WHERE reading IS NOT NULL GROUP BY reading
),
asked AS MATERIALIZED (
  SELECT
    string_agg(loose, ' & ')::tsquery AS loose,
    string_agg(whole, ' & ')::tsquery AS whole,
    CASE WHEN count(in_title) = count(*) THEN string_agg(in_title, ' & ')::tsquery END AS in_title,
    CASE WHEN count(in_artist) = count(*) THEN string_agg(in_artist, ' & ')::tsquery END AS in_artist,
    coalesce(string_agg(driving, ' & '), string_agg(loose, ' & '))::tsquery AS driving,
    (string_agg(loose, ' & ') FILTER (WHERE NOT bare))::tsquery AS required,
    (SELECT string_agg(loose, ' | ')::tsquery FROM spelled WHERE NOT wanted AND loose <> '') AS unwanted,
    (SELECT name FROM spoken ORDER BY reading LIMIT 1) AS name,
    (SELECT name || CASE WHEN open THEN {LAST} ELSE '' END FROM spoken ORDER BY reading LIMIT 1) AS name_end,
    (SELECT name FROM spoken ORDER BY reading DESC LIMIT 1) AS text_name,
    -- The Beatles are looked for without their article, and others with it.
    (SELECT array_agg(artist) FROM (
      SELECT name AS artist FROM spoken
      UNION SELECT 'the' || name FROM spoken WHERE names[1] <> 'the'
      UNION SELECT substr(name, 4) FROM spoken WHERE names[1] = 'the' AND name <> 'the') AS articles) AS artists,
    (SELECT ('''=initials:' || name || '''')::tsquery FROM spoken
      WHERE cardinality(names) = 1 AND name ~ '^[a-z]{{2,8}}$' ORDER BY reading LIMIT 1) AS initials
  FROM part
),
-- One name and another: every way to part the words in two, also with some words behind both.
pair AS MATERIALIZED (
  SELECT DISTINCT array_to_string(names[1:middle], '') AS head, tail,
    tail || CASE WHEN (open OR reading = 1) AND last = cardinality(names) THEN {LAST} ELSE '' END AS tail_end
  FROM spoken,
    generate_series(greatest(cardinality(names) - {_MOST_WORDS_BEHIND}, 2), cardinality(names)) AS last,
    generate_series(1, last - 1) AS middle, array_to_string(names[middle + 1:last], '') AS tail
  WHERE cardinality(names) BETWEEN 2 AND {MOST_WORDS_OF_NAMES}
)"""


class _Row(NamedTuple):
    term: Term
    #: The number of the group that it is an alternative of; None for words that only make names.
    part: int | None
    wanted: bool
    #: Which names it is a word of.
    reading: int | None


def _rows(query: Query) -> list[_Row]:
    rows = [
        _Row(term, part, wanted=True, reading=0 if len(group) == 1 and term.field is None else None)
        for part, group in enumerate(query.wanted)
        for term in group
    ]
    rows += [_Row(term, -1, wanted=False, reading=None) for term in query.unwanted]
    if not query.plain:
        rows += [_Row(Term(word), None, wanted=False, reading=1) for word in query.words]
    return rows


def terms_of(query: Query) -> list[Term]:
    """Return the terms of *query* in the order in which the server is given them, the wanted ones first."""
    return [row.term for row in _rows(query) if row.part is not None]


def mark_of(term: Term) -> str:
    """Return what stands behind a word of a tsquery to bind it to the field of *term*; empty for any field."""
    return f":{_WEIGHT_OF[term.field]}" if term.field else ""


def read_parameters(query: Query) -> dict[str, Any]:
    """Return *query* as ``READ`` takes it."""
    rows = _rows(query)
    return {
        "texts": [row.term.text for row in rows],
        "parts": [row.part for row in rows],
        "wanted": [row.wanted for row in rows],
        "readings": [row.reading for row in rows],
        "fields": [_WEIGHT_OF[row.term.field] for row in rows],
        "phrases": [row.term.phrase for row in rows],
        "open": ["*" if row.term.prefix else "" for row in rows],
        "accented": accented_patterns(query.words),
        "hyphened": hyphened_patterns(query),
        "is_one_word": sum(row.reading == 0 for row in rows) == 1,
    }


def accented_patterns(words: Iterable[str]) -> list[str]:
    """Return patterns of LIKE for the *words* whose letters folding would change, in their usual cases."""
    return [
        f"%{form.translate(_ESCAPED)}%"
        for word in words
        if any(_is_accented(letter) for letter in word)
        for form in _cases(word)
    ]


def hyphened_patterns(query: Query) -> list[str] | None:
    """Return patterns of LIKE for the excluded words behind their hyphens; None if nothing is excluded."""
    if not query.unwanted:
        return None
    return [f"%-{form.translate(_ESCAPED)}%" for term in query.unwanted for form in _cases(term.text)]


def _cases(word: str) -> list[str]:
    return sorted({word, word.lower(), word.upper(), word.title(), word.capitalize()})


_ESCAPED: Final = str.maketrans({sign: f"\\{sign}" for sign in "\\%_"})
_FOLDED_LETTERS: Final = frozenset("øłđðħıŋŧəßæœþєґØŁĐÐĦŊŦƏẞÆŒÞЄҐ")


def _is_accented(letter: str) -> bool:
    # Han, kana and Hangul have decompositions too, but no second spelling that people would type instead.
    is_alphabetic = "\u00c0" <= letter < "\u0590" or "\u1e00" <= letter < "\u2000"
    return letter in _FOLDED_LETTERS or (is_alphabetic and bool(unicodedata.decomposition(letter)))
