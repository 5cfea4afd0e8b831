"""The options of an import, and the checks of their combinations."""

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
        """What the import does with existing tracks that have other content."""
        if self.replace:
            return OnConflict.REPLACE
        return OnConflict.SKIP if self.skip_existing else OnConflict.ERROR

    @property
    def format(self) -> Format:
        """The format of the file, from --format or from its name."""
        if self.file_format is not None:
            return self.file_format
        name = getattr(self.file, "name", "")
        if found := format_of(PurePath(name if isinstance(name, str) else ""), is_read=True):
            return found
        is_stdin = name in {"", "-", "<stdin>"}
        why = "stdin has no name" if is_stdin else "the name of the file does not end in .csv, .tsv, .jsonl or .json"
        raise UnusableFile(f"{why}: give the format by --format")

    def check(self) -> None:
        """Raise ``UnusableFile`` for options that contradict each other."""
        if self.replace and self.skip_existing:
            raise UnusableFile("--replace and --skip-existing exclude each other: leave one of them out")
        if self.delimiter is not None and self.format != "csv":
            raise UnusableFile("--delimiter works for CSV only, and this file is JSON: leave --delimiter out")
        if self.template is not None and not self.template.strip():
            raise UnusableFile("--audio-path is empty: give a template such as 's3://music/{id}.mp3'")
        if self.resume is not None:
            if self.dry_run:
                raise UnusableFile(
                    "--dry-run saves nothing, so --resume has nothing to continue: leave one of them out"
                )
            if self.resume == self.refused:
                raise UnusableFile("--resume and --refused name the same file: give each its own")
            if size_of(self.file) is None:
                raise UnusableFile("--resume cannot read a pipe again: store the input in a file")
        if self.refused is not None:
            self._check_refused(self.refused)

    def _check_refused(self, refused: Path) -> None:
        """Raise ``UnusableFile`` if the name of the file contradicts its content."""
        if _is_at(self.file, refused):
            raise UnusableFile("--refused names the imported file: give another name")
        if refused.suffix.lower() == ".gz":
            raise UnusableFile("--refused: the file is not compressed, so that you can edit it: leave .gz out")
        if (other := format_of(refused, is_read=True)) not in {None, self.format}:
            raise UnusableFile(f"--refused: the rows are {self.format}, not {other}: name it .{self.format}")

    @property
    def hint(self) -> str:
        """The options for an import of the refused rows, as a phrase."""
        is_told = self.file_format is not None or self.refused is None or format_of(self.refused, is_read=True)
        file_format = "" if is_told else f" and --format {self.format}"
        return f"with the same options{file_format}, but another file for --refused"

    def plan(self) -> Plan:
        """Return the plan for the columns."""
        return Plan(
            columns=_parse_mapping(self.mapping),
            audio_path=None if self.template is None else Template.parse(self.template),
            id_from=self.id_from,
            status=None if self.status is None else TrackStatus(self.status),
            restores=self.restore,
            units=_parse_units(self.unit),
        )

    def identity(self, target: Target) -> dict[str, Any]:
        """Return the facts that must not change before an import is resumed."""
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
    """Return whether *file* is the regular file at *path*."""
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
            raise UnusableFile(f"--map: there is no field {quoted(field)}: the fields are {', '.join(FIELDS)}")
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
            raise UnusableFile(f"--unit: {quoted(unit)} is not a unit of {field}: use {', '.join(offered.offered)}")
        if field in units:
            raise UnusableFile(f"--unit: the field {field} has two units")
        units[field] = found
    return units
