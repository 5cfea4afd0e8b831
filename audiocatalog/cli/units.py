"""The units of numbers in metadata, as people and other programs write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, TypeVar

import click

from audiocatalog.cli.text import clock
from audiocatalog.models.metadata import FIELDS, Unit

_Command = TypeVar("_Command", bound=click.Command)


class Doubt(NamedTuple):
    """A bound for the median of a file's values, and the likely unit if the median is beyond this bound."""

    is_above: bool
    bound: float
    likely: str


class Spelling(NamedTuple):
    """
    The spellings of a unit, each with its factor to the stored unit.

    - *offered*: the values of ``--unit``, the stored unit first
    - *written*: the spellings beside numbers, in lower case
    - *doubt*: the sign that values are in another unit
    """

    offered: Mapping[str, float]
    written: Mapping[str, float]
    doubt: Doubt


def _all(*groups: tuple[str, float]) -> dict[str, float]:
    return {name: factor for names, factor in groups for name in names.split()}


#: The units that have several spellings.
SPELLINGS: Final[Mapping[Unit | None, Spelling]] = {
    "s": Spelling(
        {"s": 1, "ms": 0.001, "min": 60},
        _all(("ms msec milliseconds", 0.001), ("s sec secs seconds", 1), ("min mins minutes", 60), ("h hours", 3600)),
        Doubt(is_above=True, bound=7200, likely="ms"),
    ),
    "Hz": Spelling(
        {"Hz": 1, "kHz": 1000},
        _all(("hz", 1), ("khz k", 1000), ("mhz", 1_000_000)),
        Doubt(is_above=False, bound=1000, likely="kHz"),
    ),
    "bit/s": Spelling(
        {"bps": 1, "kbps": 1000},
        _all(("bps bit/s bits/s b/s", 1), ("kbps kbit/s kbits/s kb/s k", 1000), ("mbps mbit/s mb/s", 1_000_000)),
        Doubt(is_above=False, bound=1000, likely="kbps"),
    ),
}
#: The spellings of the unit of each field.
UNITS: Final[Mapping[str, Spelling]] = {
    name: SPELLINGS[field.unit] for name, field in FIELDS.items() if field.unit in SPELLINGS
}


def in_units(field: str, value: float) -> str:
    """
    Return the *value* of a *field* with its unit, as people write it.

    >>> in_units("duration", 225.5), in_units("year", 1997)
    ('3:46 (225.5 s)', '1997')

    """
    match FIELDS[field].unit:
        case "s":
            return f"{clock(value)} ({value:g} s)"
        case "Hz" | "bit/s" as unit:
            return f"{value / 1000:,.10g} k{unit}" if value >= 1000 else f"{value:,.10g} {unit}"  # noqa: PLR2004
        case "ch":
            return f"{value}{ {1: ' (mono)', 2: ' (stereo)'}.get(int(value), '') }"
        case _:
            return str(value)


def naming_fields(command: _Command) -> _Command:
    """In the help of *command*, replace METADATA with the fields' names, and METADATA (UNITS) with names and units."""
    names = [f"{name} ({unit})" if (unit := _shown(field.unit)) else name for name, field in FIELDS.items()]
    text = (command.help or "").replace("METADATA (UNITS)", ", ".join(names))
    command.help = text.replace("METADATA", ", ".join(FIELDS))
    return command


def _shown(unit: Unit | None) -> str | None:
    return "seconds" if unit == "s" else unit if unit in SPELLINGS else None
