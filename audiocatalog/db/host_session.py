"""The session of a unit of work, for the host's own rows and for reads of the catalogue's rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from sqlalchemy import Connection, TableClause, UpdateBase, event
from sqlalchemy.orm import InstanceState, Session
from sqlalchemy.sql.compiler import SQLCompiler

from audiocatalog.errors import WriteRefused
from audiocatalog.models.base import Base
from audiocatalog.models.orm_internals import LinkingSession
from audiocatalog.models.sql_names import VERSION_TABLE
from audiocatalog.models.tables import Track

_TABLES: Final = frozenset(Base.metadata.tables) | {VERSION_TABLE}
_TRACKS: Final = Track.__tablename__
#: The advice for a statement that writes a track, by the kind of the statement.
_VERBS: Final[Mapping[str, str]] = {
    "insert": "use save() or bulk_save()",
    "update": "use save(..., replace=True) for its content and update_status() for its status",
    "delete": "no call deletes a track",
}
_IS_THE_SAME: Final = "SELECT to_regclass(quote_ident(%s) || '.' || quote_ident(%s)) = to_regclass(quote_ident(%s))"


class HostSession(LinkingSession):
    """
    A session that links the catalogue's objects by their ids, and refuses to write them.

    A flush raises WriteRefused if an object of the catalogue was added, changed or deleted.
    """

    def links(self, state: InstanceState[Any]) -> bool:
        """Return whether the object of *state* is a row of the catalogue, which several sessions may share."""
        return state.key is not None and issubclass(state.class_, Base)


@event.listens_for(HostSession, "before_flush")
def _refuse_to_flush(session: Session, *_: object) -> None:
    for kind, objects in (("insert", session.new), ("update", session.dirty), ("delete", session.deleted)):
        for one in objects:
            if isinstance(one, Base) and (kind != "update" or session.is_modified(one)):
                raise _refusal(one.__tablename__, kind)


def refuse_writes(compiled: object, connection: Connection) -> None:
    """
    Check that a *compiled* statement writes no table of the catalogue; SQL given as text is not checked.

    Raises:
        WriteRefused: the target of the statement or of one of its CTEs is a table of the catalogue.
    """
    if isinstance(compiled, SQLCompiler):
        for statement in _statements_of(compiled):
            target = getattr(statement, "table", None)
            target = getattr(target, "element", target)  # An alias stands for its table.
            if isinstance(statement, UpdateBase) and isinstance(target, TableClause) and _is_ours(target, connection):
                raise _refusal(target.name, statement.__visit_name__)


def _statements_of(compiled: SQLCompiler) -> Iterator[object]:
    yield compiled.statement
    for cte in compiled.ctes or ():
        yield cte.element


def _is_ours(table: TableClause, connection: Connection) -> bool:
    """Return whether *table* is one of ours, rather than one of the same name in a schema of the host."""
    if table.name not in _TABLES:
        return False
    if table.schema is None:
        return True
    cursor = connection.connection.cursor()
    cursor.execute(_IS_THE_SAME, [table.schema, table.name, table.name])
    row = cursor.fetchone()
    return row is None or row[0] is not False


def _refusal(table: str, kind: str) -> WriteRefused:
    if table == _TRACKS:
        message = f"a session may not {kind} a track: {_VERBS[kind]}"
    else:
        message = f"a session may not write {table}: use save(), update_status() and the methods for claims"
    return WriteRefused(message, operation="session")
