"""The handle a service keeps: its pool, its units of work, and what is done in one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import tenacity
from sqlalchemy import URL

from audiocatalog.activity import ACTIVITY, Activity, activity_of, activity_values
from audiocatalog.bulk import BATCH, Load, Progress, save_in_batches, store_once
from audiocatalog.bulk_result import BulkResult, OnConflict
from audiocatalog.claims import ClaimOrder
from audiocatalog.engine import Database, Settings, url_from_environment
from audiocatalog.errors import (
    CatalogError,
    ConfigurationError,
    InvalidInput,
    Phase,
    PoolTimeout,
    Problem,
    StaleStatement,
    translated,
)
from audiocatalog.explaining import refresh_vocabulary
from audiocatalog.metadata import TrackRecord, clean_actor
from audiocatalog.models import SCHEMA_REVISION, VERSION_TABLE
from audiocatalog.operations import Driver, rows_of
from audiocatalog.search.vocabulary import Vocabulary
from audiocatalog.tracks import STATUS_COUNTS, StatusCount, counts_of
from audiocatalog.unit_of_work import UnitOfWork
from audiocatalog.verbs import Verbs
from audiocatalog.worker import Worker

_Result = TypeVar("_Result")
#: A batch of many tracks is tried again for so many seconds; a server that restarts is back by then.
_BATCH_DEADLINE: Final = 60.0


@dataclass(frozen=True, slots=True)
class Health:
    """
    Show that the server answers, and how the pool stands.

    *schema_revision* is the database's, *expected_revision* the newest that this code knows. *connections* are open,
    *idle* of them are free, *waiting* callers stand in line for one.
    """

    server_version: str
    server_encoding: str
    schema_revision: str
    expected_revision: str
    pool_size: int
    connections: int
    idle: int
    waiting: int


class Catalog(Verbs):
    """
    Keep the way to one catalogue: a pool of connections, units of work, and what is done in one call.

    Make one for each process and database and share it between threads. Nothing is opened before the first use, which
    also checks the server and its schema. It is a context manager, and ``close`` ends it.

    *url* is ``postgresql://user:password@host/name``. *actor* is recorded as the author of every change that does not
    name another. *pool_size* connections at the most; a caller waits *pool_timeout* seconds for one. A statement may
    take *statement_timeout* seconds, one of a search *search_timeout*, and waiting for a lock *lock_timeout*. *pooler*
    is for PgBouncer in transaction mode.

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
        pool_size: int = 5,
        pool_timeout: float = 5.0,
        statement_timeout: float = 5.0,
        search_timeout: float = 2.0,
        lock_timeout: float = 2.0,
        pooler: bool = False,
        max_attempts: int = 5,
        retry_delay: float = 10.0,
        longest_retry_delay: float = 3600.0,
        notify: bool = False,
    ) -> None:
        settings = Settings(
            pool_size=pool_size,
            pool_timeout=pool_timeout,
            statement_timeout=statement_timeout,
            search_timeout=search_timeout,
            lock_timeout=lock_timeout,
            pooler=pooler,
            max_attempts=max_attempts,
            retry_delay=retry_delay,
            longest_retry_delay=longest_retry_delay,
            notify=notify,
        )
        super().__init__(clean_actor(actor), settings)
        self._database = Database(url, settings)

    @classmethod
    def from_env(cls, *, actor: str | None = None, environment: Mapping[str, str] = os.environ) -> Self:
        """
        Return the catalogue that the environment names, by ``AUDIOCATALOG_DATABASE_URL`` or the ``DB_*`` variables.

        The settings come from ``AUDIOCATALOG_ACTOR``, ``AUDIOCATALOG_POOL_SIZE``, ``AUDIOCATALOG_POOL_TIMEOUT``,
        ``AUDIOCATALOG_STATEMENT_TIMEOUT``, ``AUDIOCATALOG_SEARCH_TIMEOUT``, ``AUDIOCATALOG_LOCK_TIMEOUT`` (seconds) and
        ``AUDIOCATALOG_POOLER`` (true or false), where they are set; for claims, ``AUDIOCATALOG_MAX_ATTEMPTS``,
        ``AUDIOCATALOG_RETRY_DELAY``, ``AUDIOCATALOG_LONGEST_RETRY_DELAY`` and ``AUDIOCATALOG_NOTIFY``.

        Raises:
            ConfigurationError: no database is named, or a variable cannot be read.
        """
        return cls(
            url_from_environment(environment),
            actor=actor or environment.get("AUDIOCATALOG_ACTOR") or "audiocatalog",
            **_settings_from(environment),  # type: ignore[arg-type]  # Checked by Settings.
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
        return UnitOfWork(self._database.transaction, actor=self._actor, settings=self._settings)

    def run(self, unit: Callable[[UnitOfWork], _Result], *, deadline: float = 10.0) -> _Result:
        """
        Run *unit* in a unit of work and return what it returns, again while the error says ``retryable``.

        Each try is the whole unit of work, commit included, so *unit* may run more than once. Between tries it waits
        a random time of up to 10 ms, doubled each time up to a second; after *deadline* seconds the last error is
        raised.

        >>> catalog.run(lambda work: work.update_status(track.id, TrackStatus.PROCESSING))  # doctest: +SKIP
        """
        if not isinstance(deadline, int | float) or isinstance(deadline, bool) or not 0 <= deadline <= 86_400:  # noqa: PLR2004
            raise InvalidInput(Problem("deadline", "a number of seconds from 0 to 86400", (0, 86_400)), operation="run")
        return self._run(unit, deadline, lambda error: error.retryable)

    def bulk_save(
        self,
        records: Iterable[TrackRecord | Mapping[str, Any]],
        *,
        batch: int = BATCH,
        on_conflict: OnConflict | str = OnConflict.SKIP,
        progress: Progress | None = None,
        connections: int = 1,
        actor: str | None = None,
        reason: str | None = None,
    ) -> BulkResult:
        """
        Store as many tracks as *records* gives, in constant memory, and return what became of each.

        Each *batch* is one transaction, copied to the server while the next one is read and checked, and tried again
        for a minute while the error says ``retryable``. *progress* is called with a ``BulkBatch`` after each one that
        is committed. A record is a ``TrackRecord``, or a mapping that ``TrackRecord.from_mapping`` takes; one that
        breaks a rule is refused, and its neighbours are stored. *on_conflict* says what is done where an id holds other
        content: ``skip``, ``replace`` or ``error``. Records of the same id are stored one after the other.

        A server with idle cores stores faster over several *connections* of the pool, a batch on each.

        An error, also one of *records* itself, ends the load; what *progress* was told of is stored. It can be run
        again: what is there already stays as it is, if the records bring their ids. When it has ended,
        ``refresh_vocabulary`` lets searches correct the new words.

        Raises:
            InvalidInput: names the argument that breaks its rule.
            DatabaseUnavailable, PoolTimeout: there was no connection for a minute.
            QueryTimeout: a batch took longer than a minute; choose smaller ones.

        >>> result = catalog.bulk_save(records, progress=lambda batch: print(batch.result))  # doctest: +SKIP
        >>> [(refusal.position, str(refusal.error)) for refusal in result.refusals]  # doctest: +SKIP
        [(17, 'title: at most 1,000 characters, not 1,204')]

        """
        load = Load.checked(on_conflict, actor=self._actor_or_default(actor), reason=reason, settings=self._settings)
        if isinstance(connections, int) and connections > self._settings.pool_size:
            rule = f"at most the {self._settings.pool_size} connections of the pool"
            raise InvalidInput(Problem("connections", rule, self._settings.pool_size), operation="bulk_save")
        return save_in_batches(
            records,
            lambda part: store_once(load, part, self._run_patiently),
            batch=batch,
            progress=progress,
            connections=connections,
        )

    def work(
        self,
        *,
        worker: str | None = None,
        limit: int = 10,
        lease: timedelta = timedelta(minutes=5),
        order: ClaimOrder | str = ClaimOrder.OLDEST,
        poll: float = 1.0,
        until_empty: bool = False,
        listen: bool = False,
    ) -> Worker:
        """
        Return a loop over waiting tracks: they are claimed *limit* at a time, and their leases kept alive.

        When none waits, it looks again every *poll* seconds or so; with *listen*, also as soon as a catalogue with
        ``notify`` tells of one (not behind PgBouncer in transaction mode, where it only polls). It ends on SIGTERM, by
        ``stop``, or, with *until_empty*, when none waits, and releases what it has not given. It needs a connection of
        the pool besides the body's.

        Raises:
            InvalidInput: names the argument that breaks its rule.

        >>> for claim in catalog.work(worker="extractor 3"):  # doctest: +SKIP
        ...     catalog.complete(claim, extract(claim.track.audio_path))
        >>> catalog.work().run(lambda claim: extract(claim.track.audio_path))  # doctest: +SKIP

        """
        return Worker(
            self,
            name=self._actor_or_default(worker, "worker"),
            limit=limit,
            lease=lease,
            order=order,
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
        if not isinstance(timeout, int | float) or isinstance(timeout, bool) or not 0.001 <= timeout <= 86_400:  # noqa: PLR2004
            raise InvalidInput(
                Problem("timeout", "a number of seconds from 0.001 to 86400", (0.001, 86_400)),
                operation="refresh_vocabulary",
            )
        with self.unit_of_work() as work:
            return work._perform(lambda driver, _: refresh_vocabulary(driver, timeout=timeout))  # noqa: SLF001

    def stats(self) -> list[StatusCount]:
        """Return how many tracks are in each status, and since when the one that moved least recently."""
        with translated("stats"):
            return self._perform(lambda driver, _: counts_of(rows_of(driver, STATUS_COUNTS, ())))

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
        values = activity_values(since, buckets)
        with translated("activity"):
            rows = self._perform(lambda driver, _: rows_of(driver, ACTIVITY, values))
        return activity_of(rows, since, buckets)

    def health(self) -> Health:
        """
        Ask the server, in one round trip, and return its versions with the pool's figures.

        Raises:
            DatabaseUnavailable: it does not answer.
            SchemaMismatch: the schema is missing or too old.
        """
        with self._database.autocommit() as driver, translated("health"):
            ((version, encoding, revision),) = rows_of(
                driver,
                "SELECT current_setting('server_version') AS version, current_setting('server_encoding') AS encoding, "  # noqa: S608
                f"(SELECT version_num FROM {VERSION_TABLE}) AS revision",
                (),
            )
            pool = self._database.statistics()
        return Health(
            server_version=version,
            server_encoding=encoding,
            schema_revision=revision,
            expected_revision=SCHEMA_REVISION,
            pool_size=self._settings.pool_size,
            connections=pool.get("pool_size", 0),
            idle=pool.get("pool_available", 0),
            waiting=pool.get("requests_waiting", 0),
        )

    def _perform(self, operation: Callable[[Driver, Phase], _Result]) -> _Result:
        """Do *operation* alone, and again if the schema changed under its prepared statement: then it did nothing."""
        try:
            with self._database.autocommit() as driver:
                return operation(driver, "commit")
        except StaleStatement:
            with self._database.autocommit() as driver:
                return operation(driver, "commit")

    def _run(
        self, unit: Callable[[UnitOfWork], _Result], deadline: float, may_help: Callable[[CatalogError], bool]
    ) -> _Result:
        """Run *unit* in units of work of its own until one succeeds, or an error comes that another try cannot help."""
        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, CatalogError) and may_help(error)),
            stop=tenacity.stop_before_delay(deadline),
            wait=tenacity.wait_random_exponential(multiplier=0.01, max=1.0),
            reraise=True,
        )
        result: _Result = tries(self._run_once, unit)
        return result

    def _run_patiently(self, operation: Callable[[Driver], _Result]) -> _Result:
        """Do *operation* in a unit of work of its own, again for a minute while the server or the pool has no room."""
        return self._run(
            lambda work: work._perform(lambda driver, _: operation(driver)),  # noqa: SLF001
            _BATCH_DEADLINE,
            # A server that has just come back may answer although the pool has no connection to it yet.
            lambda error: error.retryable or isinstance(error, PoolTimeout),
        )

    def _run_once(self, unit: Callable[[UnitOfWork], _Result]) -> _Result:
        with self.unit_of_work() as work:
            return unit(work)


def _settings_from(environment: Mapping[str, str]) -> dict[str, int | float | bool]:
    """Return the settings that *environment* holds, as the arguments of ``Catalog``."""
    readers: dict[str, Callable[[str], int | float | bool]] = {
        "pool_size": int,
        "pool_timeout": float,
        "statement_timeout": float,
        "search_timeout": float,
        "lock_timeout": float,
        "pooler": _read_switch,
        "max_attempts": int,
        "retry_delay": float,
        "longest_retry_delay": float,
        "notify": _read_switch,
    }
    found = {}
    for name, read in readers.items():
        variable = f"AUDIOCATALOG_{name.upper()}"
        if text := environment.get(variable):
            try:
                found[name] = read(text)
            except ValueError:
                kind = {int: "a whole number", float: "a number of seconds"}.get(read, "true or false")  # type: ignore[call-overload]
                raise ConfigurationError(f"{variable} must be {kind}", field=name) from None
    return found


def _read_switch(text: str) -> bool:
    switches = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    try:
        return switches[text.lower()]
    except KeyError:
        raise ValueError(text) from None
