"""
Operations: generators that yield statements with their values, and receive the rows.

An operation has no connection and awaits nothing, so it can be tested without a server. ``db/execute.py`` carries
operations out on any connection. The error of a statement is raised at the ``yield`` of the statement.

>>> def count() -> Operation[int]:
...     ((tracks,),) = yield Statement("SELECT count(*) FROM audio_tracks"), ()
...     return tracks

"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Generic, NamedTuple, TypeVar

_Result = TypeVar("_Result")
Rows = Sequence[tuple[Any, ...]]


class Statement(NamedTuple):
    """One SQL statement with the placeholders ``$1``, ``$2``."""

    sql: str
    #: Whether the last column is ``TRANSACTION_MARK``, which is removed from the rows.
    writes: bool = False
    #: Whether the statement also writes a row of the history or of the edits.
    writes_history: bool = True
    #: Whether the statement has neither values nor rows, such as SAVEPOINT.
    is_command: bool = False
    #: The timeout in seconds, which replaces the connection's timeout.
    timeout: float | None = None


class PlannedStatement(NamedTuple):
    """
    A statement with planner settings, sent together in one round trip.

    The placeholders are ``%(name)s``, and the values are a mapping. *timeout* is in seconds. After the statement, the
    settings have their earlier values. If the statement times out, the transaction is as it was before the statement.
    """

    sql: str
    settings: Mapping[str, str]
    timeout: float

    def numbered(self, values: Mapping[str, Any]) -> tuple[str, list[Any]]:
        """Return the statement with the placeholders ``$1``, ``$2``, and *values* in their order."""
        sql, names = numbered(self.sql)
        return sql, [values[name] for name in names]

    def settings_with_timeout(self) -> dict[str, str]:
        """Return the settings with ``statement_timeout``."""
        return {**self.settings, "statement_timeout": milliseconds(self.timeout)}


class Copy(NamedTuple):
    """A binary COPY FROM STDIN: its values are the rows, and *types* are the names of the columns' types."""

    sql: str
    types: Sequence[str]
    timeout: float | None = None


Request = tuple[Statement | PlannedStatement | Copy, Any]
Operation = Generator[Request, Rows, _Result]


class Execution(Generic[_Result]):
    """
    An operation in progress.

    - *request*: the next statement with its values; None when the operation has ended
    - *result*: the operation's return value, after its end

    The constructor runs the operation to its first statement, so that it checks its arguments before a connection is
    needed.
    """

    __slots__ = ("_operation", "has_begun", "request", "result")

    def __init__(self, operation: Operation[_Result]) -> None:
        self._operation = operation
        #: Whether a statement has been answered.
        self.has_begun = False
        self.result: _Result
        self.request: Request | None = None
        try:
            self.request = next(operation)
        except StopIteration as end:
            self.result = end.value

    def answer(self, rows: Rows) -> None:
        """Send the operation the *rows* of its statement."""
        self.has_begun = True
        self.request = None
        try:
            self.request = self._operation.send(rows)
        except StopIteration as end:
            self.result = end.value

    def fail(self, error: Exception) -> None:
        """Raise the *error* of its statement inside the operation."""
        self.request = None
        try:
            self.request = self._operation.throw(error)
        except StopIteration as end:
            self.result = end.value


# One plan, which uses the indexes, serves all queries. The server must not choose a plan by its estimates for one
# query, and must not compile or parallelize a statement of a few milliseconds.
GENERIC_PLAN_SETTINGS: Final[Mapping[str, str]] = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_sort": "off",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}
#: For a query without words, which only filters restrict. The server's estimates for filters are good.
CUSTOM_PLAN_SETTINGS: Final[Mapping[str, str]] = {
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}
#: For pages in the order of an index: the server must not choose another plan by its estimates for the filters.
INDEX_ORDER_SETTINGS: Final[Mapping[str, str]] = {**GENERIC_PLAN_SETTINGS, "enable_bitmapscan": "off"}

#: The last column of every writing statement: the transaction's id, if assigned, its start, and the server's time.
TRANSACTION_MARK: Final = (
    "(pg_current_xact_id_if_assigned()::text || '|' || now()::text || '|' || clock_timestamp()::text)"
)
_PLACEHOLDER: Final = re.compile(r"%\((\w+)\)s")


@lru_cache(maxsize=512)
def numbered(sql: str) -> tuple[str, tuple[str, ...]]:
    """
    Return *sql* with its named placeholders numbered, and the names in the order of their numbers.

    >>> numbered("SELECT %(a)s, %(b)s, %(a)s")
    ('SELECT $1, $2, $1', ('a', 'b'))

    """
    names = tuple(dict.fromkeys(_PLACEHOLDER.findall(sql)))
    return _PLACEHOLDER.sub(lambda match: f"${names.index(match[1]) + 1}", sql), names


def settings_call(settings: Mapping[str, str], *, local: bool) -> str:
    """Return the statement that sets *settings*, for the transaction or for the session."""
    calls = ", ".join(f"set_config('{name}', '{value}', {str(local).lower()})" for name, value in settings.items())
    return f"SELECT {calls}"


def milliseconds(seconds: float) -> str:
    """Return *seconds* in PostgreSQL's notation, such as ``250ms``."""
    return f"{max(1, round(seconds * 1000))}ms"


def placeholders(names: Iterable[str]) -> str:
    """Return a placeholder for each of *names*: ``$1, $2``."""
    return ", ".join(f"${place}" for place, _ in enumerate(names, 1))
