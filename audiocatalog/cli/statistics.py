"""The output of `stats`: tracks by status, recent activity, and advice on stuck tracks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from audiocatalog import Activity, StatusCount
from audiocatalog.cli.output import Output, plain
from audiocatalog.cli.text import counted, time_span
from audiocatalog.errors.printing import escaped

#: The number of parts of the period. Each part is one character of a sparkline.
PARTS: Final = 24
_BAR: Final = 18
_LEVELS: Final = "▁▂▃▄▅▆▇█"
_PLAIN_LEVELS: Final = ":-=+*#%@"
_WORKERS_SHOWN: Final = 10
#: The minimum width of these tables, and the width below which they show ages without times.
_NARROWEST: Final = 50
_WITH_TIMES: Final = 72


def counts_json(counts: Iterable[StatusCount]) -> dict[str, Any]:
    """Return the counts by status, ready for JSON."""
    return {count.status: {"tracks": count.tracks, "oldest": plain(count.oldest)} for count in counts}


def activity_json(activity: Activity) -> dict[str, Any]:
    """Return *activity*, ready for JSON. Durations are in seconds."""
    return _ready(dataclasses.asdict(activity))  # type: ignore[no-any-return]  # A dict stays one.


def _ready(value: Any) -> Any:  # noqa: ANN401  # Values of any type in an Activity.
    match value:
        case dict():
            return {name: _ready(one) for name, one in value.items()}
        case tuple():
            return [_ready(one) for one in value]
        case timedelta():
            return value.total_seconds()
        case _:
            return plain(value)


def print_counts(counts: Sequence[StatusCount], now: datetime) -> None:
    """Print how many tracks are in each status."""
    output = Output(least=_NARROWEST)
    has_times = output.width >= _WITH_TIMES
    total = sum(count.tracks for count in counts)
    table = output.table("status", "tracks", "", "oldest (UTC)" if has_times else "oldest", right=("tracks",))
    for count in counts:
        # A status with any tracks has a bar of at least one character.
        length = max(1, round(_BAR * count.tracks / total)) if count.tracks else 0
        since = ""
        if count.oldest is not None:
            since = f"{time_span((now - count.oldest).total_seconds())} ago"
            if has_times:
                since = f"{count.oldest.astimezone(UTC):%Y-%m-%d %H:%M:%S}, {since}"
        table.add_row(str(count.status), f"{count.tracks:,}", output.symbol("█", "#") * length, since)
    table.add_row("in all", f"{total:,}", "", "", style="bold")
    output.lay_out(table)


def print_activity(activity: Activity) -> None:
    """Print recent activity, current claims and advice."""
    output = Output(least=_NARROWEST)
    tables = (
        _changes(output, activity),
        _stays(output, activity),
        _workers(output, activity),
        _reasons(output, activity),
    )
    for table in tables:
        if table.row_count:
            output.print()
            output.lay_out(table)
    hints = list(_hints(activity))
    if hints:
        output.print()
    for hint in hints:
        output.print(Text(hint, "yellow"), soft_wrap=not output.is_terminal)


def _changes(output: Output, activity: Activity) -> Table:
    """Return the changes in each part of the period. All rows share one scale, so that they can be compared."""
    seconds = (activity.until - activity.since).total_seconds()
    each = time_span(seconds / len(activity.buckets))
    table = output.table(f"last {time_span(seconds)}", "tracks", f"{each} each", right=("tracks",))
    highest = max(max(bucket.completed, bucket.failed, bucket.retried) for bucket in activity.buckets)
    for name, label, style in (
        ("completed", "completed", "green"),
        ("failed", "failed", "red"),
        ("retried", "retried", "yellow"),
    ):
        numbers = [getattr(bucket, name) for bucket in activity.buckets]
        table.add_row(label, f"{sum(numbers):,}", Text(_sparkline(output, numbers, highest), style))
    return table


def _sparkline(output: Output, numbers: Sequence[int], highest: int) -> str:
    """Return one character for each of *numbers*. A number above 0 has at least the lowest level."""
    levels, none = output.symbol(_LEVELS, _PLAIN_LEVELS), output.symbol("·", ".")
    return "".join(none if number == 0 else levels[(number * len(levels) - 1) // highest] for number in numbers)


def _stays(output: Output, activity: Activity) -> Table:
    table = output.table("", "tracks", "half within", "95 % within", right=("tracks",))
    for label, stay in (("waited", activity.time_pending), ("worked on", activity.time_processing)):
        if stay is not None:
            times = (time_span(time.total_seconds()) for time in (stay.median, stay.p95))
            table.add_row(label, f"{stay.tracks:,}", *times)
    return table


def _workers(output: Output, activity: Activity) -> Table:
    """Return the number of tracks that each worker holds, and the number of tracks that wait."""
    table = output.table("worker", "tracks", "oldest claim", right=("tracks",))
    shown = activity.workers[:_WORKERS_SHOWN]
    for load in shown:
        age = time_span((activity.until - load.oldest).total_seconds())
        table.add_row(Text(escaped(load.worker)), f"{load.tracks:,}", f"{age} ago")
    rest = activity.claimed - sum(load.tracks for load in shown)
    for label, tracks in (
        ("others", rest),
        ("waiting", activity.waiting),
        ("waiting for a retry", activity.delayed),
    ):
        if tracks > 0:
            table.add_row(Text(label, "dim"), f"{tracks:,}", "")
    return table


def _reasons(output: Output, activity: Activity) -> Table:
    table = output.table("times", "why attempts failed", right=("times",))
    for failure in activity.failures:
        table.add_row(f"{failure.changes:,}", Text(escaped(failure.reason)))
    return table


def _hints(activity: Activity) -> Iterator[str]:
    """Yield a line of advice for each kind of stuck track."""
    if activity.expired:
        claims = (
            "the lease of 1 claim has" if activity.expired == 1 else f"the leases of {activity.expired:,} claims have"
        )
        yield f"{claims} expired: to release the tracks, run `audiocatalog release --expired`"
    if activity.unclaimed:
        tracks = counted(activity.unclaimed, "track")
        are = "is" if activity.unclaimed == 1 else "are"
        yield f"{tracks} {are} PROCESSING without a claim: to retry a track, run `audiocatalog status ID PENDING`"
