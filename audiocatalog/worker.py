"""A loop that works on waiting tracks: it claims them, keeps their leases alive, and ends without losing any."""

from __future__ import annotations

import logging
import random
import signal
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import partial
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, Final
from uuid import UUID

import psycopg

from audiocatalog.choices import chosen
from audiocatalog.claims import CHANNEL, Claim, ClaimOrder, checked_count, checked_lease
from audiocatalog.errors import (
    CatalogError,
    ClaimLost,
    CommitOutcomeUnknown,
    InvalidInput,
    PoolTimeout,
    Problem,
    QueryTimeout,
)
from audiocatalog.metadata import CHANGE_LIMITS, TrackMetadata
from audiocatalog.verbs import Verbs

_logger: Final = logging.getLogger("audiocatalog")

# A lease is renewed when a third of it has passed, so that one renewal may fail.
_RENEWALS_PER_LEASE: Final = 3
# A thread that listens looks up so often whether it is to end.
_LISTENING_SECONDS: Final = 0.5
_LONGEST_POLL: Final = 3600.0
# After an error of the connection, the loop waits so long before it tries again, doubled up to the interval of polling.
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_TOLD: Final = CHANGE_LIMITS["reason"].characters

Handler = Callable[[Claim], TrackMetadata | None]
Listening = Callable[[], AbstractContextManager[psycopg.Connection[Any]]]


