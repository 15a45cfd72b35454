"""The overview: every protein, or every cell, in the plane; those that a person selects are listed.

It is drawn by `scatter`, or by Plotly where the package was built without the JavaScript for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from subcell_atlas import query
from subcell_atlas.pages import parts, reading, scatter
from subcell_atlas.pages.parts import plain
from subcell_atlas.pages.pictures import whole_view
from subcell_atlas.store import Store

__all__ = ["show_overview"]

PROTEINS, CELLS = "Proteins", "Cells"
HIGHLIGHT = "#e8590c"
MAX_GENES = 10  # that a selection may ask for
MAX_MARKED = 300  # cells of the query
SVG_LIMIT = 2000  # points; Plotly draws more with WebGL


@st.fragment
def show_overview(
    store: Store,
    proteins: pa.Table,
    queries: Sequence[str],
    hits: Sequence[str],
    *,
    search_for: Callable[..., None],
) -> None:
    """Show what the atlas holds in the plane; a selection can be searched with, which `search_for` does."""
    if not pc.any(pc.is_valid(proteins["x"])).as_py():
        st.caption("This atlas has no overview yet. Run: `subcell-atlas build map`")
        return
    shown = PROTEINS
    if scatter.is_there() and store.has("cell_places"):
        shown = st.segmented_control(
            "Show", [PROTEINS, CELLS], default=PROTEINS, required=True, key="show", bind="query-params",
            label_visibility="collapsed",
        )  # fmt: skip
    if shown == CELLS:
        overview_of_cells(store, proteins, queries, search_for=search_for)
    elif scatter.is_there():
        list_proteins(proteins, webgl_overview(store, queries, hits), search_for)
    else:
        list_proteins(proteins, plotly_overview(proteins, queries, hits), search_for)


def webgl_overview(store: Store, queries: Sequence[str], hits: Sequence[str]) -> list[str]:
    """Draw the proteins, the query as a star and the hits ringed; return the ids of those that are selected."""
    points, ids = reading.protein_points(store)
    row_of = {protein: row for row, protein in enumerate(ids)}
    stars, rings = ([row_of[name] for name in names if name in row_of] for names in (queries, hits))
    chosen = scatter.draw_points(points, plot="proteins", highlight=HIGHLIGHT, stars=stars, rings=rings)
    return [ids[row] for row in chosen]


def overview_of_cells(
    store: Store, proteins: pa.Table, queries: Sequence[str], *, search_for: Callable[..., None]
) -> None:
    """Draw the cells, those of the query ringed; list the proteins of those that are selected."""
    points, cells, protein_of = reading.cell_points(store)
    wanted = np.flatnonzero(np.isin(protein_of, list(queries)))
    chosen = scatter.draw_points(points, plot="cells", highlight=HIGHLIGHT, rings=wanted[:MAX_MARKED].tolist())
    placed, n = len(cells), store.metadata("cell_places").get("n_cells", len(cells))
    said = "Each dot is a cell, placed among the proteins it looks like."
    if placed < n:
        said += f" These are {placed:,} of {n:,}, drawn at random."
    if not len(chosen):
        st.caption(f"{said} Click one, or draw around some with the lasso.")
        return
    counts = Counter(protein_of[chosen].tolist())
    if len(chosen) == 1:
        show_cell(store, cells[chosen[0]])
    list_proteins(proteins, list(counts), search_for, n_selected=counts)


def show_cell(store: Store, cell: str) -> None:
    """Show the picture of a cell and what it is of."""
    found = reading.read_cell(store, cell)
    if found is None:
        return
    view = whole_view(query.recipe_of_cells(store).get("channels") or ())
    with st.container(horizontal=True, vertical_alignment="center"):
        st.image(view.picture([found]), width=128, alt="The selected cell")
        st.caption(f"Cell {plain(cell)}  \n{plain(', '.join(filter(None, (found.cell_line, found.antibody))))}")


def list_proteins(
    proteins: pa.Table, ids: Sequence[str], search_for: Callable[..., None], *, n_selected: Counter[str] | None = None
) -> None:
    """List the proteins of a selection, those with most of it first; nothing selected: say how to."""
    if not ids:
        st.caption("Each dot is a protein; like lies by like. Click one, or draw around some with the lasso.")
        return
    selected = proteins.filter(pc.is_in(proteins["protein_id"], value_set=pa.array(sorted(set(ids)))))
    table = selected.select(["name", "localization", "n_cells"])
    columns: dict[str, Any] = {"name": "Protein", "localization": "Localization", "n_cells": "Cells"}
    if n_selected is not None:
        counts = [n_selected[protein] for protein in selected["protein_id"].to_pylist()]
        table = table.append_column("selected", pa.array(counts)).sort_by([("selected", "descending")])
        columns["selected"] = "Of these selected"
    names = table["name"].to_pylist()
    said = parts.plural(len(names), "protein")
    if n_selected is not None:
        said = f"{parts.plural(n_selected.total(), 'cell')} of {said}"
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.markdown(f"**{said} selected**", width="content")
        label = "Search with " + ("it" if len(names) == 1 else "them")
        if len(names) <= MAX_GENES and st.button(label, key="search_selected", on_click=search_for, args=names):
            st.rerun()  # the page, not this fragment alone
        st.download_button(
            "CSV", lambda: parts.csv_of(table), "selected.csv", "text/csv", icon=":material/download:",
            on_click="ignore",
        )  # fmt: skip
    st.dataframe(table, hide_index=True, height=min(38 + 35 * len(names), 220), column_config=columns, lazy=False)


def plotly_overview(proteins: pa.Table, queries: Sequence[str], hits: Sequence[str]) -> list[str]:
    """Draw the proteins with Plotly; return the ids of those that are selected."""
    event = st.plotly_chart(
        draw_overview(proteins, queries, hits),
        key=f"overview_{'_'.join(queries)}",  # a new question starts with nothing selected
        on_select="rerun",
        config={"displaylogo": False, "displayModeBar": True, "modeBarButtonsToRemove": ["autoScale2d", "toImage"]},
        alt="Proteins in the plane: those that look alike lie close",
    )
    ids = [point["customdata"] for point in event.selection.points if point.get("customdata")]
    return [i[0] if isinstance(i, list) else i for i in ids]


def draw_overview(proteins: pa.Table, queries: Sequence[str], hits: Sequence[str]) -> go.Figure:
    """Draw the plane: a color for each first localization, the query filled and the hits ringed."""
    rows = proteins.filter(pc.is_valid(proteins["x"])).to_pylist()
    colors = parts.colors_of(proteins)
    groups: dict[str, list[dict[str, Any]]] = {label: [] for label in ("other", *colors)}
    for row in rows:
        first = row["localization"][0] if row["localization"] else "other"
        groups[first if first in colors else "other"].append(row)
    kind = go.Scatter if len(rows) <= SVG_LIMIT else go.Scattergl
    size = 8 if len(rows) <= SVG_LIMIT else 4
    figure = go.Figure()
    for label, members in groups.items():
        if members:
            marker: dict[str, Any] = {"size": size, "color": colors.get(label, parts.OTHER), "opacity": 0.85}
            figure.add_trace(points(kind, members, name=label, marker=marker))
    ring = {"size": 15, "symbol": "circle-open", "color": HIGHLIGHT, "line": {"width": 2}}
    star = {"size": 17, "symbol": "star", "color": HIGHLIGHT, "line": {"width": 1, "color": "white"}}
    for name, ids, marker in (("neighbors", set(hits), ring), ("query", set(queries), star)):
        if members := [row for row in rows if row["protein_id"] in ids]:
            figure.add_trace(points(kind, members, name=name, marker=marker))
    figure.update_traces(legendrank=1001, selector={"name": "other"})  # drawn below the rest, named after it
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.update_layout(
        height=scatter.HEIGHT,
        margin={"l": 0, "r": 0, "t": 32, "b": 0},
        legend={"orientation": "h", "itemsizing": "constant", "font": {"size": 12}, "y": 0, "yanchor": "top"},
        dragmode="pan",  # while the lasso is out, Plotly takes no clicks
        hoverlabel={"namelength": 0},
    )
    return figure


def points(kind: type, rows: Sequence[dict[str, Any]], *, name: str, marker: dict[str, Any]) -> Any:
    """Return the trace of some proteins."""
    return kind(
        x=[row["x"] for row in rows],
        y=[row["y"] for row in rows],
        mode="markers",
        name=parts.svg_text(name),
        marker=marker,
        customdata=[row["protein_id"] for row in rows],
        text=[hover_text(row) for row in rows],
        hovertemplate="%{text}<extra></extra>",
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": 0.25}},
    )


def hover_text(row: dict[str, Any]) -> str:
    """Return the name and the localization of a protein for its place in the overview."""
    return f"<b>{parts.svg_text(row['name'])}</b><br>{parts.svg_text(', '.join(row['localization'] or ['–']))}"
