"""
The EXECUTE privileges of our functions, and the schema of the tables that the functions use.

PostgreSQL lets every role execute a new function, and our SECURITY DEFINER functions write with the rights of their
owner. So each revision ends with ``SECURE_FUNCTIONS``, in the transaction that creates its functions.

A SECURITY DEFINER function also stores the name of its schema. After ``ALTER SCHEMA ... RENAME``, or in a copy of the
schema, the function would write to the schema with the old name, which may hold another catalogue.
"""

from __future__ import annotations

import re
from typing import Any, Final

import psycopg

from audiocatalog.errors import SchemaMismatch, printable

#: A statement that revokes EXECUTE on our functions from PUBLIC, grants each new version of a function to the grantees
#: of the previous version, and sets each function's search path to the function's schema. The statement is idempotent.
#: A function is skipped if the session's role is not a member of the owner. Alembic would double a percent sign.
SECURE_FUNCTIONS: Final = r"""
DO $secure$
DECLARE
  statement text;
BEGIN
  FOR statement IN
    WITH ours AS (
      SELECT f.oid, f.pronamespace, f.proowner, f.prosecdef, f.proconfig, n.nspname,
        f.oid::pg_catalog.regprocedure::text AS signature,
        coalesce(f.proacl, pg_catalog.acldefault('f', f.proowner)) AS acl,
        pg_catalog.regexp_replace(f.proname::text, '_v[0-9]+$', '') AS stem,
        pg_catalog.substring(f.proname::text, '_v([0-9]+)$')::integer AS number,
        -- The age is negative for rows of a savepoint of this transaction.
        pg_catalog.age(f.xmin) <= 0 AS is_new
      FROM pg_catalog.pg_proc AS f JOIN pg_catalog.pg_namespace AS n ON n.oid = f.pronamespace
      WHERE pg_catalog.starts_with(f.proname::text, 'audiocatalog_')
        AND (n.nspname = current_schema() OR n.oid = (
          SELECT relnamespace FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass('audio_tracks')))
        AND pg_catalog.pg_has_role(f.proowner, 'USAGE')
    ), granted AS (
      SELECT ours.*, one.grantee, one.is_grantable
      FROM ours CROSS JOIN LATERAL pg_catalog.aclexplode(ours.acl) AS one
      WHERE one.privilege_type = 'EXECUTE' AND one.grantee <> ours.proowner
    )
    SELECT 'REVOKE ALL ON ROUTINE ' || signature || ' FROM PUBLIC' FROM granted WHERE grantee = 0
    UNION ALL
    SELECT 'GRANT EXECUTE ON ROUTINE ' || ours.signature || ' TO '
      || pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(before.grantee))
      || CASE WHEN pg_catalog.bool_or(before.is_grantable) THEN ' WITH GRANT OPTION' ELSE '' END
    FROM ours JOIN granted AS before ON before.pronamespace = ours.pronamespace AND before.stem = ours.stem
    WHERE ours.is_new AND before.grantee NOT IN (0, ours.proowner)
      AND before.number = (
        SELECT pg_catalog.max(o.number) FROM ours AS o
        WHERE o.pronamespace = ours.pronamespace AND o.stem = ours.stem AND o.number < ours.number)
      -- The grants of the revision itself take precedence.
      AND NOT EXISTS (SELECT FROM granted AS g WHERE g.oid = ours.oid AND g.grantee <> 0)
    GROUP BY ours.signature, before.grantee
    UNION ALL
    SELECT 'ALTER ROUTINE ' || signature || ' SET search_path = ' || pg_catalog.quote_ident(nspname) || ', pg_temp'
    FROM ours
    WHERE prosecdef
      AND ('search_path=' || pg_catalog.quote_ident(nspname) || ', pg_temp' = ANY (proconfig)) IS NOT TRUE
  LOOP
    EXECUTE statement;
  END LOOP;
END
$secure$"""
#: Each SECURITY DEFINER function that the session finds: its name, its schema, the schema where the session finds the
#: tracks, and the function's search path.
_READ_PINS: Final = """
SELECT f.proname::text, n.nspname::text,
  (SELECT s.nspname::text FROM pg_class AS t JOIN pg_namespace AS s ON s.oid = t.relnamespace
   WHERE t.oid = to_regclass('audio_tracks')),
  (SELECT substr(setting, 13) FROM unnest(f.proconfig) AS setting WHERE starts_with(setting, 'search_path='))
FROM pg_proc AS f JOIN pg_namespace AS n ON n.oid = f.pronamespace
WHERE f.proname >= 'audiocatalog_' AND f.proname < 'audiocatalog`' AND f.prosecdef AND pg_function_is_visible(f.oid)
ORDER BY f.proname"""
_READ_PUBLIC: Final = """
SELECT f.proname::text FROM pg_proc AS f
WHERE f.pronamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('audio_tracks'))
  AND f.proname >= 'audiocatalog_' AND f.proname < 'audiocatalog`'
  AND EXISTS (SELECT FROM aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) WHERE grantee = 0)
ORDER BY f.proname"""
_NAME: Final = re.compile(r'"((?:[^"]|"")*)"|([^,\s"]+)')


def check_pins(connection: psycopg.Connection[Any]) -> None:
    """
    Check that the functions work in the schema where *connection* finds the tracks.

    Raises:
        SchemaMismatch: the schema was renamed or copied, or it lacks the tables or the functions. The message says what
            to do.
    """
    for name, lies_in, tracks_in, path in connection.execute(_READ_PINS).fetchall():
        if lies_in != tracks_in:
            found = "no table audio_tracks"
            if tracks_in is not None:
                found = f"the table audio_tracks in '{printable(tracks_in)}'"
            raise SchemaMismatch(
                f"this connection finds the function {name} in the schema '{printable(lies_in)}', but {found}: set a "
                "search_path that contains the schema of only one catalogue"
            )
        pinned = _names_in(path or "")
        if pinned != [lies_in, "pg_temp"]:
            there = f"the schema '{printable(pinned[0])}'" if pinned else "the search_path of its caller"
            raise SchemaMismatch(
                f"the function {name} in the schema '{printable(lies_in)}' works in {there}, because the schema was "
                "renamed or copied: run `audiocatalog upgrade` with this URL, as the owner of the functions"
            )


def check_public(connection: psycopg.Connection[Any]) -> None:
    """
    Check that PUBLIC may not execute our functions; a restore without grants gives PUBLIC this privilege.

    Raises:
        SchemaMismatch: PUBLIC may execute a function. The message says what to do.
    """
    names = [name for (name,) in connection.execute(_READ_PUBLIC).fetchall()]
    if names:
        others = f" and {len(names) - 1} more functions" if len(names) > 1 else ""
        raise SchemaMismatch(
            f"every role of the server may execute {names[0]}{others}: run `audiocatalog upgrade` as the owner of "
            "the functions to revoke this privilege, then `audiocatalog roles --apply`, or `audiocatalog roles --grant "
            "ROLE` for each role of a service"
        )


def _names_in(path: str) -> list[str]:
    """Return the schema names in a search path."""
    return [quoted.replace('""', '"') or plain for quoted, plain in _NAME.findall(path)]
