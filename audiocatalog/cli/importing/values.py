"""Values read from the cells of a file, as people and programs write them.

The reader never guesses: if a cell could mean two things, its row is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, NamedTuple

from audiocatalog.cli.text import lone_surrogate, quoted
from audiocatalog.cli.units import UNITS
from audiocatalog.errors import Problem, kind_of
from audiocatalog.errors.printing import escaped
from audiocatalog.models.limits import NumberLimit, TextLimit, WholeLimit
from audiocatalog.models.metadata import FIELDS, LIMITS, NUMBER_LIMITS, Unit
from audiocatalog.search.query import seconds_of_clock
from audiocatalog.status import TrackStatus


class How(StrEnum):
    """The ways in which a cell is converted to the stored value."""

    #: A full date. The year is kept.
    DATE = "date"
    #: A duration as players show it, m:ss or h:mm:ss.
    CLOCK = "clock"
    #: A number with a unit beside it: 320 kbps, 44.1 kHz, 3 min.
    OWN_UNIT = "own_unit"
    #: A number in the unit that the column's name or ``--unit`` gives.
    UNIT = "unit"
    #: A whole number that is written with a fraction: 1999.0.
    WHOLE = "whole"
    #: A word for a number of channels.
    WORD = "word"
    #: NULL, N/A and the like, or 0 in a field that cannot be 0.
    MISSING = "missing"
    #: PROCESSING, stored as PENDING because no worker of this catalogue holds the track.
    WAITING = "waiting"


class Reading(NamedTuple):
    """The *value* of a cell (None if missing) or the problem with it, and *how* the value was converted, or None."""

    value: Any
    how: How | None = None


_MISSING: Final = frozenset({"null", "n/a", "none", "nan", "-", "\\n", "#n/a", "<null>"})
_LONGEST_NUMBER: Final = 64
_WHOLE_NUMBER: Final = re.compile(r"(-?[0-9]{1,18})(\.0*)?", re.ASCII)
_NUMBER: Final = re.compile(r"-?(?:[0-9]{1,18}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
_DECIMAL: Final = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,9})?", re.ASCII)
_WITH_UNIT: Final = re.compile(rf"({_DECIMAL.pattern})\s*([A-Za-z/]+)", re.ASCII)
# A capital B means bytes, but many people write it for bits, so a unit with it is not read.
_BYTES: Final = re.compile(r"[kKmM]B(?:/s|ps)", re.ASCII)
_CLOCK: Final = re.compile(r"(?:[0-9]{1,4}:(?=[0-5][0-9]:))?[0-9]{1,4}:[0-5][0-9](?:\.[0-9]{1,9})?", re.ASCII)
_SPAN: Final = re.compile(
    rf"(?:PT)?(?:({_DECIMAL.pattern})\s*(?:h|hrs?|hours?)\s*)?(?:({_DECIMAL.pattern})\s*(?:m|mins?|minutes?)\s*)?"
    rf"(?:({_DECIMAL.pattern})\s*(?:s|secs?|seconds?))?",
    re.ASCII | re.IGNORECASE,
)
# 1997.5 may be a number, so a date with points is recognized only with a day.
_MONTH_AND_DAY: Final = r"(?:0?[0-9]|1[0-2]){0}(?:[0-2]?[0-9]|3[01])"
_YEAR_FIRST: Final = re.compile(
    rf"([0-9]{{4}})(?:-{_MONTH_AND_DAY.format('-')}|/{_MONTH_AND_DAY.format('/')}|\.{_MONTH_AND_DAY.format('[.]')}"
    r"|[-/](?:0?[0-9]|1[0-2]))(?:[T ][0-9:.,+\-Z ]*)?",
    re.ASCII,
)
_YEAR_LAST: Final = re.compile(
    r"(?:[0-9]{1,2}([-/.])[0-9]{1,2}\1|[0-9]{1,2}[/.]|(?:[0-9]{1,2}(?:st|nd|rd|th)?\.?[ -])?"
    r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?[ -](?:[0-9]{1,2}(?:st|nd|rd|th)?,? )?)"
    r"([0-9]{4})",
    re.ASCII | re.IGNORECASE,
)
_COMPACT_DATE: Final = re.compile(r"([0-9]{4})(?:0[0-9]|1[0-2])(?:[0-2][0-9]|3[01])", re.ASCII)
_CHANNELS: Final = {"mono": 1, "stereo": 2, "joint stereo": 2}


def read_value(field: str, cell: object, *, unit: str | None = None, verbatim: bool = False) -> Reading:
    """
    Return the value of *field* in *cell*, which is the text of a CSV cell or any JSON value.

    *unit* is the unit of a bare number. With *verbatim*, only an empty text is a missing value in a field of text.

    >>> read_value("duration", "3:45"), read_value("year", "1997-05-21").value
    (Reading(value=225.0, how=<How.CLOCK: 'clock'>), 1997)

    """
    limit = LIMITS.get(field)
    if read := _OTHERS.get(field):
        return Reading(None) if cell is None or cell == "" else read(cell)
    if isinstance(cell, str):
        if not cell:
            return Reading(None)
        if limit is None or isinstance(limit, TextLimit):
            return Reading(None, How.MISSING) if not verbatim and _is_missing(cell) else Reading(cell)
        return _number_in(field, cell, limit, unit) if cell.strip() else Reading(None)
    if isinstance(limit, WholeLimit | NumberLimit) and isinstance(cell, int | float) and not isinstance(cell, bool):
        return _bare_number(field, cell, limit, unit)
    return Reading(cell)


def text_problem(field: str, cell: str, encoding: str) -> Problem | None:
    """Return the problem with a *cell* that holds bytes outside of *encoding*, or None."""
    broken = lone_surrogate(cell)
    return Problem(field, f"not {encoding}: it holds the byte {escaped(broken)}") if broken else None


def text_of(field: str, column: str, cells: Mapping[str, Any], encoding: str) -> str | Problem:
    """Return the text in *column*, from which *field* is derived, or the problem with it."""
    value = cells.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or value == "":
        return Problem(field, f"the column {quoted(column)} is empty")
    if not isinstance(value, str):
        return Problem(field, f"the column {quoted(column)} must be text or a whole number, not {kind_of(value)}")
    if lone_surrogate(value):
        return Problem(field, f"the column {quoted(column)} is not {encoding}")
    return value


def _is_missing(cell: str) -> bool:
    return len(cell) <= _LONGEST_NUMBER and cell.strip().lower() in _MISSING


def _unit_of(field: str) -> Unit | None:
    return FIELDS[field].unit if field in FIELDS else None


def _number_in(field: str, cell: str, limit: WholeLimit | NumberLimit, unit: str | None) -> Reading:
    """Return the number that the text in *cell* means, or the problem with it."""
    text = cell.strip()
    whole = _WHOLE_NUMBER.fullmatch(text)
    if whole is not None and not (_unit_of(field) == "year" and _COMPACT_DATE.fullmatch(text)):
        reading = _bare_number(field, int(whole[1]), limit, unit)
        is_changed = whole[2] and isinstance(limit, WholeLimit) and reading.how is None
        return Reading(reading.value, How.WHOLE) if is_changed else reading
    if _NUMBER.fullmatch(text) and (unit is not None or isinstance(limit, NumberLimit)):
        return _bare_number(field, float(text), limit, unit)
    if len(text) <= _LONGEST_NUMBER:
        if _is_missing(text):
            return Reading(None, How.MISSING)
        for read in _READERS.get(_unit_of(field), ()):
            if (found := read(field, text)) is not None:
                return found
    kind = "whole number" if isinstance(limit, WholeLimit) else "number"
    return Reading(Problem(field, f"a {kind} from {limit.lowest:.0f} to {limit.highest:.0f}, not {quoted(cell)}"))


def _bare_number(field: str, number: float, limit: WholeLimit | NumberLimit, unit: str | None) -> Reading:
    """Return *number*, given in *unit*, in the stored unit."""
    if number == 0 and isinstance(limit, WholeLimit):
        return Reading(None, How.MISSING)
    factor = 1 if unit is None else UNITS[field].offered[unit]
    if factor != 1 and math.isfinite(number):
        return Reading(_scaled(number, factor, limit), How.UNIT)
    if not isinstance(limit, WholeLimit):
        return Reading(number)
    if isinstance(number, float) and number.is_integer():
        return Reading(int(number), How.WHOLE)
    return Reading(number)


def _scaled(number: float | str, factor: float, limit: WholeLimit | NumberLimit) -> float:
    # Decimals make 44.1 kHz exactly 44,100 Hz. Numbers out of range are refused later.
    value = Decimal(str(number)) * Decimal(str(factor))
    return round(value) if isinstance(limit, WholeLimit) else float(value)


def _with_unit(field: str, text: str) -> Reading | None:
    match = _WITH_UNIT.fullmatch(text)
    if match is None or _BYTES.fullmatch(match[2]):
        return None
    written = UNITS[field].written
    name = match[2].lower()
    factor = written.get(name, written.get(f"{name}s"))
    return None if factor is None else Reading(_scaled(match[1], factor, NUMBER_LIMITS[field]), How.OWN_UNIT)


def _clock(_: str, text: str) -> Reading | None:
    return Reading(seconds_of_clock(text), How.CLOCK) if _CLOCK.fullmatch(text) else None


def _span(_: str, text: str) -> Reading | None:
    match = _SPAN.fullmatch(text)
    if match is None or not any(match.groups()):
        return None
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return Reading(hours * 3600 + minutes * 60 + seconds, How.OWN_UNIT)


def _year(_: str, text: str) -> Reading | None:
    match = _YEAR_FIRST.fullmatch(text) or _COMPACT_DATE.fullmatch(text)
    year = match[1] if match else None
    if year is None and (match := _YEAR_LAST.fullmatch(text)):
        year = match[2]
    return None if year is None else Reading(int(year), How.DATE)


def _channels(_: str, text: str) -> Reading | None:
    count = _CHANNELS.get(text.lower())
    return None if count is None else Reading(count, How.WORD)


def _status(cell: object) -> Reading:
    """Return the status that *cell* names. Exports write the same names."""
    names = [str(status) for status in TrackStatus]
    name = cell.strip().upper() if isinstance(cell, str) else cell
    if name not in names:
        rule = f"one of {', '.join(names)}, not {_shown(cell)}; or give one for all rows by --status"
        return Reading(Problem("status", rule))
    return Reading(TrackStatus(name), How.WAITING if name == TrackStatus.PROCESSING else None)


def _time(cell: object) -> Reading:
    """Return the time in *cell*, as an export writes it."""
    try:
        found = datetime.fromisoformat(cell.strip()) if isinstance(cell, str) else None
        if found is not None and found.utcoffset() is not None:
            return Reading(found.astimezone(UTC))
    except (ValueError, OverflowError):
        pass
    rule = f"a time with its offset from UTC such as 2026-11-30T17:45:00+00:00, not {_shown(cell)}"
    return Reading(Problem("created_at", rule))


def _shown(cell: object) -> str:
    return quoted(cell) if isinstance(cell, str) else kind_of(cell)


#: The readers of fields that are neither text nor numbers.
_OTHERS: Final[Mapping[str, Callable[[object], Reading]]] = {"status": _status, "created_at": _time}
_Reader = Callable[[str, str], Reading | None]

#: The readers of numbers that are not plain digits, by unit, in order of precedence.
_READERS: Final[Mapping[Unit | None, tuple[_Reader, ...]]] = {
    "year": (_year,),
    "s": (_clock, _with_unit, _span),
    "Hz": (_with_unit,),
    "bit/s": (_with_unit,),
    "ch": (_channels,),
}
