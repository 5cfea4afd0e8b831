"""Operations are carried out on any connection, also with await, and can be printed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

import psycopg
import pytest

from audiocatalog import Catalog, SaveOutcome, TrackMetadata, TrackRecord, TrackStatus, errors
from audiocatalog.db import execute
from audiocatalog.db.error_translation import translated
from audiocatalog.db.execute import as_script
from audiocatalog.operations import claims, tracks
from audiocatalog.operations.bulk import BatchStore
from audiocatalog.operations.bulk_result import OnConflict
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
from audiocatalog.search.request import Request as SearchRequest
from audiocatalog.search.search import search
from tests.support.databases import libpq

T = TypeVar("T")
WAY = {"replace": False, "expected_version": None, "actor": "me", "reason": None, "notify": False}


async def carry_out(connection: psycopg.AsyncConnection[Any], operation: Operation[T], name: str) -> T:
    """Carry *operation* out as db/execute.py does, with await."""
    execution = Execution(operation)
    while (request := execution.request) is not None:
        try:
            with translated(name):
                rows = await send(connection, request)
        except errors.CatalogError as error:
            execution.fail(error)
        else:
            execution.answer(rows)
    return execution.result


async def send(connection: psycopg.AsyncConnection[Any], request: Request) -> Rows:
    statement, values = request
    cursor = psycopg.AsyncRawCursor(connection)
    if isinstance(statement, PlannedStatement):
        async with connection.pipeline():
            await connection.execute(settings_call(statement.settings_with_timeout(), local=True), prepare=False)
            await cursor.execute(*statement.numbered(values))
        return await cursor.fetchall()
    assert isinstance(statement, Statement)
    rows = await (await cursor.execute(statement.sql, values)).fetchall()
    return [row[:-1] for row in rows] if statement.writes else rows


@pytest.fixture
def asynchronously(database_url: str) -> Callable[[Callable[[psycopg.AsyncConnection[Any]], Awaitable[T]]], T]:
    async def connect(call: Callable[[psycopg.AsyncConnection[Any]], Awaitable[T]]) -> T:
        async with await psycopg.AsyncConnection.connect(libpq(database_url), autocommit=True) as connection:
            return await call(connection)

    return lambda call: asyncio.run(connect(call))


def test_an_operation_is_carried_out_with_await_as_without(
    catalog: Catalog, asynchronously: Callable[[Any], Any]
) -> None:
    record = TrackRecord(TrackMetadata(title="Jóga", artist="Björk"), "s3://joga", status=TrackStatus.PENDING)

    async def use(connection: psycopg.AsyncConnection[Any]) -> Any:
        saved = await carry_out(connection, tracks.save(record, **WAY), "save")  # type: ignore[arg-type]
        again = await carry_out(connection, tracks.save(record, **WAY), "save")  # type: ignore[arg-type]
        other = TrackRecord(TrackMetadata(title="Hunter"), "s3://joga", id=record.id)
        with pytest.raises(errors.SaveConflict):
            await carry_out(connection, tracks.save(other, **WAY), "save")  # type: ignore[arg-type]
        with pytest.raises(errors.TrackNotFound) as missing:
            await carry_out(connection, tracks.get(uuid4()), "get")
        assert missing.value.operation == "get"
        found = await carry_out(connection, tracks.get(record.id), "get")
        lease = timedelta(minutes=1)
        claimed = await carry_out(connection, claims.claim(1, lease=lease, worker="w", order_by="oldest"), "claim")
        pages = [
            await carry_out(connection, search(SearchRequest.make(query, timeout=2.0)), "search")
            for query in ("joga ", "jogga", str(record.id))
        ]
        return saved, again, found, claimed, pages

    catalog.save(TrackMetadata(title="Isobel", artist="Björk"), audio_path="s3://isobel")
    catalog.refresh_vocabulary()
    saved, again, found, claimed, pages = asynchronously(use)
    assert (saved.outcome, again.outcome) == (SaveOutcome.INSERTED, SaveOutcome.UNCHANGED)
    assert found == again
    assert [claim.track.id for claim in claimed] == [record.id]
    for page, query in zip(pages, ("joga ", "jogga", str(record.id)), strict=True):
        here = catalog.search(query)
        assert [(hit.track, hit.score, hit.highlights) for hit in page.hits] == [
            (hit.track, hit.score, hit.highlights) for hit in here.hits
        ]
        assert page.total == here.total


@pytest.mark.parametrize("query", ["joga ", 'jogga "debut" -live', "year:1990..1999"])
def test_a_statement_can_be_printed_and_explained(database_url: str, catalog: Catalog, query: str) -> None:
    sent: list[Request] = []
    forward = execute.send

    def note(driver: Any, request: Request, *rest: Any) -> Rows:
        sent.append(request)
        return forward(driver, request, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "send", note)
        catalog.search(query)
        catalog.find(uuid4())
        catalog.get_many([uuid4(), uuid4()])
    assert len(sent) >= 3
    with psycopg.connect(libpq(database_url)) as admin:
        for request in sent:
            *settings, statement = as_script(request).rsplit("\nSET", 1)[-1].split(";\n", 1)
            assert not settings or "statement_timeout" in settings[0]
            plan = admin.execute(f"EXPLAIN {statement}".encode()).fetchall()
            assert plan


def test_a_copy_is_no_statement() -> None:
    with pytest.raises(TypeError, match="COPY"):
        as_script((Copy("COPY x FROM STDIN", ()), ()))


def test_a_batch_can_be_stored_without_a_server() -> None:
    """Rows in, statements out: what the database says of each record is asked in one round of statements."""
    store = BatchStore(
        on_conflict=OnConflict.SKIP, actor="me", reason=None, notify=False, statement_timeout=5.0, lock_timeout=2.0
    )
    records = [TrackRecord(TrackMetadata(title=title), title) for title in ("one", "two", "three")]
    execution = Execution(store.store(records))
    answers: list[Rows] = [[("5s", "2s")], (), [("", "")], [(None,)], (), [([0], None, [2], [1], [7])], [("", "")], ()]
    texts = []
    for rows in answers:
        assert execution.request is not None
        texts.append(execution.request[0].sql.split("(")[0].split(" audiocatalog_batch")[0].strip())
        execution.answer(rows)
    assert [text.split()[0] for text in texts] == [
        *("SELECT", "SAVEPOINT", "SELECT", "SELECT", "COPY", "SELECT", "SELECT", "RELEASE")
    ]
    assert execution.request is None
    assert [(one.outcome, one.skipped) for one in execution.result] == [
        ("inserted", False),
        ("unchanged", True),
        ("unchanged", False),
    ]


def test_an_error_that_no_savepoint_can_undo_ends_a_batch() -> None:
    store = BatchStore(
        on_conflict=OnConflict.SKIP, actor="me", reason=None, notify=False, statement_timeout=5.0, lock_timeout=2.0
    )
    execution = Execution(store.store([TrackRecord(TrackMetadata(), "a"), TrackRecord(TrackMetadata(), "b")]))
    late = errors.QueryTimeout("late", operation="bulk_save")
    execution.fail(late)
    assert execution.request is not None
    assert execution.request[0].sql.startswith("ROLLBACK TO")
    with pytest.raises(errors.QueryTimeout) as caught:
        execution.fail(errors.CatalogInternalError("no savepoint", operation="bulk_save"))
    assert caught.value is late


def test_a_get_asks_once_and_says_what_is_missing() -> None:
    track_id = uuid4()
    execution = Execution(tracks.get(str(track_id)))
    assert execution.request == (tracks.FIND, (track_id,))
    with pytest.raises(errors.TrackNotFound):
        execution.answer([])
    with pytest.raises(errors.InvalidInput):
        Execution(tracks.get("no id"))


def test_a_call_of_nothing_sends_nothing() -> None:
    assert Execution(tracks.get_many([])).result == {}
    assert Execution(claims.complete_many([], actor=None)).result == []
