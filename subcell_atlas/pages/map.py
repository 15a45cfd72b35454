"""The map page: the hierarchy of systems, one of them at a time, and where a gene sits in it.

The address holds the place: `?system=S3`. The hierarchy is not a tree: a system inside two larger ones stands under
both in the picture, there as paths from the root, `S0/S2/S6`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import networkx as nx
import plotly.graph_objects as go
import pyarrow as pa
import streamlit as st

from subcell_atlas import map_query, query
from subcell_atlas.errors import AtlasError, UnknownName
from subcell_atlas.maps import MAIN, known_maps, map_of
from subcell_atlas.pages import page_file, parts, reading
from subcell_atlas.pages.map_tools import show_tools
from subcell_atlas.pages.parts import plain
from subcell_atlas.pages.pictures import whole_view
from subcell_atlas.store import Store

HIGHLIGHT = "#e8590c"
DEPTH = 4  # levels that the picture shows at once
MAX_PATHS = 5000  # places in the picture; of a map with more, each system stands under one parent only
MAX_CHILDREN = 24
LETTERS = 160  # that fit into the width of the picture
N_PICTURES = 8
MOSTLY = 0.5  # share of the members that a localization must have to describe a system


def show() -> None:
    """Draw the page."""
    with parts.known_problems():
        store = parts.open_store("proteins", "systems")
        name = choose_map(store)
        graph = reading.read_map(store, name)
        proteins = reading.read_proteins(store)
        gene = ask_place(store, graph, proteins, name)
        paths = paths_of_gene(store, gene, name)
        path = place(graph)
        show_paths(graph, gene, paths)
        breadcrumb(graph, path)
        navigator(graph, parts.colors_of(proteins), path)
        show_system(store, graph, proteins, path[-1])
        show_tools(store, name)
        footer(store, path[-1], gene)


def choose_map(store: Store) -> str:
    """Return the map that the address's system is of; where the atlas has several, let a person choose."""
    maps = list(known_maps(store)) or [MAIN]
    wanted = map_of(st.query_params.get("system", ""))
    name = wanted if wanted in maps else MAIN

    def chosen() -> None:
        st.session_state.pop("path", None)
        st.query_params.pop("system", None)
        if st.session_state["map"] != MAIN:
            st.query_params["system"] = f"{st.session_state['map']}:S0"

    if len(maps) > 1:
        st.session_state["map"] = name
        st.selectbox("Map", maps, key="map", on_change=chosen, width=240)
    return name


def go_to(*path: str) -> None:
    """Make the system at the end of `path` the place."""
    st.query_params["system"] = path[-1]
    st.session_state["path"] = path


def label(graph: nx.DiGraph, system: str) -> str:
    """Return what to call a system: its term; without one, where most of its members are."""
    node = graph.nodes[system]
    if node["level"] == 0 and not node["term_name"]:
        return f"{system} the whole map"
    if node["term_name"]:
        return f"{system} {node['term_name']}"
    if node["main"] and node["share"] >= MOSTLY:
        return f"{system} unnamed, mostly {node['main']}"
    return f"{system} unnamed"


def place(graph: nx.DiGraph) -> tuple[str, ...]:
    """Return the path from the root to the system that the address names; the root's when it names none."""
    roots = [system for system in graph if graph.in_degree(system) == 0]
    wanted = st.query_params.get("system", roots[0])
    if wanted not in graph:
        st.warning(plain(UnknownName("system", wanted, graph)))
        wanted = roots[0]
    walked = st.session_state.get("path", ())
    if walked and walked[0] in roots and walked[-1] == wanted and nx.is_path(graph, list(walked)):
        return tuple(walked)
    return min(paths_to(graph, wanted), key=lambda path: (len(path), path))


def paths_to(graph: nx.DiGraph, system: str) -> list[tuple[str, ...]]:
    """Return every path from a root to a system."""
    parents = sorted(graph.predecessors(system))
    return [(*path, system) for parent in parents for path in paths_to(graph, parent)] or [(system,)]


