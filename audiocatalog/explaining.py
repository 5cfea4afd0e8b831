"""Explanations of searches and counts of their words, on a connection, whoever holds it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import psycopg

from audiocatalog.advisory_locks import holder_of
from audiocatalog.connection import PooledConnection, patient, settings_call
from audiocatalog.errors import InvalidInput, Problem, TrackNotFound, TransientConflict
from audiocatalog.identifiers import parse_id
from audiocatalog.outcome import note_mark
from audiocatalog.search.explanation import (
    Explanation,
    explain_terms,
    explaining_sql,
    reason_of_absence,
    reason_of_place,
)
from audiocatalog.search.filters import SearchFilters
from audiocatalog.search.reading import terms_of
from audiocatalog.search.request import Request
from audiocatalog.search.vocabulary import ANALYZE_VOCABULARY, LOCK_VOCABULARY, REFRESH_VOCABULARY, Vocabulary
from audiocatalog.search.widening import AS_TYPED
from audiocatalog.searching import ask, find_candidates
from audiocatalog.settings import milliseconds
from audiocatalog.translation import translated

_MOST_CANDIDATES: Final = 10_000


def explain_hit(
    driver: psycopg.Connection[Any], query: str, track_id: UUID | str, *, filters: SearchFilters | None, timeout: float
) -> Explanation:
    """Explain a search as ``UnitOfWork.explain`` says."""
    identifier = parse_id(track_id)
    request = Request.make(query, filters=filters, timeout=timeout)
    if request.query.id is not None or not request.query.wanted:
        raise InvalidInput(Problem("query", "at least one word to explain"), operation="explain")
    request.parameters["limit"] = _MOST_CANDIDATES
    with translated("explain"):
        rows = ask(driver, explaining_sql(request.shape.conditions), request.parameters | {"id": identifier}, timeout)
        if not rows:
            raise TrackNotFound(identifier, operation="explain")
        ((met, found),) = rows
        candidates = find_candidates(driver, request, timeout)
    terms = explain_terms(terms_of(request.query), found)
    unmet = tuple(name for name, is_met in zip(request.condition_names, met, strict=True) if not is_met)
    for position, (candidate, score) in enumerate(candidates.scores, 1):
        if candidate == identifier:
            total = len(candidates.scores)
            is_widened = candidates.is_widened and score < AS_TYPED
            place = score if is_widened or not candidates.is_widened else score - AS_TYPED
            reason = reason_of_place(position, total, place, widened=is_widened, suggestion=candidates.suggestion)
            return Explanation(identifier, position, score, reason, terms, ignored_terms=request.query.ignored)
    reason = reason_of_absence(terms, unmet, candidates.level)
    return Explanation(identifier, None, None, reason, terms, unmet, request.query.ignored)


def refresh_vocabulary(driver: psycopg.Connection[Any], *, timeout: float) -> Vocabulary:
    """Count the words as ``Catalog.refresh_vocabulary`` says; the caller commits."""
    with translated("refresh_vocabulary"), patient(driver, timeout):
        driver.execute(settings_call({"statement_timeout": milliseconds(timeout)}, local=True))
        row: Any = driver.execute(LOCK_VOCABULARY).fetchone()
        is_locked, key = row
        if not is_locked:
            raise TransientConflict(
                f"another count of the words is under way: {holder_of(driver, key)} holds its lock",
                operation="refresh_vocabulary",
            )
        counted: Any = driver.execute(REFRESH_VOCABULARY, {"at": datetime.now(UTC)}).fetchone()
        driver.execute(ANALYZE_VOCABULARY)
        if isinstance(driver, PooledConnection):
            note_mark(driver)
    return Vocabulary(*counted)
