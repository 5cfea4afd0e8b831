"""The statements that find and save tracks, and what their rows mean; no connection and no await in here.

A save is at most three statements: ``INSERT``, then ``REPLACE`` where that is asked for, then ``FIND`` and
``unchanged_or_conflict``. The first row of the history is written by the function
that inserts the track: alembic/functions/lifecycle_v1.sql.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import Table
from sqlalchemy.orm.state import InstanceState

from audiocatalog.errors import InvalidInput, Problem, SaveConflict, TrackNotFound
from audiocatalog.metadata import TrackRecord
from audiocatalog.models import TRANSACTION_MARK, SaveOutcome, Track, status_of
from audiocatalog.status import TrackStatus

TRACKS: Final[Table] = Track.__table__  # type: ignore[assignment]  # A mapped class has a Table, typed FromClause.

#: Every column but those that are made for searching, which no reader needs.
TRACK_COLUMNS: Final = tuple(column.name for column in TRACKS.columns if column.computed is None)
_COLUMNS: Final = ", ".join(TRACK_COLUMNS)
# What SQLAlchemy keeps of the class for its objects.
_MANAGER: Final = Track.__mapper__.class_manager


#: Read one track by its id.
FIND: Final = f"SELECT {_COLUMNS} FROM audio_tracks WHERE id = $1"

#: Read those of many tracks that there are, in any order.
FIND_MANY: Final = f"SELECT {_COLUMNS} FROM audio_tracks WHERE id = ANY ($1)"

#: Insert a new track and the first row of its history, and return when it was created; null if the id is taken.
INSERT: Final = f"SELECT audiocatalog_save_v1({', '.join(f'${place}' for place in range(1, 18))}), {TRANSACTION_MARK}"

#: Overwrite other content, at the expected version unless that is null; no row comes back if nothing was to be done.
REPLACE: Final = (
    f"SELECT *, {TRANSACTION_MARK} FROM audiocatalog_replace_v1({', '.join(f'${place}' for place in range(1, 17))})"
)

#: Count the tracks, and those with which something remains to be done, by their status.
STATUS_COUNTS: Final = """
SELECT status::text, count(*), least(min(since), now()) FROM audio_track_tasks GROUP BY status
UNION ALL SELECT NULL, count(*), NULL FROM audio_tracks
"""


class StatusCount(NamedTuple):
    """Say how many *tracks* are in a *status*, and since when the *oldest* of them is; None of those that are done."""

    status: TrackStatus
    tracks: int
    oldest: datetime | None


def counts_of(rows: Sequence[tuple[Any, ...]]) -> list[StatusCount]:
    """Return the rows of ``STATUS_COUNTS`` with a count for every status there is, in the order of their table."""
    unfinished = {name: StatusCount(status_of(name), *rest) for name, *rest in rows if name is not None}
    (total,) = (tracks for name, tracks, _ in rows if name is None)
    done = total - sum(count.tracks for count in unfinished.values())
    found = {TrackStatus.COMPLETED: StatusCount(TrackStatus.COMPLETED, done, None)} | unfinished
    return [found.get(status, StatusCount(status, 0, None)) for status in TrackStatus]


def insert_values(record: TrackRecord, *, actor: str, reason: str | None, notify: bool) -> tuple[Any, ...]:
    """Return what ``INSERT`` is executed with."""
    return (record.id, str(record.status), *record.content().values(), actor, reason, notify)


def replace_values(
    record: TrackRecord, expected_version: int | None, *, actor: str, reason: str | None
) -> tuple[Any, ...]:
    """Return what ``REPLACE`` is executed with."""
    return (record.id, expected_version, *record.content().values(), actor, reason)


def new_track(record: TrackRecord, created_at: datetime) -> Track:
    """Return the track that ``INSERT`` has made of *record*."""
    values = record.content() | {
        "id": record.id,
        "status": record.status,
        "created_at": created_at,
        "updated_at": created_at,
        "version": 1,
    }
    return _track(values.items(), SaveOutcome.INSERTED)


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
