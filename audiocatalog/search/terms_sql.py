"""The parameters of a query's terms, and the SQL that turns the terms into text queries.

The server folds and splits the terms with the functions that it uses for stored text. ``TERMS_CTE`` defines two tables
for the statements:

- ``asked``: one row with every value that the statement compares with a track;
- ``pair``: each way to split the typed words into a title and an artist.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from audiocatalog.models.sql_names import FOLD_FUNCTION, NAME_FUNCTION, SPELL_FUNCTION, WORDS_FUNCTION
from audiocatalog.search.query import Query, Term

#: A character that sorts after every other, for the upper bound of a prefix.
LAST: Final = "chr(1114111)"
#: The weights of the fields in a search vector.
_WEIGHT_OF: Final = {None: "", "title": "A", "artist": "B", "album": "C", "genre": "D"}
#: If at most this many tracks contain another word, the rows of these tracks are checked for a prefix, not the index.
_RARE_TRACKS: Final = 2000
#: Texts with more words are not compared with an artist and a title side by side.
MAX_NAME_WORDS: Final = 16
#: The maximum number of further words ("lyrics", "full album") after the words of an artist and a title.
_MAX_TRAILING_WORDS: Final = 3

TERMS_CTE: Final = f"""
term AS MATERIALIZED (
  SELECT place, clause, included, variant, field, phrase, prefix_mark, words, name,
    split_part(words, E'\\n', 1) !~ '[^ ]' AS symbol
  FROM (
    SELECT *, {WORDS_FUNCTION}(folded) AS words, {NAME_FUNCTION}(folded) AS name
    FROM (
      SELECT *, {FOLD_FUNCTION}(text) AS folded
      FROM unnest(%(texts)s::text[], %(clauses)s::int[], %(included)s::bool[], %(variants)s::int[], %(fields)s::text[],
          %(phrases)s::bool[], %(prefix_marks)s::text[])
        WITH ORDINALITY AS typed(text, clause, included, variant, field, phrase, prefix_mark, place)
    ) AS folded
  ) AS named
),
-- A sign between words, such as the hyphen of "Artist - Title", is searched for only if the query has no other words.
-- Beside a rare word, a prefix is checked on the rows, because the index would read every word with this prefix.
spelled AS MATERIALIZED (
  SELECT clause, included, variant,
    replace(replace(spelling, '~', mark), '^', prefixed_mark) AS loose,
    replace(replace(spelling, '~', mark), '^', mark) AS whole,
    CASE WHEN field IN ('', 'A') THEN replace(replace(spelling, '~', ':A'), '^', ':A') ELSE '' END AS in_title,
    CASE WHEN field IN ('', 'B') THEN replace(replace(spelling, '~', ':B'), '^', ':B') ELSE '' END AS in_artist,
    CASE WHEN prefix_mark = '' OR NOT beside_rare THEN replace(replace(spelling, '~', mark), '^', prefixed_mark)
      ELSE '' END AS driving
  FROM (
    SELECT *, {SPELL_FUNCTION}(words, phrase) AS spelling,
      CASE field WHEN '' THEN '' ELSE ':' || field END AS mark,
      CASE field || prefix_mark WHEN '' THEN '' ELSE ':' || field || prefix_mark END AS prefixed_mark,
      prefix_mark <> '' AND EXISTS (
        SELECT 1 FROM term AS other LEFT JOIN audio_search_words AS vocabulary ON vocabulary.word = other.words
        WHERE other.variant = 0 AND other.prefix_mark = '' AND NOT other.symbol
          AND coalesce(vocabulary.tracks, 0) <= {_RARE_TRACKS}
      ) AS beside_rare
    FROM term OFFSET 0
  ) AS term
  WHERE clause IS NOT NULL AND NOT (included AND symbol AND EXISTS (SELECT 1 FROM term WHERE included AND NOT symbol))
),
clause AS MATERIALIZED (
  SELECT coalesce(bool_and(variant = 0), false) AS bare,
    '(' || string_agg(nullif(loose, ''), ' | ') || ')' AS loose,
    '(' || string_agg(nullif(whole, ''), ' | ') || ')' AS whole,
    '(' || string_agg(nullif(in_title, ''), ' | ') || ')' AS in_title,
    '(' || string_agg(nullif(in_artist, ''), ' | ') || ')' AS in_artist,
    '(' || string_agg(nullif(driving, ''), ' | ') || ')' AS driving
  FROM spelled WHERE included GROUP BY clause
),
-- The query as one name: its words without operators (variant 0), and the whole text if that differs (variant 1).
typed_name AS MATERIALIZED (
  SELECT variant,
    nullif(coalesce(string_agg(name, '' ORDER BY place) FILTER (WHERE NOT symbol),
      string_agg(name, '' ORDER BY place)), '') AS name,
    array_agg(name ORDER BY place) FILTER (WHERE NOT symbol) AS names,
    bool_or(prefix_mark <> '') AS is_prefix
  FROM term WHERE variant IS NOT NULL GROUP BY variant
),
asked AS MATERIALIZED (
  SELECT
    string_agg(loose, ' & ')::tsquery AS loose,
    string_agg(whole, ' & ')::tsquery AS whole,
    CASE WHEN count(in_title) = count(*) THEN string_agg(in_title, ' & ')::tsquery END AS in_title,
    CASE WHEN count(in_artist) = count(*) THEN string_agg(in_artist, ' & ')::tsquery END AS in_artist,
    coalesce(string_agg(driving, ' & '), string_agg(loose, ' & '))::tsquery AS driving,
    (string_agg(loose, ' & ') FILTER (WHERE NOT bare))::tsquery AS required,
    (SELECT string_agg(loose, ' | ')::tsquery FROM spelled WHERE NOT included AND loose <> '') AS excluded,
    (SELECT name FROM typed_name ORDER BY variant LIMIT 1) AS name,
    (SELECT name || CASE WHEN is_prefix THEN {LAST} ELSE '' END FROM typed_name ORDER BY variant LIMIT 1) AS name_end,
    (SELECT name FROM typed_name ORDER BY variant DESC LIMIT 1) AS text_name,
    -- Artists are found with and without their article.
    (SELECT array_agg(artist) FROM (
      SELECT name AS artist FROM typed_name
      UNION SELECT 'the' || name FROM typed_name WHERE names[1] <> 'the'
      UNION SELECT substr(name, 4) FROM typed_name WHERE names[1] = 'the' AND name <> 'the') AS articles) AS artists,
    (SELECT ('''=initials:' || name || '''')::tsquery FROM typed_name
      WHERE cardinality(names) = 1 AND name ~ '^[a-z]{{2,8}}$' ORDER BY variant LIMIT 1) AS initials
  FROM clause
),
-- Every way to split the words into two names, with up to three words after them.
pair AS MATERIALIZED (
  SELECT DISTINCT array_to_string(names[1:middle], '') AS head, tail,
    tail || CASE WHEN (is_prefix OR variant = 1) AND last = cardinality(names) THEN {LAST} ELSE '' END AS tail_end
  FROM typed_name,
    generate_series(greatest(cardinality(names) - {_MAX_TRAILING_WORDS}, 2), cardinality(names)) AS last,
    generate_series(1, last - 1) AS middle, array_to_string(names[middle + 1:last], '') AS tail
  WHERE cardinality(names) BETWEEN 2 AND {MAX_NAME_WORDS}
)"""


class _Row(NamedTuple):
    term: Term
    #: The number of the group; -1 for excluded terms, None for words that are only part of a name.
    clause: int | None
    included: bool
    #: The variant of the name that the word belongs to.
    variant: int | None


def _rows(query: Query) -> list[_Row]:
    rows = [
        _Row(term, clause, included=True, variant=0 if len(group) == 1 and term.field is None else None)
        for clause, group in enumerate(query.groups)
        for term in group
    ]
    rows += [_Row(term, -1, included=False, variant=None) for term in query.excluded]
    if not query.is_plain:
        rows += [_Row(Term(word), None, included=False, variant=1) for word in query.words]
    return rows


def terms_of(query: Query) -> list[Term]:
    """Return the terms of *query* in the order of ``term_parameters``: excluded terms last."""
    return [row.term for row in _rows(query) if row.clause is not None]


def mark_of(term: Term) -> str:
    """Return the suffix that limits a word of a tsquery to the field of *term*; empty for any field."""
    return f":{_WEIGHT_OF[term.field]}" if term.field else ""


def term_parameters(query: Query) -> dict[str, Any]:
    """Return the parameters of ``TERMS_CTE``."""
    rows = _rows(query)
    return {
        "texts": [row.term.text for row in rows],
        "clauses": [row.clause for row in rows],
        "included": [row.included for row in rows],
        "variants": [row.variant for row in rows],
        "fields": [_WEIGHT_OF[row.term.field] for row in rows],
        "phrases": [row.term.is_phrase for row in rows],
        "prefix_marks": ["*" if row.term.is_prefix else "" for row in rows],
        "accented": accented_patterns(query.words),
        "hyphened": hyphened_patterns(query),
        "is_one_word": sum(row.variant == 0 for row in rows) == 1,
    }


def accented_patterns(words: Iterable[str]) -> list[str]:
    """Return LIKE patterns for the *words* with accents, in their usual cases."""
    return [
        f"%{form.translate(_ESCAPED)}%"
        for word in words
        if any(_is_accented(letter) for letter in word)
        for form in _cases(word)
    ]


def hyphened_patterns(query: Query) -> list[str] | None:
    """Return LIKE patterns for the excluded words with their hyphens; None if no word is excluded."""
    if not query.excluded:
        return None
    return [f"%-{form.translate(_ESCAPED)}%" for term in query.excluded for form in _cases(term.text)]


def _cases(word: str) -> list[str]:
    return sorted({word, word.lower(), word.upper(), word.title(), word.capitalize()})


_ESCAPED: Final = str.maketrans({sign: f"\\{sign}" for sign in "\\%_"})
_FOLDED_LETTERS: Final = frozenset("øłđðħıŋŧəßæœþєґØŁĐÐĦŊŦƏẞÆŒÞЄҐ")


def _is_accented(letter: str) -> bool:
    # Han, kana and Hangul decompose too, but users do not type them without accents.
    is_alphabetic = "\u00c0" <= letter < "\u0590" or "\u1e00" <= letter < "\u2000"
    return letter in _FOLDED_LETTERS or (is_alphabetic and bool(unicodedata.decomposition(letter)))
