"""A worker's claim of a track, and the rules for retries.

A claim is a lease with a token. The token begins with the track's version after the claim, so every later claim of the
same track has a greater token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, get_args
from uuid import UUID

from audiocatalog.errors import ClaimLost
from audiocatalog.models.redaction import discreetly, short
from audiocatalog.models.tables import Track

# A large odd factor makes the operation ids of a track's claims differ from each other and from the operation ids of
# callers.
_SPREAD: Final = 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835


#: Which waiting tracks are claimed first: those that have waited longest, or the newest ones.
ClaimOrder = Literal["oldest", "newest"]
CLAIM_ORDERS: Final[tuple[ClaimOrder, ...]] = get_args(ClaimOrder)


@dataclass(frozen=True, slots=True)
class Claim:
    """
    A *worker*'s claim of a *track*.

    - *token*: the fencing token: complete, fail and renew require that the track still has this token. Pass the token
      to other systems that the worker writes to; a later claim of the same track always has a greater token
    - *worker*: the name of the worker
    - *attempt*: the number of this try, from 1
    - *expires_at*: when the lease expires, unless it is renewed
    - *last_error*: why the previous try failed, or None
    """

    track: Track
    token: int
    worker: str
    attempt: int
    expires_at: datetime
    last_error: str | None
    # The operations that ended the claim in this process; a renewed copy shares the list.
    _ends: list[str] = field(default_factory=list, repr=False, compare=False)

    @discreetly
    def __repr__(self) -> str:
        return f"<Claim of {short(self.track.id)}, token {self.token}, attempt {self.attempt}>"

    @property
    def operation_id(self) -> UUID:
        """The operation id of the call that ends this claim; a repeated call gets the first answer."""
        return UUID(int=(self.track.id.int + self.token * _SPREAD) % 2**128)

    @property
    def has_ended(self) -> bool:
        """Whether this process has ended the claim or found it lost; another process may have ended it too."""
        return bool(self._ends)

    def note_end(self, operation: str) -> None:
        """Record that *operation* has ended the claim."""
        self._ends.append(operation)

    def lost(self, operation: str) -> ClaimLost:
        """Return the error for a lost claim."""
        return ClaimLost(self.track.id, token=self.token, operation=operation)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """
    The limit of tries of a track, and the delays between them.

    - *most*: the maximum number of tries
    - *delay*: the delay after the first try in seconds, doubled after each further try
    - *longest*: the maximum of the delay, in seconds
    - *spread*: the share of the delay that is jitter, so that retries spread out
    """

    most: int
    delay: float
    longest: float
    spread: float = 0.5

    def values(self) -> tuple[int, float, float, float]:
        """Return the policy as arguments of the SQL functions."""
        return self.most, self.delay, self.longest, self.spread
