"""The translation of driver errors into the errors of audiocatalog."""

from __future__ import annotations

import re
import sys
from typing import Final

import psycopg
import sqlalchemy.exc

from audiocatalog.db.connection_parameters import refusal
from audiocatalog.errors import (
    CatalogError,
    CatalogInternalError,
    CommitOutcomeUnknown,
    ConfigurationError,
    ConstraintViolation,
    DatabaseUnavailable,
    InvalidInput,
    OperationCancelled,
    PermissionDenied,
    Phase,
    PoolTimeout,
    Problem,
    QueryTimeout,
    SchemaMismatch,
    StaleStatement,
    TransactionAborted,
    TransientConflict,
    UnitOfWorkEnded,
    printable,
)
from audiocatalog.models.redaction import DEBUGGING

# A whole SQLSTATE takes precedence over its two-letter class.
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
#: Errors whose cause lies outside the statement.
_OUTSIDE_THE_STATEMENT = (
    *(TransientConflict, StaleStatement, DatabaseUnavailable, PoolTimeout, QueryTimeout, OperationCancelled),
    *(TransactionAborted, UnitOfWorkEnded, PermissionDenied),
)
# For our tables, these SQLSTATEs mean InvalidInput; for the host's own tables, ConstraintViolation.
_INVALID_TRACK = ("23502", "23514")
_DESCRIPTION: dict[type[CatalogError], str] = {
    StaleStatement: "the schema changed while the service was running; run the unit of work again",
    TransientConflict: "the transaction conflicted with another one; run the unit of work again",
    CommitOutcomeUnknown: (
        "the connection was lost during COMMIT, so the transaction may or may not be committed; read the track again, "
        "or repeat the call with the same id or operation id"
    ),
    QueryTimeout: (
        "the statement exceeded its timeout; request less, or raise the timeout (statement_timeout, "
        "work.set_statement_timeout)"
    ),
    OperationCancelled: "the statement was cancelled on the server; if this was a mistake, run it again",
    TransactionAborted: (
        "an earlier error aborted this transaction, and the server rolled it back; let errors leave the `with` block, "
        "then run the unit of work again"
    ),
    PermissionDenied: (
        "the database role lacks a privilege for this call; as the owner of the tables, run `audiocatalog roles "
        "--grant ROLE` for the role of a service, or repeat `audiocatalog roles --apply` after an upgrade"
    ),
    SchemaMismatch: "the database's schema does not fit this version of audiocatalog; run `audiocatalog upgrade`",
    ConfigurationError: "the server refused the connection: check user, password and database name in the URL",
    DatabaseUnavailable: "the database cannot be reached, or cannot work at the moment; try again later",
    ConstraintViolation: "a constraint of the database rejected a row: correct the row; `constraint` names it",
    CatalogInternalError: "an unexpected error of the database; see the cause of this error",
}
_READ_ONLY = "the server is read-only: connect to the primary, or unset default_transaction_read_only on the server"
_IDLED = (
    "the unit of work sent no statement for longer than idle_timeout, so the server rolled it back; end it sooner, or "
    "raise idle_timeout"
)
#: SQLSTATE classes whose messages contain only names and reasons, without values of rows or parts of statements.
_SAFE_CLASSES = ("08", "0A", "25", "26", "40", "42501", "53", "55", "57", "58", "XX")
#: The names in the message about a refused connection; a name may be as secret as the password.
_NAMED = re.compile(r"\b(user|role|database|value:?) \"[^\"]*\"|(?<=no such )(user|database): \S+")
_SILENT = (
    "the server did not answer within the statement's timeout plus network_timeout, so the connection was closed; try "
    "again later"
)
_UNPROVEN = "TLS verification failed: check sslmode and sslrootcert in the URL, and the server's certificate"
_NO_SUCH_HOST = "no such host: check the host in the URL"
#: Advice about a connection that could not be opened.
_ADVICE = (
    (
        re.compile("Connection refused|No such file"),
        "no server listens at this host and port: check both, and whether the server runs",
    ),
    (re.compile("resolve host|translate host name"), _NO_SUCH_HOST),
    (
        re.compile(r"(?:session|server) is (?:not )?(?:read-only|in hot standby mode)"),
        "no host of the URL matches target_session_attrs: check this parameter, and whether a primary is running",
    ),
    (
        re.compile("timeout expired|connection timeout"),
        "the server did not answer within connect_timeout: check host and port, or try again later",
    ),
    (
        re.compile("too many (?:clients|connections)|remaining connection slots"),
        "the server has no free connection: reduce pool_size, or raise max_connections on the server",
    ),
)
_UNREADABLE = "a value from the server cannot be read: do not change DateStyle in a unit of work"
#: The kind and name of the object that a role may not use, in the server's English message.
_REFUSED = re.compile(r"(?:permission denied for|must be owner of) (\w+(?: \w+)* \S+)$")
_CANCELLED = "canceling statement due to user request"
_IN_OUR_FUNCTION = "PL/pgSQL function audiocatalog_"
_LONGEST_CAUSE = 200
_CHECK_NAME = re.compile(r"^ck_(?:audio_tracks|audio_track_status_changes)_(?P<field>.+)_(?:range|visible|known)$")
_OUR_NAME = re.compile(r"^(?:(?:pk|uq|ck|fk)_)?(?:audio_track(?:s|_status_changes|_edits|_tasks)|audiocatalog)(?:_|$)")
_OUR_KEYS = (
    "pk_audio_tracks",
    "pk_audio_track_status_changes",
    "uq_audio_track_status_changes_track_id_operation_id",
)
_SHARD_SUFFIX = re.compile(r"_\d+$")
# Only connection errors are classified by their text, because they carry no SQLSTATE (psycopg issue 242).
_TLS_TEXT = re.compile(r"certificate|does not support SSL")
_CONFIGURATION_TEXT = re.compile(
    r"\w+ authentication failed|no password supplied|is not permitted to log in|pg_hba\.conf rejects"
    r"|(?:role|database)(?: \".*\")? does not exist"
    r"|no pg_hba\.conf entry|invalid connection option|permission denied for database"
)


