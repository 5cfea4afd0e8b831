"""A new version of the search vector is made beside the old one: nobody waits, nothing is lost, and it can be ended."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from audiocatalog import Catalog, TrackMetadata, TrackStatus, migrations
from audiocatalog.errors import PermissionDenied, SchemaMismatch, TransientConflict
from audiocatalog.migrations import vector_rebuild as rebuilding
from audiocatalog.migrations.roles import apply_roles
from tests.support.command import Run, ended, invoke, process, run_on
from tests.support.databases import libpq
from tests.support.factories import TrackRecordFactory
from tests.support.roles import drop_roles, random_names
from tests.support.schemas import schema_of
from tests.support.vectors import abandon, contract, expand, require, wrong_vectors
from tests.support.waiting import wait_until

TRACKS = 3000
NEW, OLD = "search_vector_b", "search_vector"
INDEXES = [f"ix_audio_tracks_search_vector_v2{share}" for share in ("", "_8", "_64", "_512", "_4096")]
#: The locks of a rebuild that is at work, in this database.
AT_WORK = """
SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = database
WHERE locktype = 'advisory' AND datname = current_database()"""
INSERT = "INSERT INTO audio_tracks (id, status, title, audio_path) VALUES (gen_random_uuid(), 'COMPLETED', 'Late', 'p')"

Admin = psycopg.Connection[tuple[object, ...]]


@pytest.fixture(scope="module")
def filled(server_url: str) -> Iterator[str]:
    """Give a database with tracks, to be copied."""
    name = f"audiocatalog_test_rebuilding_{time.monotonic_ns()}"
    with psycopg.connect(libpq(server_url), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")
        url = make_url(server_url).set(database=name).render_as_string(hide_password=False)
        migrations.upgrade(url)
        with Catalog(url, actor="loader") as catalog:
            catalog.bulk_save(TrackRecordFactory.build_batch(TRACKS))
        yield name
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def url(filled: str, server_url: str) -> Iterator[str]:
    copy = f"{filled}_copy"
    with psycopg.connect(libpq(server_url), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {copy} TEMPLATE {filled}")
        yield make_url(server_url).set(database=copy).render_as_string(hide_password=False)
        admin.execute(f"DROP DATABASE {copy} WITH (FORCE)")


@pytest.fixture
def admin(url: str) -> Iterator[Admin]:
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        yield connection


@pytest.fixture
def run(url: str) -> Run:
    return run_on(url)


def one(admin: Admin, query: str) -> object:
    row = admin.execute(query).fetchone()
    return row and row[0]


def built_indexes(admin: Admin, column: str = NEW) -> dict[str, tuple[str, bool]]:
    """Return how each index of a column is defined, as if it were one of version 1, and whether it is valid."""
    found = admin.execute(
        "SELECT relname::text, pg_get_indexdef(indexrelid), indisvalid FROM pg_index JOIN pg_class ON oid = indexrelid"
        " WHERE indrelid = 'audio_tracks'::regclass AND pg_get_indexdef(indexrelid) LIKE %s",
        [f"%({column})%"],
    ).fetchall()
    return {
        str(name): (str(definition).replace("_v2", "").replace(NEW, OLD), bool(is_valid))
        for name, definition, is_valid in found
    }


def test_nothing_is_to_be_done_where_nothing_is_new(run: Run, admin: Admin) -> None:
    assert run("rebuild").stdout == "every search vector is complete: nothing to rebuild\n"
    result = json.loads(run("rebuild", "--all", "--json").stdout)
    assert [(column["column"], column["tracks"], column["filled"]) for column in result["columns"]] == [
        (NEW, TRACKS, 0),
        (OLD, TRACKS, 0),
    ]
    assert one(admin, "SELECT count(*) FROM audio_tracks WHERE search_vector_b IS NOT NULL") == 0


def test_it_needs_a_schema(empty_database: Callable[[], str]) -> None:
    with pytest.raises(SchemaMismatch, match="audiocatalog upgrade"):
        rebuilding.rebuild(empty_database())


def test_a_dry_run_says_what_is_to_be_done(run: Run, admin: Admin) -> None:
    admin.execute(expand(2))
    assert re.fullmatch(
        r"search_vector_b: check about 3,000 tracks, build 5 indexes, which takes up to \d+ MB of disk\n",
        run("rebuild", "--dry-run").stdout,
    )
    plan = json.loads(run("rebuild", "--dry-run", "--json").stdout)["plan"]
    assert [(one["column"], one["is_spare"], one["tracks"], one["to_build"]) for one in plan] == [
        (NEW, False, TRACKS, INDEXES)
    ]
    assert one(admin, "SELECT count(*) FROM audio_tracks WHERE search_vector_b IS NOT NULL") == 0
    assert built_indexes(admin) == {}


def test_every_vector_is_made_and_indexed_as_the_old_ones_are(run: Run, admin: Admin) -> None:
    old = built_indexes(admin, OLD)
    admin.execute(expand(2))
    result = run("rebuild")
    assert result.exit_code == 0
    assert result.stdout.startswith("search_vector_b: 3,000 tracks, 3,000 of them changed, 5 indexes built in ")
    assert [line for line in result.stderr.splitlines() if line.startswith("building")] == [
        f"building {name} ..." for name in INDEXES
    ]
    assert (wrong_vectors(admin, NEW, 2), wrong_vectors(admin, OLD, 1)) == (0, 0)
    assert sorted(built_indexes(admin)) == sorted(INDEXES)
    assert sorted(built_indexes(admin).values()) == sorted(old.values())
    assert run("rebuild").stdout.startswith("every search vector is complete")
    assert one(admin, f"SELECT count(*) FROM audio_tracks WHERE {NEW} @@ 'version2'") == TRACKS


def test_nothing_else_has_changed(run: Run, url: str, admin: Admin) -> None:
    """Neither rows, nor their versions, times and history; nor what a host refers to it by; nor a reader's place."""
    admin.execute("CREATE TABLE playlists (track_id uuid REFERENCES audio_tracks)")
    admin.execute("INSERT INTO playlists SELECT id FROM audio_tracks LIMIT 10")
    admin.execute("CREATE VIEW titles AS SELECT id, title, search_vector FROM audio_tracks")
    admin.execute("CREATE PUBLICATION tracks FOR TABLE audio_tracks")
    things = (
        f"SELECT md5(string_agg((to_jsonb(t) - '{NEW}')::text, '' ORDER BY id)) FROM audio_tracks t",
        "SELECT md5(string_agg(c::text, '' ORDER BY track_id, version)) FROM audio_track_status_changes c",
        "SELECT 'audio_tracks'::regclass::oid::text || (SELECT count(*) FROM titles NATURAL JOIN audio_tracks)::text",
        "SELECT string_agg(conname || convalidated || confrelid, ' ' ORDER BY conname) FROM pg_constraint",
        "SELECT string_agg(prrelid::text, ' ') FROM pg_publication_rel",
        "SELECT relacl::text || relowner FROM pg_class WHERE oid = 'audio_tracks'::regclass",
    )
    before = [one(admin, thing) for thing in things]
    with Catalog(url) as catalog:
        cursor, more = None, True
        while more:
            page = catalog.changes(cursor)
            cursor, more = page.next_cursor, page.more
        admin.execute(expand(2))
        assert run("rebuild").exit_code == 0
        assert catalog.changes(cursor).tracks == ()
    assert [one(admin, thing) for thing in things] == before


