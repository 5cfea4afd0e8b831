"""What the package promises as a package: its names, its wheel, its examples."""

from __future__ import annotations

import csv
import os
import pkgutil
import re
import subprocess
import sys
import sysconfig
import unicodedata
import venv
import zipfile
from importlib import import_module
from importlib.metadata import distribution, version
from pathlib import Path
from typing import Literal, get_origin

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import audiocatalog
from tests.support.repository import ROOT


def test_all_names_what_the_package_exports() -> None:
    """Besides its submodules, which appear as attributes once somebody has imported them."""
    submodules = {module.name for module in pkgutil.iter_modules(audiocatalog.__path__)}
    public = {name for name in dir(audiocatalog) if not name.startswith("_")}
    assert public - (submodules - set(audiocatalog.__all__)) == set(audiocatalog.__all__)
    assert sorted(audiocatalog.__all__, key=lambda name: (not name.isupper(), name.islower(), name)) == (
        audiocatalog.__all__
    )


def test_every_public_name_says_what_it_is() -> None:
    for name in audiocatalog.__all__:
        value = getattr(audiocatalog, name)
        if not name.isupper() and get_origin(value) is not Literal:
            assert value.__doc__, name


def test_every_module_imports_alone_and_says_what_it_is_for() -> None:
    for module in pkgutil.walk_packages(audiocatalog.__path__, "audiocatalog."):
        if "__main__" not in module.name and "_migrations" not in module.name:
            assert import_module(module.name).__doc__, module.name


def test_the_examples_are_music_in_many_scripts() -> None:
    with (ROOT / "examples" / "tracks.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 300
    assert len({(row["artist"], row["title"]) for row in rows}) == len(rows)
    assert len({row["audio_path"] for row in rows}) == len(rows)
    scripts = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "THAI", "DEVANAGARI"}
    others = [
        row
        for row in rows
        if any(unicodedata.name(letter, "").split()[0:1] and unicodedata.name(letter).split()[0] in scripts
               for letter in row["title"] + row["artist"] if letter.isalpha())
    ]  # fmt: skip
    assert len(others) >= 40
    artists = {row["artist"] for row in rows}
    assert artists >= {"AC/DC", "P!nk", "R.E.M.", "blink-182", "The The", "!!!", "Björk", "Sigur Rós", "MØ"}


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel, without network and without touching the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_carries_migrations_types_and_examples(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for expected in (
        "audiocatalog/py.typed",
        "audiocatalog/_migrations/alembic.ini",
        "audiocatalog/_migrations/alembic/env.py",
        "audiocatalog/_migrations/alembic/functions/search_v1.sql",
        "audiocatalog/cli/importing/column_names.toml",
        "audiocatalog/_migrations/alembic/versions/0001_tracks_and_their_history.py",
        "audiocatalog/_examples/tracks.csv",
    ):
        assert expected in names
    assert not any(name.startswith(("alembic/", "tests/")) or "__pycache__" in name for name in names)


#: Every line of the public surface that this version has, as a service would use it.
SERVICE = """
import os, sys
from audiocatalog import Catalog, SearchFilters, TrackMetadata, TrackRecord, TrackStatus, errors, migrations
import audiocatalog
assert "site-packages" in audiocatalog.__file__, audiocatalog.__file__

url = os.environ["AUDIOCATALOG_DATABASE_URL"]
migrations.upgrade(url)
with Catalog(url, actor="extractor", pool_size=5, pool_timeout=5.0, statement_timeout=5.0, search_timeout=2.0,
             lock_timeout=2.0, pooler=False) as catalog:
    with catalog.unit_of_work() as work:
        track = work.save(TrackMetadata(title="Idioteque", artist="Radiohead", album="Kid A", genre="Electronic",
                                        year=2000, duration=309.0, channels=2, sample_rate=44_100, bitrate=320_000,
                                        format="mp3"),
                          id=None, audio_path="s3://b/1.mp3", thumbnail_path=None, status=TrackStatus.COMPLETED)
        assert work.get(track.id).title == "Idioteque"
        assert work.find(track.id) is not None
        change = work.update_status(track.id, TrackStatus.PENDING, reason="re-encode", actor=None, expected=None,
                                    operation_id=None)
        assert (change.track_id, change.from_status, change.to_status) == (track.id, "COMPLETED", "PENDING")
        assert (change.actor, change.reason, change.operation_id) == ("extractor", "re-encode", None)
        assert [change.to_status for change in work.history(track.id)] == ["COMPLETED", "PENDING"]
        page = work.search("radiohead idioteque", filters=SearchFilters(year=(1995, 2005)), limit=20, offset=0,
                           after=None)
        assert [hit.track.id for hit in page.hits] == [track.id]
        assert page.hits[0].score > 0 and page.hits[0].highlights["title"] == ((0, 9),)
        assert (page.total, page.is_total_exact) == (1, True)
        assert work.session.connection() is not None
    assert catalog.get(track.id).status is TrackStatus.PENDING
    assert catalog.find(track.id).version == 2
    assert catalog.search("kid a").total == 1
    assert catalog.update_status(track.id, TrackStatus.PROCESSING).to_status == "PROCESSING"
    assert catalog.run(lambda work: work.get(track.id), deadline=10.0).id == track.id
    assert catalog.health().schema_revision == catalog.health().expected_revision
    record = TrackRecord(TrackMetadata(), "s3://b/2.mp3")
    try:
        catalog.get(record.id)
    except errors.TrackNotFound:
        pass
with Catalog.from_env() as catalog:
    assert catalog.get(track.id).title == "Idioteque"
print("served")
"""


def what_a_service_needs() -> set[str]:
    """Return the names of the distributions that audiocatalog needs, without its extras, and that those need."""
    needed: set[str] = set()
    todo = [(canonicalize_name("audiocatalog"), frozenset([""]))]
    while todo:
        name, extras = todo.pop()
        for requirement in map(Requirement, distribution(name).requires or ()):
            other = canonicalize_name(requirement.name)
            if other in needed or not any(
                requirement.marker is None or requirement.marker.evaluate({"extra": extra}) for extra in extras
            ):
                continue
            needed.add(other)
            todo.append((other, frozenset(["", *requirement.extras])))
    return needed


def test_an_installed_wheel_serves_from_another_folder(wheel: Path, database_url: str, tmp_path: Path) -> None:
    """Nothing is fetched: the clean environment has the wheel, and links to what it needs and nothing else."""
    environment = tmp_path / "clean environment"
    venv.create(environment)
    python = environment / "bin" / "python"
    install: list[str | Path] = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    subprocess.run(
        [*install, "--disable-pip-version-check", "--no-index", "--no-deps", "--no-compile", wheel],
        cwd=tmp_path, check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": environment, "platbase": environment}))
    for name in what_a_service_needs():
        for file in distribution(name).files or ():
            top = file.parts[0]
            if top not in {"..", "__pycache__"} and not (packages / top).exists():
                (packages / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AUDIOCATALOG_", "DB_"))
    }
    done = subprocess.run(
        [python, "-W", "error", "-c", SERVICE],
        cwd=tmp_path,
        env=clean | {"AUDIOCATALOG_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "served"), done.stderr
    # Without the extra, the command says what is missing.
    bare = subprocess.run(
        [environment / "bin" / "audiocatalog"], capture_output=True, text=True, check=False, timeout=60
    )
    assert bare.returncode == 1
    assert "audiocatalog[cli]" in bare.stderr
    assert "Traceback" not in bare.stderr


def test_the_version_is_the_one_that_the_changelog_begins_with() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## ([^ \n]+)", changelog, re.MULTILINE)[0] == version("audiocatalog")
