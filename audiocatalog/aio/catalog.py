# Made from audiocatalog/catalog.py by `make twins`: change that module.
"""The catalogue of a service: a pool of connections, units of work, and methods that each run one operation."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from sqlalchemy import URL

from audiocatalog.aio.bulk_load import AsyncBatchLoader
from audiocatalog.aio.database import AsyncDatabase
from audiocatalog.aio.execute import carry_out
from audiocatalog.aio.methods import AsyncMethods
from audiocatalog.aio.retry import AsyncRunner, OpenTransaction
from audiocatalog.aio.supervising import AsyncSupervising
from audiocatalog.aio.unit_of_work import AsyncUnitOfWork
from audiocatalog.db.commit_outcome import TransactionRef
from audiocatalog.db.connection_parameters import Password
from audiocatalog.db.observer import Hook, Observer, warn_of_debugging
from audiocatalog.db.settings import Settings, settings_from_environment, the_environment, url_from_environment
from audiocatalog.errors import (
    CommitOutcomeUnknown,
    ConfigurationError,
    InvalidInput,
    Problem,
    StaleStatement,
    kind_of,
)
from audiocatalog.models.arguments import is_async, number_of_seconds
from audiocatalog.models.claim import ClaimOrder
from audiocatalog.models.limits import clean_actor
from audiocatalog.models.metadata import ExportedRecord, TrackRecord
from audiocatalog.operations.bulk import BATCH, ReportBatch
from audiocatalog.operations.bulk_result import BulkResult, ConflictRule, OnConflict
from audiocatalog.operations.operation import Execution, Operation
from audiocatalog.search.vocabulary import Vocabulary, refresh_vocabulary

if TYPE_CHECKING:
    from audiocatalog.aio.worker import AsyncWorker

_Result = TypeVar("_Result")


class AsyncCatalog(AsyncMethods, AsyncSupervising):
    """
    A catalogue: a pool of connections, units of work, and methods that each run one operation.

    Use one catalogue for each event loop and database, and share it between tasks. The first use connects, and checks
    the server and its schema. An ``async with`` block or ``close`` closes the catalogue. Times are in seconds.

    - *url*: the database, as ``postgresql://user:password@host/name``
    - *actor*: the author of every change whose call names no other author
    - *password*: a string that replaces the URL's password, or a function that returns the password for each new
      connection
    - *pool_size*: the maximum number of connections
    - *max_searches*: the maximum number of connections that run searches at the same time; by default 3 in 4
    - *pool_timeout*: the timeout of one wait for a connection
    - *pool_recycle*: the age at which a connection is replaced, minus some jitter
    - *connect_timeout*: the timeout for the connection to one host
    - *statement_timeout*: the timeout of one statement
    - *search_timeout*: the timeout of one statement of a search
    - *lock_timeout*: the timeout of one wait for a lock
    - *idle_timeout*: the time without a statement after which the server ends a unit of work
    - *network_timeout*: how long after a statement's timeout a connection without an answer is closed
    - *slow_after*: the duration after which a call is logged as slow to the logger ``audiocatalog``
    - *pooler*: whether to support PgBouncer in transaction mode, without prepared statements and session settings
    - *debug_pool*: whether to record which line of code checks out each connection; takes about 10 microseconds
    - *max_attempts*: the number of tries of a track before it is FAILED
    - *retry_delay*: the delay after the first try of a track, doubled after each further try
    - *longest_retry_delay*: the maximum delay before a retry
    - *notify*: whether to send a notification for each waiting track, for workers with *listen*
    - *observe*: a function that the caller's thread calls with an ``Observation`` after every call and unit of work

    A *password* function suits tokens that expire. The function runs in a thread of the pool, so a caller waits for it
    at most *pool_timeout*. If the function raises a ``CatalogError``, the caller gets that error. If the function
    raises another exception, the caller gets a ``ConfigurationError`` with that cause, and the connection is not
    retried.

    Raises:
        ConfigurationError: the URL or a setting is wrong.
        InvalidInput: *actor* is not a valid name.

    >>> async with AsyncCatalog("postgresql://localhost/music", actor="extractor") as catalog:  # doctest: +SKIP
    ...     page = await catalog.search("sigur ros")

    """

    def __init__(
        self,
        url: str | URL,
        *,
        actor: str = "audiocatalog",
        password: Password | None = None,
        pool_size: int = 5,
        max_searches: int | None = None,
        pool_timeout: float = 5.0,
        pool_recycle: float = 1800.0,
        connect_timeout: float = 3.0,
        statement_timeout: float = 5.0,
        search_timeout: float = 2.0,
        lock_timeout: float = 2.0,
        idle_timeout: float = 10.0,
        network_timeout: float = 2.0,
        slow_after: float = 1.0,
        pooler: bool = False,
        debug_pool: bool = False,
        max_attempts: int = 5,
        retry_delay: float = 10.0,
        longest_retry_delay: float = 3600.0,
        notify: bool = False,
        observe: Hook | None = None,
    ) -> None:
        given = locals()
        settings = Settings(**{field.name: given[field.name] for field in dataclasses.fields(Settings)})
        if observe is not None and (is_async(observe) or not callable(observe)):
            raise ConfigurationError("observe must be a plain function that takes an Observation", field="observe")
        super().__init__(clean_actor(actor), settings, Observer(observe, slow_after=settings.slow_after))
        warn_of_debugging()
        self._database = AsyncDatabase(url, settings, password=password)
        self._unobserved = Observer(None, slow_after=settings.slow_after)
        self._runner = AsyncRunner(self._database, self._observer, self._begin)

    @classmethod
    def from_env(
        cls,
        *,
        actor: str | None = None,
        password: Password | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """
        Return the catalogue that ``AUDIOCATALOG_DATABASE_URL`` or the ``DB_*`` variables name.

        Every setting of ``AsyncCatalog`` has a variable of its own, such as ``AUDIOCATALOG_ACTOR``,
        ``AUDIOCATALOG_POOL_SIZE`` or ``AUDIOCATALOG_POOLER`` (true or false). *environment* defaults to the
        environment of the process.

        Raises:
            ConfigurationError: no variable names a database, or a variable has an invalid value.
            InvalidInput: the actor is not a valid name.
        """
        environment = the_environment(environment)
        return cls(
            url_from_environment(environment),
            actor=actor or environment.get("AUDIOCATALOG_ACTOR") or "audiocatalog",
            password=password,
            **settings_from_environment(environment),  # type: ignore[arg-type]  # Settings checks the types.
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        """Return the database and the host alone, because other parts of the URL may contain a password."""
        url = self._database.url
        return f"<AsyncCatalog {url.database} at {url.host or url.query.get('host', 'localhost')}>"

    def __reduce__(self) -> NoReturn:
        """Refuse pickling and copying: connections belong to one process, and the URL contains a password."""
        raise TypeError("an AsyncCatalog cannot be pickled or copied; create one in each process from the same URL")

    async def close(self) -> None:
        """Close the pool. An open unit of work keeps its connection until the unit of work ends."""
        await self._database.close()

    def unit_of_work(self) -> AsyncUnitOfWork:
        """
        Return a new unit of work for an ``async with`` block. Entering the block can raise these errors.

        Raises:
            PoolTimeout: no connection became free within ``pool_timeout``.
            DatabaseUnavailable: the server cannot be reached.
            SchemaMismatch: the schema is missing or too old.
            ConfigurationError: the server refuses the password, the database or a setting.
        """
        return AsyncUnitOfWork(
            self._database.transaction, actor=self._actor, settings=self._settings, observer=self._observer
        )

    async def run(self, unit: Callable[[AsyncUnitOfWork], Awaitable[_Result]], *, deadline: float = 10.0) -> _Result:
        """
        Run *unit* in a unit of work, retry while the error is ``retryable``, and return the result of *unit*.

        Each try is a whole unit of work with its commit, so *unit* may run more than once. The delay before a retry is
        random. The maximum of the delay is 10 ms at first, and doubles for each further retry, up to one second. After
        *deadline* seconds the last error is raised.

        Raises:
            CatalogError: the last error, after *deadline* seconds, or an error that is not ``retryable``.
            CommitOutcomeUnknown: the connection was lost during COMMIT, and the server cannot tell the outcome.
            InvalidInput: *deadline* is not a number of seconds from 0 to 86,400.

        >>> await catalog.run(lambda work: work.update_status(track.id, TrackStatus.PROCESSING))  # doctest: +SKIP
        """
        with self._observer.call("run", is_long=True):
            seconds = number_of_seconds(deadline, "deadline", "run", least=0)
            if not callable(unit):
                raise InvalidInput(Problem("unit", f"a function, not {kind_of(unit)}"), operation="run")
            return await self._runner.run(unit, seconds, lambda error: error.retryable)

    async def was_committed(self, error: CommitOutcomeUnknown, *, deadline: float = 10.0) -> bool | None:
        """
        Ask the server, for at most *deadline* seconds, whether the unit of work that raised *error* was committed.

        Return True if everything was committed, and False if nothing was committed. Return None if the server cannot
        tell: another server has replaced the first one, or the host wrote through its session. ``run`` does this
        itself.

        Raises:
            DatabaseUnavailable: the server cannot be reached.
            PoolTimeout: no connection became free within ``pool_timeout``.
            InvalidInput: *deadline* is not a number of seconds from 0 to 86,400.

        >>> try:  # doctest: +SKIP
        ...     async with catalog.unit_of_work() as work:
        ...         await work.update_status(track.id, TrackStatus.PENDING)
        ... except errors.CommitOutcomeUnknown as error:
        ...     kept = await catalog.was_committed(error)

        """
        with self._observer.call("was_committed"):
            if error.trace is None:
                return None
            seconds = number_of_seconds(deadline, "deadline", "was_committed", least=0)
            return await self._runner.outcome_of(TransactionRef(*error.trace), seconds)

    async def bulk_save(
        self,
        records: Iterable[TrackRecord | ExportedRecord | Mapping[str, Any]]
        | AsyncIterable[TrackRecord | ExportedRecord | Mapping[str, Any]],
        *,
        batch: int = BATCH,
        on_conflict: OnConflict | ConflictRule = "skip",
        progress: ReportBatch | None = None,
        connections: int = 1,
        actor: str | None = None,
        reason: str | None = None,
    ) -> BulkResult:
        """
        Store *records* in batches, and return the outcome of each record.

        - *records*: an iterable of ``TrackRecord``, mappings for ``TrackRecord.from_mapping``, and ``ExportedRecord``,
          which also sets the track's earlier status and time of creation
        - *batch*: the number of records in one transaction
        - *on_conflict*: what to do if the track exists with other content: ``skip``, ``replace`` or ``error``
        - *progress*: a function that is called with a ``BulkBatch`` after each commit
        - *connections*: the number of connections that store batches; more are faster if the server has idle cores
        - *actor*, *reason*: recorded with every change

        A record that breaks a rule is refused, and the others are stored. A batch that exceeds its timeout, one minute
        for 5,000 records, is stored in parts. A single record that exceeds ``statement_timeout`` is refused. A batch is
        retried for one minute while the error is ``retryable``. Records with the same id are stored in order. While a
        batch is copied to the server, the next batch is read and checked.

        The load takes constant memory for any number of records. Any other error ends the load, and so does an
        exception from the iterator *records*. The batches that were passed to *progress* stay stored. If the records
        have ids, the load can be repeated: the second load leaves stored tracks unchanged. Run ``refresh_vocabulary``
        afterwards, so that searches offer the new words as corrections.

        Raises:
            InvalidInput: an argument breaks its rule; the error names it.
            DatabaseUnavailable: the server could not be reached for one minute.
            PoolTimeout: no connection became free for one minute.
            TransientConflict: a batch still conflicted with other transactions after one minute.
            QueryTimeout: the server did not store even one record within ``statement_timeout``.
            CatalogInternalError: the server rejected every record of a batch.

        >>> result = await catalog.bulk_save(records, progress=lambda batch: print(batch.result))  # doctest: +SKIP
        >>> [(refusal.position, str(refusal.error)) for refusal in result.refusals]  # doctest: +SKIP
        [(17, 'title: at most 1,000 characters, not 1,204')]

        """
        with self._observer.call("bulk_save", is_long=True):
            batches = self._batch_store(on_conflict, actor, reason)
            size = self._settings.pool_size
            if isinstance(connections, int) and connections > size:
                rule = f"at most the {size} connections of the pool"
                raise InvalidInput(Problem("connections", rule, size), operation="bulk_save")
            loader = AsyncBatchLoader(self._runner, batches, lambda work: work._open().driver())  # noqa: SLF001
            return await loader.save(records, batch=batch, progress=progress, connections=connections)

    def worker(
        self,
        *,
        worker: str | None = None,
        limit: int = 10,
        lease: timedelta = timedelta(minutes=5),
        order_by: ClaimOrder = "oldest",
        poll: float = 1.0,
        until_empty: bool = False,
        listen: bool = False,
        concurrency: int = 1,
    ) -> AsyncWorker:
        """
        Return a worker: a loop that claims waiting tracks and renews their leases.

        - *worker*: the worker's name in the history; the catalogue's actor by default
        - *limit*: how many tracks one call claims, from 1 to 1,000
        - *lease*: the duration of a claim, from 10 milliseconds to 7 days; the worker renews the lease
        - *order_by*: the waiting tracks that are claimed first, ``oldest`` or ``newest``
        - *poll*: if no track waits, the worker looks for tracks again after about this many seconds
        - *until_empty*: whether the loop ends when no track waits
        - *listen*: whether the worker also looks for tracks when a catalogue with ``notify`` announces a track. Behind
          PgBouncer in transaction mode, the worker only polls
        - *concurrency*: how many claims ``run`` works on at the same time, from 1 to 1,000

        SIGTERM and ``stop`` also end the loop. The loop then releases the claims that it has not yielded.

        Besides the connections of the loop's body, the worker briefly uses up to two connections of the pool: one
        renews leases, the other releases tracks of dead workers. With *listen*, the worker keeps one more
        connection, outside of the pool.

        Raises:
            InvalidInput: an argument breaks its rule; the error names it.

        >>> async for claim in catalog.worker(worker="extractor 3"):  # doctest: +SKIP
        ...     await catalog.complete(claim, extract(claim.track.audio_path))
        >>> await catalog.worker().run(handle_claim)  # doctest: +SKIP

        """
        from audiocatalog.aio.worker import AsyncWorker

        return AsyncWorker(
            self,
            self._run,
            name=self._actor_or_default(worker, "worker"),
            limit=limit,
            lease=lease,
            order_by=order_by,
            poll=poll,
            until_empty=until_empty,
            concurrency=concurrency,
            finish_first=self._database.finish_first,
            listening=self._database.listening if listen else None,
        )

    async def refresh_vocabulary(self, *, timeout: float = 3600.0) -> Vocabulary:
        """
        Count the words of all tracks; searches correct misspelled words with these counts.

        The count reads every track once, which takes about one minute for 10 million tracks. The count blocks no
        reader and no writer. Searches use the new counts when the call has ended. Until then, a search finds tracks
        with new words, but does not offer these words as corrections. Call this method after an import, and about once
        a day.

        Raises:
            TransientConflict: another count is running.
            QueryTimeout: the count took longer than *timeout* seconds; nothing was changed.
            InvalidInput: *timeout* is not a number of seconds from 0.001 to 86,400.
        """
        with self._observer.call("refresh_vocabulary"):
            seconds = number_of_seconds(timeout, "timeout", "refresh_vocabulary")
            async with self._begin(self._database.transaction, False) as work:
                return await work._perform("refresh_vocabulary", refresh_vocabulary(timeout=seconds))  # noqa: SLF001

    def _begin(self, transaction: OpenTransaction, observed: bool) -> AsyncUnitOfWork:  # noqa: FBT001
        """Return a unit of work whose outcome can be looked up; inside another call, it is not *observed*."""
        return AsyncUnitOfWork(
            transaction,
            actor=self._actor,
            settings=self._settings,
            observer=self._observer if observed else self._unobserved,
            traced=True,
        )

    async def _perform(self, name: str, operation: Operation[_Result], *, searching: bool = False) -> _Result:
        """Carry out *operation*; retry once if a schema change has made the first statement stale."""
        execution = Execution(operation)
        if execution.request is None:
            return execution.result
        try:
            async with self._database.autocommit(searching=searching) as driver:
                return await carry_out(driver, execution, name, "commit", repeatable=True)
        except StaleStatement:
            if execution.request is None:
                raise
        async with self._database.autocommit(searching=searching) as driver:
            return await carry_out(driver, execution, name, "commit")