class Load:
    """Do all that services do, on warm connections, until it is told to end; nothing may fail."""

    def __init__(self, url: str) -> None:
        self.catalog = Catalog(url, actor="service", pool_size=8)
        self.saved: list[UUID] = []
        self.moves: dict[UUID, int] = {}
        self._completed = self.catalog.iter_tracks(batch=100)
        self.rounds = 0
        self.failures: list[BaseException] = []
        self._end = threading.Event()
        self._kinds = (self.save, self.move, self.work, self.load, self.search)
        self._threads = [threading.Thread(target=self._repeat, args=[kind]) for kind in self._kinds]

    def __enter__(self) -> Self:
        for kind in self._kinds:
            kind()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def _repeat(self, kind: Callable[[], None]) -> None:
        while not self._end.is_set():
            try:
                kind()
                self.rounds += 1
            except Exception as error:  # noqa: BLE001
                self.failures.append(error)
                return

    def save(self) -> None:
        with self.catalog.unit_of_work() as work:
            track = work.save(
                TrackMetadata(title="New Song", artist="Band"), audio_path="p", status=TrackStatus.PENDING
            )
        self.saved.append(track.id)

    def move(self) -> None:
        track = next(self._completed)
        self.moves[track.id] = self.catalog.update_status(track.id, TrackStatus.PENDING).version

    def work(self) -> None:
        for claim in self.catalog.claim(5):
            self.catalog.complete(claim, TrackMetadata(title="Worked On", artist="Band", year=2001))

    def load(self) -> None:
        records = TrackRecordFactory.build_batch(50)
        self.catalog.bulk_save(records)
        self.saved += [record.id for record in records]

    def search(self) -> None:
        assert self.catalog.search("song").hits
        assert self.catalog.get(self.saved[-1]).title