def ask_place(store: Store, graph: nx.DiGraph, proteins: pa.Table, name: str) -> str | None:
    """Let a person look for a gene or a system; return the gene."""
    systems = {label(graph, system): system for system in graph}

    def chosen() -> None:
        found = st.session_state["find"]
        if found in systems:
            st.session_state["find"] = None
            go_to(systems[found])
        elif found:
            with suppress(AtlasError):  # which the page shows
                go_to(*query.paths_of(store, found, name)[1][0])

    return st.selectbox(
        "Find",
        [*proteins["name"].to_pylist(), *systems],
        index=None,
        key="find",
        bind="query-params",
        on_change=chosen,
        accept_new_options=True,
        placeholder="Find a gene or a system",
        label_visibility="collapsed",
        width=420,
        icon=":material/search:",
    )


def paths_of_gene(store: Store, gene: str | None, name: str) -> list[list[str]]:
    """Return where a gene sits; nothing, and why, when it is not in the map."""
    if not gene:
        return []
    try:
        return query.paths_of(store, gene, name)[1]
    except AtlasError as exc:
        st.warning(plain(exc))
        return []


def show_paths(graph: nx.DiGraph, gene: str | None, paths: Sequence[list[str]]) -> None:
    """Show the ways from the root to the smallest systems that hold a gene, each step a button."""
    for number, path in enumerate(paths):
        with st.container(horizontal=True, vertical_alignment="center", gap="xxsmall"):
            st.markdown(f"**{plain(gene)}** :gray[sits in]" if number == 0 else ":gray[and in]", width="content")
            for depth, system in enumerate(path, 1):
                if depth > 1:
                    st.markdown(":gray[›]", width="content")
                st.button(plain(label(graph, system)), key=f"path_{number}_{depth}", on_click=go_to, args=path[:depth])


def breadcrumb(graph: nx.DiGraph, path: tuple[str, ...]) -> None:
    """Show the way from the root to here, each step a button."""
    with st.container(horizontal=True, vertical_alignment="center", gap="xxsmall"):
        for depth, system in enumerate(path[:-1], 1):
            text = plain(label(graph, system))
            st.button(text, key=f"crumb_{system}", type="tertiary", on_click=go_to, args=path[:depth])
            st.markdown(":gray[›]", width="content")
        st.markdown(f"**{plain(label(graph, path[-1]))}**", width="content")


def navigator(graph: nx.DiGraph, colors: dict[str, str], path: Sequence[str]) -> None:
    """Draw the hierarchy around here; a click goes there."""
    places = all_places(graph)
    here = tuple(path) if tuple(path) in places else next(found for found in places if found[-1] == path[-1])
    key = f"navigator_{'/'.join(here)}"  # a new chart for each place: it remembers no click of the place before

    def clicked() -> None:
        for point in st.session_state[key].selection.points:
            go_to(*str(point["id"]).split("/"))

    st.plotly_chart(
        draw_hierarchy(graph, places, colors, here),
        key=key,
        on_select=clicked,
        selection_mode="points",
        config={"displayModeBar": False},
        alt="The hierarchy of systems, the largest at the top",
    )
    said = (
        "Each bar is a system, those inside it below; its color is the most frequent localization, the stronger the "
        "more of its members share it. Click one to go there."
    )
    if several := [system for system in graph if graph.in_degree(system) > 1]:
        how = "stands under each of its parents" if len(places) > len(graph) else "stands under the closest one"
        said += f" {parts.plural(len(several), 'system')} with several parents: each {how}."
    st.caption(said)


def all_places(graph: nx.DiGraph) -> dict[tuple[str, ...], float]:
    """Return every path from a root, parents first, with its width as a share of the root's.

    Siblings share the width of their parent by size. When there are more than MAX_PATHS paths, each system stands only
    under the parent that holds most of it.
    """
    everywhere = walk(graph)
    return everywhere if len(everywhere) <= MAX_PATHS else walk(closest_parents(graph))


