"""Metrics of predicted functions: numbers computed by hand, slow twins, intervals that hold what they should."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse, stats
from sklearn.metrics import average_precision_score, brier_score_loss

from subcell_atlas.errors import BadInput
from subcell_atlas.evaluation import function_metrics
from subcell_atlas.evaluation.function_metrics import (
    INTERVAL,
    average_precision,
    brier_score,
    brier_skill,
    compare,
    counted_pairs,
    differences,
    evaluate_functions,
    fmax,
    interval,
    means_over_terms,
    reliability,
    resample,
    resampled_fmax,
    resampled_micro_precision,
    resampled_term_precisions,
    term_columns,
    term_precisions,
)

ONE_KIND = {"n_resamples": 40, "seed": 0}


def predictions(*, n=120, n_terms=8, signals=(1.0,), share=0.2, decimals=None, seed=0):
    """Truth, and scores of each signal: higher where true by so many deviations. Few decimals make ties."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, n_terms)) < share
    raw = [signal * truth + rng.normal(0, 1, truth.shape) - 1 for signal in signals]
    scores = [(1 / (1 + np.exp(-own))).astype(np.float32) for own in raw]
    return truth, [own if decimals is None else np.round(own, decimals) for own in scores]


def three_modalities(*, signals, **kwargs):
    """Truth, scores by name in the order image, sequence, fused, and one aspect for all."""
    truth, scores = predictions(signals=signals, **kwargs)
    return truth, dict(zip(("image", "sequence", "fused"), scores, strict=True)), ["process"] * truth.shape[1]


def resampled(truth, scores, *, n_resamples, seed):
    """Average precisions of each modality's terms in the same draws, all pairs counted."""
    weights = resample(len(truth), n_resamples=n_resamples, seed=seed)
    everything = np.ones_like(truth)
    return {name: resampled_term_precisions(truth, own, weights, counted=everything) for name, own in scores.items()}


def naive_fmax(truth, scores):
    """CAFA's, protein by protein."""
    found = []
    for threshold in np.arange(1, 101) / 100:
        precisions, recalls = [], []
        for true, own in zip(truth, scores, strict=True):
            if not true.any():
                continue
            predicted = own >= own.dtype.type(threshold)
            if predicted.any():
                precisions.append((predicted & true).sum() / predicted.sum())
            recalls.append((predicted & true).sum() / true.sum())
        precision, recall = np.mean(precisions) if precisions else 0.0, np.mean(recalls)
        found.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    return max(found)


def test_average_precision_of_three_positives_by_hand():
    truth = np.array([True, False, True, False, True])
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    assert average_precision(truth, scores) == pytest.approx((1 / 1 + 2 / 3 + 3 / 5) / 3)


