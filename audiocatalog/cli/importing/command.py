"""The command `import`: its options, and what it prints."""

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
    "--restore: only the owner of the schema may say when a track was created: leave it out, or connect as the owner"
)
_UNCOUNTED: Final = "the import is complete, but its words are not counted yet: run `audiocatalog vocabulary refresh`"


def _read_delimiter(context: click.Context, option: click.Parameter, text: str | None) -> str | None:
    if text is None:
        return None
    found = "\t" if text in {"tab", "\\t"} else text
    if len(found) != 1 or found in '"\r\n\0 ':
        raise click.BadParameter(f'"{text}" is not one sign such as ; or |, or "tab"', context, option)
    return found


class _Input(click.File):
    """A file to be read, or stdin, which may be closed."""

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
    help="The format, if the name of FILE does not tell it.",
)
@click.option("--delimiter", metavar="CHAR", callback=_read_delimiter, help="What parts the cells of CSV: ; or tab.")
@click.option("--encoding", metavar="NAME", default="utf-8", help="The encoding of FILE, such as cp1252 or utf-16.")
@click.option("--map", "mapping", metavar="FIELD=COLUMN", multiple=True, help="The column that holds a field.")
@click.option("--unit", metavar="FIELD=UNIT", multiple=True, help="The unit of bare numbers: duration=ms.")
@click.option("--audio-path", "template", metavar="TEMPLATE", help="Make paths: 's3://music/{id}.mp3'.")
@click.option("--id-from", metavar="COLUMN", help="Make ids from a column that differs for each track.")
@click.option("--status", type=_FIRST_STATUS, help="The status of all new tracks, whatever the file says.")
@click.option(
    "--restore", is_flag=True, help="Also keep when new tracks were created; only the owner of the schema may."
)
@click.option("--replace", is_flag=True, help="Overwrite tracks that exist with other content.")
@click.option("--skip-existing", is_flag=True, help="Leave tracks that exist as they are, whatever they hold.")
@click.option("--dry-run", is_flag=True, help="Only check the rows; needs no database.")
@click.option(
    "--refused",
    metavar="NEW_FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the rows that are refused there.",
)
@click.option(
    "--resume",
    metavar="STATE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep the place in this file, and go on from it.",
)
@click.option(
    "--batch", type=click.IntRange(1, 50_000), default=BATCH, show_default=True, help="Rows in one transaction."
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

    FILE is - for stdin, and may be compressed by gzip; JSON is an array of objects. The fields are METADATA (UNITS),
    audio_path, thumbnail_path, id (a UUID) and status. A track without an id gets one that is made from its audio_path.
    So a file can be imported again: tracks that are there already stay as they are.

    What `audiocatalog export` has written comes back with its ids, content and statuses. FAILED is reached by the legal
    moves, PROCESSING waits as PENDING, and the history says "imported". Without a column status, new tracks are
    COMPLETED; tracks that are there already keep their statuses. With --restore, new tracks keep the column created_at
    too, as `export --all` writes it. Versions, histories and edits are not part of an export.

    A column is known by its field's name, whatever its capitals, blanks and underscores, or by another plain name such
    as path or length; --map names any other. The first line of CSV tells what parts the cells: commas, semicolons, tabs
    or vertical bars.

    Cells are read as people write them: a date as its year, 3:45, 320 kbps, 44.1 kHz, 1999.0; NULL, N/A, None, nan
    and - are missing values (in JSON, in titles and in a full export, such text stays). What was read so is counted at
    the end. Numbers that are likely in another unit stop the import before anything is saved: --unit says what they
    are, as in --unit duration=ms or --unit bitrate=kbps, or --unit duration=s if they are right.

    A row that is refused is named on stderr with the reason. All other rows are saved. With --refused, the refused
    rows are also written to a file, each with its reason as a last column, refused_because. Mend them there, and import
    that file with the same options, but another NEW_FILE.

    With --resume, the same command goes on where it was interrupted. The file STATE is removed at the end.

    If there is any new content, the words of all tracks are counted at the end, as by `audiocatalog vocabulary
    refresh`: misspelt searches are compared with them. --no-vocabulary leaves this to you.
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
    """Warn of a column that no row had, and say what to do with the refused rows."""
    for pair in options.mapping:
        if (column := pair.partition("=")[2]) in run.absent:
            tell(f"warning: no row has a key {quoted(column)} (--map {pair})")
    if run.not_utf8:
        tell(
            f"{counted(run.not_utf8, 'row')} refused for bytes that are not UTF-8: if the file has another encoding, "
            "name it, as by --encoding cp1252 for one of Windows"
        )
    if run.refused_file is not None and not run.refused_file.is_empty:
        tell(f"the refused rows are in {run.refused_file.path}: mend them there, and import that file {options.hint}")


def _open(options: ImportOptions, target: Target, stack: ExitStack) -> ImportRun:
    """Open all files that *options* name, before any server is asked."""
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
    """Refuse a damaged file before a row of it is saved."""
    with progress_reporter("testing", "megabyte", file.size) as report:
        file.test(lambda unpacked, position: report.update(unpacked // _MEGABYTE, position))


def _save(run: ImportRun, options: ImportOptions, target: Target, *, count: bool, quiet: bool) -> Summary:
    """Save the rows, print what was done unless that is to be *quiet*, and *count* the words."""
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
        raise Failure(f"{error}; checked until then: {counted(run.tally.rows, 'row')}") from None


def _count_words(catalog: Catalog) -> Count | None:
    """Count the words of all tracks; if that fails, the import is complete all the same, so only warn."""
    try:
        return count_words(catalog)
    except CatalogError as error:
        tell(f"warning: {failure_of(error).message}; {_UNCOUNTED}")
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {_UNCOUNTED}") from None
    return None
