"""The schema of a database as the server itself prints it: all that `alembic check` is blind to."""

from __future__ import annotations

import psycopg

from audiocatalog.models.sql_names import VERSION_TABLE
from tests.support.databases import libpq

SCHEMA_QUERIES = {
    "columns": """
        SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text,
               a.attgenerated::text, pg_get_expr(d.adbin, d.adrelid)
        FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p') AND a.attnum > 0
          AND NOT a.attisdropped AND c.relname <> %(version_table)s ORDER BY 1, 2""",
    "indexes": """
        SELECT indexname, indexdef FROM pg_indexes
        WHERE schemaname = 'public' AND tablename <> %(version_table)s ORDER BY 1""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), convalidated FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> %(version_table)s
          AND conrelid <> 0 AND contype <> 'n' ORDER BY 1, 2""",
    "domains": """
        SELECT typname, format_type(typbasetype, typtypmod), typnotnull, typdefault, typcollation::regcollation::text,
               conname, pg_get_constraintdef(c.oid), convalidated
        FROM pg_type t LEFT JOIN pg_constraint c ON contypid = t.oid
        WHERE typtype = 'd' AND typnamespace = 'public'::regnamespace ORDER BY 1, conname""",
    "types": "SELECT t.typname, e.enumlabel FROM pg_type t JOIN pg_enum e ON e.enumtypid = t.oid ORDER BY 1, 2",
    "functions": """
        SELECT proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1""",
    "triggers": "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1",
    "sequences": "SELECT relname FROM pg_class WHERE relkind = 'S' ORDER BY 1",
}


def schema_of(url: str) -> dict[str, list[tuple[object, ...]]]:
    with psycopg.connect(libpq(url)) as connection:
        return {
            kind: connection.execute(query, {"version_table": VERSION_TABLE}).fetchall()
            for kind, query in SCHEMA_QUERIES.items()
        }
