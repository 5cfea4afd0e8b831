"""What became of a transaction whose COMMIT was not answered: the server knows, if it is asked in the right way."""

from __future__ import annotations

from time import monotonic
from typing import Any, Final, Literal, NamedTuple, cast

import psycopg

from audiocatalog.connection import PooledConnection
from audiocatalog.models import XACT_ID
from audiocatalog.translation import translated

Outcome = Literal["committed", "aborted", "in progress"]

# A server gives ids out again that it had given before it crashed or was replaced, if their transactions had not come
# to its disk. Its timeline changes at a failover, and this time at every recovery from a crash.
_SERVER: Final = (
    "CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) || ' ' "
    "|| (SELECT coalesce(extract(epoch FROM stats_reset)::text, '') FROM pg_stat_bgwriter) END"
)
_ASK: Final = f"""
SELECT {_SERVER}, CASE WHEN %(xact_id)s::xid8 < pg_snapshot_xmax(pg_current_snapshot())
  THEN pg_xact_status(%(xact_id)s::xid8) ELSE 'in progress' END, pg_is_in_recovery()
"""  # A constant of ours.
# A transaction's rows were written before its COMMIT was sent, those of a later one with the same id after it.
_FIND: Final = """
SELECT EXISTS (SELECT FROM audio_track_status_changes
               WHERE xact_id = %(xact_id)s::bigint AND at BETWEEN m.sent - interval '1 day' AND m.sent)
  OR EXISTS (SELECT FROM audio_track_edits
             WHERE xact_id = %(xact_id)s::bigint AND at BETWEEN m.sent - interval '1 day' AND m.sent)
FROM (SELECT clock_timestamp() - make_interval(secs => %(elapsed)s)) AS m (sent)
"""


class Trace(NamedTuple):
    """
    Name a transaction: its *server* as that was then, its *xact_id* there, and when its COMMIT was *sent*.

    There is no *xact_id* if it had written nothing. *leaves_rows* tells that what it wrote stands in the history or
    among the edits. Times are those of ``time.monotonic``.
    """

    server: str | None
    xact_id: str | None
    sent: float
    leaves_rows: bool


def trace_of(connection: PooledConnection) -> Trace:
    """Return the name of the transaction on *connection*, whose COMMIT is about to be sent."""
    return Trace(connection.server, connection.xact_id, monotonic(), connection.leaves_rows)


def note_server(connection: PooledConnection) -> None:
    """Note which server *connection* leads to; a standby has no name, nor has a service that hides its inner parts."""
    try:
        row = connection.execute(f"SELECT {_SERVER}").fetchone()
    except psycopg.DatabaseError:
        return
    connection.server = row[0] if row else None


def note_xact_id(connection: PooledConnection) -> None:
    """Note the id of the transaction under way, after statements that do not tell it themselves."""
    row = connection.execute(f"SELECT {XACT_ID}").fetchone()
    connection.xact_id = row[0] if row else None


def ask(driver: psycopg.Connection[Any], trace: Trace) -> Outcome | None:
    """Ask the server what became of the transaction that *trace* names, and return None if it cannot tell."""
    if trace.xact_id is None or trace.server is None:
        # One that had written nothing can be run again, for there is nothing that could have been kept.
        return "aborted" if trace.xact_id is None else None
    values = {"xact_id": trace.xact_id, "elapsed": monotonic() - trace.sent}
    with translated("run"):
        row: Any = driver.execute(_ASK, values).fetchone()
        server, status, is_standby = row
        if is_standby:
            return "in progress"  # It may be promoted any moment.
        if server == trace.server or status is None:
            return cast("Outcome | None", status)
        if status != "committed":
            return "aborted"  # Had it been kept, this server would have its id, and would not have given it to another.
        found: Any = driver.execute(_FIND, values).fetchone()
    if found[0]:
        return "committed"
    return "aborted" if trace.leaves_rows else None
