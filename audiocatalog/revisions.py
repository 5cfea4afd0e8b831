"""Which schema this code works with: its own revision, and the next one, which is made to work with it."""

from __future__ import annotations

import re
from typing import Any, Final

import psycopg

from audiocatalog.errors import SchemaMismatch, printable
from audiocatalog.models import SCHEMA_REVISION, VERSION_TABLE

#: The revision that the next deploy brings while this code is still running.
NEXT_REVISION: Final = f"{int(SCHEMA_REVISION) + 1:0{len(SCHEMA_REVISION)}}"
_READ_REVISIONS: Final = f"SELECT version_num FROM {VERSION_TABLE} ORDER BY 1"  # noqa: S608  # A constant of ours.
_REVISION: Final = re.compile(r"[0-9]{4}")


def check_schema(connection: psycopg.Connection[Any]) -> None:
    """
    Refuse a schema that this code cannot work with.

    Raises:
        SchemaMismatch: it is missing, older than this code, or newer by more than one revision. The message says
            whether to upgrade the schema or to deploy newer code.
    """
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [VERSION_TABLE]).fetchone()
    rows = connection.execute(_READ_REVISIONS).fetchall() if row and row[0] else []
    if not rows:
        raise SchemaMismatch("this database holds no audiocatalog schema: run `audiocatalog upgrade`")
    if len(rows) > 1:
        raise SchemaMismatch(
            f"the table {VERSION_TABLE} names {len(rows)} revisions, {_listed(rows)}, where it should name one: "
            "leave the one that the schema is at"
        )
    found = str(rows[0][0])
    if not _REVISION.fullmatch(found):
        raise SchemaMismatch(
            f"the table {VERSION_TABLE} names the revision '{printable(found)}', which is none of audiocatalog's: "
            "restore the one that the schema is at"
        )
    if found < SCHEMA_REVISION:
        raise SchemaMismatch(
            f"the schema is at revision {found}, this code needs {SCHEMA_REVISION}: run `audiocatalog upgrade`"
        )
    if found > NEXT_REVISION:
        raise SchemaMismatch(
            f"the schema is at revision {found}, this code is too old for it and works with {SCHEMA_REVISION} and "
            f"{NEXT_REVISION}: deploy a newer one"
        )


def _listed(rows: list[Any]) -> str:
    return " and ".join(printable(str(revision)) for (revision,) in rows[:3])
