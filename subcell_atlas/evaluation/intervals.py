"""How sure a figure is: intervals over draws of what was observed, and differences between two embeddings, paired.

A figure is made of values: one a query, a pair of genes, a cell. What is drawn, with return, is what they are of
(proteins, antibodies, plates), for values of one protein are not independent. A value counts as often as all that it is
of are drawn: a pair of proteins as the product, which is the bootstrap of vertices (Snijders & Borgatti 1999). Two
embeddings are compared on the values that both have, in the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import BadInput

__all__ = [
    "INTERVAL",
    "Difference",
    "Interval",
    "Observed",
    "ends",
    "interval",
    "paired_difference",
    "two_sided",
    "weighted_mean",
]

N_DRAWS = 1000
INTERVAL = (0.025, 0.975)
Statistic = Callable[[np.ndarray, np.ndarray], float]


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the mean of values (n,), each counted as often as `weights` (n,) says; NaN when none counts."""
    total = float(weights.sum())
    # not `@`: threads of BLAS that wait for each other take 25 times as long for so few numbers
    return float((values * weights).sum()) / total if total else float("nan")


@dataclass(frozen=True)
class Observed:
    """The values that a figure is made of.

    ids: (n,) what each value is of, as another embedding names it too, without doubles. values: (n,), none of them NaN.
    drawn: for each value, what must be drawn for it to count: (n,) names, or (n, k) of k names each.
    statistic: of values and weights, (n,) each; the mean unless told otherwise.
    """

    ids: Sequence[str]
    values: np.ndarray
    drawn: np.ndarray
    statistic: Statistic = weighted_mean

    def __post_init__(self) -> None:
        if not len(self.ids) == len(self.values) == len(self.drawn):
            msg = f"Each value has an id and a name; got {len(self.values)}, {len(self.ids)}, {len(self.drawn)}."
            raise BadInput(msg)

    def value(self) -> float:
        """Return the figure itself."""
        return self.statistic(self.values, np.ones(len(self.values)))

    def of(self, ids: Sequence[str]) -> Observed:
        """Return the values of `ids` alone, in their order."""
        at = {name: row for row, name in enumerate(self.ids)}
        rows = [at[name] for name in ids]
        return Observed(list(ids), self.values[rows], self.drawn[rows], self.statistic)


@dataclass(frozen=True)
class Interval:
    """A figure with the ends of its 95 % interval; n: values, n_drawn: names that were drawn among."""

    value: float
    low: float
    high: float
    n: int
    n_drawn: int


@dataclass(frozen=True)
class Difference:
    """One embedding minus another, on the `n` values that both have; p: two-sided, that there is no difference."""

    value: float
    other: float
    difference: float
    low: float
    high: float
    p: float
    n: int
    n_drawn: int


def numbered(drawn: np.ndarray) -> tuple[np.ndarray, int]:
    """Return numbers in place of names, (n, k), and how many names there are."""
    names, index = np.unique(np.asarray(drawn, dtype=str), return_inverse=True)
    return index.reshape(len(drawn), -1), len(names)


def times_counted(index: np.ndarray, n_names: int, *, seed: int, n_draws: int) -> np.ndarray:
    """Return how often each value counts in each draw, (n_draws, n) float32; index: (n, k) numbers of names."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n_names, np.full(n_names, 1 / max(n_names, 1)), size=n_draws).astype(np.float32)
    weights = np.ones((n_draws, len(index)), np.float32)
    for column in index.T:
        weights *= counts[:, column]
    return weights


def interval(observed: Observed, *, seed: int, n_draws: int = N_DRAWS) -> Interval:
    """Return a figure with its 95 % interval; NaN at both ends where one name alone could be drawn."""
    found, n_drawn = in_draws([observed], seed=seed, n_draws=n_draws)
    value = observed.value()
    low, high = ends(around(value, found[0])) if n_drawn > 1 else (float("nan"), float("nan"))
    return Interval(value, low, high, len(observed.values), n_drawn)


def paired_difference(one: Observed, other: Observed, *, seed: int, n_draws: int = N_DRAWS) -> Difference:
    """Return what `one` has more than `other`, on the values of both; NaN when they share fewer than two names."""
    known = set(other.ids)
    shared = [name for name in one.ids if name in known]
    if not shared:
        nan = float("nan")
        return Difference(nan, nan, nan, nan, nan, nan, 0, 0)
    a, b = one.of(shared), other.of(shared)
    found, n_drawn = in_draws([a, b], seed=seed, n_draws=n_draws)
    value, against = a.value(), b.value()
    differences = around(value - against, found[0] - found[1])
    low, high = ends(differences) if n_drawn > 1 else (float("nan"), float("nan"))
    p = two_sided(differences) if n_drawn > 1 else float("nan")
    return Difference(value, against, value - against, low, high, p, len(shared), n_drawn)


def in_draws(observed: Sequence[Observed], *, seed: int, n_draws: int) -> tuple[np.ndarray, int]:
    """Return each figure in each draw, (figures, n_draws), and how many names were drawn among, those of the first."""
    parts = []
    per_part = max(1, 2**22 // max(len(observed[0].values), 1))  # values at a time; memory grows with this
    index, n_drawn = numbered(observed[0].drawn)
    for part, start in enumerate(range(0, n_draws, per_part)):
        of_part = np.random.SeedSequence([seed, part]).generate_state(1)[0]
        weights = times_counted(index, n_drawn, seed=int(of_part), n_draws=min(per_part, n_draws - start))
        parts.append([[each.statistic(each.values, own) for own in weights] for each in observed])
    return np.concatenate([np.array(part) for part in parts], axis=1), n_drawn


def around(value: float, draws: np.ndarray) -> np.ndarray:
    """Return draws (n,) moved to where their mean is `value`.

    What is drawn twice is tied with itself, which lifts statistics such as average precision in every draw.
    """
    finite = draws[np.isfinite(draws)]
    return draws + (value - finite.mean()) if len(finite) and np.isfinite(value) else draws


def ends(draws: np.ndarray) -> tuple[float, float]:
    """Return the ends of the 95 % interval of draws (n,); NaN when none is finite."""
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, INTERVAL)
    return float(low), float(high)


def two_sided(differences: np.ndarray) -> float:
    """Return the p-value, with one added, that there is no difference, by draws (n,) of it."""
    told = differences[np.isfinite(differences)]
    rare = min((told <= 0).sum(), (told >= 0).sum())
    return float(min(1.0, 2 * (rare + 1) / (len(told) + 1)))
