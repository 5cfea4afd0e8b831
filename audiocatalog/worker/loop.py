"""A loop that claims waiting tracks, renews their leases, and releases its remaining claims at the end."""

from __future__ import annotations

import inspect
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from queue import Empty, SimpleQueue
from types import FrameType, TracebackType
from typing import Final, Protocol, TypeVar

from audiocatalog.db.misuse import refuse_async, result_of
from audiocatalog.db.observer import LOGGER
from audiocatalog.errors import CatalogError, ClaimLost
from audiocatalog.methods import Methods
from audiocatalog.models.claim import Claim, ClaimOrder
from audiocatalog.models.metadata import TrackMetadata
from audiocatalog.operations.claims import begin
from audiocatalog.operations.operation import Operation
from audiocatalog.worker.leaving import leaving
from audiocatalog.worker.policy import (
    CLAIMING_FAILED,
    ENDING_FAILED,
    LEFT_BODY,
    MOMENT,
    NOT_ENDED,
    Insistence,
    Pauses,
    Terms,
    checked_metadata,
    is_misuse,
    may_pass,
    reason_for,
)
from audiocatalog.worker.upkeep import Listening, Upkeep

_Result = TypeVar("_Result")

#: A waiting loop notices a signal within this many seconds.
_MAX_WAIT: Final = 1.0
_LEFT: Final = "an exception left the body of the loop"

Handler = Callable[[Claim], TrackMetadata | None]


class Run(Protocol):
    """A function of a catalogue that carries out one call."""

    def __call__(self, name: str, begin: Callable[[], Operation[_Result]], /) -> _Result:
        """Carry out the operation that *begin* returns, as the call *name*."""


