"""Grants of the application's or the search's rights to an existing role."""

from __future__ import annotations

from typing import Any, Final, Literal

import psycopg
from psycopg import sql
from sqlalchemy import URL

from audiocatalog.errors import ConfigurationError
from audiocatalog.migrations.layout import Layout, locked, read_layout
from audiocatalog.migrations.roles import Section, application_grants, execute, script, search_grants

#: The purpose of a role: to work with tracks, or only to search.
Rights = Literal["app", "search"]

_HEAD: Final = (
    "The rights of audiocatalog for one role. Run this script again after an upgrade that adds a table or a function. "
    "Only a new version of a function inherits the grants of the version before it."
)
_REACH: Final = "The role can reach the tables."
_WHAT: Final = {
    "app": "The role reads everything, and calls the functions that save and move tracks.",
    "search": "The role reads tracks and words.",
}
_READ_ROLE: Final = """
SELECT has_database_privilege(oid, current_database(), 'CONNECT'), has_schema_privilege(oid, %(schema)s, 'USAGE')
FROM pg_roles WHERE rolname = %(role)s"""


def grant_sql(url: str | URL, role: str, rights: Rights = "app") -> str:
    """
    Return the statements of ``grant_rights`` as a script, without executing them.

    Raises:
        ConfigurationError: the server has no such role.
        SchemaMismatch: the database holds no audiocatalog schema, or one of another version.
        TransientConflict: an upgrade is running.
        DatabaseUnavailable: the server cannot be reached.
    """
    with locked(url) as driver:
        return script(_HEAD, _sections(driver, role, rights))


def grant_rights(url: str | URL, role: str, rights: Rights = "app") -> str:
    """
    Grant an existing *role* the rights of the application or the search, and return the statements.

    The owners do not change, so the grants work with or without the three roles of ``audiocatalog roles --apply``.
    Repeat the grants after an upgrade that adds a table or a function.

    Raises:
        ConfigurationError: the server has no such role.
        PermissionDenied: the role of *url* does not own our tables and functions.
        SchemaMismatch: the database holds no audiocatalog schema, or one of another version.
        TransientConflict: an upgrade is running, or a lock was not granted in time.
        DatabaseUnavailable: the server cannot be reached.

    >>> grant_rights("postgresql://owner@localhost/music", "uploads")  # doctest: +SKIP
    """
    with locked(url) as driver:
        sections = _sections(driver, role, rights)
        execute(driver, sections)
        driver.commit()
    return script(_HEAD, sections)


def _sections(driver: psycopg.Connection[Any], role: str, rights: Rights) -> list[Section]:
    # These grants need no owner role.
    layout = read_layout(driver, owner="")
    found = driver.execute(_READ_ROLE, {"schema": layout.schema, "role": role}).fetchone()
    if found is None:
        raise ConfigurationError(
            "roles: the server has no role of this name: create the role first (CREATE ROLE ... LOGIN)",
            operation="roles",
        )
    grants = application_grants if rights == "app" else search_grants
    return [(_REACH, _reach(layout, role, *found)), (_WHAT[rights], grants(layout, role))]


def _reach(layout: Layout, role: str, may_connect: bool, may_use: bool) -> list[sql.Composed]:  # noqa: FBT001
    """Return the missing grants on database and schema; the owner of the tables may lack the right to grant these."""
    place = sql.Identifier(layout.database), sql.Identifier(layout.schema)
    kinds = ("GRANT CONNECT ON DATABASE {} TO {}", "GRANT USAGE ON SCHEMA {} TO {}")
    wanted = zip(kinds, place, (may_connect, may_use), strict=True)
    return [sql.SQL(grant).format(name, sql.Identifier(role)) for grant, name, has in wanted if not has]
