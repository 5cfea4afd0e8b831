"""The errors of this package; db/error_translation.py derives many of them from the driver's errors.

::

    CatalogError
    ├── InvalidInput (ValueError)              an argument or a field breaks its rule
    ├── TrackNotFound (LookupError)            no track has this id
    ├── SaveConflict                           the track has other content, or another version
    ├── ConstraintViolation                    a constraint of the host rejected a row, at once or at COMMIT
    ├── IllegalTransition                      the table of statuses forbids this move
    ├── TransitionConflict                     another caller moved the track first
    ├── ClaimLost                              the lease expired, or another caller moved the track
    ├── TransientConflict            retryable a deadlock, a lock timeout, or a failure to serialize
    ├── StaleStatement               retryable the schema changed under a prepared statement
    ├── PoolTimeout (TimeoutError)             no connection became free in time
    ├── TooManySearches (TimeoutError)         other searches used all connections that searches may use
    ├── DatabaseUnavailable          retryable the server cannot be reached, or cannot work at the moment
    │   └── CommitOutcomeUnknown               the connection was lost during COMMIT
    ├── QueryTimeout (TimeoutError)            the statement exceeded its timeout
    ├── OperationCancelled                     the statement was cancelled on the server
    ├── TransactionAborted                     the caller caught an error, so the server rolled everything back
    ├── WriteRefused                           the host's session tried to write a table of this package
    ├── UnitOfWorkEnded                        a unit of work was used before it began or after it ended
    ├── UnitOfWorkBusy                         two tasks used one unit of work at the same time
    ├── SchemaMismatch                         this code does not work with the database's schema
    ├── ConfigurationError                     the URL, the password, the database name or a setting is wrong
    ├── PermissionDenied                       the database role lacks a privilege
    └── CatalogInternalError                   any other error

A message has at most 500 characters, and contains no data, parameters or secrets. An attribute has the track's id.
``__cause__`` is the driver's error without the data that it quotes.

An error in a statement of the host in ``work.session``, such as a syntax error, is raised as SQLAlchemy's exception. A
failure outside of the statement is one of these classes (TransientConflict, DatabaseUnavailable, QueryTimeout,
OperationCancelled, PermissionDenied, ConstraintViolation at COMMIT, and so on), with SQLAlchemy's full error as cause.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from audiocatalog.errors.printing import escaped

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from audiocatalog.status import TrackStatus

Phase = Literal["connect", "statement", "commit"]

_LONGEST_MESSAGE = 500


class CatalogError(Exception):
    """
    The base of every error of this package.

    - *retryable*: whether the same unit of work may succeed if it is run again
    - *phase*: ``connect``, ``statement`` or ``commit``
    - *operation*: the call, such as ``save``
    - *sqlstate*: the SQLSTATE, the server's code for the error
    - *constraint*: the name of the violated constraint
    - *field*: the field or argument that breaks its rule

    An attribute that does not apply is None.
    """

    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        operation: str | None = None,
        phase: Phase | None = None,
        sqlstate: str | None = None,
        constraint: str | None = None,
        field: str | None = None,
    ) -> None:
        super().__init__(message if len(message) <= _LONGEST_MESSAGE else message[: _LONGEST_MESSAGE - 1] + "…")
        self.operation = operation
        self.phase = phase
        self.sqlstate = sqlstate
        self.constraint = constraint
        self.field = field

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle every attribute, including those that are not arguments of the constructor."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[CatalogError], arguments: tuple[Any, ...], facts: dict[str, Any]) -> CatalogError:
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(facts)
    return error


def printable(text: str, longest: int = 50) -> str:
    """Return *text* for a message: at most *longest* characters, with control and invisible characters escaped."""
    return escaped(str.__str__(text[:longest]))


def kind_of(value: object) -> str:
    """Return the name of the type of *value*, for a message."""
    return printable(type(value).__name__)


class Problem(NamedTuple):
    """A *field* and the *rule* that it breaks; *limit* is the rule's number or pair of numbers, or None."""

    field: str
    rule: str
    limit: float | tuple[float, ...] | None = None


class InvalidInput(CatalogError, ValueError):
    """
    Input that breaks a rule: *problems* lists every bad field; *field* and *limit* describe the first problem.

    Example: ``title: at most 1,000 characters, not 1,204; year: a whole number from 1000 to 9999, not float``.
    """

    def __init__(
        self,
        problems: Problem | Sequence[Problem],
        *,
        operation: str | None = None,
        sqlstate: str | None = None,
        constraint: str | None = None,
    ) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        first = self.problems[0]
        super().__init__(
            "; ".join(f"{problem.field}: {problem.rule}" for problem in self.problems),
            operation=operation,
            sqlstate=sqlstate,
            constraint=constraint,
            field=first.field,
        )
        self.limit = first.limit


