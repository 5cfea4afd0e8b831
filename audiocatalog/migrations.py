"""The schema of a database, brought up to date from an installed package as ``alembic upgrade head`` does it."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import URL, Connection, Dialect, NullPool, create_engine
from sqlalchemy.dialects.postgresql import DOMAIN

from audiocatalog.engine import CONNECTION_DEFAULTS, check_server, parse_url
from audiocatalog.errors import SchemaMismatch, TransientConflict, translated
from audiocatalog.models import DOMAINS, SCHEMA_REVISION, VERSION_TABLE
from audiocatalog.transaction import driver_connection

# Alembic is imported where it is used: most services that import this package never migrate.
if TYPE_CHECKING:
    from alembic.config import Config

#: The key of the advisory lock that a migrator holds: any number, as long as it is always the same.
LOCK_KEY: Final = 0x6175_6469_6F63_6174  # "audiocat"
_POLL_INTERVAL: Final = 0.2
# A statement that waits for a table's lock makes all others wait behind it; better to give up and be run again.
_MIGRATION_LIMITS: Final = "-c lock_timeout=3s -c statement_timeout=0 -c idle_in_transaction_session_timeout=0"
# Alembic keeps the migration under way in a global of its module, so that two threads would share one.
_ALEMBIC_IS_GLOBAL: Final = threading.Lock()
_READ_DOMAINS: Final = """
SELECT typname, format_type(typbasetype, typtypmod), conname::text, pg_get_constraintdef(pg_constraint.oid)
FROM pg_type LEFT JOIN pg_constraint ON contypid = pg_type.oid
WHERE typtype = 'd' AND typname = ANY (%(names)s) AND pg_type_is_visible(pg_type.oid)"""
#: The server writes a CHECK in words of its own, but keeps the texts and numbers that stand in it, and their order.
_LITERAL: Final = re.compile(r"'[^']*'|\b\d+\b")


def upgrade(url: str | URL, revision: str = "head", *, lock_timeout: float = 300.0) -> None:
    """
    Bring the schema of the database at *url* to *revision*; do nothing if it is there.

    Several upgrades at once are safe: one works, the others wait up to *lock_timeout* seconds and find it done. Use the
    server's own URL, not that of a pooler.

    Raises:
        ConfigurationError: the URL is wrong, the server too old, or its encoding not UTF8.
        DatabaseUnavailable: the server cannot be reached.
        PermissionDenied: the role may not create tables.
        SchemaMismatch: the database stands at a revision that this package does not know.
        TransientConflict: another migrator worked for longer than *lock_timeout*, or a lock could not be had.

    >>> upgrade("postgresql://owner@localhost/music")  # doctest: +SKIP
    """
    from alembic import command

    _run(url, lambda config: command.upgrade(config, revision), lock_timeout)


def check(url: str | URL) -> None:
    """
    Compare the database at *url* with the models.

    Raises:
        SchemaMismatch: Alembic sees a difference, or a column's length, range or list of values is another.
        DatabaseUnavailable: the server cannot be reached.
    """
    from alembic import command

    _run(url, command.check, lock_timeout=60.0)
    with _connected(parse_url(url)) as connection, translated("check"):
        rows = connection.exec_driver_sql(_READ_DOMAINS, {"names": [domain.name for domain in DOMAINS]}).all()
        found = {(name, kind, constraint, *_LITERAL.findall(rule or "")) for name, kind, constraint, rule in rows}
        if found != {_described(domain, connection.dialect) for domain in DOMAINS}:
            raise SchemaMismatch("what the columns of the database take is not what this package takes")


def current(url: str | URL) -> str | None:
    """
    Return the revision of the database at *url*, None if it holds no schema of ours.

    Raises:
        DatabaseUnavailable: the server cannot be reached.
    """
    from alembic.runtime.migration import MigrationContext

    with _connected(parse_url(url)) as connection, translated("current"):
        return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def config_path() -> Path:
    """Return the path of ``alembic.ini``: the repository's where the package lies in it, else the wheel's."""
    package = Path(__file__).resolve().parent
    if (package.parent / "pyproject.toml").exists():
        return package.parent / "alembic.ini"
    return package / "_migrations" / "alembic.ini"


@contextmanager
def migrating(url: URL, *, timeout: float) -> Iterator[Connection]:
    """
    Give a connection to migrate on, as the only migrator of its database.

    The lock is held on a connection of its own, and polled for: waiting inside the server would be a deadlock with
    ``CREATE INDEX CONCURRENTLY``, which waits for every transaction, also that of the one who waits for the lock.
    """
    with translated("upgrade"), _connected(url) as guard:
        check_server(driver_connection(guard))
        deadline = time.monotonic() + timeout
        while not guard.exec_driver_sql(f"SELECT pg_try_advisory_lock({LOCK_KEY})").scalar_one():
            if time.monotonic() > deadline:
                raise TransientConflict(
                    f"another upgrade has been running for {timeout:g} s; wait until it has ended", operation="upgrade"
                )
            time.sleep(_POLL_INTERVAL)
        with _connected(url, autocommit=False) as connection:
            yield connection


def _described(domain: DOMAIN, dialect: Dialect) -> tuple[str | None, ...]:
    """Return name, type and constraint of *domain*, and what its CHECK holds the value against."""
    kind = domain.data_type.compile(dialect).lower().replace("varchar", "character varying")
    return domain.name, kind, domain.constraint_name, *_LITERAL.findall(str(domain.check))


@contextmanager
def _connected(url: URL, *, autocommit: bool = True) -> Iterator[Connection]:
    defaults = {name: value for name, value in CONNECTION_DEFAULTS.items() if name not in url.query}
    engine = create_engine(
        url,
        poolclass=NullPool,
        hide_parameters=True,
        use_native_hstore=False,
        connect_args=defaults | {"options": f"{_MIGRATION_LIMITS} {url.query.get('options', '')}".strip()},
        isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
    )
    try:
        with translated("connect", "connect"):
            connection = engine.connect()
        with connection:
            yield connection
    finally:
        engine.dispose()


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
            raise SchemaMismatch(
                f"the database's schema does not fit this package, which knows revisions up to {SCHEMA_REVISION}",
                operation="upgrade",
            ) from error
