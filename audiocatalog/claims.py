"""Claims of tracks by workers: the statements, and what their rows mean; no connection and no await in here.

A claim is a lease with a token. The token begins with the version that the track got by the claim, so that every later
claim of the same track has a greater one. The statements are calls of functions: alembic/functions/lifecycle_v1.sql.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from audiocatalog.choices import chosen, whole_number
from audiocatalog.discretion import discreetly, short
from audiocatalog.errors import ClaimLost, InvalidInput, Problem, kind_of
from audiocatalog.metadata import TrackMetadata
from audiocatalog.models import TRANSACTION_MARK, StatusChange, Track
from audiocatalog.status import TrackStatus
from audiocatalog.tracks import TRACK_COLUMNS, track_of
from audiocatalog.transitions import change_of

#: So many tracks are claimed, or taken back, by one call at the most.
MOST_CLAIMS: Final = 1000
_LONGEST_LEASE: Final = timedelta(days=7)
# A large odd number keeps the operation ids of a track's claims apart from each other, and from those of callers.
_SPREAD: Final = 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835
_SHORTEST_LEASE: Final = timedelta(milliseconds=10)
#: The name of the notifications that tell of waiting tracks.
CHANNEL: Final = "audiocatalog_pending"

#: Hand waiting tracks to a worker.
CLAIM: Final = f"SELECT *, {TRANSACTION_MARK} FROM audiocatalog_claim_v1($1, $2, $3, $4)"
#: Hand them to a worker that does one after the other: the work has begun with the first one alone.
CLAIM_FOR_LOOP: Final = f"SELECT *, {TRANSACTION_MARK} FROM audiocatalog_claim_v1($1, $2, $3, $4, true)"
#: Note that the work on a claimed track begins, or did not.
BEGIN: Final = f"SELECT *, {TRANSACTION_MARK} FROM audiocatalog_begin_v1($1, $2, $3)"
#: Prolong leases.
RENEW: Final = f"SELECT *, {TRANSACTION_MARK} FROM audiocatalog_renew_v1($1, $2::bigint[], $3)"
#: Complete claims, with metadata or without.
COMPLETE: Final = f"SELECT *, {TRANSACTION_MARK} FROM audiocatalog_complete_v1($1, $2::bigint[], $3, $4, $5::jsonb)"
#: End claims whose work was not done.
GIVE_UP: Final = (
    f"SELECT *, {TRANSACTION_MARK} "
    "FROM audiocatalog_give_up_v1($1, $2::bigint[], $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
)
#: Take back what dead workers hold.
RELEASE_EXPIRED: Final = (
    f"SELECT *, {TRANSACTION_MARK} FROM audiocatalog_release_expired_v1($1, $2, $3, $4, $5, $6, $7)"
)


class ClaimOrder(StrEnum):
    """Say which of the waiting tracks are claimed first."""

    #: Those that have waited longest.
    OLDEST = "oldest"
    #: Those that came last.
    NEWEST = "newest"


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
class Retries:
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


def claim_values(limit: object, lease: object, worker: str, order: object) -> tuple[Any, ...]:
    """
    Return what ``CLAIM`` is executed with.

    Raises:
        InvalidInput: names the argument that breaks its rule.
    """
    count = checked_count(limit, "limit", "claim")
    return (
        count,
        checked_lease(lease, "claim"),
        worker,
        chosen(ClaimOrder, order, "order", "claim") is ClaimOrder.NEWEST,
    )


def checked_count(value: object, field: str, operation: str) -> int:
    """
    Return *value*, a number of tracks.

    Raises:
        InvalidInput: it is none from 1 to 1,000.
    """
    return whole_number(value, field, operation, most=MOST_CLAIMS)


def checked_lease(value: object, operation: str) -> timedelta:
    """
    Return *value*, the length of a lease.

    Raises:
        InvalidInput: it is no timedelta from 10 ms to 7 days.
    """
    if not isinstance(value, timedelta) or not _SHORTEST_LEASE <= value <= _LONGEST_LEASE:
        raise InvalidInput(Problem("lease", "a timedelta from 10 milliseconds to 7 days"), operation=operation)
    return value


def checked_claims(claims: object, operation: str) -> list[Claim]:
    """
    Return *claims* as a list.

    Raises:
        InvalidInput: they are no claims, more than 1,000, or two of the same track.
    """
    found: list[Any] = list(claims) if isinstance(claims, list | tuple) else [claims]
    for claim in found:
        if not isinstance(claim, Claim):
            raise InvalidInput(Problem("claim", f"a Claim, not {kind_of(claim)}"), operation=operation)
    if len(found) > MOST_CLAIMS:
        raise InvalidInput(Problem("claims", f"at most {MOST_CLAIMS:,}", MOST_CLAIMS), operation=operation)
    if len({claim.track.id for claim in found}) < len(found):
        raise InvalidInput(Problem("claims", "each track once"), operation=operation)
    return found


def split_pairs(pairs: object) -> tuple[list[Claim], list[TrackMetadata | None]]:
    """
    Return the claims among *pairs*, which are claims, or claims with metadata, and the metadata of each.

    Raises:
        InvalidInput: *pairs* is no list or tuple of such.
    """
    if not isinstance(pairs, list | tuple):
        raise InvalidInput(Problem("claims", f"a list of claims, not {kind_of(pairs)}"), operation="complete")
    claims, metadata = [], []
    for one in pairs:
        if isinstance(one, tuple) and len(one) != 2:  # noqa: PLR2004
            raise InvalidInput(Problem("claims", "claims, or pairs of a claim and metadata"), operation="complete")
        claim, extracted = one if isinstance(one, tuple) else (one, None)
        claims.append(claim)
        metadata.append(extracted)
    return claims, metadata


def claims_of(rows: Sequence[tuple[Any, ...]], worker: str) -> list[Claim]:
    """Return the claims in the rows of ``CLAIM``."""
    return [claim for claim, _ in claims_with_beginnings(rows, worker)]


def claims_with_beginnings(rows: Sequence[tuple[Any, ...]], worker: str) -> list[tuple[Claim, bool]]:
    """Return the claims in the rows of ``CLAIM_FOR_LOOP``, each with whether the work on it has begun."""
    width = len(TRACK_COLUMNS)
    claims = []
    for row in rows:
        attempt, expires_at, last_error, begun, token = row[width:]
        claims.append((Claim(track_of(row[:width]), token, worker, attempt, expires_at, last_error), begun))
    return claims


def keys_of(claims: Sequence[Claim]) -> tuple[list[UUID], list[int], list[UUID]]:
    """Return the tracks, tokens and operation ids of *claims*."""
    return (
        [claim.track.id for claim in claims],
        [claim.token for claim in claims],
        [claim.operation_id for claim in claims],
    )


def metadata_json(metadata: Sequence[TrackMetadata | None]) -> str | None:
    """
    Return *metadata* as ``COMPLETE`` takes it.

    Raises:
        InvalidInput: one of them is no ``TrackMetadata``.
    """
    for one in metadata:
        if one is not None and not isinstance(one, TrackMetadata):
            raise InvalidInput(Problem("metadata", f"a TrackMetadata, not {kind_of(one)}"), operation="complete")
    if all(one is None for one in metadata):
        return None
    return json.dumps([None if one is None else dataclasses.asdict(one) for one in metadata])


def renewed(claims: Sequence[Claim], rows: Sequence[tuple[Any, ...]]) -> list[Claim | ClaimLost]:
    """Return *claims* with their new ends, and an error for each that is lost."""
    ends = dict(rows)
    return [
        dataclasses.replace(claim, expires_at=ends[claim.track.id]) if claim.track.id in ends else claim.lost("renew")
        for claim in claims
    ]


def ended(claims: Sequence[Claim], rows: Sequence[tuple[Any, ...]], operation: str) -> list[StatusChange | ClaimLost]:
    """
    Return what became of each claim: the change by which *operation* ended it, or an error if it is lost.

    The same claim may have been ended in another way before; then it is lost for this one.
    """
    changes = {place - 1: change_of(values) for place, *values in rows}
    outcomes: list[StatusChange | ClaimLost] = []
    for place, claim in enumerate(claims):
        change = changes.get(place)
        claim.note_end(operation)
        outcomes.append(change if change is not None and _way_of(change) == operation else claim.lost(operation))
    return outcomes


def _way_of(change: StatusChange) -> str:
    """Return the operation that ends a claim by *change*."""
    if change.to_status == TrackStatus.COMPLETED:
        return "complete"
    # A try that was given back is not numbered, for it never was one.
    return "release" if change.attempt is None else "fail"
