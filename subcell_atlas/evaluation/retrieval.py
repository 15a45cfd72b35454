"""Retrieval: are the neighbors of a protein the ones it should have? Mean average precision by cosine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ..errors import BadInput
from ..ranking import average_precision_at, unit

__all__ = ["Retrieval", "evaluate_retrieval", "finite_units", "label_matrix", "rounded_cosines"]

N_SHUFFLES = 5
ROWS_AT_A_TIME = 256  # queries; memory grows with this, not with the square of the proteins
DECIMALS = 6  # of a cosine: what differs by less differs by float32's rounding, and is equally like


@dataclass(frozen=True)
class Retrieval:
    """Mean average precision over `n` queries; NaN without any.

    shuffled: the same with the labels permuted, the mean of several times. precisions: (rows,) of each query; NaN of a
    row that is none.
    """

    mean_ap: float
    shuffled: float
    n: int
    precisions: np.ndarray


def evaluate_retrieval(vectors: np.ndarray, labels: Sequence[frozenset[str]], *, seed: int) -> Retrieval:
    """Ask of each row of `vectors` (n, dim) whether its neighbors share a label with it.

    Rows without a label are neither queries nor neighbors, nor is a query of which no other row shares a label. Labels
    are shuffled among the rows for comparison. Vectors that are not finite raise BadInput.
    """
    nan = float("nan")
    labelled = np.array([row for row, own in enumerate(labels) if own], int)
    precisions = np.full(len(labels), nan)
    if len(labelled) < 2:
        return Retrieval(nan, nan, 0, precisions)
    has = label_matrix([labels[row] for row in labelled])
    rng = np.random.default_rng(seed)
    orders = [np.arange(len(labelled)), *(rng.permutation(len(labelled)) for _ in range(N_SHUFFLES))]
    found = precisions_of_orders(finite_units(np.asarray(vectors)[labelled]), [has[order] for order in orders])
    precisions[labelled] = found[0]
    n_queries = int(np.isfinite(found[0]).sum())
    if not n_queries:
        return Retrieval(nan, nan, 0, precisions)
    means = np.nanmean(found, axis=1)
    return Retrieval(float(means[0]), float(means[1:].mean()), n_queries, precisions)


def precisions_of_orders(units: np.ndarray, labels: Sequence[sparse.csr_matrix]) -> np.ndarray:
    """Return the average precision of each row for each of several labels (n, labels) of the rows: (several, n)."""
    found = np.full((len(labels), len(units)), np.nan)
    for start in range(0, len(units), ROWS_AT_A_TIME):
        queries = np.arange(start, min(start + ROWS_AT_A_TIME, len(units)))
        ranks = ranks_of_others(units, queries)
        for of, own in zip(found, labels, strict=True):
            relevant = (own[queries] @ own.T).toarray() > 0
            relevant[np.arange(len(queries)), queries] = False
            of[queries] = [average_precision_at(ranks[at, row]) for at, row in enumerate(relevant)]
    return found


def ranks_of_others(units: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Return how many rows other than the query are at least as like it as each is: (queries, n) int32."""
    similarity = rounded_cosines(units[queries], units)
    similarity[np.arange(len(queries)), queries] = -np.inf
    ordered = np.sort(similarity, axis=1)
    ranks = np.empty(similarity.shape, np.int32)
    for at, (own, sorted_own) in enumerate(zip(similarity, ordered, strict=True)):
        ranks[at] = len(own) - np.searchsorted(sorted_own, own)
    return ranks


def finite_units(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (n, dim) divided by their length, float32; raise BadInput for what is not finite."""
    vectors = np.asarray(vectors, np.float32)
    if not np.isfinite(vectors).all():
        raise BadInput("Vectors to compare hold NaN or infinite values. Leave their rows out, or embed them again.")
    return unit(vectors)


def rounded_cosines(queries: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the cosines (queries, others) of vectors of length 1, equal where they differ by rounding alone.

    A vector of no length is like every other by 0.
    """
    similarity = queries @ others.T
    return np.round(similarity, DECIMALS, out=similarity)


def label_matrix(labels: Sequence[frozenset[str]]) -> sparse.csr_matrix:
    """Return (n, labels) of 0 and 1: which row has which label, labels in order of name."""
    column = {name: i for i, name in enumerate(sorted(set().union(*labels)))}
    rows = [row for row, own in enumerate(labels) for _ in own]
    columns = [column[name] for own in labels for name in sorted(own)]
    return sparse.csr_matrix((np.ones(len(rows), np.int32), (rows, columns)), shape=(len(labels), len(column)))
