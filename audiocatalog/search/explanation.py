"""Why a track stands where it stands in a search, or why it is not there."""

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
from audiocatalog.search.typed_sql import TIERS

#: A track's place is looked for among this many candidates.
_MAX_CANDIDATES: Final = 10_000
_WEIGHTS: Final = {"title": "A", "artist": "B", "album": "C", "genre or year": "D"}
#: Leaders of an artist and a title of the same name stand this much above the rest.
_BOOSTED: Final = {130: 90, 120: 100, 110: 90}


def explain(query: str, id: UUID | str, *, filters: SearchFilters | None, timeout: float) -> Operation[Explanation]:  # noqa: A002
    """
    Explain the place of a track in a search, as ``Catalog.explain`` describes it.

    Raises:
        TrackNotFound: no track has this id.
        InvalidInput: an argument breaks its rule, or the query has no words.
    """
    track_id = parse_id(id)
    request = Request.make(query, filters=filters, timeout=timeout)
    if request.query.id is not None or not request.query.groups:
        raise InvalidInput(Problem("query", "at least one word to explain"), operation="explain")
    request.parameters["limit"] = _MAX_CANDIDATES
    statement = PlannedStatement(explanation_sql(request.shape.conditions), GENERIC_PLAN_SETTINGS, timeout)
    rows = yield statement, request.parameters | {"id": track_id}
    if not rows:
        raise TrackNotFound(track_id, operation="explain")
    ((met, found),) = rows
    candidates = yield from find_candidates(request, timeout)
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
    """Return the statement that tells for track ``id`` in which fields each term is, and which conditions it meets."""
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
    """Return the *terms* with what ``explanation_sql`` tells of each."""
    return tuple(
        TermExplanation(
            f"{term.field}:{term.text}" if term.field else term.text,
            tuple(field for field, is_there in zip(_WEIGHTS, places, strict=True) if is_there),
            excluded=not included,
        )
        for term, (included, *places) in zip(terms, found, strict=True)
    )


def reason_of_place(position: int, total: int, score: float, *, is_corrected: bool, suggestion: str | None) -> str:
    """Say why a hit stands where it stands."""
    if is_corrected:
        meant = f" (read as {suggestion!r})" if suggestion else ""
        return f"hit {position} of {total}: no track holds all words as they were typed; {TIERS[0]}{meant}"
    leading = next((tier for least, tier in _BOOSTED.items() if least <= score < least + 10), None)
    if leading is not None:
        return f"hit {position} of {total}: {TIERS[leading]}, and it is one of the first of that name"
    return f"hit {position} of {total}: {TIERS[max(tier for tier in TIERS if tier <= score)]}"


def reason_of_absence(terms: tuple[TermExplanation, ...], unmet: tuple[str, ...], sample: int) -> str:
    """Say why a track is not among the hits."""
    if unmet:
        return f"not found: it does not meet {', '.join(unmet)}"
    if excluded := [one.term for one in terms if one.excluded and one.fields]:
        return f"not found: it holds what the query excludes: {', '.join(map(repr, excluded))}"
    if missing := [one.term for one in terms if not one.excluded and not one.fields]:
        return f"not found: it does not hold {', '.join(map(repr, missing))}"
    if sample > 1:
        return f"not looked at: the words are so common that one in {sample} of their tracks stands for all"
    return "not found: others match what was typed more closely, so it was not looked at"
