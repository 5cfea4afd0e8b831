"""What is told of the catalogue's work: to a hook for metrics, and to the logger ``audiocatalog``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from types import TracebackType
from typing import Any, Final

import psycopg
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DBAPIError

from audiocatalog.errors import CatalogError
from audiocatalog.models.redaction import DEBUGGING

LOGGER: Final = logging.getLogger("audiocatalog")
# A host that has set up no logging gets none of ours: what matters is raised.
LOGGER.addHandler(logging.NullHandler())


@cache
def warn_of_debugging() -> None:
    """Log once that reprs and errors show data."""
    if DEBUGGING:
        LOGGER.warning(
            "AUDIOCATALOG_DEBUG is on: what objects and errors print holds data; it is for development alone"
        )


@dataclass(frozen=True, slots=True)
class Observation:
    """
    How one call went, under the name of the method; or one ``unit_of_work``, from its first moment to its last.

    *duration* is in seconds. *waited* is how many of them a unit of work waited for its connection; None of a call.
    *error* is the name of the class of the error that the caller got, and *sqlstate* the server's code for it; both are
    None if it went well.
    """

    operation: str
    duration: float
    waited: float | None
    error: str | None
    sqlstate: str | None


Hook = Callable[[Observation], None]


class Observer:
    """
    Tell *hook* of everything, and the log of calls that take *slow_after* seconds and units that are rolled back.

    Every record has ``operation``, ``duration``, ``error`` and ``sqlstate`` as attributes, for structured logs. None
    holds data.
    """

    def __init__(self, hook: Hook | None, *, slow_after: float) -> None:
        self._hook = hook
        self._slow_after = slow_after

    def call(self, name: str, *, is_long: bool = False) -> _Call:
        """
        Return a context that observes what is done in it as the call *name*.

        A call that *is_long* takes as long as its caller's own work, so that its time does not count as slow.
        """
        return _Call(self, name, is_long=is_long)

    def call_ended(self, operation: str, began: float, error: BaseException | None, *, is_long: bool = False) -> None:
        """Report a call, and log it if it was slow, unless *is_long* says that it may take any time."""
        duration = perf_counter() - began
        if duration >= self._slow_after and not is_long:
            LOGGER.warning("%s took %.3f s", operation, duration, extra=_facts(operation, duration, error))
        self._tell(operation, duration, None, error)

    def unit_ended(self, began: float, waited: float | None, error: BaseException | None) -> None:
        """Tell of a unit of work; one that was rolled back leaves one line in the log."""
        duration = perf_counter() - began
        if error is not None:
            # Another exception's attributes of these names may hold anything.
            ours = error if isinstance(error, CatalogError) else None
            sqlstate, operation = _sqlstate_of(error), (ours and ours.operation) or "unit_of_work"
            LOGGER.log(
                logging.WARNING if sqlstate or (ours and ours.phase) else logging.INFO,
                "a unit of work was rolled back after %.3f s: %s in %s (%s)",
                duration,
                type(error).__name__,
                operation,
                sqlstate or "no SQLSTATE",
                extra=_facts(operation, duration, error),
            )
        self._tell("unit_of_work", duration, waited, error)

    def tries_again(self, error: BaseException | None, tries: int, pause: float) -> None:
        """Tell the log that a unit of work will be run again."""
        LOGGER.info(
            "try %d of a unit of work ended in %s; the next begins in %.3f s",
            tries,
            type(error).__name__,
            pause,
            extra={
                **_facts((isinstance(error, CatalogError) and error.operation) or "run", pause, error),
                "attempt": tries,
            },
        )

    def _tell(self, operation: str, duration: float, waited: float | None, error: BaseException | None) -> None:
        if self._hook is None:
            return
        name = None if error is None else type(error).__name__
        try:
            self._hook(Observation(operation, duration, waited, name, _sqlstate_of(error)))
        except Exception as failure:  # noqa: BLE001  # Whatever counts the work must not undo it.
            LOGGER.warning("the hook that observes the catalogue failed: %s", type(failure).__name__)


class _Call:
    """A call that is observed from the beginning of a ``with`` block to its end."""

    __slots__ = ("_began", "_is_long", "_name", "_observer")

    def __init__(self, observer: Observer, name: str, *, is_long: bool) -> None:
        self._observer = observer
        self._name = name
        self._is_long = is_long

    def __enter__(self) -> None:
        self._began = perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._observer.call_ended(self._name, self._began, error, is_long=self._is_long)


def log_slow_statements(engine: Engine, slow_after: float) -> None:
    """Log what the host executes by its session if it takes *slow_after* seconds; its text may hold data."""

    def begin(connection: Connection, *_: object) -> None:
        connection.info["audiocatalog_began"] = perf_counter()

    def end(connection: Connection, *_: object) -> None:
        duration = perf_counter() - connection.info["audiocatalog_began"]
        if duration >= slow_after:
            LOGGER.warning("session took %.3f s", duration, extra=_facts("session", duration, None))

    event.listen(engine, "before_cursor_execute", begin)
    event.listen(engine, "after_cursor_execute", end)


def _facts(operation: str, duration: float, error: BaseException | None) -> dict[str, Any]:
    name = None if error is None else type(error).__name__
    return {"operation": operation, "duration": duration, "error": name, "sqlstate": _sqlstate_of(error)}


def _sqlstate_of(error: BaseException | None) -> str | None:
    if isinstance(error, DBAPIError):
        error = error.orig  # A statement of the host's own.
    return error.sqlstate if isinstance(error, CatalogError | psycopg.Error) else None
