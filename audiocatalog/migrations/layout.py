"""The tables, types and functions of audiocatalog in a database, for grants on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql
from sqlalchemy import URL

from audiocatalog.db.error_translation import translated
from audiocatalog.db.first_revision import check_first_revision
from audiocatalog.db.settings import parse_url
from audiocatalog.db.transaction import driver_connection
from audiocatalog.errors import SchemaMismatch
from audiocatalog.migrations.commands import migrating
from audiocatalog.models.base import Base
from audiocatalog.models.metadata import CONTENT_VERSION
from audiocatalog.models.sql_names import (
    FOLD_FUNCTION,
    LEGAL_MOVE_FUNCTION,
    LEGAL_TASK_FUNCTION,
    NAME_FUNCTION,
    NO_VECTOR_FUNCTION,
    SEARCH_VECTOR_FUNCTION,
    SLIPS_FUNCTION,
    SPELL_FUNCTION,
    VERSION_TABLE,
    VISIBLE_FUNCTION,
    WORDS_FUNCTION,
)
from audiocatalog.models.tables import DOMAINS

#: Functions that this package calls to write tracks, tasks and history, with the rights of their owner.
LIFECYCLE_FUNCTIONS: Final = (
    *(f"audiocatalog_{name}_v1" for name in ("move", "begin", "renew", "give_up", "release_expired")),
    *(f"audiocatalog_{name}_v{CONTENT_VERSION}" for name in ("save", "replace", "claim", "complete", "stage", "load")),
)
#: Functions that only the functions above, and the CHECKs of the history and the tasks, may call.
INNER_FUNCTIONS: Final = (
    *(
        f"audiocatalog_{name}_v1"
        for name in ("refuse", "wrong_claims", "wrong_retries", "pause", "lock_due", "answers")
    ),
    LEGAL_MOVE_FUNCTION,
    LEGAL_TASK_FUNCTION,
)
#: Functions that an import with --restore calls: only the owner may set the time at which a track was created.
OWNER_FUNCTIONS: Final = ("audiocatalog_restore_v1",)
#: Functions that searches and generated columns call; a role that writes tracks needs these functions too.
SEARCH_FUNCTIONS: Final = (
    FOLD_FUNCTION,
    WORDS_FUNCTION,
    NAME_FUNCTION,
    "audiocatalog_weigh_v1",
    SEARCH_VECTOR_FUNCTION,
    NO_VECTOR_FUNCTION,
    SPELL_FUNCTION,
    SLIPS_FUNCTION,
)
#: Every function of ours.
FUNCTIONS: Final = (*LIFECYCLE_FUNCTIONS, *INNER_FUNCTIONS, *OWNER_FUNCTIONS, *SEARCH_FUNCTIONS, VISIBLE_FUNCTION)
#: Every table of ours.
TABLES: Final = (*(table.name for table in Base.metadata.sorted_tables), VERSION_TABLE)

#: The usual name of the owner role, and the comment that marks an owner role as created by this package.
OWNER: Final = "audiocatalog_owner"
OWNER_MARK: Final = "Owns the schema of audiocatalog; made by audiocatalog roles."
HAS_SET_OPTION: Final = 160000
_LOCK_SECONDS: Final = 60.0


class Layout(NamedTuple):
    """The database, schema and owners of our objects, and the features that the server and the role allow."""

    database: str
    schema: str
    #: The signatures of the functions by their names.
    functions: dict[str, str]
    #: The kind and name of each object that another role owns, for ``ALTER ... OWNER TO``.
    foreign: Sequence[sql.Composable]
    server_version: int
    #: Whether the current role may transfer objects to the owner, and change the owner's default privileges.
    is_member: bool
    #: Whether the owner role was created for audiocatalog, so that its default privileges may be changed.
    is_our_owner: bool

    def tables(self, names: Sequence[str]) -> sql.Composed:
        """Return a list of the tables with *names*."""
        return sql.SQL(", ").join(sql.Identifier(self.schema, name) for name in names)

    def signatures(self, names: Sequence[str]) -> sql.Composed:
        """Return a list of the functions with *names*, with the types of their arguments."""
        return sql.SQL(",\n  ").join(
            sql.SQL("{}({})").format(sql.Identifier(self.schema, name), sql.SQL(self.functions[name])) for name in names
        )


@contextmanager
def locked(url: str | URL) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection that holds the migrators' lock, and translate its errors."""
    with migrating(parse_url(url), timeout=_LOCK_SECONDS) as connection, translated("roles"):
        yield driver_connection(connection)


