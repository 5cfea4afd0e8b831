"""The statement of a corrected search: by the names that may be meant, then by similar words, then by fewer words."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from audiocatalog.search.corrections import ALL_WORDS_STAGES, MAX_MISSING
from audiocatalog.search.typed_sql import CANDIDATE, SAMPLE_TARGET, Shape, page_ctes, sample_ctes, select_page

#: The sampling factors: fewer than for the words as typed, because corrections seldom match many tracks.
_SAMPLES: Final = (64, 8)
_PARTIAL_SAMPLE_TARGET: Final = 10
_MAX_TRACKS_BY_NAME: Final = 50
_MAX_TRACKS_BY_PAIR: Final = 20

# The score adds points for names that may be meant, for the weights of the matching words, for the share of the query
# that the names cover, and for similar lengths. The sum is below 10.
_SCORED: Final = """
  SELECT t.id, false AS accented,
    CASE
      WHEN t.artist_name = ANY (asked.artist_names)
        OR asked.names && ARRAY[t.title_name, t.title_name || t.artist_name, t.artist_name || t.title_name] THEN 3.0
      WHEN asked.other_names
        && ARRAY[t.title_name, t.artist_name, t.title_name || t.artist_name, t.artist_name || t.title_name] THEN 2.0
      ELSE 0.0
    END
    + 3.0 * (SELECT coalesce(sum(CASE WHEN t.search_vector @@ exact THEN weight
        WHEN t.search_vector @@ near THEN 0.8 * weight END), 0) FROM term)
    + 3.0 * least(1.0, (CASE WHEN t.title_name = ANY (asked.likely_runs) THEN char_length(t.title_name) ELSE 0 END
        + CASE WHEN t.artist_name = ANY (asked.likely_runs) THEN char_length(t.artist_name) ELSE 0 END) / asked.length)
    + 0.9 * least(asked.length, t.length) / greatest(asked.length, t.length) AS score,
    CASE WHEN t.title_name = ANY (asked.names) THEN 'T'
      WHEN t.artist_name = ANY (asked.artist_names) THEN 'A' END AS exact
  FROM (
    SELECT *, char_length(title_name) + char_length(artist_name) AS length FROM source OFFSET 0
  ) AS t, asked
  UNION ALL
  SELECT id, false, score, NULL
  FROM unnest(%(typed_ids)s::uuid[], %(typed_scores)s::float8[]) AS typed(id, score)"""


@lru_cache(maxsize=256)
def corrected_sql(shape: Shape) -> str:
    """Return the statement that finds tracks with similar words, or with only some of the words."""
    # If the whole text, with its hyphens, is a track's name, the track may contain the words that the query excludes.
    meets = f"""((t.search_vector @@ (SELECT excluded FROM asked)) IS NOT TRUE
      OR (ARRAY[t.title_name, t.artist_name] && (SELECT literal FROM asked)
        AND (t.title LIKE ANY (%(hyphened)s::text[]) OR t.artist LIKE ANY (%(hyphened)s::text[]))))
    AND (t.search_vector @@ (SELECT required FROM asked)) IS NOT FALSE{shape.narrowed}"""
    tables: list[str] = []
    sources = ["SELECT *, 0 AS sampling_factor FROM named"]
    gates = ["NOT (%(names_suffice)s AND (SELECT strong FROM named_well))"]
    for stage in range(ALL_WORDS_STAGES + MAX_MISSING):
        words = f"t.search_vector @@ (SELECT stages[{stage + 1}] FROM asked)"
        enough = SAMPLE_TARGET if stage < ALL_WORDS_STAGES else _PARTIAL_SAMPLE_TARGET
        more, found = sample_ctes(f"stage_{stage}", words, f" AND {meets}", *gates, factors=_SAMPLES, enough=enough)
        tables += more
        sources += found
        gates += [f"NOT EXISTS (SELECT 1 FROM stage_{stage}_{sampling_factor})" for sampling_factor in (*_SAMPLES, 1)]
    return f"""
WITH term AS MATERIALIZED (
  SELECT near, exact, weight / sum(weight) OVER () AS weight
  FROM unnest(%(near)s::tsquery[], %(exact)s::tsquery[], %(weights)s::float8[]) AS term(near, exact, weight)
),
asked AS MATERIALIZED (
  SELECT %(names)s::varchar[] AS names, %(other_names)s::varchar[] AS other_names, %(runs)s::text[] AS runs,
    %(likely_runs)s::text[] AS likely_runs, %(artist_names)s::varchar[] AS artist_names,
    %(length)s::float8 AS length,
    %(stages)s::tsquery[] AS stages, %(excluded)s::tsquery AS excluded, %(required)s::tsquery AS required,
    %(literal)s::varchar[] AS literal
),
named AS MATERIALIZED (
  {_named(meets)}
),
named_well AS MATERIALIZED (
  SELECT coalesce(bool_or(t.title_name = ANY (asked.other_names) OR t.artist_name = ANY (asked.other_names)
    OR (t.title_name = ANY (asked.runs) AND t.artist_name = ANY (asked.runs)
      AND char_length(t.title_name) + char_length(t.artist_name) >= 0.75 * asked.length)), false) AS strong
  FROM named AS t, asked
),
{",".join(tables)},{page_ctes(_SCORED, sources, shape.facets)}""" + select_page(
        words="NULL", few_hits="false", similar_words="NULL", facets=shape.facets
    )


def _named(meets: str) -> str:
    """Return the SELECT of the tracks whose title, artist or both equal a name that the query may mean."""

    def by(names: str, column: str, other: str) -> str:
        return f"""SELECT found.* FROM asked, unnest(asked.{names}) AS meant(name) CROSS JOIN LATERAL ({CANDIDATE}
    WHERE t.{column} = meant.name AND {meets}
    ORDER BY t.{column}, t.{other}, t.id LIMIT {_MAX_TRACKS_BY_NAME}) AS found"""

    def by_pair(column: str, other: str) -> str:
        return f"""SELECT found.* FROM unnest(%(heads)s::text[], %(tails)s::text[]) AS pair(head, tail)
    CROSS JOIN LATERAL ({CANDIDATE}
    WHERE t.{column} = pair.head AND t.{other} = pair.tail AND {meets}
    ORDER BY t.id LIMIT {_MAX_TRACKS_BY_PAIR}) AS found"""

    return "\n  UNION ALL ".join(
        (
            by("other_names", "title_name", "artist_name"),
            by("runs", "artist_name", "title_name"),
            by("artist_names", "artist_name", "title_name"),
            by_pair("title_name", "artist_name"),
            by_pair("artist_name", "title_name"),
        )
    )
