"""Plans: which indexes each kind of query reads, how many rows they give, and which it does not need."""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

import psycopg

from audiocatalog import SearchFilters
from audiocatalog.operations.operation import GENERIC_PLAN_SETTINGS
from audiocatalog.search.corrected_sql import corrected_sql
from audiocatalog.search.corrections import correctable_terms, corrected_parameters
from audiocatalog.search.request import Request
from audiocatalog.search.sorted_sql import sorted_sql
from audiocatalog.search.typed_sql import search_sql
from benchmarks.search.data import scale_rows, scale_source
from benchmarks.search.load import Reuse, filled
from benchmarks.search.server import Server, connected

_SCAN: Final = re.compile(
    r"(?:Index Scan(?: Backward)?|Index Only Scan|Bitmap Index Scan) (?:using |on )(?P<index>ix_\w+|pk_\w+)"
)
_ROWS: Final = re.compile(r"rows=(?P<rows>[\d.]+) loops=(?P<loops>\d+)")
_KNOWN: Final = 6
_WORDS: Final = 4


class _Kind(NamedTuple):
    name: str
    text: str
    options: dict[str, Any] = {}  # noqa: RUF012  # Never written.
    is_corrected: bool = False


_KINDS: Final = (
    _Kind("common word", "the "),
    _Kind("two common words", "the love "),
    _Kind("one letter", "l"),
    _Kind("rare word", "{rare} "),
    _Kind("artist and title", "{artist} {title}"),
    _Kind("as you type", "lov"),
    _Kind("phrase", '"of the"'),
    _Kind("exclusion", "love -live"),
    _Kind("common word, filters", "love ", {"filters": SearchFilters(year=(1990, 1995))}),
    _Kind("common word by year", "love ", {"order_by": "year"}),
    _Kind("typo, second statement", "{artist} {title}x", is_corrected=True),
)


def measure(server: Server, *, scale: int, reuse: Reuse) -> list[dict[str, Any]]:
    """Explain a query of each kind on so many tracks as *scale* says."""
    source = scale_source()
    database = filled(server, f"scale_{scale}", f"{source} {scale}", lambda: scale_rows(scale), reuse)
    with connected(database.url) as connection:
        for name, value in GENERIC_PLAN_SETTINGS.items():
            connection.execute(f"SET {name} = '{value}'".encode())
        names = _names(connection)
        return [_explained(connection, kind, kind.text.format(**names)) for kind in _KINDS]


def _names(connection: psycopg.Connection[Any]) -> dict[str, str]:
    """Return a rare word, and the plain names of one track."""
    (rare,) = connection.execute(
        "SELECT word FROM audio_search_words WHERE word ~ '^[a-z]{9}$' AND tracks = 2 ORDER BY word LIMIT 1"
    ).fetchone() or ("",)
    artist, title = connection.execute(
        "SELECT artist, title FROM audio_tracks WHERE title ~ '^[A-Z][a-z]+ [A-Z][a-z]+$'"
        " AND artist ~ '^[A-Z][a-z]+ [A-Z][a-z]+$' ORDER BY id LIMIT 1"
    ).fetchone() or ("", "")
    return {"rare": rare, "artist": artist, "title": title}


def _explained(connection: psycopg.Connection[Any], kind: _Kind, text: str) -> dict[str, Any]:
    request = Request.make(text, timeout=60.0, **kind.options)
    parameters = request.parameters | {"look_further": kind.is_corrected}
    statement = search_sql(request.shape)
    if "order_by" in kind.options:
        statement = sorted_sql(request.shape, request.order_by, has_words=True)
    if kind.is_corrected:
        row: Any = connection.execute(statement.encode(), parameters).fetchone()
        terms = [term for group in request.query.groups for term in group]
        correctable = correctable_terms(terms, row[_WORDS][: len(terms)], row[_KNOWN] or ())
        parameters, statement = parameters | corrected_parameters(correctable), corrected_sql(request.shape)
    explain = f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY ON) {statement}".encode()
    connection.execute(explain, parameters)  # The first one fills the caches.
    lines = [line for (line,) in connection.execute(explain, parameters)]
    read: dict[str, float] = {}
    unread = set()
    for line in lines:
        if found := _SCAN.search(line):
            rows = _ROWS.search(line)
            if rows:
                read[found["index"]] = read.get(found["index"], 0) + float(rows["rows"]) * int(rows["loops"])
            else:
                unread.add(found["index"])
    return {
        "kind": kind.name,
        "query": text.strip(),
        "read": {index: round(rows) for index, rows in sorted(read.items())},
        "unread": sorted(unread - set(read)),
        "ms": float(lines[-1].split(":")[1].removesuffix("ms")),
    }
