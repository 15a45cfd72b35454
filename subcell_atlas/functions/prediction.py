"""Prediction of functions from vectors: which proteins have which terms, with probabilities that mean what they say.

Two predictors behind one interface. `LinearPredictor`: ridge regression of all terms at once, a penalty for each block
of features; `NeighborPredictor`: the terms of the nearest proteins, weighted by likeness. Both choose their settings
and learn their calibration by splitting the training proteins once more; those that are scored have no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import numpy as np
from scipy import sparse
from scipy.linalg import blas, cho_factor, cho_solve

from ..errors import BadInput
from ..ranking import average_precisions, unit
from .calibration import Calibration
from .features import Expansion
from .splits import make_folds

__all__ = [
    "MODELS",
    "PREDICTORS",
    "FunctionModel",
    "LinearPredictor",
    "NeighborPredictor",
    "Predictor",
    "cross_validate",
]

N_INNER = 3  # parts of the training proteins, each of which is held out once to choose settings and to calibrate
PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
FACTORS = (0.25, 4.0)  # by which a block's penalty may differ from the common one, and how often in turn:
MOST_FACTORS = 3
MANY_ROWS = 5000  # from here on penalties are compared on one part alone
TERMS_TRIED = 128  # penalties are compared on at most so many terms
NEIGHBORS = (5, 10, 20, 40)
ROWS_AT_A_TIME = 1024


class FunctionModel(Protocol):
    """A predictor that has seen its training proteins."""

    def probabilities(self, blocks: Sequence[np.ndarray]) -> np.ndarray:
        """Return (n, T) for blocks of vectors (n, d), one a modality."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the model as arrays, for its `of_arrays`."""


class Predictor(Protocol):
    """A way to learn terms from vectors."""

    def fit(self, blocks: Sequence[np.ndarray], truth: np.ndarray, groups: np.ndarray, *, seed: int) -> FunctionModel:
        """Learn from blocks (n, d), one a modality, and truth (n, T) bool.

        groups: (n,) proteins of one group are never on both sides of a split. Raise BadInput for fewer than three.
        """


def cross_validate(
    predictor: Predictor, blocks: Sequence[np.ndarray], truth: np.ndarray, *, folds: np.ndarray, groups: np.ndarray,
    seed: int,
) -> np.ndarray:  # fmt: skip
    """Return probabilities (n, T) float32, each from a model that has not seen the protein's fold.

    folds: (n,) int. A term without a member in some training part gets about 0 there.
    """
    found = np.empty(truth.shape, np.float32)
    for fold in np.unique(folds):
        out = folds == fold
        model = predictor.fit([block[~out] for block in blocks], truth[~out], groups[~out], seed=seed)
        found[out] = model.probabilities([block[out] for block in blocks])
    return found


