"""The neighbor graph of proteins: exact nearest neighbors by cosine, and a few that are farther."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ..errors import BadInput, UnknownName

__all__ = ["WEIGHTS", "GraphOptions", "drop_edges", "neighbor_graph", "unit_vectors"]

WEIGHTS = ("cosine", "shared")  # what the edges of a graph weigh


@dataclass(frozen=True, kw_only=True)
class GraphOptions:
    """Whom a protein is linked to: its `nearest`, and `far` more, of ranks spread evenly by their logarithm.

    The farther ones go up to rank `reach`, or an eighth of the proteins. Without them small groups that lie well apart
    share no edge, and what they form together cannot be seen in the graph.
    """

    nearest: int = 15
    far: int = 5
    reach: int = 250
    weights: str = "cosine"

    def ranks(self, n: int) -> np.ndarray:
        """Return the ranks, from 0, of the neighbors that are linked, of at most `n` others."""
        reach = min(self.reach, n // 8)
        spread = np.geomspace(self.nearest + 1, reach, self.far) if reach > self.nearest else np.empty(0)
        ranks = np.unique([*range(self.nearest), *(spread.astype(np.int64) - 1)])
        return ranks[ranks < n]


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Scale each row of (n, dim) to length 1; a zero row stays zero."""
    vectors = np.asarray(vectors, np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def neighbor_graph(vectors: np.ndarray, options: GraphOptions) -> sparse.csr_matrix:
    """Return the symmetric graph (n, n) of rows linked to those of `vectors` (n, dim) most similar to them, by cosine.

    An edge stands when either end has chosen the other. It weighs the cosine, edges that are not positive being left
    out; or, with weights "shared", the Jaccard index of the nearest that both ends have chosen, themselves included,
    after Jarvis and Patrick (1973). With few rows each is linked to all others. A row of zeros is linked to nothing.
    Raise BadInput when there is no row, and UnknownName for weights that do not exist.
    """
    from sklearn.neighbors import NearestNeighbors

    if options.weights not in WEIGHTS:
        raise UnknownName("weights of edges", options.weights, WEIGHTS)
    units = unit_vectors(vectors)
    n = len(units)
    if n == 0:
        raise BadInput("A map needs proteins with vectors; there are none.")
    usable = np.flatnonzero(units.any(axis=1))
    ranks = options.ranks(len(usable) - 1)
    if not len(ranks):
        return sparse.csr_matrix((n, n))
    # of rows of length 1 the nearest are the most similar; none is its own neighbor
    search = NearestNeighbors(n_neighbors=int(ranks[-1]) + 1, algorithm="brute").fit(units[usable])
    distance, neighbors = (found[:, ranks] for found in search.kneighbors())  # (usable, ranks)
    at = np.repeat(usable, len(ranks)), usable[neighbors.ravel()]
    cosine = sparse.csr_matrix((1 - distance.ravel().astype(np.float64) ** 2 / 2, at), shape=(n, n))
    graph = sparse.csr_matrix(cosine.maximum(cosine.T))
    graph.data[graph.data < 0] = 0
    graph.eliminate_zeros()
    if options.weights == "shared":
        near = ranks < options.nearest
        at = np.repeat(usable, near.sum()), usable[neighbors[:, near].ravel()]
        graph = shared_neighbors(sparse.csr_matrix((np.ones(len(at[0])), at), shape=(n, n)), graph)
    return graph


def shared_neighbors(chosen: sparse.csr_matrix, graph: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return a graph (n, n) whose edges weigh the Jaccard index of what their ends have `chosen` (rows of 0 and 1)."""
    own = sparse.csr_matrix(chosen + sparse.identity(chosen.shape[0], format="csr"))
    edges = graph.tocoo()
    shared = np.asarray(own[edges.row].multiply(own[edges.col]).sum(axis=1)).ravel()
    sizes = np.diff(own.indptr)
    weights = shared / (sizes[edges.row] + sizes[edges.col] - shared)
    found = sparse.csr_matrix((weights, (edges.row, edges.col)), shape=graph.shape)
    found.eliminate_zeros()
    return found


def drop_edges(graph: sparse.csr_matrix, share: float, rng: np.random.Generator) -> sparse.csr_matrix:
    """Return a symmetric graph without a random `share` of its edges."""
    edges = sparse.triu(graph, 1).tocoo()
    kept = rng.random(edges.nnz) >= share
    half = sparse.csr_matrix((edges.data[kept], (edges.row[kept], edges.col[kept])), shape=graph.shape)
    return sparse.csr_matrix(half + half.T)