def walk(graph: nx.DiGraph) -> dict[tuple[str, ...], float]:
    """Return the paths from the roots and their widths; at most one more than MAX_PATHS of them."""
    roots = [system for system in graph if graph.in_degree(system) == 0]
    waiting: list[tuple[tuple[str, ...], float]] = [((root,), 1.0) for root in roots]
    places: dict[tuple[str, ...], float] = {}
    while waiting and len(places) <= MAX_PATHS:
        path, width = waiting.pop(0)
        places[path] = width
        size = {child: graph.nodes[child]["size"] for child in graph.successors(path[-1])}
        whole = max(sum(size.values()), graph.nodes[path[-1]]["size"], 1)
        ranked = sorted(size, key=lambda child: (-size[child], child))
        waiting.extend(((*path, child), width * size[child] / whole) for child in ranked)
    return places


def closest_parents(graph: nx.DiGraph) -> nx.DiGraph:
    """Return the map with, of the parents of each system, only the one that holds most of it."""
    tree = nx.DiGraph()
    tree.add_nodes_from(graph.nodes(data=True))
    for system in graph:
        if parents := list(graph.predecessors(system)):
            tree.add_edge(max(parents, key=lambda parent: (graph.edges[parent, system]["overlap"], parent)), system)
    return tree


def draw_hierarchy(
    graph: nx.DiGraph,
    places: dict[tuple[str, ...], float],
    colors: dict[str, str],
    here: tuple[str, ...],
) -> go.Figure:
    """Draw the places as an icicle that begins one above `here`; every place of that system has a frame."""
    is_here = [path[-1] == here[-1] for path in places]
    nodes = [graph.nodes[path[-1]] for path in places]
    hues = [parts.blend(colors.get(node["main"], parts.OTHER), node["share"]) for node in nodes]
    widest = places[here[:-1] or here]
    figure = go.Figure(
        go.Icicle(
            ids=["/".join(path) for path in places],
            labels=[parts.svg_text(label(graph, path[-1])) for path in places],
            parents=["/".join(path[:-1]) for path in places],
            values=list(places.values()),
            branchvalues="total",
            text=[bar_text(graph, path[-1], share=width / widest) for path, width in places.items()],
            customdata=[hover_text(node) for node in nodes],
            texttemplate="%{text}",
            hovertemplate="<b>%{label}</b><br>%{customdata}<extra></extra>",
            level="/".join(here[:-1] or here),
            maxdepth=DEPTH,
            tiling={"orientation": "v", "pad": 2},
            pathbar={"visible": False},
            marker={
                "colors": hues,
                "line": {
                    "width": [3 * framed for framed in is_here],
                    "color": [HIGHLIGHT if framed else "#ffffff" for framed in is_here],
                },
            },
            textfont={"color": "#111111", "size": 13},
            leaf={"opacity": 1},
        )
    )
    figure.update_layout(height=330, margin=dict.fromkeys("lrtb", 0), uniformtext={"minsize": 11, "mode": "hide"})
    return figure


def bar_text(graph: nx.DiGraph, system: str, *, share: float) -> str:
    """Return the name and the size of a system in lines that fit into its share of the picture's width."""
    node = graph.nodes[system]
    name = label(graph, system) if node["term_name"] or node["level"] == 0 else system
    room = max(int(share * LETTERS), len(system))
    lines = textwrap.wrap(name, room, max_lines=3, placeholder="…", break_long_words=False)
    if max(map(len, lines)) > room:
        lines = [system]
    return "<br>".join(parts.svg_text(line) for line in [*lines, f"{node['size']:,}"])


