"""Screens of wells that are planted, written as an atlas holds them."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa

from subcell_atlas.profiles import vector_array
from subcell_atlas.recipe import Recipe
from subcell_atlas.store import Store

DIM = 48


def write_screen(uri, rng, effects, *, extras=None, plates=("1", "2", "3"), n_controls=4, lines=("U-2 OS",)) -> Store:
    """Write three cells of each well; a well a plate and cell line for each of `effects` (condition -> (DIM,)).

    extras: condition -> what the manifest says of it; the controls are DMSO. Plates and cell lines look different.
    """
    rows, vectors = [], []
    of_place = {(line, plate): 3 * rng.normal(size=DIM) for line in lines for plate in plates}
    conditions = [*effects, *["DMSO"] * n_controls]
    for (line, plate), look in of_place.items():
        for number, condition in enumerate(conditions):
            of_well = look + effects.get(condition, 0) + 0.7 * rng.normal(size=DIM)
            extra = (extras or {}).get(condition)
            for _ in range(3):
                rows.append(
                    {"cell_id": f"c{len(rows)}", "condition": condition, "plate": plate, "well": f"W{number}"}
                    | {"cell_line": line, "picture_id": f"{line}{plate}{number}"}
                    | {"extra": json.dumps(extra) if extra else None}
                )
                vectors.append(of_well + 0.3 * rng.normal(size=DIM))
    table = pa.Table.from_pylist(rows).append_column("embedding", vector_array(np.array(vectors)))
    table = table.append_column("protein_id", pa.nulls(len(rows), pa.string()))
    for name in ("extra", "condition"):  # a column of nothing has no type of its own
        table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.string()))
    store = Store.create(str(uri))
    store.append_cells(table, recipe=Recipe(encoder="planted", dim=DIM))
    return store
