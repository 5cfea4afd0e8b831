"""The documents agree with each other and with the repository: files, links, decisions, and the floors of the house."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.repository import ROOT

pytestmark = pytest.mark.skipif(not (ROOT / "docs").exists(), reason="a source distribution has no documents")

DECISIONS: Final = sorted((ROOT / "docs" / "adr").glob("[0-9]*.md"))
DOCUMENTS: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FOLDERS: Final = ("alembic", "audiocatalog", "benchmarks", "docs", "examples", "tests")
#: Files of an installed wheel and of the benchmarks' material, and the next version of one of ours.
ELSEWHERE: Final = re.compile(r"audiocatalog/_|^scale_tracks\.py$|_v2\.sql$")

EXAMPLE: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"\[[^\]]*\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
FILE: Final = re.compile(r"(?<![\w./{*-])(?:[\w-]+/)*[\w-]+\.(?:py\.mako|py|sql)\b(?![*(])")
STATE: Final = re.compile(
    r"^\*\*Status:\*\* (Accepted|Superseded by \[ADR \d{4}\]\(\S+\)) · \*\*Date:\*\* (\d{4}-\d{2}-\d{2})"
    r"(?:, changed (\d{4}-\d{2}-\d{2}))?(?: · \*\*Supersedes:\*\* .+)?$"
)


def remarks(code: str) -> Iterator[str]:
    """Yield the docstrings and comments of *code*."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield ast.get_docstring(node) or ""
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def texts() -> Iterator[tuple[Path, str]]:
    for document in DOCUMENTS:
        # What an example makes is not there yet.
        yield document, EXAMPLE.sub("", document.read_text(encoding="utf-8"))
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*.py")):
            code = file.read_text(encoding="utf-8")
            # To read the remarks of code costs more than to see that none of its text names a file.
            yield file, "\n".join(remarks(code)) if FILE.search(code) else ""
        for file in sorted((ROOT / folder).rglob("*.sql")):
            yield file, file.read_text(encoding="utf-8")
    for name in ("Makefile", "pyproject.toml", "alembic/script.py.mako"):
        yield ROOT / name, (ROOT / name).read_text(encoding="utf-8")


def anchors(document: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of *document*."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_file_that_is_named_exists() -> None:
    """With its folder, it is there; without one, some folder has it."""
    there = {file.relative_to(ROOT).as_posix() for folder in FOLDERS for file in (ROOT / folder).rglob("*.*")}
    assert "audiocatalog/models/rows.py" in there
    ends = {"/".join(parts[at:]) for name in there if (parts := name.split("/")) for at in range(len(parts))}
    missing = [
        f"{path.relative_to(ROOT)}: {found}"
        for path, text in texts()
        for found in FILE.findall(text)
        if found not in (there if found.startswith(FOLDERS) else ends) and not ELSEWHERE.search(found)
    ]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(document: Path) -> None:
    broken = []
    for target, anchor in LINK.findall(document.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        file = (document.parent / target).resolve() if target else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(f"{target}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda path: path.stem[:4])
def test_every_decision_has_a_status_and_a_date_and_stands_in_the_index(decision: Path) -> None:
    heading, blank, state, *_ = decision.read_text(encoding="utf-8").splitlines()
    title = re.fullmatch(r"# (\d{4}) · (.+)", heading)
    found = STATE.match(state)
    assert title is not None
    assert found is not None, state
    assert (title[1], blank) == (decision.stem[:4], "")
    status, date, changed = found.groups()
    assert changed is None or date <= changed
    status = status.split(" ", maxsplit=1)[0]
    row = f"| [{title[1]}]({decision.name}) | {title[2]} | {status} | {date} |"
    assert row in (decision.parent / "README.md").read_text(encoding="utf-8").splitlines()


def test_the_decisions_are_numbered_without_a_gap_and_the_index_has_no_other() -> None:
    numbers = [decision.stem[:4] for decision in DECISIONS]
    assert numbers == [f"{number:04}" for number in range(1, len(numbers) + 1)]
    index = (ROOT / "docs" / "adr" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[(\d{4})\]", index, re.MULTILINE) == numbers


def room(module: str) -> str:
    """Return the name of the folder or file of *module*."""
    name = module.strip().removeprefix("audiocatalog.")
    return f"{name}/" if (ROOT / "audiocatalog" / name).is_dir() else f"{name}.py"


def test_the_picture_of_the_house_is_that_of_the_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    floors = [{room(module) for module in layer.split("|")} for layer in layers]
    diagram = (ROOT / "docs" / "adr" / "0017-the-floor-plan.md").read_text(encoding="utf-8")
    drawn = [set(box.split(" · ")) for box in re.findall(r'\["([^"]+)"\]', diagram)]
    table = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", table, re.MULTILINE)
    assert drawn == floors
    assert [set(re.findall(r"`([^`]+)`", rooms)) for _, rooms in rows] == floors
    assert [int(number) for number, _ in rows] == list(range(len(floors), 0, -1))
