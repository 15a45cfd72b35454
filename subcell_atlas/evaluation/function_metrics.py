"""How good predicted functions are, and whether fusion is better than the modalities that it fuses.

Everything is counted over pairs of a protein and a term. That a protein lacks a term is only known where somebody
looked: a protein without any term of an aspect tells nothing of that aspect and is not counted in it.

Uncertainty is that of the proteins: they are drawn with return, the same draws for every modality, so that differences
between modalities are paired. A protein drawn twice is tied with itself, which lifts average precision in every draw,
that of many rare terms beyond the value itself; intervals are therefore percentiles of the draws moved to where their
mean is that value.

Fmax: Radivojac et al. 2013, doi:10.1038/nmeth.2340; Jiang et al. 2016, doi:10.1186/s13059-016-1037-6 (CAFA).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse, stats

from ..errors import BadInput
from ..ranking import average_precision

__all__ = [
    "AspectMetrics",
    "Difference",
    "FunctionMetrics",
    "ModalityMetrics",
    "PointMetrics",
    "Reliability",
    "average_precision",
    "brier_score",
    "brier_skill",
    "counted_pairs",
    "evaluate_functions",
    "fmax",
    "reliability",
    "term_precisions",
]

FUSED = "fused"  # the modality that is compared with the others
BETTER = "better single"  # the one of the others that is best
THRESHOLDS = np.arange(1, 101) / 100  # CAFA's
N_BINS = 10  # of the reliability curve
N_LEVELS = 10_000  # of probability, of micro average precision in draws: off by less than 1e-3
ROWS_AT_A_TIME = 512  # proteins; memory beside the scores grows with this
INTERVAL = (0.025, 0.975)
ALPHA = 0.05  # of the adjusted p of a term
FEWEST_RESAMPLES = 40  # one beyond either end of the interval


@dataclass(frozen=True)
class Reliability:
    """Are things predicted at 0.7 true in 0.7 of cases? One entry a bin, lowest probability first.

    probability: mean of the bin; observed: share that is true; n: predictions.
    """

    probability: tuple[float, ...]
    observed: tuple[float, ...]
    n: tuple[int, ...]

    @property
    def error(self) -> float:
        """Expected calibration error: mean distance of probability and observed over predictions; NaN without any."""
        distances = np.abs(np.subtract(self.probability, self.observed))
        return float(np.average(distances, weights=self.n)) if self.n else float("nan")


@dataclass(frozen=True)
class PointMetrics:
    """Of one modality. macro_ap: mean over terms with a positive; micro_ap: over all pairs; NaN: not to be told.

    brier: mean squared error, lower is better; brier_skill: 1 is perfect, 0 no better than the base rate of each term;
    calibration_error: of the predictions above the base rate.
    """

    macro_ap: float
    micro_ap: float
    fmax: float
    brier: float
    brier_skill: float
    calibration_error: float


@dataclass(frozen=True)
class ModalityMetrics(PointMetrics):
    """The same with 95 % intervals over proteins, and the reliability curve."""

    macro_ap_low: float
    macro_ap_high: float
    micro_ap_low: float
    micro_ap_high: float
    fmax_low: float
    fmax_high: float
    reliability: Reliability


@dataclass(frozen=True)
class AspectMetrics:
    """Of the terms of one aspect; n_proteins: counted in it, n_terms: with a positive."""

    n_proteins: int
    n_terms: int
    modalities: dict[str, PointMetrics]


@dataclass(frozen=True)
class Difference:
    """Fused minus another modality (`against`) in one metric, paired over proteins, with its 95 % interval."""

    metric: str
    against: str
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class FunctionMetrics:
    """What `evaluate_functions` found. n_proteins: counted in any aspect; n_terms: with a positive.

    differences: empty without fused or without another modality. terms: column -> one value a term, in their order;
    see `term_columns`.
    """

    modalities: dict[str, ModalityMetrics]
    aspects: dict[str, AspectMetrics]
    differences: tuple[Difference, ...]
    terms: dict[str, list[Any]]
    n_proteins: int
    n_terms: int
    n_resamples: int
    seed: int


def evaluate_functions(
    truth: Any,
    scores: Mapping[str, np.ndarray],
    *,
    aspects: Sequence[str],
    seed: int,
    known: Mapping[str, np.ndarray] | None = None,
    n_resamples: int = 200,
) -> FunctionMetrics:
    """Measure the predictions of each modality, and of `fused` against the others.

    truth: (n, terms) bool, dense or sparse; scores: modality -> (n, terms) probabilities. Both are taken as they are:
    whoever wants ancestors counted gives both with ancestors. aspects: of each term.
    known: aspect -> (n,) bool, proteins with any annotation in the aspect, also to terms that are not among these.
    Without it those of `truth` alone count, and a term of an aspect of few terms has few negatives.
    """
    true = check_truth(truth)
    check_request(true, scores, aspects, n_resamples=n_resamples)
    given = {name: check_scores(f"of {name}", own, shape=true.shape) for name, own in scores.items()}
    counted = counted_pairs(true, aspects, known=known)
    rows = counted.any(axis=1)
    true, counted, given = true[rows], counted[rows], {name: own[rows] for name, own in given.items()}
    weights = resample(len(true), n_resamples=n_resamples, seed=seed)

    by_term = {name: resampled_term_precisions(true, own, weights, counted=counted) for name, own in given.items()}
    draws = {
        name: {
            "macro_ap": means_over_terms(by_term[name]),
            "micro_ap": resampled_micro_precision(true, own, weights, counted=counted),
            "fmax": resampled_fmax(true, own, weights, counted=counted),
        }
        for name, own in given.items()
    }
    return FunctionMetrics(
        modalities={name: modality_metrics(true, own, counted, draws=draws[name]) for name, own in given.items()},
        aspects={
            aspect: aspect_metrics(np.array([own == aspect for own in aspects]), true, counted, given, by_term)
            for aspect in dict.fromkeys(aspects)
        },
        differences=differences(draws, n_proteins=len(true)),
        terms=term_columns(aspects, true, counted, by_term),
        n_proteins=len(true),
        n_terms=int(true.any(axis=0).sum()),
        n_resamples=n_resamples,
        seed=seed,
    )


def counted_pairs(
    truth: np.ndarray, aspects: Sequence[str], *, known: Mapping[str, np.ndarray] | None = None
) -> np.ndarray:
    """Return which pairs count, (n, terms) bool: of a protein with a term of the aspect in truth or in `known`."""
    of_term = np.array(aspects, dtype=str)
    strange = sorted(set(known or {}) - set(of_term.tolist()))
    if strange:
        msg = (
            f"Proteins are said to be known in {', '.join(strange)}; the terms are of {', '.join(np.unique(of_term))}."
        )
        raise BadInput(msg)
    counted = np.zeros(truth.shape, bool)
    for aspect in np.unique(of_term).tolist():
        own = of_term == aspect
        of_protein = truth[:, own].any(axis=1)
        if known and aspect in known:
            mask = np.asarray(known[aspect])
            if mask.shape != of_protein.shape or mask.dtype != bool:
                msg = f"`known` of {aspect} is ({len(truth)},) bool, one a protein; got {mask.shape} {mask.dtype}."
                raise BadInput(msg)
            of_protein |= mask
        counted[:, own] = np.reshape(of_protein, (-1, 1))
    return counted


def term_precisions(truth: np.ndarray, scores: np.ndarray, *, counted: np.ndarray | None = None) -> np.ndarray:
    """Return the average precision of each term (terms,); NaN for one without a positive."""
    true, own, pairs = checked(truth, scores, counted)
    return resampled_term_precisions(true, own, once(len(true)), counted=pairs)[:, 0]


def fmax(truth: np.ndarray, scores: np.ndarray, *, counted: np.ndarray | None = None) -> float:
    """Return the highest F1 over thresholds of mean precision and mean recall of proteins, as CAFA defines it.

    Precision is the mean over proteins with a prediction at the threshold, recall over all. As there, proteins without
    a true term take no part; NaN when none has one.
    """
    true, own, pairs = checked(truth, scores, counted)
    return float(resampled_fmax(true, own, once(len(true)), counted=pairs)[0])


def brier_score(truth: np.ndarray, scores: np.ndarray, *, counted: np.ndarray | None = None) -> float:
    """Return the mean squared error of the probabilities over pairs; NaN without any."""
    true, own, pairs = checked(truth, scores, counted)
    errors = np.square(own - true)[pairs]
    return float(errors.mean(dtype=np.float64)) if len(errors) else float("nan")


def brier_skill(truth: np.ndarray, scores: np.ndarray, *, counted: np.ndarray | None = None) -> float:
    """Return by which share the error is less than that of predicting every term at its base rate.

    The base rates are those of the same pairs, the best that a constant can do. NaN where they are never wrong.
    """
    true, own, pairs = checked(truth, scores, counted)
    bases, n = base_rates(true, pairs), pairs.sum(axis=0)
    by_base = float((n * bases * (1 - bases)).sum())
    return 1 - brier_score(true, own, counted=pairs) * float(n.sum()) / by_base if by_base else float("nan")


def reliability(
    truth: np.ndarray, scores: np.ndarray, *, counted: np.ndarray | None = None, n_bins: int = N_BINS
) -> Reliability:
    """Return the reliability curve of predictions above the base rate of their term.

    Nearly all pairs are rightly predicted near 0 and would fill every bin. Bins have equal numbers as far as equal
    probabilities allow, which stay together.
    """
    if n_bins < 1:
        raise BadInput(f"A reliability curve has one bin or more, not {n_bins}.")
    true, own, pairs = checked(truth, scores, counted)
    above = pairs & (own > base_rates(true, pairs).astype(own.dtype))
    predicted, right = own[above], true[above]
    if not len(predicted):
        return Reliability((), (), ())
    edges = np.unique(np.sort(predicted)[np.arange(1, n_bins) * len(predicted) // n_bins])
    of_bin = np.searchsorted(edges, predicted, side="right")
    n = np.bincount(of_bin)
    used = n > 0
    probability, observed = (np.bincount(of_bin, values)[used] / n[used] for values in (predicted, right))
    return Reliability(tuple(probability.tolist()), tuple(observed.tolist()), tuple(n[used].tolist()))


def checked(truth: Any, scores: np.ndarray, counted: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return truth of the counted pairs, scores and which pairs count, each (n, terms), or raise BadInput."""
    true = check_truth(truth)
    own = check_scores("given", scores, shape=true.shape)
    pairs = np.ones(true.shape, bool) if counted is None else np.asarray(counted)
    if pairs.shape != true.shape or pairs.dtype != bool:
        raise BadInput(f"`counted` is {true.shape} bool, as truth is; got {pairs.shape} {pairs.dtype}.")
    return true & pairs, own, pairs


