"""Pictures of the hierarchy for papers: circles in circles, and an icicle of bars; SVG, PDF or PNG.

A system inside two larger ones is drawn once, under the parent that holds most of it. Lengths are in points, 1/72 inch;
the pictures are as wide as two columns of a journal.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np

from ..errors import BadInput, MissingExtra, UnknownName
from .packing import enclose, pack

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

__all__ = ["draw_circles", "draw_icicle", "write_figure"]

WIDTH = 510.0  # 180 mm
MARGIN = 4.0
FONT = "DejaVu Sans"  # comes with matplotlib, and is wide: a text that fits in it fits in others
SIZES = (8.0, 7.5, 7.0, 6.5, 6.0, 5.5, 5.0)  # of text; journals ask for 5 to 8
MAX_LINES = 4
LEADING = 1.15  # from line to line, in sizes
ASCENT = 0.84  # of a line above its baseline, in sizes: what is low, like g, reaches a little below its line
SLACK = 1.04  # another program sets a line a little wider
PAD = 1.5  # between a text and what is around it

INK, PAPER, ROOT, OTHER, GRAY = "#111111", "#ffffff", "#f4f4f4", "#a3a7ad", "#606060"
DARK = 0.4  # lightness of a fill below which its label is white
FRAME = 1.8  # width of the line around a highlighted system
PALEST, STRONGEST = 0.3, 0.85  # share of the color in the outermost systems and in the innermost
LEVELS = 4  # below the root, at the least, that share this range: a flat map stays pale
UNNAMED = 0.05  # share of the map from which a system without a term may have a label

ROOM = 0.95  # a child's radius next to what its share of the parent's area would give: it must show inside
GAP = 1.04  # radius with which a circle is packed, next to the one it is drawn with
BANDS = (1, 2, 3)  # lines of text for which room is made above the children of a labelled circle
BAND = (0.15, 11.0)  # for each of them: at most this share of its radius, and this much
COMFORT = 4.0  # clearance of a text that more does not improve
GRID = np.stack(np.meshgrid(np.linspace(-0.96, 0.96, 33), np.linspace(0.96, -0.96, 33)), axis=2).reshape(-1, 2)

ROOT_COLUMN = 22.0
HEIGHTS = (150.0, 600.0)  # of an icicle, least and most
LEAF = 12.0  # height of the icicle for each system without children

LEGEND_ROW, LEGEND_TEXT, SWATCH = 12.0, 6.5, 7.0

FORMATS: dict[str, dict[str, Any]] = {  # without the date, the same picture is the same file
    ".svg": {"metadata": {"Date": None}},
    ".pdf": {"metadata": {"CreationDate": None}},
    ".png": {"dpi": 300},
}
WRITING = {"svg.fonttype": "none", "svg.hashsalt": "subcell-atlas", "pdf.fonttype": 42}

Disk = tuple[float, float, float]  # x and y of the middle, radius


@dataclass(frozen=True)
class Fitted:
    """A text that has found its place: lines of one size around a middle, level or turned to read upwards."""

    lines: tuple[str, ...]
    size: float
    x: float
    y: float
    turned: bool = False


def draw_circles(
    graph: nx.DiGraph,
    *,
    colors: Mapping[str, str],
    labels: Mapping[str, str],
    legend: Mapping[str, str] | None = None,
    highlight: Sequence[str] = (),
    depth: int | None = None,
) -> Figure:
    """Draw the hierarchy as circles in circles.

    The areas of systems side by side are in proportion to their sizes. Across parents they are not: what lies in a
    circle is made smaller until it fits.

    Parameters
    ----------
    graph
        The map: one root; nodes with `size` and `term_name` (None: unnamed), edges from parent to child with `overlap`.
    colors
        System -> color, `#rrggbb`; the deeper a system the more of it. Gray where there is none.
    labels
        System -> what to call it; one too long for its place is left out, and so are those of small unnamed systems.
    legend
        What the colors mean, name -> color; those in the picture are listed below it.
    highlight
        Systems to draw with a frame.
    depth
        How many steps below the root are drawn; None: all.

    Raises
    ------
    UnknownName, BadInput, MissingExtra
    """
    require_matplotlib()
    from matplotlib.patches import Circle

    tree = drawn_tree(graph, colors, labels, highlight=highlight, depth=depth)
    figure, axes = new_figure(tree, legend or {}, height=WIDTH - 2 * MARGIN)
    circles, texts = place_circles(tree)
    for system, (x, y, radius) in circles.items():
        add_shape(axes, tree, system, Circle((x, y), radius), line=min(0.5, radius / 8), edge=INK)
        add_text(axes, tree, system, texts[system])
    return figure


def draw_icicle(
    graph: nx.DiGraph,
    *,
    colors: Mapping[str, str],
    labels: Mapping[str, str],
    legend: Mapping[str, str] | None = None,
    highlight: Sequence[str] = (),
    depth: int | None = None,
) -> Figure:
    """Draw the hierarchy as bars, the root at the left and the children of each system to its right.

    Heights are in proportion to sizes; where children have more members together than their parent, they share its
    height. Parameters and errors are those of `draw_circles`.
    """
    require_matplotlib()
    from matplotlib.patches import Rectangle

    tree = drawn_tree(graph, colors, labels, highlight=highlight, depth=depth)
    leaves = sum(not tree.out_degree(system) for system in tree)
    height = min(max(HEIGHTS[0], LEAF * leaves), HEIGHTS[1])
    figure, axes = new_figure(tree, legend or {}, height=height)
    for system, (x, y, wide, high) in place_bars(tree, height).items():
        add_shape(axes, tree, system, Rectangle((x, y), wide, high), line=min(0.7, high / 5), edge=PAPER)
        add_text(axes, tree, system, fit_bar(tree.nodes[system]["text"], x, y, wide, high))
    return figure


def write_figure(path: str | Path, figure: Figure) -> None:
    """Write a figure as its suffix says: .svg, its text as text, .pdf, or .png with 300 dots per inch.

    The same figure gives the same bytes. Raise BadInput for another suffix, or where the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        msg = f"Cannot write {path.name!r}: a picture ends in {', '.join(FORMATS)}. Name it {path.stem}.svg, say."
        raise BadInput(msg)
    from matplotlib import style

    with style.context(["default", WRITING]), no_word_of_missing_glyphs():
        try:
            figure.savefig(path, format=suffix[1:], facecolor=PAPER, **FORMATS[suffix])
        except OSError as exc:
            msg = f"Cannot write {path}: {exc.strerror or exc}. Choose a folder that exists and may be written to."
            raise BadInput(msg) from exc


