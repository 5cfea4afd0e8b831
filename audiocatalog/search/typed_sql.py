"""The statement for the words as typed, by relevance.

The statement collects candidates, scores each with one expression and returns a page. The sources of candidates are:

- names: tracks whose title, artist or both are the query or begin with the query, found with two B-tree indexes;
- samples of 1 in 4,096, 512, 64 and 8 tracks with the words, each read only if no sparser sample has 200 tracks;
- every track with the words, read only if no sample has 200 tracks.

Each source is bounded, so a common word costs as much as a rare word.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from audiocatalog.models.rows import TRACK_COLUMNS
from audiocatalog.models.sql_names import FOLD_FUNCTION, NAME_FUNCTION, SAMPLES, SLIPS_FUNCTION
from audiocatalog.search.results import FACET_FIELDS
from audiocatalog.search.terms_sql import LAST, TERMS_CTE

#: A sample with this many hits represents the whole table.
SAMPLE_TARGET: Final = 200
#: The maximum number of candidates for each comparison of names.
_MAX_NAMED: Final = 200
_MAX_NAMED_BY_PAIR: Final = 20
_MAX_SIMILAR: Final = 200
#: The maximum number of words to correct. In a script without spaces, one long word is split into many.
MAX_WORDS: Final = 32
#: A one-word query with at most this many hits may be corrected.
FEW_HITS: Final = 3
#: If the query is both an artist and a title, this many tracks of the artist and with the title get a boost.
MAX_BOOSTED: Final = 3
#: The maximum number of values of a facet.
MAX_VALUES: Final = 20

COLUMNS: Final = ", ".join(f"t.{name}" for name in TRACK_COLUMNS)
_CANDIDATE_COLUMNS: Final = "t.id, t.title, t.artist, t.title_name, t.artist_name, t.search_vector"
CANDIDATE: Final = f"SELECT {_CANDIDATE_COLUMNS} FROM audio_tracks AS t"
_ALL_OF: Final = "SELECT * FROM audio_tracks AS t"

#: The tiers of the score, with their description in an explanation.
TIERS: Final = {
    200: "title and artist begin with the query, punctuation included",
    100: "the title is the query",
    90: "the artist is the query",
    80: "title and artist together are the query",
    70: "the artist has these initials",
    60: "one field contains all words",
    50: "the title begins with the query",
    40: "title and artist together begin with the query",
    30: "the track contains all words",
    20: "the track contains all words, the last as a prefix",
    10: "the query begins with title and artist",
    0: "the track contains similar words, or some of the words",
}

# A title may look like a query with operators: "Bird Sprite -Awakening of Light-". Such a title must contain the word
# with its hyphen. For all other tracks, "wonderwall -oasis" excludes the word.
_IS_NAMED_BY_TEXT: Final = """(asked.text_name <> asked.name
    AND (%(hyphened)s::text[] IS NULL OR t.title LIKE ANY (%(hyphened)s::text[])
      OR t.artist LIKE ANY (%(hyphened)s::text[]))
    AND (starts_with(t.title_name || t.artist_name, asked.text_name)
      OR starts_with(t.artist_name || t.title_name, asked.text_name)))"""

_TIER: Final = f"""
CASE
  WHEN {_IS_NAMED_BY_TEXT} THEN 200
  WHEN t.title_name = asked.name THEN 100
  WHEN t.artist_name = ANY (asked.artists) THEN 90
  WHEN asked.name IN (t.title_name || t.artist_name, t.artist_name || t.title_name) THEN 80
  WHEN t.search_vector @@ asked.initials THEN 70
  WHEN t.search_vector @@ asked.in_title OR t.search_vector @@ asked.in_artist THEN 60
  WHEN t.title_name BETWEEN asked.name AND asked.name_end THEN 50
  WHEN t.title_name || t.artist_name BETWEEN asked.name AND asked.name_end
    OR t.artist_name || t.title_name BETWEEN asked.name AND asked.name_end THEN 40
  WHEN t.search_vector @@ asked.whole THEN 30
  WHEN t.search_vector @@ asked.loose THEN 20
  ELSE 10
