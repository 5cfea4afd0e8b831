"""What a search returns: a page of hits, what is true of all of them, and the way to the next page."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, Self, cast, get_args
from uuid import UUID

from audiocatalog.errors import InvalidInput, Problem
from audiocatalog.models.metadata import FIELDS, FacetName
from audiocatalog.models.redaction import discreet, discreetly
from audiocatalog.models.sql_names import SAMPLES
from audiocatalog.models.tables import Track
from audiocatalog.operations.pagination import read_cursor, write_cursor

#: The fields that a search looks into.
SEARCHED_FIELDS: Final = ("title", "artist", "album", "genre")
#: The metadata by which the hits can be counted.
FACET_FIELDS: Final = tuple(name for name, field in FIELDS.items() if field.is_facet)
#: What can be counted among the hits; a decade is named by its first year.
FACETS: Final = cast("tuple[FacetName, ...]", (*FACET_FIELDS, "decade", "status"))

MAXIMUM_TERMS: Final = 32
MAXIMUM_LIMIT: Final = 100
MAXIMUM_OFFSET: Final = 10_000

Span = tuple[int, int]


#: The orders in which hits are listed; the track's id comes last in each.
#:
#: - relevance: exactness first, then closeness
#: - title: A to Z, then by artist
#: - artist: A to Z, then by title; unknown artists last
#: - year: the latest first; unknown years last
#: - newest: the newest in the catalogue first
SearchOrder = Literal["relevance", "title", "artist", "year", "newest"]
SEARCH_ORDERS: Final[tuple[SearchOrder, ...]] = get_args(SearchOrder)


@dataclass(frozen=True, slots=True)
class Hit:
    """
    Hold one *track* that a search found.

    *score* is comparable within one search only: higher is better; it is 0 in a list that is sorted otherwise.
    *highlights* maps the names of the matched fields to spans ``(start, end)`` of characters of their original text.
    """

    track: Track
    score: float
    highlights: Mapping[str, tuple[Span, ...]]

    __repr__ = discreet


class FacetValue(NamedTuple):
    """Say how many of the found *tracks* have a *value*."""

    value: str | int
    tracks: int

    @discreetly
    def __repr__(self) -> str:
        """Return the number alone; the value is data."""
        return f"<FacetValue of {self.tracks} tracks>"


@dataclass(frozen=True, slots=True)
class Facet:
    """
    Hold the most frequent *values* of a field among the found tracks, at most 20.

    Values that a filter does not tell apart, such as Hip Hop and hip-hop, are one, in its most frequent spelling.
    *is_exact* tells whether the tracks were counted or estimated, *is_complete* whether there are no other values.
    """

    values: tuple[FacetValue, ...]
    is_exact: bool
    is_complete: bool

    __repr__ = discreet


@dataclass(frozen=True, slots=True)
class SearchPage:
    """
    Hold a page of *hits*, best first, and what is true of all that were found.

    *total* is exact up to at least 1,000 hits, as *is_total_exact* says; beyond, it is an estimate, or 10,000 for more
    than that in a list without words. *next_cursor* is what to pass as ``after`` for the page behind this one; None if
    there is none. *suggestion* is what may have been meant, where the hits hold other words than those that were typed.
    *facets* holds those that were asked for. *is_partial* tells that time ran out before everything was looked at.
    *ignored_terms* is how many terms at the end of the query were not looked for: the first 32 count.
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
        """Go through the hits."""
        return iter(self.hits)

    def __len__(self) -> int:
        """Return how many hits this page holds."""
        return len(self.hits)


class Cursor(NamedTuple):
    """
    Say behind which hit a page begins.

    *strategy* is how the hits were found: as typed, corrected, or in an order; *sample* is the sample that they are of;
    *key* is what the last hit was sorted by. The same search finds them in the same way again, whatever was written
    in between.
    """

    strategy: str
    sample: int | None
    key: tuple[Any, ...]
    id: UUID

    def text(self, search: str) -> str:
        """Return the cursor as callers hold it, bound to *search*."""
        return write_cursor([_mark(search), self.strategy, self.sample, self.key, self.id.hex])

    @classmethod
    def parse(cls, value: object, search: str) -> Self:
        """
        Return the cursor that *value* holds.

        Raises:
            InvalidInput: it is none, or one of another search.
        """
        try:
            mark, strategy, sample, key, identifier = read_cursor(value)
            cursor = cls(strategy, sample, tuple(key), UUID(hex=identifier))
            known = strategy in {"typed", "corrected", *SEARCH_ORDERS} and sample in {None, 1, *SAMPLES}
        except (TypeError, ValueError, AttributeError):
            rule = "what the page before gave as `next_cursor`"
            raise InvalidInput(Problem("after", rule), operation="search") from None
        if not known or mark != _mark(search):
            rule = "what a page of the same search gave as `next_cursor`: same query, filters and order_by"
            raise InvalidInput(Problem("after", rule), operation="search")
        return cursor


def _mark(search: str) -> str:
    return hashlib.blake2b(search.encode(), digest_size=6).hexdigest()


def check_page(limit: object, offset: object) -> None:
    """
    Refuse a page that lies outside the bounds: 1 to 100 hits, after 0 to 10,000 others.

    Raises:
        InvalidInput: names ``limit`` or ``offset``, or both.
    """
    problems = []
    for name, value, lowest, highest in (("limit", limit, 1, MAXIMUM_LIMIT), ("offset", offset, 0, MAXIMUM_OFFSET)):
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            problems.append(Problem(name, f"a whole number from {lowest} to {highest:,}", (lowest, highest)))
    if problems:
        raise InvalidInput(problems, operation="search")


def check_facets(facets: object) -> tuple[str, ...]:
    """
    Return *facets*, each once.

    Raises:
        InvalidInput: they are no collection, or one of them cannot be counted.
    """
    if isinstance(facets, str) or not isinstance(facets, list | tuple | set | frozenset):
        raise InvalidInput(Problem("facets", "a list of names"), operation="search")
    if any(facet not in FACETS for facet in facets):
        raise InvalidInput(Problem("facets", f"names among {', '.join(FACETS)}"), operation="search")
    return tuple(facet for facet in FACETS if facet in facets)


@dataclass(frozen=True, slots=True)
class TermExplanation:
    """The *fields* of the track that hold a *term* of the query; the query may have *excluded* the term."""

    term: str
    fields: tuple[str, ...]
    excluded: bool = False

    __repr__ = discreet


@dataclass(frozen=True, slots=True)
class Explanation:
    """
    Why the track with *id* stands where it stands in a search.

    *position*: counted from 1; None if the track is not among the hits. *score*: what the hits are sorted by. *reason*:
    the same in words. *terms*: where each term of the query is. *unmet*: the filters and ranges that the track does not
    meet. *ignored_terms*: how many terms at the end of the query were not looked for; the first 32 count.
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
        """Return it as people read it."""
        lines = [self.reason]
        for one in self.terms:
            where = ", ".join(one.fields) or "nowhere"
            lines.append(f"  {'excluded: ' if one.excluded else ''}{one.term!r} in {where}")
        if self.ignored_terms:
            lines.append(f"  not looked for: the last {self.ignored_terms} of more than {MAXIMUM_TERMS} terms")
        return "\n".join(lines)
