"""The command `export`, which writes tracks as CSV or JSON Lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, get_args

import click

from audiocatalog import Catalog, Track
from audiocatalog.cli import options
from audiocatalog.cli.failures import Failure, Interrupted
from audiocatalog.cli.importing.columns import IMPORTED
from audiocatalog.cli.importing.records import Format, format_of
from audiocatalog.cli.output import plain
from audiocatalog.cli.progress import progress_reporter
from audiocatalog.cli.target import Target
from audiocatalog.cli.text import counted, quoted
from audiocatalog.cli.units import naming_fields
from audiocatalog.cli.writing import compressed, csv_line, json_line, replaced, spreadsheet_cell
from audiocatalog.errors import CatalogError
from audiocatalog.models.rows import TRACK_COLUMNS

#: The fields that every import keeps, with the id first, and the fields that --all writes.
_IMPORTED: Final = ("id", *(name for name in IMPORTED if name != "id"))
_FIELDS: Final = (*_IMPORTED, *(name for name in TRACK_COLUMNS if name not in IMPORTED))
_PART: Final = 1000


def _read_fields(context: click.Context, option: click.Parameter, text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if not name:
            reason = "a name is empty" + (": remove the extra comma" if "," in text else "")
            raise click.BadParameter(reason, context, option)
        if name not in _FIELDS:
            fields = ", ".join(_FIELDS)
            raise click.BadParameter(f"there is no field {quoted(name)}: the fields are {fields}", context, option)
        if names.count(name) > 1:
            raise click.BadParameter(f"the field {name} is named twice", context, option)
    return names


@naming_fields
@click.command("export")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path), default="-")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(get_args(Format)),
    help="The format of FILE; default: by its name, jsonl for stdout.",
)
@click.option("--fields", metavar="A,B,...", callback=_read_fields, help="Write these fields, in this order.")
@click.option(
    "--all", "everything", is_flag=True, help="Write all fields, including created_at, updated_at and version."
)
@click.option(
    "--safe-for-spreadsheets",
    "is_safe",
    is_flag=True,
    help="CSV: put ' before text that a spreadsheet would run as a formula.",
)
@options.filters("--audio-format")  # --format is the format of the file.
@click.pass_obj
@click.pass_context
def export_file(
    context: click.Context,
    target: Target,
    /,
    *,
    file: Path,
    file_format: Format | None,
    fields: tuple[str, ...] | None,
    everything: bool,
    is_safe: bool,
    **filters: Any,  # noqa: ANN401  # Values of several types, which SearchFilters checks.
) -> None:
    """
    Write the tracks to FILE as CSV or JSON Lines, or to stdout.

    Tracks are written one at a time in the order of their ids, so memory stays constant. The fields are id, METADATA,
    audio_path, thumbnail_path and status. `import` reads all these fields, and PROCESSING as PENDING. --all adds
    created_at, updated_at and version, of which `import --restore` reads created_at. --fields selects fields. Histories
    and edits are not exported.

    If the name of FILE ends in .gz, the file is compressed. FILE appears, or is replaced, only when it is complete.
    Lines end in a line feed, and the text is UTF-8. Unknown values are empty in CSV and null in JSON Lines.

    A spreadsheet runs a cell that begins with = + - or @ as a formula, and a title may begin with any of these. To
    open the CSV in a spreadsheet, use --safe-for-spreadsheets. It puts an apostrophe before each cell that a
    spreadsheet could run. This includes cells that begin with blanks, quotation marks, semicolons, tabs or line ends.
    Numbers stay numbers. Do not import such a file: the apostrophes would become part of the data.

    \b
      audiocatalog export tracks.csv.gz
      audiocatalog export --year 1990..1999 --fields id,title | jq .title
    """  # noqa: D301  # Click keeps the lines of a paragraph only after a real backspace character.
    if fields is not None and everything:
        raise click.UsageError("--fields and --all both choose the fields: leave one of them out", context)
    is_stdout = str(file) == "-"
    found = file_format or ("jsonl" if is_stdout else format_of(file))
    if found is None:
        raise click.UsageError(
            "the name of the file does not end in .csv or .jsonl: give the format by --format", context
        )
    if is_safe and found != "csv":
        raise click.UsageError("--safe-for-spreadsheets works for CSV only: add --format csv", context)
    names = _FIELDS if everything else fields or _IMPORTED
    try:
        with options.inputs_by_option(format="--audio-format"):
            narrowed = options.filters_of(filters)
    except Failure as error:
        raise click.UsageError(error.message, context) from None
    if is_stdout and sys.stdout is None:
        raise Failure("stdout is closed")
    with target.catalog() as catalog:
        catalog.health()
        rows = _Rows(catalog.iter_tracks(narrowed), found, names, is_safe=is_safe)
        if is_stdout:
            rows.write(click.open_file("-", "wb"))
            return
        begin = time.monotonic()
        try:
            with (
                progress_reporter("exporting", "track", None if narrowed else _count(catalog)) as report,
                replaced(file) as stored,
                compressed(stored) if file.suffix.lower() == ".gz" else nullcontext(stored) as content,
            ):
                rows.write(content, lambda: report.update(rows.tracks, rows.tracks))
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; {file} was not written") from None
    seconds = max(time.monotonic() - begin, 0.001)
    click.echo(f"{counted(rows.tracks, 'track')} in {seconds:.1f} s ({rows.tracks / seconds:,.0f} tracks/s)")


def _count(catalog: Catalog) -> int | None:
    """Return the number of all tracks, or None if counting fails."""
    try:
        return sum(count.tracks for count in catalog.count_by_status())
    except CatalogError:
        return None


class _Rows:
    """A writer of *tracks* in one format, with the number of written tracks."""

    def __init__(self, tracks: Iterable[Track], file_format: Format, names: Sequence[str], *, is_safe: bool) -> None:
        self.tracks = 0
        cell: Callable[[Any], Any] = (lambda value: spreadsheet_cell(plain(value))) if is_safe else plain
        self._values = (tuple(cell(getattr(track, name)) for name in names) for track in tracks)
        self._names = names
        self._is_csv = file_format == "csv"

    def write(self, file: IO[bytes], written: Callable[[], None] = lambda: None) -> None:
        """Write everything to *file*, and call *written* after each part."""
        if self._is_csv:
            file.write(csv_line(self._names).encode())
        while part := list(islice(self._values, _PART)):
            file.write("".join(map(self._line, part)).encode())
            self.tracks += len(part)
            written()
        file.flush()

    def _line(self, values: Sequence[Any]) -> str:
        return csv_line(values) if self._is_csv else json_line(dict(zip(self._names, values, strict=True)))
