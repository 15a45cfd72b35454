"""The hierarchy of systems: communities that persist over resolutions, one inside another.

Leiden (Traag et al., 2019; doi:10.1038/s41598-019-41695-z) is run at many resolutions. A community that comes back at
neighboring resolutions is one system, at how many is its persistence, after HiDeF (Zheng et al., 2021;
doi:10.1186/s13059-020-02228-4). A system lies under the smallest ones that hold it, so it may have two parents.
"""

from __future__ import annotations

from dataclasses import dataclass

import graspologic_native
import networkx as nx
import numpy as np
from scipy import sparse

__all__ = ["ROOT", "Hierarchy", "HierarchyOptions", "find_hierarchy"]

ROOT = "S0"  # the system of all proteins


@dataclass(frozen=True, kw_only=True)
class HierarchyOptions:
    """How systems are found. `seed` makes the result repeatable."""

    seed: int
    n_resolutions: int = 60
    lowest_resolution: float = 0.1
    min_size: int = 4
    min_persistence: int = 4
    same: float = 0.75  # Jaccard index from which two communities are one system
    inside: float = 0.75  # share of a system that must lie in another to be its child

    def resolutions(self, n: int) -> np.ndarray:
        """Return the resolutions, log-spaced; the top grows with the number of proteins, to reach small complexes."""
        return np.geomspace(self.lowest_resolution, max(10.0, n / 10), self.n_resolutions)


@dataclass(frozen=True)
class Hierarchy:
    """A directed acyclic graph from parent to child and the members of each system.

    graph: nodes carry level, resolution, persistence, size; edges carry overlap, the share of the child in the parent.
    members: system -> indices into the rows the neighbor graph was made of, ascending.
    """

    graph: nx.DiGraph
    members: dict[str, np.ndarray]


def find_hierarchy(neighbors: sparse.csr_matrix, options: HierarchyOptions) -> Hierarchy:
    """Find the systems of a symmetric, weighted neighbor graph (n, n) and how they lie in each other."""
    n = neighbors.shape[0]
    communities, resolutions = find_communities(neighbors, options)
    kept, persistence = keep_persistent(communities, options)
    systems = communities[kept]
    graph, members = nx.DiGraph(), {ROOT: np.arange(n)}
    graph.add_node(ROOT, resolution=0.0, persistence=options.n_resolutions, size=n)
    for number, (row, support) in enumerate(zip(kept, persistence, strict=True), start=1):
        name = f"S{number}"
        members[name] = np.sort(communities[row].indices)
        graph.add_node(name, resolution=float(resolutions[row]), persistence=int(support), size=len(members[name]))
    add_edges(graph, systems, options.inside)
    for name, level in levels(graph).items():
        graph.nodes[name]["level"] = level
    return Hierarchy(graph, members)


def find_communities(neighbors: sparse.csr_matrix, options: HierarchyOptions) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return communities of all resolutions as rows (m, n) of 0 and 1, and the resolution of each (m,)."""
    n = neighbors.shape[0]
    indptr, indices = neighbors.indptr.astype(np.int64), neighbors.indices.astype(np.int32)
    blocks, found_at = [], []
    for resolution in options.resolutions(n) if neighbors.nnz else ():
        labels = leiden(indptr, indices, neighbors.data, n=n, resolution=float(resolution), seed=options.seed)
        membership = sparse.csr_matrix((np.ones(n, np.int32), (labels, np.arange(n))))
        sizes = np.diff(membership.indptr)
        rows = np.flatnonzero((sizes >= options.min_size) & (sizes < n))
        if len(rows):
            blocks.append(membership[rows])
            found_at.extend([resolution] * len(rows))
    if not blocks:
        return sparse.csr_matrix((0, n), dtype=np.int32), np.empty(0)
    return sparse.vstack(blocks, format="csr"), np.array(found_at)


def leiden(
    indptr: np.ndarray, indices: np.ndarray, weights: np.ndarray, *, n: int, resolution: float, seed: int
) -> np.ndarray:
    """Return the community (n,) of each node of a graph in CSR form; a node without edges is alone."""
    _, community_of = graspologic_native.leiden_csr(indptr, indices, weights, n, resolution=resolution, seed=seed)
    labels = np.arange(n) + n
    labels[list(community_of)] = list(community_of.values())
    return np.unique(labels, return_inverse=True)[1]


def keep_persistent(communities: sparse.csr_matrix, options: HierarchyOptions) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of `communities` that are kept as systems, large to small, and the persistence of each.

    The best supported community is kept and those like it are dropped, then the next: a chain of slowly changing
    communities is cut at its best, not joined.
    """
    if communities.shape[0] == 0:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    alike = jaccard_at_least(communities, options.same)
    support = np.diff(alike.indptr)
    sizes = np.diff(communities.indptr)
    free = np.ones(len(support), bool)
    kept = []
    for row in np.lexsort((np.arange(len(support)), -sizes, -support)):
        if free[row] and support[row] >= options.min_persistence:
            kept.append(row)
            free[alike[row].indices] = False
    chosen = np.array(kept, np.int64)
    chosen = chosen[np.lexsort((chosen, -sizes[chosen]))]
    return chosen, support[chosen].astype(np.int64)


def jaccard_at_least(communities: sparse.csr_matrix, threshold: float) -> sparse.csr_matrix:
    """Return a matrix (m, m) of 1 where two rows of 0 and 1 have a Jaccard index of at least `threshold`."""
    shared = (communities @ communities.T).tocoo()
    sizes = np.diff(communities.indptr)
    union = sizes[shared.row] + sizes[shared.col] - shared.data
    keep = shared.data >= threshold * union
    ones = np.ones(int(keep.sum()), np.int32)
    return sparse.csr_matrix((ones, (shared.row[keep], shared.col[keep])), shape=shared.shape)


def add_edges(graph: nx.DiGraph, systems: sparse.csr_matrix, inside: float) -> None:
    """Link each system to the smallest ones that hold it; `systems` are rows of 0 and 1 from large to small."""
    sizes = np.diff(systems.indptr)
    shared = (systems @ systems.T).tocoo()
    overlap = {}
    for parent, child, common in zip(shared.row, shared.col, shared.data, strict=True):
        if parent < child and sizes[parent] > sizes[child] and common >= inside * sizes[child]:
            overlap[f"S{parent + 1}", f"S{child + 1}"] = float(common / sizes[child])
    full = nx.DiGraph()
    full.add_nodes_from(graph)
    full.add_edges_from(overlap)
    for parent, child in nx.transitive_reduction(full).edges:
        graph.add_edge(parent, child, overlap=overlap[parent, child])
    for name in [name for name in graph if name != ROOT and graph.in_degree(name) == 0]:
        graph.add_edge(ROOT, name, overlap=1.0)


def levels(graph: nx.DiGraph) -> dict[str, int]:
    """Return each system's level: the length of the longest path from the root."""
    level = {ROOT: 0}
    for name in nx.topological_sort(graph):
        for child in graph.successors(name):
            level[child] = max(level.get(child, 0), level[name] + 1)
    return level