_READ_PLACE: Final = """
SELECT current_database(), nspname, current_setting('server_version_num')::integer,
  coalesce(pg_has_role(owner.oid, %(right)s) AND pg_has_role(owner.oid, 'USAGE'), me.rolsuper),
  owner.oid IS NULL OR NOT owner.rolsuper AND (
    owner.rolname = %(ours)s OR coalesce(shobj_description(owner.oid, 'pg_authid'), '') = %(mark)s)
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
JOIN pg_roles AS me ON me.rolname = current_user
LEFT JOIN pg_roles AS owner ON owner.rolname = %(owner)s
WHERE pg_class.oid = to_regclass('audio_tracks')"""

_READ_OBJECTS: Final = """
SELECT 'TABLE' AS kind, relname::text AS name, NULL AS arguments, pg_get_userbyid(relowner)::text AS owner
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = %(schema)s AND relname = ANY (%(tables)s)
UNION ALL
SELECT 'DOMAIN', typname::text, NULL, pg_get_userbyid(typowner)::text
FROM pg_type JOIN pg_namespace ON pg_namespace.oid = typnamespace
WHERE nspname = %(schema)s AND typname = ANY (%(domains)s) AND typtype = 'd'
UNION ALL
SELECT 'FUNCTION', proname::text, oidvectortypes(proargtypes), pg_get_userbyid(proowner)::text
FROM pg_proc JOIN pg_namespace ON pg_namespace.oid = pronamespace
WHERE nspname = %(schema)s AND proname = ANY (%(functions)s)
ORDER BY 1 DESC, 2, 3"""


def read_layout(driver: psycopg.Connection[Any], owner: str) -> Layout:
    """
    Return the database and schema of our objects, and the objects that *owner* does not own.

    Raises:
        SchemaMismatch: the database holds no audiocatalog schema, or one of another version. The message says what to
            do.
    """
    right = "SET" if driver.info.server_version >= HAS_SET_OPTION else "MEMBER"
    values = {"right": right, "owner": owner, "ours": OWNER, "mark": OWNER_MARK}
    place = driver.execute(_READ_PLACE, values).fetchone()
    if place is None:
        raise SchemaMismatch("this database holds no audiocatalog schema: run `audiocatalog upgrade`")
    database, schema, server_version, is_member, is_our_owner = place
    check_first_revision(driver)
    domains = [str(domain.name) for domain in DOMAINS]
    objects = driver.execute(
        _READ_OBJECTS,
        {"schema": schema, "tables": list(TABLES), "domains": domains, "functions": list(FUNCTIONS)},
    ).fetchall()
    missing = {*TABLES, *domains, *FUNCTIONS} - {name for _, name, _, _ in objects}
    if missing:
        raise SchemaMismatch(
            f"the database's schema does not fit this version of audiocatalog ({min(missing)} is missing): "
            "run `audiocatalog upgrade`"
        )
    functions = {name: arguments for kind, name, arguments, _ in objects if kind == "FUNCTION"}
    foreign = []
    for kind, name, arguments, its_owner in objects:
        if its_owner != owner:
            signature = sql.SQL("" if arguments is None else f"({arguments})")
            foreign.append(sql.SQL(kind + " {}{}").format(sql.Identifier(schema, name), signature))
    return Layout(database, schema, functions, foreign, server_version, is_member, is_our_owner)
