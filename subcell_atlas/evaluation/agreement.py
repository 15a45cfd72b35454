"""Agreement of the map with a partition that is known: adjusted mutual information, level by level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Agreement", "best_overlap", "evaluate_map"]

N_SHUFFLES = 10


@dataclass(frozen=True)
class Agreement:
    """Adjusted mutual information of one level of the map with the labels; `shuffled` with the labels permuted."""

    ami: float
    shuffled: float
    n: int


def evaluate_map(members: Mapping[str, Sequence[int]], labels: Sequence[str | None], *, seed: int) -> Agreement:
    """Compare the systems of one level with `labels`, one a protein; proteins without a label are left out.

    members: system -> rows. A protein in several systems of the level counts in the smallest, one in none is alone in
    a group of the unplaced.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    placed = np.full(len(labels), -1)
    for number, rows in enumerate(sorted(members.values(), key=len, reverse=True)):
        placed[list(rows)] = number
    known = [row for row, label in enumerate(labels) if label is not None]
    truth = np.array([labels[row] for row in known])
    rng = np.random.default_rng(seed)
    shuffled = [adjusted_mutual_info_score(rng.permutation(truth), placed[known]) for _ in range(N_SHUFFLES)]
    ami = adjusted_mutual_info_score(truth, placed[known])
    return Agreement(float(ami), float(np.mean(shuffled)), len(known))


def best_overlap(members: Mapping[str, Sequence[int]], groups: Mapping[str, Sequence[int]]) -> float:
    """Return the mean, over `groups` of rows, of the highest Jaccard index that any system reaches."""
    systems = [set(rows) for rows in members.values()]
    best = [
        max((len(group & system) / len(group | system) for system in systems), default=0.0)
        for group in (set(rows) for rows in groups.values())
    ]
    return float(np.mean(best)) if best else 0.0
