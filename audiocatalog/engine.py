"""URL, engine, pool and time limits: how the catalogue reaches its server."""

from __future__ import annotations

import copy
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakSet

import psycopg
from sqlalchemy import URL, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.orm import Session

from audiocatalog.errors import (
    CatalogError,
    ConfigurationError,
    PoolTimeout,
    SchemaMismatch,
    StaleStatement,
    translated,
)
from audiocatalog.models import SCHEMA_REVISION, VERSION_TABLE
from audiocatalog.pool import Pool, PooledConnection, open_pool, settings_call, take
from audiocatalog.transaction import Transaction, driver_connection, refuse_to_commit_an_aborted_transaction

_DRIVER: Final = "postgresql+psycopg"
_DIALECTS: Final = {"postgres", "postgresql", _DRIVER}
_READ_REVISION: Final = f"SELECT version_num FROM {VERSION_TABLE}"  # noqa: S608  # A constant of ours.
_OLDEST_SERVER: Final = 150000
_IDLE_IN_TRANSACTION_TIMEOUT: Final = 10.0
_WRONG_FOR_SECONDS: Final = 1.0
_TIME_LIMITS: Final = ("pool_timeout", "statement_timeout", "search_timeout", "lock_timeout")
# A dead peer is noticed after 15 seconds: keepalives cover waiting for an answer, the user time-out covers sending.
CONNECTION_DEFAULTS: Final[Mapping[str, Any]] = {
    "connect_timeout": 3,
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 10_000,
    "fallback_application_name": "audiocatalog",
    "client_encoding": "UTF8",
}
_HOW_TO_NAME_A_DATABASE: Final = (
    "no database: set AUDIOCATALOG_DATABASE_URL (postgresql://user:password@host/name), "
    "or DB_HOST, DB_PORT, DB_NAME, DB_USER and DB_PASSWORD"
)


def parse_url(url: str | URL) -> URL:
    """
    Return *url* for psycopg 3; ``postgresql://`` and ``postgresql+psycopg://`` are the same.

    Raises:
        ConfigurationError: it is no URL of a PostgreSQL database. The message does not repeat it: it holds a password.
    """
    try:
        parsed = make_url(url)
    # A port that is no number is a bare ValueError, anything else that is malformed an ArgumentError.
    except Exception:  # noqa: BLE001
        raise ConfigurationError(
            "the database URL cannot be read; it looks like postgresql://user:password@host:5432/name, "
            "with every special character of the password percent-encoded"
        ) from None
    if parsed.drivername not in _DIALECTS:
        raise ConfigurationError("the database URL must begin with postgresql:// or postgresql+psycopg://")
    return parsed.set(drivername=_DRIVER)


