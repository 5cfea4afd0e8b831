"""Random and hostile queries: does each of them end in a page or in InvalidInput, and how long does the worst take?"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from audiocatalog import Catalog
from audiocatalog.errors import CatalogError
from benchmarks.search.data import scale_rows, scale_source
from benchmarks.search.load import Reuse, filled, say
from benchmarks.search.server import Server, connected

_SEED: Final = 7
_COMMON_WORDS: Final = 30
#: The worst queries that are shown.
_SHOWN: Final = 5
_SHOWN_CHARACTERS: Final = 80
_MOST_TERMS: Final = 32
_SIGNS: Final = (
    *('"', "-", "OR", "artist:", "title:", "year:1990..2000", "duration:..4:30", "(", ")", "&", "|", "!", ":*", "<->"),
    *(
        "%",
        "\\",
        "'",
        "''",
        ";",
        "--",
        "=genre:rock",
        "genre:rock",
        "*",
        "\u200d",
        "\u0301",
        "🎵",
        "の",
        "夜",
        "ไ",
        "한",
    ),
    *("ß", "İ", "ı", "\t", "\u3000", "\0", "\ud800"),
)
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyzのアไ한夜а"


def measure(server: Server, *, queries: int, tracks: int, reuse: Reuse) -> dict[str, Any]:
    """Ask a number of *queries* of a number of *tracks*, and return what came of them."""
    source = scale_source()
    database = filled(server, f"scale_{tracks}", f"{source} {tracks}", lambda: scale_rows(tracks), reuse)
    with connected(database.url) as connection:
        rows = connection.execute("SELECT word FROM audio_search_words ORDER BY tracks DESC, word").fetchall()
    words = [word for (word,) in rows]
    dice = random.Random(_SEED)  # noqa: S311 - the same queries are wanted each time.
    makers = _makers(dice, words[:_COMMON_WORDS], words)
    errors: Counter[str] = Counter()
    times: list[tuple[float, str]] = []
    with Catalog(database.url, actor="benchmark", pool_size=1) as catalog:
        for number in range(queries):
            if number % 5_000 == 0:
                say(f"hostile: {number:,} of {queries:,} queries")
            text = dice.choice(makers)()
            begun = time.perf_counter()
            try:
                catalog.search(text)
            except CatalogError as error:
                errors[type(error).__name__] += 1
            times.append((time.perf_counter() - begun, text))
    times.sort()
    return {
        "queries": queries,
        "tracks": database.tracks,
        "errors": dict(errors),
        "p50_ms": times[len(times) // 2][0] * 1000,
        "p95_ms": times[int(len(times) * 0.95)][0] * 1000,
        "max_ms": times[-1][0] * 1000,
        "worst": [[seconds * 1000, ascii(text)[:_SHOWN_CHARACTERS]] for seconds, text in times[: -_SHOWN - 1 : -1]],
    }


def _makers(dice: random.Random, common: list[str], words: list[str]) -> list[Callable[[], str]]:
    """Return functions that each make a text of one kind."""

    def some(choice: list[str] | tuple[str, ...], most: int = _MOST_TERMS) -> list[str]:
        return dice.choices(choice, k=dice.randint(1, most))

    def slip() -> str:
        word = dice.choice(words)
        at = dice.randrange(len(word))
        return f"{word[:at]}{word[at + 1 :]} {dice.choice(common)}"

    mixed = [*_SIGNS, *common, *words[:500]]
    return [
        lambda: "".join(chr(dice.randrange(0x110000)) for _ in range(dice.randint(1, 60))),
        lambda: "".join(chr(dice.choice((dice.randrange(32, 127), dice.randrange(160, 0xA000)))) for _ in range(200)),
        lambda: " ".join(some(common)),
        lambda: " ".join(some(words)),
        lambda: " ".join(some(mixed)),
        lambda: "".join(some(mixed, 100)),
        lambda: dice.choice(_LETTERS) * dice.choice((1, 1, 2, 3, 50, 1000)),
        lambda: " OR ".join(some(common, 16)),
        lambda: f'"{" ".join(some(common, 12))}"',
        lambda: " ".join(some(list(_LETTERS))),
        slip,
    ]
