"""Whatever the driver says becomes one error of ours, which says whether to try again and repeats no data."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import traceback
from uuid import UUID

import psycopg
import pytest
import sqlalchemy.exc
from psycopg.pq import DiagnosticField
from sqlalchemy import Connection, text

from audiocatalog import TrackStatus, errors
from audiocatalog.db.error_translation import from_driver, translated
from audiocatalog.errors import (
    CatalogError,
    CatalogInternalError,
    CommitOutcomeUnknown,
    ConfigurationError,
    ConstraintViolation,
    DatabaseUnavailable,
    InvalidInput,
    PermissionDenied,
    Phase,
    Problem,
    QueryTimeout,
    SchemaMismatch,
    StaleStatement,
    TransactionAborted,
    TransientConflict,
)
from audiocatalog.models.ids import new_id

PLANTED = "planted secret"
TRACK_ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
PHASES: tuple[Phase, ...] = ("connect", "statement", "commit")
RETRYABLE = {TransientConflict, StaleStatement, DatabaseUnavailable}

#: Every class of ours, the root included.
CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, CatalogError)]
#: Every class of the driver that stands for one SQLSTATE.
BY_SQLSTATE: dict[str, type[psycopg.Error]] = {
    kind.sqlstate: kind
    for _, kind in inspect.getmembers(psycopg.errors, inspect.isclass)
    if issubclass(kind, psycopg.Error) and kind.sqlstate
}

#: One error of each class, with every fact it can have.
EXAMPLES: list[CatalogError] = [
    InvalidInput(
        [Problem("title", "text, not int"), Problem("year", "a whole number", (1000, 9999))],
        operation="save",
        sqlstate="23514",
        constraint="ck_audio_tracks_year_range",
    ),
    errors.TrackNotFound(TRACK_ID, operation="get"),
    errors.SaveConflict(TRACK_ID, actual=3, expected=2),
    errors.SaveConflict(TRACK_ID, actual=3),
    errors.IllegalTransition(None, TrackStatus.FAILED, track_id=TRACK_ID),
    errors.TransitionConflict(TRACK_ID, expected=TrackStatus.PENDING, actual=TrackStatus.FAILED),
    *(
        kind("a message", operation="save", phase="commit", sqlstate="XX000", constraint="c", field="f")
        for kind in CLASSES
        if kind.__init__ is CatalogError.__init__
    ),
]


def server_error(sqlstate: str, *, constraint: str | None = None, column: str | None = None) -> psycopg.Error:
    """Return an error as the driver makes it of a server's answer, in the form that it pickles."""
    facts = {
        DiagnosticField.SQLSTATE: sqlstate,
        DiagnosticField.CONSTRAINT_NAME: constraint,
        DiagnosticField.COLUMN_NAME: column,
        DiagnosticField.MESSAGE_DETAIL: f"Failing row contains ({PLANTED}).",
    }
    info = {int(field): None if fact is None else fact.encode() for field, fact in facts.items()}
    return BY_SQLSTATE.get(sqlstate, psycopg.DatabaseError)(f"the server says: {PLANTED}", info=info)


def wrapped(driver: psycopg.Error) -> sqlalchemy.exc.DBAPIError:
    """Return *driver* as SQLAlchemy raises it, with the statement and its parameters."""
    return sqlalchemy.exc.DBAPIError(f"INSERT INTO t VALUES ('{PLANTED}')", {"title": PLANTED}, driver)


def printed(error: CatalogError) -> str:
    """Return everything that a log could hold of *error* itself."""
    return f"{error} {error!r} {error.args} {vars(error)}"


# Every SQLSTATE there is.


def test_the_driver_knows_the_sqlstates() -> None:
    assert len(BY_SQLSTATE) > 250
    assert {"23505", "40001", "57014", "XX000"} <= set(BY_SQLSTATE)


@pytest.mark.parametrize("phase", PHASES)
def test_every_sqlstate_becomes_one_error_of_ours(phase: Phase) -> None:
    for sqlstate in BY_SQLSTATE:
        driver = server_error(sqlstate, constraint="a_constraint", column="a_column")
        found = from_driver(wrapped(driver), operation="save", phase=phase)
        assert type(found) in CLASSES, sqlstate
        assert type(found) is not CatalogError, sqlstate
        assert type(from_driver(driver, operation="save", phase=phase)) is type(found), sqlstate
        assert (found.sqlstate, found.operation) == (sqlstate, "save")
        assert found.constraint == "a_constraint"
        assert found.retryable is (type(found) in RETRYABLE), sqlstate
        assert PLANTED not in printed(found), sqlstate
        assert len(str(found)) <= 500


