"""The base of the methods: one call that carries out one operation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from time import perf_counter
from typing import Literal, TypeVar

from audiocatalog.db.observer import Observer
from audiocatalog.db.settings import Settings
from audiocatalog.models.claim import Claim
from audiocatalog.models.limits import clean_actor
from audiocatalog.models.metadata import TrackRecord
from audiocatalog.models.tables import StatusChange, Track
from audiocatalog.operations import claims, tracks
from audiocatalog.operations.bulk import BatchStore
from audiocatalog.operations.operation import Operation

_Result = TypeVar("_Result")


class CallDefaults:
    """The default *actor*, the *settings* and the *observer* of every call."""

    def __init__(self, actor: str, settings: Settings, observer: Observer) -> None:
        self._actor = actor
        self._settings = settings
        self._observer = observer

    def _actor_or_default(self, actor: str | None, field: str = "actor") -> str:
        return self._actor if actor is None else clean_actor(actor, field)

    def _save(
        self,
        record: TrackRecord,
        actor: str | None,
        reason: str | None,
        *,
        replace: bool,
        expected_version: int | None,
    ) -> Operation[Track]:
        """Return the operation of ``save`` and ``save_record``."""
        return tracks.save(
            record,
            replace=replace,
            expected_version=expected_version,
            actor=self._actor_or_default(actor),
            reason=reason,
            notify=self._settings.notify,
        )

    def _end_unfinished(
        self,
        name: Literal["fail", "release"],
        claim: Claim,
        reason: str | None,
        actor: str | None,
        *,
        retry: bool = True,
    ) -> Operation[StatusChange]:
        """Return the operation of ``fail`` and ``release``."""
        settings = self._settings
        return claims.end_unfinished(
            claim, name, reason=reason, actor=actor, retry=retry, retries=settings.retries, notify=settings.notify
        )

    def _batch_store(self, on_conflict: object, actor: str | None, reason: str | None) -> BatchStore:
        """Return the store for the batches of ``bulk_save``, with checked arguments."""
        settings = self._settings
        return BatchStore.checked(
            on_conflict,
            actor=self._actor_or_default(actor),
            reason=reason,
            notify=settings.notify,
            statement_timeout=settings.statement_timeout,
            lock_timeout=settings.lock_timeout,
        )


class Calls(CallDefaults, ABC):
    """The base of methods whose caller waits for the result."""

    def _run(self, name: str, begin: Callable[[], Operation[_Result]], *, searching: bool = False) -> _Result:
        """
        Carry out the operation that *begin* returns, as the public call *name*, and report the end of the call to the
        observer.

        If *searching*, the call counts as a search, for ``max_searches``.
        """
        # A context manager would cost more than the rest of this method.
        began = perf_counter()
        try:
            result = self._perform(name, begin(), searching=searching)
        except BaseException as error:
            self._observer.call_ended(name, began, error)
            raise
        self._observer.call_ended(name, began, None)
        return result

    @abstractmethod
    def _perform(self, name: str, operation: Operation[_Result], *, searching: bool = False) -> _Result:
        """Carry out *operation* on a connection."""
