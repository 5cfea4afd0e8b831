"""The holder of an advisory lock, for messages; every role that can connect can acquire such a lock."""

from __future__ import annotations

from typing import Final

from audiocatalog.errors import printable
from audiocatalog.operations.operation import Operation, Statement

# The server shows the process, role and application of a session to every role.
_READ_HOLDER: Final = Statement("""
SELECT pid, coalesce(pg_get_userbyid(usesysid)::text, 'unknown'), coalesce(application_name, '')
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 1
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (classid::bigint << 32 | objid::bigint) = $1::bigint
ORDER BY pid LIMIT 1""")


def holder_of(key: int) -> Operation[str]:
    """Return the process, role and application that hold the advisory lock *key* of this database, as text."""
    rows = yield _READ_HOLDER, (key,)
    if not rows:
        return "a process that has ended"
    ((pid, role, application),) = rows
    named = f", application {printable(application, 63)}" if application else ""
    return f"process {pid} (role {printable(role)}{named})"