def require_matplotlib() -> None:
    """Raise MissingExtra when matplotlib is not installed."""
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError as exc:
        raise MissingExtra("matplotlib", "figures", "A picture of the map as a file") from exc


def drawn_tree(
    graph: nx.DiGraph,
    colors: Mapping[str, str],
    labels: Mapping[str, str],
    *,
    highlight: Sequence[str],
    depth: int | None,
) -> nx.DiGraph:
    """Return what is drawn, parents first and siblings from large to small; nodes say how.

    Nodes carry depth (steps from the root), size, color (as given), fill, text (empty: none) and framed.
    """
    if depth is not None and depth < 0:
        msg = f"depth={depth}: a picture needs at least the root. Give 0 or more, or None for all of the map."
        raise BadInput(msg)
    whole = closest_parents(graph)
    root = next(system for system in whole if not whole.in_degree(system))
    steps = nx.single_source_shortest_path_length(whole, root)
    for system in highlight:
        if system not in graph:
            raise UnknownName("system", system, graph)
        if depth is not None and steps[system] > depth:
            msg = f"System {system!r} to highlight is {steps[system]} steps below the root and the picture ends at"
            raise BadInput(f"{msg} {depth}. Raise the depth, or do not highlight it.")
    deepest = max(steps.values()) if depth is None else min(depth, max(steps.values()))
    tree = nx.DiGraph()
    for system in walk(whole, root, {system: size_of(graph, system) for system in whole}):
        if steps[system] > deepest:
            continue
        tree.add_node(
            system,
            depth=steps[system],
            size=size_of(graph, system),
            color=colors.get(system, OTHER).lower() if steps[system] else ROOT,
            fill=tint(colors.get(system, OTHER), steps[system], deepest) if steps[system] else ROOT,
            text=text_of(graph, system, root, labels, framed=system in highlight),
            framed=system in highlight,
        )
        tree.add_edges_from((parent, system) for parent in whole.predecessors(system))
    return tree


def closest_parents(graph: nx.DiGraph) -> nx.DiGraph:
    """Return the map as a tree: of several parents the one that holds most of the system, then the smallest."""
    tree = nx.DiGraph()
    tree.add_nodes_from(graph)
    for system in graph:
        ranked = sorted(
            graph.predecessors(system),
            key=lambda parent: (-graph.edges[parent, system]["overlap"], size_of(graph, parent), parent),
        )
        tree.add_edges_from((parent, system) for parent in ranked[:1])
    if not len(tree) or not nx.is_arborescence(tree):
        roots = sum(not degree for _, degree in graph.in_degree())
        msg = f"A map of {len(graph)} systems with {roots} roots cannot be drawn: it must have one root, from which"
        raise BadInput(f"{msg} edges lead to every other system and none back. Build the map anew.")
    return tree


