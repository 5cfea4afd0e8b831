"""The statuses of a track, and the table of moves between them.

The CHECK on the history, the diagram in the documentation and the tests derive from ``MOVES``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal

#: The name of a status; every argument that accepts a status also accepts its name.
StatusName = Literal["PENDING", "PROCESSING", "COMPLETED", "FAILED"]


class TrackStatus(StrEnum):
    """The status of a track in its processing."""

    #: Registered, and waiting for a worker.
    PENDING = "PENDING"
    #: A worker processes the track.
    PROCESSING = "PROCESSING"
    #: Processed; its metadata is stored.
    COMPLETED = "COMPLETED"
    #: Processing failed; the track stays FAILED until a caller moves it to PENDING.
    FAILED = "FAILED"


#: Every allowed move with its meaning; a new track moves from None.
MOVES: Final[Mapping[tuple[TrackStatus | None, TrackStatus], str]] = MappingProxyType(
    {
        (None, TrackStatus.PENDING): "registered",
        (None, TrackStatus.COMPLETED): "saved with its metadata",
        (TrackStatus.PENDING, TrackStatus.PROCESSING): "claimed by a worker",
        (TrackStatus.PENDING, TrackStatus.FAILED): "failed before it was tried",
        (TrackStatus.PROCESSING, TrackStatus.COMPLETED): "completed",
        (TrackStatus.PROCESSING, TrackStatus.FAILED): "failed",
        (TrackStatus.PROCESSING, TrackStatus.PENDING): "released, or its lease expired",
        (TrackStatus.FAILED, TrackStatus.PENDING): "to be retried",
        (TrackStatus.COMPLETED, TrackStatus.PENDING): "to be processed again",
    }
)

#: The statuses to which a track may move from each status; a new track moves from None.
TRANSITIONS: Final[Mapping[TrackStatus | None, frozenset[TrackStatus]]] = MappingProxyType(
    {start: frozenset(end for begin, end in MOVES if begin == start) for start in (None, *TrackStatus)}
)


def diagram() -> str:
    """Return ``MOVES`` as a Mermaid state diagram, for the documentation."""
    lines = (f"    {start or '[*]'} --> {end}: {meaning}" for (start, end), meaning in MOVES.items())
    return "\n".join(("stateDiagram-v2", *lines))


def sources(to: TrackStatus) -> frozenset[TrackStatus]:
    """Return the statuses from which a stored track may move to *to*."""
    return frozenset(status for status in TrackStatus if to in TRANSITIONS[status])
