"""One protein: its cells, what its antibodies and cell lines agree on, its place in the map, what it may do.

The address holds it: `?name=TOMM20`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import streamlit as st

from subcell_atlas import query
from subcell_atlas.errors import AtlasError, UnknownName
from subcell_atlas.identifiers import find_protein
from subcell_atlas.pages import page_file, parts, reading
from subcell_atlas.pages.names import ask_names, choose_names
from subcell_atlas.pages.parts import plain
from subcell_atlas.pages.pictures import View, choose_view
from subcell_atlas.store import Store

CELLS_OF_PROFILE = 6
PROFILES_SHOWN = 12
CELL_PX = 112
N_FUNCTIONS = 8
UNUSUAL = 5.0  # percent: a pair below this percentile differs more than nearly all
BY = {"cell_line": "cell lines", "antibody": "antibodies", "condition": "conditions"}
LINKS = {  # what is known elsewhere, by which id
    "Human Protein Atlas": ("ensembl_id", "https://www.proteinatlas.org/{}/subcellular"),
    "UniProt": ("uniprot_accession", "https://www.uniprot.org/uniprotkb/{}"),
    "Ensembl": ("ensembl_id", "https://www.ensembl.org/id/{}"),
    "NDEx": (
        "gene_symbol",
        "https://www.ndexbio.org/#/search?searchType=All&searchString={}&searchTermExpansion=false",
    ),
}


def show() -> None:
    """Draw the page."""
    with parts.known_problems():
        store = parts.open_store("proteins")
        proteins = reading.read_proteins(store)
        placeholder = "A gene symbol, Ensembl id or UniProt accession"
        found = ask_names(
            proteins["name"].to_pylist(), key="name", label="Protein", placeholder=placeholder, single=True
        )
        name = found[0] if found else None
        if not name:
            st.caption("Type a name, or open a protein from the search page.")
            parts.footer(store)
            return
        try:
            row = proteins.slice(find_protein(name, proteins), 1).to_pylist()[0]
        except UnknownName as exc:
            st.warning(plain(exc))
            parts.name_buttons(exc.suggestions, open_protein, kind="instead")
            return
        view = choose_view(query.recipe_of_cells(store).get("channels") or ())
        show_protein(store, row, view)
        parts.footer(store)


def open_protein(name: str) -> None:
    """Make a protein the one that is shown."""
    choose_names([name], key="name")


def show_protein(store: Store, row: Mapping[str, Any], view: View) -> None:
    """Show all that the atlas knows of a protein."""
    name = row["name"]
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.subheader(plain(name), anchor=False)
        with st.container(horizontal=True, width="content", gap="xsmall"):
            st.page_link(
                page_file("search"), label="What looks like it", icon=":material/search:", query_params={"gene": name}
            )
            for title, (column, address) in LINKS.items():
                if value := row[column]:
                    st.link_button(title, address.format(value), icon=":material/open_in_new:", type="tertiary")
    st.markdown(parts.facts(row))
    left, right = st.columns([5, 4], gap="large")
    profiles = reading.read_profiles(store, row["protein_id"])
    with left:
        show_profiles(store, profiles, row, view)
    with right:
        show_places(store, row)
        show_changes(store, name, profiles)
        show_systems(store, name)
        show_functions(store, name)
    parts.snippets(*same(store, name))


def show_profiles(store: Store, profiles: pa.Table, row: Mapping[str, Any], view: View) -> None:
    """Show cells of each antibody, cell line and condition, and how far they are from the whole."""
    st.markdown("**Its cells** :gray[by cell line and antibody, the most cells first]")
    if not profiles.num_rows:
        st.caption("No cells of it are stored: its vectors came ready-made.")
        return
    cells_of = reading.read_cells_of_profiles(store, row["protein_id"], n=CELLS_OF_PROFILE)
    rows = profiles.to_pylist()
    for each in rows[:PROFILES_SHOWN]:
        key = each["antibody"], each["cell_line"], each["condition"]
        called = ", ".join(plain(part) for part in (each["cell_line"], each["antibody"], each["condition"]) if part)
        said = [f"**{called or 'cells'}**", parts.plural(each["n_cells"], "cell")]
        if each["spread"] is not None:
            said.append(f"spread {each['spread']:.2f}")
        if each["similarity"] is not None and len(rows) > 1:
            said.append(f"like the protein as a whole {each['similarity']:.2f}")
        st.markdown(" · ".join(said))
        if cells := cells_of.get(key):
            st.image(view.picture(cells), width=CELL_PX * len(cells), alt=f"{len(cells)} cells in {called}")
        else:
            st.caption("Without pictures.")
    if len(rows) > PROFILES_SHOWN:
        st.caption(f"And {len(rows) - PROFILES_SHOWN} more, with fewer cells.")
    st.caption(
        "Spread: the root mean square distance of cells to their mean, each centred on its plate. Like the whole: the "
        "cosine of its mean and the protein's vector."
    )


def show_places(store: Store, row: Mapping[str, Any]) -> None:
    """Show the localization that is known beside what is predicted of its cells."""
    st.markdown("**Where it is**")
    known = row["localization"] or []
    grade = f" :gray[{plain(row['reliability'])}]" if row["reliability"] else ""
    st.markdown(f"Known: {parts.listed(known)}{grade}")
    predicted = reading.read_predicted(store, row["protein_id"])
    if not predicted.num_rows:
        st.caption("Nothing is predicted of its cells: that takes an encoder with localization heads.")
        return
    shares = dict(zip(predicted["localization"].to_pylist(), predicted["share"].to_pylist(), strict=True))
    st.dataframe(
        pa.table(
            {
                "Predicted of its cells": list(shares),
                "share": list(shares.values()),
                "Known": [place in known for place in shares],
            }
        ),
        hide_index=True,
        height=38 + 35 * min(len(shares), 6),
        column_config={
            "share": st.column_config.ProgressColumn("Share of cells", min_value=0, max_value=1, format="percent")
        },
    )
    if known and not any(shares.get(place, 0) >= 0.5 for place in known):
        st.warning("Most of its cells are predicted elsewhere than where it is known to be.")


def show_changes(store: Store, name: str, profiles: pa.Table) -> None:
    """Show whether it looks different by antibody, cell line or condition, and how unusual that is."""
    st.markdown("**Does it change?**")
    told = False
    for by, called in BY.items():
        if len(profiles[by].drop_null().unique()) < 2:
            continue
        pairs = reading.read_comparison(store, name, by)
        told = True
        odd = [pair for pair in pairs if pair["percentile"] < UNUSUAL]
        if odd:
            worst = min(odd, key=lambda pair: pair["percentile"])
            two = f"{plain(worst['a'])} and {plain(worst['b'])}"
            rarer = f"{100 - worst['percentile']:.0f} % of such pairs of other proteins"
            st.warning(f"Its {called} disagree: {two} are less alike ({worst['similarity']:.2f}) than {rarer}.")
        else:
            st.markdown(f"Its {called} agree as those of other proteins do.")
        with st.expander(f"Pairs of {called}"):
            st.dataframe(
                pa.Table.from_pylist(pairs),
                hide_index=True,
                column_config={
                    "a": "One", "b": "Other", "n_cells_a": "Cells", "n_cells_b": "Cells of other",
                    "similarity": st.column_config.NumberColumn("Cosine", format="%.2f"),
                    "percentile": st.column_config.NumberColumn(
                        "Percentile", format="%.0f", help="of such pairs over all proteins so many are less alike"
                    ),
                },
            )  # fmt: skip
    if not told:
        st.caption("It was seen with one antibody, in one cell line, in one condition: there is nothing to compare.")


def show_systems(store: Store, name: str) -> None:
    """Show where it sits in the map."""
    st.markdown("**In the map**")
    if not store.has("systems"):
        st.caption("This atlas has no map yet.")
        return
    try:
        paths = query.paths_of(store, name)[1]
    except AtlasError as exc:
        st.caption(plain(exc))
        return
    graph = reading.read_map(store)
    for path in paths:
        with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
            for system in path[1:] or path:
                node = graph.nodes[system]
                label = f"{plain(node['term_name'] or system)} ({node['size']:,})"
                query_params = {"system": system, "find": name}
                st.page_link(page_file("map"), label=label, icon=":material/account_tree:", query_params=query_params)


def show_functions(store: Store, name: str) -> None:
    """Show what it may do, by each modality."""
    st.markdown("**What it may do**")
    if not store.has("functions"):
        st.caption("This atlas tells no functions yet.")
        return
    rows = reading.find_functions(store, genes=(name,), k=N_FUNCTIONS).to_pylist()
    if not rows:
        st.caption("Nothing is known of it, and nothing is likelier of it than of any protein.")
        return
    number = st.column_config.NumberColumn
    st.dataframe(
        pa.table(
            {
                "Function": [each["name"] for each in rows],
                "known": [each["annotated"] for each in rows],
                **{modality: [each[modality] for each in rows] for modality in ("image", "sequence", "fused")},
            }
        ),
        hide_index=True,
        height=38 + 35 * len(rows),
        column_config={
            "Function": st.column_config.TextColumn(width="medium"),
            "known": "Known",
            "image": number("Picture", format="%.2f", help="probability by the picture"),
            "sequence": number("Sequence", format="%.2f", help="probability by the sequence"),
            "fused": number("Both", format="%.2f"),
        },
    )
    st.page_link(
        page_file("functions"), label="Why, and all of them", icon=":material/science:", query_params={"genes": name}
    )


def same(store: Store, name: str) -> tuple[str, str]:
    """Return the page as Python and as commands."""
    python = (
        "import subcell_atlas\n\n"
        f"atlas = subcell_atlas.open_atlas({store.uri!r})\n"
        f"atlas.compare({name!r}, by='antibody').to_pandas()\n"
        f"atlas.functions({name!r}).to_pandas()"
    )
    asked, where = parts.shell(name), f"--atlas {parts.shell(store.uri)}"
    commands = (f"compare {asked} --by antibody", f"map {asked}", f"functions {asked}")
    return python, "\n".join(f"subcell-atlas {command} {where}" for command in commands)


if __name__ == "__main__":
    show()
