"""The parts of a pool that survive an interrupt: a turn in the queue, a thread that connects, and the lock."""

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

# If a thread is not running this long after its creation, an interrupt of its creator prevented its start.
_START_SECONDS: Final = 1.0
# The lock is held for microseconds, so a caller that waits this long replaces it.
_LOCK_SECONDS: Final = 2.0


class Turn:
    """A caller's turn in the queue: the caller began to wait at *began* and stops waiting at *deadline*."""

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
        """Whether the caller has received a connection or an error."""
        return self.connection is not None or self.error is not None

    def call(self) -> None:
        """Wake the caller, which is no longer in the queue."""
        self.gate.release()


class Maker:
    """
    A thread that opens one connection.

    ``threading.Thread.start`` waits until the new thread runs. In CPython, an exception thrown into the starting thread
    can be raised in the new thread at its start; then the wait never ends. The ``start`` of this class does not wait.
    """

    def __init__(self, make: Callable[[Maker], None]) -> None:
        self._make = make
        self._born = monotonic()
        self._life: ref[_Life] | None = None
        self.has_ended = False

    def start(self) -> None:
        """
        Start the thread.

        Raises:
            RuntimeError: the system does not let this process start another thread.
        """
        _thread.start_new_thread(self._run, ())

    def is_under_way(self, now: float) -> bool:
        """Return whether the thread runs or may still start; an interrupt of its creator can prevent the start."""
        if self.has_ended:
            return False
        return now < self._born + _START_SECONDS if self._life is None else self._life() is not None

    def _run(self) -> None:
        life = _Life()  # No other object refers to this one, so it is collected when the thread ends.
        self._life = ref(life)
        try:
            self._make(self)
        finally:
            self.has_ended = True


class _Life:
    """An object that lives as long as its thread."""

    __slots__ = ("__weakref__",)


class Lock:
    """
    A reentrant lock that an interrupt cannot leave locked; signal handlers may acquire it again.

    A signal can arrive after the lock was acquired and before Python has entered the ``with`` block; then ``__enter__``
    releases the lock. As a last resort, a caller that waits too long replaces the lock. Even without the lock, the pool
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
        self.release()

    def release(self) -> None:
        """Release the lock if this thread holds it; an interrupt may have prevented an earlier release."""
        try:  # noqa: SIM105  # The steps of `suppress` itself could be interrupted before the lock is released.
            self._lock.release()
        except RuntimeError:
            pass  # This thread does not hold the lock, or another caller has replaced it.
