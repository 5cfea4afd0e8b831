"""A metadata field is said once: its places are counted, and the guide to adding one is followed word by word."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from audiocatalog import Catalog, TrackMetadata
from audiocatalog.models.metadata import CONTENT_COLUMNS, CONTENT_VERSION, METADATA_FIELDS
from tests.support.databases import libpq
from tests.support.migrating import environment_for
from tests.support.repository import ROOT

GUIDE = ROOT / "docs" / "adding-a-field.md"
#: A field may stand on this many lines, in this many files of the package and the migrations.
MAX_LINES, MAX_FILES = 10, 4
#: These have parts of their own in searches and their results, or names that are words for other things too.
WITH_A_PART_OF_THEIR_OWN = {"title", "artist", "album", "genre", "year", "duration", "format"}


def places_of(field: str, root: Path = ROOT) -> dict[str, int]:
    """Return on how many lines of each file *field* stands, as a word or as a part of a name."""
    found = {}
    for folder in ("audiocatalog", "alembic"):
        for file in (root / folder).rglob("*"):
            if file.suffix in {".py", ".sql"}:
                lines = file.read_text(encoding="utf-8").splitlines()
                if count := sum(field in line for line in lines):
                    found[str(file.relative_to(root))] = count
    return found


@pytest.mark.parametrize("field", [field for field in METADATA_FIELDS if field not in WITH_A_PART_OF_THEIR_OWN])
def test_a_field_is_said_in_few_places(field: str) -> None:
    places = places_of(field)
    assert 1 <= sum(places.values()) <= MAX_LINES, places
    assert len(places) <= MAX_FILES, places


def test_the_functions_take_the_fields_in_the_order_of_the_code(database_url: str) -> None:
    """They are called by position: two texts in another order would be mixed up without an error."""
    with psycopg.connect(libpq(database_url)) as connection:
        for function, prefix in (("save", ""), ("replace", "new_")):
            ((names,),) = connection.execute(
                "SELECT proargnames FROM pg_proc WHERE proname = %s",
                [f"audiocatalog_{function}_v{CONTENT_VERSION}"],
            ).fetchall()
            # What it returns comes after what it takes.
            taken = names[2 : 2 + len(CONTENT_COLUMNS)]
            assert taken == [f"{prefix}{name}" for name in CONTENT_COLUMNS]


# The guide.


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)


def apply(difference: str, root: Path) -> int:
    """Apply *difference*, whose hunks are found by their text, and return how many lines it adds."""
    head, *hunks = re.split(r"^@@.*\n", difference, flags=re.MULTILINE)
    (name,) = re.findall(r"^\+\+\+ b/(.+)$", head, re.MULTILINE)
    text = (root / name).read_text(encoding="utf-8")
    for hunk in hunks:
        lines = hunk.splitlines(keepends=True)
        before = "".join(line[1:] for line in lines if line[0] in " -")
        after = "".join(line[1:] for line in lines if line[0] in " +")
        assert text.count(before) == 1, f"the guide's context is not in {name} once:\n{before}"
        text = text.replace(before, after)
    (root / name).write_text(text, encoding="utf-8")
    return sum(line.startswith("+") for hunk in hunks for line in hunk.splitlines())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Give a copy of the package and its migrations, as a checkout has them."""
    leave = shutil.ignore_patterns("__pycache__")
    for folder in ("audiocatalog", "alembic"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=leave)
    for file in ("alembic.ini", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path / file)
    (tmp_path / "tests" / "support").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "support" / "limits.py", tmp_path / "tests" / "support")
    (tmp_path / "use_the_fields.py").write_text(USE_THE_FIELDS, encoding="utf-8")
    return tmp_path


