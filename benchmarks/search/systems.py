"""What is measured: a query, a system that answers it, and how long that takes."""

from __future__ import annotations

import math
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

import psycopg

from audiocatalog import Catalog, SearchFilters
from audiocatalog.errors import CatalogError
from benchmarks.search.data import track_number
from benchmarks.search.load import Database

#: How many hits a first page holds.
PAGE: Final = 10
#: A query that raises one of these is a miss; anything else is a fault of the benchmark.
_FAILURES: Final = (CatalogError, psycopg.Error, sqlite3.Error, ValueError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """
    Hold what is asked.

    *text* is what is typed; a phrase stands in quotes. *prefix* tells systems that have to be told that the last word
    is unfinished, and *phrase* that the words stand side by side.
    """

    text: str
    prefix: bool = False
    phrase: bool = False
    genre: str | None = None
    years: tuple[int, int] | None = None

    @property
    def words(self) -> list[str]:
        """The words without the quotes of a phrase."""
        return (self.text.replace('"', " ") if self.phrase else self.text).split()


class System(Protocol):
    """Answer queries on the tracks of one database."""

    name: str

    def search(self, query: Query) -> list[int]:
        """Return the numbers of the first ten tracks, best first."""

    def close(self) -> None:
        """Let go of what is open."""


class Answer(NamedTuple):
    """Hold the numbers of the tracks found, how long it took, and the name of the error if there was one."""

    numbers: list[int]
    seconds: float
    error: str | None


class Audiocatalog:
    """Search with this package, as a service calls it."""

    name = "audiocatalog"

    def __init__(self, database: Database) -> None:
        self._catalog = Catalog(database.url, actor="benchmark", pool_size=1)

    def search(self, query: Query) -> list[int]:
        """Return the numbers of the first ten tracks, best first."""
        filters = SearchFilters(genre=query.genre, year=query.years) if query.genre or query.years else None
        page = self._catalog.search(query.text, filters=filters, limit=PAGE)
        return [track_number(hit.track.id) for hit in page.hits]

    def close(self) -> None:
        """Close the pool."""
        self._catalog.close()


def ask(system: System, query: Query) -> Answer:
    """Return the answer of *system* to *query*."""
    begun = time.perf_counter()
    try:
        numbers, error = system.search(query), None
    except _FAILURES as failure:
        numbers, error = [], type(failure).__name__
    return Answer(numbers, time.perf_counter() - begun, error)


def ask_all(system: System, queries: Sequence[Query], *, runs: int) -> list[Answer]:
    """Ask all *queries* once to warm up, then *runs* times; return each answer with its median time."""
    for query in queries:
        ask(system, query)
    passes = [[ask(system, query) for query in queries] for _ in range(runs)]
    return [
        answers[-1]._replace(seconds=sorted(answer.seconds for answer in answers)[runs // 2])
        for answers in zip(*passes, strict=True)
    ]


def latency(answers: Iterable[Answer]) -> dict[str, float]:
    """Return the percentiles of the times in ms, by nearest rank: each is a time that was measured."""
    times = sorted(answer.seconds * 1000 for answer in answers)
    if not times:
        return {}
    ranks = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: times[math.ceil(share * len(times)) - 1] for name, share in ranks.items()}


def errors(answers: Iterable[Answer]) -> dict[str, int]:
    """Return how often each error was raised."""
    return dict(Counter(answer.error for answer in answers if answer.error is not None))


@dataclass(slots=True)
class Score:
    """Collect how well one group of queries was answered."""

    queries: int = 0
    first: int = 0
    on_page: int = 0
    reciprocal: float = 0.0

    def add(self, answer: Answer, is_hit: Callable[[int], bool]) -> int | None:
        """Count *answer* and return the rank of its first hit, from 1, or None."""
        rank = next((rank for rank, number in enumerate(answer.numbers[:PAGE], 1) if is_hit(number)), None)
        self.queries += 1
        if rank is not None:
            self.first += rank == 1
            self.on_page += 1
            self.reciprocal += 1 / rank
        return rank

    def figures(self) -> dict[str, float]:
        """Return the shares for the report."""
        count = max(1, self.queries)
        return {
            "queries": self.queries,
            "hit@1": self.first / count,
            "hit@10": self.on_page / count,
            "MRR@10": self.reciprocal / count,
        }


@dataclass(slots=True)
class Scores:
    """Collect scores by group, such as a class of queries, and by system."""

    groups: dict[str, dict[str, Score]] = field(default_factory=dict)

    def of(self, group: str, system: str) -> Score:
        """Return the score to count in."""
        return self.groups.setdefault(group, {}).setdefault(system, Score())

    def figures(self) -> dict[str, Any]:
        """Return all of them for the report."""
        return {
            group: {system: score.figures() for system, score in systems.items()}
            for group, systems in self.groups.items()
        }
