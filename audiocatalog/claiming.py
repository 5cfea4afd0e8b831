"""Claims on a connection, whoever holds it, each in one round trip."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from audiocatalog.claims import (
    BEGIN,
    CLAIM,
    CLAIM_FOR_LOOP,
    COMPLETE,
    GIVE_UP,
    RELEASE_EXPIRED,
    RENEW,
    Claim,
    ClaimOrder,
    Retries,
    checked_claims,
    checked_count,
    checked_lease,
    claim_values,
    claims_of,
    claims_with_beginnings,
    ended,
    keys_of,
    metadata_json,
    renewed,
)
from audiocatalog.errors import ClaimLost, Phase
from audiocatalog.metadata import TrackMetadata
from audiocatalog.models import StatusChange
from audiocatalog.operations import Driver, written
from audiocatalog.transitions import change_of
from audiocatalog.translation import translated


def claim_tracks(
    driver: Driver, *, limit: int, lease: timedelta, worker: str, order: ClaimOrder | str, phase: Phase
) -> list[Claim]:
    """Claim tracks as ``Verbs.claim`` says."""
    values = claim_values(limit, lease, worker, order)
    with translated("claim", phase):
        rows = written(driver, CLAIM, values)
    return claims_of(rows, worker)


def claim_for_loop(
    driver: Driver, *, limit: int, lease: timedelta, worker: str, order: ClaimOrder | str, phase: Phase
) -> list[tuple[Claim, bool]]:
    """Claim tracks to work on them one after the other, and return each with whether that has begun."""
    values = claim_values(limit, lease, worker, order)
    with translated("claim", phase):
        rows = written(driver, CLAIM_FOR_LOOP, values)
    return claims_with_beginnings(rows, worker)


def begin_claim(driver: Driver, claim: Claim, *, begins: bool, phase: Phase) -> None:
    """
    Note that the work on *claim* begins, so that the try counts; or, unless it *begins* after all, that it does not.

    Raises:
        ClaimLost: the claim no longer holds.
    """
    with translated("begin", phase):
        rows = written(driver, BEGIN, (claim.track.id, claim.token, begins), leaves_rows=False)
    if not rows:
        raise claim.lost("begin")


def renew_claims(driver: Driver, claims: Sequence[Claim], *, lease: timedelta, phase: Phase) -> list[Claim | ClaimLost]:
    """Prolong the leases of *claims*, and return each with its new end, or an error if it is lost."""
    found = checked_claims(claims, "renew")
    tracks, tokens, _ = keys_of(found)
    values = (tracks, tokens, checked_lease(lease, "renew"))
    with translated("renew", phase):
        rows = written(driver, RENEW, values, leaves_rows=False) if found else []
    return renewed(found, rows)


def complete_claims(
    driver: Driver,
    claims: Sequence[Claim],
    metadata: Sequence[TrackMetadata | None],
    *,
    actor: str | None,
    phase: Phase,
) -> list[StatusChange | ClaimLost]:
    """Complete *claims*, each with its metadata, and return what became of each."""
    found = checked_claims(claims, "complete")
    if not found:
        return []
    values = (*keys_of(found), actor, metadata_json(metadata))
    with translated("complete", phase):
        rows = written(driver, COMPLETE, values)
    return ended(found, rows, "complete")


def give_claims_up(
    driver: Driver,
    claims: Sequence[Claim],
    *,
    operation: str,
    reason: str | None,
    actor: str | None,
    retry: bool,
    counted: bool,
    retries: Retries,
    notify: bool,
    phase: Phase,
) -> list[StatusChange | ClaimLost]:
    """End *claims* whose work was not done, and return what became of each; a try that is not *counted* never was."""
    found = checked_claims(claims, operation)
    if not found:
        return []
    values = (*keys_of(found), actor, reason, retry, counted, *retries.values(), notify)
    with translated(operation, phase):
        rows = written(driver, GIVE_UP, values)
    return ended(found, rows, operation)


def release_expired_claims(
    driver: Driver, *, limit: int, actor: str, retries: Retries, notify: bool, phase: Phase
) -> list[StatusChange]:
    """Take tracks back as ``Verbs.release_expired`` says."""
    values = (checked_count(limit, "limit", "release_expired"), actor, *retries.values(), notify)
    with translated("release_expired", phase):
        rows = written(driver, RELEASE_EXPIRED, values)
    return [change_of(row) for row in rows]
