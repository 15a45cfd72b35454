"""Neighbors as cards, each with pictures of its cells, and as a file."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import streamlit as st

from subcell_atlas.pages import parts, reading
from subcell_atlas.pages.cards import Card, draw_cards
from subcell_atlas.pages.parts import plain
from subcell_atlas.pages.pictures import View
from subcell_atlas.store import Store

__all__ = ["show_hits"]

CARDS_A_PAGE = 24
CELLS_OF_HIT = 3


def show_hits(
    store: Store,
    proteins: pa.Table,
    hits: pa.Table,
    *,
    title: str,
    file: str,
    notes: list[str],
    cell_line: str | None,
    view: View,
    search_for: Callable[..., None],
) -> None:
    """Show neighbors, best first; a click on a name calls `search_for`. title: Markdown; file: name of the download."""
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.subheader(title, anchor=False)
        st.download_button(
            "Download as CSV",
            parts.csv_of(hits),
            f"{file}.csv",
            "text/csv",
            icon=":material/download:",
            on_click="ignore",
            disabled=not hits.num_rows,
        )
    if not hits.num_rows:
        st.info("No other protein meets these conditions. Take one of them away.")
        return
    st.caption("The number is the cosine similarity of their vectors; 1 is alike. Click a name to search with it.")
    for note in notes:
        st.caption(plain(note))
    page = st.container()
    turn = 1
    if hits.num_rows > CARDS_A_PAGE:
        turn = st.pagination(-(-hits.num_rows // CARDS_A_PAGE), key="page")
    with page:
        shown = hits.slice((turn - 1) * CARDS_A_PAGE, CARDS_A_PAGE)
        cards(store, proteins, shown, cell_line=cell_line, view=view, search_for=search_for)


def cards(
    store: Store,
    proteins: pa.Table,
    hits: pa.Table,
    *,
    cell_line: str | None,
    view: View,
    search_for: Callable[..., None],
) -> None:
    """Show a card for each hit: a click on its name makes it the query."""
    name_of = dict(zip(proteins["protein_id"].to_pylist(), proteins["name"].to_pylist(), strict=True))
    cells_of = reading.read_cells(store, tuple(hits["protein_id"].to_pylist()), n=CELLS_OF_HIT, cell_line=cell_line)
    drawn = []
    for hit in hits.to_pylist():
        name, cells = name_of[hit["protein_id"]], cells_of.get(hit["protein_id"])
        known = ", ".join(hit["localization"] or ()) or "–"
        drawn.append(
            Card(
                name=name,
                before=str(hit["rank"]),
                after=f"{hit['similarity']:.2f}",
                picture=view.picture(cells) if cells else None,
                alt=f"{len(cells or ())} cells of {name}",
                text=f"{known} · {parts.plural(hit['n_cells'] or 0, 'cell')}",
            )
        )
    draw_cards(drawn, key="hits", min_width=320, on_click=search_for, tip="Search with this protein")
