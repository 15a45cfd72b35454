"""The figures of one or several embeddings as a picture: a point for each, with its interval."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import BadInput, MissingExtra
from ..writing import check_file_place, written_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLORS", "check_figure", "draw_metrics", "save_plot"]

KINDS = (".png", ".svg", ".pdf")
COLORS = ("#1b6ca8", "#e8590c", "#2b8a3e", "#7048a8", "#b08900", "#5c5f66")
ROW_INCHES, WIDTH_INCHES = 0.24, 7.5


def check_figure(path: Path) -> None:
    """Raise BadInput for a file of another kind or place, MissingExtra without matplotlib: before what takes long."""
    if path.suffix.lower() not in KINDS:
        raise BadInput(f"A figure is written as {', '.join(KINDS)}; got {str(path)!r}.")
    check_file_place(path)
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtra("matplotlib", "figures", "A figure")


def draw_metrics(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw rows of subject, metric, value and ends (low, high) into a file, PNG, SVG or PDF by its name.

    Raise what `check_figure` does, and BadInput without rows.
    """
    check_figure(path)
    if not rows:
        raise BadInput("None of these evaluations has figures with intervals to draw.")
    from matplotlib.figure import Figure

    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    subjects = list(dict.fromkeys(row["subject"] for row in rows))
    height = 1.0 + ROW_INCHES * len(metrics) * (1 + 0.5 * len(subjects))
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    axes = figure.subplots()
    step = 0.7 / max(len(subjects), 1)
    for number, subject in enumerate(subjects):
        own = [row for row in rows if row["subject"] == subject]
        places = [metrics.index(row["metric"]) + (number - (len(subjects) - 1) / 2) * step for row in own]
        color = COLORS[number % len(COLORS)]
        for place, row in zip(places, own, strict=True):
            axes.plot(row["ends"], [place, place], color=color, linewidth=2, solid_capstyle="round")
        axes.plot([row["value"] for row in own], places, "o", color=color, markersize=5, label=subject)
    axes.set_yticks(range(len(metrics)), metrics, fontsize=8)
    axes.set_ylim(len(metrics) - 0.5, -0.5)
    axes.set_xlabel("value, with the 95 % interval over proteins", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    if len(subjects) > 1:
        figure.legend(loc="outside upper center", ncols=min(len(subjects), 4), fontsize=8, frameon=False)
    save_plot(figure, axes, path, grid="x")


def save_plot(figure: Figure, axes: Axes, path: Path, *, grid: Literal["x", "y"]) -> None:
    """Write a plot with lines of a grid across one of its axes."""
    axes.grid(axis=grid, color="#e3e5e8", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    with written_whole(path) as part:
        figure.savefig(part, format=path.suffix[1:].lower(), dpi=160)
