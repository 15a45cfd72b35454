"""Folds: even, the same for the same seed, and never with a group on both sides."""

from __future__ import annotations

import numpy as np
import pytest

from subcell_atlas.functions.splits import make_folds


def slow_folds(groups, n_folds, order):
    """Put one group after another into the fold that holds the fewest proteins."""
    folds = [[] for _ in range(n_folds)]
    for group in order:
        smallest = min(folds, key=len)
        smallest.extend(np.flatnonzero(groups == group).tolist())
    return {frozenset(fold) for fold in folds if fold}


def as_sets(folds):
    return {frozenset(np.flatnonzero(folds == fold).tolist()) for fold in np.unique(folds)}


@pytest.mark.parametrize("n", [10, 23, 101])
def test_folds_of_single_proteins_differ_by_one_at_most(n):
    folds = make_folds(np.arange(n), 5, seed=0)
    sizes = np.bincount(folds, minlength=5)
    assert sizes.sum() == n
    assert sizes.max() - sizes.min() <= 1


def test_proteins_of_a_group_stay_together_and_folds_are_about_even(rng):
    groups = rng.integers(0, 60, 400)
    folds = make_folds(groups, 5, seed=1)
    assert all(len(np.unique(folds[groups == group])) == 1 for group in np.unique(groups))
    sizes = np.bincount(folds, minlength=5)
    assert sizes.max() - sizes.min() <= np.bincount(groups).max()
    assert sizes.max() <= 1.1 * 400 / 5


def test_groups_of_distinct_sizes_fall_as_a_slow_twin_says():
    sizes = [17, 11, 9, 6, 4, 3, 2, 1]
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    for seed in range(3):  # nothing is left to chance
        assert as_sets(make_folds(groups, 3, seed=seed)) == slow_folds(groups, 3, range(len(sizes)))


def test_a_seed_gives_the_same_folds_and_another_one_others(rng):
    groups = rng.integers(0, 200, 300)
    first = make_folds(groups, 5, seed=3)
    assert make_folds(groups, 5, seed=3).tolist() == first.tolist()
    assert make_folds(groups, 5, seed=4).tolist() != first.tolist()


def test_what_groups_are_called_does_not_matter(rng):
    groups = np.sort(rng.integers(0, 40, 120))
    assert make_folds(groups, 4, seed=0).tolist() == make_folds(groups * 1000 - 7, 4, seed=0).tolist()


def test_a_giant_group_fills_one_fold_and_the_others_share_the_rest():
    groups = np.concatenate([np.zeros(80, int), np.arange(1, 21)])
    folds = make_folds(groups, 5, seed=0)
    assert len(np.unique(folds[:80])) == 1
    assert sorted(np.bincount(folds, minlength=5)) == [5, 5, 5, 5, 80]


def test_one_group_alone_is_one_fold():
    assert make_folds(np.zeros(9, int), 3, seed=0).tolist() == [0] * 9
