"""The commands claim, complete, fail, renew and release. A worker in any language can use them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import click
from rich.text import Text

from audiocatalog import Catalog, Claim, StatusChange, TrackMetadata
from audiocatalog.cli import output
from audiocatalog.cli.failures import Failure
from audiocatalog.cli.options import as_json, inputs_by_option, read_span
from audiocatalog.cli.output import Output
from audiocatalog.cli.target import Target
from audiocatalog.cli.text import counted
from audiocatalog.errors.printing import escaped
from audiocatalog.models.claim import CLAIM_ORDERS
from audiocatalog.operations.claims import MAX_CLAIMS

_LEASE: Final = click.option(
    "--lease",
    metavar="TIME",
    callback=read_span,
    default="5m",
    show_default=True,
    help="The length of the lease from now: 90s, 5m, 1h30m.",
)
_TOKEN: Final = click.argument("token", type=click.IntRange(1, 2**63 - 1))
#: On a terminal at least this wide, a claim and its path fit on one line.
_WIDE: Final = 132


@click.command()
@click.option(
    "--limit", type=click.IntRange(1, MAX_CLAIMS), default=1, show_default=True, help="The maximum number of tracks."
)
@_LEASE
@click.option("--worker", metavar="NAME", help="The worker that the history records; default: the actor.")
@click.option(
    "--order",
    "order_by",
    type=click.Choice(CLAIM_ORDERS),
    default="oldest",
    show_default=True,
    help="The order in which waiting tracks are claimed.",
)
@as_json
@click.pass_obj
def claim(target: Target, /, *, as_json: bool, **options: Any) -> None:  # noqa: ANN401  # Values of several types.
    """
    Claim waiting tracks to work on.

    No other worker gets a claimed track until its lease expires. End the claim with `complete`, `fail` or `release`, or
    extend the lease with `renew`. These commands need the id and the token of the claim. With --json, each claim is one
    line:

    \b
      audiocatalog claim --json --lease 10m | while read -r claim; do
        set -- $(echo "$claim" | jq -r '.id, .token')
        extract "$(echo "$claim" | jq -r .audio_path)" > found.json &&
          audiocatalog complete "$1" "$2" --metadata found.json ||
          audiocatalog fail "$1" "$2" --error "cannot be read"
      done
    """  # noqa: D301  # Click keeps the lines of a paragraph only after a real backspace character.
    with inputs_by_option(), target.catalog() as catalog:
        claims = catalog.claim(**options)
    if as_json:
        for one in claims:
            output.print_json(_claim_json(one))
    elif claims:
        _print_claims(claims)
    else:
        click.echo("no track is waiting")


@click.command()
@click.argument("id", type=click.UUID)
@_TOKEN
@click.option(
    "--metadata",
    "file",
    metavar="FILE",
    type=click.File(encoding="utf-8"),
    help="Also store the metadata in FILE, one JSON object; - for stdin.",
)
@as_json
@click.pass_obj
def complete(target: Target, id: UUID, token: int, file: Any, *, as_json: bool) -> None:  # noqa: A002, ANN401
    """
    Complete a claimed track: its work is done.

    ID and TOKEN are those that `claim` printed.
    """
    metadata = None if file is None else TrackMetadata.from_mapping(_object_in(file))
    with target.catalog() as catalog:
        change = catalog.complete(_claim_of(catalog, target, id, token), metadata)
    output.show_change(change, as_json=as_json)


@click.command()
@click.argument("id", type=click.UUID)
@_TOKEN
@click.option("--error", metavar="TEXT", required=True, help="The error, for the history and the next attempt.")
@click.option("--no-retry", is_flag=True, help="Do not retry: the track becomes FAILED at once.")
@as_json
@click.pass_obj
def fail(target: Target, id: UUID, token: int, error: str, *, no_retry: bool, as_json: bool) -> None:  # noqa: A002
    """
    Record that the work on a claimed track failed.

    ID and TOKEN are those that `claim` printed. The track waits for its next attempt, longer after each failure. After
    the last attempt, or with --no-retry, the track becomes FAILED.
    """
    with inputs_by_option(), target.catalog() as catalog:
        change = catalog.fail(_claim_of(catalog, target, id, token), error, retry=not no_retry)
    output.show_change(change, as_json=as_json)


@click.command()
@click.argument("id", type=click.UUID)
@_TOKEN
@_LEASE
@as_json
@click.pass_obj
def renew(target: Target, /, id: UUID, token: int, *, as_json: bool, **options: Any) -> None:  # noqa: A002, ANN401
    """
    Extend the lease of a claim, counted from now.

    ID and TOKEN are those that `claim` printed.
    """
    with inputs_by_option(), target.catalog() as catalog:
        held = catalog.renew(_claim_of(catalog, target, id, token), **options)
    value = {"id": str(id), "token": token, "expires_at": held.expires_at.isoformat()}
    output.show(value, f"the lease ends at {output.moment(held.expires_at)}", as_json=as_json)


@click.command()
@click.argument("id", type=click.UUID, required=False)
@click.argument("token", type=click.IntRange(1, 2**63 - 1), required=False)
@click.option("--reason", metavar="TEXT", help="The reason that the history records.")
@click.option("--expired", is_flag=True, help="Release all tracks whose leases have expired.")
@click.option(
    "--limit", type=click.IntRange(1, MAX_CLAIMS), help="With --expired: the maximum number of tracks; default: 1000."
)
@as_json
@click.pass_obj
@click.pass_context
def release(
    context: click.Context,
    target: Target,
    /,
    *,
    id: UUID | None,  # noqa: A002
    token: int | None,
    reason: str | None,
    expired: bool,
    limit: int | None,
    as_json: bool,
) -> None:
    """
    Release a claimed track, or all tracks with expired leases.

    ID and TOKEN are those that `claim` printed. The track is PENDING again at once, and its attempt does not count.
    With --expired, a track whose lease has expired waits for its next attempt, or becomes FAILED after its last
    attempt. A worker loop also releases such tracks.
    """
    if expired:
        if id is not None or reason is not None:
            raise click.UsageError("--expired releases all expired tracks: leave ID, TOKEN and --reason out", context)
        with target.catalog() as catalog:
            changes = catalog.release_expired(limit or MAX_CLAIMS)
        _print_released(changes, as_json=as_json)
        return
    if id is None or token is None:
        raise click.UsageError("give the ID and the TOKEN of a claim, or --expired", context)
    if limit is not None:
        raise click.UsageError("--limit needs --expired: add --expired, or leave --limit out", context)
    with inputs_by_option(), target.catalog() as catalog:
        change = catalog.release(_claim_of(catalog, target, id, token), reason=reason)
    output.show_change(change, as_json=as_json)


def _claim_of(catalog: Catalog, target: Target, track_id: UUID, token: int) -> Claim:
    """Return the claim with *token*. The server compares only the token, so the other fields are placeholders."""
    track, now = catalog.get(track_id), datetime.now(UTC)
    return Claim(track, token, worker=target.who, attempt=1, expires_at=now, last_error=None)


def _object_in(file: Any) -> Mapping[str, Any]:  # noqa: ANN401  # An open text file.
    try:
        value = json.load(file)
    except (ValueError, RecursionError):
        raise Failure(f"--metadata: {file.name} is not valid JSON: correct the file") from None
    if not isinstance(value, dict):
        raise Failure(f"--metadata: {file.name} must hold one JSON object")
    return value


def _claim_json(claim: Claim) -> dict[str, Any]:
    """Return *claim* and the columns of its track, ready for JSON."""
    return output.track_json(claim.track) | {
        "token": claim.token,
        "worker": claim.worker,
        "attempt": claim.attempt,
        "expires_at": claim.expires_at.isoformat(),
        "last_error": claim.last_error,
    }


def _print_claims(claims: Sequence[Claim]) -> None:
    shown = Output()
    is_wide = shown.width >= _WIDE
    table = shown.table("id", "token", "try", "title", *(["path"] if is_wide else []), right=("token", "try"))
    for column in table.columns[:3]:
        column.no_wrap = True
    for one in claims:
        path = Text(escaped(one.track.audio_path), "dim")
        figures = (str(one.track.id), str(one.token), str(one.attempt), Text(escaped(one.track.title)))
        if is_wide:
            table.add_row(*figures, path)
        else:
            table.add_row(*figures)
            table.add_row("", "", "", path)
    shown.lay_out(table)


def _print_released(changes: Sequence[StatusChange], *, as_json: bool) -> None:
    if as_json:
        for change in changes:
            output.print_json(output.change_json(change))
        return
    if not changes:
        click.echo("no lease has expired")
        return
    failed = sum(change.to_status == "FAILED" for change in changes)
    rest = f"; {failed:,} had no attempts left and became FAILED" if failed else ""
    click.echo(f"released {counted(len(changes), 'track')}{rest}")
