"""What the host itself runs by the session of a unit of work: its errors stay its own, and readable."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy.exc
from sqlalchemy import ForeignKey, String, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from audiocatalog import Catalog, TrackMetadata, UnitOfWork, errors
from tests.support.databases import libpq
from tests.support.waiting import wait_until_blocked


class Base(DeclarativeBase):
    pass


class Row(Base):
    """A table of the host's: a short name, at most one of each, and a reference that is checked at COMMIT."""

    __tablename__ = "host_rows"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(10), unique=True)
    other: Mapped[int | None] = mapped_column(ForeignKey("host_rows.id", deferrable=True, initially="DEFERRED"))


@pytest.fixture(autouse=True)
def rows(database_url: str) -> Iterator[None]:
    """Make the host's table, which the application may write."""
    with psycopg.connect(libpq(database_url), autocommit=True) as admin:
        admin.execute(
            "CREATE TABLE host_rows (id integer PRIMARY KEY, name varchar(10) UNIQUE, "
            "other integer REFERENCES host_rows DEFERRABLE INITIALLY DEFERRED)"
        )
        admin.execute("GRANT ALL ON host_rows TO public")
        admin.execute("INSERT INTO host_rows VALUES (1, 'one'), (2, 'two')")
        yield
        admin.execute("DROP TABLE host_rows")


@pytest.fixture(params=[False, True], ids=["straight", "pooler"])
def host(database_url: str, request: pytest.FixtureRequest) -> Iterator[Catalog]:
    with Catalog(database_url, pooler=request.param, lock_timeout=0.2) as catalog:
        yield catalog


def execute(statement: str) -> Callable[[UnitOfWork], object]:
    return lambda work: work.session.execute(text(statement))


def add(**values: object) -> Callable[[UnitOfWork], object]:
    return lambda work: work.session.add(Row(**values))


def and_then(
    first: Callable[[UnitOfWork], object], then: Callable[[UnitOfWork], object]
) -> Callable[[UnitOfWork], object]:
    return lambda work: (first(work), then(work))


LONG = {"id": 3, "name": "far too long a name"}
TWICE = {"id": 4, "name": "one"}
#: What the host does, the type of the error that leaves the unit of work, and what can be read in it.
ITS_OWN: dict[str, tuple[Callable[[UnitOfWork], object], type[Exception], str]] = {
    "a slip of the pen": (execute("SELCT 1"), sqlalchemy.exc.ProgrammingError, "syntax error at or near"),
    "no such column": (execute("SELECT nonsense FROM host_rows"), sqlalchemy.exc.ProgrammingError, "nonsense"),
    "no such table": (execute("SELECT * FROM playlists"), sqlalchemy.exc.ProgrammingError, "playlists"),
    "no such function": (execute("SELECT shuffled(1)"), sqlalchemy.exc.ProgrammingError, "shuffled"),
    "no number": (execute("SELECT CAST('x' AS integer)"), sqlalchemy.exc.DataError, "invalid input syntax"),
    "a text that is too long": (
        execute("UPDATE host_rows SET name = 'far too long a name'"),
        sqlalchemy.exc.DataError,
        "value too long",
    ),
    "twice the same": (execute("INSERT INTO host_rows VALUES (5, 'one')"), sqlalchemy.exc.IntegrityError, "host_rows"),
    "raised by a function of its own": (
        execute("DO $$ BEGIN RAISE EXCEPTION 'the host says no'; END $$"),
        sqlalchemy.exc.DBAPIError,
        "the host says no",
    ),
    "a flush of its own": (
        and_then(add(**LONG), lambda work: work.session.flush()),
        sqlalchemy.exc.DataError,
        "value too long",
    ),
    "a flush before a call of ours": (
        and_then(add(**TWICE), lambda work: work.find(uuid4())),
        sqlalchemy.exc.IntegrityError,
        "duplicate key",
    ),
    "a flush at the end": (add(**LONG), sqlalchemy.exc.DataError, "value too long"),
    "the driver": (
        lambda work: work.session.connection().connection.cursor().execute("SELCT 1"),
        psycopg.errors.SyntaxError,
        "syntax error",
    ),
}