class Worker:
    """
    A loop that claims waiting tracks and yields them one by one.

    ``for claim in worker`` yields a claim, which the body must complete, fail or release. Background threads renew the
    leases, and release tracks of dead workers. A try counts when the claim is yielded, so a crash uses up no try of
    a track that is claimed but not begun. A claim that is lost before its turn is not yielded. If a claim is lost
    later, the call that ends the claim raises ``ClaimLost``. If no track waits, the loop looks again after about
    *poll* seconds, or when it is notified.

    The loop ends on ``stop``, on SIGTERM if it runs in the main thread, and with *until_empty* when no track waits.
    The loop then releases the claims that it has not yielded.

    - If an ``Exception`` leaves the body, the loop fails the claim, and the exception propagates.
    - If another exception leaves the body, such as ``KeyboardInterrupt``, the claim stays until its lease expires, and
      no try counts.
    - If the body continues or breaks without ending its claim, the loop logs a warning, and the claim stays until its
      lease expires.

    ``run`` and ``with worker as claims: for claim in claims`` always know the exception that leaves the body.
    ``for claim in worker`` finds this exception on CPython only. Python 3.11 hides exceptions that C code raises,
    such as Ctrl-C and ``sys.exit``. After such an exception, the loop fails the claim without the exception's type.
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
        self._terms = Terms.checked(
            name=name, limit=limit, lease=lease, order_by=order_by, poll=poll, until_empty=until_empty
        )
        self._catalog = catalog
        self._run = run
        self._stopping = False
        # A signal handler may write to this queue while the same thread reads from it.
        self._news: SimpleQueue[None] = SimpleQueue()
        self._upkeep = Upkeep(catalog, self._terms, listening=listening, tell=lambda: self._news.put(None))
        # The exception that leaves the ``with`` block, and the iterators that the exits of open ``with`` blocks close.
        self._leaving: BaseException | None = None
        self._open: list[Generator[Claim, None, None]] = []

    def __repr__(self) -> str:
        return f"<Worker with {len(self._upkeep.claims)} claims>"

    def stop(self) -> None:
        """End the loop after the current claim. Any thread or signal handler may call this method."""
        self._stopping = True
        self._news.put(None)

    @property
    def stopping(self) -> bool:
        """Whether the loop ends after the current claim."""
        return self._stopping

    def run(self, handler: Handler) -> int:
        """
        Call *handler* with each claim, and return how many claims were completed.

        The handler's metadata, or None, completes the claim. If the handler raises an exception, the claim fails, the
        track is retried later, and the history keeps the exception's type and text.

        Raises:
            InvalidInput: *handler* is an async function; ``audiocatalog.aio.AsyncCatalog.worker`` takes these.
            CatalogError: an error that a retry cannot resolve, or that lasted for a whole lease.
        """
        refuse_async(handler, "handler", "worker")
        done = 0
        with self as claims:
            for claim in claims:
                end: Callable[[], object]
                try:
                    metadata = checked_metadata(result_of(handler(claim), "handler", "worker"))
                    end, is_done = partial(self._catalog.complete, claim, metadata, actor=self._terms.name), True
                except Exception as error:  # Any exception of the handler fails the claim.
                    if is_misuse(error):
                        self._catalog.release(claim, actor=self._terms.name)
                        raise
                    end, is_done = partial(self._catalog.fail, claim, reason_for(error), actor=self._terms.name), False
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
        pauses = Pauses(self._terms.poll)
        while not self._stopping:
            while not self._news.empty():
                self._news.get()
            if self._upkeep.failure is not None:
                raise self._upkeep.failure
            has_looked_for_dead = self._upkeep.has_looked_for_dead
            try:
                waiting = deque(self._claim())
            except CatalogError as error:
                # If the answer to a claim was lost, its tracks wait until their leases expire.
                if not may_pass(error):
                    raise
                LOGGER.warning(CLAIMING_FAILED, error)
                self._wait(pauses.next())
                continue
            pauses.reset()
            if not waiting:
                if self._terms.until_empty and has_looked_for_dead:
                    return
                # This wait ends early when tracks of dead workers are released.
                self._wait(self._terms.until_poll())
                continue
            self._upkeep.claims.hold(claim for claim, _ in waiting)
            yield from self._given(waiting)

    def _claim(self) -> list[tuple[Claim, bool]]:
        return self._run("claim", self._terms.claim)

    def _given(self, waiting: deque[tuple[Claim, bool]]) -> Iterator[Claim]:
        """Yield each claim that is still held; claims that are not yielded stay held until they are released."""
        while waiting and not self._stopping:
            claim, has_begun = waiting.popleft()
            if not self._upkeep.claims.holds(claim):
                continue
            if not has_begun and not self._begin(claim):
                if not self._stopping:
                    self._upkeep.claims.drop(claim)
                continue
            if self._stopping:
                return
            self._upkeep.claims.give(claim)
            try:
                yield claim
            except GeneratorExit:
                self._end_what_is_left(claim)
                raise
            finally:
                self._upkeep.claims.drop(claim)
            self._look_for_end(claim)

    def _begin(self, claim: Claim) -> bool:
        """Record that the work on *claim* begins, and return whether the claim is still held."""
        return self._insist(partial(self._mark, claim, begins=True), before_giving=True)

    def _mark(self, claim: Claim, *, begins: bool) -> None:
        self._run("begin", lambda: begin(claim, begins=begins))

    def _end_what_is_left(self, claim: Claim) -> None:
        """
        Fail *claim* if an exception left the loop's body, or warn that the claim has not ended.

        This method raises nothing, because Python ignores exceptions that are raised while an iterator is closed.
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
                self._catalog.fail(claim, _LEFT if error is None else reason_for(error), actor=self._terms.name)
                LOGGER.warning(
                    LEFT_BODY,
                    "an exception" if error is None else type(error).__name__,
                    extra={"track_id": claim.track.id},
                )
            else:
                self._mark(claim, begins=False)
        except ClaimLost:
            pass  # The body has ended the claim.
        except CatalogError as failure:
            LOGGER.warning(ENDING_FAILED, failure)

    def _look_for_end(self, claim: Claim) -> None:
        """Log a warning unless *claim* has ended; ask the server whether another process has ended it."""
        if claim.has_ended:
            return
        with suppress(CatalogError):
            self._catalog.renew(claim, lease=MOMENT)
            LOGGER.warning(NOT_ENDED, extra={"track_id": claim.track.id})

    def _insist(self, call: Callable[[], object], *, before_giving: bool = False) -> bool:
        """
        Make a *call* about a claim, retry temporary errors, and return whether the claim was still held.

        If the errors last until the lease may have expired, the last error is raised. With *before_giving*, the claim
        counts as lost instead, because it was not yielded yet.
        """
        tries = Insistence(self._terms.lease, before_giving=before_giving)
        while True:
            try:
                call()
            except CatalogError as error:
                pause = tries.pause_after(error, stopping=self._stopping)
                if pause is None:
                    return False
                time.sleep(pause)
            else:
                return True

    def _wait(self, seconds: float) -> None:
        """Wait at most *seconds* for a message of the background threads or for ``stop``."""
        deadline = time.monotonic() + seconds
        while not self._stopping and (remaining := deadline - time.monotonic()) > 0:
            # A signal that arrives just before the thread blocks does not interrupt it, so no single wait is long.
            with suppress(Empty):
                self._news.get(timeout=min(remaining, _MAX_WAIT))
                return

    @contextmanager
    def _stopped_by_sigterm(self) -> Iterator[None]:
        """Let SIGTERM end the loop if the loop runs in the main thread; other threads cannot handle signals."""
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
    """Return the innermost frame outside of this module."""
    frame = inspect.currentframe()  # inspect.stack would read every source file.
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame
