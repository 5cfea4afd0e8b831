"""Catalogues with queries whose answers are known: those of the data folder, or made up."""

from __future__ import annotations

import csv
import gzip
import random
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from benchmarks.search.data import Row, catalogue_rows, data_file, generated_rows, queries_of, sample
from benchmarks.search.server import plain_name
from benchmarks.search.workload import mistyped

_SEED: Final = 31
#: How many tracks each class of queries asks for, unless a number is given.
_OF_EACH: Final = 200


class Material(NamedTuple):
    """
    Hold a catalogue and its queries.

    *artists* gives the key and the artist of each track, in the order of *rows*. A known item has a query, a class, a
    stratum and the keys of the tracks that answer it; a mention has a query, a kind, an artist and such keys.
    """

    name: str
    source: str
    rows: Callable[[], Iterator[Row]]
    artists: Callable[[], Iterator[tuple[str, str]]]
    known: list[dict[str, Any]]
    mentions: list[dict[str, Any]]


def of_folder(catalogue: str, most: int | None) -> Material:
    """Return the *catalogue* of the data folder with its queries, at most *most* of each file."""
    return Material(
        plain_name(catalogue.removesuffix(".csv.gz")),
        f"{catalogue} {data_file(catalogue).stat().st_size}",
        lambda: catalogue_rows(catalogue),
        lambda: _artists_of_file(catalogue),
        queries_of("known_item_dev.jsonl", most),
        queries_of("real_mentions_dev.jsonl", most),
    )


def of_our_own(count: int, most: int | None) -> Material:
    """Return *count* synthetic tracks, and queries that were made of them, at most *most* of each class."""
    rows = list(generated_rows(count))
    same: dict[str, list[str]] = {}
    for row in rows:
        same.setdefault(_names(row).casefold(), []).append(row.key)
    dice = random.Random(_SEED)  # noqa: S311 - the same queries are wanted each time.
    known = [
        {
            "qid": f"{kind}-{row.key}",
            "query": text,
            "class": kind,
            "stratum": "plain" if _names(row).isascii() else "accented",
            "expected": same[_names(row).casefold()],
        }
        for kind, typed in _CLASSES.items()
        for row in sample(rows, most or _OF_EACH)
        if (text := typed(row, dice))
    ]
    mentions = [_mention(row, same) for row in sample(rows, most or _OF_EACH)]
    return Material(
        f"generated_{count}",
        f"generator.py {count}",
        lambda: generated_rows(count),
        lambda: ((row.key, row.metadata.artist or "") for row in rows),
        known,
        mentions,
    )


def _artists_of_file(catalogue: str) -> Iterator[tuple[str, str]]:
    with gzip.open(data_file(catalogue), "rt", encoding="utf-8", newline="") as lines:
        for values in csv.DictReader(lines):
            yield values["id"], values["artist"]


def _names(row: Row) -> str:
    return f"{row.metadata.artist} {row.metadata.title}"


def _without_accents(text: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFD", text) if not unicodedata.combining(letter))


def _without_the_last_word(row: Row) -> str | None:
    """Return the artist with all words of the title but the last, where it has more than one."""
    words = row.metadata.title.split()
    return f"{row.metadata.artist} {' '.join(words[:-1])}" if words[1:] else None


#: What is typed for a track by the class of the query; None where the track's names do not allow it.
_CLASSES: Final[dict[str, Callable[[Row, random.Random], str | None]]] = {
    "exact": lambda row, _: _names(row),
    "no accents": lambda row, _: _without_accents(_names(row)).lower(),
    "prefix": lambda row, _: _names(row)[:-1],
    "partial phrase": lambda row, _: _without_the_last_word(row),
    "one typo": lambda row, dice: mistyped(_names(row), dice),
}


def _mention(row: Row, same: dict[str, list[str]]) -> dict[str, Any]:
    """Return a request for the track or for its artist, by turns."""
    is_for_artist = int(row.key) % 2 == 0
    artist, title = row.metadata.artist or "", row.metadata.title
    return {
        "query": artist.lower() if is_for_artist else f"{title} by {artist}".lower(),
        "kind": "artist" if is_for_artist else "track",
        "artist": artist,
        "expected": [] if is_for_artist else same[_names(row).casefold()],
    }
