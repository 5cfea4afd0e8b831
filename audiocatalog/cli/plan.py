"""What the columns of an imported file mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

from audiocatalog.cli.rows import UnusableFile
from audiocatalog.cli.text import quoted
from audiocatalog.errors import Problem
from audiocatalog.metadata import METADATA_FIELDS
from audiocatalog.status import TrackStatus

Format = Literal["csv", "jsonl"]

#: What a file can say of a track.
FIELDS: Final = (*METADATA_FIELDS, "audio_path", "thumbnail_path", "id")

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Template:
    """
    Make a path from a row: *parts* are literal text and, at every odd index, the names of columns.

    >>> Template.parse("s3://music/{id}.mp3").parts
    ('s3://music/', 'id', '.mp3')

    """

    parts: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Return the template in *text*, where ``{column}`` stands for a cell, and ``{{`` and ``}}`` for braces.

        Raises:
            UnusableFile: a brace stands alone.
        """
        literals, parts = re.split(r"(\{\{|\}\}|\{[^{}]+\})", text), [""]
        for index, piece in enumerate(literals):
            if index % 2 and piece not in {"{{", "}}"}:
                parts += [piece[1:-1], ""]
                continue
            if not index % 2 and re.search("[{}]", piece):
                raise UnusableFile(f"the template {quoted(text)} has a single brace: columns are written {{column}}")
            parts[-1] += piece[:1] if index % 2 else piece
        return cls(tuple(parts))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it needs."""
        return self.parts[1::2]

    def fill(self, cells: Mapping[str, Any]) -> str | Problem:
        """Return the path for a row, or what is missing there."""
        filled = list(self.parts)
        for index in range(1, len(filled), 2):
            text = text_of("audio_path", filled[index], cells)
            if isinstance(text, Problem):
                return text
            filled[index] = text
        return "".join(filled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """
    Say what the columns of a file mean.

    *columns* maps fields to the columns that hold them, where the names differ. *audio_path* makes the path of each
    row, *id_from* names a column that tells tracks apart and from which their ids are made, *status* is the status
    that new tracks begin in.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    audio_path: Template | None = None
    id_from: str | None = None
    status: TrackStatus = TrackStatus.COMPLETED

    def __post_init__(self) -> None:
        if self.audio_path is not None and "audio_path" in self.columns:
            raise UnusableFile("the path comes either from a column or from a template, not from both")
        if self.id_from is not None and "id" in self.columns:
            raise UnusableFile("the id is either a column of UUIDs or made from one, not both")

    def sources(self) -> dict[str, str]:
        """Return the column of every field that is read from one."""
        sources = {name: self.columns.get(name, name) for name in FIELDS}
        if self.audio_path is not None:
            del sources["audio_path"]
        if self.id_from is not None:
            del sources["id"]
        return sources

    def named_columns(self) -> set[str]:
        """Return the columns that must be there because somebody asked for them by name."""
        named = set(self.columns.values())
        if self.audio_path is not None:
            named.update(self.audio_path.columns)
        if self.id_from is not None:
            named.add(self.id_from)
        return named


def text_of(name: str, column: str, cells: Mapping[str, Any]) -> str | Problem:
    """Return what *column* adds to the field *name* of a row, or what is wrong with it."""
    value = cells.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or value == "":
        return Problem(name, f"the column {quoted(column)} is empty")
    if not isinstance(value, str):
        return Problem(name, f"the column {quoted(column)} must be text or a whole number, not {type(value).__name__}")
    if _SURROGATE.search(value):
        return Problem(name, f"the column {quoted(column)} is not UTF-8")
    return value
