"""The statements that move a track and read its history, and what their rows mean; no connection and no await in here.

A move is one call of a function, which locks the track, compares its status and writes both rows:
alembic/functions/lifecycle_v1.sql.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Table
from sqlalchemy.orm.base import instance_state

from audiocatalog.errors import (
    CatalogError,
    IllegalTransition,
    InvalidInput,
    Problem,
    TrackNotFound,
    TransitionConflict,
)
from audiocatalog.models import TRANSACTION_MARK, StatusChange, status_of
from audiocatalog.status import TRANSITIONS, TrackStatus, sources

CHANGES: Final[Table] = StatusChange.__table__  # type: ignore[assignment]  # A mapped class has a Table.

#: What a reader of the history is given.
CHANGE_COLUMNS: Final = tuple(column.name for column in CHANGES.columns if column is not CHANGES.c.xact_id)

#: Move a track and write its history row, both or neither. One row comes back: the status seen, the status found under
#: the lock, and the change, new or earlier with the same operation id, or nulls.
MOVE: Final = f"SELECT $1::uuid, *, {TRANSACTION_MARK} FROM audiocatalog_move_v1($1, $2, $3, $4, $5, $6, $7)"

#: Move each of many tracks likewise, in the order of the ids that are given.
MOVE_MANY: Final = f"""
SELECT asked.id, moved.*, {TRANSACTION_MARK} FROM unnest($1::uuid[]) AS asked (id)
CROSS JOIN LATERAL audiocatalog_move_v1(asked.id, $2, $3, $4, $5, $6, $7) AS moved
"""

#: Read the history of a track, oldest first, with the microseconds until each next change, for a session may write
#: intervals in many ways; one more row tells that there is such a track.
HISTORY: Final = f"""
SELECT {", ".join(f"c.{name}" for name in CHANGE_COLUMNS)},
  (extract(epoch FROM lead(c.at) OVER (ORDER BY c.version) - c.at) * 1000000)::bigint
FROM audio_tracks AS t LEFT JOIN audio_track_status_changes AS c ON c.track_id = t.id
WHERE t.id = $1 ORDER BY c.version
"""

# From where a track may move to each status, as the text of an array, which is sent sooner than a list.
_STARTS: Final = {to: f"{{{','.join(sorted(sources(to)))}}}" for to in TrackStatus}
# What stands before the change in a row of MOVE, besides the track's id: the status seen and the actual one.
_FIRST: Final = 3


def move_values(
    track_id: UUID | Sequence[UUID],
    to: TrackStatus,
    *,
    actor: str,
    reason: str | None,
    expected: TrackStatus | None,
    operation_id: UUID | None,
    notify: bool,
) -> tuple[Any, ...]:
    """
    Return what ``MOVE``, or ``MOVE_MANY`` with a list of ids, is executed with.

    Raises:
        IllegalTransition: the table forbids the move from *expected*.
    """
    if expected is not None and to not in TRANSITIONS[expected]:
        raise IllegalTransition(expected, to, track_id=track_id if isinstance(track_id, UUID) else None)
    starts = _STARTS[to] if expected is None else f"{{{expected}}}"
    return (track_id, str(to), starts, actor, reason, operation_id, notify)


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


def history_of(rows: Sequence[tuple[Any, ...]], track_id: UUID) -> list[StatusChange]:
    """
    Return the changes in the rows of ``HISTORY``.

    Raises:
        TrackNotFound: there is no such track.
    """
    if not rows:
        raise TrackNotFound(track_id, operation="history")
    return [change_of(row[:-1], _lasted(row[-1])) for row in rows if row[0] is not None]


def _lasted(microseconds: int | None) -> timedelta | None:
    """Return how long a status lasted: no time at all where the server's clock was set back meanwhile."""
    return None if microseconds is None else timedelta(microseconds=max(microseconds, 0))


def outcome_of(row: tuple[Any, ...], to: TrackStatus, expected: TrackStatus | None) -> StatusChange | CatalogError:
    """Return the change in a row of ``MOVE``, or the error that tells why there is none."""
    track_id, seen, actual, version = row[: _FIRST + 1]
    if actual is None:
        return TrackNotFound(track_id, operation="update_status")
    if version is not None:
        return _repeated(change_of((track_id, *row[_FIRST:])), to)
    if expected is not None:
        return TransitionConflict(track_id, expected=expected, actual=status_of(actual))
    if seen != actual and to in TRANSITIONS.get(status_of(seen), ()):
        # The move was legal when the statement began, and somebody else was quicker.
        return TransitionConflict(track_id, expected=status_of(seen), actual=status_of(actual))
    return IllegalTransition(status_of(actual), to, track_id=track_id)


def _repeated(change: StatusChange, to: TrackStatus) -> StatusChange | CatalogError:
    """Return *change*, unless it is another move, made before under the same operation id."""
    if change.to_status == to:
        return change
    return InvalidInput(
        Problem("operation_id", f"it moved this track to {change.to_status} before; a new move needs a new one"),
        operation="update_status",
    )
