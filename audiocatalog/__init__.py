"""The catalogue of an audio pipeline: save tracks, find them, search them, move them through their statuses."""

from audiocatalog import errors, migrations
from audiocatalog.activity import Activity, ActivityBucket, FailureReason, Stay, WorkerLoad
from audiocatalog.bulk_result import BulkBatch, BulkOutcome, BulkResult, OnConflict, Refusal
from audiocatalog.catalog import Catalog
from audiocatalog.claims import Claim, ClaimOrder
from audiocatalog.health import Health
from audiocatalog.metadata import ExportedRecord, TrackMetadata, TrackRecord
from audiocatalog.models import SaveOutcome, StatusChange, Task, Track
from audiocatalog.observing import Observation
from audiocatalog.pool_figures import PoolFigures
from audiocatalog.search.explanation import Explanation, TermExplanation
from audiocatalog.search.filters import SearchFilters
from audiocatalog.search.page import Facet, FacetValue, Hit, SearchPage, SearchSort
from audiocatalog.search.vocabulary import Vocabulary
from audiocatalog.status import TRANSITIONS, TrackStatus
from audiocatalog.streaming import TrackOrder
from audiocatalog.tracks import StatusCount
from audiocatalog.unit_of_work import UnitOfWork
from audiocatalog.updates import TrackUpdates
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
    "PoolFigures",
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