@pytest.mark.parametrize("name", ITS_OWN)
def test_an_error_of_the_hosts_own_statement_stays_as_it_is(host: Catalog, name: str) -> None:
    act, kind, words = ITS_OWN[name]
    with pytest.raises(kind, match=words) as caught, host.unit_of_work() as work:
        work.save(TrackMetadata(title="Rolled back"), audio_path="a")
        act(work)
    assert not isinstance(caught.value, errors.CatalogError)
    assert host.search("rolled back").total == 0
    assert host.pool_stats().in_use == 0


def test_run_does_not_try_it_again(host: Catalog) -> None:
    tries: list[int] = []

    def unit(work: UnitOfWork) -> None:
        tries.append(1)
        execute("SELCT 1")(work)

    with pytest.raises(sqlalchemy.exc.ProgrammingError):
        host.run(unit)
    assert tries == [1]


def readable(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize("by_the_host", [False, True])
def test_a_constraint_that_refuses_at_the_commit_is_told_by_name(host: Catalog, *, by_the_host: bool) -> None:
    with pytest.raises(errors.ConstraintViolation) as caught, host.unit_of_work() as work:
        work.save(TrackMetadata(title="Rolled back"), audio_path="a")
        work.session.add(Row(id=8, name="eight", other=99))
        if by_the_host:
            work.session.commit()
    error = caught.value
    assert (error.phase, error.sqlstate, error.constraint) == ("commit", "23503", "host_rows_other_fkey")
    assert "violates foreign key constraint" in readable(error)
    assert host.search("rolled back").total == 0


#: What does not lie in the statement: the class of ours, whether it may be tried again, and what can be read in it.
OUTSIDE: dict[str, tuple[str, type[errors.CatalogError], bool, str]] = {
    "a lock": ("SET LOCAL lock_timeout = 20; UPDATE host_rows SET name = name", errors.TransientConflict, True, "lock"),
    "a limit": ("SET LOCAL statement_timeout = 20; SELECT pg_sleep(9)", errors.QueryTimeout, False, "timeout"),
    "the end of the session": (
        "SELECT pg_terminate_backend(pg_backend_pid())",
        errors.DatabaseUnavailable,
        True,
        "terminating connection",
    ),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_is_not_the_statements_fault_is_told_by_ours_with_the_servers_words(
    host: Catalog, database_url: str, name: str
) -> None:
    statement, kind, retryable, words = OUTSIDE[name]
    with psycopg.connect(libpq(database_url)) as other:
        other.execute("SELECT FROM host_rows FOR UPDATE")
        with pytest.raises(kind) as caught, host.unit_of_work() as work:
            for part in statement.split("; "):
                work.session.execute(text(part))
        other.rollback()
    assert caught.value.retryable is retryable
    assert words in readable(caught.value)
    assert isinstance(caught.value.__cause__, sqlalchemy.exc.DBAPIError)


def test_a_deadlock_of_the_hosts_own_statements_is_run_again(database_url: str) -> None:
    tries: list[int] = []
    touch = "UPDATE host_rows SET name = name WHERE id = {}"

    def unit(work: UnitOfWork) -> None:
        tries.append(1)
        work.session.execute(text(touch.format(1)))
        work.session.execute(text(touch.format(2)))

    with psycopg.connect(libpq(database_url)) as other, Catalog(database_url, lock_timeout=20) as catalog:
        # Of the two, the one that looks for a circle first is given up: not this one.
        other.execute("SET deadlock_timeout = '60s'")
        other.execute(touch.format(2))
        running = threading.Thread(target=catalog.run, args=[unit], kwargs={"deadline": 30})
        running.start()
        wait_until_blocked(database_url, "host_rows")
        other.execute(touch.format(1))
        other.commit()
        running.join()
    assert len(tries) == 2


def test_a_swallowed_error_of_the_hosts_is_still_told_at_the_end(host: Catalog) -> None:
    with pytest.raises(errors.TransactionAborted), host.unit_of_work() as work:
        work.save(TrackMetadata(title="Rolled back"), audio_path="a")
        with pytest.raises(sqlalchemy.exc.ProgrammingError):
            execute("SELCT 1")(work)
