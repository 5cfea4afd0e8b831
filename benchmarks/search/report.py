"""The figures as tables, for the terminal and for Markdown."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table as RichTable

_FIGURES: Final = ("hit@1", "hit@10", "MRR@10")
_LATENCY: Final = "p50 / p95 in ms (queries answered, where not all are)"


@dataclass(frozen=True, slots=True)
class Table:
    """Hold a table of text; the first column is left-aligned, the others are figures."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def tables_of(report: dict[str, Any]) -> list[Table]:
    """Return the tables of whatever was measured."""
    tables = []
    if "quality" in report:
        tables += _quality_tables(report["quality"])
    if "names" in report:
        tables += _name_tables(report["names"])
    if "latency" in report:
        tables += _latency_tables(report["latency"])
    if "hostile" in report:
        tables.append(_hostile_table(report["hostile"]))
    if "plans" in report:
        tables.append(_plan_table(report["plans"]))
    return tables


def print_tables(heading: str, tables: Sequence[Table]) -> None:
    """Print the tables of a benchmark to the terminal."""
    console = Console(width=None if Console().is_terminal else 160)
    console.print(heading, markup=False)
    for table in tables:
        shown = RichTable(title=table.title, title_justify="left")
        for index, column in enumerate(table.columns):
            shown.add_column(column, justify="left" if index == 0 else "right", no_wrap=index == 0)
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)


def markdown(heading: str, tables: Sequence[Table]) -> str:
    """Return the tables of a benchmark as Markdown, to be pasted into a page."""
    lines = [heading, ""]
    for table in tables:
        rule = ["---", *["---:"] * (len(table.columns) - 1)]
        lines += [f"**{table.title}**", ""]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (table.columns, rule)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows]
        lines.append("")
    return "\n".join(lines)


def publish(
    found: dict[str, Any],
    options: argparse.Namespace,
    heading: str,
    tables: Sequence[Table],
    draw: Callable[[dict[str, Any], Path], list[Path]] | None = None,
) -> None:
    """Print the tables of what a benchmark has *found*, and write the files that its *options* name."""
    absent = [f"{name} could not run: {reason}" for name, reason in found.get("absent", {}).items()]
    heading = "\n".join([heading, *absent])
    print_tables(heading, tables)
    if options.json:
        options.json.write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(markdown(heading, tables), encoding="utf-8")
    if draw is not None and options.plots:
        for path in draw(found, options.plots):
            print(f"wrote {path}", flush=True)


def heading(report: dict[str, Any]) -> str:
    """Return on what the figures were measured."""
    facts = (report["server"], f"{report['cores']} cores", f"Python {report['python']}", report["date"])
    return " · ".join([*facts, *(["QUICK: not to be quoted"] if report.get("quick") else [])])


def _quality_tables(quality: dict[str, Any]) -> list[Table]:
    systems = quality["systems"]
    about = f"{quality['tracks']:,} tracks of {quality['catalogue']}"
    tables = [
        _score_table(f"Known items by class, {about} ({' / '.join(_FIGURES)})", "class", quality["classes"], systems),
        _score_table(f"Known items by stratum ({' / '.join(_FIGURES)})", "stratum", quality["strata"], systems),
        _score_table(f"Mentions in real requests ({' / '.join(_FIGURES)})", "kind", quality["mentions"], systems),
    ]
    columns = ["system", "p50 ms", "p95 ms", "p99 ms", "max ms", "our p95 to its", "errors"]
    ours = quality["latency"]["audiocatalog"]["p95"]
    rows = [
        [
            system,
            *(_milliseconds(quality["latency"][system][name]) for name in ("p50", "p95", "p99", "max")),
            f"{ours / quality['latency'][system]['p95']:.2f}",
            _errors(quality["errors"][system]),
        ]
        for system in systems
    ]
    return [*tables, Table("Latency over the known items, one client", columns, rows)]


def _score_table(title: str, kind: str, groups: dict[str, Any], systems: list[str]) -> Table:
    rows = []
    # The whole first, then by name.
    for group in sorted(groups, key=lambda name: (name != "all", name)):
        scores = groups[group]
        queries = next(iter(scores.values()))["queries"]
        cells = [" / ".join(f"{scores[system][figure]:.3f}" for figure in _FIGURES) for system in systems]
        rows.append([group, f"{queries:,}", *cells])
    return Table(title, [kind, "queries", *systems], rows)


