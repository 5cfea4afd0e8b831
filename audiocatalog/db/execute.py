"""The execution of operations on a psycopg connection."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.sql import Literal

from audiocatalog.db.connection import PooledState, client_timeout, leave_pipeline, raw_cursor
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
    settings_call,
)

_Result = TypeVar("_Result")
Driver = psycopg.Connection[Any]

SET_SAVEPOINT: Final = "SAVEPOINT audiocatalog_planned"
#: The commands that restore the settings and the transaction; a pipeline sends one command at a time.
RESTORE: Final = ("ROLLBACK TO audiocatalog_planned", "RELEASE audiocatalog_planned")
_NUMBERED: Final = re.compile(r"\$([0-9]+)")


def run(driver: Driver, operation: Operation[_Result], name: str) -> _Result:
    """Run *operation* in the current transaction of *driver* and return its result; errors contain *name*."""
    return carry_out(driver, Execution(operation), name)


def carry_out(
    driver: Driver, execution: Execution[_Result], name: str, phase: Phase = "statement", *, repeatable: bool = False
) -> _Result:
    """
    Send each statement of *execution* on *driver* until the operation ends, and return its result.

    - *phase*: "commit" if each statement is its own transaction. Then a lost answer to a writing statement leaves the
      outcome unknown.
    - *repeatable*: whether the caller can send a statement again on another connection. If so, a StaleStatement is
      raised, unless the error ended a transaction with earlier statements.

    Raises:
        CatalogError: the translation of a driver error that the operation does not handle.
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
        CatalogError: the translation of the driver's error, with *name* as its operation.
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
    return without_mark(driver, statement, rows)


def without_mark(driver: psycopg.BaseConnection[Any], statement: Statement, rows: Rows) -> Rows:
    """Return *rows* without the transaction's mark, which *driver* keeps; only a statement that writes returns it."""
    if not statement.writes:
        return rows
    if rows and isinstance(driver, PooledState):
        driver.mark = rows[-1][-1]  # The first row may have been returned before the statement wrote.
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

    Inside a transaction, a savepoint restores the settings. After a timeout, the savepoint also restores the
    transaction. The statements around *statement* are never prepared, because a prepared ROLLBACK cannot be executed in
    a failed transaction.
    """
    settings = settings_call(statement.settings_with_timeout(), local=True)
    # psycopg would search this long statement for named placeholders at each execution.
    sql, ordered = statement.numbered(values)
    cursor = raw_cursor(driver)
    is_alone = driver.autocommit
    try:
        with client_timeout(driver, statement.timeout), driver.pipeline():
            if not is_alone:
                driver.execute(SET_SAVEPOINT, prepare=False)
            driver.execute(settings, prepare=False)
            cursor.execute(sql, ordered, prepare=driver.prepare_threshold is not None)
            if not is_alone:
                _roll_back(driver)
        return cursor.fetchall()
    except (psycopg.Error, IndexError) as error:
        late = leave_pipeline(driver, error)
        if not is_alone and driver.info.transaction_status == TransactionStatus.INERROR:
            # If the transaction had failed before this statement, there is no savepoint.
            with suppress(psycopg.Error):
                _roll_back(driver)
        if late is not None:
            raise late from error
        if isinstance(error, IndexError):
            # psycopg 3.3 drops an error that arrives with the last answers at the end of the transaction. A search only
            # reads, so a timeout is the only error that can occur there.
            raise psycopg.errors.QueryCanceled("the statement was cancelled at the end of its transaction") from None
        raise


def _roll_back(driver: Driver) -> None:
    for command in RESTORE:
        driver.execute(command, prepare=False)


def as_script(request: Request) -> str:
    """
    Return a statement with its settings and values as a script for psql, for example to EXPLAIN it.

    Raises:
        TypeError: the statement is a COPY, whose rows are sent separately.

    >>> print(as_script((Statement("SELECT $1::int"), (5,))))
    SELECT 5::int;

    """
    statement, values = request
    settings: Mapping[str, str] = {}
    sql, ordered = statement.sql, values
    if isinstance(statement, PlannedStatement):
        sql, ordered = statement.numbered(values)
        settings = statement.settings_with_timeout()
    elif isinstance(statement, Copy):
        raise TypeError("a COPY cannot be written as a script, because its rows are sent separately")
    text = _NUMBERED.sub(lambda match: Literal(ordered[int(match[1]) - 1]).as_string(), sql)
    return "\n".join((*(f"SET {name} = '{value}';" for name, value in settings.items()), f"{text.strip()};"))