# psycopg raises NotImplementedError for a value that it cannot read, such as a time in a style other than ISO. Python
# raises UnicodeError for an impossible host name, such as a..b.
_DRIVER_ERRORS: Final = (sqlalchemy.exc.SQLAlchemyError, psycopg.Error, UnicodeError, NotImplementedError)


class ForkedConnectionError(psycopg.InterfaceError):
    """The use of a connection of the parent process in a forked child; nothing was sent."""


class ServerUnresponsive(psycopg.OperationalError):
    """A response timeout, after which the connection was closed."""


def over_its_limit(error: psycopg.errors.QueryCanceled) -> None:
    """
    Mark *error*, which cancelled a statement, as a timeout.

    If a timeout occurs while the server reads or ends a statement, the server cancels the statement later. By then, the
    server has lost the reason, and reports a cancellation by a user.
    """
    error.over_its_limit = True  # type: ignore[attr-defined]


class translated:  # noqa: N801  # Used like a function; a generator would cost a microsecond in every call.
    """A context that raises every driver error as an error of ours."""

    __slots__ = ("_handled", "_operation", "_phase")

    def __init__(self, operation: str, phase: Phase = "statement") -> None:
        self._operation = operation
        self._phase = phase

    def __enter__(self) -> None:
        self._handled = sys.exception()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and isinstance(error, _DRIVER_ERRORS):
            if (signal := underlying_interrupt(error, self._handled)) is not None:
                raise signal
            raise from_driver(error, operation=self._operation, phase=self._phase) from cause_of(error)


class translated_for_host(translated):  # noqa: N801  # Used like a function.
    """A context that raises an error of the host's own statement as the error that ``of_host`` returns."""

    __slots__ = ()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception) and isinstance(error, _DRIVER_ERRORS):
            if (signal := underlying_interrupt(error, self._handled)) is not None:
                raise signal
            translation = of_host(error, operation=self._operation, phase=self._phase)
            if translation is not error:
                raise translation from error


