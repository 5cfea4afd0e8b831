"""Claims in every state, and what must hold of the lifecycle's tables at any time."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import psycopg

from audiocatalog import (
    Catalog,
    Claim,
    TrackMetadata,
    TrackStatus,
)

Owner = psycopg.Connection[dict[str, Any]]


#: Where the task of a track and the track itself tell different things.
DISAGREEMENTS = """
SELECT t.id, t.status, t.version, k.* FROM audio_tracks AS t FULL JOIN audio_track_tasks AS k ON k.track_id = t.id
WHERE (t.status = 'COMPLETED') <> (k.track_id IS NULL)
  OR k.status <> t.status
  OR (k.ready_at IS NOT NULL) <> (t.status = 'PENDING')
  OR (k.token IS NOT NULL AND (t.status <> 'PROCESSING' OR (k.token >> 32) > t.version))
  OR num_nulls(k.token, k.worker, k.expires_at) NOT IN (0, 3)
"""


def waiting(catalog: Catalog, count: int, **arguments: Any) -> list[UUID]:
    """Save *count* waiting tracks, one after the other; their ids are in another order."""
    ids = [uuid4() for _ in range(count)]
    for identifier in ids:
        with catalog.unit_of_work() as work:
            work.save(TrackMetadata(), id=identifier, audio_path="a", status=TrackStatus.PENDING, **arguments)
    return ids


def claimed(catalog: Catalog, **arguments: Any) -> Claim:
    """Save a track and claim it."""
    (identifier,) = waiting(catalog, 1)
    (claim,) = catalog.claim(**arguments)
    assert claim.track.id == identifier
    return claim


def expire(owner: Owner, *claims: Claim) -> None:
    """Let the leases of *claims* have run out a second ago."""
    owner.execute(
        "UPDATE audio_track_tasks SET expires_at = clock_timestamp() - interval '1 s' WHERE track_id = ANY (%s)",
        [[claim.track.id for claim in claims]],
    )


def end_pauses(owner: Owner) -> None:
    """Make every waiting track due now; lock the track before its task is written, as the functions do."""
    owner.execute(
        "WITH held AS MATERIALIZED ("
        "  SELECT id FROM audio_tracks WHERE status = 'PENDING' ORDER BY id FOR NO KEY UPDATE"
        ") UPDATE audio_track_tasks AS k SET ready_at = clock_timestamp() FROM held"
        " WHERE k.track_id = held.id AND k.ready_at IS NOT NULL"
    )
