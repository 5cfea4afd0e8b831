"""Each class of characters is written once: the SQL functions are made of the ones that Python uses."""

from __future__ import annotations

import re

import pytest

from audiocatalog.migrations.alembic_operations import filled_in
from audiocatalog.models.characters import CHARACTERS
from tests.support.repository import ROOT

SQL = "\n".join(file.read_text("utf-8") for file in sorted((ROOT / "alembic" / "functions").glob("*.sql")))


@pytest.mark.parametrize("name", CHARACTERS)
def test_the_functions_are_made_of_each_class(name: str) -> None:
    assert f"{{{name}}}" in SQL
    assert f"[^{CHARACTERS[name]}]" == filled_in(f"[^{{{name}}}]", 1, {})


@pytest.mark.parametrize("name", CHARACTERS)
def test_no_file_of_functions_writes_a_class_of_its_own(name: str) -> None:
    written = re.sub(r"'\s+'", "", SQL)  # Literals in several lines are one.
    assert CHARACTERS[name] not in written
