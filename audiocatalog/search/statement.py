"""From what somebody typed to the statements that answer it; no session and no await in here."""

from __future__ import annotations

import unicodedata
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Float,
    Integer,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    column,
    desc,
    func,
    literal,
    literal_column,
    null,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import TSQUERY

from audiocatalog.errors import InvalidInput, Problem
from audiocatalog.metadata import TextLimit, clean_text
from audiocatalog.models import FOLD_FUNCTION, SEARCH_QUERY_FUNCTION, SEARCH_VECTOR_FUNCTION
from audiocatalog.search.filters import SearchFilters
from audiocatalog.tracks import TRACK_COLUMNS, TRACKS

MAXIMUM_CHARACTERS: Final = 1000
MAXIMUM_TERMS: Final = 32
MAXIMUM_LIMIT: Final = 100
MAXIMUM_OFFSET: Final = 10_000
#: Up to here the hits are counted one by one.
COUNTED_HITS: Final = 10_000

#: What a word weighs by its field, in PostgreSQL's order: genre, album, artist, title.
_WEIGHTS: Final[ColumnElement[Any]] = literal_column("'{0.1, 0.3, 0.6, 1.0}'::real[]")
#: Divides the rank by 1 + log(length): of two tracks with the same words, the one with fewer others is meant.
_PREFER_SHORT: Final = 1

_fold: Final = getattr(func, FOLD_FUNCTION)
_typed: Final = bindparam("query", type_=Text())


def check_query(query: object) -> str:
    """
    Return *query* in NFC, empty where it has no visible character.

    Raises:
        InvalidInput: it is no text, longer than 1,000 characters, of more than 32 terms, or not storable as text.
    """
    text = clean_text("query", query, TextLimit(MAXIMUM_CHARACTERS))
    if isinstance(text, Problem):
        raise InvalidInput(text, operation="search")
    text = text or ""
    # Counted as the server will part them: some signs stand for several words, & among them.
    terms = len(unicodedata.normalize("NFKD", text).replace("&", " and ").split())
    if terms > MAXIMUM_TERMS:
        raise InvalidInput(
            Problem("query", f"at most {MAXIMUM_TERMS} terms, not {terms}", MAXIMUM_TERMS), operation="search"
        )
    return text


def check_page(limit: object, offset: object) -> None:
    """
    Refuse a page that lies outside the bounds: 1 to 100 hits, after 0 to 10,000 others.

    Raises:
        InvalidInput: names ``limit`` or ``offset``, or both.
    """
    problems = []
    for field, value, lowest, highest in (("limit", limit, 1, MAXIMUM_LIMIT), ("offset", offset, 0, MAXIMUM_OFFSET)):
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            problems.append(Problem(field, f"a whole number from {lowest} to {highest:,}", (lowest, highest)))
    if problems:
        raise InvalidInput(problems, operation="search")


def search_statement(filters: SearchFilters | None) -> Select[*tuple[Any, ...]]:
    """
    Return the statement for ``query``, ``limit`` and ``offset``.

    Each row holds the total, the score and a track; if the page is empty, one row holds the total and nulls.
    """
    # In FROM, the query is parsed once; written into WHERE and the rank, a generic plan parses it for every row.
    wanted = (
        getattr(func, SEARCH_QUERY_FUNCTION)(_typed)
        .table_valued(column("terms", TSQUERY))
        .render_derived(name="wanted")
    )
    matches = and_(TRACKS.c.search_vector.bool_op("@@")(wanted.c.terms), *(filters.conditions() if filters else ()))
    exactness = case(
        (_fold(TRACKS.c.title) == _fold(_typed), 2.0), (_fold(TRACKS.c.artist) == _fold(_typed), 1.0), else_=0.0
    )
    score = exactness + cast(func.ts_rank_cd(_WEIGHTS, TRACKS.c.search_vector, wanted.c.terms, _PREFER_SHORT), Float)
    hits = (
        select(score.label("score"), *TRACK_COLUMNS)
        .select_from(wanted.join(TRACKS, matches))
        .order_by(desc("score"), TRACKS.c.id)
        .limit(bindparam("limit", type_=Integer()))
        .offset(bindparam("offset", type_=Integer()))
        .subquery("hits")
    )
    counted = select(literal(1)).select_from(wanted.join(TRACKS, matches)).limit(COUNTED_HITS + 1).subquery("counted")
    total = select(func.count().label("total")).select_from(counted).subquery("total")
    return (
        select(total.c.total, *hits.c)
        .select_from(total.outerjoin(hits, true()))
        .order_by(desc(hits.c.score), hits.c.id)
    )


# Any of the query's words, wherever it stands: the operators AND and FOLLOWED BY both become OR.
_any_word: Final = func.regexp_replace(
    cast(getattr(func, SEARCH_QUERY_FUNCTION)(_typed), Text), r" (&|<\d+>|<->) ", " | ", "g"
)
_word = (
    func.unnest(bindparam("words", type_=ARRAY(Text()))).table_valued(column("word", Text)).render_derived(name="words")
)
_anything = select(cast(_any_word, TSQUERY).label("terms")).cte("anything")

#: Of ``words``, return those that ``query`` asks for; both are folded by the functions that fold the stored text.
MATCHING_WORDS: Final = (
    select(_word.c.word)
    .select_from(_word)
    .join(
        _anything,
        getattr(func, SEARCH_VECTOR_FUNCTION)(_word.c.word, null(), null(), null()).bool_op("@@")(_anything.c.terms),
    )
)
