"""One run of an import: it reads rows, saves them, reports progress and keeps the state for a later run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from audiocatalog import Catalog, OnConflict
from audiocatalog.cli.failures import WrongSettings
from audiocatalog.cli.importing.checkpoint import Checkpoint, Done
from audiocatalog.cli.importing.columns import listed
from audiocatalog.cli.importing.doubts import MOST_FIRST_ROWS, doubt_about, first_of, shown_delimiter
from audiocatalog.cli.importing.input_file import DamagedFile, InputFile
from audiocatalog.cli.importing.lines import UTF8
from audiocatalog.cli.importing.records import ReadRecord, RecordReader, RefusedRow
from audiocatalog.cli.importing.refused_file import RefusedFile
from audiocatalog.cli.importing.saving import Committed, Tally, save_records
from audiocatalog.cli.progress import Reporter
from audiocatalog.cli.text import counted, quoted

_ROWS_BETWEEN_UPDATES: Final = 1000


@dataclass(slots=True)
class ImportRun:
    """
    A run that saves the rows from *reader* in a catalogue, or only checks them.

    - *ignored*: ignored columns that are not reported yet
    - *tally*: the numbers of rows that this run and earlier runs have committed or refused, even after an error
    - *first_rows*: the maximum number of rows that are checked for likely mistakes before any is saved
    """

    file: InputFile
    reader: RecordReader
    ignored: list[str]
    refused_file: RefusedFile | None = None
    checkpoint: Checkpoint | None = None
    first_rows: int = MOST_FIRST_ROWS
    tally: Tally = field(default_factory=Tally)
    #: The number of rows that earlier runs committed or refused.
    rows_before: int = 0
    #: The number of refused rows with bytes that are not UTF-8.
    not_utf8: int = 0
    _last_id: str | None = None
    _told: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.checkpoint is not None and (done := self.checkpoint.done) is not None:
            self.tally = Tally(done.inserted, done.updated, done.unchanged, done.refused)
            self.rows_before = done.rows
            self._last_id = done.last_id

    def save(self, catalog: Catalog, report: Reporter, *, on_conflict: OnConflict, batch: int) -> float:
        """
        Save the records, and return the duration in seconds.

        Raises:
            CatalogError: an error that no row caused.
            DamagedFile: the file cannot be read to its end.
            WrongSettings: an earlier run saved to another catalogue, or the options do not fit the file.
        """
        if self.rows_before and self.checkpoint is not None:
            self._skip(catalog, report, self.checkpoint)
        begin = time.monotonic()
        items = self._items(report)
        save_records(
            catalog,
            items,
            on_conflict=on_conflict,
            batch=batch,
            tally=self.tally,
            refused=lambda refusal: self._refuse(refusal, report),
            committed=lambda committed: self._remember(committed, report),
            position=lambda: self.file.position,
        )
        if self.checkpoint is not None:
            self.checkpoint.remove()
        return time.monotonic() - begin

    def check(self, report: Reporter) -> float:
        """
        Read and check all rows, and return the duration in seconds. *tally* counts valid rows as inserted.

        Raises:
            DamagedFile: the file cannot be read to its end.
            WrongSettings: the options do not fit the file.
        """
        begin = time.monotonic()
        for item in self._items(report):
            if isinstance(item, RefusedRow):
                self.tally.refused += 1
                self._refuse(item, report)
            else:
                self.tally.inserted += 1
            if self.tally.rows % _ROWS_BETWEEN_UPDATES == 0:
                report.update(self.tally.rows, self.file.position, self.tally.refused)
        return time.monotonic() - begin

    def _skip(self, catalog: Catalog, report: Reporter, checkpoint: Checkpoint) -> None:
        if self._last_id is not None and catalog.find(self._last_id) is None:
            raise WrongSettings(
                f"{checkpoint.path}: the track {self._last_id}, which an earlier run saved, is not in the catalogue. "
                f"{checkpoint.how_to_go_on}"
            )
        report.say(f"continuing after row {self.rows_before:,}")
        report.begin("skipping", 0, 0)
        for row in self.reader.skip(self.rows_before):
            if row % _ROWS_BETWEEN_UPDATES == 0:
                report.update(row, self.file.position)
        report.begin("importing", self.rows_before, self.file.position)

    def _items(self, report: Reporter) -> Iterator[ReadRecord | RefusedRow]:
        """
        Check the first rows, report the columns, and return an iterator over all rows.

        Raises:
            WrongSettings: the first rows show that the options are probably wrong.
        """
        if self.reader.delimiter != ",":
            report.say(f"the columns are separated by {shown_delimiter(self.reader.delimiter)}")
        self._tell_columns(report)
        items = iter(self.reader)
        first, damage = first_of(items, self.first_rows)
        if not self.rows_before:
            doubt = doubt_about(first, self.reader.units, keeps_refused=self.refused_file is not None)
            if doubt is not None:
                raise WrongSettings(f"{doubt}; nothing was saved")
        return self._given(first, damage, items, report)

    def _given(
        self,
        first: Sequence[ReadRecord | RefusedRow],
        damage: DamagedFile | None,
        items: Iterator[ReadRecord | RefusedRow],
        report: Reporter,
    ) -> Iterator[ReadRecord | RefusedRow]:
        self._tell_columns(report)
        yield from first
        if damage is not None:
            raise damage
        for item in items:
            self._tell_columns(report)
            yield item

    def _tell_columns(self, report: Reporter) -> None:
        """Report columns with another name than their field and ignored columns, each once."""
        if len(self._told) < len(self.reader.renamed):
            new = {field: column for field, column in self.reader.renamed.items() if field not in self._told}
            self._told.update(new)
            report.say(f"columns by another name: {', '.join(self._meaning(*pair) for pair in new.items())}")
        if self.ignored:
            report.say(f"ignored columns: {listed(self.ignored)}")
            self.ignored.clear()

    def _meaning(self, field: str, column: str) -> str:
        unit = self.reader.units.get(field)
        return f"{quoted(column)} is {field}{f' in {unit}' if unit else ''}"

    def _refuse(self, refusal: RefusedRow, report: Reporter) -> None:
        self.not_utf8 += f"not {UTF8}" in refusal.reason
        is_kept = self.refused_file is None or self.refused_file.write(refusal)
        report.say(str(refusal) if is_kept else f"{refusal}: also too long for the file of refused rows")

    def _remember(self, committed: Committed, report: Reporter) -> None:
        """Store the refused rows on the disk, then the checkpoint that counts them."""
        tally = self.tally
        if committed.last_id is not None:
            self._last_id = str(committed.last_id)
        if self.checkpoint is not None:
            length = None
            if self.refused_file is not None:
                self.refused_file.sync()
                length = self.refused_file.length
            self.checkpoint.write(Done(**dataclasses.asdict(tally), last_id=self._last_id, refused_bytes=length))
        report.update(tally.rows, committed.position, tally.refused)

    @property
    def absent(self) -> set[str]:
        """The columns of --map that no row had; empty if there was no row."""
        return self.reader.absent if self.tally.rows else set()

    def what_is_safe(self) -> str:
        """Return the number of saved rows, and what the same command does next."""
        again = "can be repeated" if self.checkpoint is None else "continues from there"
        return f"{counted(self.tally.saved, 'row')} safely saved: the same command {again}"
