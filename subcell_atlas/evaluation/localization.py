"""Localization: how well where a protein sits can be read off its vectors, by a line and by its nearest neighbors.

Each class (a protein may have several) is told from the rest. The line is ridge regression on 0 and 1, one for each
class, whose ranking is what counts here: unlike logistic regression it is had in closed form, for all classes from
one matrix of products, which makes a probe of a proteome a matter of minutes. The neighbors are the rows of highest
cosine, and a class's score is the share of them that have it, each counted by its cosine. Vectors are standardized, and
the regularization chosen, on the training part. Chance is what the same probes make of labels dealt anew to the genes:
where a gene is on both sides of a split, it is more than what guessing makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import linalg

from ..errors import BadInput
from ..ranking import average_precision, unit
from .intervals import Observed

__all__ = ["PROBES", "MacroPrecision", "Probed", "class_precisions", "folds_of", "probe_localization"]

N_FOLDS = 5
N_INNER_FOLDS = 3
REGULARIZATIONS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # times the rows: relative to the variance of a dimension, 1
N_NEIGHBORS = 10
ROWS_AT_A_TIME = 512
PROBES = ("linear", "nearest")


@dataclass(frozen=True)
class Probed:
    """What two probes told of rows that they had not seen.

    rows: (tested,) of the vectors; truth: (tested, classes) bool; scores: probe -> (tested, classes); chance: probe ->
    (classes,) average precision with labels dealt anew; chosen: the regularization of each fold.
    """

    rows: np.ndarray
    truth: np.ndarray
    scores: Mapping[str, np.ndarray]
    chance: Mapping[str, np.ndarray]
    chosen: list[float]

    @cached_property
    def precisions(self) -> dict[str, np.ndarray]:
        """The average precision of each class, by probe; NaN for a class that no tested row has."""
        return {probe: class_precisions(self.truth, scores) for probe, scores in self.scores.items()}

    def macro(self, probe: str) -> float:
        """Return the mean over classes of average precision."""
        return mean_of_known(self.precisions[probe])

    def macro_chance(self, probe: str) -> float:
        """Return the same of labels dealt anew."""
        return mean_of_known(self.chance[probe])

    def micro(self, probe: str) -> float:
        """Return the average precision of all pairs of a row and a class, ranked together."""
        return float(class_precisions(self.truth.reshape(-1, 1), self.scores[probe].reshape(-1, 1))[0])

    def observed(self, probe: str, ids: Sequence[str], drawn: Sequence[str]) -> Observed:
        """Return what the macro average precision is made of; ids, drawn: of each row of the vectors."""
        statistic = MacroPrecision(self.truth, self.scores[probe])
        names = [ids[row] for row in self.rows]
        return Observed(names, np.arange(len(names)), np.array([drawn[row] for row in self.rows], str), statistic)


class MacroPrecision:
    """The mean over classes of average precision, rows counted by weights: a statistic of numbers of rows."""

    def __init__(self, truth: np.ndarray, scores: np.ndarray) -> None:
        self.n = len(truth)
        self.classes = [ranking(of, own) for of, own in zip(truth.T, scores.T, strict=True) if of.any()]

    def __call__(self, values: np.ndarray, weights: np.ndarray) -> float:
        """Return it for the rows `values` (m,), each counted as often as `weights` (m,) says."""
        whole = np.zeros(self.n)
        whole[values.astype(int)] = weights
        found = np.array([weighted_precision(*own, whole) for own in self.classes])
        return mean_of_known(found)


def ranking(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows from the highest score, where among them those that have the class are, and where their ties end."""
    order = np.argsort(-scores, kind="stable")
    ordered = -scores[order]
    places = np.flatnonzero(truth[order])
    return order, places, np.searchsorted(ordered, ordered[places], side="right") - 1


def weighted_precision(order: np.ndarray, places: np.ndarray, ends: np.ndarray, weights: np.ndarray) -> float:
    """Return the average precision of a ranking with weights (n,) of rows; NaN where those of the class have none."""
    own = weights[order]
    right = np.zeros(len(own))
    right[places] = own[places]
    total = right.sum()
    if not total:
        return float("nan")
    precision = np.cumsum(right)[ends] / np.maximum(np.cumsum(own)[ends], 1e-12)
    return float(right[places] @ precision / total)


