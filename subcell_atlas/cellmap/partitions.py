"""Partitions of proteins: Leiden's communities, and how well sets of proteins come back in other partitions.

Leiden: Traag et al., 2019; doi:10.1038/s41598-019-41695-z.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import graspologic_native
import numpy as np
from scipy import sparse

__all__ = ["best_overlaps", "distinct_sets", "groups_of", "jaccard_at_least", "leiden"]

BLOCK = 1024  # sets that are compared with all others at once


def leiden(graph: sparse.csr_matrix, *, resolution: float, seed: int, iterations: int = 1) -> np.ndarray:
    """Return the community (n,) of each node of a symmetric, weighted graph; a node without edges is alone."""
    n = graph.shape[0]
    if not graph.nnz:
        return np.arange(n)
    indptr, indices = graph.indptr.astype(np.int64), graph.indices.astype(np.int32)
    _, found = graspologic_native.leiden_csr(
        indptr, indices, graph.data, n, resolution=resolution, seed=seed, iterations=iterations
    )
    labels = np.arange(n) + n
    labels[np.fromiter(found, np.int64, len(found))] = np.fromiter(found.values(), np.int64, len(found))
    return np.unique(labels, return_inverse=True)[1]


def groups_of(labels: np.ndarray) -> sparse.csr_matrix:
    """Return the groups of a partition (n,), numbered from 0, as rows (groups, n) of 0 and 1."""
    n = len(labels)
    return sparse.csr_matrix((np.ones(n, np.int32), (labels, np.arange(n))), shape=(labels.max() + 1, n))


def distinct_sets(partitions: Iterable[np.ndarray], n: int, *, min_size: int) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return the distinct groups of partitions (n,) as rows (m, n) of 0 and 1, and the first partition that has each.

    Groups of fewer than `min_size`, and the group of all, are left out.
    """
    at: dict[bytes, int] = {}
    sets: list[np.ndarray] = []
    first: list[int] = []
    for number, labels in enumerate(partitions):
        for rows in large_groups(labels, min_size):
            if at.setdefault(rows.tobytes(), len(sets)) == len(sets):
                sets.append(rows)
                first.append(number)
    indptr = np.cumsum([0, *map(len, sets)])
    indices = np.concatenate(sets) if sets else np.empty(0, np.int64)
    found = sparse.csr_matrix((np.ones(len(indices), np.int32), indices, indptr), shape=(len(sets), n))
    return found, np.array(first, np.int64)


def large_groups(labels: np.ndarray, min_size: int) -> Iterator[np.ndarray]:
    """Yield the members, ascending, of each group of at least `min_size`, but not of a group of all."""
    order = np.argsort(labels, kind="stable")
    ends = np.cumsum(np.bincount(labels))
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        if min_size <= end - start < len(labels):
            yield order[start:end]


def best_overlaps(sets: sparse.csr_matrix, labels: np.ndarray) -> np.ndarray:
    """Return, for each of `sets` (m, n), the highest Jaccard index (m,) with a group of the partition `labels` (n,)."""
    if not sets.shape[0]:
        return np.empty(0)
    shared = sparse.csr_matrix(sets @ groups_of(labels).T)
    row = np.repeat(np.arange(sets.shape[0]), np.diff(shared.indptr))
    union = np.diff(sets.indptr)[row] + np.bincount(labels)[shared.indices] - shared.data
    return np.maximum.reduceat(shared.data / union, shared.indptr[:-1])  # each set has members, so no row is empty


def jaccard_at_least(sets: sparse.csr_matrix, threshold: float) -> sparse.csr_matrix:
    """Return a matrix (m, m) of 1 where two of `sets` (m, n) have a Jaccard index of at least `threshold`."""
    m = sets.shape[0]
    blocks = [jaccard_block(sets, np.arange(start, min(start + BLOCK, m)), threshold) for start in range(0, m, BLOCK)]
    return sparse.vstack(blocks, format="csr") if blocks else sparse.csr_matrix((0, 0))


def jaccard_block(sets: sparse.csr_matrix, rows: np.ndarray, threshold: float) -> sparse.csr_matrix:
    """Return some rows of `jaccard_at_least`: all at once would take much memory."""
    sizes = np.diff(sets.indptr)
    shared = (sets[rows] @ sets.T).tocoo()
    keep = shared.data >= threshold * (sizes[rows[shared.row]] + sizes[shared.col] - shared.data)
    ones = np.ones(int(keep.sum()), np.int32)
    return sparse.csr_matrix((ones, (shared.row[keep], shared.col[keep])), shape=shared.shape)
