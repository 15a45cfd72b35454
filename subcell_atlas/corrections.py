"""Batch corrections: what the pictures of one batch have in common, and the proteins do not, is taken away.

A batch is a cell line and plate. What is corrected are wells: means over the cells of one protein (antibody, condition)
on one plate, and, where cells are known that nothing was done to, of each well of these controls. Corrections that may
be fitted on controls are fitted on them alone where they are given, else on all wells.

center-scale, pca-center-scale and tvn are those of EFAAR_benchmarking 1.0 (Celik et al., PLoS Comput. Biol. 2024,
10.1371/journal.pcbi.1012463; TVN after Ando et al. 2017, 10.1101/161422), spherize that of pycytominer from 1.7.1 on
(ZCA-cor of Kessy et al. 2018, 10.1080/00031305.2016.1277159), harmony that of Korsunsky et al. 2019,
10.1038/s41592-019-0619-0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from .errors import BadInput, MissingExtra, UnknownName
from .recipe import CENTER

__all__ = [
    "CORRECTIONS",
    "MIN_PROTEINS",
    "OURS",
    "Correction",
    "Fitted",
    "Space",
    "Wells",
    "check_correction",
    "correct",
]

MIN_PROTEINS = 10  # in a batch, for what is taken away to be its own
MIN_CONTROLS = 2  # in a batch: of one there is no variance
N_COMPONENTS = 128  # as EFAAR keeps of a PCA that is not TVN's
RIDGE = 0.5  # EFAAR adds it to the variances of a batch's controls
EPSILON = 1e-6  # pycytominer adds it to singular values
NOISE = float(np.finfo(np.float64).eps)  # of the largest variance, times the larger of n and dim: none at all


@dataclass(frozen=True)
class Wells:
    """What is corrected, a row each: vectors (n, dim) float64, and (n,) of what they are.

    proteins: names; cell_lines, plates: names or None, together the batch. controls: (n,) bool, wells that nothing was
    done to; None: none is known.
    """

    vectors: np.ndarray
    proteins: Sequence[str | None]
    cell_lines: Sequence[str | None]
    plates: Sequence[str | None]
    controls: np.ndarray | None = None

    @property
    def fitted(self) -> np.ndarray | slice:
        """Which rows a correction is fitted on that may be fitted on controls."""
        return slice(None) if self.controls is None else self.controls

    @property
    def batches(self) -> np.ndarray:
        """The number (n,) of each well's batch."""
        return numbered(list(zip(self.cell_lines, self.plates, strict=True)))

    def by_batch(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the rows of each batch, and those that tell what it has in common.

        These are its controls, or else all its wells; where they are of fewer than `MIN_PROTEINS` proteins those of its
        cell line, else all. Raise BadInput for a batch of fewer than `MIN_CONTROLS` controls.
        """
        lines = numbered(self.cell_lines)
        of_protein = numbered(self.proteins)
        everything = np.arange(len(self.vectors))
        batches = self.batches
        for batch in range(batches.max() + 1):
            own = np.flatnonzero(batches == batch)
            if self.controls is not None:
                yield own, self._enough(own, own[self.controls[own]])
                continue
            line = np.flatnonzero(lines == lines[own[0]])
            enough = (rows for rows in (own, line) if len(np.unique(of_protein[rows])) >= MIN_PROTEINS)
            yield own, next(enough, everything)

    def _enough(self, own: np.ndarray, controls: np.ndarray) -> np.ndarray:
        if len(controls) < MIN_CONTROLS:
            batch = f"plate {self.plates[own[0]]!r} of the cell line {self.cell_lines[own[0]]!r}"
            msg = f"A batch needs {MIN_CONTROLS} wells of controls; {batch} has {len(controls)}."
            raise BadInput(f"{msg}\nName more (--controls), or use a correction without controls.")
        return controls


@dataclass(frozen=True)
class Space:
    """What a correction does to all batches alike: (x - center) @ matrix, or * matrix when that is (dim,).

    center: (dim,); matrix: (dim, k).
    """

    center: np.ndarray
    matrix: np.ndarray

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Return vectors (…, dim) as (…, k)."""
        moved = vectors - self.center
        return moved @ self.matrix if self.matrix.ndim == 2 else moved * self.matrix

    def arrays(self) -> dict[str, np.ndarray]:
        """Return it as float32 arrays, for `of_arrays`."""
        return {"center": self.center.astype(np.float32), "matrix": self.matrix.astype(np.float32)}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Space:
        """Make it of what `arrays` returned."""
        return cls(arrays["center"], arrays["matrix"])


class Fitted(NamedTuple):
    """Corrected wells (n, k), and what was done to all batches alike."""

    vectors: np.ndarray
    space: Space


def numbered(names: Sequence[object]) -> np.ndarray:
    """Return a number (n,) for each name, equal names alike, in the order of their first."""
    number: dict[object, int] = {}
    return np.array([number.setdefault(name, len(number)) for name in names])


def correct(name: str, wells: Wells, *, seed: int) -> Fitted:
    """Return corrected wells by a correction that is fitted; those of `none` and `center` are made in `profiles`.

    Raise BadInput when there is too little to fit it on, or a vector is not finite.
    """
    check_correction(name, has_controls=wells.controls is not None)
    bad = np.count_nonzero(~np.isfinite(wells.vectors).all(axis=1))
    if bad:
        raise BadInput(
            f"{bad} of {len(wells.vectors)} wells have vectors that are not finite; they cannot be corrected."
        )
    if wells.controls is None and len(set(wells.proteins)) < 2:
        raise BadInput(f"{name} would leave nothing of one protein alone. Use the correction none or center.")
    for _ in wells.by_batch():  # raises when controls are too few
        pass
    fit = CORRECTIONS[name].fit
    assert fit is not None
    return fit(wells, seed)


def center_scale(wells: Wells, seed: int) -> Fitted:
    """Take each batch's mean from its wells and divide by its standard deviations; one that is 0 counts as 1."""
    del seed
    vectors, scale = scaled_by_batch(wells.vectors, wells)
    return Fitted(vectors, Space(wells.vectors.mean(axis=0), 1 / scale))


def pca_center_scale(wells: Wells, seed: int) -> Fitted:
    """Center and scale each batch, keep the first principal components, center and scale each batch again."""
    del seed
    scaled, first = scaled_by_batch(wells.vectors, wells)
    axes = principal_axes(scaled[wells.fitted], most=N_COMPONENTS)
    vectors, second = scaled_by_batch((scaled - scaled[wells.fitted].mean(axis=0)) @ axes, wells)
    return Fitted(vectors, Space(wells.vectors.mean(axis=0), axes / first[:, None] / second))


def tvn(wells: Wells, seed: int) -> Fitted:
    """Make the controls white, then align the covariance of each batch's controls, as EFAAR does.

    A batch is not centred again: what shifts it stays, see `tvn_recentered`. Components in which the controls do not
    vary at all are left out, where EFAAR divides by rounding errors: it matters for fewer controls than dimensions.
    """
    del seed
    return typical_variation_normalized(wells, recenter=False)


def tvn_recentered(wells: Wells, seed: int) -> Fitted:
    """Do what `tvn` does, with the mean of its controls taken from each batch before its covariance is aligned."""
    del seed
    return typical_variation_normalized(wells, recenter=True)


def typical_variation_normalized(wells: Wells, *, recenter: bool) -> Fitted:
    """Return what `tvn` does, each batch centred on its controls when asked."""
    from sklearn.preprocessing import StandardScaler

    assert wells.controls is not None
    known = wells.controls
    first = StandardScaler().fit(wells.vectors[known])
    scaled = first.transform(wells.vectors)
    axes = principal_axes(scaled[known])
    turned = (scaled - scaled[known].mean(axis=0)) @ axes
    second = StandardScaler().fit(turned[known])
    white = second.transform(turned)
    residuals, n_batches = np.empty_like(white[known]), 0
    at = np.cumsum(known) - 1  # the row of each control among the controls
    for own, controls in wells.by_batch():
        mean = white[controls].mean(axis=0)
        residuals[at[controls]] = white[controls] - mean
        moved = white[own] - mean if recenter else white[own]
        white[own] = whitened_by(moved, residuals[at[controls]], len(controls) - 1)
        n_batches += 1
    matrix = whitened_by(axes / first.scale_[:, None] / second.scale_, residuals, len(residuals) - n_batches)
    return Fitted(white, Space(first.mean_, matrix))


def whitened_by(vectors: np.ndarray, residuals: np.ndarray, n: int) -> np.ndarray:
    """Return vectors (m, k) times (residuals' residuals / n + RIDGE)^-1/2, without that matrix (k, k)."""
    _, singular, axes = np.linalg.svd(residuals, full_matrices=False)
    outside = RIDGE**-0.5
    inside = (singular**2 / n + RIDGE) ** -0.5
    return outside * vectors + ((vectors @ axes.T) * (inside - outside)) @ axes


def spherize(wells: Wells, seed: int) -> Fitted:
    """Take each batch's mean from its wells, then make all white: ZCA-cor, as pycytominer does.

    Where wells do not vary at all they are scaled as where they vary least.
    """
    from sklearn.preprocessing import StandardScaler

    del seed
    centred, _ = scaled_by_batch(wells.vectors, wells, with_std=False)
    scaler = StandardScaler().fit(centred[wells.fitted])
    centred -= scaler.mean_
    known = centred[wells.fitted]
    variances, axes = np.linalg.eigh((known.T @ known) / np.outer(scaler.scale_, scaler.scale_))
    varies = not_noise(variances, known)
    spread = np.sqrt(np.where(varies, variances, variances[varies].min()))
    matrix = (axes * (np.sqrt(len(known) - 1) / (spread + EPSILON))) @ axes.T / scaler.scale_[:, None]
    return Fitted(centred @ matrix, Space(wells.vectors.mean(axis=0), matrix))


def harmony(wells: Wells, seed: int) -> Fitted:
    """Mix batches within soft clusters of wells, on the first principal components, as its authors do.

    It takes away what is small beside the distance of clusters; batches further apart than these stay so. Raise
    MissingExtra when harmonypy is not installed.
    """
    try:
        from harmonypy import run_harmony
    except ImportError:
        raise MissingExtra("harmonypy", "harmony", "The correction harmony") from None
    mean = wells.vectors.mean(axis=0)
    axes = principal_axes(wells.vectors, most=N_COMPONENTS)
    components = (wells.vectors - mean) @ axes
    n_clusters = int(np.clip(round(len(components) / 30), 1, 100))  # its own choice, but for very few wells
    labels = {"batch": wells.batches}
    found = run_harmony(components, labels, "batch", nclust=n_clusters, random_state=seed, verbose=False)
    return Fitted(np.asarray(found.Z_corr, np.float64), Space(mean, axes))


def scaled_by_batch(vectors: np.ndarray, wells: Wells, *, with_std: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors (n, dim) centred and scaled by batch, and the root mean square of what they were divided by.

    Without `with_std` they are centred alone.
    """
    from sklearn.preprocessing import StandardScaler

    found = np.empty_like(vectors)
    squares = np.zeros(vectors.shape[1])
    for own, known in wells.by_batch():
        scaler = StandardScaler(with_std=with_std).fit(vectors[known])
        found[own] = scaler.transform(vectors[own])
        squares += len(own) * (scaler.scale_**2 if with_std else 1.0)
    return found, np.sqrt(squares / len(vectors))


def principal_axes(vectors: np.ndarray, *, most: int | None = None) -> np.ndarray:
    """Return the axes (dim, k) along which vectors (n, dim) vary, the most first; at most `most`."""
    centred = vectors - vectors.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred)
    variances, axes = variances[::-1], axes[:, ::-1]
    kept = axes[:, not_noise(variances, vectors)][:, :most]
    largest = np.abs(kept).argmax(axis=0)
    return kept * np.sign(kept[largest, np.arange(kept.shape[1])])  # either sign is right: the same on every machine


def not_noise(variances: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Return which variances (k,) of vectors (n, dim) are more than rounding errors; raise BadInput when none is."""
    varies = variances > variances.max() * NOISE * max(vectors.shape)
    if not varies.any():
        raise BadInput("The wells that the correction is fitted on are all the same; there is nothing to learn.")
    return varies


@dataclass(frozen=True)
class Correction:
    """A way to correct. fit: None where sums of cells are corrected, by `profiles`; controls: whether it takes them."""

    about: str
    source: str
    controls: Literal["never", "maybe", "always"]
    fit: Callable[[Wells, int], Fitted] | None
    is_random: bool = False


OURS, EFAAR = "this package", "EFAAR_benchmarking 1.0"
CORRECTIONS: dict[str, Correction] = {
    "none": Correction("means as they come from the encoder", OURS, "never", None),
    CENTER: Correction("each batch's mean over its proteins taken away", OURS, "never", None),
    "center-scale": Correction("each batch centred and scaled", EFAAR, "maybe", center_scale),
    "pca-center-scale": Correction(
        f"each batch centred and scaled, before and after keeping {N_COMPONENTS} principal components",
        EFAAR,
        "maybe",
        pca_center_scale,
    ),
    "tvn": Correction("controls made white, and their covariance alike in each batch", EFAAR, "always", tvn),
    "tvn-recentered": Correction(
        "controls made white, and their mean and covariance alike in each batch",
        f"{EFAAR}, with each batch centred by this package",
        "always",
        tvn_recentered,
    ),
    "spherize": Correction("each batch centred, then all made white", "pycytominer 1.7.1", "maybe", spherize),
    "harmony": Correction(
        f"batches mixed within clusters, on {N_COMPONENTS} principal components",
        "harmonypy 2.1",
        "never",
        harmony,
        is_random=True,
    ),
}


def check_correction(name: str, *, has_controls: bool) -> None:
    """Raise UnknownName, or BadInput when controls are missing, or of no use to it."""
    if name not in CORRECTIONS:
        raise UnknownName("correction", name, CORRECTIONS)
    takes = CORRECTIONS[name].controls
    if takes == "always" and not has_controls:
        msg = f"{name} is fitted on controls, cells that nothing was done to, and none are named "
        others = ", ".join(other for other, known in CORRECTIONS.items() if known.controls == "maybe")
        raise BadInput(
            f"{msg}(--controls \"condition = 'DMSO'\").\nWhere there are none, as in the Human Protein Atlas, it "
            f"cannot be done. Corrections that are fitted on all proteins then: {others}."
        )
    if takes == "never" and has_controls:
        others = ", ".join(other for other, known in CORRECTIONS.items() if known.controls != "never")
        raise BadInput(f"The correction {name} is not fitted on controls. Those that are: {others}.")
