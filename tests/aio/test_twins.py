"""The asynchronous modules that are made from synchronous ones are current."""

from __future__ import annotations

from pathlib import Path

import pytest

import audiocatalog
from tests.support.twins import TWINS, formatted, twin_of

PACKAGE = Path(audiocatalog.__file__).parent


@pytest.mark.parametrize("module", TWINS)
def test_a_twin_is_what_its_module_makes(module: str) -> None:
    made = formatted(twin_of((PACKAGE / module).read_text(), module))
    assert (PACKAGE / TWINS[module]).read_text() == made, "run `make twins`"
