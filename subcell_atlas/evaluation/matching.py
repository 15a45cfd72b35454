"""Retrieval by rules: which rows should be near a row and which should not, by what they share and differ in.

The rules, average precision, its null and the correction are those of copairs (Kalinin et al. 2025), as Arevalo et al.
(2024) and JUMP-CP use them. copairs lists every pair and then compares each, which takes it a hundred times as long as
comparing blocks (4,000 vectors of 1,536 numbers: two minutes, here a second): here the pairs are met block by block,
and copairs is asked for what chance gives. Two things differ on purpose. Equally similar rows
are one step, where copairs puts the right ones first, so that vectors that are all the same would be perfect. And a
chance as good as what was found counts as one, where copairs asks for better: with one right row among four, one random
query in four would be called found.

What is not known (None) is like nothing and unlike nothing: its row is in no pair of a rule that reads the column.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import digamma

from ..errors import BadInput
from ..ranking import average_precision_at
from .chance import ALPHA
from .intervals import Observed
from .retrieval import finite_units, label_matrix, rounded_cosines

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "LabelPrecisions",
    "MeanPrecisions",
    "Precisions",
    "Rules",
    "expected_precision",
    "match",
    "match_labels",
    "mean_precisions",
]

NULL_SIZE = 10_000  # random rankings for each number of right and of all rows, as Arevalo et al.
LEAST_NULL_SIZE = 1_000
MOST_RANKED = 2**28  # numbers of a null in memory: null_size times the rows that are ranked
TIE = 1e-6  # by so much less is copairs told, so that a chance that is as good counts
MOST_QUERIES = 512  # at a time; memory grows with these times the rows that they are compared with
MOST_PAIRS = 2**23


@dataclass(frozen=True)
class Rules:
    """Columns that the right rows of a query share and differ in, and those that the wrong ones do.

    pos_sameby and neg_diffby have a column in common, so that no row is both.
    """

    pos_sameby: Sequence[str]
    pos_diffby: Sequence[str]
    neg_sameby: Sequence[str]
    neg_diffby: Sequence[str]

    def __post_init__(self) -> None:
        if not set(self.pos_sameby) & set(self.neg_diffby):
            raise BadInput("Right and wrong rows must be told apart by a column of pos_sameby that is in neg_diffby.")

    @property
    def columns(self) -> list[str]:
        """Every column that is read."""
        return list(dict.fromkeys([*self.pos_sameby, *self.pos_diffby, *self.neg_sameby, *self.neg_diffby]))


@dataclass(frozen=True)
class Precisions:
    """Of each query (n,): average precision, NaN without a right or without a wrong row, and how many of either."""

    average_precision: np.ndarray
    n_pos: np.ndarray
    n_neg: np.ndarray


@dataclass(frozen=True)
class LabelPrecisions:
    """Precisions of pairs of a row and one of its labels. rows: (pairs,) of the vectors; labels: (pairs,) names."""

    rows: np.ndarray
    labels: list[str]
    of: Precisions


@dataclass(frozen=True)
class MeanPrecisions:
    """Of each group (g,) of queries, in order of name: the mean of their average precisions.

    chance: what random rankings give; p: how often they give as much, (1 + as much) / (1 + null_size); p_adjusted:
    the same after Benjamini and Hochberg.
    """

    names: list[str]
    mean_ap: np.ndarray
    chance: np.ndarray
    p: np.ndarray
    p_adjusted: np.ndarray
    null_size: int
    n_queries: int

    def observed(self, drawn: Sequence[str] | None = None) -> dict[str, Observed]:
        """Return what `map` and `retrieved`, means over groups, are made of; drawn: of each group, itself if None."""
        names = np.array(self.names if drawn is None else drawn, dtype=str)
        values = {"map": self.mean_ap, "retrieved": (self.p_adjusted < ALPHA).astype(float)}
        return {name: Observed(self.names, of, names) for name, of in values.items()}


def match(
    vectors: np.ndarray, columns: Mapping[str, Sequence[str | None]], rules: Rules, *, asked: np.ndarray | None = None
) -> Precisions:
    """Ask of each row of `vectors` (n, dim) whether its right rows are nearer than its wrong ones, by cosine.

    columns: what is known of the rows, by name; asked: (n,) which rows are queries, all if None. Vectors that are not
    finite raise BadInput.
    """
    units = finite_units(vectors)
    codes = {name: coded(columns[name], len(units)) for name in rules.columns}
    positive, negative = (joined(codes, names, len(units)) for names in (rules.pos_sameby, rules.neg_sameby))
    found, n_pos, n_neg = np.full(len(units), np.nan), np.zeros(len(units), int), np.zeros(len(units), int)
    queries = np.ones(len(units), bool) if asked is None else np.asarray(asked, bool)
    for rows, others in blocks(positive, negative, queries):
        similarity = rounded_cosines(units[rows], units[others])
        right = pairs(positive, [codes[name] for name in rules.pos_diffby], rows, others)
        right[rows[:, None] == others] = False
        wrong = pairs(negative, [codes[name] for name in rules.neg_diffby], rows, others)
        for row, near, own, not_own in zip(rows, similarity, right, wrong, strict=True):
            found[row], n_pos[row], n_neg[row] = precision(near[own], near[not_own])
    return Precisions(found, n_pos, n_neg)


def coded(values: Sequence[str | None], n: int) -> np.ndarray:
    """Return a number (n,) for each value, -1 for None; raise BadInput when there are not `n`."""
    if len(values) != n:
        raise BadInput(f"Each of {n} vectors has a value in every column; got {len(values)}.")
    numbers: dict[str, int] = {}
    return np.array([-1 if value is None else numbers.setdefault(value, len(numbers)) for value in values], int)


def joined(codes: Mapping[str, np.ndarray], names: Sequence[str], n: int) -> np.ndarray:
    """Return one number (n,) for what rows have in several columns, -1 where one of these is not known."""
    whole, known = np.zeros(n, int), np.ones(n, bool)
    for name in names:
        known &= codes[name] >= 0
        whole = np.unique(whole * (codes[name].max(initial=0) + 2) + codes[name], return_inverse=True)[1]
    return np.where(known, whole, -1)


def blocks(positive: np.ndarray, negative: np.ndarray, asked: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield queries, a part of those whose wrong rows are of one group, with all rows that may be right or wrong."""
    queries = np.flatnonzero(asked & (positive >= 0) & (negative >= 0))
    queries = queries[np.lexsort((positive[queries], negative[queries]))]
    alike, may_be_wrong = members(positive), members(negative)
    for group in np.split(queries, np.flatnonzero(np.diff(negative[queries])) + 1):
        if not len(group):
            continue
        wrong = may_be_wrong[negative[group[0]]]
        step = int(np.clip(MOST_PAIRS // len(wrong), 1, MOST_QUERIES))
        for start in range(0, len(group), step):
            rows = group[start : start + step]
            right = np.concatenate([alike[code] for code in np.unique(positive[rows])])
            yield rows, np.union1d(wrong, right)


def members(codes: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each number from 0 up."""
    known = np.flatnonzero(codes >= 0)
    order = known[np.argsort(codes[known], kind="stable")]
    return np.split(order, np.searchsorted(codes[order], np.arange(1, codes.max(initial=0) + 1)))


def pairs(same: np.ndarray, differ: Sequence[np.ndarray], rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return which pairs (rows, others) are of one group and differ in every column of `differ`."""
    found = (same[rows][:, None] == same[others]) & (same[others] >= 0)
    for codes in differ:
        found &= (codes[rows][:, None] != codes[others]) & (codes[others] >= 0) & (codes[rows] >= 0)[:, None]
    return found


def precision(right: np.ndarray, wrong: np.ndarray) -> tuple[float, int, int]:
    """Return the average precision of similarities of right and of wrong rows, and how many of each there are."""
    if not len(right) or not len(wrong):
        return float("nan"), len(right), len(wrong)
    at_least = len(right) - np.searchsorted(np.sort(right), right)
    at_least += len(wrong) - np.searchsorted(np.sort(wrong), right)
    return average_precision_at(at_least), len(right), len(wrong)


def match_labels(
    vectors: np.ndarray, labels: Sequence[frozenset[str]], *, within: Sequence[str | None] | None = None
) -> LabelPrecisions:
    """Ask of each row of `vectors` (n, dim) and each of its labels whether the others that have it are near.

    Wrong are rows that share no label with the query at all, as in copairs' multilabel average precision. Rows without
    a label are left out. within: (n,) in what right and wrong rows are like the query, such as the cell line.
    """
    labelled = np.array([row for row, own in enumerate(labels) if own], int)
    if not len(labelled):
        none = np.zeros(0, int)
        return LabelPrecisions(none, [], Precisions(none.astype(float), none, none))
    units = finite_units(np.asarray(vectors)[labelled])
    names = sorted(set().union(*labels))
    has = label_matrix([labels[row] for row in labelled])
    of_label = has.toarray().T > 0  # (labels, n)
    group = coded([within[row] for row in labelled] if within is not None else [""] * len(labelled), len(labelled))
    rows, labels_of, found = [], [], []
    for start in range(0, len(labelled), MOST_QUERIES):
        queries = np.arange(start, min(start + MOST_QUERIES, len(labelled)))
        similarity = rounded_cosines(units[queries], units)
        shared = (has[queries] @ has.T).toarray() > 0
        for query, near, none_of_it in zip(queries, similarity, ~shared, strict=True):
            among = (group == group[query]) & (group >= 0)
            for label in np.flatnonzero(of_label[:, query]):
                right = among & of_label[label]
                right[query] = False
                rows.append(labelled[query])
                labels_of.append(names[label])
                found.append(precision(near[right], near[among & none_of_it]))
    precisions, n_pos, n_neg = (np.array(part) for part in zip(*found, strict=True))
    return LabelPrecisions(np.array(rows, int), labels_of, Precisions(precisions, n_pos, n_neg))


def expected_precision(n_pos: np.ndarray, n_neg: np.ndarray) -> np.ndarray:
    """Return the average precision (n,) that random rankings give in the mean; two rows or more are ranked."""
    n = np.asarray(n_pos) + np.asarray(n_neg)
    harmonic = digamma(n + 1) + np.euler_gamma  # 1 + 1/2 + … + 1/n
    return ((n_pos - 1) / (n - 1) * (n - harmonic) + harmonic) / n


def mean_precisions(
    found: Precisions, groups: Sequence[str], *, seed: int, null_size: int = NULL_SIZE
) -> MeanPrecisions | None:
    """Return the mean average precision of each group of queries with its p-value; None when there is no query.

    null_size: fewer where so many rows are ranked that the null would not fit the memory, at least 1,000.
    """
    told = np.isfinite(found.average_precision)
    if not told.any():
        return None
    import pandas as pd

    n_pos, n_neg = found.n_pos[told], found.n_neg[told]
    null_size = min(null_size, max(LEAST_NULL_SIZE, MOST_RANKED // int((n_pos + n_neg).max())))
    table = pd.DataFrame(
        {
            "group": np.array(groups, dtype=object)[told],
            "average_precision": found.average_precision[told] - TIE,
            "normalized_average_precision": expected_precision(n_pos, n_neg),  # by this name copairs takes a mean
            "n_pos_pairs": n_pos,
            "n_total_pairs": n_pos + n_neg,
        }
    )
    means = means_of_copairs(table, null_size=null_size, seed=seed)
    return MeanPrecisions(
        names=means["group"].tolist(),
        mean_ap=means["mean_average_precision"].to_numpy() + TIE,
        chance=means["mean_normalized_average_precision"].to_numpy(),
        p=means["p_value"].to_numpy(),
        p_adjusted=means["corrected_p_value"].to_numpy(),
        null_size=null_size,
        n_queries=int(told.sum()),
    )


def means_of_copairs(table: pd.DataFrame, *, null_size: int, seed: int) -> pd.DataFrame:
    """Return copairs' table of groups; what it keeps of nulls is deleted, for it depends on what was asked before."""
    from copairs.map import mean_average_precision

    with tempfile.TemporaryDirectory() as folder:
        return mean_average_precision(
            table, ["group"], null_size=null_size, threshold=ALPHA, seed=seed, progress_bar=False, cache_dir=folder
        )
