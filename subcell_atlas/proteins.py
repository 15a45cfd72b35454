"""The table `proteins`, whose columns come from several makers: cells, ready-made vectors, the map, the simulation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import NotBuilt
from .profiles import merge_proteins, vectors_of
from .recipe import CENTER, Recipe
from .store import Store

__all__ = ["check_correction_of", "correction_of", "write_proteins"]

FROM_CELLS = (
    "image",
    "localization",
    "n_cells",
    "n_antibodies",
    "cell_lines",
    "reliability",
    "variability",
)  # of proteins


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
    vector column when its recipe is another, and, when `new` was made `from_cells`, all that cells tell. Then proteins
    that have no vector and no sequence, and are not in `new`, are forgotten; the names of those in `new` stay.
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
        known = [old[name].is_valid().to_numpy() for name in kept]
        known.append(pc.is_in(old["protein_id"], value_set=new["protein_id"].combine_chunks()).to_numpy())
        old = old.filter(pa.array(np.any(known, axis=0)))  # a row that says nothing any more goes
    merged = merge_proteins(old, new)
    if vector is not None:
        marks[vector] = mark_of(merged, vector)
        recipes[vector] = recipe.as_object() if recipe else None
        made_from_cells = made_from_cells | {vector} if from_cells else made_from_cells - {vector}
    metadata = {"recipes": recipes, "marks": marks, "from_cells": sorted(made_from_cells)}
    store.write("proteins", merged, metadata=metadata)


def correction_of(store: Store) -> dict[str, str]:
    """Return how the batches of the picture vectors were corrected, as an input of what is made of them.

    Empty for the usual way, which older atlases do not name.
    """
    recipe = store.recipe("proteins", "image")
    known = recipe.correction if recipe else None
    return {} if known in (None, CENTER) else {"correction": str(known)}


def check_correction_of(store: Store, built_from: Mapping[str, Any], *, made: str, stage: str) -> None:
    """Raise NotBuilt when something was `made`, by a stage, of picture vectors that were corrected otherwise."""
    then, now = built_from.get("correction", CENTER), correction_of(store).get("correction", CENTER)
    if then != now:
        msg = f"{made} came of pictures under the batch correction {then!r}; now it is {now!r}"
        raise NotBuilt(f"{msg}. Run: subcell-atlas build {stage}")


def mark_of(proteins: pa.Table, vector: str) -> str:
    """Return a hash of which protein has which vector."""
    known = proteins.filter(proteins[vector].is_valid())
    ids = "\0".join(known["protein_id"].to_pylist())
    return hashlib.sha256(ids.encode() + vectors_of(known[vector]).tobytes()).hexdigest()[:16]
