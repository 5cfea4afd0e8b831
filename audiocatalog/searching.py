"""Searches on a connection, whoever holds it: at most two round trips each, within a budget of time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple
from uuid import UUID

import psycopg
from psycopg import generators
from psycopg.pq import ConnStatus, ExecStatus, PipelineStatus, TransactionStatus

from audiocatalog.connection import patient, raw_cursor, settings_call
from audiocatalog.errors import QueryTimeout
from audiocatalog.models import SAMPLES, Track
from audiocatalog.operations import find_track
from audiocatalog.search.folding import read
from audiocatalog.search.highlights import WantedWords, highlights_of
from audiocatalog.search.listing import COUNTED, beginning_sql, listing_sql
from audiocatalog.search.page import Cursor, Facet, FacetValue, Hit, SearchPage, SearchSort
from audiocatalog.search.query import Term
from audiocatalog.search.reading import terms_of
from audiocatalog.search.request import Request
from audiocatalog.search.statement import FEW, MOST_VALUES, search_sql
from audiocatalog.search.widening import Doubtful, doubtful_words, unwanted_query, widened_parameters, widened_sql
from audiocatalog.settings import milliseconds
from audiocatalog.tracks import TRACK_COLUMNS, track_of
from audiocatalog.translation import interrupt_behind, translated

_TRACK_WIDTH: Final = len(TRACK_COLUMNS)
#: The columns that tell what is true of all that was found; those of the facets follow.
_ABOUT: Final = ("found", "share", "sampled", "late", "words", "little", "known")
# The statements are made so that one plan is the right one for all queries, and the index the way to take: the server
# shall not choose by what it guesses of a query, nor compile or share out what takes a few milliseconds.
PLANNED: Final[Mapping[str, str]] = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_sort": "off",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}
# A list without words is narrowed by filters alone, and these the server knows best how to serve.
_PLANNED_FREELY: Final[Mapping[str, str]] = {
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}
_PLACEHOLDER: Final = re.compile(r"%\((\w+)\)s")
_SAVEPOINT: Final = "audiocatalog_search"


@dataclass(frozen=True, slots=True)
class _Answer:
    """Hold the rows of a statement, and how they were found."""

    rows: Sequence[tuple[Any, ...]]
    way: str
    is_partial: bool = False

    def about(self, name: str) -> Any:  # noqa: ANN401  # A column of any type.
        return self.rows[0][_ABOUT.index(name)]


def search_tracks(driver: psycopg.Connection[Any], request: Request, *, timeout: float) -> SearchPage:
    """Search as ``UnitOfWork.search`` says, within *timeout* seconds."""
    if request.query.id is not None:
        return _looked_up(driver, request, request.query.id)
    with translated("search"):
        answer, wanted, suggestion = _find(driver, request, timeout)
    return _page(request, answer, wanted, suggestion)


class Candidates(NamedTuple):
    """Hold every track that a search looked at, best first, with its score."""

    scores: Sequence[tuple[UUID, float]]
    level: int
    is_widened: bool
    suggestion: str | None


def find_candidates(driver: psycopg.Connection[Any], request: Request, timeout: float) -> Candidates:
    """Return the candidates of a search by relevance."""
    answer, _, suggestion = _find(driver, request, timeout)
    return Candidates(_scores(request, answer), answer.about("share") or 1, answer.way == "widened", suggestion)


def _find(
    driver: psycopg.Connection[Any], request: Request, timeout: float
) -> tuple[_Answer, Sequence[WantedWords], str | None]:
    """Return what is found, what to mark in it, and what may have been meant."""
    excluded = request.query.unwanted
    asked = terms_of(request.query)
    terms = asked[: len(asked) - len(excluded)]
    answer = _answer(driver, request, timeout)
    words = answer.about("words") or ()
    if not _is_to_be_widened(request, answer):
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
    answer = _Answer(ask(driver, widened_sql(request.shape), parameters, timeout), "widened")
    wanted = [*_wanted_words(terms, words), *(one.wanted for one in doubtful)]
    return answer, wanted, _suggestion(doubtful, answer.rows[len(typed_hits) :])


def _scores(request: Request, answer: _Answer) -> Sequence[tuple[UUID, float]]:
    place = len(_ABOUT) + len(request.shape.facets)
    return [(row[-_TRACK_WIDTH], row[place]) for row in answer.rows if row[-_TRACK_WIDTH] is not None]


def _answer(driver: psycopg.Connection[Any], request: Request, timeout: float) -> _Answer:
    """
    Look for what was typed as it was typed; where that takes too long, in a small part of the table.

    By relevance, that part is the sparsest sample. In another order, it is the first tracks of that order.
    """
    has_words = bool(request.query.wanted)
    if request.sort is SearchSort.RELEVANCE:
        statement, way = search_sql(request.shape), "typed"
    else:
        statement, way = listing_sql(request.shape, request.sort, has_words=has_words), str(request.sort)
    limit = max(request.parameters["limit"], FEW)
    parameters = request.parameters | {"look_further": False, "limit": limit}
    if request.cursor is not None and request.cursor.way == "widened":
        # The page is one of the wider search; of this one, all of its few hits are needed.
        parameters |= {"look_further": True, "after_score": None, "after_id": None, "offset": 0}
    try:
        planned = PLANNED if has_words else _PLANNED_FREELY
        answer = _Answer(ask(driver, statement, parameters, timeout, planned), way)
        if way == "typed" or not answer.about("late") or answer.about("found"):
            return answer
    except psycopg.errors.QueryCanceled:
        if way == "typed" and parameters["level"] is not None:
            raise
    if way == "typed":
        parameters["level"] = SAMPLES[0]
    else:
        statement = beginning_sql(request.shape, request.sort, has_words=has_words)
    try:
        return _Answer(ask(driver, statement, parameters, timeout), way, is_partial=True)
    except psycopg.errors.QueryCanceled as error:
        raise QueryTimeout(_TOO_LONG, operation="search", sqlstate=error.sqlstate) from error


_TOO_LONG: Final = "search: it took longer than search_timeout; narrow it, or raise the limit"


def _is_to_be_widened(request: Request, answer: _Answer) -> bool:
    if request.sort is not SearchSort.RELEVANCE or not request.query.wanted or answer.is_partial:
        return False
    if request.cursor is not None:
        return request.cursor.way == "widened"
    return bool(answer.about("little"))


def ask(
    driver: psycopg.Connection[Any],
    statement: str,
    parameters: Mapping[str, Any],
    timeout: float,
    planned: Mapping[str, str] = PLANNED,
) -> Sequence[tuple[Any, ...]]:
    """
    Execute *statement*, *planned* by settings of its own, in one round trip, and return its rows.

    Inside a transaction, a savepoint gives the settings back, and the transaction if the time runs out. What surrounds
    the statement is never prepared: a prepared ROLLBACK could not be executed where it is needed.
    """
    settings = settings_call({**planned, "statement_timeout": milliseconds(timeout)}, local=True)
    numbered, names = _numbered(statement)
    is_alone = driver.autocommit
    # psycopg would look for placeholders in so long a statement anew each time.
    cursor = raw_cursor(driver)
    try:
        with patient(driver, timeout), driver.pipeline():
            if not is_alone:
                driver.execute(f"SAVEPOINT {_SAVEPOINT}", prepare=False)
            driver.execute(settings, prepare=False)
            values = [parameters[name] for name in names]
            cursor.execute(numbered, values, prepare=driver.prepare_threshold is not None)
            if not is_alone:
                driver.execute(f"ROLLBACK TO {_SAVEPOINT}", prepare=False)
                driver.execute(f"RELEASE {_SAVEPOINT}", prepare=False)
        return cursor.fetchall()
    except (psycopg.Error, IndexError) as error:
        late = _leave_pipeline(driver, error)
        if not is_alone and driver.info.transaction_status == TransactionStatus.INERROR:
            # There is none where the transaction was given up before the search began.
            with suppress(psycopg.Error):
                driver.execute(f"ROLLBACK TO {_SAVEPOINT}", prepare=False)
                driver.execute(f"RELEASE {_SAVEPOINT}", prepare=False)
        if late is not None:
            raise late from error
        if isinstance(error, IndexError):
            # An error at the end of the transaction came together with the last answers, and psycopg 3.3, which expects
            # one answer fewer, has dropped it. A search that only reads can meet nothing there but its time limit.
            raise psycopg.errors.QueryCanceled("the statement was ended with its transaction") from None
        raise


def _leave_pipeline(driver: psycopg.Connection[Any], error: Exception) -> psycopg.Error | None:
    """
    Read what a failed pipeline has left unread, so that *driver* stays usable; return what failed, if *error* hides it.

    An error that comes after the last statement, when the transaction is ended, is followed by one answer more than
    psycopg 3.3 reads; it then complains that the pipeline cannot be left.
    """
    pipe = driver.pgconn
    if pipe.status == ConnStatus.BAD or pipe.pipeline_status == PipelineStatus.OFF:
        return None
    if interrupt_behind(error) is not None:
        # A signal came before all was sent, and what was not asked will not be answered.
        pipe.finish()
        return None
    # The driver's own way of waiting ends, whatever the server does.
    while pipe.status != ConnStatus.BAD and (result := driver.wait(generators.fetch(pipe))) is not None:
        if result.status == ExecStatus.PIPELINE_SYNC:
            pipe.exit_pipeline_mode()
            break
    return error.__context__ if isinstance(error.__context__, psycopg.Error) else None


@lru_cache(maxsize=512)
def _numbered(statement: str) -> tuple[str, tuple[str, ...]]:
    """Return *statement* with its named placeholders numbered, and the names in the order of their numbers."""
    names = tuple(dict.fromkeys(_PLACEHOLDER.findall(statement)))
    return _PLACEHOLDER.sub(lambda match: f"${names.index(match[1]) + 1}", statement), names


def _looked_up(driver: psycopg.Connection[Any], request: Request, track_id: UUID) -> SearchPage:
    """Answer a query that is an id."""
    track = find_track(driver, track_id, "search")
    hits = () if track is None or request.cursor else (Hit(track, 0.0, {}),)
    facets = {name: _facet_of(hits[0].track if hits else None, name) for name in request.shape.facets}
    return SearchPage(hits=hits, total=len(hits), total_is_exact=True, facets=facets)


def _facet_of(track: Track | None, name: str) -> Facet:
    """Count what *track* holds, or nothing."""
    values: tuple[FacetValue, ...] = ()
    if track is not None:
        held = track.year and track.year // 10 * 10 if name == "decade" else getattr(track, name)
        if held is not None:
            values = (FacetValue(held if name == "decade" else str(held), 1),)
    return Facet(values, is_exact=True, is_complete=True)


def _page(request: Request, answer: _Answer, wanted: Sequence[WantedWords], suggestion: str | None) -> SearchPage:
    """Make a page of the rows: as many as were asked for, and what the others tell."""
    first = len(_ABOUT) + len(request.shape.facets)
    rows = [row for row in answer.rows if row[-_TRACK_WIDTH] is not None]
    hits = []
    for row in rows[: request.limit]:
        track = track_of(row[-_TRACK_WIDTH:])
        score = row[first] if answer.way in {"typed", "widened"} else 0.0
        hits.append(Hit(track, score, highlights_of(track, wanted)))
    level = answer.about("share") or 1
    following = None
    if len(rows) > request.limit:
        last = rows[request.limit - 1]
        key = (last[first],) if answer.way in {"typed", "widened"} else (last[first], *last[first + 2])
        following = Cursor(answer.way, level, key, hits[-1].track.id).text(request.identity)
    found, sampled = answer.about("found"), answer.about("sampled")
    is_partial = answer.is_partial or bool(answer.about("late"))
    is_exact = level == 1 and (bool(request.query.wanted) or found <= COUNTED) and not is_partial
    return SearchPage(
        hits=tuple(hits),
        total=max(found, sampled * level) if level > 1 else min(found, COUNTED),
        total_is_exact=is_exact,
        next=following,
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
