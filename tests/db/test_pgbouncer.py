"""Behind PgBouncer in transaction mode: right answers, limits that hold, and nothing left for the next client."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy.exc
from sqlalchemy import select, text

from audiocatalog import Catalog, Track, TrackMetadata, TrackRecord, TrackStatus, UnitOfWork, errors, migrations
from tests.support.databases import TABLES, libpq, temporary_database
from tests.support.pgbouncer import MISSING, PROGRAM, PgBouncer, bouncing
from tests.support.servers import cluster

pytestmark = [pytest.mark.skipif(PROGRAM is None, reason=MISSING), pytest.mark.both_sides]

#: The number of server connections that serve all clients of a test.
SERVED_BY = 2


@dataclass(frozen=True)
class Place:
    """A migrated database with PgBouncer before it."""

    direct: str
    bouncer: PgBouncer

    @property
    def url(self) -> str:
        return self.bouncer.url(self.direct)

    def client(self) -> psycopg.Connection[Any]:
        """Return a client that is nobody's: it sees what others have left behind."""
        return psycopg.connect(libpq(self.url), prepare_threshold=None)


@pytest.fixture(scope="module")
def placed(server_url: str, migrated_template: str) -> Iterator[Place]:
    with (
        temporary_database(server_url, template=migrated_template) as url,
        bouncing(url, pool_size=SERVED_BY, query_wait_timeout="10") as bouncer,
    ):
        yield Place(url, bouncer)


@pytest.fixture
def place(placed: Place) -> Iterator[Place]:
    yield placed
    with psycopg.connect(libpq(placed.direct), autocommit=True) as admin:
        for table in TABLES:
            admin.execute(f"DELETE FROM {table}")


@pytest.fixture
def catalog(place: Place) -> Iterator[Catalog]:
    with Catalog(place.url, actor="tester", pooler=True, pool_size=8, pool_timeout=30) as catalog:
        yield catalog


def record(title: str, status: TrackStatus = TrackStatus.COMPLETED) -> TrackRecord:
    return TrackRecord(TrackMetadata(title=title, artist="The Band"), "a", status=status)


# What clients leave behind.

#: What would be there of a session if its client had left it.
LEFT_BEHIND = {
    "settings": "SELECT name, setting FROM pg_settings WHERE source = 'session'",
    "prepared statements": "SELECT name FROM pg_prepared_statements",
    "cursors": "SELECT name FROM pg_cursors WHERE name <> ''",
    "advisory locks": "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    "temporary tables": "SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r'",
    "channels": "SELECT pg_listening_channels()",
}


def left_behind(place: Place) -> list[tuple[str, Any]]:
    """Return what is left in the server's connections, all of which are looked at at the same moment."""
    found = []
    with ExitStack() as stack:
        seen = set()
        for _ in range(SERVED_BY):
            client = stack.enter_context(place.client())
            seen.add((client.execute("SELECT pg_backend_pid()").fetchone() or (0,))[0])
            for kind, query in LEFT_BEHIND.items():
                found += [(kind, row) for row in client.execute(query).fetchall()]
            stack.callback(client.rollback)
        assert len(seen) == SERVED_BY
    # The first two are the client's own, which PgBouncer itself hands on; the last one is set anew by each transaction.
    return [one for one in found if one[1][0] not in {"application_name", "client_encoding", "transaction_isolation"}]


