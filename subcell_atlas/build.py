"""Derived tables: read the store, call pure functions, write the store.

Each stage notes, with the table it writes, the versions of the tables it read; it is up to date while these stand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from ._version import __version__
from .cellmap.enrichment import name_systems
from .errors import NotBuilt, RecipeMismatch, UnknownName
from .profiles import (
    CELL_COLUMNS,
    CellSums,
    merge_proteins,
    profiles_table,
    proteins_table,
    vectors_of,
)
from .recipe import Recipe
from .runs import Run
from .schema import TABLES
from .store import Store

__all__ = ["DEFAULT_SEED", "STAGES", "build", "write_proteins"]

DEFAULT_SEED = 0
PLACES = ("cellular_component", "complex")  # aspects of terms that say where
FROM_CELLS = ("image", "localization", "n_cells", "n_antibodies", "cell_lines", "variability")  # of proteins
N_NEIGHBORS = 15  # of a protein in the neighbor graph


def build(store: Store, stages: Sequence[str] = (), *, force: bool = False, seed: int = DEFAULT_SEED) -> list[str]:
    """Bring the named stages (all when none is named) up to date, in order; return those that had to be made.

    `force` makes them anew whether or not they are. Raise UnknownName, or NotBuilt when there is nothing to build from.
    """
    for name in stages:
        if name not in STAGES:
            raise UnknownName("stage", name, STAGES)
    made = []
    for name, stage in STAGES.items():
        if stages and name not in stages:
            continue
        if not stages and not stage.applies(store):
            continue
        if not force and is_current(store, stage, seed):
            continue
        run = Run.start(store, kind=f"build {name}")
        run.finish({**stage.make(store, seed), "seed": seed})
        made.append(name)
    if made:
        store.compact("profiles", "proteins", "systems", "system_edges", "system_members", "runs")
    return made


def is_current(store: Store, stage: Stage, seed: int) -> bool:
    """Tell whether all tables of a stage are there and what they were made from is still the same."""
    there = set(stage.outputs) <= set(store.names())
    return there and store.metadata(stage.outputs[-1]).get("built_from") == stage.inputs(store, seed)


def build_profiles(store: Store, seed: int) -> dict[str, int]:
    """Make `profiles` from `cells`, and the columns of `proteins` that come from them."""
    built_from = profiles_inputs(store, seed)
    if has_ready_made_pictures(store):
        msg = "The proteins of this atlas have ready-made picture vectors; those of cells cannot be mixed with them."
        raise RecipeMismatch(f"{msg}\nPut the cells into another atlas (--atlas).")
    sums = CellSums()
    for batch in store.batches("cells", CELL_COLUMNS):
        sums.add(batch)
    if not sums.n:
        msg = f"None of the {sums.n_without_protein} cells names a gene, so there are no profiles to build."
        raise NotBuilt(f"{msg}\nGive gene_symbol, ensembl_id or uniprot_accession in the manifest and ingest again.")
    recipe = store.recipe("cells", "embedding")
    profiles = profiles_table(sums)
    write_proteins(store, proteins_table(profiles, sums.names), vector="image", recipe=recipe, from_cells=True)
    recipes = {"embedding": as_object(recipe)} if recipe else {}
    store.write("profiles", profiles, metadata={"built_from": built_from, "recipes": recipes})
    counts = {"profiles": profiles.num_rows, "proteins": store.count("proteins")}
    return counts | {"cells_without_protein": sums.n_without_protein}


def has_ready_made_pictures(store: Store) -> bool:
    """Tell whether the proteins' picture vectors came from a file and not from cells."""
    metadata = store.metadata("proteins")
    return "image" in metadata.get("marks", {}) and "image" not in metadata.get("from_cells", [])


def has_own_cells(store: Store) -> bool:
    """Tell whether proteins are to come from cells: always, unless their vectors were given ready-made."""
    return store.has("cells") or not store.metadata("proteins").get("marks")


def has_pictures(store: Store) -> bool:
    """Tell whether proteins have picture vectors to map."""
    return "image" in store.metadata("proteins").get("marks", {})


def profiles_inputs(store: Store, seed: int) -> dict[str, Any]:
    """Return what the profiles depend on; there is nothing random in them."""
    del seed
    return {"cells": store.version("cells")}


def write_proteins(
    store: Store,
    new: pa.Table,
    *,
    vector: str | None = None,
    recipe: Recipe | None = None,
    anew: Sequence[str] = (),
    from_cells: bool = False,
) -> None:
    """Merge columns into `proteins`; with a vector column among them go its recipe and a mark of its content.

    The columns `anew` are forgotten first, so that a protein that is no longer in `new` loses what they said; so is the
    vector column when its recipe is another, and, when `new` was made `from_cells`, all that cells tell.
    """
    metadata = store.metadata("proteins")
    recipes, marks = metadata.get("recipes", {}), metadata.get("marks", {})
    made_from_cells = set(metadata.get("from_cells", []))
    old = store.read("proteins") if "proteins" in store.names() else None
    stored = store.recipe("proteins", vector) if vector else None
    if vector is not None and (stored is None or recipe is None or stored.difference(recipe)):
        anew = (*anew, vector)
    if from_cells:
        anew = (*anew, *FROM_CELLS)
    if old is not None:
        old = old.drop_columns([name for name in dict.fromkeys(anew) if name in old.column_names])
        kept = [name for name in ("image", "sequence", "fused", "amino_acids") if name in old.column_names]
        known = [old[name].is_valid().to_numpy() for name in kept]  # a row that says nothing any more goes
        old = old.filter(pa.array(np.any(known, axis=0))) if known else old.slice(0, 0)
    merged = merge_proteins(old, new)
    if vector is not None:
        marks[vector] = mark_of(merged, vector)
        recipes[vector] = as_object(recipe) if recipe else None
        made_from_cells = made_from_cells | {vector} if from_cells else made_from_cells - {vector}
    metadata = {"recipes": recipes, "marks": marks, "from_cells": sorted(made_from_cells)}
    store.write("proteins", merged, metadata=metadata)


def mark_of(proteins: pa.Table, vector: str) -> str:
    """Return a hash of which protein has which vector."""
    known = proteins.filter(proteins[vector].is_valid())
    ids = "\0".join(known["protein_id"].to_pylist())
    return hashlib.sha256(ids.encode() + vectors_of(known[vector]).tobytes()).hexdigest()[:16]


def map_inputs(store: Store, seed: int) -> dict[str, Any]:
    """Return what the map depends on: the proteins' pictures, what names its systems, the seed, the release."""
    image = store.metadata("proteins").get("marks", {}).get("image")
    named_by = {table: store.version(table) for table in ("annotations", "terms")}
    return {"image": image, **named_by, "seed": seed, "code_version": __version__}


def build_map(store: Store, seed: int) -> dict[str, int]:
    """Make the systems and their places from the proteins' pictures, name them, and lay the proteins out."""
    from .cellmap.graph import neighbor_graph
    from .cellmap.hierarchy import HierarchyOptions, find_hierarchy
    from .cellmap.layout import layout_proteins

    built_from = map_inputs(store, seed)
    if "image" not in store.vector_columns("proteins"):
        raise NotBuilt("The proteins of this atlas have no picture vectors yet. Run: subcell-atlas build profiles")
    proteins = store.read("proteins", ["protein_id", "image"], where="image IS NOT NULL")
    ids = proteins["protein_id"].to_pylist()
    vectors = vectors_of(proteins["image"])
    found = find_hierarchy(neighbor_graph(vectors, k=N_NEIGHBORS), HierarchyOptions(seed=seed))
    terms = known_terms(store)
    where = {term for term, known in terms.items() if known.aspect in PLACES}
    names = name_systems(found.members, annotated_rows(store, ids), preferred=where)
    systems = []
    for system, node in found.graph.nodes(data=True):
        name = names.get(system)
        row = {"system_id": system, **node, "term_id": None, "term_name": None, "p_adjusted": None}
        if name:
            row |= {"term_id": name.term_id, "p_adjusted": name.p_adjusted}
            row["term_name"] = terms.get(name.term_id, Term(name.term_id, "")).name
        systems.append(row)
    places = layout_proteins(vectors, seed=seed)
    columns = {"protein_id": ids, "x": pa.array(places[:, 0]), "y": pa.array(places[:, 1])}
    write_proteins(store, pa.table(columns), anew=("x", "y"))
    store.drop("systems")  # until it is whole again there is no map: its tables are never of two builds
    edges = [{"parent_id": a, "child_id": b, "overlap": w} for a, b, w in found.graph.edges(data="overlap")]
    store.write("system_edges", rows_table(edges, ["parent_id", "child_id", "overlap"]))
    store.write("system_members", members_table(found.members, ids))
    store.write("systems", rows_table(systems, list(TABLES["systems"])), metadata={"built_from": built_from})
    return {"systems": len(systems), "named": len(names), "proteins": len(ids)}


def rows_table(rows: list[dict[str, Any]], columns: Sequence[str]) -> pa.Table:
    """Return rows as a table that has its columns even when there is no row."""
    return pa.table({name: [row[name] for row in rows] for name in columns})


def members_table(members: Mapping[str, np.ndarray], ids: Sequence[str]) -> pa.Table:
    """Return which protein is in which system."""
    systems = [system for system, rows in members.items() for _ in rows]
    return pa.table({"system_id": systems, "protein_id": [ids[row] for rows in members.values() for row in rows]})


def annotated_rows(store: Store, ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Return, for each term, the rows of `ids` that are annotated to it."""
    if not store.has("annotations"):
        return {}
    row_of = {protein: row for row, protein in enumerate(ids)}
    annotations = store.read("annotations", ["protein_id", "term_id"])
    rows: dict[str, set[int]] = {}
    for protein, term in zip(*(annotations[c].to_pylist() for c in ("protein_id", "term_id")), strict=True):
        if protein in row_of:
            rows.setdefault(term, set()).add(row_of[protein])
    return {term: np.array(sorted(found)) for term, found in rows.items()}


class Term(NamedTuple):
    """What `terms` says of one."""

    name: str
    aspect: str


def known_terms(store: Store) -> dict[str, Term]:
    """Return the name and aspect of each term, by its id."""
    if not store.has("terms"):
        return {}
    rows = store.read("terms", ["term_id", "name", "aspect"]).to_pylist()
    return {row["term_id"]: Term(row["name"], row["aspect"]) for row in rows}


def as_object(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as the JSON object that is stored with a table."""
    return dict(json.loads(recipe.to_json()))


@dataclass(frozen=True)
class Stage:
    """One step of the build. The last of its `outputs`, written last, notes what they were made from."""

    outputs: tuple[str, ...]
    inputs: Callable[[Store, int], dict[str, Any]]
    make: Callable[[Store, int], dict[str, int]]
    applies: Callable[[Store], bool] = lambda _: True


STAGES: dict[str, Stage] = {
    "profiles": Stage(("proteins", "profiles"), profiles_inputs, build_profiles, applies=has_own_cells),
    "map": Stage(("system_edges", "system_members", "systems"), map_inputs, build_map, applies=has_pictures),
}
