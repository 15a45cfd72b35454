"""Other draws of the same cells."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from subcell_atlas.profiles import vector_array
from subcell_atlas.resampling import CellDraws, times_drawn


def cells(rng, *, proteins=("A", "B"), n=50, line="U-2 OS"):
    vectors = rng.normal(size=(len(proteins) * n, 3)).astype(np.float32)
    names = [protein for protein in proteins for _ in range(n)]
    columns = {
        "cell_id": [f"{line}-{i}" for i in range(len(names))],
        "protein_id": names,
        "antibody": pa.nulls(len(names), pa.string()),
        "cell_line": [line] * len(names),
        "condition": pa.nulls(len(names), pa.string()),
        "embedding": vector_array(vectors),
    }
    return pa.table(columns), vectors


def shifts(*lines, at=0.0):
    return {f"{protein}||{line}|": np.full(3, at, np.float32) for protein in "AB" for line in lines}


def test_cells_are_drawn_once_on_average_as_poisson_variables_are():
    drawn = times_drawn([f"cell{i}" for i in range(20_000)], 3, seed=1)
    assert drawn.mean(axis=1) == pytest.approx([1] * 3, abs=0.03)
    assert (drawn == 0).mean() == pytest.approx(np.exp(-1), abs=0.01)
    assert (drawn == 2).mean() == pytest.approx(np.exp(-1) / 2, abs=0.01)
    assert abs(np.corrcoef(drawn)[0, 1]) < 0.03
    assert not np.array_equal(drawn, times_drawn([f"cell{i}" for i in range(20_000)], 3, seed=2))


def test_a_draw_is_the_mean_over_its_cells_and_their_shift(rng):
    table, vectors = cells(rng)
    draws = CellDraws({"A": 0, "B": 1}, shifts("U-2 OS", at=-0.5), n_draws=2, seed=0)
    draws.add(table)
    weights = times_drawn(table["cell_id"].to_pylist(), 2, seed=0)
    for number in range(2):
        halves = (slice(50), slice(50, 100))
        wanted = [np.average(vectors[rows], axis=0, weights=weights[number, rows]) - 0.5 for rows in halves]
        assert draws.vectors(number, np.zeros((2, 3))) == pytest.approx(np.array(wanted), abs=1e-5)


def test_draws_do_not_depend_on_how_cells_are_stored(rng):
    table, _ = cells(rng)
    whole, parts = (CellDraws({"A": 0, "B": 1}, shifts("U-2 OS"), n_draws=2, seed=0) for _ in range(2))
    whole.add(table)
    order = rng.permutation(100)
    for rows in (order[:70], order[70:]):
        parts.add(table.take(pa.array(rows)))
    assert parts.vectors(1, np.zeros((2, 3))) == pytest.approx(whole.vectors(1, np.zeros((2, 3))), abs=1e-5)


def test_other_cell_lines_and_proteins_are_left_out_and_a_protein_without_a_cell_keeps_its_vector(rng):
    mine, vectors = cells(rng, proteins=("A",))
    other, _ = cells(rng, line="A-431")
    draws = CellDraws({"A": 0, "C": 1}, shifts("U-2 OS", "A-431"), n_draws=1, seed=0, cell_line="U-2 OS")
    otherwise = np.array([[9.0, 9, 9], [7, 7, 7]])
    assert np.array_equal(draws.vectors(0, otherwise), otherwise)
    draws.add(other)
    draws.add(mine)
    weights = times_drawn(mine["cell_id"].to_pylist(), 1, seed=0)[0]
    assert draws.vectors(0, otherwise)[0] == pytest.approx(np.average(vectors, axis=0, weights=weights), abs=1e-5)
    assert draws.vectors(0, otherwise)[1].tolist() == [7, 7, 7]


def test_cells_are_projected_before_they_are_shifted(rng):
    table, _ = cells(rng)
    turn = rng.normal(size=(3, 2)).astype(np.float32)
    to = {name: np.array([5.0, -5.0]) for name in shifts("U-2 OS")}
    plain, turned = (CellDraws({"A": 0, "B": 1}, to, n_draws=1, seed=0) for _ in range(2))
    plain.shifts = shifts("U-2 OS")
    turned.project = lambda vectors: vectors @ turn
    plain.add(table)
    turned.add(table)
    wanted = plain.vectors(0, np.zeros((2, 3))) @ turn + [5, -5]
    assert turned.vectors(0, np.zeros((2, 2))) == pytest.approx(wanted, abs=1e-5)
