"""Writers whose transactions end when a test says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID, uuid4

from audiocatalog import Catalog, TrackMetadata, UnitOfWork


def new(catalog: Catalog, count: int = 1, **values: Any) -> list[UUID]:
    with catalog.unit_of_work() as work:
        return [work.save(TrackMetadata(), id=uuid4(), audio_path="a", **values).id for _ in range(count)]


def replace(catalog: Catalog | UnitOfWork, track_id: UUID, title: str = "new") -> None:
    if isinstance(catalog, Catalog):
        with catalog.unit_of_work() as work:
            replace(work, track_id, title)
    else:
        catalog.save(TrackMetadata(title=title), id=track_id, audio_path="a", replace=True)


@contextmanager
def writer(url: str) -> Iterator[UnitOfWork]:
    """Give a unit of work on a connection of its own, which is committed at the end."""
    with Catalog(url, actor="other", pool_size=1) as catalog, catalog.unit_of_work() as work:
        yield work