def test_equal_scores_are_one_step():
    truth = np.array([True, False, True, False])
    assert average_precision(truth, np.array([0.5, 0.5, 0.5, 0.1])) == pytest.approx(2 / 3)
    assert average_precision(truth, np.full(4, 0.3)) == 0.5
    assert average_precision(truth[::-1], np.array([0.5, 0.5, 0.5, 0.1])[::-1]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("decimals", [None, 2, 1, 0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_average_precisions_are_those_of_scikit_learn_also_with_ties(decimals, dtype):
    truth, (scores,) = predictions(decimals=decimals, share=0.1)
    own = scores.astype(dtype)
    expected = [average_precision_score(truth[:, j], own[:, j]) for j in range(truth.shape[1])]
    np.testing.assert_allclose(term_precisions(truth, own), expected, rtol=0, atol=1e-9)
    micro = average_precision(truth.ravel(), own.ravel())
    assert micro == pytest.approx(average_precision_score(truth, own, average="micro"), abs=1e-9)


def test_a_term_without_a_positive_has_no_average_precision():
    truth, (scores,) = predictions()
    truth[:, 3] = False
    found = term_precisions(truth, scores)
    assert np.isnan(found[3])
    assert np.isfinite(np.delete(found, 3)).all()
    assert np.isnan(average_precision(truth[:, 3], scores[:, 3]))
    known = {"process": np.ones(120, bool)}
    metrics = evaluate_functions(truth, {"image": scores}, aspects=["process"] * 8, known=known, **ONE_KIND)
    assert metrics.n_terms == 7
    assert metrics.modalities["image"].macro_ap == pytest.approx(np.delete(found, 3).mean())
    assert metrics.terms["ap_image"][3] is None


def test_fmax_of_two_proteins_by_hand():
    truth = np.array([[True, True, False], [True, False, False]])
    scores = np.array([[0.9, 0.2, 0.1], [0.3, 0.3, 0.0]], np.float32)
    # at 0.2: precisions 1 and 1/2, recalls 1 and 1; above 0.3 one protein has a prediction, recalls 1/2 and 0
    assert fmax(truth, scores) == pytest.approx(2 * 0.75 / 1.75)
    # without a prediction for the second its precision is not counted, its recall of 0 is
    assert fmax(truth, np.array([[0.9, 0.2, 0.1], [0.0, 0.0, 0.0]], np.float32)) == pytest.approx(2 / 3)


def test_fmax_reaches_thresholds_that_float32_cannot_hold():
    truth = np.array([[True, False]])
    for threshold in range(1, 101):
        at = np.array([[threshold / 100, threshold / 100 - 0.001]], np.float32)
        assert fmax(truth, at) == fmax(truth, at.astype(np.float64).round(3)) == 1.0


@pytest.mark.parametrize("decimals", [None, 2, 1])
@pytest.mark.parametrize("share", [0.02, 0.5])
def test_fmax_is_that_of_the_slow_obvious_way(monkeypatch, decimals, share):
    monkeypatch.setattr(function_metrics, "ROWS_AT_A_TIME", 50)
    truth, (scores,) = predictions(decimals=decimals, share=share)
    scores[::3] *= 0.3  # so that some have no prediction where others have
    assert not truth.any(axis=1).all()
    assert fmax(truth, scores) == pytest.approx(naive_fmax(truth, scores), abs=1e-12)


def test_fmax_is_none_without_a_true_term_and_zero_without_a_prediction():
    assert np.isnan(fmax(np.zeros((2, 3), bool), np.ones((2, 3), np.float32)))
    assert fmax(np.ones((2, 3), bool), np.full((2, 3), 0.009, np.float32)) == 0.0


def test_brier_score_and_skill():
    truth, (scores,) = predictions()
    assert brier_score(truth, scores) == pytest.approx(brier_score_loss(truth.ravel(), scores.ravel()), abs=1e-7)
    bases = np.broadcast_to(truth.mean(axis=0), truth.shape)
    assert brier_skill(truth, bases) == pytest.approx(0, abs=1e-12)
    assert brier_skill(truth, truth.astype(np.float32)) == 1.0
    assert brier_skill(truth, (~truth).astype(np.float32)) < -1
    assert np.isnan(brier_skill(np.ones((3, 1), bool), np.ones((3, 1))))


def test_reliability_by_hand():
    truth = np.array([[0, 0, 0, 1, 0, 1, 1, 1]]).T
    scores = np.array([[0.1, 0.2, 0.51, 0.55, 0.6, 0.7, 0.8, 0.9]]).T  # base rate 0.5
    curve = reliability(truth, scores, n_bins=2)
    assert curve.n == (3, 3)
    assert curve.probability == pytest.approx(((0.51 + 0.55 + 0.6) / 3, 0.8))
    assert curve.observed == pytest.approx((1 / 3, 1))
    assert curve.error == pytest.approx(((0.51 + 0.55 + 0.6) / 3 - 1 / 3 + 0.2) / 2)


def test_calibrated_probabilities_have_no_calibration_error_and_doubled_ones_have():
    rng = np.random.default_rng(0)
    probabilities = rng.beta(0.5, 4, (3000, 10))
    truth = rng.random((3000, 10)) < probabilities
    curve = reliability(truth, probabilities)
    assert max(curve.n) - min(curve.n) <= 1
    assert list(curve.probability) == sorted(curve.probability)
    assert curve.error < 0.02
    assert reliability(truth, np.minimum(1, 2 * probabilities)).error > 0.15


def test_predictions_at_the_base_rate_and_those_not_counted_are_in_no_bin():
    truth = np.arange(10)[:, None] == 0
    assert reliability(truth, np.full((10, 1), 0.1, np.float32)).n == ()
    counted = np.arange(10)[:, None] < 4
    curve = reliability(truth, np.full((10, 1), 0.3, np.float32), counted=counted)
    assert curve.n == (4,)
    assert curve.observed == (0.25,)


def test_predictions_of_equal_probability_share_a_bin():
    truth, _ = predictions(n=400)
    scores = np.where(np.arange(400)[:, None] % 4 == 0, 0.9, 0.5) * np.ones((1, 8))
    curve = reliability(truth, scores)
    assert curve.n == (2400, 800)
    assert curve.probability == pytest.approx((0.5, 0.9))
    nothing = reliability(truth, np.zeros(truth.shape))
    assert nothing.n == ()
    assert np.isnan(nothing.error)


@pytest.mark.parametrize("decimals", [None, 1])
def test_draws_equal_the_metrics_of_repeated_rows(monkeypatch, decimals):
    monkeypatch.setattr(function_metrics, "ROWS_AT_A_TIME", 50)
    truth, (scores,) = predictions(decimals=decimals, share=0.03, n_terms=5)
    truth[:, 0] = np.arange(120) == 7
    counted = np.random.default_rng(1).random(truth.shape) < 0.9
    true = truth & counted
    weights = resample(len(truth), n_resamples=4, seed=0)
    assert (weights.sum(axis=0) == len(truth)).all()
    by_term = resampled_term_precisions(true, scores, weights, counted=counted)
    micro = resampled_micro_precision(true, scores, weights, counted=counted)
    by_protein = resampled_fmax(true, scores, weights, counted=counted)
    assert np.isnan(by_term).any()
    for draw, weight in enumerate(weights.T):
        rows = np.repeat(np.arange(len(truth)), weight.astype(int))
        own, drawn, pairs = true[rows], scores[rows], counted[rows]
        expected = [
            average_precision_score(own[pairs[:, j], j], drawn[pairs[:, j], j]) if own[:, j].any() else np.nan
            for j in range(5)
        ]
        np.testing.assert_allclose(by_term[:, draw], expected, rtol=0, atol=1e-9)
        assert micro[draw] == pytest.approx(average_precision_score(own[pairs], drawn[pairs]), abs=1e-9)
        assert by_protein[draw] == pytest.approx(naive_fmax(own, np.where(pairs, drawn, 0)), abs=1e-9)


@pytest.mark.parametrize("signal", [0.0, 1.0, 3.0])
def test_micro_average_precision_of_draws_is_off_by_less_than_a_thousandth(signal):
    truth, (scores,) = predictions(n=1500, n_terms=50, signals=(signal,), share=0.3)
    counted = np.ones_like(truth)
    assert len(np.unique(scores[truth])) > 1.5 * function_metrics.N_LEVELS
    weights = resample(len(truth), n_resamples=4, seed=0)
    found = resampled_micro_precision(truth, scores, weights, counted=counted)
    for value, weight in zip(found, weights.T, strict=True):
        rows = np.repeat(np.arange(len(truth)), weight.astype(int))
        assert value == pytest.approx(average_precision(truth[rows].ravel(), scores[rows].ravel()), abs=2e-4)
    assert found[0] == pytest.approx(average_precision(truth.ravel(), scores.ravel()), abs=1e-12)


def test_what_nobody_looked_for_is_not_counted():
    truth = np.array([[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 1]], bool)
    aspects = ["process", "process", "place"]
    counted = counted_pairs(truth, aspects)
    assert counted.tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 1]]
    also = counted_pairs(truth, aspects, known={"place": np.array([True, False, True, False])})
    assert also.tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 1], [1, 1, 1]]


