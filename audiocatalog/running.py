"""Units of work that are run again: on conflicts and lost connections, and never if they may have been kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from time import monotonic
from typing import Final, TypeVar

import tenacity

from audiocatalog.connection import PooledConnection
from audiocatalog.engine import Database
from audiocatalog.errors import CatalogError, CommitOutcomeUnknown, DatabaseUnavailable, PoolTimeout
from audiocatalog.observing import Observer
from audiocatalog.operations import Driver
from audiocatalog.outcome import Outcome, Trace, ask
from audiocatalog.settings import Settings
from audiocatalog.transaction import Transaction
from audiocatalog.unit_of_work import UnitOfWork

_Result = TypeVar("_Result")
#: What may be done twice is tried again for so many seconds; a server that restarts is back by then.
_PATIENCE: Final = 60.0
_PAUSES: Final = tenacity.wait_random_exponential(multiplier=0.01, max=1.0)
# However late it is, a server that is there has this time to answer.
_LEAST_WAIT: Final = 1.0


class Runner:
    """Begin units of work on *database*, and run them again."""

    def __init__(self, database: Database, observer: Observer, *, actor: str, settings: Settings) -> None:
        self._database = database
        self._observer = observer
        self._unobserved = Observer(None, slow_after=settings.slow_after)
        self._actor = actor
        self._settings = settings

    def unit_of_work(
        self,
        transactions: Callable[[], AbstractContextManager[Transaction]] | None = None,
        *,
        traced: bool = False,
        observed: bool = True,
    ) -> UnitOfWork:
        """
        Return a new unit of work, on connections of the pool unless *transactions* gives others.

        One that is not *observed* is a part of a call that is; the log still has a line if it is rolled back.
        """
        return UnitOfWork(
            transactions or self._database.transaction,
            actor=self._actor,
            settings=self._settings,
            observer=self._observer if observed else self._unobserved,
            traced=traced,
        )

    def run_patiently(
        self, perform: Callable[[Driver], _Result], stopped: Callable[[], bool] = lambda: False
    ) -> _Result:
        """Do what may be done twice, in a unit of work of its own, again for a minute while there is no room for it."""
        return self.run(
            lambda work: perform(work._open().driver),  # noqa: SLF001
            _PATIENCE,
            # A server that has just come back may answer although the pool has no connection to it yet.
            lambda error: not stopped() and (error.retryable or isinstance(error, PoolTimeout | CommitOutcomeUnknown)),
            observed=False,
        )

    def run(
        self,
        unit: Callable[[UnitOfWork], _Result],
        deadline: float,
        may_help: Callable[[CatalogError], bool],
        *,
        observed: bool = True,
    ) -> _Result:
        """Run *unit* in units of work of its own until one succeeds, or an error comes that another try cannot help."""
        end = monotonic() + deadline
        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, CatalogError) and may_help(error)),
            stop=tenacity.stop_before_delay(deadline),
            wait=_PAUSES,
            before_sleep=self._tell_of_another_try,
            reraise=True,
        )
        result: _Result = tries(self._run_once, unit, end, observed=observed)
        return result

    def _run_once(self, unit: Callable[[UnitOfWork], _Result], end: float, *, observed: bool) -> _Result:
        """Run *unit* once, and find out what became of it if its COMMIT is not answered."""
        work = self.unit_of_work(
            lambda: self._database.transaction(self._what_is_left_until(end)), traced=True, observed=observed
        )
        has_ended = False
        try:
            with work:
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
            if not kept and not work._host_has_committed:  # noqa: SLF001
                raise DatabaseUnavailable(
                    "run: the connection was lost before the work was committed; nothing of it was kept",
                    operation="run",
                    phase="commit",
                ) from error.__cause__
            if not kept:
                raise _kept_in_part(error) from error.__cause__
        except CatalogError as error:
            if error.retryable and work._host_has_committed:  # noqa: SLF001
                raise _kept_in_part(error) from error.__cause__
            raise
        return result

    def outcome_of(self, trace: Trace, deadline: float) -> bool | None:
        """Return whether a transaction was committed, None if that cannot be known within *deadline* seconds."""
        tries = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda outcome: outcome == "in progress")
            | tenacity.retry_if_exception(
                lambda error: isinstance(error, CatalogError) and (error.retryable or isinstance(error, PoolTimeout))
            ),
            stop=tenacity.stop_before_delay(max(deadline, _LEAST_WAIT)),
            wait=_PAUSES,
            retry_error_callback=lambda state: state.outcome.result() if state.outcome is not None else None,
        )
        end = monotonic() + deadline
        outcome: Outcome | None = tries(self._ask, trace, end)
        return {"committed": True, "aborted": False}.get(outcome or "")

    def _ask(self, trace: Trace, end: float) -> Outcome | None:
        with self._database.autocommit(self._what_is_left_until(end)) as driver:
            if isinstance(driver, PooledConnection) and driver.patience is not None:
                driver.patience = min(driver.patience, max(end - monotonic(), _LEAST_WAIT))
            return ask(driver, trace)

    def _what_is_left_until(self, end: float) -> float:
        """Return how long to wait for a connection, if all is to be over by *end*."""
        return min(self._settings.pool_timeout, max(end - monotonic(), _LEAST_WAIT))

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
