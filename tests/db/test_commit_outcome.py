"""What the server answers when it is asked what became of a transaction, also by a name that is out of date."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from audiocatalog import Catalog, TrackMetadata
from audiocatalog.db.commit_outcome import _SERVER, Outcome, TransactionRef, find_outcome
from audiocatalog.db.execute import run
from audiocatalog.operations.operation import TRANSACTION_MARK
from tests.support.databases import libpq

ANOTHER_SERVER = "00000001 of another cluster"


def ask(connection: psycopg.Connection[Any], trace: TransactionRef) -> Outcome | None:
    return run(connection, find_outcome(trace), "run")


@pytest.fixture
def asking(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(libpq(database_url), autocommit=True) as connection:
        yield connection


@pytest.fixture
def writing(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(libpq(database_url)) as connection:
        yield connection


def one(connection: psycopg.Connection[Any], statement: str) -> str:
    row = connection.execute(statement).fetchone()
    assert row is not None
    return str(row[0])


def write(
    writing: psycopg.Connection[Any], server: str | None = None, *, wrote_history: bool = False
) -> TransactionRef:
    """Write something of the host's own in a transaction, which goes on, and name it."""
    writing.execute("CREATE TEMPORARY TABLE written AS SELECT 1")
    return TransactionRef(
        server or one(writing, f"SELECT {_SERVER}"), one(writing, f"SELECT {TRANSACTION_MARK}"), wrote_history
    )


def of_another_server(trace: TransactionRef) -> TransactionRef:
    return trace._replace(server=ANOTHER_SERVER)


def test_a_transaction_that_had_written_nothing_has_kept_nothing(asking: psycopg.Connection[Any]) -> None:
    assert ask(asking, TransactionRef("a server", None, wrote_history=False)) == "aborted"
    assert ask(asking, TransactionRef(None, None, wrote_history=False)) == "aborted"


def test_of_a_server_without_a_name_nothing_is_known(
    asking: psycopg.Connection[Any], writing: psycopg.Connection[Any]
) -> None:
    trace = write(writing)._replace(server=None)
    writing.commit()
    assert ask(asking, trace) is None


@pytest.mark.parametrize("server", [None, ANOTHER_SERVER], ids=["by its name", "by a name that is out of date"])
def test_what_is_under_way_is_in_progress_and_what_is_rolled_back_aborted(
    asking: psycopg.Connection[Any], writing: psycopg.Connection[Any], server: str | None
) -> None:
    trace = write(writing, server)
    assert ask(asking, trace) == "in progress"
    writing.rollback()
    assert ask(asking, trace) == "aborted"


def test_the_same_server_knows_what_was_committed_whatever_it_was(
    asking: psycopg.Connection[Any], writing: psycopg.Connection[Any]
) -> None:
    trace = write(writing)
    writing.commit()
    assert ask(asking, trace) == "committed"


def test_another_server_is_believed_only_where_rows_tell(
    asking: psycopg.Connection[Any], writing: psycopg.Connection[Any]
) -> None:
    """The other server has given the same id to a transaction of its own: its status tells nothing of ours."""
    trace = of_another_server(write(writing))
    writing.commit()
    assert ask(asking, trace) is None
    assert ask(asking, trace._replace(wrote_history=True)) == "aborted"


def test_rows_of_the_history_prove_a_commit_to_another_server(
    catalog: Catalog, asking: psycopg.Connection[Any]
) -> None:
    catalog.bulk_save([{"title": "Kept", "audio_path": "a"}])
    xact_id, at = asking.execute("SELECT xact_id, at FROM audio_track_status_changes").fetchone() or (None, None)
    found = TransactionRef(ANOTHER_SERVER, f"{xact_id}|{at}|{at}", wrote_history=True)
    assert ask(asking, found) == "committed"
    earlier = found._replace(mark=f"{xact_id}|2001-01-01+00|2001-01-02+00")
    assert ask(asking, earlier) == "aborted"


def test_rows_of_the_edits_prove_it_too(catalog: Catalog, asking: psycopg.Connection[Any]) -> None:
    with catalog.unit_of_work() as work:
        track = work.save(TrackMetadata(title="First"), audio_path="a")
    with catalog.unit_of_work() as work:
        work.save(TrackMetadata(title="Second"), id=track.id, audio_path="a", replace=True)
    xact_id, at = asking.execute("SELECT xact_id, at FROM audio_track_edits").fetchone() or (None, None)
    assert ask(asking, TransactionRef(ANOTHER_SERVER, f"{xact_id}|{at}|{at}", wrote_history=True)) == "committed"
