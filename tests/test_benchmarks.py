"""The benchmarks tell what could not be measured, and the comparison with another revision cleans up behind itself."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.repository import ROOT

absent = pytest.importorskip("benchmarks.absent", reason="the benchmarks are no part of a source distribution")

from benchmarks.search.known_items import of_our_own  # noqa: E402

pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no checkout")


@pytest.fixture(autouse=True)
def nobody_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absent, "_reasons", {})


def test_a_contestant_that_fails_is_named_and_the_others_go_on() -> None:
    with absent.attempted("a peer"):
        raise LookupError("no such column")
    assert absent.reasons() == {"a peer": "LookupError: no such column"}
    assert not absent.is_present("a peer")


def test_an_error_of_our_own_ends_the_benchmark() -> None:
    with pytest.raises(LookupError), absent.attempted("audiocatalog: get"):
        raise LookupError("no such column")


def test_a_contestant_without_its_module_is_absent() -> None:
    assert absent.has_modules("a present one", "json")
    assert not absent.has_modules("a missing one", "json", "no_such_module")
    assert "no_such_module is not installed" in absent.reasons()["a missing one"]


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", ["performance", "search", "lifecycle"])
def test_the_exit_code_says_that_a_contestant_could_not_run(benchmark: str, tmp_path: Path) -> None:
    facts = {"date": "2026-01-01", "server": "PostgreSQL", "python": "3", "cores": 2, "machine": "", "load": 0.0}
    found = tmp_path / "found.json"
    found.write_text(json.dumps(facts | {"absent": {"a peer": "it is not installed"}}), encoding="utf-8")
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", "--from-json", str(found)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "a peer could not run: it is not installed" in done.stdout


def test_queries_are_made_without_any_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUDIOCATALOG_DATA", raising=False)
    material = of_our_own(300, 20)
    keys = {row.key for row in material.rows()}
    assert len(keys) == 300
    assert {item["class"] for item in material.known} == {"exact", "no accents", "prefix", "partial phrase", "one typo"}
    assert all(item["expected"] and keys.issuperset(item["expected"]) for item in material.known)


def compared(*arguments: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "benchmarks.comparison",
        "--same-environment",
        "--quick",
        "--tracks",
        "200",
        *arguments,
    ]


def worktrees() -> str:
    return subprocess.run(["git", "worktree", "list"], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_a_revision_is_compared_with_itself(server_url: str, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    command = compared("--baseline", "HEAD", "--rounds", "2", "--url", server_url, "--json", str(found))
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    operations = json.loads(found.read_text(encoding="utf-8"))["operations"]
    assert list(operations) == ["get", "save", "search", "claim", "complete", "bulk"]
    for sides in operations.values():
        assert len(sides["baseline"]["us"]) == len(sides["now"]["us"]) > 1
        assert min(sides["baseline"]["us"] + sides["now"]["us"]) > 0
    assert str(tmp_path) not in worktrees()


def test_an_interrupt_takes_the_worktree_away(server_url: str, tmp_path: Path) -> None:
    command = compared("--baseline", "HEAD", "--only", "get", "--url", server_url)
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = iter(process.stderr)
        assert any("round 0" in line for line in lines)
        assert str(tmp_path) in worktrees()
        process.send_signal(signal.SIGINT)
        rest = "".join(lines)
    assert process.returncode == 128 + signal.SIGINT, rest
    assert str(tmp_path) not in worktrees()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_unknown_revision_is_said(tmp_path: Path) -> None:
    done = subprocess.run(
        compared("--baseline", "no-such-revision"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Name a commit of this repository" in done.stderr
