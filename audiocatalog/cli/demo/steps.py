"""
The code that the demo shows. The demo prints the body of each function, runs it and checks the returned claim.

The docstring and the last statement, which returns the claim, are not printed.
"""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from math import nan
from typing import Final, NamedTuple
from uuid import UUID

import click
import sqlalchemy
from sqlalchemy.exc import DBAPIError

from audiocatalog import Catalog, Claim, SearchFilters, SearchPage, TrackMetadata, TrackStatus
from audiocatalog.cli.text import counted
from audiocatalog.errors import InvalidInput, TransitionConflict

#: The id of the track that the demo follows.
IDIOTEQUE: Final = UUID("01920000-0000-7000-8000-00000001d107")

#: The id of the track whose worker is killed.
UPLOAD: Final = UUID("01920000-0000-7000-8000-00000000dead")
#: The lease of claims in the demo. A real lease is minutes long.
LEASE: Final = timedelta(seconds=0.3)
NOW: Final = datetime.now(UTC)

PENDING: Final = TrackStatus.PENDING
PROCESSING: Final = TrackStatus.PROCESSING

#: The tokens that killed workers have printed, by the name of the worker.
TOKEN_OF: Final[dict[str, int]] = {}

#: Queries as people type them, and the artists that must be on the first page.
QUERIES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("acdc", ("AC/DC",)),
    ("ac dc", ("AC/DC",)),
    ("pink", ("P!nk", "Pink Floyd")),
    ("p!nk", ("P!nk",)),
    ("bjork", ("Björk",)),
    ("sigur ros", ("Sigur Rós",)),
    ("the the", ("The The",)),
    ("the who", ("The Who",)),
    ("yes", ("Yes",)),
    ("!!!", ("!!!",)),
    ("rem", ("R.E.M.",)),
    ("blink182", ("blink-182",)),
    ("guns n roses", ("Guns N' Roses",)),
    ("宇多田", ("宇多田ヒカル",)),
    ("ヒカル", ("宇多田ヒカル",)),
    ("кино", ("Кино",)),
    ("방탄소년단", ("방탄소년단",)),
    ("αλεξιου", ("Χάρις Αλεξίου",)),
    ("ام كلثوم", ("أم كلثوم",)),
    ("עופרה חזה", ("עופרה חזה",)),
    ("คาราบาว", ("คาราบาว",)),
    ("किशोर", ("किशोर कुमार",)),
)

#: Queries with the syntax of SQL and of other search engines.
HOSTILE: Final = ('"', "'", "&|!():*<->", "((((", "rock & (", "\\", "a:*b", "'; DROP TABLE audio_tracks; --")


#: The titles that a query with a field, an exclusion and a range of years finds.
FOUND_PRECISELY: Final = {"Idioteque", "Paranoid Android"}


class Checked(NamedTuple):
    """Whether a claim *holds*, and the *answer* to print."""

    holds: bool
    answer: str


def save(catalog: Catalog) -> Checked:
    """Save a track."""
    with catalog.unit_of_work() as work:
        track = work.save(
            TrackMetadata(title="Idioteque", artist="Radiohead", album="Kid A", year=2000),
            id=IDIOTEQUE,
            audio_path="s3://demo/idioteque.flac",
            status=PENDING,
        )
    return Checked(
        (track.outcome, track.version) == ("inserted", 1), f"{track.outcome}, version {track.version}, {track.status}"
    )


def save_again(catalog: Catalog) -> Checked:
    """Save the same content under the same id."""
    with catalog.unit_of_work() as work:
        track = work.save(
            TrackMetadata(title="Idioteque", artist="Radiohead", album="Kid A", year=2000),
            id=IDIOTEQUE,
            audio_path="s3://demo/idioteque.flac",
        )
    return Checked((track.outcome, track.version) == ("unchanged", 1), f"{track.outcome}, version {track.version}")


def save_other_content(catalog: Catalog) -> None:
    """Save other content under the same id."""
    with catalog.unit_of_work() as work:
        work.save(TrackMetadata(title="Kid A"), id=IDIOTEQUE, audio_path="s3://x")