def hover_text(node: dict[str, Any]) -> str:
    """Return the facts of a system for its place in the picture."""
    said = [parts.plural(node["size"], "protein")]
    if node["level"]:
        said.append(f"persistence {node['persistence']}")
    if node.get("stability") is not None:
        said.append(f"stability {node['stability']:.2f}")
    if node["p_adjusted"] is not None:
        said.append(f"p {node['p_adjusted']:.1g}")
    if node["main"]:
        said.append(f"{node['share']:.0%} in {parts.svg_text(node['main'])}")
    return "<br>".join(said)


def show_system(store: Store, graph: nx.DiGraph, proteins: pa.Table, system: str) -> None:
    """Show the facts of a system, its parents and children, its members and their cells."""
    members = query.system_members(store, system)
    left, right = st.columns([5, 6], gap="medium")
    with left:
        st.markdown(facts(graph.nodes[system]))
        if graph.nodes[system]["level"] == 0:
            say_left_out(store, map_of(system))
        buttons(graph, "Inside", sorted(graph.predecessors(system)), kind="parent")
        inside = sorted(graph.successors(system), key=lambda child: (-graph.nodes[child]["size"], child))
        buttons(graph, "Holds", inside, kind="child")
    with right:
        name_of = dict(zip(proteins["protein_id"].to_pylist(), proteins["name"].to_pylist(), strict=True))
        names = [name_of[protein] for protein in members["protein_id"].to_pylist()]
        list_members(members, names, system)
        show_news(store, system)
    show_cells(store, members, names)


def say_left_out(store: Store, name: str) -> None:
    """Say what was found and is not in a map."""
    for about in map_query.map_summary(store):
        if about["map"] != name:
            continue
        if n := about["counts"].get("not_trusted", 0):
            st.caption(f"{parts.plural(n, 'more system')} left out: they do not come back more than chance.")
        if about["left_out"]:
            some = parts.listed(about["left_out"][:MAX_CHILDREN])
            st.caption(f"{parts.plural(len(about['left_out']), 'protein')} left out, of vectors without use: {some}")


def show_news(store: Store, system: str) -> None:
    """Show the members that nothing known of them puts here."""
    if not store.has("discoveries"):
        return
    rows = map_query.news(store, name=map_of(system), system=system).to_pylist()
    if not rows:
        return
    with st.expander(f"{parts.plural(len(rows), 'member')} that nothing known of them puts here"):
        for row in rows[:MAX_CHILDREN]:
            known = parts.listed(row["localization"]) if row["localization"] else "nothing known"
            name = plain(row["gene_symbol"] or row["protein_id"])
            st.markdown(f"**{name}** :gray[{row['kind']}: {known}; score {row['score']:.2f}]")
        if len(rows) > MAX_CHILDREN:
            st.markdown(f":gray[and {len(rows) - MAX_CHILDREN} more]")


def facts(node: dict[str, Any]) -> str:
    """Return what is known of a system, as Markdown."""
    said = [f"**{parts.plural(node['size'], 'protein')}**"]
    if node["main"]:
        said.append(f"{node['share']:.0%} in {plain(node['main'])}")
    if node["level"]:
        said.append(f"found at {parts.plural(node['persistence'], 'resolution')} (its persistence)")
    if node.get("stability") is not None:
        back = f"comes back with a Jaccard index of {node['stability']:.2f} when the data are partitioned again"
        said.append(f"{back}, as groups of no structure do with p {node['null_p_adjusted']:.1g}")
    if node["term_id"]:
        p = f", adjusted p {node['p_adjusted']:.1g}" if node["p_adjusted"] is not None else ""
        term = f"Term {plain(node['term_name'] or node['term_id'])} ({plain(node['term_id'])}){p}"
    elif node["level"] == 0:
        term = "The root: every protein of the map."
    else:
        term = "No term is enriched in it: either nothing is annotated, or nothing known fits."
    return " · ".join(said) + "  \n" + term


