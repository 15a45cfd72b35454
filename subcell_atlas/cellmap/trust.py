"""Which systems can be trusted: those that come back, more than groups do in vectors that have none.

Any clustering of anything gives groups. So the same data are partitioned again and again, each time without some edges
and, where cells are known, with other cells: what comes back is there. How much comes back by chance is told by the
same done to vectors with the mean and the covariance of the real ones but no groups, mixed at random from them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
from scipy import sparse

from .enrichment import adjust
from .methods import Method, Rerun, Sweep
from .partitions import best_overlaps, distinct_sets, jaccard_at_least

__all__ = ["Resample", "Systems", "Trust", "find_systems", "groupless", "tested"]

SAME = 0.75  # Jaccard index from which two groups are one system
THIN = 3  # every third resolution tells whether a system comes back
BANDWIDTH = 0.35  # of the logarithm of sizes, within which null systems are compared with a system
LEAST_SPREAD = 0.02  # of a statistic over systems of one size
FEWEST_RETURNS = 0.1  # in place of none, whose logarithm is not finite

Resample = Callable[[int], np.ndarray]  # rerun -> vectors (n, dim) as other cells of the same proteins give them


@dataclass(frozen=True, kw_only=True)
class Trust:
    """How systems are tested: the number of reruns, the share of edges that each leaves out, the level of the test.

    Vectors without groups are made anew until they have given `enough` systems, at most `most_nulls` times.
    """

    reruns: int = 10
    dropped: float = 0.1
    alpha: float = 0.05
    enough: int = 500
    most_nulls: int = 10


@dataclass(frozen=True)
class Systems:
    """Groups that are kept as systems, from large to small, (m,) each, and how they come back.

    sets: rows (m, n) of 0 and 1. resolution: of the coarsest partition that has the group. persistence: at how many
    resolutions it was found. returns: at how many in a rerun, on average. stability: its Jaccard index with the most
    similar group of a rerun, on average. p_adjusted: see `tested`. The last three are NaN before they are known.
    """

    sets: sparse.csr_matrix
    resolution: np.ndarray
    persistence: np.ndarray
    returns: np.ndarray
    stability: np.ndarray
    p_adjusted: np.ndarray

    @property
    def size(self) -> np.ndarray:
        """The number of members of each (m,)."""
        return np.diff(self.sets.indptr)

    def only(self, rows: np.ndarray) -> Systems:
        """Return some of the systems, by a mask or by their numbers."""
        return Systems(*(getattr(self, each.name)[rows] for each in fields(self)))


def find_systems(
    vectors: np.ndarray,
    method: Method,
    trust: Trust | None,
    *,
    min_size: int,
    seed: int,
    resample: Resample | None = None,
) -> Systems:
    """Return the groups of vectors (n, dim) that persist over resolutions; with `trust`, and how they come back."""
    prepared = method.prepare(vectors)
    sweep = method.sweep(prepared, seed=seed)
    found, support = candidates(sweep, len(vectors), min_size=min_size)
    support[found.persistence < method.min_persistence] = 0
    found = found.only(keep_best(found.sets, support))
    if trust is None:
        return found

    def run_again(number: int) -> tuple[np.ndarray, np.ndarray]:
        data = prepared if resample is None else method.prepare(resample(number))
        rerun = Rerun(THIN, trust.dropped, np.random.default_rng([seed, number]))
        again = method.sweep(data, seed=seed + number + 1, rerun=rerun)
        comeback = overlaps_with(found.sets, again)
        return comeback.returns * (len(sweep.labels) / max(len(again.labels), 1)), comeback.best

    with ThreadPoolExecutor(n_processors()) as pool:
        runs = list(pool.map(run_again, range(trust.reruns)))
    returns, best = (np.mean(parts, axis=0) for parts in zip(*runs, strict=True))
    return replace(found, returns=returns, stability=best)


def n_processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def candidates(sweep: Sweep, n: int, *, min_size: int) -> tuple[Systems, np.ndarray]:
    """Return all distinct groups of some partitions of `n` proteins, and the support (m,) of each."""
    sets, first = distinct_sets(sweep.labels, n, min_size=min_size)
    comeback = overlaps_with(sets, sweep)
    unknown = np.full(sets.shape[0], np.nan)
    persistence = comeback.returns.astype(np.int64)
    return Systems(sets, sweep.resolution[first], persistence, unknown, unknown, unknown), comeback.support


class Comeback(NamedTuple):
    """How sets are found again in partitions, (m,) each.

    returns: at how many resolutions. best: the highest Jaccard index. support: the resolutions, each weighing how much
    more alike the sets are than they must be, so that a set between two others, like both, has less than either.
    """

    returns: np.ndarray
    best: np.ndarray
    support: np.ndarray


def overlaps_with(sets: sparse.csr_matrix, sweep: Sweep) -> Comeback:
    """Return how `sets` (m, n) are found again in the partitions of a sweep."""
    found = Comeback(*np.zeros((3, sets.shape[0])))
    for labels in sweep.labels:
        overlaps = best_overlaps(sets, labels)
        found.returns[:] += overlaps >= SAME
        found.best[:] = np.maximum(found.best, overlaps)
        found.support[:] += (overlaps - SAME).clip(0) / (1 - SAME)
    return found


def keep_best(sets: sparse.csr_matrix, support: np.ndarray) -> np.ndarray:
    """Return the rows of `sets` (m, n) that are kept as systems, from large to small.

    The best supported set is kept and those like it are dropped, then the next: a chain of slowly changing sets is cut
    at its best, not joined. Sets without support are not kept.
    """
    sizes = np.diff(sets.indptr)
    supported = np.flatnonzero(support > 0)
    supported = supported[np.lexsort((supported, -sizes[supported], -support[supported]))]
    alike = jaccard_at_least(sets[supported], SAME)
    free, kept = np.ones(len(supported), bool), []
    for row in range(len(supported)):
        if free[row]:
            kept.append(row)
            free[alike.indices[alike.indptr[row] : alike.indptr[row + 1]]] = False
    chosen = supported[kept]
    return chosen[np.lexsort((chosen, -sizes[chosen]))]


def tested(
    vectors: np.ndarray,
    found: Systems,
    method: Method,
    trust: Trust,
    *,
    min_size: int,
    seed: int,
    resample: Resample | None,
) -> Systems:
    """Return the systems with how often one of no group comes back as much, for its size, as each of them.

    p = (1 + such) / (1 + all of no group), after Benjamini-Hochberg over all systems. How much a system comes back is
    the sum of two statistics, each in standard deviations of null systems of about its size: the logarithm of `returns`
    and `stability`. With `resample` null vectors are moved as other cells move real ones, each as some other protein.
    """
    if not len(found.size):
        return found
    nulls: list[Systems] = []
    for null in null_systems(vectors, method, trust, min_size=min_size, seed=seed, resample=resample):
        nulls.append(null)
        if sum(len(each.size) for each in nulls) >= trust.enough:
            break
    pool = [np.concatenate([getattr(null, name) for null in nulls]) for name in ("size", "returns", "stability")]
    usual = np.sort(standardized(*pool, *pool))
    mine = standardized(found.size, found.returns, found.stability, *pool)
    as_much = len(usual) - np.searchsorted(usual, mine, side="left")
    p = (1 + as_much) / (1 + len(usual))
    return replace(found, p_adjusted=adjust(p, len(p)))


def null_systems(
    vectors: np.ndarray, method: Method, trust: Trust, *, min_size: int, seed: int, resample: Resample | None
) -> Iterator[Systems]:
    """Yield what is found in vectors without groups, made anew each time."""
    make = groupless(vectors)
    for number in range(trust.most_nulls):
        rng = np.random.default_rng([seed, 1, number])
        null = make(rng)
        moved = moved_like(null, vectors, resample, rng) if resample else None
        yield find_systems(null, method, trust, min_size=min_size, seed=seed + 1000 * number, resample=moved)


def moved_like(null: np.ndarray, vectors: np.ndarray, resample: Resample, rng: np.random.Generator) -> Resample:
    """Return a resampling of `null` that moves each vector as `resample` moves another of the real ones."""
    other = rng.permutation(len(vectors))
    return lambda number: null + (resample(number) - vectors)[other]


def groupless(vectors: np.ndarray) -> Callable[[np.random.Generator], np.ndarray]:
    """Return what makes as many vectors (n, dim) float32 with the same mean and covariance and no groups.

    Each is a random mixture of the deviations of all from their mean, and so normally distributed.
    """
    mean = vectors.mean(axis=0, dtype=np.float64)
    centred = vectors - mean
    variances, axes = np.linalg.eigh(centred.T @ centred / max(len(vectors) - 1, 1))
    scaled = (axes * np.sqrt(variances.clip(0))).astype(np.float32)
    return lambda rng: rng.standard_normal(vectors.shape, np.float32) @ scaled.T + mean.astype(np.float32)


def standardized(
    size: np.ndarray,
    returns: np.ndarray,
    stability: np.ndarray,
    null_size: np.ndarray,
    null_returns: np.ndarray,
    null_stability: np.ndarray,
) -> np.ndarray:
    """Return how much systems (m,) come back, relative to null systems (k,) of about their size."""
    if not len(null_size):
        return np.zeros(len(size))
    distinct, back = np.unique(size, return_inverse=True)
    apart = np.log(distinct)[:, None] - np.log(null_size)[None]  # (sizes, k)
    weights = np.exp(-0.5 * (apart / BANDWIDTH) ** 2) + 1e-9
    weights /= weights.sum(axis=1, keepdims=True)
    total = np.zeros(len(size))
    for mine, null in ((log(returns), log(null_returns)), (stability, null_stability)):
        mean = weights @ null
        spread = np.sqrt((weights @ null**2 - mean**2).clip(LEAST_SPREAD**2))
        total += (mine - mean[back]) / spread[back]
    return total


def log(returns: np.ndarray) -> np.ndarray:
    """Return the logarithm of how often systems return."""
    return np.log(returns.clip(FEWEST_RETURNS))
