"""Retries of units of work, after conflicts and lost connections, but never after a possible commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from time import monotonic
from typing import Final, Generic, TypeVar

import tenacity

from audiocatalog.db.commit_outcome import Outcome, TransactionRef, find_outcome
from audiocatalog.db.connection import PooledState
from audiocatalog.db.database import Database
from audiocatalog.db.execute import run
from audiocatalog.db.misuse import result_of
from audiocatalog.db.observer import Observer
from audiocatalog.db.transaction import Transaction
from audiocatalog.errors import CatalogError, CommitOutcomeUnknown, DatabaseUnavailable, PoolTimeout

_Result = TypeVar("_Result")
_Unit = TypeVar("_Unit")
OpenTransaction = Callable[[], AbstractContextManager[Transaction]]
#: Work that is safe to repeat is retried for this many seconds, long enough for a restart of the server.
_RETRY_SECONDS: Final = 60.0
_PAUSES: Final = {"multiplier": 0.01, "max": 1.0}
# The minimum timeout of an answer in seconds, also after the deadline.
_MIN_WAIT: Final = 1.0


class Runner(Generic[_Unit]):
    """
    A runner that retries units of work on *database*.

    *begin* returns a new unit of work on the given transaction; the second argument says whether the unit is observed.
    """

    def __init__(
        self,
        database: Database,
        observer: Observer,
        begin: Callable[[OpenTransaction, bool], AbstractContextManager[_Unit]],
    ) -> None:
        self._database = database
        self._observer = observer
        self._begin = begin
        self._pool_timeout = database.settings.pool_timeout

    def run_with_retry(self, unit: Callable[[_Unit], _Result], stopped: Callable[[], bool] = lambda: False) -> _Result:
        """
        Run *unit*, which is safe to repeat, with retries for one minute, or until *stopped* returns True.

        Raises:
            CatalogError: the error of the last attempt.
        """
        return self.run(
            unit,
            _RETRY_SECONDS,
            # While the server restarts, the pool may have no connection, and a COMMIT may lose its answer.
            lambda error: not stopped() and (error.retryable or isinstance(error, PoolTimeout | CommitOutcomeUnknown)),
            observed=False,
        )

    def run(
        self,
        unit: Callable[[_Unit], _Result],
        deadline: float,
        may_help: Callable[[CatalogError], bool],
        *,
        observed: bool = True,
    ) -> _Result:
        """
        Run *unit* in a new unit of work; retry for *deadline* seconds while *may_help* returns True for the error.

        Raises:
            CommitOutcomeUnknown: the transaction may be committed, or the host committed a part of it through its
                session.
            CatalogError: the error of the last attempt.
        """
        end = monotonic() + deadline
        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, CatalogError) and may_help(error)),
            stop=tenacity.stop_before_delay(deadline),
            wait=tenacity.wait_random_exponential(**_PAUSES),
            before_sleep=self._log_retry,
            reraise=True,
        )
        result: _Result = tries(self._run_once, unit, end, observed=observed)
        return result

    def _run_once(self, unit: Callable[[_Unit], _Result], end: float, *, observed: bool) -> _Result:
        """Run *unit* once, and look up the outcome if its COMMIT is not answered."""
        given: list[Transaction] = []

        @contextmanager
        def transaction() -> Iterator[Transaction]:
            with self._database.transaction(self._seconds_until(end)) as one:
                given.append(one)
                yield one

        has_ended = False
        try:
            with self._begin(transaction, observed) as work:
                result: _Result = result_of(unit(work))
                has_ended = True
        except CommitOutcomeUnknown as error:
            kept = None
            # The outcome of a COMMIT inside the unit, or of a transaction without an identity, cannot be looked up.
            if has_ended and error.trace is not None:
                with suppress(CatalogError):  # The server may still be down.
                    kept = self.outcome_of(TransactionRef(*error.trace), end - monotonic())
            if kept is None:
                raise
            if not kept and not any(one.host_has_committed for one in given):
                raise DatabaseUnavailable(
                    "run: the connection was lost before COMMIT, and nothing was committed; run the unit of work again",
                    operation="run",
                    phase="commit",
                ) from error.__cause__
            if not kept:
                raise _partly_committed(error) from error.__cause__
        except CatalogError as error:
            if error.retryable and any(one.host_has_committed for one in given):
                raise _partly_committed(error) from error.__cause__
            raise
        return result

    def outcome_of(self, trace: TransactionRef, deadline: float) -> bool | None:
        """Return whether a transaction was committed, or None if this is not known after *deadline* seconds."""
        tries = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda outcome: outcome == "in progress")
            | tenacity.retry_if_exception(
                lambda error: isinstance(error, CatalogError) and (error.retryable or isinstance(error, PoolTimeout))
            ),
            stop=tenacity.stop_before_delay(max(deadline, _MIN_WAIT)),
            wait=tenacity.wait_random_exponential(**_PAUSES),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome is not None else None,
        )
        end = monotonic() + deadline
        outcome: Outcome | None = tries(self._ask, trace, end)
        return {"committed": True, "aborted": False}.get(outcome or "")

    def _ask(self, trace: TransactionRef, end: float) -> Outcome | None:
        with self._database.autocommit(self._seconds_until(end)) as driver:
            if isinstance(driver, PooledState) and driver.response_timeout is not None:
                driver.response_timeout = min(driver.response_timeout, max(end - monotonic(), _MIN_WAIT))
            return run(driver, find_outcome(trace), "run")

    def _seconds_until(self, end: float) -> float:
        """Return the seconds to wait for a connection if the deadline is *end*."""
        return min(self._pool_timeout, max(end - monotonic(), _MIN_WAIT))

    def _log_retry(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        self._observer.retrying(error, state.attempt_number, state.next_action.sleep if state.next_action else 0.0)


def _partly_committed(error: CatalogError) -> CommitOutcomeUnknown:
    return CommitOutcomeUnknown(
        "run: the unit of work committed through its session before it failed, so it was not retried; the changes "
        "after that commit were rolled back: repeat only these changes",
        operation="run",
        phase=error.phase,
        sqlstate=error.sqlstate,
    )
