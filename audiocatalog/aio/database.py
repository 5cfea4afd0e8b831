"""The pool of one asynchronous catalogue, and the engine of its sessions."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, TypeVar

import psycopg
from sqlalchemy import URL

from audiocatalog.aio.connection import AsyncPooledConnection
from audiocatalog.aio.pool import AsyncPool
from audiocatalog.aio.transaction import AsyncDriverTransaction
from audiocatalog.db.connection_parameters import Password
from audiocatalog.db.connector import Connector
from audiocatalog.db.error_translation import translated
from audiocatalog.db.pool_policy import recurs
from audiocatalog.db.settings import Settings
from audiocatalog.errors import CatalogError, ConfigurationError, StaleStatement
from audiocatalog.operations.monitoring import PoolStats

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from audiocatalog.aio.session import SessionMaker

_T = TypeVar("_T")
# The ends of workers have this time to release their claims.
_UNFINISHED_SECONDS: Final = 5.0
_NO_GREENLET: Final = (
    "work.session needs the package greenlet: install audiocatalog[asyncio]; all other calls work without it"
)


class AsyncDatabase:
    """
    The pool of one catalogue, and the engine of its sessions.

    Threads open and check the connections, so neither the resolver of host names nor code that blocks the event loop
    makes them late. The first use checks the server and its schema.
    """

    def __init__(self, url: str | URL, settings: Settings, *, password: Password | None = None) -> None:
        self._connector = Connector(url, settings, password=password)
        self.url = self._connector.url
        self.settings = settings
        self._is_introduced = False
        self._sessions: SessionMaker | None = None
        self._unfinished: set[asyncio.Task[None]] = set()
        self._pool = AsyncPool(self._connect, settings)

    @asynccontextmanager
    async def transaction(
        self, timeout: float | None = None, *, searching: bool = False
    ) -> AsyncIterator[AsyncDriverTransaction]:
        """Check out a connection within *timeout* seconds, yield a transaction on it, and end without a commit."""
        with translated("connect", "connect"):
            transaction = AsyncDriverTransaction(await self._take(timeout, searching=searching), self._session)
        try:
            with translated("connect", "connect"):
                await transaction.begin(self._connector.settings_of_a_transaction)
            yield transaction
        except CatalogError as error:
            self._mistrust_connections_after(error)
            raise
        finally:
            await transaction.close()

    def autocommit(
        self, timeout: float | None = None, *, searching: bool = False
    ) -> AbstractAsyncContextManager[psycopg.AsyncConnection[Any]]:
        """
        Return a context with a connection, checked out within *timeout* seconds, whose statements are transactions.

        *searching*: whether the connection is for a search; searches may not hold every connection. Behind a pooler,
        the block is one transaction, because timeouts cannot be set for a session there.
        """
        if self.settings.pooler:
            return self._one_transaction(timeout, searching=searching)
        return _Autocommit(self, timeout, searching=searching)

    @asynccontextmanager
    async def _one_transaction(
        self, timeout: float | None, *, searching: bool
    ) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        async with self.transaction(timeout, searching=searching) as transaction:
            yield await transaction.driver()
            with translated("commit", "commit"):
                await transaction.commit()

    async def take_for_statements(self, timeout: float | None, *, searching: bool) -> AsyncPooledConnection:
        """Check out a connection in autocommit mode within *timeout* seconds."""
        with translated("connect", "connect"):
            driver = await self._take(timeout, searching=searching)
            if not driver.autocommit:
                try:
                    await driver.set_autocommit(True)
                except BaseException:
                    self._pool.give_back(driver)
                    raise
        return driver

    def give_back(self, driver: AsyncPooledConnection, error: BaseException | None) -> None:
        """Return *driver* after a block that ended with *error*."""
        if isinstance(error, CatalogError):
            if isinstance(error, StaleStatement):
                driver.disconnect()
            self._mistrust_connections_after(error)
        self._pool.give_back(driver)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Yield a connection outside the pool, for waiting for notifications."""
        with translated("connect", "connect"):
            connection = await AsyncPooledConnection.adopt(await in_thread(self._connector.connect_without_checks))
        try:
            yield connection
        finally:
            connection.disconnect()

    async def warm(self, timeout: float) -> None:
        """Open every connection of the pool within *timeout* seconds, as ``AsyncPool.warm`` does."""
        with translated("connect", "connect"):
            await self._pool.warm(timeout)

    def stats(self) -> PoolStats:
        """Return the pool's current statistics."""
        return self._pool.stats()

    def finish_first(self, task: asyncio.Task[None]) -> None:
        """Let ``close`` wait for *task*, which still needs connections."""
        self._unfinished.add(task)
        task.add_done_callback(self._unfinished.discard)

    async def close(self) -> None:
        """Close every connection, after a few seconds for the ends of workers; the catalogue cannot be used again."""
        if self._unfinished:
            await asyncio.wait(self._unfinished, timeout=_UNFINISHED_SECONDS)
        await self._pool.close()
        if self._sessions is not None:
            await self._sessions.close()

    def _mistrust_connections_after(self, error: CatalogError) -> None:
        if recurs(error):
            self._pool.renew()

    async def _connect(self) -> AsyncPooledConnection:
        driver = await in_thread(self._connector.connect)
        with translated("connect", "connect"):  # The server may have ended the connection by now.
            connection = await AsyncPooledConnection.adopt(driver)
        try:
            if not self._is_introduced and find_spec("greenlet") is not None:
                with translated("connect", "connect"):
                    await self._session_maker().introduce(connection)
            self._is_introduced = True
        except BaseException:
            connection.disconnect()
            raise
        return connection

    async def _take(self, timeout: float | None = None, *, searching: bool = False) -> AsyncPooledConnection:
        timeout = self.settings.pool_timeout if timeout is None else timeout
        return await self._pool.take(timeout, searching=searching)

    def _session(self) -> AsyncSession:
        """
        Return a new session.

        Raises:
            ConfigurationError: greenlet is not installed.
        """
        if find_spec("greenlet") is None:
            raise ConfigurationError(_NO_GREENLET)
        return self._session_maker()()

    def _session_maker(self) -> SessionMaker:
        if self._sessions is None:
            # SQLAlchemy needs greenlet to run a session in an event loop.
            from audiocatalog.aio.session import SessionMaker  # noqa: PLC0415

            self._sessions = SessionMaker(
                self.url, self._take, slow_after=self.settings.slow_after, limits=self._connector.limits
            )
        return self._sessions


class _Autocommit:
    """A checkout of one connection; a generator's context would cost as much as the pool's part."""

    __slots__ = ("_database", "_driver", "_searching", "_timeout")

    def __init__(self, database: AsyncDatabase, timeout: float | None, *, searching: bool) -> None:
        self._database = database
        self._timeout = timeout
        self._searching = searching

    async def __aenter__(self) -> AsyncPooledConnection:
        self._driver = await self._database.take_for_statements(self._timeout, searching=self._searching)
        return self._driver

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._database.give_back(self._driver, error)


async def in_thread(work: Callable[[], _T]) -> _T:
    """
    Return the result of *work*, done in a thread of its own.

    The threads of the event loop's executor may all be busy with the host's work.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if answer.done():
            return  # The waiting task was cancelled. A connection without an owner closes itself.
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)  # type: ignore[arg-type]  # Without an error, there is a result.

    def run() -> None:
        result: _T | None = None
        error: BaseException | None = None
        try:
            result = work()
        except BaseException as raised:  # noqa: BLE001  # The waiting task gets it.
            error = raised
        with suppress(RuntimeError):  # The event loop may have ended.
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name="audiocatalog connect", daemon=True).start()
    return await answer