END"""

# Within a tier, the score adds points for accents as typed, for the share of the track's names in the query, for names
# that the query contains, and for the rank of the words. The sum is below 10, so a track stays in its tier.
_SCORED: Final = f"""
  SELECT t.id, t.accented, {_TIER}
    + CASE WHEN t.accented THEN 4.0 ELSE 0.0 END
    + 3.0 * least(asked.length, t.length) / greatest(asked.length, t.length)
    + CASE WHEN starts_with(t.artist_name, asked.name) OR position(t.title_name IN asked.name) > 0 THEN 1.0 ELSE 0.0 END
    + coalesce(ts_rank_cd('{{0.1, 0.3, 0.6, 1.0}}'::real[], t.search_vector, asked.loose, 32), 0) AS score,
    CASE WHEN t.title_name = asked.name THEN 'T' WHEN t.artist_name = ANY (asked.artists) THEN 'A' END AS exact
  FROM (
    SELECT *, char_length(title_name) + char_length(artist_name) AS length,
      title LIKE ANY (%(accented)s::text[]) OR coalesce(artist LIKE ANY (%(accented)s::text[]), false) AS accented
    FROM source OFFSET 0
  ) AS t, (SELECT *, greatest(char_length(name), 1)::float8 AS length FROM asked) AS asked"""

# If the whole text is a track's name, the track may contain the words that the query excludes.
_MEETS: Final = f"""(t.search_vector @@ asked.required) IS NOT FALSE
    AND ((t.search_vector @@ asked.excluded) IS NOT TRUE
      OR {_IS_NAMED_BY_TEXT})"""


@dataclass(frozen=True, slots=True)
class Shape:
    """The parts of a statement besides the query: SQL conditions on ``t``, and facets to count."""

    conditions: tuple[str, ...] = ()
    facets: tuple[str, ...] = ()

    @property
    def narrowed(self) -> str:
        """The conditions, each after an AND."""
        return "".join(f"\n    AND {condition}" for condition in self.conditions)


def sample_ctes(
    prefix: str, words: str, narrowed: str, *gates: str, factors: tuple[int, ...] = SAMPLES, enough: int = SAMPLE_TARGET
) -> tuple[list[str], list[str]]:
    """
    Return the CTEs of the samples that match *words* and *narrowed*, sparsest first, and the SELECTs from these CTEs.

    The server evaluates a sample only if every gate is true, if no sparser sample has *enough* tracks, and if time is
    left. The parameter ``sample`` of a later page selects one sample instead.
    """
    tables, sources = [], []
    too_few: list[str] = []
    for sampling_factor in (*factors, 1):
        sampled = f"(uuid_hash(t.id) & {sampling_factor - 1}) = 0 AND " if sampling_factor > 1 else ""
        due = " AND ".join([*gates, *too_few, "clock_timestamp() < statement_timestamp() + %(time)s::interval"])
        gate = f"CASE WHEN %(sample)s::int IS NULL THEN (SELECT {due}) ELSE %(sample)s::int = {sampling_factor} END"
        # In a small sample, the server checks the conditions row by row. In the whole table, it may use an index.
        source = (
            f"({_ALL_OF} WHERE {sampled}{words} AND {gate} OFFSET 0) AS t"
            if sampling_factor > 1
            else "audio_tracks AS t"
        )
        condition = "true" if sampling_factor > 1 else f"{words} AND {gate}"
        tables.append(f"""{prefix}_{sampling_factor} AS MATERIALIZED (
  SELECT {_CANDIDATE_COLUMNS} FROM {source}
  WHERE {condition}{narrowed}
)""")
        count = f"(SELECT count(*) FROM {prefix}_{sampling_factor})"
        too_few.append(f"{count} < {enough}")
        stands = f" WHERE %(sample)s::int = {sampling_factor} OR {count} >= {enough}" if sampling_factor > 1 else ""
        sources.append(f"SELECT *, {sampling_factor} AS sampling_factor FROM {prefix}_{sampling_factor}{stands}")
    return tables, sources


def _named(narrowed: str) -> str:
    """Return the SELECT of the candidates by name."""

    def by(names: str, column: str, other: str, limit: int, where: str = "") -> str:
        return f"""SELECT found.* FROM {names} CROSS JOIN LATERAL ({CANDIDATE}
    WHERE {where}t.{column} >= start AND t.{column} <= finish
    AND {_MEETS}{narrowed}
    ORDER BY t.{column}, t.{other}, t.id LIMIT {limit}) AS found"""

    typed = "(SELECT *, name AS start, name_end AS finish FROM asked) AS asked"
    text = f"(SELECT *, text_name AS start, text_name || {LAST} AS finish FROM asked WHERE text_name <> name) AS asked"
    artists = "(SELECT asked.*, artist AS start, artist AS finish FROM asked, unnest(artists) AS artist) AS asked"
    pair = "(SELECT asked.*, head, tail AS start, tail_end AS finish FROM asked, pair) AS asked"
    return "\n  UNION ALL ".join(
        (
            by(typed, "title_name", "artist_name", _MAX_NAMED),
            by(text, "title_name", "artist_name", _MAX_NAMED),
            by(typed, "artist_name", "title_name", _MAX_NAMED),
            by(artists, "artist_name", "title_name", _MAX_NAMED),
            by(pair, "title_name", "id", _MAX_NAMED_BY_PAIR, "t.artist_name = asked.head AND "),
            by(pair, "artist_name", "id", _MAX_NAMED_BY_PAIR, "t.title_name = asked.head AND "),
            f"""SELECT found.* FROM asked CROSS JOIN LATERAL ({CANDIDATE}
    WHERE t.search_vector @@ asked.initials AND {_MEETS}{narrowed} LIMIT {_MAX_NAMED}) AS found""",
        )
    )


# True if nothing matched, or if a one-word query matched at most 3 tracks.
_HAS_FEW_HITS: Final = f"(SELECT count(*) <= CASE WHEN %(is_one_word)s THEN {FEW_HITS} ELSE 0 END FROM found)"

# Words of the vocabulary that are similar to a typed word, joined from two adjacent words, or split from one word. The
# server looks these words up only if the query may be corrected.
_LOOKED_UP: Final = "SELECT word, tracks FROM audio_search_words WHERE word"
_SIMILAR_WORDS: Final = f"""
CASE WHEN {_HAS_FEW_HITS} OR %(look_further)s THEN (
  WITH word AS MATERIALIZED (
    SELECT DISTINCT word FROM term, unnest(string_to_array(split_part(words, E'\\n', 1), ' ')) AS word
    WHERE included AND word <> '' LIMIT {MAX_WORDS}
  ),
  similar_word AS (
    SELECT word.word, near.word AS meant, near.tracks
    FROM word CROSS JOIN LATERAL (
      SELECT same.word, same.tracks FROM audio_search_words AS same
      WHERE same.slips && {SLIPS_FUNCTION}(word.word) LIMIT {_MAX_SIMILAR}
    ) AS near
    UNION ALL
    SELECT names[place] || ' ' || names[place + 1], joined.word, joined.tracks
    FROM typed_name CROSS JOIN generate_series(1, least(cardinality(names) - 1, {_MAX_SIMILAR})) AS place
    CROSS JOIN LATERAL ({_LOOKED_UP} = names[place] || names[place + 1] LIMIT 1) AS joined
    UNION ALL
    SELECT word.word, head.word || ' ' || tail.word, least(head.tracks, tail.tracks)
    FROM word CROSS JOIN generate_series(1, least(char_length(word.word) - 1, 30)) AS place
    CROSS JOIN LATERAL ({_LOOKED_UP} = left(word.word, place) LIMIT 1) AS head
    CROSS JOIN LATERAL ({_LOOKED_UP} = substr(word.word, place + 1) LIMIT 1) AS tail
  )
  SELECT jsonb_agg(jsonb_build_array(word, meant, tracks)) FROM similar_word
) END"""


def page_ctes(scored: str, sources: list[str], facets: tuple[str, ...]) -> str:
    """
    Return the CTEs that score the candidates of *sources* and select the page.

    *scored*: a SELECT of ``id, accented, score, exact``; *exact* is ``T`` if the title is the query, ``A`` if the
    artist is. If the query is both, the first tracks of each kind get a boost: 20 points, or 40 for the artist's tracks
    if the artist has more tracks than the title.
    """
    return f"""
