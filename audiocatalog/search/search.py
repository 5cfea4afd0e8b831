"""The search as an operation: at most two round trips, each with a timeout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

from audiocatalog.errors import QueryTimeout
from audiocatalog.models.rows import TRACK_COLUMNS, track_of
from audiocatalog.models.sql_names import SAMPLES
from audiocatalog.models.tables import Track
from audiocatalog.operations.operation import (
    CUSTOM_PLAN_SETTINGS,
    GENERIC_PLAN_SETTINGS,
    Operation,
    PlannedStatement,
    Rows,
)
from audiocatalog.operations.tracks import find
from audiocatalog.search.corrected_sql import corrected_sql
from audiocatalog.search.corrections import CorrectableTerm, correctable_terms, corrected_parameters, excluded_query
from audiocatalog.search.folding import tokenize
from audiocatalog.search.highlights import WantedWords, highlights_of
from audiocatalog.search.query import Term
from audiocatalog.search.request import Request
from audiocatalog.search.results import Cursor, Facet, FacetValue, Hit, SearchPage
from audiocatalog.search.sorted_sql import COUNTED, bounded_sql, sorted_sql
from audiocatalog.search.terms_sql import terms_of
from audiocatalog.search.typed_sql import FEW_HITS, MAX_VALUES, search_sql

_TRACK_WIDTH: Final = len(TRACK_COLUMNS)
#: The first columns of each row, which describe all found tracks; the columns of the facets follow.
_SUMMARY: Final = ("found", "sampling_factor", "sampled", "timed_out", "words", "few_hits", "similar_words")


@dataclass(frozen=True, slots=True)
class _Answer:
    """The rows of a statement, and the strategy of the search."""

    rows: Rows
    strategy: str
    is_partial: bool = False

    def summary(self, name: str) -> Any:  # noqa: ANN401  # A column of any type.
        return self.rows[0][_SUMMARY.index(name)]


def search(request: Request) -> Operation[SearchPage]:
    """Search, as ``Catalog.search`` describes."""
    if request.query.id is not None:
        return (yield from _find_by_id(request, request.query.id))
    answer, wanted, suggestion = yield from _find(request)
    return _page(request, answer, wanted, suggestion)


class Candidates(NamedTuple):
    """The ranked tracks of a search with their scores, best first, and how the search found them."""

    scores: Sequence[tuple[UUID, float]]
    sample: int
    is_corrected: bool
    suggestion: str | None


def find_candidates(request: Request) -> Operation[Candidates]:
    """Return every track that a search by relevance ranks."""
    answer, _, suggestion = yield from _find(request)
    return Candidates(
        _scores(request, answer), answer.summary("sampling_factor") or 1, answer.strategy == "corrected", suggestion
    )


def _find(request: Request) -> Operation[tuple[_Answer, Sequence[WantedWords], str | None]]:
    """Return the answer, the words to highlight, and the suggestion."""
    excluded_terms = request.query.excluded
    asked = terms_of(request.query)
    terms = asked[: len(asked) - len(excluded_terms)]
    answer = yield from _find_as_typed(request)
    words = answer.summary("words") or ()
    if not _needs_corrections(request, answer):
        return answer, _wanted_words(terms, words), None
    correctable = correctable_terms(terms, words[: len(terms)], answer.summary("similar_words") or ())
    found = bool(answer.summary("found"))
    if not correctable or (found and request.cursor is None and not any(one.looks_mistyped for one in correctable)):
        return answer, _wanted_words(terms, words), None
    excluded = excluded_query(excluded_terms, words[len(terms) : len(asked)])
    literal = [word.split("\n")[0].replace(" ", "") for word in words[len(asked) :]]
    typed_hits = _scores(request, answer)
    parameters = request.parameters | corrected_parameters(
        correctable, excluded=excluded, literal=literal if excluded_terms else (), typed_hits=typed_hits
    )
    statement = PlannedStatement(corrected_sql(request.shape), GENERIC_PLAN_SETTINGS, request.timeout)
    answer = _Answer((yield statement, parameters), "corrected")
    wanted = [*_wanted_words(terms, words), *(one.highlighted for one in correctable)]
    return answer, wanted, _suggestion(correctable, answer.rows[len(typed_hits) :])


def _scores(request: Request, answer: _Answer) -> Sequence[tuple[UUID, float]]:
    place = len(_SUMMARY) + len(request.shape.facets)
    return [(row[-_TRACK_WIDTH], row[place]) for row in answer.rows if row[-_TRACK_WIDTH] is not None]


def _find_as_typed(request: Request) -> Operation[_Answer]:
    """
    Search for the words as typed; after a timeout, search a small part of the table.

    In a search by relevance, the part is the sparsest sample. In any other order, the part is the order's first tracks.

    Raises:
        QueryTimeout: the second statement timed out too.
    """
    has_words = bool(request.query.groups)
    if request.order_by == "relevance":
        sql, strategy = search_sql(request.shape), "typed"
    else:
        sql, strategy = sorted_sql(request.shape, request.order_by, has_words=has_words), request.order_by
    limit = max(request.parameters["limit"], FEW_HITS)
    parameters = request.parameters | {"look_further": False, "limit": limit}
    if request.cursor is not None and request.cursor.strategy == "corrected":
        # The corrected statement places the hits of this statement first.
        parameters |= {"look_further": True, "after_score": None, "after_id": None, "offset": 0}
    settings = GENERIC_PLAN_SETTINGS if has_words else CUSTOM_PLAN_SETTINGS
    try:
        answer = _Answer((yield PlannedStatement(sql, settings, request.timeout), parameters), strategy)
        if strategy == "typed" or not answer.summary("timed_out") or answer.summary("found"):
            return answer
    except QueryTimeout:
        if strategy == "typed" and parameters["sample"] is not None:
            raise
    if strategy == "typed":
        parameters["sample"] = SAMPLES[0]
    else:
        sql = bounded_sql(request.shape, request.order_by, has_words=has_words)
    try:
        rows = yield PlannedStatement(sql, GENERIC_PLAN_SETTINGS, request.timeout), parameters
    except QueryTimeout as error:
        raise QueryTimeout(_TOO_LONG, operation="search", sqlstate=error.sqlstate) from error
    return _Answer(rows, strategy, is_partial=True)


_TOO_LONG: Final = "search: there was no answer within search_timeout: add words or filters, or raise search_timeout"


def _needs_corrections(request: Request, answer: _Answer) -> bool:
    if request.order_by != "relevance" or not request.query.groups or answer.is_partial:
        return False
    if request.cursor is not None:
        return request.cursor.strategy == "corrected"
    return bool(answer.summary("few_hits"))


def _find_by_id(request: Request, track_id: UUID) -> Operation[SearchPage]:
    """Return the page for a query that is an id."""
    track = yield from find(track_id)
    hits = () if track is None or request.cursor else (Hit(track, 0.0, {}),)
    facets = {name: _facet_of(hits[0].track if hits else None, name) for name in request.shape.facets}
    return SearchPage(hits=hits, total=len(hits), is_total_exact=True, facets=facets)


def _facet_of(track: Track | None, name: str) -> Facet:
    """Return the facet *name* of a page whose only hit is *track*, or of an empty page."""
    value = None if track is None else getattr(track, "year" if name == "decade" else name)
    if value is None:
        return Facet((), is_exact=True, is_complete=True)
    shown = value // 10 * 10 if name == "decade" else str(value)
    return Facet((FacetValue(shown, 1),), is_exact=True, is_complete=True)


def _page(request: Request, answer: _Answer, wanted: Sequence[WantedWords], suggestion: str | None) -> SearchPage:
    """Return the page for the rows of *answer*, which may have one row more than the page."""
    first = len(_SUMMARY) + len(request.shape.facets)
    rows = [row for row in answer.rows if row[-_TRACK_WIDTH] is not None]
    hits = []
    for row in rows[: request.limit]:
        track = track_of(row[-_TRACK_WIDTH:])
        score = row[first] if answer.strategy in {"typed", "corrected"} else 0.0
        hits.append(Hit(track, score, highlights_of(track, wanted)))
    factor = answer.summary("sampling_factor") or 1
    following = None
    if len(rows) > request.limit:
        last = rows[request.limit - 1]
        key = (last[first],) if answer.strategy in {"typed", "corrected"} else (last[first], *last[first + 2])
        following = Cursor(answer.strategy, factor, key, hits[-1].track.id).text(request.identity)
    found, sampled = answer.summary("found"), answer.summary("sampled")
    is_partial = answer.is_partial or bool(answer.summary("timed_out"))
    is_exact = factor == 1 and (bool(request.query.groups) or found <= COUNTED) and not is_partial
    return SearchPage(
        hits=tuple(hits),
        total=max(found, sampled * factor) if factor > 1 else min(found, COUNTED),
        is_total_exact=is_exact,
        next_cursor=following,
        suggestion=suggestion,
        facets=_facets(request, answer, factor, is_exact=is_exact),
        is_partial=is_partial,
        ignored_terms=request.query.ignored,
    )


def _facets(request: Request, answer: _Answer, factor: int, *, is_exact: bool) -> dict[str, Facet]:
    facets = {}
    for place, name in enumerate(request.shape.facets, len(_SUMMARY)):
        values = answer.rows[0][place]
        facets[name] = Facet(
            tuple(FacetValue(value, tracks * factor) for value, tracks in values[:MAX_VALUES]),
            is_exact=is_exact,
            is_complete=len(values) <= MAX_VALUES,
        )
    return facets


def _wanted_words(terms: Iterable[Term], words: Iterable[str]) -> list[WantedWords]:
    """Return the words to highlight: each term with all its spellings."""
    wanted = []
    for term, written in zip(terms, words, strict=False):
        parted, joined, pieces, *_ = [*written.split("\n"), "", ""]
        spellings = [tuple(parted.split())]
        if not term.is_phrase or not spellings[0]:
            spellings += [*((spelling,) for spelling in joined.split()), tuple(pieces.split())]
        fields = frozenset({term.field}) if term.field else None
        found = tuple(dict.fromkeys(spelling for spelling in spellings if spelling))
        wanted.append(WantedWords(found, is_prefix=term.is_prefix, fields=fields))
    return wanted


def _suggestion(correctable: Sequence[CorrectableTerm], rows: Sequence[tuple[Any, ...]]) -> str | None:
    """Return the query with its words corrected to those of the first hit, or None if no word changes."""
    if not rows or rows[0][-_TRACK_WIDTH] is None:
        return None
    track = track_of(rows[0][-_TRACK_WIDTH:])
    held = {word for text in (track.title, track.artist, track.album) for word, *_ in tokenize(text or "").words()}
    words: list[str] = []
    for one in correctable:
        meant = one.word
        if one.word not in held:
            likely = (other.words for other in one.alternatives if held.issuperset(other.words.split()))
            meant = next(likely, one.word)
        if not words or words[-1] != meant or meant == one.word:
            words.append(meant)
    changed = words != [one.word for one in correctable]
    return " ".join(words) if changed else None