def make_bad_metadata(_: Catalog) -> None:
    """Make metadata with six bad fields."""
    values = {"title": "", "year": 99, "duration": nan, "channels": "2", "bitrate": True, "hue": 1}
    TrackMetadata.from_mapping(values)


def race(catalog: Catalog) -> Checked:
    """Let eight workers try to claim the track."""

    def take(worker: str) -> str:
        try:
            catalog.update_status(IDIOTEQUE, PROCESSING, expected=PENDING, actor=worker)
        except TransitionConflict as conflict:
            return str(conflict)
        return "won"

    with ThreadPoolExecutor(max_workers=8) as threads:
        answers = list(threads.map(take, [f"worker-{number}" for number in range(1, 9)]))
    lost = [answer for answer in answers if answer != "won"]
    return Checked(len(lost) == 7, f"{answers.count('won')} worker won, {len(lost)} got this error: {lost[0]}")  # noqa: PLR2004


def complete(catalog: Catalog) -> Checked:
    """Complete the track."""
    change = catalog.update_status(IDIOTEQUE, TrackStatus.COMPLETED, reason="tags extracted")
    track = catalog.get(IDIOTEQUE)
    return Checked(
        track.status is TrackStatus.COMPLETED, f"{change.from_status} to {change.to_status}, version {track.version}"
    )


def take_and_die(url: str) -> None:
    """Claim a track and kill the current process, which is not the demo's main process."""
    with Catalog(url, actor="ann") as catalog:
        (claim,) = catalog.claim(limit=1, lease=LEASE)
        click.echo(f"attempt {claim.attempt}, token {claim.token}")
        os.kill(os.getpid(), signal.SIGKILL)


def register_a_track(catalog: Catalog) -> Checked:
    """Register a track for workers."""
    with catalog.unit_of_work() as work:
        upload = TrackMetadata(title="Upload")
        track = work.save(upload, id=UPLOAD, audio_path="s3://demo/1", status=PENDING)
    return Checked(track.status is PENDING, str(track.status))


def work_on(catalog: Catalog) -> Checked:
    """Let another worker claim the track of the dead worker."""
    time.sleep(LEASE.total_seconds())
    worker = catalog.worker(worker="bob", poll=0.05)
    for claim in worker:
        catalog.complete(claim, TrackMetadata(title="Jigsaw", artist="The Demos"))
        worker.stop()
    return Checked(
        (claim.track.id, claim.attempt) == (UPLOAD, 2),
        f"attempt {claim.attempt}, token {claim.token}; the last error was: {claim.last_error}",
    )


def come_too_late(catalog: Catalog) -> None:
    """Complete the track in the name of the dead worker, with its token."""
    track = catalog.get(UPLOAD)
    late = Claim(track, TOKEN_OF["ann"], worker="ann", attempt=1, expires_at=NOW, last_error=None)
    catalog.complete(late, TrackMetadata(title="Wrong"))


def fail_at_work(catalog: Catalog) -> Checked:
    """Let a handler fail."""

    def extract(claim: Claim) -> TrackMetadata:
        raise ValueError(f"no audio in {claim.track.audio_path}")

    with catalog.unit_of_work() as work:
        track = work.save(TrackMetadata(title="Silence"), audio_path="s3://demo/2", status=PENDING)
    done = catalog.worker(until_empty=True).run(extract)
    again = catalog.claim()
    with catalog.unit_of_work() as work:
        change = work.history(track.id)[-1]
    return Checked(
        (done, again, change.to_status) == (0, [], PENDING) and change.attempt == 1,
        f"{done} done; {change.from_status} to {change.to_status} after attempt {change.attempt}: {change.reason}\n"
        "no worker gets the track before its next attempt is due",
    )


def break_the_rules(catalog: Catalog) -> None:
    """Make a move that is not allowed."""
    catalog.update_status(IDIOTEQUE, TrackStatus.FAILED)


