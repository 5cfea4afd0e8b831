"""The statements that find and save tracks, built once; no session and no await in here.

A save is at most three statements: ``INSERT``, then ``REPLACE`` where that is asked for, then ``FIND`` and
``unchanged_or_conflict``. The history's first row is written by the statement that inserts the track.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import BindParameter, Row, Table, bindparam, func, insert, null, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert as insert_new

from audiocatalog.errors import InvalidInput, Problem, SaveConflict, TrackNotFound
from audiocatalog.metadata import TrackRecord
from audiocatalog.models import CONTENT_COLUMNS, SaveOutcome, StatusChange, Track
from audiocatalog.status import TrackStatus

TRACKS: Final[Table] = Track.__table__  # type: ignore[assignment]  # A mapped class has a Table, typed FromClause.
CHANGES: Final[Table] = StatusChange.__table__  # type: ignore[assignment]

#: Every column but those that are made for searching, which no reader needs.
TRACK_COLUMNS: Final = tuple(column for column in TRACKS.columns if column.computed is None)
_TRACK_KEYS: Final = tuple(column.name for column in TRACK_COLUMNS)


def _new(table: Table, column: str) -> BindParameter[Any]:
    # The prefix keeps clear of the names that SQLAlchemy reserves for a statement's own columns.
    return bindparam(f"new_{column}", type_=table.c[column].type)


_id = bindparam("track_id", type_=TRACKS.c.id.type)
_expected_version = bindparam("expected_version", type_=TRACKS.c.version.type)

#: Read one track by ``track_id``.
FIND: Final = select(*TRACK_COLUMNS).where(TRACKS.c.id == _id)

_inserted = (
    insert_new(TRACKS)
    .values({"id": _id} | {name: _new(TRACKS, name) for name in ("status", *CONTENT_COLUMNS)})
    .on_conflict_do_nothing(index_elements=[TRACKS.c.id])
    .returning(*TRACK_COLUMNS)
    .cte("inserted")
)
_first_change = (
    insert(CHANGES)
    .from_select(
        ["track_id", "version", "from_status", "to_status", "actor", "reason"],
        select(
            _inserted.c.id,
            _inserted.c.version,
            null(),
            _inserted.c.status,
            _new(CHANGES, "actor"),
            _new(CHANGES, "reason"),
        ),
        include_defaults=False,
    )
    .cte("first_change")
)
#: Insert a new track and its first history row; no row comes back if the id is taken.
INSERT: Final = select(_inserted).add_cte(_first_change)

#: Overwrite other content, at ``expected_version`` unless that is null; no row comes back if nothing was to be done.
REPLACE: Final = (
    update(TRACKS)
    .where(
        TRACKS.c.id == _id,
        or_(_expected_version.is_(None), TRACKS.c.version == _expected_version),
        tuple_(*(TRACKS.c[name] for name in CONTENT_COLUMNS)).is_distinct_from(
            tuple_(*(_new(TRACKS, name) for name in CONTENT_COLUMNS))
        ),
    )
    .values(
        {name: _new(TRACKS, name) for name in CONTENT_COLUMNS}
        | {"version": TRACKS.c.version + 1, "updated_at": func.now()}
    )
    .returning(*TRACK_COLUMNS)
)


#: Count the tracks in each status.
STATUS_COUNTS: Final = select(
    TRACKS.c.status, func.count().label("tracks"), func.min(TRACKS.c.updated_at).label("oldest")
).group_by(TRACKS.c.status)


class StatusCount(NamedTuple):
    """Say how many *tracks* are in a *status*, and when the least recently written of them was."""

    status: TrackStatus
    tracks: int
    oldest: datetime | None


def counts_of(rows: Sequence[Row[*tuple[Any, ...]]]) -> list[StatusCount]:
    """Return the rows of ``STATUS_COUNTS`` with a count for every status there is, in the order of their table."""
    found = {row.status: StatusCount(*row) for row in rows}
    return [found.get(status, StatusCount(status, 0, None)) for status in TrackStatus]


def save_parameters(
    record: TrackRecord, *, actor: str, reason: str | None, expected_version: int | None
) -> dict[str, Any]:
    """Return what ``INSERT``, ``REPLACE`` and ``FIND`` are executed with to save *record*."""
    values = {f"new_{name}": value for name, value in record.content().items()}
    return values | {
        "track_id": record.id,
        "new_status": record.status,
        "new_actor": actor,
        "new_reason": reason,
        "expected_version": expected_version,
    }


def check_expected_version(expected_version: object, *, replace: bool) -> None:
    """
    Refuse an expected version that is no version, or that comes without leave to replace.

    Raises:
        InvalidInput: names ``expected_version``.
    """
    if not isinstance(replace, bool):
        raise InvalidInput(Problem("replace", "True or False"), operation="save")
    if expected_version is None:
        return
    if not isinstance(expected_version, int) or isinstance(expected_version, bool) or not 1 <= expected_version < 2**31:
        raise InvalidInput(Problem("expected_version", "a whole number from 1", 1), operation="save")
    if not replace:
        raise InvalidInput(Problem("expected_version", "only together with replace=True"), operation="save")


def unchanged_or_conflict(existing: Track | None, record: TrackRecord, *, expected_version: int | None) -> Track:
    """
    Return *existing* where it already holds the content of *record*, whoever stored it.

    Raises:
        SaveConflict: it holds other content, which the save was not to replace.
        TrackNotFound: a version was expected of a track that is not there.
    """
    if existing is None:
        raise TrackNotFound(record.id, operation="save")
    if not record.is_content_of(existing):
        raise SaveConflict(record.id, actual=existing.version, expected=expected_version)
    existing.__dict__["_outcome"] = SaveOutcome.UNCHANGED
    return existing


def track_of(row: Row[*tuple[Any, ...]] | Sequence[Any], outcome: SaveOutcome | None = None) -> Track:
    """
    Return the ``Track`` in a row of ``TRACK_COLUMNS``.

    It belongs to no session, so it never loads, expires or flushes; the constructor's attribute events, which cost
    ten times as much, are for objects that do.
    """
    track: Track = Track.__mapper__.class_manager.new_instance()
    track.__dict__.update(zip(_TRACK_KEYS, row, strict=True))
    if outcome is not None:
        track.__dict__["_outcome"] = outcome
    return track


def find_parameters(track_id: UUID) -> dict[str, Any]:
    """Return what ``FIND`` is executed with."""
    return {"track_id": track_id}
