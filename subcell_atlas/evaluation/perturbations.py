"""Do perturbations change what is seen, and do their replicates agree in how? Magnitude and consistency.

Magnitude is the energy distance 2E|X - Y| - E|X - X'| - E|Y - Y'| (Székely & Rizzo 2013) between the rows of a
perturbation and its controls, with Euclidean norms: the square of `scipy.stats.energy_distance`, twice the loss
"energy" of geomloss. Consistency is the mean cosine of pairs of its rows, each less the mean of the controls of its
stratum (Celik et al. 2024).

For both, labels are permuted within strata (cell line, plate), and the rows of the controls' mean with them: rows that
are all held against the same few controls look alike by that alone. What has too few rows is not asked: NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from math import comb, prod

import numpy as np

from .chance import adjusted, permutation_p

__all__ = [
    "Comparison",
    "Perturbations",
    "compare_with_controls",
    "energy_distance",
    "is_asked",
    "measure",
    "n_labellings",
]

N_PERMUTATIONS = 1000
FEWEST_ROWS = 2  # of a perturbation, and of its controls
FEWEST_LABELLINGS = 20  # with fewer no p-value could be 0.05
MOST_ROWS = 50  # of a perturbation; of more, so many are chosen at random
MOST_CONTROLS = 100  # the same, over all strata
VALUES_AT_A_TIME = 2**22


@dataclass(frozen=True)
class Comparison:
    """The rows of a perturbation and of its controls; strata: (treated,) and (controls,), where each of them is from.

    Every stratum of a treated row has a control.
    """

    treated: np.ndarray
    controls: np.ndarray
    treated_strata: np.ndarray
    control_strata: np.ndarray


@dataclass(frozen=True)
class Perturbations:
    """What was found of each perturbation, (n,) each; NaN where it was not asked.

    magnitude: energy distance, in the unit of the vectors; coefficient: the same over 2E|X - Y|, 0 to 1, which does not
    depend on the unit. null_coefficient, null_consistency: the mean of what permuted labels give; the fewer the rows,
    the more.
    """

    magnitude: np.ndarray
    coefficient: np.ndarray
    null_coefficient: np.ndarray
    magnitude_p: np.ndarray
    magnitude_p_adjusted: np.ndarray
    consistency: np.ndarray
    null_consistency: np.ndarray
    consistency_p: np.ndarray
    consistency_p_adjusted: np.ndarray


@dataclass(frozen=True)
class One:
    """What was found of one perturbation, as in `Perturbations`."""

    magnitude: float = np.nan
    coefficient: float = np.nan
    null_coefficient: float = np.nan
    magnitude_p: float = np.nan
    consistency: float = np.nan
    null_consistency: float = np.nan
    consistency_p: float = np.nan


def measure(
    vectors: np.ndarray, comparisons: Sequence[Comparison], *, seed: int, n_permutations: int = N_PERMUTATIONS
) -> Perturbations:
    """Hold the rows of `vectors` (n, dim) of each perturbation against its controls; rows with a NaN are left out."""
    usable = np.isfinite(vectors).all(axis=1)
    found = []
    for number, given in enumerate(comparisons):
        own = chosen(given, usable, rng=np.random.default_rng([seed, number]))
        if is_asked(own):
            found.append(compare_with_controls(vectors, own, seed=seed, n_permutations=n_permutations))
        else:
            found.append(One())
    columns = {field.name: np.array([getattr(one, field.name) for one in found], float) for field in fields(One)}
    corrected = {f"{name}_adjusted": adjusted(columns[name]) for name in ("magnitude_p", "consistency_p")}
    return Perturbations(**columns, **corrected)


def chosen(given: Comparison, usable: np.ndarray, *, rng: np.random.Generator) -> Comparison:
    """Return a comparison of rows that are usable, sorted by stratum: at most `MOST_ROWS` and `MOST_CONTROLS`."""
    with_controls = np.isin(given.treated_strata, given.control_strata[usable[given.controls]])
    kept = np.flatnonzero(usable[given.treated] & with_controls)
    if len(kept) > MOST_ROWS:
        kept = np.sort(rng.choice(kept, MOST_ROWS, replace=False))
    strata = np.unique(given.treated_strata[kept])
    controls = [np.flatnonzero(usable[given.controls] & (given.control_strata == stratum)) for stratum in strata]
    quota = max(1, MOST_CONTROLS // max(len(strata), 1))
    drawn = [own if len(own) <= quota else rng.choice(own, quota, replace=False) for own in controls]
    against = np.concatenate([*drawn, np.empty(0, int)]).astype(int)
    return Comparison(
        given.treated[kept], given.controls[against], given.treated_strata[kept], given.control_strata[against]
    )


def design(given: Comparison) -> tuple[tuple[int, int], ...]:
    """Return how many rows each stratum has, and how many of them are treated."""
    strata, both = np.unique(np.r_[given.treated_strata, given.control_strata], return_counts=True)
    treated = [int((given.treated_strata == stratum).sum()) for stratum in strata]
    return tuple(zip(both.tolist(), treated, strict=True))


def n_labellings(given: Comparison) -> int:
    """Return in how many ways the labels can be permuted within strata."""
    return prod(comb(n, treated) for n, treated in design(given))


def is_asked(given: Comparison) -> bool:
    """Tell whether there are rows enough for a p-value that could be small."""
    enough = min(len(given.treated), len(given.controls)) >= FEWEST_ROWS
    return enough and n_labellings(given) >= FEWEST_LABELLINGS


@lru_cache(maxsize=64)
def labellings(sizes: tuple[tuple[int, int], ...], n: int, seed: int) -> np.ndarray:
    """Return labels permuted within strata, (n, rows) bool; strata lie one after the other."""
    rng = np.random.default_rng(seed)
    parts = [np.argsort(rng.random((n, size)), axis=1) < treated for size, treated in sizes]
    return np.concatenate(parts, axis=1)


def compare_with_controls(vectors: np.ndarray, given: Comparison, *, seed: int, n_permutations: int) -> One:
    """Return what is found of one perturbation; p-values are those of labels permuted within strata.

    Rows are centred on the mean of their stratum first, treated and controls together: what strata differ by is no
    effect of a perturbation, and the mean of all of them is the same whatever the labels.
    """
    rows = np.r_[given.treated, given.controls]
    strata = np.r_[given.treated_strata, given.control_strata]
    is_treated = np.arange(len(rows)) < len(given.treated)
    order = np.lexsort((~is_treated, strata))
    x, is_treated = np.asarray(vectors[rows[order]], np.float64), is_treated[order]
    _, at = np.unique(strata[order], return_inverse=True)
    of_stratum = np.eye(at.max() + 1)[at]  # (rows, strata)
    x -= of_stratum @ ((of_stratum.T @ x) / of_stratum.sum(axis=0)[:, None])
    labels = np.vstack([is_treated, labellings(design(given), n_permutations, seed)])
    gram = x @ x.T
    energies, coefficients = energies_of(distances_of(gram), labels)
    cosines = mean_cosines(gram, of_stratum, labels)
    return One(
        magnitude=energies[0],
        coefficient=coefficients[0],
        null_coefficient=float(coefficients[1:].mean()),
        magnitude_p=float(permutation_p(energies[:1], energies[None, 1:])[0]),
        consistency=cosines[0],
        null_consistency=float(cosines[1:].mean()),
        consistency_p=float(permutation_p(cosines[:1], cosines[None, 1:])[0]),
    )


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Return the energy distance of rows x (n, dim) and y (m, dim)."""
    both = np.concatenate([x, y]).astype(np.float64)
    both -= both.mean(axis=0)
    return float(energies_of(distances_of(both @ both.T), np.arange(len(both))[None] < len(x))[0][0])


