"""Take it elsewhere: the map as HCX, GraphML, Newick and HiDeF's files, tables as CSV and Parquet, AnnData."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from .cellmap.exchange import write_hcx, write_hidef, write_interactome, write_newick
from .errors import BadInput, MissingExtra, NotBuilt, UnknownName
from .map_query import named_map
from .maps import MAIN, map_vectors, settings_of
from .profiles import vectors_of
from .query import map_graph
from .schema import STRINGS, TABLES, VECTOR
from .store import Store
from .writing import check_file_place, written_whole

if TYPE_CHECKING:
    import anndata

__all__ = ["KINDS", "ExportOptions", "export", "proteins_anndata"]


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is exported: a table for csv and parquet; a map for the formats of maps.

    interactome: for hcx, where the network of its proteins is: a UUID in NDEx, on the server `host`, or a file's name.
    """

    table: str = "proteins"
    map_name: str = MAIN
    interactome: str | None = None
    host: str | None = None


def export(store: Store, path: Path, *, kind: str, options: ExportOptions | None = None) -> None:
    """Write what the options name to the file `path` in the format `kind`."""
    options = options or ExportOptions()
    if kind not in KINDS:
        raise UnknownName("format", kind, KINDS)
    check_file_place(path)
    if kind in OF_MAPS:
        map_graph(store, options.map_name)  # before anything is made
    try:
        if kind in EXCHANGED:  # which are written whole themselves
            EXCHANGED[kind](store, path, options)
        else:
            with written_whole(path) as part:
                FORMATS[kind](store, part, options)
    except pa.ArrowException as exc:
        raise BadInput(f"{str(path)!r} cannot be written: {str(exc).splitlines()[0][:160]}") from exc


def write_parquet(store: Store, path: Path, options: ExportOptions) -> None:
    """Write a table as Parquet, vectors included."""
    pq.write_table(store.read(options.table), path)


def write_csv(store: Store, path: Path, options: ExportOptions) -> None:
    """Write a table as CSV: lists joined by `;`, vectors and pictures left out."""
    rows = store.read(options.table)
    columns = {}
    for name in rows.column_names:
        kind = rows.schema.field(name).type
        if TABLES[options.table][name] is VECTOR or pa.types.is_binary(kind):
            continue
        if pa.types.is_list(kind):
            columns[name] = pa.array([None if v is None else ";".join(v) for v in rows[name].to_pylist()], pa.string())
        else:
            columns[name] = rows[name]
    pa_csv.write_csv(pa.table(columns), path)


def write_graphml(store: Store, path: Path, options: ExportOptions) -> None:
    """Write the map; systems carry their columns and, as `members`, the symbols of their proteins."""
    named = named_map(store, options.map_name, by="gene_symbol")
    graph = named.graph
    for system, node in graph.nodes(data=True):
        for name in [name for name, value in node.items() if value is None]:
            del node[name]  # GraphML has no null
        node["members"] = " ".join(sorted(named.members[system]))
    graph.graph.update({key: value for key, value in named.about.items() if value is not None})
    nx.write_graphml(graph, path)


def write_newick_tree(store: Store, path: Path, options: ExportOptions) -> None:
    """Write the map as a tree whose leaves are the symbols of proteins."""
    write_newick(path, named_map(store, options.map_name, by="gene_symbol"))


def write_hidef_tables(store: Store, path: Path, options: ExportOptions) -> None:
    """Write the map as HiDeF's two tables."""
    write_hidef(path, named_map(store, options.map_name, by="gene_symbol"))


def write_hierarchy(store: Store, path: Path, options: ExportOptions) -> None:
    """Write the map as HCX."""
    named = named_map(store, options.map_name)
    proteins = proteins_of_map(store, sorted(set[str]().union(*named.members.values())))
    write_hcx(path, named, proteins, named.about, interactome=options.interactome, host=options.host)


def write_network(store: Store, path: Path, options: ExportOptions) -> None:
    """Write the neighbor graph of a map's proteins as CX2: of each, the nearest."""
    from .cellmap.graph import GraphOptions, neighbor_graph

    named = named_map(store, options.map_name)
    ids = sorted(set[str]().union(*named.members.values()))
    data = map_vectors(store, settings_of(store, options.map_name))
    if data.ids != ids:
        raise NotBuilt("The proteins have changed since the map was built. Run: subcell-atlas build")
    neighbors = neighbor_graph(data.vectors, GraphOptions(far=0))
    about = {**named.about, "title": f"Neighbors of the {named.about['title'].lower()}"}
    write_interactome(path, proteins_of_map(store, ids), neighbors, about)


def proteins_of_map(store: Store, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return the plain columns of proteins, in the order of `ids`."""
    plain = [name for name in store.columns("proteins") if TABLES["proteins"].get(name) is not VECTOR]
    known = {row["protein_id"]: row for row in store.read("proteins", plain).to_pylist()}
    return [known[name] for name in ids]


def write_h5ad(store: Store, path: Path, options: ExportOptions) -> None:
    """Write the proteins as AnnData."""
    del options
    proteins_anndata(store).write_h5ad(path)


def proteins_anndata(store: Store, *, modality: str = "image") -> anndata.AnnData:
    """Return the proteins that have vectors of `modality`: obs, X, obsm['X_umap'] and the recipe in uns."""
    try:
        import anndata
    except ImportError:
        raise MissingExtra("anndata", "anndata", "AnnData") from None
    if modality not in store.vector_columns("proteins"):
        raise NotBuilt(f"This atlas has no {modality} vectors.")
    proteins = store.read("proteins", where=f"{modality} IS NOT NULL")
    plain = [name for name in proteins.column_names if TABLES["proteins"].get(name) is not VECTOR]
    obs = proteins.select(plain).to_pandas().set_index("protein_id")
    for name in [name for name in plain if TABLES["proteins"].get(name) is STRINGS]:
        obs[name] = [";".join(values) if values is not None else "" for values in obs[name]]
    layout = obs[["x", "y"]].to_numpy(np.float32)
    text = obs.select_dtypes(exclude="number").columns
    obs[text] = obs[text].fillna("").astype(str)
    recipe = store.recipe("proteins", modality)
    uns = {"recipe": recipe.to_json()} if recipe else {}
    return anndata.AnnData(X=vectors_of(proteins[modality]), obs=obs, obsm={"X_umap": layout}, uns=uns)


Writer = Callable[[Store, Path, ExportOptions], None]
FORMATS: dict[str, Writer] = {"csv": write_csv, "graphml": write_graphml, "h5ad": write_h5ad, "parquet": write_parquet}
EXCHANGED: dict[str, Writer] = {
    "cx2": write_network,
    "hcx": write_hierarchy,
    "hidef": write_hidef_tables,
    "newick": write_newick_tree,
}
OF_MAPS = ("graphml", *EXCHANGED)
KINDS = tuple(sorted([*FORMATS, *EXCHANGED]))