source AS MATERIALIZED (
  {f"{chr(10)}  UNION ALL ".join(sources)}
),
candidate AS MATERIALIZED (
  SELECT id, max(exact) AS exact, bool_or(accented) AS accented, max(score) AS score
  FROM ({scored}) AS scored GROUP BY id
),
exact_name_boost AS MATERIALIZED (
  SELECT id, CASE WHEN exact = 'T' OR artists <= titles THEN 20 ELSE 40 END AS bonus
  FROM (
    SELECT id, exact, row_number() OVER (PARTITION BY exact ORDER BY accented DESC, id) AS place,
      count(*) FILTER (WHERE exact = 'T') OVER () AS titles, count(*) FILTER (WHERE exact = 'A') OVER () AS artists
    FROM candidate WHERE exact IS NOT NULL
  ) AS ranked WHERE place <= {MAX_BOOSTED}
),
found AS MATERIALIZED (
  SELECT candidate.id, score + coalesce(bonus, 0) AS score
  FROM candidate LEFT JOIN exact_name_boost ON exact_name_boost.id = candidate.id
),
page AS MATERIALIZED (
  SELECT id, score FROM found
  WHERE %(after_score)s::float8 IS NULL OR score < %(after_score)s::float8
    OR (score = %(after_score)s::float8 AND id > %(after_id)s::uuid)
  ORDER BY score DESC, id LIMIT %(limit)s OFFSET %(offset)s
)""" + (facet_rows() if facets else "")


#: The expressions that compare the values of facets, the same as in filters.
_SAME: Final = dict.fromkeys(FACET_FIELDS, f"{NAME_FUNCTION}({FOLD_FUNCTION}(value))") | {"artist": "name"}


#: The columns whose values facets count.
FACET_COLUMNS: Final = ", ".join(
    (*(f"t.{field}" for field in FACET_FIELDS), "t.artist_name", "t.year / 10 * 10 AS decade", "t.status")
)


def facet_rows() -> str:
    """Return the CTE of the tracks that facets count."""
    # If a sample represents the table, candidates by name are not counted, because they are not in the sample.
    return f""",