def test_no_sqlstate_is_retried_that_the_table_does_not_name() -> None:
    """A retry that cannot help hides an error and burdens the server; the list is short, and it is meant to be."""
    retried = {state for state in BY_SQLSTATE if from_driver(server_error(state), operation="save").retryable}
    single = {"25006", "26000", "40001", "40P01", "55P03"}
    assert {state for state in retried if state[:2] not in {"08", "53", "57", "58"}} == single
    assert retried & {"53400", "57014", "57000"} == set()


def test_in_commit_nothing_is_retried_whose_outcome_is_unknown() -> None:
    for sqlstate in BY_SQLSTATE:
        driver = server_error(sqlstate)
        if type(from_driver(driver, operation="save")) is DatabaseUnavailable:
            assert type(from_driver(driver, operation="save", phase="commit")) is CommitOutcomeUnknown


@pytest.mark.parametrize("sqlstate", ["ZZ999", "P9999", "0ZZZZ"])
def test_an_unknown_sqlstate_is_an_internal_error_that_is_not_retried(sqlstate: str) -> None:
    found = from_driver(server_error(sqlstate), operation="save")
    assert (type(found), found.sqlstate, found.retryable) == (CatalogInternalError, sqlstate, False)


#: What the important ones mean, and whether the same unit of work may succeed when it is run again.
TABLE: list[tuple[str, str | None, Phase, type[CatalogError], bool]] = [
    # The server chose a loser; the loser runs again.
    ("40001", None, "statement", TransientConflict, True),
    ("40001", None, "commit", TransientConflict, True),
    ("40P01", None, "statement", TransientConflict, True),
    ("55P03", None, "statement", TransientConflict, True),
    # Our own statements meet a duplicate only in a race, and find the winner's row the next time.
    ("23505", "pk_audio_tracks", "statement", TransientConflict, True),
    ("23505", "pk_audio_tracks_102017", "statement", TransientConflict, True),
    ("23505", "pk_audio_track_status_changes", "statement", TransientConflict, True),
    ("23505", "uq_audio_track_status_changes_track_id_operation_id", "statement", TransientConflict, True),
    # A host's duplicate is there the next time, too; so is that of a host's table whose name begins like ours.
    ("23505", "users_email_key", "statement", ConstraintViolation, False),
    ("23505", "pk_audio_track_tags", "statement", ConstraintViolation, False),
    ("23505", "uq_audio_tracks_of_host_isrc", "statement", ConstraintViolation, False),
    ("23505", None, "statement", ConstraintViolation, False),
    ("23503", "fk_playlist_track_id", "statement", ConstraintViolation, False),
    ("23503", "fk_playlist_track_id", "commit", ConstraintViolation, False),
    ("23P01", "no_overlap", "statement", ConstraintViolation, False),
    # Values that the database refuses, which it will refuse again.
    ("22001", None, "statement", InvalidInput, False),
    ("22003", None, "statement", InvalidInput, False),
    ("22021", None, "statement", InvalidInput, False),
    ("22P02", None, "statement", InvalidInput, False),
    ("23502", None, "statement", InvalidInput, False),
    ("23514", "ck_audio_tracks_year_range", "statement", InvalidInput, False),
    ("42846", None, "statement", InvalidInput, False),
    ("54000", None, "statement", InvalidInput, False),
    ("54001", None, "statement", InvalidInput, False),
    # The schema changed under a prepared statement.
    ("0A000", None, "statement", CatalogInternalError, False),
    ("26000", None, "statement", StaleStatement, True),
    ("42804", None, "statement", CatalogInternalError, False),
    # Time ran out: the statement's, or its temporary files' room.
    ("57014", None, "statement", QueryTimeout, False),
    ("57014", None, "commit", QueryTimeout, False),
    ("53400", None, "statement", QueryTimeout, False),
    # The server is going, gone, full, starting, or a standby now.
    ("57P01", None, "statement", DatabaseUnavailable, True),
    ("57P02", None, "statement", DatabaseUnavailable, True),
    ("57P03", None, "connect", DatabaseUnavailable, True),
    ("08006", None, "statement", DatabaseUnavailable, True),
    ("53100", None, "statement", DatabaseUnavailable, True),
    ("53200", None, "statement", DatabaseUnavailable, True),
    ("53300", None, "connect", DatabaseUnavailable, True),
    ("58030", None, "statement", DatabaseUnavailable, True),
    ("25006", None, "statement", DatabaseUnavailable, True),
    # The same in COMMIT leaves open whether anything was kept.
    ("57P01", None, "commit", CommitOutcomeUnknown, False),
    ("08006", None, "commit", CommitOutcomeUnknown, False),
    ("08007", None, "commit", CommitOutcomeUnknown, False),
    ("40003", None, "statement", CommitOutcomeUnknown, False),
    # The server has rolled back; going on makes no sense.
    ("25P02", None, "statement", TransactionAborted, False),
    ("25P03", None, "statement", TransactionAborted, False),
    ("25P04", None, "statement", TransactionAborted, False),
    # Nothing that waiting mends.
    ("42501", None, "statement", PermissionDenied, False),
    ("42P01", None, "statement", SchemaMismatch, False),
    ("42703", None, "statement", SchemaMismatch, False),
    ("42883", None, "statement", SchemaMismatch, False),
    ("428C9", None, "statement", SchemaMismatch, False),
    ("3F000", None, "statement", SchemaMismatch, False),
    ("28P01", None, "connect", ConfigurationError, False),
    ("28000", None, "connect", ConfigurationError, False),
    ("3D000", None, "connect", ConfigurationError, False),
    ("42601", None, "statement", CatalogInternalError, False),
    ("P0001", None, "statement", CatalogInternalError, False),
    ("XX000", None, "statement", CatalogInternalError, False),
    ("XX001", None, "statement", CatalogInternalError, False),
]


