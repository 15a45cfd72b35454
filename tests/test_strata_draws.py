"""Draws within strata: as often as every permutation gives them, and no row twice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from subcell_atlas.evaluation import strata_draws
from subcell_atlas.evaluation.strata_draws import components, means_by_chance, patterns
from subcell_atlas.ranking import unit

STRATA = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
PAIRS = np.array([[0, 1], [0, 4], [1, 4], [5, 7]])  # a set of three rows, two of them of one stratum, and one of two
OF_PAIR = np.array([1, 1, 1, 0])


def every_draw(units):
    """Return the mean cosines of both groups in every way to draw them."""
    gram = units @ units.T
    of_stratum = [np.flatnonzero(s == STRATA).tolist() for s in range(3)]
    pair = [gram[a, b] for a, b in itertools.product(of_stratum[1], of_stratum[2])]
    three = [
        (gram[a, b] + gram[a, c] + gram[b, c]) / 3
        for a, b in itertools.permutations(of_stratum[0], 2)
        for c in of_stratum[1]
    ]
    return pair, three


def distance(found, wanted):
    """Return how far apart two distribution functions are at most."""
    at = np.sort(wanted) + 1e-6
    return max(abs((found <= x).mean() - (np.array(wanted) <= x).mean()) for x in at)


@pytest.mark.parametrize("together", [8192, 0], ids=["strata together", "each pattern alone"])
def test_draws_are_those_of_every_permutation_within_strata(rng, monkeypatch, together):
    monkeypatch.setattr(strata_draws, "MOST_TOGETHER", together)
    units = unit(rng.normal(size=(10, 4)).astype(np.float32))
    found = means_by_chance(units, STRATA, PAIRS, OF_PAIR, n_draws=20_000, seed=0)
    for row, wanted in zip(found, every_draw(units), strict=True):
        apart = np.abs(row[:, None] - np.array(wanted))
        assert apart.min(axis=1).max() < 1e-6
        assert apart.min(axis=0).max() < 1e-6
        assert distance(row, wanted) < 0.02


def test_no_row_is_drawn_twice_where_all_of_a_stratum_are_needed(rng):
    units = unit(rng.normal(size=(5, 3)).astype(np.float32))
    pairs = np.array(list(itertools.combinations(range(5), 2)))
    found = means_by_chance(units, np.zeros(5, int), pairs, np.zeros(10, int), n_draws=500, seed=1)
    gram = units @ units.T
    assert found == pytest.approx(np.full((1, 500), gram[np.triu_indices(5, 1)].mean()), abs=1e-6)


def test_a_large_stratum_is_drawn_from_in_part(rng, monkeypatch):
    units = unit((rng.normal(size=(400, 8)) + 1).astype(np.float32))
    strata, pairs = np.repeat([0, 1], 200), np.array([[0, 200]])
    monkeypatch.setattr(strata_draws, "MOST_OF_STRATUM", 40)
    found = means_by_chance(units, strata, pairs, np.zeros(1, int), n_draws=5000, seed=0)
    gram = units[:200] @ units[200:].T
    assert len(np.unique(found)) <= 1600
    assert found.mean() == pytest.approx(gram.mean(), abs=0.05)


def test_the_seed_decides(rng):
    units = unit(rng.normal(size=(10, 4)).astype(np.float32))
    first, again, other = (means_by_chance(units, STRATA, PAIRS, OF_PAIR, n_draws=50, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_sets_hang_together_by_their_rows_and_are_told_apart_by_their_strata():
    pairs = np.array([[0, 1], [2, 3], [1, 4], [5, 6]])
    own = components(pairs)
    assert own[0] == own[2]
    assert len(set(own.tolist())) == 3
    same = patterns(np.array([0, 1, 1, 0, 2, 0, 2]), pairs)
    assert same[0] == same[2]  # of strata 0, 1 and 2
    assert len({same[0], same[1], same[3]}) == 3
