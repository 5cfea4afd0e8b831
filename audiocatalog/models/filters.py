"""The filters of a search."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final

from audiocatalog.errors import InvalidInput, Problem
from audiocatalog.models.arguments import is_between, parse_choice
from audiocatalog.models.limits import WholeLimit, required_text
from audiocatalog.models.metadata import NUMBER_LIMITS, TEXT_LIMITS, MetadataFilters
from audiocatalog.models.redaction import discreet
from audiocatalog.models.sql_names import FOLD_FUNCTION, NAME_FUNCTION
from audiocatalog.status import TrackStatus

_MOST_VALUES: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchFilters(MetadataFilters):
    """
    The filters of a search: a track must meet every filter that is not None.

    - *status*, and fields of text: one value, or a collection of values; the track must have one of them. The whole
      text must match, but case, accents and punctuation do not matter: "bjork" matches "Björk"
    - fields of numbers, such as *duration* in seconds: one number, or a pair of the lowest and the highest number,
      both included; None leaves an end open
    - *created_since*, *updated_since*: a ``datetime`` with a time zone

    Raises:
        InvalidInput: a filter breaks its rule; the error names every such filter.

    >>> SearchFilters(year=(1990, None), genre="Electronic").genre
    ('Electronic',)

    """

    status: TrackStatus | str | Collection[TrackStatus | str] | None = None
    created_since: datetime | None = None
    updated_since: datetime | None = None

    __repr__ = discreet

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

    @property
    def given(self) -> tuple[str, ...]:
        """The names of the filters that are not None, in the order of their conditions."""
        return tuple(field.name for field in fields(self) if getattr(self, field.name) is not None)

    def conditions(self) -> tuple[tuple[str, ...], dict[str, Any]]:
        """Return the SQL conditions on a track's row ``t``, and their parameters."""
        written: list[str] = []
        parameters: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                condition, named = _CONDITIONS[field.name](field.name, value)
                written.append(condition)
                parameters |= named
        return tuple(written), parameters


def _several(value: object) -> tuple[object, ...]:
    if isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping):
        return tuple(value)
    return (value,)


def _count_checked(field: str, values: tuple[object, ...]) -> tuple[object, ...]:
    if not 1 <= len(values) <= _MOST_VALUES:
        raise InvalidInput(Problem(field, f"from 1 to {_MOST_VALUES} values", (1, _MOST_VALUES)))
    return values


def _clean_statuses(field: str, value: object) -> tuple[TrackStatus, ...]:
    return tuple(parse_choice(TrackStatus, status, field) for status in _count_checked(field, _several(value)))


def _clean_texts(field: str, value: object) -> tuple[str, ...]:
    return tuple(required_text(field, text, TEXT_LIMITS[field]) for text in _count_checked(field, _several(value)))


def _clean_range(field: str, value: object) -> tuple[float | None, float | None]:
    limit = NUMBER_LIMITS[field]
    is_whole = isinstance(limit, WholeLimit)
    ends = value if isinstance(value, tuple | list) else (value, value)
    fits = len(ends) == 2 and all(  # noqa: PLR2004
        end is None or is_between(end, limit.lowest, limit.highest, whole=is_whole) for end in ends
    )
    if not fits:
        rule = f"a number, or a pair of a lowest and a highest number, from {limit.lowest:.0f} to {limit.highest:.0f}"
        raise InvalidInput(Problem(field, rule, tuple(limit)))
    lowest, highest = ends
    if lowest is not None and highest is not None and lowest > highest:
        raise InvalidInput(Problem(field, "a lowest number that is not above the highest"))
    return lowest, highest


def _clean_time(field: str, value: object) -> datetime:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidInput(Problem(field, "a datetime with a time zone"))
    return value


_TIMES: Final = ("created_since", "updated_since")
#: The metadata fields that have filters: values for text, ranges for numbers.
TEXT_FILTERS: Final = tuple(field.name for field in fields(MetadataFilters) if field.name in TEXT_LIMITS)
RANGE_FILTERS: Final = tuple(field.name for field in fields(MetadataFilters) if field.name in NUMBER_LIMITS)
_CLEANERS: Final[dict[str, Callable[[str, Any], object]]] = {
    "status": _clean_statuses,
    **dict.fromkeys(TEXT_FILTERS, _clean_texts),
    **dict.fromkeys(RANGE_FILTERS, _clean_range),
    **dict.fromkeys(_TIMES, _clean_time),
}


_Condition = tuple[str, dict[str, Any]]

# The values are folded once for the statement, not once for each row.
_NAMES: Final = (
    f"SELECT {NAME_FUNCTION}({FOLD_FUNCTION}(value)) AS name FROM unnest(%(only_{{field}})s::text[]) AS value"
)
# A name that consists of punctuation may contain characters that must be escaped within quotes.
_QUOTED: Final = r"replace(replace(name, E'\\', E'\\\\'), '''', '''''')"


def _is_status(field: str, values: tuple[TrackStatus, ...]) -> _Condition:
    return "t.status = ANY (%(only_status)s::text[])", {f"only_{field}": [str(value) for value in values]}


def _is_named(field: str, values: tuple[str, ...]) -> _Condition:
    # Both a missing text and a text of punctuation have an empty name; a missing text must not match.
    condition = f"t.{field}_name = ANY (ARRAY({_NAMES.format(field=field)})::varchar[]) AND t.{field} IS NOT NULL"
    return condition, {f"only_{field}": list(values)}


def _is_kept_as_name(field: str, values: tuple[str, ...]) -> _Condition:
    """Return the condition that the search vector contains the field's name; an index serves this condition."""
    written = f"string_agg('''={field}:' || {_QUOTED} || '''', ' | ')::tsquery"
    names = _NAMES.format(field=field)
    return f"t.search_vector @@ (SELECT {written} FROM ({names}) AS names)", {f"only_{field}": list(values)}


def _reads_as(field: str, values: tuple[str, ...]) -> _Condition:
    names = _NAMES.format(field=field)
    return f"{NAME_FUNCTION}({FOLD_FUNCTION}(t.{field})) = ANY (ARRAY({names}))", {f"only_{field}": list(values)}


def lies_between(field: str, ends: tuple[float | None, float | None], kind: str = "only") -> _Condition:
    """Return the condition that a number is not null and within a range, both ends included."""
    lowest, highest = ends
    written = [f"t.{field} IS NOT NULL"]
    parameters = {}
    if lowest is not None:
        written.append(f"t.{field} >= %({kind}_{field}_from)s")
        parameters[f"{kind}_{field}_from"] = lowest
    if highest is not None:
        written.append(f"t.{field} <= %({kind}_{field}_to)s")
        parameters[f"{kind}_{field}_to"] = highest
    return " AND ".join(written), parameters


def _is_since(field: str, time: datetime) -> _Condition:
    return f"t.{field.replace('_since', '_at')} >= %(only_{field})s", {f"only_{field}": time}


_CONDITIONS: Final[dict[str, Callable[[str, Any], _Condition]]] = {
    "status": _is_status,
    **dict.fromkeys(TEXT_FILTERS, _reads_as),
    # An index serves these conditions.
    "artist": _is_named,
    "album": _is_kept_as_name,
    "genre": _is_kept_as_name,
    **dict.fromkeys(RANGE_FILTERS, lies_between),
    **dict.fromkeys(_TIMES, _is_since),
}
