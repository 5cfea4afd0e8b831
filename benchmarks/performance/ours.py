"""This package, as a service calls it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from audiocatalog import Catalog, TrackRecord
from benchmarks.performance.contestant import Contestant
from benchmarks.performance.rows import ACTOR, Values, record_of

GET: Final = "audiocatalog: catalog.get"
GET_MANY: Final = "audiocatalog: catalog.get_many"
SAVE: Final = "audiocatalog: unit_of_work, save"
LOAD: Final = "audiocatalog: bulk_save"
LOAD_MADE: Final = "audiocatalog: bulk_save of records made before"
LOAD_TWO: Final = "audiocatalog: bulk_save over two connections"
LOAD_AGAIN: Final = "audiocatalog: bulk_save again, all unchanged"
WALK: Final = "audiocatalog: iter_tracks"


@contextmanager
def opened(url: str) -> Iterator[Contestant]:
    """Open a catalogue with one connection."""
    with Catalog(url, actor=ACTOR, pool_size=1) as catalog:
        yield contestant(catalog)


def contestant(catalog: Catalog) -> Contestant:
    """Return what *catalog* can do."""
    return Contestant(
        get={GET: catalog.get},
        get_many={GET_MANY: catalog.get_many},
        save={SAVE: lambda values: save(catalog, values)},
    )


def save(catalog: Catalog, values: Values) -> object:
    """Store *values* as a caller would who has just read the tags of a file."""
    with catalog.unit_of_work() as work:
        return work.save_record(record_of(values))


def load(url: str, rows: Iterator[Values]) -> Any:  # noqa: ANN401 - the result is compared by its counts alone.
    """Store *rows* by ``bulk_save``, each made a record, and so validated, on its way."""
    return load_records(url, map(record_of, rows))


def load_over_two(url: str, rows: Iterator[Values]) -> Any:  # noqa: ANN401 - likewise.
    """Store *rows* over two connections, a batch on each."""
    return load_records(url, map(record_of, rows), connections=2)


def load_records(url: str, records: Iterable[TrackRecord], *, connections: int = 1) -> Any:  # noqa: ANN401 - likewise.
    """Store *records* by ``bulk_save``."""
    with Catalog(url, actor=ACTOR, pool_size=connections) as catalog:
        return catalog.bulk_save(records, connections=connections)