def mean_of_known(values: np.ndarray) -> float:
    """Return the mean of what is not NaN; NaN when nothing is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def class_precisions(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the average precision of each class (classes,) over rows (n, classes); NaN for a class that no row has."""
    return np.array([average_precision(of, own) for of, own in zip(truth.T, scores.T, strict=True)])


def folds_of(groups: Sequence[str] | np.ndarray, *, seed: int, n_folds: int = N_FOLDS) -> np.ndarray:
    """Return in which fold (n,) each row is tested: groups are dealt to folds whole, at random."""
    names, of = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    dealt = np.arange(len(names)) % n_folds
    return np.random.default_rng(seed).permutation(dealt)[of]


def probe_localization(
    vectors: np.ndarray, truths: Mapping[str, np.ndarray], *, folds: np.ndarray, genes: Sequence[str], seed: int
) -> dict[str, Probed]:
    """Tell classes of vectors (n, dim), by cross-validation over `folds` (n,); -1: a row to learn from alone.

    truths: sets of classes by name, (n, classes) bool each; genes: of each row, held together when the regularization
    is chosen, and when labels are dealt anew. Raise BadInput for vectors that are not finite and for fewer than two
    folds.
    """
    vectors = np.asarray(vectors, np.float32)
    if not np.isfinite(vectors).all():
        raise BadInput("Vectors to probe hold NaN or infinite values.")
    if len(np.unique(folds)) < 2:
        raise BadInput("A probe needs rows to learn from and other rows to test: two folds or more.")
    of_gene = np.unique(np.asarray(genes, dtype=str), return_inverse=True)[1]
    donors = dealt_rows(of_gene, seed=seed)
    sets = [*truths.values(), *(truth[donors] for truth in truths.values())]
    linear, nearest, chosen = tell(vectors, sets, folds, of_gene, seed=seed)
    rows = np.flatnonzero(folds >= 0)
    found = {}
    for at, (name, truth) in enumerate(truths.items()):
        by_chance = at + len(truths)
        found[name] = Probed(
            rows,
            truth[rows],
            {"linear": linear[at][rows], "nearest": nearest[at][rows]},
            {
                "linear": class_precisions(sets[by_chance][rows], linear[by_chance][rows]),
                "nearest": class_precisions(sets[by_chance][rows], nearest[by_chance][rows]),
            },
            chosen[at],
        )
    return found


def dealt_rows(of_gene: np.ndarray, *, seed: int) -> np.ndarray:
    """Return for each row (n,) one of another gene, genes drawn without return, whose labels it is given.

    Of a gene with more rows than its donor some are used again.
    """
    rng = np.random.default_rng(seed)
    rows = np.split(np.argsort(of_gene, kind="stable"), np.cumsum(np.bincount(of_gene))[:-1])
    donors = np.empty(len(of_gene), int)
    for own, donor in zip(rows, rng.permutation(len(rows)), strict=True):
        donors[own] = np.resize(rows[donor], len(own))
    return donors


def tell(
    vectors: np.ndarray, truths: Sequence[np.ndarray], folds: np.ndarray, of_gene: np.ndarray, *, seed: int
) -> tuple[list[np.ndarray], list[np.ndarray], list[list[float]]]:
    """Return what line and neighbors score every tested row, for each set of classes, and what each fold chose."""
    truth, parts = np.hstack(truths), slices(truths)
    linear, nearest = np.zeros(truth.shape, np.float32), np.zeros(truth.shape, np.float32)
    chosen: list[list[float]] = [[] for _ in truths]
    for fold in np.unique(folds[folds >= 0]):
        train, test = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        best = choose(vectors[train], truth[train], of_gene[train], parts=parts, seed=seed)
        known, asked = standardize(vectors[train], vectors[test])
        path = sorted(set(best))
        for regularization, scores in zip(path, Line(known).scores(truth[train], asked, path), strict=True):
            for part in (part for part, own in zip(parts, best, strict=True) if own == regularization):
                linear[test, part] = scores[:, part]
        nearest[test] = shares(truth[train], *nearest_rows(known, asked))
        for own, regularization in zip(chosen, best, strict=True):
            own.append(regularization)
    return [linear[:, part] for part in parts], [nearest[:, part] for part in parts], chosen


