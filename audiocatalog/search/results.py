"""The results of a search: hits, facets, pages and their cursors, explanations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Self, cast, get_args
from uuid import UUID

from audiocatalog.errors import InvalidInput, Problem
from audiocatalog.models.arguments import is_between
from audiocatalog.models.metadata import FIELDS, FacetName
from audiocatalog.models.redaction import discreet, discreetly
from audiocatalog.models.sql_names import SAMPLES
from audiocatalog.models.tables import Track
from audiocatalog.operations.pagination import read_cursor, write_cursor

#: The fields in which a search looks for words.
SEARCHED_FIELDS: Final = ("title", "artist", "album", "genre")
#: The metadata fields that can be a facet.
FACET_FIELDS: Final = tuple(name for name, field in FIELDS.items() if field.is_facet)
#: The facets of a search. The value of a decade is its first year.
FACETS: Final = cast("tuple[FacetName, ...]", (*FACET_FIELDS, "decade", "status"))

MAX_TERMS: Final = 32
MAX_LIMIT: Final = 100
MAX_OFFSET: Final = 10_000

Span = tuple[int, int]


#: The orders of hits; equal hits are ordered by id.
#:
#: - relevance: best match first
#: - title: A to Z, then by artist
#: - artist: A to Z, then by title; unknown artists last
#: - year: latest first; unknown years last
#: - newest: latest created first
SearchOrder = Literal["relevance", "title", "artist", "year", "newest"]
SEARCH_ORDERS: Final[tuple[SearchOrder, ...]] = get_args(SearchOrder)


@dataclass(frozen=True, slots=True)
class Hit:
    """
    A track that a search found.

    *score*: higher for a better match, and 0 in orders other than relevance. Compare scores within one search only.
    *highlights*: the matched spans ``(start, end)`` of each field, in characters of its original text.
    """

    track: Track
    score: float
    highlights: Mapping[str, tuple[Span, ...]]

    __repr__ = discreet


class FacetValue(NamedTuple):
    """A value of a facet, and the number of found tracks with it."""

    value: str | int
    tracks: int

    @discreetly
    def __repr__(self) -> str:
        """Return the repr without the value, because a repr must not show data."""
        return f"<FacetValue of {self.tracks} tracks>"


@dataclass(frozen=True, slots=True)
class Facet:
    """
    The most frequent values of a field among the found tracks, at most 20.

    Values that a filter treats as equal, such as Hip Hop and hip-hop, are one value, in its most frequent spelling.
    *is_exact*: whether the tracks were counted, not estimated. *is_complete*: whether the field has no further values.
    """

    values: tuple[FacetValue, ...]
    is_exact: bool
    is_complete: bool

    __repr__ = discreet


@dataclass(frozen=True, slots=True)
class SearchPage:
    """
    A page of hits, in the order of the search.

    - *total*: the number of found tracks. It is exact up to at least 1,000; a higher total is an estimate. In a search
      without words, counting ends at 10,000;
    - *is_total_exact*: whether *total* is exact;
    - *next_cursor*: the value of ``after`` for the next page; None on the last page;
    - *suggestion*: the corrected query, if the hits do not contain the words as typed;
    - *facets*: the requested facets by name;
    - *is_partial*: whether the search timed out, so that hits may be missing;
    - *ignored_terms*: the number of terms after the first 32, which were not searched for.
    """

    hits: tuple[Hit, ...]
    total: int
    is_total_exact: bool
    next_cursor: str | None = None
    suggestion: str | None = None
    facets: Mapping[str, Facet] = field(default_factory=dict)
    is_partial: bool = False
    ignored_terms: int = 0

    __repr__ = discreet

    def __iter__(self) -> Iterator[Hit]:
        """Yield the hits."""
        return iter(self.hits)

    def __len__(self) -> int:
        """Return the number of hits of this page."""
        return len(self.hits)


class Cursor(NamedTuple):
    """
    The end of a page, after which the next page begins.

    *strategy*: "typed", "corrected" or the order. *sample*: the sampling factor of the page. *key*, *id*: the sort key
    and the id of the last hit. The next page uses the same strategy and sample, even if tracks were written meanwhile.
    """

    strategy: str
    sample: int | None
    key: tuple[Any, ...]
    id: UUID

    def text(self, search: str) -> str:
        """Return the cursor as text, which is valid only for *search*."""
        return write_cursor([_mark(search), self.strategy, self.sample, self.key, self.id.hex])

    @classmethod
    def parse(cls, value: object, search: str) -> Self:
        """
        Return the cursor that *value* encodes.

        Raises:
            InvalidInput: *value* is not a cursor, or is a cursor of another search.
        """
        try:
            mark, strategy, sample, key, identifier = read_cursor(value)
            cursor = cls(strategy, sample, tuple(key), UUID(hex=identifier))
            known = strategy in {"typed", "corrected", *SEARCH_ORDERS} and sample in {None, 1, *SAMPLES}
        except (TypeError, ValueError, AttributeError):
            rule = "the `next_cursor` of the page before"
            raise InvalidInput(Problem("after", rule), operation="search") from None
        if not known or mark != _mark(search):
            rule = "the `next_cursor` of a page with the same query, filters and order_by"
            raise InvalidInput(Problem("after", rule), operation="search")
        return cursor


def _mark(search: str) -> str:
    return hashlib.blake2b(search.encode(), digest_size=6).hexdigest()


def check_page(limit: object, offset: object) -> None:
    """
    Check the bounds of a page.

    Raises:
        InvalidInput: *limit* is not from 1 to 100, or *offset* is not from 0 to 10,000.
    """
    problems = []
    for name, value, lowest, highest in (("limit", limit, 1, MAX_LIMIT), ("offset", offset, 0, MAX_OFFSET)):
        if not is_between(value, lowest, highest, whole=True):
            problems.append(Problem(name, f"a whole number from {lowest} to {highest:,}", (lowest, highest)))
    if problems:
        raise InvalidInput(problems, operation="search")


def check_facets(facets: object) -> tuple[str, ...]:
    """
    Return *facets* without duplicates, in the order of FACETS.

    Raises:
        InvalidInput: *facets* is not a collection, or holds an unknown name.
    """
    if isinstance(facets, str) or not isinstance(facets, list | tuple | set | frozenset):
        raise InvalidInput(Problem("facets", "a list of names"), operation="search")
    if any(facet not in FACETS for facet in facets):
        raise InvalidInput(Problem("facets", f"names among {', '.join(FACETS)}"), operation="search")
    return tuple(facet for facet in FACETS if facet in facets)


@dataclass(frozen=True, slots=True)
class TermExplanation:
    """A term of the query, the fields of the track that contain it, and whether the query excludes it."""

    term: str
    fields: tuple[str, ...]
    excluded: bool = False

    __repr__ = discreet


@dataclass(frozen=True, slots=True)
class Explanation:
    """
    The position of a track in a search, or its absence, and the reason.

    - *position*: counted from 1; None if the track is not a hit;
    - *score*: the score of the hit; None if the track is not a hit;
    - *reason*: a sentence that explains the position or the absence;
    - *terms*: the fields of the track that contain each term of the query;
    - *unmet*: the filters and ranges that the track does not meet;
    - *ignored_terms*: the number of terms after the first 32, which were not searched for.
    """

    id: UUID
    position: int | None
    score: float | None
    reason: str
    terms: tuple[TermExplanation, ...]
    unmet: tuple[str, ...] = ()
    ignored_terms: int = 0

    __repr__ = discreet

    def __str__(self) -> str:
        """Return the explanation as lines of text."""
        lines = [self.reason]
        for one in self.terms:
            where = ", ".join(one.fields) or "nowhere"
            lines.append(f"  {'excluded: ' if one.excluded else ''}{one.term!r} in {where}")
        if self.ignored_terms:
            lines.append(f"  not searched for: the last {self.ignored_terms} terms, beyond the limit of {MAX_TERMS}")
        return "\n".join(lines)
