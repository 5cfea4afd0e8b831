"""Claims of tracks by workers.

The statements call functions of alembic/functions/lifecycle_v1.sql and content_v1.sql.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeVar
from uuid import UUID

from audiocatalog.errors import ClaimLost, InvalidInput, Problem, kind_of
from audiocatalog.models.arguments import parse_choice, whole_number
from audiocatalog.models.claim import CLAIM_ORDERS, Claim, RetryPolicy
from audiocatalog.models.limits import clean_actor, clean_reason
from audiocatalog.models.metadata import CONTENT_VERSION, TrackMetadata
from audiocatalog.models.rows import TRACK_COLUMNS, change_of, track_of
from audiocatalog.models.tables import StatusChange
from audiocatalog.operations.operation import TRANSACTION_MARK, Operation, Statement
from audiocatalog.status import TrackStatus

_Outcome = TypeVar("_Outcome")

#: One call claims or releases at most this many tracks.
MAX_CLAIMS: Final = 1000
_LONGEST_LEASE: Final = timedelta(days=7)
_SHORTEST_LEASE: Final = timedelta(milliseconds=10)
#: The channel of the notifications about waiting tracks.
CHANNEL: Final = "audiocatalog_pending"

_CLAIM_COLUMNS: Final = ", ".join((*TRACK_COLUMNS, "attempt", "expires_at", "last_error", "begun", "token"))
_CLAIM: Final = f"SELECT {_CLAIM_COLUMNS}, {TRANSACTION_MARK} FROM audiocatalog_claim_v{CONTENT_VERSION}"
#: Claim waiting tracks; the work on all of them begins.
CLAIM: Final = Statement(f"{_CLAIM}($1, $2, $3, $4)", writes=True)
#: Claim waiting tracks for a loop; only the work on the first track begins.
CLAIM_FOR_LOOP: Final = Statement(f"{_CLAIM}($1, $2, $3, $4, true)", writes=True)
#: Record that the work on a claimed track begins, or has not begun.
BEGIN: Final = Statement(
    f"SELECT *, {TRANSACTION_MARK} FROM audiocatalog_begin_v1($1, $2, $3)", writes=True, writes_history=False
)
RENEW: Final = Statement(
    f"SELECT *, {TRANSACTION_MARK} FROM audiocatalog_renew_v1($1, $2::bigint[], $3)", writes=True, writes_history=False
)
COMPLETE: Final = Statement(
    f"SELECT *, {TRANSACTION_MARK} FROM audiocatalog_complete_v{CONTENT_VERSION}($1, $2::bigint[], $3, $4, $5::jsonb)",
    writes=True,
)
#: End claims without a result.
END_UNFINISHED: Final = Statement(
    f"SELECT *, {TRANSACTION_MARK} "
    "FROM audiocatalog_give_up_v1($1, $2::bigint[], $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    writes=True,
)
#: Release tracks with expired leases.
RELEASE_EXPIRED: Final = Statement(
    f"SELECT *, {TRANSACTION_MARK} FROM audiocatalog_release_expired_v1($1, $2, $3, $4, $5, $6, $7)", writes=True
)


def claim(limit: object, *, lease: object, worker: str, order_by: object) -> Operation[list[Claim]]:
    """Claim waiting tracks for *worker* and return the claims, or raise InvalidInput."""
    rows = yield CLAIM, _claim_values(limit, lease, worker, order_by)
    return [claim for claim, _ in _claims_of(rows, worker)]


def claim_for_loop(
    limit: object, *, lease: object, worker: str, order_by: object
) -> Operation[list[tuple[Claim, bool]]]:
    """Claim tracks for a loop and return pairs of a claim and whether its work has begun, or raise InvalidInput."""
    rows = yield CLAIM_FOR_LOOP, _claim_values(limit, lease, worker, order_by)
    return _claims_of(rows, worker)


def begin(claim: Claim, *, begins: bool) -> Operation[None]:
    """
    Record that the work on *claim* begins, so that the try counts, or raise ClaimLost.

    If not *begins*, record that the work has not begun.
    """
    rows = yield BEGIN, (claim.track.id, claim.token, begins)
    if not rows:
        raise claim.lost("begin")


def renew(claim: Claim, *, lease: object) -> Operation[Claim]:
    """Extend the lease of *claim* and return the claim with its new end, or raise ClaimLost or InvalidInput."""
    (outcome,) = yield from renew_many([claim], lease=lease)
    return _or_raise(outcome)


def renew_many(claims: Sequence[Claim], *, lease: object) -> Operation[list[Claim | ClaimLost]]:
    """Extend the leases of *claims* and return the renewed claim or ClaimLost of each, or raise InvalidInput."""
    found = _checked_claims(claims, "renew")
    tracks, tokens, _ = _keys_of(found)
    values = (tracks, tokens, checked_lease(lease, "renew"))
    rows = (yield RENEW, values) if found else ()
    ends: dict[UUID, datetime] = dict(rows)
    return [
        dataclasses.replace(claim, expires_at=ends[claim.track.id]) if claim.track.id in ends else claim.lost("renew")
        for claim in found
    ]


def complete(claim: Claim, metadata: TrackMetadata | None, *, actor: str | None) -> Operation[StatusChange]:
    """Complete *claim*, store *metadata*, if any, and return the change, or raise ClaimLost or InvalidInput."""
    (outcome,) = yield from complete_many([(claim, metadata)], actor=actor)
    return _or_raise(outcome)


def complete_many(
    claims: Sequence[Claim | tuple[Claim, TrackMetadata | None]], *, actor: str | None
) -> Operation[list[StatusChange | ClaimLost]]:
    """Complete *claims*, each with its metadata, and return the change or ClaimLost of each, or raise InvalidInput."""
    pairs, metadata = _split_pairs(claims)
    found = _checked_claims(pairs, "complete")
    who = None if actor is None else clean_actor(actor)
    if not found:
        return []
    rows = yield COMPLETE, (*_keys_of(found), who, _metadata_json(metadata))
    return _ended(found, rows, "complete")


def end_unfinished(
    claim: Claim,
    operation: Literal["fail", "release"],
    *,
    reason: str | None,
    actor: str | None,
    retry: bool,
    retries: RetryPolicy,
    notify: bool,
) -> Operation[StatusChange]:
    """
    End *claim* without a result: "fail" counts the try, and "release" does not.

    The operation raises ClaimLost or InvalidInput.
    """
    if not isinstance(retry, bool):
        raise InvalidInput(Problem("retry", "True or False"), operation=operation)
    why = clean_reason(reason, "error" if operation == "fail" else "reason")
    who = None if actor is None else clean_actor(actor)
    found = _checked_claims([claim], operation)
    values = (*_keys_of(found), who, why, retry, operation == "fail", *retries.values(), notify)
    (outcome,) = _ended(found, (yield END_UNFINISHED, values), operation)
    return _or_raise(outcome)


def release_expired(limit: object, *, actor: str, retries: RetryPolicy, notify: bool) -> Operation[list[StatusChange]]:
    """Release tracks with expired leases and return the changes, or raise InvalidInput if *limit* breaks its rule."""
    values = (checked_count(limit, "limit", "release_expired"), actor, *retries.values(), notify)
    rows = yield RELEASE_EXPIRED, values
    return [change_of(row) for row in rows]


def _claim_values(limit: object, lease: object, worker: str, order_by: object) -> tuple[Any, ...]:
    """Return the values of a claiming statement, or raise InvalidInput."""
    count = checked_count(limit, "limit", "claim")
    return (
        count,
        checked_lease(lease, "claim"),
        worker,
        parse_choice(CLAIM_ORDERS, order_by, "order_by", "claim") == "newest",
    )


def checked_count(value: object, field: str, operation: str) -> int:
    """Return *value*, a number of tracks from 1 to 1,000, or raise InvalidInput."""
    return whole_number(value, field, operation, most=MAX_CLAIMS)


def checked_lease(value: object, operation: str) -> timedelta:
    """Return *value*, a lease from 10 milliseconds to 7 days, or raise InvalidInput."""
    if not isinstance(value, timedelta) or not _SHORTEST_LEASE <= value <= _LONGEST_LEASE:
        raise InvalidInput(Problem("lease", "a timedelta from 10 milliseconds to 7 days"), operation=operation)
    return value


def _checked_claims(claims: object, operation: str) -> list[Claim]:
    """Return *claims*, at most 1,000 and each of a different track, as a list, or raise InvalidInput."""
    found: list[Any] = list(claims) if isinstance(claims, list | tuple) else [claims]
    for claim in found:
        if not isinstance(claim, Claim):
            raise InvalidInput(Problem("claim", f"a Claim, not {kind_of(claim)}"), operation=operation)
    if len(found) > MAX_CLAIMS:
        raise InvalidInput(Problem("claims", f"at most {MAX_CLAIMS:,} claims", MAX_CLAIMS), operation=operation)
    if len({claim.track.id for claim in found}) < len(found):
        raise InvalidInput(Problem("claims", "at most one claim of each track"), operation=operation)
    return found


def _split_pairs(pairs: object) -> tuple[list[Claim], list[TrackMetadata | None]]:
    """Return the claims and the metadata in *pairs*, a list of claims or pairs, or raise InvalidInput."""
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


def _claims_of(rows: Sequence[tuple[Any, ...]], worker: str) -> list[tuple[Claim, bool]]:
    """Return, for each row of a claiming statement, a pair of the claim and whether its work has begun."""
    claims = []
    for *track, attempt, expires_at, last_error, begun, token in rows:
        claims.append((Claim(track_of(track), token, worker, attempt, expires_at, last_error), begun))
    return claims


def _keys_of(claims: Sequence[Claim]) -> tuple[list[UUID], list[int], list[UUID]]:
    """Return the tracks, tokens and operation ids of *claims*."""
    return (
        [claim.track.id for claim in claims],
        [claim.token for claim in claims],
        [claim.operation_id for claim in claims],
    )


def _metadata_json(metadata: Sequence[TrackMetadata | None]) -> str | None:
    """Return *metadata* as one JSON text, None if no claim has any, or raise InvalidInput for a wrong type."""
    for one in metadata:
        if one is not None and not isinstance(one, TrackMetadata):
            raise InvalidInput(Problem("metadata", f"a TrackMetadata, not {kind_of(one)}"), operation="complete")
    if all(one is None for one in metadata):
        return None
    return json.dumps([None if one is None else dataclasses.asdict(one) for one in metadata])


def _ended(claims: Sequence[Claim], rows: Sequence[tuple[Any, ...]], operation: str) -> list[StatusChange | ClaimLost]:
    """Return, for each claim, the change that *operation* made, or ClaimLost for a lost claim."""
    changes = {place - 1: change_of(values) for place, *values in rows}
    outcomes: list[StatusChange | ClaimLost] = []
    for place, claim in enumerate(claims):
        change = changes.get(place)
        claim.note_end(operation)
        outcomes.append(change if change is not None and _way_of(change) == operation else claim.lost(operation))
    return outcomes


def _way_of(change: StatusChange) -> str:
    """Return the operation that ended a claim with *change*."""
    if change.to_status == TrackStatus.COMPLETED:
        return "complete"
    # A released try has no number, because the try does not count.
    return "release" if change.attempt is None else "fail"


def _or_raise(outcome: _Outcome | ClaimLost) -> _Outcome:
    if isinstance(outcome, ClaimLost):
        raise outcome
    return outcome
