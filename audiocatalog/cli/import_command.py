"""The command `import`: its options, the saving of the records in batches, and the display of its progress."""

from __future__ import annotations

import dataclasses
import io
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import PurePath
from types import TracebackType
from typing import Any, BinaryIO, Final, Protocol, Self, get_args

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from audiocatalog import Catalog, SaveOutcome, TrackStatus, UnitOfWork
from audiocatalog.cli import output
from audiocatalog.cli.failures import ROWS_REFUSED, Failure, Interrupted, failure_of
from audiocatalog.cli.importing import FIELDS, Format, Plan, ReadRecord, Refusal, Template, read_records
from audiocatalog.cli.options import as_json
from audiocatalog.cli.rows import UnusableFile
from audiocatalog.cli.target import Target
from audiocatalog.cli.text import counted, escape_controls, quoted, time_span
from audiocatalog.cli.vocabulary_command import Count, count_words
from audiocatalog.errors import CatalogError, CatalogInternalError, ConstraintViolation, InvalidInput, SaveConflict
from audiocatalog.status import TRANSITIONS

#: Rows in one unit of work.
BATCH: Final = 500
#: Errors that one row can cause. Any other error would stop the next row as well.
_BAD_ROW: Final = (InvalidInput, ConstraintViolation, CatalogInternalError)
_SUFFIXES: Final[dict[str, Format]] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_FIRST_STATUS: Final = click.Choice(sorted(TRANSITIONS[None]), case_sensitive=False)
_SECONDS_BETWEEN_LINES: Final = 10.0
_UNCOUNTED: Final = "the import is complete, but its words are not counted yet: run `audiocatalog vocabulary refresh`"


@click.command("import")
@click.argument("file", type=click.File("rb"))
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
@click.option("--no-vocabulary", is_flag=True, help="Do not count the words of all tracks at the end.")
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
    no_vocabulary: bool,
    as_json: bool,
) -> None:
    """
    Import the tracks in a CSV or JSON Lines FILE.

    FILE is - for stdin. The fields are title, artist, album, genre, year, duration (seconds), channels, sample_rate
    (Hz), bitrate (bit/s), format, audio_path, thumbnail_path and id (a UUID). A track without an id gets one that is
    made from its audio_path. So a file can be imported again: tracks that are there already stay as they are.

    A row that is refused is named on stderr with the reason. All other rows are saved.

    If there is any new content, the words of all tracks are counted at the end, as by `audiocatalog vocabulary
    refresh`: misspelt searches are compared with them. --no-vocabulary leaves this to you.
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
        # Reading the first row here reports wrong columns before any server is contacted.
        records = chain([first for first in (next(records, None),) if first is not None], records)
    except UnusableFile as error:
        raise click.UsageError(str(error), context) from None
    size = _size(file)
    try:
        with target.catalog() as catalog:
            catalog.health()
            begin = time.monotonic()
            with progress_reporter(tally, size) as report:
                save_records(
                    catalog,
                    _telling_of_ignored(records, ignored, report),
                    replace=replace,
                    tally=tally,
                    refused=lambda refusal: report.say(str(refusal)),
                    saved=lambda: report.update(None if size is None else file.tell()),
                )
            summary = Summary(tally, time.monotonic() - begin)
            if not as_json:
                click.echo(str(summary))
            if (tally.inserted or tally.updated) and not no_vocabulary:
                summary.words = _count_words(catalog)
    except CatalogError as error:
        if not tally.rows:
            raise
        raise Failure(f"{failure_of(error).message}; stopped, {_what_is_safe(tally)}") from None
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted, {_what_is_safe(tally)}") from None
    if as_json:
        output.print_json(summary.json())
    elif summary.words:
        click.echo(str(summary.words))
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
    """Pass *records* on, and name the columns that are not used."""
    for record in records:
        if ignored:
            report.say(f"ignored columns: {', '.join(map(quoted, ignored))}")
            ignored.clear()
        yield record


def _what_is_safe(tally: Tally) -> str:
    return f"{counted(tally.saved, 'row')} safely saved: the same command can be run again"


def _count_words(catalog: Catalog) -> Count | None:
    """Count the words of all tracks; if that fails, the import is complete all the same, so only warn."""
    try:
        return count_words(catalog)
    except CatalogError as error:
        click.echo(f"warning: {escape_controls(failure_of(error).message)}; {_UNCOUNTED}", err=True)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {_UNCOUNTED}") from None
    return None


@dataclass(slots=True)
class Tally:
    """Count the rows that have been committed or refused."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    refused: int = 0

    @property
    def saved(self) -> int:
        """Rows that are in the catalogue."""
        return self.inserted + self.updated + self.unchanged

    @property
    def rows(self) -> int:
        """Rows in all."""
        return self.saved + self.refused

    def add(self, outcome: SaveOutcome) -> None:
        """Count a row that was saved."""
        setattr(self, outcome, getattr(self, outcome) + 1)


