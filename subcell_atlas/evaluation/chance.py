"""How often chance alone gives as much: p-values of permutations, and what is left of them after many questions.

A p-value is (1 + as large by chance) / (1 + tried), which is never 0 (Phipson & Smyth 2010). Whatever was not asked is
NaN: it has no p-value, and is no part of what others are held against.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

__all__ = ["ALPHA", "adjusted", "permutation_p"]

ALPHA = 0.05  # at most, of a corrected p-value, for chance not to be held responsible
SAME = 1e-6  # differences below this are of rounding: a permutation that changes nothing gives as much


def permutation_p(found: np.ndarray, by_chance: np.ndarray) -> np.ndarray:
    """Return the p-value (n,) that chance gives as much as `found` (n,), from `by_chance` (n, tried); NaN stays NaN."""
    margin = SAME * np.maximum(1, np.abs(found))
    as_large = (by_chance >= (found - margin)[:, None]).sum(axis=1)
    return np.where(np.isfinite(found), (1 + as_large) / (1 + by_chance.shape[1]), np.nan)


def adjusted(p: np.ndarray) -> np.ndarray:
    """Return p-values (n,) corrected after Benjamini and Hochberg (1995) over those that are not NaN."""
    result = np.full(len(p), np.nan)
    asked = np.isfinite(p)
    if asked.any():
        result[asked] = stats.false_discovery_control(p[asked])
    return result