@dataclass(frozen=True)
class LinearModel:
    """Ridge regression on an expansion of the vectors, calibrated. weights: (width, T), means: (T,)."""

    expansion: Expansion
    weights: np.ndarray
    means: np.ndarray
    calibration: Calibration
    penalties: tuple[float, ...]  # of each block of features

    def probabilities(self, blocks: Sequence[np.ndarray]) -> np.ndarray:
        """Return (n, T) for blocks of vectors (n, d), one a modality."""
        return self.calibration(self.expansion(blocks) @ self.weights + self.means)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the model as arrays, for `of_arrays`."""
        own = {"weights": self.weights, "means": self.means, "penalties": np.array(self.penalties)}
        return {**own, **self.expansion.arrays(), **self.calibration.arrays()}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> LinearModel:
        """Make it of what `arrays` returned."""
        expansion, calibration = Expansion.of_arrays(arrays), Calibration.of_arrays(arrays)
        return cls(expansion, arrays["weights"], arrays["means"], calibration, tuple(arrays["penalties"].tolist()))


@dataclass(frozen=True)
class LinearPredictor:
    """Ridge regression. `products`: with the products of two modalities (see `features`)."""

    products: bool = True

    def fit(self, blocks: Sequence[np.ndarray], truth: np.ndarray, groups: np.ndarray, *, seed: int) -> LinearModel:
        """Learn from blocks (n, d), one a modality, and truth (n, T) bool."""
        parts = inner_parts(groups, seed=seed)
        products = self.products and len(blocks) > 1
        held = [Held.out(blocks, truth, parts == part, products=products) for part in range(N_INNER)]
        penalties = choose_penalties(held, truth, seed=seed)
        scores = np.empty(truth.shape, np.float32)
        for part in held:
            scores[part.rows] = part.scores(penalties)
        calibration = Calibration.fit(scores, truth)
        del held, scores  # the largest things here
        ridge = Ridge.of(blocks, truth, products=products)
        return LinearModel(ridge.expansion, ridge.solve(penalties), ridge.means, calibration, penalties)


@dataclass(frozen=True)
class Ridge:
    """The normal equations of ridge regression. gram: (width, width), lower half; target: (width, T); means: (T,)."""

    expansion: Expansion
    gram: np.ndarray
    target: np.ndarray
    means: np.ndarray

    @classmethod
    def of(cls, blocks: Sequence[np.ndarray], truth: np.ndarray, *, products: bool) -> Ridge:
        """Set them up for blocks (n, d) and truth (n, T) bool of training proteins."""
        expansion = Expansion.fit(blocks, truth, products=products)
        features = expansion(blocks)
        means = truth.mean(axis=0, dtype=np.float32)
        return cls(expansion, blas.ssyrk(1.0, features.T, lower=1), features.T @ (truth - means), means)

    def solve(self, penalties: Sequence[float], terms: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return the weights (width, T) of some terms; `penalties`: one for each block of features."""
        gram = self.gram.copy(order="F")
        gram[np.diag_indices_from(gram)] += np.repeat(np.array(penalties, np.float32), self.expansion.widths)
        factor = cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
        return cho_solve(factor, self.target[:, terms], check_finite=False)


