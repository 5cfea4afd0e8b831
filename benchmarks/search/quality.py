"""What is found of known items, by class and by stratum, and of what people ask for in their own words."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

from benchmarks.search.data import numbers_of
from benchmarks.search.known_items import Material
from benchmarks.search.load import Reuse, filled, say
from benchmarks.search.peers import systems_of
from benchmarks.search.server import Server
from benchmarks.search.systems import Answer, Query, Scores, System, ask_all, errors, latency


def measure(
    server: Server, folder: Path, *, material: Material, peers: list[str], runs: int, reuse: Reuse
) -> dict[str, Any]:
    """Load the catalogue of *material*, ask every system every query, and return the figures."""
    known, mentions = material.known, material.mentions
    database = filled(server, material.name, material.source, material.rows, reuse)
    rows = [(key, normalised(artist)) for key, artist in material.artists()]
    numbers = {key: number for number, (key, _) in enumerate(rows, start=1)}
    artists = ["", *(artist for _, artist in rows)]
    # A part of the catalogue does not hold every artist that people asked for.
    all_artists = "\n".join(set(artists))
    mentions = [
        item
        for item in mentions
        if (
            normalised(item["artist"]) in all_artists
            if item["kind"] == "artist"
            else numbers_of(numbers, item["expected"])
        )
    ]

    result: dict[str, Any] = {
        "catalogue": material.source.split()[0],
        "tracks": database.tracks,
        "systems": [],
        "latency": {},
    }
    result |= {"load_seconds": database.seconds, "errors": {}, "missed": []}
    by_class, by_stratum, by_mention = Scores(), Scores(), Scores()
    for system in systems_of(database, folder, peers):
        say(f"quality: {len(known):,} known items and {len(mentions):,} mentions by {system.name}")
        result["systems"].append(system.name)
        answers = ask_all(system, [Query(text=item["query"]) for item in known], runs=runs)
        result["latency"][system.name] = latency(answers)
        missed = _judge_known(known, answers, numbers=numbers, system=system, scores=(by_class, by_stratum))
        written = ask_all(system, [Query(text=item["query"]) for item in mentions], runs=1)
        missed += _judge_mentions(mentions, written, numbers=numbers, artists=artists, system=system, scores=by_mention)
        result["errors"][system.name] = errors([*answers, *written])
        if system.name == "audiocatalog":
            result["missed"] = missed
        system.close()
    result |= {"classes": by_class.figures(), "strata": by_stratum.figures(), "mentions": by_mention.figures()}
    return result


def _judge_known(
    items: list[dict[str, Any]],
    answers: list[Answer],
    *,
    numbers: dict[str, int],
    system: System,
    scores: tuple[Scores, Scores],
) -> list[dict[str, Any]]:
    """Score the answers by class and stratum, and return those whose first hit was not the expected one."""
    by_class, by_stratum = scores
    missed = []
    for item, answer in zip(items, answers, strict=True):
        expected = numbers_of(numbers, item["expected"])
        rank = by_class.of("all", system.name).add(answer, expected.__contains__)
        by_class.of(item["class"], system.name).add(answer, expected.__contains__)
        by_stratum.of(item["stratum"], system.name).add(answer, expected.__contains__)
        if rank != 1:
            missed.append({name: item[name] for name in ("qid", "query", "class", "stratum")} | {"rank": rank})
    return missed


def _judge_mentions(
    items: list[dict[str, Any]],
    answers: list[Answer],
    *,
    numbers: dict[str, int],
    artists: list[str],
    system: System,
    scores: Scores,
) -> list[dict[str, Any]]:
    """Score the answers by kind, and return those whose first hit was not the expected one."""
    missed = []
    for item, answer in zip(items, answers, strict=True):
        if item["kind"] == "artist":
            artist = normalised(item["artist"])
            hits = {number for number in answer.numbers if artist in artists[number]}
        else:
            hits = set(numbers_of(numbers, item["expected"]))
        rank = scores.of(item["kind"], system.name).add(answer, hits.__contains__)
        if rank != 1:
            missed.append({"query": item["query"], "class": item["kind"], "artist": item["artist"], "rank": rank})
    return missed


def normalised(name: str) -> str:
    """Return the letters and digits of *name*, in lower case, without accents: the judge's own reading of a name."""
    letters = unicodedata.normalize("NFKD", name.casefold())
    return "".join(letter for letter in letters if letter.isalnum()) or name.casefold()