class Worker:
    """
    Claim waiting tracks and give them one by one, as long as the loop goes on.

    ``for claim in worker`` gives a claim; complete or fail it in the body. Leases are renewed by a thread in the
    background until the body asks for the next one; a claim that is lost meanwhile raises ClaimLost when it is ended,
    and one that is lost before its turn is not given at all. When nothing waits, the loop looks again every *poll*
    seconds, more or less, or as soon as it is notified if it is *listening*. Tracks of dead workers are taken back now
    and then.

    The loop ends when ``stop`` is called, by SIGTERM too if it runs in the main thread, or when nothing waits and it is
    told *until_empty*. What it has claimed and not given is released then. A body that is left by an exception leaves
    its claim to its lease: after that, the track is tried again.
    """

    def __init__(
        self,
        catalog: Verbs,
        *,
        name: str,
        limit: int,
        lease: timedelta,
        order: ClaimOrder | str,
        poll: float,
        until_empty: bool,
        listening: Listening | None,
    ) -> None:
        if not isinstance(poll, int | float) or isinstance(poll, bool) or not 0.01 <= poll <= _LONGEST_POLL:  # noqa: PLR2004
            raise InvalidInput(Problem("poll", "a number of seconds from 0.01 to 3600", (0.01, 3600)), operation="work")
        self._catalog = catalog
        self._name = name
        self._limit = checked_count(limit, "limit", "work")
        self._lease = checked_lease(lease, "work")
        self._order = chosen(ClaimOrder, order, "order", "work")
        self._poll = poll
        self._until_empty = until_empty
        self._listening = listening
        self._stopping = False
        # A signal handler may put into this queue at any moment, also while the same thread takes from it.
        self._news: SimpleQueue[None] = SimpleQueue()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._held: dict[UUID, Claim] = {}
        self._given_claim: Claim | None = None

    def __repr__(self) -> str:
        """Return how many claims it holds."""
        return f"<Worker with {len(self._held)} claims>"

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

        Its metadata, or None, completes the claim; an exception fails it, to be tried again later. Only the type of the
        exception and its text are kept, in the history.
        """
        done = 0
        for claim in self:
            end: Callable[[], object]
            try:
                end = partial(self._catalog.complete, claim, _checked(handler(claim)), actor=self._name)
                is_done = True
            except Exception as error:  # noqa: BLE001  # Whatever goes wrong with a track is the track's failure.
                end = partial(self._catalog.fail, claim, _told(error), actor=self._name)
                is_done = False
            done += self._end(end) and is_done
        return done

    def __iter__(self) -> Iterator[Claim]:
        self._ended.clear()
        with ExitStack() as stack:
            stack.enter_context(self._stopped_by_sigterm())
            stack.enter_context(self._in_background(self._keep_leases))
            if self._listening is not None:
                stack.enter_context(self._in_background(self._listen))
            stack.callback(self._give_back)
            yield from self._claims()

    def _claims(self) -> Iterator[Claim]:
        pause = _FIRST_PAUSE
        recovery = 0.0
        while not self._stopping:
            while not self._news.empty():
                self._news.get()
            try:
                if time.monotonic() >= recovery:
                    self._catalog.release_expired(actor=self._name)
                    recovery = time.monotonic() + self._lease.total_seconds() * random.uniform(0.5, 1.0)  # noqa: S311
                waiting = deque(
                    self._catalog.claim(self._limit, lease=self._lease, worker=self._name, order=self._order)
                )
            except CatalogError as error:
                # What was claimed by a call whose answer was lost waits for the end of its lease.
                if not _may_pass(error):
                    raise
                _logger.warning("claiming failed: %s", error)
                self._wait(pause)
                pause = min(pause * 2, max(self._poll, _FIRST_PAUSE))
                continue
            pause = _FIRST_PAUSE
            if not waiting:
                if self._until_empty:
                    return
                self._wait(self._poll * random.uniform(0.5, 1.5))  # noqa: S311  # So that workers spread out.
                continue
            with self._lock:
                self._held = {claim.track.id: claim for claim in waiting}
            yield from self._given(waiting)

    def _given(self, waiting: deque[Claim]) -> Iterator[Claim]:
        """Give each claim that still holds; what is not given stays held, to be released."""
        while waiting and not self._stopping:
            claim = waiting.popleft()
            with self._lock:
                still_held = claim.track.id in self._held
            if still_held:
                self._given_claim = claim
                try:
                    yield claim
                finally:
                    with self._lock:
                        self._held.pop(claim.track.id, None)

    def _end(self, end: Callable[[], object]) -> bool:
        """End a claim, again while an error says that this may help; tell whether it was ended."""
        pause = _FIRST_PAUSE
        deadline = time.monotonic() + self._lease.total_seconds()
        while True:
            try:
                end()
            except ClaimLost as lost:
                _logger.warning("%s", lost, extra={"track_id": lost.track_id})
                return False
            except CatalogError as error:
                # Ended twice, a claim is ended once: the second call gets the first answer.
                if not _may_pass(error) or time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)
                pause = min(pause * 2, 1.0)
            else:
                return True

    def _keep_leases(self) -> None:
        interval = self._lease.total_seconds() / _RENEWALS_PER_LEASE
        while not self._ended.wait(interval):
            with self._lock:
                held = list(self._held.values())
            try:
                outcomes = self._catalog.renew_many(held, lease=self._lease)
            except CatalogError as error:
                # The next renewal, or the end of the claim, tells whether it still holds.
                _logger.warning("leases could not be renewed: %s", error)
                continue
            for claim, outcome in zip(held, outcomes, strict=True):
                if isinstance(outcome, ClaimLost):
                    # The body may have ended the claim that it has, and then be busy with something else.
                    is_given = claim is self._given_claim
                    _logger.log(
                        logging.DEBUG if is_given else logging.WARNING,
                        "%s",
                        outcome,
                        extra={"track_id": outcome.track_id},
                    )
                    with self._lock:
                        # Meanwhile, the loop may have claimed the same track anew.
                        if self._held.get(claim.track.id) is claim:
                            del self._held[claim.track.id]

    def _listen(self) -> None:
        assert self._listening is not None  # noqa: S101
        pause = _FIRST_PAUSE
        while not self._ended.is_set():
            try:
                with self._listening() as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    # What came before somebody listened was not heard.
                    self._news.put(None)
                    pause = _FIRST_PAUSE
                    while not self._ended.is_set():
                        for _ in connection.notifies(timeout=_LISTENING_SECONDS, stop_after=1):
                            self._news.put(None)
            except (CatalogError, psycopg.Error) as error:
                # Polling goes on all the while.
                _logger.warning("listening for waiting tracks was interrupted: %s", type(error).__name__)
                self._ended.wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    def _wait(self, seconds: float) -> None:
        """Wait for news, or to be stopped, so many *seconds* at the most."""
        if not self._stopping:
            with suppress(Empty):
                self._news.get(timeout=seconds)

    def _give_back(self) -> None:
        with self._lock:
            held, self._held = list(self._held.values()), {}
        for claim in held:
            try:
                self._catalog.release(claim, reason="the worker ended", actor=self._name)
            except CatalogError as error:
                _logger.warning("a claim could not be released, and waits for the end of its lease: %s", error)

    @contextmanager
    def _in_background(self, task: Callable[[], None]) -> Iterator[None]:
        thread = threading.Thread(target=task, name=f"audiocatalog {task.__name__.strip('_')}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()

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


def _may_pass(error: CatalogError) -> bool:
    """Tell whether the loop goes on after *error*: it comes of the server or the pool, not of what was asked."""
    return error.retryable or isinstance(error, CommitOutcomeUnknown | PoolTimeout | QueryTimeout)


def _checked(metadata: object) -> TrackMetadata | None:
    if metadata is None or isinstance(metadata, TrackMetadata):
        return metadata
    raise TypeError(f"the handler returned a {type(metadata).__name__}, not a TrackMetadata")


def _told(error: Exception) -> str:
    """Return what the history can keep of *error*, whatever its text holds."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # An exception that cannot say what it is must not end the loop.
        text = "(it has no text)"
    written = f"{type(error).__name__}: {text}".replace("\0", "").encode("utf-8", "replace").decode("utf-8")
    # Composed text may be longer than what it was made of, and the history counts its characters.
    return unicodedata.normalize("NFC", written[:_TOLD])[:_TOLD]