def save_and_read(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        track = work.save(TrackMetadata(title="One"), audio_path="a")
        work.update_status(track.id, TrackStatus.PENDING)
        assert work.search("one").total == 1
    assert catalog.get(track.id).status == "PENDING"
    assert len(catalog.history(track.id)) == 2
    assert catalog.search("one", order_by="title", facets=["artist"]).total == 1
    assert [one.id for one in catalog.iter_tracks()] == [track.id]
    assert catalog.changes().tracks


def claim(catalog: Catalog) -> None:
    catalog.bulk_save([record(f"{number}", TrackStatus.PENDING) for number in range(4)])
    first, second, third, fourth = catalog.claim(4, worker="w", lease=timedelta(minutes=1))
    catalog.complete(catalog.renew(first), TrackMetadata(title="Done"))
    catalog.fail(second, "broken")
    catalog.release(third)
    assert catalog.complete(fourth).to_status == "COMPLETED"
    assert catalog.release_expired() == []


def save_many(catalog: Catalog) -> None:
    many = [record(f"{number}") for number in range(300)]
    assert catalog.bulk_save(many, batch=50, connections=2).inserted == 300
    assert catalog.bulk_save(many, on_conflict="replace").unchanged == 300
    with catalog.unit_of_work() as work:
        assert work.bulk_save([record("more")]).inserted == 1


def count_words(catalog: Catalog) -> None:
    catalog.bulk_save([record("raidohead")])
    assert catalog.refresh_vocabulary().tracks == 1
    assert catalog.search("radiohead").suggestion is not None


def use_the_session(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        track = work.save(TrackMetadata(title="One"), audio_path="a")
        for _ in range(10):
            assert work.session.scalars(select(Track).where(Track.id == track.id)).one().title == "One"
        work.session.commit()
        assert work.session.get(Track, track.id) is not None


def fail(catalog: Catalog) -> None:
    with pytest.raises(sqlalchemy.exc.DataError), catalog.unit_of_work() as work:
        work.session.execute(text("SELECT 1 / 0"))
    with pytest.raises(errors.TransactionAborted), catalog.unit_of_work() as work, suppress(Exception):
        work.session.execute(text("SELECT 1 / 0"))
    with pytest.raises(errors.TrackNotFound):
        catalog.get(uuid4())
    with pytest.raises(RuntimeError), catalog.unit_of_work() as work:
        work.bulk_save([record("never")])
        raise RuntimeError


@pytest.mark.parametrize(
    "use",
    [save_and_read, claim, save_many, count_words, use_the_session, fail],
    ids=lambda use: use.__name__,
)
def test_nothing_is_left_for_the_next_client(place: Place, catalog: Catalog, use: Callable[[Catalog], None]) -> None:
    for _ in range(3):
        use(catalog)
        with psycopg.connect(libpq(place.direct), autocommit=True) as admin:
            admin.execute("TRUNCATE " + ", ".join(TABLES))
    assert left_behind(place) == []


def test_the_look_at_what_is_left_sees_it(place: Place) -> None:
    with place.client() as client:
        client.execute("SET lock_timeout = '7s'")
        client.execute("PREPARE mine AS SELECT 1")
        client.execute("SELECT pg_advisory_lock(7)")
        client.execute("CREATE TEMP TABLE mine (id integer)")
        client.commit()
        assert {kind for kind, _ in left_behind(place)} == {
            "settings", "prepared statements", "advisory locks", "temporary tables",
        }  # fmt: skip
        with psycopg.connect(libpq(place.direct), autocommit=True) as admin:
            admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                          " AND datname = current_database()")  # fmt: skip


# Limits.


def test_limits_hold_within_a_transaction_and_for_nobody_else(place: Place) -> None:
    with Catalog(place.url, pooler=True, statement_timeout=0.1, lock_timeout=0.05) as hasty, place.client() as other:
        for _ in range(3):
            with pytest.raises(errors.QueryTimeout), hasty.unit_of_work() as work:
                assert work.session.scalar(text("SHOW statement_timeout")) == "100ms"
                assert work.session.scalar(text("SHOW lock_timeout")) == "50ms"
                work.session.execute(text("SELECT pg_sleep(5)"))
            assert hasty.find(uuid4()) is None
            assert other.execute("SHOW statement_timeout").fetchone() == ("0",)
            other.rollback()
    assert left_behind(place) == []


def test_a_lock_is_waited_for_as_long_as_was_said(place: Place, catalog: Catalog) -> None:
    track = catalog.run(lambda work: work.save(TrackMetadata(title="Held"), audio_path="a"))
    with Catalog(place.url, pooler=True, lock_timeout=0.1) as hasty, place.client() as holder:
        holder.execute("SELECT FROM audio_tracks WHERE id = %s FOR UPDATE", [track.id])
        with pytest.raises(errors.TransientConflict):
            hasty.update_status(track.id, TrackStatus.PENDING)
    assert catalog.update_status(track.id, TrackStatus.PENDING).to_status == "PENDING"


def test_the_host_chooses_how_its_transaction_is_isolated(catalog: Catalog) -> None:
    with catalog.unit_of_work() as work:
        work.session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        work.save(TrackMetadata(title="Isolated"), audio_path="a")
        assert work.session.scalar(text("SHOW transaction_isolation")) == "repeatable read"
    with catalog.unit_of_work() as work:
        assert work.session.scalar(text("SHOW transaction_isolation")) == "read committed"


def test_who_waits_too_long_for_a_connection_of_the_server_is_told(placed: Place) -> None:
    with (
        bouncing(placed.direct, pool_size=1, query_wait_timeout="1") as bouncer,
        Catalog(bouncer.url(placed.direct), pooler=True) as catalog,
    ):
        with catalog.unit_of_work() as work:
            assert work.find(uuid4()) is None
            with pytest.raises(errors.DatabaseUnavailable) as caught:
                catalog.find(uuid4())
        assert caught.value.retryable
        assert catalog.find(uuid4()) is None


# Many at once.


def test_eight_threads_on_two_connections_get_the_answers_to_their_own_questions(
    place: Place, catalog: Catalog
) -> None:
    begin = threading.Barrier(8)

    def use(number: int) -> int:
        begin.wait()
        for turn in range(12):
            word = f"word{number}x{turn}"
            with catalog.unit_of_work() as work:
                track = work.save(TrackMetadata(title=word, artist=f"band{number}"), audio_path=word)
                assert work.session.scalar(select(Track.title).where(Track.id == track.id)) == word
            assert catalog.get(track.id).title == word
            assert [hit.track.id for hit in catalog.search(word)] == [track.id]
            assert catalog.search(f"artist:band{number}", order_by="title").total == turn + 1
            change = catalog.update_status(track.id, TrackStatus.PENDING, reason=word)
            assert (change.track_id, change.reason) == (track.id, word)
            assert [one.reason for one in catalog.history(track.id)] == [None, word]
            many = [record(f"{word}y{place}") for place in range(5)]
            assert catalog.bulk_save(many).inserted == 5
            found = catalog.get_many([one.id for one in many])
            assert [one.title for one in found.values()] == [one.metadata.title for one in many]
            with pytest.raises(errors.TrackNotFound):
                catalog.get(uuid4())
        return number

    with ThreadPoolExecutor(8) as threads:
        assert sorted(threads.map(use, range(8))) == list(range(8))
    claimed = {one.track.id for _ in range(8) for one in catalog.claim(12)}
    assert len(claimed) == 96
    (pool,) = (row for row in place.bouncer.ask("SHOW DATABASES") if row[0] == psycopg.conninfo.conninfo_to_dict(
        libpq(place.direct))["dbname"])  # fmt: skip
    assert SERVED_BY in pool
    assert left_behind(place) == []


def test_each_waiting_track_is_claimed_once(place: Place, catalog: Catalog) -> None:
    catalog.bulk_save([record(f"{number}", TrackStatus.PENDING) for number in range(60)])
    done: list[Any] = []
    with ThreadPoolExecutor(4) as threads:
        for _ in threads.map(
            lambda _: catalog.worker(until_empty=True, limit=3).run(lambda claim: done.append(claim.track.id)), range(4)
        ):
            pass
    assert (len(done), len(set(done))) == (60, 60)
    assert left_behind(place) == []


# Connections that are lost behind it.


def terminate_the_server_of(place: Place, work: UnitOfWork) -> None:
    ((process,),) = work._open().driver().execute("SELECT pg_backend_pid()").fetchall()
    with psycopg.connect(libpq(place.direct), autocommit=True) as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [process])