def buttons(graph: nx.DiGraph, title: str, systems: Sequence[str], *, kind: str) -> None:
    """Offer some systems to go to."""
    if not systems:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
        st.markdown(f":gray[{title}]", width="content")
        for system in systems[:MAX_CHILDREN]:
            text = f"{plain(label(graph, system))} :gray[{graph.nodes[system]['size']:,}]"
            st.button(text, key=f"{kind}_{system}", on_click=go_to, args=(system,))
        if len(systems) > MAX_CHILDREN:
            st.markdown(f":gray[and {len(systems) - MAX_CHILDREN} smaller]", width="content")


def list_members(members: pa.Table, names: Sequence[str], system: str) -> None:
    """Show the members as a table; the chosen one can be searched with."""
    table = members.select(["localization", "n_cells", "variability"])
    table = table.add_column(0, "name", pa.array(names, pa.string()))
    event = st.dataframe(
        table,
        hide_index=True,
        height=min(38 + 35 * max(len(names), 1), 300),
        on_select="rerun",
        selection_mode="single-row",
        key=f"members_{system}",
        column_config={
            "name": "Protein",
            "localization": "Localization",
            "n_cells": "Cells",
            "variability": st.column_config.NumberColumn("Variability", format="%.2f"),
        },
    )
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
        for row in event.selection.rows:
            if row < len(names):
                st.markdown(":gray[Search with]", width="content")
                search_button(names[row], kind="selected")
        st.download_button(
            "Members as CSV",
            parts.csv_of(members),
            f"{parts.file_name('system', system)}.csv",
            "text/csv",
            icon=":material/download:",
            on_click="ignore",
        )


def search_button(name: str, *, kind: str) -> None:
    """Offer to search with a protein."""
    if st.button(plain(name), key=f"{kind}_{name}", type="tertiary", help="Search with this protein"):
        st.switch_page(page_file("search"), query_params={"gene": name})


def show_cells(store: Store, members: pa.Table, names: Sequence[str]) -> None:
    """Show a cell of each of the members with the most cells."""
    ids, n_cells = (members[column].to_pylist() for column in ("protein_id", "n_cells"))
    ranked = sorted(range(len(names)), key=lambda row: (-(n_cells[row] or 0), names[row]))[:N_PICTURES]
    cells_of = reading.read_cells(store, tuple(ids[row] for row in ranked), n=1)
    ranked = [row for row in ranked if cells_of.get(ids[row])]
    if not ranked:
        st.caption("No pictures of its members are stored.")
        return
    view = whole_view(query.recipe_of_cells(store).get("channels") or ())
    with st.grid(N_PICTURES, min_column_width=120, gap="xsmall") as grid:
        for row in ranked:
            with grid.cell(), st.container(gap="xxsmall"):
                st.image(view.picture(cells_of[ids[row]]), width="stretch", alt=f"A cell of {names[row]}")
                search_button(names[row], kind="cell")


def footer(store: Store, system: str, gene: str | None) -> None:
    """Offer the place as Python and as a command, and say what the map rests on."""
    own = "" if map_of(system) == MAIN else repr(map_of(system))
    python = (
        "import subcell_atlas\n\n"
        f"atlas = subcell_atlas.open_atlas({store.uri!r})\n"
        f"graph = atlas.map({own})  # networkx: nodes are systems, edges go from parent to child\n"
        f"graph.nodes[{system!r}], list(graph.predecessors({system!r}))\n"
        f"members = atlas.members({system!r}).to_pandas()"
    )
    command = f"subcell-atlas map {parts.shell(system)} --atlas {parts.shell(store.uri)}"
    if gene:
        of_map = "" if not own else f" --map {parts.shell(map_of(system))}"
        command += f"\nsubcell-atlas map {parts.shell(gene)}{of_map} --atlas {parts.shell(store.uri)}"
    parts.snippets(python, command)
    parts.footer(store)


if __name__ == "__main__":
    show()
