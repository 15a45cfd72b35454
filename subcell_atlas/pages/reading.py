"""What the pages read of the atlas, kept for as long as the tables it came from are not written again."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import networkx as nx
import pyarrow as pa
import streamlit as st

from subcell_atlas import query
from subcell_atlas.about import describe
from subcell_atlas.atlas import Atlas
from subcell_atlas.maps import MAIN
from subcell_atlas.schema import TABLES
from subcell_atlas.store import Store, quote

__all__ = [
    "Cell",
    "Question",
    "find_functions",
    "find_hits",
    "find_places",
    "read_about",
    "read_cells",
    "read_map",
    "read_proteins",
    "versions",
]

PROTEIN_COLUMNS = (
    "protein_id",
    "gene_symbol",
    "ensembl_id",
    "uniprot_accession",
    "synonyms",
    "localization",
    "n_cells",
    "n_antibodies",
    "cell_lines",
    "variability",
    "x",
    "y",
)


@dataclass(frozen=True)
class Question:
    """What a person asks for on the search page."""

    k: int = 12
    modality: str = "image"
    cell_line: str | None = None
    localizations: tuple[str, ...] = ()

    @property
    def where(self) -> str | None:
        """The condition on proteins, as SQL; None when there is none."""
        if not self.localizations:
            return None
        labels = ", ".join(quote(label) for label in self.localizations)
        return f"array_has_any(localization, [{labels}])"


@dataclass(frozen=True)
class Cell:
    """A cell that can be shown."""

    cell_line: str | None
    antibody: str | None
    thumbnail: bytes


def versions(store: Store, *tables: str) -> tuple[int, ...]:
    """Return the versions of `tables`: together with the address, the key of what was read from them."""
    return tuple(store.version(table) for table in tables)


def read_about(store: Store) -> dict[str, Any]:
    """Return what there is to say of the atlas as a whole."""
    return _about(store.uri, versions(store, *TABLES))


@st.cache_data(show_spinner="Counting…", max_entries=2)
def _about(uri: str, key: tuple[int, ...]) -> dict[str, Any]:
    del key
    return describe(Store.open(uri))


def read_proteins(store: Store) -> pa.Table:
    """Return every protein without its vectors, and as `name` what to call it: its symbol where that is its own."""
    return _proteins(store.uri, versions(store, "proteins"))


@st.cache_data(show_spinner=False, max_entries=4)
def _proteins(uri: str, key: tuple[int, ...]) -> pa.Table:
    del key
    proteins = Store.open(uri).read("proteins", PROTEIN_COLUMNS).sort_by("protein_id")
    symbols, ids = proteins["gene_symbol"].to_pylist(), proteins["protein_id"].to_pylist()
    n_of = Counter(symbols)
    names = [s if s and n_of[s] == 1 else i for s, i in zip(symbols, ids, strict=True)]
    return proteins.append_column("name", pa.array(names, pa.string()))


def find_hits(store: Store, proteins: tuple[str, ...], question: Question) -> pa.Table:
    """Return the answer of `query.similar`."""
    return _hits(store.uri, versions(store, "proteins", "profiles"), proteins, question)


@st.cache_data(show_spinner=False, max_entries=256, hash_funcs={Question: repr})
def _hits(uri: str, key: tuple[int, ...], proteins: tuple[str, ...], question: Question) -> pa.Table:
    del key
    return query.similar(
        Store.open(uri),
        proteins,
        k=question.k,
        modality=question.modality,
        where=question.where,
        cell_line=question.cell_line,
    )


def find_functions(
    store: Store, *, genes: tuple[str, ...] = (), term: str | None = None, sequence: str | None = None, k: int
) -> pa.Table:
    """Return the answer of `Atlas.functions`."""
    key = versions(store, "proteins", "functions", "terms")
    return _functions(store.uri, key, genes, term, sequence, k)


@st.cache_data(show_spinner=False, max_entries=128)
def _functions(
    uri: str, key: tuple[int, ...], genes: tuple[str, ...], term: str | None, sequence: str | None, k: int
) -> pa.Table:
    return _atlas(uri, key).functions(*genes, term=term, sequence=sequence, k=k)


def find_places(store: Store, sequence: str, *, k: int) -> pa.Table:
    """Return the proteins whose pictures are most like the one that a sequence is expected to give."""
    return _places(store.uri, versions(store, "proteins", "functions", "terms"), sequence, k)


@st.cache_data(show_spinner=False, max_entries=128)
def _places(uri: str, key: tuple[int, ...], sequence: str, k: int) -> pa.Table:
    return _atlas(uri, key).similar_to_sequence(sequence, k=k, modality="image")


@st.cache_resource(show_spinner=False, max_entries=2)
def _atlas(uri: str, key: tuple[int, ...]) -> Atlas:
    """Return an atlas that is kept, with the encoder of sequences that it loads."""
    del key
    return Atlas(Store.open(uri))


def read_cells(
    store: Store, proteins: tuple[str, ...], *, n: int, cell_line: str | None = None
) -> dict[str, list[Cell]]:
    """Return at most `n` cells with a thumbnail of each protein, spread over its cell lines; nothing without any."""
    return _cells(store.uri, versions(store, "cells"), proteins, n, cell_line)


@st.cache_data(show_spinner=False, max_entries=128)
def _cells(
    uri: str, key: tuple[int, ...], proteins: tuple[str, ...], n: int, cell_line: str | None
) -> dict[str, list[Cell]]:
    del key
    store = Store.open(uri)
    if not proteins or "cells" not in store.names():
        return {}
    cells_of: dict[str, list[Cell]] = {protein: [] for protein in proteins}
    for row in query.thumbnails(store, proteins, n=n, cell_line=cell_line).to_pylist():
        cells_of[row["protein_id"]].append(Cell(row["cell_line"], row["antibody"], row["thumbnail"]))
    return cells_of


def read_map(store: Store, name: str = MAIN) -> nx.DiGraph:
    """Return a map; each system also carries `main`, the localization most of its members have, and its `share`."""
    return _map(store.uri, name, versions(store, "systems", "system_edges", "system_members", "proteins"))


@st.cache_resource(show_spinner=False, max_entries=4)
def _map(uri: str, name: str, key: tuple[int, ...]) -> nx.DiGraph:
    del key
    store = Store.open(uri)
    graph = query.map_graph(store, name)
    proteins = store.read("proteins", ["protein_id", "localization"])
    labels_of = dict(zip(*(proteins[c].to_pylist() for c in ("protein_id", "localization")), strict=True))
    counts: dict[str, Counter[str]] = {system: Counter() for system in graph}
    for row in store.read("system_members").to_pylist():
        if row["system_id"] in counts:
            counts[row["system_id"]].update(labels_of.get(row["protein_id"]) or [])
    for system, count in counts.items():
        label, n = min(count.items(), key=lambda item: (-item[1], item[0]), default=(None, 0))
        graph.nodes[system].update(main=label, share=n / max(graph.nodes[system]["size"], 1))
    return graph
