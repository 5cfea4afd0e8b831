"""The explanation of a track's position in a search, or of its absence."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final
from uuid import UUID

from audiocatalog.errors import InvalidInput, Problem, TrackNotFound
from audiocatalog.models.filters import SearchFilters
from audiocatalog.models.ids import parse_id
from audiocatalog.models.sql_names import SPELL_FUNCTION
from audiocatalog.operations.operation import GENERIC_PLAN_SETTINGS, Operation, PlannedStatement
from audiocatalog.search.corrections import AS_TYPED
from audiocatalog.search.query import Term
from audiocatalog.search.request import Request
from audiocatalog.search.results import Explanation, TermExplanation
from audiocatalog.search.search import find_candidates
from audiocatalog.search.terms_sql import TERMS_CTE, terms_of
from audiocatalog.search.typed_sql import MAX_BOOSTED, TIERS

#: A track below this position is explained as absent.
_MAX_CANDIDATES: Final = 10_000
_WEIGHTS: Final = {"title": "A", "artist": "B", "album": "C", "genre or year": "D"}
#: The lowest score of each boosted tier, and the score of the tier without the boost.
_BOOSTED: Final = {130: 90, 120: 100, 110: 90}


def explain(query: str, id: UUID | str, *, filters: SearchFilters | None, timeout: float) -> Operation[Explanation]:  # noqa: A002
    """
    Explain the position of a track in a search, as ``Catalog.explain`` describes it.

    Raises:
        TrackNotFound: no track has this id.
        InvalidInput: an argument is invalid, or the query has no words.
        QueryTimeout: a statement took longer than *timeout* seconds.
    """
    track_id = parse_id(id)
    request = Request.make(query, filters, timeout=timeout)
    if request.query.id is not None or not request.query.groups:
        raise InvalidInput(Problem("query", "at least one word to explain"), operation="explain")
    request.parameters["limit"] = _MAX_CANDIDATES
    statement = PlannedStatement(explanation_sql(request.shape.conditions), GENERIC_PLAN_SETTINGS, timeout)
    rows = yield statement, request.parameters | {"id": track_id}
    if not rows:
        raise TrackNotFound(track_id, operation="explain")
    ((met, found),) = rows
    candidates = yield from find_candidates(request)
    terms = explain_terms(terms_of(request.query), found)
    unmet = tuple(name for name, is_met in zip(request.condition_names, met, strict=True) if not is_met)
    for position, (candidate, score) in enumerate(candidates.scores, 1):
        if candidate == track_id:
            total = len(candidates.scores)
            is_corrected = candidates.is_corrected and score < AS_TYPED
            place = score if is_corrected or not candidates.is_corrected else score - AS_TYPED
            reason = reason_of_place(
                position, total, place, is_corrected=is_corrected, suggestion=candidates.suggestion
            )
            return Explanation(track_id, position, score, reason, terms, ignored_terms=request.query.ignored)
    reason = reason_of_absence(terms, unmet, candidates.sample)
    return Explanation(track_id, None, None, reason, terms, unmet, request.query.ignored)


@lru_cache(maxsize=256)
def explanation_sql(conditions: tuple[str, ...]) -> str:
    """Return the statement that finds the conditions that a track meets, and the fields in which each term occurs."""
    found = ", ".join(
        f"CASE WHEN field IN ('', '{weight}') AND spelling <> '' THEN t.search_vector @@ "
        f"replace(replace(spelling, '~', ':{weight}'), '^', ':{weight}' || prefix_mark)::tsquery END"
        for weight in _WEIGHTS.values()
    )
    met = ", ".join(f"({condition}) IS TRUE" for condition in conditions)
    return f"""
WITH {TERMS_CTE}
SELECT ARRAY[{met}]::bool[] AS met, (
  SELECT jsonb_agg(jsonb_build_array(included, {found}) ORDER BY place)
  FROM (SELECT *, {SPELL_FUNCTION}(words, phrase) AS spelling FROM term WHERE clause IS NOT NULL) AS term
) AS found
FROM audio_tracks AS t WHERE t.id = %(id)s"""


def explain_terms(terms: list[Term], found: list[list[Any]]) -> tuple[TermExplanation, ...]:
    """Return the explanations of *terms*. *found*: the rows of ``explanation_sql``."""
    return tuple(
        TermExplanation(
            f"{term.field}:{term.text}" if term.field else term.text,
            tuple(field for field, is_there in zip(_WEIGHTS, places, strict=True) if is_there),
            excluded=not included,
        )
        for term, (included, *places) in zip(terms, found, strict=True)
    )


def reason_of_place(position: int, total: int, score: float, *, is_corrected: bool, suggestion: str | None) -> str:
    """Return the reason for the position of a hit."""
    if is_corrected:
        meant = f" (searched for {suggestion!r})" if suggestion else ""
        return f"hit {position} of {total}: no track contains all words as typed; {TIERS[0]}{meant}"
    boosted = next((tier for least, tier in _BOOSTED.items() if least <= score < least + 10), None)
    if boosted is not None:
        return f"hit {position} of {total}: {TIERS[boosted]}, and the first {MAX_BOOSTED} such tracks rank higher"
    return f"hit {position} of {total}: {TIERS[max(tier for tier in TIERS if tier <= score)]}"


def reason_of_absence(terms: tuple[TermExplanation, ...], unmet: tuple[str, ...], sample: int) -> str:
    """Return the reason why a track is not a hit."""
    if unmet:
        return f"not found: the track does not meet these conditions: {', '.join(unmet)}"
    if excluded := [one.term for one in terms if one.excluded and one.fields]:
        return f"not found: the track contains words that the query excludes: {', '.join(map(repr, excluded))}"
    if missing := [one.term for one in terms if not one.excluded and not one.fields]:
        return f"not found: the track does not contain {', '.join(map(repr, missing))}"
    if sample > 1:
        return f"not ranked: these words are so common that only 1 in {sample} matching tracks is ranked; add a word"
    return "not ranked: other tracks match the query more closely; add a word"
