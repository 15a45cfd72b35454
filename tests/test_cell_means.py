"""Means of cells by replicate: those of the cells, centred as profiles are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from subcell_atlas.cell_means import CellMeans, read_means
from subcell_atlas.profiles import CELL_COLUMNS, CellSums, profiles_table, vector_array, vectors_of
from subcell_atlas.recipe import Recipe
from subcell_atlas.store import Store

COLUMNS = ("protein_id", "antibody", "cell_line", "condition", "plate")


def cells(rng, n=400):
    columns = {name: rng.choice(list("ABCDEFGHIJKL"), n).tolist() for name in ("protein_id",)}
    columns |= {name: rng.choice(["1", "2"], n).tolist() for name in ("antibody", "cell_line", "plate", "fov")}
    return pa.table(
        {
            **columns,
            "condition": pa.nulls(n, pa.string()),
            "localization": pa.nulls(n, pa.list_(pa.string())),
            "embedding": vector_array(rng.normal(3, 1, size=(n, 4))),
            **{name: pa.nulls(n, pa.string()) for name in ("gene_symbol", "ensembl_id", "uniprot_accession")},
        }
    )


def test_means_are_those_of_the_cells_however_they_come_in_batches(rng):
    table = cells(rng)
    means = CellMeans(("protein_id", "fov"))
    for start in range(0, 400, 37):
        means.add(table.slice(start, 37))
    vectors, rows = vectors_of(table["embedding"]), table.select(["protein_id", "fov"]).to_pylist()
    assert sum(means.n) == 400
    for key, mean, n in zip(means.keys, means.vectors(), means.n, strict=True):
        of = [at for at, row in enumerate(rows) if tuple(row.values()) == key]
        assert n == len(of)
        assert mean == pytest.approx(vectors[of].mean(axis=0), abs=1e-5)
    assert means.column("fov") == [key[1] for key in means.keys]


def test_means_are_centred_as_profiles_are(rng):
    table = cells(rng)
    sums, means = CellSums(), CellMeans((*COLUMNS, "fov"))
    sums.add(table.select([name for name in CELL_COLUMNS if name in table.column_names]))
    means.add(table)
    profiles = profiles_table(sums)
    centred, n = means.centred(), np.array(means.n)
    keys = ["|".join(part or "" for part in key[:4]) for key in means.keys]
    for key, wanted in zip(profiles["profile_id"].to_pylist(), vectors_of(profiles["embedding"]), strict=True):
        of = [at for at, own in enumerate(keys) if own == key]
        assert np.average(centred[of], axis=0, weights=n[of]) == pytest.approx(wanted, abs=1e-5)


def test_no_cells_make_no_means(rng):
    means = CellMeans(("protein_id",))
    means.add(cells(rng).slice(0, 0))
    assert means.n == []


def test_cells_of_an_atlas_are_read_without_those_of_no_protein_or_with_some_marked(rng, tmp_path):
    table = cells(rng)
    ids = pa.array([f"c{at}" for at in range(400)])
    proteins = pa.array([None if at % 4 else name for at, name in enumerate(table["protein_id"].to_pylist())])
    at = table.column_names.index("protein_id")
    store = Store.create(str(tmp_path / "atlas"))
    table = table.append_column("cell_id", ids).set_column(at, "protein_id", proteins)
    store.append_cells(table.append_column("picture_id", ids), recipe=Recipe(encoder="planted", dim=4))
    means = read_means(store, ["protein_id"], named=True)
    assert sum(means.n) == 100
    assert None not in means.column("protein_id")
    marked = read_means(store, ["cell_line"], marked=ids.slice(7, 5))
    assert sum(n for n, own in zip(marked.n, marked.column("marked"), strict=True) if own) == 5
    assert sum(marked.n) == 400
