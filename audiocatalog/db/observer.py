"""Observations of the catalogue's calls, for a metrics hook and for the logger ``audiocatalog``."""

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
# Without this handler, a host that has not set up logging would get our warnings on stderr.
LOGGER.addHandler(logging.NullHandler())
# At level DEBUG, SQLAlchemy logs whole rows.
logging.getLogger("sqlalchemy.engine.Engine.audiocatalog").addFilter(lambda record: record.levelno > logging.DEBUG)


@cache
def warn_of_debugging() -> None:
    """Log once that reprs and errors show data."""
    if DEBUGGING:
        LOGGER.warning("AUDIOCATALOG_DEBUG is set, so reprs and errors show data; unset it outside development")


@dataclass(frozen=True, slots=True)
class Observation:
    """
    The result of one call or one unit of work.

    - *operation*: the name of the method, or ``unit_of_work``.
    - *duration*: the duration, in seconds.
    - *waited*: seconds that a unit of work waited for its connection; None for a call.
    - *error*: the class name of the error that the caller got; None on success.
    - *sqlstate*: the SQLSTATE of that error; None if it has none.
    """

    operation: str
    duration: float
    waited: float | None
    error: str | None
    sqlstate: str | None


Hook = Callable[[Observation], None]


class Observer:
    """
    A reporter that passes every observation to *hook*.

    The observer logs calls that take at least *slow_after* seconds, and units of work that are rolled back. For
    structured logs, every record has the attributes ``operation``, ``duration``, ``error`` and ``sqlstate``. No record
    contains data.
    """

    def __init__(self, hook: Hook | None, *, slow_after: float) -> None:
        self._hook = hook
        self._slow_after = slow_after

    def call(self, name: str, *, is_long: bool = False) -> _Call:
        """
        Return a context that observes its block as the call *name*.

        A call that *is_long* includes the caller's own work, so it is never logged as slow.
        """
        return _Call(self, name, is_long=is_long)

    def call_ended(self, operation: str, began: float, error: BaseException | None, *, is_long: bool = False) -> None:
        """Report a call that began at *began*, and log it if it was slow and not *is_long*."""
        duration = perf_counter() - began
        if duration >= self._slow_after and not is_long:
            LOGGER.warning("%s took %.3f s", operation, duration, extra=_facts(operation, duration, error))
        self._notify(operation, duration, None, error)

    def unit_ended(self, began: float, waited: float | None, error: BaseException | None) -> None:
        """Report a unit of work, and log it if it was rolled back."""
        duration = perf_counter() - began
        if error is not None:
            # The attributes of a foreign exception may contain data.
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
        self._notify("unit_of_work", duration, waited, error)

    def retrying(self, error: BaseException | None, tries: int, pause: float) -> None:
        """Log that a unit of work will be run again after *pause* seconds."""
        LOGGER.info(
            "attempt %d of a unit of work failed with %s; the next attempt begins in %.3f s",
            tries,
            type(error).__name__,
            pause,
            extra={
                **_facts((isinstance(error, CatalogError) and error.operation) or "run", pause, error),
                "attempt": tries,
            },
        )

    def _notify(self, operation: str, duration: float, waited: float | None, error: BaseException | None) -> None:
        if self._hook is None:
            return
        name = None if error is None else type(error).__name__
        try:
            self._hook(Observation(operation, duration, waited, name, _sqlstate_of(error)))
        except Exception as failure:  # noqa: BLE001  # A failing hook must not fail the call.
            LOGGER.warning("the function `observe` failed and must be corrected: %s", type(failure).__name__)


class _Call:
    """A context that observes one call."""

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
    """Log statements of the host's session that take *slow_after* seconds; omit their text, which may contain data."""

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
        error = error.orig  # The host's own statement failed.
    return error.sqlstate if isinstance(error, CatalogError | psycopg.Error) else None
