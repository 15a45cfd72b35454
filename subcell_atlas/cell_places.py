"""Where single cells stand in the overview: among the proteins whose profiles are most like them.

A layout of a million cells would take hours and move at every build. A cell is put where its nearest proteins are, so
it tells at a glance whether it looks as most of its protein do, or as another place in the cell.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa

from .cellmap.layout import mean_of_nearest
from .corrected_profiles import corrected_space
from .profiles import vectors_of
from .proteins import correction_of
from .store import Store

__all__ = ["MAX_CELLS", "build_cell_places", "has_layout", "places_inputs"]

MAX_CELLS = 200_000  # of more a random sample is placed: as many as a browser draws smoothly
CHUNK = 2048
GROUP = ("protein_id", "antibody", "cell_line", "condition")  # whose cells are corrected alike


def has_layout(store: Store) -> bool:
    """Tell whether there are cells, and proteins that stand somewhere."""
    there = store.has("cells") and store.has("profiles") and "image" in store.vector_columns("proteins")
    return there and bool(store.count("proteins", "x IS NOT NULL AND image IS NOT NULL"))


def places_inputs(store: Store, seed: int) -> dict[str, Any]:
    """Return what the places of cells depend on."""
    proteins = store.read("proteins", ["protein_id", "x", "y"]).sort_by("protein_id")
    layout = hashlib.sha256("".join(map(str, proteins.to_pylist())).encode()).hexdigest()[:16]
    inputs = {"cells": store.version("cells"), "layout": layout, "max_cells": MAX_CELLS, "seed": seed}
    return inputs | correction_of(store)


def build_cell_places(store: Store, seed: int) -> dict[str, int]:
    """Write where each cell stands, or of more than `MAX_CELLS` a random sample; return how many of how many."""
    built_from = places_inputs(store, seed)
    proteins = store.read("proteins", ["x", "y", "image"], where="x IS NOT NULL AND image IS NOT NULL")
    places = np.stack([proteins["x"].to_numpy(), proteins["y"].to_numpy()], axis=1)
    vectors = vectors_of(proteins["image"]).astype(np.float32)
    profiles = store.read("profiles", [*GROUP, "embedding", "uncentered"])
    space = corrected_space(store)
    shifts = space.shifts(profiles)
    row_of = {key: row for row, key in enumerate(zip(*(profiles[c].to_pylist() for c in GROUP), strict=True))}
    n = store.count("cells", "protein_id IS NOT NULL")
    chosen = np.random.default_rng(seed).permutation(n)[:MAX_CELLS]
    wanted, at = np.zeros(n, bool), 0
    wanted[chosen] = True
    tables = []
    for batch in store.batches("cells", ["cell_id", *GROUP, "embedding"], size=CHUNK):
        known = batch.filter(batch["protein_id"].is_valid())
        cells = known.filter(pa.array(wanted[at : at + known.num_rows]))
        at += known.num_rows
        if not cells.num_rows:
            continue
        rows = [row_of[key] for key in zip(*(cells[c].to_pylist() for c in GROUP), strict=True)]
        corrected = (space.project(vectors_of(cells["embedding"])) + shifts[rows]).astype(np.float32)
        found = mean_of_nearest(corrected, vectors, places, metric="cosine")
        tables.append(
            pa.table(
                {
                    "cell_id": cells["cell_id"],
                    "protein_id": cells["protein_id"],
                    "x": pa.array(found[:, 0], pa.float32()),
                    "y": pa.array(found[:, 1], pa.float32()),
                }
            )
        )
    placed = pa.concat_tables(tables)
    store.write("cell_places", placed, metadata={"built_from": built_from, "n_cells": n})
    return {"placed": placed.num_rows, "cells": n}
