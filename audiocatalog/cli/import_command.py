"""The command `import`: its options, and what it prints."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Final, get_args

import click

from audiocatalog import Catalog, OnConflict, TrackStatus
from audiocatalog.bulk import BATCH
from audiocatalog.cli import output
from audiocatalog.cli.checkpoint import Checkpoint
from audiocatalog.cli.failures import ROWS_REFUSED, Failure, Interrupted, failure_of, tell
from audiocatalog.cli.import_run import ImportRun
from audiocatalog.cli.importing import FIELDS, Format, Plan, RecordReader, Template, format_of
from audiocatalog.cli.input_file import DamagedFile, InputFile, size_of
from audiocatalog.cli.options import as_json
from audiocatalog.cli.progress import progress_reporter
from audiocatalog.cli.refused_file import RefusedFile
from audiocatalog.cli.rows import UnusableFile
from audiocatalog.cli.saving import Tally
from audiocatalog.cli.target import Target
from audiocatalog.cli.text import counted, quoted
from audiocatalog.cli.vocabulary_command import Count, count_words
from audiocatalog.errors import CatalogError
from audiocatalog.status import TRANSITIONS

_FIRST_STATUS: Final = click.Choice(sorted(TRANSITIONS[None]), case_sensitive=False)
_MEGABYTE: Final = 10**6
_UNCOUNTED: Final = "the import is complete, but its words are not counted yet: run `audiocatalog vocabulary refresh`"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The options of the command, by their names."""

    file: BinaryIO
    file_format: Format | None
    mapping: Sequence[str]
    template: str | None
    id_from: str | None
    status: str
    replace: bool
    skip_existing: bool
    batch: int
    dry_run: bool
    refused: Path | None
    resume: Path | None

    @property
    def on_conflict(self) -> OnConflict:
        if self.replace:
            return OnConflict.REPLACE
        return OnConflict.SKIP if self.skip_existing else OnConflict.ERROR

    @property
    def format(self) -> Format:
        """The format of the file: the one that is named, or that of its name."""
        if self.file_format is not None:
            return self.file_format
        name = getattr(self.file, "name", "")
        if found := format_of(PurePath(name if isinstance(name, str) else "")):
            return found
        raise UnusableFile("the name of the file does not end in .csv or .jsonl: say what it is by --format")

    def check(self) -> None:
        """Refuse options that contradict each other."""
        if self.replace and self.skip_existing:
            raise UnusableFile("--replace and --skip-existing say two things: leave one of them out")
        if self.template is not None and not self.template.strip():
            raise UnusableFile("--audio-path is empty: it needs a template such as 's3://music/{id}.mp3'")
        if self.resume is not None:
            if self.dry_run:
                raise UnusableFile("--dry-run saves nothing that --resume could go on after: leave one of them out")
            if self.resume == self.refused:
                raise UnusableFile("--resume and --refused name the same file")
            if size_of(self.file) is None:
                raise UnusableFile("--resume needs a file that can be read again: a pipe cannot")
        if self.refused is not None:
            self._check_refused(self.refused)

    def _check_refused(self, refused: Path) -> None:
        """Refuse a name that says something else than what will stand in the file."""
        if _is_at(self.file, refused):
            raise UnusableFile("--refused names the file that is imported: name another one")
        if refused.suffix.lower() == ".gz":
            raise UnusableFile("--refused: the rows are written as they are, to be mended by hand: leave .gz away")
        if (other := format_of(refused)) not in {None, self.format}:
            raise UnusableFile(f"--refused: the rows are {self.format}, not {other}: name it .{self.format}")

    @property
    def hint(self) -> str:
        """With which options the file of refused rows can be imported."""
        is_told = self.file_format is not None or self.refused is None or format_of(self.refused) is not None
        file_format = "" if is_told else f" and --format {self.format}"
        return f"with the same options{file_format}, but another file for --refused"

    def plan(self) -> Plan:
        """Return what the columns mean."""
        return Plan(
            columns=_parse_mapping(self.mapping),
            audio_path=None if self.template is None else Template.parse(self.template),
            id_from=self.id_from,
            status=TrackStatus(self.status),
        )

    def identity(self, target: Target) -> dict[str, Any]:
        """Return what must be the same when an import goes on."""
        status = os.fstat(self.file.fileno())
        return {
            "the file": PurePath(self.file.name).name,
            "its size": status.st_size,
            "its last change": datetime.fromtimestamp(status.st_mtime, UTC).isoformat(),
            "the database": target.place,
            "--format": self.format,
            "--map": sorted(self.mapping),
            "--audio-path": self.template,
            "--id-from": self.id_from,
            "--status": self.status,
            "--replace": self.replace,
            "--skip-existing": self.skip_existing,
            "--refused": self.refused and str(self.refused.absolute()),
        }


