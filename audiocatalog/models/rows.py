"""Rows of the database as objects without a session."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Table

from audiocatalog.models.base import manager_of, status_of
from audiocatalog.models.metadata import CONTENT_COLUMNS, TrackRecord
from audiocatalog.models.orm_internals import make_row
from audiocatalog.models.tables import SaveOutcome, StatusChange, Track

TRACKS: Final[Table] = Track.__table__  # type: ignore[assignment]  # SQLAlchemy types the Table as FromClause.

#: Every column except the columns for searches, which no reader needs.
TRACK_COLUMNS: Final = ("id", "status", *CONTENT_COLUMNS, "created_at", "updated_at", "version")

CHANGES: Final[Table] = StatusChange.__table__  # type: ignore[assignment]  # SQLAlchemy types it as FromClause.

#: The columns that a reader of the history gets.
CHANGE_COLUMNS: Final = tuple(column.name for column in CHANGES.columns if column is not CHANGES.c.xact_id)


def new_track(record: TrackRecord, created_at: datetime) -> Track:
    """Return the track that was inserted from *record*."""
    values = record.content() | {
        "id": record.id,
        "status": record.status,
        "created_at": created_at,
        "updated_at": created_at,
        "version": 1,
    }
    return _track(values, SaveOutcome.INSERTED)


def track_of(row: Sequence[Any], outcome: SaveOutcome | None = None) -> Track:
    """Return the ``Track`` in a row of ``TRACK_COLUMNS``."""
    return _track(dict(zip(TRACK_COLUMNS, row, strict=True)), outcome)


def _track(values: dict[str, Any], outcome: SaveOutcome | None) -> Track:
    track = Track.__new__(Track)
    values["status"] = status_of(values["status"])
    make_row(track, manager_of(Track), values, (values["id"],))
    if outcome is not None:
        track.__dict__["_outcome"] = outcome
    return track


def change_of(values: Sequence[Any], duration: timedelta | None = None) -> StatusChange:
    """Return the ``StatusChange`` in a row of ``CHANGE_COLUMNS``."""
    named = dict(zip(CHANGE_COLUMNS, values, strict=True))
    start = named["from_status"]
    named["from_status"] = None if start is None else status_of(start)
    named["to_status"] = status_of(named["to_status"])
    change = StatusChange.__new__(StatusChange)
    make_row(change, manager_of(StatusChange), named, (named["track_id"], named["version"]))
    change.__dict__["_duration"] = duration
    return change
