"""Checks of a file's first rows before any is saved, such as for durations that are likely in another unit."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from audiocatalog.cli.importing.input_file import DamagedFile
from audiocatalog.cli.importing.records import ReadRecord, RefusedRow
from audiocatalog.cli.text import time_span
from audiocatalog.cli.units import SPELLINGS, UNITS
from audiocatalog.models.metadata import FIELDS, NUMBER_LIMITS

#: The maximum numbers of rows and characters that the check reads.
MOST_FIRST_ROWS: Final = 1000
_MOST_CHARACTERS: Final = 2**24
_FEWEST_REFUSALS: Final = 2


def _advice_on_numbers(field: str) -> Iterator[tuple[str, str]]:
    """Yield the expected kind of number in *field*, and the advice to give if all its numbers are refused."""
    match FIELDS[field].unit:
        case "s":
            yield (
                "number",
                "these are neither seconds nor times such as 3:45: if another column holds times, name it by --map",
            )
        case "year":
            yield "whole number", f"if another column holds the {field}, name it by --map {field}=COLUMN"
        case unit if unit in SPELLINGS:
            likely = SPELLINGS[unit].doubt.likely
            yield "whole number", f"if the numbers are in {likely}, add --unit {field}={likely}"


#: The advice to give if every row is refused, by a part of the reason.
_ADVICE: Final = (
    ("not UTF-8", "the file has another encoding: name it, for example by --encoding cp1252 for a file from Windows"),
    ("status: one of", "the statuses come from another program: give one for all tracks, as by --status completed"),
    ("id: a UUID such as", "the ids come from another program: derive UUIDs from them by --id-from COLUMN"),
    ("cells, but the file has", "if another character separates the cells, give it by --delimiter"),
    (
        "is a quotation mark missing",
        "the quotation marks are not those of CSV, or another character separates the cells: give it by --delimiter",
    ),
    ("audio_path: missing", "name the column of paths by --map audio_path=COLUMN, or build paths by --audio-path"),
    *((f"{field}: a {kind}", advice) for field in FIELDS for kind, advice in _advice_on_numbers(field)),
    ("not readable as JSON", "a file of JSON holds one object on each line, or one array of objects"),
    ("a JSON object was expected", "a file of JSON holds one object on each line, or one array of objects"),
)
#: Parts of reasons, and the kind of reason that each stands for.
_KINDS: Final = (
    ("not UTF-8", "not UTF-8"),
    ("not readable as JSON", "no JSON object"),
    ("a JSON object was expected", "no JSON object"),
)
_NUMBERS: Final = re.compile(r"[0-9][0-9,]*")


def first_of(
    items: Iterator[ReadRecord | RefusedRow], most: int
) -> tuple[list[ReadRecord | RefusedRow], DamagedFile | None]:
    """Return at most *most* of the first *items*, and the damage that ended them, if any."""
    first: list[ReadRecord | RefusedRow] = []
    characters = 0
    try:
        while len(first) < most and characters < _MOST_CHARACTERS and (item := next(items, None)) is not None:
            first.append(item)
            characters += item.length
    except DamagedFile as damage:
        return first, damage
    return first, None


def doubt_about(
    first: Sequence[ReadRecord | RefusedRow], units: Mapping[str, str], *, keeps_refused: bool
) -> str | None:
    """
    Return the likely mistake in the *first* rows and the option that corrects the mistake, or None.

    *units*: the units that the user gave, by field. If the import *keeps_refused* rows, all may be refused.
    """
    records = [item for item in first if isinstance(item, ReadRecord)]
    if not records and len(first) >= _FEWEST_REFUSALS and not keeps_refused:
        return _one_reason([item for item in first if isinstance(item, RefusedRow)])
    doubts = [_doubtful_unit(field, records) for field in UNITS if field not in units]
    return "; ".join(filter(None, doubts)) or None


def shown_delimiter(delimiter: str) -> str:
    """Return the name of a delimiter."""
    return {"\t": "tabs", ";": "semicolons", "|": "vertical bars"}.get(delimiter, f'"{delimiter}"')


def _doubtful_unit(field: str, records: Sequence[ReadRecord]) -> str | None:
    doubt = UNITS[field].doubt
    values = [value for item in records if (value := getattr(item.record.metadata, field)) is not None]
    if not values:
        return None
    median, limit = statistics.median(values), NUMBER_LIMITS[field]
    if not (median > doubt.bound if doubt.is_above else median < doubt.bound):
        return None
    # If the field could not hold these values in the likely unit, they are already in the stored unit.
    if not limit.lowest <= median * UNITS[field].offered[doubt.likely] <= limit.highest:
        return None
    usual = next(iter(UNITS[field].offered))
    side = "at least" if doubt.is_above else "at most"
    shown = f"{median:,.10g} {usual}" + (f" ({time_span(median)})" if usual == "s" else "")
    return (
        f"{field}: half of the first {len(values):,} values are {side} {shown}: if they are in {doubt.likely}, "
        f"add --unit {field}={doubt.likely}; if they are right, add --unit {field}={usual}"
    )


def _one_reason(refusals: Sequence[RefusedRow]) -> str | None:
    """Return the reason why all rows are refused, or None if there are several reasons."""
    kinds = {_kind_of(refusal.reason) for refusal in refusals}
    if len(kinds) > 1:
        return None
    first = refusals[0]
    advice = next((advice for sign, advice in _ADVICE if sign in first.reason), None)
    told = f"each of the first {len(refusals):,} rows is refused for the same reason ({first})"
    keep = "with --refused NEW_FILE, the import writes such rows to a file and continues"
    return f"{told}: {advice or keep}"


def _kind_of(reason: str) -> str:
    """Return the part of *reason* that is equal for all rows with the same kind of reason."""
    first = reason.partition(", not ")[0].partition(": it holds ")[0].partition("; ")[0]
    return next((kind for sign, kind in _KINDS if sign in first), _NUMBERS.sub("N", first))
