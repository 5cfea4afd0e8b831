"""Code works with the schema of its own revision and of the next one, and refuses every other when it starts."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory

from audiocatalog import Catalog, errors
from audiocatalog.db.schema_check import NEXT_REVISION, check_schema
from audiocatalog.models.sql_names import SCHEMA_REVISION, VERSION_TABLE
from tests.support.databases import libpq
from tests.support.frozen import outcome_of
from tests.support.repository import ROOT
from tests.support.schemas import schema_of
from tests.support.upgrades import (
    HEAD,
    INI,
    NOW,
    RATED,
    config_for,
    fill,
    meanwhile,
    revision_of,
    upgrade,
    use,
)

AFTER_NEXT = f"{int(NEXT_REVISION) + 1:04}"
#: What the version table may hold, and what a service that starts is told.
FOUND: list[tuple[list[str], str | None]] = [
    ([], r"holds no audiocatalog schema: run `audiocatalog upgrade`"),
    ([f"{int(SCHEMA_REVISION) - 1:04}"], rf"this code needs {SCHEMA_REVISION}: run `audiocatalog upgrade`"),
    ([SCHEMA_REVISION], None),
    ([NEXT_REVISION], None),
    ([AFTER_NEXT], rf"only works with {SCHEMA_REVISION} and {NEXT_REVISION}: deploy a newer version"),
    (["9999"], r"deploy a newer version"),
    ([SCHEMA_REVISION, NEXT_REVISION], rf"contains 2 revisions \({SCHEMA_REVISION} and {NEXT_REVISION}\)"),
    (["5c1a9e33b7d0"], r"the unknown revision '5c1a9e33b7d0'"),
    ([""], r"the unknown revision ''"),
    (["١٢٣٤"], r"the unknown revision"),
    (["\x1b[31m\n"], r"the unknown revision '\\x1b\[31m\\n'"),
]


@pytest.mark.parametrize(("revisions", "message"), FOUND)
def test_a_service_says_what_is_wrong_with_the_schema(
    migrated_database: Callable[[], str], revisions: list[str], message: str | None
) -> None:
    url = migrated_database()
    with Catalog(url, pool_timeout=60) as catalog, psycopg.connect(libpq(url), autocommit=True) as connection:
        connection.execute(f"DELETE FROM {VERSION_TABLE}")
        for revision in revisions:
            connection.execute(f"INSERT INTO {VERSION_TABLE} VALUES (%s)", [revision])
        if message is None:
            check_schema(connection)
            assert catalog.count_by_status()
            return
        with pytest.raises(errors.SchemaMismatch, match=message):
            check_schema(connection)
        error, _ = outcome_of(catalog.count_by_status)  # At once, and not when nobody in the pool could be connected.
        assert isinstance(error, errors.SchemaMismatch)
        assert re.search(message, str(error))


def test_a_database_without_our_tables_is_refused_in_the_same_words(empty_database: Callable[[], str]) -> None:
    with (
        psycopg.connect(libpq(empty_database())) as connection,
        pytest.raises(errors.SchemaMismatch, match="holds no audiocatalog schema"),
    ):
        check_schema(connection)


def test_the_next_revision_is_one_more() -> None:
    assert (len(NEXT_REVISION), int(NEXT_REVISION)) == (4, int(SCHEMA_REVISION) + 1)


def test_this_code_starts_and_works_on_the_next_schema(empty_database: Callable[[], str]) -> None:
    url = empty_database()
    upgrade(url, RATED)
    with Catalog(url) as catalog:
        for _ in range(7):  # The driver prepares a statement when it is executed for the sixth time.
            use(catalog)
        assert catalog.refresh_vocabulary().words > 0


def test_a_running_service_does_not_notice_that_the_schema_moves_on(migrated_database: Callable[[], str]) -> None:
    url = migrated_database()
    with Catalog(url, pool_size=2) as catalog:
        for _ in range(7):
            use(catalog)
        with meanwhile(lambda: upgrade(url, RATED)) as upgraded:
            while not upgraded.done():
                use(catalog)
        for _ in range(7):
            use(catalog)
    assert revision_of(url) == RATED


#: Where the rows of each table lie; a rewritten table lies elsewhere, and nobody could read it meanwhile.
FILES = (
    "SELECT relname, pg_relation_filenode(oid) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'audio%' ORDER BY 1"
)
ROWS = """SELECT id, status, artist, title, album, genre, year, duration, audio_path, version, search_vector::text
FROM audio_tracks ORDER BY id"""


def test_revisions_keep_the_rows_of_filled_tables_where_they_are(empty_database: Callable[[], str]) -> None:
    """Up, down and up again, with rows present at every revision from the first that had any."""
    url = empty_database()
    upgrade(url, NOW)
    fill(url, tracks=1000)
    config = config_for(url)
    later = [each for each in ScriptDirectory.from_config(config).walk_revisions() if each.revision > NOW]
    with psycopg.connect(libpq(url), autocommit=True) as connection:
        before = (connection.execute(FILES).fetchall(), connection.execute(ROWS).fetchall())
        for revision in reversed(later):
            command.upgrade(config, revision.revision)
            first = schema_of(url)
            command.downgrade(config, str(revision.down_revision))
            command.upgrade(config, revision.revision)
            assert schema_of(url) == first
            assert (connection.execute(FILES).fetchall(), connection.execute(ROWS).fetchall()) == before
    assert revision_of(url) == HEAD


def squawk(ini: Path | None, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Do what `make lint` does with the revisions."""
    options = [] if ini is None else ["-c", str(ini)]
    sql = subprocess.run(
        [sys.executable, "-m", "alembic", *options, "upgrade", "head", "--sql"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    ).stdout
    (tmp_path / "upgrade.sql").write_bytes(sql)
    program = Path(sys.executable).with_name("squawk")
    return subprocess.run(
        [program, "--config", ROOT / ".squawk.toml", "--reporter", "gcc", tmp_path / "upgrade.sql"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def linter() -> None:
    if not Path(sys.executable).with_name("squawk").exists():
        pytest.skip("squawk is not installed; `make lint` needs it")


@pytest.mark.slow
@pytest.mark.usefixtures("linter")
@pytest.mark.parametrize("ini", [None, INI], ids=["of the repository", "of the tests"])
def test_the_revisions_pass_the_linter(ini: Path | None, tmp_path: Path) -> None:
    done = squawk(ini, tmp_path)
    assert (done.returncode, done.stdout) == (0, "")


BAD = {
    "ALTER TABLE audio_tracks ADD COLUMN vector tsvector GENERATED ALWAYS AS (to_tsvector('simple', title)) STORED": (
        "adding-field-with-default"
    ),
    "ALTER TABLE audio_tracks ADD COLUMN seen timestamptz DEFAULT clock_timestamp()": "adding-field-with-default",
    "ALTER TABLE audio_tracks ADD COLUMN rating int NOT NULL": "adding-required-field",
    "ALTER TABLE audio_tracks ALTER year SET NOT NULL": "adding-not-nullable-field",
    "ALTER TABLE audio_tracks ALTER year TYPE bigint": "changing-column-type",
    "ALTER TABLE audio_tracks ADD CONSTRAINT ck_audio_tracks_x CHECK (year > 1)": "constraint-missing-not-valid",
    "ALTER TABLE audio_tracks RENAME COLUMN year TO released": "renaming-column",
    "ALTER TABLE audio_tracks DROP COLUMN year": "ban-drop-column",
    "CREATE INDEX ix_audio_tracks_genre ON audio_tracks (genre)": "require-concurrent-index-creation",
    "DROP INDEX ix_audio_tracks_year": "require-concurrent-index-deletion",
    "DROP TABLE audio_track_edits": "ban-drop-table",
}


@pytest.mark.slow
@pytest.mark.usefixtures("linter")
def test_the_linter_refuses_what_blocks_or_breaks_running_services(tmp_path: Path) -> None:
    ini, folder = tmp_path / "alembic.ini", tmp_path / "revisions"
    folder.mkdir()
    text = INI.read_text(encoding="utf-8").replace("%(here)s/../..", str(ROOT))
    ini.write_text(text.replace("    %(here)s\n", "    %(here)s/revisions\n"), encoding="utf-8")
    for number, statement in enumerate(BAD, int(NOW) + 1):
        (folder / f"bad_{number}.py").write_text(
            f'"""Bad."""\n\nfrom alembic import op\n\nrevision = "{number:04}"\ndown_revision = "{number - 1:04}"\n\n\n'
            f'def upgrade() -> None:\n    op.execute("{statement}")\n',
            encoding="utf-8",
        )
    done = squawk(ini, tmp_path)
    assert done.returncode != 0
    found = {line.split(" warning: ")[1].split()[0] for line in done.stdout.splitlines()}
    assert found >= set(BAD.values())
    assert len(done.stdout.splitlines()) >= len(BAD)
