"""Three roles of the database: who may change the schema, who may work with the tracks, and who may only search.

The statements name exactly what is ours; what else lies in the database is left alone. Run them again after each
upgrade: what a migration adds belongs to whoever ran it, and nobody else may use it before.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import sql
from sqlalchemy import URL

from audiocatalog.errors import ConfigurationError, InvalidInput, PermissionDenied, Problem, SchemaMismatch
from audiocatalog.migrations import migrating
from audiocatalog.models import (
    DOMAINS,
    FOLD_FUNCTION,
    LEGAL_MOVE_FUNCTION,
    NAME_FUNCTION,
    NO_VECTOR_FUNCTION,
    SEARCH_VECTOR_FUNCTION,
    SLIPS_FUNCTION,
    SPELL_FUNCTION,
    VERSION_TABLE,
    VISIBLE_FUNCTION,
    WORDS_FUNCTION,
    Base,
)
from audiocatalog.settings import parse_url
from audiocatalog.transaction import driver_connection
from audiocatalog.translation import translated

#: What the statements of this package call: they write tracks, tasks and history with the rights of their owner.
LIFECYCLE_FUNCTIONS: Final = tuple(
    f"audiocatalog_{name}_v1"
    for name in (
        *("save", "replace", "move", "claim", "renew", "complete", "give_up", "release_expired"),
        *("stage", "load"),
    )
)
#: What these functions, and the CHECK of the history, call themselves, and nobody else may.
INNER_FUNCTIONS: Final = ("audiocatalog_lock_due_v1", "audiocatalog_answers_v1", LEGAL_MOVE_FUNCTION)
#: What an import with --restore calls: only the owner may say that a track is older than its history.
OWNER_FUNCTIONS: Final = ("audiocatalog_restore_v1",)
#: What searches call, and columns that are made for searching: whoever writes a track needs them too.
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

_SEARCH_TABLES: Final = ("audio_tracks", "audio_search_words", "audio_search_counts", VERSION_TABLE)
_LONGEST_NAME: Final = 63
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*", re.ASCII)
_HAS_MAINTAIN: Final = 170000
_HAS_SET_OPTION: Final = 160000
#: The warnings by which the server says that it did not grant or revoke what it was told to.
_NOT_DONE: Final = {"01006", "01007"}
_LOCK_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class RoleNames:
    """
    Name the three roles.

    Raises:
        InvalidInput: a name has other characters than letters, digits, ``_``, ``.`` and ``-``, or more than 63, is
            reserved, or stands there twice.
    """

    owner: str = "audiocatalog_owner"
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
                problems.append(Problem(field.name, "a name that PostgreSQL does not keep for itself"))
        if not problems and len({self.owner, self.app, self.search}) < len(dataclasses.fields(self)):
            problems.append(Problem("owner", "three different names for the three roles"))
        if problems:
            raise InvalidInput(problems, operation="roles")


class _Layout(NamedTuple):
    """Tell where our objects are, which of them the owner does not own yet, and what is to be regarded."""

    database: str
    schema: str
    #: The signatures of the functions by their names.
    functions: dict[str, str]
    #: What stands behind ``ALTER`` for each object of another owner.
    foreign: Sequence[sql.Composable]
    server_version: int
    #: Whether the one who runs this may give objects to the owner.
    is_member: bool


def roles_sql(url: str | URL, names: RoleNames | None = None) -> str:
    """
    Return the statements that give the database at *url* its three roles, as a script; change nothing.

    Raises:
        SchemaMismatch: it holds no schema of ours, or another.
        DatabaseUnavailable: the server cannot be reached.

    >>> print(roles_sql("postgresql://localhost/music"))  # doctest: +SKIP

    """
    with migrating(parse_url(url), timeout=_LOCK_SECONDS) as connection, translated("roles"):
        names = names or RoleNames()
        return _script(names, _read_layout(driver_connection(connection), names))


def apply_roles(url: str | URL, names: RoleNames | None = None) -> str:
    """
    Execute what ``roles_sql`` returns, all of it or nothing, and return it; done again, it changes nothing.

    Raises:
        PermissionDenied: the role of *url* may not create roles, or not grant on our objects or their schema.
        ConfigurationError: the role for the application or the search is a superuser or a member of the owner's, whom
            grants do not limit.
        SchemaMismatch: the database holds no schema of ours, or another.
        TransientConflict: an upgrade is under way, or a lock could not be had.
        DatabaseUnavailable: the server cannot be reached.
    """
    names = names or RoleNames()
    with migrating(parse_url(url), timeout=_LOCK_SECONDS) as connection, translated("roles"):
        driver = driver_connection(connection)
        warnings: list[str | None] = []
        layout = _read_layout(driver, names)
        driver.add_notice_handler(lambda diagnostic: warnings.append(diagnostic.sqlstate))
        for _, statements in _sections(names, layout):
            for statement in statements:
                driver.execute(statement)
        if _NOT_DONE.intersection(warnings):
            raise PermissionDenied(
                "roles: this database role may not grant on all objects of audiocatalog or on their schema; nothing "
                "was changed: run it as a superuser, or as the owner of the database and the schema",
                operation="roles",
            )
        _refuse_roles_without_limits(driver, names)
        driver.commit()
    return _script(names, layout)


def _refuse_roles_without_limits(driver: psycopg.Connection[Any], names: RoleNames) -> None:
    row = driver.execute(
        "SELECT rolname FROM pg_roles WHERE rolname = ANY (%s) AND (rolsuper OR pg_has_role(oid, %s, 'MEMBER')) "
        "ORDER BY rolname",
        ([names.app, names.search], names.owner),
    ).fetchone()
    if row is not None:
        raise ConfigurationError(
            f"the role {row[0]} is a superuser or a member of {names.owner}, so that no grant limits it; nothing was "
            "changed: name another role, or take that away from it",
            operation="roles",
        )


_READ_PLACE: Final = """
SELECT current_database(), nspname, current_setting('server_version_num')::integer,
  coalesce((SELECT pg_has_role(oid, %(right)s) FROM pg_roles WHERE rolname = %(owner)s), rolsuper)
FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
JOIN pg_roles ON rolname = current_user
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


def _read_layout(driver: psycopg.Connection[Any], names: RoleNames) -> _Layout:
    right = "SET" if driver.info.server_version >= _HAS_SET_OPTION else "MEMBER"
    place = driver.execute(_READ_PLACE, {"right": right, "owner": names.owner}).fetchone()
    if place is None:
        raise SchemaMismatch("this database holds no audiocatalog schema: run `audiocatalog upgrade`")
    database, schema, server_version, is_member = place
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
    for kind, name, arguments, owner in objects:
        if owner != names.owner:
            signature = sql.SQL("" if arguments is None else f"({arguments})")
            foreign.append(sql.SQL(kind + " {}{}").format(sql.Identifier(schema, name), signature))
    return _Layout(database, schema, functions, foreign, server_version, is_member)


_Section = tuple[str, list[sql.Composed]]

_HEAD: Final = (
    "The roles of audiocatalog. Run this again after each upgrade, or `audiocatalog roles --apply`: what a migration "
    "adds belongs to whoever ran it, and the other roles have no rights to it before."
)
_NO_LOGIN: Final = (
    "None of the roles can log in. Give them a password (ALTER ROLE ... LOGIN PASSWORD ...), or make your own login "
    "roles members of them (GRANT ... TO ...)."
)
_MEMBER: Final = "Only a member of the owner can give it objects."
_OWNER: Final = (
    "The owner runs migrations, and the functions that write the history run with its rights. No service logs in as it "
    "or as a member of it."
)
_NOBODY: Final = (
    "Nobody else has more rights than those below. Whoever may create functions in the schema could have the owner "
    "call them."
)
_APP: Final = (
    "The application reads everything, replaces the content of tracks, and calls what saves and moves them. It counts "
    "the words for searches anew."
)
_SEARCH: Final = (
    "The search reads tracks and words. That it is read-only holds for sessions that log in as this very role; what it "
    "may not write, it may not in any session."
)