def walk(tree: nx.DiGraph, root: str, sizes: Mapping[str, int]) -> Iterator[str]:
    """Yield the systems of a tree, parents first and siblings from large to small."""
    waiting = [root]
    while waiting:
        system = waiting.pop(0)
        yield system
        waiting.extend(sorted(tree.successors(system), key=lambda child: (-sizes[child], child)))


def size_of(graph: nx.DiGraph, system: str) -> int:
    """Return the number of members; at least one, as nothing cannot be drawn."""
    return max(int(graph.nodes[system]["size"]), 1)


def text_of(graph: nx.DiGraph, system: str, root: str, labels: Mapping[str, str], *, framed: bool) -> str:
    """Return the label of a system; empty where it has none, or is small and unnamed and nobody asked for it."""
    known = bool(graph.nodes[system].get("term_name")) or framed
    if known or size_of(graph, system) >= UNNAMED * size_of(graph, root):
        return " ".join(labels.get(system, "").split())
    return ""


def tint(color: str, depth: int, deepest: int) -> str:
    """Return `color` mixed with white, the less the deeper."""
    from matplotlib.colors import to_hex, to_rgb

    share = PALEST + (STRONGEST - PALEST) * (depth - 1) / max(deepest - 1, LEVELS)
    try:
        red, green, blue = (1 - share * (1 - part) for part in to_rgb(color))
    except ValueError as exc:
        msg = f"{color!r} is not a color. Write it as '#rrggbb'."
        raise BadInput(msg) from exc
    return to_hex((red, green, blue))


def place_circles(tree: nx.DiGraph) -> tuple[dict[str, Disk], dict[str, Fitted | None]]:
    """Return each system's circle and label, parents first."""
    half = WIDTH / 2 - MARGIN
    circles: dict[str, Disk] = {next(iter(tree)): (WIDTH / 2, half, half - 1)}
    texts: dict[str, Fitted | None] = {}
    for system in tree:
        text, inside = tree.nodes[system]["text"], list(tree.successors(system))
        shares = np.array([tree.nodes[child]["size"] for child in inside]) / tree.nodes[system]["size"]
        disks, texts[system] = fill_circle(circles[system], shares, text)
        circles.update({child: (x, y, r) for child, (x, y, r) in zip(inside, disks.tolist(), strict=True)})
    return circles, texts


def fill_circle(circle: Disk, shares: np.ndarray, text: str) -> tuple[np.ndarray, Fitted | None]:
    """Return the circles (k, 3) of children with `shares` (k,) of their parent's size, and the parent's label.

    They leave as much room above them as lets the label be largest; none when it does not fit in any case.
    """
    if not len(shares):
        return np.empty((0, 3)), fit_circle(text, circle, np.empty((0, 3)))
    radii = ROOM * circle[2] * np.sqrt(shares)
    centers = pack(GAP * radii)
    middle, around = enclose(centers, GAP * radii)
    best: Fitted | None = None
    disks = below_band(circle, centers - middle, radii, around, band=0)
    for lines in BANDS if text else ():
        lower = below_band(circle, centers - middle, radii, around, band=lines * min(BAND[0] * circle[2], BAND[1]))
        fitted = fit_circle(text, circle, lower)
        if fitted and (best is None or fitted.size > best.size):
            disks, best = lower, fitted
    return disks, best


def below_band(circle: Disk, centers: np.ndarray, radii: np.ndarray, around: float, *, band: float) -> np.ndarray:
    """Return packed circles (k, 3), `around` the radius of them all, in a circle below a band at its top."""
    x, y, radius = circle
    edge = max(0.5, 0.015 * radius)
    scale = min(1, (radius - edge - band / 2) / around)
    low = max(0, band - (radius - scale * around))  # no lower than the band asks for
    return np.column_stack([x + scale * centers[:, 0], y - low + scale * centers[:, 1], scale * radii])


def place_bars(tree: nx.DiGraph, height: float) -> dict[str, tuple[float, float, float, float]]:
    """Return x, y (its lower left), width and height of each system's bar, parents first."""
    below = max(node["depth"] for _, node in tree.nodes(data=True))
    root = next(iter(tree))
    left, right = MARGIN, WIDTH - MARGIN
    column = (right - left - ROOT_COLUMN) / max(below, 1)
    bars = {root: (left, 0.0, ROOT_COLUMN if below else right - left, height)}
    for system in tree:
        x, y, wide, high = bars[system]
        sizes = {child: tree.nodes[child]["size"] for child in tree.successors(system)}
        whole = max(sum(sizes.values()), tree.nodes[system]["size"])
        top = y + high
        for child, size in sizes.items():
            top -= high * size / whole
            bars[child] = (x + wide, top, column, high * size / whole)
    return bars


