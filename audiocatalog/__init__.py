"""The catalogue of an audio pipeline: save tracks, find them, search them, move them through their statuses."""

from audiocatalog import errors, migrations
from audiocatalog.catalog import Catalog, Health
from audiocatalog.metadata import TrackMetadata, TrackRecord
from audiocatalog.models import SaveOutcome, StatusChange, Track
from audiocatalog.search.explanation import Explanation, TermExplanation
from audiocatalog.search.filters import SearchFilters
from audiocatalog.search.page import Facet, FacetValue, Hit, SearchPage, SearchSort
from audiocatalog.search.vocabulary import Vocabulary
from audiocatalog.status import TRANSITIONS, TrackStatus
from audiocatalog.tracks import StatusCount
from audiocatalog.unit_of_work import UnitOfWork

__all__ = [
    "TRANSITIONS",
    "Catalog",
    "Explanation",
    "Facet",
    "FacetValue",
    "Health",
    "Hit",
    "SaveOutcome",
    "SearchFilters",
    "SearchPage",
    "SearchSort",
    "StatusChange",
    "StatusCount",
    "TermExplanation",
    "Track",
    "TrackMetadata",
    "TrackRecord",
    "TrackStatus",
    "UnitOfWork",
    "Vocabulary",
    "errors",
    "migrations",
]
