"""Are replicates of a protein more alike than the same pictures of other proteins? Replicate consistency.

Replicates are two rows of one protein that differ in one thing (antibody, cell line, plate, field of view) and share
the rest. What they are held against is matched: a null pair keeps one of the two, and in the other's place has a row of
another protein from the other's stratum (cell line, plate), which differs from the one that is kept in the same thing.

After Kenyon-Dean et al. (2025): the Kolmogorov-Smirnov and Cramér-von Mises statistics of the two distributions of
cosines. The latter grows with the number of pairs: it is given with both, and beside it without the growth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

from ..errors import BadInput
from ..ranking import unit
from .chance import adjusted, permutation_p
from .intervals import Observed
from .strata_draws import means_by_chance

__all__ = ["Consistency", "Replicates", "codes", "cosines", "measure", "null_pairs", "replicate_pairs", "size_free"]

N_NULL = 10  # pairs for each pair of replicates
MOST_NULL = 1_000_000  # pairs; with very many replicates each has fewer null pairs, but two at least
N_DRAWS = 1000
MOST_ROWS = 32  # replicates of one set; of more, so many are chosen at random
ROWS_AT_A_TIME = 4096
N_BINS = 128  # for the interval of the Kolmogorov-Smirnov statistic, of each distribution


@dataclass(frozen=True)
class Replicates:
    """Rows that may be replicates of each other. All but `vectors` are (n,) numbers that stand for what is meant.

    vectors: (n, dim). proteins: of each row. varied: in what replicates differ. alike: what they share besides the
    protein. strata: what a row must share with the one that it stands in for.
    """

    vectors: np.ndarray
    proteins: np.ndarray
    varied: np.ndarray
    alike: np.ndarray
    strata: np.ndarray

    def __post_init__(self) -> None:
        keys = np.stack([self.proteins, self.varied, self.alike], axis=1)
        if len(np.unique(keys, axis=0)) < len(keys):
            raise BadInput("Two rows are of the same protein and differ in nothing; average them first.")

    def of(self, chosen: np.ndarray) -> Replicates:
        """Return some rows alone."""
        labels = (self.proteins, self.varied, self.alike, self.strata)
        return Replicates(self.vectors[chosen], *(label[chosen] for label in labels))


@dataclass(frozen=True)
class Consistency:
    """What was found. ks, cvm, cvm_size_free: of all pairs; n_replicates, n_null: how many of each.

    The rest is by protein, (proteins,) each: proteins (their numbers), n_pairs, similarity and null_similarity (mean
    cosine of its pairs), auc (the chance that a pair is more alike than its null), p and p_adjusted: that as many rows
    of the same strata, whatever their protein, are as alike. counts: (proteins, 2, bins) for the interval of `ks`.
    """

    n_replicates: int
    n_null: int
    ks: float
    cvm: float
    cvm_size_free: float
    n_left_out: int
    n_draws: int
    proteins: np.ndarray
    n_pairs: np.ndarray
    similarity: np.ndarray
    null_similarity: np.ndarray
    auc: np.ndarray
    p: np.ndarray
    p_adjusted: np.ndarray
    counts: np.ndarray

    def observed_ks(self, names: Sequence[str]) -> Observed:
        """Return what the Kolmogorov-Smirnov statistic is made of, by protein; `names`: of the proteins."""
        return Observed(names, self.counts, np.array(names), ks_of_counts)


def measure(rows: Replicates, *, seed: int, n_null: int = N_NULL, n_draws: int = N_DRAWS) -> Consistency | None:
    """Hold the replicates against their matched null. Return None when no pair has one.

    Rows whose vector has a NaN or no length are left out, and so are pairs that no other protein can be put into.
    """
    usable = np.isfinite(rows.vectors).all(axis=1) & rows.vectors.any(axis=1)
    kept = rows if usable.all() else rows.of(usable)
    units = unit(np.asarray(kept.vectors, np.float32))
    pairs = replicate_pairs(kept, seed=seed)
    null, origin = null_pairs(kept, pairs, n_null=n_null, seed=seed)
    asked = np.unique(origin)
    if not len(asked):
        return None
    pairs, origin = pairs[asked], np.searchsorted(asked, origin)
    found, by_chance = cosines(units, pairs), cosines(units, null)
    apart = stats.ks_2samp(found, by_chance, method="asymp")
    statistic = float(stats.cramervonmises_2samp(found, by_chance, method="asymptotic").statistic)
    proteins, of_pair = np.unique(kept.proteins[pairs[:, 0]], return_inverse=True)
    similarity = mean_by(of_pair, found)
    p = permutation_p(similarity, means_by_chance(units, kept.strata, pairs, of_pair, n_draws=n_draws, seed=seed))
    higher = (found[origin] > by_chance) + 0.5 * (found[origin] == by_chance)
    return Consistency(
        n_replicates=len(found),
        n_null=len(by_chance),
        ks=float(apart.statistic),
        cvm=statistic,
        cvm_size_free=size_free(statistic, len(found), len(by_chance)),
        n_left_out=int((~usable).sum()),
        n_draws=n_draws,
        proteins=proteins,
        n_pairs=np.bincount(of_pair),
        similarity=similarity,
        null_similarity=mean_by(of_pair, mean_by(origin, by_chance)),
        auc=mean_by(of_pair, mean_by(origin, higher)),
        p=p,
        p_adjusted=adjusted(p),
        counts=binned(found, of_pair, by_chance, of_pair[origin], at=apart.statistic_location),
    )


def codes(*columns: Sequence[object]) -> np.ndarray:
    """Return a number for each row of some columns, the same where all of them are; None is a value like others."""
    numbers: dict[tuple[object, ...], int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in zip(*columns, strict=True)], np.int64)


def replicate_pairs(rows: Replicates, *, seed: int) -> np.ndarray:
    """Return the pairs (p, 2) of rows that are replicates of each other, each once."""
    rng = np.random.default_rng(seed)
    order = np.lexsort((rows.varied, rows.alike, rows.proteins))
    key = np.stack([rows.proteins[order], rows.alike[order]])
    starts = np.flatnonzero(np.r_[True, (key[:, 1:] != key[:, :-1]).any(axis=0)]) if len(order) else np.empty(0, int)
    found = [np.empty((0, 2), np.int64)]
    for own in np.split(order, starts[1:]):
        if len(own) > MOST_ROWS:
            own = np.sort(rng.choice(own, MOST_ROWS, replace=False))
        if len(own) > 1:
            found.append(own[all_pairs(len(own))])
    return np.concatenate(found)


@lru_cache
def all_pairs(n: int) -> np.ndarray:
    """Return the pairs (n (n - 1) / 2, 2) of n things."""
    return np.stack(np.triu_indices(n, 1), axis=1)


def null_pairs(rows: Replicates, pairs: np.ndarray, *, n_null: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return null pairs (q, 2), and of which of `pairs` (p, 2) each is (q,).

    Half of them keep the first row of the pair, half the second. There are `n_null` of each pair, at most `MOST_NULL`
    in all; fewer of one where no other protein of the stratum differs from the row that is kept.
    """
    half = max(1, min(n_null, MOST_NULL // max(len(pairs), 1)) // 2)
    kept = np.concatenate([pairs[:, 0], pairs[:, 1]])
    gone = np.concatenate([pairs[:, 1], pairs[:, 0]])
    askable = np.flatnonzero(n_candidates(rows, kept, rows.strata[gone]) > 0)
    which = np.repeat(askable, half)
    other = drawn_from_strata(rows, kept[which], rows.strata[gone[which]], rng=np.random.default_rng(seed))
    return np.stack([kept[which], other], axis=1), which % max(len(pairs), 1)


def n_candidates(rows: Replicates, kept: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Return how many rows of each of `strata` (q,) differ from row `kept` (q,) in protein and in what is varied."""
    nothing = np.zeros_like(rows.strata)
    both = rows.proteins * (rows.varied.max(initial=0) + 1) + rows.varied
    either = n_with(rows, rows.proteins, kept, strata) + n_with(rows, rows.varied, kept, strata)
    return n_with(rows, nothing, kept, strata) - either + n_with(rows, both, kept, strata)


def n_with(rows: Replicates, label: np.ndarray, kept: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Return how many rows of each of `strata` (q,) have the label of row `kept` (q,)."""
    _, label = np.unique(label, return_inverse=True)
    n_labels = label.max(initial=0) + 1
    values, counts = np.unique(rows.strata * n_labels + label, return_counts=True)
    asked = strata * n_labels + label[kept]
    at = np.minimum(np.searchsorted(values, asked), len(values) - 1)
    return np.where(values[at] == asked, counts[at], 0)


def drawn_from_strata(
    rows: Replicates, kept: np.ndarray, strata: np.ndarray, *, rng: np.random.Generator
) -> np.ndarray:
    """Return a random row of each of `strata` (q,) that differs from row `kept` (q,) in protein and in what is varied.

    Each must have one: it is drawn again until it does.
    """
    order = np.argsort(rows.strata, kind="stable")
    size = np.bincount(rows.strata, minlength=1)
    start = np.cumsum(size) - size
    found = np.empty(len(kept), np.int64)
    open_ = np.arange(len(kept))
    while len(open_):
        of = strata[open_]
        found[open_] = order[start[of] + (rng.random(len(open_)) * size[of]).astype(np.int64)]
        new, old = found[open_], kept[open_]
        open_ = open_[(rows.proteins[new] == rows.proteins[old]) | (rows.varied[new] == rows.varied[old])]
    return found


def cosines(units: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the cosine (p,) of each of `pairs` (p, 2) of rows of `units` (n, dim), which have length 1."""
    result = np.empty(len(pairs))
    for start in range(0, len(pairs), ROWS_AT_A_TIME):
        first, second = pairs[start : start + ROWS_AT_A_TIME].T
        result[start : start + len(first)] = np.einsum("ij,ij->i", units[first], units[second])
    return result


def mean_by(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the mean (groups,) of the values (n,) of each of `groups` (n,), numbers from 0 of which none lacks."""
    return np.bincount(groups, values) / np.bincount(groups)


def size_free(cvm: float, n: int, m: int) -> float:
    """Return a Cramér-von Mises statistic of n and m values divided by what it grows with, nm / (n + m)."""
    return cvm * (n + m) / (n * m)


def binned(found: np.ndarray, of_found: np.ndarray, null: np.ndarray, of_null: np.ndarray, *, at: float) -> np.ndarray:
    """Return how many values of each protein lie between quantiles of both distributions, (proteins, 2, bins).

    at: a value between two bins besides, where the distributions differ most.
    """
    inner = np.linspace(0, 1, N_BINS + 1)[1:-1]
    edges = np.unique(np.r_[np.quantile(found, inner), np.quantile(null, inner), at])
    counts = np.zeros((of_found.max() + 1, 2, len(edges) + 1), np.float32)
    for side, (values, of) in enumerate(((found, of_found), (null, of_null))):
        np.add.at(counts[:, side], (of, np.searchsorted(edges, values)), 1)
    return counts


def ks_of_counts(counts: np.ndarray, weights: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov statistic from counts (proteins, 2, bins), each as often as its weight says.

    It is looked at between bins, and so is exact where each counts once. Otherwise it may lie a little below: where the
    distributions differ most they are parallel.
    """
    both = np.tensordot(weights.astype(np.float32), counts, 1)  # (2, bins)
    total = both.sum(axis=1, keepdims=True)
    if not total.all():
        return float("nan")
    below = np.cumsum(both, axis=1) / total
    return float(np.abs(below[0] - below[1]).max())
