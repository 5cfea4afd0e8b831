"""The commands of `vocabulary`, and the counting of the words at the end of an import."""

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
    """Hold a *vocabulary*, and how many *seconds* it took to count it."""

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
    Refresh the vocabulary of *catalog*; a terminal shows that this is under way.

    Raises:
        CatalogError: as ``Catalog.refresh_vocabulary`` says, which takes the *options*.
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
    # Of the ways to show this, "line" is one that every terminal's encoding has.
    with console.status(f"{_UNDER_WAY} ...", spinner="line"):
        yield


@click.group("vocabulary")
def vocabulary() -> None:
    """Keep the words that misspelt searches are compared with."""


@vocabulary.command()
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(0.001, _LONGEST),
    default=3600,
    show_default=True,
    help="Give up after this long; nothing is changed then.",
)
@as_json
@click.pass_obj
def refresh(target: Target, *, timeout: float, as_json: bool) -> None:
    """
    Count the words of all tracks anew.

    Searches look at these words where nothing matches as it was typed. The count blocks nobody and takes about a minute
    for ten million tracks. `audiocatalog import` does it at its end; do it too where services write, once a day or so.
    """
    with target.catalog() as catalog:
        if not Console(stderr=True).is_interactive:
            tell(f"{_UNDER_WAY} ...")
        try:
            count = count_words(catalog, timeout=timeout)
        except QueryTimeout:
            raise Failure(
                f"counting took longer than {timeout:g} s and was given up, nothing is changed: allow more by --timeout"
            ) from None
    if as_json:
        output.print_json(count.json())
    else:
        click.echo(str(count))
