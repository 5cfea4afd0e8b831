"""The commands of `vocabulary`, and the count of words at the end of an import."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import click
from rich.console import Console

from audiocatalog import Catalog, Vocabulary
from audiocatalog.cli import output
from audiocatalog.cli.failures import Failure, tell
from audiocatalog.cli.options import as_json
from audiocatalog.cli.target import Target
from audiocatalog.cli.text import counted
from audiocatalog.errors import QueryTimeout

_UNDER_WAY: Final = "counting the words of all tracks"
_LONGEST: Final = 86_400.0


class Count(NamedTuple):
    """A *vocabulary*, and the *seconds* that counting it took."""

    vocabulary: Vocabulary
    seconds: float

    def __str__(self) -> str:
        words, tracks = counted(self.vocabulary.words, "word"), counted(self.vocabulary.tracks, "track")
        return f"counted {words} of {tracks} in {self.seconds:.1f} s"

    def json(self) -> dict[str, Any]:
        """Return the count, ready for JSON."""
        return {
            "at": self.vocabulary.at.isoformat(),
            "tracks": self.vocabulary.tracks,
            "words": self.vocabulary.words,
            "seconds": round(self.seconds, 3),
        }


def count_words(catalog: Catalog, **options: float) -> Count:
    """
    Refresh the vocabulary of *catalog*, and show on a terminal that the count is under way.

    Raises:
        CatalogError: an error of ``Catalog.refresh_vocabulary``, which gets the *options*.
    """
    begin = time.monotonic()
    with _shown_as_under_way():
        vocabulary = catalog.refresh_vocabulary(**options)
    return Count(vocabulary, time.monotonic() - begin)


@contextmanager
def _shown_as_under_way() -> Iterator[None]:
    console = Console(stderr=True, highlight=False)
    if not console.is_interactive:
        yield
        return
    # Every terminal can show the spinner "line", because it is ASCII.
    with console.status(f"{_UNDER_WAY} ...", spinner="line"):
        yield


@click.group("vocabulary")
def vocabulary() -> None:
    """Maintain the words that correct misspelt searches."""


@vocabulary.command()
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(0.001, _LONGEST),
    default=3600,
    show_default=True,
    help="Stop after this time, and change nothing.",
)
@as_json
@click.pass_obj
def refresh(target: Target, *, timeout: float, as_json: bool) -> None:
    """
    Count the words of all tracks.

    If a search finds no track, it corrects its words by these counts. Counting blocks neither readers nor writers, and
    takes about a minute for ten million tracks. `audiocatalog import` counts the words at its end. If services write
    tracks, run this command about once a day.
    """
    with target.catalog() as catalog:
        if not Console(stderr=True).is_interactive:
            tell(f"{_UNDER_WAY} ...")
        try:
            count = count_words(catalog, timeout=timeout)
        except QueryTimeout:
            raise Failure(
                f"counting was stopped after {timeout:g} s, and nothing was changed: allow more time by --timeout"
            ) from None
    output.show(count.json(), str(count), as_json=as_json)