@lru_cache(maxsize=8192)
def width_of(line: str) -> float:
    """Return the width of a line at a size of one."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    with no_word_of_missing_glyphs():
        width, _, _ = text_to_path.get_text_width_height_descent(line, FontProperties(family=FONT, size=10), False)  # noqa: FBT003
    return float(width) / 10


@contextmanager
def no_word_of_missing_glyphs() -> Iterator[None]:
    """Keep quiet about signs that matplotlib's font lacks: in SVG they are drawn with a font of the reader's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        yield


@lru_cache(maxsize=8192)
def splits(text: str) -> list[tuple[str, ...]]:
    """Return a text in one line, in two and so on, each the narrowest way."""
    found: dict[int, tuple[str, ...]] = {}
    for width in range(len(text), 0, -1):
        lines = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
        if len(lines) > MAX_LINES:
            break
        found[len(lines)] = tuple(lines)
    return list(found.values())


def extent(lines: Sequence[str], size: float) -> tuple[float, float]:
    """Return the width and the height of lines of text."""
    return SLACK * size * max(map(width_of, lines)), size * (1 + LEADING * (len(lines) - 1))


def fit_bar(text: str, x: float, y: float, wide: float, high: float) -> Fitted | None:
    """Return the text as large as it fits into a bar, level if it can be; None when it does not fit."""
    if not text or high < SIZES[-1]:
        return None
    for turned in (False, True):
        room = (high, wide) if turned else (wide, high)
        for size in SIZES:
            for lines in splits(text):
                width, height = extent(lines, size)
                if width + 2 * PAD <= room[0] and height + 2 * PAD <= room[1]:
                    return Fitted(lines, size, x + wide / 2, y + high / 2, turned)
    return None


def fit_circle(text: str, circle: Disk, holes: np.ndarray) -> Fitted | None:
    """Return the text as large as it fits into a circle beside what is inside it (k, 3); None when it does not fit."""
    if not text or not place_in_circle(text, SIZES[-1], circle, holes):
        return None
    return next(fitted for size in SIZES if (fitted := place_in_circle(text, size, circle, holes)))


def place_in_circle(text: str, size: float, circle: Disk, holes: np.ndarray) -> Fitted | None:
    """Return where a text of a size fits: with air about it, in few lines, near the top; else where most air is."""
    x, y, radius = circle
    at = GRID * radius if len(holes) else np.zeros((1, 2))  # (m, 2), from the middle
    best: tuple[float, Fitted] | None = None
    for lines in splits(text):
        half = np.array(extent(lines, size)) / 2
        if np.linalg.norm(half) + PAD > radius:
            continue
        free = clearance(at, half, radius, holes - (x, y, 0)).clip(max=COMFORT).round(6)
        if free.max() >= PAD and (best is None or free.max() > best[0]):
            airy = np.flatnonzero(free == free.max())
            i = airy[np.argmin(np.linalg.norm(at[airy] - (0, radius), axis=1).round(6))]
            best = free.max(), Fitted(lines, size, float(x + at[i, 0]), float(y + at[i, 1]))
    return best[1] if best else None


def clearance(at: np.ndarray, half: np.ndarray, radius: float, holes: np.ndarray) -> np.ndarray:
    """Return how far (m,) boxes of half-widths (2,) around `at` (m, 2) are from the circle's edge and the holes."""
    free = radius - np.linalg.norm(np.abs(at) + half, axis=1)
    if len(holes):
        outside = np.maximum(np.abs(at[:, None] - holes[:, :2]) - half, 0)  # (m, k, 2), from the box to each middle
        free = np.minimum(free, (np.linalg.norm(outside, axis=2) - holes[:, 2]).min(axis=1))
    return np.asarray(free)


def new_figure(tree: nx.DiGraph, legend: Mapping[str, str], *, height: float) -> tuple[Figure, Axes]:
    """Return a blank figure with a legend below; its axes are in points from the lower left of the picture."""
    from matplotlib.figure import Figure

    rows = legend_rows(legend_entries(tree, legend))
    below = MARGIN + LEGEND_ROW * len(rows)
    figure = Figure(figsize=(WIDTH / 72, (below + height + MARGIN) / 72), facecolor=PAPER)
    axes = figure.add_axes((0, 0, 1, 1), frameon=False)
    axes.set_axis_off()
    axes.set(xlim=(0, WIDTH), ylim=(-below, height + MARGIN), autoscale_on=False)
    for number, row in enumerate(rows, 1):
        draw_legend_row(axes, row, y=-LEGEND_ROW * number)
    return figure, axes


