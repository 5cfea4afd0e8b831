"""The one place where driver errors become ours."""

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
#: Errors whose cause lies outside the statement.
_OUTSIDE_THE_STATEMENT = (
    *(TransientConflict, StaleStatement, DatabaseUnavailable, PoolTimeout, QueryTimeout, OperationCancelled),
    *(TransactionAborted, UnitOfWorkEnded, PermissionDenied),
)
# What refuses a value of a track; in a table of the host's, it is a ConstraintViolation like any other.
_INVALID_TRACK = ("23502", "23514")
_DESCRIPTION: dict[type[CatalogError], str] = {
    StaleStatement: "the schema changed under a running service; run the unit of work again",
    TransientConflict: "the server gave way to another transaction; run the unit of work again",
    CommitOutcomeUnknown: (
        "the connection was lost during COMMIT; the work may or may not have been kept: read it again, or repeat it "
        "with its id or operation id"
    ),
    QueryTimeout: (
        "the statement was ended: it ran into its time limit; ask for less, or allow more (statement_timeout, "
        "work.allow)"
    ),
    OperationCancelled: "the statement was ended: somebody cancelled it on the server",
    TransactionAborted: "an earlier error ended this transaction on the server; nothing of it was kept",
    PermissionDenied: (
        "the database role lacks a privilege for this; as the owner of the tables, run `audiocatalog roles --grant "
        "ROLE` for a service's own role, or `audiocatalog roles --apply` again after an upgrade"
    ),
    SchemaMismatch: "the database's schema does not fit this version of audiocatalog; run `audiocatalog upgrade`",
    ConfigurationError: "the server refused the connection: check user, password and database name in the URL",
    DatabaseUnavailable: "the database cannot be reached or cannot work now",
    ConstraintViolation: "a constraint of the database refused a row",
    CatalogInternalError: "an unexpected database error; its cause says more",
}
_READ_ONLY = "the server is read-only now: a standby, or one that is set so (default_transaction_read_only)"
_IDLED = "the unit of work did nothing for longer than idle_timeout, so the server ended it; nothing of it was kept"
#: What the server says in these classes, and nothing but names and reasons: no value of a row, no part of a statement.
_TOLD = ("08", "0A", "25", "26", "40", "42501", "53", "55", "57", "58", "XX")
#: What a connection that is refused names, which may be as secret as the password.
_NAMED = re.compile(r"\b(user|role|database|value:?) \"[^\"]*\"|(?<=no such )(user|database): \S+")
_SILENT = (
    "the server left a call unanswered for longer than its time limit and network_timeout; the connection was closed"
)
_UNPROVEN = (
    "the server does not prove by TLS who it is, as the URL demands: check sslmode and sslrootcert in the URL, and the "
    "server's certificate"
)
_NO_SUCH_HOST = "no such host: check the one in the URL"
#: What is to be done about a connection that could not be made.
_ADVICE = (
    (
        re.compile("Connection refused|No such file"),
        "nothing listens there: check host and port, and that the server runs",
    ),
    (re.compile("resolve host|translate host name"), _NO_SUCH_HOST),
    (
        re.compile(r"(?:session|server) is (?:not )?(?:read-only|in hot standby mode)"),
        "no host of the URL is in the state that its target_session_attrs asks for",
    ),
    (re.compile("timeout expired|connection timeout"), "the server did not answer within connect_timeout"),
    (
        re.compile("too many (?:clients|connections)|remaining connection slots"),
        "the server has no connection left: make pools smaller, or raise its max_connections",
    ),
)
_UNREADABLE = "a value of the server's cannot be read; in a unit of work, leave DateStyle as the catalogue has set it"
#: The object that a role may not use, in the server's English message: its kind and its name, which are no data.
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
# Connection errors carry no SQLSTATE (psycopg issue 242), so these, and only these, are told apart by their text.
_TLS_TEXT = re.compile(r"certificate|does not support SSL")
_CONFIGURATION_TEXT = re.compile(
    r"\w+ authentication failed|no password supplied|is not permitted to log in|pg_hba\.conf rejects"
    r"|(?:role|database)(?: \".*\")? does not exist"
    r"|no pg_hba\.conf entry|invalid connection option|permission denied for database"
)


