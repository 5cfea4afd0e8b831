"""Rows of the database as objects that belong to no session."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Table
from sqlalchemy.orm.base import instance_state
from sqlalchemy.orm.state import InstanceState

from audiocatalog.models.base import status_of
from audiocatalog.models.metadata import CONTENT_COLUMNS, TrackRecord
from audiocatalog.models.tables import SaveOutcome, StatusChange, Track

TRACKS: Final[Table] = Track.__table__  # type: ignore[assignment]  # A mapped class has a Table, typed FromClause.

#: Every column but those that are made for searching, which no reader needs.
TRACK_COLUMNS: Final = ("id", "status", *CONTENT_COLUMNS, "created_at", "updated_at", "version")
# What SQLAlchemy keeps of the class for its objects.
_MANAGER: Final = Track.__mapper__.class_manager

CHANGES: Final[Table] = StatusChange.__table__  # type: ignore[assignment]  # A mapped class has a Table.

#: What a reader of the history is given.
CHANGE_COLUMNS: Final = tuple(column.name for column in CHANGES.columns if column is not CHANGES.c.xact_id)


def new_track(record: TrackRecord, created_at: datetime) -> Track:
    """Return the track that was just inserted of *record*."""
    values = record.content() | {
        "id": record.id,
        "status": record.status,
        "created_at": created_at,
        "updated_at": created_at,
        "version": 1,
    }
    return _track(values.items(), SaveOutcome.INSERTED)


def track_of(row: Sequence[Any], outcome: SaveOutcome | None = None) -> Track:
    """Return the ``Track`` in a row of ``TRACK_COLUMNS``."""
    return _track(zip(TRACK_COLUMNS, row, strict=True), outcome)


def _track(values: Iterable[tuple[str, Any]], outcome: SaveOutcome | None) -> Track:
    """
    Return a ``Track`` of *values*.

    It belongs to no session, so it never loads, expires or flushes. Its key says that it is a row, so that a session
    of the host's links to it instead of inserting it (host_session.py). The constructor's attribute events, which cost
    ten times as much, are for objects of a session. What SQLAlchemy itself would put into a new object is put there
    with the rest, past ``Base.__setattr__``: reading many tracks is mostly this.
    """
    track = Track.__new__(Track)
    held = track.__dict__
    held.update(values)
    held["status"] = status_of(held["status"])
    held[_MANAGER.STATE_ATTR] = state = InstanceState(track, _MANAGER)
    state.key = (Track, (held["id"],), None)
    if outcome is not None:
        held["_outcome"] = outcome
    return track


def change_of(values: Sequence[Any], lasted: timedelta | None = None) -> StatusChange:
    """Return the ``StatusChange`` of the values of its columns; it belongs to no session."""
    named = dict(zip(CHANGE_COLUMNS, values, strict=True))
    start = named["from_status"]
    named["from_status"] = None if start is None else status_of(start)
    named["to_status"] = status_of(named["to_status"])
    change: StatusChange = StatusChange.__mapper__.class_manager.new_instance()
    change.__dict__.update(named)
    change.__dict__["_lasted"] = lasted
    instance_state(change).key = (StatusChange, (named["track_id"], named["version"]), None)
    return change
