"""The checked arguments of a search, as the shape and parameters of a statement."""

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

# The share of the timeout for finding tracks. The rest is for the page, and for the partial answer after a timeout.
_CANDIDATE_TIME_FRACTION: Final = 0.5


@dataclass(frozen=True, slots=True)
class Request:
    """
    A checked search: the parsed query, the shape and parameters of its statement, and the start of the page.

    *timeout*: seconds for each statement.
    """

    query: Query
    shape: Shape
    parameters: dict[str, Any]
    order_by: SearchOrder
    limit: int
    cursor: Cursor | None
    timeout: float
    #: The identity of the search. A cursor of another search is rejected.
    identity: str
    #: The name of the filter or range that each condition of the shape checks.
    condition_names: tuple[str, ...]

    @classmethod
    def make(
        cls,
        query: object,
        filters: SearchFilters | None = None,
        limit: int = 20,
        offset: int = 0,
        after: str | None = None,
        *,
        order_by: SearchOrder = "relevance",
        facets: Collection[str] = (),
        timeout: float,
    ) -> Self:
        """
        Return the request for the arguments of a search.

        Raises:
            InvalidInput: an argument is invalid. The error names the argument.
        """
        parsed = parse_query(query)
        check_page(limit, offset)
        order = parse_choice(SEARCH_ORDERS, order_by, "order_by", "search")
        counted = check_facets(facets)
        if filters is not None and not isinstance(filters, SearchFilters):
            raise InvalidInput(Problem("filters", f"SearchFilters, not {kind_of(filters)}"), operation="search")
        if after is not None and offset:
            raise InvalidInput(Problem("offset", "0, because `after` sets where the page begins"), operation="search")
        narrowed = filters or SearchFilters()
        if not (parsed.text or narrowed.given):
            # An empty search box lists every track that can be played.
            narrowed = SearchFilters(status=TrackStatus.COMPLETED)
        conditions, parameters = narrowed.conditions()
        names = narrowed.given
        for field, ends in (("year", parsed.year), ("duration", _displayed(parsed.duration))):
            if ends is not None:
                condition, named = lies_between(field, ends, "typed")
                conditions, names = (*conditions, condition), (*names, field)
                parameters |= named
        if not parsed.groups and order == "relevance":
            # Without words, no track is more relevant than another.
            order = "newest"
        identity = _identity(query, narrowed, order)
        cursor = None if after is None else Cursor.parse(after, identity)
        parameters |= term_parameters(parsed) | _page_parameters(cursor, order, limit, offset)
        parameters["time"] = f"{timeout * _CANDIDATE_TIME_FRACTION:.3f}s"
        return cls(parsed, Shape(conditions, counted), parameters, order, limit, cursor, timeout, identity, names)


def _identity(query: object, filters: SearchFilters, order_by: SearchOrder) -> str:
    """
    Return text that identifies the search and is the same in every process.

    The repr of SearchFilters cannot identify a search, because this repr leaves the values out.
    """
    _, values = filters.conditions()
    narrowed = sorted((name, sorted(value) if isinstance(value, list) else value) for name, value in values.items())
    return repr((query, filters.given, narrowed, str(order_by)))


def _page_parameters(cursor: Cursor | None, order_by: SearchOrder, limit: int, offset: int) -> dict[str, Any]:
    """Return the parameters of the page. They ask for one more hit, which shows that a next page exists."""
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
        raise InvalidInput(Problem("after", "the `next_cursor` of the page before"), operation="search") from None


def _score(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _name(value: object) -> str:
    text = clean_text("after", value, TextLimit(_MAX_NAME_LENGTH))
    if isinstance(text, Problem):
        raise ValueError  # noqa: TRY004  # Callers expect one error for every invalid key.
    return text or ""


def _year(value: object) -> str:
    if not isinstance(value, str) or not -(2**31) <= int(value) < 2**31:
        raise ValueError
    return str(int(value))


def _time(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return datetime.fromisoformat(value).isoformat()


# The functions that check a sort key, by the type of its column. Each returns the key as the server writes it.
_CHECKED: Final[Mapping[str, Callable[[object], str]]] = {"varchar": _name, "int": _year, "timestamptz": _time}
_MAX_NAME_LENGTH: Final = 200


def _displayed(duration: tuple[float | None, float | None] | None) -> tuple[float | None, float | None] | None:
    """Extend an upper bound in whole seconds to the end of its last second: 4:30 includes 4:30.9."""
    if duration is None or duration[1] is None or duration[1] != int(duration[1]):
        return duration
    return duration[0], duration[1] + 0.999
