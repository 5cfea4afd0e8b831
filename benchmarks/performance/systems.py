"""The contestants that are measured: those that read and save one track, and those that load many."""

from __future__ import annotations

import functools
from contextlib import ExitStack
from typing import Final

from benchmarks import absent
from benchmarks.performance import alchemy, bare, beets_library, django_orm, naive, ours
from benchmarks.performance.contestant import Contestant, Loader, Opener
from benchmarks.performance.rows import Tracks

#: beets finds an item by SQLite's own number of the row: what a get takes depends little on how many there are.
_MOST_IN_BEETS: Final = 20_000
#: What is not installed with the package itself.
_EXTRAS: Final = {naive.LOAD: naive.NEEDS, django_orm.LOAD: django_orm.NEEDS, beets_library.LOAD: beets_library.NEEDS}
_LOADERS: Final[dict[str, Loader]] = {
    ours.LOAD: ours.load,
    bare.COPY: bare.copy_binary,
    bare.COPY_BATCHES: bare.copy_batches,
    bare.COPY_TEXT: bare.copy_text,
    bare.EXECUTEMANY: bare.executemany,
    bare.EXECUTE: bare.execute,
    naive.LOAD: naive.load,
    alchemy.LOAD: alchemy.load,
    alchemy.LOAD_LEAN: alchemy.load_lean,
    django_orm.LOAD: django_orm.load,
    beets_library.LOAD: beets_library.load,
}


def opened(url: str, tracks: Tracks, count: int, stack: ExitStack) -> list[Contestant]:
    """
    Open each contestant that reads and saves on the database at *url*, to be closed with *stack*.

    The database holds the first *count* of *tracks*.
    """
    held = min(count, _MOST_IN_BEETS)
    openers: dict[str, tuple[str | None, Opener]] = {
        "audiocatalog": (None, ours.opened),
        "bare psycopg": (None, bare.opened),
        "SQLAlchemy ORM": (None, alchemy.opened),
        "psycopg2": (naive.NEEDS, naive.opened),
        "Django ORM": (django_orm.NEEDS, django_orm.opened),
        "beets": (beets_library.NEEDS, lambda _: beets_library.opened(tracks.values(held))),
    }
    found = []
    for name, (module, opener) in openers.items():
        if _is_installed(module):
            with absent.attempted(name):
                found.append(stack.enter_context(opener(url)))
    return found


def loaders() -> dict[str, Loader]:
    """Return each contestant that loads many tracks, by its name."""
    return {name: load for name, load in _LOADERS.items() if _is_installed(_EXTRAS.get(name))}


@functools.cache
def _is_installed(module: str | None) -> bool:
    return module is None or absent.has_modules(module, module)