def legend_entries(tree: nx.DiGraph, legend: Mapping[str, str]) -> list[tuple[list[str], str]]:
    """Return the colors and the text of what the legend says: those of `legend` in the picture, and what pale means."""
    nodes = [node for _, node in tree.nodes(data=True) if node["depth"]]
    used = {node["color"] for node in nodes}
    deepest = max((node["depth"] for node in nodes), default=0)
    listed = [(name, color) for name, color in legend.items() if color.lower() in used]
    if legend and OTHER in used and OTHER not in legend.values():
        listed.append(("other", OTHER))
    entries = [([tint(color, step, LEVELS) for step in (1, LEVELS)], name) for name, color in listed]
    if deepest > 1:
        shown = sorted({round(step) for step in np.linspace(1, deepest, 5)})
        entries.append(([tint(GRAY, step, deepest) for step in shown], f"1 to {deepest} steps below the root"))
    return entries


def legend_rows(entries: Sequence[tuple[list[str], str]]) -> list[list[tuple[float, list[str], str]]]:
    """Return the entries in rows that fit the width, each with where it begins."""
    rows: list[list[tuple[float, list[str], str]]] = []
    x = WIDTH
    for colors, name in entries:
        text = textwrap.shorten(name, 60, placeholder="…")
        wide = SWATCH * len(colors) + 3 + extent([text], LEGEND_TEXT)[0] + 12
        if x + wide > WIDTH - MARGIN:
            rows.append([])
            x = MARGIN
        rows[-1].append((x, colors, text))
        x += wide
    return rows


def draw_legend_row(axes: Axes, row: Sequence[tuple[float, list[str], str]], *, y: float) -> None:
    """Draw the swatches and the texts of one row of the legend, its lower edge at `y`."""
    from matplotlib.patches import Rectangle

    for x, colors, text in row:
        for number, color in enumerate(colors):
            axes.add_patch(Rectangle((x + SWATCH * number, y), SWATCH, SWATCH, facecolor=color, edgecolor=INK, lw=0.3))
        at = Fitted((text,), LEGEND_TEXT, x + SWATCH * len(colors) + 3, y + SWATCH / 2)
        draw_lines(axes, at, color=INK, name=None, anchor="left")


def add_shape(axes: Axes, tree: nx.DiGraph, system: str, shape: Patch, *, line: float, edge: str) -> None:
    """Draw the circle or the bar of a system, by whose name it is found in an SVG; a frame lies above its neighbors."""
    node = tree.nodes[system]
    frame = copy(shape)
    shape.set(facecolor=node["fill"], edgecolor=edge, linewidth=line, gid=system)
    axes.add_patch(shape)
    if node["framed"]:
        frame.set(facecolor="none", edgecolor=INK, linewidth=FRAME, gid=f"frame_{system}", zorder=3)
        axes.add_patch(frame)


def add_text(axes: Axes, tree: nx.DiGraph, system: str, fitted: Fitted | None) -> None:
    """Draw the label of a system where it has found a place, dark on a light fill and white on a dark one."""
    from matplotlib.colors import to_rgb

    if fitted:
        light = np.dot(to_rgb(tree.nodes[system]["fill"]), (0.299, 0.587, 0.114))
        draw_lines(axes, fitted, color=INK if light > DARK else PAPER, name=f"label_{system}", anchor="center")


def draw_lines(axes: Axes, fitted: Fitted, *, color: str, name: str | None, anchor: str) -> None:
    """Draw lines of text, each by itself, so that their distance is known; `$` and the like are what they are."""
    top = extent(fitted.lines, fitted.size)[1] / 2
    for number, line in enumerate(fitted.lines):
        down = fitted.size * (ASCENT + LEADING * number) - top  # from the middle to the baseline
        axes.text(
            *((fitted.x + down, fitted.y) if fitted.turned else (fitted.x, fitted.y - down)),
            line,
            color=color,
            family=[FONT, "sans-serif"],
            fontsize=fitted.size,
            gid=name and f"{name}_{number}",
            horizontalalignment=anchor,
            verticalalignment="baseline",
            rotation=90 if fitted.turned else 0,
            rotation_mode="anchor",
            parse_math=False,
            usetex=False,
            zorder=4,
        )
