"""The output of the commands on stdout: tables for people, JSON for programs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from audiocatalog import Health, StatusChange, Track
from audiocatalog.cli.text import time_span
from audiocatalog.cli.units import in_units
from audiocatalog.errors.printing import escaped, json_text
from audiocatalog.models.metadata import FIELDS
from audiocatalog.models.rows import CHANGE_COLUMNS, TRACK_COLUMNS

#: The width of a pipe or a file. Lines are not wrapped there, because programs read them one by one.
_ENDLESS: Final = 100_000
#: The minimum width of most tables, so that no text is cut off. A narrower terminal wraps the lines itself.
_NARROWEST: Final = 80
_WIDE_HISTORY: Final = 100
_PIECE: Final = 2**14
#: The text for an unknown value.
UNKNOWN: Final = "-"


class Output(Console):
    """A terminal that is at least *least* characters wide, or a pipe or file of width *most*."""

    def __init__(self, most: int = _ENDLESS, *, least: int = _NARROWEST) -> None:
        super().__init__(highlight=False, markup=False, emoji=False)
        measured = self.is_terminal or os.environ.get("COLUMNS", "").isdigit()
        self.width = min(max(self.width, least), most) if measured else most

    def on_broken_pipe(self) -> None:
        """Raise the error again; ``failures`` handles every broken pipe."""
        raise  # noqa: PLE0704  # Called while the error is handled.

    def symbol(self, beautiful: str, plain: str) -> str:
        """Return *beautiful* if the output is in Unicode, else *plain*."""
        return beautiful if self.encoding.startswith("utf") else plain

    def lay_out(self, table: Table) -> None:
        """Print *table*. In a pipe or file, lines have no spaces at the end."""
        if self.is_terminal:
            self.print(table)
            return
        with self.capture() as capture:
            self.print(table)
        click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))

    def table(self, *headings: str, right: Sequence[str] = ()) -> Table:
        """Return an empty table. The columns in *right* are aligned to the right."""
        table = Table(box=None, pad_edge=False, padding=(0, 0, 0, 2), header_style="dim")
        for heading in headings:
            table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
        return table


def show(value: object, text: str | Callable[[], None], *, as_json: bool) -> None:
    """Print *value* if *as_json*; otherwise print *text*, or call it to print."""
    if as_json:
        print_json(value)
    elif isinstance(text, str):
        click.echo(text)
    else:
        text()


def print_json(value: object) -> None:
    """Print *value* as one line of JSON, in ASCII unless the output is in Unicode."""
    unicode = (getattr(sys.stdout, "encoding", None) or "ascii").lower().startswith("utf")
    text = json_text(value, ascii_only=not unicode)
    # If stdout is unbuffered and its pipe is closed half-way, one long write raises no error. Short writes do.
    for start in range(0, len(text), _PIECE):
        click.echo(text[start : start + _PIECE], nl=False)
    click.echo()


def track_json(track: Track) -> dict[str, Any]:
    """Return all columns of *track*, ready for JSON."""
    return {name: plain(getattr(track, name)) for name in TRACK_COLUMNS}


def history_json(change: StatusChange) -> dict[str, Any]:
    """Return all columns of *change* and the seconds that the track stayed in the new status, ready for JSON."""
    return change_json(change) | {"duration": None if change.duration is None else change.duration.total_seconds()}


def change_json(change: StatusChange) -> dict[str, Any]:
    """Return all columns of *change*, ready for JSON."""
    return {name: plain(getattr(change, name)) for name in CHANGE_COLUMNS}


def print_track(track: Track) -> None:
    """Print every column of *track*, in units that people use."""
    output = Output()
    table = output.table("", "")
    table.show_header = False
    for name in TRACK_COLUMNS:
        value = getattr(track, name)
        text = Text(UNKNOWN, "dim") if value is None else Text(_shown(name, value))
        table.add_row(Text(name, "dim"), text)
    output.lay_out(table)


def _shown(column: str, value: Any) -> str:  # noqa: ANN401  # Columns of every type.
    if isinstance(value, datetime):
        return moment(value)
    return escaped(in_units(column, value) if column in FIELDS else str(value))


def show_change(change: StatusChange, *, as_json: bool) -> None:
    """Print one move of a track."""
    if as_json:
        print_json(change_json(change))
        return
    output = Output()
    reason = f": {escaped(change.reason)}" if change.reason else ""
    output.print(f"{_move(output, change)}, by {escaped(change.actor)} at {moment(change.at)}{reason}")


def print_history(changes: Sequence[StatusChange], now: datetime) -> None:
    """Print the moves of a track and its duration in each status. The last duration ends at *now*."""
    output = Output()
    # Each move begins in the status in which the last move ended, so a narrow table leaves out the first column.
    is_wide = output.width >= _WIDE_HISTORY
    start = ["from", ""] if is_wide else []
    table = output.table("when (UTC)", *start, "to", "try", "stayed", "who", "why", right=("try",))
    for column in table.columns[:-2]:
        column.no_wrap = True
    for change in changes:
        stayed = time_span((now - change.at if change.duration is None else change.duration).total_seconds())
        table.add_row(
            f"{change.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            *([str(change.from_status or "(new)"), output.symbol("→", "->")] if is_wide else []),
            str(change.to_status),
            "" if change.attempt is None else str(change.attempt),
            f"{stayed} so far" if change.duration is None else stayed,
            escaped(change.actor),
            escaped(change.reason or UNKNOWN),
        )
    output.lay_out(table)


def print_health(health: Health) -> None:
    """Print the state of the server, the schema, the claims and the pool."""
    output = Output()
    table = output.table("", "")
    table.show_header = False
    age, stuck = health.vocabulary_age, health.stuck_claims
    facts: Mapping[str, str] = {
        "server": f"PostgreSQL {health.server_version}, {health.server_encoding}",
        "schema": f"revision {health.schema_revision}, this program expects {health.expected_revision}",
        "role": "standby, read-only" if health.is_standby else "primary",
        "vocabulary": "never counted" if age is None else f"counted {time_span(age)} ago",
        "claims": f"{UNKNOWN if stuck is None else stuck} with an expired lease",
        "pool": f"{health.pool.connections} of {health.pool.size} connections open, {health.pool.in_use} in use, "
        f"{health.pool.waiting} callers waiting",
    }
    for name, fact in facts.items():
        table.add_row(Text(name, "dim"), fact)
    output.print("healthy")
    output.lay_out(table)


def _move(output: Output, change: StatusChange) -> str:
    return f"{change.from_status or '(new)'} {output.symbol('→', '->')} {change.to_status}"


def moment(at: datetime) -> str:
    """Return a time in UTC, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def plain(value: Any) -> Any:  # noqa: ANN401  # Columns of every type.
    """Return *value* for JSON: ids, statuses and times as text."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return value if value is None or isinstance(value, int | float) else str(value)
