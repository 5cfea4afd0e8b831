"""What narrows a search besides its words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, func, literal

from audiocatalog.errors import InvalidInput, Problem
from audiocatalog.metadata import LIMITS, NumberLimit, TextLimit, WholeLimit, clean_text
from audiocatalog.models import FOLD_FUNCTION
from audiocatalog.status import TrackStatus
from audiocatalog.tracks import TRACKS

_MOST_VALUES: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchFilters:
    """
    Narrow a search: a track must meet every filter that is given.

    *status*, *genre*, *format*, *artist* and *album* take one value or several, of which a track must have one; text
    is compared as a whole, but folded as a search is ("bjork" is "Björk"). *year*, *duration* (seconds) and *bitrate*
    (bit/s) take one number, or a pair of a lowest and a highest, both included, None for an open end.
    *created_since* and *updated_since* take a time with its time zone.

    Raises:
        InvalidInput: names every filter that breaks its rule.

    >>> SearchFilters(year=(1990, None), genre="Electronic").genre
    ('Electronic',)

    """

    status: TrackStatus | str | Collection[TrackStatus | str] | None = None
    genre: str | Collection[str] | None = None
    format: str | Collection[str] | None = None
    artist: str | Collection[str] | None = None
    album: str | Collection[str] | None = None
    year: int | tuple[int | None, int | None] | None = None
    duration: float | tuple[float | None, float | None] | None = None
    bitrate: int | tuple[int | None, int | None] | None = None
    created_since: datetime | None = None
    updated_since: datetime | None = None

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None:
                continue
            try:
                object.__setattr__(self, field.name, _CLEANERS[field.name](field.name, value))
            except InvalidInput as error:
                problems += error.problems
        if problems:
            raise InvalidInput(problems, operation="search")

    def conditions(self) -> list[ColumnElement[bool]]:
        """Return what a track's row must meet."""
        found = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                found.append(_CONDITIONS[field.name](field.name, value))
        return found


def _several(value: object) -> tuple[object, ...]:
    if isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping):
        return tuple(value)
    return (value,)


def _count_checked(field: str, values: tuple[object, ...]) -> tuple[object, ...]:
    if not 1 <= len(values) <= _MOST_VALUES:
        raise InvalidInput(Problem(field, f"from 1 to {_MOST_VALUES} values", (1, _MOST_VALUES)))
    return values


def _clean_statuses(field: str, value: object) -> tuple[TrackStatus, ...]:
    return tuple(TrackStatus.parse(status, field) for status in _count_checked(field, _several(value)))


def _clean_texts(field: str, value: object) -> tuple[str, ...]:
    limit = LIMITS[field]
    assert isinstance(limit, TextLimit)  # noqa: S101
    cleaned = []
    for text in _count_checked(field, _several(value)):
        result = clean_text(field, text, limit)
        if result is None:
            result = Problem(field, "at least one visible character")
        if isinstance(result, Problem):
            raise InvalidInput(result)
        cleaned.append(result)
    return tuple(cleaned)


def _clean_range(field: str, value: object) -> tuple[float | None, float | None]:
    limit = LIMITS[field]
    assert isinstance(limit, WholeLimit | NumberLimit)  # noqa: S101
    kind = int if isinstance(limit, WholeLimit) else int | float
    ends = value if isinstance(value, tuple | list) else (value, value)
    fits = len(ends) == 2 and all(  # noqa: PLR2004
        end is None or (isinstance(end, kind) and not isinstance(end, bool) and limit.lowest <= end <= limit.highest)
        for end in ends
    )
    if not fits:
        rule = f"a number, or a pair of a lowest and a highest, from {limit.lowest:.0f} to {limit.highest:.0f}"
        raise InvalidInput(Problem(field, rule, tuple(limit)))
    lowest, highest = ends
    if lowest is not None and highest is not None and lowest > highest:
        raise InvalidInput(Problem(field, "a lowest that is not above the highest"))
    return lowest, highest


def _clean_time(field: str, value: object) -> datetime:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidInput(Problem(field, "a datetime with its time zone"))
    return value


_TEXTS: Final = ("genre", "format", "artist", "album")
_RANGES: Final = ("year", "duration", "bitrate")
_TIMES: Final = ("created_since", "updated_since")
_CLEANERS: Final[dict[str, Callable[[str, Any], object]]] = {
    "status": _clean_statuses,
    **dict.fromkeys(_TEXTS, _clean_texts),
    **dict.fromkeys(_RANGES, _clean_range),
    **dict.fromkeys(_TIMES, _clean_time),
}


def _is_one_of(field: str, values: tuple[str, ...]) -> ColumnElement[bool]:
    return TRACKS.c[field].in_(values)


def _reads_as_one_of(field: str, values: tuple[str, ...]) -> ColumnElement[bool]:
    fold = getattr(func, FOLD_FUNCTION)
    same: ColumnElement[bool] = fold(TRACKS.c[field]).in_([fold(literal(value)) for value in values])
    return same


def _lies_between(field: str, ends: tuple[float | None, float | None]) -> ColumnElement[bool]:
    lowest, highest = ends
    column = TRACKS.c[field]
    # A range with two open ends still asks that the value is known.
    bounds: list[ColumnElement[bool]] = [column.is_not(None)]
    if lowest is not None:
        bounds.append(column >= lowest)
    if highest is not None:
        bounds.append(column <= highest)
    return and_(*bounds)


def _is_since(field: str, time: datetime) -> ColumnElement[bool]:
    since: ColumnElement[bool] = TRACKS.c[field.replace("_since", "_at")] >= time
    return since


_CONDITIONS: Final[dict[str, Callable[[str, Any], ColumnElement[bool]]]] = {
    "status": _is_one_of,
    **dict.fromkeys(_TEXTS, _reads_as_one_of),
    **dict.fromkeys(_RANGES, _lies_between),
    **dict.fromkeys(_TIMES, _is_since),
}
