"""The statuses of a track and the table of moves between them: the only source of both.

The CHECK on the history, the diagram in the documentation and the tests derive from ``MOVES``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal

#: The name of a status, which may stand wherever a status may.
StatusName = Literal["PENDING", "PROCESSING", "COMPLETED", "FAILED"]


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


#: Every move there is, and what it means; None stands for a track that is not there yet.
MOVES: Final[Mapping[tuple[TrackStatus | None, TrackStatus], str]] = MappingProxyType(
    {
        (None, TrackStatus.PENDING): "registered",
        (None, TrackStatus.COMPLETED): "saved with its metadata",
        (TrackStatus.PENDING, TrackStatus.PROCESSING): "a worker took it",
        (TrackStatus.PENDING, TrackStatus.FAILED): "given up before it was tried",
        (TrackStatus.PROCESSING, TrackStatus.COMPLETED): "done",
        (TrackStatus.PROCESSING, TrackStatus.FAILED): "broken",
        (TrackStatus.PROCESSING, TrackStatus.PENDING): "released, or its lease ran out",
        (TrackStatus.FAILED, TrackStatus.PENDING): "retried",
        (TrackStatus.COMPLETED, TrackStatus.PENDING): "processed again",
    }
)

#: What may follow each status, and a track that is not there yet.
TRANSITIONS: Final[Mapping[TrackStatus | None, frozenset[TrackStatus]]] = MappingProxyType(
    {start: frozenset(end for begin, end in MOVES if begin == start) for start in (None, *TrackStatus)}
)


def diagram() -> str:
    """Return the table as a state diagram in Mermaid's language, as it stands in the documentation."""
    lines = (f"    {start or '[*]'} --> {end}: {meaning}" for (start, end), meaning in MOVES.items())
    return "\n".join(("stateDiagram-v2", *lines))


def sources(to: TrackStatus) -> frozenset[TrackStatus]:
    """Return the statuses from which a stored track may move to *to*."""
    return frozenset(status for status in TrackStatus if to in TRANSITIONS[status])
