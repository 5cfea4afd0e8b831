# Made from audiocatalog/methods/claiming.py by `make twins`: change that module.
"""Methods that claim tracks and end claims."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from audiocatalog.aio.calls import AsyncCalls
from audiocatalog.errors import ClaimLost
from audiocatalog.models.claim import Claim, ClaimOrder
from audiocatalog.models.metadata import TrackMetadata
from audiocatalog.models.tables import StatusChange
from audiocatalog.operations import claims as operations

_LEASE: Final = timedelta(minutes=5)


class AsyncClaiming(AsyncCalls):
    """Methods that claim tracks and end claims; each call takes one round trip."""

    async def claim(
        self,
        limit: int = 10,
        *,
        lease: timedelta = _LEASE,
        worker: str | None = None,
        order_by: ClaimOrder = "oldest",
    ) -> list[Claim]:
        """
        Claim up to *limit* waiting tracks for *lease*, and return the claims; an empty list means that no track waits.

        Each track becomes PROCESSING. No other caller gets the track before the lease expires. Callers do not wait for
        each other. If the work takes longer than the lease, renew the claim. End each claim with ``complete``,
        ``fail`` or ``release``. *worker* is a name for the history, the catalogue's actor by default. Several workers
        may have the same name, because a token identifies each claim.

        Raises:
            InvalidInput: *limit* is not a number from 1 to 1,000, or another argument breaks its rule.

        >>> for claim in await catalog.claim(limit=10, worker="extractor 3"):  # doctest: +SKIP
        ...     await catalog.complete(claim, extract(claim.track.audio_path))

        """
        return await self._run(
            "claim",
            lambda: operations.claim(
                limit, lease=lease, worker=self._actor_or_default(worker, "worker"), order_by=order_by
            ),
        )

    async def renew(self, claim: Claim, *, lease: timedelta = _LEASE) -> Claim:
        """
        Extend *claim* to *lease* from now, unless the claim already ends later, and return the renewed claim.

        Raises:
            ClaimLost: the claim has expired, or another caller has moved the track.
            InvalidInput: an argument breaks its rule.
        """
        return await self._run("renew", lambda: operations.renew(claim, lease=lease))

    async def renew_many(self, claims: Sequence[Claim], *, lease: timedelta = _LEASE) -> list[Claim | ClaimLost]:
        """
        Extend *claims* as ``renew`` does, and return the renewed claim or the error of each, in the same order.

        Raises:
            InvalidInput: an argument breaks its rule; nothing was changed.
        """
        return await self._run("renew_many", lambda: operations.renew_many(claims, lease=lease))

    async def complete(
        self, claim: Claim, metadata: TrackMetadata | None = None, *, actor: str | None = None
    ) -> StatusChange:
        """
        End *claim*: move its track to COMPLETED and store *metadata*, if any, in the same transaction.

        A repeated call returns the first answer. *actor* is the author in the history, the claim's worker by default.

        Raises:
            ClaimLost: the claim has expired, or another caller has moved the track; nothing was changed.
            InvalidInput: *metadata* is not a ``TrackMetadata``, or *actor* is not a valid name.
        """
        return await self._run("complete", lambda: operations.complete(claim, metadata, actor=actor))

    async def complete_many(
        self, claims: Sequence[Claim | tuple[Claim, TrackMetadata | None]], *, actor: str | None = None
    ) -> list[StatusChange | ClaimLost]:
        """
        Complete *claims*, with or without metadata, and return the change or the error of each, in the same order.

        A lost claim does not stop the others.

        Raises:
            InvalidInput: an argument breaks its rule; nothing was changed.
        """
        return await self._run("complete_many", lambda: operations.complete_many(claims, actor=actor))

    async def fail(
        self, claim: Claim, error: str | None, *, retry: bool = True, actor: str | None = None
    ) -> StatusChange:
        """
        End *claim* with an *error*, which the history and the track's next claim show.

        The track waits for a retry; ``retry_delay`` and ``longest_retry_delay`` set the delay. Without *retry*, or
        after ``max_attempts`` tries, the track is FAILED. A repeated call returns the first answer.

        Raises:
            ClaimLost: the claim has expired, or another caller has moved the track; nothing was changed.
            InvalidInput: *error* is not a text of at most 1,000 characters, or another argument breaks its rule.
        """
        return await self._run("fail", lambda: self._end_unfinished("fail", claim, error, actor, retry=retry))

    async def release(self, claim: Claim, *, reason: str | None = None, actor: str | None = None) -> StatusChange:
        """
        End *claim* without a result: its track waits again at once, and the try is not counted.

        Raises:
            ClaimLost: the claim has expired, or another caller has moved the track; nothing was changed.
            InvalidInput: an argument breaks its rule.
        """
        return await self._run("release", lambda: self._end_unfinished("release", claim, reason, actor))

    async def release_expired(self, limit: int = 1000, *, actor: str | None = None) -> list[StatusChange]:
        """
        Release up to *limit* tracks with expired leases, and return the changes.

        Each track waits for a retry, or is FAILED after ``max_attempts`` tries. A claim that is renewed at the same
        moment stays valid. Workers call this method themselves.

        Raises:
            InvalidInput: *limit* is not a number from 1 to 1,000, or *actor* is not a valid name.
        """
        return await self._run(
            "release_expired",
            lambda: operations.release_expired(
                limit, actor=self._actor_or_default(actor), retries=self._settings.retries, notify=self._settings.notify
            ),
        )
