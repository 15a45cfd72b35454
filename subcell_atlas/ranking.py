"""Ranking by likeness: vectors of length 1, and how well a ranking puts what is relevant first."""

from __future__ import annotations

import numpy as np

__all__ = ["average_precision", "average_precision_at", "average_precisions", "unit"]


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (n, d) divided by their length; one of no length stays so."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


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


def average_precision_at(ranks: np.ndarray) -> float:
    """Return the average precision of what is relevant, from how many are at least as like as each of it.

    ranks: (relevant,) counts, of all that are ranked, itself too. What is equally like is one step, as in scikit-learn,
    so that no order of the rows is favored. NaN when nothing is relevant.
    """
    if not len(ranks):
        return float("nan")
    ranks = np.sort(ranks)
    return float((np.searchsorted(ranks, ranks, side="right") / ranks).mean())


def average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """Return the average precision of predictions (n,); NaN without a positive.

    Predictions of equal score are one step: what scikit-learn's average_precision_score returns.
    """
    return average_precision_at(len(scores) - np.searchsorted(np.sort(scores), scores[np.asarray(truth, bool)]))
