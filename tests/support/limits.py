"""The limits of all fields, as the README promises them: said apart from the code, which must keep to them."""

from __future__ import annotations

from typing import Final

#: The most characters of each text.
LONGEST: Final = {"title": 1000, "artist": 1000, "album": 1000, "genre": 200, "format": 50}
LONGEST_PATH: Final = {"audio_path": 4096, "thumbnail_path": 4096}
#: The least and the greatest of each whole number: a calendar year, a count, Hz, bit/s.
WHOLE: Final = {
    "year": (1000, 9999),
    "channels": (1, 256),
    "sample_rate": (1, 100_000_000),
    "bitrate": (1, 2_000_000_000),
}
#: The same of the numbers that may have a fraction: seconds.
NUMBERS: Final = {"duration": (0.0, 31_536_000.0)}
