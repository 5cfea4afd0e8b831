"""Moves of tracks from one status to another, and their history.

A move is one call of a function of alembic/functions/lifecycle_v1.sql, which locks the track, compares its status, and
writes the track and its history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple, Self
from uuid import UUID

from audiocatalog.errors import (
    CatalogError,
    IllegalTransition,
    InvalidInput,
    Problem,
    TrackNotFound,
    TransitionConflict,
)
from audiocatalog.models.arguments import parse_choice
from audiocatalog.models.base import status_of
from audiocatalog.models.ids import parse_id
from audiocatalog.models.limits import clean_reason
from audiocatalog.models.rows import CHANGE_COLUMNS, change_of
from audiocatalog.models.tables import StatusChange
from audiocatalog.operations.operation import TRANSACTION_MARK, Operation, Statement
from audiocatalog.operations.tracks import parse_ids
from audiocatalog.status import TRANSITIONS, TrackStatus, sources

_ANSWER: Final = ", ".join(("seen", "actual", *(name for name in CHANGE_COLUMNS if name != "track_id")))
#: Move a track and write its history, both or neither. The statement returns one row: the track's id, the status
#: before the lock, the status under the lock, and the change or nulls. An earlier change with the same operation id is
#: returned again.
MOVE: Final = Statement(
    f"SELECT $1::uuid, {_ANSWER}, {TRANSACTION_MARK} FROM audiocatalog_move_v1($1, $2, $3, $4, $5, $6, $7)", writes=True
)
#: Move many tracks in the same way, in the order of the given ids.
MOVE_MANY: Final = Statement(
    f"""
SELECT asked.id, {_ANSWER}, {TRANSACTION_MARK} FROM unnest($1::uuid[]) AS asked (id)
CROSS JOIN LATERAL audiocatalog_move_v1(asked.id, $2, $3, $4, $5, $6, $7) AS moved
""",
    writes=True,
)
#: Read the history of a track, oldest first, with the microseconds until each next change, because the text of an
#: interval depends on the session's settings. For a track without history, the statement returns one row of nulls.
HISTORY: Final = Statement(f"""
SELECT {", ".join(f"c.{name}" for name in CHANGE_COLUMNS)},
  (extract(epoch FROM lead(c.at) OVER (ORDER BY c.version) - c.at) * 1000000)::bigint
FROM audio_tracks AS t LEFT JOIN audio_track_status_changes AS c ON c.track_id = t.id
WHERE t.id = $1 ORDER BY c.version
""")

# The statuses from which a track may move to each status, as an array's text, which is faster to send than a list.
_STARTS: Final = {to: f"{{{','.join(sorted(sources(to)))}}}" for to in TrackStatus}


class Move(NamedTuple):
    """A move to the status *to*, only from *expected* if it is given, with the facts that the history records."""

    to: TrackStatus
    actor: str
    reason: str | None
    expected: TrackStatus | None = None
    operation_id: UUID | None = None
    notify: bool = False

    @classmethod
    def checked(
        cls,
        to: object,
        *,
        actor: str,
        reason: object,
        expected: object,
        operation_id: UUID | str | None,
        notify: bool,
    ) -> Self:
        """Return the move with these arguments, or raise InvalidInput."""
        return cls(
            to=parse_choice(TrackStatus, to, "to"),
            expected=None if expected is None else parse_choice(TrackStatus, expected, "expected"),
            operation_id=None if operation_id is None else parse_id(operation_id, "operation_id"),
            actor=actor,
            reason=clean_reason(reason),
            notify=notify,
        )

    def values(self, track_id: UUID | Sequence[UUID]) -> tuple[Any, ...]:
        """Return the values of ``MOVE`` for one track, or of ``MOVE_MANY`` for a list, or raise IllegalTransition."""
        to, expected = self.to, self.expected
        if expected is not None and to not in TRANSITIONS[expected]:
            raise IllegalTransition(expected, to, track_id=track_id if isinstance(track_id, UUID) else None)
        starts = _STARTS[to] if expected is None else f"{{{expected}}}"
        return (track_id, str(to), starts, self.actor, self.reason, self.operation_id, self.notify)


def update_status(id: UUID | str, move: Move) -> Operation[StatusChange]:  # noqa: A002
    """
    Apply *move* to the track with *id*, and return the change.

    The operation raises the same errors as ``Catalog.update_status``.
    """
    (row,) = yield MOVE, move.values(parse_id(id))
    outcome = outcome_of(row, move)
    if isinstance(outcome, CatalogError):
        raise outcome
    return outcome


def update_statuses(ids: Iterable[UUID | str], move: Move) -> Operation[dict[UUID, StatusChange | CatalogError]]:
    """
    Apply *move* to each track as ``update_status`` does, and return the change or the error of each.

    If the operation raises InvalidInput, or IllegalTransition for a move from ``expected``, it moves no track.
    """
    track_ids = parse_ids(ids, "update_statuses")
    # Every call locks tracks in the order of their ids, so that two calls cannot deadlock.
    values = move.values(sorted(track_ids))
    rows = {row[0]: row for row in (yield MOVE_MANY, values)} if track_ids else {}
    return {track_id: outcome_of(rows[track_id], move) for track_id in track_ids}


def history(id: UUID | str) -> Operation[list[StatusChange]]:  # noqa: A002
    """Return every change of the track with *id*, oldest first, or raise TrackNotFound or InvalidInput."""
    track_id = parse_id(id)
    rows = yield HISTORY, (track_id,)
    if not rows:
        raise TrackNotFound(track_id, operation="history")
    return [change_of(row[:-1], _duration(row[-1])) for row in rows if row[0] is not None]


def _duration(microseconds: int | None) -> timedelta | None:
    """Return how long a status lasted; zero if the server's clock was set back during that time."""
    return None if microseconds is None else timedelta(microseconds=max(microseconds, 0))


def outcome_of(row: tuple[Any, ...], move: Move) -> StatusChange | CatalogError:
    """Return the change in a row of a move, or the error that explains why there is no change."""
    track_id, seen, actual, version, *rest = row
    to, expected = move.to, move.expected
    if actual is None:
        return TrackNotFound(track_id, operation="update_status")
    if version is not None:
        return _repeated(change_of((track_id, version, *rest)), to)
    if expected is not None:
        return TransitionConflict(track_id, expected=expected, actual=status_of(actual))
    if seen != actual and to in TRANSITIONS.get(status_of(seen), ()):
        # The move was legal when the statement began, but another caller was faster.
        return TransitionConflict(track_id, expected=status_of(seen), actual=status_of(actual))
    return IllegalTransition(status_of(actual), to, track_id=track_id)


def _repeated(change: StatusChange, to: TrackStatus) -> StatusChange | CatalogError:
    """Return *change*, or an error if the operation id belongs to an earlier move to another status."""
    if change.to_status == to:
        return change
    return InvalidInput(
        Problem("operation_id", f"used before, to move this track to {change.to_status}; use a new id for a new move"),
        operation="update_status",
    )
