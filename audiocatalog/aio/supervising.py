# Made from audiocatalog/methods/supervising.py by `make twins`: change that module.
"""Methods that show the state of a catalogue: counts of tracks, activity, health, and the pool."""

from __future__ import annotations

from datetime import timedelta

from audiocatalog.aio.calls import AsyncCalls
from audiocatalog.aio.database import AsyncDatabase
from audiocatalog.errors import PermissionDenied
from audiocatalog.models.arguments import number_of_seconds
from audiocatalog.operations.activity import Activity, activity
from audiocatalog.operations.monitoring import Health, PoolStats, StatusCount, count_by_status, health


class AsyncSupervising(AsyncCalls):
    """Methods for dashboards and probes, which only a catalogue has."""

    _database: AsyncDatabase

    async def count_by_status(self) -> list[StatusCount]:
        """Return how many tracks are in each status, and when the longest-waiting track entered the status."""
        return await self._run("count_by_status", count_by_status)

    async def activity(self, since: timedelta = timedelta(hours=24), buckets: int = 24) -> Activity:
        """
        Return the activity of the last *since*, in *buckets* parts of equal length, and the work in progress.

        One statement reads the history of this period and all unfinished tracks, each once.

        Raises:
            InvalidInput: *since* is not a timedelta from 1 second to 366 days, or *buckets* is not a number from 1 to
                1,000.
            QueryTimeout: the count took longer than ``statement_timeout``; use a shorter *since*.

        >>> sum(bucket.completed for bucket in await catalog.activity(timedelta(hours=1)).buckets)  # doctest: +SKIP
        1204

        """
        return await self._run("activity", lambda: activity(since, buckets))

    async def health(self) -> Health:
        """
        Return the state of the server, its schema, its claims and the pool, in one round trip.

        The call is cheap enough for a probe every second.

        Raises:
            DatabaseUnavailable: the server does not answer.
            PoolTimeout: no connection became free within ``pool_timeout``.
            SchemaMismatch: the schema is missing or too old.
        """
        with self._observer.call("health"):
            try:
                return await self._perform("health", health(self._database.stats, with_claims=True))
            except PermissionDenied:
                # Behind a pooler, the error has ended the transaction of the first statement.
                return await self._perform("health", health(self._database.stats, with_claims=False))

    def pool_stats(self) -> PoolStats:
        """Return the state of the pool, without a query to the server."""
        return self._database.stats()

    async def warm_up(self, *, timeout: float = 5.0) -> None:
        """
        Open every connection of the pool within *timeout* seconds, so that the first callers need not wait.

        Raises:
            DatabaseUnavailable: the server cannot be reached.
            PoolTimeout: the connections were not open within *timeout*.
            ConfigurationError: the server refuses the password, the database or a setting.
            SchemaMismatch: the schema is missing or too old.
            InvalidInput: *timeout* is not a number of seconds from 0.001 to 86,400.
        """
        with self._observer.call("warm_up"):
            await self._database.warm(number_of_seconds(timeout, "timeout", "warm_up"))
