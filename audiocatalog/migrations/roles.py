"""
Three roles of the database: the owner of the schema, the application, and the search.

The statements concern only objects of audiocatalog. Run them again after each upgrade: a new object belongs to the role
that ran the migration, and others may not use the object. Only a new version of a function inherits the grants of the
version before it.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql
from sqlalchemy import URL

from audiocatalog.errors import ConfigurationError, InvalidInput, PermissionDenied, Problem
from audiocatalog.migrations.layout import (
    FUNCTIONS,
    HAS_SET_OPTION,
    LIFECYCLE_FUNCTIONS,
    OWNER,
    OWNER_MARK,
    SEARCH_FUNCTIONS,
    TABLES,
    Layout,
    locked,
    read_layout,
)
from audiocatalog.models.sql_names import VERSION_TABLE, VISIBLE_FUNCTION

_SEARCH_TABLES: Final = ("audio_tracks", "audio_search_words", "audio_search_counts", VERSION_TABLE)
_LONGEST_NAME: Final = 63
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
_HAS_MAINTAIN: Final = 170000
#: The SQLSTATEs of the warnings that a GRANT or REVOKE had no effect.
_NOT_DONE: Final = {"01006", "01007"}


@dataclass(frozen=True, slots=True)
class RoleNames:
    """
    The names of the three roles.

    Raises:
        InvalidInput: a name is longer than 63 characters, has characters other than letters, digits, ``_``, ``.`` and
            ``-``, is reserved, or is used twice.
    """

    owner: str = OWNER
    app: str = "audiocatalog_app"
    search: str = "audiocatalog_search"

    def __post_init__(self) -> None:
        problems = []
        for field in dataclasses.fields(self):
            name = getattr(self, field.name)
            if not isinstance(name, str) or len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
                rule = "a letter or _, then up to 62 letters, digits, _, . or -"
                problems.append(Problem(field.name, rule, _LONGEST_NAME))
            elif name.startswith("pg_") or name in {"public", "none"}:
                problems.append(Problem(field.name, "a name that PostgreSQL does not reserve"))
        if not problems and len({self.owner, self.app, self.search}) < len(dataclasses.fields(self)):
            problems.append(Problem("owner", "three different names for the three roles"))
        if problems:
            raise InvalidInput(problems, operation="roles")


def roles_sql(url: str | URL, names: RoleNames | None = None, *, revoke_temporary: bool = False) -> str:
    """
    Return a script that creates the three roles and grants their rights, without executing it.

    With *revoke_temporary*, the script also revokes from PUBLIC the right to make temporary tables in this database.

    Raises:
        ConfigurationError: the URL is wrong.
        SchemaMismatch: the database holds no audiocatalog schema, or one of another version.
        TransientConflict: an upgrade is running.
        DatabaseUnavailable: the server cannot be reached.

    >>> print(roles_sql("postgresql://localhost/music"))  # doctest: +SKIP

    """
    with locked(url) as driver:
        names = names or RoleNames()
        layout = read_layout(driver, names.owner)
        return script(_HEAD, _sections(names, layout, revoke_temporary=revoke_temporary))


def apply_roles(url: str | URL, names: RoleNames | None = None, *, revoke_temporary: bool = False) -> str:
    """
    Execute the statements of ``roles_sql`` in one transaction, and return them; the call is idempotent.

    Raises:
        PermissionDenied: the role of *url* may not create roles, or may not grant rights on our objects or their
            schema.
        ConfigurationError: the URL is wrong; or the role for the application or the search is a superuser or a member
            of the owner's role, so that grants do not limit it.
        SchemaMismatch: the database holds no audiocatalog schema, or one of another version.
        TransientConflict: an upgrade is running, or a lock was not granted in time.
        DatabaseUnavailable: the server cannot be reached.
    """
    names = names or RoleNames()
    with locked(url) as driver:
        sections = list(_sections(names, read_layout(driver, names.owner), revoke_temporary=revoke_temporary))
        execute(driver, sections)
        _refuse_roles_without_limits(driver, names)
        driver.commit()
    return script(_HEAD, sections)


def execute(driver: psycopg.Connection[Any], sections: Iterable[Section]) -> None:
    """
    Execute the statements of *sections*, without committing.

    Raises:
        PermissionDenied: the server has warned that a statement had no effect.
        psycopg.Error: the server has refused a statement.
    """
    warnings: list[str | None] = []
    driver.add_notice_handler(lambda diagnostic: warnings.append(diagnostic.sqlstate))
    for _, statements in sections:
        for statement in statements:
            driver.execute(statement)
    if _NOT_DONE.intersection(warnings):
        raise PermissionDenied(
            "roles: this database role may not grant rights on all objects of audiocatalog or on their schema; nothing "
            "was changed: run the command as a superuser, or as the owner of the database and the schema",
            operation="roles",
        )


def _refuse_roles_without_limits(driver: psycopg.Connection[Any], names: RoleNames) -> None:
    row = driver.execute(
        "SELECT rolname FROM pg_roles WHERE rolname = ANY (%s) AND (rolsuper OR pg_has_role(oid, %s, 'MEMBER')) "
        "ORDER BY rolname",
        ([names.app, names.search], names.owner),
    ).fetchone()
    if row is not None:
        raise ConfigurationError(
            f"the role {row[0]} is a superuser or a member of {names.owner}, so grants do not limit the role; nothing "
            "was changed: use another role, or revoke these rights from the role",
            operation="roles",
        )


#: A comment, and the statements that it describes.
Section = tuple[str, Sequence[sql.Composed]]

_HEAD: Final = (
    "The roles of audiocatalog. Run `audiocatalog roles --apply` or this script again after each upgrade: a new object "
    "belongs to the role that ran the migration, and the other roles have no rights to the object yet."
)
_NO_LOGIN: Final = (
    "These roles cannot log in. Give them a password (ALTER ROLE ... LOGIN PASSWORD ...), or make your own login roles "
    "members of them (GRANT ... TO ...)."
)
_MEMBER: Final = "Only a member of the owner role can transfer objects to this role."
_OWNER: Final = (
    "The owner runs migrations, and the functions that write the history run with its rights. Services must not log in "
    "as the owner or as one of its members."
)
_DEFAULTS: Final = (
    "No other role may execute a function that the owner creates later, until the right is granted. This rule holds "
    "only for this database and this owner."
)
_TEMPORARY: Final = "No other role may fill the disk with temporary tables of this database."
_REVOKED: Final = (
    "All other rights are revoked. A role that may create functions in the schema could make the owner call such a "
    "function."
)
_APP: Final = (
    "The application reads everything, calls the functions that save and move tracks, and refreshes the words for "
    "searches."
)
_SEARCH: Final = (
    "The search reads tracks and words. Sessions that log in as this role are read-only. Sessions of its members are "
    "not read-only, but have no right to write."
)


def script(head: str, sections: Iterable[Section]) -> str:
    """Return the statements as a script for psql, in one transaction."""
    lines = [*_comment(head), "BEGIN;"]
    for comment, statements in sections:
        if statements:
            lines += ["", *_comment(comment)]
            lines += [f"{statement.as_string(None)};" for statement in statements]
    return "\n".join([*lines, "", "COMMIT;"])


def _comment(text: str) -> list[str]:
    return [f"-- {line}" for line in textwrap.wrap(text, 100)]


def _sections(names: RoleNames, layout: Layout, *, revoke_temporary: bool) -> Iterator[Section]:
    """Yield the statements in order, with comments."""
    schema = sql.Identifier(layout.schema)
    owner, app, search = (sql.Identifier(name) for name in (names.owner, names.app, names.search))
    both = sql.SQL(", ").join((app, search))
    all_three = sql.SQL(", ").join((owner, app, search))
    public_and_both = sql.SQL("PUBLIC, {}").format(both)

    yield (
        _NO_LOGIN,
        [_creation(names.owner, OWNER_MARK), _creation(names.app), _creation(names.search)],
    )
    options = sql.SQL(" WITH INHERIT TRUE, SET TRUE" if layout.server_version >= HAS_SET_OPTION else "")
    membership = [] if layout.is_member else [sql.SQL("GRANT {} TO CURRENT_USER{}").format(owner, options)]
    yield _MEMBER, membership
    if layout.is_our_owner:
        # Only the form without IN SCHEMA can revoke the default privileges of PUBLIC.
        defaults = "ALTER DEFAULT PRIVILEGES FOR ROLE {} REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC"
        yield _DEFAULTS, [sql.SQL(defaults).format(owner)]
    yield (
        _OWNER,
        [
            sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(layout.database), all_three),
            # A function of the owner makes the temporary table for bulk saves.
            sql.SQL("GRANT TEMPORARY ON DATABASE {} TO {}").format(sql.Identifier(layout.database), owner),
            sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, all_three),
            sql.SQL("GRANT CREATE ON SCHEMA {} TO {}").format(schema, owner),
            *(sql.SQL("ALTER {} OWNER TO {}").format(one, owner) for one in layout.foreign),
        ],
    )
    yield (
        _REVOKED,
        [
            sql.SQL("REVOKE CREATE ON SCHEMA {} FROM {}").format(schema, public_and_both),
            sql.SQL("REVOKE ALL ON TABLE {} FROM {}").format(layout.tables(TABLES), public_and_both),
            sql.SQL("REVOKE ALL ON FUNCTION {} FROM {}").format(layout.signatures(FUNCTIONS), public_and_both),
        ],
    )
    if revoke_temporary:
        revoke = sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC").format(sql.Identifier(layout.database))
        yield _TEMPORARY, [revoke]
    yield _APP, application_grants(layout, names.app)
    read_only = sql.SQL("ALTER ROLE {} SET default_transaction_read_only = on").format(search)
    yield _SEARCH, [*search_grants(layout, names.search), read_only]


def application_grants(layout: Layout, role: str) -> list[sql.Composed]:
    """Return the grants for the *role* of a service that works with tracks."""
    app = sql.Identifier(role)
    words, counts = (layout.tables((name,)) for name in ("audio_search_words", "audio_search_counts"))
    called = (*LIFECYCLE_FUNCTIONS, *SEARCH_FUNCTIONS, VISIBLE_FUNCTION)
    grants = [
        sql.SQL("GRANT SELECT ON TABLE {} TO {}").format(layout.tables(TABLES), app),
        sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(layout.signatures(called), app),
        sql.SQL("GRANT INSERT (word, tracks), UPDATE (tracks), DELETE ON TABLE {} TO {}").format(words, app),
        sql.SQL("GRANT INSERT (at, tracks, words) ON TABLE {} TO {}").format(counts, app),
    ]
    if layout.server_version >= _HAS_MAINTAIN:
        grants.append(sql.SQL("GRANT MAINTAIN ON TABLE {} TO {}").format(words, app))
    return grants


def search_grants(layout: Layout, role: str) -> list[sql.Composed]:
    """Return the grants for the *role* of a service that only searches."""
    search = sql.Identifier(role)
    return [
        sql.SQL("GRANT SELECT ON TABLE {} TO {}").format(layout.tables(_SEARCH_TABLES), search),
        sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(layout.signatures(SEARCH_FUNCTIONS), search),
    ]


def _creation(name: str, mark: str | None = None) -> sql.Composed:
    """Return a statement that creates a role with *mark* as its comment, unless it exists."""
    # RoleNames allows neither quotes nor dollar signs in the name.
    comment = sql.SQL("" if mark is None else "COMMENT ON ROLE {} IS {}; ").format(sql.Identifier(name), mark)
    return sql.SQL(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {}) THEN CREATE ROLE {} NOLOGIN; {}END IF; "
        "END $$"
    ).format(sql.Literal(name), sql.Identifier(name), comment)
