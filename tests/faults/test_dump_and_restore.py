"""A dump that is restored into an empty cluster is the same catalogue: rows, words, histories, searches and roles."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from psycopg import sql

from audiocatalog import Catalog, TrackMetadata, TrackRecord, TrackStatus, errors, migrations
from audiocatalog.migrations.roles import RoleNames, apply_roles
from tests.support.databases import TABLES, libpq
from tests.support.servers import Server, cluster, temporary_folder

pytestmark = pytest.mark.faults

_DATABASE = "music"
_NAMES = RoleNames()
_TRACKS = 2000
_WORDS = [
    "Idioteque",
    "Radiohead",
    "Motörhead",
    "Björk",
    "Jóga",
    "AC/DC",
    "Back",
    "Black",
    "Sigur",
    "Rós",
    "Hoppípolla",
    "宇多田ヒカル",
    "Beyoncé",
    "Halo",
    "The",
    "Who",
    "Now",
    "Over",
    "Guns",
    "N’Roses",
    "Queen",
    "Bohemian",
    "Rhapsody",
    "Кино",
    "Группа",
    "крови",
    "P!nk",
    "Blue",
    "182",
    "Blink",
    "Señorita",
    "Ænima",
    "Tool",
    "Wish",
    "You",
]

#: What must not differ, of each database as its own server tells it.
_GRANTS = """
    SELECT 'relation', c.oid::regclass::text, c.relacl::text FROM pg_class c
        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'v', 'S')
    UNION ALL SELECT 'column', a.attrelid::regclass || '.' || a.attname, a.attacl::text FROM pg_attribute a
        JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = 'public'::regnamespace AND a.attacl IS NOT NULL
    UNION ALL SELECT 'function', p.oid::regprocedure::text, p.proacl::text FROM pg_proc p
        WHERE p.pronamespace = 'public'::regnamespace
    UNION ALL SELECT 'schema', nspname, nspacl::text FROM pg_namespace WHERE nspname = 'public'
    UNION ALL SELECT 'database', datname, datacl::text FROM pg_database WHERE datname = current_database()
    UNION ALL SELECT 'setting', coalesce(r.rolname, ''), s.setconfig::text FROM pg_db_role_setting s
        LEFT JOIN pg_roles r ON r.oid = s.setrole
    ORDER BY 1, 2
"""


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Server, Server]]:
    """Give a server with a catalogue, and one that was empty until the first one's dump was restored there."""
    with ExitStack() as stack:
        source, target = stack.enter_context(cluster()), stack.enter_context(cluster())
        folder = temporary_folder(stack)
        source.start()
        with source.admin() as admin:
            admin.execute(f"CREATE DATABASE {_DATABASE}")
        migrations.upgrade(source.url(_DATABASE))
        apply_roles(source.url(_DATABASE), _NAMES)
        with source.admin() as admin:
            for name in (_NAMES.app, _NAMES.search):
                admin.execute(sql.SQL("ALTER ROLE {} LOGIN").format(sql.Identifier(name)))
        fill_with_tracks(source)
        target.start()
        roles, dump = folder / "roles.sql", folder / "music.dump"
        # The roles are the cluster's and not the database's, so that they travel by themselves. The first of them all,
        # the superuser, is there already.
        succeed(source, "pg_dumpall", "--roles-only", "-f", str(roles), "-d", address(source, "postgres"))
        target.run("psql", "-q", "-f", str(roles), address(target, "postgres"))
        succeed(source, "pg_dump", "--format=custom", "-f", str(dump), address(source))
        succeed(target, "pg_restore", "--exit-on-error", "--create", "-d", address(target, "postgres"), str(dump))
        yield source, target


def address(server: Server, database: str = _DATABASE) -> str:
    return libpq(server.socket_url(database))


def succeed(server: Server, program: str, *arguments: str) -> None:
    done = server.run(program, *arguments)
    assert (done.returncode, done.stderr) == (0, "")


def fill_with_tracks(server: Server) -> None:
    """Store tracks with names of every kind, of which some have moved and some have been edited."""
    chance = random.Random(4)  # noqa: S311  # The same tracks every time.
    records = [
        TrackRecord(
            TrackMetadata(
                title=" ".join(chance.choices(_WORDS, k=3)),
                artist=" ".join(chance.choices(_WORDS, k=2)),
                album=chance.choice([None, *_WORDS]),
                genre=chance.choice([None, "Rock", "Électro", "J-Pop"]),
                year=chance.choice([None, 1971, 2000]),
                duration=chance.choice([None, 0.1 + 0.2, 309.0]),
            ),
            f"s3://music/{number}.flac",
            status=chance.choice([TrackStatus.PENDING, TrackStatus.COMPLETED]),
        )
        for number in range(_TRACKS)
    ]
    with Catalog(server.url(_DATABASE), actor="before the dump") as catalog:
        assert catalog.bulk_save(records).inserted == _TRACKS
        claims = catalog.claim(limit=100, worker="a worker")
        for number, claim in enumerate(claims[:60]):
            catalog.complete(claim) if number % 2 else catalog.fail(claim, "broken, 'quoted'\nand more", retry=False)
        for record in records[:50]:
            edited = TrackMetadata(title="Edited", artist=record.metadata.artist)
            catalog.run(lambda work, one=record, new=edited: work.save(new, audio_path="b", id=one.id, replace=True))  # type: ignore[misc]
        catalog.refresh_vocabulary()


