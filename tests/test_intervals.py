"""Intervals and paired differences: they cover what is planted, and names are drawn whole."""

from __future__ import annotations

import numpy as np
import pytest

from subcell_atlas.errors import BadInput
from subcell_atlas.evaluation.intervals import Observed, interval, numbered, paired_difference, times_counted


def observed(values, drawn=None, **more):
    ids = [f"q{i}" for i in range(len(values))]
    return Observed(ids, np.asarray(values, float), np.array(drawn if drawn is not None else ids), **more)


def test_an_interval_covers_the_mean_that_was_planted(rng):
    covered = 0
    for seed in range(200):
        found = interval(observed(rng.normal(3, 1, size=60)), seed=seed, n_draws=300)
        covered += found.low <= 3 <= found.high
    assert 175 <= covered <= 200  # 95 %, of a bootstrap of 60


def test_values_of_one_name_are_drawn_together_and_widen_the_interval(rng):
    of_group = rng.normal(size=20)
    values = np.repeat(of_group, 50) + rng.normal(scale=0.01, size=1000)
    grouped = interval(observed(values, np.repeat(np.arange(20), 50)), seed=0)
    alone = interval(observed(values), seed=0)
    assert grouped.n_drawn == 20
    assert grouped.high - grouped.low > 4 * (alone.high - alone.low)


def test_a_pair_counts_as_often_as_both_its_proteins_are_drawn():
    pairs = np.array([["a", "b"], ["b", "c"], ["a", "c"]])
    index, n = numbered(pairs)
    weights = times_counted(index, n, seed=3, n_draws=50)
    counts = np.random.default_rng(3).multinomial(3, [1 / 3] * 3, size=50)
    assert n == 3
    a, b, c = counts.T
    assert np.array_equal(weights, np.stack([a * b, b * c, a * c], axis=1))


def test_a_paired_difference_is_surer_than_two_intervals_tell(rng):
    hard = rng.normal(size=300)
    one, other = observed(hard + 0.1 + rng.normal(scale=0.05, size=300)), observed(hard)
    found = paired_difference(one, other, seed=0)
    assert interval(one, seed=0).low < interval(other, seed=0).high
    assert found.low > 0
    assert found.difference == pytest.approx(one.value() - other.value())
    assert found.p == pytest.approx(2 / 1001)


def test_only_what_both_have_is_compared():
    one = Observed(["a", "b", "c"], np.array([1.0, 2.0, 9.0]), np.array(["a", "b", "c"]))
    other = Observed(["b", "d", "a"], np.array([0.0, 5.0, 0.0]), np.array(["b", "d", "a"]))
    found = paired_difference(one, other, seed=0)
    assert (found.n, found.value, found.other) == (2, 1.5, 0.0)
    nothing = paired_difference(one, Observed(["x"], np.array([1.0]), np.array(["x"])), seed=0)
    assert nothing.n == 0
    assert np.isnan(nothing.difference)


def test_one_name_alone_tells_no_interval():
    found = interval(observed([1.0, 2.0], ["a", "a"]), seed=0)
    assert found.value == 1.5
    assert np.isnan(found.low)


def test_another_statistic_is_taken_of_the_draws():
    def share_above(values, weights):
        return float(weights[values > 0].sum() / weights.sum())

    found = interval(observed([-1.0, 1.0] * 50, statistic=share_above), seed=0)
    assert found.value == 0.5
    assert 0.3 < found.low < 0.5 < found.high < 0.7


def test_values_and_names_of_different_number_are_refused():
    with pytest.raises(BadInput, match="2, 1, 2"):
        Observed(["a"], np.zeros(2), np.array(["a", "b"]))
