"""Fill databases with tracks that wait for a worker, as wide as real ones."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Final

from sqlalchemy import URL

from audiocatalog import TrackMetadata, migrations
from audiocatalog.models.rows import TRACK_COLUMNS
from benchmarks.lifecycle.server import LifecycleServer
from benchmarks.search.data import scale_rows, track_id
from benchmarks.search.load import say
from benchmarks.search.server import connected

_FIELDS: Final = tuple(field.name for field in dataclasses.fields(TrackMetadata))
_COLUMNS: Final = ", ".join(("id", "status", "audio_path", *_FIELDS))
_HISTORY: Final = """
INSERT INTO audio_track_status_changes (track_id, version, to_status, actor)
SELECT id, 1, 'PENDING', 'benchmark' FROM audio_tracks ORDER BY id"""
# One millisecond after the other, all of them past: as if each had been saved by itself.
_TASKS: Final = """
INSERT INTO audio_track_tasks (track_id, status, since, ready_at)
SELECT id, 'PENDING', at, at FROM (
  SELECT id, now() - interval '1 ms' * (count(*) OVER () + 1000 - row_number() OVER (ORDER BY id)) AS at
  FROM audio_tracks
) AS registered ORDER BY id"""
#: A peer's tables: what somebody would write who had nothing else to think of than claims.
_OWN_TABLES: Final = f"""
CREATE SCHEMA benchmark;
CREATE TABLE benchmark.tracks WITH (fillfactor = 85) AS
SELECT {", ".join(f"t.{name}" for name in TRACK_COLUMNS)}, k.ready_at, 0 AS attempts, NULL::timestamptz AS expires_at,
  NULL::text AS worker
FROM audio_tracks AS t JOIN audio_track_tasks AS k ON k.track_id = t.id ORDER BY t.id;
ALTER TABLE benchmark.tracks ADD PRIMARY KEY (id);
CREATE INDEX ON benchmark.tracks (ready_at, id) WHERE status = 'PENDING';
CREATE TABLE benchmark.history (
  track_id uuid REFERENCES benchmark.tracks, version integer, from_status text, to_status text NOT NULL,
  actor text NOT NULL, attempt integer, at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (track_id, version)
);
INSERT INTO benchmark.history (track_id, version, to_status, actor)
SELECT id, 1, 'PENDING', 'benchmark' FROM benchmark.tracks ORDER BY id"""  # noqa: S608 - constants of ours.


def waiting_tracks(server: LifecycleServer, name: str, count: int, *, own_tables: bool = False) -> None:
    """Make the database *name* with *count* waiting tracks; with *own_tables*, those of a hand-written peer too."""
    begun = time.perf_counter()
    url = server.create(name)
    migrations.upgrade(url)
    with connected(url) as connection:
        connection.execute("SET statement_timeout = 0; SET maintenance_work_mem = '512MB'")
        # Made anew afterwards, the indexes of the searches take a fraction of the time.
        indexes = connection.execute(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
            " WHERE NOT indisprimary AND indrelid = 'audio_tracks'::regclass"
        ).fetchall()
        for index, _ in indexes:
            connection.execute(f"DROP INDEX {index}".encode())
        with connection.cursor().copy(f"COPY audio_tracks ({_COLUMNS}) FROM STDIN".encode()) as copy:
            for number, row in enumerate(scale_rows(count), start=1):
                values = (getattr(row.metadata, field) for field in _FIELDS)
                copy.write_row((track_id(number), "PENDING", row.audio_path, *values))
        for _, definition in indexes:
            connection.execute(definition.encode())
        connection.execute(_HISTORY)
        connection.execute(_TASKS)
        if own_tables:
            connection.execute(_OWN_TABLES.encode())
        connection.execute("VACUUM (ANALYZE)")
    say(f"{name}: {count:,} tracks wait, loaded in {time.perf_counter() - begun:.1f} s")


def registered_at_once(server: LifecycleServer, template: str, name: str) -> None:
    """Make the database *name* of the tracks of *template*, as if one transaction had registered all of them."""
    url = server.create_from(template, name)
    with connected(url) as connection:
        connection.execute("UPDATE audio_track_tasks SET ready_at = now() - interval '1 minute'")
        connection.execute("VACUUM FULL audio_track_tasks")
        connection.execute("VACUUM (ANALYZE)")


def ids_of(url: str | URL, most: int) -> list[Any]:
    """Return the ids of the first *most* tracks, in order."""
    with connected(url) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM audio_tracks ORDER BY id LIMIT %s", [most])]