def test_a_protein_without_any_known_function_changes_nothing():
    truth, scores, _ = three_modalities(signals=(1.0, 1.0, 1.5))
    aspects = ["process"] * 5 + ["place"] * 3
    unknown = np.zeros((7, 8), bool)
    padded = {name: np.vstack([np.ones((7, 8), np.float32), own]) for name, own in scores.items()}
    first = evaluate_functions(truth, scores, aspects=aspects, **ONE_KIND)
    assert evaluate_functions(np.vstack([unknown, truth]), padded, aspects=aspects, **ONE_KIND) == first
    assert first.n_proteins == truth.any(axis=1).sum() < 120
    known = {"place": np.r_[np.ones(7, bool), np.zeros(120, bool)]}
    more = evaluate_functions(np.vstack([unknown, truth]), padded, aspects=aspects, known=known, **ONE_KIND)
    assert more.n_proteins == first.n_proteins + 7
    assert more.aspects["place"].n_proteins == first.aspects["place"].n_proteins + 7
    assert dataclasses.astuple(more.aspects["process"])[:2] == dataclasses.astuple(first.aspects["process"])[:2]
    for name, own in first.aspects["process"].modalities.items():
        same = dataclasses.asdict(more.aspects["process"].modalities[name])
        assert dataclasses.asdict(own) == pytest.approx(same, abs=1e-12)
    assert more.aspects["place"].modalities["image"].macro_ap < first.aspects["place"].modalities["image"].macro_ap