facet_row AS MATERIALIZED (
  SELECT {FACET_COLUMNS}
  FROM (
    SELECT id FROM found WHERE (SELECT max(sampling_factor) FROM source) <= 1
    UNION SELECT id FROM source WHERE sampling_factor > 1
  ) AS counted JOIN audio_tracks AS t ON t.id = counted.id
)"""


def facet_columns(facets: tuple[str, ...]) -> str:
    """
    Return a column for each facet: pairs of a value and its number of tracks, most frequent first.

    Values that a filter treats as equal are one value, in its most frequent spelling.
    """
    return "".join(
        f""", (SELECT coalesce(jsonb_agg(jsonb_build_array(value, tracks)), '[]') FROM (
    SELECT (array_agg(value ORDER BY spelled DESC, value::text COLLATE "C"))[1] AS value, sum(spelled)::bigint AS tracks
    FROM (
      SELECT *, {_SAME.get(facet, "value")} AS same
      FROM (
        SELECT {facet} AS value, {"artist_name" if facet == "artist" else "NULL"} AS name, count(*) AS spelled
        FROM facet_row WHERE {facet} IS NOT NULL GROUP BY 1, 2
      ) AS spelling OFFSET 0
    ) AS spelling
    GROUP BY same ORDER BY tracks DESC, same LIMIT {MAX_VALUES + 1}) AS counted) AS {facet}_facet"""
        for facet in facets
    )


def select_page(words: str, few_hits: str, similar_words: str, facets: tuple[str, ...]) -> str:
    """Return the final SELECT: the rows of the page, each with the summary of all found tracks."""
    return f"""
SELECT summary.*, page.score, {COLUMNS}
FROM (
  SELECT (SELECT count(*) FROM found) AS found,
    coalesce((SELECT max(sampling_factor) FROM source), 1) AS sampling_factor,
    (SELECT count(*) FROM source WHERE sampling_factor > 1) AS sampled,
    clock_timestamp() > statement_timestamp() + %(time)s::interval AS timed_out,
    {words} AS words, {few_hits} AS few_hits, {similar_words} AS similar_words{facet_columns(facets)}
) AS summary
LEFT JOIN page ON true LEFT JOIN audio_tracks AS t ON t.id = page.id
ORDER BY page.score DESC, page.id"""


@lru_cache(maxsize=256)
def search_sql(shape: Shape) -> str:
    """Return the statement for the words as typed."""
    words = """t.search_vector @@ (SELECT driving FROM asked)
    AND ts_match_vq(t.search_vector, (SELECT loose FROM asked))
    AND (t.search_vector @@ (SELECT excluded FROM asked)) IS NOT TRUE"""
    tables, sources = sample_ctes("sample", words, shape.narrowed)
    named = f"SELECT *, 0 AS sampling_factor FROM (\n  {_named(shape.narrowed)}\n  ) AS named"
    return f"WITH {TERMS_CTE},\n{','.join(tables)},{page_ctes(_SCORED, [named, *sources], shape.facets)}" + select_page(
        words="(SELECT array_agg(words ORDER BY place) FROM term)",
        few_hits=_HAS_FEW_HITS,
        similar_words=_SIMILAR_WORDS,
        facets=shape.facets,
    )
