"""The figures of two revisions as tables."""

from __future__ import annotations

import statistics
from typing import Any, Final

from benchmarks.comparison.driver import CLAIMED_AT_ONCE, SAVED_AT_ONCE
from benchmarks.comparison.measure import BASELINE, NOW
from benchmarks.performance.timing import ratios, spread
from benchmarks.search.report import Table
from benchmarks.search.report import heading as measured_on

_MEANT: Final = {
    "claim": f"claim of {CLAIMED_AT_ONCE}",
    "complete": "complete of one",
    "bulk": f"bulk_save of {SAVED_AT_ONCE}",
}
_CLOCK: Final = "by the clock"
_PROCESSOR: Final = "processor time of client and session"


def heading(found: dict[str, Any]) -> str:
    """Return what was measured, and on what."""
    return f"baseline: {found[BASELINE]}\nnow: {found[NOW]}\n{measured_on(found)}"


def tables_of(found: dict[str, Any]) -> list[Table]:
    """Return a table for each way of measuring that there is."""
    operations = found["operations"]
    tables = [_turn_table(_CLOCK, operations, "us")]
    if all(figures["processor_us"] for sides in operations.values() for figures in sides.values()):
        tables.append(_turn_table(_PROCESSOR, operations, "processor_us"))
    if instructions := found.get("instructions"):
        rows = [
            [_MEANT.get(name, name), f"{one[BASELINE]:,.0f}", f"{one[NOW]:,.0f}", f"{one[NOW] / one[BASELINE]:.3f}"]
            for name, one in instructions.items()
        ]
        tables.append(Table("Instructions of the client for a call", ["", "baseline", "now", "ratio"], rows))
    return tables


def _turn_table(what: str, operations: dict[str, Any], kind: str) -> Table:
    rows = []
    for name, sides in operations.items():
        before, now = sides[BASELINE][kind], sides[NOW][kind]
        ratio = spread(ratios(now, before))
        rows.append(
            [
                _MEANT.get(name, name),
                f"{statistics.median(before):,.1f}",
                f"{statistics.median(now):,.1f}",
                f"{ratio.median:.3f}",
                f"{ratio.low:.3f}–{ratio.high:.3f}",
            ]
        )
    rounds = len(next(iter(operations.values()))[BASELINE][kind])
    title = f"µs a call, {what}, medians of {rounds} rounds; the ratio is that of the same round"
    return Table(title, ["", "baseline", "now", "now to baseline", "quartiles"], rows)
