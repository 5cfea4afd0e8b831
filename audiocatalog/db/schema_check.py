"""The check of the schema: this code works with its own revision and the next one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import psycopg

from audiocatalog.errors import PermissionDenied, SchemaMismatch, printable
from audiocatalog.models.sql_names import SCHEMA_REVISION, VERSION_TABLE

#: The next revision, which a deployment may apply while this code is still running.
NEXT_REVISION: Final = f"{int(SCHEMA_REVISION) + 1:0{len(SCHEMA_REVISION)}}"
_READ_REVISIONS: Final = f"SELECT version_num FROM {VERSION_TABLE} ORDER BY 1"  # noqa: S608  # A constant of ours.
# If the role may not use a schema, the schema looks empty.
_IS_OUT_OF_REACH: Final = f"""
SELECT EXISTS (
  SELECT FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE c.relname = '{VERSION_TABLE}' AND NOT has_schema_privilege(n.oid, 'USAGE')
    AND n.nspname = ANY (array_replace(
      string_to_array(translate(current_setting('search_path'), '" ', ''), ','), '$user', current_user::text)))
"""  # noqa: S608  # A constant of ours.
_REVISION: Final = re.compile(r"[0-9]{4}")


def config_path() -> Path:
    """Return the path of ``alembic.ini``, in the repository if the package lies in it, otherwise in the wheel."""
    package = Path(__file__).resolve().parents[1]
    if (package.parent / "pyproject.toml").exists():
        return package.parent / "alembic.ini"
    return package / "_migrations" / "alembic.ini"


def check_schema(connection: psycopg.Connection[Any]) -> None:
    """
    Check that this code works with the schema.

    Raises:
        PermissionDenied: the role may not use the schema that holds the tables.
        SchemaMismatch: the tables are missing, older than this code, or newer by more than one revision. The message
            says whether to upgrade the schema or to deploy newer code.
    """
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [VERSION_TABLE]).fetchone()
    rows = connection.execute(_READ_REVISIONS).fetchall() if row and row[0] else []
    if not rows:
        hidden = connection.execute(_IS_OUT_OF_REACH).fetchone()
        if hidden and hidden[0]:
            raise PermissionDenied(
                "connect: the database role may not use the schema of the search_path; as the owner of the schema, "
                "run `audiocatalog roles --grant ROLE`",
                operation="connect",
            )
        raise SchemaMismatch("this database holds no audiocatalog schema: run `audiocatalog upgrade`")
    if len(rows) > 1:
        raise SchemaMismatch(
            f"the table {VERSION_TABLE} contains {len(rows)} revisions ({_listed(rows)}) instead of one: delete every "
            "row except that of the schema's revision"
        )
    found = str(rows[0][0])
    if not _REVISION.fullmatch(found):
        raise SchemaMismatch(
            f"the table {VERSION_TABLE} contains the unknown revision '{printable(found)}': restore the row of the "
            "schema's revision"
        )
    if found < SCHEMA_REVISION:
        raise SchemaMismatch(
            f"the schema is at revision {found}, and this code needs {SCHEMA_REVISION}: run `audiocatalog upgrade`"
        )
    if found > NEXT_REVISION:
        raise SchemaMismatch(
            f"the schema is at revision {found}, and this code only works with {SCHEMA_REVISION} and {NEXT_REVISION}: "
            "deploy a newer version of audiocatalog"
        )


def _listed(rows: list[Any]) -> str:
    return " and ".join(printable(str(revision)) for (revision,) in rows[:3])