def of_host(error: Exception, *, operation: str, phase: Phase = "statement") -> Exception:
    """
    Return the error to raise for the *error* of the host's own statement.

    Some causes lie outside the statement: a conflict, a lost connection, a timeout, a missing privilege, or a
    constraint at COMMIT. For these, return an error of ours, with the driver's full error as its cause. Return any
    other error unchanged, because it is about the statement itself.
    """
    ours = from_driver(error, operation=operation, phase=phase)
    if isinstance(ours, ConstraintViolation | InvalidInput) or (ours.sqlstate or "").startswith("23"):
        return _refused_at_commit(ours, operation) if phase == "commit" and ours.constraint else error
    return ours if isinstance(ours, _OUTSIDE_THE_STATEMENT) else error


def _refused_at_commit(error: CatalogError, operation: str) -> ConstraintViolation:
    """Return the error for a deferred constraint of the host; our own constraints are not deferred."""
    return ConstraintViolation(
        f"{operation}: {_DESCRIPTION[ConstraintViolation]}",
        operation=operation,
        phase="commit",
        sqlstate=error.sqlstate,
        constraint=error.constraint,
    )


def underlying_interrupt(error: BaseException, handled: BaseException | None = None) -> BaseException | None:
    """
    Return the interrupt, such as KeyboardInterrupt, that led to *error*, or None.

    A signal can arrive while the driver or a lock cleans up, and cause an error there. The exception *handled*, which
    the caller was already handling, is ignored.
    """
    link: BaseException | None = error
    while link is not None and link is not handled:
        if not isinstance(link, Exception):
            return link
        link = link.__context__
    return None


def cause_of(error: BaseException) -> psycopg.Error | None:
    """Return the cause to attach to our error for the driver's *error*: a copy without data."""
    original = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
    return redacted(original) if isinstance(original, psycopg.Error) else None


def redacted(original: psycopg.Error) -> psycopg.Error:
    """
    Return a copy of *original* without data, for logs.

    The server's messages may quote rows, statements and parameters, so the copy keeps only names, SQLSTATE and source
    function. With ``AUDIOCATALOG_DEBUG``, return *original* itself.
    """
    if DEBUGGING:
        return original
    state, diag = original.sqlstate, original.diag
    if state is None:
        # The client's own messages are about hosts and sockets. Only a DataError quotes a parameter.
        said = "a value that cannot be sent" if isinstance(original, psycopg.DataError) else str(original)
        text = _NAMED.sub(lambda match: match[1] or match[2], said.replace("\n", " "))
    else:
        facts = {
            "constraint": diag.constraint_name,
            "table": diag.table_name,
            "column": diag.column_name,
            "in": diag.source_function,
        }
        said = f": {diag.message_primary}" if diag.message_primary and state.startswith(_SAFE_CLASSES) else ""
        text = state + said + "".join(f", {name} {value}" for name, value in facts.items() if value)
    copy = type(original)(printable(text, _LONGEST_CAUSE))
    copy.sqlstate = state
    return copy


def from_driver(error: Exception, *, operation: str, phase: Phase = "statement") -> CatalogError:
    """Return our error for *error*, chosen by phase, SQLSTATE and constraint."""
    original = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
    if isinstance(original, psycopg.Error) and original.sqlstate is not None:
        return _from_server(original, original.sqlstate, operation, phase)
    if isinstance(original, UnicodeError) and phase == "connect":
        return ConfigurationError(f"{operation}: {_NO_SUCH_HOST}", operation=operation, phase=phase, field="host")
    if isinstance(original, psycopg.DataError | UnicodeEncodeError):
        return InvalidInput(Problem("text", "only characters that PostgreSQL can store"), operation=operation)

    if isinstance(original, ForkedConnectionError):
        return UnitOfWorkEnded(
            f"{operation}: the parent process began this unit of work before the fork; begin a new one",
            operation=operation,
        )

    kind: type[CatalogError] = CatalogInternalError
    description = None
    if isinstance(original, NotImplementedError):
        description = _UNREADABLE
    elif isinstance(original, sqlalchemy.exc.PendingRollbackError):
        kind = TransactionAborted
    elif isinstance(original, psycopg.ProgrammingError) and phase == "connect":
        kind = ConfigurationError
        description = "a parameter of the database URL is wrong: check the parameters after the question mark"
    elif isinstance(original, psycopg.OperationalError):
        kind = _lost(original, phase)
        description = _advice(original, kind)
    return kind(f"{operation}: {description or _DESCRIPTION[kind]}", operation=operation, phase=phase)


