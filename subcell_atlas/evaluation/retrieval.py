"""Retrieval: are the neighbors of a protein the ones it should have? Mean average precision by cosine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Retrieval", "average_precisions", "evaluate_retrieval"]

N_SHUFFLES = 10


@dataclass(frozen=True)
class Retrieval:
    """Mean average precision over `n` queries; `shuffled` is the same with the labels permuted, over seeds."""

    mean_ap: float
    shuffled: float
    n: int


def average_precisions(similarity: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Return the average precision of each query against all others; NaN where nothing is relevant.

    similarity: (n, n), higher is nearer; relevant: (n, n) bool. The diagonal is left out of both.
    """
    n = len(similarity)
    others = similarity.astype(np.float64).copy()
    np.fill_diagonal(others, -np.inf)
    order = np.argsort(-others, axis=1, kind="stable")[:, : n - 1]
    hits = np.take_along_axis(relevant, order, axis=1)
    precision = np.cumsum(hits, axis=1) / np.arange(1, n)
    n_relevant = hits.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(n_relevant > 0, (precision * hits).sum(axis=1) / n_relevant, np.nan)


def evaluate_retrieval(vectors: np.ndarray, labels: Sequence[frozenset[str]], *, seed: int) -> Retrieval:
    """Ask of each row of `vectors` (n, dim) whether its neighbors share a label with it.

    Rows without a label are neither queries nor neighbors. Labels are shuffled among the rows for comparison.
    """
    labelled = [row for row, own in enumerate(labels) if own]
    chosen = np.asarray(vectors, np.float64)[labelled]
    units = chosen / np.maximum(np.linalg.norm(chosen, axis=1, keepdims=True), 1e-12)
    similarity = units @ units.T
    relevant = share_a_label([labels[row] for row in labelled])
    rng = np.random.default_rng(seed)
    shuffled = []
    for _ in range(N_SHUFFLES):
        order = rng.permutation(len(labelled))
        shuffled.append(np.nanmean(average_precisions(similarity, relevant[np.ix_(order, order)])))
    found = average_precisions(similarity, relevant)
    return Retrieval(float(np.nanmean(found)), float(np.mean(shuffled)), int(np.isfinite(found).sum()))


def share_a_label(labels: Sequence[frozenset[str]]) -> np.ndarray:
    """Return (n, n) bool: whether two rows have a label in common."""
    names = sorted(set().union(*labels))
    column = {name: i for i, name in enumerate(names)}
    has = np.zeros((len(labels), len(names)), np.float32)
    for row, own in enumerate(labels):
        has[row, [column[name] for name in own]] = 1
    return has @ has.T > 0
