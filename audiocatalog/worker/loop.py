"""A loop that works on waiting tracks: it claims them, keeps their leases alive, and ends without losing any."""

from __future__ import annotations

import inspect
import random
import signal
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from queue import Empty, SimpleQueue
from types import FrameType, TracebackType
from typing import Final, Protocol, TypeVar

from audiocatalog.db.observer import LOGGER
from audiocatalog.errors import CatalogError, ClaimLost, InvalidInput, Problem
from audiocatalog.methods import Methods
from audiocatalog.models.arguments import parse_choice
from audiocatalog.models.claim import CLAIM_ORDERS, Claim, ClaimOrder
from audiocatalog.models.limits import CHANGE_LIMITS
from audiocatalog.models.metadata import TrackMetadata
from audiocatalog.operations.claims import begin, checked_count, checked_lease, claim_for_loop
from audiocatalog.operations.operation import Operation
from audiocatalog.worker.leaving import leaving
from audiocatalog.worker.upkeep import FIRST_PAUSE, Listening, Upkeep, may_pass

_Result = TypeVar("_Result")

_LONGEST_POLL: Final = 3600.0
_TOLD: Final = CHANGE_LIMITS["reason"].characters
#: To ask whether a claim still holds, it is renewed for a time too short to change anything.
_MOMENT: Final = timedelta(milliseconds=10)
_LEFT: Final = "the body of the loop was left by an exception"

Handler = Callable[[Claim], TrackMetadata | None]


class Run(Protocol):
    """How a catalogue makes a call of its own."""

    def __call__(self, name: str, begin: Callable[[], Operation[_Result]], /) -> _Result:
        """Carry out the operation that *begin* returns, as the call *name*."""


