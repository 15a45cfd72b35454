"""What the pages read of the atlas, kept for as long as the tables it came from are not written again."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import streamlit as st

from subcell_atlas import map_query, query
from subcell_atlas.about import describe
from subcell_atlas.atlas import Atlas
from subcell_atlas.maps import MAIN
from subcell_atlas.pages.scatter import Points
from subcell_atlas.schema import TABLES
from subcell_atlas.store import Store, conform, one_of, quote

if TYPE_CHECKING:
    from subcell_atlas.encoders.encoder import Encoder

__all__ = [
    "OTHER",
    "Cell",
    "Question",
    "cell_points",
    "colors_of",
    "encoder_of",
    "find_functions",
    "find_hits",
    "find_like_crops",
    "find_like_sequence",
    "find_places",
    "protein_points",
    "read_about",
    "read_cell",
    "read_cells",
    "read_cells_of_profiles",
    "read_choices",
    "read_comparison",
    "read_comparison_of_maps",
    "read_map",
    "read_predicted",
    "read_profiles",
    "read_proteins",
    "versions",
]

OTHER = "#a3a7ad"  # the color of localizations that are not among the most frequent
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
    "reliability",
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
    reliabilities: tuple[str, ...] = ()

    @property
    def where(self) -> str | None:
        """The condition on proteins, as SQL; None when there is none."""
        conditions = []
        if self.localizations:
            labels = ", ".join(quote(label) for label in self.localizations)
            conditions.append(f"array_has_any(localization, [{labels}])")
        if self.reliabilities:
            conditions.append(one_of("reliability", self.reliabilities))
        return " AND ".join(conditions) or None


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


@st.cache_resource(show_spinner=False, max_entries=4)  # Arrow tables do not change: no copy is needed
def _proteins(uri: str, key: tuple[int, ...]) -> pa.Table:
    del key
    wanted = pa.schema([(name, TABLES["proteins"][name]) for name in PROTEIN_COLUMNS])
    proteins = conform(Store.open(uri).read("proteins", PROTEIN_COLUMNS), wanted).sort_by("protein_id")
    symbols, ids = proteins["gene_symbol"].to_pylist(), proteins["protein_id"].to_pylist()
    n_of = Counter(symbols)
    names = [s if s and n_of[s] == 1 else i for s, i in zip(symbols, ids, strict=True)]
    return proteins.append_column("name", pa.array(names, pa.string()))


def read_choices(store: Store) -> tuple[list[str], list[str]]:
    """Return the localizations and the cell lines that proteins of the atlas have, in order."""
    return _choices(store.uri, versions(store, "proteins"))


@st.cache_resource(show_spinner=False, max_entries=4)
def _choices(uri: str, key: tuple[int, ...]) -> tuple[list[str], list[str]]:
    proteins = _proteins(uri, key)
    lists = (proteins[name].combine_chunks().flatten() for name in ("localization", "cell_lines"))
    labels, lines = (sorted(values.drop_null().unique().to_pylist()) for values in lists)
    return labels, lines


def find_hits(store: Store, proteins: tuple[str, ...], question: Question) -> pa.Table:
    """Return the answer of `query.similar`."""
    return _hits(store.uri, versions(store, "proteins", "profiles"), proteins, question)


@st.cache_resource(show_spinner=False, max_entries=3)
def _held(uri: str, key: tuple[int, ...], modality: str) -> query.HeldVectors:
    del key
    return query.HeldVectors(Store.open(uri), modality)


@st.cache_data(show_spinner=False, max_entries=256, hash_funcs={Question: repr})
def _hits(uri: str, key: tuple[int, ...], proteins: tuple[str, ...], question: Question) -> pa.Table:
    return query.similar(
        Store.open(uri),
        proteins,
        k=question.k,
        modality=question.modality,
        where=question.where,
        cell_line=question.cell_line,
        held=None if question.cell_line else _held(uri, key, question.modality),
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


def find_like_sequence(store: Store, sequence: str, question: Question) -> pa.Table:
    """Return the proteins whose sequences are most like one."""
    return _like_sequence(store.uri, versions(store, "proteins"), sequence, question)


@st.cache_data(show_spinner=False, max_entries=64, hash_funcs={Question: repr})
def _like_sequence(uri: str, key: tuple[int, ...], sequence: str, question: Question) -> pa.Table:
    return _atlas(uri, key).similar_to_sequence(sequence, k=question.k, where=question.where)


def encoder_of(store: Store) -> Encoder:
    """Return the encoder that embeds pictures as the atlas's were, loaded once."""
    return _encoder(store.uri, versions(store, "cells"))


