"""Take it elsewhere: GraphML, CSV and Parquet tables, AnnData."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import networkx as nx
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from .errors import BadInput, MissingExtra, NotBuilt, UnknownName
from .profiles import vectors_of
from .query import map_graph
from .schema import TABLES, VECTOR
from .store import Store
from .writing import check_file_place, written_whole

if TYPE_CHECKING:
    import anndata

__all__ = ["FORMATS", "export", "proteins_anndata"]


def export(store: Store, path: Path, *, kind: str, table: str = "proteins") -> None:
    """Write `table`, or for graphml the map, to the file `path` in the format `kind`."""
    if kind not in FORMATS:
        raise UnknownName("format", kind, FORMATS)
    check_file_place(path)
    try:
        with written_whole(path) as part:
            FORMATS[kind](store, part, table)
    except pa.ArrowException as exc:
        raise BadInput(f"{str(path)!r} cannot be written: {str(exc).splitlines()[0][:160]}") from exc


def write_parquet(store: Store, path: Path, table: str) -> None:
    """Write a table as Parquet, vectors included."""
    pq.write_table(store.read(table), path)


def write_csv(store: Store, path: Path, table: str) -> None:
    """Write a table as CSV: lists joined by `;`, vectors and pictures left out."""
    rows = store.read(table)
    columns = {}
    for name in rows.column_names:
        kind = rows.schema.field(name).type
        if TABLES[table][name] is VECTOR or pa.types.is_binary(kind):
            continue
        if pa.types.is_list(kind):
            columns[name] = pa.array([None if v is None else ";".join(v) for v in rows[name].to_pylist()], pa.string())
        else:
            columns[name] = rows[name]
    pa_csv.write_csv(pa.table(columns), path)


def write_graphml(store: Store, path: Path, table: str) -> None:
    """Write the map; systems carry their columns and, as `members`, the symbols of their proteins."""
    del table
    graph = map_graph(store)
    symbols = dict(zip(*(store.read("proteins")[c].to_pylist() for c in ("protein_id", "gene_symbol")), strict=True))
    members: dict[str, list[str]] = {}
    for row in store.read("system_members").to_pylist():
        members.setdefault(row["system_id"], []).append(symbols.get(row["protein_id"]) or row["protein_id"])
    for system, node in graph.nodes(data=True):
        for name in [name for name, value in node.items() if value is None]:
            del node[name]  # GraphML has no null
        node["members"] = " ".join(sorted(members.get(system, [])))
    nx.write_graphml(graph, path)


def write_h5ad(store: Store, path: Path, table: str) -> None:
    """Write the proteins as AnnData."""
    del table
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
    for name in ("localization", "cell_lines"):
        obs[name] = [";".join(values) if values is not None else "" for values in obs[name]]
    layout = obs[["x", "y"]].to_numpy(np.float32)
    text = obs.select_dtypes(exclude="number").columns
    obs[text] = obs[text].fillna("").astype(str)
    recipe = store.recipe("proteins", modality)
    uns = {"recipe": recipe.to_json()} if recipe else {}
    return anndata.AnnData(X=vectors_of(proteins[modality]), obs=obs, obsm={"X_umap": layout}, uns=uns)


FORMATS = {"csv": write_csv, "graphml": write_graphml, "h5ad": write_h5ad, "parquet": write_parquet}
