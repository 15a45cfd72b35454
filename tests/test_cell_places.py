"""Where single cells stand in the overview."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pytest

from subcell_atlas import cell_places
from subcell_atlas.build import build
from subcell_atlas.cellmap.layout import mean_of_nearest
from subcell_atlas.store import Store


def test_cells_stand_by_their_nearest_proteins():
    directions, places = np.eye(3), np.array([[0, 0], [10, 0], [0, 10]])
    found = mean_of_nearest(np.array([[5.0, 0, 0], [0, 0.1, 0.1]]), directions, places, metric="cosine")
    np.testing.assert_allclose(found[0], [0, 0], atol=1e-3)
    assert found[1][0] == pytest.approx(found[1][1])  # as near to the second as to the third
    assert found[1][0] > 3


def test_every_cell_is_placed_near_its_protein(demo_atlas):
    store = Store.open(demo_atlas)
    placed = store.read("cell_places")
    assert sorted(placed["cell_id"].to_pylist()) == sorted(store.read("cells", ["cell_id"])["cell_id"].to_pylist())
    where = {
        row["protein_id"]: (row["x"], row["y"]) for row in store.read("proteins", ["protein_id", "x", "y"]).to_pylist()
    }
    own = np.array([where[protein] for protein in placed["protein_id"].to_pylist()])
    at = np.stack([placed["x"].to_numpy(), placed["y"].to_numpy()], axis=1)
    shuffled = np.random.default_rng(0).permutation(own)
    assert np.linalg.norm(at - own, axis=1).mean() < 0.5 * np.linalg.norm(at - shuffled, axis=1).mean()


def test_of_too_many_a_random_sample_is_placed_and_that_is_kept(demo_atlas, tmp_path, monkeypatch):
    shutil.copytree(demo_atlas, tmp_path / "atlas")
    store = Store.open(str(tmp_path / "atlas"))
    monkeypatch.setattr(cell_places, "MAX_CELLS", 50)
    monkeypatch.setattr(cell_places, "CHUNK", 16)
    assert build(store) == ["places"]
    assert store.count("cell_places") == 50
    assert store.metadata("cell_places")["n_cells"] == 160
    assert len(set(store.read("cell_places", ["protein_id"])["protein_id"].to_pylist())) > 20
    assert build(store) == []
    first = store.read("cell_places", ["cell_id"]).to_pylist()
    build(store, ["places"], force=True)
    assert store.read("cell_places", ["cell_id"]).to_pylist() == first


def test_cells_of_no_protein_are_not_placed(demo_atlas, tmp_path):
    shutil.copytree(demo_atlas, tmp_path / "atlas")
    store = Store.open(str(tmp_path / "atlas"))
    cells = store.read("cells").slice(0, 1)
    for name, value in (("cell_id", "stray"), ("picture_id", "stray"), ("protein_id", None)):
        cells = cells.set_column(cells.column_names.index(name), name, pa.array([value], pa.string()))
    store.append_cells(cells, recipe=store.recipe("cells", "embedding"))
    build(store)
    assert store.count("cell_places") == 160
