"""A server that falls silent keeps nobody waiting: not a call, not a commit, and not Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from uuid import uuid4

import pytest
from sqlalchemy import text

from audiocatalog import Catalog, TrackMetadata, UnitOfWork, errors, migrations
from audiocatalog.embedded import EmbeddedPostgres
from tests.support.frozen import fill, frozen, outcome_of

_DEADLINE = 2


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """Give a server whose processes are this user's own, so that they can be frozen."""
    with EmbeddedPostgres() as server:
        migrations.upgrade(server.url())
        yield server


@pytest.fixture
def impatient(server: EmbeddedPostgres) -> Iterator[Catalog]:
    with Catalog(server.url(), pool_size=1, statement_timeout=1, lock_timeout=1, network_timeout=1) as catalog:
        yield catalog


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (lambda work: work.find(uuid4()), errors.DatabaseUnavailable),
        (lambda work: work.session.execute(text("SELECT 1")), errors.DatabaseUnavailable),
        (lambda _: None, errors.CommitOutcomeUnknown),
    ],
    ids=["a statement", "the session", "a commit"],
)
def test_a_wait_for_a_silent_server_ends_with_its_deadline_and_costs_no_connection(
    impatient: Catalog, action: Callable[[UnitOfWork], object], expected: type[errors.CatalogError]
) -> None:
    pids = fill(impatient, 1)
    with ExitStack() as freezer:

        def call() -> None:
            with impatient.unit_of_work() as work:
                work.save(TrackMetadata(), audio_path="a")
                freezer.enter_context(frozen(*pids))
                action(work)

        error, seconds = outcome_of(call)
        assert type(error) is expected
        assert _DEADLINE * 0.9 < seconds < 20
    assert fill(impatient, 1) != pids


def test_ctrl_c_does_not_wait_for_a_silent_server(server: EmbeddedPostgres) -> None:
    """psycopg alone asks the server twice to cancel what it does, and waits five seconds for each answer."""
    with Catalog(server.url(), pool_size=1, statement_timeout=60, network_timeout=60) as catalog:
        with frozen(*fill(catalog, 1)):
            # The signal is the main thread's, and that is where this test runs.
            interruption = threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT])
            interruption.start()
            begun = time.monotonic()
            with pytest.raises(KeyboardInterrupt):
                catalog.find(uuid4())
            assert time.monotonic() - begun < 9
        fill(catalog, 1)