# psycopg raises NotImplementedError for a value that it cannot read, such as a time in another style than ISO, and
# Python raises UnicodeError for a host whose name cannot be looked up, such as a..b.
_DRIVER_ERRORS: Final = (sqlalchemy.exc.SQLAlchemyError, psycopg.Error, UnicodeError, NotImplementedError)


class AnothersConnection(psycopg.InterfaceError):
    """Say that a forked child has used a connection of its parent's; nothing was sent."""


class ServerSilent(psycopg.OperationalError):
    """Say that the server left a call unanswered for so long that the connection was given up."""


def over_its_limit(error: psycopg.errors.QueryCanceled) -> None:
    """
    Note that the statement which *error* ended had run for as long as it may.

    A limit that strikes while the server reads or ends a statement ends it at the next moment when it may be ended; by
    then the server has forgotten why, and says that a user asked for it.
    """
    error.over_its_limit = True  # type: ignore[attr-defined]


class translated:  # noqa: N801  # Used as a function is; a generator would cost a microsecond in every call.
    """Turn every driver error raised inside into the error of ours that says what it means."""

    __slots__ = ("_handled", "_operation", "_phase")

    def __init__(self, operation: str, phase: Phase = "statement") -> None:
        self._operation = operation
        self._phase = phase

    def __enter__(self) -> None:
        self._handled = sys.exception()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None and isinstance(error, _DRIVER_ERRORS):
            if (signal := interrupt_behind(error, self._handled)) is not None:
                raise signal
            raise from_driver(error, operation=self._operation, phase=self._phase) from cause_of(error)


class translated_for_host(translated):  # noqa: N801  # Used as a function is.
    """Turn an error of a statement of the host's own into the one that ``of_host`` returns for it."""

    __slots__ = ()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, Exception) and isinstance(error, _DRIVER_ERRORS):
            if (signal := interrupt_behind(error, self._handled)) is not None:
                raise signal
            told = of_host(error, operation=self._operation, phase=self._phase)
            if told is not error:
                raise told from error


def of_host(error: Exception, *, operation: str, phase: Phase = "statement") -> Exception:
    """
    Return the error to raise for the *error* of a statement that the host has run by its session.

    For a cause outside the statement, it is an error of ours, and its own cause is the driver's error in full: a
    conflict, a lost connection, a limit, a missing right, and at COMMIT a constraint. Any other error is about the
    statement, which the host has to mend, and is returned unchanged.
    """
    ours = from_driver(error, operation=operation, phase=phase)
    if isinstance(ours, ConstraintViolation | InvalidInput) or (ours.sqlstate or "").startswith("23"):
        return _refused_at_commit(ours, operation) if phase == "commit" and ours.constraint else error
    return ours if isinstance(ours, _OUTSIDE_THE_STATEMENT) else error


def _refused_at_commit(error: CatalogError, operation: str) -> ConstraintViolation:
    """Return the error for a constraint that was deferred until COMMIT; none of ours is."""
    return ConstraintViolation(
        f"{operation}: {_DESCRIPTION[ConstraintViolation]}",
        operation=operation,
        phase="commit",
        sqlstate=error.sqlstate,
        constraint=error.constraint,
    )


def interrupt_behind(error: BaseException, handled: BaseException | None = None) -> BaseException | None:
    """
    Return what is no error, such as KeyboardInterrupt, and has led to *error*, or None.

    A signal comes anywhere, also while the driver or a lock cleans up, which then stumbles over it. What the caller has
    *handled* before is his own business.
    """
    link: BaseException | None = error
    while link is not None and link is not handled:
        if not isinstance(link, Exception):
            return link
        link = link.__context__
    return None


def cause_of(error: BaseException) -> psycopg.Error | None:
    """Return what is told of the driver's *error* as the cause of ours."""
    original = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
    return without_data(original) if isinstance(original, psycopg.Error) else None


def without_data(original: psycopg.Error) -> psycopg.Error:
    """
    Return an error of the same class as *original*, fit for a log.

    What the server says of a row, a statement or a parameter quotes them; names, SQLSTATE and place do not.
    ``AUDIOCATALOG_DEBUG`` leaves it as it is.
    """
    if DEBUGGING:
        return original
    state, diag = original.sqlstate, original.diag
    if state is None:
        # The client's own words are of hosts and sockets; only a parameter that cannot be sent is quoted.
        said = "a value that cannot be sent" if isinstance(original, psycopg.DataError) else str(original)
        text = _NAMED.sub(lambda match: match[1] or match[2], said.replace("\n", " "))
    else:
        facts = {
            "constraint": diag.constraint_name,
            "table": diag.table_name,
            "column": diag.column_name,
            "in": diag.source_function,
        }
        said = f": {diag.message_primary}" if diag.message_primary and state.startswith(_TOLD) else ""
        text = state + said + "".join(f", {name} {value}" for name, value in facts.items() if value)
    copy = type(original)(printable(text, _LONGEST_CAUSE))
    copy.sqlstate = state
    return copy


