"""Measure the everyday operations beside bare psycopg, in one run, on one connection each.

    make bench                       # an embedded server, durable settings
    make bench ARGS="--url URL"      # a database of yours, upgraded before; the tracks made here stay in it

Each pair alternates in blocks, so that whatever else the machine does hits both; the medians of the blocks are printed
with their ratio. Bare psycopg runs the same statements, prepared, with the same parameters. Searches have a benchmark
of their own: make bench-search.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import psycopg
from sqlalchemy import make_url

from audiocatalog import Catalog, TrackMetadata, TrackRecord, TrackStatus, migrations
from audiocatalog.embedded import EmbeddedPostgres
from audiocatalog.tracks import FIND, INSERT, insert_values
from audiocatalog.transitions import MOVE, move_values

Operation = Callable[[int], object]


def record(number: int) -> TrackRecord:
    """Return one of many tracks, every one different."""
    metadata = TrackMetadata(
        title=f"Song {number} of the {number % 97} hills",
        artist=f"Band {number % 1000}",
        album=f"Album {number % 5000}",
        genre="Electronic",
        year=1960 + number % 60,
        duration=200.0 + number % 100,
        channels=2,
        sample_rate=44_100,
        bitrate=320_000,
        format="mp3",
    )
    return TrackRecord(metadata, f"s3://music/{number}.mp3", status=TrackStatus.PENDING)


def pairs(catalog: Catalog, bare: psycopg.Connection[Any], tracks: list[Any]) -> dict[str, tuple[Operation, Operation]]:
    """Return each operation by this package and by bare psycopg."""
    cursor = psycopg.RawCursor(bare)

    def save(number: int) -> object:
        with catalog.unit_of_work() as work:
            return work.save_record(record(number))

    def bare_save(number: int) -> object:
        values = insert_values(record(number), actor="bench", reason=None, notify=False)
        with bare.transaction():
            return cursor.execute(INSERT, values).fetchone()

    # Each call turns the track round: waiting, taken, waiting.
    steps = (TrackStatus.PROCESSING, TrackStatus.PENDING)

    def update(number: int) -> object:
        return catalog.update_status(tracks[0], steps[number % 2])

    def bare_update(number: int) -> object:
        values = move_values(
            tracks[1], steps[number % 2], actor="bench", reason=None, expected=None, operation_id=None, notify=False
        )
        return cursor.execute(MOVE, values).fetchone()

    return {
        "get by id": (
            lambda number: catalog.get(tracks[number % len(tracks)]),
            lambda number: cursor.execute(FIND, (tracks[number % len(tracks)],)).fetchone(),
        ),
        "save, in a unit of work": (save, bare_save),
        "update_status, alone": (update, bare_update),
    }


def median_microseconds(operation: Operation, calls: int, start: int) -> float:
    """Return the median time of one call in µs."""
    times = []
    for number in range(start, start + calls):
        begun = time.perf_counter()
        operation(number)
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e6


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a database of yours; default: an embedded server")
    parser.add_argument("--tracks", type=int, default=20_000, help="tracks in the table before it begins")
    parser.add_argument("--blocks", type=int, default=7)
    parser.add_argument("--calls", type=int, default=200, help="calls of each operation in a block")
    options = parser.parse_args()

    with ExitStack() as stack:
        url = options.url or stack.enter_context(EmbeddedPostgres(durable=True)).url()
        migrations.upgrade(url)
        catalog = stack.enter_context(Catalog(url, pool_size=1))
        libpq = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        bare = stack.enter_context(psycopg.connect(libpq, autocommit=True, prepare_threshold=0))
        with catalog.unit_of_work() as work:
            tracks = [work.save_record(record(number)).id for number in range(options.tracks)]
        bare.execute("VACUUM ANALYZE audio_tracks")

        version = catalog.health().server_version
        print(f"PostgreSQL {version}, {options.tracks:,} tracks, medians of {options.blocks} blocks")
        print(f"{'':26}{'audiocatalog':>14}{'bare psycopg':>14}{'ratio':>8}   (µs a call)")
        start = options.tracks
        for name, operations in pairs(catalog, bare, tracks).items():
            blocks: tuple[list[float], list[float]] = ([], [])
            for block in range(-1, options.blocks):  # The first block warms up.
                for results, operation in zip(blocks, operations, strict=True):
                    result = median_microseconds(operation, options.calls, start)
                    start += options.calls
                    if block >= 0:
                        results.append(result)
            ours, theirs = (statistics.median(results) for results in blocks)
            print(f"{name:26}{ours:14.0f}{theirs:14.0f}{ours / theirs:8.1f}")


if __name__ == "__main__":
    main()
