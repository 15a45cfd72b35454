"""Which block of a network a label is read off best: a logistic probe on each, and what choosing among them is worth.

"ViTally Consistent" (Kenyon-Dean et al., arXiv:2411.02572) takes the block of the highest balanced accuracy of a linear
probe in place of the last. The best of many figures is too good by what luck gave it. So groups of cells (plates,
proteins, pictures) are drawn with return, the choice is made anew by those drawn, and what was chosen is measured by
those left out: BBC-CV of Tsamardinos et al. (Machine Learning 107, 2018), the predictions being of cross-validation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..encoders.readout import Readout
from ..interrupts import interrupts_blocked
from .intervals import INTERVAL, ends, two_sided
from .probing import Parts, check_probe, choose_regularization, inner_parts, linear_predictions, split, standardize

__all__ = ["Chosen", "Figure", "Readings", "choose_readout", "read_labels"]

N_FOLDS = 5
N_REPEATS = 3
N_DRAWS = 1000
FEWEST_GROUPS = 5  # to draw among: of fewer the draws are a handful, and tell no interval
Figure = tuple[float, float, float]  # a value and the ends of its interval


@dataclass(frozen=True)
class Readings:
    """What probes made of cells, by each readout (r,).

    right: (r, n) share of repeats in which a cell's label was predicted right, held out; truth: (n,) number of each
    cell's class; groups: (n,) number of the group that it was held out with.
    """

    readouts: Sequence[Readout]
    right: np.ndarray
    truth: np.ndarray
    groups: np.ndarray

    def recalls(self, weights: np.ndarray) -> np.ndarray:
        """Return the recall of each class by each readout, (classes, draws, r); NaN of a class that does not count.

        Each cell counts as `weights` (draws, n) says.
        """
        found = np.full((self.truth.max() + 1, len(weights), len(self.readouts)), np.nan)
        for number, recall in enumerate(found):
            rows = self.truth == number
            own = weights[:, rows]
            total = own.sum(axis=1)
            counts = total > 0
            recall[counts] = own[counts] @ self.right[:, rows].T / total[counts, None]
        return found

    def accuracies(self, weights: np.ndarray) -> np.ndarray:
        """Return the balanced accuracy of each readout, (draws, r), as `over_classes` has it."""
        return over_classes(self.recalls(weights))

    def whole(self) -> np.ndarray:
        """Return the balanced accuracy of each readout, (r,), every cell counted once."""
        return self.accuracies(np.ones((1, len(self.truth)), np.float32))[0]

    def draw(self, *, seed: int, n_draws: int = N_DRAWS) -> np.ndarray:
        """Return how often each cell counts when groups are drawn with return, (n_draws, n); 0: its group was not."""
        rng = np.random.default_rng(seed)
        n_groups = int(self.groups.max()) + 1
        counts = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_draws)
        return counts[:, self.groups].astype(np.float32)

    def curve(self, *, seed: int) -> dict[Readout, Figure]:
        """Return the balanced accuracy of each readout with the ends of its 95 % interval, over draws of groups."""
        whole = self.whole()
        drawn = self.accuracies(self.draw(seed=seed))
        moved = drawn - drawn.mean(axis=0) + whole
        low, high = np.nanquantile(moved, INTERVAL, axis=0)
        return dict(zip(self.readouts, zip(whole.tolist(), low.tolist(), high.tolist(), strict=True), strict=True))


@dataclass(frozen=True)
class Chosen:
    """The readout that was chosen, and what another has, which is held against it.

    in_draws: what was chosen in each draw, (draws,); accuracies: of that, by cells which had no part in choosing it,
    (draws,); against: of the readout held against it, by the same cells, (draws,). n_groups: that were drawn among.
    """

    readout: Readout
    in_draws: Sequence[Readout]
    accuracies: np.ndarray
    against: np.ndarray
    n_groups: int

    def figure(self) -> Figure:
        """Return the balanced accuracy that what is chosen in this way has, and the ends of its 95 % interval."""
        return self._with_ends(self.accuracies)

    def figure_against(self) -> Figure:
        """Return the same of the readout that is held against it."""
        return self._with_ends(self.against)

    def difference(self) -> dict[str, float]:
        """Return how much more is read off what was chosen: `value`, the ends of its interval and a two-sided p."""
        differences = self.accuracies - self.against
        value, low, high = self._with_ends(differences)
        p = two_sided(differences) if np.isfinite(low) else float("nan")
        return {"value": value, "low": low, "high": high, "p": p}

    def _with_ends(self, draws: np.ndarray) -> Figure:
        told = draws[np.isfinite(draws)]
        value = float(told.mean()) if len(told) else float("nan")
        return value, *(ends(told) if self.n_groups >= FEWEST_GROUPS else (float("nan"), float("nan")))

    def share(self) -> float:
        """Return in what share of the draws the same was chosen."""
        return sum(each == self.readout for each in self.in_draws) / len(self.in_draws)


def read_labels(
    vectors: Mapping[Readout, np.ndarray],
    labels: Sequence[str],
    groups: Sequence[str],
    *,
    seed: int,
    n_repeats: int = N_REPEATS,
    workers: int = 1,
    progress: str | None = None,
) -> Readings:
    """Read the labels (n,) off each of `vectors`, (n, dim) a readout, by cross-validation that holds out whole groups.

    A logistic regression, whose classes count the same; its regularization is chosen within the part learned from. All
    readouts have the same folds. workers: processes. progress: what to call it on stderr; None: nothing is shown. Raise
    BadInput where a class is in one group alone.
    """
    from joblib import Parallel, delayed
    from tqdm import tqdm

    names, truth = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    of_group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    for given in vectors.values():
        check_probe(given, truth, of_group, names=names, n_repeats=n_repeats)
    parts = folds(truth, of_group, seed=seed, n_repeats=n_repeats)
    jobs = (delayed(times_right)(given, truth, parts) for given in vectors.values())
    with interrupts_blocked():
        found = Parallel(n_jobs=workers, return_as="generator")(jobs)  # starts workers
    counts = list(tqdm(found, total=len(vectors), desc=progress, disable=progress is None, unit="probe"))
    return Readings(list(vectors), np.stack(counts) / n_repeats, truth, of_group)


@dataclass(frozen=True)
class Fold:
    """Rows to learn from and rows to ask about; inner: of the former, a fold by which a regularization is chosen."""

    train: np.ndarray
    test: np.ndarray
    inner: Parts


def folds(truth: np.ndarray, groups: np.ndarray, *, seed: int, n_repeats: int) -> list[Fold]:
    """Return the folds of all repeats."""
    rng = np.random.default_rng(seed)
    return [
        Fold(train, test, inner_parts(truth[train], groups[train], rng=rng)[:1])  # one: there are many ways to try
        for _ in range(n_repeats)
        for train, test in split(truth, groups, at_most=N_FOLDS, rng=rng)
    ]


def times_right(vectors: np.ndarray, truth: np.ndarray, parts: Sequence[Fold]) -> np.ndarray:
    """Return how often the label of each row (n,) was predicted right."""
    from threadpoolctl import threadpool_limits

    right = np.zeros(len(truth))
    with threadpool_limits(1):  # so few numbers at a time are slower on several cores
        for part in parts:
            c = choose_regularization(vectors[part.train], truth[part.train], part.inner)
            known, asked = standardize(vectors[part.train], vectors[part.test])
            predicted = linear_predictions(known, truth[part.train], asked, path=[c])[0]
            right[part.test] += predicted == truth[part.test]
    return right


def choose_readout(readings: Readings, *, against: Readout, seed: int, n_draws: int = N_DRAWS) -> Chosen:
    """Choose the readout of the highest balanced accuracy, of equals the first, and measure the choosing, see above."""
    best = int(np.argmax(readings.whole()))
    weights = readings.draw(seed=seed, n_draws=n_draws)
    winners = np.argmax(readings.accuracies(weights), axis=1)
    left_out = readings.recalls((weights == 0).astype(np.float32))
    return Chosen(
        readings.readouts[best],
        [readings.readouts[winner] for winner in winners],
        over_classes(left_out[:, np.arange(len(winners)), winners]),
        over_classes(left_out[:, :, list(readings.readouts).index(against)]),
        int(readings.groups.max()) + 1,
    )


def over_classes(recalls: np.ndarray) -> np.ndarray:
    """Return the mean over classes of recalls (classes, draws, …).

    A class that is not in a draw counts there as it does on average: were it left out, a class of few groups, which is
    missing often, would weigh less than others. NaN where a class is in no draw.
    """
    n = np.isfinite(recalls).sum(axis=1, keepdims=True)
    total = np.nansum(recalls, axis=1, keepdims=True)
    usual = np.where(n > 0, total / np.maximum(n, 1), np.nan)
    return np.where(np.isfinite(recalls), recalls, usual).mean(axis=0)
