"""The figures of the lifecycle as tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any, Final

from benchmarks.lifecycle import claimers, moves, peers
from benchmarks.search.report import Table
from benchmarks.search.report import heading as measured_on

_BOTH: Final = ("claims", "claims and completions")


def tables_of(report: dict[str, Any]) -> list[Table]:
    """Return the tables of whatever was measured."""
    tables = []
    if "transitions" in report:
        tables.append(_transition_table(report["transitions"]))
    if "claims" in report:
        tables += [_claim_table(report["claims"], what) for what in _BOTH]
    if "races" in report:
        tables.append(_race_table(report["races"]))
    if "kills" in report:
        tables.append(_kill_table(report["kills"]))
    tables.append(Table("Against what was to be reached", ["measured", "reached", "to be reached"], _reach(report)))
    return tables


def wrongs(report: dict[str, Any]) -> list[str]:
    """Return everything that was found to be wrong after a run."""
    systems = dict(report.get("transitions", {}).get("systems", {}))
    for what in _BOTH:
        systems |= {f"{what}, {name}": figures for name, figures in report.get("claims", {}).get(what, {}).items()}
    found = [f"{name}: {text}" for name, figures in systems.items() for text in figures["wrong"]]
    found += [
        f"race of {race['processes']} x {race['threads']}: {text}"
        for race in report.get("races", [])
        for text in race["wrong"]
    ]
    return found + [f"kills: {text}" for text in _wrong_kills(report.get("kills", {}))]


def median(figures: dict[str, Any]) -> float:
    """Return the median rate."""
    return float(statistics.median(figures["rates"]))


def _wrong_kills(kills: dict[str, Any]) -> list[str]:
    counted = [f"{kills[name]} {name}" for name in ("stuck", "unfinished") if kills.get(name)]
    return counted + list(kills.get("wrong", []))


def heading(report: dict[str, Any]) -> str:
    """Return on what the figures were measured."""
    return measured_on(report)


def _transition_table(transitions: dict[str, Any]) -> Table:
    title = (
        f"Transitions a second, nobody in the way, {transitions['threads']} threads in one process, "
        f"{2 * transitions['tracks']:,} moves, {transitions['runs']} runs"
    )
    rows = [
        [name, *_rate_cells(figures), f"{statistics.median(figures['us']):,.0f}", _verdict(figures)]
        for name, figures in transitions["systems"].items()
    ]
    return Table(title, ["contestant", "a second", "lowest–highest", "µs a move", "replayed"], rows)


def _claim_table(claims: dict[str, Any], what: str) -> Table:
    title = (
        f"{what.capitalize()} a second, {claims['processes']} processes of {claims['workers']}, batches of "
        f"{claims['batch']}, {claims['runs']} runs"
    )
    rows = []
    ours = median(claims[what][claimers.OURS])
    for name, figures in claims[what].items():
        first, last = _ends(figures)
        rows.append(
            [
                name,
                f"{figures['jobs']:,}",
                *_rate_cells(figures),
                f"{ours / median(figures):.2f}",
                f"{first:,.0f} / {last:,.0f}",
                _verdict(figures),
            ]
        )
    columns = ["contestant", "waiting", "a second", "lowest–highest", "ours to it", "first / last tenth", "each once"]
    return Table(title, columns, rows)


def _ends(figures: dict[str, Any]) -> tuple[float, float]:
    """Return the rates of the first and the last tenth of the work, as medians of the runs."""
    curves = [curve for curve in figures["curves"] if len(curve) > 3]  # noqa: PLR2004 - two at each end.
    if not curves:
        return 0.0, 0.0
    return statistics.median(statistics.mean(c[:2]) for c in curves), statistics.median(
        statistics.mean(c[-2:]) for c in curves
    )


def _race_table(races: list[dict[str, Any]]) -> Table:
    rows = [
        [
            f"{race['processes']} × {race['threads']}, "
            + ("PENDING expected" if race["status is known"] else "nothing expected"),
            f"{race['tracks']:,}",
            f"{race['tracks with one winner']:,}",
            f"{race['winners']:,}",
            ", ".join(f"{count:,} {name}" for name, count in sorted(race["errors"].items())),
            _verdict(race),
        ]
        for race in races
    ]
    columns = ["processes × threads", "tracks", "with one winner", "winners", "errors", "replayed"]
    return Table("Races for one track at a time", columns, rows)


def _kill_table(kills: dict[str, Any]) -> Table:
    title = (
        f"Workers killed at {kills['moments']} random moments, {kills['tracks']} tracks, "
        f"leases of {kills['lease_ms']:.0f} ms"
    )
    rows = [
        ["killed while holding claims", f"{kills['holding']} of {kills['moments']}"],
        ["not counted: killed after the last track was done", str(kills["after the end"])],
        ["tracks stuck after the lease", str(kills["stuck"])],
        ["tracks never finished", str(kills["unfinished"])],
        ["done twice, history missing or wrong", ", ".join(kills["wrong"]) or "0"],
        ["from the kill to the last track done, median", f"{kills['recovery_s']:.2f} s"],
    ]
    return Table(title, ["", "measured"], rows)


def _reach(report: dict[str, Any]) -> list[list[str]]:
    return [list(row) for row in _reached(report)]


def _reached(report: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    if "transitions" in report:
        systems = report["transitions"]["systems"]
        for what, ours, theirs in (
            ("update_status to two tables in bare psycopg", moves.OURS, moves.BARE),
            ("update_status to its own statement in bare psycopg", moves.OURS, moves.SAME),
            ("in a unit of work to two tables in a bare transaction", moves.OURS_IN_UNIT, moves.BARE_IN_TRANSACTION),
            ("in a unit of work to its own statement in one", moves.OURS_IN_UNIT, moves.SAME_IN_TRANSACTION),
        ):
            if theirs in systems:
                yield what, f"{median(systems[ours]) / median(systems[theirs]):.2f}", "≥ 0.60"
    for what in _BOTH if "claims" in report else ():
        found = report["claims"][what]
        rate = median(found[claimers.OURS])
        for theirs, least in ((claimers.SAME, "≥ 0.80"), (claimers.OWN, "≥ 0.80"), (peers.PGQUEUER, "≥ 1.20")):
            if theirs in found:
                yield f"{what}, to {theirs}", f"{rate / median(found[theirs]):.2f}", least
        first = f"{claimers.OURS}, the first {report['claims']['first']:,} of "
        few, many = (median(found[f"{first}{report['claims'][name]:,}"]) for name in ("tracks", "many"))
        yield (
            f"{what}, {report['claims']['many']:,} waiting to {report['claims']['tracks']:,}",
            f"{many / few:.2f}",
            "≥ 1",
        )
    if "races" in report:
        strict = [race for race in report["races"] if race["status is known"]]
        yield (
            "races without exactly one winner",
            str(sum(r["tracks"] - r["tracks with one winner"] for r in strict)),
            "0",
        )
        others = {name for race in strict for name in race["errors"]} - {"TransitionConflict"}
        yield "races: errors but TransitionConflict", ", ".join(sorted(others)) or "none", "none"
    if "kills" in report:
        yield (
            f"{report['kills']['moments']} kills: stuck, done twice, missing",
            "; ".join(_wrong_kills(report["kills"])) or "0",
            "0",
        )


def _rate_cells(figures: dict[str, Any]) -> list[str]:
    rates = figures["rates"]
    return [f"{statistics.median(rates):,.0f}", f"{min(rates):,.0f}–{max(rates):,.0f}"]


def _verdict(figures: dict[str, Any]) -> str:
    return "; ".join(figures["wrong"]) or "yes"
