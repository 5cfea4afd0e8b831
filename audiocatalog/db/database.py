"""The engine and the pool of one catalogue."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakSet

import psycopg
from sqlalchemy import URL, Engine, create_engine
from sqlalchemy.orm import Session

from audiocatalog.db.connection import PooledConnection
from audiocatalog.db.connection_parameters import Password
from audiocatalog.db.connector import Connector
from audiocatalog.db.error_translation import translated
from audiocatalog.db.host_session import HostSession
from audiocatalog.db.misuse import is_in_an_event_loop
from audiocatalog.db.pool import Pool
from audiocatalog.db.pool_policy import recurs
from audiocatalog.db.settings import Settings
from audiocatalog.db.transaction import ENGINE_OPTIONS, DriverTransaction, engine_url, watch_commits, watch_engine
from audiocatalog.errors import CatalogError, ConfigurationError, StaleStatement
from audiocatalog.operations.monitoring import PoolStats

_CLOSED: Final = "this catalogue is closed: create a new one"


class Database:
    """
    The engine and the pool of one catalogue.

    The first use opens a connection and checks the server and its schema.
    """

    def __init__(self, url: str | URL, settings: Settings, *, password: Password | None = None) -> None:
        self._connector = Connector(url, settings, password=password, introduce=self._introduce)
        self.url = self._connector.url
        self.settings = settings
        self._parents: tuple[object, ...] = ()
        self._has_warned = False
        self._begin_anew()
        self._closed = False
        _databases.add(self)

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._handed_over = threading.local()
        self._connector.begin_anew()
        self._pool: Pool | None = None

    def forget_connections(self) -> None:
        """
        Replace engine and pool in a forked child, because two processes on one connection read each other's answers.

        The parent's engine and pool are kept, unused, so that the child does not close the parent's connections.
        """
        self._parents = (*self._parents, self._engine, self._pool)
        if self._pool is not None:
            self._pool.abandon()
        self._begin_anew()

    @contextmanager
    def transaction(self, timeout: float | None = None, *, searching: bool = False) -> Iterator[DriverTransaction]:
        """Check out a connection within *timeout* seconds, yield a transaction, and roll back uncommitted work."""
        self._open()
        with translated("connect", "connect"):
            transaction = DriverTransaction(self._take(timeout, searching=searching), self._session_on)
        try:
            with translated("connect", "connect"):
                transaction.begin(self._connector.settings_of_a_transaction)
            yield transaction
        except CatalogError as error:
            self._mistrust_connections_after(error)
            raise
        finally:
            transaction.close()

    @contextmanager
    def autocommit(self, timeout: float | None = None, *, searching: bool = False) -> Iterator[psycopg.Connection[Any]]:
        """
        Check out a connection within *timeout* seconds, and yield it in autocommit mode.

        If *searching*, the connection counts towards the limit for searches. Behind a pooler, the block is one
        transaction, because only a transaction can have timeouts there.
        """
        if self.settings.pooler:
            with self.transaction(timeout, searching=searching) as transaction:
                yield transaction.driver()
                with translated("commit", "commit"):
                    transaction.commit()
            return
        self._open()
        with translated("connect", "connect"):
            driver = self._take(timeout, searching=searching)
            if not driver.autocommit:
                driver.autocommit = True
        try:
            yield driver
        except CatalogError as error:
            if isinstance(error, StaleStatement):
                driver.pgconn.finish()
            self._mistrust_connections_after(error)
            raise
        finally:
            driver.close()

    @contextmanager
    def listening(self) -> Iterator[psycopg.Connection[Any]]:
        """Yield a connection outside the pool, on which a worker waits for notifications."""
        self._open()
        with translated("connect", "connect"):
            connection = self._connector.connect_without_checks()
        with connection:
            yield connection

    def warm(self, timeout: float) -> None:
        """Open every connection of the pool within *timeout* seconds, as ``Pool.warm`` does."""
        self._open()
        with translated("connect", "connect"):
            self._opened_pool().warm(timeout)

    def stats(self) -> PoolStats:
        """Return the pool's current statistics."""
        pool = self._pool
        return (
            pool.stats()
            if pool is not None
            else PoolStats(self.settings.pool_size, 0, 0, 0, None, None, None, None, 0, self.settings.searches)
        )

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

    def _mistrust_connections_after(self, error: CatalogError) -> None:
        if self._pool is not None and recurs(error):
            self._pool.renew()

    def _open(self) -> Engine:
        if self._engine is not None:
            return self._engine
        with self._lock:
            if self._closed:
                raise ConfigurationError(_CLOSED)
            if self._engine is None:
                self._engine = self._build()
            return self._engine

    def _build(self) -> Engine:
        engine = create_engine(engine_url(self.url), creator=self._connection_for_sqlalchemy, **ENGINE_OPTIONS)
        self._pool = Pool(self._connector.connect, self.settings)
        watch_engine(engine, slow_after=self.settings.slow_after, limits=self._connector.limits)
        return engine

    def _introduce(self, connection: PooledConnection) -> None:
        """Let SQLAlchemy run the queries of its first connection on *connection*, which stays as it was."""
        if (engine := self._engine) is None:
            raise ConfigurationError(_CLOSED)
        connection.autocommit = False
        connection.home = _Kept()
        try:
            with self._handing_over(connection), engine.connect():
                pass
        finally:
            connection.home = None
        connection.autocommit = True

    def _session_on(self, driver: PooledConnection) -> Session:
        """Return a session that continues the transaction of *driver*; its ``close`` returns *driver* to the pool."""
        session = HostSession(self._open(), expire_on_commit=False, close_resets_only=False)
        watch_commits(session)
        try:
            with self._handing_over(driver):
                session.connection()
        except BaseException:
            session.close()  # Otherwise the session would hold the connection until the garbage collector runs.
            raise
        return session

    @contextmanager
    def _handing_over(self, driver: psycopg.Connection[Any]) -> Iterator[None]:
        self._handed_over.driver = driver
        try:
            yield
        finally:
            self._handed_over.driver = None

    def _connection_for_sqlalchemy(self) -> psycopg.Connection[Any]:
        """Return the connection that was handed over, or check out a new one if the host begins another transaction."""
        handed_over: psycopg.Connection[Any] | None = getattr(self._handed_over, "driver", None)
        if handed_over is not None:
            self._handed_over.driver = None
            return handed_over
        driver = self._take()
        driver.autocommit = False
        return driver

    def _take(self, timeout: float | None = None, *, searching: bool = False) -> PooledConnection:
        if not self._has_warned and is_in_an_event_loop():
            self._has_warned = True
        timeout = self.settings.pool_timeout if timeout is None else timeout
        return self._opened_pool().take(timeout, searching=searching)

    def _opened_pool(self) -> Pool:
        if (pool := self._pool) is None:
            raise ConfigurationError(_CLOSED)
        return pool


class _Kept:
    """The home of a connection that SQLAlchemy must not close."""

    def give_back(self, connection: PooledConnection) -> None:
        connection.reset()


_databases: WeakSet[Database] = WeakSet()


def _forget_all_connections() -> None:
    for database in list(_databases):
        database.forget_connections()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all_connections)


def _close_all() -> None:
    # Later in Python's shutdown, an open pool would wait 20 seconds for its threads.
    for database in list(_databases):
        database.close()


atexit.register(_close_all)