def run(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=copy,
        env=environment_for("") | {"PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def assert_the_fields_are_there(copy: Path, url: str) -> None:
    done = run(copy, "use_the_fields.py", url)
    assert done.returncode == 0, done.stderr
    (tmp_path_of_the_code, *_) = done.stdout.splitlines()
    assert Path(tmp_path_of_the_code).is_relative_to(copy)


def test_the_guide_adds_fields_in_revision_0001(copy: Path, empty_database: Callable[[], str]) -> None:
    in_metadata, in_revision, in_tests = blocks("diff")
    added = apply(in_metadata, copy) + apply(in_revision, copy)
    assert added <= 2 * MAX_LINES  # Of two fields.
    apply(in_tests, copy)
    for field in ("instrument", "tuning"):
        places = places_of(field, copy)
        assert len(places) == 2, places
        assert sum(places.values()) <= MAX_LINES, places
    assert_the_fields_are_there(copy, empty_database())


def test_the_guide_adds_fields_in_a_revision_of_their_own(copy: Path, migrated_database: Callable[[], str]) -> None:
    """In a filled database, without rewriting it, and while services of before go on."""
    url = migrated_database()
    with Catalog(url, actor="before") as before, psycopg.connect(libpq(url), autocommit=True) as admin:
        kept = before.bulk_save([{"title": "Before", "audio_path": f"before/{number}"} for number in range(10)])
        assert kept.inserted == 10
        role = f"app_{uuid4().hex}"
        admin.execute(f"CREATE ROLE {role}")
        try:
            save = f"audiocatalog_save_v{CONTENT_VERSION}"
            admin.execute(f"GRANT EXECUTE ON FUNCTION {save} TO {role}")
            file = admin.execute("SELECT pg_relation_filenode('audio_tracks')").fetchone()
            make_revision(copy)
            assert_the_fields_are_there(copy, url)
            assert admin.execute("SELECT pg_relation_filenode('audio_tracks')").fetchone() == file
            granted = admin.execute(
                "SELECT has_function_privilege(%s, oid, 'EXECUTE'), has_function_privilege('public', oid, 'EXECUTE')"
                " FROM pg_proc WHERE proname LIKE 'audiocatalog_save_v%%' ORDER BY proname",
                [role],
            ).fetchall()
            assert granted == [(True, False), (True, False)]
        finally:
            admin.execute(f"DROP OWNED BY {role}")
            admin.execute(f"DROP ROLE {role}")
        # The code of before sees and writes what it knows, and leaves the rest as it is.
        ((known, instrument),) = admin.execute(
            "SELECT id, instrument FROM audio_tracks WHERE title = 'Saved'"
        ).fetchall()
        assert instrument == "Nyckelharpa"
        track = before.get(known)
        with before.unit_of_work() as work:
            work.save(TrackMetadata(title="Changed"), audio_path=track.audio_path, id=track.id, replace=True)
        assert admin.execute("SELECT title, instrument FROM audio_tracks WHERE id = %s", [known]).fetchall() == [
            ("Changed", "Nyckelharpa")
        ]
    downgraded = run(copy, "-m", "alembic", "-x", f"url={url}", "downgrade", "-1")
    assert downgraded.returncode == 0, downgraded.stderr
    with Catalog(url, actor="after") as after:
        assert after.get(known).title == "Changed"


def make_revision(copy: Path) -> None:
    """Make the guide's revision in *copy*, and set the numbers that it names."""
    in_metadata, *_ = blocks("diff")
    apply(in_metadata, copy)
    (revision,) = blocks("python")
    first, text = revision.split("\n", 1)
    (copy / first.removeprefix("# ")).write_text(text, encoding="utf-8")
    for name, old, new in (
        ("metadata.py", "CONTENT_VERSION: Final = 1", "CONTENT_VERSION: Final = 2"),
        ("sql_names.py", 'SCHEMA_REVISION: Final = "0001"', 'SCHEMA_REVISION: Final = "0002"'),
    ):
        file = copy / "audiocatalog" / "models" / name
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1
        file.write_text(text.replace(old, new), encoding="utf-8")


#: Upgrades a database, saves, edits, loads, imports, exports, claims, completes, searches and shows the guide's fields.
USE_THE_FIELDS = """
import json, pathlib, sys
from datetime import timedelta

import audiocatalog
from click.testing import CliRunner
from sqlalchemy import select

from audiocatalog import Catalog, SearchFilters, Track, TrackMetadata, TrackStatus, errors, migrations
from audiocatalog.cli import main

url = sys.argv[1]
print(pathlib.Path(audiocatalog.__file__).resolve())
migrations.upgrade(url)
migrations.check(url)
HARP = {"instrument": "Nyckelharpa", "tuning": 442.5}


def held(track):
    return {name: getattr(track, name) for name in HARP}


with Catalog(url, actor="guide") as catalog:
    with catalog.unit_of_work() as work:
        saved = work.save(TrackMetadata(title="Saved", **HARP), audio_path="saved")
        assert held(saved) == HARP
        edited = work.save(
            TrackMetadata(title="Saved", instrument="Viola"), audio_path="saved", id=saved.id, replace=True
        )
        assert held(edited) == {"instrument": "Viola", "tuning": None}
        again = work.save(TrackMetadata(title="Saved", **HARP), audio_path="saved", id=saved.id, replace=True)
        assert held(again) == HARP and again.version == 3
        found = select(Track).where(Track.instrument == "Nyckelharpa", Track.tuning > 442)
        assert [track.id for track in work.session.scalars(found)] == [saved.id]
    assert held(catalog.get(saved.id)) == HARP

    loaded = {"title": "Loaded", "audio_path": "loaded", "status": TrackStatus.PENDING}
    assert catalog.bulk_save([{**loaded, "instrument": "Viola"}]).inserted == 1
    (track,) = [track for track in catalog.iter_tracks() if track.title == "Loaded"]
    assert held(track) == {"instrument": "Viola", "tuning": None}
    result = catalog.bulk_save([{**loaded, "id": track.id, **HARP}], on_conflict="replace")
    assert (result.updated, held(catalog.get(track.id))) == (1, HARP)

    (claim,) = catalog.claim(1, lease=timedelta(minutes=1))
    assert held(claim.track) == HARP
    catalog.complete(claim, TrackMetadata(title="Loaded", instrument="Viola", tuning=415.0))
    assert held(catalog.get(track.id)) == {"instrument": "Viola", "tuning": 415.0}

    page = catalog.search("", filters=SearchFilters(instrument=["viola"], tuning=(410, 420)), facets=["instrument"])
    assert [hit.track.title for hit in page.hits] == ["Loaded"]
    assert [tuple(value) for value in page.facets["instrument"].values] == [("Viola", 1)]

    for bad in ({"tuning": 299.0}, {"tuning": float("nan")}, {"instrument": "x" * 201}, {"instrument": 5}):
        try:
            TrackMetadata(title="Bad", **bad)
        except errors.InvalidInput as error:
            assert error.field in bad
        else:
            raise AssertionError(bad)
    refused = []
    for bad in ("tuning = 299", "tuning = 'NaN'", "instrument = repeat('x', 201)", "instrument = ' '"):
        try:
            with catalog.unit_of_work() as work:
                work.session.connection().exec_driver_sql(f"UPDATE audio_tracks SET {bad}")
        except Exception as error:
            refused.append(error)
    assert len(refused) == 4, refused


def command(*arguments):
    done = CliRunner().invoke(main, ["--url", url, *map(str, arguments)])
    assert done.exit_code == 0, (arguments, done.output, done.exception)
    return done.stdout


source = pathlib.Path("source.csv")
rows = ("title,audio_path,instrument,tuning", "Imported,imported,Nyckelharpa,442.5 Hz", "Other,other,,0.44 kHz")
source.write_text("\\n".join(rows))
command("import", source, "--no-vocabulary")
exported = [json.loads(line) for line in command("export").splitlines()]
one, other = (next(row for row in exported if row["title"] == title) for title in ("Imported", "Other"))
assert {name: one[name] for name in HARP} == HARP
assert (other["instrument"], other["tuning"]) == (None, 440.0)
assert "442.5 Hz" in command("show", one["id"])
assert "Imported" in command("search", "--instrument", "nyckelharpa", "--tuning", "442..443")
assert "instrument, tuning (Hz)" in " ".join(command("import", "--help").split())
"""
