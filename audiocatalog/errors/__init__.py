"""The errors callers see; db/error_translation.py makes them of what the driver raises.

::

    CatalogError
    ├── InvalidInput (ValueError)              a field breaks its rule; nothing was sent or kept
    ├── TrackNotFound (LookupError)            no track has this id
    ├── SaveConflict                           the id holds other content, or its version moved
    ├── ConstraintViolation                    a constraint of the host's refused a row, of ours or at COMMIT
    ├── IllegalTransition                      the table of statuses forbids this move
    ├── TransitionConflict                     another caller moved the track first
    ├── ClaimLost                              the lease ran out, or somebody else moved the track
    ├── TransientConflict            retryable the server chose a loser: deadlock, lock time-out, serialization
    ├── StaleStatement               retryable the schema changed under a prepared statement
    ├── PoolTimeout (TimeoutError)             no connection became free in time
    ├── TooManySearches (TimeoutError)         other searches took all connections that searches may have
    ├── DatabaseUnavailable          retryable the server cannot be reached or cannot work now
    │   └── CommitOutcomeUnknown               the connection was lost while committing
    ├── QueryTimeout (TimeoutError)            the statement ran longer than its limit
    ├── OperationCancelled                     somebody ended the statement on the server
    ├── TransactionAborted                     an error was swallowed, so the server rolled everything back
    ├── WriteRefused                           the host's session was to write a table of this package
    ├── UnitOfWorkEnded                        a unit of work was used before its beginning or after its end
    ├── SchemaMismatch                         the database's schema is not the one this code works with
    ├── ConfigurationError                     URL, password, database name or settings are wrong
    ├── PermissionDenied                       the database role may not do this
    └── CatalogInternalError                   anything else

Messages are ours, of at most 500 characters, and never repeat data, parameters or secrets; which track an error is
about stands in its attributes. ``__cause__`` is the driver's error without what it quotes of the data.

A statement that the host itself runs by ``work.session`` is the host's. An error about that statement, such as a syntax
error or a value that is too long, stays what SQLAlchemy raised. One of these classes tells what lies outside of it
(TransientConflict, DatabaseUnavailable, QueryTimeout, OperationCancelled, PermissionDenied, ConstraintViolation at
COMMIT, and so on), with SQLAlchemy's error in full as its cause.
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
    Tell what went wrong in the catalogue; the root of every error of this package.

    Attributes: *retryable* (may the same unit of work succeed if it is run again?), *phase* (``connect``,
    ``statement`` or ``commit``), *operation* (what was being done, such as ``save``), *sqlstate*, *constraint*
    and *field*, each None where it does not apply.
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
        """Keep every fact on the way to another process, whatever the constructor asks for."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[CatalogError], arguments: tuple[Any, ...], facts: dict[str, Any]) -> CatalogError:
    error = kind.__new__(kind)
    error.args = arguments
    error.__dict__.update(facts)
    return error


def printable(text: str, longest: int = 50) -> str:
    """Return *text* fit for a message: no more than *longest* characters, those that act or hide written out."""
    return escaped(str.__str__(text[:longest]))


def kind_of(value: object) -> str:
    """Return the name of the type of *value*, fit for a message."""
    return printable(type(value).__name__)


class Problem(NamedTuple):
    """Name one *field* and the *rule* it breaks; *limit* is the rule's number or pair of numbers, if it has one."""

    field: str
    rule: str
    limit: float | tuple[float, ...] | None = None


