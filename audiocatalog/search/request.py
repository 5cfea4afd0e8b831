"""A search as it was asked for, checked and ready for the statements that answer it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from audiocatalog.errors import InvalidInput, Problem, kind_of
from audiocatalog.models.arguments import parse_choice
from audiocatalog.models.filters import SearchFilters, lies_between
from audiocatalog.models.limits import TextLimit, clean_text
from audiocatalog.search.query import Query, parse_query
from audiocatalog.search.results import SEARCH_ORDERS, Cursor, SearchOrder, check_facets, check_page
from audiocatalog.search.sorted_sql import segments_of
from audiocatalog.search.terms_sql import term_parameters
from audiocatalog.search.typed_sql import Shape
from audiocatalog.status import TrackStatus

# What is left of the time is for the page itself, and for a shorter answer if this one takes too long.
_SHARE_FOR_CANDIDATES: Final = 0.5


@dataclass(frozen=True, slots=True)
class Request:
    """Hold what was asked for: the parsed *query*, a statement's *shape* and *parameters*, and where a page begins."""

    query: Query
    shape: Shape
    parameters: dict[str, Any]
    order_by: SearchOrder
    limit: int
    cursor: Cursor | None
    #: What a cursor is bound to.
    identity: str
    #: What each condition of the shape comes from.
    condition_names: tuple[str, ...]

    @classmethod
    def make(
        cls,
        query: object,
        *,
        filters: SearchFilters | None = None,
        limit: int = 20,
        offset: int = 0,
        after: str | None = None,
        order_by: SearchOrder = "relevance",
        facets: Collection[str] = (),
        timeout: float,
    ) -> Self:
        """
        Return the request that the arguments of a search make.

        Raises:
            InvalidInput: names the argument that breaks its rule.
        """
        parsed = parse_query(query)
        check_page(limit, offset)
        order = parse_choice(SEARCH_ORDERS, order_by, "order_by", "search")
        counted = check_facets(facets)
        if filters is not None and not isinstance(filters, SearchFilters):
            raise InvalidInput(Problem("filters", f"SearchFilters, not {kind_of(filters)}"), operation="search")
        if after is not None and offset:
            raise InvalidInput(Problem("offset", "0 where `after` says where the page begins"), operation="search")
        narrowed = filters or SearchFilters()
        if not (parsed.text or narrowed.given):
            # An empty box: everything that can be played.
            narrowed = SearchFilters(status=TrackStatus.COMPLETED)
        conditions, parameters = narrowed.conditions()
        names = narrowed.given
        for field, ends in (("year", parsed.year), ("duration", _displayed(parsed.duration))):
            if ends is not None:
                condition, named = lies_between(field, ends, "typed")
                conditions, names = (*conditions, condition), (*names, field)
                parameters |= named
        if not parsed.groups and order == "relevance":
            # Without words no track is more relevant than another: the newest come first.
            order = "newest"
        identity = _identity(query, narrowed, order)
        cursor = None if after is None else Cursor.parse(after, identity)
        parameters |= term_parameters(parsed) | _page_parameters(cursor, order, limit, offset)
        parameters["time"] = f"{timeout * _SHARE_FOR_CANDIDATES:.3f}s"
        return cls(parsed, Shape(conditions, counted), parameters, order, limit, cursor, identity, names)


def _identity(query: object, filters: SearchFilters, order_by: SearchOrder) -> str:
    """
    Return what tells a search from others, the same in every process: its filters with their values.

    The repr of filters says only which of them are given.
    """
    _, values = filters.conditions()
    narrowed = sorted((name, sorted(value) if isinstance(value, list) else value) for name, value in values.items())
    return repr((query, filters.given, narrowed, str(order_by)))


def _page_parameters(cursor: Cursor | None, order_by: SearchOrder, limit: int, offset: int) -> dict[str, Any]:
    """Return the page as the statements take it: one hit more than asked for tells that there is another page."""
    key: Sequence[Any] = cursor.key if cursor else ()
    parameters: dict[str, Any] = {
        "limit": limit + 1,
        "offset": offset,
        "sample": cursor.sample if cursor else None,
        "after_id": cursor.id if cursor else None,
    }
    try:
        if order_by == "relevance":
            return parameters | {"after_score": _score(*key) if cursor else None}
        if cursor is None:
            return parameters | {"after_segment": None, "after_key": []}
        segment = range(len(segments_of(order_by)))[key[0]]
        checked = [
            _CHECKED[kind](value) for kind, value in zip(segments_of(order_by)[segment].types, key[1:], strict=True)
        ]
        return parameters | {"after_segment": segment, "after_key": checked}
    except (IndexError, TypeError, ValueError, OverflowError):
        raise InvalidInput(Problem("after", "what the page before gave as `next_cursor`"), operation="search") from None


def _score(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _name(value: object) -> str:
    text = clean_text("after", value, TextLimit(_LONGEST_NAME))
    if isinstance(text, Problem):
        raise ValueError  # noqa: TRY004  # One error for all that makes no key.
    return text or ""


def _year(value: object) -> str:
    if not isinstance(value, str) or not -(2**31) <= int(value) < 2**31:
        raise ValueError
    return str(int(value))


def _time(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return datetime.fromisoformat(value).isoformat()


# What a key of each type of column looks like, as the server writes it and takes it back.
_CHECKED: Final[Mapping[str, Callable[[object], str]]] = {"varchar": _name, "int": _year, "timestamptz": _time}
_LONGEST_NAME: Final = 200


def _displayed(duration: tuple[float | None, float | None] | None) -> tuple[float | None, float | None] | None:
    """Let a length of whole seconds stand for all that is shown as it: 4:30 is anything below 4:31."""
    if duration is None or duration[1] is None or duration[1] != int(duration[1]):
        return duration
    return duration[0], duration[1] + 0.999
