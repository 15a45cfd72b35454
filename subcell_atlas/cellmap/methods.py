"""Three ways to partition proteins at several resolutions; a hierarchy is made of what they find.

`multiresolution`: Leiden's communities of one neighbor graph at many resolutions, as HiDeF takes them (Zheng et al.,
2021; doi:10.1186/s13059-020-02228-4). `subcell`: the recursion by which the authors of SubCell made their map
(doi:10.1101/2024.12.06.627299): each cluster is split again in a graph of its own, with the resolutions and numbers of
neighbors that they published. `average`: average linkage, cut at many heights; the plain baseline.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from scipy import sparse

from .graph import GraphOptions, drop_edges, neighbor_graph, unit_vectors
from .partitions import leiden

__all__ = ["METHODS", "AverageLinkage", "Method", "MultiResolution", "Recursion", "Rerun", "Sweep"]

STEPS = 7.9  # resolutions from one to e times as much


@dataclass(frozen=True)
class Sweep:
    """Partitions (n,) of the proteins, from coarse to fine, and the resolution of each (m,)."""

    labels: list[np.ndarray]
    resolution: np.ndarray


@dataclass(frozen=True)
class Rerun:
    """A sweep that is to see whether groups come back: of every `thin`-th resolution, without a share of the data."""

    thin: int
    dropped: float
    rng: np.random.Generator


class Method(Protocol):
    """A way to partition vectors; a group that is found `min_persistence` times is a system."""

    @property
    def min_persistence(self) -> int:
        """How often a group must be found."""

    def prepare(self, vectors: np.ndarray) -> Any:
        """Return what `sweep` takes of vectors (n, dim) that are finite and not zero."""

    def sweep(self, prepared: Any, *, seed: int, rerun: Rerun | None = None) -> Sweep:
        """Partition at every resolution, or as a rerun asks."""


def step_of(rerun: Rerun | None) -> int:
    """Return how many resolutions to go from one to the next."""
    return rerun.thin if rerun else 1


def thinned(graph: sparse.csr_matrix, rerun: Rerun | None) -> sparse.csr_matrix:
    """Return a graph without the edges that a rerun leaves out."""
    return drop_edges(graph, rerun.dropped, rerun.rng) if rerun else graph


@dataclass(frozen=True, kw_only=True)
class MultiResolution:
    """Leiden's communities of one neighbor graph; the top resolution grows with the number of proteins."""

    graph: GraphOptions = field(default_factory=GraphOptions)
    lowest: float = 0.1
    min_persistence: int = 4

    def resolutions(self, n: int) -> np.ndarray:
        """Return the resolutions, log-spaced; the highest reaches complexes of a few proteins."""
        highest = max(10.0, n / 10)
        return np.geomspace(self.lowest, highest, round(STEPS * np.log(highest / self.lowest)))

    def prepare(self, vectors: np.ndarray) -> sparse.csr_matrix:
        """Return the neighbor graph."""
        return neighbor_graph(vectors, self.graph)

    def sweep(self, prepared: sparse.csr_matrix, *, seed: int, rerun: Rerun | None = None) -> Sweep:
        """Return the communities at each resolution; a rerun leaves out edges."""
        graph = thinned(prepared, rerun)
        resolutions = self.resolutions(graph.shape[0])[:: step_of(rerun)] if graph.nnz else np.empty(0)
        return Sweep([leiden(graph, resolution=float(r), seed=seed) for r in resolutions], resolutions)


