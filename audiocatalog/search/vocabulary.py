"""The spelling vocabulary: the words of all tracks, counted periodically, for the correction of searches."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

from audiocatalog.errors import TransientConflict
from audiocatalog.operations.advisory_locks import holder_of
from audiocatalog.operations.operation import (
    TRANSACTION_MARK,
    Operation,
    Statement,
    milliseconds,
    settings_call,
)

#: The statement that tries to take the lock of the counting transaction: whether it took the lock, and the lock's key.
LOCK: Final = Statement(
    "SELECT pg_try_advisory_xact_lock(key), key FROM hashtextextended('audiocatalog vocabulary', 0) AS key"
)

#: The statement that counts the words. To save writes, it keeps stored counts that changed by at most 10 %. To avoid
#: deadlocks, it writes rows in the order of the words.
REFRESH: Final = Statement(
    f"""
WITH counted AS MATERIALIZED (
  SELECT word, ndoc AS tracks FROM ts_stat('SELECT search_vector FROM audio_tracks')
  WHERE left(word, 1) <> '=' AND char_length(word) <= 200
),
gone AS (
  DELETE FROM audio_search_words AS stored
  WHERE NOT EXISTS (SELECT 1 FROM counted WHERE counted.word = stored.word)
),
written AS (
  INSERT INTO audio_search_words AS stored (word, tracks)
  SELECT counted.word, counted.tracks FROM counted LEFT JOIN audio_search_words AS stored ON stored.word = counted.word
  WHERE stored.word IS NULL OR abs(stored.tracks - counted.tracks) * 10 > stored.tracks
  ORDER BY counted.word
  ON CONFLICT (word) DO UPDATE SET tracks = excluded.tracks
)
INSERT INTO audio_search_counts (at, tracks, words)
SELECT $1, (SELECT count(*) FROM audio_tracks), (SELECT count(*) FROM counted)
RETURNING at, tracks, words, {TRANSACTION_MARK}""",
    writes=True,
    writes_history=False,
)

#: The statement that updates the planner's statistics. For a role that does not own the table, it has no effect.
ANALYZE: Final = Statement("ANALYZE audio_search_words", is_command=True)


class Vocabulary(NamedTuple):
    """A count of the vocabulary: its time, the number of tracks, and the number of distinct words."""

    at: datetime
    tracks: int
    words: int


def refresh_vocabulary(*, timeout: float) -> Operation[Vocabulary]:
    """
    Count the words in the open transaction, as ``Catalog.refresh_vocabulary`` describes.

    Raises:
        TransientConflict: another transaction is counting; retry later.
    """
    yield Statement(settings_call({"statement_timeout": milliseconds(timeout)}, local=True), timeout=timeout), ()
    ((is_locked, key),) = yield LOCK, ()
    if not is_locked:
        holder = yield from holder_of(key)
        raise TransientConflict(
            f"another count of the words is running: {holder} holds the lock; retry when that count has ended",
            operation="refresh_vocabulary",
        )
    (counted,) = yield REFRESH._replace(timeout=timeout), (datetime.now(UTC),)
    yield ANALYZE._replace(timeout=timeout), ()
    return Vocabulary(*counted)
