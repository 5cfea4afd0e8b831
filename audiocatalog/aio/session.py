"""The session that an asynchronous unit of work offers its host; the extra ``asyncio`` installs what it needs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final

import psycopg
from sqlalchemy import URL, Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from audiocatalog.aio.connection import AsyncPooledConnection
from audiocatalog.aio.transaction import HANDED_OVER, TAKEN
from audiocatalog.db.host_session import HostSession
from audiocatalog.db.transaction import ENGINE_OPTIONS, engine_url, watch_commits, watch_engine

#: The session whose statement needs a connection.
_session: Final[ContextVar[_Session | None]] = ContextVar("audiocatalog_session", default=None)


class _Session(HostSession):
    """A host's session that runs its first transaction on the connection that was handed over to it."""

    def get_bind(self, *arguments: Any, **options: Any) -> Engine:  # noqa: ANN401  # SQLAlchemy's arguments.
        """Return the engine, and name this session to the engine's function that opens connections."""
        _session.set(self)
        engine = super().get_bind(*arguments, **options)
        return engine if isinstance(engine, Engine) else engine.engine

    def commit(self) -> None:
        """Commit, also if no statement of the host has taken over the connection yet."""
        self._take_over()
        super().commit()

    def rollback(self) -> None:
        """Roll back, also if no statement of the host has taken over the connection yet."""
        self._take_over()
        super().rollback()

    def _take_over(self) -> None:
        if HANDED_OVER in self.info:
            self.connection()


class SessionMaker:
    """
    A maker of sessions on one engine.

    - *take*: checks out a connection for another transaction of the host.
    - *limits*: behind a pooler, returns the statement that sets the timeouts in each transaction.
    """

    def __init__(
        self,
        url: URL,
        take: Callable[[], Awaitable[AsyncPooledConnection]],
        *,
        slow_after: float,
        limits: Callable[[], str | None] | None,
    ) -> None:
        self._take = take
        self._engine: AsyncEngine = create_async_engine(
            engine_url(url), async_creator=self._connection_for_sqlalchemy, **ENGINE_OPTIONS
        )
        watch_engine(self._engine.sync_engine, slow_after=slow_after, limits=limits)

    def __call__(self) -> AsyncSession:
        """Return a new session."""
        session = AsyncSession(
            self._engine, sync_session_class=_Session, expire_on_commit=False, close_resets_only=False
        )
        watch_commits(session.sync_session)
        return session

    async def introduce(self, connection: AsyncPooledConnection) -> None:
        """Let SQLAlchemy run its queries for a first connection on *connection*, which stays unchanged."""
        await connection.set_autocommit(False)
        connection.home = _Kept()
        session = self()
        session.info[HANDED_OVER] = connection
        try:
            await session.connection()
        finally:
            await session.close()
            connection.home = None
        await connection.set_autocommit(True)

    async def close(self) -> None:
        """Close the engine."""
        await self._engine.dispose()

    async def _connection_for_sqlalchemy(self) -> psycopg.AsyncConnection[Any]:
        """Return the connection that was handed over, or check one out if the host begins another transaction."""
        session = _session.get()
        _session.set(None)
        handed_over: AsyncPooledConnection | None = session.info.pop(HANDED_OVER, None) if session is not None else None
        if handed_over is not None:
            return handed_over
        driver = await self._take()
        if session is not None:
            session.info[TAKEN] = driver, driver.checkout
        await driver.set_autocommit(False)
        return driver


class _Kept:
    """The home of a connection that SQLAlchemy must not close."""

    is_quiet = False

    def give_back(self, connection: AsyncPooledConnection) -> None:
        """Keep *connection*; SQLAlchemy has rolled back its transaction."""