@dataclass(frozen=True, kw_only=True)
class Recursion:
    """The published recursion: principal components, then a graph for each cluster, which Leiden splits again.

    The graph is UMAP's fuzzy one over Euclidean neighbors, as scanpy makes it. A cluster of fewer proteins than
    neighbors are asked for is carried down as it is. The first resolution, 0, is that of all proteins together.
    """

    resolutions: tuple[float, ...] = (0, 0.15, 0.2, 0.25, 0.30, 0.33, 0.36)
    n_neighbors: tuple[int, ...] = (125, 100, 90, 55, 40, 25, 10)
    n_components: int = 50
    min_persistence: int = 1

    def prepare(self, vectors: np.ndarray) -> np.ndarray:
        """Return the principal components (n, at most 50)."""
        from sklearn.decomposition import PCA

        if len(vectors) < 2:
            return np.zeros((len(vectors), 1))
        n_components = min(self.n_components, *vectors.shape)
        with np.errstate(invalid="ignore"):  # identical vectors have no variance to divide
            return PCA(n_components, svd_solver="covariance_eigh").fit_transform(np.asarray(vectors, np.float64))

    def sweep(self, prepared: np.ndarray, *, seed: int, rerun: Rerun | None = None) -> Sweep:
        """Return the clusters of each level; a rerun leaves out edges, but no level: each begins with that before."""
        labels = [np.zeros(len(prepared), np.int64)]
        for resolution, k in zip(self.resolutions[1:], self.n_neighbors[1:], strict=True):
            finer = np.zeros(len(prepared), np.int64)
            for cluster in range(labels[-1].max() + 1):
                rows = np.flatnonzero(labels[-1] == cluster)
                own = np.zeros(len(rows), np.int64)
                if len(rows) >= k:
                    graph = thinned(fuzzy_graph(prepared[rows], k, seed=seed), rerun)
                    own = leiden(graph, resolution=resolution, seed=seed, iterations=2)
                finer[rows] = finer.max() + 1 + own if cluster else own
            labels.append(finer)
        return Sweep(labels[1:], np.array(self.resolutions[1:]))


def fuzzy_graph(points: np.ndarray, k: int, *, seed: int) -> sparse.csr_matrix:
    """Return UMAP's fuzzy graph of points (n, dim) with `k` neighbors each, themselves among them."""
    from sklearn.neighbors import NearestNeighbors
    from umap.umap_ import fuzzy_simplicial_set

    distance, neighbors = NearestNeighbors(n_neighbors=k).fit(points).kneighbors(points)
    graph, *_ = fuzzy_simplicial_set(
        points,
        k,
        np.random.RandomState(seed),
        "euclidean",
        knn_indices=neighbors,
        knn_dists=distance.astype(np.float32),
    )
    return sparse.csr_matrix(graph, dtype=np.float64)


@dataclass(frozen=True, kw_only=True)
class AverageLinkage:
    """Average linkage of cosines, cut at even heights, from one group down to as many as a third of the proteins."""

    n_cuts: int = 60
    min_persistence: int = 4

    def prepare(self, vectors: np.ndarray) -> np.ndarray:
        """Return vectors of length 1."""
        return unit_vectors(vectors)

    def sweep(self, prepared: np.ndarray, *, seed: int, rerun: Rerun | None = None) -> Sweep:
        """Return the groups at each cut.

        There are no edges that a rerun could leave out: it draws the numbers of the vectors with replacement, as
        pvclust does (doi:10.1093/bioinformatics/btl117).
        """
        from scipy.cluster.hierarchy import fcluster, linkage

        del seed  # nothing else is random
        n = len(prepared)
        if n < 2:
            return Sweep([], np.empty(0))
        if rerun:
            prepared = unit_vectors(prepared[:, rerun.rng.integers(0, prepared.shape[1], prepared.shape[1])])
        tree = linkage(prepared, "average", metric="sqeuclidean")  # of rows of length 1: twice one minus the cosine
        heights = np.linspace(tree[-1, 2], tree[min(n - n // 3, n - 2), 2], self.n_cuts + 1)[1 :: step_of(rerun)]
        labels = [np.unique(fcluster(tree, height, "distance"), return_inverse=True)[1] for height in heights]
        return Sweep(labels, 1 / (heights / 2 + 1e-9))  # the finer the higher


METHODS: dict[str, type[MultiResolution] | type[Recursion] | type[AverageLinkage]] = {
    "multiresolution": MultiResolution,
    "subcell": Recursion,
    "average": AverageLinkage,
}
