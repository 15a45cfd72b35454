"""What chance gives: p-values with one added, and their false discovery rate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from subcell_atlas.evaluation.chance import adjusted, permutation_p


def test_a_p_value_counts_what_chance_gives_and_itself():
    by_chance = np.array([[0.1, 0.5, 0.5, 0.9], [0.0, 0.0, 0.0, 0.0]])
    assert permutation_p(np.array([0.5, 1.0]), by_chance).tolist() == [4 / 5, 1 / 5]  # ties are as large; never 0


def test_rounding_does_not_make_a_permutation_that_changes_nothing_smaller():
    assert permutation_p(np.array([1e5 + 0.01]), np.full((1, 9), 1e5)).tolist() == [1.0]
    assert permutation_p(np.array([0.3]), np.full((1, 9), np.float32(0.3) - 1e-8)).tolist() == [1.0]


def test_what_was_not_asked_has_no_p_value_and_does_not_weigh_on_others():
    p = permutation_p(np.array([np.nan, 3.0]), np.zeros((2, 99)))
    assert np.isnan(p[0])
    assert p[1] == 0.01
    many = np.array([0.01, np.nan, 0.02, np.nan, 0.9])
    assert adjusted(many)[[0, 2, 4]] == pytest.approx(stats.false_discovery_control([0.01, 0.02, 0.9]))
    assert np.isnan(adjusted(many)[[1, 3]]).all()
    assert np.isnan(adjusted(np.full(3, np.nan))).all()