@dataclass(frozen=True)
class Held:
    """A part of the training proteins, and the equations of all others. rows: (n,) bool; features: of the part."""

    rows: np.ndarray
    features: np.ndarray
    ridge: Ridge

    @classmethod
    def out(cls, blocks: Sequence[np.ndarray], truth: np.ndarray, rows: np.ndarray, *, products: bool) -> Held:
        """Hold some rows out."""
        ridge = Ridge.of([block[~rows] for block in blocks], truth[~rows], products=products)
        return cls(rows, ridge.expansion([block[rows] for block in blocks]), ridge)

    def scores(self, penalties: Sequence[float], terms: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return the scores (rows, T) of the part."""
        return self.features @ self.ridge.solve(penalties, terms) + self.ridge.means[terms]


def choose_penalties(held: Sequence[Held], truth: np.ndarray, *, seed: int) -> tuple[float, ...]:
    """Return a penalty for each block.

    The common one of `PENALTIES` that ranks held out proteins best, looked for from the middle on; then for each block
    but the first a smaller or a larger one, as long as that is better still.
    """
    terms = np.sort(np.random.default_rng(seed).permutation(truth.shape[1])[:TERMS_TRIED])
    parts = held if len(truth) < MANY_ROWS else held[:1]
    told = np.concatenate([truth[part.rows][:, terms] for part in parts])

    @cache
    def quality(penalties: tuple[float, ...]) -> float:
        return mean_average_precision(told, np.concatenate([part.scores(penalties, terms) for part in parts]))

    n_blocks = len(held[0].ridge.expansion.widths)
    even = [(penalty,) * n_blocks for penalty in PENALTIES]
    at = len(even) // 2
    for step in (1, -1):
        while 0 <= at + step < len(even) and quality(even[at + step]) > quality(even[at]):
            at += step
    best = even[at]
    for block in range(1, n_blocks):
        for factor in FACTORS:
            common = best[block]
            for power in range(1, MOST_FACTORS + 1):
                other = (*best[:block], common * factor**power, *best[block + 1 :])
                if quality(other) <= quality(best):
                    break
                best = other
    return best


@dataclass(frozen=True)
class NeighborModel:
    """The terms of the `k` nearest training proteins, weighted by likeness, calibrated.

    units: (n, width) float16, of length 1; truth: (n, T) bool.
    """

    expansion: Expansion
    units: np.ndarray
    truth: np.ndarray
    k: int
    calibration: Calibration

    def probabilities(self, blocks: Sequence[np.ndarray]) -> np.ndarray:
        """Return (n, T) for blocks of vectors (n, d), one a modality."""
        near = nearest(unit(self.expansion(blocks)), self.units.astype(np.float32), self.k)
        return self.calibration(votes(*near, self.truth))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the model as arrays, for `of_arrays`."""
        own = {"units": self.units, "truth": self.truth, "k": np.array(self.k)}
        return {**own, **self.expansion.arrays(), **self.calibration.arrays()}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> NeighborModel:
        """Make it of what `arrays` returned."""
        expansion, calibration = Expansion.of_arrays(arrays), Calibration.of_arrays(arrays)
        return cls(expansion, arrays["units"], arrays["truth"], int(arrays["k"]), calibration)


@dataclass(frozen=True)
class NeighborPredictor:
    """Nearest neighbors by the cosine of the standardized vectors; how many is chosen from `NEIGHBORS`."""

    def fit(self, blocks: Sequence[np.ndarray], truth: np.ndarray, groups: np.ndarray, *, seed: int) -> NeighborModel:
        """Learn from blocks (n, d), one a modality, and truth (n, T) bool."""
        expansion = Expansion.fit(blocks, truth, products=False)
        units = unit(expansion(blocks)).astype(np.float16)
        parts = inner_parts(groups, seed=seed)
        scores = {k: np.empty(truth.shape, np.float32) for k in NEIGHBORS}
        for part in range(N_INNER):
            out = parts == part
            found, likeness = nearest(units[out].astype(np.float32), units[~out].astype(np.float32), NEIGHBORS[-1])
            for k in NEIGHBORS:
                scores[k][out] = votes(found[:, :k], likeness[:, :k], truth[~out])
        best = max(NEIGHBORS, key=lambda k: mean_average_precision(truth, scores[k]))
        return NeighborModel(expansion, units, truth, best, Calibration.fit(scores[best], truth))


def inner_parts(groups: np.ndarray, *, seed: int) -> np.ndarray:
    """Return the part (n,) of `N_INNER` in which each training protein is held out."""
    n = len(np.unique(groups))
    if n < N_INNER:
        raise BadInput(f"Predictors hold out {N_INNER} parts of the proteins they learn from; these are of {n} groups.")
    return make_folds(groups, N_INNER, seed=seed)


def nearest(queries: np.ndarray, units: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows (m, k) of `units` that are most like each query, best first, and their cosines (m, k)."""
    k = min(k, len(units))
    found, likeness = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries), ROWS_AT_A_TIME):
        part = slice(start, start + ROWS_AT_A_TIME)
        cosines = queries[part] @ units.T
        best = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(cosines, best, axis=1), axis=1, kind="stable")
        found[part] = np.take_along_axis(best, order, axis=1)
        likeness[part] = np.take_along_axis(cosines, found[part], axis=1)
    return found, likeness


def votes(found: np.ndarray, likeness: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the share (m, T) of the likeness to neighbors that is to members of each term."""
    weights = np.maximum(likeness, 0) + 1e-6
    rows = np.repeat(np.arange(len(found)), found.shape[1])
    matrix = sparse.csr_matrix(
        ((weights / weights.sum(axis=1, keepdims=True)).ravel(), (rows, found.ravel())), (len(found), len(truth))
    )
    return np.asarray((matrix @ sparse.csr_matrix(truth.astype(np.float32))).todense(), np.float32)


def mean_average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """Return the mean over terms of the average precision of scores (n, T); terms without a member are left out."""
    ranked = np.take_along_axis(truth, np.argsort(-scores, axis=0, kind="stable"), axis=0)
    found = average_precisions(ranked.T)
    known = np.isfinite(found)
    return float(found[known].mean()) if known.any() else 0.0


PREDICTORS: dict[str, Predictor] = {"linear": LinearPredictor(), "neighbors": NeighborPredictor()}
MODELS: dict[str, type[LinearModel] | type[NeighborModel]] = {"linear": LinearModel, "neighbors": NeighborModel}