def base_rates(truth: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """Return the share of the counted proteins that has each term (terms,); 0 where none is counted."""
    return truth.sum(axis=0) / np.maximum(counted.sum(axis=0), 1)


def once(n: int) -> np.ndarray:
    """Return the weights of no draw but the proteins themselves, (n, 1)."""
    return np.ones((n, 1), np.float32)


def resample(n: int, *, n_resamples: int, seed: int) -> np.ndarray:
    """Return how often each protein is drawn, (n, 1 + n_resamples) float32; first the sample itself, each once."""
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples)
    return np.concatenate([once(n), drawn.T], axis=1, dtype=np.float32)


def resampled_term_precisions(
    truth: np.ndarray, scores: np.ndarray, weights: np.ndarray, *, counted: np.ndarray
) -> np.ndarray:
    """Return the average precision of each term in each draw, (terms, draws); NaN where it has no positive there.

    truth: of counted pairs alone; weights: (n, draws), how often a protein is in the draw: the same as rows repeated.
    """
    found = np.full((truth.shape[1], weights.shape[1]), np.nan)
    for term, column in enumerate(np.ascontiguousarray(scores.T)):
        rows, positives = np.flatnonzero(counted[:, term]), np.flatnonzero(truth[:, term])
        levels = np.unique(column[positives])
        if len(levels):
            predicted = weight_at_levels(levels, column[rows], rows, weights)
            found[term] = precision_of(predicted, weight_at_levels(levels, column[positives], positives, weights))
    return found


