"""Wells: means of their cells, centred on the controls of their plate."""

from __future__ import annotations

import numpy as np
import pytest
from planted_screen import DIM, write_screen

from subcell_atlas.errors import NotBuilt
from subcell_atlas.profiles import vectors_of
from subcell_atlas.wells import read_wells

CONTROLS = "condition = 'DMSO'"


def test_a_well_is_the_mean_of_its_cells(tmp_path, rng):
    store = write_screen(tmp_path / "a", rng, {"drug": np.ones(DIM), "other": np.zeros(DIM)})
    wells = read_wells(store, None)
    cells = store.read("cells", ["condition", "plate", "well", "embedding"])
    vectors, keys = vectors_of(cells["embedding"]), cells.select(["condition", "plate", "well"]).to_pylist()
    assert len(wells.vectors) == 3 * 6
    assert not wells.control.any()
    for row, key in enumerate(zip(wells.columns["condition"], wells.columns["well"], strict=True)):
        of = [at for at, cell in enumerate(keys) if (cell["condition"], f"{cell['plate']}|{cell['well']}") == key]
        assert wells.vectors[row] == pytest.approx(vectors[of].mean(axis=0), abs=1e-5)


def test_wells_are_centred_on_the_controls_of_their_plate_and_left_out_where_there_are_none(tmp_path, rng):
    store = write_screen(tmp_path / "a", rng, {"drug": np.ones(DIM)}, lines=("U-2 OS", "A-431"))
    store.delete("cells", f"{CONTROLS} AND plate = '2' AND cell_line = 'A-431'")
    raw, wells = read_wells(store, None), read_wells(store, CONTROLS)
    assert wells.centred
    assert wells.n_left_out == 1
    assert len(wells.vectors) == 5 * 5
    places = wells.keys("plate", "cell_line")
    for place in set(places):
        of = np.array([name == place for name in places])
        assert wells.vectors[of & wells.control].mean(axis=0) == pytest.approx(np.zeros(DIM), abs=1e-5)
    keys = ("condition", "well", "cell_line")
    at = dict(zip(raw.keys(*keys), raw.vectors, strict=True))
    drug = wells.treated.keys(*keys)[0]
    plate, line = drug.split("|")[1], drug.split("|")[3]
    of_controls = [vector for name, vector in at.items() if name.startswith(f"DMSO|{plate}|") and name.endswith(line)]
    assert wells.treated.vectors[0] == pytest.approx(at[drug] - np.mean(of_controls, axis=0), abs=1e-5)


def test_controls_need_no_condition_and_must_be_there(tmp_path, rng):
    store = write_screen(tmp_path / "a", rng, {"drug": np.ones(DIM)})
    wells = read_wells(store, "well IN ('W1', 'W2')")
    assert wells.control.sum() == 6
    assert len(wells.treated.vectors) == 9
    with pytest.raises(NotBuilt, match="No cell of this atlas meets"):
        read_wells(store, "condition = 'water'")


def test_means_over_wells_are_in_order_and_each_well_counts_the_same(tmp_path, rng):
    store = write_screen(tmp_path / "a", rng, {"b": np.ones(DIM), "a": np.zeros(DIM)})
    wells = read_wells(store, None)
    means = wells.means("condition")
    assert means.columns["condition"] == ["DMSO", "a", "b"]
    of = np.array(wells.columns["condition"]) == "a"
    assert means.vectors[1] == pytest.approx(wells.vectors[of].mean(axis=0))
