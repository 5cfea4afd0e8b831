"""The migrations build exactly the models, up and down, alone and in company, and leave the host's things alone."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import alembic
import psycopg
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import create_engine, make_url

from audiocatalog import Catalog, TrackMetadata, errors, migrations
from audiocatalog.embedded import server as embedded
from audiocatalog.migrations.alembic_operations import filled_in
from audiocatalog.migrations.migrator import LOCK_KEY
from audiocatalog.models.base import Base
from audiocatalog.models.limits import Limit, NumberLimit, TextLimit, WholeLimit
from audiocatalog.models.metadata import CONTENT_COLUMNS, CONTENT_VERSION, LIMITS, METADATA_FIELDS
from audiocatalog.models.sql_names import SCHEMA_REVISION, VERSION_TABLE
from tests.support.databases import libpq, temporary_database
from tests.support.frozen import outcome_of
from tests.support.migrating import alembic_command, config_for, environment_for
from tests.support.repository import ROOT
from tests.support.schemas import schema_of

FUNCTIONS = ROOT / "alembic" / "functions"
#: The columns that functions take and give, as the code has them.
SQL_TYPES: dict[type[Limit], str] = {TextLimit: "text", WholeLimit: "integer", NumberLimit: "double precision"}
CONTENT = {name: SQL_TYPES[type(LIMITS[name])] for name in CONTENT_COLUMNS}
METADATA = {name: CONTENT[name] for name in METADATA_FIELDS}


def functions_of(*names: str) -> str:
    text = "\n".join((FUNCTIONS / f"{name}.sql").read_text(encoding="utf-8") for name in names)
    return filled_in(text, CONTENT_VERSION, {"content": CONTENT, "metadata": METADATA})


def test_there_is_one_head_and_the_code_knows_it() -> None:
    script = ScriptDirectory.from_config(Config(migrations.config_path()))
    assert script.get_heads() == [SCHEMA_REVISION]
    # They are compared as text when a service asks whether a schema is older.
    assert [revision.revision for revision in script.walk_revisions()] == sorted(
        (revision.revision for revision in script.walk_revisions()), reverse=True
    )


def test_every_step_goes_up_down_and_up_again(empty_database: Callable[[], str]) -> None:
    url = empty_database()
    config = config_for(url, lose_data=True)
    before = schema_of(url)
    for revision in reversed(list(ScriptDirectory.from_config(config).walk_revisions())):
        command.upgrade(config, revision.revision)
        first = schema_of(url)
        command.downgrade(config, str(revision.down_revision or "base"))
        command.upgrade(config, revision.revision)
        assert schema_of(url) == first
    command.check(config)
    command.downgrade(config, "base")
    assert schema_of(url) == before


def test_the_migrations_build_exactly_the_models(empty_database: Callable[[], str]) -> None:
    migrated, created = empty_database(), empty_database()
    migrations.upgrade(migrated)
    with psycopg.connect(libpq(created), autocommit=True) as connection:
        connection.execute(functions_of("visible_v1", "legal_move_v1", "legal_task_v1", "search_v1"))
        engine = create_engine(created)
        Base.metadata.create_all(engine)
        engine.dispose()
        # These name the types of the tables.
        connection.execute("SET search_path = public, pg_temp")
        connection.execute(functions_of("lifecycle_v1", "content_v1", "bulk_v1"))
    assert schema_of(migrated) == schema_of(created)


#: A column takes something else than before, although its type goes by the same name.
OTHER_DOMAINS = [
    pytest.param("ALTER DOMAIN audiocatalog_year DROP CONSTRAINT ck_audio_tracks_year_range", id="no range"),
    pytest.param(
        "ALTER DOMAIN audiocatalog_year DROP CONSTRAINT ck_audio_tracks_year_range;"
        " ALTER DOMAIN audiocatalog_year ADD CONSTRAINT ck_audio_tracks_year_range CHECK (VALUE BETWEEN 1000 AND 9998)",
        id="another range",
    ),
    pytest.param(
        "ALTER DOMAIN audiocatalog_duration DROP CONSTRAINT ck_audio_tracks_duration_range;"
        " ALTER DOMAIN audiocatalog_duration ADD CONSTRAINT ck_audio_tracks_duration_range"
        " CHECK (VALUE BETWEEN 0 AND 31536001)",
        id="another duration",
    ),
    pytest.param(
        "ALTER DOMAIN audiocatalog_status DROP CONSTRAINT ck_audio_tracks_status_known;"
        " ALTER DOMAIN audiocatalog_status ADD CONSTRAINT ck_audio_tracks_status_known"
        " CHECK (VALUE IN ('PENDING', 'PROCESSING', 'COMPLETED', 'FAILED', 'ARCHIVED'))",
        id="another status",
    ),
    pytest.param(
        "ALTER DOMAIN audiocatalog_title RENAME CONSTRAINT ck_audio_tracks_title_visible TO other", id="another name"
    ),
    pytest.param("ALTER DOMAIN audiocatalog_year ADD CONSTRAINT other CHECK (VALUE <> 1999)", id="one constraint more"),
    pytest.param(
        "ALTER DOMAIN audiocatalog_format RENAME TO other; CREATE DOMAIN audiocatalog_format AS varchar(60)"
        " CONSTRAINT ck_audio_tracks_format_visible CHECK (audiocatalog_visible_v1(VALUE));"
        " ALTER TABLE audio_tracks ALTER format TYPE audiocatalog_format",
        id="another length",
    ),
]


@pytest.mark.parametrize(
    "mutation",
    [
        *OTHER_DOMAINS,
        "ALTER DOMAIN audiocatalog_year SET DEFAULT 1999",
        "ALTER DOMAIN audiocatalog_year SET NOT NULL",
        "ALTER TABLE audio_tracks ALTER title DROP NOT NULL",
        "ALTER TABLE audio_tracks ALTER format TYPE varchar(60)",
        "ALTER TABLE audio_tracks ALTER created_at SET DEFAULT clock_timestamp()",
        "DROP INDEX ix_audio_tracks_search_vector",
        "ALTER TABLE audio_track_status_changes RENAME CONSTRAINT pk_audio_track_status_changes TO other",
        "CREATE OR REPLACE FUNCTION audiocatalog_visible_v1(value text) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
    ],
)  # fmt: skip
def test_the_comparison_sees_a_planted_difference(migrated_database: Callable[[], str], mutation: str) -> None:
    url = migrated_database()
    before = schema_of(url)
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        connection.execute(mutation)
    assert schema_of(url) != before


def test_a_downgrade_that_loses_data_asks_first(migrated_database: Callable[[], str]) -> None:
    url = migrated_database()
    with pytest.raises(CommandError, match="lose_data"):
        command.downgrade(config_for(url), "base")
    assert alembic_command(url, "-x", "lose_data=no", "downgrade", "base").returncode != 0
    assert migrations.current(url) == "0001"


def test_upgrading_twice_changes_nothing(empty_database: Callable[[], str]) -> None:
    url = empty_database()
    assert migrations.current(url) is None
    migrations.upgrade(url)
    before = schema_of(url)
    migrations.upgrade(url)
    migrations.check(url)
    assert (migrations.current(url), schema_of(url)) == (SCHEMA_REVISION, before)


def test_upgrades_at_once_all_succeed(empty_database: Callable[[], str]) -> None:
    """By the function or by the command, one of them works and the others find it done."""
    url = empty_database()
    script = f"from audiocatalog import migrations; migrations.upgrade({url!r})"
    processes = [
        subprocess.Popen([sys.executable, "-W", "error", *program], cwd=ROOT, env=environment_for(url))
        for program in (["-c", script], ["-m", "alembic", "upgrade", "head"], ["-m", "alembic", "upgrade", "head"])
    ]
    assert [process.wait(timeout=120) for process in processes] == [0] * 3
    assert migrations.current(url) == SCHEMA_REVISION


def test_threads_upgrade_each_its_own_database(empty_database: Callable[[], str]) -> None:
    """Alembic keeps the migration under way in a global; two threads must not share it."""
    urls = [empty_database() for _ in range(2)]
    failures: list[Exception] = []

    def upgrade(url: str) -> None:
        try:
            migrations.upgrade(url)
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=upgrade, args=[url]) for url in [*urls, *urls]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [migrations.current(url) for url in urls] == [SCHEMA_REVISION] * 2


def test_a_second_migrator_waits_no_longer_than_it_was_told(empty_database: Callable[[], str]) -> None:
    url = empty_database()
    with psycopg.connect(libpq(url), autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [LOCK_KEY])
        error, _ = outcome_of(lambda: migrations.upgrade(url, lock_timeout=0.5))
        assert isinstance(error, errors.TransientConflict)
        assert "another upgrade" in str(error)
    migrations.upgrade(url)


def test_the_alembic_command_works_from_the_repository(empty_database: Callable[[], str]) -> None:
    url = empty_database()
    done = alembic_command(url, "upgrade", "head")
    assert done.returncode == 0, done.stderr
    assert migrations.current(url) == SCHEMA_REVISION
    by_hand = alembic_command("", "-x", f"url={url}", "current")
    assert (by_hand.returncode, SCHEMA_REVISION in by_hand.stdout) == (0, True), by_hand.stderr


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "AUDIOCATALOG_DATABASE_URL"),
        ("mysql://x/y", "postgresql://"),
        ("postgresql://u:s3cret@127.0.0.1:1/x", "no server listens at this host and port"),
    ],
)
def test_the_alembic_command_fails_in_one_line(url: str, message: str) -> None:
    done = alembic_command(url, "upgrade", "head")
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "s3cret" not in done.stderr + done.stdout


def test_sql_that_is_printed_without_a_database_builds_the_same_schema(
    empty_database: Callable[[], str], migrated_database: Callable[[], str]
) -> None:
    done = alembic_command("", "upgrade", "head", "--sql")
    assert done.returncode == 0, done.stderr
    assert "%%" not in done.stdout
    printed = empty_database()
    with psycopg.connect(libpq(printed), autocommit=True) as connection:
        connection.execute(done.stdout)
    assert schema_of(printed) == schema_of(migrated_database())
    # It leaves the mark of its revision too.
    migrations.check(printed)


def test_the_hosts_loggers_stay_as_they_are(empty_database: Callable[[], str]) -> None:
    root, host = logging.getLogger(), logging.getLogger("some.host")
    before = (root.level, list(root.handlers), host.disabled, host.level, logging.getLogger("alembic").level)
    migrations.upgrade(empty_database())
    assert (root.level, list(root.handlers), host.disabled, host.level, logging.getLogger("alembic").level) == before


def test_a_host_may_keep_its_own_alembic_and_tables(empty_database: Callable[[], str]) -> None:
    url = empty_database()
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)")
        connection.execute("INSERT INTO alembic_version VALUES ('of-the-host')")
        connection.execute("CREATE TABLE playlists (id int)")
    migrations.upgrade(url)
    migrations.check(url)
    with psycopg.connect(libpq(url)) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("of-the-host",)]


def test_a_check_sees_a_difference(migrated_database: Callable[[], str]) -> None:
    url = migrated_database()
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        connection.execute("ALTER TABLE audio_tracks ADD COLUMN stray int")
    with pytest.raises(errors.SchemaMismatch):
        migrations.check(url)


@pytest.mark.parametrize("mutation", [*OTHER_DOMAINS, "ALTER TABLE audio_tracks ALTER format TYPE varchar(50)"])
def test_a_check_sees_what_a_column_takes(migrated_database: Callable[[], str], mutation: str) -> None:
    url = migrated_database()
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        connection.execute(mutation)
    with pytest.raises(errors.SchemaMismatch):
        migrations.check(url)


def test_a_revision_from_the_future_is_a_mismatch(migrated_database: Callable[[], str]) -> None:
    url = migrated_database()
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(errors.SchemaMismatch):
        migrations.upgrade(url)


def test_no_server_is_an_outage() -> None:
    with pytest.raises(errors.DatabaseUnavailable):
        migrations.upgrade("postgresql://u:p@127.0.0.1:1/x")


@pytest.fixture
def two_databases_and_their_programs() -> Iterator[tuple[str, str, Path]]:
    """Give two databases of a server and the folder of the programs, such as pg_dump, that fit it."""
    programs, _ = embedded._find_binaries(None)
    with (
        embedded.EmbeddedPostgres() as server,
        temporary_database(server.url()) as one,
        temporary_database(server.url()) as other,
    ):
        yield one, other, programs


def test_a_dump_restores_with_every_vector(two_databases_and_their_programs: tuple[str, str, Path]) -> None:
    """A restore runs with an empty search_path; a function that relied on it would lose the rows."""
    source, target, programs = two_databases_and_their_programs
    migrations.upgrade(source)
    with Catalog(source) as catalog, catalog.unit_of_work() as work:
        for title in ("AC/DC", "!!!", "Björk", "宇多田ヒカル", "P!nk"):
            work.save(TrackMetadata(title=title), audio_path="a")
    dump = subprocess.run([programs / "pg_dump", libpq(source)], check=True, capture_output=True, timeout=60).stdout
    restored = subprocess.run(
        [programs / "psql", "--quiet", "--set=ON_ERROR_STOP=1", libpq(target)],
        input=dump,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert restored.returncode == 0, restored.stderr
    vectors = "SELECT id, search_vector::text FROM audio_tracks ORDER BY id"
    with psycopg.connect(libpq(source)) as one, psycopg.connect(libpq(target)) as other:
        assert one.execute(vectors).fetchall() == other.execute(vectors).fetchall()
    with Catalog(target) as catalog:
        assert catalog.search("acdc").total == 1
    assert schema_of(source) == schema_of(target)


def test_the_folder_called_alembic_hides_nothing() -> None:
    assert alembic.__file__ is not None
    assert "site-packages" in alembic.__file__
    assert not (ROOT / "alembic" / "__init__.py").exists()


def test_revisions_import_nothing_of_the_package() -> None:
    revisions = list((ROOT / "alembic" / "versions").glob("*.py"))
    assert revisions != []
    for path in revisions:
        assert re.findall(r"^\s*(?:import|from)\s+audiocatalog", path.read_text(encoding="utf-8"), re.MULTILINE) == []


def test_a_url_object_is_as_good_as_its_text(empty_database: Callable[[], str]) -> None:
    url = make_url(empty_database())
    migrations.upgrade(url)
    assert migrations.current(url) == SCHEMA_REVISION
