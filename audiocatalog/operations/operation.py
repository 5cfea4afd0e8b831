"""
What is asked of the database, as a generator: it yields a statement with its values and is sent the rows.

An operation holds no connection and awaits nothing, so that it is written once, tested without a server, and carried
out by ``db/execute.py`` on any connection. An error of a statement is thrown in where the statement was yielded.

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
    #: Whether its last column is ``TRANSACTION_MARK``, which is taken off the rows.
    writes: bool = False
    #: Whether what it writes can be found in the history or among the edits.
    writes_history: bool = True
    #: Whether it is text alone, without values and without rows, such as SAVEPOINT.
    is_command: bool = False
    #: The seconds that an answer may take, instead of the connection's usual limit.
    timeout: float | None = None


class PlannedStatement(NamedTuple):
    """
    A statement that is planned by settings of its own, sent with them in one round trip.

    Its placeholders are ``%(name)s``, its values a mapping. *timeout* is its limit in seconds. The settings, and the
    transaction if the limit strikes, are as before when it has ended.
    """

    sql: str
    settings: Mapping[str, str]
    timeout: float


class Copy(NamedTuple):
    """A binary COPY FROM STDIN; its values are the rows, *types* the names of their types."""

    sql: str
    types: Sequence[str]
    timeout: float | None = None


Request = tuple[Statement | PlannedStatement | Copy, Any]
Operation = Generator[Request, Rows, _Result]


class Execution(Generic[_Result]):
    """
    An operation that is being carried out.

    *request* is the statement to be sent next with its values, None when the operation has ended; *result* is what it
    returned then. Making one runs the operation to its first statement, so that arguments are checked before a
    connection is needed.
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
        """Give the operation the *rows* of its statement."""
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


# One plan serves all queries, and the indexes are the way to take. The server must not choose by its guesses about one
# query, nor compile or share out what takes a few milliseconds.
GENERIC_PLAN_SETTINGS: Final[Mapping[str, str]] = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_sort": "off",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}
#: For a list without words: filters alone narrow it, and the server knows best how to serve these.
CUSTOM_PLAN_SETTINGS: Final[Mapping[str, str]] = {
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
    "max_parallel_workers_per_gather": "0",
}
#: For pages in the order of an index, whatever the server guesses about the filters.
INDEX_ORDER_SETTINGS: Final[Mapping[str, str]] = {**GENERIC_PLAN_SETTINGS, "enable_bitmapscan": "off"}

#: Last column of every writing statement: the transaction's id (if it has one yet), its start, and the server's time.
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
    """Return *seconds* as PostgreSQL takes them."""
    return f"{max(1, round(seconds * 1000))}ms"


def placeholders(names: Iterable[str]) -> str:
    """Return a placeholder for each of *names*: ``$1, $2``."""
    return ", ".join(f"${place}" for place, _ in enumerate(names, 1))