def _name_tables(names: dict[str, Any]) -> list[Table]:
    columns = ["system", "on the first page", "in first place", "names by every spelling", "stock parser's cases"]
    rows = [
        [
            system,
            f"{figures['first page']} of {figures['spellings']}",
            f"{figures['first place']} of {figures['spellings']}",
            f"{figures['names']} of {names['names']}",
            f"{figures['stock cases']} of {names['stock cases']}",
        ]
        for system, figures in names["systems"].items()
    ]
    tables = [Table(f"Hard names among {names['tracks']:,} tracks", columns, rows)]
    if missed := names["missed"]["audiocatalog"]:
        rows = [[miss["name"], miss["spelling"], miss["error"] or ""] for miss in missed]
        tables.append(Table("Hard names that audiocatalog misses", ["name", "typed", "error"], rows))
    return tables


def _latency_tables(latency: dict[str, Any]) -> list[Table]:
    scales = [str(scale) for scale in latency["scales"]]
    kinds = latency["kinds"]
    columns = ["kind of query", f"{int(scales[0]):,}"]
    for scale in scales[1:]:
        columns += [f"{int(scale):,}", "p95 ratio"]
    rows = []
    for kind, by_system in kinds.items():
        ours = [by_system["audiocatalog"].get(scale) for scale in scales]
        row = [kind, _cell(ours[0])]
        for smaller, figures in itertools.pairwise(ours):
            row += [_cell(figures), _ratio(figures, smaller)]
        rows.append(row)
    tables = [Table(f"Latency of audiocatalog by the number of tracks, {_LATENCY}", columns, rows)]
    for scale in scales:
        systems = list(
            dict.fromkeys(name for by_system in kinds.values() for name in by_system if scale in by_system[name])
        )
        if len(systems) > 1:
            title = f"Latency beside others at {int(scale):,} tracks, {_LATENCY}"
            rows = [[kind, *(_cell(kinds[kind][system].get(scale)) for system in systems)] for kind in kinds]
            tables.append(Table(title, ["kind of query", *systems], rows))
    return tables


def _hostile_table(hostile: dict[str, Any]) -> Table:
    title = f"{hostile['queries']:,} random and hostile queries on {hostile['tracks']:,} tracks"
    rows = [
        ["p50", f"{_milliseconds(hostile['p50_ms'])} ms"],
        ["p95", f"{_milliseconds(hostile['p95_ms'])} ms"],
        ["errors", _errors(hostile["errors"])],
        *([f"worst: {text}", f"{_milliseconds(milliseconds)} ms"] for milliseconds, text in hostile["worst"]),
    ]
    return Table(title, ["", "measured"], rows)


def _plan_table(plans: list[dict[str, Any]]) -> Table:
    rows = [
        [
            plan["kind"],
            plan["query"],
            ", ".join(f"{_short(index)} {rows:,}" for index, rows in plan["read"].items() if rows) or "nothing",
            ", ".join(_short(index) for index in plan["unread"]) or "none",
            _milliseconds(plan["ms"]),
        ]
        for plan in plans
    ]
    return Table(
        "Indexes that each kind of query reads", ["kind", "query", "read, entries", "never executed", "ms"], rows
    )


def _short(index: str) -> str:
    return index.replace("ix_audio_tracks_", "").replace("ix_audio_search_words_", "words by ").replace("pk_audio_", "")


def _cell(figures: dict[str, Any] | None) -> str:
    if figures is None or "p50" not in figures:
        return "–"
    text = f"{_milliseconds(figures['p50'])} / {_milliseconds(figures['p95'])}"
    if figures["answered"] < figures["queries"]:
        text += f" ({figures['answered']} of {figures['queries']})"
    return f"{text} {_errors(figures['errors'])}".strip()


def _ratio(figures: dict[str, Any] | None, smaller: dict[str, Any] | None) -> str:
    if not figures or not smaller or not smaller.get("p95"):
        return "–"
    return f"{figures['p95'] / smaller['p95']:.2f}"


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004


def _errors(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