def _script(names: RoleNames, layout: _Layout) -> str:
    """Return the statements as psql takes them, in one transaction."""
    lines = [*_comment(_HEAD), "BEGIN;"]
    for comment, statements in _sections(names, layout):
        if statements:
            lines += ["", *_comment(comment)]
            lines += [f"{statement.as_string(None)};" for statement in statements]
    return "\n".join([*lines, "", "COMMIT;"])


def _comment(text: str) -> list[str]:
    return [f"-- {line}" for line in textwrap.wrap(text, 100)]


def _sections(names: RoleNames, layout: _Layout) -> Iterator[_Section]:
    """Give the statements in their order, with what is to be said of them."""
    schema = sql.Identifier(layout.schema)
    owner, app, search = (sql.Identifier(name) for name in (names.owner, names.app, names.search))
    both = sql.SQL(", ").join((app, search))
    all_three = sql.SQL(", ").join((owner, app, search))
    everybody = sql.SQL("PUBLIC, {}").format(both)

    yield (
        _NO_LOGIN,
        [_creation(name) for name in (names.owner, names.app, names.search)],
    )
    membership = [] if layout.is_member else [sql.SQL("GRANT {} TO CURRENT_USER").format(owner)]
    yield _MEMBER, membership
    yield (
        _OWNER,
        [
            sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(sql.Identifier(layout.database), all_three),
            # Functions of the owner make the table that many tracks are copied into.
            sql.SQL("GRANT TEMPORARY ON DATABASE {} TO {}").format(sql.Identifier(layout.database), owner),
            sql.SQL("GRANT USAGE ON SCHEMA {} TO {}").format(schema, all_three),
            sql.SQL("GRANT CREATE ON SCHEMA {} TO {}").format(schema, owner),
            *(sql.SQL("ALTER {} OWNER TO {}").format(one, owner) for one in layout.foreign),
        ],
    )
    yield (
        _NOBODY,
        [
            sql.SQL("REVOKE CREATE ON SCHEMA {} FROM {}").format(schema, everybody),
            sql.SQL("REVOKE ALL ON TABLE {} FROM {}").format(_tables(layout, TABLES), everybody),
            sql.SQL("REVOKE ALL ON FUNCTION {} FROM {}").format(_functions(layout, FUNCTIONS), everybody),
        ],
    )
    words, counts = (_tables(layout, (name,)) for name in ("audio_search_words", "audio_search_counts"))
    called = (*LIFECYCLE_FUNCTIONS, *SEARCH_FUNCTIONS, VISIBLE_FUNCTION)
    grants = [
        sql.SQL("GRANT SELECT ON TABLE {} TO {}").format(_tables(layout, TABLES), app),
        sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(_functions(layout, called), app),
        sql.SQL("GRANT INSERT (word, tracks), UPDATE (tracks), DELETE ON TABLE {} TO {}").format(words, app),
        sql.SQL("GRANT INSERT (at, tracks, words) ON TABLE {} TO {}").format(counts, app),
    ]
    if layout.server_version >= _HAS_MAINTAIN:
        grants.append(sql.SQL("GRANT MAINTAIN ON TABLE {} TO {}").format(words, app))
    yield (
        _APP,
        grants,
    )
    yield (
        _SEARCH,
        [
            sql.SQL("GRANT SELECT ON TABLE {} TO {}").format(_tables(layout, _SEARCH_TABLES), search),
            sql.SQL("GRANT EXECUTE ON FUNCTION {} TO {}").format(_functions(layout, SEARCH_FUNCTIONS), search),
            sql.SQL("ALTER ROLE {} SET default_transaction_read_only = on").format(search),
        ],
    )


def _creation(name: str) -> sql.Composed:
    """Return a statement that creates a role, unless it is there."""
    # The name holds neither a quote nor a dollar sign: RoleNames has seen to that.
    return sql.SQL(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {}) THEN CREATE ROLE {} NOLOGIN; END IF; "
        "END $$"
    ).format(sql.Literal(name), sql.Identifier(name))


def _tables(layout: _Layout, names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(layout.schema, name) for name in names)


def _functions(layout: _Layout, names: Sequence[str]) -> sql.Composed:
    return sql.SQL(",\n  ").join(
        sql.SQL("{}({})").format(sql.Identifier(layout.schema, name), sql.SQL(layout.functions[name])) for name in names
    )
