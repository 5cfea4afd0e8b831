"""The defaults of every call, and the operations that several methods share, whether callers wait or await."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from audiocatalog.db.observer import Observer
from audiocatalog.db.settings import Settings
from audiocatalog.models.arguments import parse_choice
from audiocatalog.models.claim import Claim
from audiocatalog.models.limits import clean_actor, clean_reason
from audiocatalog.models.metadata import TrackRecord
from audiocatalog.models.tables import StatusChange, Track
from audiocatalog.operations import claims, tracks
from audiocatalog.operations.bulk import BatchStore
from audiocatalog.operations.bulk_result import OnConflict
from audiocatalog.operations.moves import Move
from audiocatalog.operations.operation import Operation
from audiocatalog.status import StatusName, TrackStatus


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

    def _move(
        self,
        to: TrackStatus | StatusName,
        actor: str | None,
        reason: str | None,
        expected: TrackStatus | StatusName | None,
        operation_id: UUID | str | None,
    ) -> Move:
        """Return the move of ``update_status`` and ``update_statuses``, with checked arguments."""
        return Move.checked(
            to,
            actor=self._actor_or_default(actor),
            reason=reason,
            expected=expected,
            operation_id=operation_id,
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
        return BatchStore(
            on_conflict=parse_choice(OnConflict, on_conflict, "on_conflict", "bulk_save"),
            actor=self._actor_or_default(actor),
            reason=clean_reason(reason),
            notify=settings.notify,
            statement_timeout=settings.statement_timeout,
            lock_timeout=settings.lock_timeout,
        )