@pytest.mark.parametrize(
    ("sqlstate", "constraint", "phase", "kind", "retryable"),
    TABLE,
    ids=[f"{state} {constraint or ''} in {phase}" for state, constraint, phase, *_ in TABLE],
)
def test_a_sqlstate_means_what_the_table_says(
    sqlstate: str, constraint: str | None, phase: Phase, kind: type[CatalogError], *, retryable: bool
) -> None:
    found = from_driver(wrapped(server_error(sqlstate, constraint=constraint)), operation="save", phase=phase)
    assert (type(found), found.retryable) == (kind, retryable)
    if kind is not InvalidInput:
        assert found.phase == phase


@pytest.mark.parametrize(
    ("sqlstate", "constraint", "column", "field"),
    [
        ("23514", "ck_audio_tracks_year_range", None, "year"),
        ("23514", "ck_audio_tracks_year_range_102017", None, "year"),
        ("23514", "ck_audio_tracks_sample_rate_range", None, "sample_rate"),
        ("23514", "ck_audio_tracks_audio_path_visible", None, "audio_path"),
        ("23514", "ck_audio_tracks_status_known", None, "status"),
        ("23514", "ck_audiocatalog_count_range", None, "value"),
        ("23514", "ck_audiocatalog_time_finite", None, "value"),
        ("23502", None, "title", "title"),
        ("22001", None, None, "value"),
        ("54000", None, None, "value"),
    ],
)
def test_invalid_input_names_the_field_where_the_server_tells_it(
    sqlstate: str, constraint: str | None, column: str | None, field: str
) -> None:
    found = from_driver(server_error(sqlstate, constraint=constraint, column=column), operation="save")
    assert isinstance(found, InvalidInput)
    assert (found.field, found.problems[0].field) == (field, field)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pk_audio_tracks", "pk_audio_tracks"),
        ("pk_audio_tracks_102017", "pk_audio_tracks"),
        ("ck_audio_tracks_year_range_102017", "ck_audio_tracks_year_range"),
        ("users_email_key", "users_email_key"),
        ("", None),
        (None, None),
    ],
)
def test_a_constraint_is_told_without_the_suffix_of_its_shard(name: str | None, told: str | None) -> None:
    assert from_driver(server_error("23505", constraint=name), operation="save").constraint == told


# What comes without a SQLSTATE.