class _Input(click.File):
    """A file to be read, or stdin, which may be closed."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        """Open the file."""
        if value == "-" and sys.stdin is None:
            raise Failure("stdin is closed")
        return super().convert(value, param, ctx)


@click.command("import")
@click.argument("file", type=_Input("rb"))
@click.option(
    "--format",
    "file_format",
    type=click.Choice(get_args(Format)),
    help="The format, if the name of FILE does not tell it.",
)
@click.option("--map", "mapping", metavar="FIELD=COLUMN", multiple=True, help="The column that holds a field.")
@click.option("--audio-path", "template", metavar="TEMPLATE", help="Make paths: 's3://music/{id}.mp3'.")
@click.option("--id-from", metavar="COLUMN", help="Make ids from a column that differs for each track.")
@click.option("--status", type=_FIRST_STATUS, default="COMPLETED", show_default=True, help="The status of new tracks.")
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
    **given: Any,  # noqa: ANN401  # Values of several types, which _Options names.
) -> None:
    """
    Import the tracks in a CSV or JSON Lines FILE.

    FILE is - for stdin, and may be compressed by gzip. The fields are title, artist, album, genre, year, duration
    (seconds), channels, sample_rate (Hz), bitrate (bit/s), format, audio_path, thumbnail_path and id (a UUID). A track
    without an id gets one that is made from its audio_path. So a file can be imported again: tracks that are there
    already stay as they are.

    A row that is refused is named on stderr with the reason. All other rows are saved. With --refused, the refused
    rows are also written to a file, each with its reason as a last column, refused_because. Mend them there, and import
    that file with the same options, but another NEW_FILE.

    With --resume, the same command goes on where it was interrupted. The file STATE is removed at the end.

    If there is any new content, the words of all tracks are counted at the end, as by `audiocatalog vocabulary
    refresh`: misspelt searches are compared with them. --no-vocabulary leaves this to you.
    """
    options = _Options(**given)
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
    elif options.dry_run:
        click.echo(str(summary))
    elif summary.words:
        click.echo(str(summary.words))
    _tell_what_is_left(run, options)
    if run.tally.refused:
        context.exit(ROWS_REFUSED)


def _tell_what_is_left(run: ImportRun, options: _Options) -> None:
    """Warn of a column that no row had, and say what to do with the refused rows."""
    for pair in options.mapping:
        if (column := pair.partition("=")[2]) in run.absent:
            tell(f"warning: no row has a key {quoted(column)} (--map {pair})")
    if run.refused_file is not None and not run.refused_file.is_empty:
        tell(f"the refused rows are in {run.refused_file.path}: mend them there, and import that file {options.hint}")


def _open(options: _Options, target: Target, stack: ExitStack) -> ImportRun:
    """Open all files that *options* name, before any server is asked."""
    options.check()
    plan, ignored = options.plan(), list[str]()
    checkpoint = None if options.resume is None else Checkpoint(options.resume, options.identity(target))
    file = InputFile(options.file)
    reader = stack.enter_context(
        RecordReader(
            file.stream, options.format, plan, ignored=ignored.extend, keep_sources=options.refused is not None
        )
    )
    refused_file = None
    if options.refused is not None:
        done = None if checkpoint is None else checkpoint.done
        kept = None if done is None else done.refused_bytes
        refused_file = stack.enter_context(RefusedFile(options.refused, options.format, reader.columns, kept=kept))
    if checkpoint is None or checkpoint.done is None:
        _test(file)
    return ImportRun(file, reader, ignored, refused_file, checkpoint)


def _test(file: InputFile) -> None:
    """Refuse a damaged file before a row of it is saved."""
    with progress_reporter("testing", "megabyte", file.size) as report:
        file.test(lambda unpacked, position: report.update(unpacked // _MEGABYTE, position))


def _save(run: ImportRun, options: _Options, target: Target, *, count: bool, quiet: bool) -> Summary:
    """Save the rows, print what was done unless that is to be *quiet*, and *count* the words."""
    try:
        with target.catalog() as catalog:
            catalog.health()
            with progress_reporter("importing", "row", run.file.size) as report:
                seconds = run.save(catalog, report, on_conflict=options.on_conflict, batch=options.batch)
            summary = Summary(run.tally, seconds, rows_before=run.rows_before)
            if not quiet:
                click.echo(str(summary))
            if count and (run.tally.inserted or run.tally.updated):
                summary.words = _count_words(catalog)
    except CatalogError as error:
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
            return Summary(run.tally, run.check(report), is_dry=True)
    except DamagedFile as error:
        raise Failure(f"{error}; {run.tally.rows:,} rows before that were checked") from None


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether *file* is the regular file at *path*."""
    if size_of(file) is not None:
        with suppress(OSError):
            return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


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


def _count_words(catalog: Catalog) -> Count | None:
    """Count the words of all tracks; if that fails, the import is complete all the same, so only warn."""
    try:
        return count_words(catalog)
    except CatalogError as error:
        tell(f"warning: {failure_of(error).message}; {_UNCOUNTED}")
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {_UNCOUNTED}") from None
    return None


@dataclass(slots=True)
class Summary:
    """
    Tell what an import of so many *seconds* has done, and the count of the *words* if there was one.

    Earlier runs have done *rows_before* of the rows. An import that *is_dry* has saved none of them.
    """

    tally: Tally
    seconds: float
    rows_before: int = 0
    is_dry: bool = False
    words: Count | None = None

    @property
    def rate(self) -> float:
        """Rows per second."""
        return (self.tally.rows - self.rows_before) / max(self.seconds, 0.001)

    def __str__(self) -> str:
        rows = counted(self.tally.rows, "row")
        if self.rows_before:
            rows += f", {self.rows_before:,} of them before,"
        time = f"in {self.seconds:.1f} s ({self.rate:,.0f} rows/s)"
        if self.is_dry:
            return f"{rows} checked {time}: {self.tally.inserted:,} could be saved, {self.tally.refused:,} refused"
        return f"{rows} {time}: {', '.join(f'{count:,} {name}' for name, count in self._counts().items())}"

    def json(self) -> dict[str, Any]:
        """Return the summary, ready for JSON."""
        counts = {"valid": self.tally.inserted, "refused": self.tally.refused} if self.is_dry else self._counts()
        return {
            "rows": self.tally.rows,
            **counts,
            "dry_run": self.is_dry,
            "resumed_after": self.rows_before or None,
            "seconds": round(self.seconds, 3),
            "rows_per_second": round(self.rate, 1),
            "vocabulary": self.words and self.words.json(),
        }

    def _counts(self) -> dict[str, int]:
        return dataclasses.asdict(self.tally)
