"""One schema for all that reaches a catalogue, however it is named; a renamed or copied one writes into no other."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from alembic import command
from psycopg import sql
from sqlalchemy import URL, make_url

from audiocatalog import (
    Catalog,
    TrackMetadata,
    TrackRecord,
    TrackStatus,
    migrations,
)
from audiocatalog.db import first_revision
from audiocatalog.db.execute import run
from audiocatalog.db.settings import parse_url
from audiocatalog.embedded import server as embedded
from audiocatalog.errors import ConfigurationError, SchemaMismatch, TransientConflict
from audiocatalog.migrations import vector_rebuild as rebuilding
from audiocatalog.migrations.grants import grant_rights, grant_sql
from audiocatalog.migrations.migrator import LOCK_KEY, connected
from audiocatalog.migrations.roles import roles_sql
from audiocatalog.models.sql_names import SCHEMA_REVISION, VERSION_TABLE
from audiocatalog.operations.advisory_locks import holder_of
from tests.support.databases import libpq
from tests.support.migrating import alembic_command, config_for
from tests.support.schemas import schema_of
from tests.support.upgrades import meanwhile
from tests.support.waiting import wait_until

Admin = psycopg.Connection[Any]


@pytest.fixture
def url(empty_database: Callable[[], str]) -> str:
    return empty_database()


@pytest.fixture
def admin(url: str) -> Iterator[Admin]:
    with psycopg.connect(libpq(url), autocommit=True, application_name="a bystander") as connection:
        yield connection


def within(url: str, path: str) -> str:
    """Return *url* with a search path."""
    options = {"options": f"-c search_path={path}"}
    return make_url(url).update_query_dict(options).render_as_string(hide_password=False)


def save(url: str | URL, title: str) -> UUID:
    with Catalog(url, actor="tester") as catalog, catalog.unit_of_work() as work:
        return work.save(TrackMetadata(title=title), audio_path="p", status=TrackStatus.PENDING).id


def titles(admin: Admin, schema: str) -> list[str]:
    query = sql.SQL("SELECT title::text FROM {} ORDER BY 1").format(sql.Identifier(schema, "audio_tracks"))
    return [title for (title,) in admin.execute(query)]


def schemas(admin: Admin) -> list[str]:
    """Return the schemas that hold tracks."""
    query = "SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'audio_tracks' ORDER BY 1"
    return [schema for (schema,) in admin.execute(query)]


def work_with(url: str | URL) -> None:
    """Save, move, claim, complete, load, count, search and read."""
    with Catalog(url, actor="tester") as catalog:
        with catalog.unit_of_work() as work:
            track = work.save(TrackMetadata(title="Jóga"), audio_path="p", status=TrackStatus.PENDING)
        (claim,) = catalog.claim(1, order_by="newest")
        assert claim.track.id == track.id
        catalog.complete(claim, TrackMetadata(title="Jóga", artist="Björk", year=1997))
        assert catalog.bulk_save([TrackRecord(TrackMetadata(title="AC/DC"), "p")]).inserted == 1
        catalog.refresh_vocabulary()
        assert track.id in {hit.track.id for hit in catalog.search("bjork").hits}
        assert [change.to_status for change in catalog.history(track.id)] == ["PENDING", "PROCESSING", "COMPLETED"]


def by_url(url: str, _: pytest.MonkeyPatch, __: Path) -> str:
    return within(url, "music")


def by_environment(url: str, patch: pytest.MonkeyPatch, _: Path) -> str:
    patch.setenv("PGOPTIONS", "-c search_path=music")
    return url


def by_service(url: str, patch: pytest.MonkeyPatch, folder: Path) -> str:
    parsed = make_url(url)
    values = {
        "host": parsed.query.get("host") or parsed.host,
        "port": parsed.query.get("port") or parsed.port,
        "user": parsed.username,
        "password": parsed.password,
        "dbname": parsed.database,
        "options": "-c search_path=music",
    }
    lines = [f"{name}={value}" for name, value in values.items() if value is not None]
    (folder / "services").write_text("\n".join(["[music]", *lines]), encoding="utf-8")
    patch.setenv("PGSERVICEFILE", str(folder / "services"))
    return "postgresql:///?service=music"


def by_role(url: str, _: pytest.MonkeyPatch, __: Path) -> str:
    with psycopg.connect(libpq(url), autocommit=True) as admin:
        admin.execute(sql.SQL("ALTER DATABASE {} SET search_path = music").format(sql.Identifier(admin.info.dbname)))
    return url


WAYS = [by_url, by_environment, by_service, by_role]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_everything_finds_the_same_schema(
    url: str, admin: Admin, way: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    admin.execute("CREATE SCHEMA music")
    named = way(url, monkeypatch, tmp_path)
    migrations.upgrade(named)
    assert schemas(admin) == ["music"]
    command.upgrade(config_for(named), "head")
    assert migrations.current(named) == SCHEMA_REVISION
    migrations.check(named)
    assert '"music"."audio_tracks"' in roles_sql(named)
    assert rebuilding.rebuild(named) == []
    work_with(named)
    assert schemas(admin) == ["music"]


@pytest.mark.parametrize("way", WAYS[1:3], ids=lambda way: way.__name__)
def test_the_limits_of_a_migration_hold_beside_what_libpq_reads(
    url: str, admin: Admin, way: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    admin.execute("CREATE SCHEMA music")
    with connected(parse_url(way(url, monkeypatch, tmp_path))) as connection:
        assert connection.exec_driver_sql("SHOW search_path").scalar_one() == "music"
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar_one() == "100ms"
        assert connection.exec_driver_sql("SHOW statement_timeout").scalar_one() == "5s"


def test_a_limit_of_the_callers_own_counts_wherever_it_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = "-c statement_timeout=777ms"
    read = "SHOW statement_timeout"
    with connected(parse_url(make_url(url).update_query_dict({"options": limit}))) as connection:
        assert connection.exec_driver_sql(read).scalar_one() == "777ms"
    monkeypatch.setenv("PGOPTIONS", limit)
    with connected(parse_url(url)) as connection:
        assert connection.exec_driver_sql(read).scalar_one() == "777ms"


class TestRenamed:
    @pytest.fixture
    def old(self, url: str, admin: Admin) -> str:
        """Give a catalogue whose schema was called music, and now is music_old."""
        admin.execute("CREATE SCHEMA music")
        migrations.upgrade(within(url, "music"))
        save(within(url, "music"), "before")
        admin.execute("ALTER SCHEMA music RENAME TO music_old")
        return within(url, "music_old")

    @pytest.mark.parametrize(
        "call",
        [
            lambda catalog: catalog.get(uuid4()),
            lambda catalog: catalog.run(lambda work: work.save(TrackMetadata(title="x"), audio_path="p")),
            lambda catalog: catalog.bulk_save([TrackRecord(TrackMetadata(title="x"), "p")]),
            lambda catalog: catalog.claim(1),
            lambda catalog: catalog.health(),
        ],
        ids=["get", "save", "bulk_save", "claim", "health"],
    )
    def test_nothing_is_written_to_another_catalogue(
        self, url: str, admin: Admin, old: str, call: Callable[[Catalog], object]
    ) -> None:
        admin.execute("CREATE SCHEMA music")
        migrations.upgrade(within(url, "music"))
        with Catalog(old) as catalog, pytest.raises(SchemaMismatch, match="renamed or copied: run `audiocatalog upg"):
            call(catalog)
        assert (titles(admin, "music"), titles(admin, "music_old")) == ([], ["before"])

    def test_an_upgrade_without_a_revision_mends_it(self, url: str, admin: Admin, old: str) -> None:
        admin.execute("CREATE SCHEMA music")
        migrations.upgrade(within(url, "music"))
        with pytest.raises(SchemaMismatch, match="works in the schema 'music'"):
            migrations.check(old)
        migrations.upgrade(old)
        migrations.check(old)
        work_with(old)
        save(within(url, "music"), "new")
        assert (titles(admin, "music"), titles(admin, "music_old")) == (["new"], ["AC/DC", "Jóga", "before"])

    def test_the_alembic_command_mends_it_too(self, old: str) -> None:
        done = alembic_command(old, "upgrade", "head")
        assert done.returncode == 0, done.stderr
        work_with(old)

    def test_only_the_owner_can_mend_it(self, admin: Admin, old: str) -> None:
        role = f"test_role_{uuid4().hex[:12]}"
        admin.execute(f"CREATE ROLE {role} LOGIN")
        try:
            grant_rights(old, role)
            theirs = make_url(old).set(username=role)
            with pytest.raises((SchemaMismatch, ConfigurationError)) as caught:
                migrations.upgrade(theirs)
            if isinstance(caught.value, ConfigurationError):
                pytest.skip("this server asks for passwords")
            assert "as the owner" in str(caught.value)
            migrations.upgrade(old)
            # A service that upgrades at each start, with few rights, has nothing to do now.
            migrations.upgrade(theirs)
            work_with(theirs)
        finally:
            admin.execute(f"DROP OWNED BY {role}")
            admin.execute(f"DROP ROLE {role}")

    def test_a_function_that_works_in_no_schema_of_its_own_is_refused(self, url: str, admin: Admin) -> None:
        migrations.upgrade(url)
        admin.execute("ALTER FUNCTION audiocatalog_move_v1 RESET search_path")
        with Catalog(url) as catalog, pytest.raises(SchemaMismatch, match=r"search_path of its caller"):
            catalog.count_by_status()
        migrations.upgrade(url)
        work_with(url)

    def test_tables_apart_from_their_functions_are_refused(self, url: str, admin: Admin) -> None:
        admin.execute("CREATE SCHEMA music")
        admin.execute("CREATE SCHEMA elsewhere")
        migrations.upgrade(within(url, "music"))
        admin.execute("ALTER TABLE music.audio_tracks SET SCHEMA elsewhere")
        both = within(url, "elsewhere,music")
        with Catalog(both) as catalog, pytest.raises(SchemaMismatch, match="the table audio_tracks in 'elsewhere'"):
            catalog.count_by_status()
        with pytest.raises(SchemaMismatch, match="the table audio_tracks in 'elsewhere'"):
            migrations.upgrade(both)

    @pytest.mark.parametrize("name", ['Grün & "co", x', "Select", "a.b"])
    def test_a_name_that_is_written_in_quotes_is_as_good_as_another(self, url: str, admin: Admin, name: str) -> None:
        schema = sql.Identifier(name)
        admin.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
        database = sql.Identifier(admin.info.dbname)
        admin.execute(sql.SQL("ALTER DATABASE {} SET search_path = {}").format(database, schema))
        migrations.upgrade(url)
        migrations.check(url)
        work_with(url)
        admin.execute(sql.SQL("ALTER SCHEMA {} RENAME TO plain").format(schema))
        admin.execute(sql.SQL("ALTER DATABASE {} SET search_path = plain").format(database))
        with Catalog(url) as catalog, pytest.raises(SchemaMismatch, match="renamed or copied"):
            catalog.count_by_status()
        migrations.upgrade(url)
        work_with(url)


@pytest.mark.parametrize("path", ["nowhere", "hidden", '""'])
def test_an_upgrade_without_a_schema_to_work_in_says_what_to_do(url: str, admin: Admin, path: str) -> None:
    role = f"test_role_{uuid4().hex[:12]}"
    admin.execute(f"CREATE SCHEMA hidden; CREATE ROLE {role} LOGIN")
    try:
        with pytest.raises(ConfigurationError) as caught:
            migrations.upgrade(make_url(within(url, path)).set(username=role))
    finally:
        admin.execute(f"DROP ROLE {role}")
    if caught.value.field is None:
        pytest.skip("this server asks for passwords")
    assert caught.value.field == "search_path"
    assert "CREATE SCHEMA" in str(caught.value)
    assert "audiocatalog upgrade" not in str(caught.value)


def test_a_copy_under_another_name_is_refused_until_an_upgrade(url: str, admin: Admin) -> None:
    """As people copy a schema: by pg_dump, an editor for the names of its objects, and psql."""
    programs, _ = embedded._find_binaries(None)
    version = subprocess.run([programs / "pg_dump", "--version"], check=True, capture_output=True, text=True).stdout
    if int(version.split()[2].split(".")[0]) < admin.info.server_version // 10_000:
        pytest.skip("pg_dump is older than the server")
    admin.execute("CREATE SCHEMA music")
    migrations.upgrade(within(url, "music"))
    save(within(url, "music"), "before")
    dump = subprocess.run(
        [programs / "pg_dump", "--schema=music", libpq(url)], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    edited = dump.replace("CREATE SCHEMA music;", "CREATE SCHEMA copy;").replace("music.", "copy.")
    edited = edited.replace("SET transaction_timeout = 0;", "")  # An older server than pg_dump does not know it.
    restored = subprocess.run(
        [programs / "psql", "--quiet", "--set=ON_ERROR_STOP=1", libpq(url)],
        input=edited,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert restored.returncode == 0, restored.stderr
    copy = within(url, "copy")
    with Catalog(copy) as catalog, pytest.raises(SchemaMismatch, match="works in the schema 'music'"):
        catalog.bulk_save([TrackRecord(TrackMetadata(title="x"), "p")])
    migrations.upgrade(copy)
    migrations.check(copy)
    work_with(copy)
    assert (titles(admin, "music"), titles(admin, "copy")) == (["before"], ["AC/DC", "Jóga", "before"])


class TestFirstRevision:
    """Until the first release, a database says which state of revision 0001 made it."""

    @pytest.mark.parametrize("mark", ["NULL", "'revision 0001, sha256 0'"], ids=["none", "another"])
    def test_a_database_of_another_state_is_refused_with_what_to_do(self, url: str, admin: Admin, mark: str) -> None:
        migrations.upgrade(url)
        admin.execute(f"COMMENT ON TABLE {VERSION_TABLE} IS {mark}")
        with Catalog(url) as catalog:
            calls = (catalog.count_by_status, lambda: migrations.upgrade(url), lambda: migrations.check(url))
            for call in (*calls, lambda: grant_sql(url, "nobody"), lambda: roles_sql(url)):
                with pytest.raises(SchemaMismatch, match="created by an earlier text of revision 0001") as caught:
                    call()
                for advice in (
                    "Export the tracks with the code that created the database",
                    "export --all",
                    "drop the database",
                    "import the tracks",
                    "first release",
                ):
                    assert advice in str(caught.value)
        assert migrations.current(url) == SCHEMA_REVISION
        command.downgrade(config_for(url, lose_data=True), "base")
        migrations.upgrade(url)
        work_with(url)

    def test_it_is_the_same_in_a_wheel_and_with_other_line_ends(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "_migrations"
        source = migrations.config_path().parent / "alembic"
        shutil.copytree(source, folder / "alembic")
        monkeypatch.setattr(first_revision, "config_path", lambda: folder / "alembic.ini")
        read = first_revision._mark.__wrapped__
        expected = first_revision._mark()
        assert read() == expected
        functions = folder / "alembic" / "functions"
        for file in [*functions.iterdir(), *(folder / "alembic" / "versions").glob("*.py")]:
            file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
        (functions / "search_v2.sql").write_text("-- Of a later revision.", encoding="utf-8")
        assert read() == expected

    @pytest.mark.parametrize("kind", ["functions/*.sql", "versions/0001_*.py"])
    def test_every_file_of_the_revision_counts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        shutil.copytree(migrations.config_path().parent / "alembic", tmp_path / "alembic")
        monkeypatch.setattr(first_revision, "config_path", lambda: tmp_path / "alembic.ini")
        seen = {first_revision._mark()}
        files = sorted((tmp_path / "alembic").glob(kind))
        for file in files:
            file.write_text(file.read_text(encoding="utf-8") + "-- Edited.", encoding="utf-8")
            seen.add(first_revision._mark.__wrapped__())
        assert len(seen) == len(files) + 1


#: What a database may set that would change what a revision means, or what it is compared with.
ODD = {
    "quote_all_identifiers": "on",
    "plpgsql.extra_errors": "all",
    "plpgsql.variable_conflict": "use_variable",
    "standard_conforming_strings": "off",
    "backslash_quote": "off",
    "check_function_bodies": "off",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "IntervalStyle": "sql_standard",
    "DateStyle": "German, DMY",
    "TimeZone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "default_transaction_isolation": "serializable",
}


def test_no_setting_of_a_database_changes_what_an_upgrade_makes_and_a_check_sees(
    url: str, admin: Admin, migrated_url: str
) -> None:
    database = sql.Identifier(admin.info.dbname)
    for name, value in ODD.items():
        setting = sql.SQL(".").join(map(sql.Identifier, name.split(".")))
        admin.execute(sql.SQL("ALTER DATABASE {} SET {} = {}").format(database, setting, value))
    migrations.upgrade(url)
    migrations.check(url)
    assert rebuilding.rebuild(url, everything=True)
    work_with(url)
    admin.execute(sql.SQL("ALTER DATABASE {} RESET ALL").format(database))
    assert schema_of(url) == schema_of(migrated_url)


class TestWhoHoldsALock:
    """Any role that may connect can take an advisory lock: a session that waits for it is told which role holds it."""

    @pytest.fixture
    def holder(self, admin: Admin) -> str:
        return f"process {admin.info.backend_pid} (role {admin.info.user}, application a bystander) holds the lock"

    def test_an_upgrade_says_it_as_it_waits_and_as_it_gives_up(
        self, url: str, admin: Admin, holder: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        admin.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
        with pytest.raises(TransientConflict) as caught:
            migrations.upgrade(url, lock_timeout=0.3)
        assert holder in str(caught.value)
        with meanwhile(lambda: migrations.upgrade(url)):
            try:
                wait_until(lambda: f"waiting for another upgrade to end: {holder}" in caplog.text)
            finally:
                admin.execute("SELECT pg_advisory_unlock_all()")

    def test_a_rebuild_says_it(self, url: str, admin: Admin, holder: str) -> None:
        migrations.upgrade(url)
        admin.execute("SELECT pg_advisory_lock(%s)", [rebuilding._REBUILD_KEY])
        with pytest.raises(TransientConflict, match="another rebuild or an upgrade") as caught:
            rebuilding.rebuild(url, timeout=0.2)
        assert holder in str(caught.value)

    def test_a_count_of_the_words_says_it(self, url: str, admin: Admin, holder: str) -> None:
        migrations.upgrade(url)
        admin.execute("SELECT pg_advisory_lock(hashtextextended('audiocatalog vocabulary', 0))")
        with Catalog(url) as catalog, pytest.raises(TransientConflict, match="another count") as caught:
            catalog.refresh_vocabulary()
        assert holder in str(caught.value)

    def test_the_holder_is_told_from_sessions_that_only_look_like_it(
        self, url: str, empty_database: Callable[[], str]
    ) -> None:
        """One holds the same lock in another database, one holds others, and one waits; all of them came first."""
        with ExitStack() as stack:
            elsewhere, another, waiting, holder = (
                stack.enter_context(closing(psycopg.connect(libpq(one), autocommit=True)))
                for one in (empty_database(), url, url, url)
            )
            for session in (elsewhere, holder):
                session.execute("SELECT pg_advisory_lock(7)")
            another.execute("SELECT pg_advisory_lock(8), pg_advisory_lock(0, 7)")
            waiting.pgconn.send_query(b"SELECT pg_advisory_lock(7)")
            blocked = "SELECT FROM pg_locks WHERE pid = %s AND NOT granted"
            wait_until(lambda: holder.execute(blocked, [waiting.info.backend_pid]).fetchone() is not None)
            assert run(holder, holder_of(7), "test").startswith(f"process {holder.info.backend_pid} ")
            assert run(holder, holder_of(9), "test") == "a process that has ended"
