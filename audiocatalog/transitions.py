"""The statements that move a track and read its history, built once; no session and no await in here."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from sqlalchemy import ARRAY, Row, Text, Uuid, bindparam, func, insert, literal, select, true, update

from audiocatalog.errors import (
    CatalogError,
    IllegalTransition,
    InvalidInput,
    Problem,
    TrackNotFound,
    TransitionConflict,
)
from audiocatalog.models import StatusChange
from audiocatalog.status import TRANSITIONS, TrackStatus, sources
from audiocatalog.tracks import CHANGES, TRACKS

CHANGE_COLUMNS: Final = tuple(CHANGES.columns)
_CHANGE_KEYS: Final = tuple(column.name for column in CHANGE_COLUMNS)

_id = bindparam("track_id", type_=Uuid())
_operation_id = bindparam("operation_id", type_=Uuid())

# The status as the statement's snapshot shows it: what the caller could have known.
_seen = select(TRACKS.c.status).where(TRACKS.c.id == _id).cte("seen")
# The status once the row is ours: another transaction may have moved it while we waited for the lock. It is the lock
# that the update takes, which lets others refer to the track meanwhile.
_locked = select(TRACKS.c.id, TRACKS.c.status).where(TRACKS.c.id == _id).with_for_update(key_share=True).cte("locked")
_earlier = (
    select(*CHANGE_COLUMNS).where(CHANGES.c.track_id == _id, CHANGES.c.operation_id == _operation_id).cte("earlier")
)
_moved = (
    update(TRACKS)
    .where(
        TRACKS.c.id == _locked.c.id,
        _locked.c.status == func.any(bindparam("sources", type_=ARRAY(Text()))),
        ~select(literal(1)).select_from(_earlier).exists(),
    )
    .values(status=bindparam("to", type_=Text()), version=TRACKS.c.version + 1, updated_at=func.now())
    .returning(TRACKS.c.id, TRACKS.c.version, _locked.c.status.label("from_status"), TRACKS.c.status.label("to_status"))
    .cte("moved")
)
_logged = (
    insert(CHANGES)
    .from_select(
        ["track_id", "version", "from_status", "to_status", "actor", "reason", "operation_id"],
        select(
            _moved.c.id,
            _moved.c.version,
            _moved.c.from_status,
            _moved.c.to_status,
            bindparam("actor", type_=CHANGES.c.actor.type),
            bindparam("reason", type_=CHANGES.c.reason.type),
            _operation_id,
        ),
        include_defaults=False,
    )
    .returning(*CHANGE_COLUMNS)
    .cte("logged")
)
_answer = select(_logged).union_all(select(_earlier)).subquery("answer")

#: Move a track and write its history row, both or neither. One row comes back if the track exists: the status seen,
#: the status found under the lock, and the change, new or earlier with the same operation id, or nulls.
MOVE: Final = select(_seen.c.status.label("seen"), _locked.c.status.label("actual"), *_answer.c).select_from(
    _seen.outerjoin(_locked, true()).outerjoin(_answer, true())
)

#: Read the change that an operation id made.
CHANGE_BY_OPERATION: Final = select(_earlier)

#: Read the history of a track, oldest first; the track's own row tells an unknown track from one without history.
HISTORY: Final = select(*CHANGE_COLUMNS).where(CHANGES.c.track_id == _id).order_by(CHANGES.c.version)
EXISTS: Final = select(literal(1)).where(TRACKS.c.id == _id)


def move_parameters(
    track_id: UUID,
    to: TrackStatus,
    *,
    actor: str,
    reason: str | None,
    expected: TrackStatus | None,
    operation_id: UUID | None,
) -> dict[str, Any]:
    """
    Return what ``MOVE`` is executed with.

    Raises:
        IllegalTransition: the table forbids the move from *expected*, or from anywhere.
    """
    if expected is not None and to not in TRANSITIONS[expected]:
        raise IllegalTransition(expected, to, track_id=track_id)
    starts = sources(to) if expected is None else {expected}
    return {
        "track_id": track_id,
        "to": str(to),
        "sources": sorted(starts),
        "actor": actor,
        "reason": reason,
        "operation_id": operation_id,
    }


def change_of(row: Row[*tuple[Any, ...]]) -> StatusChange:
    """Return the ``StatusChange`` in a row that ends in the columns of one; it belongs to no session."""
    change: StatusChange = StatusChange.__mapper__.class_manager.new_instance()
    change.__dict__.update(zip(_CHANGE_KEYS, row[-len(_CHANGE_KEYS) :], strict=True))
    return change


def moved(row: Row[*tuple[Any, ...]] | None) -> StatusChange | None:
    """Return the change in the answer to ``MOVE``, or None if there was no move."""
    return change_of(row) if row is not None and row.track_id is not None else None


def check_repetition(change: StatusChange, to: TrackStatus) -> None:
    """
    Refuse an operation id that was used for another move.

    Raises:
        InvalidInput: *change*, the first answer, does not lead to *to*.
    """
    if change.to_status != to:
        raise InvalidInput(
            Problem("operation_id", f"it moved this track to {change.to_status} before; a new move needs a new one"),
            operation="update_status",
        )


def refusal(
    row: Row[*tuple[Any, ...]] | None, track_id: UUID, to: TrackStatus, expected: TrackStatus | None
) -> CatalogError:
    """Return the error that tells why the answer to ``MOVE`` holds no change."""
    # A row that was seen and could not be locked was deleted meanwhile.
    if row is None or row.actual is None:
        return TrackNotFound(track_id, operation="update_status")
    if expected is not None:
        return TransitionConflict(track_id, expected=expected, actual=row.actual)
    if row.seen != row.actual and to in TRANSITIONS.get(row.seen, ()):
        # The move was legal when the statement began, and somebody else was quicker.
        return TransitionConflict(track_id, expected=row.seen, actual=row.actual)
    return IllegalTransition(row.actual, to, track_id=track_id)
