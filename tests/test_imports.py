"""What ``import audiocatalog`` imports: every service pays for it at each start."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import audiocatalog

#: What a service needs for something else than reading and writing tracks, if at all.
#:
#: What a call needs is imported at once: an interrupt in the midst of an import leaves a part of a module behind, which
#: later calls would find.
LATER = {
    "alembic",
    "audiocatalog.aio",
    "audiocatalog.cli",
    "audiocatalog.embedded",
    "audiocatalog.migrations",
    "audiocatalog.worker",
    "greenlet",
    "rich",
    "sqlalchemy.ext.asyncio",
}


@pytest.mark.slow
def test_what_most_services_do_not_need_at_once_is_imported_when_it_is_used() -> None:
    program = "import sys, audiocatalog; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = set(answer.stdout.split())
    assert "audiocatalog.catalog" in imported
    assert LATER & imported == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({"migrations", "Worker"}))
@pytest.mark.parametrize("program", ["from audiocatalog import {0}", "import audiocatalog; audiocatalog.{0}"])
def test_a_name_that_is_imported_late_is_there_in_a_new_process(program: str, name: str) -> None:
    subprocess.run([sys.executable, "-c", program.format(name)], check=True)


def test_a_name_that_the_package_does_not_have_is_refused_as_usual() -> None:
    with pytest.raises(AttributeError, match="module 'audiocatalog' has no attribute 'Catalogue'"):
        audiocatalog.__getattr__("Catalogue")
    assert not hasattr(audiocatalog, "Catalogue")


def test_a_call_imports_nothing() -> None:
    """An interrupted import leaves a part of a module behind, which the next call would find."""
    folder = Path(audiocatalog.__file__).parent
    late = [
        (path.relative_to(folder).as_posix(), node.name)
        for room in ("methods", "operations", "search", "db", "models")
        for path in (folder / room).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
        and any(isinstance(inner, ast.Import | ast.ImportFrom) for inner in ast.walk(node))
    ]
    assert late == []