@st.cache_resource(show_spinner="Loading the encoder…", max_entries=1)
def _encoder(uri: str, key: tuple[int, ...]) -> Encoder:
    from subcell_atlas.encoders.encoder import load_encoder_of

    del key
    return load_encoder_of(query.recipe_for_pictures(Store.open(uri)))


def find_like_crops(store: Store, crops: np.ndarray, mark: str, question: Question) -> pa.Table:
    """Return the proteins that look most like crops (n, C, size, size), which `mark` tells from others."""
    return _like_crops(store.uri, versions(store, "proteins", "profiles", "cells"), mark, question, crops)


@st.cache_data(show_spinner=False, max_entries=64, hash_funcs={Question: repr})
def _like_crops(uri: str, key: tuple[int, ...], mark: str, question: Question, _crops: np.ndarray) -> pa.Table:
    del key, mark
    store = Store.open(uri)
    vector = query.vector_of_cells(store, encoder_of(store), _crops, cell_line=question.cell_line)
    return query.similar_to_vector(store, vector, k=question.k, where=question.where, cell_line=question.cell_line)


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


def read_profiles(store: Store, protein: str) -> pa.Table:
    """Return the answer of `query.profiles_of`."""
    return _profiles(store.uri, versions(store, "proteins", "profiles"), protein)


@st.cache_data(show_spinner=False, max_entries=128)
def _profiles(uri: str, key: tuple[int, ...], protein: str) -> pa.Table:
    del key
    return query.profiles_of(Store.open(uri), protein)


def read_predicted(store: Store, protein: str) -> pa.Table:
    """Return the answer of `query.predicted_places`."""
    return _predicted(store.uri, versions(store, "cells"), protein)


@st.cache_data(show_spinner=False, max_entries=128)
def _predicted(uri: str, key: tuple[int, ...], protein: str) -> pa.Table:
    del key
    return query.predicted_places(Store.open(uri), protein)


def read_comparison(store: Store, name: str, by: str) -> list[dict[str, Any]]:
    """Return the answer of `query.compare` as rows."""
    return _comparison(store.uri, versions(store, "proteins", "profiles"), name, by)


@st.cache_data(show_spinner=False, max_entries=256)
def _comparison(uri: str, key: tuple[int, ...], name: str, by: str) -> list[dict[str, Any]]:
    return query.compare_among(_pairs(uri, key, by), Store.open(uri), name, by=by).to_pylist()


@st.cache_resource(show_spinner=False, max_entries=6)
def _pairs(uri: str, key: tuple[int, ...], by: str) -> pa.Table:
    del key
    return query.pairs_within_proteins(Store.open(uri), by)


def read_cells_of_profiles(
    store: Store, protein: str, *, n: int
) -> dict[tuple[str | None, str | None, str | None], list[Cell]]:
    """Return at most `n` cells with a thumbnail by antibody, cell line and condition."""
    return _cells_of_profiles(store.uri, versions(store, "cells"), protein, n)


@st.cache_data(show_spinner=False, max_entries=64)
def _cells_of_profiles(
    uri: str, key: tuple[int, ...], protein: str, n: int
) -> dict[tuple[str | None, str | None, str | None], list[Cell]]:
    del key
    store = Store.open(uri)
    found: dict[tuple[str | None, str | None, str | None], list[Cell]] = {}
    if store.has("cells"):
        wanted = ["cell_id", "antibody", "cell_line", "condition", "thumbnail"]
        where = f"protein_id = {quote(protein)} AND thumbnail IS NOT NULL"
        for row in store.read("cells", wanted, where=where).sort_by("cell_id").to_pylist():
            cells = found.setdefault((row["antibody"], row["cell_line"], row["condition"]), [])
            if len(cells) < n:
                cells.append(Cell(row["cell_line"], row["antibody"], row["thumbnail"]))
    return found


