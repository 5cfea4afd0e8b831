"""A process that does one thing so many times; ``instructions.py`` starts it under valgrind."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from audiocatalog import Catalog
from audiocatalog.models.ids import new_id
from benchmarks.performance import bare, ours
from benchmarks.performance.contestant import Contestant
from benchmarks.performance.rows import ACTOR, URL_VARIABLE, Tracks, Values, record_of

#: So slow is a processor that valgrind plays.
_PATIENCE_SECONDS: Final = 300.0
_MANY: Final = 100
_WARM: Final = 20


def _gets(contestant: Contestant, rows: Sequence[Values]) -> None:
    get = next(iter(contestant.get.values()))
    for values in rows:
        get(values[0])


def _gets_many(contestant: Contestant, rows: Sequence[Values]) -> None:
    get_many = next(iter(contestant.get_many.values()))
    ids = [values[0] for values in rows[:_MANY]]
    for _ in rows:
        get_many(ids)


def _saves(contestant: Contestant, rows: Sequence[Values]) -> None:
    save = next(iter(contestant.save.values()))
    for values in rows:
        save((new_id(), *values[1:]))


def _bulk(url: str, rows: Sequence[Values]) -> None:
    with _catalog(url) as catalog:
        catalog.bulk_save(record_of(values, new_id()) for values in rows)


def _copy(url: str, rows: Sequence[Values]) -> None:
    bare.copy_binary(url, ((new_id(), *values[1:]) for values in rows))


#: What is done with one contestant open, and what opens a connection of its own.
_CALLS: Final[dict[str, Callable[[Contestant, Sequence[Values]], None]]] = {
    "get": _gets,
    "get 100": _gets_many,
    "save": _saves,
}
_LOADS: Final[dict[str, Callable[[str, Sequence[Values]], None]]] = {ours.LOAD: _bulk, bare.COPY: _copy}


def main() -> None:
    """Do what the arguments name, after a few times to warm up."""
    url, (path, system, what, times) = os.environ[URL_VARIABLE], sys.argv[1:]
    rows = list(itertools.islice(itertools.cycle(Tracks(Path(path), 1000).values()), _WARM + int(times)))
    if what == "load":
        _LOADS[system](url, rows[:_WARM])
        _LOADS[system](url, rows[_WARM:])
        return
    if system == ours.GET:
        with _catalog(url) as catalog:
            _CALLS[what](ours.contestant(catalog), rows)
    else:
        with bare.opened(url) as found:
            _CALLS[what](found, rows)


def _catalog(url: str) -> Catalog:
    return Catalog(
        url,
        actor=ACTOR,
        pool_size=1,
        pool_timeout=_PATIENCE_SECONDS,
        statement_timeout=_PATIENCE_SECONDS,
        lock_timeout=_PATIENCE_SECONDS,
    )


if __name__ == "__main__":
    main()