def distances_of(gram: np.ndarray) -> np.ndarray:
    """Return the Euclidean distances (n, n) of rows from their inner products (n, n)."""
    squares = np.diag(gram)
    distances = np.sqrt(np.maximum(squares[:, None] + squares - 2 * gram, 0))
    np.fill_diagonal(distances, 0)
    return distances


def energies_of(distances: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the energy distance of the rows that each of `labels` (n, rows) marks and the others, and its coefficient.

    The coefficient, of inhomogeneity, is 0 where all rows are the same.
    """
    marked = labels / labels.sum(axis=1, keepdims=True)
    others = ~labels / (~labels).sum(axis=1, keepdims=True)
    from_marked, from_others = marked @ distances, others @ distances
    between = 2 * np.einsum("ij,ij->i", from_marked, others)
    energies = between - np.einsum("ij,ij->i", from_marked, marked) - np.einsum("ij,ij->i", from_others, others)
    return energies, np.divide(energies, between, out=np.zeros_like(energies), where=between > 0)


def mean_cosines(gram: np.ndarray, of_stratum: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the mean cosine (n,) of pairs of marked rows, each less the mean of its stratum's others.

    gram: (rows, rows) inner products; of_stratum: (rows, strata) of 0 and 1; labels: (n, rows). A row that is equal to
    that mean has no direction: its cosines are 0.
    """
    result = np.empty(len(labels))
    n_treated = int(labels[0].sum())
    step = max(1, VALUES_AT_A_TIME // (of_stratum.size + n_treated**2))
    for start in range(0, len(labels), step):
        result[start : start + step] = mean_cosines_of(gram, of_stratum, labels[start : start + step], n_treated)
    return result


def mean_cosines_of(gram: np.ndarray, of_stratum: np.ndarray, labels: np.ndarray, n_treated: int) -> np.ndarray:
    """Return `mean_cosines` of some labels, of which each marks `n_treated` rows."""
    controls = ~labels[:, None] * of_stratum.T  # (n, strata, rows)
    controls = controls / controls.sum(axis=2, keepdims=True)
    with_controls = controls @ gram  # (n, strata, rows)
    among_controls = with_controls @ controls.transpose(0, 2, 1)  # (n, strata, strata)
    rows = np.nonzero(labels)[1].reshape(len(labels), n_treated)
    strata = of_stratum.argmax(axis=1)[rows]  # (n, treated)
    each = np.arange(len(labels))[:, None, None]
    cross = with_controls[each, strata[:, :, None], rows[:, None]]  # (n, treated, treated)
    inner = gram[rows[:, :, None], rows[:, None]] - cross - cross.transpose(0, 2, 1)
    inner += among_controls[each, strata[:, :, None], strata[:, None]]
    squares = np.einsum("nii->ni", inner)
    scale = np.maximum(np.diag(gram).max(), 1e-300)
    length = np.sqrt(np.where(squares > 1e-12 * scale, squares, np.inf))  # (n, treated)
    cosines = inner / (length[:, :, None] * length[:, None])
    off_diagonal = cosines.sum(axis=(1, 2)) - np.einsum("nii->n", cosines)
    return off_diagonal / (n_treated * (n_treated - 1))
