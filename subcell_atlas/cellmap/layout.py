"""Where proteins stand in the overview: a two-dimensional UMAP (McInnes et al., arXiv:1802.03426).

A layout is made once, by `layout_proteins`; proteins that come later are placed into it, by `place_proteins`, and the
others stay where they were.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import BadInput, UnknownName

__all__ = ["PRESETS", "Preset", "layout_proteins", "mean_of_nearest", "place_proteins"]

MIN_FOR_UMAP = 16  # below, its spectral start fails; two principal components serve
MIN_TO_PLACE = 50  # below, each protein is a neighbor of many and UMAP draws a new one to the middle of them all
N_NEAREST = 5  # whose mean is then the place of a new protein
EXACT = 1e-6  # distance below which two vectors of float32 are the same


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The parameters of a UMAP; `n_components` principal components go in, or with None the vectors themselves."""

    n_neighbors: int
    min_dist: float
    spread: float
    metric: str
    n_components: int | None = None


PRESETS = {
    "default": Preset(n_neighbors=15, min_dist=0.3, spread=1.0, metric="cosine"),
    # Gupta et al., the notebook of Fig. 7; scanpy takes 50 principal components where it is given no number
    "subcell": Preset(n_neighbors=125, min_dist=0.5, spread=0.6, metric="euclidean", n_components=50),
}


