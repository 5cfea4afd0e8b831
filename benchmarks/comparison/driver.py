"""
A process that carries out operations with the audiocatalog that it can import, of any revision.

It imports nothing else of the project and uses names of the public surface alone: those that all revisions have, and
others where they exist.
It reads one command a line from its standard input, and answers each with a line of JSON:

    setup           make the schema and save all tracks of the file
    prepare OP N    make what N calls of the operation need; this is not timed
    run N           make N calls, and return what each took in seconds; a call of ``bulk`` saves many records
"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from audiocatalog import Catalog, TrackMetadata, TrackRecord, TrackStatus, migrations

#: The same as in benchmarks/performance/rows.py, which this script cannot import.
URL_VARIABLE = "AUDIOCATALOG_BENCHMARK_URL"
CLAIMED_AT_ONCE = 10
SAVED_AT_ONCE = 500
_LEASE = timedelta(hours=1)
#: So long may a call take on a processor that valgrind plays.
_PATIENCE_SECONDS = 300.0
_TIME_LIMITS = ("pool_timeout", "statement_timeout", "search_timeout", "lock_timeout", "network_timeout")

Call = Callable[[], object]


class Driver:
    """What one catalogue is asked to do; *material* is what both revisions are given."""

    def __init__(self, url: str, material: dict[str, Any]) -> None:
        known = inspect.signature(Catalog).parameters
        limits: dict[str, Any] = {name: _PATIENCE_SECONDS for name in _TIME_LIMITS if name in known}
        self._url = url
        self._catalog = Catalog(url, actor="benchmark", pool_size=1, **limits)
        self._ids = [UUID(id_) for id_, _ in material["tracks"]]
        self._metadata = [TrackMetadata(**fields) for _, fields in material["tracks"]]
        self._endless = itertools.cycle(self._metadata)
        self._queries: Iterator[str] = itertools.cycle(material["queries"])
        self._dice = random.Random(len(self._ids))  # noqa: S311 - the same ids for both revisions.
        self._claims: list[Any] = []
        self._calls: list[Call] = []
        self._makers: dict[str, Callable[[int], list[Call]]] = {
            "get": self._gets,
            "save": self._saves,
            "search": self._searches,
            "claim": self._claims_of,
            "complete": self._completions,
            "bulk": self._bulks,
        }

    def setup(self) -> None:
        """Make the schema, and save the tracks, so that they can be searched with corrections."""
        migrations.upgrade(self._url)
        pairs = zip(self._ids, self._metadata, strict=True)
        self._catalog.bulk_save(
            TrackRecord(metadata, f"/music/{number}", id=id_) for number, (id_, metadata) in enumerate(pairs)
        )
        if hasattr(self._catalog, "refresh_vocabulary"):
            self._catalog.refresh_vocabulary()

    def prepare(self, operation: str, count: int) -> None:
        """Make *count* calls ready, and let the session run the statement once."""
        self._calls = self._makers[operation](count)

    def run(self, count: int) -> list[float]:
        """Return what each of the next *count* calls takes."""
        clock, times = time.perf_counter, []
        for call in self._calls[:count]:
            begun = clock()
            call()
            times.append(clock() - begun)
        del self._calls[:count]
        return times

    def close(self) -> None:
        """Close the catalogue."""
        self._catalog.close()

    def _records(self, count: int, status: TrackStatus) -> list[TrackRecord]:
        return [
            TrackRecord(metadata, f"/new/{number}", status=status)
            for number, metadata in enumerate(itertools.islice(self._endless, count))
        ]

    def _gets(self, count: int) -> list[Call]:
        get = self._catalog.get
        return [lambda id_=id_: get(id_) for id_ in self._dice.choices(self._ids, k=count)]  # type: ignore[misc]

    def _saves(self, count: int) -> list[Call]:
        def save(metadata: TrackMetadata, path: str) -> None:
            with self._catalog.unit_of_work() as work:
                work.save(metadata, audio_path=path)

        return [
            lambda metadata=metadata: save(metadata, f"/saved/{uuid4()}")  # type: ignore[misc]
            for metadata in itertools.islice(self._endless, count)
        ]

    def _searches(self, count: int) -> list[Call]:
        search = self._catalog.search
        return [lambda text=text: search(text, limit=10) for text in itertools.islice(self._queries, count)]  # type: ignore[misc]

    def _claims_of(self, count: int) -> list[Call]:
        self._catalog.bulk_save(self._records(count * CLAIMED_AT_ONCE, TrackStatus.PENDING))

        def claim() -> None:
            found = self._catalog.claim(CLAIMED_AT_ONCE, lease=_LEASE)
            if len(found) != CLAIMED_AT_ONCE:
                raise RuntimeError(f"{len(found)} tracks were claimed in place of {CLAIMED_AT_ONCE}")
            self._claims += found

        return [claim] * count

    def _completions(self, count: int) -> list[Call]:
        missing = count - len(self._claims)
        if missing > 0:
            for call in self._claims_of(-(-missing // CLAIMED_AT_ONCE)):
                call()
        claims, self._claims = self._claims[:count], self._claims[count:]
        return [lambda claim=claim: self._catalog.complete(claim) for claim in claims]  # type: ignore[misc]

    def _bulks(self, count: int) -> list[Call]:
        def save(records: list[TrackRecord]) -> None:
            self._catalog.bulk_save(records)

        batches = [self._records(SAVED_AT_ONCE, TrackStatus.COMPLETED) for _ in range(count)]
        return [lambda records=records: save(records) for records in batches]  # type: ignore[misc]


def main() -> None:
    """Carry out the commands until there are no more."""
    material = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    driver = Driver(os.environ[URL_VARIABLE], material)
    answers = sys.stdout
    sys.stdout = sys.stderr  # What a library prints is no answer.
    for line in sys.stdin:
        command, *rest = line.split()
        times: list[float] = []
        if command == "setup":
            driver.setup()
        elif command == "prepare":
            driver.prepare(rest[0], int(rest[1]))
        else:
            times = driver.run(int(rest[0]))
        print(json.dumps(times), file=answers, flush=True)
    driver.close()


if __name__ == "__main__":
    main()
