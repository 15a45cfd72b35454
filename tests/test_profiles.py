"""Cells to profiles to proteins, against a slow twin."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from subcell_atlas.errors import BadInput
from subcell_atlas.profiles import (
    CELL_COLUMNS,
    MIN_PROTEINS,
    CellSums,
    merge_proteins,
    profiles_table,
    proteins_table,
    vector_array,
    vectors_of,
)
from subcell_atlas.schema import TABLES


def cells(rows):
    """Make cells from (protein, cell line, plate, vector)."""
    columns = {
        name: pa.array([None] * len(rows), TABLES["cells"][name]) for name in CELL_COLUMNS if name != "embedding"
    }
    columns["protein_id"] = pa.array([row[0] for row in rows], pa.string())
    columns["cell_line"] = pa.array([row[1] for row in rows], pa.string())
    columns["plate"] = pa.array([row[2] for row in rows], pa.string())
    columns["localization"] = pa.array([["Cytosol"]] * len(rows), TABLES["cells"]["localization"])
    columns["embedding"] = vector_array(np.array([row[3] for row in rows], np.float32))
    return pa.table(columns)


def sums_of(rows, *, chunk=3):
    sums = CellSums()
    table = cells(rows)
    for start in range(0, table.num_rows, chunk):
        sums.add(table.slice(start, chunk))
    return sums


def screen(rng, *, shift):
    """Make 12 proteins of 4 cells on each of two plates, the second plate shifted by `shift`."""
    signal = rng.normal(size=(12, 3))
    return [
        (f"P{protein:02d}", "U2OS", plate, signal[protein] + noise + (shift if plate == "b" else 0))
        for protein in range(12)
        for plate in "ab"
        for noise in rng.normal(scale=0.1, size=(4, 3))
    ]


def test_profiles_equal_a_slow_twin(rng):
    rows = screen(rng, shift=np.array([5.0, -3.0, 1.0]))
    table = profiles_table(sums_of(rows))
    center = {}
    for plate in "ab":
        means = [np.mean([r[3] for r in rows if r[0] == p and r[2] == plate], 0) for p in {r[0] for r in rows}]
        center[plate] = np.mean(means, 0)
    for i, protein in enumerate(table["protein_id"].to_pylist()):
        own = [r[3] - center[r[2]] for r in rows if r[0] == protein]
        assert vectors_of(table["embedding"])[i] == pytest.approx(np.mean(own, 0), abs=1e-5)
        assert table["spread"][i].as_py() == pytest.approx(np.sqrt(np.var(own, axis=0, ddof=1).sum()), rel=1e-4)
        raw = np.mean([r[3] for r in rows if r[0] == protein], 0)
        assert vectors_of(table["uncentered"])[i] == pytest.approx(raw, abs=1e-5)
    assert table["n_cells"].to_pylist() == [8] * 12
    assert table["n_plates"].to_pylist() == [2] * 12


def test_a_plates_shift_is_taken_away(rng):
    with_shift = profiles_table(sums_of(screen(np.random.default_rng(1), shift=np.array([50.0, 0, 0]))))
    without = profiles_table(sums_of(screen(np.random.default_rng(1), shift=np.zeros(3))))
    assert np.allclose(vectors_of(with_shift["embedding"]), vectors_of(without["embedding"]), atol=1e-4)


def test_a_plate_of_few_proteins_is_not_centred_on_itself(rng):
    rows = screen(rng, shift=np.zeros(3))
    lone = [("LONE", "U2OS", "own plate", np.array([9.0, 9, 9]))] * 3
    table = profiles_table(sums_of(rows + lone))
    where = table["protein_id"].to_pylist().index("LONE")
    assert np.linalg.norm(vectors_of(table["embedding"])[where]) > 5


def test_a_small_plate_is_centred_on_its_cell_line(rng):
    rows = screen(rng, shift=np.zeros(3))
    other_line = [(f"P{i:02d}", "HeLa", "z", rng.normal(size=3) + 100) for i in range(12)]
    lone = [("LONE", "U2OS", "own plate", np.array([9.0, 9, 9]))]
    table = profiles_table(sums_of(rows + other_line + lone))
    of_line = rows + lone
    means = [np.mean([r[3] for r in of_line if r[0] == p], 0) for p in dict.fromkeys(r[0] for r in of_line)]
    where = table["protein_id"].to_pylist().index("LONE")
    assert vectors_of(table["embedding"])[where] == pytest.approx(9 - np.mean(means, 0), abs=1e-4)


def test_variability_is_the_spread_over_the_atlas_median():
    rows = [(f"P{i}", "A", "1", [float(j * i), 0.0]) for i in (1, 2, 4) for j in (0, 1)]
    proteins = proteins_table(profiles_table(sums_of(rows)), {})
    assert proteins["variability"].to_pylist() == pytest.approx([0.5, 1.0, 2.0], rel=1e-5)


def test_an_atlas_of_one_protein_keeps_its_vector():
    table = profiles_table(sums_of([("P", "A", "1", [1.0, 2.0]), ("P", "A", "1", [3.0, 4.0])]))
    assert vectors_of(table["embedding"]).tolist() == [[2.0, 3.0]]


def test_lines_with_too_few_proteins_use_the_mean_of_all():
    rows = [(f"P{i}", "A", "1", [float(i), 0.0]) for i in range(MIN_PROTEINS - 1)]
    table = profiles_table(sums_of(rows))
    assert vectors_of(table["embedding"])[:, 0].mean() == pytest.approx(0, abs=1e-6)


def test_cells_of_no_protein_are_counted_and_left_out():
    sums = sums_of([(None, "A", "1", [1.0, 1.0]), ("P", "A", "1", [2.0, 2.0])])
    assert sums.n_without_protein == 1
    assert profiles_table(sums)["protein_id"].to_pylist() == ["P"]


def test_proteins_average_their_profiles_by_cells():
    rows = [("P", "A", "1", [1.0, 0.0])] * 3 + [("P", "B", "1", [5.0, 0.0])] + [("Q", "A", "1", [0.0, 1.0])]
    profiles = profiles_table(sums_of(rows))
    proteins = proteins_table(profiles, {"P": {"gene_symbol": "GENE"}})
    record = proteins.drop_columns(["image"]).to_pylist()[0]
    assert (record["gene_symbol"], record["n_cells"], record["cell_lines"]) == ("GENE", 4, ["A", "B"])
    of_profiles = vectors_of(profiles["embedding"])[:2]
    assert vectors_of(proteins["image"])[0] == pytest.approx((3 * of_profiles[0] + of_profiles[1]) / 4)


def test_merging_keeps_what_only_one_side_knows():
    old = pa.table({"protein_id": ["a", "b"], "gene_symbol": ["A", None], "x": [1.0, 2.0]})
    new = pa.table(
        {"protein_id": ["b", "c"], "gene_symbol": ["B", "C"], "image": vector_array(np.array([[1, 2], [3, 4]]))}
    )
    merged = merge_proteins(old, new)
    assert merged["protein_id"].to_pylist() == ["a", "b", "c"]
    assert merged["gene_symbol"].to_pylist() == ["A", "B", "C"]
    assert merged["x"].to_pylist() == [1.0, 2.0, None]
    assert merged["image"].to_pylist() == [None, [1.0, 2.0], [3.0, 4.0]]


def test_a_missing_vector_is_an_error():
    with pytest.raises(BadInput, match="1 of 2"):
        vectors_of(vector_array(np.ones((2, 2)), missing=np.array([False, True])))
