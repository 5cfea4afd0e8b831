"""The queries whose latency is measured, chosen anew for each table by how often its words occur."""

from __future__ import annotations

import itertools
import random
import re
import string
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import psycopg

from benchmarks.search.data import track_id
from benchmarks.search.load import Database
from benchmarks.search.server import connected
from benchmarks.search.systems import Query

_SEED: Final = 23
_QUERIES: Final = 40
#: Some tracks, of which exact titles, phrases and the like are taken.
_SAMPLE: Final = 4_000
_PLAIN: Final = re.compile(r"[A-Za-z]+(?: [A-Za-z]+)+")
_RARE_LETTERS: Final = 5


class _Sampled(NamedTuple):
    title: str
    artist: str
    genre: str | None
    year: int | None


def workload(database: Database, most: int | None) -> dict[str, list[Query]]:
    """Return the queries of each kind, different ones throughout, at most *most* of a kind."""
    with connected(database.url) as connection:
        common = _words(connection, "char_length(word) >= 2 ORDER BY tracks DESC, word LIMIT 1000")
        # The rarest tenth, the same way at each size of the table.
        rare = _words(
            connection,
            "char_length(word) >= 5 AND tracks >= 2 ORDER BY tracks, md5(word)"
            " LIMIT greatest(400, (SELECT count(*) / 10 FROM benchmark.words WHERE tracks >= 2))",
        )
        tracks = _sampled(connection, database.tracks)
    counts = dict(rare)
    top = [word for word, _ in common[:_QUERIES]]
    dice = random.Random(_SEED)  # noqa: S311 - the same queries are wanted each time.
    genres = list(dict.fromkeys(track.genre for track in tracks if track.genre))
    years = sorted({track.year for track in tracks if track.year})
    beginnings = dict.fromkeys(word[: 3 + index % 2] for index, (word, _) in enumerate(common) if len(word) > 4)  # noqa: PLR2004

    kinds: dict[str, list[Query]] = {
        "common word": [Query(text=word) for word in top],
        "one letter": [Query(text=letter, prefix=True) for letter in string.ascii_lowercase + string.digits],
        "two common words": [Query(text=" ".join(pair)) for pair in itertools.combinations(top[:10], 2)],
        "rare word": [Query(text=word) for word in dice.sample(list(counts), min(_QUERIES, len(counts)))],
        "two rare words": _texts(tracks, lambda track: _two_rarest(track, counts)),
        "artist and title": _texts(tracks, lambda track: f"{track.artist} {track.title}"),
        "as you type": [Query(text=beginning, prefix=True) for beginning in beginnings],
        "phrase": [
            Query(text=query.text, phrase=True)
            for query in _texts(tracks, lambda track: f'"{" ".join(track.title.split()[:3])}"')
        ],
        "typo": _texts(tracks, lambda track: mistyped(f"{track.artist} {track.title}", dice)),
        "no hit": [Query(text="".join(dice.choices("bcdfghjklmnpqrstvwxz", k=9))) for _ in range(_QUERIES)],
        "common word, genre": [
            Query(text=word, genre=genre) for word, genre in zip(top, itertools.cycle(genres), strict=False)
        ],
        "common word, years": [
            Query(text=word, years=(year, year + 4)) for word, year in zip(top, itertools.cycle(years), strict=False)
        ],
    }
    return {kind: queries[: min(most or _QUERIES, _QUERIES)] for kind, queries in kinds.items()}


def _words(connection: psycopg.Connection[Any], condition: str) -> list[tuple[str, int]]:
    statement = f"SELECT word, tracks FROM benchmark.words WHERE {condition}"  # noqa: S608 - our own text.
    return connection.execute(statement.encode()).fetchall()


def _sampled(connection: psycopg.Connection[Any], count: int) -> list[_Sampled]:
    """Return tracks from all over the table whose titles and artists are plain words, in an order of chance."""
    numbers = random.Random(_SEED).sample(range(1, count + 1), min(_SAMPLE, count))  # noqa: S311 - see above.
    rows = connection.execute(
        "SELECT title, artist, genre, year FROM audio_tracks WHERE id = ANY (%s) ORDER BY md5(id::text)",
        [[track_id(number) for number in numbers]],
    )
    tracks = [_Sampled(*row) for row in rows]
    return [track for track in tracks if _PLAIN.fullmatch(track.title) and _PLAIN.fullmatch(track.artist or "")]


def _texts(tracks: list[_Sampled], text_of: Callable[[_Sampled], str | None]) -> list[Query]:
    """Return the first different texts that *text_of* makes of the tracks."""
    texts = dict.fromkeys(text for track in tracks if (text := text_of(track)) is not None)
    return [Query(text=text) for text in itertools.islice(texts, _QUERIES)]


def _two_rarest(track: _Sampled, counts: dict[str, int]) -> str | None:
    """Return two words of the track that are both rare, or one that is and the longest other one."""
    words = sorted(set(f"{track.title} {track.artist}".lower().split()), key=lambda word: (word not in counts, word))
    rest = sorted((word for word in words[1:] if word not in counts), key=len)
    second = words[1] if words[1] in counts else rest[-1]
    return f"{words[0]} {second}" if words[0] in counts and len(second) >= _RARE_LETTERS else None


def mistyped(text: str, dice: random.Random) -> str | None:
    """Return *text* with two neighbouring letters of its longest word swapped, or None if that word is too short."""
    words = text.lower().split()
    longest = max(range(len(words)), key=lambda index: len(words[index]))
    word = words[longest]
    at = dice.randrange(1, max(2, len(word) - 1))
    if len(word) <= _RARE_LETTERS or word[at] == word[at + 1]:
        return None
    words[longest] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)
