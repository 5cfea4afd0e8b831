"""The locks of a migration: one migrator at a time, a short lock timeout, and retries."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg
import tenacity
from sqlalchemy import URL, Connection, NullPool, create_engine, event, text

from audiocatalog.db.connection_parameters import connection_parameters
from audiocatalog.db.connector import check_server
from audiocatalog.db.error_translation import translated
from audiocatalog.db.execute import run
from audiocatalog.db.first_revision import check_first_revision
from audiocatalog.db.function_rights import SECURE_FUNCTIONS, check_pins
from audiocatalog.db.observer import LOGGER
from audiocatalog.db.schema_check import NEXT_REVISION
from audiocatalog.db.settings import CONNECTION_DEFAULTS
from audiocatalog.db.transaction import driver_connection
from audiocatalog.errors import ConfigurationError, PermissionDenied, SchemaMismatch, TransientConflict, printable
from audiocatalog.models.sql_names import VERSION_TABLE
from audiocatalog.operations.advisory_locks import holder_of

# Alembic is imported where it is used: most services that import this package never migrate.
if TYPE_CHECKING:
    from alembic.runtime.migration import MigrationContext, RevisionStep

#: The key of the advisory lock that a migrator holds. The value is arbitrary, but must never change.
LOCK_KEY: Final = 0x6175_6469_6F63_6174  # "audiocat"
# The migrating session itself holds this lock: after its client is killed, the session may continue an index build.
_SESSION_KEY: Final = LOCK_KEY + 1
#: Other statements wait behind a statement that waits for a table's lock. So the lock timeout is short, and the
#: statement is retried.
TIMEOUTS: Final = {"lock_timeout": "100ms", "statement_timeout": "5s"}
# These settings override those of the role and the database, but not those that the caller gives libpq in the URL, in
# PGOPTIONS or in a service file. So statements set them: the parameter `options` would replace the caller's settings.
_SETTINGS: Final = {
    **TIMEOUTS,
    # A migrator may pause between two attempts, but not in a transaction, because the transaction's locks block all
    # readers. If the migrator's machine fails, the server must notice, or it would keep the locks for hours.
    "idle_in_transaction_session_timeout": "10s",
    "idle_session_timeout": "0",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "2",
    # PostgreSQL 17 introduced this setting.
    "transaction_timeout": "0",
    # The session ends within a second after its client was killed. A server on Windows does not support this.
    "client_connection_check_interval": "1s",
    # On every server, a revision must have the same effect, and a comparison with the models must have the same result.
    "default_transaction_isolation": "read committed",
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "transform_null_equals": "off",
    "array_nulls": "on",
    "check_function_bodies": "on",
    "quote_all_identifiers": "off",
    "plpgsql.extra_errors": "none",
    "plpgsql.extra_warnings": "none",
    "plpgsql.variable_conflict": "error",
    "bytea_output": "hex",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
}
# The server lists the settings of plpgsql only after it has loaded the language, but accepts their values earlier.
_PREPARE_SESSION: Final = """
SELECT set_config(wanted.name, wanted.value, false)
FROM unnest(%s::text[], %s::text[]) AS wanted (name, value) LEFT JOIN pg_settings AS known ON known.name = wanted.name
WHERE (known.source <> 'client' OR known.name IS NULL AND starts_with(wanted.name, 'plpgsql.'))
  AND (wanted.name <> 'client_connection_check_interval' OR version() !~* 'windows|visual c|mingw')"""
_OUR_TABLES: Final = "SELECT oid FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'"
_READ_SCHEMA: Final = "SELECT current_schema(), has_schema_privilege(current_schema(), 'CREATE')"
_OLDEST_HOLDER: Final = text(f"""
SELECT pid, coalesce(nullif(application_name, ''), backend_type, 'without a name') AS name,
       extract(epoch FROM clock_timestamp() - xact_start) AS age, tables