def test_metrics_of_an_aspect_are_those_of_its_terms_alone():
    truth, scores, _ = three_modalities(signals=(1.0, 1.0, 1.5))
    whole = evaluate_functions(truth, scores, aspects=["process"] * 5 + ["place"] * 3, **ONE_KIND)
    for own, aspect in ((slice(0, 5), "process"), (slice(5, 8), "place")):
        part = {name: given[:, own] for name, given in scores.items()}
        alone = evaluate_functions(truth[:, own], part, aspects=[aspect] * part["image"].shape[1], **ONE_KIND)
        assert whole.aspects[aspect].n_proteins == alone.n_proteins
        assert whole.aspects[aspect].n_terms == alone.n_terms
        for name, points in whole.aspects[aspect].modalities.items():
            expected = {metric: getattr(alone.modalities[name], metric) for metric in dataclasses.asdict(points)}
            assert dataclasses.asdict(points) == pytest.approx(expected, abs=1e-12)


def test_point_metrics_are_those_of_the_functions():
    truth, scores, aspects = three_modalities(signals=(1.0, 1.0, 1.5))
    found = evaluate_functions(truth, scores, aspects=aspects, **ONE_KIND)
    rows = truth.any(axis=1)
    for name, own in found.modalities.items():
        true, given = truth[rows], scores[name][rows]
        assert own.macro_ap == pytest.approx(np.mean(term_precisions(true, given)), abs=1e-12)
        assert own.micro_ap == pytest.approx(average_precision(true.ravel(), given.ravel()), abs=1e-12)
        assert own.fmax == pytest.approx(fmax(true, given))
        assert (own.brier, own.brier_skill) == (brier_score(true, given), brier_skill(true, given))
        assert own.reliability == reliability(true, given)
        assert own.calibration_error == own.reliability.error
        for metric in ("macro_ap", "micro_ap", "fmax"):
            low, value, high = (getattr(own, metric + end) for end in ("_low", "", "_high"))
            assert 0 < low < value < high < 1


