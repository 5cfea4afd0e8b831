"""After a fork, parent and children each get their own answers; the parent's units of work are the parent's alone."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from audiocatalog import Catalog, TrackMetadata, TrackStatus, UnitOfWork
from tests.support.lifecycle import Owner
from tests.support.programs import program

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

#: What a preloading server does: the catalogue is made and used at import, and each child goes on with it, beside its
#: parent. Each side asks for the tracks by turns, and counts the answers that are somebody else's.
PRELOADED = """
import json, multiprocessing, os, sys, warnings
from audiocatalog import Catalog

warnings.filterwarnings("ignore", category=DeprecationWarning)  # Of forks with threads, which is what this is about.
url, way, queries, *ids = sys.argv[1:]
catalog = Catalog(url, pool_size=3)
assert catalog.find(ids[0])

def ask():
    wrong = errors = 0
    for number in range(int(queries)):
        wanted = ids[(number * 7 + os.getpid()) % len(ids)]
        try:
            if number % 10 == 0:
                with catalog.unit_of_work() as work:
                    wrong += work.get(wanted).title != wanted
            elif number % 101 == 0:
                wrong += catalog.search(wanted).hits[0].track.title != wanted
            else:
                wrong += str(catalog.get(wanted).id) != wanted
        except Exception as error:
            print(repr(error), file=sys.stderr)
            errors += 1
    return [wrong, errors]

def answer(pipe):
    os.write(pipe, json.dumps(ask()).encode())

children = []
for _ in range(3):
    read, write = os.pipe()
    if way == "multiprocessing":
        child = multiprocessing.get_context("fork").Process(target=answer, args=[write])
        child.start()
        children.append((read, child.join))
    else:
        pid = os.fork()
        if pid == 0:
            answer(write)
            if way == "exit":
                sys.exit(0)  # As a worker of a server does: with all that an interpreter cleans up at its end.
            os._exit(0)
        children.append((read, lambda pid=pid: os.waitpid(pid, 0)))
outcomes = [ask()]
for read, wait in children:
    outcomes.append(json.loads(os.read(read, 1000)))
    wait()
outcomes.append(ask())
print(json.dumps(outcomes))
"""


@pytest.mark.parametrize("queries", [300, pytest.param(10_000, marks=pytest.mark.faults)])
@pytest.mark.parametrize("way", ["os.fork", "exit", "multiprocessing"])
def test_a_catalogue_that_was_used_before_the_fork_answers_rightly_on_every_side(
    database_url: str, catalog: Catalog, way: str, queries: int
) -> None:
    with catalog.unit_of_work() as work:
        ids = [uuid4() for _ in range(30)]
        for identifier in ids:
            work.save(TrackMetadata(title=str(identifier)), audio_path="a", id=identifier)
    with program(PRELOADED, database_url, way, str(queries), *map(str, ids)) as preloaded:
        out, err = preloaded.communicate(timeout=300)
    assert (preloaded.returncode, err) == (0, "")
    assert json.loads(out) == [[0, 0]] * 5


def run_in_a_child(act: Callable[[], object]) -> int:
    """Fork, do *act* in the child, and return how it ended: 0 well, 1 with an error, 14 not at all."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            threading.Timer(20, os._exit, [14]).start()
            act()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def small(database_url: str) -> Iterator[Catalog]:
    with Catalog(database_url, pool_size=2, actor="parent") as catalog:
        catalog.health()
        yield catalog


def test_a_fork_while_others_take_connections_leaves_no_lock_behind(small: Catalog) -> None:
    """Some other thread holds the pool's lock at some of these moments, and the child must not wait for it."""
    track = small.run(lambda work: work.save(TrackMetadata(title="here"), audio_path="a"))
    ended, failures = threading.Event(), list[Exception]()

    def hammer() -> None:
        while not ended.is_set():
            try:
                assert small.get(track.id).title == "here"
            except Exception as error:  # noqa: BLE001  # Whatever it is, the test shows it.
                failures.append(error)

    threads = [threading.Thread(target=hammer) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        statuses = [run_in_a_child(lambda: [small.get(track.id) for _ in range(5)]) for _ in range(25)]
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert statuses == [0] * 25


def leave(work: UnitOfWork) -> None:
    raise SystemExit


def commit(work: UnitOfWork) -> None:
    """Leave the block by its end."""


def write(work: UnitOfWork) -> None:
    work.save(TrackMetadata(title="child"), audio_path="a")


def write_through_the_session(work: UnitOfWork) -> None:
    work.session.flush()
    work.session.commit()


def forget(work: UnitOfWork) -> None:
    """Let go of all that holds the parent's connection."""
    held: Any = work._transaction
    held._driver = held._session = work._transaction = None


@pytest.mark.parametrize("with_session", [False, True])
@pytest.mark.parametrize("act", [leave, commit, write, write_through_the_session, forget])
def test_an_open_unit_of_work_stays_the_parents_whatever_a_child_does_with_it(
    small: Catalog, owner: Owner, act: Callable[[UnitOfWork], None], *, with_session: bool
) -> None:
    with small.unit_of_work() as work:
        track = work.save(TrackMetadata(title="parent"), audio_path="a", status=TrackStatus.PENDING)
        if with_session:
            work.session.connection()

        def in_the_child() -> None:
            try:
                with work_of_the_parent(work):
                    act(work)
            except BaseException:  # noqa: BLE001, S110  # Any error is as good as none: the parent is what is tested.
                pass
            assert small.find(uuid4()) is None

        assert run_in_a_child(in_the_child) == 0
        # Neither was it rolled back nor committed, and its connection is as it was.
        assert work.get(track.id).title == "parent"
        assert owner.execute("SELECT title FROM audio_tracks").fetchall() == []
        work.update_status(track.id, TrackStatus.FAILED)
    assert owner.execute("SELECT title FROM audio_tracks").fetchall() == [{"title": "parent"}]
    assert [change.actor for change in small.history(track.id)] == ["parent", "parent"]


class work_of_the_parent:  # noqa: N801  # A context manager that leaves the block as `with` itself would.
    def __init__(self, work: UnitOfWork) -> None:
        self._work = work

    def __enter__(self) -> None:
        pass

    def __exit__(self, *leaving: object) -> None:
        self._work.__exit__(*leaving)  # type: ignore[arg-type]  # They are what `with` gives.
