"""The meaning of a file's columns: the fields, and the names that other programs give their columns."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Final, NamedTuple

from audiocatalog.cli.importing.lines import UnusableFile
from audiocatalog.cli.text import quoted
from audiocatalog.models.metadata import CONTENT_COLUMNS, METADATA_FIELDS

#: The column of reasons in a file of refused rows. An import ignores it.
REASON: Final = "refused_because"

_NAMES: Final = files(__package__).joinpath("column_names.toml").read_text(encoding="utf-8")
#: The fields that a file can hold.
FIELDS: Final = (*CONTENT_COLUMNS, "id", "status", "created_at")
#: The unambiguous names of a field in other programs, in lower case without blanks, and the unit that each implies.
ALIASES: Final[Mapping[str, Mapping[str, str | None]]] = {
    field: {name: unit or None for unit, names in by_unit.items() for name in names}
    for field, by_unit in tomllib.loads(_NAMES).items()
}
#: The fields that every import keeps. Only the owner of the schema can also keep the time of creation.
IMPORTED: Final = tuple(name for name in FIELDS if name != "created_at")

_BETWEEN_WORDS: Final = re.compile(r"[\s_.\-()\[\]]+")
_MOST_NAMED: Final = 10


class Columns(NamedTuple):
    """
    The columns that fields are read from.

    - *sources*: the column of each field
    - *units*: the units that the names of columns imply, by field
    - *renamed*: the columns that have another name than their field, by field
    - *unused*: the columns that no field is read from
    - *doubtful*: several columns that could each be the same field, by field
    """

    sources: dict[str, str]
    units: dict[str, str]
    renamed: dict[str, str]
    unused: tuple[str, ...]
    doubtful: dict[str, tuple[str, ...]]


def simplified(name: str) -> str:
    """
    Return *name* in lower case, without blanks and the signs between words.

    >>> {simplified(name) for name in ("Audio Path", "audio-path", "AudioPath", " audio_path")}
    {'audiopath'}

    """
    return _BETWEEN_WORDS.sub("", name).casefold()


def match_columns(
    columns: Sequence[str], fields: Collection[str], mapped: Mapping[str, str], used: Collection[str]
) -> Columns:
    """
    Return the columns of *fields*.

    A field is read from the column with its own name. If there is no such column, the field is read from a column with
    another spelling of the name, or else with an unambiguous alias. If several such columns exist, none is read.

    *mapped*: the columns that the user gives for fields. *used*: the columns that other options name.
    """
    present = set(columns)
    taken = {*used, *mapped.values(), *(name for name in fields if name in present and name not in mapped), REASON}
    names = {field: {simplified(field): None, **ALIASES.get(field, {})} for field in fields}
    # A file may have a million columns, so only those that may be a field are kept.
    by_name: dict[str, dict[str, None]] = {name: {} for known in names.values() for name in known}
    for column in columns:
        if column not in taken and (same := by_name.get(simplified(column))) is not None:
            same[column] = None
    found = Columns({}, {}, {}, (), {})
    for field in fields:
        named = mapped.get(field, field)
        if named in present:
            found.sources[field] = named
        if field in mapped or named in present:
            continue
        candidates = {column: unit for name, unit in names[field].items() for column in by_name[name]}
        # Another spelling of the field's own name comes before an alias.
        own = tuple(by_name[simplified(field)]) or tuple(candidates)
        if len(own) == 1:
            found.sources[field] = found.renamed[field] = own[0]
            if (unit := candidates[own[0]]) is not None:
                found.units[field] = unit
        elif own:
            found.doubtful[field] = own
    taken.update(found.sources.values())
    return found._replace(unused=tuple(column for column in columns if column not in taken))


def check_columns(columns: Sequence[str], found: Columns, named: Collection[str], *, makes_path: bool) -> None:
    """
    Check that the *columns* of a CSV file suffice. *named*: the columns that the user named.

    Raises:
        UnusableFile: a column is missing or ambiguous. The message says what to do.
    """
    present, counts = set(columns), Counter(columns)
    if missing := sorted(set(named) - present):
        raise UnusableFile(f"the file has no column {', '.join(map(quoted, missing))}: {columns_are(columns)}")
    if twice := sorted(column for column in {*named, *found.sources.values()} if counts[column] > 1):
        raise UnusableFile(f"the file has several columns {', '.join(map(quoted, twice))}: rename all but one")
    if found.doubtful:
        field, candidates = next(iter(found.doubtful.items()))
        raise UnusableFile(
            f"several columns could be {field}: {listed(candidates)}; "
            f"choose one by --map, such as --map {field}={quoted(candidates[0])}"
        )
    if not makes_path and "audio_path" not in found.sources:
        raise UnusableFile(
            "the file has no column audio_path: name the column of paths by --map audio_path=COLUMN, "
            f"or build paths by --audio-path 's3://music/{{COLUMN}}.mp3'; {columns_are(columns)}"
        )
    if found.sources.keys().isdisjoint(METADATA_FIELDS):
        raise UnusableFile(
            f"no column of the file holds metadata: name columns by --map FIELD=COLUMN; {columns_are(columns)}"
        )


def columns_are(columns: Sequence[str]) -> str:
    """Return a clause that names the *columns* of a file."""
    if len(columns) == 1:
        return (
            f"its only column is {quoted(columns[0])}; if another character separates columns, give it by --delimiter"
        )
    return f"its columns are {listed(columns)}"


def listed(names: Iterable[str]) -> str:
    """Return the first *names*, quoted, and the number of other names."""
    names = tuple(names)
    shown = ", ".join(map(quoted, names[:_MOST_NAMED]))
    more = len(names) - _MOST_NAMED
    return f"{shown} and {more:,} more" if more > 0 else shown