def slices(truths: Sequence[np.ndarray]) -> list[slice]:
    """Return where the classes of each set are when all stand side by side."""
    ends = np.cumsum([truth.shape[1] for truth in truths]).tolist()
    return [slice(end - truth.shape[1], end) for truth, end in zip(truths, ends, strict=True)]


def choose(
    vectors: np.ndarray, truth: np.ndarray, of_gene: np.ndarray, *, parts: Sequence[slice], seed: int
) -> list[float]:
    """Return the regularization of the best macro average precision of each set, in folds of genes among the rows."""
    inner = folds_of(of_gene, seed=seed, n_folds=N_INNER_FOLDS)
    if len(np.unique(inner)) < 2:
        return [REGULARIZATIONS[-1]] * len(parts)
    told = np.zeros((len(REGULARIZATIONS), *truth.shape), np.float32)
    for fold in np.unique(inner):
        train, test = np.flatnonzero(inner != fold), np.flatnonzero(inner == fold)
        known, asked = standardize(vectors[train], vectors[test])
        for at, scores in enumerate(Line(known).scores(truth[train], asked, REGULARIZATIONS)):
            told[at, test] = scores
    precisions = np.array([class_precisions(truth, scores) for scores in told])  # (regularizations, classes)
    means = [[mean_of_known(own[part]) for own in precisions] for part in parts]
    return [REGULARIZATIONS[int(np.nanargmax(own))] if np.isfinite(own).any() else REGULARIZATIONS[-1] for own in means]


class Line:
    """Ridge regression on standardized rows (m, dim), ready for any classes and regularizations."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows
        self.few = len(rows) < rows.shape[1]  # then solved by row, not by dimension: the same line
        self.products = (rows @ rows.T if self.few else rows.T @ rows).astype(np.float64)

    def scores(self, truth: np.ndarray, asked: np.ndarray, regularizations: Sequence[float]) -> Iterator[np.ndarray]:
        """Yield scores (asked, classes) by what is known of the rows, (m, classes), for each regularization."""
        mean = truth.mean(axis=0)
        wanted = (truth - mean).astype(np.float32)
        known, asked = (wanted, asked @ self.rows.T) if self.few else (self.rows.T @ wanted, asked)
        diagonal = np.diagonal(self.products).copy()
        for regularization in regularizations:
            shrunk = self.products.copy()
            np.fill_diagonal(shrunk, diagonal + regularization * len(self.rows))
            factor = linalg.cho_factor(shrunk, overwrite_a=True, check_finite=False)
            weights = linalg.cho_solve(factor, known.astype(np.float64), check_finite=False)
            yield asked @ weights.astype(np.float32) + mean.astype(np.float32)


def standardize(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both parts with mean and deviation of the training part taken out; a dimension that is constant is 0."""
    mean, deviation = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    scale = np.where(deviation > 1e-9 * np.maximum(np.abs(mean), 1e-30), deviation, np.inf)
    mean, scale = mean.astype(np.float32), scale.astype(np.float32)
    return (train - mean) / scale, (test - mean) / scale


def nearest_rows(train: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the training rows of highest cosine to each row that is asked, and the cosines: (asked, neighbors)."""
    units, queries = unit(train), unit(asked)
    k = min(N_NEIGHBORS, len(units))
    found, similarity = np.empty((len(queries), k), int), np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries), ROWS_AT_A_TIME):
        part = slice(start, start + ROWS_AT_A_TIME)
        near = queries[part] @ units.T
        found[part] = np.argpartition(-near, k - 1, axis=1)[:, :k]
        similarity[part] = np.take_along_axis(near, found[part], axis=1)
    return found, similarity


def shares(truth: np.ndarray, neighbors: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """Return the share (asked, classes) of neighbors that have a class, each counted by its cosine if above 0."""
    weights = np.maximum(similarity, 0) + 1e-9  # of neighbors that are all unlike, each counts the same
    weights /= weights.sum(axis=1, keepdims=True)
    return np.einsum("ak,akc->ac", weights, truth[neighbors].astype(np.float32))
