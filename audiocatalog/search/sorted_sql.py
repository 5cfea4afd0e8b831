"""The statements for orders other than relevance, and for searches without words.

If few tracks match, the statement finds them by their words and sorts them. If a sample shows that many tracks match,
the statement scans an index in the requested order until the page is full. After a timeout, a second statement scans
the first 10,000 tracks of each segment of the order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from audiocatalog.models.sql_names import SAMPLES
from audiocatalog.search.results import SearchOrder
from audiocatalog.search.terms_sql import TERMS_CTE
from audiocatalog.search.typed_sql import (
    COLUMNS,
    FACET_COLUMNS,
    SAMPLE_TARGET,
    Shape,
    facet_columns,
    facet_rows,
    sample_ctes,
)

#: The number of tracks at which counting ends if the query has no words.
COUNTED: Final = 10_000
#: The maximum number of tracks that the second statement reads in each segment.
_MAX_SCANNED: Final = 10_000


class _SortSegment(NamedTuple):
    """A part of an order: the condition of its tracks, the columns that sort these tracks, and the direction."""

    among: str
    columns: tuple[str, ...]
    types: tuple[str, ...]
    descending: bool = False
    #: The columns with one value in the whole segment. ORDER BY names these too, so that the planner scans their index.
    sorted_by: tuple[str, ...] = ()

    @property
    def order(self) -> str:
        direction = " DESC" if self.descending else ""
        return ", ".join(f"t.{column}{direction}" for column in (*self.sorted_by, *self.columns, "id"))

    def after(self, number: int) -> str:
        """Return the condition for tracks after the last hit. The segment and the key of that hit are parameters."""
        names = ", ".join(f"t.{column}" for column in (*self.columns, "id"))
        keys = ", ".join(
            [f"(%(after_key)s::text[])[{place + 1}]::{kind}" for place, kind in enumerate(self.types)]
            + ["%(after_id)s::uuid"]
        )
        return (
            f"(%(after_segment)s::int IS NULL OR %(after_segment)s::int < {number} "
            f"OR (%(after_segment)s::int = {number} AND ({names}) {'<' if self.descending else '>'} ({keys})))"
        )


_SEGMENTS: Final = {
    "title": (_SortSegment("true", ("title_name", "artist_name"), ("varchar", "varchar")),),
    "artist": (
        _SortSegment("t.artist_name <> ''", ("artist_name", "title_name"), ("varchar", "varchar")),
        _SortSegment("t.artist_name = ''", ("artist_name", "title_name"), ("varchar", "varchar")),
    ),
    "year": (
        _SortSegment("t.year IS NOT NULL", ("year",), ("int",), descending=True),
        _SortSegment("t.year IS NULL", ("year",), ("int",), descending=True),
    ),
    "newest": (_SortSegment("true", ("created_at",), ("timestamptz",), descending=True),),
}
# Tracks without a year are ordered by their ids alone.
_NO_YEAR: Final = _SortSegment("t.year IS NULL", (), (), descending=True, sorted_by=("year",))


def segments_of(order_by: SearchOrder) -> tuple[_SortSegment, ...]:
    """Return the segments of *order_by*, first to last."""
    segments = _SEGMENTS[order_by]
    return (segments[0], _NO_YEAR) if order_by == "year" else segments


@lru_cache(maxsize=256)
def sorted_sql(shape: Shape, order_by: SearchOrder, *, has_words: bool) -> str:
    """Return the statement for a page of matching tracks in this order."""
    matches, meets = _conditions(shape, has_words=has_words)
    words = f"t.search_vector @@ (SELECT driving FROM asked) AND {matches}"
    tables, sources = sample_ctes("sample", words, f" AND {meets}") if has_words else ([], [])
    too_few = (
        [f"(SELECT count(*) FROM sample_{sampling_factor}) < {SAMPLE_TARGET}" for sampling_factor in SAMPLES]
        if has_words
        else ["false"]
    )
    tables.append(f"extent AS MATERIALIZED (SELECT {' AND '.join(too_few)} AS few)")
    few = "(SELECT few FROM extent)"
    scans = []
    for number, segment in enumerate(segments_of(order_by)):
        if has_words:
            found = "(SELECT t.* FROM sample_1 AS s JOIN audio_tracks AS t ON t.id = s.id OFFSET 0) AS t"
            scans.append(_scan(number, segment, found, few))
        scans.append(_scan(number, segment, "audio_tracks AS t", f"NOT {few} AND {matches} AND {meets}"))
    if has_words:
        counted = "SELECT id, sampling_factor FROM (" + " UNION ALL ".join(sources) + ") AS sources"
    else:
        counted = f"""SELECT t.id, 1 AS sampling_factor{_counted_columns(shape)}
  FROM audio_tracks AS t WHERE {meets} LIMIT {COUNTED + 1}"""
    return _statement(tables, counted, scans, shape, facets=facet_rows() if has_words else _SOURCE_FACETS)


@lru_cache(maxsize=256)
def bounded_sql(shape: Shape, order_by: SearchOrder, *, has_words: bool) -> str:
    """Return the statement for a page that reads few tracks of each segment; a search uses it after a timeout."""
    matches, meets = _conditions(shape, has_words=has_words)
    tables, scans, sources = [], [], []
    for number, segment in enumerate(segments_of(order_by)):
        tables.append(f"""scanned_{number} AS MATERIALIZED (
  SELECT t.* FROM (
    SELECT t.* FROM audio_tracks AS t WHERE {segment.among} AND {segment.after(number)}
    ORDER BY {segment.order} LIMIT {_MAX_SCANNED}
  ) AS t WHERE {matches} AND {meets}
)""")
        scans.append(_scan(number, segment, f"scanned_{number} AS t", "true"))
        sources.append(f"SELECT t.id, 1 AS sampling_factor{_counted_columns(shape)} FROM scanned_{number} AS t")
    return _statement(tables, " UNION ALL ".join(sources), scans, shape, facets=_SOURCE_FACETS)


#: The rows of the facets are the counted rows, because a join with thousands of ids would scan the whole table.
_SOURCE_FACETS: Final = ",\nfacet_row AS MATERIALIZED (SELECT * FROM source)"


def _counted_columns(shape: Shape) -> str:
    return f", {FACET_COLUMNS}" if shape.facets else ""


def _conditions(shape: Shape, *, has_words: bool) -> tuple[str, str]:
    """Return the condition of the words, and the other conditions."""
    matches = "ts_match_vq(t.search_vector, (SELECT loose FROM asked))" if has_words else "true"
    return matches, f"(t.search_vector @@ (SELECT excluded FROM asked)) IS NOT TRUE{shape.narrowed}"


def _scan(number: int, segment: _SortSegment, source: str, gate: str) -> str:
    """Return the SELECT of the first hits of a segment, among the tracks of *source*."""
    keys = "ARRAY[" + ", ".join(f"t.{column}::text" for column in segment.columns) + "]::text[]"
    return f"""(SELECT {number} AS segment, row_number() OVER (ORDER BY {segment.order}) AS place, {keys} AS keys,
    {COLUMNS}
  FROM {source} WHERE {gate} AND {segment.among} AND {segment.after(number)}
  ORDER BY {segment.order} LIMIT %(limit)s + %(offset)s)"""


def _statement(tables: list[str], counted: str, scans: list[str], shape: Shape, *, facets: str) -> str:
    """Return the statement that counts the tracks of *counted* and merges *scans* into one page."""
    return f"""
WITH {TERMS_CTE},{"".join(f"{chr(10)}{table}," for table in tables)}
source AS MATERIALIZED ({counted}),
found AS MATERIALIZED (SELECT id FROM source),
page AS MATERIALIZED (
  SELECT * FROM ({f"{chr(10)}UNION ALL ".join(scans)}) AS scanned
  ORDER BY segment, place LIMIT %(limit)s OFFSET %(offset)s
){facets if shape.facets else ""}
SELECT summary.*, page.*
FROM (
  SELECT (SELECT count(*) FROM found) AS found,
    coalesce((SELECT max(sampling_factor) FROM source), 1) AS sampling_factor,
    (SELECT count(*) FROM source WHERE sampling_factor > 1) AS sampled,
    clock_timestamp() > statement_timestamp() + %(time)s::interval AS timed_out,
    (SELECT array_agg(words ORDER BY place) FROM term) AS words, false AS few_hits,
    NULL AS similar_words{facet_columns(shape.facets)}
) AS summary LEFT JOIN page ON true
ORDER BY page.segment, page.place"""