def from_driver(error: Exception, *, operation: str, phase: Phase = "statement") -> CatalogError:
    """Return the error of ours for *error*, by phase, SQLSTATE and constraint, never by the text of a statement."""
    original = error.orig if isinstance(error, sqlalchemy.exc.DBAPIError) else error
    if isinstance(original, psycopg.Error) and original.sqlstate is not None:
        return _from_server(original, original.sqlstate, operation, phase)
    if isinstance(original, UnicodeError) and phase == "connect":
        return ConfigurationError(f"{operation}: {_NO_SUCH_HOST}", operation=operation, phase=phase, field="host")
    if isinstance(original, psycopg.DataError | UnicodeEncodeError):
        return InvalidInput(Problem("text", "no text that PostgreSQL cannot store"), operation=operation)

    if isinstance(original, AnothersConnection):
        return UnitOfWorkEnded(
            f"{operation}: this unit of work was begun before the fork, and belongs to the parent", operation=operation
        )

    kind: type[CatalogError] = CatalogInternalError
    description = None
    if isinstance(original, NotImplementedError):
        description = _UNREADABLE
    elif isinstance(original, sqlalchemy.exc.PendingRollbackError):
        kind = TransactionAborted
    elif isinstance(original, psycopg.ProgrammingError) and phase == "connect":
        kind = ConfigurationError
        description = "a parameter of the database URL is wrong"
    elif isinstance(original, psycopg.OperationalError):
        kind = _lost(original, phase)
        description = _advice(original, kind)
    return kind(f"{operation}: {description or _DESCRIPTION[kind]}", operation=operation, phase=phase)


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
    elif sqlstate == "42804" and _IN_OUR_FUNCTION in (original.diag.context or ""):
        # A function keeps its plans; after a change of a column's type, they fit no more on this connection.
        kind = StaleStatement
    elif (
        sqlstate == "57014"
        and original.diag.message_primary == _CANCELLED
        and not getattr(original, "over_its_limit", False)
    ):
        # In another language than English, it cannot be told from a time-out.
        kind = OperationCancelled
    elif kind is DatabaseUnavailable and phase == "commit" and original.diag.severity_nonlocalized != "ERROR":
        # An ERROR ends the transaction and nothing else: then it is known that nothing was kept.
        kind = CommitOutcomeUnknown
    description = {"25P03": _IDLED, "25006": _READ_ONLY}.get(sqlstate, _DESCRIPTION[kind])
    if kind is PermissionDenied and (refused := _REFUSED.match(original.diag.message_primary or "")):
        description = description.replace("for this", f"on the {printable(refused[1])}", 1)
    return kind(
        f"{operation}: {description}", operation=operation, phase=phase, sqlstate=sqlstate, constraint=constraint
    )


def _lost(original: psycopg.OperationalError, phase: Phase) -> type[CatalogError]:
    """Classify a connection that failed without an SQLSTATE: refused, or lost before or while committing."""
    said = str(original)
    if phase == "connect" and (refusal(said) or _CONFIGURATION_TEXT.search(said) or _TLS_TEXT.search(said)):
        return ConfigurationError
    return CommitOutcomeUnknown if phase == "commit" else DatabaseUnavailable


def _advice(original: psycopg.OperationalError, kind: type[CatalogError]) -> str | None:
    """Return what more can be said of a connection that failed."""
    if kind is DatabaseUnavailable:
        if isinstance(original, ServerSilent):
            return _SILENT
        return next((advice for text, advice in _ADVICE if text.search(str(original))), None)
    if kind is not ConfigurationError:
        return None
    return refusal(str(original)) or (_UNPROVEN if _TLS_TEXT.search(str(original)) else None)


def _field_of(constraint: str | None, column: str | None) -> str:
    match = _CHECK_NAME.match(constraint or "")
    return match["field"] if match else column or "value"