def test_services_go_on_as_if_nothing_were_happening(url: str, admin: Admin) -> None:
    with Load(url) as load:
        admin.execute(expand(2))
        rebuilding.rebuild(url, rate=5000)
        rounds = load.rounds
        wait_until(lambda: load.failures or load.rounds > rounds + 20)
    assert load.failures == []
    assert (wrong_vectors(admin, NEW, 2), wrong_vectors(admin, OLD, 1)) == (0, 0)
    assert len(load.catalog.get_many(load.saved)) == len(load.saved)
    with load.catalog.unit_of_work() as work:
        for track, version in list(load.moves.items())[:100]:
            assert version in [change.version for change in work.history(track)]
    # Each version of a track has its row in one of the logs.
    logged = (
        "(SELECT count(*) FROM audio_track_status_changes WHERE track_id = t.id)"
        " + (SELECT count(*) FROM audio_track_edits WHERE track_id = t.id)"
    )
    assert one(admin, f"SELECT count(*) FROM audio_tracks t WHERE version <> {logged}") == 0
    load.catalog.close()


def test_rows_that_others_hold_are_waited_for_without_holding_up_the_rest(url: str, admin: Admin) -> None:
    admin.execute(expand(2))
    with psycopg.connect(libpq(url)) as writer:
        held = one(admin, "SELECT id FROM audio_tracks ORDER BY id LIMIT 1")
        rebuilt = threading.Thread(target=rebuilding.rebuild, args=[url])
        # A lock that no update may pass, as that of a host's transaction that goes on to think.
        writer.execute("SELECT FROM audio_tracks WHERE id = %s FOR UPDATE", [held])
        rebuilt.start()
        wait_until(lambda: one(admin, f"SELECT count(*) FROM audio_tracks WHERE {NEW} IS NULL") == 1)
        admin.execute("SET lock_timeout = '2s'")
        admin.execute("UPDATE audio_tracks SET year = 2002 WHERE id <> %s", [held])
        # What it writes has no part in the vector, which is made by nobody else.
        writer.execute("UPDATE audio_tracks SET format = 'held' WHERE id = %s", [held])
        writer.commit()
        rebuilt.join(timeout=30)
    assert wrong_vectors(admin, NEW, 2) == 0
    assert one(admin, "SELECT count(*) FROM audio_tracks WHERE format = 'held' OR year = 2002") == TRACKS


def test_who_wrote_by_the_old_functions_is_waited_for(url: str, admin: Admin) -> None:
    with psycopg.connect(libpq(url)) as writer:
        writer.execute(INSERT)
        admin.execute(expand(2))
        order: list[str] = []
        rebuilt = threading.Thread(
            target=rebuilding.rebuild, args=[url], kwargs={"report": lambda progress: order.append(progress.step)}
        )
        rebuilt.start()
        wait_until(
            lambda: admin.execute("SELECT FROM pg_stat_activity WHERE query LIKE '%virtualtransaction%'").rowcount > 1
        )
        order.append("committed")
        writer.commit()
        rebuilt.join(timeout=30)
    assert order[:3] == ["waiting for transactions that write tracks", "committed", f"filling {NEW}"]
    assert (one(admin, "SELECT count(*) FROM audio_tracks"), wrong_vectors(admin, NEW, 2)) == (TRACKS + 1, 0)


#: Where it is killed: what keeps it there, and how that is seen.
STAGES = [
    pytest.param(
        INSERT,
        AT_WORK,
        id="waiting for writers",
    ),
    pytest.param("", f"SELECT FROM audio_tracks WHERE {NEW} IS NOT NULL", id="filling"),
    pytest.param(
        "SELECT count(*) FROM audio_tracks",
        f"SELECT FROM pg_index WHERE indexrelid = to_regclass('{INDEXES[0]}') AND NOT indisvalid",
        id="building an index",
    ),
]


