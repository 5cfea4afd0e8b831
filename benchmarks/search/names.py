"""Hard names: is each found by every spelling, among a thousand ordinary tracks?"""

from __future__ import annotations

import hashlib
import random
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from audiocatalog import TrackMetadata
from benchmarks.search.data import Row
from benchmarks.search.hard_names import HARD_ARTISTS, HARD_TITLES, STOCK_PARSER_CASES
from benchmarks.search.load import Reuse, filled
from benchmarks.search.peers import systems_of
from benchmarks.search.server import Server
from benchmarks.search.systems import PAGE, Query, ask, ask_all

_DISTRACTORS: Final = 1_000
_SEED: Final = 11
# Many of them are also a part of a hard name, so that a name does not win for want of others.
_WORDS: Final = (  # noqa: SIM905 - a hundred pairs of quotes are no easier to read.
    "pink crosses fun therapy nerd band them who the you and a it of dead man black blue emperor cult static days city "
    "night river stone golden paper winter summer harbour signal mirror engine garden silver velvet thunder window "
    "orange lantern horse tiger ghost machine letter island mountain road ocean desert crystal shadow echo radio "
    "child sons wind earth fire music factory club creator tyler dirty big wild heart dream dance day light sun moon"
).split()


def measure(server: Server, folder: Path, *, peers: list[str], reuse: Reuse) -> dict[str, Any]:
    """Save the names among others, search for each spelling, and return what was found where."""
    digest = hashlib.sha256(repr((*_entries(), _WORDS)).encode()).hexdigest()[:8]
    database = filled(server, "names", f"hard names {digest}", _rows, reuse)
    numbers: dict[str, set[int]] = {}
    for number, row in enumerate(_rows(), start=1):
        numbers.setdefault(row.key, set()).add(number)

    result: dict[str, Any] = {"names": len(_entries()), "tracks": database.tracks, "systems": {}, "missed": {}}
    for system in systems_of(database, folder, peers):
        figures = {"spellings": 0, "first page": 0, "first place": 0, "names": 0, "stock cases": 0}
        missed = []
        for group, name, spellings in _entries():
            answers = ask_all(system, [Query(text=spelling) for spelling in spellings], runs=1)
            found = 0
            for spelling, answer in zip(spellings, answers, strict=True):
                hits = [number in numbers[name] for number in answer.numbers[:PAGE]]
                figures["first page"] += any(hits)
                figures["first place"] += bool(hits) and hits[0]
                found += any(hits)
                if not any(hits):
                    missed.append({"name": name, "spelling": spelling, "error": answer.error})
            figures["spellings"] += len(spellings)
            figures["names"] += found == len(spellings)
            if group == "stock":
                typed = dict(STOCK_PARSER_CASES)[name]
                figures["stock cases"] += sum(
                    _is_found(ask(system, Query(text=s)).numbers, numbers[name]) for s in typed
                )
        result["systems"][system.name] = figures
        result["missed"][system.name] = missed
        system.close()
    result["stock cases"] = sum(len(spellings) for _, spellings in STOCK_PARSER_CASES)
    return result


def _is_found(found: list[int], wanted: set[int]) -> bool:
    return not wanted.isdisjoint(found[:PAGE])


def _entries() -> list[tuple[str, str, list[str]]]:
    """Return the group of each name, the name, and its spellings."""
    return [
        *(("stock", name, _spellings(name, typed)) for name, typed in STOCK_PARSER_CASES),
        *(("artist", name, _spellings(name, typed)) for name, typed in HARD_ARTISTS),
        *(("title", name, _spellings(name, typed)) for name, typed in HARD_TITLES),
    ]


def _spellings(name: str, typed: tuple[str, ...]) -> list[str]:
    """Return what is typed for *name*: as it is stored, in lower case, decomposed, and as people type it."""
    return list(dict.fromkeys((name, name.lower(), unicodedata.normalize("NFD", name), *typed)))


def _rows() -> Iterator[Row]:
    """Give two tracks of each hard artist and one of each hard title, in the middle of ordinary ones."""
    dice = random.Random(_SEED)  # noqa: S311 - the same tracks are wanted each time.

    def phrase(words: int) -> str:
        return " ".join(dice.choices(_WORDS, k=words)).title()

    rows = [("", phrase(dice.randint(2, 4)), phrase(dice.randint(2, 3))) for _ in range(_DISTRACTORS)]
    for group, name, _ in _entries():
        if group == "title":
            rows.append((name, name, phrase(2)))
        else:
            rows += [(name, phrase(3), name) for _ in range(2)]
    dice.shuffle(rows)
    for number, (name, title, artist) in enumerate(rows):
        metadata = TrackMetadata(title=title, artist=artist, album=phrase(2), year=1970 + number % 50)
        yield Row(name, metadata, f"/music/{number}.mp3")