@dataclass(slots=True)
class Summary:
    """Tell what an import of so many *seconds* has done, and the count of the *words* if there was one."""

    tally: Tally
    seconds: float
    words: Count | None = None

    @property
    def rate(self) -> float:
        """Rows per second."""
        return self.tally.rows / max(self.seconds, 0.001)

    def __str__(self) -> str:
        counts = ", ".join(f"{count:,} {name}" for name, count in dataclasses.asdict(self.tally).items())
        return f"{counted(self.tally.rows, 'row')} in {self.seconds:.1f} s ({self.rate:,.0f} rows/s): {counts}"

    def json(self) -> dict[str, Any]:
        """Return the summary, ready for JSON."""
        return {
            "rows": self.tally.rows,
            **dataclasses.asdict(self.tally),
            "seconds": round(self.seconds, 3),
            "rows_per_second": round(self.rate, 1),
            "vocabulary": self.words and self.words.json(),
        }


def save_records(
    catalog: Catalog,
    items: Iterable[ReadRecord | Refusal],
    *,
    replace: bool,
    tally: Tally,
    refused: Callable[[Refusal], None],
    saved: Callable[[], None] = lambda: None,
) -> None:
    """
    Save the records of *items* in batches, and call *refused* for each row that cannot be saved, in their order.

    *tally* is updated and *saved* is called after each batch, so *tally* is also right after an error.

    Raises:
        CatalogError: an error that no row has caused. The rows that *tally* counts as saved are committed.
    """
    remaining = iter(items)
    while batch := list(islice(remaining, BATCH)):
        outcomes = iter(_save_batch(catalog, [item for item in batch if isinstance(item, ReadRecord)], replace=replace))
        for item in batch:
            outcome = item if isinstance(item, Refusal) else next(outcomes)
            if isinstance(outcome, Refusal):
                tally.refused += 1
                refused(outcome)
            else:
                tally.add(outcome)
        saved()


def _save_batch(catalog: Catalog, records: list[ReadRecord], *, replace: bool) -> list[SaveOutcome | Refusal]:
    """Save *records* in one unit of work, or each in its own if one of them makes that fail."""
    if not records:
        return []
    try:
        return catalog.run(lambda work: [_save_one(work, record, replace=replace) for record in records])
    except _BAD_ROW as error:
        if len(records) == 1:
            return [Refusal(records[0].place, _reason(error))]
    return [outcome for record in records for outcome in _save_batch(catalog, [record], replace=replace)]


def _save_one(work: UnitOfWork, read: ReadRecord, *, replace: bool) -> SaveOutcome | Refusal:
    try:
        track = work.save_record(read.record, replace=replace)
    except SaveConflict:
        # No statement has failed on the server, so the transaction goes on with the other rows.
        return Refusal(
            read.place, f"id: track {read.record.id} exists with other content, which --replace would overwrite"
        )
    assert track.outcome is not None  # noqa: S101
    return track.outcome


def _reason(error: CatalogError) -> str:
    return f"{error} (SQLSTATE {error.sqlstate})" if isinstance(error, CatalogInternalError) else str(error)


class Reporter(Protocol):
    """Print the progress of an import and other lines on stderr."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def say(self, line: str) -> None:
        """Print *line*, without disturbing the progress."""

    def update(self, position: int | None) -> None:
        """Show the progress after *position* bytes; None if that is unknown."""


def progress_reporter(tally: Tally, size: int | None, clock: Callable[[], float] = time.monotonic) -> Reporter:
    """Return a bar if stderr is a terminal, else a printer of lines; *size* is in bytes, None if it is unknown."""
    console = Console(stderr=True, highlight=False)
    speed = _Speed(tally, size, clock)
    return _ProgressBar(console, speed) if console.is_interactive else _ProgressLines(speed)


class _Speed:
    """Describe how many rows are done, how fast, and how much time is left."""

    def __init__(self, tally: Tally, size: int | None, clock: Callable[[], float]) -> None:
        self.tally = tally
        self.size = size
        self.clock = clock
        self.position: int | None = 0
        self._start = clock()

    def __str__(self) -> str:
        seconds = self.clock() - self._start
        parts = [counted(self.tally.rows, "row")]
        if self.tally.refused:
            parts.append(f"{self.tally.refused:,} refused")
        if seconds > 0:
            parts.append(f"{self.tally.rows / seconds:,.0f} rows/s")
        if self.size and self.position:
            parts.append(f"{time_span(round(seconds * (self.size - self.position) / self.position))} left")
        return ", ".join(parts)


class _ProgressLines:
    """Print a plain line every ten seconds."""

    def __init__(self, speed: _Speed) -> None:
        self._speed = speed
        self._last = speed.clock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, line: str) -> None:
        click.echo(line, err=True)

    def update(self, position: int | None) -> None:
        self._speed.position = position
        if (now := self._speed.clock()) - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            done = f"{100 * position // self._speed.size} %, " if self._speed.size and position else ""
            self.say(f"importing: {done}{self._speed}")


class _ProgressBar:
    """Draw a progress bar below the other lines."""

    def __init__(self, console: Console, speed: _Speed) -> None:
        self._speed = speed
        self._progress = Progress(
            TextColumn("importing"), BarColumn(bar_width=24), TextColumn("{task.description}"), console=console,
            transient=True,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=speed.size)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, line: str) -> None:
        # The terminal wraps the text, so that it can be copied as one line.
        self._progress.console.print(Text(line), soft_wrap=True)

    def update(self, position: int | None) -> None:
        self._speed.position = position
        self._progress.update(self._task, completed=position, description=str(self._speed))
