"""Operations carried out on a connection of psycopg, whoever holds it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.sql import Literal

from audiocatalog.db.connection import PooledConnection, client_timeout, leave_pipeline, raw_cursor
from audiocatalog.db.error_translation import translated
from audiocatalog.errors import CatalogError, Phase, StaleStatement
from audiocatalog.operations.operation import (
    Copy,
    Execution,
    Operation,
    PlannedStatement,
    Request,
    Rows,
    Statement,
    milliseconds,
    numbered,
    settings_call,
)

_Result = TypeVar("_Result")
Driver = psycopg.Connection[Any]

_SAVEPOINT: Final = "audiocatalog_planned"
_NUMBERED: Final = re.compile(r"\$([0-9]+)")


def run(driver: Driver, operation: Operation[_Result], name: str) -> _Result:
    """Carry *operation* out on *driver*, within the transaction that is under way there; errors name it *name*."""
    return carry_out(driver, Execution(operation), name)


def carry_out(
    driver: Driver, execution: Execution[_Result], name: str, phase: Phase = "statement", *, repeatable: bool = False
) -> _Result:
    """
    Send each statement of *execution* on *driver* until the operation ends, and return its result.

    *phase* is "commit" where each statement is its own transaction: a lost answer to one that writes leaves the outcome
    open. If *repeatable*, a StaleStatement leaves the statement to be sent again on another connection, unless a
    transaction with earlier statements has ended with it.
    """
    while (request := execution.request) is not None:
        try:
            rows = send(driver, request, name, phase)
        except CatalogError as error:
            is_alone = driver.autocommit or not execution.has_begun
            if repeatable and is_alone and isinstance(error, StaleStatement):
                raise
            execution.fail(error)
        else:
            execution.answer(rows)
    return execution.result


def send(driver: Driver, request: Request, name: str, phase: Phase = "statement") -> Rows:
    """
    Send one statement with its values, and return its rows.

    Raises:
        CatalogError: what the driver's error means; its operation is *name*.
    """
    statement, values = request
    if isinstance(statement, Statement):
        with translated(name, phase if statement.writes else "statement"):
            if statement.timeout is not None:
                with client_timeout(driver, statement.timeout):
                    return _send(driver, statement, values)
            return _send(driver, statement, values)
    with translated(name):
        if isinstance(statement, PlannedStatement):
            return _send_planned(driver, statement, values)
        return _copy(driver, statement, values)


def _send(driver: Driver, statement: Statement, values: Sequence[Any]) -> Rows:
    if statement.is_command:
        driver.execute(statement.sql, prepare=False)
        return ()
    rows = raw_cursor(driver).execute(statement.sql, values).fetchall()
    if not statement.writes:
        return rows
    if rows and isinstance(driver, PooledConnection):
        driver.mark = rows[-1][-1]  # Of the last row: the first may have come before anything was written.
        driver.wrote_history |= statement.writes_history
    return [row[:-1] for row in rows]


def _copy(driver: Driver, statement: Copy, rows: Iterable[Sequence[Any]]) -> Rows:
    with client_timeout(driver, statement.timeout), raw_cursor(driver).copy(statement.sql) as copy:
        copy.set_types(statement.types)
        for row in rows:
            copy.write_row(row)
    return ()


def _send_planned(driver: Driver, statement: PlannedStatement, values: Mapping[str, Any]) -> Rows:
    """
    Execute *statement* with its settings in one round trip.

    Inside a transaction, a savepoint restores the settings, and the transaction if the time runs out. What surrounds
    the statement is never prepared: a prepared ROLLBACK could not be executed where it is needed.
    """
    settings = settings_call({**statement.settings, "statement_timeout": milliseconds(statement.timeout)}, local=True)
    # psycopg would look for placeholders in so long a statement anew each time.
    sql, names = numbered(statement.sql)
    cursor = raw_cursor(driver)
    is_alone = driver.autocommit
    try:
        with client_timeout(driver, statement.timeout), driver.pipeline():
            if not is_alone:
                driver.execute(f"SAVEPOINT {_SAVEPOINT}", prepare=False)
            driver.execute(settings, prepare=False)
            ordered = [values[name] for name in names]
            cursor.execute(sql, ordered, prepare=driver.prepare_threshold is not None)
            if not is_alone:
                driver.execute(f"ROLLBACK TO {_SAVEPOINT}", prepare=False)
                driver.execute(f"RELEASE {_SAVEPOINT}", prepare=False)
        return cursor.fetchall()
    except (psycopg.Error, IndexError) as error:
        late = leave_pipeline(driver, error)
        if not is_alone and driver.info.transaction_status == TransactionStatus.INERROR:
            # There is none where the transaction was given up before the search began.
            with suppress(psycopg.Error):
                driver.execute(f"ROLLBACK TO {_SAVEPOINT}", prepare=False)
                driver.execute(f"RELEASE {_SAVEPOINT}", prepare=False)
        if late is not None:
            raise late from error
        if isinstance(error, IndexError):
            # An error at the end of the transaction came together with the last answers, and psycopg 3.3, which expects
            # one answer fewer, has dropped it. A search that only reads can meet nothing there but its time limit.
            raise psycopg.errors.QueryCanceled("the statement was ended with its transaction") from None
        raise


def as_script(request: Request) -> str:
    """
    Return a statement of an operation with its settings and values as text for psql, to be looked at or explained.

    Raises:
        TypeError: it is a COPY, whose rows are no part of a statement.

    >>> print(as_script((Statement("SELECT $1::int"), (5,))))
    SELECT 5::int;

    """
    statement, values = request
    settings: Mapping[str, str] = {}
    sql, ordered = statement.sql, values
    if isinstance(statement, PlannedStatement):
        sql, names = numbered(sql)
        ordered = [values[name] for name in names]
        settings = {**statement.settings, "statement_timeout": milliseconds(statement.timeout)}
    elif isinstance(statement, Copy):
        raise TypeError("a COPY cannot be written as a statement with values")
    text = _NUMBERED.sub(lambda match: Literal(ordered[int(match[1]) - 1]).as_string(), sql)
    return "\n".join((*(f"SET {name} = '{value}';" for name, value in settings.items()), f"{text.strip()};"))