FROM (
    SELECT pid, string_agg(DISTINCT relation::regclass::text, ', ') AS tables FROM pg_locks
    WHERE granted AND relation IN ({_OUR_TABLES}) AND NOT pid = ANY (:own) GROUP BY pid
) AS holders JOIN pg_stat_activity USING (pid)
ORDER BY xact_start NULLS LAST LIMIT 1""")  # noqa: S608  # A constant of ours.
# Columns of other sessions that the role may not read are null; backend_type is one of them.
_BEING_VACUUMED: Final = text(f"""
SELECT DISTINCT relation::regclass::text FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE granted AND mode = 'ShareUpdateExclusiveLock' AND relation IN ({_OUR_TABLES}) AND NOT pid = ANY (:own)
  AND coalesce(backend_type, 'autovacuum worker') = 'autovacuum worker'""")  # noqa: S608  # A constant of ours.
_PROGRESS: Final = text("""
SELECT phase, coalesce(100 * blocks_done / nullif(blocks_total, 0), 100 * tuples_done / nullif(tuples_total, 0)),
       nullif(current_locker_pid, 0)
FROM pg_stat_progress_create_index WHERE pid = :pid""")
_LONGEST_PAUSE: Final = 2.0


class RetryableSteps:
    """
    The steps of a migration, given to Alembic one at a time, so that only a failed step is retried.

    The steps are computed once, because a relative target such as ``+2`` would mean another revision at each attempt.
    """

    def __init__(self, migration: MigrationContext) -> None:
        # Alembic calls this function for the steps at each run, and has no public name for it.
        self._find = migration._migrations_fn or (lambda *_: ())  # noqa: SLF001
        self._left: deque[RevisionStep] | None = None
        #: Whether the migration is a downgrade.
        self.go_back = False
        migration._migrations_fn = self  # noqa: SLF001

    def __call__(self, heads: tuple[str, ...], migration: MigrationContext) -> list[RevisionStep]:
        """Return a list with only the next step, or an empty list at the end."""
        if not all(heads):
            # Alembic would fail with an AssertionError.
            raise SchemaMismatch(f"the table {VERSION_TABLE} names no revision: restore its row with the revision")
        if self._left is None:
            newer = heads == (NEXT_REVISION,) and migration.opts.get("destination_rev") == "head"
            if newer and not _knows(migration, NEXT_REVISION):
                LOGGER.info("the schema is at revision %s, one ahead of this code: nothing to do", NEXT_REVISION)
                self._left = deque()
            else:
                self._left = deque(self._find(heads, migration))
                self.go_back = any(not step.is_upgrade for step in self._left)
        return [self._left[0]] if self._left else []

    @property
    def current(self) -> str:
        """The current step, as Alembic logs it."""
        return self._left[0].short_log if self._left else "the migration"

    def advance(self) -> bool:
        """Remove the current step, and return whether another step follows."""
        if self._left:
            self._left.popleft()
        return bool(self._left)


class Migrator:
    """Migrations on *connection*, while the session of *lock_connection* holds the migrators' lock."""

    def __init__(self, connection: Connection, lock_connection: Connection, lock_timeout: float) -> None:
        self.connection = connection
        self.lock_timeout = lock_timeout
        #: The timeouts of each statement, which are restored after a step with longer ones.
        self.limits = {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in TIMEOUTS}
        connection.commit()
        self._lock_connection = lock_connection
        self._pid = driver_connection(connection).info.backend_pid
        self._own = [self._pid, driver_connection(lock_connection).info.backend_pid]

    def run(self, migration: MigrationContext, run_next: Callable[[], None]) -> None:
        """
        Call *run_next* for each step in a transaction of its own, and retry a step until it gets its locks.

        At the end, our functions are secured, even if there was no step: the schema may have been renamed, copied or
        restored without grants.

        Raises:
            PermissionDenied: the role lacks a right. The message says what to do.
            SchemaMismatch: the functions work in another schema, and another role owns them; or an earlier text of
                revision 0001 made the database.
            TransientConflict: a step did not get its locks within the lock timeout. The steps before it are committed.
            QueryTimeout: a statement reached its timeout.
        """
        steps = RetryableSteps(migration)
        try:
            self._take_all(steps, run_next)
            # Commands that only compare or print, and downgrades, must not change the functions.
            if "destination_rev" in migration.opts and not steps.go_back:
                self._secure_functions()
        except PermissionDenied as error:
            raise self._with_advice(error) from error.__cause__

    def _take_all(self, steps: RetryableSteps, run_next: Callable[[], None]) -> None:
        while True:
            tries = tenacity.Retrying(
                retry=tenacity.retry_if_exception_type(TransientConflict),
                stop=tenacity.stop_before_delay(self.lock_timeout),
                # Each attempt may block other sessions for the whole lock timeout, so the pauses between attempts grow.
                wait=tenacity.wait_exponential(multiplier=0.2, max=_LONGEST_PAUSE) + tenacity.wait_random(0, 0.2),
                before_sleep=lambda state: self._before_retry(steps, state),
                reraise=True,
            )
            try:
                tries(self._try, run_next)
            except TransientConflict as error:
                raise self._lock_failure(steps, tries.statistics["attempt_number"], error) from error
            if not steps.advance():
                return

    def _secure_functions(self) -> None:
        with translated("upgrade"):
            check_first_revision(driver_connection(self.connection))
            self.connection.exec_driver_sql(SECURE_FUNCTIONS)
            self.connection.commit()
            check_pins(driver_connection(self.connection))
            self.connection.commit()

    def _with_advice(self, error: PermissionDenied) -> PermissionDenied:
        """Return *error* with advice. Often, the role lacks CREATE on the schema."""
        self.connection.rollback()
        schema, may_create = self._lock_connection.exec_driver_sql(_READ_SCHEMA).one()
        message = f"{str(error).partition(';')[0]}: upgrade as the role that owns the tables and functions"
        if schema is not None and not may_create:
            message = (
                f"upgrade: the database role lacks CREATE on the schema '{printable(schema)}': upgrade as the owner of "
                "that schema, or grant the role this right (GRANT CREATE ON SCHEMA ... TO ...)"
            )
        return PermissionDenied(message, operation="upgrade", sqlstate=error.sqlstate)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Log the progress of an index build and the process that it waits for, at growing intervals from 1 to 30 s."""
        done = threading.Event()
        watcher = threading.Thread(target=self._watch, args=[done], name="audiocatalog-migrator", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _try(self, run_next: Callable[[], None]) -> None:
        with translated("upgrade"):
            # If the session with the lock has ended, the lock is released, and another migrator may be working.
            self._lock_connection.exec_driver_sql("SELECT 1")
            # A failed attempt may have left a transaction and other timeouts.
            self.connection.rollback()
            for name, value in self.limits.items():
                self.connection.exec_driver_sql(f"SET {name} = '{value}'")
            self.connection.commit()
            run_next()

    def _before_retry(self, steps: RetryableSteps, state: tenacity.RetryCallState) -> None:
        self.connection.rollback()
        LOGGER.warning(
            "%s waits for a lock, attempt %d: %s",
            steps.current,
            state.attempt_number,
            self._blocking_session(),
            extra={"operation": "upgrade", "attempt": state.attempt_number},
        )
        self._cancel_autovacuum()

    def _lock_failure(self, steps: RetryableSteps, tries: int, error: TransientConflict) -> TransientConflict:
        self.connection.rollback()
        return TransientConflict(
            f"{steps.current} did not get its locks within {self.lock_timeout:g} s, {tries} attempts: "
            f"{self._blocking_session()}; end that transaction or wait for its end, and upgrade again",
            operation="upgrade",
            sqlstate=error.sqlstate,
        )

    def _blocking_session(self) -> str:
        with translated("upgrade"):
            found = self._lock_connection.execute(_OLDEST_HOLDER, {"own": self._own}).one_or_none()
        if found is None:
            return "the transaction that held the lock has ended"
        age = "" if found.age is None else f", for {found.age:.1f} s"
        return f"process {found.pid} ({found.name}) uses {found.tables}{age}"

    def _cancel_autovacuum(self) -> None:
        """
        End autovacuum by waiting for its lock, in a mode that blocks neither readers nor writers.

        Autovacuum ends when another session has waited for `deadlock_timeout`; the lock timeout of a migration is
        shorter.
        """
        with translated("upgrade"):
            for table in self._lock_connection.execute(_BEING_VACUUMED, {"own": self._own}).scalars().all():
                self._lock_connection.exec_driver_sql(
                    "DO $$BEGIN"
                    " PERFORM set_config('lock_timeout', (2000 + setting::int)::text, true) FROM pg_settings"
                    "  WHERE name = 'deadlock_timeout';"
                    f" LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE;"
                    " EXCEPTION WHEN lock_not_available THEN NULL; "
                    "END$$"
                )

    def _watch(self, done: threading.Event) -> None:
        pause = 1.0
        while not done.wait(pause):
            try:
                found = self._lock_connection.execute(_PROGRESS, {"pid": self._pid}).one_or_none()
            except Exception:  # noqa: BLE001  # The migration itself will raise the error.
                return
            if found is not None:
                phase, percent, blocker = found
                share = "" if percent is None else f", {percent} %"
                waits_for = "" if blocker is None else f", for the transaction of process {blocker}"
                LOGGER.warning("building an index: %s%s%s", phase, share, waits_for, extra={"operation": "upgrade"})
            pause = min(2 * pause, 30.0)


@contextmanager
def exclusive_migrator(url: URL, *, timeout: float) -> Iterator[Migrator]:
    """
    Yield a migrator, while no other migrator works on the database.

    A separate connection polls for the lock and holds it. A wait inside the server would deadlock with ``CREATE INDEX
    CONCURRENTLY``, because that statement waits for every transaction, including the one that waits for the lock.

    Raises:
        ConfigurationError: the server is too old, its encoding is not UTF8, or the search_path names no schema.
        DatabaseUnavailable: the server cannot be reached.
        TransientConflict: another migrator has worked for *timeout* seconds.
    """
    with translated("upgrade"), connected(url) as lock_connection:
        check_server(driver_connection(lock_connection))
        _check_schema_exists(lock_connection)
        _take(lock_connection, LOCK_KEY, timeout)
        with connected(url, autocommit=False) as connection:
            _take(connection, _SESSION_KEY, timeout)
            yield Migrator(connection, lock_connection, timeout)


@contextmanager
def connected(url: URL, *, autocommit: bool = True) -> Iterator[Connection]:
    """Yield a connection to the server of *url*, outside any pool, with the timeouts of a migration."""
    parameters: dict[str, Any] = {**CONNECTION_DEFAULTS, **connection_parameters(url), "client_encoding": "UTF8"}
    engine = create_engine(
        url.difference_update_query(["host", "port"]),  # SQLAlchemy cannot read every form that libpq accepts.
        poolclass=NullPool,
        creator=lambda: psycopg.connect(**parameters),
        hide_parameters=True,
        use_native_hstore=False,
        isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
    )
    # This listener runs before SQLAlchemy's own queries.
    event.listen(engine, "connect", _prepare, insert=True)
    try:
        with translated("connect", "connect"):
            connection = engine.connect()
        with connection:
            yield connection
    finally:
        engine.dispose()


def _prepare(driver: psycopg.Connection[Any], _: object) -> None:
    driver.autocommit = True
    driver.execute(_PREPARE_SESSION, [list(_SETTINGS), list(_SETTINGS.values())])
    driver.autocommit = False


def _check_schema_exists(connection: Connection) -> None:
    if connection.exec_driver_sql("SELECT current_schema()").scalar_one() is None:
        raise ConfigurationError(
            "upgrade: search_path names no schema that the role may use: create one (CREATE SCHEMA ...), or name "
            "another one in the URL, in PGOPTIONS or in the settings of the role",
            operation="upgrade",
            field="search_path",
        )


def _take(connection: Connection, key: int, timeout: float) -> None:
    """Take the advisory lock *key* until the session ends; poll for at most *timeout* seconds."""

    def take() -> bool:
        taken = connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({key})").scalar_one()
        connection.commit()
        return bool(taken)

    def find_holder() -> str:
        holder = run(driver_connection(connection), holder_of(key), "upgrade")
        connection.commit()
        return holder

    def log_wait(state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1:
            LOGGER.warning(
                "waiting for another upgrade to end: %s holds the lock", find_holder(), extra={"operation": "upgrade"}
            )

    def fail(_: tenacity.RetryCallState) -> Any:  # noqa: ANN401
        raise TransientConflict(
            f"another upgrade has been running for {timeout:g} s: {find_holder()} holds the lock; wait for the end of "
            "that upgrade, or end its process",
            operation="upgrade",
        )

    tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda taken: not taken),
        stop=tenacity.stop_before_delay(timeout),
        wait=tenacity.wait_random(0.1, 0.3),
        before_sleep=log_wait,
        retry_error_callback=fail,
    )(take)


def _knows(migration: MigrationContext, revision: str) -> bool:
    scripts = migration.script
    return scripts is not None and any(script.revision == revision for script in scripts.walk_revisions())
