"""What can be done on a connection, whoever holds it: a unit of work, or the catalogue for one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final
from uuid import UUID

import psycopg

from audiocatalog.connection import PooledConnection, raw_cursor
from audiocatalog.errors import CatalogError, InvalidInput, Phase, Problem, TrackNotFound, kind_of
from audiocatalog.identifiers import parse_id
from audiocatalog.metadata import TrackRecord, clean_reason
from audiocatalog.models import SaveOutcome, StatusChange, Track
from audiocatalog.status import TrackStatus
from audiocatalog.tracks import (
    FIND,
    FIND_MANY,
    INSERT,
    REPLACE,
    check_expected_version,
    insert_values,
    new_track,
    replace_values,
    track_of,
    unchanged_or_conflict,
)
from audiocatalog.transitions import HISTORY, MOVE, MOVE_MANY, history_of, move_values, outcome_of
from audiocatalog.translation import translated

Driver = psycopg.Connection[Any]

# How often a save that may replace tries to, while others write the same track at the same moment.
_REPLACE_TRIES: Final = 5
#: So many tracks are named by one call, or read by one statement, at the most.
MOST_TRACKS: Final = 10_000


def rows_of(driver: Driver, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Return the rows of a statement whose placeholders are ``$1``, ``$2``: psycopg sends such as they are."""
    return raw_cursor(driver).execute(statement, values).fetchall()


def written(
    driver: Driver, statement: str, values: Sequence[Any], *, leaves_rows: bool = True
) -> list[tuple[Any, ...]]:
    """
    Return the rows of a statement that writes, without their last column: the connection notes the transaction.

    *leaves_rows* says whether what it writes can be found in the history or among the edits.
    """
    rows = rows_of(driver, statement, values)
    if rows and isinstance(driver, PooledConnection):
        driver.mark = rows[-1][-1]  # Of the last row: the first may have come before anything was written.
        driver.leaves_rows |= leaves_rows
    return [row[:-1] for row in rows]


def save_track(
    driver: Driver,
    record: TrackRecord,
    *,
    replace: bool,
    expected_version: int | None,
    actor: str,
    reason: str | None,
    notify: bool,
) -> Track:
    """Save a track as ``UnitOfWork.save`` says."""
    if not isinstance(record, TrackRecord):
        raise InvalidInput(Problem("record", f"a TrackRecord, not {kind_of(record)}"), operation="save")
    check_expected_version(expected_version, replace=replace)
    why = clean_reason(reason)
    with translated("save"):
        if expected_version is None:
            ((created_at,),) = written(driver, INSERT, insert_values(record, actor=actor, reason=why, notify=notify))
            if created_at is not None:
                return new_track(record, created_at)
        for _ in range(_REPLACE_TRIES):
            if replace:
                values = replace_values(record, expected_version, actor=actor, reason=why)
                if rows := written(driver, REPLACE, values):
                    return track_of(rows[0], SaveOutcome.UPDATED)
            existing = _find(driver, record.id)
            # Between the two statements, somebody else may have replaced what was the same a moment ago.
            if not replace or expected_version is not None or existing is None or record.is_content_of(existing):
                break
    return unchanged_or_conflict(existing, record, expected_version=expected_version)


def find_track(driver: Driver, track_id: UUID, operation: str) -> Track | None:
    """Return the track with *track_id*, or None, in one round trip."""
    with translated(operation):
        return _find(driver, track_id)


def get_track(driver: Driver, track_id: UUID) -> Track:
    """Return the track with *track_id* as ``UnitOfWork.get`` says."""
    track = find_track(driver, track_id, "get")
    if track is None:
        raise TrackNotFound(track_id, operation="get")
    return track


def find_tracks(driver: Driver, track_ids: Sequence[UUID]) -> dict[UUID, Track]:
    """Return tracks as ``UnitOfWork.get_many`` says, in one round trip."""
    with translated("get_many"):
        rows = rows_of(driver, FIND_MANY, (track_ids,)) if track_ids else []
    found = {row[0]: track_of(row) for row in rows}
    return {track_id: track for track_id in track_ids if (track := found.get(track_id)) is not None}


