"""Questions about the first rows of a file, such as durations that are likely in another unit, before any is saved."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from audiocatalog.cli.importing.input_file import DamagedFile
from audiocatalog.cli.importing.records import ReadRecord, Refusal
from audiocatalog.cli.text import time_span
from audiocatalog.cli.units import SPELLINGS, UNITS
from audiocatalog.models.metadata import FIELDS, NUMBER_LIMITS

#: The check reads at most this many rows, and at most this many characters.
MOST_FIRST_ROWS: Final = 1000
_MOST_CHARACTERS: Final = 2**24
_FEWEST_REFUSALS: Final = 2


def _advice_on_numbers(field: str) -> Iterator[tuple[str, str]]:
    """Give what to do if all numbers of *field* are refused, by the kind of number that was expected."""
    match FIELDS[field].unit:
        case "s":
            yield (
                "number",
                "these are neither seconds nor times such as 3:45: is there another column? Name it by --map",
            )
        case "year":
            yield "whole number", f"is there another column with the {field}? Name it by --map {field}=COLUMN"
        case unit if unit in SPELLINGS:
            likely = SPELLINGS[unit].doubt.likely
            yield "whole number", f"if they are in {likely}, say so by --unit {field}={likely}"


#: What to do if every row is refused, by the beginning of the reason, or a part of it.
_ADVICE: Final = (
    ("not UTF-8", "the file has another encoding: name it, as by --encoding cp1252 for one of Windows"),
    ("status: one of", "the statuses are those of another program: say what all tracks are, as by --status completed"),
    ("id: a UUID such as", "the ids are those of another program: make ours from them by --id-from COLUMN"),
    ("cells, but the file has", "are the cells parted by something else? Name it by --delimiter"),
    (
        "is a quotation mark missing",
        "the quotation marks are not those of CSV, or something else parts the cells: name it by --delimiter",
    ),
    ("audio_path: missing", "name the column of the paths by --map audio_path=COLUMN, or make them by --audio-path"),
    *((f"{field}: a {kind}", advice) for field in FIELDS for kind, advice in _advice_on_numbers(field)),
    ("not readable as JSON", "is it JSON? A file of JSON holds one object on each line, or one array of objects"),
    ("a JSON object was expected", "a file of JSON holds one object on each line, or one array of objects"),
)
#: What the reasons have in common of rows that are refused for the same thing, whatever else stands in them.
_KINDS: Final = (
    ("not UTF-8", "not UTF-8"),
    ("not readable as JSON", "no JSON object"),
    ("a JSON object was expected", "no JSON object"),
)
_NUMBERS: Final = re.compile(r"[0-9][0-9,]*")


def first_of(items: Iterator[ReadRecord | Refusal], most: int) -> tuple[list[ReadRecord | Refusal], DamagedFile | None]:
    """Return the first of *items*, and the damage that ended them, if any."""
    first: list[ReadRecord | Refusal] = []
    characters = 0
    try:
        while len(first) < most and characters < _MOST_CHARACTERS and (item := next(items, None)) is not None:
            first.append(item)
            characters += item.length
    except DamagedFile as damage:
        return first, damage
    return first, None


def doubt_about(first: Sequence[ReadRecord | Refusal], units: Mapping[str, str], *, keeps_refused: bool) -> str | None:
    """
    Return what cannot be right about the *first* rows, and the option that settles it; None if all is well.

    *units* are those that are settled, by field. Where refused rows are kept, they may all be refused.
    """
    records = [item for item in first if isinstance(item, ReadRecord)]
    if not records and len(first) >= _FEWEST_REFUSALS and not keeps_refused:
        return _one_reason([item for item in first if isinstance(item, Refusal)])
    doubts = [_doubtful_unit(field, records) for field in UNITS if field not in units]
    return "; ".join(filter(None, doubts)) or None


def shown_delimiter(delimiter: str) -> str:
    """Return a delimiter as people call it."""
    return {"\t": "tabs", ";": "semicolons", "|": "vertical bars"}.get(delimiter, f'"{delimiter}"')


def _doubtful_unit(field: str, records: Sequence[ReadRecord]) -> str | None:
    doubt = UNITS[field].doubt
    values = [value for item in records if (value := getattr(item.record.metadata, field)) is not None]
    if not values:
        return None
    median, limit = statistics.median(values), NUMBER_LIMITS[field]
    if not (median > doubt.bound if doubt.is_above else median < doubt.bound):
        return None
    # A field that could not hold these values in the other unit is in its own.
    if not limit.lowest <= median * UNITS[field].offered[doubt.likely] <= limit.highest:
        return None
    usual = next(iter(UNITS[field].offered))
    side = "at least" if doubt.is_above else "at most"
    shown = f"{median:,.10g} {usual}" + (f" ({time_span(median)})" if usual == "s" else "")
    return (
        f"{field}: half of the first {len(values):,} values are {side} {shown}: if they are in {doubt.likely}, "
        f"add --unit {field}={doubt.likely}; if they are right, add --unit {field}={usual}"
    )


def _one_reason(refusals: Sequence[Refusal]) -> str | None:
    """Say why all rows are refused, if it is one reason."""
    kinds = {_kind_of(refusal.reason) for refusal in refusals}
    if len(kinds) > 1:
        return None
    first = refusals[0]
    advice = next((advice for sign, advice in _ADVICE if sign in first.reason), None)
    told = f"each of the first {len(refusals):,} rows is refused for the same reason ({first})"
    keep = "with --refused NEW_FILE, they are written to a file, and the import goes on"
    return f"{told}: {advice or keep}"


def _kind_of(reason: str) -> str:
    """Return what is the same in the reasons of rows that are refused for the same thing."""
    first = reason.partition(", not ")[0].partition(": it holds ")[0].partition("; ")[0]
    return next((kind for sign, kind in _KINDS if sign in first), _NUMBERS.sub("N", first))
