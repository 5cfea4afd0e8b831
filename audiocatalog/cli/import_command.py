"""The command that brings a file of tracks into the catalogue."""

from __future__ import annotations

import dataclasses
import io
import os
import stat
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import PurePath
from typing import BinaryIO, Final, get_args

import click

from audiocatalog import TrackStatus
from audiocatalog.cli import output
from audiocatalog.cli.commands import as_json
from audiocatalog.cli.failures import ROWS_REFUSED, Failure, Interrupted, failure_of
from audiocatalog.cli.importing import ReadRecord, Refusal, read_records
from audiocatalog.cli.plan import FIELDS, Format, Plan, Template
from audiocatalog.cli.progress import Reporter, reporter
from audiocatalog.cli.rows import UnusableFile
from audiocatalog.cli.saving import Tally, save_records
from audiocatalog.cli.target import Target
from audiocatalog.cli.text import counted, quoted
from audiocatalog.errors import CatalogError
from audiocatalog.status import TRANSITIONS

_SUFFIXES: Final[dict[str, Format]] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_STARTS: Final = click.Choice(sorted(TRANSITIONS[None]), case_sensitive=False)


@click.command("import")
@click.argument("file", type=click.File("rb"))
@click.option("--format", "file_format", type=click.Choice(get_args(Format)), help="What FILE is, if not by its name.")
@click.option("--map", "mapping", metavar="FIELD=COLUMN", multiple=True, help="The column that holds a field.")
@click.option("--audio-path", "template", metavar="TEMPLATE", help="Make paths: 's3://music/{id}.mp3'.")
@click.option("--id-from", metavar="COLUMN", help="Make ids from a column that tells tracks apart.")
@click.option("--status", type=_STARTS, default="COMPLETED", show_default=True, help="The status of new tracks.")
@click.option("--replace", is_flag=True, help="Overwrite tracks that are there with other content.")
@as_json
@click.pass_obj
@click.pass_context
def import_file(
    context: click.Context,
    target: Target,
    *,
    file: BinaryIO,
    file_format: Format | None,
    mapping: Sequence[str],
    template: str | None,
    id_from: str | None,
    status: str,
    replace: bool,
    as_json: bool,
) -> None:
    """
    Import the tracks in a CSV or JSON Lines FILE.

    FILE is - for stdin. The fields are title, artist, album, genre, year, duration (seconds), channels, sample_rate
    (Hz), bitrate (bit/s), format, audio_path, thumbnail_path and id (a UUID). Without an id, a track has one that is
    made from its audio_path. So a file can be imported again: what is there already stays as it is.

    A row that is refused is named on stderr with its reason, and every other row is saved.
    """
    try:
        plan = Plan(
            columns=_parse_mapping(mapping),
            audio_path=None if template is None else Template.parse(template),
            id_from=id_from,
            status=TrackStatus(status),
        )
        tally = Tally()
        ignored: list[str] = []
        records = read_records(file, file_format or _format_of(file), plan, ignored=ignored.extend)
        # What is wrong with the columns is told before any server is asked for anything.
        records = chain([first for first in (next(records, None),) if first is not None], records)
    except UnusableFile as error:
        raise click.UsageError(str(error), context) from None
    size = _size(file)
    try:
        with target.catalog() as catalog:
            catalog.health()
            begin = time.monotonic()
            with reporter(tally, size) as report:
                save_records(
                    catalog,
                    _telling_of_ignored(records, ignored, report),
                    replace=replace,
                    tally=tally,
                    refused=lambda refusal: report.say(str(refusal)),
                    saved=lambda: report.update(None if size is None else file.tell()),
                )
            seconds = time.monotonic() - begin
    except CatalogError as error:
        if not tally.rows:
            raise
        raise Failure(f"{failure_of(error).message}; stopped, {_what_is_safe(tally)}") from None
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted, {_what_is_safe(tally)}") from None
    _print_summary(tally, seconds, as_json=as_json)
    if tally.refused:
        context.exit(ROWS_REFUSED)


def _parse_mapping(pairs: Sequence[str]) -> dict[str, str]:
    mapping: dict[str, str] = {}
    for pair in pairs:
        field, equals, column = pair.partition("=")
        if not equals or not column:
            raise UnusableFile(f"--map {quoted(pair)} is not of the form FIELD=COLUMN")
        if field not in FIELDS:
            raise UnusableFile(f"--map: there is no field {quoted(field)}, the fields are {', '.join(FIELDS)}")
        if field in mapping:
            raise UnusableFile(f"--map: the field {field} is mapped twice")
        mapping[field] = column
    return mapping


def _format_of(file: BinaryIO) -> Format:
    name = getattr(file, "name", "")
    suffix = PurePath(name).suffix.lower() if isinstance(name, str) else ""
    if suffix not in _SUFFIXES:
        raise UnusableFile("the name of the file does not end in .csv or .jsonl: say what it is by --format")
    return _SUFFIXES[suffix]


def _size(file: BinaryIO) -> int | None:
    """Return the size of *file*, None if it is a pipe or the like."""
    try:
        status = os.fstat(file.fileno())
    except (AttributeError, io.UnsupportedOperation):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _telling_of_ignored(
    records: Iterator[ReadRecord | Refusal], ignored: list[str], report: Reporter
) -> Iterator[ReadRecord | Refusal]:
    """Pass *records* on, and name columns that mean nothing as soon as they are met."""
    for record in records:
        if ignored:
            report.say(f"ignored columns: {', '.join(map(quoted, ignored))}")
            ignored.clear()
        yield record


def _what_is_safe(tally: Tally) -> str:
    return f"{counted(tally.saved, 'row')} safely saved: the same command can be run again"


def _print_summary(tally: Tally, seconds: float, *, as_json: bool) -> None:
    rate = tally.rows / max(seconds, 0.001)
    if as_json:
        summary = {"rows": tally.rows, **dataclasses.asdict(tally)}
        output.print_json(summary | {"seconds": round(seconds, 3), "rows_per_second": round(rate, 1)})
        return
    counts = ", ".join(f"{count:,} {name}" for name, count in dataclasses.asdict(tally).items())
    click.echo(f"{counted(tally.rows, 'row')} in {seconds:.1f} s ({rate:,.0f} rows/s): {counts}")