def resampled_micro_precision(
    truth: np.ndarray, scores: np.ndarray, weights: np.ndarray, *, counted: np.ndarray
) -> np.ndarray:
    """Return the average precision over all pairs in each draw (draws,), to within 1e-3.

    Between N_LEVELS quantiles of the positives' scores all count as tied. The first draw, of every protein once, is
    exact, and the others are moved with it.
    """
    of_positives = np.sort(scores[truth])
    n_levels = min(N_LEVELS, len(of_positives))
    levels = np.unique(of_positives[np.arange(n_levels) * len(of_positives) // n_levels])
    predicted, right = np.zeros((2, len(levels), weights.shape[1]))
    for start in range(0, len(scores), ROWS_AT_A_TIME):
        block = slice(start, start + ROWS_AT_A_TIME)
        for total, pairs in ((predicted, counted[block]), (right, truth[block])):
            total += weight_at_levels(levels, scores[block][pairs], np.nonzero(pairs)[0], weights[block])
    found = precision_of(predicted, right)
    return found + average_precision(truth[counted], scores[counted]) - found[0]


def weight_at_levels(levels: np.ndarray, scores: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weight of the pairs with a score of each level or between it and the next, (levels, draws).

    levels: rising; scores, rows: of each pair, the row being that of `weights` (n, draws). Below all levels: left out.
    """
    level = np.searchsorted(levels, scores, side="right") - 1
    used = level >= 0
    ones = np.ones(int(used.sum()), np.float32)  # sums of whole numbers, exact up to 2**24
    pairs = sparse.csr_matrix((ones, (level[used], rows[used])), shape=(len(levels), len(weights)))
    return (pairs @ weights).astype(np.float64)


def precision_of(predicted: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the average precision of each draw from the weight of all and of the right pairs at each level."""
    n_predicted, n_right = (np.cumsum(at[::-1], axis=0) for at in (predicted, right))
    with np.errstate(invalid="ignore"):
        return (right[::-1] * n_right / np.maximum(n_predicted, 1)).sum(axis=0) / n_right[-1]


def resampled_fmax(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray, *, counted: np.ndarray) -> np.ndarray:
    """Return Fmax in each draw (draws,); NaN where no protein has a true term."""
    thresholds = THRESHOLDS.astype(scores.dtype)  # so that a float32 0.7 reaches 0.7
    width = len(thresholds) + 1
    totals = np.zeros((3, weights.shape[1], len(thresholds)))  # of precisions, of those with a prediction, of recalls
    n = np.zeros((weights.shape[1], 1))
    for start in range(0, len(scores), ROWS_AT_A_TIME):
        block = slice(start, start + ROWS_AT_A_TIME)
        true, own = truth[block], weights[block].T.astype(np.float64)
        cell = np.searchsorted(thresholds, scores[block], side="right") + width * np.arange(len(true))[:, None]
        n_predicted, n_right = (
            np.bincount(cell[pairs], minlength=width * len(true)).reshape(-1, width)[:, :0:-1].cumsum(axis=1)
            for pairs in (counted[block], true)
        )  # (rows, thresholds), the highest first
        n_true = true.sum(axis=1, keepdims=True)
        usable = own * (n_true[:, 0] > 0)
        n += usable.sum(axis=1, keepdims=True)
        totals[0] += usable @ (n_right / np.maximum(n_predicted, 1))
        totals[1] += usable @ (n_predicted > 0)
        totals[2] += usable @ (n_right / np.maximum(n_true, 1))
    with np.errstate(invalid="ignore"):
        precision, recall = totals[0] / np.maximum(totals[1], 1), totals[2] / n
        return np.max(2 * precision * recall / np.where(recall == 0, 1, precision + recall), axis=1)


def means_over_terms(precisions: np.ndarray) -> np.ndarray:
    """Return the mean over the terms that have a positive, of each draw; NaN where none has."""
    n = np.isfinite(precisions).sum(axis=0)
    return np.where(n > 0, np.nansum(precisions, axis=0) / np.maximum(n, 1), np.nan)


def interval(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the 95 % interval of values (k,) from (k, 1 + draws), the first column the values themselves.

    Percentiles of the draws, moved to where their mean is the value. NaN where fewer than two draws have a value.
    """
    ends = np.full((2, len(draws)), np.nan)
    usable = np.isfinite(draws[:, 1:]).sum(axis=1) > 1
    value, drawn = draws[usable, 0], draws[usable, 1:]
    ends[:, usable] = np.nanquantile(drawn, INTERVAL, axis=1) - np.nanmean(drawn, axis=1) + value
    return ends[0], ends[1]


def modality_metrics(
    truth: np.ndarray, scores: np.ndarray, counted: np.ndarray, *, draws: Mapping[str, np.ndarray]
) -> ModalityMetrics:
    """Return the metrics of one modality; draws: metric -> (1 + draws,)."""
    low, high = (np.clip(ends, 0, 1) for ends in interval(np.stack(list(draws.values()))))
    curve = reliability(truth, scores, counted=counted)
    return ModalityMetrics(
        **{name: float(own[0]) for name, own in draws.items()},
        **{f"{name}_low": float(end) for name, end in zip(draws, low, strict=True)},
        **{f"{name}_high": float(end) for name, end in zip(draws, high, strict=True)},
        brier=brier_score(truth, scores, counted=counted),
        brier_skill=brier_skill(truth, scores, counted=counted),
        calibration_error=curve.error,
        reliability=curve,
    )


def aspect_metrics(
    own: np.ndarray,
    truth: np.ndarray,
    counted: np.ndarray,
    scores: Mapping[str, np.ndarray],
    precisions: Mapping[str, np.ndarray],
) -> AspectMetrics:
    """Return the metrics of the terms `own` (terms,) bool; precisions: modality -> (terms, 1 + draws)."""
    true, pairs = truth[:, own], counted[:, own]
    points = {}
    for name, of_all in scores.items():
        predicted = of_all[:, own]
        points[name] = PointMetrics(
            macro_ap=float(means_over_terms(precisions[name][own, :1])[0]),
            micro_ap=average_precision(true[pairs], predicted[pairs]),
            fmax=fmax(true, predicted, counted=pairs),
            brier=brier_score(true, predicted, counted=pairs),
            brier_skill=brier_skill(true, predicted, counted=pairs),
            calibration_error=reliability(true, predicted, counted=pairs).error,
        )
    return AspectMetrics(int(pairs[:, 0].sum()), int(true.any(axis=0).sum()), points)


def compare(
    fused: np.ndarray, singles: np.ndarray, *, freedom: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Compare fused with the better single in k things; return which, difference, low, high and p, each (k,).

    fused: (k, 1 + draws), the first column the values themselves; singles: (singles, k, 1 + draws); freedom: (k,).

    The better single is the one of higher value on the same proteins that fused is measured on, and stays it in the
    draws. Nobody could choose it beforehand, and chance flatters the better of two: the difference and its interval are
    strict against fused. The p chooses none: fused gains when it is above every single, so its p is the largest of
    theirs; it loses when it is below any, so its p is the least times their number. Each is one-sided, and p is twice
    the smaller of the two. It is of the difference over its standard deviation in the draws, by Student's t: a share of
    200 draws is never below 0.005, which no adjustment over many terms would survive. NaN: not to be told.
    """
    gaps = fused - singles
    better = np.argmax(np.nan_to_num(singles[:, :, 0], nan=-1), axis=0)
    gap = gaps[better, np.arange(len(better))]
    spread = np.full(gaps.shape[:2], np.nan)
    testable = (freedom > 0) & (np.isfinite(gap[:, 1:]).sum(axis=1) > 1)
    spread[:, testable] = np.nanstd(gaps[:, testable, 1:], axis=2, ddof=1)
    freedom = np.minimum(freedom, fused.shape[1] - 2)  # the deviation is known no better than from its draws
    t = np.where(np.isnan(spread), np.nan, gaps[:, :, 0] / np.where(spread > 0, spread, np.inf))
    gain = stats.t.sf(t, freedom).max(axis=0)
    loss = stats.t.cdf(t, freedom).min(axis=0) * len(singles)
    low, high = interval(gap)
    return better, gap[:, 0], low, high, np.minimum(1, 2 * np.minimum(gain, loss))


def differences(draws: Mapping[str, Mapping[str, np.ndarray]], *, n_proteins: int) -> tuple[Difference, ...]:
    """Compare fused with the better single and with each, in each metric; draws: modality -> metric -> (1 + draws,)."""
    singles = {name: np.stack(list(own.values())) for name, own in draws.items() if name != FUSED}
    if FUSED not in draws or not singles:
        return ()
    metrics = list(draws[FUSED])
    fused, freedom = np.stack(list(draws[FUSED].values())), np.full(len(metrics), n_proteins - 1)
    found = []
    for against, others in {BETTER: list(singles.values()), **{name: [own] for name, own in singles.items()}}.items():
        columns = compare(fused, np.stack(others), freedom=freedom)[1:]
        found += [
            Difference(metric, against, *(float(value) for value in row))
            for metric, *row in zip(metrics, *columns, strict=True)
        ]
    return tuple(found)


def term_columns(
    aspects: Sequence[str], truth: np.ndarray, counted: np.ndarray, precisions: Mapping[str, np.ndarray]
) -> dict[str, list[Any]]:
    """Return one value a term, in columns; None where it is not to be told. precisions: modality -> (terms, 1 + draws).

    aspect, n_positive, n_counted, ap_<modality>; and, with fused and another modality: better_single, difference (of
    fused to it), difference_low, difference_high, p, p_adjusted (Benjamini-Hochberg over terms) and verdict: gains,
    loses, no difference. See `compare` for what is compared; t has as many degrees of freedom as positives less one.
    """
    n_positive = truth.sum(axis=0)
    columns: dict[str, list[Any]] = {
        "aspect": list(aspects),
        "n_positive": n_positive.tolist(),
        "n_counted": counted.sum(axis=0).tolist(),
        **{f"ap_{name}": or_none(own[:, 0]) for name, own in precisions.items()},
    }
    singles = [name for name in precisions if name != FUSED]
    if FUSED not in precisions or not singles:
        return columns
    better, gap, low, high, p = compare(
        precisions[FUSED], np.stack([precisions[name] for name in singles]), freedom=n_positive - 1
    )
    adjusted, tested = np.full(len(p), np.nan), np.isfinite(p)
    adjusted[tested] = stats.false_discovery_control(p[tested])
    verdict = np.where(adjusted < ALPHA, np.where(gap > 0, "gains", "loses"), "no difference")
    return columns | {
        "better_single": [singles[i] if n else None for i, n in zip(better, n_positive, strict=True)],
        "difference": or_none(gap),
        "difference_low": or_none(low),
        "difference_high": or_none(high),
        "p": or_none(p),
        "p_adjusted": or_none(adjusted),
        "verdict": [str(own) if told else None for own, told in zip(verdict, tested, strict=True)],
    }


def or_none(values: np.ndarray) -> list[float | None]:
    """Return numbers, None for NaN."""
    return [None if np.isnan(value) else value for value in values.tolist()]


def dense(given: Any) -> np.ndarray:
    """Return an array of what is one, or a sparse matrix."""
    return given.toarray() if sparse.issparse(given) else np.asarray(given)


def check_truth(truth: Any) -> np.ndarray:
    """Return truth (n, terms) as a bool array, or raise BadInput."""
    given = dense(truth)
    if given.ndim != 2:
        raise BadInput(f"Truth is (proteins, terms); got {given.shape}.")
    if given.dtype != bool and not np.isin(given, (0, 1)).all():
        raise BadInput("Truth is true or false, of every protein and term; it holds other values than 0 and 1.")
    return given.astype(bool, copy=False)


def check_scores(of: str, scores: Any, *, shape: tuple[int, ...]) -> np.ndarray:
    """Return scores as float32, or float64 if they are, or raise BadInput."""
    given = dense(scores)
    if given.shape != shape:
        raise BadInput(f"Scores {of} are {given.shape} and truth is {shape}: both are (proteins, terms).")
    if given.dtype.kind not in "fiub":
        raise BadInput(f"Scores {of} are numbers, not {given.dtype}.")
    own = given if given.dtype in (np.float32, np.float64) else given.astype(np.float32)
    if not np.isfinite(own).all():
        raise BadInput(f"Scores {of} hold NaN or infinite values; every pair needs a probability.")
    if own.size and (own.min() < 0 or own.max() > 1):
        raise BadInput(f"Scores {of} are probabilities from 0 to 1; they go from {own.min():.4g} to {own.max():.4g}.")
    return own


def check_request(truth: np.ndarray, scores: Mapping[str, Any], aspects: Sequence[str], *, n_resamples: int) -> None:
    """Raise BadInput for what cannot be evaluated."""
    if not scores:
        raise BadInput("There are no scores: give those of one modality or more.")
    if len(aspects) != truth.shape[1]:
        raise BadInput(f"Each term has an aspect: there are {truth.shape[1]} terms and {len(aspects)} aspects.")
    without = [term for term, aspect in enumerate(aspects) if not (isinstance(aspect, str) and aspect)]
    if without:
        raise BadInput(f"{len(without)} terms have no aspect, the first is number {without[0]}. Name one for them.")
    if n_resamples < FEWEST_RESAMPLES:
        msg = f"An interval of 95 % needs {FEWEST_RESAMPLES} resamples or more, not {n_resamples}."
        raise BadInput(msg)
    if not truth.any():
        raise BadInput("No term has a positive: no protein has any of the terms in truth.")
