"""The command rebuild."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Final, Self

import click

from audiocatalog.cli import output
from audiocatalog.cli.failures import Failure
from audiocatalog.cli.options import as_json
from audiocatalog.cli.progress import progress_reporter
from audiocatalog.cli.target import Target
from audiocatalog.cli.text import about, counted, time_span
from audiocatalog.errors import PermissionDenied
from audiocatalog.migrations.vector_rebuild import Progress, Rebuilt, VectorPlan, plan_rebuild
from audiocatalog.migrations.vector_rebuild import rebuild as rebuild_vectors

_NOTHING: Final = "every search vector is complete: nothing to rebuild"
_MEGABYTE: Final = 1_000_000
_NO_OWNER: Final = (
    "this database role does not own the tables of audiocatalog: use the URL of the one that upgrades them"
)


@click.command()
@click.option("--dry-run", is_flag=True, help="Say what is to be done and how much disk it takes; change nothing.")
@click.option("--all", "everything", is_flag=True, help="Look at each vector, also where nothing seems to be missing.")
@click.option("--rate", metavar="N", type=click.FloatRange(1), help="Fill no more than N tracks in a second.")
@as_json
@click.pass_obj
def rebuild(target: Target, *, dry_run: bool, everything: bool, rate: float | None, as_json: bool) -> None:
    """
    Make the search vectors that an upgrade brought.

    It does so while services work: nobody waits who reads, and who writes a track for some 40 ms at the most. Vectors
    of a new version are filled in beside those that searches use until newer code is deployed, then their indexes are
    built. A column that an upgrade took out of use is emptied. Interrupted at any moment, it goes on when it is run
    again.

    Run it after the upgrade, as the owner of the tables:

    \b
      audiocatalog upgrade && audiocatalog rebuild
    """  # noqa: D301  # Click needs the character itself: it keeps the lines of a paragraph.
    begin = time.monotonic()
    done: list[Rebuilt] = []
    try:
        with target.database() as url:
            plans = plan_rebuild(url, everything=everything)
            if plans and not dry_run:
                with _Screen(plans) as screen:
                    done = rebuild_vectors(url, everything=everything, rate=rate, report=screen.show)
    except PermissionDenied:
        raise Failure(_NO_OWNER) from None
    seconds = time.monotonic() - begin
    if as_json:
        output.print_json(
            {"plan": [dataclasses.asdict(plan) for plan in plans]}
            if dry_run
            else {"columns": [dataclasses.asdict(column) for column in done], "seconds": round(seconds, 3)}
        )
        return
    lines = [_planned(plan) for plan in plans] if dry_run else [_told(column) for column in done]
    click.echo("\n".join(lines or [_NOTHING]))


class _Screen:
    """Show on stderr what is to be done, and how far it is."""

    def __init__(self, plans: Sequence[VectorPlan]) -> None:
        self._plans = plans
        self._reporter = progress_reporter("rebuilding", "track", plans[0].tracks or None)
        self._step = ""

    def __enter__(self) -> Self:
        self._reporter.__enter__()
        for plan in self._plans:
            self._reporter.say(_planned(plan))
        return self

    def __exit__(self, *_: object) -> None:
        self._reporter.__exit__(None, None, None)

    def show(self, progress: Progress) -> None:
        """Print a line for each step; how many tracks one of many has looked at, the reporter shows in its own way."""
        begins = progress.step != self._step
        self._step = progress.step
        if progress.tracks is not None:
            if begins:
                self._reporter.begin(progress.step, 0, 0)
            self._reporter.update(progress.tracks, progress.tracks)
        elif begins:
            self._reporter.say(f"{progress.step} ...")


def _planned(plan: VectorPlan) -> str:
    parts = [f"{plan.column}: {'empty' if plan.is_spare else 'look at'} {about(plan.tracks)} tracks"]
    parts += [f"drop {_indexes(plan.to_drop)}"] if plan.to_drop else []
    parts += [f"build {_indexes(plan.to_build)}"] if plan.to_build else []
    parts += [f"which takes up to {math.ceil(plan.size / _MEGABYTE):,} MB of disk"] if plan.size else []
    return ", ".join(parts)


def _told(column: Rebuilt) -> str:
    parts = [f"{column.column}: {counted(column.tracks, 'track')}, {column.filled:,} of them changed"]
    parts += [f"{_indexes(column.dropped)} dropped"] if column.dropped else []
    parts += [f"{_indexes(column.built)} built"] if column.built else []
    return f"{', '.join(parts)} in {time_span(column.seconds)}"


def _indexes(names: Sequence[str]) -> str:
    return f"{len(names)} index{'' if len(names) == 1 else 'es'}"
