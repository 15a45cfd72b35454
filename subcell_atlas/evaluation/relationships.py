"""Relationships: how many of the pairs that a database relates are among the most alike, or the least, of all pairs.

The recall of known relationships of EFAAR_benchmarking (Celik et al., PLoS Comput Biol 2024), as "ViTally Consistent"
(Kenyon-Dean et al. 2024) uses it: the null are the cosines of all pairs of the map, related ones included; a pair q is
recalled when no more than `low` of the null are at most q, or at least `high` of it are below q. With 0.05 and 0.95
chance recalls a tenth. Chance is also shown: the same with the proteins' names permuted, the null as it was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import BadInput
from .intervals import INTERVAL

__all__ = ["Recall", "Thresholds", "find_thresholds", "measure_recall", "set_pairs"]


@dataclass(frozen=True)
class Thresholds:
    """A pair is recalled when its cosine is less than `low` or greater than `high`; n_null: pairs that they are of."""

    low: float
    high: float
    n_null: int


@dataclass(frozen=True)
class Recall:
    """How many pairs of a source are recalled: `recall`, of which below and above: `low_tail` + `high_tail`.

    tail: (m,) of each pair as given: -1 below, 1 above, 0 neither, NaN not used. pairs: that are used; genes: in them.
    chance: what is expected. permuted: mean with permuted names, with the ends of their 95 %; p: one-sided, that
    permuted names recall as much, counting what is observed as one of them. NaN without pairs or permutations.
    """

    recall: float
    low_tail: float
    high_tail: float
    pairs: int
    genes: int
    chance: float
    permuted: float
    permuted_low: float
    permuted_high: float
    p: float
    thresholds: Thresholds
    tail: np.ndarray


def measure_recall(
    vectors: np.ndarray,
    pairs: Mapping[str, np.ndarray],
    *,
    tails: tuple[float, float] = (0.05, 0.95),
    n_permutations: int = 100,
    seed: int,
) -> dict[str, Recall]:
    """Return the recall of each source's pairs.

    vectors: (n, dim), a row a protein, compared by cosine in the precision that they have. pairs: source -> (m, 2) rows
    of two different proteins each. Rows with NaN or infinity are left out, and pairs with them are not used; a row of
    zeros has the cosine 0 with every other, as in EFAAR_benchmarking. Memory grows with n².
    """
    check_pairs(pairs, n=len(vectors))
    usable = np.isfinite(vectors).all(axis=1)
    n = int(usable.sum())
    if n < 2:
        raise BadInput(f"Pairs take two proteins with vectors of finite numbers; {n} of {len(vectors)} are.")
    row_of = np.where(usable, np.cumsum(usable) - 1, -1)
    at = {source: row_of[np.reshape(own, (-1, 2)).astype(np.intp)] for source, own in pairs.items()}
    tail_of, thresholds = tails_of_all(vectors[usable], tails)
    used = {source: own[(own >= 0).all(axis=1)] for source, own in at.items()}
    rng = np.random.default_rng(seed)
    permuted = {source: np.empty(n_permutations) for source in pairs}
    for number in range(n_permutations):
        names = rng.permutation(n)
        for source, own in used.items():
            permuted[source][number] = share(tail_of[names[own[:, 0]], names[own[:, 1]]] != 0)
    return {
        source: summarize(
            np.where((own >= 0).all(axis=1), tail_of[own[:, 0], own[:, 1]].astype(np.float32), np.nan),
            permuted[source],
            thresholds,
            chance=expected(tails),
            genes=len(np.unique(used[source])),
        )
        for source, own in at.items()
    }


def check_pairs(pairs: Mapping[str, np.ndarray], *, n: int) -> None:
    """Raise BadInput when pairs do not name two different rows each."""
    for source, own in pairs.items():
        rows = np.asarray(own)
        if rows.size and (rows.ndim != 2 or rows.shape[1] != 2):
            raise BadInput(f"The pairs of {source!r} are {rows.shape}; expected (pairs, 2).")
        if rows.size and (rows.min() < 0 or rows.max() >= n):
            raise BadInput(f"The pairs of {source!r} name rows that are not there; there are {n}.")
        if rows.size and (rows[:, 0] == rows[:, 1]).any():
            raise BadInput(f"A pair of {source!r} is a protein with itself; leave such pairs out.")


def expected(tails: tuple[float, float]) -> float:
    """Return the share of all pairs that two tails hold."""
    return min(tails) + 1 - max(tails)


def tails_of_all(vectors: np.ndarray, tails: tuple[float, float]) -> tuple[np.ndarray, Thresholds]:
    """Return in which tail each pair of rows is, (n, n) int8 of -1, 0 and 1, and where the tails begin."""
    from sklearn.metrics.pairwise import cosine_similarity

    cosines = cosine_similarity(vectors)  # (n, n)
    thresholds = find_thresholds(upper_triangle(cosines), tails)
    tail_of = np.empty(cosines.shape, np.int8)
    for row, own in enumerate(cosines):
        np.subtract(own > thresholds.high, own < thresholds.low, out=tail_of[row], dtype=np.int8)
    return tail_of, thresholds


def upper_triangle(matrix: np.ndarray) -> np.ndarray:
    """Return what is above the diagonal, row after row, without the indices that NumPy would make."""
    n = len(matrix)
    values = np.empty(n * (n - 1) // 2, matrix.dtype)
    start = 0
    for row in range(n - 1):
        values[start : start + n - 1 - row] = matrix[row, row + 1 :]
        start += n - 1 - row
    return values


def find_thresholds(null: np.ndarray, tails: tuple[float, float]) -> Thresholds:
    """Return where the tails of `null` (N,) begin, which is put into another order; its values are finite.

    Of q the share of the null that is at most q is counted / N, and counted <= k means that q is less than the k-th
    value, counted from 0. So two values of the null decide exactly, ties included.
    """
    low, high = min(tails), max(tails)
    if not 0 <= low < high <= 1:
        raise BadInput(f"Tails are two ranks between 0 and 1, such as 0.05 and 0.95; got {low:g} and {high:g}.")
    if not len(null):
        raise BadInput("There is no pair to compare with.")
    at_low = most_at_most(low, len(null))
    at_high = fewest_at_least(high, len(null)) - 1
    null.partition((at_low, at_high))
    return Thresholds(float(null[at_low]), float(null[at_high]), len(null))


def most_at_most(rank: float, n: int) -> int:
    """Return the greatest k with k / n <= rank, as floating point numbers divide."""
    k = math.floor(rank * n)
    while (k + 1) / n <= rank:
        k += 1
    while k / n > rank:
        k -= 1
    return k


def fewest_at_least(rank: float, n: int) -> int:
    """Return the least k with k / n >= rank, as floating point numbers divide."""
    k = math.ceil(rank * n)
    while (k - 1) / n >= rank:
        k -= 1
    while k / n < rank:
        k += 1
    return k


def summarize(tail: np.ndarray, permuted: np.ndarray, thresholds: Thresholds, *, chance: float, genes: int) -> Recall:
    """Return the recall of pairs whose tails (m,) are known, beside that of permuted names (permutations,)."""
    known = tail[~np.isnan(tail)]
    recall = share(known != 0)
    told = permuted if len(known) and len(permuted) else np.array([np.nan])
    ends = np.quantile(told, INTERVAL)
    p = (1 + int((permuted >= recall).sum())) / (1 + len(permuted)) if np.isfinite(told).all() else float("nan")
    return Recall(
        recall=recall,
        low_tail=share(known < 0),
        high_tail=share(known > 0),
        pairs=len(known),
        genes=genes,
        chance=chance,
        permuted=float(told.mean()),
        permuted_low=float(ends[0]),
        permuted_high=float(ends[1]),
        p=p,
        thresholds=thresholds,
        tail=tail,
    )


def share(is_so: np.ndarray) -> float:
    """Return how large a part of some is so; NaN of none."""
    return int(is_so.sum()) / len(is_so) if len(is_so) else float("nan")


def set_pairs(sets: Mapping[str, np.ndarray], *, most: int) -> np.ndarray:
    """Return the pairs of rows that are in a set together, (m, 2), the lesser first, each once and in order.

    sets: name -> rows, each once. Sets of more than `most` members are left out, and of fewer than two have no pairs.
    """
    members = [np.sort(own) for own in sets.values() if 2 <= len(own) <= most]
    found = [np.stack([own[at] for at in np.triu_indices(len(own), k=1)], axis=1) for own in members]
    return np.unique(np.concatenate(found), axis=0) if found else np.empty((0, 2), np.intp)