def _from_server(original: psycopg.Error, sqlstate: str, operation: str, phase: Phase) -> CatalogError:
    """Return our error for an error that the server sent."""
    name = original.diag.constraint_name
    # Citus appends a shard's number to the names of our tables and constraints.
    constraint = (_SHARD_SUFFIX.sub("", name) if _OUR_NAME.match(name) else name) if name else None
    # If the shard is on another machine, Citus sends neither name.
    named = constraint or original.diag.table_name
    ours = named is None or _OUR_NAME.match(named) is not None
    if sqlstate.startswith(_INVALID_INPUT) or (ours and sqlstate in _INVALID_TRACK):
        problem = Problem(_field_of(constraint, original.diag.column_name), "the database refused the value")
        return InvalidInput(problem, operation=operation, sqlstate=sqlstate, constraint=constraint)
    kind = _CLASS_BY_SQLSTATE.get(sqlstate) or _CLASS_BY_SQLSTATE.get(sqlstate[:2], CatalogInternalError)
    if sqlstate == "23505" and constraint in _OUR_KEYS:
        # Our own statements get a duplicate key only if they lose a race. A retry finds the other row.
        kind = TransientConflict
    elif sqlstate == "0A000" and original.diag.source_function == "RevalidateCachedQuery":
        # A retry helps only if the result type of a cached plan has changed.
        kind = StaleStatement
    elif sqlstate == "42804" and _IN_OUR_FUNCTION in (original.diag.context or ""):
        # After a change of a column's type, the cached plans of a function no longer fit on this connection.
        kind = StaleStatement
    elif (
        sqlstate == "57014"
        and original.diag.message_primary == _CANCELLED
        and not getattr(original, "over_its_limit", False)
    ):
        # If the server's messages are not in English, a cancellation counts as a timeout.
        kind = OperationCancelled
    elif kind is DatabaseUnavailable and phase == "commit" and original.diag.severity_nonlocalized != "ERROR":
        # An ERROR, unlike a FATAL, ends only the transaction, which is then known to be rolled back.
        kind = CommitOutcomeUnknown
    description = {"25P03": _IDLED, "25006": _READ_ONLY}.get(sqlstate, _DESCRIPTION[kind])
    if kind is PermissionDenied and (refused := _REFUSED.match(original.diag.message_primary or "")):
        description = description.replace("for this call", f"on the {printable(refused[1])}", 1)
    return kind(
        f"{operation}: {description}", operation=operation, phase=phase, sqlstate=sqlstate, constraint=constraint
    )


def _lost(original: psycopg.OperationalError, phase: Phase) -> type[CatalogError]:
    """Return the class of error for a connection that failed without an SQLSTATE."""
    said = str(original)
    if phase == "connect" and (refusal(said) or _CONFIGURATION_TEXT.search(said) or _TLS_TEXT.search(said)):
        return ConfigurationError
    return CommitOutcomeUnknown if phase == "commit" else DatabaseUnavailable


def _advice(original: psycopg.OperationalError, kind: type[CatalogError]) -> str | None:
    """Return advice about a failed connection, if there is any."""
    if kind is DatabaseUnavailable:
        if isinstance(original, ServerUnresponsive):
            return _SILENT
        return next((advice for text, advice in _ADVICE if text.search(str(original))), None)
    if kind is not ConfigurationError:
        return None
    return refusal(str(original)) or (_UNPROVEN if _TLS_TEXT.search(str(original)) else None)


def _field_of(constraint: str | None, column: str | None) -> str:
    match = _CHECK_NAME.match(constraint or "")
    return match["field"] if match else column or "value"
