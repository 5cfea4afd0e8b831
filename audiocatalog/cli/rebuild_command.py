"""The command `rebuild`, which fills and indexes search vectors."""

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
from audiocatalog.migrations.vector_columns import VectorPlan
from audiocatalog.migrations.vector_rebuild import RebuildStep, Rebuilt, plan_rebuild
from audiocatalog.migrations.vector_rebuild import rebuild as rebuild_vectors

_NOTHING: Final = "every search vector is complete: nothing to rebuild"
_MEGABYTE: Final = 1_000_000
_NO_OWNER: Final = "this database role does not own audiocatalog's tables: use the URL of the role that runs `upgrade`"


@click.command()
@click.option("--dry-run", is_flag=True, help="Only print the steps and the disk space that they need.")
@click.option("--all", "everything", is_flag=True, help="Check every vector, even in columns that seem complete.")
@click.option("--rate", metavar="N", type=click.FloatRange(1), help="Fill at most N tracks per second.")
@as_json
@click.pass_obj
def rebuild(target: Target, *, dry_run: bool, everything: bool, rate: float | None, as_json: bool) -> None:
    """
    Build the search vectors that an upgrade introduced.

    The rebuild runs online: readers are not blocked, and a writer waits for at most about 40 ms. The rebuild fills the
    new vectors, builds their indexes, and empties columns that are no longer used. Searches use the new vectors when
    newer code is deployed. If a rebuild is interrupted, run the command again to continue.

    Run the command after the upgrade, as the owner of the tables:

    \b
      audiocatalog upgrade && audiocatalog rebuild
    """  # noqa: D301  # Click keeps the lines of a paragraph only after a real backspace character.
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
    value: dict[str, object] = {"plan": [dataclasses.asdict(plan) for plan in plans]}
    if not dry_run:
        value = {"columns": [dataclasses.asdict(column) for column in done], "seconds": round(seconds, 3)}
    lines = [_planned(plan) for plan in plans] if dry_run else [_told(column) for column in done]
    output.show(value, "\n".join(lines or [_NOTHING]), as_json=as_json)


class _Screen:
    """The plans of a rebuild and its progress, on stderr."""

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

    def show(self, progress: RebuildStep) -> None:
        """Print a line for each step. For a step that goes through tracks, show its progress."""
        begins = progress.step != self._step
        self._step = progress.step
        if progress.tracks is not None:
            if begins:
                self._reporter.begin(progress.step, 0, 0)
            self._reporter.update(progress.tracks, progress.tracks)
        elif begins:
            self._reporter.say(f"{progress.step} ...")


def _planned(plan: VectorPlan) -> str:
    parts = [f"{plan.column}: {'empty' if plan.is_spare else 'check'} {about(plan.tracks)} tracks"]
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
