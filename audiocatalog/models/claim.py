"""A worker's claim of a track, and the rules by which tracks are tried again.

A claim is a lease with a token. The token begins with the version that the track got by the claim, so that every later
claim of the same track has a greater one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, get_args
from uuid import UUID

from audiocatalog.errors import ClaimLost
from audiocatalog.models.redaction import discreetly, short
from audiocatalog.models.tables import Track

# A large odd number keeps the operation ids of a track's claims apart from each other, and from those of callers.
_SPREAD: Final = 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835


#: Which waiting tracks are claimed first: those that have waited longest, or those that came last.
ClaimOrder = Literal["oldest", "newest"]
CLAIM_ORDERS: Final[tuple[ClaimOrder, ...]] = get_args(ClaimOrder)


@dataclass(frozen=True, slots=True)
class Claim:
    """
    Hold a track that is in the hands of *worker* until *expires_at*, unless the lease is renewed.

    *token* fences it: complete, fail and renew demand that it is still the track's. Hand it to whatever else the worker
    writes to; a later claim of the same track always has a greater one. *attempt* counts the tries from 1; *last_error*
    says why the one before failed.
    """

    track: Track
    token: int
    worker: str
    attempt: int
    expires_at: datetime
    last_error: str | None
    # By what it was ended in this process; a renewed copy shares it.
    _ends: list[str] = field(default_factory=list, repr=False, compare=False)

    @discreetly
    def __repr__(self) -> str:
        """Return the end of the track's id, and which try it is."""
        return f"<Claim of {short(self.track.id)}, token {self.token}, attempt {self.attempt}>"

    @property
    def operation_id(self) -> UUID:
        """The operation id of whatever ends this claim: asked again, it gets the first answer."""
        return UUID(int=(self.track.id.int + self.token * _SPREAD) % 2**128)

    @property
    def has_ended(self) -> bool:
        """Whether this process has ended it, or has found that it was lost; another one may have done so too."""
        return bool(self._ends)

    def note_end(self, operation: str) -> None:
        """Remember that *operation* has ended it."""
        self._ends.append(operation)

    def lost(self, operation: str) -> ClaimLost:
        """Return the error that says that the track is no longer in these hands."""
        return ClaimLost(self.track.id, token=self.token, operation=operation)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """
    Say how often a track is tried, and how long it waits between two tries.

    It is tried *most* times; it waits *delay* seconds after the first, doubled each time up to *longest*, and up to the
    share *spread* of that less, each track another, so that what failed together is not tried together.
    """

    most: int
    delay: float
    longest: float
    spread: float = 0.5

    def values(self) -> tuple[int, float, float, float]:
        """Return what the functions take."""
        return self.most, self.delay, self.longest, self.spread
