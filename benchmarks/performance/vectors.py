"""What the search costs a load: our table, our table with one vector alone, and one with PostgreSQL's own vector."""

from __future__ import annotations

from typing import Any, Final

from audiocatalog.models.rows import TRACK_COLUMNS
from audiocatalog.models.sql_names import SEARCH_VECTOR_FUNCTION
from benchmarks.performance import bare
from benchmarks.performance.database import Databases
from benchmarks.performance.timing import say, turns, watched
from benchmarks.search.server import connected

WHOLE: Final = "our table, with names, samples and all indexes"
ONE: Final = "our search vector and its index alone"
PLAIN: Final = "to_tsvector('simple', …) of four weighted fields and its index"
NONE: Final = "no search vector, no index but the key"

_WEIGHTED: Final = " || ".join(
    f"setweight(to_tsvector('simple', coalesce({field}, '')), '{weight}')"
    for field, weight in (("title", "A"), ("artist", "B"), ("album", "C"), ("genre", "D"))
)
_VECTORS: Final = {ONE: f"{SEARCH_VECTOR_FUNCTION}(title, artist, album, genre, year)", PLAIN: _WEIGHTED, NONE: None}
#: The index of each: ours with the short list that our table has, the plain one as PostgreSQL makes it.
_INDEXES: Final = {
    ONE: "CREATE INDEX ON {table} USING gin (vector) WITH (gin_pending_list_limit = 128)",
    PLAIN: "CREATE INDEX ON {table} USING gin (vector)",
}
#: The same columns with the same domains and defaults, and nothing else of the tracks' table.
_COPY_OF_TABLE: Final = f"""
CREATE TABLE {{table}} WITH (fillfactor = 60) AS SELECT {", ".join(TRACK_COLUMNS)} FROM audio_tracks WITH NO DATA;
ALTER TABLE {{table}} ADD PRIMARY KEY (id), ALTER status SET NOT NULL, ALTER title SET NOT NULL,
  ALTER audio_path SET NOT NULL, ALTER created_at SET DEFAULT now(), ALTER created_at SET NOT NULL,
  ALTER updated_at SET DEFAULT now(), ALTER updated_at SET NOT NULL, ALTER version SET DEFAULT 1,
  ALTER version SET NOT NULL"""  # noqa: S608 - constants of ours.


def measure(databases: Databases, *, rows: int, runs: int) -> dict[str, Any]:
    """Copy *rows* into each of the tables, the tracks alone, without their history."""
    names = (WHOLE, ONE, PLAIN, NONE)
    found: dict[str, Any] = {name: {"seconds": [], "bytes": 0} for name in names}
    for run in range(-1, runs):
        count = rows if run >= 0 else 1000
        for name in turns(names, run + 1):
            seconds, size = _copied(databases, name, count)
            if run >= 0:
                found[name]["seconds"].append(seconds)
                found[name]["bytes"] = size
                say(f"vectors, {run + 1}/{runs}: {name}: {rows / seconds:,.0f} a second")
    return {"rows": rows, "runs": runs, "systems": found}


def _copied(databases: Databases, name: str, rows: int) -> tuple[float, int]:
    """Return how many seconds the copy took, and how large the table is then with its indexes."""
    with connected(databases.fresh()) as connection:
        connection.execute("SET statement_timeout = 0")
        table = "audio_tracks"
        if name != WHOLE:
            table = "tracks_copy"
            connection.execute(_COPY_OF_TABLE.format(table=table).encode())
            if vector := _VECTORS[name]:
                connection.execute(
                    f"ALTER TABLE {table} ADD vector tsvector GENERATED ALWAYS AS ({vector}) STORED".encode()
                )
            if index := _INDEXES.get(name):
                connection.execute(index.format(table=table).encode())
        with watched() as watch:
            bare.copy_tracks(connection, table, databases.tracks.values(rows))
        ((size,),) = connection.execute("SELECT pg_total_relation_size(%s::regclass)", [table]).fetchall()
    return watch.seconds, size
