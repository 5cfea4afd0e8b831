"""What can be done on a connection, whoever holds it: a unit of work, or the catalogue for one call."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from sqlalchemy import Connection

from audiocatalog.errors import InvalidInput, Phase, Problem, TrackNotFound, kind_of, translated
from audiocatalog.identifiers import parse_id
from audiocatalog.metadata import TrackRecord, clean_reason
from audiocatalog.models import SaveOutcome, StatusChange, Track
from audiocatalog.status import TrackStatus
from audiocatalog.tracks import (
    FIND,
    INSERT,
    REPLACE,
    check_expected_version,
    find_parameters,
    save_parameters,
    track_of,
    unchanged_or_conflict,
)
from audiocatalog.transitions import (
    CHANGE_BY_OPERATION,
    EXISTS,
    HISTORY,
    MOVE,
    change_of,
    check_repetition,
    move_parameters,
    moved,
    refusal,
)

# How often a save that may replace tries to, while others write the same track at the same moment.
_REPLACE_TRIES: Final = 5


def save_track(
    connection: Connection,
    record: TrackRecord,
    *,
    replace: bool,
    expected_version: int | None,
    actor: str,
    reason: str | None,
) -> Track:
    """Save a track as ``UnitOfWork.save`` says."""
    if not isinstance(record, TrackRecord):
        raise InvalidInput(Problem("record", f"a TrackRecord, not {kind_of(record)}"), operation="save")
    check_expected_version(expected_version, replace=replace)
    parameters = save_parameters(record, actor=actor, reason=clean_reason(reason), expected_version=expected_version)
    with translated("save"):
        if expected_version is None and (row := connection.execute(INSERT, parameters).one_or_none()):
            return track_of(row, SaveOutcome.INSERTED)
        for _ in range(_REPLACE_TRIES):
            if replace and (row := connection.execute(REPLACE, parameters).one_or_none()):
                return track_of(row, SaveOutcome.UPDATED)
            existing = _find(connection, record.id)
            # Between the two statements, somebody else may have replaced what was the same a moment ago.
            if not replace or expected_version is not None or existing is None or record.is_content_of(existing):
                break
    return unchanged_or_conflict(existing, record, expected_version=expected_version)


def find_track(connection: Connection, track_id: UUID) -> Track | None:
    """Return the track with *track_id*, or None, in one round trip."""
    with translated("find"):
        return _find(connection, track_id)


def required(track: Track | None, track_id: UUID | str) -> Track:
    """
    Return *track*.

    Raises:
        TrackNotFound: it is None.
    """
    if track is None:
        raise TrackNotFound(parse_id(track_id), operation="get")
    return track


def move_track(
    connection: Connection,
    track_id: UUID | str,
    to: TrackStatus,
    *,
    actor: str,
    reason: str | None,
    expected: TrackStatus | None,
    operation_id: UUID | str | None,
    phase: Phase = "statement",
) -> StatusChange:
    """
    Move a track as ``UnitOfWork.update_status`` says: in one round trip, or one more after a lost race.

    *phase* is ``commit`` where the statement is its own transaction: then a lost answer leaves the outcome open.
    """
    identifier = parse_id(track_id)
    operation = None if operation_id is None else parse_id(operation_id, "operation_id")
    target = TrackStatus.parse(to, "to")
    start = None if expected is None else TrackStatus.parse(expected, "expected")
    parameters = move_parameters(
        identifier, target, actor=actor, reason=clean_reason(reason), expected=start, operation_id=operation
    )
    with translated("update_status", phase):
        row = connection.execute(MOVE, parameters).one_or_none()
        change = moved(row)
        if change is None and operation is not None:
            # The same operation may have been under way when this one began, and have won the race against it.
            earlier = connection.execute(CHANGE_BY_OPERATION, parameters).one_or_none()
            change = None if earlier is None else change_of(earlier)
    if change is None:
        raise refusal(row, identifier, target, start)
    check_repetition(change, target)
    return change


def read_history(connection: Connection, track_id: UUID) -> list[StatusChange]:
    """Return the changes of a track as ``UnitOfWork.history`` says."""
    with translated("history"):
        changes = [change_of(row) for row in connection.execute(HISTORY, find_parameters(track_id))]
        known = changes or connection.execute(EXISTS, find_parameters(track_id)).one_or_none()
    if not known:
        raise TrackNotFound(track_id, operation="history")
    return changes


def _find(connection: Connection, track_id: UUID) -> Track | None:
    row = connection.execute(FIND, find_parameters(track_id)).one_or_none()
    return None if row is None else track_of(row)