class TrackNotFound(CatalogError, LookupError):
    """An id, *track_id*, that no track has."""

    def __init__(self, track_id: UUID, *, operation: str | None = None) -> None:
        super().__init__("no track has this id", operation=operation, field="id")
        self.track_id = track_id


class SaveConflict(CatalogError):
    """A save of a track that has other content, or whose version is *actual* instead of *expected*."""

    def __init__(
        self,
        track_id: UUID,
        *,
        actual: int,
        expected: int | None = None,
        remedy: str = "to overwrite this content, save with replace=True",
    ) -> None:
        if expected is None:
            message = f"a track with this id already exists with other content (version {actual}); {remedy}"
        else:
            message = f"the track is at version {actual}, not at the expected {expected}; read the track and try again"
        super().__init__(message, operation="save", field="id")
        self.track_id = track_id
        self.expected = expected
        self.actual = actual


class ConstraintViolation(CatalogError):
    """A row that a *constraint* of the host rejected: a duplicate, or a reference to a row that does not exist."""


class IllegalTransition(CatalogError):
    """A move that the table of statuses forbids; *from_status* is None for a new track."""

    def __init__(
        self,
        from_status: TrackStatus | None,
        to_status: TrackStatus,
        *,
        track_id: UUID | None = None,
        allowed: Iterable[TrackStatus] = (),
    ) -> None:
        start = "a new track" if from_status is None else f"a track that is {from_status}"
        remedy = f", only {' or '.join(sorted(allowed))}" if allowed else ""
        operation = "save" if from_status is None else "update_status"
        super().__init__(f"{start} cannot become {to_status}{remedy}", operation=operation, field="status")
        self.from_status = from_status
        self.to_status = to_status
        self.track_id = track_id


class TransitionConflict(CatalogError):
    """A move that came too late: another caller moved the track, which is now *actual*, not *expected*."""

    def __init__(self, track_id: UUID, *, expected: TrackStatus | None, actual: TrackStatus) -> None:
        super().__init__(
            f"the track is {actual}, not {expected} as expected; read the track and decide again",
            operation="update_status",
            field="status",
        )
        self.track_id = track_id
        self.expected = expected
        self.actual = actual


class ClaimLost(CatalogError):
    """A lost claim: its lease expired, or another caller moved the track. Nothing was changed."""

    def __init__(self, track_id: UUID, *, token: int, operation: str) -> None:
        super().__init__(
            "the claim is lost: its lease expired, or another caller moved the track; "
            "discard the result, or claim the track again",
            operation=operation,
        )
        self.track_id = track_id
        self.token = token


class TransientConflict(CatalogError):
    """A conflict with another transaction; run the whole unit of work again."""

    retryable = True


class StaleStatement(CatalogError):
    """A prepared statement that no longer fits the schema; run the whole unit of work again."""

    retryable = True


class PoolTimeout(CatalogError, TimeoutError):
    """A timeout of the pool: no connection became free within ``pool_timeout``."""


class TooManySearches(CatalogError, TimeoutError):
    """
    A timeout of a search: other searches used all ``max_searches`` connections for the whole ``pool_timeout``.

    The remaining connections are reserved for calls that do not search. Try again later, or increase ``max_searches``
    and ``pool_size``.
    """


class DatabaseUnavailable(CatalogError):
    """A server that cannot be reached, or cannot work at the moment."""

    retryable = True


class CommitOutcomeUnknown(DatabaseUnavailable):
    """
    A connection that was lost during COMMIT, so the transaction may or may not be committed.

    ``Catalog.run`` asks the server for the outcome, and raises this error only if the server cannot tell. For a unit
    of work without ``run``, call ``Catalog.was_committed``. *trace* identifies the transaction, or is None.
    """

    retryable = False
    trace: tuple[Any, ...] | None = None


class QueryTimeout(CatalogError, TimeoutError):
    """A statement that exceeded its timeout, so the server ended it."""


class OperationCancelled(CatalogError):
    """A statement that was cancelled on the server, for example by an operator."""


class TransactionAborted(CatalogError):
    """A transaction that the server rolled back, because the caller caught an error inside the unit of work."""


class WriteRefused(CatalogError):
    """A statement of the host's session that writes a table of this package; the message names the call to use."""


class UnitOfWorkEnded(CatalogError):
    """The use of a unit of work outside its ``with`` block."""


class UnitOfWorkBusy(CatalogError):
    """The use of a unit of work during a call of another task; each task needs its own unit of work."""


class SchemaMismatch(CatalogError):
    """A schema that is missing, or that does not work with this version of the package."""


class ConfigurationError(CatalogError):
    """A wrong URL, password, database name or other setting."""


class PermissionDenied(CatalogError):
    """A privilege that the database role lacks."""


class CatalogInternalError(CatalogError):
    """An error that no other class describes; its cause has the details."""
