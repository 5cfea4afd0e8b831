"""The figures as pictures."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Final

#: Told apart by people who see few colours too; ours is the one that stands out.
_COLOURS: Final = {"audiocatalog": "#0b5fa5", "SQLite FTS5": "#e69f00", "tantivy": "#7fb069", "naive SQL": "#b3b3b3"}
_MARKERS: Final = {"audiocatalog": "o", "SQLite FTS5": "s", "tantivy": "^", "naive SQL": "D"}
_GRID_COLUMNS: Final = 4
#: The room above a picture for its title and what its colours mean.
_HEAD_INCHES: Final = 0.3


def pyplot_into(folder: Path) -> Any:  # noqa: ANN401 - matplotlib, an extra, is imported where it is used.
    """Return matplotlib's pyplot in the manner of the benchmarks, and make *folder* for its pictures."""
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    pyplot.rcParams.update(
        {
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "svg.hashsalt": "audiocatalog",
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    return pyplot


def draw(report: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what was measured into *folder*, and return the files."""
    pyplot = pyplot_into(folder)
    paths = []
    if "quality" in report:
        quality = report["quality"]
        paths.append(_quality(pyplot, quality, folder / "quality.png"))
        paths.append(_known_item_latency(pyplot, quality, folder / "known_item_latency.png"))
    if "latency" in report:
        paths.append(_scales(pyplot, report["latency"], folder / "latency.png"))
    return paths


def _quality(pyplot: Any, quality: dict[str, Any], path: Path) -> Path:  # noqa: ANN401 - see `draw`.
    """Draw what is found first, by class and by stratum."""
    groups = [("classes", "by class of query"), ("strata", "by kind of name"), ("mentions", "as people wrote them")]
    heights = [len(quality[key]) for key, _ in groups]
    figure, axes = pyplot.subplots(3, 1, figsize=(8, 0.55 * sum(heights) + 1.6), height_ratios=heights)
    systems = quality["systems"]
    for axis, (key, title) in zip(axes, groups, strict=True):
        names = sorted(quality[key], key=lambda name: (name != "all", name))
        width = 0.8 / len(systems)
        for index, system in enumerate(systems):
            values = [quality[key][name][system]["hit@1"] for name in names]
            places = [place + (index - (len(systems) - 1) / 2) * width for place in range(len(names))]
            bars = axis.barh(places, values, width * 0.92, label=system, color=_COLOURS.get(system))
            if system == "audiocatalog":
                axis.bar_label(bars, [f"{value:.3f}" for value in values], padding=3, fontsize=7.5, color="#0b3a63")
        axis.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.set_xlim(0, 1)
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.tick_params(axis="y", length=0)
        axis.set_title(title)
    axes[-1].set_xlabel("share of queries whose first hit is the right one (hit@1)")
    _head(figure, axes[0], f"What is found first among {quality['tracks']:,} tracks")
    return _save(pyplot, figure, path, head=_HEAD_INCHES)


def _known_item_latency(pyplot: Any, quality: dict[str, Any], path: Path) -> Path:  # noqa: ANN401 - see `draw`.
    """Draw the percentiles of each system over the known items."""
    systems = quality["systems"]
    figure, axis = pyplot.subplots(figsize=(8, 0.5 * len(systems) + 1.6))
    shades = {"p50": 1.0, "p95": 0.7, "p99": 0.45, "max": 0.2}
    for place, system in enumerate(systems):
        values = quality["latency"][system]
        axis.plot([values["p50"], values["max"]], [place, place], color="#cccccc", zorder=1)
        for name, shade in shades.items():
            axis.scatter(values[name], place, s=70, color=_COLOURS.get(system), alpha=shade, zorder=2, linewidths=0)
            label = f"{name} {values[name]:.3g}"
            # One above and one below in turn, for they may lie close together.
            offset = (0, 8) if name in {"p50", "p99"} else (0, -14)
            axis.annotate(label, (values[name], place), offset, textcoords="offset points", ha="center", fontsize=7)
    axis.set_xscale("log")
    axis.set_yticks(range(len(systems)), systems)
    axis.set_ylim(len(systems) - 0.5, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.set_xlabel("ms a query, one client")
    axis.set_title(f"Latency of the known items among {quality['tracks']:,} tracks")
    _plain_ticks(axis.xaxis)
    return _save(pyplot, figure, path)


def _scales(pyplot: Any, latency: dict[str, Any], path: Path) -> Path:  # noqa: ANN401 - see `draw`.
    """Draw p95 over the number of tracks, one small picture for each kind of query."""
    kinds = latency["kinds"]
    lines = -(-len(kinds) // _GRID_COLUMNS)
    figure, axes = pyplot.subplots(
        lines, _GRID_COLUMNS, figsize=(11, 2.4 * lines + 0.9), sharex=True, sharey=True, squeeze=False
    )
    flat = [axis for row in axes for axis in row]
    for axis, (kind, by_system) in zip(flat, kinds.items(), strict=False):
        for system, by_scale in reversed(by_system.items()):  # Ours last, on top.
            scales = [int(scale) for scale in by_scale]
            values = [figures["p95"] for figures in by_scale.values()]
            axis.plot(
                scales,
                values,
                label=system,
                color=_COLOURS.get(system),
                marker=_MARKERS.get(system, "o"),
                markersize=4.5,
                linewidth=2.2 if system == "audiocatalog" else 1.3,
            )
        axis.set_title(kind)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(latency["scales"], [_short(scale) for scale in latency["scales"]])
        axis.minorticks_off()
        axis.margins(x=0.12)
        axis.grid(color="#e5e5e5", linewidth=0.6)
        axis.set_axisbelow(True)
        _plain_ticks(axis.yaxis)
    for axis in flat[len(kinds) :]:
        axis.set_visible(False)
    for row in axes:
        row[0].set_ylabel("p95, ms")
    for axis in axes[-1]:
        axis.set_xlabel("tracks")
    _head(figure, flat[0], "Latency as the table grows", reverse=True)
    return _save(pyplot, figure, path, head=_HEAD_INCHES)


def _head(figure: Any, axis: Any, title: str, *, reverse: bool = False) -> None:  # noqa: ANN401 - see `draw`.
    """Write the title and, below it, what the colours mean."""
    height = figure.get_figheight()
    figure.suptitle(title, x=0.02, y=1 - 0.12 / height, ha="left", va="top", fontweight="bold")
    handles, labels = axis.get_legend_handles_labels()
    if reverse:
        handles, labels = handles[::-1], labels[::-1]
    place = (0.012, 1 - 0.3 / height)
    figure.legend(handles, labels, loc="upper left", bbox_to_anchor=place, ncols=len(labels), frameon=False)


def _plain_ticks(axis: Any) -> None:  # noqa: ANN401 - see `draw`.
    axis.set_major_formatter(lambda value, _: f"{value:g}")


def _short(scale: int) -> str:
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if scale >= size:
            return f"{scale / size:g} {unit}"
    return str(scale)


def _save(pyplot: Any, figure: Any, path: Path, *, head: float = 0) -> Path:  # noqa: ANN401 - see `draw`.
    figure.tight_layout(rect=(0, 0, 1, 1 - head / figure.get_figheight()))
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return path
