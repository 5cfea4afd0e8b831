"""The commands upgrade, search, show, status, history, stats and health."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import click

from audiocatalog import SearchFilters, TrackStatus, migrations
from audiocatalog.cli import output
from audiocatalog.cli.failures import Failure, failure_of
from audiocatalog.cli.target import Target
from audiocatalog.errors import CatalogError, ConfigurationError
from audiocatalog.search.statement import MAXIMUM_LIMIT, MAXIMUM_OFFSET

as_json: Final = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
_status: Final = click.Choice([str(status) for status in TrackStatus], case_sensitive=False)
_WHOLE: Final = "[0-9]{1,9}"
_DECIMAL: Final = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"


def _range(number: Callable[[str], float], pattern: str) -> Callable[..., Any]:
    """Return a callback that reads ``1990..1999``, ``1990..``, ``..1999`` or ``1990``; numbers match *pattern*."""
    form = re.compile(rf"({pattern})?(\.\.)?({pattern})?", re.ASCII)

    def read(context: click.Context, option: click.Parameter, text: str | None) -> Any:  # noqa: ANN401
        if text is None:
            return None
        match = form.fullmatch(text)
        if match is None or not (match[1] or match[3]):
            raise click.BadParameter(f"{text!r} is not a number, A..B, A.. or ..B", context, option)
        ends = [None if end is None else number(end) for end in (match[1], match[3])]
        return tuple(ends) if match[2] else ends[0]

    return read


@click.command()
@as_json
@click.pass_obj
def upgrade(target: Target, *, as_json: bool) -> None:
    """Create the schema of the database, or bring it up to date."""
    with target.database() as url:
        before = migrations.current(url)
        migrations.upgrade(url)
        after = migrations.current(url)
    if as_json:
        output.print_json({"from": before, "to": after})
    elif before == after:
        click.echo(f"already at {after}")
    else:
        click.echo(f"upgraded from {before or 'an empty database'} to {after}")


@click.command()
@click.argument("query", nargs=-1, required=True)
@click.option(
    "--limit", type=click.IntRange(1, MAXIMUM_LIMIT), default=20, show_default=True, help="At most this many hits."
)
@click.option("--offset", type=click.IntRange(0, MAXIMUM_OFFSET), default=0, help="Skip this many hits.")
@click.option("--status", type=_status, multiple=True, help="Only this status.")
@click.option("--genre", multiple=True, help="Only this genre.")
@click.option("--format", multiple=True, help="Only this format, such as flac.")
@click.option("--artist", multiple=True, help="Only this artist.")
@click.option("--album", multiple=True, help="Only this album.")
@click.option("--year", metavar="A..B", callback=_range(int, _WHOLE), help="Only 1999, 1990..1999, 1990.. or ..1999.")
@click.option(
    "--duration", metavar="A..B", callback=_range(float, _DECIMAL), help="Only this many seconds; ranges as for --year."
)
@as_json
@click.pass_obj
def search(
    target: Target,
    /,
    query: tuple[str, ...],
    limit: int,
    offset: int,
    *,
    as_json: bool,
    **filters: Any,  # noqa: ANN401  # Values of several types, which SearchFilters checks.
) -> None:
    """
    Find tracks by words of title, artist, album and genre.

    Case, accents and punctuation do not matter. Status, genre, format, artist and album can be given several times:
    a track matches if it has one of the values. Write -- before a word that begins with -.
    """
    given = {name: value for name, value in filters.items() if value not in (None, ())}
    with target.catalog() as catalog:
        page = catalog.search(
            " ".join(query), filters=SearchFilters(**given) if given else None, limit=limit, offset=offset
        )
    if as_json:
        for hit in page:
            output.print_json(output.hit_json(hit))
    else:
        output.print_page(page, offset)


@click.command()
@click.argument("id", type=click.UUID)
@as_json
@click.pass_obj
def show(target: Target, id: UUID, *, as_json: bool) -> None:  # noqa: A002
    """Show everything about the track with an ID."""
    with target.catalog() as catalog:
        track = catalog.get(id)
    if as_json:
        output.print_json(output.track_json(track))
    else:
        output.print_track(track)


@click.command()
@click.argument("id", type=click.UUID)
@click.argument("new", type=_status)
@click.option("--reason", help="Why, for the history.")
@click.option("--expected", type=_status, help="Move it only from this status.")
@click.option("--operation-id", type=click.UUID, help="A UUID for this move; a repeated move is done once.")
@as_json
@click.pass_obj
def status(target: Target, /, id: UUID, new: str, expected: str | None, *, as_json: bool, **options: Any) -> None:  # noqa: A002, ANN401
    """Move the track with an ID to a NEW status."""
    with target.catalog() as catalog:
        start = None if expected is None else TrackStatus(expected)
        change = catalog.update_status(id, TrackStatus(new), expected=start, **options)
    if as_json:
        output.print_json(output.change_json(change))
    else:
        output.print_change(change)


@click.command()
@click.argument("id", type=click.UUID)
@as_json
@click.pass_obj
def history(target: Target, id: UUID, *, as_json: bool) -> None:  # noqa: A002
    """Show how the track with an ID moved through its statuses."""
    with target.catalog() as catalog, catalog.unit_of_work() as work:
        changes = work.history(id)
    if as_json:
        for change in changes:
            output.print_json(output.change_json(change))
    else:
        output.print_history(changes, datetime.now(UTC))


@click.command()
@as_json
@click.pass_obj
def stats(target: Target, *, as_json: bool) -> None:
    """Count the tracks in each status."""
    with target.catalog() as catalog:
        counts = catalog.stats()
    if as_json:
        output.print_json(output.counts_json(counts))
    else:
        output.print_counts(counts, datetime.now(UTC))


@click.command()
@as_json
@click.pass_obj
@click.pass_context
def health(context: click.Context, target: Target, *, as_json: bool) -> None:
    """Check the server and the schema; exit with 1 on failure."""
    try:
        with target.catalog() as catalog:
            found = catalog.health()
    except ConfigurationError:
        raise
    except CatalogError as error:
        if not as_json:
            raise
        output.print_json({"healthy": False, "error": type(error).__name__, "message": failure_of(error).message})
        context.exit(Failure.exit_code)
    if as_json:
        output.print_json({"healthy": True, **dataclasses.asdict(found)})
    else:
        output.print_health(found)