def test_order_of_proteins_and_of_terms_changes_no_value():
    truth, scores, _ = three_modalities(signals=(1.0, 1.0, 1.5), decimals=1)
    aspects = ["process", "place"] * 4
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(120), rng.permutation(8)
    first = evaluate_functions(truth, scores, aspects=aspects, **ONE_KIND)
    mixed = {name: own[rows][:, columns] for name, own in scores.items()}
    other = evaluate_functions(truth[rows][:, columns], mixed, aspects=[aspects[j] for j in columns], **ONE_KIND)
    for name, own in first.modalities.items():
        for metric in ("macro_ap", "micro_ap", "fmax", "brier", "brier_skill", "calibration_error"):
            assert getattr(other.modalities[name], metric) == pytest.approx(getattr(own, metric), abs=1e-7)
        assert other.modalities[name].reliability.n == own.reliability.n
        assert other.terms[f"ap_{name}"] == pytest.approx([first.terms[f"ap_{name}"][j] for j in columns])


def test_a_seed_gives_the_same_numbers_and_another_seed_other_intervals():
    truth, scores, aspects = three_modalities(signals=(1.0, 1.0, 1.5))
    first, again, other = (
        evaluate_functions(truth, scores, aspects=aspects, n_resamples=40, seed=seed) for seed in (3, 3, 4)
    )
    assert first == again
    assert first.modalities["image"].macro_ap == other.modalities["image"].macro_ap
    assert first.modalities["image"].macro_ap_low != other.modalities["image"].macro_ap_low


@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.csc_array, np.ndarray.tolist, lambda t: t.astype(float)])
def test_truth_comes_dense_or_sparse(make):
    truth, scores, aspects = three_modalities(signals=(1.0, 1.0, 1.5))
    plain = evaluate_functions(truth, scores, aspects=aspects, **ONE_KIND)
    assert evaluate_functions(make(truth), scores, aspects=aspects, **ONE_KIND) == plain


def test_draws_are_the_same_for_every_modality_so_that_equal_ones_never_differ():
    truth, (scores,) = predictions()
    given = {"image": scores, "sequence": scores**2, "fused": np.sqrt(scores.astype(np.float64))}  # of equal ranks
    found = evaluate_functions(truth, given, aspects=["process"] * 8, **ONE_KIND)
    by_rank = [own for own in found.differences if own.metric != "fmax"]
    assert len(by_rank) == 6
    for own in by_rank:
        assert (own.difference, own.low, own.high, own.p) == (0, 0, 0, 1)
    assert set(found.terms["verdict"]) == {"no difference"}


def test_a_planted_difference_is_found_and_is_that_to_the_better_single():
    truth, scores, aspects = three_modalities(signals=(0.5, 1.0, 2.5), n=300)
    found = evaluate_functions(truth, scores, aspects=aspects, n_resamples=100, seed=0)
    by_name = {(own.metric, own.against): own for own in found.differences}
    assert len(by_name) == 9
    for (metric, against), own in by_name.items():
        single = "sequence" if against == "better single" else against
        values = [getattr(found.modalities[name], metric) for name in ("fused", single)]
        assert own.difference == pytest.approx(values[0] - values[1])
        assert 0 < own.low < own.difference < own.high
        assert own.p < 1e-3
    assert by_name["fmax", "better single"].difference < by_name["fmax", "image"].difference
    assert found.terms["verdict"] == ["gains"] * 8


def test_terms_that_fusion_loses_on_are_named():
    truth, scores, aspects = three_modalities(signals=(0.5, 1.5, 1.5), n=400)
    scores["fused"][:, :2] = predictions(n=400, signals=(0.0,), seed=1)[1][0][:, :2]
    scores["image"][:, 2], scores["fused"][:, 2] = scores["sequence"][:, 2], 0.05 + 0.9 * truth[:, 2]
    terms = evaluate_functions(truth, scores, aspects=aspects, n_resamples=100, seed=0).terms
    assert terms["verdict"] == ["loses", "loses", "gains"] + ["no difference"] * 5
    assert terms["better_single"][:2] == ["sequence", "sequence"]
    for j in range(8):
        better = max(terms["ap_image"][j], terms["ap_sequence"][j])
        assert terms["difference"][j] == pytest.approx(terms["ap_fused"][j] - better)
        assert terms["difference_low"][j] < terms["difference"][j] < terms["difference_high"][j]
        assert terms["p"][j] <= terms["p_adjusted"][j] <= 1
    table = pa.table(terms)
    assert table.num_rows == 8
    assert table["n_positive"].to_pylist() == truth.sum(axis=0).tolist()


