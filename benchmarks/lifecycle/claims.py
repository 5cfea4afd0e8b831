"""Claims a second, and claims with their completion, beside bare psycopg and libraries that queue jobs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from sqlalchemy import URL

from benchmarks import absent
from benchmarks.lifecycle import claimers, crew, peers, verify
from benchmarks.lifecycle.claimers import BATCH, LOOP, OURS, OWN, SAME, SINGLY, Task
from benchmarks.lifecycle.crew import Shift
from benchmarks.lifecycle.load import registered_at_once, waiting_tracks
from benchmarks.lifecycle.server import LifecycleServer
from benchmarks.search.load import say

PROCESSES: Final = 2
WORKERS: Final = 4
#: procrastinate hands out one job at a time, so that fewer do.
_FEWER: Final = 10
_ONE_BY_ONE: Final = "lifecycle_waiting"
_AT_ONCE: Final = "lifecycle_at_once"
_MANY: Final = "lifecycle_many"
_TEMPLATES: Final = {peers.PGQUEUER: "lifecycle_pgqueuer", peers.PROCRASTINATE: "lifecycle_procrastinate"}


class Round(NamedTuple):
    """Name what is timed: so many *jobs* wait in the database *template*, and *first* of them are taken."""

    name: str
    contestant: str
    template: str
    jobs: int
    first: int


def measure(server: LifecycleServer, *, tracks: int, many: int, first: int, runs: int) -> dict[str, Any]:
    """Return the claims a second of each contestant, alone and with completion, and of ours where *many* wait."""
    waiting_tracks(server, _ONE_BY_ONE, tracks, own_tables=True)
    registered_at_once(server, _ONE_BY_ONE, _AT_ONCE)
    waiting_tracks(server, _MANY, many)
    rounds = [Round(name, name, _ONE_BY_ONE, tracks, tracks) for name in (OURS, SAME, OWN)]
    rounds.append(Round(f"{OURS}, all registered in one transaction", OURS, _AT_ONCE, tracks, tracks))
    for peer in peers.installed():
        jobs = tracks // _FEWER if peer == peers.PROCRASTINATE else tracks
        with absent.attempted(peer):
            peers.fill(server, peer, _TEMPLATES[peer], jobs)
            rounds.append(Round(peer, peer, _TEMPLATES[peer], jobs, jobs))
    one_by_one = [Round(name, name, _ONE_BY_ONE, tracks, tracks) for name in (SINGLY, LOOP)]
    scales = [
        Round(f"{contestant}, the first {first:,} of {jobs:,}", contestant, template, jobs, first)
        for jobs, template in ((tracks, _ONE_BY_ONE), (many, _MANY))
        for contestant in (OURS, SAME)
    ]
    return {
        "tracks": tracks,
        "many": many,
        "first": first,
        "batch": BATCH,
        "processes": PROCESSES,
        "workers": WORKERS,
        "runs": runs,
        "claims": _alternating(server, [*rounds, *scales], runs, complete=False),
        "claims and completions": _alternating(server, [*rounds, *one_by_one, *scales], runs, complete=True),
    }


def _alternating(server: LifecycleServer, rounds: list[Round], runs: int, *, complete: bool) -> dict[str, Any]:
    found: dict[str, Any] = {one.name: {"jobs": one.jobs, "rates": [], "curves": [], "wrong": []} for one in rounds}
    what = "claims and completions" if complete else "claims"
    order = list(rounds)
    for run in range(runs):
        for one in order:
            if not absent.is_present(one.contestant):
                continue
            url = server.fresh(one.template)
            each = max(1, one.first // (PROCESSES * WORKERS)) if one.first < one.jobs else one.jobs
            task = Task(one.contestant, url.render_as_string(hide_password=False), WORKERS, complete, each)
            body = claimers.claim_all if one.contestant in claimers.CREWS else peers.claim_all
            with absent.attempted(one.contestant):
                shifts = crew.run(body, [task] * PROCESSES)
                taken = sum(len(shift.ids) for shift in shifts)
                figures = found[one.name]
                figures["rates"].append(crew.rate(shifts, taken))
                figures["curves"].append([step * taken / _steps(shifts) for step in crew.curve(shifts)])
                figures["wrong"] += _is_wrong(url, one, shifts, complete=complete)
                rate, wrong = figures["rates"][-1], figures["wrong"] or ""
                say(f"{what} {run + 1}/{runs}: {one.name}: {rate:,.0f} a second {wrong}")
        order.append(order.pop(0))  # Nobody is always the first, or right after the same other one.
    return {one.name: found[one.name] for one in rounds if absent.is_present(one.contestant)}


def _steps(shifts: Iterable[Shift]) -> int:
    return sum(len(shift.ends) for shift in shifts)


def _is_wrong(url: URL, one: Round, shifts: list[Shift], *, complete: bool) -> list[str]:
    """Return what is wrong after a run: each claimed once, the statuses right, the history complete."""
    taken = one.jobs if one.first == one.jobs else sum(len(shift.ids) for shift in shifts)
    wrong = verify.given_wrongly(shifts, taken)
    if one.contestant in _TEMPLATES:
        return wrong + peers.is_wrong(url, one.contestant, one.jobs, completed=complete)
    statuses = {"PENDING": one.jobs - taken, "COMPLETED" if complete else "PROCESSING": taken}
    if one.contestant == OWN:
        changes = one.jobs + taken * (2 if complete else 1)
        return (
            wrong
            + verify.statuses_are_wrong(url, "benchmark.tracks", statuses)
            + verify.rows_are_wrong(url, "benchmark.history", changes)
        )
    return (
        wrong
        + verify.statuses_are_wrong(url, "audio_tracks", statuses)
        + verify.history_is_wrong(url, changes=one.jobs + taken * (2 if complete else 1))
    )
