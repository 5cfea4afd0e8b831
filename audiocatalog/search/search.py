"""The search as an operation: at most two round trips, each within a time limit."""

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
from audiocatalog.search.corrections import Doubtful, doubtful_words, unwanted_query, widened_parameters, widened_sql
from audiocatalog.search.folding import read
from audiocatalog.search.highlights import WantedWords, highlights_of
from audiocatalog.search.query import Term
from audiocatalog.search.request import Request
from audiocatalog.search.results import Cursor, Facet, FacetValue, Hit, SearchPage
from audiocatalog.search.sorted_sql import COUNTED, beginning_sql, listing_sql
from audiocatalog.search.terms_sql import terms_of
from audiocatalog.search.typed_sql import FEW, MOST_VALUES, search_sql

_TRACK_WIDTH: Final = len(TRACK_COLUMNS)
#: The columns that tell what is true of all that was found; those of the facets follow.
_ABOUT: Final = ("found", "share", "sampled", "late", "words", "little", "known")


@dataclass(frozen=True, slots=True)
class _Answer:
    """The rows of a statement, and the strategy that found them."""

    rows: Rows
    strategy: str
    is_partial: bool = False

    def about(self, name: str) -> Any:  # noqa: ANN401  # A column of any type.
        return self.rows[0][_ABOUT.index(name)]


def search(request: Request, *, timeout: float) -> Operation[SearchPage]:
    """Search as ``Catalog.search`` describes it; each statement may take *timeout* seconds."""
    if request.query.id is not None:
        return (yield from _find_by_id(request, request.query.id))
    answer, wanted, suggestion = yield from _find(request, timeout)
    return _page(request, answer, wanted, suggestion)


class Candidates(NamedTuple):
    """Every track that a search ranked, best first, with its score."""

    scores: Sequence[tuple[UUID, float]]
    sample: int
    is_corrected: bool
    suggestion: str | None


def find_candidates(request: Request, timeout: float) -> Operation[Candidates]:
    """Return the candidates of a search by relevance."""
    answer, _, suggestion = yield from _find(request, timeout)
    return Candidates(_scores(request, answer), answer.about("share") or 1, answer.strategy == "widened", suggestion)


def _find(request: Request, timeout: float) -> Operation[tuple[_Answer, Sequence[WantedWords], str | None]]:
    """Return the answer, the words to highlight in it, and the suggestion."""
    excluded = request.query.unwanted
    asked = terms_of(request.query)
    terms = asked[: len(asked) - len(excluded)]
    answer = yield from _find_as_typed(request, timeout)
    words = answer.about("words") or ()
    if not _needs_corrections(request, answer):
        return answer, _wanted_words(terms, words), None
    doubtful = doubtful_words(terms, words[: len(terms)], answer.about("known") or ())
    found = bool(answer.about("found"))
    if not doubtful or (found and request.cursor is None and not any(one.looks_mistyped for one in doubtful)):
        return answer, _wanted_words(terms, words), None
    unwanted = unwanted_query(excluded, words[len(terms) : len(asked)])
    literal = [word.split("\n")[0].replace(" ", "") for word in words[len(asked) :]]
    typed_hits = _scores(request, answer)
    parameters = request.parameters | widened_parameters(
        doubtful, unwanted=unwanted, literal=literal if excluded else (), typed_hits=typed_hits
    )
    statement = PlannedStatement(widened_sql(request.shape), GENERIC_PLAN_SETTINGS, timeout)
    answer = _Answer((yield statement, parameters), "widened")
    wanted = [*_wanted_words(terms, words), *(one.wanted for one in doubtful)]
    return answer, wanted, _suggestion(doubtful, answer.rows[len(typed_hits) :])


def _scores(request: Request, answer: _Answer) -> Sequence[tuple[UUID, float]]:
    place = len(_ABOUT) + len(request.shape.facets)
    return [(row[-_TRACK_WIDTH], row[place]) for row in answer.rows if row[-_TRACK_WIDTH] is not None]


def _find_as_typed(request: Request, timeout: float) -> Operation[_Answer]:
    """
    Look for the words as they were typed; if that takes too long, in a small part of the table.

    By relevance, that part is the sparsest sample. In another order, it is the first tracks of that order.
    """
    has_words = bool(request.query.wanted)
    if request.order_by == "relevance":
        sql, strategy = search_sql(request.shape), "typed"
    else:
        sql, strategy = listing_sql(request.shape, request.order_by, has_words=has_words), request.order_by
    limit = max(request.parameters["limit"], FEW)
    parameters = request.parameters | {"look_further": False, "limit": limit}
    if request.cursor is not None and request.cursor.way == "widened":
        # The page belongs to the corrected search, which needs all of the few hits of this one.
        parameters |= {"look_further": True, "after_score": None, "after_id": None, "offset": 0}
    settings = GENERIC_PLAN_SETTINGS if has_words else CUSTOM_PLAN_SETTINGS
    try:
        answer = _Answer((yield PlannedStatement(sql, settings, timeout), parameters), strategy)
        if strategy == "typed" or not answer.about("late") or answer.about("found"):
            return answer
    except QueryTimeout:
        if strategy == "typed" and parameters["level"] is not None:
            raise
    if strategy == "typed":
        parameters["level"] = SAMPLES[0]
    else:
        sql = beginning_sql(request.shape, request.order_by, has_words=has_words)
    try:
        rows = yield PlannedStatement(sql, GENERIC_PLAN_SETTINGS, timeout), parameters
    except QueryTimeout as error:
        raise QueryTimeout(_TOO_LONG, operation="search", sqlstate=error.sqlstate) from error
    return _Answer(rows, strategy, is_partial=True)


