"""What a text costs the server: twice the text costs at most about twice as much, whatever it holds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from audiocatalog.search.folding import fold, tokenize
from tests.support.databases import libpq

#: Functions that make a text of a number of characters, by what it holds.
TEXTS: Final[dict[str, Callable[[int], str]]] = {
    "one sign of six letters": lambda length: "\u3316" * length,
    "one sign of eighteen letters": lambda length: "\ufdfa" * length,
    "such signs joined by !": lambda length: "\ufdfa!" * (length // 2),
    "such signs joined by $": lambda length: "\ufdfa$" * (length // 2),
    "characters that stand alone": lambda length: "日" * length,
    "words of one letter": lambda length: "a " * (length // 2),
    "words joined by points": lambda length: "a.b " * (length // 4),
    "words with apostrophes": lambda length: "a'b " * (length // 4),
    "signs that are and": lambda length: "&" * length,
    "names of signs": lambda length: "!!! " * (length // 4),
    "one long word": lambda length: "a" * length,
    "dollars before a letter": lambda length: "$" * length + "ab",
    "letters and accents": lambda length: "e\u0315\u0300" * (length // 3),
    "accents against their order": lambda length: "e" + "\u0315" * (length // 2) + "\u0300" * (length // 2),
    "Thai marks against their order": lambda length: "ก" + "\u0e48" * (length // 2) + "\u0e38" * (length // 2),
    "capitals of every script": lambda length: "ႠΩƁЖÆ" + "\ufdfa" * (length // 8),
}
STATEMENTS: Final = {
    "vector": "SELECT audiocatalog_search_vector_v1(%(text)s, %(text)s, %(text)s, %(text)s, 1999)",
    "name": "SELECT audiocatalog_name_v1(audiocatalog_fold_v1(%(text)s))",
    "spell": "SELECT audiocatalog_spell_v1(audiocatalog_words_v1(audiocatalog_fold_v1(%(text)s)), false)",
    "slips": "SELECT audiocatalog_slips_v1(audiocatalog_fold_v1(%(text)s))",
}
#: Half the longest title, and four times as much, so that a square is seen; the functions themselves have no limit.
SHORT, LONG = 500, 2_000
#: By twice the text the cost may grow by this, so by four times the text by its square. A square would grow by 4.
MOST_GROWTH: Final = 3.0
#: Below this, in seconds, a call costs about the same whatever it is given.
NEXT_TO_NOTHING: Final = 0.0005


@pytest.fixture
def backend(migrated_url: str) -> Any:
    with psycopg.connect(libpq(migrated_url), autocommit=True) as connection:
        connection.execute("SET jit = off")
        yield connection


def told(connection: psycopg.Connection[Any], statement: str, parameters: Mapping[str, Any] | None = None) -> Any:
    """Return the one value that *statement* gives."""
    row = connection.execute(statement, parameters).fetchone()
    assert row is not None
    return row[0]


def time_used(pid: int) -> float:
    """Return the processor time of a process in seconds; where that cannot be read, the time of day."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return time.perf_counter()


def costs(backend: psycopg.Connection[Any], statement: str, texts: list[str]) -> list[float]:
    """Return what *statement* costs the server at the least with each of *texts*, which take turns."""
    pid = told(backend, "SELECT pg_backend_pid()")
    spent: list[list[float]] = [[] for _ in texts]
    for _ in range(3):
        for text, times in zip(texts, spent, strict=True):
            before = time_used(pid)
            backend.execute(statement, {"text": text})
            times.append(time_used(pid) - before)
    return [min(times) for times in spent]


def growth(spent: list[float]) -> float:
    """Return by how much each of the two doublings from the short text to the long one multiplies what it costs."""
    short, long = spent
    return math.sqrt(long / max(short, NEXT_TO_NOTHING))


@pytest.mark.parametrize("held", TEXTS)
def test_twice_the_text_costs_twice_the_work(backend: psycopg.Connection[Any], held: str) -> None:
    texts = [TEXTS[held](length) for length in (SHORT, LONG)]
    grown = {name: growth(costs(backend, statement, texts)) for name, statement in STATEMENTS.items()}
    assert {name: by for name, by in grown.items() if by > MOST_GROWTH} == {}


