"""The statuses of a track and the table of moves between them: the only source of both.

The CHECK on the history, the diagram in the documentation and the tests derive from ``TRANSITIONS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from audiocatalog.errors import InvalidInput, Problem


class TrackStatus(StrEnum):
    """Name where a track stands in its processing."""

    #: Registered, and waiting for a worker.
    PENDING = "PENDING"
    #: In the hands of a worker.
    PROCESSING = "PROCESSING"
    #: Done: its metadata is there.
    COMPLETED = "COMPLETED"
    #: Broken; it waits until somebody has it retried.
    FAILED = "FAILED"

    @classmethod
    def parse(cls, value: object, field: str = "status") -> TrackStatus:
        """
        Return *value*, a status or the name of one, as a status.

        Raises:
            InvalidInput: *value* is neither; the error names *field*.
        """
        status = _BY_NAME.get(value) if isinstance(value, str) else None
        if status is not None:
            return status
        raise InvalidInput(Problem(field, f"one of {', '.join(cls)}"))


_BY_NAME: Final[Mapping[str, TrackStatus]] = {str(status): status for status in TrackStatus}

#: What may follow each status; None stands for a track that is not there yet.
TRANSITIONS: Final[Mapping[TrackStatus | None, frozenset[TrackStatus]]] = MappingProxyType(
    {
        None: frozenset({TrackStatus.PENDING, TrackStatus.COMPLETED}),
        TrackStatus.PENDING: frozenset({TrackStatus.PROCESSING, TrackStatus.FAILED}),
        TrackStatus.PROCESSING: frozenset({TrackStatus.COMPLETED, TrackStatus.FAILED, TrackStatus.PENDING}),
        TrackStatus.FAILED: frozenset({TrackStatus.PENDING}),
        TrackStatus.COMPLETED: frozenset({TrackStatus.PENDING}),
    }
)


def sources(to: TrackStatus) -> frozenset[TrackStatus]:
    """Return the statuses from which a stored track may move to *to*."""
    return frozenset(status for status in TrackStatus if to in TRANSITIONS[status])
