"""The targets of the Makefile that no other test and no gate runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no checkout"),
    pytest.mark.skipif(not shutil.which("make"), reason="there is no make"),
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Give a copy of what `make` needs, whose .venv has the programs of this one, so that nothing is installed."""
    folder = tmp_path / "a copy"
    folder.mkdir()
    for name in ("Makefile", "CONTRIBUTING.md", "pyproject.toml", "constraints.txt", "alembic.ini"):
        shutil.copy(ROOT / name, folder)
    for name in ("alembic", "audiocatalog", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for program in Path(sys.executable).parent.iterdir():
        if program.name in {"alembic", "ruff"}:
            (programs / program.name).symlink_to(program)
    # A link to an interpreter would not find the packages that are installed beside it.
    (programs / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (programs / "python").chmod(0o755)
    (folder / ".venv" / ".installed").touch()
    return folder


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in {"NAME", "ARGS", "VENV", "MAKEFLAGS"}}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments], cwd=folder, env=kept, capture_output=True, text=True, check=False
    )


def test_the_help_lists_every_target_and_fits_into_80_columns(checkout: Path) -> None:
    done = make(checkout, "help")
    lines = done.stdout.splitlines()
    (phony,) = re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)", (checkout / "Makefile").read_text(), re.MULTILINE)
    assert sorted(line.split()[1] for line in lines) == sorted(phony.replace("\\\n", " ").split())
    assert max(map(len, lines)) <= 80


def test_a_revision_gets_the_next_number_and_the_list_of_what_else_to_change(checkout: Path) -> None:
    heads = sorted(file.name[:4] for file in (checkout / "alembic" / "versions").glob("*.py"))
    number = f"{int(heads[-1]) + 1:04}"
    done = make(checkout, "revision", "NAME=add the band's 'mood'; touch harm")
    assert done.returncode == 0, done.stderr
    (made,) = (checkout / "alembic" / "versions").glob(f"{number}_*.py")
    assert made.name == f"{number}_add_the_band_s_mood_touch_harm.py"
    assert not (checkout / "harm").exists()
    code = made.read_text(encoding="utf-8")
    assert f'\nrevision = "{number}"\ndown_revision = "{heads[-1]}"\n' in code
    for place in ("sql_names.py", "tables.py", "roles.py", "CHANGELOG.md"):
        assert place in done.stdout
    assert "### A setting" not in done.stdout
    # It has nothing to be mended but that it does nothing yet.
    lint = [".venv/bin/ruff", "check", "--output-format", "concise", str(made)]
    found = subprocess.run(lint, cwd=checkout, capture_output=True, text=True, check=False).stdout
    assert re.findall(r": ([A-Z]+\d+) .*", found) == ["F401"], found
    assert subprocess.run([".venv/bin/ruff", "format", "--check", made], cwd=checkout, check=False).returncode == 0


def test_a_revision_without_a_name_is_refused(checkout: Path) -> None:
    done = make(checkout, "revision")
    assert (done.returncode != 0, "make revision NAME=" in done.stdout) == (True, True)
    assert len(list((checkout / "alembic" / "versions").glob("*.py"))) == len(
        list((ROOT / "alembic" / "versions").glob("*.py"))
    )


def test_the_fast_tests_need_no_server(checkout: Path) -> None:
    """One test of each kind: only the one without a mark runs."""
    shutil.rmtree(checkout / "tests" / "operations")
    (checkout / "tests" / "operations").mkdir()
    (checkout / "tests" / "operations" / "test_kinds.py").write_text(
        "import pytest\n"
        "def test_of_nothing(): pass\n"
        "@pytest.mark.slow\ndef test_that_is_slow(): raise AssertionError\n"
        "@pytest.mark.faults\ndef test_of_a_fault(): raise AssertionError\n"
        "def test_on_a_server(database_url): raise AssertionError\n"
    )
    done = make(checkout, "test-fast", "ARGS=-p no:cacheprovider tests/operations/test_kinds.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_format_mends_what_lint_refuses(checkout: Path) -> None:
    wrong = checkout / "audiocatalog" / "wrong.py"
    wrong.write_text('"""A module."""\nimport os\nNAME = \'x\'\n')
    done = make(checkout, "format")
    assert done.returncode == 0, done.stderr
    assert wrong.read_text() == '"""A module."""\n\nNAME = "x"\n'


def test_an_edit_of_the_project_keeps_the_environment(checkout: Path) -> None:
    os.utime(checkout / ".venv" / ".installed", (1, 1))
    done = make(checkout, "install", "PIP=true")
    assert done.returncode == 0, done.stderr
    assert (checkout / ".venv" / "bin" / "alembic").exists()
    assert "Nothing to be done" in make(checkout, "install", "PIP=false").stdout


def test_a_benchmark_installs_what_it_compares_with_once(checkout: Path) -> None:
    assert "'.[bench]'" in make(checkout, "--dry-run", "bench").stdout
    (checkout / ".venv" / ".bench-installed").touch()
    again = make(checkout, "--dry-run", "bench").stdout
    assert ("benchmarks.performance" in again, "'.[bench]'" in again) == (True, False)