_TOO_LONG: Final = "search: it took longer than search_timeout; narrow it, or raise the limit"


def _needs_corrections(request: Request, answer: _Answer) -> bool:
    if request.order_by != "relevance" or not request.query.wanted or answer.is_partial:
        return False
    if request.cursor is not None:
        return request.cursor.way == "widened"
    return bool(answer.about("little"))


def _find_by_id(request: Request, track_id: UUID) -> Operation[SearchPage]:
    """Answer a query that is an id."""
    track = yield from find(track_id)
    hits = () if track is None or request.cursor else (Hit(track, 0.0, {}),)
    facets = {name: _facet_of(hits[0].track if hits else None, name) for name in request.shape.facets}
    return SearchPage(hits=hits, total=len(hits), is_total_exact=True, facets=facets)


def _facet_of(track: Track | None, name: str) -> Facet:
    """Return the facet of one track, or of none."""
    value = None if track is None else getattr(track, "year" if name == "decade" else name)
    if value is None:
        return Facet((), is_exact=True, is_complete=True)
    shown = value // 10 * 10 if name == "decade" else str(value)
    return Facet((FacetValue(shown, 1),), is_exact=True, is_complete=True)


def _page(request: Request, answer: _Answer, wanted: Sequence[WantedWords], suggestion: str | None) -> SearchPage:
    """Make a page of the rows: as many as were asked for, and what the others tell."""
    first = len(_ABOUT) + len(request.shape.facets)
    rows = [row for row in answer.rows if row[-_TRACK_WIDTH] is not None]
    hits = []
    for row in rows[: request.limit]:
        track = track_of(row[-_TRACK_WIDTH:])
        score = row[first] if answer.strategy in {"typed", "widened"} else 0.0
        hits.append(Hit(track, score, highlights_of(track, wanted)))
    level = answer.about("share") or 1
    following = None
    if len(rows) > request.limit:
        last = rows[request.limit - 1]
        key = (last[first],) if answer.strategy in {"typed", "widened"} else (last[first], *last[first + 2])
        following = Cursor(answer.strategy, level, key, hits[-1].track.id).text(request.identity)
    found, sampled = answer.about("found"), answer.about("sampled")
    is_partial = answer.is_partial or bool(answer.about("late"))
    is_exact = level == 1 and (bool(request.query.wanted) or found <= COUNTED) and not is_partial
    return SearchPage(
        hits=tuple(hits),
        total=max(found, sampled * level) if level > 1 else min(found, COUNTED),
        is_total_exact=is_exact,
        next_cursor=following,
        suggestion=suggestion,
        facets=_facets(request, answer, level, is_exact=is_exact),
        is_partial=is_partial,
        ignored_terms=request.query.ignored,
    )


def _facets(request: Request, answer: _Answer, level: int, *, is_exact: bool) -> dict[str, Facet]:
    facets = {}
    for place, name in enumerate(request.shape.facets, len(_ABOUT)):
        values = answer.rows[0][place]
        facets[name] = Facet(
            tuple(FacetValue(value, tracks * level) for value, tracks in values[:MOST_VALUES]),
            is_exact=is_exact,
            is_complete=len(values) <= MOST_VALUES,
        )
    return facets


def _wanted_words(terms: Iterable[Term], words: Iterable[str]) -> list[WantedWords]:
    """Return what to mark: each term in every way it is spelled."""
    wanted = []
    for term, written in zip(terms, words, strict=False):
        parted, joined, pieces, *_ = [*written.split("\n"), "", ""]
        spellings = [tuple(parted.split())]
        if not term.phrase or not spellings[0]:
            spellings += [*((spelling,) for spelling in joined.split()), tuple(pieces.split())]
        fields = frozenset({term.field}) if term.field else None
        found = tuple(dict.fromkeys(spelling for spelling in spellings if spelling))
        wanted.append(WantedWords(found, prefix=term.prefix, fields=fields))
    return wanted


def _suggestion(doubtful: Sequence[Doubtful], rows: Sequence[tuple[Any, ...]]) -> str | None:
    """Return the typed words with those in doubt replaced by what the first hit holds; None if that changes nothing."""
    if not rows or rows[0][-_TRACK_WIDTH] is None:
        return None
    track = track_of(rows[0][-_TRACK_WIDTH:])
    held = {word for text in (track.title, track.artist, track.album) for word, *_ in read(text or "").words()}
    words: list[str] = []
    for one in doubtful:
        meant = one.word
        if one.word not in held:
            likely = (other.words for other in one.alternatives if held.issuperset(other.words.split()))
            meant = next(likely, one.word)
        if not words or words[-1] != meant or meant == one.word:
            words.append(meant)
    changed = words != [one.word for one in doubtful]
    return " ".join(words) if changed else None
