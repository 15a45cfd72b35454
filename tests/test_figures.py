"""Pictures of the hierarchy as files: what lies where, what is said, and that a file comes out the same twice."""

from __future__ import annotations

import itertools
import subprocess
import sys
from xml.etree import ElementTree as ET

import networkx as nx
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from PIL import Image

from subcell_atlas.cellmap.figures import draw_circles, draw_icicle, write_figure
from subcell_atlas.cellmap.packing import enclose, pack
from subcell_atlas.errors import BadInput, MissingExtra, UnknownName

LEGEND = {"Mitochondria": "#59a14f", "Nucleoli": "#4E79A7", "Cytosol": "#f28e2b"}
NAMES = (
    "nucleolus",
    "mitochondrial large ribosomal subunit",
    "costs $5 & <b>$x_1$",
    "α-tubulin – Δ",
    "establishment of protein localization to endoplasmic reticulum membrane by SRP 1",
)
DRAW = pytest.mark.parametrize("draw", [draw_circles, draw_icicle])


def make_map(n, seed=0, size=2000):
    """Make a map of `n` systems: children take shares of what their parent has left; every third has no name."""
    rng = np.random.default_rng(seed)
    graph = nx.DiGraph()
    graph.add_node("S0", level=0, size=size, term_name=None, persistence=60)
    for number in itertools.count(1):
        if len(graph) == n:
            return graph
        names = list(graph)
        free = {s: graph.nodes[s]["size"] - sum(graph.nodes[c]["size"] for c in graph.successors(s)) for s in names}
        parent = max(rng.choice(names, 3), key=free.get)
        if free[parent] < 8 or number > 50 * n:
            parent = max(names, key=free.get)
        child = int(rng.integers(4, max(5, free[parent] // 2)))
        level = graph.nodes[parent]["level"] + 1
        name = NAMES[number % len(NAMES)] if number % 3 else None
        graph.add_node(f"S{number}", level=level, size=child, term_name=name, persistence=5)
        graph.add_edge(parent, f"S{number}", overlap=1.0)


def flat_map(sizes, whole=None):
    graph = nx.DiGraph()
    graph.add_node("S0", level=0, size=whole or sum(sizes), term_name=None)
    for number, size in enumerate(sizes, 1):
        graph.add_node(f"S{number}", level=1, size=size, term_name=f"complex {number}")
        graph.add_edge("S0", f"S{number}", overlap=1.0)
    return graph


def chain_map(n, share=0.8):
    graph = nx.DiGraph()
    for level in range(n + 1):
        name = NAMES[level % len(NAMES)] if level else None
        graph.add_node(f"S{level}", level=level, size=int(1000 * share**level), term_name=name)
    nx.add_path(graph, list(graph), overlap=1.0)
    return graph


def names_of(graph):
    return {system: node["term_name"] or f"{system} unnamed" for system, node in graph.nodes(data=True)}


def drawn(draw, graph, **options):
    colors = {system: list(LEGEND.values())[i % 3] for i, system in enumerate(graph)}
    return draw(graph, **{"colors": colors, "labels": names_of(graph), "legend": LEGEND, **options})


def shapes_of(figure):
    return {patch.get_gid(): patch for patch in figure.axes[0].patches if patch.get_gid()}


def circles_of(figure):
    return {s: (*p.center, p.radius) for s, p in shapes_of(figure).items() if not s.startswith("frame_")}


def bars_of(figure):
    return {s: np.array(p.get_bbox().extents) for s, p in shapes_of(figure).items() if not s.startswith("frame_")}


def text_boxes(figure):
    """Return gid -> (x0, y0, x1, y1) of the lines of text, as they are set, in points of the picture."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    axes = figure.axes[0]
    to_points = axes.transData.inverted()
    boxes = [(text.get_gid() or "", text.get_window_extent(renderer)) for text in axes.texts]
    return [(gid, to_points.transform_bbox(box).extents) for gid, box in boxes]


def said_in(figure):
    """Return system -> its label, put together from its lines."""
    lines = {}
    for text in figure.axes[0].texts:
        if text.get_gid():
            lines.setdefault(text.get_gid().split("_")[1], []).append(text.get_text())
    return {system: " ".join(parts) for system, parts in lines.items()}


def overlapping(one, two, *, slack=0.01):
    return (np.minimum(one[2:], two[2:]) - np.maximum(one[:2], two[:2]) > slack).all()


def to_box(x, y, box):
    """Return the distance of a point from a box."""
    return np.hypot(max(box[0] - x, 0, x - box[2]), max(box[1] - y, 0, y - box[3]))


@pytest.mark.parametrize("n", [1, 2, 3, 9, 60])
def test_packed_circles_touch_and_do_not_overlap(rng, n):
    radii = np.sort(rng.pareto(1.5, n) + 0.2)[::-1]
    centers = pack(radii)
    gaps = np.linalg.norm(centers[:, None] - centers, axis=2) - radii - radii[:, None]
    np.fill_diagonal(gaps, 0)
    assert gaps.min() > -1e-6
    others = gaps + np.diag(np.full(n, np.inf))
    assert n == 1 or np.abs(others.min(axis=1)).max() < 1e-6


@pytest.mark.parametrize("n", [7, 30, 150])
def test_a_packing_is_dense(rng, n):
    radii = np.sort(rng.pareto(1.5, n) + 0.2)[::-1]
    _, around = enclose(pack(radii), radii)
    assert (radii**2).sum() / around**2 > 0.55  # d3 and circlify reach 0.6 to 0.75 on such sizes


def test_the_circle_around_circles_holds_them_all_and_is_nearly_the_smallest():
    radii = np.array([3.0, 1.0])
    middle, around = enclose(np.array([[0.0, 0], [4, 0]]), radii)
    assert 4 <= around < 4.05
    assert np.allclose(middle, [1, 0], atol=0.05)
    middle, around = enclose(np.array([[5.0, 7]]), np.array([2.0]))
    assert (middle.tolist(), around) == ([5, 7], 2)


def test_circles_lie_in_their_parents_and_beside_their_siblings():
    graph = make_map(150)
    circles = circles_of(drawn(draw_circles, graph))
    assert set(circles) == set(graph)
    for parent in graph:
        x, y, radius = circles[parent]
        for child in graph.successors(parent):
            cx, cy, r = circles[child]
            assert r > 0
            assert np.hypot(cx - x, cy - y) + r < radius
        for one, two in itertools.combinations(graph.successors(parent), 2):
            (ax, ay, a), (bx, by, b) = circles[one], circles[two]
            assert np.hypot(ax - bx, ay - by) > a + b


def test_areas_of_siblings_are_in_proportion_to_their_sizes_and_at_most_their_share_of_the_parent():
    graph = make_map(150)
    circles = circles_of(drawn(draw_circles, graph))
    for parent in graph:
        per_member = [circles[child][2] ** 2 / graph.nodes[child]["size"] for child in graph.successors(parent)]
        if per_member:
            assert max(per_member) == pytest.approx(min(per_member))
            assert max(per_member) < circles[parent][2] ** 2 / graph.nodes[parent]["size"]


def test_labels_lie_in_their_circles_beside_the_children_and_each_other():
    graph = make_map(150)
    figure = drawn(draw_circles, graph, highlight=["S4"])
    circles, boxes = circles_of(figure), [(gid, box) for gid, box in text_boxes(figure) if gid.startswith("label_")]
    assert len({gid.split("_")[1] for gid, _ in boxes}) > 12
    for gid, box in boxes:
        system = gid.split("_")[1]
        x, y, radius = circles[system]
        corners = itertools.product(box[[0, 2]], box[[1, 3]])
        assert max(np.hypot(cx - x, cy - y) for cx, cy in corners) <= radius
        for child in graph.successors(system):
            cx, cy, r = circles[child]
            assert to_box(cx, cy, box) >= r
    assert not any(overlapping(a, b) for (_, a), (_, b) in itertools.combinations(boxes, 2))


def test_bars_lie_beside_their_parent_and_share_its_height_by_size():
    graph = make_map(150)
    bars = bars_of(drawn(draw_icicle, graph))
    assert set(bars) == set(graph)
    for parent in graph:
        _, y0, x1, y1 = bars[parent]
        for child in graph.successors(parent):
            c = bars[child]
            assert c[0] == pytest.approx(x1)
            assert y0 - 1e-6 <= c[1] < c[3] <= y1 + 1e-6
            assert (c[3] - c[1]) / (y1 - y0) == pytest.approx(graph.nodes[child]["size"] / graph.nodes[parent]["size"])
        for one, two in itertools.combinations(graph.successors(parent), 2):
            assert not overlapping(bars[one], bars[two], slack=1e-6)
    assert bars["S0"][0] < bars["S0"][2]


def test_children_that_share_members_share_the_height_of_their_parent():
    bars = bars_of(drawn(draw_icicle, flat_map([60, 60, 30], whole=100)))
    high = {system: box[3] - box[1] for system, box in bars.items()}
    assert high["S1"] == pytest.approx(high["S0"] * 60 / 150)
    assert sum(high[s] for s in ("S1", "S2", "S3")) == pytest.approx(high["S0"])


def test_labels_lie_in_their_bars():
    figure = drawn(draw_icicle, make_map(150), highlight=["S4"])
    bars, boxes = bars_of(figure), [(gid, box) for gid, box in text_boxes(figure) if gid.startswith("label_")]
    assert len({gid.split("_")[1] for gid, _ in boxes}) > 20
    for gid, box in boxes:
        bar = bars[gid.split("_")[1]]
        assert (box[:2] >= bar[:2]).all()
        assert (box[2:] <= bar[2:]).all()
    assert not any(overlapping(a, b) for (_, a), (_, b) in itertools.combinations(boxes, 2))


@DRAW
def test_labels_are_whole_and_of_a_size_that_can_be_read(draw):
    graph = make_map(80)
    figure = drawn(draw, graph)
    wanted = names_of(graph)
    assert {system: wanted[system] for system in said_in(figure)} == said_in(figure)
    assert {text.get_fontsize() >= 5 for text in figure.axes[0].texts} == {True}


@DRAW
def test_small_unnamed_systems_have_no_label_unless_they_are_highlighted(draw):
    graph = flat_map([400, 300, 45, 45, *[7] * 30])
    for system in ("S2", "S4"):
        graph.nodes[system]["term_name"] = None
    labels = {system: system for system in ("S0", "S1", "S2", "S3", "S4")}
    assert set(said_in(draw(graph, colors={}, labels=labels))) == {"S0", "S1", "S2", "S3"}
    assert set(said_in(draw(graph, colors={}, labels=labels, highlight=["S4"]))) == set(labels)
    assert set(said_in(draw(graph, colors={}, labels={"S1": "one"}))) == {"S1"}


@DRAW
def test_a_name_too_long_for_its_place_is_left_out(draw):
    graph = flat_map([10] * 150)
    shown = drawn(draw, graph, labels={"S1": "x" * 200, "S0": "all"})
    assert said_in(shown) == {"S0": "all"}


@DRAW
def test_a_system_with_two_parents_stands_under_the_one_that_holds_most_of_it(draw):
    graph = flat_map([500, 300], whole=1000)
    graph.add_node("S3", level=2, size=20, term_name="shared")
    graph.add_edge("S1", "S3", overlap=0.8)
    graph.add_edge("S2", "S3", overlap=0.9)

    def inside(parent):
        (one, two) = (shapes_of(drawn(draw, graph))[system].get_extents() for system in (parent, "S3"))
        if draw is draw_circles:
            return one.x0 < two.x0 and one.x1 > two.x1
        return one.y0 <= two.y0 + 1e-6 and one.y1 >= two.y1 - 1e-6

    assert inside("S2")
    assert not inside("S1")
    graph.edges["S1", "S3"]["overlap"] = 0.9  # of equal ones, the smaller parent
    assert inside("S2")
    graph.edges["S1", "S3"]["overlap"] = 0.95
    assert inside("S1")


@DRAW
def test_deeper_systems_have_more_of_their_color_and_those_without_one_are_gray(draw):
    graph = chain_map(12)
    figure = draw(graph, colors=dict.fromkeys(list(graph)[:12], "#59a14f"), labels={})
    fills = [np.array(shape.get_facecolor()[:3]) for shape in shapes_of(figure).values()]
    light = [float(np.dot(fill, (0.299, 0.587, 0.114))) for fill in fills]
    assert all(outer > inner for outer, inner in itertools.pairwise(light[:12]))
    full = np.array(to_rgb("#59a14f"))
    assert all(np.linalg.norm(fill - full) < np.linalg.norm(1 - full) for fill in fills[1:12])
    assert np.ptp(fills[0]) == pytest.approx(0)  # the root has no place
    assert np.ptp(fills[12]) < 0.1 < np.ptp(fills[11])


@DRAW
def test_the_text_on_a_fill_can_be_read_in_gray(draw):
    graph = chain_map(6, share=0.95)
    for color in ("#000000", "#1f3d99", "#edc948", "#e15759"):
        figure = draw(graph, colors=dict.fromkeys(graph, color), labels=dict.fromkeys(graph, "x"))
        fills = shapes_of(figure)
        texts = [text for text in figure.axes[0].texts if text.get_gid()]
        assert len(texts) > 4
        for text in texts:
            fill, ink = (
                np.dot(c, (0.299, 0.587, 0.114))
                for c in (fills[text.get_gid().split("_")[1]].get_facecolor()[:3], to_rgb(text.get_color()))
            )
            assert abs(fill - ink) > 0.33


@DRAW
def test_depth_cuts_the_picture_and_not_the_sizes(draw):
    graph = chain_map(6)
    assert list(shapes_of(drawn(draw, graph, depth=2))) == ["S0", "S1", "S2"]
    assert list(shapes_of(drawn(draw, graph, depth=0))) == ["S0"]
    assert list(shapes_of(drawn(draw, graph, depth=99))) == list(graph)
    with pytest.raises(BadInput, match="Give 0 or more"):
        drawn(draw, graph, depth=-1)


@DRAW
def test_a_highlighted_system_has_a_frame_where_it_stands(draw):
    graph = make_map(30)
    shapes = shapes_of(drawn(draw, graph, highlight=["S3"]))
    assert [name for name in shapes if name.startswith("frame")] == ["frame_S3"]
    assert shapes["frame_S3"].get_extents().extents == pytest.approx(shapes["S3"].get_extents().extents)
    assert shapes["frame_S3"].get_linewidth() > 2 * shapes["S3"].get_linewidth()
    with pytest.raises(UnknownName, match="nearest: S3"):
        drawn(draw, graph, highlight=["S33"])
    with pytest.raises(BadInput, match=r"4 steps below the root and the picture ends at 2\. Raise the depth"):
        drawn(draw, chain_map(5), highlight=["S4"], depth=2)


@DRAW
def test_the_legend_lists_the_colors_of_the_picture_below_it(draw):
    graph = flat_map([50, 30, 20])
    colors = {"S1": "#59a14f", "S2": "#4e79a7"}
    figure = draw(graph, colors=colors, labels={}, legend={**LEGEND, "a name " * 30: "#59a14f"})
    said = [text.get_text() for text in figure.axes[0].texts]
    assert said[:2] == ["Mitochondria", "Nucleoli"]
    assert said[2].startswith("a name a name")
    assert said[3:] == ["other"]
    lowest = min(shape.get_extents().y0 for shape in shapes_of(figure).values())
    boxes = [box for _, box in text_boxes(figure)]
    x, y = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    for box in boxes:
        assert x[0] <= box[0] < box[2] <= x[1]
        assert y[0] <= box[1] < box[3] <= 0
    assert lowest >= figure.axes[0].transData.transform((0, 0))[1] - 1e-6
    assert not any(overlapping(a, b) for a, b in itertools.combinations(boxes, 2))
    assert "1 to 3 steps below the root" in [t.get_text() for t in drawn(draw, chain_map(3)).axes[0].texts]


@DRAW
@pytest.mark.parametrize("graph", [flat_map([], whole=5), flat_map([3000, *range(4, 203)]), chain_map(12)])
def test_every_shape_of_map_can_be_drawn(draw, graph, tmp_path):
    figure = drawn(draw, graph)
    assert set(shapes_of(figure)) == set(graph)
    write_figure(tmp_path / "map.png", figure)
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.width == round(510 / 72 * 300)
        assert np.asarray(picture.convert("L")).min() < 60


@DRAW
def test_a_file_comes_out_the_same_twice_and_says_no_date(draw, tmp_path):
    for suffix in (".svg", ".pdf", ".png"):
        for name in ("one", "two"):
            write_figure(tmp_path / f"{name}{suffix}", drawn(draw, make_map(40), highlight=["S2"]))
        one, two = ((tmp_path / f"{name}{suffix}").read_bytes() for name in ("one", "two"))
        assert one == two
        assert b"CreationDate" not in one
        assert b"<dc:date>" not in one


@DRAW
def test_an_svg_holds_the_names_as_text_and_the_systems_by_their_ids(draw, tmp_path):
    graph = flat_map([40, 30, 20, 15, 15])
    labels = {**{f"S{i}": name for i, name in enumerate(NAMES, 1)}, "S4": "蛋白質"}
    write_figure(tmp_path / "map.SVG", drawn(draw, graph, labels=labels))
    root = ET.parse(tmp_path / "map.SVG").getroot()
    said = " ".join(element.text for element in root.iter("{http://www.w3.org/2000/svg}text"))
    for name in (NAMES[0], NAMES[1], "costs $5 & <b>$x_1$", "蛋白質"):
        assert name in said
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert set(graph) <= set(ids)
    assert len(ids) == len(set(ids))


def test_other_suffixes_and_folders_that_do_not_exist_are_refused(tmp_path):
    figure = drawn(draw_circles, flat_map([3]))
    with pytest.raises(BadInput, match=r"'map\.jpeg': a picture ends in \.svg, \.pdf, \.png\. Name it map\.svg"):
        write_figure(tmp_path / "map.jpeg", figure)
    with pytest.raises(BadInput, match="No such file or directory"):
        write_figure(tmp_path / "nowhere" / "map.svg", figure)
    assert not list(tmp_path.iterdir())


def test_maps_that_are_no_hierarchy_and_words_that_are_no_color_are_refused():
    two = flat_map([3, 3])
    two.remove_edge("S0", "S2")
    ring = flat_map([5, 4])
    ring.remove_edge("S0", "S1")
    ring.add_edges_from([("S1", "S2"), ("S2", "S1")], overlap=1.0)
    for graph, n in ((nx.DiGraph(), 0), (two, 2), (ring, 1)):
        with pytest.raises(BadInput, match=f"{n} roots cannot be drawn"):
            draw_circles(graph, colors={}, labels={})
    with pytest.raises(BadInput, match="'mitochondrial' is not a color"):
        draw_icicle(flat_map([3]), colors={"S1": "mitochondrial"}, labels={})


def test_without_matplotlib_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=r"matplotlib.*subcell-atlas\[figures\]"):
        draw_circles(flat_map([3]), colors={}, labels={})


def test_a_map_is_drawn_without_pyplot_and_matplotlib_is_loaded_only_then():
    code = (
        "import sys, networkx as nx\n"
        "from subcell_atlas.cellmap.figures import draw_circles\n"
        "assert 'matplotlib' not in sys.modules\n"
        "graph = nx.DiGraph(); graph.add_node('S0', level=0, size=3, term_name=None)\n"
        "draw_circles(graph, colors={}, labels={})\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