def test_a_commit_on_a_lost_connection_is_one_of_our_errors(place: Place, catalog: Catalog) -> None:
    """PgBouncer hands on what the server said at its end and adds a word of its own: two answers to one COMMIT."""
    with pytest.raises(errors.CatalogError) as caught, catalog.unit_of_work() as work:
        work.save(TrackMetadata(title="Lost"), audio_path="a")
        terminate_the_server_of(place, work)
    assert isinstance(caught.value, errors.DatabaseUnavailable)
    assert catalog.search("lost").total == 0


def test_many_tracks_on_lost_connections_are_all_stored(place: Place, catalog: Catalog) -> None:
    ended = 0

    def records() -> Iterator[TrackRecord]:
        nonlocal ended
        for number in range(1500):
            if number % 300 == 299:
                with psycopg.connect(libpq(place.direct), autocommit=True) as admin:
                    ended += admin.execute(
                        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                        " AND datname = current_database()"
                    ).rowcount
            yield record(f"{number}")

    result = catalog.bulk_save(records(), batch=100)
    assert ended >= 3
    assert result.inserted + result.unchanged == 1500
    assert sum(count.tracks for count in catalog.count_by_status()) == 1500


@pytest.mark.parametrize("mode", ["fast", "kill"])
def test_a_server_that_restarts_behind_it_is_found_again(mode: Any) -> None:
    with cluster() as server:
        server.start()
        migrations.upgrade(server.socket_url())
        with (
            bouncing(server.socket_url(), query_wait_timeout="1") as bouncer,
            Catalog(bouncer.url(server.socket_url()), pooler=True) as catalog,
        ):
            track = catalog.run(lambda work: work.save(TrackMetadata(title="Kept"), audio_path="a"))
            server.stop(mode)
            with pytest.raises(errors.DatabaseUnavailable) as caught:
                catalog.find(track.id)
            assert caught.value.retryable
            server.start()
            assert catalog.run(lambda work: work.get(track.id), deadline=30).title == "Kept"
            assert catalog.run(lambda work: work.search("kept"), deadline=30).total == 1
