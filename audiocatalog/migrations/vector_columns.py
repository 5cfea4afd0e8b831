"""The columns of search vectors in the table of tracks, and the work that each still needs."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import psycopg

from audiocatalog.errors import SchemaMismatch
from audiocatalog.models.sql_names import SAMPLES

#: The number of tracks whose vectors are measured to estimate the size of all.
_SAMPLED: Final = 2000
_READ_COLUMNS: Final = """
SELECT attname::text, pg_get_expr(adbin, adrelid)
FROM pg_attribute JOIN pg_attrdef ON (adrelid, adnum) = (attrelid, attnum)
WHERE attrelid = to_regclass('audio_tracks') AND attgenerated = 's' AND atttypid = 'tsvector'::regtype
ORDER BY attnum"""
_READ_INDEXES: Final = """
SELECT relname::text, indisvalid
FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
JOIN pg_attribute ON attrelid = indrelid AND attnum = ANY (indkey)
WHERE indrelid = 'audio_tracks'::regclass AND attname = %s AND starts_with(relname, 'ix_audio_tracks_search_vector')
ORDER BY relname"""
#: The function that makes the vectors of a column, with its version; the unused column has no function.
_FUNCTION: Final = re.compile(r"\baudiocatalog_(?:search_vector_(v[0-9]+)|no_vector)\(")
_COUNT: Final = """
SELECT CASE WHEN reltuples > 0 THEN reltuples::bigint ELSE (SELECT count(*) FROM audio_tracks) END
FROM pg_class WHERE oid = 'audio_tracks'::regclass"""


@dataclass(frozen=True, slots=True)
class VectorPlan:
    """
    The remaining work for one column of vectors.

    - *is_spare*: whether no version uses the column; if so, the rebuild empties the column.
    - *tracks*: the approximate number of tracks.
    - *size*: the approximate bytes of disk that missing vectors and indexes will take, without the WAL.
    - *to_drop*: the names of unfinished indexes, and of indexes of another version.
    - *to_build*: the names of missing indexes.
    """

    column: str
    is_spare: bool
    tracks: int
    size: int
    to_drop: Sequence[str]
    to_build: Sequence[str]


class Vector:
    """A column of vectors in the table."""

    def __init__(self, driver: psycopg.Connection[Any], column: str, expression: str, version: str | None) -> None:
        self.driver = driver
        self.column = column
        self.expression = expression
        self.is_spare = version is None
        #: The condition for a row whose vector is out of date. A null vector is always out of date, so it is not
        #: compared.
        self.differs = f"{column} IS DISTINCT FROM {expression}"
        if not self.is_spare:
            self.differs = f"({column} IS NULL OR {self.differs})"
        #: The names of the column's indexes, each with the N of its sample of 1 in N tracks.
        self.shares = {} if version is None else index_names(version)

    def to_drop(self) -> list[str]:
        """Return the names of unfinished indexes, and of indexes of another version."""
        return [name for name, is_valid in self._indexes() if not is_valid or name not in self.shares]

    def to_build(self) -> list[str]:
        """Return the names of the missing indexes."""
        valid = {name for name, is_valid in self._indexes() if is_valid}
        return [name for name in self.shares if name not in valid]

    def is_complete(self) -> bool:
        """Return whether there is nothing to do: a used column has its indexes only after all vectors are filled."""
        if self.to_drop() or self.to_build():
            return False
        return not self.is_spare or not read_value(
            self.driver, f"SELECT EXISTS (SELECT FROM audio_tracks WHERE {self.differs})"
        )

    def compute(self, tracks: Sequence[UUID]) -> set[UUID]:
        """
        Make the server compute the vectors of *tracks*, and return the ids of the updated ones.

        Tracks that another transaction holds are skipped, so that no writer waits behind a blocked batch. The update
        sets the title, from which every vector is made, to itself. Under READ COMMITTED, it uses the last committed
        version of the row.
        """
        rows = self.driver.execute(
            f"""
            WITH free AS MATERIALIZED (
              SELECT id FROM audio_tracks WHERE id = ANY (%s) AND {self.differs} FOR NO KEY UPDATE SKIP LOCKED
            )
            UPDATE audio_tracks AS t SET title = t.title FROM free WHERE t.id = free.id RETURNING t.id""",
            [list(tracks)],
        )
        return {track for (track,) in rows}

    def due_among(self, tracks: Collection[UUID]) -> list[UUID]:
        """Return the ids of those *tracks* that still exist and whose vector is out of date."""
        query = f"SELECT id FROM audio_tracks WHERE id = ANY (%s) AND {self.differs} ORDER BY id"
        return [track for (track,) in self.driver.execute(query, [list(tracks)])] if tracks else []

    def index_sql(self, name: str) -> str:
        """Return the statement that builds the index with *name*."""
        share = self.shares[name]
        where = "" if share == 1 else f" WHERE (uuid_hash(id) & {share - 1}) = 0"
        return (
            f"CREATE INDEX CONCURRENTLY {name} ON audio_tracks USING gin ({self.column}) "
            f"WITH (gin_pending_list_limit = 128){where}"
        )

    def _indexes(self) -> list[tuple[str, bool]]:
        return self.driver.execute(_READ_INDEXES, [self.column]).fetchall()

    def plan(self) -> VectorPlan:
        """Return the remaining work."""
        tracks = read_value(self.driver, _COUNT)
        size = 0
        if self.to_build():
            share = min(100.0, 100.0 * _SAMPLED / max(1, tracks))
            width = read_value(
                self.driver,
                f"SELECT coalesce(avg(pg_column_size({self.expression})), 0)::float8 "
                f"FROM audio_tracks TABLESAMPLE SYSTEM ({share})",
            )
            # The indexes take half the size of the vectors.
            size = round(1.5 * tracks * width)
        return VectorPlan(self.column, self.is_spare, tracks, size, self.to_drop(), self.to_build())


def index_names(version: str) -> dict[str, int]:
    """
    Return the names of the indexes on the vectors of a *version*, such as ``v2``.

    The value of each name is the N of its sample of 1 in N tracks.
    """
    suffix = "" if version == "v1" else f"_{version}"
    return {
        f"ix_audio_tracks_search_vector{suffix}" + ("" if share == 1 else f"_{share}"): share
        for share in (1, *sorted(SAMPLES))
    }


def read_vectors(driver: psycopg.Connection[Any]) -> list[Vector]:
    """Return the columns of vectors, the unused one first, or raise SchemaMismatch."""
    found = [
        Vector(driver, column, expression, made_by[1])
        for column, expression in driver.execute(_READ_COLUMNS)
        if (made_by := _FUNCTION.search(expression))
    ]
    if not found:
        raise SchemaMismatch("this database holds no audiocatalog schema: run `audiocatalog upgrade`")
    # The unused column comes first, because emptying it frees space.
    return sorted(found, key=lambda vector: not vector.is_spare)


def read_value(driver: psycopg.Connection[Any], query: str) -> Any:  # noqa: ANN401  # A value of any type.
    """Return the one value that *query* reads."""
    ((value,),) = driver.execute(query).fetchall()
    return value
