"""The revisions that bring another version of the search vector, as docs/adr/0013 says: of one made for tests."""

from __future__ import annotations

from typing import Any

import psycopg

from audiocatalog.migrations.vector_columns import index_names

_ARGUMENTS = "text, text, text, text, integer"
_NO_VECTOR = """
CREATE OR REPLACE FUNCTION audiocatalog_no_vector(title text, artist text, album text, genre text, year integer)
RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN NULL::tsvector"""


def _renamed(old: str, new: str) -> str:
    return f"ALTER FUNCTION {old}({_ARGUMENTS}) RENAME TO {new};"


def expand(version: int) -> str:
    """Give the column that is not in use a new version of the vector, by which a track is also found as `version2`."""
    name = f"audiocatalog_search_vector_v{version}"
    return f"""
{_renamed("audiocatalog_no_vector", name)}
CREATE OR REPLACE FUNCTION {name}(title text, artist text, album text, genre text, year integer)
RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
  SELECT audiocatalog_weigh_v1(
    audiocatalog_words_v1(audiocatalog_fold_v1(title)),
    audiocatalog_words_v1(audiocatalog_fold_v1(artist)),
    audiocatalog_words_v1(audiocatalog_fold_v1(album)),
    audiocatalog_words_v1(audiocatalog_fold_v1(genre)),
    year,
    audiocatalog_name_v1(audiocatalog_fold_v1(album)),
    audiocatalog_name_v1(audiocatalog_fold_v1(genre))) || '''version{version}'''::tsvector;
END"""


def abandon(version: int) -> str:
    """Take back `expand`."""
    return _renamed(f"audiocatalog_search_vector_v{version}", "audiocatalog_no_vector") + _NO_VECTOR


def require(column: str, version: int) -> str:
    """Refuse a table that was not rebuilt; build the indexes of one that is empty, such as that of a new database."""
    names = index_names(f"v{version}")
    valid = " AND ".join(
        f"EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('{name}') AND indisvalid)" for name in names
    )
    created = "\n".join(
        f"CREATE INDEX {name} ON audio_tracks USING gin ({column}) WITH (gin_pending_list_limit = 128)"
        + (f" WHERE (uuid_hash(id) & {share - 1}) = 0;" if share > 1 else ";")
        for name, share in names.items()
    )
    return f"""
DO $$ BEGIN
  IF {valid} THEN
    RETURN;
  ELSIF EXISTS (SELECT FROM audio_tracks) THEN
    RAISE EXCEPTION 'run `audiocatalog rebuild` first' USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
  {created}
END $$"""


def contract(column: str, version: int) -> str:
    """Take the column of an older version out of use, when no code that searches it is running."""
    return f"ALTER TABLE audio_tracks ALTER {column} DROP NOT NULL;" + abandon(version)


def wrong_vectors(connection: psycopg.Connection[Any], column: str, version: int) -> int:
    """Return how many tracks have another vector than the functions of *version* make."""
    row = connection.execute(
        f"SELECT count(*) FROM audio_tracks WHERE {column} IS DISTINCT FROM "
        f"audiocatalog_search_vector_v{version}(title, artist, album, genre, year)"
    ).fetchone()
    assert row is not None
    return int(row[0])