class Worker:
    """
    A loop that claims waiting tracks and gives them one by one.

    ``for claim in worker`` gives a claim; complete, fail or release it in the body. A try of a track is counted when
    the track is given, so that a process that crashes costs no try of the tracks that it has claimed and not begun.
    Threads in the background renew leases until the body asks for the next claim, and take tracks of dead workers back.
    A claim that is lost meanwhile raises ClaimLost when it is ended; one that is lost before its turn is not given.
    When nothing waits, the loop looks again every *poll* seconds, more or less, or as soon as it is notified if it is
    *listening*.

    The loop ends when ``stop`` is called, by SIGTERM too if it runs in the main thread, or when nothing waits and it is
    told *until_empty*. What it has claimed and not given is released then.

    An exception that leaves the body fails the claim, to be tried again later, and goes on. One that is no
    ``Exception``, such as KeyboardInterrupt, leaves the claim to its lease and counts no try. ``run`` and ``with worker
    as claims: for claim in claims`` always know the exception. ``for claim in worker`` finds it on CPython, but in
    Python 3.11 it cannot find one that C code has raised, which includes Ctrl-C and ``sys.exit``: the claim is failed
    then, without its type. If the body asks for the next claim, or leaves by ``break``, before it has ended its claim,
    a warning is logged, and the claim stays in work until its lease ends.
    """

    def __init__(
        self,
        catalog: Methods,
        run: Run,
        *,
        name: str,
        limit: int,
        lease: timedelta,
        order_by: ClaimOrder,
        poll: float,
        until_empty: bool,
        listening: Listening | None,
    ) -> None:
        if not isinstance(poll, int | float) or isinstance(poll, bool) or not 0.01 <= poll <= _LONGEST_POLL:  # noqa: PLR2004
            rule = "a number of seconds from 0.01 to 3600"
            raise InvalidInput(Problem("poll", rule, (0.01, 3600)), operation="worker")
        self._catalog = catalog
        self._run = run
        self._name = name
        self._limit = checked_count(limit, "limit", "worker")
        self._lease = checked_lease(lease, "worker")
        self._order_by: ClaimOrder = parse_choice(CLAIM_ORDERS, order_by, "order_by", "worker")
        self._poll = poll
        self._until_empty = until_empty
        self._stopping = False
        # A signal handler may put into this queue at any moment, also while the same thread takes from it.
        self._news: SimpleQueue[None] = SimpleQueue()
        self._upkeep = Upkeep(
            catalog, name=name, lease=self._lease, listening=listening, tell=lambda: self._news.put(None)
        )
        # The exception that leaves the ``with`` block, and the loops that such blocks end.
        self._leaving: BaseException | None = None
        self._open: list[Generator[Claim, None, None]] = []

    def __repr__(self) -> str:
        """Return how many claims it holds."""
        return f"<Worker with {len(self._upkeep)} claims>"

    def stop(self) -> None:
        """End the loop when its body asks for the next claim; may be called from anywhere, also a signal handler."""
        self._stopping = True
        self._news.put(None)

    @property
    def stopping(self) -> bool:
        """Whether the loop ends after the claim that it gave last."""
        return self._stopping

    def run(self, handler: Handler) -> int:
        """
        Call *handler* with each claim, and return how many it has ended well.

        The metadata that the handler returns, or None, completes the claim; an exception fails it, to be tried again
        later. The history keeps the type of the exception and its text.
        """
        done = 0
        with self as claims:
            for claim in claims:
                end: Callable[[], object]
                try:
                    end = partial(self._catalog.complete, claim, _checked(handler(claim)), actor=self._name)
                    is_done = True
                except Exception as error:  # noqa: BLE001  # Whatever goes wrong with a track is the track's failure.
                    end = partial(self._catalog.fail, claim, _told(error), actor=self._name)
                    is_done = False
                done += self._insist(end) and is_done
        return done

    def __enter__(self) -> Iterator[Claim]:
        self._open.append(self.__iter__())
        return self._open[-1]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leaving = error
        try:
            self._open.pop().close()
        finally:
            self._leaving = None

    def __iter__(self) -> Generator[Claim, None, None]:
        with self._stopped_by_sigterm(), self._upkeep.running():
            yield from self._claims()

    def _claims(self) -> Iterator[Claim]:
        pause = FIRST_PAUSE
        while not self._stopping:
            while not self._news.empty():
                self._news.get()
            if self._upkeep.failure is not None:
                raise self._upkeep.failure
            has_looked_for_dead = self._upkeep.has_looked_for_dead
            try:
                waiting = deque(self._claim())
            except CatalogError as error:
                # What was claimed by a call whose answer was lost waits for the end of its lease.
                if not may_pass(error):
                    raise
                LOGGER.warning("claiming failed: %s", error)
                self._wait(pause)
                pause = min(pause * 2, max(self._poll, FIRST_PAUSE))
                continue
            pause = FIRST_PAUSE
            if not waiting:
                if self._until_empty and has_looked_for_dead:
                    return
                # News come of what is taken back, too.
                self._wait(self._poll * random.uniform(0.5, 1.5))  # noqa: S311  # So that workers spread out.
                continue
            self._upkeep.hold(claim for claim, _ in waiting)
            yield from self._given(waiting)

    def _claim(self) -> list[tuple[Claim, bool]]:
        """Claim tracks; each comes with whether the work on it counts as begun, as it does with the first one."""
        return self._run(
            "claim", lambda: claim_for_loop(self._limit, lease=self._lease, worker=self._name, order_by=self._order_by)
        )

    def _given(self, waiting: deque[tuple[Claim, bool]]) -> Iterator[Claim]:
        """Give each claim that still holds; what is not given stays held, to be released."""
        while waiting and not self._stopping:
            claim, has_begun = waiting.popleft()
            if not self._upkeep.holds(claim):
                continue
            if not has_begun and not self._begin(claim):
                if not self._stopping:
                    self._upkeep.drop(claim)
                continue
            if self._stopping:
                return
            self._upkeep.given = claim
            try:
                yield claim
            except GeneratorExit:
                self._end_what_is_left(claim)
                raise
            finally:
                self._upkeep.drop(claim)
            self._look_for_end(claim)

    def _begin(self, claim: Claim) -> bool:
        """Note that the work on *claim* begins; tell whether it still holds."""
        return self._insist(partial(self._mark, claim, begins=True), before_giving=True)

    def _mark(self, claim: Claim, *, begins: bool) -> None:
        self._run("begin", lambda: begin(claim, begins=begins))

    def _end_what_is_left(self, claim: Claim) -> None:
        """
        Fail *claim* if an exception left its body, or warn that it has not ended.

        Nothing is raised: Python ignores exceptions that come of closing an iterator.
        """
        error = self._leaving
        is_exception = error is not None
        frame = _frame_of_the_loop()
        if error is None and frame is not None:
            is_exception, error = leaving(frame)
        try:
            if not is_exception:
                self._look_for_end(claim)
            elif error is None or isinstance(error, Exception):
                self._catalog.fail(claim, _LEFT if error is None else _told(error), actor=self._name)
                LOGGER.warning(
                    "the body of the loop was left by %s; its claim was ended as failed",
                    "an exception" if error is None else type(error).__name__,
                    extra={"track_id": claim.track.id},
                )
            else:
                self._mark(claim, begins=False)
        except ClaimLost:
            pass  # The body had ended it before.
        except CatalogError as failure:
            LOGGER.warning("a claim could not be ended, and waits for the end of its lease: %s", failure)

    def _look_for_end(self, claim: Claim) -> None:
        """Log a warning unless *claim* has ended, in this process or, as the server knows, in another."""
        if claim.has_ended:
            return
        with suppress(CatalogError):
            self._catalog.renew(claim, lease=_MOMENT)
            LOGGER.warning(
                "the body of the loop has not ended its claim: complete, fail or release each one; its track stays in "
                "work until the lease ends",
                extra={"track_id": claim.track.id},
            )

    def _insist(self, call: Callable[[], object], *, before_giving: bool = False) -> bool:
        """
        Make a *call* about a claim, again while an error says that this may help; tell whether the claim held.

        A claim that has not been given yet is not worth an error: when its lease may be over, it counts as lost.
        """
        pause = FIRST_PAUSE
        deadline = time.monotonic() + self._lease.total_seconds()
        while True:
            try:
                call()
            except ClaimLost as lost:
                LOGGER.warning("%s", lost, extra={"track_id": lost.track_id})
                return False
            except CatalogError as error:
                # Made twice, a call has been made once: the second one gets the first answer.
                if not may_pass(error):
                    raise
                if before_giving and self._stopping:
                    return False
                if time.monotonic() + pause > deadline:
                    if before_giving:
                        return False
                    raise
                time.sleep(pause)
                pause = min(pause * 2, 1.0)
            else:
                return True

    def _wait(self, seconds: float) -> None:
        """Wait for news, or to be stopped, for at most *seconds*."""
        if not self._stopping:
            with suppress(Empty):
                self._news.get(timeout=seconds)

    @contextmanager
    def _stopped_by_sigterm(self) -> Iterator[None]:
        """Let SIGTERM end the loop; signals belong to the main thread, elsewhere nothing is done."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(_number: int, _frame: FrameType | None) -> None:
            self.stop()

        before = signal.signal(signal.SIGTERM, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def _frame_of_the_loop() -> FrameType | None:
    """Return the innermost frame that is not of this module."""
    frame = inspect.currentframe()  # Not inspect.stack, which reads every source file.
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame


def _checked(metadata: object) -> TrackMetadata | None:
    if metadata is None or isinstance(metadata, TrackMetadata):
        return metadata
    raise TypeError(f"the handler returned a {type(metadata).__name__}, not a TrackMetadata")


def _told(error: BaseException) -> str:
    """Return what the history can keep of *error*, whatever its text holds."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # An exception that cannot say what it is must not end the loop.
        text = "(it has no text)"
    written = f"{type(error).__name__}: {text}".replace("\0", "").encode("utf-8", "replace").decode("utf-8")
    # Composed text may be longer than what it was made of, and the history counts its characters.
    return unicodedata.normalize("NFC", written[:_TOLD])[:_TOLD]
