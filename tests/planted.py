"""Vectors with groups in groups planted in them, and how well a map finds them again."""

from __future__ import annotations

import numpy as np


def nested(rng, *, n_large=4, n_small=5, size=8, dim=32, noise=0.15):
    """Make proteins in `n_large` groups of `n_small` subgroups of `size`; return vectors and both labels."""
    large = rng.normal(size=(n_large, dim))
    small = rng.normal(size=(n_large, n_small, dim)) * 0.5
    vectors = (large[:, None] + small)[:, :, None] + rng.normal(size=(n_large, n_small, size, dim)) * noise
    labels = np.indices((n_large, n_small, size))
    return vectors.reshape(-1, dim), labels[0].ravel(), (labels[0] * n_small + labels[1]).ravel()


def best_jaccard(members, wanted):
    """Return the highest Jaccard index of any of `members` with the set `wanted`."""
    return max(len(set(rows) & wanted) / len(set(rows) | wanted) for rows in members.values())


def recovery(members, labels):
    """Return the mean, over the groups of `labels`, of the highest Jaccard index of any system."""
    return np.mean([best_jaccard(members, set(np.flatnonzero(labels == g).tolist())) for g in np.unique(labels)])