def fail_half_way(catalog: Catalog) -> Checked:
    """End a unit of work with an exception."""
    before = count(catalog)
    try:
        with catalog.unit_of_work() as work:
            for number in range(100):
                work.save(TrackMetadata(title=f"Take {number}"), audio_path=f"s3://demo/{number}")
            inside = work.session.scalar(sqlalchemy.text("SELECT count(*) FROM audio_tracks"))
            work.save(TrackMetadata(title="Take 100", year=99), audio_path="s3://demo/100")
    except InvalidInput:
        after = count(catalog)
    return Checked(
        (inside, after) == (before + 100, before),
        f"{before} tracks before, {inside} inside the unit of work, {after} after it",
    )


def swallow_an_error(catalog: Catalog) -> None:
    """Ignore an error of the database."""
    with catalog.unit_of_work() as work:
        work.save(TrackMetadata(title="Lost in the Void"), audio_path="s3://demo/void")
        with suppress(DBAPIError):
            # PostgreSQL has discarded the transaction, but a COMMIT would raise no error.
            work.session.execute(sqlalchemy.text("SELECT 1 / 0"))


def search_with_filters(catalog: Catalog) -> SearchPage:
    """Search with filters."""
    filters = SearchFilters(year=(1990, 1999), format=["mp3", "flac"], duration=(None, 240))
    page = catalog.search("rock", filters=filters, limit=5)
    return page  # noqa: RET504  # The demo prints the line above, but not this one.


def search_with_malice(catalog: Catalog) -> Checked:
    """Search for text with the syntax of SQL and of other search engines."""
    for query in HOSTILE:
        catalog.search(query)
    total = count(catalog)
    return Checked(total > 0, f"{len(HOSTILE)} answers, no error, and still {counted(total, 'track')}")


def search_misspelt(catalog: Catalog) -> SearchPage:
    """Search for misspelt words."""
    page = catalog.search("raidohead idioteqe", limit=1)
    return page  # noqa: RET504


def search_while_typing(catalog: Catalog) -> Checked:
    """Search at each keystroke."""
    pages = [catalog.search(typed) for typed in ("bj", "bjo", "bjor", "bjork h", "bjork hy")]
    titles = [f"{page.hits[0].track.artist}, {page.hits[0].track.title}" for page in pages]
    return Checked(
        all(title.startswith("Björk") for title in titles) and titles[-1].endswith("Hyperballad"),
        f"{titles[0]} ... {titles[-1]}",
    )


def search_precisely(catalog: Catalog) -> SearchPage:
    """Search with a field, an exclusion and a range of years."""
    page = catalog.search("artist:radiohead -creep year:1990..2000")
    return page  # noqa: RET504


def ask_why(catalog: Catalog) -> Checked:
    """Ask why a track is not found."""
    creep = catalog.search("radiohead creep").hits[0].track
    explanation = catalog.explain("artist:radiohead -creep year:1990..2000", creep.id)
    return Checked(
        explanation.position is None and "excludes: 'creep'" in explanation.reason,
        str(explanation),
    )


def count_decades(catalog: Catalog) -> SearchPage:
    """Count the hits by decade."""
    page = catalog.search("love", limit=1, facets=["decade"])
    return page  # noqa: RET504


def turn_a_page(catalog: Catalog) -> Checked:
    """Save a track between two pages."""
    before = catalog.search("rock", limit=40)
    first = catalog.search("rock", limit=20)
    with catalog.unit_of_work() as work:
        work.save(TrackMetadata(title="Rock", artist="Rock"), audio_path="s3://demo/rock")
    second = catalog.search("rock", limit=20, after=first.next_cursor)
    pages = [hit.track.id for page in (first, second) for hit in page]
    now = catalog.search("rock", limit=40)
    return Checked(
        pages == [hit.track.id for hit in before] != [hit.track.id for hit in now],
        f"a new track is among the first {len(now)} now, and the two pages hold the same {len(pages)} as before",
    )


def count(catalog: Catalog) -> int:
    """Return how many tracks there are."""
    return sum(status.tracks for status in catalog.count_by_status())
