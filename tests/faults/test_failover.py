"""A primary and its streaming standby: writes follow the promotion, readers read, and no process is restarted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest
from sqlalchemy import URL, text

from audiocatalog import Catalog, TrackMetadata, TrackStatus, UnitOfWork, errors, migrations
from tests.support.frozen import fill
from tests.support.servers import Server, cluster, multi_host_url, standby_of, wait_for_replay
from tests.support.waiting import wait_until

pytestmark = pytest.mark.faults

_DATABASE = "music"


class Pair:
    """Hold a primary, its standby and the ids of some tracks that both hold."""

    def __init__(self, primary: Server, standby: Server, tracks: list[UUID]) -> None:
        self.primary = primary
        self.standby = standby
        self.tracks = tracks

    @property
    def url(self) -> URL:
        return multi_host_url(self.primary, self.standby, database=_DATABASE)


@pytest.fixture
def pair() -> Iterator[Pair]:
    with cluster() as primary:
        primary.start()
        with primary.admin() as admin:
            admin.execute(f"CREATE DATABASE {_DATABASE}")
        migrations.upgrade(primary.url(_DATABASE))
        with Catalog(primary.url(_DATABASE)) as catalog:
            tracks = [save(catalog, f"Song {number}") for number in range(20)]
        with standby_of(primary) as standby:
            wait_for_replay(primary, standby)
            yield Pair(primary, standby, tracks)


def save(catalog: Catalog, title: str) -> UUID:
    with catalog.unit_of_work() as work:
        return work.save(TrackMetadata(title=title), audio_path="a").id


def make_read_only(server: Server, *, read_only: bool = True) -> None:
    """Refuse writes to every session, those that are open included, as a primary does that has been demoted."""
    with server.admin() as admin:
        admin.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if read_only else 'off'}")
        admin.execute("SELECT pg_reload_conf()")


@contextmanager
def warm(url: URL, size: int = 4) -> Iterator[Catalog]:
    """Give a catalogue whose pool is full of connections."""
    with Catalog(url, pool_size=size, pool_timeout=3) as catalog:
        fill(catalog, size)
        yield catalog


def die(pair: Pair) -> None:
    """The primary is gone before the standby takes over."""
    pair.primary.stop("kill")
    pair.standby.promote()


def hand_over(pair: Pair) -> None:
    """The primary goes on as a server that only reads, and keeps every connection that it has."""
    make_read_only(pair.primary)
    wait_for_replay(pair.primary, pair.standby)
    pair.standby.promote()


@pytest.mark.parametrize("lose_the_primary", [die, hand_over])
def test_after_a_promotion_at_most_one_write_fails_and_the_next_finds_the_new_primary(
    pair: Pair, lose_the_primary: Callable[[Pair], None]
) -> None:
    with warm(pair.url) as catalog:
        lose_the_primary(pair)
        begun, recovery, failures = time.monotonic(), 0.0, []
        for number in range(20):
            try:
                save(catalog, f"After {number}")
                recovery = recovery or time.monotonic() - begun
            except errors.CatalogError as error:
                failures.append(error)
        assert len(failures) <= 1
        assert all(isinstance(error, errors.DatabaseUnavailable) and error.retryable for error in failures)
        assert recovery < 2
        assert catalog.search("after").total == 20 - len(failures)
        fill(catalog, 4)


@pytest.mark.parametrize("lose_the_primary", [die, hand_over])
def test_what_is_run_again_does_not_notice_a_promotion(pair: Pair, lose_the_primary: Callable[[Pair], None]) -> None:
    with warm(pair.url) as catalog:
        lose_the_primary(pair)
        begun = time.monotonic()
        assert catalog.run(lambda work: work.update_status(pair.tracks[0], TrackStatus.PENDING)).version == 2
        assert time.monotonic() - begun < 2


def test_while_the_standby_takes_over_writers_wait_and_nothing_acknowledged_is_lost(pair: Pair) -> None:
    """Four threads write through the promotion; each write is tried again until it is acknowledged."""
    with pair.primary.admin() as admin:
        # Only so has the standby what the primary has acknowledged.
        admin.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        admin.execute("SELECT pg_reload_conf()")
    acknowledged: list[UUID] = []
    failures: list[errors.CatalogError] = []
    promoted = threading.Event()

    with warm(pair.url) as catalog:

        def write(name: str) -> None:
            number, more = 0, 10
            while more:
                more -= promoted.is_set()
                number += 1
                unit = saving(f"{name} {number}")
                try:
                    acknowledged.append(catalog.run(unit, deadline=20))
                except errors.CommitOutcomeUnknown:
                    continue
                except errors.CatalogError as error:
                    failures.append(error)

        writers = [threading.Thread(target=write, args=[f"writer {number}"]) for number in range(4)]
        for writer in writers:
            writer.start()
        wait_until(lambda: len(acknowledged) >= 20)
        pair.primary.stop("kill")
        with pair.standby.admin() as admin:
            admin.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        pair.standby.promote()
        promoted.set()
        for writer in writers:
            writer.join()
        assert failures == []
        kept = {track.id for track in catalog.iter_tracks()}
    assert set(acknowledged) <= kept


def saving(title: str) -> Callable[[UnitOfWork], UUID]:
    return lambda work: work.save(TrackMetadata(title=title), audio_path="a").id


def test_a_server_that_becomes_read_only_refuses_writes_and_takes_them_again_with_no_restart(pair: Pair) -> None:
    with warm(pair.primary.url(_DATABASE)) as catalog:
        make_read_only(pair.primary)
        for _ in range(6):
            with pytest.raises(errors.DatabaseUnavailable) as caught:
                save(catalog, "Refused")
            assert caught.value.sqlstate == "25006"
            assert caught.value.retryable
            assert catalog.get(pair.tracks[0]).title == "Song 0"
        make_read_only(pair.primary, read_only=False)
        eventually(lambda: save(catalog, "Taken"), within=2)
        fill(catalog, 4)


def test_a_catalogue_on_the_standby_writes_as_soon_as_that_is_promoted(pair: Pair) -> None:
    with warm(pair.standby.url(_DATABASE)) as catalog:
        with pytest.raises(errors.DatabaseUnavailable) as caught:
            catalog.update_status(pair.tracks[0], TrackStatus.PENDING)
        assert caught.value.sqlstate == "25006"
        pair.standby.promote()
        eventually(lambda: save(catalog, "Taken"), within=2)


def test_a_multi_host_url_without_a_primary_says_so_and_finds_one_later(pair: Pair) -> None:
    pair.primary.stop()
    with Catalog(pair.url, pool_timeout=1) as catalog:
        with pytest.raises(errors.DatabaseUnavailable) as caught:
            save(catalog, "Nobody takes it")
        assert caught.value.retryable
        pair.standby.promote()
        eventually(lambda: save(catalog, "Taken"), within=2)


def test_a_catalogue_on_the_standby_reads_and_tells_what_it_cannot_write(pair: Pair) -> None:
    with Catalog(pair.standby.url(_DATABASE)) as catalog:
        assert catalog.get(pair.tracks[3]).title == "Song 3"
        assert len(catalog.get_many(pair.tracks)) == 20
        assert catalog.search("song 7").hits[0].track.title == "Song 7"
        assert catalog.search("song", limit=5).total == 20
        assert len(list(catalog.iter_tracks())) == 20
        assert len(catalog.changes(None).tracks) == 20
        assert len(catalog.history(pair.tracks[0])) == 1
        assert catalog.explain("song", pair.tracks[0]).position is not None
        assert sum(count.tracks for count in catalog.count_by_status()) == 20
        assert catalog.activity().buckets
        assert catalog.health().server_encoding == "UTF8"
        with catalog.unit_of_work() as work:
            assert work.session.scalar(text("SELECT pg_is_in_recovery()")) is True
        refused: list[Callable[[], object]] = [
            lambda: save(catalog, "Refused"),
            lambda: catalog.update_status(pair.tracks[0], TrackStatus.PENDING),
            catalog.claim,
            lambda: catalog.run(saving("Refused"), deadline=0.1),
        ]
        for write in refused:
            with pytest.raises(errors.DatabaseUnavailable) as caught:
                write()
            assert caught.value.sqlstate == "25006"
        assert catalog.get(pair.tracks[3]).title == "Song 3"


def test_a_reader_follows_what_the_primary_commits(pair: Pair) -> None:
    with Catalog(pair.primary.url(_DATABASE)) as writer, Catalog(pair.standby.url(_DATABASE)) as reader:
        cursor = reader.changes(None).next_cursor
        track = save(writer, "Fresh")
        wait_for_replay(pair.primary, pair.standby)
        assert reader.get(track).title == "Fresh"
        assert [found.id for found in reader.changes(cursor).tracks] == [track]


@pytest.mark.parametrize("busy", [False, True], ids=["between two statements", "in a statement"])
def test_a_read_that_is_in_the_way_of_replay_is_a_conflict_that_may_be_run_again(pair: Pair, *, busy: bool) -> None:
    with pair.standby.admin() as admin:
        admin.execute("ALTER SYSTEM SET max_standby_streaming_delay = '50ms'")
        admin.execute("SELECT pg_reload_conf()")
    with Catalog(pair.standby.url(_DATABASE)) as catalog:
        begun = threading.Event()

        def replay_a_lock() -> None:
            begun.wait(10)
            with pair.primary.admin(_DATABASE) as admin, admin.transaction():
                admin.execute("LOCK TABLE audio_tracks IN ACCESS EXCLUSIVE MODE")
            if not busy:
                wait_for_replay(pair.primary, pair.standby)

        locker = threading.Thread(target=replay_a_lock)
        locker.start()
        with pytest.raises(errors.TransientConflict) as caught, catalog.unit_of_work() as work:
            work.get(pair.tracks[0])
            begun.set()
            if busy:
                work.session.execute(text("SELECT pg_sleep(4)"))
            else:
                locker.join()
                work.get(pair.tracks[1])
        locker.join()
        assert caught.value.sqlstate == "40001"
        assert catalog.get(pair.tracks[0]).title == "Song 0"


def eventually(action: Callable[[], object], *, within: float) -> None:
    """Do *action* until it succeeds."""
    deadline = time.monotonic() + within
    while True:
        try:
            action()
        except errors.CatalogError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return
