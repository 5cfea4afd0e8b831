"""The demo: a short story for newcomers. The demo runs the code that is shown, and checks every claim of the story.

The code is in ``steps``. ``Stage`` prints the code and checks the claims. The functions after ``Stage`` are chapters.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

import click
from rich.text import Text

from audiocatalog import Catalog, SearchPage
from audiocatalog.cli.commands import history, stats, upgrade
from audiocatalog.cli.demo import steps as story
from audiocatalog.cli.failures import Failure
from audiocatalog.cli.importing.command import import_file
from audiocatalog.cli.importing.records import Plan, read_records
from audiocatalog.cli.output import Output
from audiocatalog.cli.pages import print_page
from audiocatalog.cli.target import Target
from audiocatalog.errors import (
    CatalogError,
    ClaimLost,
    IllegalTransition,
    InvalidInput,
    SaveConflict,
    TransactionAborted,
)
from audiocatalog.migrations import config_path

_WIDTH: Final = 100
_ARTISTS_SHOWN: Final = 4
_Error = TypeVar("_Error", bound=CatalogError)


@click.command("demo")
@click.pass_obj
def tell_story(target: Target) -> None:
    """Show what the catalogue does, on a temporary server."""
    # Imported here because only this command and --local need the server.
    from audiocatalog.embedded import EmbeddedPostgres  # noqa: PLC0415

    begin = time.monotonic()
    stage = Stage()
    stage.title("audiocatalog: the catalogue of an audio pipeline, in PostgreSQL")
    stage.say(
        "A private PostgreSQL server starts for this demo. It is removed at the end. No other database is changed."
    )
    if target.url or target.local:
        stage.say("The demo does not use the database that you named.")
    with EmbeddedPostgres() as server:
        url = server.url("postgres")
        with Catalog(url, actor="demo", pool_size=8) as catalog:
            _tell(stage, catalog, Target(url, None, "demo"))
    (socket,) = parse_qs(urlsplit(url).query)["host"]
    stage.check(holds=not Path(socket).exists(), claim="the server is removed")
    stage.title("The end")
    seconds = time.monotonic() - begin
    stage.say(f"{stage.claims} claims were checked, and all are true, in {seconds:.1f} s. The server was removed.")
    stage.say("Next, make a catalogue of your own. README.md explains how:")
    stage.code(
        "audiocatalog --local music upgrade\n"
        f"audiocatalog --local music import {_shown(tracks())}\n"
        "audiocatalog --local music search sigur ros"
    )


class Stage:
    """A printer of the story, which runs its code and fails if a claim does not hold."""

    def __init__(self) -> None:
        self.output = Output(_WIDTH)
        self.claims = 0

    def title(self, text: str) -> None:
        """Print the title of a chapter."""
        self.output.print()
        self.output.print(Text(text, "bold"))

    def say(self, text: str) -> None:
        """Print a sentence."""
        self.output.print()
        self.output.print(text)

    def code(self, text: str) -> None:
        """Print Python code or a command line."""
        self.output.print()
        self.output.print(Text(textwrap.indent(text, "    "), "cyan"))

    def check(self, *, holds: bool, claim: str) -> None:
        """Count *claim* if it *holds*; otherwise, end the demo."""
        if not holds:
            raise Failure(f"a claim of the demo does not hold: {claim}")
        self.claims += 1

    def run(self, shown: str, command: click.Command, arguments: Sequence[str], target: Target) -> None:
        """Run a *command* of this program, which prints its own output."""
        self.code(f"$ {shown}")
        # command.main would turn Ctrl-C into an error of click.
        with command.make_context(shown, list(arguments), obj=target) as context:
            try:
                command.invoke(context)
            except click.exceptions.Exit as end:
                self.check(holds=end.exit_code == 0, claim=f"`{shown}` succeeds")
        self.claims += 1

    def act(self, function: Callable[[Catalog], story.Checked], catalog: Catalog) -> None:
        """Print and run *function*, then print its answer and check its claim."""
        self.code(body_of(function))
        checked = function(catalog)
        self._answer(checked.answer, "green")
        self.check(holds=checked.holds, claim=checked.answer)

    def search(self, function: Callable[[Catalog], SearchPage], catalog: Catalog) -> SearchPage:
        """Print and run *function*, which searches; print and return what it finds."""
        self.code(body_of(function))
        page = function(catalog)
        self.output.print()
        # The option for the next page would mislead here, because this is not the command line.
        print_page(dataclasses.replace(page, next_cursor=None), output=self.output)
        return page

    def refusal(self, function: Callable[[Catalog], None], catalog: Catalog, expected: type[_Error]) -> _Error:
        """Print and run *function*, which must raise an *expected* error; print and return the error."""
        self.code(body_of(function))
        try:
            function(catalog)
        except expected as error:
            self._answer(f"{type(error).__name__}: {error}", "yellow")
            self.claims += 1
            return error
        raise Failure(f"a claim of the demo does not hold: {expected.__name__} is raised")

    def death(self, function: Callable[[str], None], target: Target, *, says: str) -> str:
        """
        Run *function* on the demo's database in another process, which must print *says* and then be killed.

        Return the output of the process.
        """
        call = f"import sys; from {function.__module__} import {function.__name__} as run; run(sys.argv[1])"
        arguments = [sys.executable, "-c", call, target.url or ""]
        # The process runs our own interpreter and our own function, without a shell.
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
        self._answer(f"{done.stdout.strip()}\nkilled by signal {-done.returncode}", "yellow")
        self.check(holds=done.returncode == -signal.SIGKILL, claim="the worker is killed")
        self.check(holds=done.stdout.startswith(says), claim=f"the worker first prints {says!r}")
        return done.stdout.strip()

    def _answer(self, text: str, style: str) -> None:
        arrow = self.output.symbol("→", "->")
        lines = [part for line in text.splitlines() for part in textwrap.wrap(line, self.output.width - 8)]
        for number, line in enumerate(lines):
            self.output.print(Text(f"    {arrow if number == 0 else ' ' * len(arrow)} {line}", style))


def body_of(function: Callable[..., Any]) -> str:
    """Return the source of *function* between its docstring and its last return."""
    source = textwrap.dedent(inspect.getsource(function))
    definition = next(node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef))
    shown = definition.body[1:-1] if isinstance(definition.body[-1], ast.Return) else definition.body[1:]
    return textwrap.dedent("\n".join(source.splitlines()[shown[0].lineno - 1 : shown[-1].end_lineno]))


def _tell(stage: Stage, catalog: Catalog, target: Target) -> None:
    for number, (title, chapter) in enumerate(_CHAPTERS, 1):
        stage.title(f"{number}  {title}")
        chapter(stage, catalog, target)


def _import(stage: Stage, catalog: Catalog, target: Target) -> None:
    path = tracks()
    stage.say("First the command line. The option --url, which names the demo's database, is not shown.")
    stage.run("audiocatalog upgrade", upgrade, [], target)
    stage.run(f"audiocatalog import {_shown(path)}", import_file, [str(path)], target)
    imported = story.count(catalog)
    with path.open("rb") as file:
        rows = sum(1 for _ in read_records(file, "csv", Plan()))
    stage.check(holds=imported == rows, claim="every row of the file is a track")
    stage.say("The same file can be imported again. Tracks that are there already stay as they are.")
    stage.run(f"audiocatalog import {_shown(path)}", import_file, [str(path)], target)
    stage.check(holds=story.count(catalog) == imported, claim="a second import adds nothing")


def _save(stage: Stage, catalog: Catalog, _: Target) -> None:
    stage.say("The rest is Python. A service makes one catalogue object and keeps it.")
    stage.code('catalog = Catalog(url, actor="demo")')
    stage.say("A unit of work is one transaction. It commits at its end, or rolls back on any exception.")
    stage.act(story.save, catalog)
    stage.say("A save can be repeated, for example after a timeout. The same content changes nothing.")
    stage.act(story.save_again, catalog)
    stage.say("A save of other content with the same id is refused.")
    stage.refusal(story.save_other_content, catalog, SaveConflict)
    stage.say("Metadata is checked when it is made. The error names every bad field.")
    error = stage.refusal(story.make_bad_metadata, catalog, InvalidInput)
    fields = {problem.field for problem in error.problems}
    stage.check(holds=len(fields) == 6, claim="all six bad fields are named")  # noqa: PLR2004


def _move(stage: Stage, catalog: Catalog, target: Target) -> None:
    stage.say("Eight workers try to move the same track to PROCESSING at once. Only one worker succeeds.")
    stage.act(story.race, catalog)
    stage.say("The winner does its work and marks the track as completed.")
    stage.act(story.complete, catalog)
    stage.say("One table lists the allowed moves, in Python and in the database. All other moves are refused.")
    stage.refusal(story.break_the_rules, catalog, IllegalTransition)
    stage.say("The history records the time, the actor and the reason of each move.")
    stage.run(f"audiocatalog history {story.IDIOTEQUE}", history, [str(story.IDIOTEQUE)], target)
    moves = [str(change.to_status) for change in catalog.history(story.IDIOTEQUE)]
    stage.check(holds=moves == ["PENDING", "PROCESSING", "COMPLETED"], claim="the history holds three moves")


def _die(stage: Stage, catalog: Catalog, target: Target) -> None:
    stage.say("Workers claim tracks. A claim has a lease, and a token that no other claim of the track ever has.")
    stage.act(story.register_a_track, catalog)
    stage.say("The worker ann is a separate process. It claims the track and is killed at once. LEASE is 0.3 s.")
    stage.code(body_of(story.take_and_die))
    story.TOKEN_OF["ann"] = int(stage.death(story.take_and_die, target, says="attempt 1, token ").split()[-1])
    status = catalog.get(story.UPLOAD).status
    stage.check(holds=status is story.PROCESSING, claim="the dead worker has left its track behind")
    stage.say("Another worker, bob, waits until the lease has expired, claims the track, and does the work.")
    stage.code('catalog = Catalog(url, actor="bob", retry_delay=0.05)')
    with Catalog(target.url or "", actor="bob", retry_delay=0.05) as second:
        stage.act(story.work_on, second)
    stage.say("If ann is only slow and still completes its claim, the call fails and changes nothing.")
    stage.refusal(story.come_too_late, catalog, ClaimLost)
    track = catalog.get(story.UPLOAD)
    stage.check(holds=(track.title, track.version) == ("Jigsaw", 5), claim="a late worker changes nothing")
    stage.run(f"audiocatalog history {story.UPLOAD}", history, [str(story.UPLOAD)], target)
    moves = [(str(change.to_status), change.actor, change.attempt) for change in catalog.history(story.UPLOAD)]
    expected = [
        ("PENDING", "demo", None),
        ("PROCESSING", "ann", 1),
        ("PENDING", "bob", 1),
        ("PROCESSING", "bob", 2),
        ("COMPLETED", "bob", 2),
    ]
    stage.check(holds=moves == expected, claim="the history shows the dead worker and the next worker")
    stage.say("After a failed attempt, the track waits for a retry: 10 s, then 20 s, 40 s, and so on.")
    stage.act(story.fail_at_work, catalog)


def _abort(stage: Stage, catalog: Catalog, _: Target) -> None:
    stage.say("A unit of work that fails half-way saves nothing.")
    stage.act(story.fail_half_way, catalog)
    stage.say("A unit of work also saves nothing if the code ignores a database error. The commit then fails.")
    before = story.count(catalog)
    stage.refusal(story.swallow_an_error, catalog, TransactionAborted)
    stage.check(holds=story.count(catalog) == before, claim="nothing of an aborted unit of work is kept")


def _search(stage: Stage, catalog: Catalog, _: Target) -> None:
    stage.say("Users often leave out accents and punctuation. Each line of the table is one search.")
    stage.code("page = catalog.search(query)")
    table = stage.output.table("query", "tracks", "artists found", right=("tracks",))
    for query, wanted in story.QUERIES:
        page = catalog.search(query, limit=10)
        artists = list(dict.fromkeys(hit.track.artist or "" for hit in page))
        # The expected artists come first, so that none of them is cut off.
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
    stage.say("Any text can be searched for, even text with the syntax of PostgreSQL. HOSTILE is this list:")
    stage.code("   ".join(story.HOSTILE))
    stage.act(story.search_with_malice, catalog)


def _search_further(stage: Stage, catalog: Catalog, _: Target) -> None:
    stage.say("A misspelt search finds similarly spelled words. The import counted these words.")
    page = stage.search(story.search_misspelt, catalog)
    stage.check(holds=page.suggestion == "radiohead idioteque", claim="the page suggests the corrected query")
    stage.check(holds=page.hits[0].track.title == "Idioteque", claim="the intended track is the first hit")
    stage.say("The last word also matches longer words, so a service can search at each keystroke.")
    stage.act(story.search_while_typing, catalog)
    stage.say("A query can limit a word to a field, exclude a word, and limit the year to a range.")
    found = {hit.track.title for hit in stage.search(story.search_precisely, catalog)}
    stage.check(holds=found == story.FOUND_PRECISELY, claim="field, exclusion and range are kept")
    stage.say("Why is Creep missing? The catalogue explains why a search finds a track, or why not.")
    stage.act(story.ask_why, catalog)


def _browse(stage: Stage, catalog: Catalog, _: Target) -> None:
    stage.say("Facets count the hits by genre, decade, artist, format or status.")
    page = stage.search(story.count_decades, catalog)
    decades = page.facets["decade"]
    counted = sum(value.tracks for value in decades.values)
    stage.check(holds=decades.is_exact and counted == page.total, claim="every hit is counted in one decade")
    stage.say("A page begins after the last hit of the previous page, even if tracks were saved in between.")
    stage.act(story.turn_a_page, catalog)


def _look(stage: Stage, _: Catalog, target: Target) -> None:
    stage.say("How many tracks are in each status, and what happened lately?")
    stage.run("audiocatalog stats", stats, [], target)


def tracks() -> Path:
    """Return the file of example tracks."""
    folder = config_path().parent
    in_repository = folder / "examples" / "tracks.csv"
    # A wheel has the two folders _migrations and _examples side by side.
    return in_repository if in_repository.exists() else folder.with_name("_examples") / "tracks.csv"


def _shown(path: Path) -> str:
    """Return *path* as a user would type it in the current folder."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


_CHAPTERS: Final[tuple[tuple[str, Callable[[Stage, Catalog, Target], None]], ...]] = (
    ("A database and some tracks", _import),
    ("Saving", _save),
    ("Statuses: PENDING, PROCESSING, COMPLETED, FAILED", _move),
    ("A worker dies", _die),
    ("All or nothing", _abort),
    ("Searching for music as people type it", _search),
    ("Typing errors, half-typed words, and precise queries", _search_further),
    ("Browsing", _browse),
    ("Counting", _look),
)
