"""Workers killed at random moments, and what another process finds when their leases have run out."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from datetime import timedelta
from multiprocessing.synchronize import Event
from typing import Any, Final

from sqlalchemy import URL

from audiocatalog import Catalog, TrackMetadata, TrackStatus
from audiocatalog.models.claim import Claim
from audiocatalog.models.metadata import METADATA_FIELDS
from benchmarks.lifecycle import crew, verify
from benchmarks.lifecycle.load import ids_of, waiting_tracks
from benchmarks.lifecycle.server import LifecycleServer
from benchmarks.search.load import say
from benchmarks.search.server import connected

_TEMPLATE: Final = "lifecycle_kills"
TRACKS: Final = 200
LEASE: Final = timedelta(milliseconds=300)
_BATCH: Final = 5
#: A statement that the server had begun before its client died goes on to its end.
_LAST_STATEMENT_SECONDS: Final = 0.1
_PATIENCE_SECONDS: Final = 10.0
_SEED: Final = 11


def work_until_killed(url: str, at_work: Event) -> None:
    """Claim and end tracks in every way there is, until none waits."""
    with _catalog(url, "worker") as catalog:
        catalog.health()
        at_work.set()
        turn = 0
        while claims := catalog.claim(_BATCH, lease=LEASE):
            turn += 1
            if turn % 3 == 0:
                catalog.fail(claims[0], "benchmark")
                for claim in claims[1:]:
                    catalog.complete(claim, _metadata(claim))
            else:
                catalog.complete_many(claims)


def measure(server: LifecycleServer, *, moments: int) -> dict[str, Any]:
    """Return what is stuck, done twice or missing after *moments* kills."""
    waiting_tracks(server, _TEMPLATE, TRACKS)
    url = server.fresh(_TEMPLATE)
    text, ids = url.render_as_string(hide_password=False), ids_of(url, TRACKS)
    context = crew.context()
    dice = random.Random(_SEED)  # noqa: S311 - the same moments each time.
    found: dict[str, Any] = {"moments": moments, "tracks": TRACKS, "lease_ms": LEASE / timedelta(milliseconds=1)}
    holding, stuck, unfinished, early, recoveries = 0, 0, 0, 0, []
    with _catalog(text, "recovery") as catalog:
        _whole_shift(context, text)
        catalog.update_statuses(ids, TrackStatus.PENDING, expected=TrackStatus.COMPLETED)
        span, rounds = _whole_shift(context, text), 2  # The second one, with everything warm.
        while rounds - 2 - early < moments:
            catalog.update_statuses(ids, TrackStatus.PENDING, expected=TrackStatus.COMPLETED)
            rounds += 1
            at_work = context.Event()
            worker = context.Process(target=work_until_killed, args=(text, at_work))
            worker.start()
            if not at_work.wait(_PATIENCE_SECONDS):
                raise RuntimeError("the worker does not come")
            time.sleep(dice.uniform(0, span))
            worker.kill()
            killed = time.monotonic()
            worker.join()
            time.sleep(_LAST_STATEMENT_SECONDS)
            before = _counts(url)
            early += before.get("COMPLETED", 0) == TRACKS  # It came too late, and is no moment to be counted.
            holding += before.get("PROCESSING", 0) > 0
            time.sleep(max(0.0, killed + LEASE.total_seconds() + _LAST_STATEMENT_SECONDS - time.monotonic()))
            catalog.release_expired()
            stuck += _counts(url).get("PROCESSING", 0)
            unfinished += _finish(catalog, url)
            recoveries.append(time.monotonic() - killed)
            if rounds % 10 == 0:
                say(f"kills: {rounds - 2 - early}/{moments}, {holding} while holding claims, {stuck} stuck")
    found |= {"holding": holding, "after the end": early, "stuck": stuck, "unfinished": unfinished}
    found |= {"span_ms": 1000 * span, "recovery_s": statistics.median(recoveries)}
    found["wrong"] = _is_wrong(url, rounds=rounds)
    say(f"kills: {found}")
    return found


def _catalog(url: str, actor: str) -> Catalog:
    return Catalog(url, actor=actor, pool_size=1, max_attempts=1000, retry_delay=0.001, longest_retry_delay=0.001)


def _whole_shift(context: Any, url: str) -> float:  # noqa: ANN401 - a context of multiprocessing.
    """Return the seconds that a worker needs for all tracks."""
    at_work = context.Event()
    worker = context.Process(target=work_until_killed, args=(url, at_work))
    worker.start()
    if not at_work.wait(_PATIENCE_SECONDS):
        raise RuntimeError("the worker does not come")
    begun = time.monotonic()
    worker.join()
    seconds = time.monotonic() - begun
    with _catalog(url, "recovery") as catalog:
        while claims := catalog.claim(TRACKS):
            catalog.complete_many(claims)
    return seconds


def _finish(catalog: Catalog, url: URL) -> int:
    """Do what is left, and return how many tracks cannot be done."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if claims := catalog.claim(TRACKS):
            catalog.complete_many(claims)
        elif (left := TRACKS - _counts(url).get("COMPLETED", 0)) == 0:
            return 0
    return left


def _counts(url: URL) -> dict[str, int]:
    with connected(url) as connection:
        return dict(connection.execute("SELECT status::text, count(*) FROM audio_tracks GROUP BY 1").fetchall())


def _metadata(claim: Claim) -> TrackMetadata:
    return TrackMetadata(**{field: getattr(claim.track, field) for field in METADATA_FIELDS})


def _is_wrong(url: URL, rounds: int) -> list[str]:
    """Return what is wrong with the histories: every round completes every track once."""
    with connected(url) as connection:
        rows: Sequence[Any] = connection.execute(
            "SELECT count(*), sum(done) FROM (SELECT count(*) FILTER (WHERE to_status = 'COMPLETED') AS done"
            " FROM audio_track_status_changes GROUP BY track_id) AS t WHERE done <> %s",
            [rounds],
        ).fetchall()
        ((total,),) = connection.execute("SELECT count(*) FROM audio_track_status_changes").fetchall()
    wrong = verify.history_is_wrong(url, changes=total)
    if rows[0][0]:
        wrong.append(f"{rows[0][0]:,} tracks not completed once in each of {rounds} rounds")
    return wrong
