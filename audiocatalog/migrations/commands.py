"""The schema of a database, brought up to date from an installed package as ``alembic upgrade head`` does it."""

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

# Alembic keeps the migration under way in a global of its module, so that two threads would share one.
_ALEMBIC_IS_GLOBAL: Final = threading.Lock()
_READ_SECONDS: Final = 30.0
_READ_DOMAINS: Final = """
SELECT typname, format_type(typbasetype, typtypmod), conname::text, pg_get_constraintdef(pg_constraint.oid)
FROM pg_type LEFT JOIN pg_constraint ON contypid = pg_type.oid
WHERE typtype = 'd' AND typname = ANY (%(names)s) AND pg_type_is_visible(pg_type.oid)"""
#: The server writes a CHECK in words of its own, but keeps the texts and numbers that stand in it, and their order.
_LITERAL: Final = re.compile(r"'[^']*'|\b\d+\b")


def upgrade(url: str | URL, revision: str = "head", *, lock_timeout: float = 300.0) -> None:
    """
    Bring the schema of the database at *url* to *revision*; do nothing if it is there.

    Several upgrades at once are safe: one works, the others wait up to *lock_timeout* seconds and find it done. Running
    services are safe too: no statement waits for a table's lock, and everybody else behind it, for longer than 0.1
    seconds at a time. A revision is tried again for up to *lock_timeout* seconds, and the log says who is in its way.
    A schema that is one revision ahead of this package is left as it is. Use the server's own URL, not a pooler's.

    Raises:
        ConfigurationError: the URL is wrong, the server too old, or its encoding not UTF8.
        DatabaseUnavailable: the server cannot be reached.
        PermissionDenied: the role may not create tables.
        SchemaMismatch: the database stands at a revision that this package does not know, or another state of revision
            0001 has made it; or its functions work in another schema and belong to another role.
        TransientConflict: another migrator worked for longer than *lock_timeout*, or a revision did not get its locks.
            The revisions before it are done.
        QueryTimeout: a statement of a migration ran for longer than its limit.

    >>> upgrade("postgresql://owner@localhost/music")  # doctest: +SKIP
    """
    from alembic import command

    _run(url, lambda config: command.upgrade(config, revision), lock_timeout)


def check(url: str | URL) -> None:
    """
    Compare the database at *url* with the models.

    Raises:
        SchemaMismatch: Alembic sees a difference; a column's length, range or list of values is another; the functions
            work in another schema than the connection's; or every role of the server may execute them, as after a
            restore without its grants.
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
            raise SchemaMismatch("what the columns of the database take is not what this package takes")
        check_pins(driver_connection(connection))
        check_public(driver_connection(connection))


def current(url: str | URL) -> str | None:
    """
    Return the revision of the database at *url*, None if it holds no schema of ours.

    Raises:
        DatabaseUnavailable: the server cannot be reached.
    """
    from alembic.runtime.migration import MigrationContext
    from alembic.util import CommandError

    def read() -> str | None:
        with connected(parse_url(url)) as connection, translated("current"):
            try:
                context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
                return context.get_current_revision()
            except CommandError:
                check_schema(driver_connection(connection))  # It says what is wrong.
                raise

    # It is read with the short limit of those who change it.
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
    """Give a connection to work on as the only migrator of its database, for what else changes the schema."""
    with exclusive_migrator(url, timeout=timeout) as migrator:
        yield migrator.connection


def _described(domain: DOMAIN, dialect: Dialect) -> tuple[str | None, ...]:
    """Return name, type and constraint of *domain*, and what its CHECK holds the value against."""
    kind = domain.data_type.compile(dialect).lower().replace("varchar", "character varying")
    return domain.name, kind, domain.constraint_name, *_LITERAL.findall(str(domain.check))


def _run(url: str | URL, run: Callable[[Config], None], lock_timeout: float) -> None:
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config(config_path(), stdout=io.StringIO())
    # Not as an option of the file: there, a % in the password would be taken for an interpolation.
    config.attributes["url"] = parse_url(url)
    config.attributes["lock_timeout"] = lock_timeout
    with translated("upgrade"), _ALEMBIC_IS_GLOBAL:
        try:
            run(config)
        except CommandError as error:
            with connected(parse_url(url)) as connection:
                check_schema(driver_connection(connection))  # It says what is wrong, if it is that.
            raise SchemaMismatch(
                f"the database's schema does not fit this package, which knows revisions up to {SCHEMA_REVISION}",
                operation="upgrade",
            ) from error
