"""Upgrades and checks of a database's schema, from an installed package."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import tenacity
from sqlalchemy import URL, Connection, Dialect
from sqlalchemy.dialects.postgresql import DOMAIN

from audiocatalog.db.error_translation import translated
from audiocatalog.db.first_revision import check_first_revision
from audiocatalog.db.function_rights import check_pins, check_public
from audiocatalog.db.schema_check import check_schema
from audiocatalog.db.schema_check import config_path as config_path  # noqa: PLC0414  # It is public here.
from audiocatalog.db.settings import parse_url
from audiocatalog.db.transaction import driver_connection
from audiocatalog.errors import SchemaMismatch, TransientConflict
from audiocatalog.migrations.migrator import connected, exclusive_migrator
from audiocatalog.models.sql_names import SCHEMA_REVISION, VERSION_TABLE
from audiocatalog.models.tables import DOMAINS

# Alembic is imported where it is used: most services that import this package never migrate.
if TYPE_CHECKING:
    from alembic.config import Config

# Alembic keeps the current migration in a module global, so two threads would share it.
_ALEMBIC_IS_GLOBAL: Final = threading.Lock()
_READ_SECONDS: Final = 30.0
_READ_DOMAINS: Final = """
SELECT typname, format_type(typbasetype, typtypmod), conname::text, pg_get_constraintdef(pg_constraint.oid)
FROM pg_type LEFT JOIN pg_constraint ON contypid = pg_type.oid
WHERE typtype = 'd' AND typname = ANY (%(names)s) AND pg_type_is_visible(pg_type.oid)"""
#: The server rewrites the expression of a CHECK, but keeps its strings and numbers, and their order.
_LITERAL: Final = re.compile(r"'[^']*'|\b\d+\b")


def upgrade(url: str | URL, revision: str = "head", *, lock_timeout: float = 300.0) -> None:
    """
    Upgrade the schema of the database at *url* to *revision*, unless the schema is at this revision already.

    Concurrent upgrades are safe: one works, and the others wait for at most *lock_timeout* seconds. Running services
    are safe too: a statement waits for a table's lock for at most 0.1 seconds at a time, while other statements on the
    table wait behind it. Without the lock, the revision is retried for at most *lock_timeout* seconds, and the log
    names the session that holds the lock. A schema that is one revision ahead of this package is left unchanged.

    Use the URL of the server itself, not of a pooler.

    Raises:
        ConfigurationError: the URL is wrong, the server is too old, or the encoding of the database is not UTF8.
        DatabaseUnavailable: the server cannot be reached.
        PermissionDenied: the role lacks a right, such as CREATE on the schema.
        SchemaMismatch: this package does not know the database's revision; or an earlier text of revision 0001
            created the database; or the database's functions work in another schema, and another role owns them.
        TransientConflict: another migrator worked for longer than *lock_timeout*, or a revision did not get its locks
            in that time. The revisions before it are committed.
        QueryTimeout: a statement of a migration reached its timeout.

    >>> upgrade("postgresql://owner@localhost/music")  # doctest: +SKIP
    """
    from alembic import command

    _run(url, lambda config: command.upgrade(config, revision), lock_timeout)


def check(url: str | URL) -> None:
    """
    Compare the database at *url* with the models.

    Raises:
        SchemaMismatch: Alembic finds a difference; the length, range or values of a column differ; the functions work
            in another schema than the connection; or every role of the server may execute them, as after a restore
            without grants.
        ConfigurationError: the URL is wrong.
        DatabaseUnavailable: the server cannot be reached.
    """
    from alembic import command

    with connected(parse_url(url)) as connection, translated("check"):
        check_first_revision(driver_connection(connection))
    _run(url, command.check, lock_timeout=60.0)
    with connected(parse_url(url)) as connection, translated("check"):
        rows = connection.exec_driver_sql(_READ_DOMAINS, {"names": [domain.name for domain in DOMAINS]}).all()
        found = {(name, kind, constraint, *_LITERAL.findall(rule or "")) for name, kind, constraint, rule in rows}
        if found != {_described(domain, connection.dialect) for domain in DOMAINS}:
            raise SchemaMismatch(
                "the types or rules of the database's columns differ from those of this package: run `audiocatalog "
                "upgrade`, or undo a change made by hand"
            )
        check_pins(driver_connection(connection))
        check_public(driver_connection(connection))


def current(url: str | URL) -> str | None:
    """
    Return the revision of the database at *url*, or None if it holds no audiocatalog schema.

    Raises:
        ConfigurationError: the URL is wrong.
        DatabaseUnavailable: the server cannot be reached.
        SchemaMismatch: the version table names more than one revision.
        TransientConflict: a migration held the version table for 30 seconds.
    """
    from alembic.runtime.migration import MigrationContext
    from alembic.util import CommandError

    def read() -> str | None:
        with connected(parse_url(url)) as connection, translated("current"):
            try:
                context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
                return context.get_current_revision()
            except CommandError:
                check_schema(driver_connection(connection))  # This raises an error that says what is wrong.
                raise

    # The connection has the short lock timeout of a migration.
    tries = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientConflict),
        stop=tenacity.stop_before_delay(_READ_SECONDS),
        wait=tenacity.wait_fixed(0.2),
        reraise=True,
    )
    revision: str | None = tries(read)
    return revision


@contextmanager
def migrating(url: URL, *, timeout: float) -> Iterator[Connection]:
    """Yield a connection that holds the migrators' lock, for other changes of the schema."""
    with exclusive_migrator(url, timeout=timeout) as migrator:
        yield migrator.connection


def _described(domain: DOMAIN, dialect: Dialect) -> tuple[str | None, ...]:
    """Return the name, type and constraint of *domain*, and the literals in its CHECK."""
    kind = domain.data_type.compile(dialect).lower().replace("varchar", "character varying")
    return domain.name, kind, domain.constraint_name, *_LITERAL.findall(str(domain.check))


def _run(url: str | URL, run: Callable[[Config], None], lock_timeout: float) -> None:
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config(config_path(), stdout=io.StringIO())
    # An option of the file would interpolate a % in the password.
    config.attributes["url"] = parse_url(url)
    config.attributes["lock_timeout"] = lock_timeout
    with translated("upgrade"), _ALEMBIC_IS_GLOBAL:
        try:
            run(config)
        except CommandError as error:
            with connected(parse_url(url)) as connection:
                check_schema(driver_connection(connection))  # This may raise a more precise error.
            raise SchemaMismatch(
                f"the database's schema does not fit this package, which knows revisions up to {SCHEMA_REVISION}: run "
                "`audiocatalog upgrade`, or install the version of audiocatalog that fits the schema",
                operation="upgrade",
            ) from error
