"""Processes with threads in each, all of which begin at one moment."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.context import ForkServerContext
from multiprocessing.synchronize import Barrier
from typing import Any, Final, NamedTuple, TypeVar

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")
#: Whoever is not there by then never comes.
_PATIENCE_SECONDS: Final = 120.0
_inherited: list[Barrier] = []
#: The modules whose functions are run in processes.
_BODIES: Final = [f"benchmarks.lifecycle.{name}" for name in ("claimers", "kills", "moves", "peers", "races")]


class Shift(NamedTuple):
    """Tell what one worker did: when it began, when each of its steps ended, and what it was given."""

    begun: float
    ends: list[float]
    ids: list[Any]


def run(body: Callable[[_Task], list[_Result]], tasks: Sequence[_Task]) -> list[_Result]:
    """Return what *body* returns for each of *tasks*, each in a process of its own."""
    barrier = context().Barrier(len(tasks))
    with ProcessPoolExecutor(len(tasks), context(), initializer=_inherit, initargs=(barrier,)) as pool:
        futures = [pool.submit(_guarded, body, task) for task in tasks]
        return [result for results in _results(futures) for result in results]


def context() -> ForkServerContext:
    """Return what starts processes: forked from one that has imported everything and holds no connection."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(_BODIES)
    return found


def start_together() -> None:
    """Wait until every process is here."""
    _inherited[0].wait(_PATIENCE_SECONDS)


def in_threads(count: int, work: Callable[[int, Callable[[], object]], _Result]) -> list[_Result]:
    """
    Return what *work* returns in each of *count* threads.

    It is called with the thread's number and a function that returns when all threads of all processes have called it.
    """
    barrier = threading.Barrier(count, action=start_together, timeout=_PATIENCE_SECONDS)

    def guarded(number: int) -> _Result:
        try:
            return work(number, barrier.wait)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        return _results([pool.submit(guarded, number) for number in range(count)])


def _inherit(barrier: Barrier) -> None:
    _inherited.append(barrier)


def _guarded(body: Callable[[Any], Any], task: Any) -> Any:  # noqa: ANN401 - of any body.
    try:
        return body(task)
    except BaseException:
        _inherited[0].abort()
        raise


def _results(futures: Sequence[Future[_Result]]) -> list[_Result]:
    """Return the results, or raise the error that was the cause of the others."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    return [future.result() for future in futures]


def rate(shifts: Sequence[Shift], done: int) -> float:
    """Return how many a second, from the first worker's beginning to the last one's end."""
    return done / (max(shift.ends[-1] for shift in shifts if shift.ends) - min(shift.begun for shift in shifts))


def curve(shifts: Sequence[Shift], parts: int = 20) -> list[float]:
    """Return the steps a second in each of *parts* of the whole work, to show whether it slows."""
    ends = sorted(end for shift in shifts for end in shift.ends)
    begun = min(shift.begun for shift in shifts)
    places = [round(len(ends) * part / parts) for part in range(1, parts + 1)]
    rates, before, last = [], 0, begun
    for place in places:
        if place > before and ends[place - 1] > last:
            rates.append((place - before) / (ends[place - 1] - last))
            before, last = place, ends[place - 1]
    return rates
