"""Who is measured: everybody who reads and saves one track, and everybody who loads many."""

from __future__ import annotations

import functools
import importlib.util
from typing import Final

from benchmarks.performance import alchemy, bare, beets_library, django_orm, naive, ours
from benchmarks.performance.contestant import Loader, Opener
from benchmarks.performance.rows import Tracks
from benchmarks.performance.timing import say

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


def openers(tracks: Tracks, count: int) -> list[Opener]:
    """Return what opens everybody who reads and saves on a database that holds the first *count* of *tracks*."""
    held = min(count, _MOST_IN_BEETS)
    found: dict[str | None, list[Opener]] = {
        None: [ours.opened, bare.opened, alchemy.opened],
        naive.NEEDS: [naive.opened],
        django_orm.NEEDS: [django_orm.opened],
        beets_library.NEEDS: [lambda _: beets_library.opened(tracks.values(held))],
    }
    return [opener for module, several in found.items() if _is_installed(module) for opener in several]


def loaders() -> dict[str, Loader]:
    """Return everybody who loads."""
    return {name: load for name, load in _LOADERS.items() if _is_installed(_EXTRAS.get(name))}


@functools.cache
def _is_installed(module: str | None) -> bool:
    if module is None or importlib.util.find_spec(module) is not None:
        return True
    say(f"{module} is left out, for it is not installed (pip install 'audiocatalog[bench]')")
    return False
