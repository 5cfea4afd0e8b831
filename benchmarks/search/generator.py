"""Synthetic tracks for those who have no AUDIOCATALOG_DATA: words of syllables, as frequent as words of titles are.

"the" stands in about 7 of 100 titles and "love" in about 4; the other words follow Zipf's law over 60,000 words, so
that there are common, middling and rare ones at every size of the table.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Final

# The most frequent first.
_COMMON: Final = (  # noqa: SIM905 - a hundred pairs of quotes are no easier to read.
    "the you love of a in to me i my and on it your for is night be all no heart with time one life like baby man from "
    "day out world blue up down home this go get good we light live what so girl dance way soul never let little rain "
    "black don't song dream fire back sun new remix moon come sweet road city dark eyes red we're river summer"
).split()
_GENRES: Final = ("Rock", "Pop", "Electronic", "Hip Hop", "Jazz", "Folk", "Metal", "Classical", "Soul", "Country")
_STARTS: Final = (
    "b",
    "br",
    "c",
    "ch",
    "d",
    "f",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "st",
    "t",
    "v",
)
_MIDDLES: Final = ("a", "e", "i", "o", "u", "ai", "ea", "ou")
_ENDS: Final = ("", "n", "r", "s", "l", "m", "t")
_ACCENTED: Final = str.maketrans({"a": "á", "e": "é", "o": "ö", "u": "ü"})
_WORDS: Final = 60_000
_TRACKS_OF_ARTIST: Final = 12
_ONE_IN_TWELVE_IS_ACCENTED: Final = 12


def _vocabulary(dice: random.Random) -> list[str]:
    words = dict.fromkeys(_COMMON)
    while len(words) < _WORDS:
        syllables = (f"{dice.choice(_STARTS)}{dice.choice(_MIDDLES)}{dice.choice(_ENDS)}" for _ in range(4))
        word = "".join(itertools.islice(syllables, dice.choice((1, 2, 2, 3, 3, 4))))
        words[word.translate(_ACCENTED) if dice.randrange(_ONE_IN_TWELVE_IS_ACCENTED) == 0 else word] = None
    return list(words)


def generated_tracks(count: int) -> Iterator[dict[str, str]]:
    """Give *count* tracks by the columns of a catalogue's file, the same ones each time."""
    dice = random.Random(f"tracks:{count}")  # noqa: S311 - the same tracks are wanted each time.
    words = _vocabulary(dice)
    weights = list(itertools.accumulate(1 / (rank + 6) for rank in range(len(words))))

    def phrase(lengths: tuple[int, ...]) -> str:
        return " ".join(dice.choices(words, cum_weights=weights, k=dice.choice(lengths))).title()

    number = 0
    while number < count:
        artist, genre, year = phrase((1, 2, 2, 3)), dice.choice(_GENRES), dice.randint(1955, 2024)
        for _ in range(min(count - number, dice.randint(1, 2 * _TRACKS_OF_ARTIST - 1))):
            yield {
                "artist": artist,
                "title": phrase((1, 2, 3, 3, 4, 5)),
                "album": phrase((1, 2, 3)),
                "genre": genre,
                "year": str(year),
                "duration_seconds": str(dice.randint(90, 420)),
                "channels": "2",
                "sample_rate": "44100",
                "bitrate": "320000",
                "format": "mp3",
                "audio_path": f"/music/{number}.mp3",
            }
            number += 1
