"""The figures as pictures."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Final

from benchmarks.lifecycle import claimers, peers
from benchmarks.lifecycle.report import median
from benchmarks.search.plots import pyplot_into

#: Ours is the one that stands out.
_OURS: Final = "#0b5fa5"
_BARE: Final = "#b3b3b3"
_PEERS: Final = {peers.PGQUEUER: "#e69f00", peers.PROCRASTINATE: "#7fb069"}
_ORM: Final = "#e69f00"


def draw(report: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what was measured into *folder*, and return the files."""
    pyplot = pyplot_into(folder)
    paths = []
    if "transitions" in report:
        paths.append(_transitions(pyplot, report["transitions"], folder / "transitions.png"))
    if "claims" in report:
        paths.append(_claims(pyplot, report["claims"], folder / "claims.png"))
        paths.append(_curves(pyplot, report["claims"], folder / "claims_course.png"))
    return paths


def _transitions(pyplot: Any, transitions: dict[str, Any], path: Path) -> Path:  # noqa: ANN401 - see `draw`.
    """Draw the transitions a second."""
    systems = transitions["systems"]
    figure, axis = pyplot.subplots(figsize=(8, 0.36 * len(systems) + 1.2))
    _bars(axis, systems)
    axis.set_title(f"Transitions a second, {transitions['threads']} threads in one process, each its own tracks")
    return _save(pyplot, figure, path)


def _claims(pyplot: Any, claims: dict[str, Any], path: Path) -> Path:  # noqa: ANN401 - see `draw`.
    """Draw the claims a second, and those with completion below."""
    whole = {
        what: {name: figures for name, figures in claims[what].items() if ", the first " not in name}
        for what in ("claims", "claims and completions")
    }
    figure, axes = pyplot.subplots(2, 1, figsize=(8, 0.72 * len(whole["claims"]) + 1.8), sharex=True)
    for axis, (what, systems) in zip(axes, whole.items(), strict=True):
        _bars(axis, systems)
        axis.set_title(f"{what.capitalize()} a second, {claims['processes']} processes of {claims['workers']}")
    return _save(pyplot, figure, path)


def _bars(axis: Any, systems: dict[str, Any]) -> None:  # noqa: ANN401 - see `draw`.
    names = list(systems)
    medians = [median(systems[name]) for name in names]
    lows = [middle - min(systems[name]["rates"]) for name, middle in zip(names, medians, strict=True)]
    highs = [max(systems[name]["rates"]) - middle for name, middle in zip(names, medians, strict=True)]
    axis.barh(
        range(len(names)),
        medians,
        0.7,
        color=[_colour(name) for name in names],
        xerr=(lows, highs),
        error_kw={"ecolor": "#555555", "elinewidth": 0.9, "capsize": 2},
    )
    for place, (middle, high) in enumerate(zip(medians, highs, strict=True)):
        label = f"{middle:,.0f}"
        axis.annotate(label, (middle + high, place), (5, 0), textcoords="offset points", va="center", fontsize=8)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.margins(x=0.12)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="#e5e5e5", linewidth=0.6)
    axis.set_axisbelow(True)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _curves(pyplot: Any, claims: dict[str, Any], path: Path) -> Path:  # noqa: ANN401 - see `draw`.
    """Draw the claims a second over the course of the run: whether a queue slows as it is emptied."""
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.4))
    for axis, what in zip(axes, ("claims", "claims and completions"), strict=True):
        for name, figures in reversed(claims[what].items()):
            if name == peers.PROCRASTINATE or ", the first " in name:
                continue
            curve = [statistics.median(values) for values in zip(*figures["curves"], strict=False)]
            places = [100 * (place + 0.5) / len(curve) for place in range(len(curve))]
            width = 2.2 if name == claimers.OURS else 1.3
            axis.plot(places, curve, label=name, color=_colour(name), linewidth=width, linestyle=_style(name))
        axis.set_ylim(bottom=0)
        axis.set_title(what.capitalize() + " a second")
        axis.set_xlabel(f"% of {claims['tracks']:,} taken")
        axis.grid(color="#e5e5e5", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="lower center", ncols=3, frameon=False)
    return _save(pyplot, figure, path, foot=0.14)


def _colour(name: str) -> str:
    if name.startswith("audiocatalog"):
        return _OURS
    return _PEERS.get(name, _BARE if name.startswith("bare") else _ORM)


def _style(name: str) -> str:
    return {claimers.OURS: "-", claimers.SAME: "-", peers.PGQUEUER: "-"}.get(name, "--")


def _save(pyplot: Any, figure: Any, path: Path, *, foot: float = 0) -> Path:  # noqa: ANN401 - see `draw`.
    figure.tight_layout(rect=(0, foot, 1, 1))
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
    return path