def test_terms_of_fewer_than_two_positives_are_not_tested():
    truth, scores, aspects = three_modalities(signals=(1.0, 1.0, 1.0))
    truth[:, 0] = False
    truth[:, 1] = np.arange(120) == 5
    terms = evaluate_functions(truth, scores, aspects=aspects, **ONE_KIND).terms
    assert terms["verdict"][:2] == [None, None]
    assert terms["p_adjusted"][:2] == [None, None]
    assert terms["difference"][0] is None
    assert terms["better_single"][0] is None
    assert terms["ap_image"][1] > 0
    assert None not in terms["verdict"][2:]


@pytest.mark.parametrize("value", [0.35, 0.5, 0.7])
def test_p_is_of_every_single_for_a_gain_and_of_any_for_a_loss(value):
    errors = np.random.default_rng(0).normal(0, 0.05, (3, 200))
    fused, low, high = (np.r_[own, own + error][None] for own, error in zip((value, 0.4, 0.5), errors, strict=True))
    better, gap, _, _, p = compare(fused, np.stack([low, high]), freedom=np.array([9]))
    t = [(fused[0, 0] - own[0, 0]) / np.std((fused - own)[0, 1:], ddof=1) for own in (low, high)]
    gain, loss = stats.t.sf(min(t), 9), 2 * stats.t.cdf(min(t), 9)
    assert better.tolist() == [1]
    assert gap[0] == pytest.approx(value - 0.5)
    assert p[0] == pytest.approx(min(1, 2 * gain, 2 * loss))
    assert compare(fused, np.stack([low, high]), freedom=np.array([3]))[-1][0] >= p[0]
    assert np.isnan(compare(fused, np.stack([low, high]), freedom=np.array([0]))[-1][0])


def test_equal_modalities_are_seldom_called_different():
    called, called_terms = 0, 0
    for seed in range(100):
        truth, scores, aspects = three_modalities(signals=(1.0, 1.0, 1.0), n=80, n_terms=3, seed=seed)
        by_term = resampled(truth, scores, n_resamples=60, seed=seed)
        draws = {name: {"macro_ap": means_over_terms(own)} for name, own in by_term.items()}
        called += differences(draws, n_proteins=80)[0].p < 0.05
        verdicts = term_columns(aspects, truth, np.ones_like(truth), by_term)["verdict"]
        called_terms += bool({"gains", "loses"} & set(verdicts))
    assert called <= 10
    assert called_terms <= 10


def test_intervals_hold_the_expected_value_where_plain_percentiles_do_not():
    """Of rare terms, of which draws with proteins repeated have a higher average precision than samples have."""
    drawn = []
    for seed in range(30):
        truth, (image, fused) = predictions(n=200, n_terms=40, signals=(0.5, 1.5), share=0.05, seed=seed)
        by_term = resampled(truth, {"image": image, "fused": fused}, n_resamples=60, seed=seed)
        image, fused = (means_over_terms(own) for own in by_term.values())
        drawn.append([image, fused, fused - image])
    drawn = np.moveaxis(drawn, 1, 0)  # (quantities, samples, 1 + draws)
    expected = drawn[:, :, 0].mean(axis=1, keepdims=True)
    low, high = np.moveaxis([interval(own) for own in drawn], 1, 0)
    assert ((low <= expected) & (expected <= high)).mean(axis=1).min() > 0.85  # 60 draws give narrow ends
    low, high = np.quantile(drawn[:, :, 1:], INTERVAL, axis=2)
    assert ((low <= expected) & (expected <= high)).mean(axis=1).min() < 0.7


