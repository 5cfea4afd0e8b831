"""How the server, its schema, the work in it and this process's pool stand: one round trip, for a probe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from audiocatalog.models import SCHEMA_REVISION, VERSION_TABLE
from audiocatalog.operations import Driver, rows_of
from audiocatalog.pool_figures import PoolFigures
from audiocatalog.translation import translated

#: More than so many expired leases are not counted: a probe must not read a table from end to end.
MOST_STUCK: Final = 1000
_ASK: Final = f"""
SELECT current_setting('server_version'), current_setting('server_encoding'), pg_is_in_recovery(),
  (SELECT version_num FROM {VERSION_TABLE}),
  (SELECT greatest(extract(epoch FROM clock_timestamp() - max(at)), 0)::float8 FROM audio_search_counts
   HAVING max(at) IS NOT NULL),
  {{stuck}}
"""  # Constants of ours.
_STUCK: Final = (
    f"(SELECT count(*) FROM (SELECT FROM audio_track_tasks WHERE expires_at <= now() LIMIT {MOST_STUCK}) AS t)"
)


@dataclass(frozen=True, slots=True)
class Health:
    """
    Show that the server answers, and how the schema, the work and the pool stand; times are in seconds.

    *schema_revision* is the database's, *expected_revision* the one that this code was made for. *vocabulary_age* tells
    how long ago the words were counted that searches correct by, None if never. *stuck_claims* are tracks whose lease
    has run out, up to 1,000: their workers are dead, and nobody releases them. It is None for a role that may not know,
    such as that of searches.

    Of the pool's *pool_size* connections, *connections* are open and *in_use* of them held; *waiting* callers stand in
    line. *wait_p50* and *wait_p99* are how long the latest 1,000 callers waited. *oldest_holder* has held a connection
    for *oldest_held*: a thread, and with ``debug_pool`` the place in its code.
    """

    server_version: str
    server_encoding: str
    is_standby: bool
    schema_revision: str
    expected_revision: str
    vocabulary_age: float | None
    stuck_claims: int | None
    pool_size: int
    connections: int
    in_use: int
    waiting: int
    wait_p50: float | None
    wait_p99: float | None
    oldest_held: float | None
    oldest_holder: str | None


def read_health(driver: Driver, pool: PoolFigures, *, with_claims: bool = True) -> Health:
    """
    Ask the server behind *driver*, and return what it says with the figures of the *pool*.

    Raises:
        PermissionDenied: the role may not know of claims.
    """
    with translated("health"):
        row: tuple[Any, ...]
        (row,) = rows_of(driver, _ASK.format(stuck=_STUCK if with_claims else "NULL"), ())
    version, encoding, is_standby, revision, age, stuck = row
    return Health(
        server_version=version,
        server_encoding=encoding,
        is_standby=is_standby,
        schema_revision=revision,
        expected_revision=SCHEMA_REVISION,
        vocabulary_age=age,
        stuck_claims=stuck,
        pool_size=pool.size,
        connections=pool.connections,
        in_use=pool.in_use,
        waiting=pool.waiting,
        wait_p50=pool.wait_p50,
        wait_p99=pool.wait_p99,
        oldest_held=pool.oldest_held,
        oldest_holder=pool.oldest_holder,
    )
