"""One round through every public verb of a catalogue and a unit of work, and what each of them answered.

The answers are plain values without times, tokens and cursors, so that two rounds can be compared: under other settings
of the server, on another way to it, by another side of the library. A round begins in a catalogue that `seed` has
filled, and `sweep` takes away what it has left.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any, Final, get_args
from uuid import NAMESPACE_URL, UUID, uuid5

import psycopg
from sqlalchemy import URL, func, make_url, select, text

from audiocatalog import (
    Catalog,
    Claim,
    FacetName,
    SearchFilters,
    StatusChange,
    Track,
    TrackMetadata,
    TrackRecord,
    TrackStatus,
    UnitOfWork,
    errors,
)
from audiocatalog.db.commit_outcome import transaction_ref
from audiocatalog.search.results import SearchPage
from tests.support.databases import TABLES, libpq
from tests.support.waiting import wait_until, wait_until_blocked

PENDING, PROCESSING, COMPLETED, FAILED = TrackStatus
#: How many tracks there are when a round begins: more than an index keeps on its list of the latest entries.
SEEDED: Final = 240
# How long anything takes is not what a round asks about, on however busy a machine.
_UNHURRIED: Final[dict[str, Any]] = dict.fromkeys(
    ("pool_timeout", "statement_timeout", "search_timeout", "lock_timeout", "idle_timeout", "network_timeout"), 60.0
)
_LEASE: Final = timedelta(minutes=3)
_NAMES: Final = ("AC/DC", "Björk", "宇多田ヒカル", "P!nk", "The Who", "NULL", "Motörhead", "back\\slash 'n' \"quote\"")
#: A float whose sixteen digits must survive, and one that no decimal fraction equals.
_LONG: Final = 1.123456789012345
_INEXACT: Final = 0.1 + 0.2


def id_of(name: str) -> UUID:
    """Return the id by which a round calls a track."""
    return uuid5(NAMESPACE_URL, name)


def seed(url: str) -> None:
    """Fill the migrated database at *url* with the tracks that every round finds, and bring its indexes in order."""
    records = [
        TrackRecord(
            TrackMetadata(
                title=f"Factory Song {number % 17}",
                artist=_NAMES[number % len(_NAMES)],
                genre=("Rock", "Jazz", "Trip-Hop")[number % 3],
                year=1970 + number % 50,
                duration=60.0 + number,
            ),
            f"seed/{number}",
            id=id_of(f"seed {number}"),
        )
        for number in range(SEEDED)
    ]
    with Catalog(url, actor="seed") as catalog:
        catalog.bulk_save(records)
        catalog.refresh_vocabulary()
    with psycopg.connect(libpq(url), autocommit=True) as admin:
        admin.execute("VACUUM (ANALYZE) audio_tracks")


def sweep(url: str) -> None:
    """Delete from the database at *url* what rounds have written; words stay as the last one has counted them."""
    with psycopg.connect(libpq(url), autocommit=True) as admin:
        admin.execute("SET session_replication_role = origin")
        for table in TABLES:
            if table.startswith("audio_track"):
                key = "id" if table == "audio_tracks" else "track_id"
                seeded = "SELECT id FROM audio_tracks WHERE audio_path LIKE 'seed/%'"
                admin.execute(f"DELETE FROM {table} WHERE {key} NOT IN ({seeded})")


def contract_round(url: str, *, pause: float = 0.0, **settings: Any) -> dict[str, Any]:
    """Go through every verb on a new catalogue at *url*, pausing for *pause* seconds here and there; return answers."""
    with Catalog(
        url, actor="tester", retry_delay=0.001, longest_retry_delay=0.001, **_UNHURRIED, **settings
    ) as catalog:
        # A URL for libpq writes the blanks in its options in another way.
        one = _Round(make_url(url).difference_update_query(["options"]), catalog, pause)
        one.save()
        one.move()
        one.race()
        one.claim()
        one.load()
        one.search()
        one.read()
        one.use_the_session()
        one.watch()
    one.note("closed", lambda: catalog.get(id_of("first")))
    environment = {"AUDIOCATALOG_DATABASE_URL": url, "AUDIOCATALOG_POOLER": str(settings.get("pooler", False))}
    with Catalog.from_env(environment=environment) as again:
        one.note("from_env", lambda: again.get(id_of("first")))
    return one.answers


class _Round:
    """Hold the catalogue of a round, and what it has answered by now."""

    def __init__(self, url: URL, catalog: Catalog, pause: float) -> None:
        self.url = url
        self.catalog = catalog
        self.pause = pause
        self.answers: dict[str, Any] = {}

    def note(self, what: str, call: Callable[[], Any]) -> Any:
        """Keep what *call* returns, or raises, under the name *what*."""
        assert what not in self.answers
        try:
            answer = call()
        except errors.CatalogError as error:
            answer = error
        self.answers[what] = plain(answer)
        return answer

    def save(self) -> None:
        first = TrackMetadata(title="C:\\Jóga 'x' NULL", artist="Björk", year=1997, duration=_LONG)
        with self.catalog.unit_of_work() as work:
            for name in ("first", "second", "third", "raced"):
                metadata = first if name == "first" else TrackMetadata(title=f"Unlike {name}", duration=_INEXACT)
                self.note(f"save {name}", partial(save, work, name, metadata))
            self.note("save it again", lambda: save(work, "first", first))
            self.note("save other content", lambda: save(work, "first", TrackMetadata(title="Other")))
            record = TrackRecord(TrackMetadata(title="Third", genre="Jazz"), "third", id=id_of("third"))
            self.note("replace", lambda: work.save_record(record, replace=True, expected_version=1, reason="why"))
            self.note("replace at a version", lambda: save(work, "third", first, replace=True, expected_version=1))
            work.set_statement_timeout(9)
            time.sleep(self.pause)
            self.note("get in a unit", lambda: work.get(id_of("first")))

        tries: list[int] = []

        def twice(work: UnitOfWork) -> Track:
            tries.append(1)
            track = save(work, "run", TrackMetadata(title="Run"))
            if len(tries) == 1:
                raise errors.TransientConflict("once")
            return track

        self.note("run", lambda: self.catalog.run(twice))
        lost = errors.CommitOutcomeUnknown("lost")
        with self.catalog.unit_of_work() as work:
            save(work, "traced", TrackMetadata(title="Traced"), status=COMPLETED)
            driver: Any = work._open().driver()
            lost.trace = tuple(transaction_ref(driver))
        self.note("was_committed", lambda: self.catalog.was_committed(lost))

    def move(self) -> None:
        first, second = id_of("first"), id_of("second")
        move, operation = self.catalog.update_status, id_of("operation")
        self.note("update_status", lambda: move(first, PROCESSING, reason="C:\\x", operation_id=operation))
        self.note("repeat it", lambda: move(first, PROCESSING, operation_id=operation))
        self.note("an illegal move", lambda: move(second, COMPLETED))
        self.note("a move that came late", lambda: move(first, PROCESSING, expected=PENDING))
        self.note("a move of none", lambda: move(id_of("none"), FAILED))
        ids = [first, second, id_of("none")]
        self.note("update_statuses", lambda: self.catalog.update_statuses(ids, FAILED, reason="all of them"))
        self.note("history", lambda: self.catalog.history(first))
        self.note("a history of none", lambda: self.catalog.history(id_of("none")))

    def race(self) -> None:
        """Of two who move the same track, the second waits for the first, and is told what that has done."""
        raced = id_of("raced")

        def lose() -> None:
            self.note("lose a race", lambda: self.catalog.update_status(raced, PROCESSING, expected=PENDING))

        loser = threading.Thread(target=lose)
        with self.catalog.unit_of_work() as work:
            work.update_status(raced, PROCESSING)
            loser.start()
            wait_until_blocked(self.url, "audio_tracks")
            time.sleep(self.pause)
        loser.join()

    def claim(self) -> None:
        catalog, ends = self.catalog, [*"abcdef"]
        catalog.bulk_save([record(name, PENDING) for name in ends])
        claims = {
            claim.track.title: claim
            for claim in catalog.claim(len(ends), worker="w\\", lease=_LEASE, order_by="newest")
        }
        self.note("claim", lambda: [claims[f"Track {name}"] for name in ends])
        a, b, c, d, e, f = (claims[f"Track {name}"] for name in ends)
        self.note("renew", lambda: catalog.renew(a, lease=_LEASE * 2))
        self.note("renew_many", lambda: catalog.renew_many([b, c], lease=_LEASE))
        extracted = TrackMetadata(title="Extracted \\ 'a'", artist="NULL", duration=_LONG)
        self.note("complete", lambda: catalog.complete(a, extracted))
        self.note("complete it again", lambda: catalog.complete(a, extracted))
        self.note("what was completed", lambda: catalog.get(a.track.id))
        self.note("complete_many", lambda: catalog.complete_many([(b, None), (c, extracted)]))
        self.note("fail", lambda: catalog.fail(d, "it's \\broken", retry=False))
        self.note("a claim that is lost", lambda: catalog.complete(d))
        self.note("release", lambda: catalog.release(e, reason="not now"))
        self.note("fail for now", lambda: catalog.fail(f, "later"))
        self.note("release_expired", catalog.release_expired)
        wait_until(lambda: catalog.activity().delayed == 0)
        done: list[str] = []

        def work_on(claim: Claim) -> TrackMetadata:
            done.append(claim.track.title)
            return TrackMetadata(title=claim.track.title)

        catalog.worker(worker="loop", until_empty=True).run(work_on)
        self.note("work", lambda: sorted(set(done)))

    def load(self) -> None:
        many = [record(f"many {number}") for number in range(12)]
        broken = {"title": "Broken", "year": 19_997, "audio_path": "broken"}
        self.note("bulk_save", lambda: self.catalog.bulk_save([*many, broken], batch=5, connections=2))
        self.note("bulk_save again", lambda: self.catalog.bulk_save(many, on_conflict="error"))
        others = [TrackRecord(TrackMetadata(title="Other \\"), "other", id=one.id) for one in many[:3]]
        self.note("bulk_save others", lambda: self.catalog.bulk_save(others, on_conflict="replace"))
        with self.catalog.unit_of_work() as work:
            self.note("bulk_save in a unit", lambda: work.bulk_save([*others, record("more")], on_conflict="skip"))

    def search(self) -> None:
        ask = self.catalog.search
        for query in (
            *(
                "factory",
                "ac dc",
                "ヒカル",
                "NULL",
                "factroy",
                "bjork sogn -jazz",
                "moon OR song",
                "back\\slash",
                "song 3",
            ),
            *('"factory song"', "artist:bjork year:1980..1999"),
        ):
            self.note(f"search {query}", partial(ask, query))
        jazz = SearchFilters(genre="Jazz", year=(1971, 2015), duration=(61.0, 250.5))
        for sort in ("relevance", "title", "artist", "year", "newest"):
            page = self.note(f"search by {sort}", partial(ask, "song", order_by=sort, limit=7, filters=jazz))
            going_on = partial(ask, "song", order_by=sort, limit=7, filters=jazz, after=page.next_cursor)
            self.note(f"search by {sort}, go on", going_on)
        facets = list(get_args(FacetName))
        self.note("facets", lambda: ask("factory", facets=facets))
        self.note("a list", lambda: ask("", filters=jazz, limit=3))
        self.note("an id", lambda: ask(str(id_of("seed 1"))))
        self.note("a query too long", lambda: ask("x" * 2000))
        self.note("explain", lambda: self.catalog.explain("factory jazz", id_of("seed 1"), filters=jazz))
        with self.catalog.unit_of_work() as work:
            self.note("search in a unit", lambda: work.search("factroy"))
        self.note("refresh_vocabulary", lambda: dataclass_without(self.catalog.refresh_vocabulary(), "at"))

    def read(self) -> None:
        catalog, first = self.catalog, id_of("first")
        self.note("get", lambda: catalog.get(first))
        self.note("get none", lambda: catalog.get(id_of("none")))
        self.note("find", lambda: catalog.find(str(first)))
        self.note("find none", lambda: catalog.find(id_of("none")))
        self.note("get_many", lambda: catalog.get_many([first, id_of("none"), id_of("third")]))
        for order in ("id", "oldest", "newest"):
            self.note(f"iter_tracks by {order}", lambda: mine(catalog.iter_tracks(order_by=order, batch=100)))  # noqa: B023
        filters = SearchFilters(artist="AC/DC", status=[COMPLETED, FAILED], duration=(60.5, 200.0))
        self.note("iter_tracks filtered", lambda: [one.id for one in catalog.iter_tracks(filters)])
        page = catalog.changes(None, limit=100)
        seen: list[Track] = []
        while page.more:
            seen += page.tracks
            page = catalog.changes(page.next_cursor, limit=100)
        self.note("updated_since", lambda: mine([*seen, *page.tracks]))
        catalog.run(lambda work: save(work, "late", TrackMetadata(title="Late")))
        self.note("updated_since then", lambda: mine(catalog.changes(page.next_cursor).tracks))

    def use_the_session(self) -> None:
        with self.catalog.unit_of_work() as work:
            asked = select(Track).where(Track.artist == "Björk").order_by(Track.duration).limit(3)
            self.note("a session", lambda: [plain(track) for track in work.session.scalars(asked)])
            work.session.execute(select(func.pg_sleep(self.pause)))
            self.note("isolation", lambda: work.session.scalar(text("SHOW transaction_isolation")))
        with self.catalog.unit_of_work() as work:
            work.session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
            self.note("its own isolation", lambda: work.session.scalar(text("SHOW transaction_isolation")))
            self.note("get then", lambda: work.get(id_of("first")))
        time.sleep(self.pause)

    def watch(self) -> None:
        catalog = self.catalog
        catalog.warm_up()
        self.note(
            "count_by_status",
            lambda: [(one.status, one.tracks, one.oldest is None) for one in catalog.count_by_status()],
        )
        found = catalog.activity(timedelta(hours=1), 4)
        ended = ("completed", "failed", "retried")
        self.note("activity", lambda: [sum(getattr(bucket, name) for bucket in found.buckets) for name in ended])
        counted = ("waiting", "delayed", "claimed", "expired", "unclaimed")
        self.note("tasks", lambda: [getattr(found, name) for name in counted])
        self.note("failures", lambda: sorted(plain(one) for one in (str(f.reason) for f in found.failures)))
        self.note(
            "stays",
            lambda: [
                stay is not None and stay.median >= timedelta(0) for stay in (found.time_pending, found.time_processing)
            ],
        )
        health = catalog.health()
        self.note(
            "health", lambda: [health.server_encoding, health.is_standby, health.schema_revision, health.stuck_claims]
        )
        self.note("pool", lambda: catalog.pool_stats().size)


def save(work: UnitOfWork, name: str, metadata: TrackMetadata, **options: Any) -> Track:
    return work.save(metadata, audio_path=name, id=id_of(name), **{"status": PENDING, **options})


def record(name: str, status: TrackStatus = COMPLETED) -> TrackRecord:
    return TrackRecord(TrackMetadata(title=f"Track {name}"), f"s3://\\{name}'", id=id_of(name), status=status)


def mine(tracks: Iterable[Track]) -> list[Any]:
    """Return how many *tracks* there are, and those that no seed has put there, in an order of their own."""
    found = list(tracks)
    own = [plain(track) for track in found if not track.audio_path.startswith("seed/")]
    return [len(found), sorted(own, key=str)]


def dataclass_without(value: Any, *names: str) -> dict[str, Any]:
    fields = getattr(value, "_fields", None) or [field.name for field in dataclasses.fields(value)]
    return {name: getattr(value, name) for name in fields if name not in names}


def plain(value: Any) -> Any:  # noqa: C901, PLR0911, PLR0912  # One case for each kind of value.
    """Return *value* as text, numbers, lists and dictionaries; of a time, a token or a cursor no more than its kind."""
    match value:
        case Enum():
            return str(value)
        case None | bool() | int() | float() | str():
            return value
        case UUID():
            return str(value)
        case datetime():
            return f"a time at {value.utcoffset()}"
        case timedelta():
            return f"{'no ' if value < timedelta(0) else ''}length of time"
        case errors.CatalogError():
            return [type(value).__name__, str(value), value.operation, value.field, value.phase, value.sqlstate]
        case Track() | StatusChange():
            shown = {name: plain(held) for name, held in vars(value).items() if not name.startswith("_")}
            if isinstance(value, Track):
                return {**shown, "outcome": plain(value.outcome)}
            # A claim's is made of its token.
            return {**shown, "lasted": plain(value.duration), "operation_id": value.operation_id is not None}
        case Claim():
            return {**plain(dataclass_without(value, "token")), "token": value.token > 0}
        case SearchPage():
            return {**plain(dataclass_without(value, "next")), "next": value.next_cursor is not None}
        case Mapping():
            return {str(plain(key)): plain(held) for key, held in value.items()}
        case _ if dataclasses.is_dataclass(value) or hasattr(value, "_fields"):
            return plain(dataclass_without(value))
        case Collection():
            return [plain(one) for one in value]
        case _:
            raise TypeError(type(value))