def ids_of(values: Iterable[UUID | str], operation: str) -> list[UUID]:
    """
    Return *values* as UUIDs, each once.

    Raises:
        InvalidInput: they are no collection, or too many; or one of them is no UUID.
    """
    # A text is a collection too, of letters; who passes one forgot the brackets.
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise InvalidInput(Problem("ids", f"a collection of ids, not {kind_of(values)}"), operation=operation)
    identifiers: dict[UUID, None] = {}
    for place, value in enumerate(values):
        try:
            identifiers[parse_id(value)] = None
        except InvalidInput as error:
            ((field, rule, _),) = error.problems
            raise InvalidInput(Problem(field, f"{rule}, at place {place}"), operation=operation) from None
        if len(identifiers) > MOST_TRACKS:
            raise InvalidInput(Problem("ids", f"at most {MOST_TRACKS:,} ids", MOST_TRACKS), operation=operation)
    return list(identifiers)


def move_track(
    driver: Driver,
    track_id: UUID | str,
    to: TrackStatus,
    *,
    actor: str,
    reason: str | None,
    expected: TrackStatus | None,
    operation_id: UUID | str | None,
    notify: bool,
    phase: Phase = "statement",
) -> StatusChange:
    """
    Move a track as ``UnitOfWork.update_status`` says, in one round trip.

    *phase* is ``commit`` where the statement is its own transaction: then a lost answer leaves the outcome open.
    """
    identifier = parse_id(track_id)
    target, start, operation = _move_of(to, expected, operation_id)
    values = move_values(
        identifier,
        target,
        actor=actor,
        reason=clean_reason(reason),
        expected=start,
        operation_id=operation,
        notify=notify,
    )
    with translated("update_status", phase):
        (row,) = written(driver, MOVE, values)
    outcome = outcome_of(row, target, start)
    if isinstance(outcome, CatalogError):
        raise outcome
    return outcome


def move_tracks(
    driver: Driver,
    track_ids: Sequence[UUID],
    to: TrackStatus,
    *,
    actor: str,
    reason: str | None,
    expected: TrackStatus | None,
    operation_id: UUID | str | None,
    notify: bool,
    phase: Phase = "statement",
) -> dict[UUID, StatusChange | CatalogError]:
    """Move tracks as ``UnitOfWork.update_statuses`` says, in one round trip."""
    target, start, operation = _move_of(to, expected, operation_id)
    # Whoever locks several tracks locks them in the order of their ids, so that nobody waits in a circle.
    values = move_values(
        sorted(track_ids),
        target,
        actor=actor,
        reason=clean_reason(reason),
        expected=start,
        operation_id=operation,
        notify=notify,
    )
    with translated("update_statuses", phase):
        rows = {row[0]: row for row in written(driver, MOVE_MANY, values)} if track_ids else {}
    return {track_id: outcome_of(rows[track_id], target, start) for track_id in track_ids}


def read_history(driver: Driver, track_id: UUID) -> list[StatusChange]:
    """Return the changes of a track as ``UnitOfWork.history`` says."""
    with translated("history"):
        rows = rows_of(driver, HISTORY, (track_id,))
    return history_of(rows, track_id)


def _move_of(
    to: TrackStatus, expected: TrackStatus | None, operation_id: UUID | str | None
) -> tuple[TrackStatus, TrackStatus | None, UUID | None]:
    return (
        TrackStatus.parse(to, "to"),
        None if expected is None else TrackStatus.parse(expected, "expected"),
        None if operation_id is None else parse_id(operation_id, "operation_id"),
    )


def _find(driver: Driver, track_id: UUID) -> Track | None:
    rows = rows_of(driver, FIND, (track_id,))
    return track_of(rows[0]) if rows else None
