"""Calls made by several threads at the same moment."""

from __future__ import annotations

import threading
from collections.abc import Callable

from audiocatalog import errors


def in_threads(count: int, take_part: Callable[[int], object]) -> None:
    """Run *take_part* with a number in each of *count* threads, and raise what one of them raised."""
    raised: list[BaseException] = []

    def run(number: int) -> None:
        try:
            take_part(number)
        except BaseException as error:  # noqa: BLE001  # It is raised again, in the thread of the test.
            raised.append(error)

    threads = [threading.Thread(target=run, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def race(threads: int, run: object) -> list[object]:
    """Release *threads* threads at once and return what each of them got, results and errors."""
    barrier, outcomes = threading.Barrier(threads), []

    def take_part() -> None:
        barrier.wait()
        try:
            outcomes.append(run())  # type: ignore[operator]
        except errors.CatalogError as error:
            outcomes.append(error)

    workers = [threading.Thread(target=take_part) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return outcomes
