"""The demo: a short story for somebody who has never seen this project, in which every claim is checked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import click
from rich.text import Text

from audiocatalog import Catalog
from audiocatalog.cli import story
from audiocatalog.cli.commands import history, stats, upgrade
from audiocatalog.cli.import_command import import_file
from audiocatalog.cli.importing import read_records
from audiocatalog.cli.plan import Plan
from audiocatalog.cli.stage import Stage
from audiocatalog.cli.target import Target
from audiocatalog.errors import IllegalTransition, InvalidInput, SaveConflict, TransactionAborted

_ARTISTS_SHOWN: Final = 4


@click.command("demo")
@click.pass_obj
def tell_story(target: Target) -> None:
    """See it all work, on a server that is thrown away."""
    # Imported here because no other command needs it without --local.
    from audiocatalog.embedded import EmbeddedPostgres  # noqa: PLC0415

    begin = time.monotonic()
    stage = Stage()
    stage.title("audiocatalog: the catalogue of an audio pipeline, in PostgreSQL")
    stage.say(
        "A private PostgreSQL is being started for this demo. It is removed at the end, and nothing else is touched."
    )
    if target.url or target.local:
        stage.say("The database that you named is left alone.")
    with EmbeddedPostgres() as server:
        url = server.url("postgres")
        with Catalog(url, actor="demo", pool_size=8) as catalog:
            _tell(stage, catalog, Target(url, None, "demo"))
    (socket,) = parse_qs(urlsplit(url).query)["host"]
    stage.check(holds=not Path(socket).exists(), claim="the server is removed")
    stage.title("The end")
    seconds = time.monotonic() - begin
    stage.say(f"{stage.claims} claims were checked and held, in {seconds:.1f} s. The server is gone, with its files.")
    stage.say("Next: a catalogue of your own. It is the Quick start in README.md.")
    stage.code(
        "audiocatalog --local music upgrade\n"
        f"audiocatalog --local music import {_shown(tracks())}\n"
        "audiocatalog --local music search sigur ros"
    )


def _tell(stage: Stage, catalog: Catalog, target: Target) -> None:
    for number, (title, chapter) in enumerate(_CHAPTERS, 1):
        stage.title(f"{number}  {title}")
        chapter(stage, catalog, target)


def _import(stage: Stage, catalog: Catalog, target: Target) -> None:
    path = tracks()
    stage.say("The commands are given --url, which names the database of the demo and is left out here.")
    stage.run("audiocatalog upgrade", upgrade, [], target)
    stage.run(f"audiocatalog import {_shown(path)}", import_file, [str(path)], target)
    imported = story.count(catalog)
    with path.open("rb") as file:
        rows = sum(1 for _ in read_records(file, "csv", Plan()))
    stage.check(holds=imported == rows, claim="every row of the file is a track")
    stage.say("A file can be imported again: what is there already stays as it is.")
    stage.run(f"audiocatalog import {_shown(path)}", import_file, [str(path)], target)
    stage.check(holds=story.count(catalog) == imported, claim="a second import adds nothing")


def _save(stage: Stage, catalog: Catalog, _: Target) -> None:
    stage.say("From here on it is Python. A service makes one catalogue, and keeps it.")
    stage.code('catalog = Catalog(url, actor="demo")')
    stage.say("A unit of work is one transaction: it commits at its end, or rolls back on any exception.")
    stage.act(story.save, catalog)
    stage.say("A save can be repeated, after a time-out say: the same content changes nothing.")
    stage.act(story.save_again, catalog)
    stage.say("Other content under the same id is no accident that is let pass.")
    stage.refusal(story.save_other_content, catalog, SaveConflict)
    stage.say("Metadata is checked where it is made, and every bad field is named at once.")
    error = stage.refusal(story.make_bad_metadata, catalog, InvalidInput)
    fields = {problem.field for problem in error.problems}
    stage.check(holds=len(fields) == 6, claim="all six bad fields are named")  # noqa: PLR2004


def _move(stage: Stage, catalog: Catalog, target: Target) -> None:
    stage.say("Eight workers reach for the same track at once. One gets it.")
    stage.act(story.race, catalog)
    stage.say("The winner says when it is done.")
    stage.act(story.complete, catalog)
    stage.say("There is one table of moves, also in the database. What it does not hold cannot happen.")
    stage.refusal(story.break_the_rules, catalog, IllegalTransition)
    stage.say("Who moved the track, when and why was written by the statements that moved it.")
    stage.run(f"audiocatalog history {story.IDIOTEQUE}", history, [str(story.IDIOTEQUE)], target)
    with catalog.unit_of_work() as work:
        moves = [str(change.to_status) for change in work.history(story.IDIOTEQUE)]
    stage.check(holds=moves == ["PENDING", "PROCESSING", "COMPLETED"], claim="the history holds three moves")


def _abort(stage: Stage, catalog: Catalog, _: Target) -> None:
    stage.say("A unit of work that fails half-way leaves no trace.")
    stage.act(story.fail_half_way, catalog)
    stage.say("Nor does one that goes on after an error of the database, and it says so.")
    before = story.count(catalog)
    stage.refusal(story.swallow_an_error, catalog, TransactionAborted)
    stage.check(holds=story.count(catalog) == before, claim="nothing of an aborted unit of work is kept")


def _search(stage: Stage, catalog: Catalog, _: Target) -> None:
    stage.code("page = catalog.search(query)")
    table = stage.output.table("query", "tracks", "artists found", right=("tracks",))
    for query, wanted in story.QUERIES:
        page = catalog.search(query, limit=10)
        artists = list(dict.fromkeys(hit.track.artist or "" for hit in page))
        # The artists who were meant come first, so that none of them is cut off.
        artists.sort(key=lambda artist, wanted=wanted: artist not in wanted)  # type: ignore[misc]
        more = ", ..." if page.total > len(page) or len(artists) > _ARTISTS_SHOWN else ""
        table.add_row(Text(query, "cyan"), f"{page.total}", ", ".join(artists[:_ARTISTS_SHOWN]) + more)
        stage.check(holds=set(wanted) <= set(artists), claim=f"{query!r} finds {', '.join(wanted)}")
    stage.output.print()
    stage.output.lay_out(table)
    stage.say("Filters narrow a search.")
    tracks = [hit.track for hit in stage.search(story.search_with_filters, catalog)]
    fit = [
        track.year in range(1990, 2000) and track.format in {"mp3", "flac"} and (track.duration or 999) <= 240  # noqa: PLR2004
        for track in tracks
    ]
    stage.check(holds=bool(fit) and all(fit), claim="every hit meets the filters")
    stage.say("No text is an error, whatever it would mean to PostgreSQL. HOSTILE is:")
    stage.code("   ".join(story.HOSTILE))
    stage.act(story.search_with_malice, catalog)


def _look(stage: Stage, _: Catalog, target: Target) -> None:
    stage.run("audiocatalog stats", stats, [], target)


def tracks() -> Path:
    """Return the file of the examples: the repository's, where the package lies in it, or else the wheel's."""
    package = Path(__file__).resolve().parents[1]
    if (package.parent / "pyproject.toml").exists():
        return package.parent / "examples" / "tracks.csv"
    return package / "_examples" / "tracks.csv"


def _shown(path: Path) -> str:
    """Return *path* as somebody here would type it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


_CHAPTERS: Final[tuple[tuple[str, Callable[[Stage, Catalog, Target], None]], ...]] = (
    ("A database and some tracks", _import),
    ("Saving", _save),
    ("Statuses: PENDING, PROCESSING, COMPLETED, FAILED", _move),
    ("All or nothing", _abort),
    ("Searching for music as people type it", _search),
    ("And how is it going?", _look),
)
