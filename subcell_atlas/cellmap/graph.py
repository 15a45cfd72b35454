"""The neighbor graph of proteins: exact nearest neighbors by cosine."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from ..errors import BadInput, UnknownName

__all__ = ["WEIGHTS", "neighbor_graph", "unit_vectors"]

WEIGHTS = ("cosine", "shared")  # what the edges of a graph weigh


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Scale each row of (n, dim) to length 1; a zero row stays zero."""
    vectors = np.asarray(vectors, np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def neighbor_graph(vectors: np.ndarray, *, k: int, weights: str = "cosine") -> sparse.csr_matrix:
    """Return the symmetric graph (n, n) that links each row to its `k` most similar others, by cosine.

    An edge stands when either end has chosen the other. It weighs the cosine, edges that are not positive being left
    out; or, with `weights="shared"`, the Jaccard index of what both ends have chosen, themselves included, after Jarvis
    and Patrick (1973). With at most `k` rows each is linked to all others. A row of zeros is linked to nothing. Raise
    BadInput when there is no row, and UnknownName for weights that do not exist.
    """
    from sklearn.neighbors import NearestNeighbors

    if weights not in WEIGHTS:
        raise UnknownName("weights of edges", weights, WEIGHTS)
    units = unit_vectors(vectors)
    n = len(units)
    if n == 0:
        raise BadInput("A map needs proteins with vectors; there are none.")
    usable = np.flatnonzero(units.any(axis=1))
    k = min(k, len(usable) - 1)
    if k < 1:
        return sparse.csr_matrix((n, n))
    # of rows of length 1 the nearest are the most similar; none is its own neighbor
    search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(units[usable])
    distance, nearest = search.kneighbors()  # (usable, k)
    at = np.repeat(usable, k), usable[nearest.ravel()]
    cosine = sparse.csr_matrix((1 - distance.ravel().astype(np.float64) ** 2 / 2, at), shape=(n, n))
    graph = sparse.csr_matrix(cosine.maximum(cosine.T))
    graph.data[graph.data < 0] = 0
    graph.eliminate_zeros()
    if weights == "shared":
        return shared_neighbors(sparse.csr_matrix((np.ones(len(at[0])), at), shape=(n, n)), graph)
    return graph


def shared_neighbors(chosen: sparse.csr_matrix, graph: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return a graph (n, n) whose edges weigh the Jaccard index of what their ends have `chosen` (rows of 0 and 1)."""
    own = sparse.csr_matrix(chosen + sparse.identity(chosen.shape[0], format="csr"))
    edges = graph.tocoo()
    shared = np.asarray(own[edges.row].multiply(own[edges.col]).sum(axis=1)).ravel()
    sizes = np.diff(own.indptr)
    weights = shared / (sizes[edges.row] + sizes[edges.col] - shared)
    return sparse.csr_matrix((weights, (edges.row, edges.col)), shape=graph.shape)
