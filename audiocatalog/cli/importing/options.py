"""The options of an import: their meaning together, and their contradictions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any, BinaryIO

from audiocatalog import OnConflict, TrackStatus
from audiocatalog.cli.importing.columns import FIELDS
from audiocatalog.cli.importing.input_file import size_of
from audiocatalog.cli.importing.lines import UnusableFile
from audiocatalog.cli.importing.records import Format, Plan, Template, format_of
from audiocatalog.cli.target import Target
from audiocatalog.cli.text import quoted
from audiocatalog.cli.units import UNITS


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """The options of the command `import`, by their names."""

    file: BinaryIO
    file_format: Format | None
    delimiter: str | None
    encoding: str
    mapping: Sequence[str]
    unit: Sequence[str]
    template: str | None
    id_from: str | None
    status: str | None
    restore: bool
    replace: bool
    skip_existing: bool
    batch: int
    dry_run: bool
    refused: Path | None
    resume: Path | None

    @property
    def on_conflict(self) -> OnConflict:
        """What the import does with tracks that are there with other content."""
        if self.replace:
            return OnConflict.REPLACE
        return OnConflict.SKIP if self.skip_existing else OnConflict.ERROR

    @property
    def format(self) -> Format:
        """The format of the file: that of --format, or that of its name."""
        if self.file_format is not None:
            return self.file_format
        name = getattr(self.file, "name", "")
        if found := format_of(PurePath(name if isinstance(name, str) else ""), is_read=True):
            return found
        is_stdin = name in {"", "-", "<stdin>"}
        why = "stdin has no name" if is_stdin else "the name of the file does not end in .csv, .tsv, .jsonl or .json"
        raise UnusableFile(f"{why}: say what it is by --format")

    def check(self) -> None:
        """Refuse options that contradict each other."""
        if self.replace and self.skip_existing:
            raise UnusableFile("--replace and --skip-existing say two things: leave one of them out")
        if self.delimiter is not None and self.format != "csv":
            raise UnusableFile("--delimiter parts the cells of CSV: this file is JSON")
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
        if (other := format_of(refused, is_read=True)) not in {None, self.format}:
            raise UnusableFile(f"--refused: the rows are {self.format}, not {other}: name it .{self.format}")

    @property
    def hint(self) -> str:
        """With which options the file of refused rows can be imported."""
        is_told = self.file_format is not None or self.refused is None or format_of(self.refused, is_read=True)
        file_format = "" if is_told else f" and --format {self.format}"
        return f"with the same options{file_format}, but another file for --refused"

    def plan(self) -> Plan:
        """Return what the columns mean."""
        return Plan(
            columns=_parse_mapping(self.mapping),
            audio_path=None if self.template is None else Template.parse(self.template),
            id_from=self.id_from,
            status=None if self.status is None else TrackStatus(self.status),
            restores=self.restore,
            units=_parse_units(self.unit),
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
            "--delimiter": self.delimiter,
            "--encoding": self.encoding,
            "--map": sorted(self.mapping),
            "--unit": sorted(self.unit),
            "--audio-path": self.template,
            "--id-from": self.id_from,
            "--status": self.status,
            "--restore": self.restore,
            "--replace": self.replace,
            "--skip-existing": self.skip_existing,
            "--refused": self.refused and str(self.refused.absolute()),
        }


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


def _parse_units(pairs: Sequence[str]) -> dict[str, str]:
    units: dict[str, str] = {}
    for pair in pairs:
        field, _, unit = pair.partition("=")
        offered = UNITS.get(field)
        if offered is None:
            raise UnusableFile(f"--unit {quoted(pair)} is not of the form FIELD=UNIT with {', '.join(UNITS)}")
        found = next((name for name in offered.offered if name.lower() == unit.lower()), None)
        if found is None:
            raise UnusableFile(f"--unit: {quoted(unit)} is no unit of {field}: {', '.join(offered.offered)} are")
        if field in units:
            raise UnusableFile(f"--unit: the field {field} has two units")
        units[field] = found
    return units
