"""The decisions of a pool, for threads and tasks: when to open connections, and which error a timeout raises."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable, Sequence
from typing import Final, Protocol, TypeVar

from audiocatalog.db.connection import PooledState
from audiocatalog.db.settings import Settings
from audiocatalog.errors import CatalogError, DatabaseUnavailable, PoolTimeout, StaleStatement, TooManySearches
from audiocatalog.operations.monitoring import PoolStats

CLOSED: Final = "this catalogue is closed: create a new one"
# The delay before another attempt to connect, if a caller still waits.
RECONNECT_SECONDS: Final = 0.5
# If a retry cannot fix an error, the error is raised for every caller within this time, without another attempt.
SHARED_SECONDS: Final = 1.0
# At most this many connections are opened at the same time.
MAX_OPENING: Final = 3
RENEWAL_SECONDS: Final = 0.25
# A connection that was idle for this many seconds is closed.
_MAX_IDLE_SECONDS: Final = 600.0
WAITS_KEPT: Final = 1000
_READ_ONLY: Final = "25006"


class Waiting(Protocol):
    """A caller that has waited for a connection since *began*, a time of the clock ``monotonic``."""

    began: float
    is_searching: bool


_Waiting = TypeVar("_Waiting", bound=Waiting)
_Connection = TypeVar("_Connection", bound=PooledState)


class Policy:
    """
    The decisions of a pool of *size* connections; searches use at most *searches* connections.

    - *debug*: whether the pool records which line of code checks out each connection.
    - *failure*: when and why the last attempt to connect failed; None after a success.
    """

    def __init__(self, settings: Settings) -> None:
        self.size = settings.pool_size
        self.searches = settings.searches
        self.debug = settings.debug_pool
        self._recycle = settings.pool_recycle
        self.failure: tuple[float, CatalogError] | None = None
        self._has_connected = False

    def connected(self, connection: PooledState, *, generation: int, now: float) -> None:
        """Prepare a new *connection* for the pool; up to 5 % of its age is jitter."""
        connection.generation = generation
        connection.idle_since = now
        connection.expires_at = now + self._recycle * random.uniform(0.95, 1.0)  # noqa: S311  # This is jitter.

    def succeeded(self) -> None:
        """Record that a connection was opened."""
        self._has_connected, self.failure = True, None

    @property
    def failure_is_final(self) -> bool:
        """Whether no retry can help. Before the first success, every failure counts as final."""
        return self.failure is not None and not (self.failure[1].retryable and self._has_connected)

    def missing(
        self, queue: Iterable[Waiting], *, now: float, living: int, opening: int, searching: int, spare: bool
    ) -> int:
        """Return how many connections to open for the callers in *queue*, or for one *spare* connection."""
        # After a failure, a single attempt finds out whether the server is back.
        most = MAX_OPENING if self.failure is None and self._has_connected else 1
        room = min(self.size - living, most) - opening
        able = list(queue)
        if room <= 0 or not (able or spare):
            return 0
        if self.failure is not None:
            failed, _ = self.failure
            if self.failure_is_final:
                # Each caller gets one attempt: a server may lock an account after several wrong passwords.
                able = [turn for turn in able if turn.began >= failed + SHARED_SECONDS]
            elif now < failed + RECONNECT_SECONDS:
                return 0
        searches = sum(turn.is_searching for turn in able)
        too_many = max(0, searches - max(0, self.searches - searching))
        return max(0, min(len(able) - too_many + spare - opening, room))

    def failed_turns(self, queue: Iterable[_Waiting], *, living: int, opening: int) -> list[_Waiting]:
        """Return the callers that get the last failure as their error: no retry can help, and no connection is open."""
        if self.failure is None or not self.failure_is_final or living or opening:
            return []
        failed, _ = self.failure
        return [turn for turn in queue if turn.began < failed + SHARED_SECONDS]

    def timeout_error(self, turn: Waiting, timeout: float, stats: PoolStats) -> CatalogError:
        """Return the error for a caller whose *timeout* ended: all connections are in use, or none could be opened."""
        if turn.is_searching and stats.searching >= self.searches:
            return TooManySearches(
                f"search: {stats.searching} searches, the limit set by max_searches, were running for {timeout:g} s: "
                "try again later, or raise max_searches and pool_size",
                operation="search",
                phase="connect",
            )
        if stats.connections < self.size:
            if self.failure is not None:
                return copy_of(self.failure[1])
            return DatabaseUnavailable(
                f"connect: no connection could be opened within {timeout:g} s: try again later, or raise pool_timeout",
                operation="connect",
                phase="connect",
            )
        holder = ""
        if stats.oldest_held is not None:
            holder = f"; the oldest checkout, {stats.oldest_held:.1f} s ago, was by {stats.oldest_holder}"
        advice = "" if self.debug else ", or set debug_pool=True to see which code holds connections"
        return PoolTimeout(
            f"none of {self.size} connections became free within {timeout:g} s ({stats.in_use} in use, "
            f"{stats.waiting + 1} waiting{holder}): end units of work sooner, or raise pool_size{advice}",
            operation="connect",
            phase="connect",
        )

    def stats(
        self, held: Sequence[_Connection], *, living: int, waiting: int, waits: Iterable[float], now: float
    ) -> tuple[PoolStats, _Connection | None]:
        """Return the statistics without *oldest_holder*, and the connection with the oldest checkout."""
        oldest = min(held, key=lambda one: one.held_since or now, default=None)
        ordered = sorted(waits)
        return PoolStats(
            size=self.size,
            connections=living,
            in_use=len(held),
            waiting=waiting,
            wait_p50=ordered[len(ordered) // 2] if ordered else None,
            wait_p99=ordered[len(ordered) * 99 // 100] if ordered else None,
            oldest_held=now - (oldest.held_since or now) if oldest else None,
            oldest_holder=None,
            searching=sum(one.is_searching for one in held),
            most_searches=self.searches,
        ), oldest


def recurs(error: CatalogError) -> bool:
    """
    Return whether *error* would recur on every connection of a pool, so that all of them must be replaced.

    The error recurs if the server has become a standby, or if a schema change has made cached plans stale.
    """
    return error.sqlstate == _READ_ONLY or isinstance(error, StaleStatement)


def is_stale(connection: PooledState, now: float) -> bool:
    """Return whether the idle *connection* has been idle for too long."""
    return connection.idle_since <= now - _MAX_IDLE_SECONDS


def copy_of(error: CatalogError) -> CatalogError:
    """Return a copy of *error* for another caller: each caller writes into the error that it raises."""
    duplicate = copy.copy(error)
    duplicate.__cause__ = error.__cause__
    return duplicate
