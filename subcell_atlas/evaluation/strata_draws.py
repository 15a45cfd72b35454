"""How alike rows would be if labels meant nothing: rows drawn from the same strata, whatever they are of.

For each set of rows, as many are drawn from the same strata without return: the set's own may be among them, as in any
permutation of labels, so that the p-values hold however small a stratum is. Of a stratum with very many rows a random
part is drawn from, and the similarities of what may be drawn are computed once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

__all__ = ["means_by_chance"]

MOST_OF_STRATUM = 256  # rows that are drawn among
FEWEST_OF_STRATUM = 32  # the same where many strata hang together; no set has more rows of one stratum
MOST_TOGETHER = 8192  # rows whose similarities are held at once, 0.3 GB
VALUES_AT_A_TIME = 2**23


@dataclass(frozen=True)
class Pool:
    """Rows that may be drawn, stratum after stratum; start, size (strata,): where each stratum lies."""

    rows: np.ndarray
    start: np.ndarray
    size: np.ndarray

    def draw(self, strata: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
        """Return the place in the pool of a random row of each of `strata` (r,), `n` times: (r, n)."""
        return self.again(np.repeat(strata[:, None], n, axis=1), rng)

    def again(self, strata: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the place of one random row of each of `strata`, of any shape."""
        return self.start[strata] + (rng.random(strata.shape) * self.size[strata]).astype(np.int64)


def means_by_chance(
    units: np.ndarray, strata: np.ndarray, pairs: np.ndarray, of_pair: np.ndarray, *, n_draws: int, seed: int
) -> np.ndarray:
    """Return the mean cosine (groups, n_draws) of the pairs of each group with other rows of their strata.

    units: (n, dim) of length 1; strata: (n,) numbers; pairs: (p, 2) rows; of_pair: (p,) the group of each, from 0.
    Pairs that share a row share what is drawn in its place.
    """
    rng = np.random.default_rng(seed)
    sums = np.zeros((int(of_pair.max()) + 1, n_draws), np.float32)
    order = np.argsort(of_pair, kind="stable")
    ordered, group = pairs[order], of_pair[order]
    by_stratum = np.argsort(strata, kind="stable")
    size = np.bincount(strata)
    start = np.cumsum(size) - size
    for chosen, most in linked(strata, ordered):
        own, places = np.unique(ordered[chosen], return_inverse=True)
        there, of_own = np.unique(strata[own], return_inverse=True)
        pool = make_pool([by_stratum[start[s] : start[s] + size[s]] for s in there], most, rng)
        groups, starts = np.unique(group[chosen], return_index=True)
        places = places.reshape(-1, 2)
        step = max(1, VALUES_AT_A_TIME // len(chosen))
        drawn = units[pool.rows]
        gram = drawn @ drawn.T
        for first in range(0, n_draws, step):
            told = draw_pairs(pool, gram, of_own, places, min(step, n_draws - first), rng)
            sums[groups, first : first + step] += np.add.reduceat(told, starts, axis=0)
    return sums / np.bincount(of_pair)[:, None]


def make_pool(rows: list[np.ndarray], most: int, rng: np.random.Generator) -> Pool:
    """Return the rows of some strata, of each at most `most`, at random."""
    kept = [rng.choice(own, most, replace=False) if len(own) > most else own for own in rows]
    size = np.array([len(own) for own in kept])
    return Pool(np.concatenate(kept), np.cumsum(size) - size, size)


def draw_pairs(
    pool: Pool, gram: np.ndarray, strata: np.ndarray, places: np.ndarray, n: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the similarity (p, n) of what is drawn in the places of pairs (p, 2); strata: (r,) of each place.

    No row is drawn twice for two places of a pair: the second is drawn again until it is another.
    """
    picks = pool.draw(strata, n, rng)
    a, b = places[strata[places[:, 0]] == strata[places[:, 1]]].T
    while len(a):
        pair, draw = np.nonzero(picks[a] == picks[b])
        if not len(pair):
            break
        picks[b[pair], draw] = pool.again(strata[b[pair]], rng)
    first, second = places.T
    return gram.ravel().take(picks[first] * len(gram) + picks[second])


def linked(strata: np.ndarray, pairs: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Yield numbers of pairs that are drawn together, and how many rows of a stratum are drawn among.

    Together are all pairs whose strata hang together; where those are too many, the sets of the very same strata.
    """
    for chosen in parts(components(strata[pairs])):
        most = MOST_TOGETHER // len(np.unique(strata[pairs[chosen]]))
        if most >= FEWEST_OF_STRATUM:
            yield chosen, min(most, MOST_OF_STRATUM)
            continue
        for same in parts(patterns(strata, pairs[chosen])):
            yield chosen[same], FEWEST_OF_STRATUM


def components(edges: np.ndarray) -> np.ndarray:
    """Return for each of `edges` (p, 2) the number of the connected component that it is of."""
    n = int(edges.max()) + 1
    links = sparse.coo_matrix((np.ones(len(edges), np.int8), tuple(edges.T)), shape=(n, n))
    return connected_components(links, directed=False)[1][edges[:, 0]]


def patterns(strata: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return for each of `pairs` (p, 2) a number, the same for those whose sets of rows are of the same strata."""
    of_pair = components(pairs)
    numbers: dict[tuple[int, ...], int] = {}
    result = np.empty(len(pairs), np.int64)
    for own in parts(of_pair):
        result[own] = numbers.setdefault(tuple(np.unique(strata[pairs[own]]).tolist()), len(numbers))
    return result


def parts(labels: np.ndarray) -> list[np.ndarray]:
    """Return where each label is, in ascending order."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
