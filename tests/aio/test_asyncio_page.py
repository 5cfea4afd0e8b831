"""Every Python block of docs/asyncio.md runs unchanged on a real database."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from typing import Any, Final

import pytest

from audiocatalog import TrackMetadata
from audiocatalog.aio import AsyncCatalog
from tests.support.repository import ROOT

PAGE: Final = ROOT / "docs" / "asyncio.md"
EXAMPLE_URL: Final = "postgresql://music@localhost/music"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="a source distribution has no documents")


def blocks() -> list[str]:
    text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_page_has_an_example_for_each_way() -> None:
    names = " ".join(blocks())
    ways = (
        "asyncio.timeout",
        "TaskGroup",
        "anyio",
        "to_thread",
        "work.session",
        "bulk_save",
        "iter_tracks",
        "concurrency",
    )
    for name in ways:
        assert name in names


@pytest.mark.parametrize("block", blocks(), ids=lambda block: f"line {line_of(block)}")
def test_every_block_runs(block: str, database_url: str) -> None:
    code = block.replace(EXAMPLE_URL, database_url)
    given: dict[str, Any] = {"asyncio": asyncio, "AsyncCatalog": AsyncCatalog, "TrackMetadata": TrackMetadata}
    if "asyncio.run(" in code:
        exec(compile(code, "asyncio.md", "exec"), given)  # noqa: S102
        for name, test in list(given.items()):
            if name.startswith("test_"):
                test()
    else:
        asyncio.run(run(code, database_url, given))


async def run(code: str, url: str, given: dict[str, Any]) -> None:
    compiled = compile(code, "asyncio.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    async with AsyncCatalog(url) as catalog:
        given["catalog"] = catalog
        given["track"] = await catalog.save(TrackMetadata(title="Army of Me"), audio_path="s3://music/army.flac")
        if inspect.iscoroutine(running := eval(compiled, given)):  # noqa: S307
            await running
        async with asyncio.timeout(30):
            while catalog.pool_stats().in_use:  # noqa: ASYNC110  # A cancelled call's connection comes back later.
                await asyncio.sleep(0.005)


def line_of(block: str) -> int:
    text = PAGE.read_text(encoding="utf-8")
    return text[: text.index(block)].count("\n")
