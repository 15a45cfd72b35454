"""From the vectors of one modality or two to what a linear model sees of them.

Each modality is a block: standardized number by number, and divided by the root of its length, so that a modality of
1,536 numbers weighs no more than one of 480. Two modalities have a third block, the products of a few directions of
either: a linear model of the two alone cannot say "in this place and of this family". The directions are those along
which a modality alone tells most of the terms, every term weighing the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import eigh

__all__ = ["Expansion", "Standard"]

LISTS = ("means", "scales", "axes")
N_AXES = 32  # of each modality, whose products are taken
MOST_AIMS = 512  # more terms are mixed into so many aims, by which their common directions are found as well
AXES_PENALTY = np.float32(30)  # of the ridge regression that tells them


@dataclass(frozen=True)
class Standard:
    """What is taken from each number of a modality, and what it is then divided by, (d,) each."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, block: np.ndarray) -> Standard:
        """Learn it from the vectors (n, d) of training proteins."""
        return cls(block.mean(axis=0, dtype=np.float64).astype(np.float32), scale_of(block))

    def __call__(self, block: np.ndarray) -> np.ndarray:
        """Return (n, d) float32; the variances of the training proteins' columns add up to 1."""
        return ((block - self.mean) / self.scale).astype(np.float32, copy=False)

    def restored(self, standard: np.ndarray) -> np.ndarray:
        """Return standardized vectors (n, d) in the units that the modality had."""
        return standard * np.where(np.isfinite(self.scale), self.scale, 0) + self.mean


@dataclass(frozen=True)
class Expansion:
    """What was learned from training rows alone: means and scales, and directions where products are taken.

    means, scales: (d,) of each modality; axes: (d, k) of each, empty without products; center: (k × k,) mean of the
    products, spread: one number, by which all are divided for their variances to add up to 1.
    """

    means: tuple[np.ndarray, ...]
    scales: tuple[np.ndarray, ...]
    axes: tuple[np.ndarray, ...] = ()
    center: np.ndarray | None = None
    spread: np.ndarray | None = None

    @classmethod
    def fit(cls, blocks: Sequence[np.ndarray], truth: np.ndarray, *, products: bool) -> Expansion:
        """Learn it from blocks (n, d) and truth (n, T) of training proteins; `products` needs two blocks."""
        standards = [Standard.fit(block) for block in blocks]
        found = cls(tuple(own.mean for own in standards), tuple(own.scale for own in standards))
        if not products:
            return found
        standard = found.standardized(blocks)
        found = replace(found, axes=tuple(telling_axes(block, truth) for block in standard))
        crossed = found.crossed(standard)
        center = crossed.mean(axis=0)
        spread = np.sqrt(np.mean((crossed - center) ** 2) * crossed.shape[1])
        return replace(found, center=center, spread=np.maximum(spread, 1e-12))

    def __call__(self, blocks: Sequence[np.ndarray]) -> np.ndarray:
        """Return (n, width) float32."""
        standard = self.standardized(blocks)
        if not self.axes:
            return np.hstack(standard)
        return np.hstack([*standard, (self.crossed(standard) - self.center) / self.spread])

    def arrays(self) -> dict[str, np.ndarray]:
        """Return it as arrays, for `of_arrays`."""
        found = {f"{name}_{i}": value for name in LISTS for i, value in enumerate(getattr(self, name))}
        if self.center is not None and self.spread is not None:
            found |= {"center": self.center, "spread": self.spread}
        return found

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Expansion:
        """Make it of what `arrays` returned; others among them are left alone."""
        lists = {name: tuple(arrays[f"{name}_{i}"] for i in range(2) if f"{name}_{i}" in arrays) for name in LISTS}
        return cls(**lists, center=arrays.get("center"), spread=arrays.get("spread"))

    @property
    def widths(self) -> tuple[int, ...]:
        """How many columns each block of features has."""
        own = tuple(len(mean) for mean in self.means)
        return (*own, len(self.center)) if self.center is not None else own

    def standardized(self, blocks: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return each modality standardized, (n, d); the variances of its columns add up to 1."""
        standards = map(Standard, self.means, self.scales)
        return [standard(block) for standard, block in zip(standards, blocks, strict=True)]

    def crossed(self, standard: Sequence[np.ndarray]) -> np.ndarray:
        """Return every product of a direction of the first modality with one of the second, (n, k × k)."""
        first, second = (block @ axes for block, axes in zip(standard, self.axes, strict=True))
        return (first[:, :, None] * second[:, None, :]).reshape(len(first), -1)  # (n, k * k)


def scale_of(block: np.ndarray) -> np.ndarray:
    """Return what each column is divided by; a column that does not vary becomes 0."""
    deviation = block.std(axis=0, dtype=np.float64)
    varies = deviation > 1e-6 * max(float(deviation.max(initial=0.0)), 1e-30)
    scale = np.where(varies, deviation, np.inf) * np.sqrt(max(int(varies.sum()), 1))
    return scale.astype(np.float32)


def telling_axes(block: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the directions (d, k) of a standardized block along which ridge regression of all terms varies most."""
    deviation = np.maximum(truth.std(axis=0), 1e-6).astype(np.float32)
    aims = mixed((truth - truth.mean(axis=0, dtype=np.float32)) / deviation)
    gram = block.T @ block
    gram[np.diag_indices_from(gram)] += AXES_PENALTY
    weights = np.linalg.solve(gram, block.T @ aims)  # (d, T)
    told = block @ weights
    n = told.shape[1]
    _, directions = eigh(told.T @ told, subset_by_index=(max(n - N_AXES, 0), n - 1))
    return weights @ directions


def mixed(aims: np.ndarray) -> np.ndarray:
    """Return aims (n, T) as `MOST_AIMS` random mixtures of them at most, which vary along the same directions."""
    if aims.shape[1] <= MOST_AIMS:
        return aims
    mixtures = np.random.default_rng(0).standard_normal((aims.shape[1], MOST_AIMS), np.float32)
    return aims @ (mixtures / np.float32(np.sqrt(MOST_AIMS)))
