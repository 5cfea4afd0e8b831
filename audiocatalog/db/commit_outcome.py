"""What became of a transaction whose COMMIT was not answered: the server knows, if it is asked in the right way."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, cast

import psycopg

from audiocatalog.db.connection import PooledConnection
from audiocatalog.operations.operation import TRANSACTION_MARK, Operation, Statement

Outcome = Literal["committed", "aborted", "in progress"]

# A server gives ids out again that it had given before it crashed or was replaced, if their transactions had not come
# to its disk. Its timeline changes at a failover, and this time at every recovery from a crash.
_SERVER: Final = (
    "CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) || ' ' "
    "|| (SELECT coalesce(extract(epoch FROM stats_reset)::text, '') FROM pg_stat_bgwriter) END"
)
_ASK: Final = Statement(f"""
SELECT {_SERVER}, CASE WHEN $1::xid8 < pg_snapshot_xmax(pg_current_snapshot())
  THEN pg_xact_status($1::xid8) ELSE 'in progress' END, pg_is_in_recovery()
""")
# A transaction that is under way holds a lock on its own id, whatever server it was begun on.
_IS_HELD: Final = Statement("""
SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'transactionid' AND granted
               AND transactionid::text::bigint = $1::bigint % 4294967296)
""")
# A transaction's rows were written between its marks, those of a later one with the same id after them. Both are of the
# clock of the server that is gone: another one's may be ahead or behind.
_FIND: Final = Statement("""
SELECT EXISTS (SELECT 1 FROM audio_track_status_changes
               WHERE xact_id = $1::bigint AND at BETWEEN $2::timestamptz AND $3::timestamptz)
  OR EXISTS (SELECT 1 FROM audio_track_edits
             WHERE xact_id = $1::bigint AND at BETWEEN $2::timestamptz AND $3::timestamptz)
""")
# What the host has written by itself leaves no rows; what the catalogue was asked for may have found nothing to do.
_NOTE: Final = f"""
SELECT {TRANSACTION_MARK}, EXISTS (SELECT 1 FROM audio_track_status_changes WHERE xact_id = m.own)
  OR EXISTS (SELECT 1 FROM audio_track_edits WHERE xact_id = m.own)
FROM (SELECT pg_current_xact_id_if_assigned()::text::bigint) AS m (own)
"""  # noqa: S608  # Constants of ours.


class Trace(NamedTuple):
    """
    Name a transaction: its *server* as that was then, and its *mark* there, None if it had written nothing.

    *wrote_history* tells that what it wrote stands in the history or among the edits.
    """

    server: str | None
    mark: str | None
    wrote_history: bool


def trace_of(connection: PooledConnection) -> Trace:
    """Return the name of the transaction on *connection*, whose COMMIT is about to be sent."""
    return Trace(connection.server, connection.mark, connection.wrote_history)


def note_server(connection: PooledConnection) -> None:
    """Note which server *connection* leads to; a standby has no name, nor has a service that hides its inner parts."""
    try:
        row = connection.execute(f"SELECT {_SERVER}").fetchone()
    except psycopg.DatabaseError:
        return
    connection.server = row[0] if row else None


def note_mark(connection: PooledConnection) -> None:
    """Note the mark of the transaction under way, after statements that do not tell it themselves."""
    row = connection.execute(_NOTE if connection.wrote_history else f"SELECT {TRANSACTION_MARK}, false").fetchone()
    connection.mark, connection.wrote_history = row or (None, False)


def find_outcome(trace: Trace) -> Operation[Outcome | None]:  # noqa: PLR0911  # Each says what is known by then.
    """Ask the server what became of the transaction that *trace* names; None if it cannot tell."""
    if trace.mark is None:
        return "aborted"  # It had written nothing, so that nothing could have been kept.
    if trace.server is None:
        return None
    xact_id, begun, written = trace.mark.split("|")
    ((server, status, is_standby),) = yield _ASK, (xact_id,)
    if is_standby:
        return "in progress"  # It may be promoted any moment.
    if server == trace.server or status is None:
        return cast("Outcome | None", status)
    # Another server than the first one answers, or the same one by another name.
    if status == "in progress":
        # The name may be out of date: behind a pooler, or where the statistics were reset by hand.
        ((is_held,),) = yield _IS_HELD, (xact_id,)
        if is_held:
            return "in progress"
        ((_, status, _),) = yield _ASK, (xact_id,)  # It may have ended meanwhile.
    if status != "committed":
        return "aborted"  # Had it been kept, this server would have its id, and would not have given it to another.
    ((is_found,),) = yield _FIND, (xact_id, begun, written)
    return "committed" if is_found else "aborted" if trace.wrote_history else None
