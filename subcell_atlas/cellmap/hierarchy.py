"""The hierarchy of systems: groups of proteins that persist over resolutions, one inside another.

A group that is found at several resolutions is one system, at how many is its persistence, after HiDeF (Zheng et al.,
2021; doi:10.1186/s13059-020-02228-4). A system lies under the smallest ones that hold it, so it may have two parents.
"""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx
import numpy as np
from scipy import sparse

from ..errors import BadInput
from .enrichment import ROOT
from .methods import Method, MultiResolution
from .named import levels
from .trust import Resample, Systems, Trust, find_systems, tested

__all__ = ["ROOT", "Hierarchy", "find_hierarchy"]

RETURNING = 0.75  # share of the least persistence that a system must have in reruns too
INSIDE = 0.75  # share of a system that must lie in another to be its child


@dataclass(frozen=True)
class Hierarchy:
    """A directed acyclic graph from parent to child and the members of each system.

    graph: nodes carry level, resolution, persistence, size and, when systems were tested, stability and
    null_p_adjusted (see `trust`), else None; edges carry overlap, the share of the child in the parent.
    members: system -> rows of the vectors, ascending. n_dropped: systems that were found and are not trusted.
    """

    graph: nx.DiGraph
    members: dict[str, np.ndarray]
    n_dropped: int = 0


def find_hierarchy(
    vectors: np.ndarray,
    method: Method | None = None,
    *,
    seed: int,
    trust: Trust | None = None,
    resample: Resample | None = None,
    min_size: int = 4,
) -> Hierarchy:
    """Find the systems of vectors (n, dim) and how they lie in each other; the same seed gives the same hierarchy.

    `method`: one of `METHODS`, multiresolution when None. With `trust` those systems are left out that do not come back
    in reruns, or not more than groups of vectors that have none. `resample` gives the vectors of a rerun, those of
    other cells of the same proteins. Raise BadInput when there is no vector, or one is not finite or zero.
    """
    chosen = method or MultiResolution()
    vectors = np.asarray(vectors, np.float32)
    check_vectors(vectors)
    found = find_systems(vectors, chosen, trust, min_size=min_size, seed=seed, resample=resample)
    if trust is None:
        return as_hierarchy(found, len(vectors))
    found = tested(vectors, found, chosen, trust, min_size=min_size, seed=seed, resample=resample)
    returning = found.returns >= RETURNING * chosen.min_persistence
    trusted = found.only(returning & (found.p_adjusted <= trust.alpha))
    return as_hierarchy(trusted, len(vectors), n_dropped=len(found.size) - len(trusted.size))


def check_vectors(vectors: np.ndarray) -> None:
    """Raise BadInput when vectors (n, dim) cannot be compared."""
    if not len(vectors):
        raise BadInput("A map needs proteins with vectors; there are none.")
    if bad := int((~(np.isfinite(vectors).all(axis=1) & vectors.any(axis=1))).sum()):
        raise BadInput(f"{bad} of {len(vectors)} vectors are zero or not finite; leave them out.")


def as_hierarchy(found: Systems, n: int, *, n_dropped: int = 0) -> Hierarchy:
    """Return systems of `n` proteins as a graph under one root."""
    graph, members = nx.DiGraph(), {ROOT: np.arange(n)}
    graph.add_node(ROOT, resolution=0.0, persistence=None, size=n, stability=None, null_p_adjusted=None)
    for row in range(len(found.size)):
        name = f"S{row + 1}"
        members[name] = np.sort(found.sets.indices[found.sets.indptr[row] : found.sets.indptr[row + 1]])
        graph.add_node(
            name,
            resolution=float(found.resolution[row]),
            persistence=int(found.persistence[row]),
            size=len(members[name]),
            stability=known(found.stability[row]),
            null_p_adjusted=known(found.p_adjusted[row]),
        )
    add_edges(graph, found.sets)
    for name, level in levels(graph).items():
        graph.nodes[name]["level"] = level
    return Hierarchy(graph, members, n_dropped)


def known(value: float) -> float | None:
    """Return a number; None for NaN."""
    return None if np.isnan(value) else float(value)


def add_edges(graph: nx.DiGraph, systems: sparse.csr_matrix, inside: float = INSIDE) -> None:
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
