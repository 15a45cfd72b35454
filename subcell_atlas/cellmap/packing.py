"""Circles side by side: where they stand, and the circle around them."""

from __future__ import annotations

import numpy as np

__all__ = ["enclose", "pack"]


def pack(radii: np.ndarray) -> np.ndarray:
    """Return centers (n, 2) of circles side by side, for radii (n,) from large to small.

    Each circle touches two that are there already, as near to the middle of these as it goes.
    """
    centers = np.zeros((len(radii), 2))
    if len(radii) > 1:
        centers[1] = radii[0] + radii[1], 0
    for i in range(2, len(radii)):
        placed, sizes = centers[:i], radii[:i]
        ways = touching(placed, sizes, radii[i])  # (m, 2)
        apart = (ways[:, :1] - placed[:, 0]) ** 2 + (ways[:, 1:] - placed[:, 1]) ** 2  # (m, i), squared
        free = ways[(apart >= ((sizes + radii[i]) * (1 - 1e-9)) ** 2).all(axis=1)]
        middle = np.average(placed, axis=0, weights=sizes**2)
        far = np.linalg.norm(free - middle, axis=1).round(9)  # so that equal ones are equal on every machine
        centers[i] = free[np.argmin(far)]
    return centers


def touching(centers: np.ndarray, radii: np.ndarray, radius: float) -> np.ndarray:
    """Return where (m, 2) a circle of `radius` touches two of the circles, both sides of each pair near enough."""
    one, two = np.triu_indices(len(radii), 1)
    apart = centers[two] - centers[one]
    distance = np.linalg.norm(apart, axis=1)
    near = distance <= radii[one] + radii[two] + 2 * radius
    one, two, apart, distance = one[near], two[near], apart[near], distance[near, None]
    from_one, from_two = (radii[which][:, None] + radius for which in (one, two))
    along = (from_one**2 - from_two**2 + distance**2) / (2 * distance)
    across = np.sqrt(np.maximum(from_one**2 - along**2, 0))
    ahead = apart / distance
    foot = centers[one] + along * ahead
    aside = across * np.column_stack([-ahead[:, 1], ahead[:, 0]])
    return np.concatenate([foot + aside, foot - aside])


def enclose(centers: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the middle (2,) and the radius of a circle around circles, the smallest but for about a percent.

    The middle goes towards the circle that reaches farthest, by ever smaller steps (Bădoiu and Clarkson, 2003).
    """
    middle = np.average(centers, axis=0, weights=radii**2)
    for step in range(2, 150):
        away = centers - middle
        length = np.hypot(away[:, 0], away[:, 1])
        farthest = int(np.argmax(length + radii))
        if not length[farthest]:
            break
        middle = middle + away[farthest] * (1 + radii[farthest] / length[farthest]) / step
    return middle, float((np.linalg.norm(centers - middle, axis=1) + radii).max())