@pytest.mark.parametrize(
    ("error", "phase", "kind"),
    [
        # libpq tells a failed connection only in words.
        (psycopg.OperationalError("connection refused"), "connect", DatabaseUnavailable),
        (psycopg.OperationalError('FATAL: password authentication failed for user "u"'), "connect", ConfigurationError),
        (psycopg.OperationalError("fe_sendauth: no password supplied"), "connect", ConfigurationError),
        (psycopg.OperationalError('FATAL: database "d" does not exist'), "connect", ConfigurationError),
        (psycopg.OperationalError('FATAL: role "r" does not exist'), "connect", ConfigurationError),
        (psycopg.OperationalError('FATAL: no pg_hba.conf entry for host "h"'), "connect", ConfigurationError),
        (psycopg.ProgrammingError('invalid connection option "x"'), "connect", ConfigurationError),
        (psycopg.errors.ConnectionTimeout("connection timeout expired"), "connect", DatabaseUnavailable),
        # The same words inside a statement come from somebody's data, not from the server's door.
        (psycopg.OperationalError("password authentication failed"), "statement", DatabaseUnavailable),
        (psycopg.OperationalError("server closed the connection unexpectedly"), "statement", DatabaseUnavailable),
        (psycopg.OperationalError("server closed the connection unexpectedly"), "commit", CommitOutcomeUnknown),
        # Text that the driver cannot send.
        (psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"), "statement", InvalidInput),
        (UnicodeEncodeError("utf-8", PLANTED + "\ud800", 14, 15, "surrogates not allowed"), "statement", InvalidInput),
        (
            sqlalchemy.exc.PendingRollbackError("this session's transaction was rolled back"),
            "commit",
            TransactionAborted,
        ),
        # What no class describes.
        (psycopg.ProgrammingError("the query has 1 placeholder"), "statement", CatalogInternalError),
        (psycopg.InterfaceError("the cursor is closed"), "statement", CatalogInternalError),
        (psycopg.Error("?"), "statement", CatalogInternalError),
        (sqlalchemy.exc.InvalidRequestError("this session is in 'committed' state"), "commit", CatalogInternalError),
        (sqlalchemy.exc.StatementError(PLANTED, PLANTED, {}, ValueError(PLANTED)), "statement", CatalogInternalError),
    ],
    ids=lambda value: f"{type(value).__name__}: {value}"[:70] if isinstance(value, Exception) else str(value)[-30:],
)
def test_what_has_no_sqlstate_is_told_by_class_and_phase(
    error: Exception, phase: Phase, kind: type[CatalogError]
) -> None:
    found = from_driver(error, operation="save", phase=phase)
    assert type(found) is kind
    assert found.sqlstate is None
    assert PLANTED not in printed(found)
    if isinstance(error, psycopg.Error):
        assert type(from_driver(wrapped(error), operation="save", phase=phase)) is kind


# What a real server says.


@pytest.fixture
def bench(connection: Connection) -> Connection:
    """Give a connection with a table of the host's own, in which a secret is stored."""
    connection.exec_driver_sql(
        "CREATE TABLE host_rows (key text CONSTRAINT host_rows_pkey PRIMARY KEY, digits integer NOT NULL DEFAULT 1"
        " CONSTRAINT host_rows_digits_check CHECK (digits > 0))"
    )
    connection.execute(text("INSERT INTO host_rows VALUES (:key)"), {"key": PLANTED})
    return connection


TRACK = "INSERT INTO audio_tracks (id, status, title, artist, audio_path, year) VALUES"
CHANGE = "INSERT INTO audio_track_status_changes (track_id, version, to_status, actor, reason) VALUES"
RAISE = f"DO $$ BEGIN RAISE EXCEPTION '{PLANTED}' USING ERRCODE ="
#: A parameter that is used for several columns must be said to be text: else it would be the domain of the first.
SECRET = "CAST(:secret AS text)"
#: A statement, and what it becomes.
REAL: list[tuple[str, str, type[CatalogError], str | None]] = [
    ("a duplicate", "INSERT INTO host_rows VALUES (:secret)", ConstraintViolation, "23505"),
    ("no year", f"{TRACK} (gen_random_uuid(), 'PENDING', {SECRET}, {SECRET}, {SECRET}, 0)", InvalidInput, "23514"),
    ("no title", f"{TRACK} (gen_random_uuid(), 'PENDING', NULL, {SECRET}, {SECRET}, 1999)", InvalidInput, "23502"),
    ("too long", f"{TRACK} (gen_random_uuid(), 'PENDING', repeat(:secret, 99), 'a', 'a', 1999)", InvalidInput, "22001"),
    ("no track", f"{CHANGE} (gen_random_uuid(), 1, 'PENDING', {SECRET}, {SECRET})", ConstraintViolation, "23503"),
    ("division by zero", "SELECT length(:secret) / 0", InvalidInput, "22012"),
    ("no number", "SELECT CAST(:secret AS integer)", InvalidInput, "22P02"),
    ("no table", f'SELECT CAST(:secret AS text) FROM "{PLANTED}"', SchemaMismatch, "42P01"),
    ("no column", f'SELECT "{PLANTED}" FROM audio_tracks WHERE title = :secret', SchemaMismatch, "42703"),
    ("bad grammar", f"SELECT '{PLANTED}' FROM FROM audio_tracks WHERE title = :secret", CatalogInternalError, "42601"),
    ("a host's exception", f"{RAISE} 'P0001'; END $$", CatalogInternalError, "P0001"),
    ("an unknown state", f"{RAISE} 'ZZ999'; END $$", CatalogInternalError, "ZZ999"),
]


@pytest.mark.parametrize(("statement", "kind", "sqlstate"), [case[1:] for case in REAL], ids=[case[0] for case in REAL])
def test_a_real_error_is_told_without_its_data(
    bench: Connection, statement: str, kind: type[CatalogError], sqlstate: str | None
) -> None:
    def run() -> None:
        with bench.begin_nested():
            bench.execute(text(statement), {"secret": PLANTED} if ":secret" in statement else {})

    with pytest.raises(CatalogError) as caught, translated("save"):
        run()
    found = caught.value
    assert (type(found), found.sqlstate, found.operation) == (kind, sqlstate, "save")
    assert PLANTED not in "".join(traceback.format_exception(found))
    assert isinstance(found.__cause__, psycopg.Error)
    assert found.__cause__.sqlstate == sqlstate
    assert PLANTED not in printed(found)
    assert len(str(found)) <= 500


@pytest.mark.parametrize("hostile", ["\0", "\ud800"], ids=["NUL", "surrogate"])
def test_a_parameter_that_cannot_be_sent_is_invalid_input(bench: Connection, hostile: str) -> None:
    with pytest.raises(InvalidInput) as caught, translated("save"):
        bench.execute(text("SELECT CAST(:secret AS text)"), {"secret": PLANTED + hostile})
    assert PLANTED not in printed(caught.value)


def test_a_real_check_names_field_and_constraint(bench: Connection) -> None:
    statement = text(f"{TRACK} (:id, 'PENDING', 'a', 'b', 'c', 0)")
    with pytest.raises(InvalidInput) as caught, translated("save"):
        bench.execute(statement, {"id": new_id()})
    found = caught.value
    assert (found.field, found.sqlstate, found.constraint) == ("year", "23514", "ck_audio_tracks_year_range")
    assert str(found) == "year: the database refused the value"


def test_a_real_duplicate_of_ours_may_be_tried_again(bench: Connection) -> None:
    statement = text(f"{TRACK} (:id, 'PENDING', 'a', 'b', 'c', 1999)")
    bench.execute(statement, {"id": TRACK_ID})
    with pytest.raises(TransientConflict) as caught, translated("save"):
        bench.execute(statement, {"id": TRACK_ID})
    assert (caught.value.constraint, caught.value.retryable) == ("pk_audio_tracks", True)
    assert str(TRACK_ID) not in printed(caught.value)


def test_what_follows_a_swallowed_error_is_aborted(bench: Connection) -> None:
    with pytest.raises(TransactionAborted), translated("find"), bench.begin_nested():
        with pytest.raises(sqlalchemy.exc.DBAPIError):
            bench.execute(text("SELECT 1 / 0"))
        bench.execute(text("SELECT 1"))


def test_a_real_time_out_is_a_query_time_out(bench: Connection) -> None:
    bench.execute(text("SET LOCAL statement_timeout = 10"))
    with pytest.raises(QueryTimeout) as caught, translated("search"):
        bench.execute(text("SELECT pg_sleep(5)"))
    assert isinstance(caught.value, TimeoutError)
    assert str(caught.value).startswith("search: the statement exceeded its timeout; request less")


# What passes through.


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        SystemExit(1),
        GeneratorExit(),
        ValueError("the caller's own"),
        TimeoutError("the caller's own"),
        errors.TrackNotFound(TRACK_ID),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_not_the_drivers_passes_untouched(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, translated("save"):
        raise error
    assert caught.value is error
    assert error.__cause__ is None


def test_what_went_well_is_left_alone() -> None:
    with translated("save"):
        done = True
    assert done


def test_the_cause_is_an_error_of_the_drivers_class() -> None:
    driver = wrapped(server_error("40001"))
    with pytest.raises(TransientConflict) as caught, translated("save", "commit"):
        raise driver
    assert isinstance(caught.value.__cause__, psycopg.errors.SerializationFailure)
    assert caught.value.__cause__.sqlstate == "40001"
    assert (caught.value.phase, caught.value.operation) == ("commit", "save")


# The tree.

#: Which class stands under which, what else it is, and whether the drawing marks it as retryable.
DRAWN = re.compile(
    r"^    (?P<indent>[│ ]*)[├└]── (?P<name>\w+)(?: \((?P<also>\w+)\))? +(?P<retryable>retryable )?", re.MULTILINE
)


def drawn() -> list[tuple[str, str, str | None, bool]]:
    """Return name, parent, other base and mark of every class in the docstring's drawing."""
    parents, found = ["CatalogError"], []
    for match in DRAWN.finditer(errors.__doc__ or ""):
        depth = len(match["indent"]) // 4 + 1
        parents[depth:] = [match["name"]]
        found.append((match["name"], parents[depth - 1], match["also"], match["retryable"] is not None))
    return found


def test_the_drawing_in_the_docstring_is_the_tree_of_classes() -> None:
    assert len(drawn()) == len({name for name, *_ in drawn()})
    assert {"CatalogError", *(name for name, *_ in drawn())} == {kind.__name__ for kind in CLASSES}
    assert re.search(r"^    CatalogError$", errors.__doc__ or "", re.MULTILINE)


@pytest.mark.parametrize(("name", "parent", "also", "retryable"), drawn(), ids=[line[0] for line in drawn()])
def test_a_line_of_the_drawing_tells_the_truth(name: str, parent: str, also: str | None, *, retryable: bool) -> None:
    kind = getattr(errors, name)
    assert [base.__name__ for base in kind.__bases__] == [parent, *([also] if also else [])]
    assert kind.retryable is retryable


def test_the_root_is_not_retryable() -> None:
    assert CatalogError.retryable is False


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_says_in_one_line_what_it_means(kind: type[CatalogError]) -> None:
    assert kind.__doc__
    assert kind.__doc__.strip().partition("\n")[0].endswith((".", ";"))


# An error carries its facts.


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_carries_every_fact(error: CatalogError) -> None:
    assert {"operation", "phase", "sqlstate", "constraint", "field"} <= vars(error).keys()
    assert isinstance(error.retryable, bool)
    assert 0 < len(str(error)) <= 500


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_keeps_its_facts_on_the_way_to_another_process(error: CatalogError) -> None:
    """A pool of processes that gets an error it cannot unpickle breaks as a whole."""
    for again in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):  # noqa: S301
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_a_message_is_cut_at_five_hundred_characters() -> None:
    assert str(CatalogError("x" * 500)) == "x" * 500
    assert str(CatalogError("x" * 501)) == "x" * 499 + "\u2026"


def test_every_problem_is_told_and_the_first_is_the_errors_own() -> None:
    error = InvalidInput([Problem("title", "text"), Problem("year", "a whole number", (1, 2))])
    assert str(error) == "title: text; year: a whole number"
    assert (error.field, error.limit) == ("title", None)
    assert isinstance(error, ValueError)


def test_a_conflict_of_saves_says_how_to_go_on() -> None:
    assert "replace=True" in str(errors.SaveConflict(TRACK_ID, actual=3))
    assert "expected 2" in str(errors.SaveConflict(TRACK_ID, actual=3, expected=2))


def test_a_refused_move_names_both_ends() -> None:
    assert str(errors.IllegalTransition(None, TrackStatus.FAILED)) == "a new track cannot become FAILED"
    refused = errors.IllegalTransition(TrackStatus.COMPLETED, TrackStatus.FAILED)
    assert str(refused) == "a track that is COMPLETED cannot become FAILED"
