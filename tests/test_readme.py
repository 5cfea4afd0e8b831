"""The README's Python runs as it stands, from top to bottom."""

from __future__ import annotations

import dataclasses
import re

import pytest

from audiocatalog.db.settings import Settings
from tests.support.repository import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE_URL = "postgresql://music@localhost/music"


def test_every_python_example_runs(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    names: dict[str, object] = {}
    try:
        for block in blocks:
            exec(compile(block.replace(EXAMPLE_URL, database_url), "README.md", "exec"), names)  # noqa: S102
    finally:
        names["catalog"].close()  # type: ignore[attr-defined]
    printed = capsys.readouterr().out
    assert "Radiohead Idioteque {'title': ((0, 9),), 'artist': ((0, 9),)}" in printed
    assert "title: at least one visible character; year: a whole number from 1000 to 9999, not float; " in printed
    assert "COMPLETED -> PENDING extractor new encoder" in printed


def test_every_setting_is_documented() -> None:
    for setting in dataclasses.fields(Settings):
        assert f"`{setting.name}` | `AUDIOCATALOG_{setting.name.upper()}`" in README
