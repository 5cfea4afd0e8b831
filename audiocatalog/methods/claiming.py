"""How workers claim tracks, and end their claims."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from audiocatalog.errors import ClaimLost
from audiocatalog.methods.calls import Calls
from audiocatalog.models.claim import Claim, ClaimOrder, RetryPolicy
from audiocatalog.models.metadata import TrackMetadata
from audiocatalog.models.tables import StatusChange
from audiocatalog.operations import claims as operations

_LEASE: Final = timedelta(minutes=5)


class Claiming(Calls):
    """Claims of tracks by workers, each call in one round trip."""

    def claim(
        self,
        limit: int = 10,
        *,
        lease: timedelta = _LEASE,
        worker: str | None = None,
        order_by: ClaimOrder = "oldest",
    ) -> list[Claim]:
        """
        Take up to *limit* waiting tracks into the hands of *worker* (the catalogue's actor if None), for *lease*.

        Each becomes PROCESSING and is nobody else's until the lease runs out; an empty list says that none is waiting.
        No caller waits for another. Renew the lease if the work takes longer, and end it by ``complete``, ``fail`` or
        ``release``. *worker* is a name for the history; what fences a claim is its token, so that names may repeat.

        Raises:
            InvalidInput: *limit* is none from 1 to 1,000, or another argument breaks its rule.

        >>> for claim in catalog.claim(limit=10, worker="extractor 3"):  # doctest: +SKIP
        ...     catalog.complete(claim, extract(claim.track.audio_path))

        """
        return self._run(
            "claim",
            lambda: operations.claim(
                limit, lease=lease, worker=self._actor_or_default(worker, "worker"), order_by=order_by
            ),
        )

    def renew(self, claim: Claim, *, lease: timedelta = _LEASE) -> Claim:
        """
        Prolong *claim* to *lease* from now, if that is later, and return it with its new end.

        Raises:
            ClaimLost: it no longer holds.
        """
        return self._run("renew", lambda: operations.renew(claim, lease=lease))

    def renew_many(self, claims: Sequence[Claim], *, lease: timedelta = _LEASE) -> list[Claim | ClaimLost]:
        """
        Prolong *claims* as ``renew`` does, and return what became of each: the claim, or the error that it got.

        Raises:
            InvalidInput: names what breaks its rule; nothing was changed.
        """
        return self._run("renew_many", lambda: operations.renew_many(claims, lease=lease))

    def complete(
        self, claim: Claim, metadata: TrackMetadata | None = None, *, actor: str | None = None
    ) -> StatusChange:
        """
        End *claim*: its track is COMPLETED, with *metadata* if that is given, both or neither.

        Called again, it returns the first answer. The history says that the claim's worker did it, unless *actor* is
        given.

        Raises:
            ClaimLost: the claim no longer holds; nothing was changed.
            InvalidInput: *metadata* is no ``TrackMetadata``.
        """
        return self._run("complete", lambda: operations.complete(claim, metadata, actor=actor))

    def complete_many(
        self, claims: Sequence[Claim | tuple[Claim, TrackMetadata | None]], *, actor: str | None = None
    ) -> list[StatusChange | ClaimLost]:
        """
        Complete *claims*, with or without metadata, and return what became of each: the change, or the error it got.

        One that no longer holds does not keep the others from being completed.

        Raises:
            InvalidInput: names what breaks its rule; nothing was changed.
        """
        return self._run("complete_many", lambda: operations.complete_many(claims, actor=actor))

    def fail(self, claim: Claim, error: str | None, *, retry: bool = True, actor: str | None = None) -> StatusChange:
        """
        End *claim* by an *error*, which the history and the next claim tell.

        The track waits for its next try, longer after each one, as the catalogue's settings say; without *retry*, or
        when it has been tried as often as they allow, it is FAILED. Called again, it returns the first answer.

        Raises:
            ClaimLost: the claim no longer holds; nothing was changed.
            InvalidInput: *error* is no text of at most 1,000 characters.
        """
        return self._run(
            "fail",
            lambda: operations.end_unfinished(
                claim,
                "fail",
                reason=error,
                actor=actor,
                retry=retry,
                retries=self._retries(),
                notify=self._settings.notify,
            ),
        )

    def release(self, claim: Claim, *, reason: str | None = None, actor: str | None = None) -> StatusChange:
        """
        Give the track of *claim* back, as if it had not been tried: it waits at once.

        Raises:
            ClaimLost: the claim no longer holds; nothing was changed.
        """
        return self._run(
            "release",
            lambda: operations.end_unfinished(
                claim,
                "release",
                reason=reason,
                actor=actor,
                retry=True,
                retries=self._retries(),
                notify=self._settings.notify,
            ),
        )

    def release_expired(self, limit: int = 1000, *, actor: str | None = None) -> list[StatusChange]:
        """
        Take back up to *limit* tracks whose leases have run out, and return the changes.

        They wait for their next try, longer after each one; those that have been tried as often as the settings allow
        are FAILED. A claim that is renewed at the same moment is left alone. Worker loops do this by themselves.
        """
        return self._run(
            "release_expired",
            lambda: operations.release_expired(
                limit, actor=self._actor_or_default(actor), retries=self._retries(), notify=self._settings.notify
            ),
        )

    def _retries(self) -> RetryPolicy:
        settings = self._settings
        return RetryPolicy(settings.max_attempts, settings.retry_delay, settings.longest_retry_delay)
