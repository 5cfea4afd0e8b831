"""Contestants that cannot run: each is named with its reason, the others go on, and the exit code tells."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

#: What the exit code is where something was wrong, or somebody was absent.
FAILED: Final = 1
_REASON_CHARACTERS: Final = 300
_reasons: dict[str, str] = {}


def note(name: str, reason: str) -> None:
    """Note that the contestant *name* cannot run."""
    if name not in _reasons:
        _reasons[name] = reason
        print(f"{name} cannot run: {reason}", file=sys.stderr, flush=True)


def reasons() -> dict[str, str]:
    """Return why each absent contestant cannot run."""
    return dict(_reasons)


def is_present(name: str) -> bool:
    """Return whether nothing has kept the contestant *name* from running."""
    return name not in _reasons


def has_modules(name: str, *modules: str) -> bool:
    """Return whether the modules that the contestant *name* needs are installed, and note it if they are not."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        note(name, f"{', '.join(missing)} is not installed (pip install 'audiocatalog[bench]')")
    return not missing


@contextmanager
def attempted(name: str) -> Iterator[None]:
    """
    Give the contestant *name* its turn, and note the error that ends it.

    The package itself is no guest: its errors end the benchmark.
    """
    try:
        yield
    except Exception as error:
        if name.startswith("audiocatalog"):
            raise
        note(name, f"{type(error).__name__}: {error}"[:_REASON_CHARACTERS])
