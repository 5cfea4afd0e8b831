"""Units of work that are run again: on conflicts and lost connections, and never if they may have been kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from audiocatalog.db.commit_outcome import Outcome, Trace, find_outcome
from audiocatalog.db.connection import PooledConnection
from audiocatalog.db.database import Database
from audiocatalog.db.execute import run
from audiocatalog.db.observer import Observer
from audiocatalog.db.transaction import Transaction
from audiocatalog.errors import CatalogError, CommitOutcomeUnknown, DatabaseUnavailable, PoolTimeout

# It is imported by the first unit of work that is run: a process that never runs one need not wait for it.
if TYPE_CHECKING:
    import tenacity

_Result = TypeVar("_Result")
_Unit = TypeVar("_Unit")
OpenTransaction = Callable[[], AbstractContextManager[Transaction]]
#: What may be done twice is tried again for so many seconds; a server that restarts is back by then.
_PATIENCE: Final = 60.0
_PAUSES: Final = {"multiplier": 0.01, "max": 1.0}
# However late it is, a server that is there has this time to answer.
_LEAST_WAIT: Final = 1.0


class Runner(Generic[_Unit]):
    """
    Runs units of work on *database* again where that can help.

    *begin* returns a new unit of work on the transaction that it is given, observed or not.
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

    def run_patiently(self, unit: Callable[[_Unit], _Result], stopped: Callable[[], bool] = lambda: False) -> _Result:
        """Run *unit*, which may be done twice, again for a minute while there is no room for it."""
        return self.run(
            unit,
            _PATIENCE,
            # A server that has just come back may answer although the pool has no connection to it yet.
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
        """Run *unit* in units of work of its own until one succeeds, or an error comes that another try cannot help."""
        import tenacity

        end = monotonic() + deadline
        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, CatalogError) and may_help(error)),
            stop=tenacity.stop_before_delay(deadline),
            wait=tenacity.wait_random_exponential(**_PAUSES),
            before_sleep=self._tell_of_another_try,
            reraise=True,
        )
        result: _Result = tries(self._run_once, unit, end, observed=observed)
        return result

    def _run_once(self, unit: Callable[[_Unit], _Result], end: float, *, observed: bool) -> _Result:
        """Run *unit* once, and find out what became of it if its COMMIT is not answered."""
        given: list[Transaction] = []

        @contextmanager
        def transaction() -> Iterator[Transaction]:
            with self._database.transaction(self._what_is_left_until(end)) as one:
                given.append(one)
                yield one

        has_ended = False
        try:
            with self._begin(transaction, observed) as work:
                result: _Result = unit(work)
                has_ended = True
        except CommitOutcomeUnknown as error:
            kept = None
            # Else it is not this unit's COMMIT that was lost, but one that it made otherwise, or nobody can tell.
            if has_ended and error.trace is not None:
                with suppress(CatalogError):  # There may be nobody left to ask.
                    kept = self.outcome_of(Trace(*error.trace), end - monotonic())
            if kept is None:
                raise
            if not kept and not any(one.host_has_committed for one in given):
                raise DatabaseUnavailable(
                    "run: the connection was lost before the work was committed; nothing of it was kept",
                    operation="run",
                    phase="commit",
                ) from error.__cause__
            if not kept:
                raise _kept_in_part(error) from error.__cause__
        except CatalogError as error:
            if error.retryable and any(one.host_has_committed for one in given):
                raise _kept_in_part(error) from error.__cause__
            raise
        return result

    def outcome_of(self, trace: Trace, deadline: float) -> bool | None:
        """Return whether a transaction was committed, None if that cannot be known within *deadline* seconds."""
        import tenacity

        tries = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda outcome: outcome == "in progress")
            | tenacity.retry_if_exception(
                lambda error: isinstance(error, CatalogError) and (error.retryable or isinstance(error, PoolTimeout))
            ),
            stop=tenacity.stop_before_delay(max(deadline, _LEAST_WAIT)),
            wait=tenacity.wait_random_exponential(**_PAUSES),
            retry_error_callback=lambda state: state.outcome.result() if state.outcome is not None else None,
        )
        end = monotonic() + deadline
        outcome: Outcome | None = tries(self._ask, trace, end)
        return {"committed": True, "aborted": False}.get(outcome or "")

    def _ask(self, trace: Trace, end: float) -> Outcome | None:
        with self._database.autocommit(self._what_is_left_until(end)) as driver:
            if isinstance(driver, PooledConnection) and driver.response_timeout is not None:
                driver.response_timeout = min(driver.response_timeout, max(end - monotonic(), _LEAST_WAIT))
            return run(driver, find_outcome(trace), "run")

    def _what_is_left_until(self, end: float) -> float:
        """Return how long to wait for a connection, if all is to be over by *end*."""
        return min(self._pool_timeout, max(end - monotonic(), _LEAST_WAIT))

    def _tell_of_another_try(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        self._observer.tries_again(error, state.attempt_number, state.next_action.sleep if state.next_action else 0.0)


def _kept_in_part(error: CatalogError) -> CommitOutcomeUnknown:
    return CommitOutcomeUnknown(
        "run: the unit of work had committed by its session before it failed, so it is not run again; "
        "what came after that commit was not kept",
        operation="run",
        phase=error.phase,
        sqlstate=error.sqlstate,
    )
