"""What became of a transaction whose COMMIT was not answered: the server knows, if it is asked in the right way."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple, cast

import psycopg

from audiocatalog.connection import PooledConnection
from audiocatalog.models import TRANSACTION_MARK
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
"""
# A transaction that is under way holds a lock on its own id, whatever server it was begun on.
_IS_HELD: Final = """
SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'transactionid' AND granted
               AND transactionid::text::bigint = %(xact_id)s::bigint %% 4294967296)
"""
# A transaction's rows were written between its marks, those of a later one with the same id after them. Both are of the
# clock of the server that is gone: another one's may be ahead or behind.
_FIND: Final = """
SELECT EXISTS (SELECT FROM audio_track_status_changes
               WHERE xact_id = %(xact_id)s::bigint AND at BETWEEN %(begun)s::timestamptz AND %(written)s::timestamptz)
  OR EXISTS (SELECT FROM audio_track_edits
             WHERE xact_id = %(xact_id)s::bigint AND at BETWEEN %(begun)s::timestamptz AND %(written)s::timestamptz)
"""
# What the host has written by itself leaves no rows; what the catalogue was asked for may have found nothing to do.
_NOTE: Final = f"""
SELECT {TRANSACTION_MARK}, EXISTS (SELECT FROM audio_track_status_changes WHERE xact_id = m.own)
  OR EXISTS (SELECT FROM audio_track_edits WHERE xact_id = m.own)
FROM (SELECT pg_current_xact_id_if_assigned()::text::bigint) AS m (own)
"""  # noqa: S608  # Constants of ours.


class Trace(NamedTuple):
    """
    Name a transaction: its *server* as that was then, and its *mark* there, None if it had written nothing.

    *leaves_rows* tells that what it wrote stands in the history or among the edits.
    """

    server: str | None
    mark: str | None
    leaves_rows: bool


def trace_of(connection: PooledConnection) -> Trace:
    """Return the name of the transaction on *connection*, whose COMMIT is about to be sent."""
    return Trace(connection.server, connection.mark, connection.leaves_rows)


def note_server(connection: PooledConnection) -> None:
    """Note which server *connection* leads to; a standby has no name, nor has a service that hides its inner parts."""
    try:
        row = connection.execute(f"SELECT {_SERVER}").fetchone()
    except psycopg.DatabaseError:
        return
    connection.server = row[0] if row else None


def note_mark(connection: PooledConnection) -> None:
    """Note the mark of the transaction under way, after statements that do not tell it themselves."""
    row = connection.execute(_NOTE if connection.leaves_rows else f"SELECT {TRANSACTION_MARK}, false").fetchone()
    connection.mark, connection.leaves_rows = row or (None, False)


def ask(driver: psycopg.Connection[Any], trace: Trace) -> Outcome | None:
    """Ask the server what became of the transaction that *trace* names, and return None if it cannot tell."""
    if trace.mark is None or trace.server is None:
        # One that had written nothing can be run again, for there is nothing that could have been kept.
        return "aborted" if trace.mark is None else None
    xact_id, begun, written = trace.mark.split("|")
    values = {"xact_id": xact_id, "begun": begun, "written": written}
    with translated("run"):
        row: Any = driver.execute(_ASK, values).fetchone()
        server, status, is_standby = row
        if is_standby:
            return "in progress"  # It may be promoted any moment.
        if server == trace.server or status is None:
            return cast("Outcome | None", status)
        return _of_another_server(driver, trace, values, status)


def _of_another_server(
    driver: psycopg.Connection[Any], trace: Trace, values: dict[str, str], status: str
) -> Outcome | None:
    """Return what another server than the first one knows, or the same one by another name."""
    if status == "in progress":
        # The name may be out of date: behind a pooler, or where the statistics were reset by hand.
        held: Any = driver.execute(_IS_HELD, values).fetchone()
        if held[0]:
            return "in progress"
        again: Any = driver.execute(_ASK, values).fetchone()  # It may have ended meanwhile.
        status = again[1]
    if status != "committed":
        return "aborted"  # Had it been kept, this server would have its id, and would not have given it to another.
    found: Any = driver.execute(_FIND, values).fetchone()
    if found[0]:
        return "committed"
    return "aborted" if trace.leaves_rows else None
