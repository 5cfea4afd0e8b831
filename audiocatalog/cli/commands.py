"""The commands upgrade, show, status, history, stats and health."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import click

from audiocatalog import TrackStatus, migrations
from audiocatalog.cli import output, statistics
from audiocatalog.cli.failures import Failure, failure_of
from audiocatalog.cli.options import as_json, inputs_by_option, read_span, status_choice
from audiocatalog.cli.target import Target
from audiocatalog.errors import CatalogError, ConfigurationError, QueryTimeout


@click.command()
@click.option(
    "--lock-timeout",
    type=click.FloatRange(min=0.1),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="The longest wait for a lock or for another upgrade.",
)
@as_json
@click.pass_obj
def upgrade(target: Target, lock_timeout: float, *, as_json: bool) -> None:
    """Create the schema in the database, or upgrade it."""
    with target.database() as url:
        before = migrations.current(url)
        migrations.upgrade(url, lock_timeout=lock_timeout)
        after = migrations.current(url)
    done = f"was upgraded from {before or 'an empty database'} to {after}"
    text = f"the schema {f'is already at {after}' if before == after else done}"
    output.show({"from": before, "to": after}, text, as_json=as_json)


@click.command()
@click.argument("id", type=click.UUID)
@as_json
@click.pass_obj
def show(target: Target, id: UUID, *, as_json: bool) -> None:  # noqa: A002
    """Show everything about the track with this ID."""
    with target.catalog() as catalog:
        track = catalog.get(id)
    output.show(output.track_json(track), lambda: output.print_track(track), as_json=as_json)


@click.command()
@click.argument("id", type=click.UUID)
@click.argument("new", type=status_choice)
@click.option("--reason", help="The reason that the history records.")
@click.option("--expected", type=status_choice, help="Refuse the move unless the track has this status.")
@click.option("--operation-id", type=click.UUID, help="A UUID that makes this move safe to repeat.")
@as_json
@click.pass_obj
def status(target: Target, /, id: UUID, new: str, expected: str | None, *, as_json: bool, **options: Any) -> None:  # noqa: A002, ANN401
    """Move the track with this ID to a NEW status."""
    with target.catalog() as catalog:
        start = None if expected is None else TrackStatus(expected)
        change = catalog.update_status(id, TrackStatus(new), expected=start, **options)
    output.show_change(change, as_json=as_json)


@click.command()
@click.argument("id", type=click.UUID)
@as_json
@click.pass_obj
def history(target: Target, id: UUID, *, as_json: bool) -> None:  # noqa: A002
    """Show how the track with this ID moved through its statuses."""
    with target.catalog() as catalog:
        changes = catalog.history(id)
    if as_json:
        for change in changes:
            output.print_json(output.history_json(change))
    else:
        output.print_history(changes, datetime.now(UTC))


@click.command()
@click.option(
    "--since",
    metavar="TIME",
    callback=read_span,
    default="24h",
    show_default=True,
    help="Show the activity of the last 90s, 5m, 1h30m or 7d.",
)
@as_json
@click.pass_obj
def stats(target: Target, *, since: timedelta, as_json: bool) -> None:
    """Count the tracks by status, and show recent activity."""
    try:
        with inputs_by_option(), target.catalog() as catalog:
            counts, activity = catalog.count_by_status(), catalog.activity(since, statistics.PARTS)
    except QueryTimeout:
        raise Failure(
            "counting took too long: shorten --since, or raise the seconds in AUDIOCATALOG_STATEMENT_TIMEOUT"
        ) from None
    if as_json:
        output.print_json(statistics.counts_json(counts) | {"activity": statistics.activity_json(activity)})
    else:
        statistics.print_counts(counts, activity.until)
        statistics.print_activity(activity)


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
    value = {"healthy": True, **dataclasses.asdict(found)}
    output.show(value, lambda: output.print_health(found), as_json=as_json)
