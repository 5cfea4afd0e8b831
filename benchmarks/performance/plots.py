"""The figures as pictures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.performance import scale
from benchmarks.performance.timing import spread
from benchmarks.search.plots import pyplot_into

#: Ours is the one that stands out; the bare driver is what it is measured by.
_OURS: Final = "#0b5fa5"
_BARE: Final = "#b3b3b3"
_PEER: Final = "#e69f00"
#: Of smaller loads, the process has read most before the server has the first.
_RATES_FROM: Final = 50_000
#: So many hundredths of a load give one rate.
_STEPS: Final = 20
_SIZES: Final = ("#e69f00", "#9ecae1", "#4a90c2", "#0b5fa5")


def draw(found: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what was measured into *folder*, and return the files."""
    pyplot = pyplot_into(folder)
    paths = []
    panels = []
    if "reads" in found:
        panels.append((f"Get one track of {found['reads']['tracks']:,} by id, µs", found["reads"]["get"]))
        panels.append(("Get 100 tracks by their ids, µs", found["reads"]["get_many"]))
    if "saves" in found:
        panels.append(("Save a new track with its history, committed, µs", found["saves"]["save"]))
    if panels:
        latency = [(title, {name: one["p50"] for name, one in figures.items()}) for title, figures in panels]
        paths.append(_bars(pyplot, latency, folder / "latency.png"))
    if "loads" in found:
        rates = [
            (f"Load {part['rows']:,} new tracks with their history, rows a second", _rates(part))
            for part in found["loads"].values()
        ]
        paths.append(_bars(pyplot, rates, folder / "loads.png"))
    if loads := {**found.get("memory", {}), **found.get("scale", {}).get("loads", {})}:
        paths.append(_memory(pyplot, loads, folder / "memory.png"))
    if "scale" in found:
        paths.append(_scale(pyplot, found["scale"], folder / "scale.png"))
    return paths


def _rates(part: dict[str, Any]) -> dict[str, list[float]]:
    return {
        name: [part["rows"] / seconds for seconds in figures["seconds"]] for name, figures in part["systems"].items()
    }


def _bars(pyplot: Any, panels: Sequence[tuple[str, dict[str, list[float]]]], path: Path) -> Path:  # noqa: ANN401 - see `draw`.
    """Draw a bar for each contestant, with the quartiles of its turns; a panel for each thing that was measured."""
    heights = [len(figures) for _, figures in panels]
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(10, 0.32 * sum(heights) + 0.75 * len(panels)), height_ratios=heights, squeeze=False
    )
    for axis, (title, figures) in zip(axes[:, 0], panels, strict=True):
        names = list(figures)
        spreads = [spread(figures[name]) for name in names]
        lows = [found.median - found.low for found in spreads]
        highs = [found.high - found.median for found in spreads]
        axis.barh(
            range(len(names)),
            [found.median for found in spreads],
            0.7,
            color=[_colour(name) for name in names],
            xerr=(lows, highs),
            error_kw={"ecolor": "#555555", "elinewidth": 0.9, "capsize": 2},
        )
        for place, found in enumerate(spreads):
            label = f"{found.median:,.0f}"
            axis.annotate(label, (found.high, place), (5, 0), textcoords="offset points", va="center", fontsize=8)
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(len(names) - 0.5, -0.5)
        axis.margins(x=0.12)
        axis.tick_params(axis="y", length=0)
        _quiet(axis, "x")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.set_title(title)
    return _save(pyplot, figure, path)


def _memory(pyplot: Any, loads: dict[str, Any], path: Path) -> Path:  # noqa: ANN401 - see `draw`.
    """Draw the memory of the process over the share of its rows, and the rate at which they go in."""
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.4))
    sizes = sorted(loads, key=int)
    for size, colour in zip(sizes, _shades(len(sizes)), strict=True):
        curve = [point for point in loads[size]["curve"] if point[0]]
        label = f"{int(size):,} tracks"
        memory = [point[1] / 1e6 for point in curve]
        # They lie upon each other, as they should: a dot shows where each one ends.
        axes[0].plot([point[0] for point in curve], memory, color=colour, label=label, marker="o", markevery=[-1])
        if int(size) < _RATES_FROM and size != sizes[-1]:
            continue
        # The process reads a batch ahead, in a moment; a rate is that of several.
        steps = [curve[place : place + _STEPS] for place in range(0, len(curve) - _STEPS + 1, 4)]
        rates = [(part[-1][0] - part[0][0]) / (part[-1][2] - part[0][2]) for part in steps]
        axes[1].plot([part[-1][0] for part in steps], rates, color=colour, label=label)
    axes[0].set_title("Memory of the loading process, MB")
    axes[1].set_title("Rows a second on the way")
    for axis in axes:
        axis.margins(y=0.1)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("tracks handed over")
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axis.minorticks_off()
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        _quiet(axis, "both")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    return _save(pyplot, figure, path, foot=0.09)


def _scale(pyplot: Any, found: dict[str, Any], path: Path) -> Path:  # noqa: ANN401 - see `draw`.
    """Draw p50 at each size, ours beside bare psycopg."""
    figure, axes = pyplot.subplots(1, len(found["figures"]), figsize=(10, 3.2))
    width = 0.8 / len(found["sizes"])
    for axis, (what, figures) in zip(axes, found["figures"].items(), strict=True):
        for index, (size, colour) in enumerate(zip(found["sizes"], _shades(len(found["sizes"])), strict=True)):
            values = [statistics.median(figures[scale.name(who, size)]["p50"]) for who in (scale.OURS, scale.BARE)]
            places = [place + (index - (len(found["sizes"]) - 1) / 2) * width for place in range(2)]
            bars = axis.bar(places, values, width * 0.92, color=colour, label=f"{size:,} tracks")
            axis.bar_label(bars, [f"{value:,.0f}" for value in values], padding=2, fontsize=8)
        axis.set_title(what)
        axis.set_ylabel("p50, µs")
        axis.set_xticks(range(2), (scale.OURS, scale.BARE))
        axis.tick_params(axis="x", length=0)
        axis.margins(y=0.12)
        _quiet(axis, "y")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    return _save(pyplot, figure, path, foot=0.09)


def _shades(count: int) -> list[str]:
    return [_SIZES[max(0, len(_SIZES) - count + place)] for place in range(count)]


def _colour(name: str) -> str:
    if name.startswith("audiocatalog"):
        return _OURS
    return _BARE if name.startswith("bare") else _PEER


def _quiet(axis: Any, which: str) -> None:  # noqa: ANN401 - see `draw`.
    axis.grid(axis=which, color="#e5e5e5", linewidth=0.6)
    axis.set_axisbelow(True)


def _save(pyplot: Any, figure: Any, path: Path, *, foot: float = 0) -> Path:  # noqa: ANN401 - see `draw`.
    figure.tight_layout(rect=(0, foot, 1, 1))
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return path
