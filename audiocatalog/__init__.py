"""The catalogue of an audio pipeline: save tracks, find them, search them, move them through their statuses."""

from audiocatalog import errors, migrations
from audiocatalog.catalog import Catalog
from audiocatalog.db.observer import Observation
from audiocatalog.models.claim import Claim, ClaimOrder
from audiocatalog.models.filters import SearchFilters
from audiocatalog.models.metadata import ExportedRecord, TrackMetadata, TrackRecord
from audiocatalog.models.tables import SaveOutcome, StatusChange, Task, Track
from audiocatalog.operations.activity import Activity, ActivityBucket, FailureReason, Stay, WorkerLoad
from audiocatalog.operations.bulk_result import BulkBatch, BulkOutcome, BulkResult, OnConflict, Refusal
from audiocatalog.operations.changes import TrackUpdates
from audiocatalog.operations.iteration import TrackOrder
from audiocatalog.operations.monitoring import Health, PoolStats, StatusCount
from audiocatalog.search.explanation import Explanation, TermExplanation
from audiocatalog.search.results import Facet, FacetValue, Hit, SearchPage, SearchSort
from audiocatalog.search.vocabulary import Vocabulary
from audiocatalog.status import TRANSITIONS, TrackStatus
from audiocatalog.unit_of_work import UnitOfWork
from audiocatalog.worker import Worker

__all__ = [
    "TRANSITIONS",
    "Activity",
    "ActivityBucket",
    "BulkBatch",
    "BulkOutcome",
    "BulkResult",
    "Catalog",
    "Claim",
    "ClaimOrder",
    "Explanation",
    "ExportedRecord",
    "Facet",
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
    "SearchPage",
    "SearchSort",
    "StatusChange",
    "StatusCount",
    "Stay",
    "Task",
    "TermExplanation",
    "Track",
    "TrackMetadata",
    "TrackOrder",
    "TrackRecord",
    "TrackStatus",
    "TrackUpdates",
    "UnitOfWork",
    "Vocabulary",
    "Worker",
    "WorkerLoad",
    "errors",
    "migrations",
]
