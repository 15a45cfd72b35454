"""The curve of a block search: how well a label is read off each block, trained and untrained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .block_evaluation import is_last, way_of
from .evaluation.figure import COLORS, check_figure, save_plot

__all__ = ["draw_curve"]


def draw_curve(found: Mapping[str, Any], path: Path) -> None:
    """Draw what `measure_blocks` found into a file, PNG, SVG or PDF by its name; raise what `check_figure` does."""
    check_figure(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    axes = figure.subplots()
    best, final = found["best"], found["final"]
    for number, (way, own) in enumerate(found["curve"].items()):
        color = COLORS[number % len(COLORS)]
        blocks = range(1, len(own["balanced_accuracy"]) + 1)
        axes.plot(blocks, own["balanced_accuracy"], "o-", color=color, markersize=3.5, label=way)
        if way == way_of(best):
            axes.fill_between(blocks, own["low"], own["high"], color=color, alpha=0.15, linewidth=0)
        if untrained := found.get("untrained_curve"):
            values = untrained[way]["balanced_accuracy"]
            axes.plot(blocks, values, ":", color=color, linewidth=1.2)
    marks = [(best, "*", "best, by cells that had no part in choosing it")]
    if not is_last(found):
        marks.append((final, "s", "last block as published, by the same cells"))
    for record, symbol, name in marks:
        at, value = record["block"], record["balanced_accuracy"]
        ends = [[value - record["balanced_accuracy_low"]], [record["balanced_accuracy_high"] - value]]
        axes.errorbar([at], [value], yerr=ends, fmt="none", capsize=3, ecolor="#212529", elinewidth=1.4)
        axes.plot([at], [value], symbol, color="#212529", markersize=9 if symbol == "*" else 5, label=name, zorder=5)
    axes.axhline(found["chance"], color="#868e96", linewidth=1, linestyle="--", label="guessing")
    if "untrained_curve" in found:
        axes.plot([], [], ":", color="#495057", label="dotted: the network untrained")
    axes.set_xlabel(f"block of {found['encoder']}", fontsize=8)
    axes.set_ylabel(f"balanced accuracy of {found['label']}, {found['group']} held out", fontsize=8)
    axes.set_xticks(list(blocks))
    axes.tick_params(labelsize=8)
    figure.legend(loc="outside upper center", ncols=3, fontsize=8, frameon=False)
    save_plot(figure, axes, path, grid="y")
