"""Races: many workers move one track at the same moment, and one of them wins."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from audiocatalog import Catalog, TrackStatus
from audiocatalog.errors import CatalogError
from benchmarks.lifecycle import crew, verify
from benchmarks.lifecycle.load import ids_of, waiting_tracks
from benchmarks.lifecycle.server import LifecycleServer
from benchmarks.search.load import say

_TEMPLATE: Final = "lifecycle_races"
#: Processes, and threads in each.
_FIELDS: Final = ((1, 32), (8, 4))


class Task(NamedTuple):
    """Tell a process whom to race, and whether each says what the status was."""

    url: str
    tracks: int
    threads: int
    status_is_known: bool


class Outcome(NamedTuple):
    """Tell what became of one racer: the tracks it won, and its errors by class."""

    won: list[int]
    errors: Counter[str]


def race(task: Task) -> list[Outcome]:
    """Race every track, one after the other, in threads; the body of a process."""
    ids = ids_of(task.url, task.tracks)
    expected = TrackStatus.PENDING if task.status_is_known else None
    with Catalog(task.url, actor="benchmark", pool_size=task.threads) as catalog:

        def work(_number: int, start: Callable[[], object]) -> Outcome:
            outcome = Outcome([], Counter())
            catalog.find(ids[0])
            for place, id_ in enumerate(ids):
                start()
                try:
                    catalog.update_status(id_, TrackStatus.PROCESSING, expected=expected)
                except CatalogError as error:
                    outcome.errors[type(error).__name__] += 1
                else:
                    outcome.won.append(place)
            return outcome

        return crew.in_threads(task.threads, work)


def measure(server: LifecycleServer, *, tracks: int) -> list[dict[str, Any]]:
    """Return the winners and the errors of each race."""
    waiting_tracks(server, _TEMPLATE, tracks)
    found = []
    for processes, threads in _FIELDS:
        for status_is_known in (True, False):
            url = server.fresh(_TEMPLATE)
            task = Task(url.render_as_string(hide_password=False), tracks, threads, status_is_known)
            begun = time.monotonic()
            outcomes = crew.run(race, [task] * processes)
            winners = Counter(place for outcome in outcomes for place in outcome.won)
            errors: Counter[str] = sum((outcome.errors for outcome in outcomes), Counter())
            wrong = verify.history_is_wrong(url, changes=2 * tracks)
            wrong += verify.statuses_are_wrong(url, "audio_tracks", {"PROCESSING": tracks})
            if (ones := sum(count == 1 for count in winners.values())) != tracks:
                wrong.append(f"{tracks - ones:,} tracks without exactly one winner")
            if unexpected := sorted(set(errors) - {"TransitionConflict", *([] if status_is_known else _LATE)}):
                wrong.append(f"errors: {', '.join(unexpected)}")
            found.append(
                {
                    "processes": processes,
                    "threads": threads,
                    "tracks": tracks,
                    "status is known": status_is_known,
                    "winners": winners.total(),
                    "tracks with one winner": ones,
                    "errors": dict(errors),
                    "seconds": time.monotonic() - begun,
                    "wrong": wrong,
                }
            )
            say(f"races: {processes} x {threads}, {tracks:,} tracks: {winners.total():,} won, {dict(errors)} {wrong}")
    return found


#: Whoever does not say what the status was, and comes when the race is over, asks for a move that is not legal.
_LATE: Final = ("IllegalTransition",)
