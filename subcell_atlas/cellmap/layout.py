"""Where proteins stand in the overview: a two-dimensional UMAP (McInnes et al., arXiv:1802.03426)."""

from __future__ import annotations

import warnings

import numpy as np

__all__ = ["layout_proteins"]

MIN_FOR_UMAP = 16  # below, its spectral start fails; two principal components serve
N_NEIGHBORS = 15
MIN_DIST = 0.3


def layout_proteins(vectors: np.ndarray, *, seed: int) -> np.ndarray:
    """Return coordinates (n, 2) float32 for vectors (n, dim), near each other where the cosine is high.

    The same seed gives the same layout; this keeps UMAP to one thread.
    """
    if len(vectors) < MIN_FOR_UMAP:
        return principal_components(vectors)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n_jobs value", category=UserWarning)
        import umap

        mapper = umap.UMAP(n_neighbors=N_NEIGHBORS, min_dist=MIN_DIST, metric="cosine", random_state=seed)
        return np.asarray(mapper.fit_transform(np.asarray(vectors, np.float32)), np.float32)


def principal_components(vectors: np.ndarray) -> np.ndarray:
    """Return the first two principal components (n, 2); zeros where there are fewer."""
    centred = np.asarray(vectors, np.float64) - np.mean(vectors, axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    scores = (left * size)[:, :2]
    return np.pad(scores, ((0, 0), (0, 2 - scores.shape[1]))).astype(np.float32)
