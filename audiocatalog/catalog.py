"""The handle a service keeps: its pool, its units of work, and what is done in one call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from sqlalchemy import URL

from audiocatalog.db.bulk_load import save_in_batches
from audiocatalog.db.commit_outcome import Trace
from audiocatalog.db.connection import shutdown_socket
from audiocatalog.db.connection_parameters import Password
from audiocatalog.db.database import Database
from audiocatalog.db.execute import Driver, carry_out
from audiocatalog.db.observer import Hook, Observer, warn_of_debugging
from audiocatalog.db.retry import OpenTransaction, Runner
from audiocatalog.db.settings import Settings, settings_from_environment, the_environment, url_from_environment
from audiocatalog.errors import CommitOutcomeUnknown, ConfigurationError, InvalidInput, Problem, StaleStatement
from audiocatalog.methods import Methods
from audiocatalog.models.arguments import number_of_seconds
from audiocatalog.models.claim import ClaimOrder
from audiocatalog.models.limits import clean_actor
from audiocatalog.models.metadata import ExportedRecord, TrackRecord
from audiocatalog.operations.activity import Activity, activity
from audiocatalog.operations.bulk import BATCH, BatchStore, Progress, Record, RecordOutcome
from audiocatalog.operations.bulk_result import BulkResult, ConflictRule, OnConflict
from audiocatalog.operations.monitoring import Health, PoolStats, StatusCount, count_by_status, health
from audiocatalog.operations.operation import Execution, Operation
from audiocatalog.search.vocabulary import Vocabulary, refresh_vocabulary
from audiocatalog.unit_of_work import UnitOfWork

if TYPE_CHECKING:
    from audiocatalog.worker import Worker

_Result = TypeVar("_Result")


class Catalog(Methods):
    """
    Keep the way to one catalogue: a pool of connections, units of work, and what is done in one call.

    Make one for each process and database and share it between threads. Nothing is opened before the first use, which
    also checks the server and its schema. It is a context manager, and ``close`` ends it.

    *url* is ``postgresql://user:password@host/name``. *actor* is recorded as the author of every change that does not
    name another. *pooler* is for a server behind PgBouncer in transaction mode: no prepared statements, and limits set
    within each transaction.

    *password* stands in place of the URL's. It may be a function, which is called for each new connection, for tokens
    that expire: in a thread of the pool, so that a caller waits for it no longer than *pool_timeout*. What it raises is
    the cause of a ``ConfigurationError``, which is not tried again; a ``CatalogError`` of its own passes.

    There are at most *pool_size* connections; a caller waits *pool_timeout* seconds for one. At most *max_searches* of
    them run searches at the same time, by default three in four. Each connection is replaced after *pool_recycle*
    seconds, less a little at random; to connect to one host may take *connect_timeout*. A statement may take
    *statement_timeout* seconds, one of a search *search_timeout*, waiting for a lock *lock_timeout*; the server ends a
    unit of work that asks nothing of it for *idle_timeout*. A server that says nothing for *network_timeout* longer
    than the statement may take is given up.

    *observe* is called with an ``Observation`` after every call and unit of work, in the caller's thread. A call that
    takes *slow_after* seconds leaves a line in the log ``audiocatalog``, as does a unit of work that is rolled back.
    *debug_pool* notes where in the code each connection is taken, for about ten microseconds each.

    Raises:
        ConfigurationError: the URL or a setting is wrong.
        InvalidInput: *actor* is no name.

    >>> with Catalog("postgresql://localhost/music", actor="extractor") as catalog:  # doctest: +SKIP
    ...     page = catalog.search("sigur ros")

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
        settings = Settings(
            pool_size=pool_size,
            max_searches=max_searches,
            pool_timeout=pool_timeout,
            pool_recycle=pool_recycle,
            connect_timeout=connect_timeout,
            statement_timeout=statement_timeout,
            search_timeout=search_timeout,
            lock_timeout=lock_timeout,
            idle_timeout=idle_timeout,
            network_timeout=network_timeout,
            slow_after=slow_after,
            pooler=pooler,
            debug_pool=debug_pool,
            max_attempts=max_attempts,
            retry_delay=retry_delay,
            longest_retry_delay=longest_retry_delay,
            notify=notify,
        )
        if observe is not None and not callable(observe):
            raise ConfigurationError("observe must be a function that takes an Observation", field="observe")
        super().__init__(clean_actor(actor), settings, Observer(observe, slow_after=settings.slow_after))
        warn_of_debugging()
        self._database = Database(url, settings, password=password)
        self._unobserved = Observer(None, slow_after=settings.slow_after)
        self._runner = Runner(self._database, self._observer, self._begin)

    @classmethod
    def from_env(
        cls,
        *,
        actor: str | None = None,
        password: Password | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Self:
        """
        Return the catalogue that the environment names, by ``AUDIOCATALOG_DATABASE_URL`` or the ``DB_*`` variables.

        Every setting of ``Catalog`` has a variable of its own, such as ``AUDIOCATALOG_ACTOR``,
        ``AUDIOCATALOG_POOL_SIZE`` or ``AUDIOCATALOG_POOLER`` (true or false). *environment* is the process's if None.

        Raises:
            ConfigurationError: no database is named, or a variable cannot be read.
        """
        environment = the_environment(environment)
        return cls(
            url_from_environment(environment),
            actor=actor or environment.get("AUDIOCATALOG_ACTOR") or "audiocatalog",
            password=password,
            **settings_from_environment(environment),  # type: ignore[arg-type]  # Checked by Settings.
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        """Return where the catalogue is, and nothing else of the URL: a password may stand in many places of it."""
        url = self._database.url
        return f"<Catalog {url.database} at {url.host or url.query.get('host', 'localhost')}>"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: connections belong to one process, and a password is in the URL."""
        raise TypeError("a Catalog cannot be pickled or copied: make one in each process, from the same URL")

    def close(self) -> None:
        """Close the pool; a unit of work that is still open keeps its connection to its end."""
        self._database.close()

    def unit_of_work(self) -> UnitOfWork:
        """
        Return a new unit of work, to be used in a ``with`` block.

        Raises, on entering:
            PoolTimeout: no connection became free in time.
            DatabaseUnavailable: the server cannot be reached.
            SchemaMismatch: the schema is missing or too old.
        """
        return UnitOfWork(
            self._database.transaction, actor=self._actor, settings=self._settings, observer=self._observer
        )

    def run(self, unit: Callable[[UnitOfWork], _Result], *, deadline: float = 10.0) -> _Result:
        """
        Run *unit* in a unit of work and return what it returns, again while the error says ``retryable``.

        Each try is the whole unit of work, commit included, so *unit* may run more than once. Between tries it waits
        a random time of up to 10 ms, doubled each time up to a second; after *deadline* seconds the last error is
        raised.

        >>> catalog.run(lambda work: work.update_status(track.id, TrackStatus.PROCESSING))  # doctest: +SKIP
        """
        with self._observer.call("run", is_long=True):
            seconds = number_of_seconds(deadline, "deadline", "run", least=0)
            return self._runner.run(unit, seconds, lambda error: error.retryable)

    def was_committed(self, error: CommitOutcomeUnknown, *, deadline: float = 10.0) -> bool | None:
        """
        Ask the server what became of the unit of work that ended in *error*, for *deadline* seconds.

        True: all of it is kept. False: none of it is. None: it cannot be known, for another server has taken the
        place of the first one, or the host wrote in it through its session. ``run`` does this by itself.

        Raises:
            DatabaseUnavailable, PoolTimeout: the server could not be asked.

        >>> try:  # doctest: +SKIP
        ...     with catalog.unit_of_work() as work:
        ...         work.update_status(track.id, TrackStatus.PENDING)
        ... except errors.CommitOutcomeUnknown as error:
        ...     kept = catalog.was_committed(error)

        """
        with self._observer.call("was_committed"):
            if error.trace is None:
                return None
            seconds = number_of_seconds(deadline, "deadline", "was_committed", least=0)
            return self._runner.outcome_of(Trace(*error.trace), seconds)

    def bulk_save(
        self,
        records: Iterable[TrackRecord | ExportedRecord | Mapping[str, Any]],
        *,
        batch: int = BATCH,
        on_conflict: OnConflict | ConflictRule = "skip",
        progress: Progress | None = None,
        connections: int = 1,
        actor: str | None = None,
        reason: str | None = None,
    ) -> BulkResult:
        """
        Store as many tracks as *records* gives, in constant memory, and return what became of each.

        Each *batch* is one transaction, copied to the server while the next one is read and checked, and tried again
        for a minute while the error says ``retryable``. *progress* is called with a ``BulkBatch`` after each one that
        is committed. A record is a ``TrackRecord``, or a mapping that ``TrackRecord.from_mapping`` takes. One that
        breaks a rule is refused, and its neighbours are stored. So is one that alone takes longer than
        ``statement_timeout``: a batch that is too slow, of 5,000 records after a minute, is stored in parts. An
        ``ExportedRecord`` also brings the status and the time that its track had in another catalogue. *on_conflict*
        says what is done where an id holds other content: ``skip``, ``replace`` or ``error``. Records of the same id
        are stored one after the other.

        A server with idle cores stores faster over several *connections* of the pool, a batch on each.

        An error, also one of *records* itself, ends the load; what *progress* was told of is stored. It can be run
        again: what is there already stays as it is, if the records bring their ids. When it has ended,
        ``refresh_vocabulary`` lets searches correct the new words.

        Raises:
            InvalidInput: names the argument that breaks its rule.
            DatabaseUnavailable, PoolTimeout: there was no connection for a minute.
            QueryTimeout: the server is too slow for any record.

        >>> result = catalog.bulk_save(records, progress=lambda batch: print(batch.result))  # doctest: +SKIP
        >>> [(refusal.position, str(refusal.error)) for refusal in result.refusals]  # doctest: +SKIP
        [(17, 'title: at most 1,000 characters, not 1,204')]

        """
        with self._observer.call("bulk_save", is_long=True):
            settings = self._settings
            batches = BatchStore.checked(
                on_conflict,
                actor=self._actor_or_default(actor),
                reason=reason,
                notify=settings.notify,
                statement_timeout=settings.statement_timeout,
                lock_timeout=settings.lock_timeout,
            )
            if isinstance(connections, int) and connections > settings.pool_size:
                rule = f"at most the {settings.pool_size} connections of the pool"
                raise InvalidInput(Problem("connections", rule, settings.pool_size), operation="bulk_save")
            loader = _BatchLoader(self._runner, batches)
            return save_in_batches(
                records, loader.store, stop=loader.stop, batch=batch, progress=progress, connections=connections
            )

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
    ) -> Worker:
        """
        Return a loop over waiting tracks: they are claimed *limit* at a time, and their leases kept alive.

        When no track waits, the loop looks again about every *poll* seconds. With *listen*, it also looks as soon as a
        catalogue with ``notify`` announces a track (not behind PgBouncer in transaction mode, where it only polls). It
        ends on SIGTERM, by ``stop``, or, with *until_empty*, when no track waits; then it releases the claims that it
        has not given.

        Besides those of the body, it needs up to two connections of the pool, each for moments: one to renew leases,
        one to take back tracks of dead workers. With *listen*, it keeps one more connection outside of the pool.

        Raises:
            InvalidInput: names the argument that breaks its rule.

        >>> for claim in catalog.worker(worker="extractor 3"):  # doctest: +SKIP
        ...     catalog.complete(claim, extract(claim.track.audio_path))
        >>> catalog.worker().run(lambda claim: extract(claim.track.audio_path))  # doctest: +SKIP

        """
        from audiocatalog.worker import Worker

        return Worker(
            self,
            self._run,
            name=self._actor_or_default(worker, "worker"),
            limit=limit,
            lease=lease,
            order_by=order_by,
            poll=poll,
            until_empty=until_empty,
            listening=self._database.listening if listen else None,
        )

    def refresh_vocabulary(self, *, timeout: float = 3600.0) -> Vocabulary:
        """
        Count the words of all tracks anew, which searches look at where other words may have been meant.

        It reads every track once (10 million take about a minute) and blocks nobody; searches see the new words when it
        ends. Words of tracks that came later are found all the same, if they are typed right. Run it after an import,
        and every day or so.

        Raises:
            TransientConflict: another count is under way.
            QueryTimeout: it took longer than *timeout* seconds; nothing was changed.
        """
        with self._observer.call("refresh_vocabulary"):
            seconds = number_of_seconds(timeout, "timeout", "refresh_vocabulary")
            with self._begin(self._database.transaction, False) as work:
                return work._perform("refresh_vocabulary", refresh_vocabulary(timeout=seconds))  # noqa: SLF001

    def count_by_status(self) -> list[StatusCount]:
        """Return how many tracks are in each status, and since when the one that moved least recently."""
        return self._run("count_by_status", count_by_status)

    def activity(self, since: timedelta = timedelta(hours=24), buckets: int = 24) -> Activity:
        """
        Return what happened in the time *since*, in so many parts of the same length, and what is under way now.

        It is one statement, which reads the history of that time and the tasks of all unfinished tracks once.

        Raises:
            InvalidInput: *since* is no timedelta from 1 second to 366 days, or *buckets* no number from 1 to 1,000.
            QueryTimeout: there was too much to count within ``statement_timeout``; ask for less time.

        >>> sum(bucket.completed for bucket in catalog.activity(timedelta(hours=1)).buckets)  # doctest: +SKIP
        1204

        """
        return self._run("activity", lambda: activity(since, buckets))

    def health(self) -> Health:
        """
        Ask the server, in one round trip, and return how it, its schema, the work in it and the pool stand.

        It is cheap enough for a probe every second.

        Raises:
            DatabaseUnavailable: it does not answer.
            SchemaMismatch: the schema is missing or too old.
        """
        return self._run("health", lambda: health(self._database.figures))

    def pool_stats(self) -> PoolStats:
        """Return how the pool of connections stands, without asking the server."""
        return self._database.figures()

    def warm_up(self, *, timeout: float = 5.0) -> None:
        """
        Open every connection of the pool within *timeout* seconds, so that the first callers need not wait for it.

        Raises:
            DatabaseUnavailable: the server cannot be reached.
            PoolTimeout: it took longer.
            ConfigurationError, SchemaMismatch: the server, or its schema, is none to work with.
        """
        with self._observer.call("warm_up"):
            self._database.warm(number_of_seconds(timeout, "timeout", "warm_up"))

    def _begin(self, transaction: OpenTransaction, observed: bool) -> UnitOfWork:  # noqa: FBT001
        """Return a unit of work whose outcome can be found out; one that is not *observed* is a part of a call."""
        return UnitOfWork(
            transaction,
            actor=self._actor,
            settings=self._settings,
            observer=self._observer if observed else self._unobserved,
            traced=True,
        )

    def _perform(self, name: str, operation: Operation[_Result], *, searching: bool = False) -> _Result:
        """Carry *operation* out; a statement that the schema's change has made stale is sent again."""
        execution = Execution(operation)
        if execution.request is None:
            return execution.result
        try:
            with self._database.autocommit(searching=searching) as driver:
                return carry_out(driver, execution, name, "commit", repeatable=True)
        except StaleStatement:
            if execution.request is None:
                raise
        with self._database.autocommit(searching=searching) as driver:
            return carry_out(driver, execution, name, "commit")


class _BatchLoader:
    """Stores batches, each in a unit of work that is run again while that can help, until it is stopped."""

    def __init__(self, runner: Runner[UnitOfWork], batches: BatchStore) -> None:
        self._runner = runner
        self._batches = batches
        self._stopped = threading.Event()
        self._under_way: set[Driver] = set()

    def store(self, records: Sequence[Record]) -> Sequence[RecordOutcome]:
        """Store *records* in one transaction."""
        if not records:
            return []
        return self._runner.run_patiently(partial(self._store_in, records), self._stopped.is_set)

    def stop(self) -> None:
        """End every batch that is under way by closing its connection."""
        self._stopped.set()
        for driver in list(self._under_way):
            shutdown_socket(driver)

    def _store_in(self, records: Sequence[Record], work: UnitOfWork) -> Sequence[RecordOutcome]:
        driver = work._open().driver  # noqa: SLF001
        self._under_way.add(driver)
        try:
            return work._perform("bulk_save", self._batches.store(records))  # noqa: SLF001
        finally:
            self._under_way.discard(driver)
