"""The errors callers see, and the one place where driver errors become ours.

::

    CatalogError
    ├── InvalidInput (ValueError)              a field breaks its rule; nothing was sent or kept
    ├── TrackNotFound (LookupError)            no track has this id
    ├── SaveConflict                           the id holds other content, or its version moved
    ├── ConstraintViolation                    a constraint outside this package refused the host's own rows
    ├── IllegalTransition                      the table of statuses forbids this move
    ├── TransitionConflict                     another caller moved the track first
    ├── ClaimLost                              the lease ran out, or somebody else moved the track
    ├── TransientConflict            retryable the server chose a loser: deadlock, lock time-out, serialization
    ├── StaleStatement               retryable the schema changed under a prepared statement
    ├── PoolTimeout (TimeoutError)             no connection became free in time
    ├── DatabaseUnavailable          retryable the server cannot be reached or cannot work now
    │   └── CommitOutcomeUnknown               the connection was lost while committing
    ├── QueryTimeout (TimeoutError)            the statement ran longer than its limit
    ├── TransactionAborted                     an error was swallowed, so the server rolled everything back
    ├── UnitOfWorkEnded                        a unit of work was used before its beginning or after its end
    ├── SchemaMismatch                         the database's schema is not the one this code works with
    ├── ConfigurationError                     URL, password, database name or settings are wrong
    ├── PermissionDenied                       the database role may not do this
    └── CatalogInternalError                   anything else

Messages are written here, of at most 500 characters, and never repeat data, parameters or secrets; what the
driver said is the error's ``__cause__``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NamedTuple

import psycopg
import psycopg_pool
import sqlalchemy.exc

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


def printable(text: str) -> str:
    """Return *text* fit for a message: no more than 50 characters, controls and the like escaped."""
    text = str.__str__(text[:50])
    return text if text.isprintable() else ascii(text)[1:-1]


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
        super().__init__(f"no track has the id {track_id}", operation=operation, field="id")
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
            message = f"track {track_id} already exists with other content (version {actual}); {remedy}"
        else:
            message = f"track {track_id} is at version {actual}, not at the expected {expected}; read it and try again"
        super().__init__(message, operation="save", field="id")
        self.track_id = track_id
        self.expected = expected
        self.actual = actual


class ConstraintViolation(CatalogError):
    """Say that *constraint* refused a row: a duplicate, or a reference to a row that is not there."""


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
            f"track {track_id} is {actual}, not {expected} as expected; read it and decide again",
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
            f"the claim of track {track_id} with token {token} no longer holds: its lease ran out, or the track was "
            "moved by somebody else; drop the work, or claim the track again",
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


class DatabaseUnavailable(CatalogError):
    """Say that the server cannot be reached, or cannot do its work at the moment."""

    retryable = True


class CommitOutcomeUnknown(DatabaseUnavailable):
    """Say that the connection was lost during COMMIT, so that the work may or may not have been kept."""

    retryable = False


class QueryTimeout(CatalogError, TimeoutError):
    """Say that a statement was ended because it ran longer than its limit."""


class TransactionAborted(CatalogError):
    """Say that nothing was kept: an error inside the unit of work was swallowed and the server had rolled back."""


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


# Whole SQLSTATEs first, then their two-letter classes: the first entry that fits decides.
_CLASS_BY_SQLSTATE: dict[str, type[CatalogError]] = {
    "26000": StaleStatement,
    "40001": TransientConflict,
    "40P01": TransientConflict,
    "55P03": TransientConflict,
    "40003": CommitOutcomeUnknown,
    "57014": QueryTimeout,
    "25006": DatabaseUnavailable,
    "25P02": TransactionAborted,
    "25P03": TransactionAborted,
    "25P04": TransactionAborted,
    "42501": PermissionDenied,
    "42P01": SchemaMismatch,
    "42703": SchemaMismatch,
    "42883": SchemaMismatch,
    "3F000": SchemaMismatch,
    "428C9": SchemaMismatch,
    "3D000": ConfigurationError,
    "53400": QueryTimeout,
    "57P01": DatabaseUnavailable,
    "57P02": DatabaseUnavailable,
    "57P03": DatabaseUnavailable,
    "57P04": DatabaseUnavailable,
    "57P05": DatabaseUnavailable,
    "08": DatabaseUnavailable,
    "23": ConstraintViolation,
    "28": ConfigurationError,
    "53": DatabaseUnavailable,
    "58": DatabaseUnavailable,
}
_INVALID_INPUT = ("22", "54", "42846")
# What refuses a value of a track; in a table of the host's, it is a ConstraintViolation like any other.
_INVALID_TRACK = ("23502", "23514")
_DESCRIPTION: dict[type[CatalogError], str] = {
    StaleStatement: "the schema changed under a running service; run the unit of work again",
    TransientConflict: "the server gave way to another transaction; run the unit of work again",
    CommitOutcomeUnknown: "the connection was lost during COMMIT; the work may or may not have been kept",
    QueryTimeout: "the statement was cancelled: it ran into its time limit, or somebody ended it on the server",
    TransactionAborted: "an earlier error ended this transaction on the server; nothing of it was kept",
    PermissionDenied: "the database role lacks a privilege for this",
    SchemaMismatch: "the database's schema does not fit this version of audiocatalog; run `audiocatalog upgrade`",
    ConfigurationError: "the server refused the connection: check user, password and database name in the URL",
    DatabaseUnavailable: "the database cannot be reached or cannot work now",
    ConstraintViolation: "a constraint of the database refused a row",
    CatalogInternalError: "an unexpected database error; its cause says more",
}
_READ_ONLY = "the server is read-only now: a standby, or one that is set so (default_transaction_read_only)"
_IDLED = "the unit of work did nothing for longer than 10 s, so the server ended it; nothing of it was kept"
_CHECK_NAME = re.compile(r"^ck_(?:audio_tracks|audio_track_status_changes)_(?P<field>.+)_(?:range|visible|known)$")
_OUR_NAME = re.compile(r"^(?:(?:pk|uq|ck|fk)_)?(?:audio_track(?:s|_status_changes|_edits|_tasks)|audiocatalog)(?:_|$)")
_OUR_KEYS = (
    "pk_audio_tracks",
    "pk_audio_track_status_changes",
    "uq_audio_track_status_changes_track_id_operation_id",
)
_SHARD_SUFFIX = re.compile(r"_\d+$")
# Connection errors carry no SQLSTATE (psycopg issue 242), so these, and only these, are told apart by their text.
_CONFIGURATION_TEXT = re.compile(
    r"password authentication failed|no password supplied|(?:role|database) \".*\" does not exist"
    r"|no pg_hba\.conf entry|invalid (?:connection option|port|sslmode)|certificate|permission denied for database"
)


_DRIVER_ERRORS: Final = (sqlalchemy.exc.SQLAlchemyError, psycopg.Error, UnicodeEncodeError)


class translated:  # noqa: N801  # Used as a function is; a generator would cost a microsecond in every call.
    """Turn every driver error raised inside into the error of ours that says what it means."""

    __slots__ = ("_operation", "_phase")

    def __init__(self, operation: str, phase: Phase = "statement") -> None:
        self._operation = operation
        self._phase = phase

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and isinstance(error, _DRIVER_ERRORS):
            raise from_driver(error, operation=self._operation, phase=self._phase) from error


def from_driver(error: Exception, *, operation: str, phase: Phase = "statement") -> CatalogError:
    """Return the error of ours for *error*, by phase, SQLSTATE and constraint, never by the text of a statement."""
    original = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
    if isinstance(original, psycopg.Error) and original.sqlstate is not None:
        return _from_server(original, original.sqlstate, operation, phase)
    if isinstance(original, psycopg_pool.PoolTimeout):
        return PoolTimeout("no connection became free in time", operation=operation, phase="connect")
    if isinstance(original, psycopg.DataError | UnicodeEncodeError):
        return InvalidInput(Problem("text", "no text that PostgreSQL cannot store"), operation=operation)

    kind: type[CatalogError] = CatalogInternalError
    if isinstance(original, sqlalchemy.exc.PendingRollbackError):
        kind = TransactionAborted
    elif isinstance(original, psycopg.ProgrammingError) and phase == "connect":
        kind = ConfigurationError
    elif isinstance(original, psycopg.OperationalError):
        kind = _lost(original, phase)
    return kind(f"{operation}: {_DESCRIPTION[kind]}", operation=operation, phase=phase)


def _from_server(original: psycopg.Error, sqlstate: str, operation: str, phase: Phase) -> CatalogError:
    """Classify what the server said."""
    name = original.diag.constraint_name
    # Citus appends a shard's number to the names of our tables and constraints.
    constraint = (_SHARD_SUFFIX.sub("", name) if _OUR_NAME.match(name) else name) if name else None
    # It tells neither name where the shard lies on another machine.
    named = constraint or original.diag.table_name
    ours = named is None or _OUR_NAME.match(named) is not None
    if sqlstate.startswith(_INVALID_INPUT) or (ours and sqlstate in _INVALID_TRACK):
        problem = Problem(_field_of(constraint, original.diag.column_name), "the database refused the value")
        return InvalidInput(problem, operation=operation, sqlstate=sqlstate, constraint=constraint)
    kind = _CLASS_BY_SQLSTATE.get(sqlstate) or _CLASS_BY_SQLSTATE.get(sqlstate[:2], CatalogInternalError)
    if sqlstate == "23505" and constraint in _OUR_KEYS:
        # Our own statements meet a duplicate key only when they lost a race; run again, they find the winner's row.
        kind = TransientConflict
    elif sqlstate == "0A000" and original.diag.source_function == "RevalidateCachedQuery":
        # Of all that the server does not support, this alone passes: a plan whose result type has changed.
        kind = StaleStatement
    elif kind is DatabaseUnavailable and phase == "commit":
        kind = CommitOutcomeUnknown
    description = {"25P03": _IDLED, "25006": _READ_ONLY}.get(sqlstate, _DESCRIPTION[kind])
    return kind(
        f"{operation}: {description}", operation=operation, phase=phase, sqlstate=sqlstate, constraint=constraint
    )


def _lost(original: psycopg.OperationalError, phase: Phase) -> type[CatalogError]:
    """Classify a connection that failed without an SQLSTATE: refused, or lost before or while committing."""
    if phase == "connect" and _CONFIGURATION_TEXT.search(str(original)):
        return ConfigurationError
    return CommitOutcomeUnknown if phase == "commit" else DatabaseUnavailable


def _field_of(constraint: str | None, column: str | None) -> str:
    match = _CHECK_NAME.match(constraint or "")
    return match["field"] if match else column or "value"
