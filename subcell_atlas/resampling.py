"""Protein vectors as other draws of the same cells give them: what of a map depends on which cells were imaged.

Each cell counts as often as a Poisson variable of mean 1 says, which is the bootstrap for many cells. The draws follow
from the cells' ids, so that they are the same however the table is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from scipy import sparse
from scipy.stats import poisson

from .profiles import vectors_of

__all__ = ["DRAW_COLUMNS", "CellDraws"]

DRAW_COLUMNS = ("cell_id", "protein_id", "antibody", "cell_line", "condition", "embedding")
MOST_OFTEN = 12  # that a cell is drawn; more has a chance of 1e-10


@dataclass
class CellDraws:
    """Sums over drawn cells, added batch by batch.

    rows: protein -> its row in what `vectors` returns. shifts: profile_id -> what is added (k,) to its cells, once they
    are projected (n, dim) -> (n, k), as its batches were corrected. cell_line: only cells of this one, when given.
    """

    rows: Mapping[str, int]
    shifts: Mapping[str, np.ndarray]
    n_draws: int
    seed: int
    cell_line: str | None = None
    project: Callable[[np.ndarray], np.ndarray] = np.asarray
    sums: list[np.ndarray] = field(default_factory=list)
    counts: np.ndarray | None = None

    def add(self, cells: pa.RecordBatch | pa.Table) -> None:
        """Add cells with the columns of `DRAW_COLUMNS`; those of other proteins or cell lines are left out."""
        names = [cells[name].to_pylist() for name in ("protein_id", "antibody", "cell_line", "condition")]
        profiles = ["|".join(part or "" for part in key) for key in zip(*names, strict=True)]
        used = [
            i
            for i, (protein, line, profile) in enumerate(zip(names[0], names[2], profiles, strict=True))
            if protein in self.rows and profile in self.shifts and self.cell_line in (None, line)
        ]
        if not used:
            return
        projected = self.project(vectors_of(cells["embedding"])[used])
        vectors = projected + np.stack([self.shifts[profiles[i]] for i in used])
        at = [self.rows[names[0][i]] for i in used]
        drawn = times_drawn([cells["cell_id"][i].as_py() for i in used], self.n_draws, seed=self.seed)
        if self.counts is None:
            self.sums = [np.zeros((len(self.rows), vectors.shape[1]), np.float32) for _ in range(self.n_draws)]
            self.counts = np.zeros((self.n_draws, len(self.rows)))
        for number, times in enumerate(drawn):
            weights = sparse.csr_matrix((times, (at, range(len(at)))), shape=(len(self.rows), len(at)))
            self.sums[number] += weights @ vectors
            self.counts[number] += np.asarray(weights.sum(axis=1)).ravel()

    def vectors(self, number: int, otherwise: np.ndarray) -> np.ndarray:
        """Return the means (n, dim) of one draw; a protein without a drawn cell keeps its row of `otherwise`."""
        if self.counts is None:
            return otherwise
        counts = self.counts[number][:, None]
        means = self.sums[number] / np.maximum(counts, 1).astype(np.float32)
        usable = (counts > 0) & means.any(axis=1, keepdims=True)
        return np.where(usable, means, otherwise)


def times_drawn(cell_ids: Sequence[str], n_draws: int, *, seed: int) -> np.ndarray:
    """Return how often each cell is in each draw, (n_draws, cells) float32."""
    from pandas.util import hash_array

    own = hash_array(np.array(cell_ids, object))
    at_most = poisson.cdf(np.arange(MOST_OFTEN), 1)
    return np.stack([np.searchsorted(at_most, uniform(own, [seed, draw])) for draw in range(n_draws)]).astype(
        np.float32
    )


def uniform(own: np.ndarray, key: Sequence[int]) -> np.ndarray:
    """Return a number in [0, 1) for each of `own` (n,) uint64, another for another key: SplitMix64 of their sum."""
    shift = np.random.default_rng(key).integers(0, 2**63, dtype=np.uint64)
    mixed = own + shift
    for right, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(right))) * np.uint64(factor)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) / 2.0**53
