"""Probes: how much of a label can be read off vectors, by a straight line and by the nearest neighbor.

Cells of one picture look alike for reasons that have nothing to do with their label (stain, focus, neighbors of the
same culture), so whole groups are held out: a probe never sees a cell of the picture that it is asked about. Whatever
is chosen (centre and scale of the vectors, the regularization) is chosen on the training part. The same is done with
the labels dealt anew to the groups, for what the number would be by chance.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import BadInput
from ..ranking import unit

__all__ = ["ProbeResult", "Score", "probe"]

N_FOLDS = 5
N_INNER_FOLDS = 3
REGULARIZATIONS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # scikit-learn's C, strongest first
Parts = Sequence[tuple[np.ndarray, np.ndarray]]  # the rows of the training and of the test part of each fold
MAX_ITERATIONS = 500  # more change no prediction: what has not converged by then is hardly regularized


@dataclass(frozen=True)
class Score:
    """Balanced accuracy (the mean of the classes' recalls) over repeats, each with folds of its own.

    mean, deviation: over repeats; chance, chance_deviation: the same with permuted labels, which vary more, for each
    repeat has a permutation of its own; recall: of each class, mean over repeats.
    """

    mean: float
    deviation: float
    chance: float
    chance_deviation: float
    recall: dict[str, float]


@dataclass(frozen=True)
class ProbeResult:
    """What both probes found. n, n_groups: of each class; n_folds: fewer than 5 when there are fewer groups.

    chosen: regularization (scikit-learn's C) -> in how many of the folds of all repeats it was chosen.
    """

    linear: Score
    nearest: Score
    n: dict[str, int]
    n_groups: dict[str, int]
    n_folds: int
    n_repeats: int
    seed: int
    chosen: dict[float, int]


@dataclass(frozen=True)
class Predicted:
    """The class that each probe predicts of every row (n,), and the regularization that each fold chose."""

    linear: np.ndarray
    nearest: np.ndarray
    chosen: list[float]


def probe(
    vectors: np.ndarray, labels: Sequence[str], groups: Sequence[str], *, seed: int, n_repeats: int = 10
) -> ProbeResult:
    """Read the labels off the vectors by cross-validation over groups.

    vectors: (n, dim); labels: one class a row; groups: what must not be on both sides, such as the picture of a cell.
    The predictions of all folds are pooled before a repeat's balanced accuracy is taken.
    """
    names, truth = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    of_group = np.unique(np.asarray(groups, dtype=str), return_inverse=True)[1]
    given = np.asarray(vectors, np.float64)
    n_groups = check_probe(given, truth, of_group, names=names, n_repeats=n_repeats)
    folds, dealing, dealt_folds = (np.random.default_rng(part) for part in np.random.SeedSequence(seed).spawn(3))
    found, by_chance = [], []
    for _ in range(n_repeats):
        found.append((truth, predict_all(given, truth, of_group, rng=folds)))
        dealt = deal_labels(truth, of_group, rng=dealing)
        by_chance.append((dealt, predict_all(given, dealt, of_group, rng=dealt_folds)))
    linear = score(names, [(t, p.linear) for t, p in found], [(t, p.linear) for t, p in by_chance])
    nearest = score(names, [(t, p.nearest) for t, p in found], [(t, p.nearest) for t, p in by_chance])
    chosen = Counter(c for _, predicted in found for c in predicted.chosen)
    return ProbeResult(
        linear=linear,
        nearest=nearest,
        n={str(name): int((truth == k).sum()) for k, name in enumerate(names)},
        n_groups=n_groups,
        n_folds=n_folds_for(truth, of_group, at_most=N_FOLDS),
        n_repeats=n_repeats,
        seed=seed,
        chosen={c: chosen[c] for c in REGULARIZATIONS if chosen[c]},
    )


def check_probe(
    vectors: np.ndarray, truth: np.ndarray, groups: np.ndarray, *, names: np.ndarray, n_repeats: int
) -> dict[str, int]:
    """Return the number of groups of each class; raise BadInput for what cannot be probed."""
    if vectors.ndim != 2 or not len(vectors) == len(truth) == len(groups):
        msg = f"Vectors are (n, dim) with a label and a group each; got {vectors.shape}, {len(truth)}, {len(groups)}."
        raise BadInput(msg)
    if not np.isfinite(vectors).all():
        raise BadInput("Vectors to probe hold NaN or infinite values.")
    if n_repeats < 1:
        raise BadInput(f"A probe is repeated once or more, not {n_repeats} times.")
    if len(names) < 2:
        raise BadInput(f"A probe tells classes apart and needs two; got {', '.join(names) or 'none'}.")
    n_groups = {str(name): len(np.unique(groups[truth == k])) for k, name in enumerate(names)}
    if alone := [name for name, n in n_groups.items() if n < 2]:
        msg = (
            f"Each class must be in two groups, one to learn it from and one to ask about; in one alone: "
            f"{', '.join(alone)}. Leave its rows out or add groups."
        )
        raise BadInput(msg)
    return n_groups


def predict_all(vectors: np.ndarray, truth: np.ndarray, groups: np.ndarray, *, rng: np.random.Generator) -> Predicted:
    """Predict every row by probes that have not seen its group."""
    linear, nearest, chosen = np.full(len(truth), -1), np.full(len(truth), -1), []
    for train, test in split(truth, groups, at_most=N_FOLDS, rng=rng):
        inner = inner_parts(truth[train], groups[train], rng=rng)
        c = choose_regularization(vectors[train], truth[train], inner)
        known, asked = standardize(vectors[train], vectors[test])
        linear[test] = linear_predictions(known, truth[train], asked, path=[c])[0]
        nearest[test] = nearest_predictions(known, truth[train], asked)
        chosen.append(c)
    return Predicted(linear, nearest, chosen)


def inner_parts(truth: np.ndarray, groups: np.ndarray, *, rng: np.random.Generator) -> Parts:
    """Return the folds of rows to learn from by which a regularization is chosen; none of a single group."""
    return list(split(truth, groups, at_most=N_INNER_FOLDS, rng=rng)) if len(np.unique(groups)) > 1 else []


def choose_regularization(vectors: np.ndarray, truth: np.ndarray, parts: Parts) -> float:
    """Return the regularization of the best balanced accuracy in `parts` of the rows given; of equals the strongest.

    Classes that no fold can learn, being in one group of these alone, are wrong with any and change nothing.
    """
    if not parts:
        return REGULARIZATIONS[0]
    predicted = np.full((len(REGULARIZATIONS), len(truth)), -1)
    for train, test in parts:
        known, asked = standardize(vectors[train], vectors[test])
        predicted[:, test] = linear_predictions(known, truth[train], asked, path=REGULARIZATIONS)
    rows = np.concatenate([test for _, test in parts])
    accuracies = [np.nanmean(recalls(truth[rows], own, n_classes=truth.max() + 1)) for own in predicted[:, rows]]
    return REGULARIZATIONS[int(np.argmax(accuracies))]


def split(
    truth: np.ndarray, groups: np.ndarray, *, at_most: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the rows of the training and of the test part of each fold; no group is in both."""
    from sklearn.model_selection import StratifiedGroupKFold

    n_folds = n_folds_for(truth, groups, at_most=at_most)
    strata = truth if np.bincount(truth).max() >= n_folds else np.zeros_like(truth)  # of single rows there are none
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=int(rng.integers(2**31)))
    with warnings.catch_warnings():  # of classes with fewer rows than folds: they are missing in some, as they must be
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = list(folds.split(groups, strata, groups))
    yield from parts


def n_folds_for(truth: np.ndarray, groups: np.ndarray, *, at_most: int) -> int:
    """Return how many folds there can be: no more than groups, nor than rows of the largest class if it has two."""
    return min(at_most, len(np.unique(groups)), max(2, int(np.bincount(truth).max())))


def standardize(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both parts with the mean and the deviation of the training part taken out of each dimension."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    return scaler.transform(train), scaler.transform(test)


def linear_predictions(
    train: np.ndarray, truth: np.ndarray, test: np.ndarray, *, path: Sequence[float]
) -> list[np.ndarray]:
    """Return what a logistic regression predicts of `test`, for each regularization of `path`, the strongest first.

    Classes count the same, whatever their size. Each fit starts from the one before.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(truth)) < 2:
        return [np.full(len(test), truth[0]) for _ in path]
    # turned into the space that its rows span: the same fit, where so few dimensions are worth finding that space
    if train.shape[1] > 4 * len(train):
        axes = np.linalg.svd(train, full_matrices=False)[2]
        train, test = train @ axes.T, test @ axes.T
    model = LogisticRegression(class_weight="balanced", max_iter=MAX_ITERATIONS, warm_start=True)
    predictions = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for c in path:
            predictions.append(model.set_params(C=c).fit(train, truth).predict(test))
    return predictions


def nearest_predictions(train: np.ndarray, truth: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return the class of the training row of highest cosine to each row of `test`."""
    return truth[np.argmax(unit(test) @ unit(train).T, axis=1)]


def deal_labels(truth: np.ndarray, groups: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Return labels with each group given those of another, drawn without return.

    Repeated or cut where its size differs: a group of one class stays one, as a permutation of rows would not have it.
    """
    names = np.unique(groups)
    dealt = np.empty_like(truth)
    for own, donor in zip(names, rng.permutation(names), strict=True):
        rows = np.flatnonzero(groups == own)
        dealt[rows] = np.resize(rng.permutation(truth[groups == donor]), len(rows))
    return dealt


def recalls(truth: np.ndarray, predicted: np.ndarray, *, n_classes: int) -> np.ndarray:
    """Return the recall of each class (n_classes,); NaN for one that is not there."""
    n = np.bincount(truth, minlength=n_classes)
    right = np.bincount(truth[truth == predicted], minlength=n_classes)
    return np.where(n > 0, right / np.maximum(n, 1), np.nan)


def score(
    names: np.ndarray,
    found: Sequence[tuple[np.ndarray, np.ndarray]],
    by_chance: Sequence[tuple[np.ndarray, np.ndarray]],
) -> Score:
    """Return the score of one probe from the truth and the prediction of each repeat."""
    own, chance = (
        np.array([recalls(truth, predicted, n_classes=len(names)) for truth, predicted in repeats])
        for repeats in (found, by_chance)
    )  # (repeats, classes)
    means, means_by_chance = np.nanmean(own, axis=1), np.nanmean(chance, axis=1)
    return Score(
        mean=float(means.mean()),
        deviation=float(means.std()),
        chance=float(means_by_chance.mean()),
        chance_deviation=float(means_by_chance.std()),
        recall={str(name): float(recall) for name, recall in zip(names, own.mean(axis=0), strict=True)},
    )
