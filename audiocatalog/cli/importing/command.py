"""The command `import`: its options and its output."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, get_args

import click

from audiocatalog import Catalog
from audiocatalog.cli import output
from audiocatalog.cli.failures import ROWS_REFUSED, Failure, Interrupted, failure_of, tell
from audiocatalog.cli.importing.checkpoint import Checkpoint
from audiocatalog.cli.importing.doubts import MOST_FIRST_ROWS
from audiocatalog.cli.importing.input_file import DamagedFile, InputFile
from audiocatalog.cli.importing.lines import UnusableFile, encoding_of
from audiocatalog.cli.importing.options import ImportOptions
from audiocatalog.cli.importing.records import Format, RecordReader
from audiocatalog.cli.importing.refused_file import RefusedFile
from audiocatalog.cli.importing.run import ImportRun
from audiocatalog.cli.importing.summary import Summary
from audiocatalog.cli.options import as_json
from audiocatalog.cli.progress import progress_reporter
from audiocatalog.cli.target import Target
from audiocatalog.cli.text import counted, quoted
from audiocatalog.cli.units import naming_fields
from audiocatalog.cli.vocabulary_command import Count, count_words
from audiocatalog.errors import CatalogError, PermissionDenied
from audiocatalog.operations.bulk import BATCH
from audiocatalog.status import TRANSITIONS

_FIRST_STATUS: Final = click.Choice(sorted(TRANSITIONS[None]), case_sensitive=False)
_MEGABYTE: Final = 10**6
_NOT_THE_OWNER: Final = (
    "--restore: only the owner of the schema may set the time of creation: leave --restore out, or connect as the owner"
)
_UNCOUNTED: Final = "the import is complete, but its words are not counted: run `audiocatalog vocabulary refresh`"


def _read_delimiter(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    if text is None:
        return None
    found = "\t" if text in {"tab", "\\t"} else text
    if len(found) != 1 or found in '"\r\n\0 ':
        raise click.BadParameter(f'"{text}" is neither one character such as ; or | nor the word tab', context, option)
    return found


class _Input(click.File):
    """The type of a parameter that names a file to read, or stdin, which may be closed."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """Open the file."""
        if value == "-" and sys.stdin is None:
            raise Failure("stdin is closed")
        return super().convert(value, param, ctx)


@naming_fields
@click.command("import")
@click.argument("file", type=_Input("rb"))
@click.option(
    "--format",
    "file_format",
    type=click.Choice(get_args(Format)),
    help="The format of FILE; default: by its name.",
)
@click.option(
    "--delimiter", metavar="CHAR", callback=_read_delimiter, help="The character between CSV cells, such as ; or tab."
)
@click.option("--encoding", metavar="NAME", default="utf-8", help="The encoding of FILE, such as cp1252 or utf-16.")
@click.option("--map", "mapping", metavar="FIELD=COLUMN", multiple=True, help="Read FIELD from COLUMN.")
@click.option("--unit", metavar="FIELD=UNIT", multiple=True, help="The unit of plain numbers, such as duration=ms.")
@click.option(
    "--audio-path", "template", metavar="TEMPLATE", help="Build each path from columns: 's3://music/{id}.mp3'."
)
@click.option("--id-from", metavar="COLUMN", help="Derive ids from COLUMN; each track needs its own value.")
@click.option("--status", type=_FIRST_STATUS, help="The status of all new tracks, instead of those in FILE.")
@click.option("--restore", is_flag=True, help="Also keep created_at of new tracks; only for the schema's owner.")
@click.option("--replace", is_flag=True, help="Overwrite existing tracks that have other content.")
@click.option("--skip-existing", is_flag=True, help="Leave existing tracks as they are.")
@click.option("--dry-run", is_flag=True, help="Only check the rows, without a database.")
@click.option(
    "--refused",
    metavar="NEW_FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write refused rows to NEW_FILE.",
)
@click.option(
    "--resume",
    metavar="STATE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Store the position in the file STATE, and continue from there.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 50_000),
    default=BATCH,
    show_default=True,
    help="The number of rows in one transaction.",
)
@click.option("--no-vocabulary", is_flag=True, help="Do not count the words of all tracks at the end.")
@as_json
@click.pass_obj
@click.pass_context
def import_file(
    context: click.Context,
    target: Target,
    /,
    *,
    no_vocabulary: bool,
    as_json: bool,
    **given: Any,  # noqa: ANN401  # Values of several types, which ImportOptions names.
) -> None:
    """
    Import the tracks in a CSV, JSON Lines or JSON FILE.

    FILE may be compressed by gzip; - is stdin. A JSON file is an array of objects. The fields are METADATA (UNITS),
    audio_path, thumbnail_path, id (a UUID) and status. If a track has no id, its id is derived from its audio_path. So
    the same file can be imported again, and existing tracks stay as they are.

    If `audiocatalog export` wrote FILE, new tracks keep their ids, content and statuses. PROCESSING becomes PENDING,
    and FAILED is reached by legal moves. The history gives the reason "imported". Without a column status, new tracks
    are COMPLETED. Existing tracks keep their statuses. With --restore, new tracks also keep the created_at that
    `export --all` wrote.

    A field is read from the column with its name, regardless of capitals, blanks and underscores, or with a known alias
    such as path or length. --map names any other column. The first line of a CSV file shows the delimiter: comma,
    semicolon, tab or vertical bar.

    Values may be written as 1997-05-21 (only the year is kept), 3:45, 320 kbps, 44.1 kHz or 1999.0. NULL, N/A, None,
    nan and - are missing values, except in JSON, in titles and in a full export. The summary counts all such values.

    If numbers are likely in another unit, the import stops before it saves anything. Then give the unit, as in --unit
    duration=ms or --unit bitrate=kbps, or --unit duration=s if the numbers are right.

    Refused rows are printed on stderr with their reasons, and all other rows are saved. With --refused, the refused
    rows are also written to NEW_FILE, with the reason in the last column, refused_because. Correct the rows in this
    file, and import it with the same options and another NEW_FILE.

    With --resume, the same command continues an interrupted import. STATE is removed at the end.

    If any content is new, the import ends with `audiocatalog vocabulary refresh`, which counts the words of all tracks
    to correct misspelt searches. --no-vocabulary skips this count.
    """
    options = ImportOptions(**given)
    with ExitStack() as stack:
        try:
            run = _open(options, target, stack)
        except UnusableFile as error:
            raise click.UsageError(str(error), context) from None
        except DamagedFile as error:
            raise Failure(f"{error}; nothing was saved") from None
        if options.dry_run:
            summary = _check(run)
        else:
            summary = _save(run, options, target, count=not no_vocabulary, quiet=as_json)
    if as_json:
        output.print_json(summary.json())
    else:
        if options.dry_run:
            click.echo(str(summary))
        if summary.words:
            click.echo(str(summary.words))
    _tell_what_is_left(run, options)
    if run.tally.refused:
        context.exit(ROWS_REFUSED)


def _tell_what_is_left(run: ImportRun, options: ImportOptions) -> None:
    """Warn about mapped columns that no row had, and give advice on refused rows."""
    for pair in options.mapping:
        if (column := pair.partition("=")[2]) in run.absent:
            tell(f"warning: no row has a key {quoted(column)}: check the name in --map {pair}")
    if run.not_utf8:
        tell(
            f"{counted(run.not_utf8, 'row')} refused for bytes that are not UTF-8: if the file has another encoding, "
            "name it, for example by --encoding cp1252 for a file from Windows"
        )
    if run.refused_file is not None and not run.refused_file.is_empty:
        tell(f"the refused rows are in {run.refused_file.path}: correct the rows, and import this file {options.hint}")


def _open(options: ImportOptions, target: Target, stack: ExitStack) -> ImportRun:
    """Open all files that *options* name, before connecting to a server."""
    options.check()
    plan, ignored, encoding = options.plan(), list[str](), encoding_of(options.encoding)
    checkpoint = None if options.resume is None else Checkpoint(options.resume, options.identity(target))
    file = InputFile(options.file)
    reader = stack.enter_context(
        RecordReader(
            file.stream,
            options.format,
            plan,
            ignored=ignored.extend,
            keep_sources=options.refused is not None,
            encoding=encoding,
            delimiter=options.delimiter,
        )
    )
    refused_file = None
    if options.refused is not None:
        done = None if checkpoint is None else checkpoint.done
        kept = None if done is None else done.refused_bytes
        refused_file = stack.enter_context(
            RefusedFile(
                options.refused,
                options.format,
                reader.columns,
                delimiter=reader.delimiter,
                encoding=encoding,
                kept=kept,
            )
        )
    if checkpoint is None or checkpoint.done is None:
        _test(file)
    first_rows = min(options.batch, MOST_FIRST_ROWS)
    return ImportRun(file, reader, ignored, refused_file, checkpoint, first_rows=first_rows)


def _test(file: InputFile) -> None:
    """Raise ``DamagedFile`` for a damaged file before any row is saved."""
    with progress_reporter("testing", "megabyte", file.size) as report:
        file.test(lambda unpacked, position: report.update(unpacked // _MEGABYTE, position))


def _save(run: ImportRun, options: ImportOptions, target: Target, *, count: bool, quiet: bool) -> Summary:
    """Save the rows, print the summary unless *quiet*, and count the words if *count* is true."""
    try:
        with target.catalog() as catalog:
            catalog.health()
            with progress_reporter("importing", "row", run.file.size) as report:
                seconds = run.save(catalog, report, on_conflict=options.on_conflict, batch=options.batch)
            summary = Summary(run.tally, seconds, run.reader.converted, rows_before=run.rows_before)
            if not quiet:
                click.echo(str(summary))
            if count and (run.tally.inserted or run.tally.updated):
                summary.words = _count_words(catalog)
    except CatalogError as error:
        if isinstance(error, PermissionDenied) and options.restore:
            raise Failure(f"{_NOT_THE_OWNER}; {counted(run.tally.saved, 'row')} safely saved") from None
        if not run.tally.rows:
            raise
        raise Failure(f"{failure_of(error).message}; stopped, {run.what_is_safe()}") from None
    except DamagedFile as error:
        doubt = ", but the last ones may be wrong" if error.is_garbled else ""
        raise Failure(f"{error}; stopped, {counted(run.tally.saved, 'row')} safely saved{doubt}") from None
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted, at least {run.what_is_safe()}") from None
    return summary


def _check(run: ImportRun) -> Summary:
    try:
        with progress_reporter("checking", "row", run.file.size) as report:
            return Summary(run.tally, run.check(report), run.reader.converted, is_dry=True)
    except DamagedFile as error:
        raise Failure(f"{error}; the damage follows {counted(run.tally.rows, 'checked row')}") from None


def _count_words(catalog: Catalog) -> Count | None:
    """Count the words of all tracks. If that fails, only warn, because the import is complete."""
    try:
        return count_words(catalog)
    except CatalogError as error:
        tell(f"warning: {failure_of(error).message}; {_UNCOUNTED}")
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {_UNCOUNTED}") from None
    return None
