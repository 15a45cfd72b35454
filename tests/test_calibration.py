"""Probabilities that mean what they say: on planted data, against a direct fit, and at the ends."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_expit

from subcell_atlas.functions.calibration import SPARSE, Calibration

OFFSETS = np.array([-3.0, -2.0, -1.0, 0.0, 1.0])


def planted(rng, n, *, slopes, offsets=OFFSETS):
    """Scores of about one deviation, and truth by the model itself; return the true probabilities as well."""
    scores = rng.normal(size=(n, len(offsets)))
    scores = (scores - scores.mean(axis=0)) / scores.std(axis=0)
    true = expit(np.asarray(slopes) * np.arcsinh(scores) + offsets)
    return scores, rng.random(true.shape) < true, true


def slow_fit(scores, truth):
    """The slopes and offsets that scipy finds, of the scores themselves, not counted in bins; and their variance."""
    at = np.arcsinh((scores - scores.mean(axis=0)) / scores.std(axis=0))

    def loss(slope, offset):
        logits = slope * at + offset
        fits = np.where(truth, log_expit(logits), log_expit(-logits)).sum()
        return -fits - SPARSE * (log_expit(offset) + log_expit(-offset)).sum()

    n = scores.shape[1]
    common, *offset = minimize(lambda both: loss(both[0], both[1:]), np.zeros(1 + n)).x
    p = expit(common * at + offset)
    information, step = np.zeros(n), np.zeros(n)
    for term in range(n):
        design = np.stack([at[:, term], np.ones(len(at))])
        matrix = design * (p * (1 - p))[:, term] @ design.T
        step[term] = np.linalg.solve(matrix, design @ (truth - p)[:, term])[0]
        information[term] = 1 / np.linalg.inv(matrix)[0, 0]
    differ = information @ step**2 - (n - 1)
    variance = max(differ / (information.sum() - (information**2).sum() / information.sum()), 1e-3)
    own = minimize(
        lambda both: loss(both[:n], both[n:]) + ((both[:n] - common) ** 2).sum() / variance / 2, np.zeros(2 * n)
    ).x
    return common, own[:n], own[n:], variance


def test_the_fit_of_counts_is_the_direct_fit_of_every_score(rng):
    scores, truth, _ = planted(rng, 600, slopes=[0.5, 1.0, 1.5, 2.0, 2.5])
    found = Calibration.fit(7 * scores + 3, truth)
    _, slopes, offsets, variance = slow_fit(scores, truth)
    assert found.slope == pytest.approx(slopes, abs=0.01)
    assert found.offset == pytest.approx(offsets, abs=0.01)
    assert 0.1 < variance < 2  # that of the slopes is 0.5


def test_scores_that_are_right_already_keep_their_meaning(rng):
    scores, truth, true = planted(rng, 6000, slopes=1.5)
    found = Calibration.fit(scores[:3000], truth[:3000])
    told = found(scores[3000:].astype(np.float32))
    assert told.dtype == np.float32
    assert np.abs(told - true[3000:]).mean() < 0.015
    assert np.abs(told - true[3000:]).max() < 0.1


def test_planted_logistic_scores_become_reliable_and_tell_more_than_the_prior(rng):
    """Scores in any unit; odds that grow with the score and not, as the model has it, with its asinh."""
    scores = rng.normal(size=(6000, 5))
    truth = rng.random(scores.shape) < expit(1.2 * scores + OFFSETS)
    found = Calibration.fit(0.02 * scores[:3000] + 0.4, truth[:3000])
    told, held = found(0.02 * scores[3000:] + 0.4), truth[3000:]
    order = np.argsort(told, axis=None)
    for part in np.array_split(order, 10):
        assert told.ravel()[part].mean() == pytest.approx(held.ravel()[part].mean(), abs=0.04)
    assert np.mean((told - held) ** 2) < 0.9 * np.mean((truth[:3000].mean(axis=0) - held) ** 2)


def test_each_terms_probabilities_add_up_to_its_members(rng):
    scores, truth, _ = planted(rng, 2000, slopes=1.0)
    told = Calibration.fit(scores, truth)(scores)
    assert told.sum(axis=0) == pytest.approx(truth.sum(axis=0), abs=2)


def test_a_term_with_few_members_is_drawn_to_the_slope_that_serves_all(rng):
    """Two terms of which scores tell less than of others; of the last it is only not to be seen in its few members."""
    scores, truth, _ = planted(rng, 900, slopes=[2, 2, 2, 2, 2, 2, 1, 0], offsets=np.full(8, -1))
    truth[:, 7] = np.arange(len(truth)) < 6
    found = Calibration.fit(scores, truth)
    common, slopes, _, _ = slow_fit(scores, truth)
    assert found.slope == pytest.approx(slopes, abs=0.02)
    assert found.slope[6] < 0.7 * common
    assert found.slope[7] > 0.4 * common


def test_scores_that_tell_nothing_or_the_contrary_give_each_term_its_share(rng):
    _, truth, _ = planted(rng, 1000, slopes=0.0)
    for scores in (np.full(truth.shape, 0.3), 0.1 * rng.normal(size=truth.shape) - truth):
        told = Calibration.fit(scores, truth)(scores)
        assert told == pytest.approx(np.broadcast_to(truth.mean(axis=0), truth.shape), abs=0.01)


def test_no_probability_is_0_or_1(rng):
    truth = rng.random((300, 4)) < 0.3
    truth[:, 2], truth[:, 3] = False, True  # a term that nobody has, and one that all have
    scores = (10.0 * truth + rng.normal(size=truth.shape)).astype(np.float32)
    found = Calibration.fit(scores, truth)
    for asked in (scores, np.full((1, 4), 1e9, np.float32), np.full((1, 4), -1e9, np.float32)):
        told = found(asked)
        assert np.all(told > 0)
        assert np.all(told < 1)
    assert found(scores)[:, 2].sum() < 1
    assert found(scores)[:, 3].sum() > 299


def test_a_higher_score_is_never_less_probable(rng):
    scores, truth, _ = planted(rng, 500, slopes=1.0)
    found = Calibration.fit(scores, truth)
    rising = np.repeat(np.linspace(-30, 30, 2001, dtype=np.float32)[:, None], 5, axis=1)
    assert np.all(np.diff(found(rising), axis=0) >= 0)
    assert np.all(np.diff(found(rising[900:1101]), axis=0) > 0)


def test_the_unit_of_scores_does_not_matter(rng):
    scores, truth, _ = planted(rng, 500, slopes=1.0)
    told = Calibration.fit(scores, truth)(scores)
    other = 1000 * scores - 250
    assert Calibration.fit(other, truth)(other) == pytest.approx(told, abs=1e-4)


def test_asking_does_not_change_the_scores(rng):
    scores, truth, _ = planted(rng, 200, slopes=1.0)
    found, before = Calibration.fit(scores, truth), scores.copy()
    found(scores)
    assert np.array_equal(scores, before)


def test_a_calibration_comes_back_from_its_arrays(rng):
    scores, truth, _ = planted(rng, 200, slopes=1.0)
    found = Calibration.fit(scores, truth)
    back = Calibration.of_arrays({**found.arrays(), "weights": np.zeros(3)})
    assert np.array_equal(back(scores), found(scores))