def layout_proteins(
    vectors: np.ndarray,
    *,
    seed: int,
    preset: str = "default",
    neighbors: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Return coordinates (n, 2) float32 for vectors (n, dim), near each other where the vectors are alike.

    The same seed gives the same layout; this keeps UMAP to one thread. With too few proteins for the neighbors that a
    preset asks for, each has all the others.

    Parameters
    ----------
    vectors
        One row per protein.
    seed
        Of everything random in it.
    preset
        One of PRESETS: `default`, or `subcell`, the parameters of SubCell's authors.
    neighbors
        Of each protein, the nearest others by cosine, nearest first, and how far they are (1 - cosine), both (n, k),
        where they are known already: it saves UMAP the search. Only for a preset that asks for the cosine; with fewer
        than it asks for they are of no use, and are searched for.

    Raises
    ------
    UnknownName, BadInput
    """
    chosen = find_preset(preset)
    vectors = finite_rows(vectors, "The vectors of the layout")
    if neighbors is not None and chosen.metric != "cosine":
        msg = f"Neighbors by cosine do not serve the preset {preset!r}, which asks for {chosen.metric} distances."
        raise BadInput(f"{msg} Leave `neighbors` out.")
    if len(vectors) < MIN_FOR_UMAP:
        return principal_components(vectors)
    mapper = new_umap(chosen, n=len(vectors), seed=seed)
    if neighbors is not None:
        mapper.precomputed_knn = with_themselves(*neighbors, n=len(vectors), k=mapper.n_neighbors)
    with quiet_umap():
        return np.asarray(mapper.fit_transform(reduction(vectors, chosen, seed=seed)(vectors)), np.float32)


def place_proteins(
    new: np.ndarray,
    old_vectors: np.ndarray,
    old_places: np.ndarray,
    *,
    seed: int,
    preset: str = "default",
) -> np.ndarray:
    """Return coordinates (m, 2) float32 for new vectors (m, dim) in a layout whose proteins stay where they are.

    A new protein stands among the old ones that are most like it, one with the vector of an old one where that stands;
    the new ones do not move each other. One that has nothing alike in the layout stands somewhere between its nearest,
    which says little: look at how near they are.

    Parameters
    ----------
    new
        One row per protein to place.
    old_vectors
        (n, dim); the proteins of the layout.
    old_places
        (n, 2); where these stand, in the same order.
    seed, preset
        Those that the layout was made with.

    Raises
    ------
    UnknownName, BadInput
    """
    chosen = find_preset(preset)
    new, old = finite_rows(new, "The new vectors"), finite_rows(old_vectors, "The vectors of the layout")
    places = finite_rows(old_places, "The places of the layout")
    if places.shape != (len(old), 2) or not len(old):
        msg = f"The layout has places of shape {places.shape} for {len(old)} vectors; it takes two coordinates for each"
        raise BadInput(f"{msg} and at least one protein. Make the layout first.")
    if new.shape[1] != old.shape[1]:
        msg = f"The new vectors have {new.shape[1]} numbers and those of the layout {old.shape[1]}."
        raise BadInput(f"{msg} Embed the new proteins with the encoder of the layout.")
    if not len(new):
        return np.empty((0, 2), np.float32)
    reduced = reduction(old, chosen, seed=seed)
    if len(old) < MIN_TO_PLACE:
        placed = mean_of_nearest(reduced(new), reduced(old), places, metric=chosen.metric)
    else:
        placed = transform(reduced(new), reduced(old), places, preset=chosen, seed=seed)
    place_of = {row.tobytes(): place for row, place in zip(old, places, strict=True)}
    return np.array([place_of.get(row.tobytes(), place) for row, place in zip(new, placed, strict=True)], np.float32)


def transform(new: np.ndarray, old: np.ndarray, places: np.ndarray, *, preset: Preset, seed: int) -> np.ndarray:
    """Return where UMAP puts `new` (m, dim) beside `old` (n, dim), which stand at `places` (n, 2)."""
    mapper = new_umap(preset, n=len(old), seed=seed)
    mapper.set_params(init="random", n_epochs=0, transform_seed=seed)  # only takes the neighbors: the places are known
    index = ExactIndex(old, preset.metric)
    mapper.precomputed_knn = (*index.query(old, mapper.n_neighbors), index)
    with quiet_umap():
        mapper.fit(old)
        mapper.embedding_ = places
        mapper.n_epochs = None  # as many as UMAP takes for a transform; with none it fails
        return np.asarray(mapper.transform(new), np.float32)


class ExactIndex:
    """A search for neighbors that stands in for UMAP's own, which is of use for millions and slow to start."""

    _angular_trees = False  # UMAP asks for it, to say how exact an answer must be

    def __init__(self, vectors: np.ndarray, metric: str) -> None:
        from sklearn.neighbors import NearestNeighbors

        self._search = NearestNeighbors(algorithm="brute", metric=metric).fit(vectors)

    def query(self, vectors: np.ndarray, k: int, *, epsilon: float = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return of each of the vectors the `k` nearest and how far they are, both (n, k), nearest first."""
        del epsilon
        distance, nearest = self._search.kneighbors(vectors, k)
        return nearest.astype(np.int32), distance.astype(np.float32)


@contextmanager
def quiet_umap() -> Iterator[None]:
    """Keep quiet about what UMAP warns of and copes with: neighbors from elsewhere, a start that is less good."""
    with warnings.catch_warnings():
        for known in ("precomputed_knn", "Graph is not fully connected", "Spectral initialisation failed"):
            warnings.filterwarnings("ignore", message=known, category=UserWarning)
        yield


def find_preset(name: str) -> Preset:
    """Return a preset by its name; raise UnknownName."""
    if name not in PRESETS:
        raise UnknownName("preset of a layout", name, PRESETS)
    return PRESETS[name]


def finite_rows(rows: np.ndarray, what: str) -> np.ndarray:
    """Return `rows` as (n, dim) float32; raise BadInput when they are not that or not finite."""
    rows = np.asarray(rows, np.float32)
    if rows.ndim != 2:
        msg = f"{what} have the shape {rows.shape}; they must be rows of numbers, (proteins, dimensions)."
        raise BadInput(msg)
    if bad := int((~np.isfinite(rows)).any(axis=1).sum()):
        msg = f"{what}: {bad} of {len(rows)} rows hold NaN or infinite numbers. Leave these proteins out."
        raise BadInput(msg)
    return rows


def new_umap(preset: Preset, *, n: int, seed: int) -> Any:
    """Return a UMAP for `n` proteins, not yet fitted."""
    import umap

    return umap.UMAP(
        n_neighbors=min(preset.n_neighbors, n - 1),
        min_dist=preset.min_dist,
        spread=preset.spread,
        metric=preset.metric,
        random_state=seed,
        n_jobs=1,
    )


def reduction(vectors: np.ndarray, preset: Preset, *, seed: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return what brings vectors to the principal components of `vectors` that a preset asks for."""
    if preset.n_components is None or preset.n_components >= min(vectors.shape):
        return lambda rows: rows
    from sklearn.decomposition import PCA

    return PCA(n_components=preset.n_components, random_state=seed).fit(vectors).transform


def with_themselves(indices: np.ndarray, distances: np.ndarray, *, n: int, k: int) -> tuple[Any, Any, None]:
    """Return neighbors (n, k) as UMAP counts them, each protein its own first; Nones where there are too few of them.

    They are new arrays: UMAP writes into what it is given.
    """
    if indices.shape != distances.shape or indices.ndim != 2 or len(indices) != n:
        msg = f"Neighbors have the shapes {indices.shape} and {distances.shape}; both must be (proteins, k) for {n}"
        raise BadInput(f"{msg} proteins.")
    if indices.shape[1] < k - 1:
        return None, None, None
    own = np.column_stack([np.arange(n), indices[:, : k - 1]]).astype(np.int32)
    return own, np.column_stack([np.zeros(n), distances[:, : k - 1]]).astype(np.float32), None


def mean_of_nearest(new: np.ndarray, old: np.ndarray, places: np.ndarray, *, metric: str) -> np.ndarray:
    """Return the mean place (m, 2) of the few nearest of `old`, each weighing one over its distance."""
    from sklearn.metrics import pairwise_distances

    distance = pairwise_distances(new, old, metric=metric)  # (m, n)
    n = min(N_NEAREST, distance.shape[1])
    nearest = np.argpartition(distance, n - 1, axis=1)[:, :n]
    weight = 1 / np.maximum(np.take_along_axis(distance, nearest, axis=1), EXACT)
    mean = (places[nearest] * weight[:, :, None]).sum(axis=1) / weight.sum(axis=1, keepdims=True)
    return np.asarray(mean, np.float32)


def principal_components(vectors: np.ndarray) -> np.ndarray:
    """Return the first two principal components (n, 2); zeros where there are fewer."""
    centred = np.asarray(vectors, np.float64) - np.mean(vectors, axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    scores = (left * size)[:, :2]
    return np.pad(scores, ((0, 0), (0, 2 - scores.shape[1]))).astype(np.float32)
