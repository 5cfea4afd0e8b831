"""The parts of a pool that survive an interrupt: a place in the line, a thread that connects, the lock."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Final
from weakref import ref

from audiocatalog.db.connection import PooledConnection
from audiocatalog.errors import CatalogError

# A thread that is not alive this long after it was made was never started: its starter was interrupted.
_START_SECONDS: Final = 1.0
# The lock is held for microseconds: a caller that cannot have it for this time replaces it.
_LOCK_SECONDS: Final = 2.0


class Turn:
    """The place in the line of a caller that began at *began* and waits until *deadline*."""

    __slots__ = ("began", "connection", "deadline", "error", "gate", "is_searching", "thread")

    def __init__(self, began: float, deadline: float, *, searching: bool) -> None:
        self.began = began
        self.deadline = deadline
        self.is_searching = searching
        self.thread = threading.get_ident()
        self.connection: PooledConnection | None = None
        self.error: CatalogError | None = None
        self.gate = threading.Lock()
        self.gate.acquire()

    @property
    def has_come(self) -> bool:
        """Whether there is a connection, or a reason why there will be none."""
        return self.connection is not None or self.error is not None

    def call(self) -> None:
        """Wake the caller; one that was called is no longer in the line."""
        self.gate.release()


class Maker:
    """
    A thread that makes one connection.

    ``threading.Thread.start`` waits until the new thread runs. That wait never ends if an exception that is thrown into
    the starting thread hits the new one at its start, as can happen in CPython. ``start`` here does not wait.
    """

    def __init__(self, make: Callable[[Maker], None]) -> None:
        self._make = make
        self._born = monotonic()
        self._life: ref[_Life] | None = None
        self.has_ended = False

    def start(self) -> None:
        """
        Begin.

        Raises:
            RuntimeError: the system allows this process no further thread.
        """
        _thread.start_new_thread(self._run, ())

    def is_under_way(self, now: float) -> bool:
        """Tell whether it is at work or about to be, and not left unstarted by an interrupt."""
        if self.has_ended:
            return False
        return now < self._born + _START_SECONDS if self._life is None else self._life() is not None

    def _run(self) -> None:
        life = _Life()  # Nothing else holds it, so that it ends with the thread, however that ends.
        self._life = ref(life)
        try:
            self._make(self)
        finally:
            self.has_ended = True


class _Life:
    """What lives as long as a thread does."""

    __slots__ = ("__weakref__",)


class Lock:
    """
    A lock that an interrupt cannot leave locked, and that a handler of signals may take again.

    A signal may be handled right after the lock was taken, before Python has entered the ``with`` block; then it is
    released here. If all else fails, a caller that waits too long for it replaces it. Even without the lock, the pool
    gives no connection to two callers.
    """

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        lock = self._lock
        try:
            if not lock.acquire(timeout=_LOCK_SECONDS):
                self._lock = lock = threading.RLock()
                lock.acquire()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.let_go()

    def let_go(self) -> None:
        """Release the lock if this thread has it: an interrupt can hit the very step that was to release it."""
        try:  # noqa: SIM105  # The steps of `suppress` itself could be interrupted before the lock is released.
            self._lock.release()
        except RuntimeError:
            pass  # It was not taken, or has been replaced meanwhile.
