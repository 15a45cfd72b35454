"""How proteins are shared out over folds: at random, or so that groups of homologues stay together."""

from __future__ import annotations

import numpy as np

__all__ = ["make_folds"]


def make_folds(groups: np.ndarray, n_folds: int, *, seed: int) -> np.ndarray:
    """Return the fold (n,) int of each protein; those of one group are in one fold.

    groups: (n,) a number for each protein; all different for a split by protein. Large groups are placed first, each
    into the fold that has the fewest proteins, so that folds are about even; the order is random where sizes are equal.
    """
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]
    held = np.zeros(n_folds, np.int64)
    fold_of_group = np.empty(len(sizes), np.int64)
    for group in order:
        fold = int(np.argmin(held))
        fold_of_group[group] = fold
        held[fold] += sizes[group]
    return fold_of_group[group_of]
