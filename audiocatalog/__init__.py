"""A catalogue of audio tracks in PostgreSQL, with searches, bulk loads and a status for each track."""

import importlib as _importlib
import typing as _typing

from audiocatalog import errors
from audiocatalog.catalog import Catalog
from audiocatalog.db.observer import Observation
from audiocatalog.models.claim import Claim, ClaimOrder
from audiocatalog.models.filters import SearchFilters
from audiocatalog.models.metadata import ExportedRecord, FacetName, TrackMetadata, TrackRecord
from audiocatalog.models.tables import SaveOutcome, StatusChange, Task, Track
from audiocatalog.operations.activity import Activity, ActivityBucket, DurationStats, FailureReason, WorkerLoad
from audiocatalog.operations.bulk_result import BulkBatch, BulkOutcome, BulkResult, OnConflict, Refusal
from audiocatalog.operations.changes import ChangePage
from audiocatalog.operations.iteration import TrackOrder
from audiocatalog.operations.monitoring import Health, PoolStats, StatusCount
from audiocatalog.search.results import (
    Explanation,
    Facet,
    FacetValue,
    Hit,
    SearchOrder,
    SearchPage,
    TermExplanation,
)
from audiocatalog.search.vocabulary import Vocabulary
from audiocatalog.status import TRANSITIONS, TrackStatus
from audiocatalog.unit_of_work import UnitOfWork

# The first use of one of these names imports it, because most services do not need all of them.
if _typing.TYPE_CHECKING:
    from audiocatalog import migrations
    from audiocatalog.worker import Worker

__all__ = [
    "TRANSITIONS",
    "Activity",
    "ActivityBucket",
    "BulkBatch",
    "BulkOutcome",
    "BulkResult",
    "Catalog",
    "ChangePage",
    "Claim",
    "ClaimOrder",
    "DurationStats",
    "Explanation",
    "ExportedRecord",
    "Facet",
    "FacetName",
    "FacetValue",
    "FailureReason",
    "Health",
    "Hit",
    "Observation",
    "OnConflict",
    "PoolStats",
    "Refusal",
    "SaveOutcome",
    "SearchFilters",
    "SearchOrder",
    "SearchPage",
    "StatusChange",
    "StatusCount",
    "Task",
    "TermExplanation",
    "Track",
    "TrackMetadata",
    "TrackOrder",
    "TrackRecord",
    "TrackStatus",
    "UnitOfWork",
    "Vocabulary",
    "Worker",
    "WorkerLoad",
    "errors",
    "migrations",
]


def __getattr__(name: str) -> object:
    if name == "migrations":
        return _importlib.import_module("audiocatalog.migrations")
    if name == "Worker":
        return _importlib.import_module("audiocatalog.worker").Worker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