@pytest.mark.parametrize(("obstacle", "condition"), STAGES)
def test_killed_at_any_stage_it_goes_on_when_it_is_run_again(
    url: str, run: Run, admin: Admin, obstacle: str, condition: str
) -> None:
    admin.execute(expand(2))
    with psycopg.connect(libpq(url)) as other:
        if obstacle:
            other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            other.execute(obstacle)
        program = process("--url", url, "rebuild", *(() if obstacle else ("--rate", "200")))
        wait_until(lambda: admin.execute(condition).rowcount > 0)
        program.send_signal(signal.SIGKILL)
        ended(program)
        # The server, too, ends what it was doing, although nothing stands in its way but the other transaction.
        wait_until(lambda: admin.execute(AT_WORK).rowcount == 0)
        other.commit()
    result = run("rebuild")
    assert result.exit_code == 0, result.stderr
    assert wrong_vectors(admin, NEW, 2) == 0
    assert [is_valid for _, is_valid in built_indexes(admin).values()] == [True] * 5


def test_given_up_it_leaves_no_trace(url: str, run: Run, admin: Admin) -> None:
    before = schema_of(url)
    admin.execute(expand(2))
    run("rebuild")
    admin.execute(abandon(2))
    assert run("rebuild").stdout.startswith(f"{NEW}: 3,000 tracks, 3,000 of them changed, 5 indexes dropped in ")
    assert schema_of(url) == before
    assert one(admin, f"SELECT count(*) FROM audio_tracks WHERE {NEW} IS NOT NULL") == 0
    assert run("rebuild").stdout.startswith("every search vector is complete")


def test_the_two_columns_are_used_by_turns(url: str, run: Run, admin: Admin) -> None:
    admin.execute(expand(2))
    run("rebuild")
    admin.execute(require(NEW, 2))
    admin.execute(contract(OLD, 1))
    # Without emptying it first: what is left of version 1 is told from version 3.
    admin.execute(expand(3))
    run("rebuild")
    admin.execute(require(OLD, 3))
    assert (wrong_vectors(admin, OLD, 3), wrong_vectors(admin, NEW, 2)) == (0, 0)
    admin.execute(contract(NEW, 2))
    run("rebuild")
    assert built_indexes(admin) == {}
    assert one(admin, f"SELECT count(*) FROM audio_tracks WHERE {NEW} IS NOT NULL") == 0


def test_the_next_revision_refuses_a_table_that_was_not_rebuilt(run: Run, admin: Admin) -> None:
    admin.execute(expand(2))
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="audiocatalog rebuild"):
        admin.execute(require(NEW, 2))
    run("rebuild")
    admin.execute(require(NEW, 2))


def test_a_rebuilt_database_is_as_a_new_one(
    url: str, run: Run, admin: Admin, migrated_database: Callable[[], str]
) -> None:
    new = migrated_database()
    with psycopg.connect(libpq(new), autocommit=True) as connection:
        for revision in (expand(2), require(NEW, 2)):
            connection.execute(revision)
    admin.execute(expand(2))
    run("rebuild")
    admin.execute(require(NEW, 2))
    assert schema_of(url) == schema_of(new)
    assert invoke("--url", new, "rebuild").stdout.startswith("every search vector is complete")


def test_one_rebuild_at_a_time(url: str, admin: Admin) -> None:
    admin.execute(expand(2))
    admin.execute("SELECT pg_advisory_lock(%s)", [rebuilding._REBUILD_KEY])
    with pytest.raises(TransientConflict, match="another rebuild"):
        rebuilding.rebuild(url, timeout=0.3)
    assert one(admin, f"SELECT count(*) FROM audio_tracks WHERE {NEW} IS NOT NULL") == 0


def test_the_owner_rebuilds_and_the_application_works_on(url: str, admin: Admin) -> None:
    names = random_names()
    apply_roles(url, names)
    try:
        for name in (names.owner, names.app):
            admin.execute(sql.SQL("ALTER ROLE {} LOGIN").format(sql.Identifier(name)))
        owner, app = (
            make_url(url).set(username=name).render_as_string(hide_password=False) for name in (names.owner, names.app)
        )
        with psycopg.connect(libpq(owner), autocommit=True) as connection:
            connection.execute(expand(2))
        with Catalog(app, actor="app") as catalog:
            catalog.bulk_save(TrackRecordFactory.build_batch(3))
            with pytest.raises(PermissionDenied):
                rebuilding.rebuild(app)
            refused = invoke("--url", app, "rebuild")
            assert refused.exit_code == 1
            assert refused.stderr.splitlines()[-1].startswith("error: this database role does not own")
            rebuilding.rebuild(owner)
            catalog.bulk_save(TrackRecordFactory.build_batch(3))
            assert catalog.search("song").hits
        assert wrong_vectors(admin, NEW, 2) == 0
    finally:
        drop_roles(admin, names.app, names.search, names.owner)