@pytest.mark.slow
@pytest.mark.parametrize("held", TEXTS)
def test_twice_the_text_is_twice_the_work_for_its_highlights(held: str) -> None:
    def cost(text: str) -> float:
        # Another letter in front of each mark and each turn, so that nothing is answered from memory.
        times = []
        for turn in range(9):  # The least of them: others use the caches, too.
            fresh = text.replace("e", chr(0x100 + turn)).replace("ก", chr(0x0E02 + turn))
            before = time.thread_time()
            tokenize(fresh)
            times.append(time.thread_time() - before)
        return min(times)

    assert growth([cost(TEXTS[held](length)) for length in (SHORT, LONG)]) <= MOST_GROWTH


@pytest.mark.parametrize("held", ["one sign of six letters", "one sign of eighteen letters"])
def test_twice_the_text_takes_twice_the_memory(migrated_url: str, held: str) -> None:
    def peak(length: int) -> int:
        with psycopg.connect(libpq(migrated_url), autocommit=True) as connection:
            status = Path(f"/proc/{told(connection, 'SELECT pg_backend_pid()')}/status")
            if not status.exists():
                pytest.skip("the server's memory cannot be looked at from here")

            def most_used() -> int:
                (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
                return int(line.split()[1])

            connection.execute(STATEMENTS["vector"], {"text": "warm up: P!nk, Ke$ha, é"})
            before = most_used()
            connection.execute(STATEMENTS["vector"], {"text": TEXTS[held](length)})
            return most_used() - before

    # In kB; the allocator takes some hundreds at once.
    assert peak(LONG) <= MOST_GROWTH**2 * peak(SHORT) + 1_000


def test_a_long_field_keeps_the_place_of_every_word(backend: psycopg.Connection[Any]) -> None:
    words = [f"w{number}" for number in range(900)]
    expected = " ".join(
        [
            *(f"{word}:{place}A" for place, word in enumerate(words[:300], 1)),
            *(f"{word}:{place}B" for place, word in enumerate(words[300:600], 302)),
            *(f"{word}:{place}C" for place, word in enumerate(words[600:], 603)),
            f"'=album:{''.join(words[600:])[:200]}' jazz:904D '=genre:jazz' 1999:906D",
        ]
    )
    fields = {"title": words[:300], "artist": words[300:600], "album": words[600:]}
    assert told(
        backend,
        "SELECT %(expected)s::tsvector = audiocatalog_search_vector_v1(%(title)s, %(artist)s, %(album)s, 'Jazz', 1999)",
        {name: " ".join(held) for name, held in fields.items()} | {"expected": expected},
    )


@pytest.mark.parametrize(
    ("artist", "initials"),
    [
        ("Nine Inch Nails", "nin"),
        ("a b", None),
        ("a b c d e f g h", "abcdefgh"),
        ("a b c d e f g h i", None),
        ("a b c d e f g h i j k", None),
        ("a é c", "aec"),
        ("a я c", None),
        ("я b c d e f g h", None),
    ],
)
def test_initials_are_those_of_three_to_eight_words(
    backend: psycopg.Connection[Any], artist: str, initials: str | None
) -> None:
    rows = backend.execute(
        "SELECT word FROM unnest(tsvector_to_array(audiocatalog_search_vector_v1('t', %s, null, null, null))) AS word"
        " WHERE starts_with(word, '=initials:')",
        [artist],
    ).fetchall()
    assert rows == ([(f"=initials:{initials}",)] if initials else [])


@pytest.mark.parametrize("text", ["क" + "\u093c\u0941" * 60, "ក" + "\u17d2" * 90 + "ខ", "דּ" * 70, "한" * 130, "ｶﾞ" * 80])
def test_many_marks_are_folded_alike_by_the_server_and_its_twin(backend: psycopg.Connection[Any], text: str) -> None:
    assert backend.execute("SELECT audiocatalog_fold_v1(%s)", [text]).fetchone() == (fold(text).text,)
