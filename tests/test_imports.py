"""What ``import audiocatalog`` imports: every service pays for it at each start."""

from __future__ import annotations

import subprocess
import sys

import pytest

import audiocatalog

#: What a service needs for something else than reading and writing tracks, if at all.
LATER = {
    "alembic",
    "audiocatalog.cli",
    "audiocatalog.embedded",
    "audiocatalog.migrations",
    "audiocatalog.search.search",
    "audiocatalog.worker",
    "rapidfuzz",
    "rich",
    "tenacity",
}


def test_what_most_services_do_not_need_at_once_is_imported_when_it_is_used() -> None:
    program = "import sys, audiocatalog; print(*sys.modules)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    imported = set(answer.stdout.split())
    assert "audiocatalog.catalog" in imported
    assert LATER & imported == set()


@pytest.mark.parametrize("name", sorted({"migrations", "Worker"}))
@pytest.mark.parametrize("program", ["from audiocatalog import {0}", "import audiocatalog; audiocatalog.{0}"])
def test_a_name_that_is_imported_late_is_there_in_a_new_process(program: str, name: str) -> None:
    subprocess.run([sys.executable, "-c", program.format(name)], check=True)


def test_a_name_that_the_package_does_not_have_is_refused_as_usual() -> None:
    with pytest.raises(AttributeError, match="module 'audiocatalog' has no attribute 'Catalogue'"):
        audiocatalog.__getattr__("Catalogue")
    assert not hasattr(audiocatalog, "Catalogue")
