"""The neighbor graph of proteins: exact nearest neighbors by cosine."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from ..errors import BadInput

__all__ = ["neighbor_graph", "unit_vectors"]

ROWS_AT_A_TIME = 2048


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Scale each row of (n, dim) to length 1; a zero row stays zero."""
    vectors = np.asarray(vectors, np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def neighbor_graph(vectors: np.ndarray, *, k: int) -> sparse.csr_matrix:
    """Return the symmetric graph (n, n) that links each row to its `k` most similar others.

    An edge stands when either end has chosen the other; its weight is the cosine similarity, edges that are not
    positive are left out. With at most `k` rows each is linked to all others. Raise BadInput when there is no row.
    """
    units = unit_vectors(vectors)
    n = len(units)
    if n == 0:
        raise BadInput("A map needs proteins with vectors; there are none.")
    k = min(k, n - 1)
    if k == 0:
        return sparse.csr_matrix((n, n))
    chosen, weights = np.empty((n, k), np.int64), np.empty((n, k), np.float64)
    for start in range(0, n, ROWS_AT_A_TIME):
        similarity = units[start : start + ROWS_AT_A_TIME] @ units.T  # (rows, n)
        own = np.arange(len(similarity))
        similarity[own, start + own] = -np.inf
        best = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        chosen[start : start + len(best)] = best
        weights[start : start + len(best)] = np.take_along_axis(similarity, best, axis=1)
    rows = np.repeat(np.arange(n), k)
    keep = weights.ravel() > 0
    directed = sparse.csr_matrix((weights.ravel()[keep], (rows[keep], chosen.ravel()[keep])), shape=(n, n))
    return directed.maximum(directed.T).tocsr()
