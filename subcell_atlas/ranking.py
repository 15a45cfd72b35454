"""How well a ranking puts what is relevant first."""

from __future__ import annotations

import numpy as np

__all__ = ["average_precisions"]


def average_precisions(hits: np.ndarray) -> np.ndarray:
    """Return the average precision of each query; NaN where nothing is relevant.

    hits: (queries, others) bool, whether the neighbor at each rank, nearest first, is relevant.
    """
    query, rank = np.nonzero(hits)
    n_relevant = np.bincount(query, minlength=len(hits))
    first = np.repeat(np.cumsum(n_relevant) - n_relevant, n_relevant)
    precision = (np.arange(len(query)) - first + 1) / (rank + 1)
    with np.errstate(invalid="ignore"):
        return np.bincount(query, weights=precision, minlength=len(hits)) / n_relevant
