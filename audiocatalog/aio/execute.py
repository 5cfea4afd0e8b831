"""The execution of operations on a psycopg connection that is awaited, as ``db/execute.py`` does it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from audiocatalog.aio.connection import AsyncPooledConnection, leave_pipeline, raw_cursor
from audiocatalog.db.connection import client_timeout
from audiocatalog.db.error_translation import translated
from audiocatalog.db.execute import RESTORE, SET_SAVEPOINT, without_mark
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
AsyncDriver = psycopg.AsyncConnection[Any]

# After this many rows were written, which takes about a millisecond, other tasks get a turn.
_ROWS_AT_ONCE: Final = 100


async def run(driver: AsyncDriver, operation: Operation[_Result], name: str) -> _Result:
    """Run *operation* in the current transaction of *driver* and return its result; errors name it *name*."""
    return await carry_out(driver, Execution(operation), name)


async def carry_out(
    driver: AsyncDriver,
    execution: Execution[_Result],
    name: str,
    phase: Phase = "statement",
    *,
    repeatable: bool = False,
) -> _Result:
    """
    Send each statement of *execution* on *driver* until the operation ends, and return its result.

    Raises:
        UnitOfWorkBusy: another task's call is under way on *driver*.
        CatalogError: the translation of a driver error that the operation does not handle.
    """
    holder = begin_call(driver)
    try:
        while (request := execution.request) is not None:
            try:
                rows = await send(driver, request, name, phase)
            except CatalogError as error:
                is_alone = driver.autocommit or not execution.has_begun
                if repeatable and is_alone and isinstance(error, StaleStatement):
                    raise
                execution.fail(error)
            else:
                execution.answer(rows)
    finally:
        if holder is not None:
            holder.lock.caller = None
    return execution.result


def begin_call(driver: AsyncDriver) -> AsyncPooledConnection | None:
    """
    Note that the current task's call is under way on *driver*; return *driver* if the end of the call must be noted.

    Raises:
        UnitOfWorkBusy: another task's call is under way.
    """
    if not isinstance(driver, AsyncPooledConnection):
        return None
    driver.lock.refuse_others()
    if driver.lock.caller is not None:
        return None  # This call is part of another one.
    driver.lock.caller = asyncio.current_task()
    return driver


async def send(driver: AsyncDriver, request: Request, name: str, phase: Phase = "statement") -> Rows:
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
                    return await _send(driver, statement, values)
            return await _send(driver, statement, values)
    with translated(name):
        if isinstance(statement, PlannedStatement):
            return await _send_planned(driver, statement, values)
        return await _copy(driver, statement, values)


async def _send(driver: AsyncDriver, statement: Statement, values: Sequence[Any]) -> Rows:
    if statement.is_command:
        await driver.execute(statement.sql, prepare=False)
        return ()
    cursor = await raw_cursor(driver).execute(statement.sql, values)
    return without_mark(driver, statement, await cursor.fetchall())


async def _copy(driver: AsyncDriver, statement: Copy, rows: Iterable[Sequence[Any]]) -> Rows:
    with client_timeout(driver, statement.timeout):
        async with raw_cursor(driver).copy(statement.sql) as copy:
            copy.set_types(statement.types)
            for number, row in enumerate(rows, 1):
                await copy.write_row(row)
                if number % _ROWS_AT_ONCE == 0:
                    await asyncio.sleep(0)
    return ()


async def _send_planned(driver: AsyncDriver, statement: PlannedStatement, values: Mapping[str, Any]) -> Rows:
    """Execute *statement* with its settings in one round trip, as ``db.execute`` does."""
    settings = settings_call(statement.settings_with_timeout(), local=True)
    sql, ordered = statement.numbered(values)
    cursor = raw_cursor(driver)
    is_alone = driver.autocommit
    try:
        with client_timeout(driver, statement.timeout):
            async with driver.pipeline():
                if not is_alone:
                    await driver.execute(SET_SAVEPOINT, prepare=False)
                await driver.execute(settings, prepare=False)
                await cursor.execute(sql, ordered, prepare=driver.prepare_threshold is not None)
                if not is_alone:
                    await _roll_back(driver)
        return await cursor.fetchall()
    except (psycopg.Error, IndexError) as error:
        late = await leave_pipeline(driver, error)
        if not is_alone and driver.info.transaction_status == TransactionStatus.INERROR:
            # If the transaction had failed before the search, there is no savepoint.
            with suppress(psycopg.Error):
                await _roll_back(driver)
        if late is not None:
            raise late from error
        if isinstance(error, IndexError):
            # psycopg 3.3 drops an error that arrives with the last answers at the end of the transaction. A search only
            # reads, so a timeout is the only error that can occur there.
            raise psycopg.errors.QueryCanceled("the statement was ended with its transaction") from None
        raise


async def _roll_back(driver: AsyncDriver) -> None:
    for command in RESTORE:
        await driver.execute(command, prepare=False)
