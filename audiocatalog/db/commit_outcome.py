"""The outcome of a transaction whose COMMIT was not answered, read from the server."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, cast

import psycopg

from audiocatalog.db.connection import PooledConnection, PooledState
from audiocatalog.operations.operation import TRANSACTION_MARK, Operation, Statement

Outcome = Literal["committed", "aborted", "in progress"]

# After a crash or failover, a server may reuse transaction ids that never reached its disk. The timeline changes at a
# failover. The time of the last statistics reset changes at every crash recovery.
_SERVER: Final = (
    "CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) || ' ' "
    "|| (SELECT coalesce(extract(epoch FROM stats_reset)::text, '') FROM pg_stat_bgwriter) END"
)
_ASK: Final = Statement(f"""
SELECT {_SERVER}, CASE WHEN $1::xid8 < pg_snapshot_xmax(pg_current_snapshot())
  THEN pg_xact_status($1::xid8) ELSE 'in progress' END, pg_is_in_recovery()
""")
# A running transaction holds a lock on its own id.
_IS_HELD: Final = Statement("""
SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'transactionid' AND granted
               AND transactionid::text::bigint = $1::bigint % 4294967296)
""")
# A transaction writes its rows between the two times in its mark. A later transaction with the same id writes its
# rows after these times. The times come from the old server, because another server's clock may differ.
_FIND: Final = Statement("""
SELECT EXISTS (SELECT 1 FROM audio_track_status_changes
               WHERE xact_id = $1::bigint AND at BETWEEN $2::timestamptz AND $3::timestamptz)
  OR EXISTS (SELECT 1 FROM audio_track_edits
             WHERE xact_id = $1::bigint AND at BETWEEN $2::timestamptz AND $3::timestamptz)
""")
# The host's own statements, and some calls of the catalogue, do not write the history or the edits.
_NOTE: Final = f"""
SELECT {TRANSACTION_MARK}, EXISTS (SELECT 1 FROM audio_track_status_changes WHERE xact_id = m.own)
  OR EXISTS (SELECT 1 FROM audio_track_edits WHERE xact_id = m.own)
FROM (SELECT pg_current_xact_id_if_assigned()::text::bigint) AS m (own)
"""  # noqa: S608  # Constants of ours.


class TransactionRef(NamedTuple):
    """
    The identity of a transaction.

    - *server*: the timeline and reset time of its server; None for a standby.
    - *mark*: the transaction's id, start time and last write time, as ``id|start|write``; None if no statement wrote.
    - *wrote_history*: whether the transaction wrote rows of the history or the edits.
    """

    server: str | None
    mark: str | None
    wrote_history: bool


def transaction_ref(connection: PooledState) -> TransactionRef:
    """Return the identity of the current transaction on *connection*."""
    return TransactionRef(connection.server, connection.mark, connection.wrote_history)


def note_server(connection: PooledConnection) -> None:
    """Store the server's identity on *connection*; for a standby and some managed services, the identity is None."""
    try:
        row = connection.execute(f"SELECT {_SERVER}").fetchone()
    except psycopg.DatabaseError:
        return
    connection.server = row[0] if row else None


def mark_query(connection: PooledState) -> str:
    """Return the query for the current transaction's mark, which some statements do not return."""
    return _NOTE if connection.wrote_history else f"SELECT {TRANSACTION_MARK}, false"


def note_mark(connection: PooledState, row: tuple[str | None, bool] | None) -> None:
    """Store the mark of the current transaction, the *row* of ``mark_query``, on *connection*."""
    connection.mark, connection.wrote_history = row or (None, False)


def find_outcome(trace: TransactionRef) -> Operation[Outcome | None]:  # noqa: PLR0911  # Each return has a reason.
    """Return the outcome of the transaction *trace*; None if the server cannot tell."""
    if trace.mark is None:
        return "aborted"  # The transaction wrote nothing, so nothing is committed.
    if trace.server is None:
        return None
    xact_id, begun, written = trace.mark.split("|")
    ((server, status, is_standby),) = yield _ASK, (xact_id,)
    if is_standby:
        return "in progress"  # The standby may be promoted at any moment.
    if server == trace.server or status is None:
        return cast("Outcome | None", status)
    # This is another server, or the same one after a restart.
    if status == "in progress":
        # Behind a pooler, or after a manual statistics reset, the stored identity may be out of date.
        ((is_held,),) = yield _IS_HELD, (xact_id,)
        if is_held:
            return "in progress"
        ((_, status, _),) = yield _ASK, (xact_id,)  # The transaction may have ended meanwhile.
    if status != "committed":
        return "aborted"  # If the transaction had committed, this server would not have reused its id.
    ((is_found,),) = yield _FIND, (xact_id, begun, written)
    return "committed" if is_found else "aborted" if trace.wrote_history else None