def everything(server: Server, statement: str) -> list[tuple[Any, ...]]:
    with server.admin(_DATABASE) as admin:
        admin.execute("SET TimeZone = 'UTC'")
        return admin.execute(statement.encode()).fetchall()


@pytest.mark.parametrize("table", [*TABLES, "audiocatalog_version"])
def test_every_row_is_the_same_with_all_that_was_computed_of_it(pair: tuple[Server, Server], table: str) -> None:
    source, target = (everything(server, f"SELECT t::text FROM {table} AS t ORDER BY 1") for server in pair)
    assert source == target
    assert source


def test_words_that_are_computed_again_are_those_that_were_restored(pair: tuple[Server, Server]) -> None:
    _, target = pair
    with target.admin(_DATABASE) as admin:
        before = admin.execute("SELECT id, search_vector::text FROM audio_tracks ORDER BY id").fetchall()
        # An update of any column computes them anew.
        admin.execute("UPDATE audio_tracks SET title = title")
        assert admin.execute("SELECT id, search_vector::text FROM audio_tracks ORDER BY id").fetchall() == before


def test_a_hundred_searches_find_the_same(pair: tuple[Server, Server]) -> None:
    chance = random.Random(5)  # noqa: S311  # The same searches every time.
    queries = [" ".join(chance.choices(_WORDS, k=chance.choice([1, 1, 2, 3]))) for _ in range(80)]
    queries += [misspelt(word) for word in _WORDS if len(word) > 4][:20]
    source, target = pair
    found = 0
    with Catalog(source.url(_DATABASE)) as before, Catalog(target.url(_DATABASE)) as after:
        for query in queries:
            pages = [catalog.search(query, facets=["genre", "decade"]) for catalog in (before, after)]
            told = [
                ([(hit.track.id, hit.score, hit.highlights) for hit in page], page.total, page.suggestion, page.facets)
                for page in pages
            ]
            assert told[0] == told[1], query
            found += bool(pages[0].total)
    assert found > 50


def misspelt(word: str) -> str:
    return word[:2] + word[3] + word[2] + word[4:]


def test_histories_are_the_same_and_go_on(pair: tuple[Server, Server]) -> None:
    source, target = pair
    with Catalog(source.url(_DATABASE)) as before, Catalog(target.url(_DATABASE)) as after:
        moved = [track for track in before.iter_tracks() if track.version > 1]
        assert len(moved) >= 100
        for track in moved:
            told = [
                [(step.from_status, step.to_status, step.actor, step.reason, step.at, step.version) for step in steps]
                for steps in (before.history(track.id), after.history(track.id))
            ]
            assert told[0] == told[1]
        failed = next(track for track in moved if track.status is TrackStatus.FAILED)
        change = after.update_status(failed.id, TrackStatus.PENDING)
        assert change.version == failed.version + 1
        migrations.check(target.url(_DATABASE))


def test_the_roles_may_do_what_they_might_and_no_more(pair: tuple[Server, Server]) -> None:
    source, target = pair
    assert everything(source, _GRANTS) == everything(target, _GRANTS)
    with Catalog(target.url(_DATABASE, user=_NAMES.app)) as app:
        track = app.run(lambda work: work.save(TrackMetadata(title="As the application"), audio_path="a"))
        assert app.search("as the application").hits[0].track.id == track.id
        assert app.update_status(track.id, TrackStatus.PENDING).version == 2
    with Catalog(target.url(_DATABASE, user=_NAMES.search)) as reader:
        assert reader.search("as the application").total >= 1
        with pytest.raises(errors.CatalogError):
            reader.update_status(track.id, TrackStatus.PROCESSING)
    with psycopg.connect(libpq(target.url(_DATABASE, user=_NAMES.app)), autocommit=True) as login:
        for forbidden in (
            "DELETE FROM audio_tracks",
            "UPDATE audio_tracks SET status = 'FAILED'",
            "INSERT INTO audio_track_status_changes (track_id) VALUES (gen_random_uuid())",
            "CREATE TABLE mine (n int)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                login.execute(forbidden)