class InvalidInput(CatalogError, ValueError):
    """
    Refuse input that breaks a rule; *problems* lists every bad field, *field* and *limit* are those of the first.

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
    """Say that no track has *track_id*."""

    def __init__(self, track_id: UUID, *, operation: str | None = None) -> None:
        super().__init__("no track has this id", operation=operation, field="id")
        self.track_id = track_id


class SaveConflict(CatalogError):
    """Say that *track_id* already holds other content, or is no longer at the *expected* version but at *actual*."""

    def __init__(
        self,
        track_id: UUID,
        *,
        actual: int,
        expected: int | None = None,
        remedy: str = "save it with replace=True to overwrite it",
    ) -> None:
        if expected is None:
            message = f"a track of this id already exists with other content (version {actual}); {remedy}"
        else:
            message = f"the track is at version {actual}, not at the expected {expected}; read it and try again"
        super().__init__(message, operation="save", field="id")
        self.track_id = track_id
        self.expected = expected
        self.actual = actual


class ConstraintViolation(CatalogError):
    """Say that *constraint* of the host's refused a row: a duplicate, or a reference to a row that is not there."""


class IllegalTransition(CatalogError):
    """Refuse a move that the table of statuses forbids; *from_status* is None for a new track."""

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
    """Say that the track is *actual*, not *expected* as the caller believed: somebody else moved it first."""

    def __init__(self, track_id: UUID, *, expected: TrackStatus | None, actual: TrackStatus) -> None:
        super().__init__(
            f"the track is {actual}, not {expected} as expected; read it and decide again",
            operation="update_status",
            field="status",
        )
        self.track_id = track_id
        self.expected = expected
        self.actual = actual


class ClaimLost(CatalogError):
    """Say that a claim no longer holds: its lease ran out, or somebody else moved the track. Nothing was changed."""

    def __init__(self, track_id: UUID, *, token: int, operation: str) -> None:
        super().__init__(
            "this claim no longer holds: its lease ran out, or the track was moved by somebody else; "
            "drop the work, or claim the track again",
            operation=operation,
        )
        self.track_id = track_id
        self.token = token


class TransientConflict(CatalogError):
    """Say that the server gave way to another transaction; run the whole unit of work again."""

    retryable = True


class StaleStatement(CatalogError):
    """Say that a prepared statement no longer fits the schema; run the whole unit of work again."""

    retryable = True


class PoolTimeout(CatalogError, TimeoutError):
    """Say that no connection became free within the pool's time-out."""


class TooManySearches(CatalogError, TimeoutError):
    """
    Say that as many searches as ``max_searches`` allows were running for the whole of ``pool_timeout``.

    The other connections are kept for everything else. Try again later, or raise ``max_searches`` and ``pool_size``.
    """


class DatabaseUnavailable(CatalogError):
    """Say that the server cannot be reached, or cannot do its work at the moment."""

    retryable = True


class CommitOutcomeUnknown(DatabaseUnavailable):
    """
    Say that the connection was lost during COMMIT, so that the work may or may not have been kept.

    ``Catalog.run`` asks the server what became of the work, and raises this only if that cannot be known;
    ``Catalog.was_committed`` does so for a unit of work of one's own. *trace* is what they ask by, where it is known.
    """

    retryable = False
    trace: tuple[Any, ...] | None = None


class QueryTimeout(CatalogError, TimeoutError):
    """Say that a statement was ended because it ran longer than its limit."""


class OperationCancelled(CatalogError):
    """Say that somebody ended the statement on the server, such as an operator."""


class TransactionAborted(CatalogError):
    """Say that nothing was kept: an error inside the unit of work was swallowed and the server had rolled back."""


class WriteRefused(CatalogError):
    """Refuse a statement of the host's session that writes a table of this package; it names the call to use."""


class UnitOfWorkEnded(CatalogError):
    """Say that a unit of work was used outside its ``with`` block."""


class SchemaMismatch(CatalogError):
    """Say that the database's schema is missing, or not one that this version of the package works with."""


class ConfigurationError(CatalogError):
    """Say that a setting is wrong: the URL, the password, the database's name, a limit."""


class PermissionDenied(CatalogError):
    """Say that the database role lacks a privilege."""


class CatalogInternalError(CatalogError):
    """Report an error that no other class describes; its cause says more."""