def test_a_modality_alone_has_no_differences():
    truth, scores, aspects = three_modalities(signals=(1.0, 1.0, 1.0))
    for names in (["fused"], ["image"], ["image", "sequence"]):
        found = evaluate_functions(truth, {name: scores[name] for name in names}, aspects=aspects, **ONE_KIND)
        assert found.differences == ()
        assert "verdict" not in found.terms


def test_degenerate_inputs_give_values_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = evaluate_functions([[1]], {"image": [[0.5]], "fused": [[0.6]]}, aspects=["place"], **ONE_KIND)
        assert one.modalities["image"].macro_ap == 1.0
        assert one.terms["verdict"] == [None]
        truth = np.array([[True, False], [False, False], [False, False]])
        scores = {"image": np.zeros((3, 2)), "fused": np.zeros((3, 2), np.float16)}
        known = {"place": np.ones(3, bool), "process": np.zeros(3, bool)}
        found = evaluate_functions(truth, scores, aspects=["place", "process"], known=known, **ONE_KIND)
    assert found.modalities["image"].macro_ap == pytest.approx(1 / 3)
    assert found.modalities["image"].fmax == 0.0
    assert found.aspects["process"].n_proteins == 0
    assert np.isnan(found.aspects["process"].modalities["image"].brier)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"truth": np.zeros((4, 2), bool)}, "No term has a positive"),
        ({"truth": np.ones(4, bool)}, r"Truth is \(proteins, terms\); got \(4,\)"),
        ({"truth": np.full((4, 2), np.nan)}, "other values than 0 and 1"),
        ({"scores": {}}, "no scores"),
        ({"scores": {"image": np.ones((3, 2))}}, r"of image are \(3, 2\) and truth is \(4, 2\)"),
        ({"scores": {"image": np.full((4, 2), np.nan)}}, "of image hold NaN"),
        ({"scores": {"image": np.full((4, 2), 1.5)}}, "from 1.5 to 1.5"),
        ({"scores": {"image": np.full((4, 2), -3.0)}}, "from 0 to 1"),
        ({"scores": {"image": np.full((4, 2), "a")}}, "are numbers"),
        ({"aspects": ["place"]}, "2 terms and 1 aspects"),
        ({"aspects": ["place", None]}, "1 terms have no aspect, the first is number 1"),
        ({"n_resamples": 39}, "40 resamples or more, not 39"),
        ({"known": {"plaice": np.ones(4, bool)}}, "known in plaice; the terms are of place"),
        ({"known": {"place": np.ones(3, bool)}}, r"`known` of place is \(4,\) bool"),
        ({"known": {"place": np.ones(4)}}, "float64"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(change, says):
    given = {"truth": np.eye(4, 2, dtype=bool), "scores": {"image": np.ones((4, 2))}, "aspects": ["place"] * 2}
    given |= change
    truth, scores = given.pop("truth"), given.pop("scores")
    with pytest.raises(BadInput, match=says):
        evaluate_functions(truth, scores, seed=0, **given)


def test_functions_refuse_what_would_be_counted_wrongly():
    truth, (scores,) = predictions()
    for measure in (term_precisions, fmax, brier_score, brier_skill, reliability):
        with pytest.raises(BadInput, match="Scores given are"):
            measure(truth, scores[:-1])
        with pytest.raises(BadInput, match="`counted` is"):
            measure(truth, scores, counted=np.ones(120, bool))
    assert fmax(truth.astype(int), scores) == fmax(truth, scores)
    with pytest.raises(BadInput, match="one bin or more"):
        reliability(truth, scores, n_bins=0)
    assert average_precision(truth[:, 0].astype(int), scores[:, 0]) == average_precision(truth[:, 0], scores[:, 0])
