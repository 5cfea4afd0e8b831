"""How a migration gets its locks: one migrator at a time, every wait short, and what was refused tried again."""

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
from audiocatalog.db.database import check_server
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

#: The key of the advisory lock that a migrator holds: any number, as long as it is always the same.
LOCK_KEY: Final = 0x6175_6469_6F63_6174  # "audiocat"
# Held by the migrating session itself: when its client is killed, it may still be building an index for a while.
_SESSION_KEY: Final = LOCK_KEY + 1
#: A statement that waits for a table's lock has all others wait behind it, so it soon gives up, to be tried again.
LIMITS: Final = {"lock_timeout": "100ms", "statement_timeout": "5s"}
# Whatever the role or the database says, and unless the one who migrates says otherwise: in the URL, in PGOPTIONS or in
# a service file, all of which libpq reads. So these are set by statements, and not by `options`, which would hide them.
_SETTINGS: Final = {
    **LIMITS,
    # A migrator may pause between two tries, but not within a transaction, whose locks keep everybody out. Should its
    # machine be gone, the server looks for it, instead of keeping locks for hours.
    "idle_in_transaction_session_timeout": "10s",
    "idle_session_timeout": "0",
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "2",
    # It came with PostgreSQL 17.
    "transaction_timeout": "0",
    # So a session notices within a second that its client was killed, which a server on Windows cannot do.
    "client_connection_check_interval": "1s",
    # What a revision means, and what is compared with the models, must be the same everywhere.
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
# The server knows the settings of plpgsql only once that is loaded, and keeps them for it until then.
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
# What a role may not see of other sessions is null, the type of an autovacuum worker among it.
_BEING_VACUUMED: Final = text(f"""
SELECT DISTINCT relation::regclass::text FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE granted AND mode = 'ShareUpdateExclusiveLock' AND relation IN ({_OUR_TABLES}) AND NOT pid = ANY (:own)
  AND coalesce(backend_type, 'autovacuum worker') = 'autovacuum worker'""")  # noqa: S608  # Likewise.
_PROGRESS: Final = text("""
SELECT phase, coalesce(100 * blocks_done / nullif(blocks_total, 0), 100 * tuples_done / nullif(tuples_total, 0)),
       nullif(current_locker_pid, 0)
FROM pg_stat_progress_create_index WHERE pid = :pid""")
_LONGEST_PAUSE: Final = 2.0


class RetryableSteps:
    """
    Hand out the steps of a migration one at a time, so that the one that failed is tried again, and no other.

    The steps are found once: what a relative target such as ``+2`` means must not change with every try.
    """

    def __init__(self, migration: MigrationContext) -> None:
        # Alembic asks this function for the steps whenever it runs, and has no public name for it.
        self._find = migration._migrations_fn or (lambda *_: ())  # noqa: SLF001
        self._left: deque[RevisionStep] | None = None
        #: Whether a revision is taken back.
        self.go_back = False
        migration._migrations_fn = self  # noqa: SLF001

    def __call__(self, heads: tuple[str, ...], migration: MigrationContext) -> list[RevisionStep]:
        """Return the next step alone, or none."""
        if not all(heads):
            # Alembic would fail an assertion.
            raise SchemaMismatch(f"the table {VERSION_TABLE} names no revision: restore the one that the schema is at")
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
        """What is being tried, in Alembic's words."""
        return self._left[0].short_log if self._left else "the migration"

    def advance(self) -> bool:
        """Strike the step that has succeeded; return whether one is left."""
        if self._left:
            self._left.popleft()
        return bool(self._left)


class Migrator:
    """Migrations on *connection*, while the session of *lock_connection* holds the lock of migrators."""

    def __init__(self, connection: Connection, lock_connection: Connection, lock_timeout: float) -> None:
        self.connection = connection
        self.lock_timeout = lock_timeout
        #: The limits of each statement, to which a revision that allows itself more goes back.
        self.limits = {name: connection.exec_driver_sql(f"SHOW {name}").scalar_one() for name in LIMITS}
        connection.commit()
        self._lock_connection = lock_connection
        self._pid = driver_connection(connection).info.backend_pid
        self._own = [self._pid, driver_connection(lock_connection).info.backend_pid]

    def run(self, migration: MigrationContext, run_next: Callable[[], None]) -> None:
        """
        Take one step after the other by *run_next*, each in its own transaction, and each until it has its locks.

        At last, our functions are secured, also where no step was to be taken: the schema may have been renamed, copied
        or restored without its grants.

        Raises:
            PermissionDenied: the role lacks a right; the message says which.
            SchemaMismatch: the functions work in another schema, and are not this role's to change; or another state of
                revision 0001 has made the database.
            TransientConflict: a step did not get them within the migrator's patience. Those before it are done.
        """
        steps = RetryableSteps(migration)
        try:
            self._take_all(steps, run_next)
            # Not for those commands that only compare or print, nor for the way back.
            if "destination_rev" in migration.opts and not steps.go_back:
                self._secure_functions()
        except PermissionDenied as error:
            raise self._with_advice(error) from error.__cause__

    def _take_all(self, steps: RetryableSteps, run_next: Callable[[], None]) -> None:
        while True:
            tries = tenacity.Retrying(
                retry=tenacity.retry_if_exception_type(TransientConflict),
                stop=tenacity.stop_before_delay(self.lock_timeout),
                # Each try may hold up everybody for as long as the lock's limit: more rarely, the longer it takes.
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
        """Return *error* with what an upgrade needs: often, it is the schema that nothing may be created in."""
        self.connection.rollback()
        schema, may_create = self._lock_connection.exec_driver_sql(_READ_SCHEMA).one()
        message = f"{str(error).partition(';')[0]}: upgrade as the role that owns the tables and functions"
        if schema is not None and not may_create:
            message = (
                f"upgrade: the database role lacks CREATE on the schema '{printable(schema)}': run it as the owner of "
                "that schema, or give the role this right (GRANT CREATE ON SCHEMA ... TO ...)"
            )
        return PermissionDenied(message, operation="upgrade", sqlstate=error.sqlstate)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Log how far an index is and for whom it waits: after a second, and then ever more rarely."""
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
            # Without the lock_connection's session its lock is gone, and another migrator may be at work.
            self._lock_connection.exec_driver_sql("SELECT 1")
            # What failed before may have left a transaction and its own limits.
            self.connection.rollback()
            for name, value in self.limits.items():
                self.connection.exec_driver_sql(f"SET {name} = '{value}'")
            self.connection.commit()
            run_next()

    def _before_retry(self, steps: RetryableSteps, state: tenacity.RetryCallState) -> None:
        self.connection.rollback()
        LOGGER.warning(
            "%s waits for a lock, try %d: %s",
            steps.current,
            state.attempt_number,
            self._blocking_session(),
            extra={"operation": "upgrade", "attempt": state.attempt_number},
        )
        self._cancel_autovacuum()

    def _lock_failure(self, steps: RetryableSteps, tries: int, error: TransientConflict) -> TransientConflict:
        self.connection.rollback()
        return TransientConflict(
            f"{steps.current} did not get its locks within {self.lock_timeout:g} s, {tries} tries: "
            f"{self._blocking_session()}; end that transaction or wait for its end, and upgrade again",
            operation="upgrade",
            sqlstate=error.sqlstate,
        )

    def _blocking_session(self) -> str:
        with translated("upgrade"):
            found = self._lock_connection.execute(_OLDEST_HOLDER, {"own": self._own}).one_or_none()
        if found is None:
            return "whoever held it has ended"
        age = "" if found.age is None else f", for {found.age:.1f} s"
        return f"process {found.pid} ({found.name}) uses {found.tables}{age}"

    def _cancel_autovacuum(self) -> None:
        """
        Wait long enough for autovacuum to give way, in a mode for which no reader and no writer has to wait.

        It does so for whoever has waited for `deadlock_timeout`, which a migration never does.
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
            except Exception:  # noqa: BLE001  # Whatever it is, the migration itself will meet it.
                return
            if found is not None:
                phase, percent, blocker = found
                share = "" if percent is None else f", {percent} %"
                who = "" if blocker is None else f", for the transaction of process {blocker}"
                LOGGER.warning("building an index: %s%s%s", phase, share, who, extra={"operation": "upgrade"})
            pause = min(2 * pause, 30.0)


@contextmanager
def exclusive_migrator(url: URL, *, timeout: float) -> Iterator[Migrator]:
    """
    Give a migrator, the only one of its database.

    The lock is held on a connection of its own, and polled for: waiting inside the server would be a deadlock with
    ``CREATE INDEX CONCURRENTLY``, which waits for every transaction, also that of the one who waits for the lock.

    Raises:
        ConfigurationError: there is no schema to work in.
        TransientConflict: another migrator has been at work for *timeout* seconds.
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
    """Give a connection of its own, with the limits of a migration, to where libpq leads by *url*."""
    parameters: dict[str, Any] = {**CONNECTION_DEFAULTS, **connection_parameters(url), "client_encoding": "UTF8"}
    engine = create_engine(
        url.difference_update_query(["host", "port"]),  # SQLAlchemy reads not all that libpq takes.
        poolclass=NullPool,
        creator=lambda: psycopg.connect(**parameters),
        hide_parameters=True,
        use_native_hstore=False,
        isolation_level="AUTOCOMMIT" if autocommit else "READ COMMITTED",
    )
    # Before SQLAlchemy asks the server anything.
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
            "upgrade: search_path names no schema that the role may use: create it (CREATE SCHEMA ...) "
            "or name another in the URL, in PGOPTIONS or in the settings of the role",
            operation="upgrade",
            field="search_path",
        )


def _take(connection: Connection, key: int, timeout: float) -> None:
    """Take an advisory lock for the life of the session."""

    def take() -> bool:
        taken = connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({key})").scalar_one()
        connection.commit()
        return bool(taken)

    def who() -> str:
        holder = run(driver_connection(connection), holder_of(key), "upgrade")
        connection.commit()
        return holder

    def tell(state: tenacity.RetryCallState) -> None:
        if state.attempt_number == 1:
            LOGGER.warning(
                "waiting for another upgrade to end: %s holds its lock", who(), extra={"operation": "upgrade"}
            )

    def give_up(_: tenacity.RetryCallState) -> Any:  # noqa: ANN401
        raise TransientConflict(
            f"another upgrade has been running for {timeout:g} s: {who()} holds its lock; wait until it has ended, or "
            "end it",
            operation="upgrade",
        )

    tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda taken: not taken),
        stop=tenacity.stop_before_delay(timeout),
        wait=tenacity.wait_random(0.1, 0.3),
        before_sleep=tell,
        retry_error_callback=give_up,
    )(take)


def _knows(migration: MigrationContext, revision: str) -> bool:
    scripts = migration.script
    return scripts is not None and any(script.revision == revision for script in scripts.walk_revisions())