def url_from_environment(environment: Mapping[str, str] = os.environ) -> URL:
    """
    Return the URL in ``AUDIOCATALOG_DATABASE_URL``, or the one made of ``DB_HOST``, ``DB_PORT``, ``DB_NAME``,
    ``DB_USER`` and ``DB_PASSWORD``.

    Raises:
        ConfigurationError: neither is there, or it is malformed.
    """
    if url := environment.get("AUDIOCATALOG_DATABASE_URL"):
        return parse_url(url)
    if not environment.get("DB_NAME"):
        raise ConfigurationError(_HOW_TO_NAME_A_DATABASE)
    port = environment.get("DB_PORT") or "5432"
    if not port.isascii() or not port.isdigit():
        raise ConfigurationError("DB_PORT must be a whole number, such as 5432")
    return URL.create(
        _DRIVER,
        username=environment.get("DB_USER") or None,
        password=environment.get("DB_PASSWORD") or None,
        host=environment.get("DB_HOST") or "localhost",
        port=int(port),
        database=environment["DB_NAME"],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """
    Hold the sizes and time limits of a catalogue's connections, all times in seconds.

    *pooler* is for a server behind PgBouncer in transaction mode: no prepared statements, and limits set within each
    transaction instead of at the start of a connection.

    Raises:
        ConfigurationError: names the setting that is out of its range.
    """

    pool_size: int = 5
    pool_timeout: float = 5.0
    statement_timeout: float = 5.0
    search_timeout: float = 2.0
    lock_timeout: float = 2.0
    pooler: bool = False
    max_attempts: int = 5
    retry_delay: float = 10.0
    longest_retry_delay: float = 3600.0
    notify: bool = False

    def __post_init__(self) -> None:
        for name in ("pool_size", "max_attempts"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1000:  # noqa: PLR2004
                raise ConfigurationError(f"{name} must be a whole number from 1 to 1000", field=name)
        for name in ("pooler", "notify"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(f"{name} must be True or False", field=name)
        for name in (*_TIME_LIMITS, "retry_delay", "longest_retry_delay"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or isinstance(value, bool) or not 0.001 <= value <= 86_400:  # noqa: PLR2004
                raise ConfigurationError(f"{name} must be a number of seconds from 0.001 to 86400", field=name)

    def of_the_session(self) -> dict[str, str]:
        """Return what the server is told: time limits, and how to write times and numbers, whatever its defaults."""
        return {
            "TimeZone": "UTC",
            "DateStyle": "ISO, YMD",
            "extra_float_digits": "1",
            "statement_timeout": milliseconds(self.statement_timeout),
            "lock_timeout": milliseconds(self.lock_timeout),
            "idle_in_transaction_session_timeout": milliseconds(_IDLE_IN_TRANSACTION_TIMEOUT),
        }


def milliseconds(seconds: float) -> str:
    """Return *seconds* as PostgreSQL takes them."""
    return f"{max(1, round(seconds * 1000))}ms"


class Database:
    """
    Hold the engine and pool of one catalogue.

    Nothing is opened before the first use, which also checks that the server and its schema can be worked with.
    """

    def __init__(self, url: str | URL, settings: Settings) -> None:
        self.url = parse_url(url)
        self.settings = settings
        self._parents: tuple[object, ...] = ()
        self._begin_anew()
        self._closed = False
        _databases.add(self)

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._probe_lock = threading.Lock()
        self._probe_began = self._probe_ended = 0.0
        self._probe_error: CatalogError | None = None
        self._parameters: dict[str, Any] = {}
        self._engine: Engine | None = None
        self._handed_over = threading.local()
        self._knows_the_server = False
        self._settings_of_a_transaction: str | None = None
        self._pool: Pool | None = None

    def forget_connections(self) -> None:
        """
        Begin anew in a forked child: a connection that two processes use gives each the other's answers.

        The parent's engine and pool are kept, unused, so that nothing closes what is not the child's.
        """
        self._parents = (*self._parents, self._engine, self._pool)
        self._begin_anew()

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Give a transaction on a connection that is already there; end both without committing."""
        self._open()
        with self._checking_out():
            transaction = Transaction(self._take(), self._session_on)
        try:
            with translated("connect", "connect"):
                transaction.begin(self._settings_of_a_transaction)
            yield transaction
        finally:
            transaction.close()

    @contextmanager
    def autocommit(self) -> Iterator[psycopg.Connection[Any]]:
        """
        Give a connection on which every statement is its own transaction, in one round trip.

        Behind a pooler it is one transaction, for only so can its time limits be set.
        """
        if self.settings.pooler:
            with self.transaction() as transaction:
                yield transaction.driver
                with translated("commit", "commit"):
                    transaction.commit()
            return
        self._open()
        with self._checking_out():
            driver = self._take()
            if not driver.autocommit:
                driver.autocommit = True
        try:
            yield driver
        except StaleStatement:
            # psycopg forgets its prepared statements at a rollback, which this connection never sees: end it.
            driver.pgconn.finish()
            raise
        finally:
            driver.close()

    @contextmanager
    def listening(self) -> Iterator[psycopg.Connection[Any]]:
        """Give a connection of its own, outside the pool, that may wait for notifications as long as it likes."""
        self._open()
        with translated("connect", "connect"):
            connection = psycopg.connect(**{**self._parameters, "autocommit": True})
        with connection:
            yield connection

    def statistics(self) -> dict[str, int]:
        """Return the pool's own figures, by the names psycopg_pool gives them; empty before the first use."""
        return self._pool.get_stats() if self._pool is not None else {}

    def close(self) -> None:
        """Close every connection; the catalogue cannot be used again."""
        with self._lock:
            self._closed = True
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None
            if self._pool is not None:
                self._pool.close()
                self._pool = None

    @contextmanager
    def _checking_out(self) -> Iterator[None]:
        try:
            with translated("connect", "connect"):
                yield
        except PoolTimeout as error:
            # The pool connects in the background and cannot say why it has nothing to give; a connection by hand can.
            self._probe()
            raise PoolTimeout(
                f"none of {self.settings.pool_size} connections became free within {self.settings.pool_timeout:g} s: "
                "end units of work sooner, or raise pool_size",
                operation="connect",
                phase="connect",
            ) from error

    def _probe(self) -> None:
        """
        Connect once by hand, and refuse a server or a schema that this code cannot work with.

        Of many callers at once, one connects, and the others share its answer: they must not wait for a silent server
        one after the other, nor all burden one that is busy. What is wrong is taken to be so for a second.
        """
        arrival = time.monotonic()
        with self._probe_lock:
            still_wrong = self._probe_error is not None and time.monotonic() < self._probe_ended + _WRONG_FOR_SECONDS
            if not still_wrong and self._probe_began < arrival:
                self._probe_began = time.monotonic()
                self._probe_error = self._what_is_wrong()
                self._probe_ended = time.monotonic()
            if self._probe_error is not None:
                raise copy.copy(self._probe_error) from self._probe_error.__cause__

    def _what_is_wrong(self) -> CatalogError | None:
        try:
            with translated("connect", "connect"):
                connection = psycopg.connect(**{**self._parameters, "autocommit": True})
            with connection, translated("connect"):
                check_server(connection)
                check_schema(connection)
        except CatalogError as error:
            return error
        return None

    def _open(self) -> Engine:
        if self._engine is not None:
            return self._engine
        with self._lock:
            if self._closed:
                raise ConfigurationError("this catalogue has been closed")
            if self._engine is None:
                self._engine = self._build()
            return self._engine

    def _build(self) -> Engine:
        engine = create_engine(
            self.url,
            poolclass=NullPool,  # psycopg_pool does the pooling: it serves callers in the order they came.
            creator=self._connection_for_sqlalchemy,
            hide_parameters=True,
            use_native_hstore=False,  # Or the first connection would look for an extension's type.
        )
        self._parameters = self._connection_parameters(engine)
        self._probe()
        settings = self.settings.of_the_session()
        self._pool = open_pool(
            self._parameters,
            size=self.settings.pool_size,
            timeout=self.settings.pool_timeout,
            session_settings={} if self.settings.pooler else settings,
        )
        # What is set for a session behind a pooler would stay on a connection that others get.
        self._settings_of_a_transaction = settings_call(settings, local=True) if self.settings.pooler else None
        event.listen(
            engine, "commit", lambda connection: refuse_to_commit_an_aborted_transaction(driver_connection(connection))
        )
        if limits := self._settings_of_a_transaction:
            event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(limits))
        return engine

    def _session_on(self, driver: PooledConnection) -> Session:
        """Return a session that goes on with the transaction of *driver*, and gives it back when it ends."""
        engine = self._open()
        if not self._knows_the_server:
            # What SQLAlchemy asks a server at the first connection, it asks in a transaction that it rolls back.
            with self._handing_over(psycopg.connect(**self._parameters)), engine.connect():
                self._knows_the_server = True
        session = Session(engine, expire_on_commit=False)
        with self._handing_over(driver):
            session.connection()
        return session

    @contextmanager
    def _handing_over(self, driver: psycopg.Connection[Any]) -> Iterator[None]:
        self._handed_over.driver = driver
        try:
            yield
        finally:
            self._handed_over.driver = None

    def _connection_for_sqlalchemy(self) -> psycopg.Connection[Any]:
        """Return the connection that is handed over, or one of the pool where a host begins another transaction."""
        handed_over: psycopg.Connection[Any] | None = getattr(self._handed_over, "driver", None)
        if handed_over is not None:
            self._handed_over.driver = None
            return handed_over
        driver = self._take()
        driver.autocommit = False
        return driver

    def _take(self) -> PooledConnection:
        assert self._pool is not None  # noqa: S101  # It is opened before the engine is handed out.
        return take(self._pool, self.settings.pool_timeout)

    def _connection_parameters(self, engine: Engine) -> dict[str, Any]:
        arguments, parameters = engine.dialect.create_connect_args(self.url)
        assert not arguments  # noqa: S101  # The psycopg dialect passes everything by name.
        parameters = {**CONNECTION_DEFAULTS, **parameters, "client_encoding": "UTF8"}
        if self.settings.pooler:
            parameters["prepare_threshold"] = None
        return parameters


_databases: WeakSet[Database] = WeakSet()


def _forget_all_connections() -> None:
    for database in list(_databases):
        database.forget_connections()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all_connections)


def check_server(connection: psycopg.Connection[Any]) -> None:
    """
    Refuse a server that this package cannot work with.

    Raises:
        ConfigurationError: it is older than PostgreSQL 15, or the database's encoding is not UTF8.
    """
    if connection.info.server_version < _OLDEST_SERVER:
        raise ConfigurationError("the server is older than PostgreSQL 15, the first version that audiocatalog supports")
    if connection.info.parameter_status("server_encoding") != "UTF8":
        raise ConfigurationError("the database must have the encoding UTF8: create it with ENCODING 'UTF8'")


def check_schema(connection: psycopg.Connection[Any]) -> None:
    """
    Refuse a schema that this code cannot work with.

    Raises:
        SchemaMismatch: it is missing, or older than this code.
    """
    row = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [VERSION_TABLE]).fetchone()
    revisions = connection.execute(_READ_REVISION).fetchall() if row and row[0] else []
    if not revisions:
        raise SchemaMismatch("this database holds no audiocatalog schema: run `audiocatalog upgrade`")
    # Revisions are numbered. A newer one is the next deploy's, which is made to work with this code.
    if revisions[0][0] < SCHEMA_REVISION:
        raise SchemaMismatch(
            f"the schema is at revision {revisions[0][0]}, this code needs {SCHEMA_REVISION}: "
            "run `audiocatalog upgrade`"
        )