def read_cell(store: Store, cell: str) -> Cell | None:
    """Return a cell by its id; None when it is not there or has no picture."""
    wanted = ["cell_line", "antibody", "thumbnail"]
    rows = store.read("cells", wanted, where=f"cell_id = {quote(cell)}").to_pylist()
    return Cell(**rows[0]) if rows and rows[0]["thumbnail"] else None


def protein_points(store: Store) -> tuple[Points, list[str]]:
    """Return the proteins as points in the plane, and their ids in the same order."""
    return _protein_points(store.uri, versions(store, "proteins"))


@st.cache_resource(show_spinner=False, max_entries=4)
def _protein_points(uri: str, key: tuple[int, ...]) -> tuple[Points, list[str]]:
    proteins = read_proteins(Store.open(uri))
    placed = proteins.filter(pc.is_valid(proteins["x"]))
    colors, labels, color_of = colors_of_rows(proteins, placed["localization"].to_pylist())
    names = [
        f"{name} – {', '.join(labels or ['unknown'])}"
        for name, labels in zip(placed["name"].to_pylist(), placed["localization"].to_pylist(), strict=True)
    ]
    mark = f"proteins {uri} {key}"
    points = Points(places_of(placed), np.arange(len(names)), names, color_of, colors, labels, mark)
    return points, placed["protein_id"].to_pylist()


def cell_points(store: Store) -> tuple[Points, list[str], np.ndarray]:
    """Return the cells as points in the plane, their ids, and the ids of their proteins (n,), in the same order."""
    return _cell_points(store.uri, versions(store, "cell_places", "proteins"))


@st.cache_resource(show_spinner=False, max_entries=2)
def _cell_points(uri: str, key: tuple[int, ...]) -> tuple[Points, list[str], np.ndarray]:
    store = Store.open(uri)
    placed, proteins = store.read("cell_places"), read_proteins(store)
    row_of = {protein: row for row, protein in enumerate(proteins["protein_id"].to_pylist())}
    protein_of = np.array(placed["protein_id"].to_pylist(), object)
    rows = np.array([row_of.get(protein, 0) for protein in protein_of])
    colors, labels, color_of = colors_of_rows(proteins, proteins["localization"].to_pylist())
    mark = f"cells {uri} {key}"
    points = Points(places_of(placed), rows, proteins["name"].to_pylist(), color_of[rows], colors, labels, mark)
    return points, placed["cell_id"].to_pylist(), protein_of


def places_of(table: pa.Table) -> np.ndarray:
    """Return the columns x and y as (n, 2)."""
    return np.stack([table["x"].to_numpy(), table["y"].to_numpy()], axis=1)


def colors_of(proteins: pa.Table) -> dict[str, str]:
    """Return a colour for each of the most frequent first localizations, the same on every page; see OTHER."""
    return map_query.colors_of(labels[0] for labels in proteins["localization"].to_pylist() if labels)


def colors_of_rows(
    proteins: pa.Table, localizations: Sequence[Sequence[str] | None]
) -> tuple[list[str], list[str], np.ndarray]:
    """Return the colors of first localizations with their names, and of each row which (n,); the last is of others."""
    known = colors_of(proteins)
    at = {label: index for index, label in enumerate(known)}
    color_of = np.array([at.get(labels[0], len(at)) if labels else len(at) for labels in localizations])
    return [*known.values(), OTHER], [*known, "other"], color_of


def read_comparison_of_maps(store: Store, name: str, other: str, content: bytes | None) -> dict[str, Any]:
    """Compare a map with another of the atlas, or with one in a file, given by its name and content."""
    return _comparison_of_maps(store.uri, versions(store, "systems", "system_members"), name, other, content)


@st.cache_data(show_spinner="Comparing the maps…", max_entries=16)
def _comparison_of_maps(uri: str, key: tuple[int, ...], name: str, other: str, content: bytes | None) -> dict[str, Any]:
    del key
    store = Store.open(uri)
    if content is None:
        return map_query.comparison_record(*map_query.compare_with(store, other, name=name))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(other).name
        path.write_bytes(content)
        return map_query.comparison_record(*map_query.compare_with(store, str(path), name=name))


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
