"""Retrieval: are the neighbors of a protein the ones it should have? Mean average precision by cosine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ..ranking import average_precisions, unit

__all__ = ["Retrieval", "evaluate_retrieval"]

N_SHUFFLES = 5
ROWS_AT_A_TIME = 256  # queries; memory grows with this, not with the square of the proteins


@dataclass(frozen=True)
class Retrieval:
    """Mean average precision over `n` queries; `shuffled` is the same with the labels permuted. NaN without queries."""

    mean_ap: float
    shuffled: float
    n: int


def evaluate_retrieval(vectors: np.ndarray, labels: Sequence[frozenset[str]], *, seed: int) -> Retrieval:
    """Ask of each row of `vectors` (n, dim) whether its neighbors share a label with it.

    Rows without a label are neither queries nor neighbors. Labels are shuffled among the rows for comparison.
    """
    labelled = [row for row, own in enumerate(labels) if own]
    units = unit(np.asarray(vectors, np.float32)[labelled])
    has = label_matrix([labels[row] for row in labelled])
    rng = np.random.default_rng(seed)
    orders = [np.arange(len(labelled)), *(rng.permutation(len(labelled)) for _ in range(N_SHUFFLES))]
    found: list[list[np.ndarray]] = [[] for _ in orders]
    for start in range(0, len(units), ROWS_AT_A_TIME):
        queries = np.arange(start, min(start + ROWS_AT_A_TIME, len(units)))
        similarity = units[queries] @ units.T  # (queries, n)
        similarity[np.arange(len(queries)), queries] = -np.inf
        ranked = np.argsort(-similarity, axis=1, kind="stable")[:, :-1]
        for order, precisions in zip(orders, found, strict=True):
            of = has[order]
            relevant = (of[queries] @ of.T).toarray() > 0
            precisions.append(average_precisions(np.take_along_axis(relevant, ranked, axis=1)))
    n_queries = int(np.isfinite(np.concatenate(found[0])).sum())
    if not n_queries:
        return Retrieval(float("nan"), float("nan"), 0)
    means = [float(np.nanmean(np.concatenate(precisions))) for precisions in found]
    return Retrieval(means[0], float(np.mean(means[1:])), n_queries)


def label_matrix(labels: Sequence[frozenset[str]]) -> sparse.csr_matrix:
    """Return (n, labels) of 0 and 1: which row has which label."""
    column = {name: i for i, name in enumerate(sorted(set().union(*labels)))}
    rows = [row for row, own in enumerate(labels) for _ in own]
    columns = [column[name] for own in labels for name in sorted(own)]
    return sparse.csr_matrix((np.ones(len(rows), np.int32), (rows, columns)), shape=(len(labels), len(column)))
