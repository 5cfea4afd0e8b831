"""Fixtures of the tests in this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from audiocatalog import Catalog


@pytest.fixture
def quick(database_url: str) -> Iterator[Catalog]:
    """Give a catalogue whose tracks hardly wait between two tries."""
    with Catalog(database_url, actor="tester", retry_delay=0.001, longest_retry_delay=0.001) as catalog:
        yield catalog
