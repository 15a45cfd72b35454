"""Energy distance, cosines and their permutations: those of slow loops and of scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from subcell_atlas.evaluation import perturbations
from subcell_atlas.evaluation.perturbations import (
    Comparison,
    compare_with_controls,
    energy_distance,
    is_asked,
    labellings,
    mean_cosines,
    measure,
)


def slow_energy(x, y):
    def mean_distance(a, b):
        return np.mean(
            [np.sqrt(sum((p - q) ** 2 for p, q in zip(one, other, strict=True))) for one in a for other in b]
        )

    return 2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)


def slow_cosine(x, treated, strata):
    """The mean cosine of pairs of treated rows, each less the mean of the controls of its stratum."""
    moved = []
    for row in np.flatnonzero(treated):
        controls = [x[other] for other in range(len(x)) if not treated[other] and strata[other] == strata[row]]
        moved.append(x[row] - np.mean(controls, axis=0))
    return np.mean([a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in itertools.combinations(moved, 2)])


def planted(rng, *, n=100, n_treated=5, n_controls=5, dim=12, shift=0.0, n_strata=1):
    """Rows of n perturbations with controls of their own, moved by `shift` in a direction of their own."""
    size = n_treated + n_controls
    vectors = rng.normal(size=(n, size, dim))
    strata = np.r_[np.arange(n_treated) % n_strata, np.arange(n_controls) % n_strata]
    vectors[:, :n_treated] += shift * rng.normal(size=(n, 1, dim))
    rows = np.arange(n * size).reshape(n, size)
    own, against = strata[:n_treated], strata[n_treated:]
    return vectors.reshape(-1, dim), [Comparison(at[:n_treated], at[n_treated:], own, against) for at in rows]


def test_the_energy_distance_is_that_of_slow_loops_and_of_scipy(rng):
    x, y = rng.normal(size=(7, 5)), rng.normal(size=(4, 5)) + 0.7
    y[1] = y[0]  # ties
    assert energy_distance(x, y) == pytest.approx(slow_energy(x, y))
    assert energy_distance(x[:1], y) == pytest.approx(slow_energy(x[:1], y))
    u, v = x[:, 0], y[:, 0]
    assert energy_distance(u[:, None], v[:, None]) == pytest.approx(stats.energy_distance(u, v) ** 2)
    assert energy_distance(x, x) == pytest.approx(0, abs=1e-7)
    assert energy_distance(x + 1e3, y + 1e3) == pytest.approx(slow_energy(x, y), rel=1e-6)


def test_cosines_are_those_of_slow_loops_for_every_labelling(rng):
    x, strata = rng.normal(size=(9, 4)), np.repeat([0, 1, 2], 3)
    labels = labellings(((3, 1), (3, 2), (3, 1)), 50, 0)
    found = mean_cosines(x @ x.T, np.eye(3)[strata], labels)
    assert found == pytest.approx([slow_cosine(x, treated, strata) for treated in labels])


def test_rows_equal_to_their_controls_have_no_direction():
    x = np.repeat([[1.0, 2.0], [3.0, 1.0]], 3, axis=0)
    treated = np.array([[True, True, False, True, False, False]])
    assert mean_cosines(x @ x.T, np.eye(2)[[0, 0, 0, 1, 1, 1]], treated).tolist() == [0.0]


def test_labels_are_permuted_within_strata_and_each_as_often():
    labels = labellings(((4, 2), (3, 1)), 6000, 1)
    assert (labels[:, :4].sum(axis=1) == 2).all()
    assert (labels[:, 4:].sum(axis=1) == 1).all()
    _, counts = np.unique(labels, axis=0, return_counts=True)
    assert len(counts) == 6 * 3
    assert stats.chisquare(counts).pvalue > 0.001


def test_p_values_are_those_of_all_labellings(rng):
    x = rng.normal(size=(8, 3))
    x[:4] += [0.9, 0, 0]
    x[2] = x[5]  # ties
    nothing = np.zeros(4, int)
    found = compare_with_controls(
        x, Comparison(np.arange(4), np.arange(4, 8), nothing, nothing), seed=0, n_permutations=20_000
    )
    energies, cosines = [], []
    for chosen in itertools.combinations(range(8), 4):
        treated = np.isin(np.arange(8), chosen)
        energies.append(slow_energy(x[treated], x[~treated]))
        cosines.append(slow_cosine(x, treated, np.zeros(8)))
    assert found.magnitude == pytest.approx(energies[0])
    assert found.consistency == pytest.approx(cosines[0])
    assert found.magnitude_p == pytest.approx(np.mean(np.array(energies) >= energies[0] - 1e-9), abs=0.02)
    assert found.consistency_p == pytest.approx(np.mean(np.array(cosines) >= cosines[0] - 1e-9), abs=0.02)
    assert found.null_consistency == pytest.approx(np.mean(cosines), abs=0.02)
    assert found.coefficient == pytest.approx(
        energies[0] / (2 * np.mean([np.linalg.norm(a - b) for a in x[:4] for b in x[4:]]))
    )


def test_random_vectors_give_chance(rng):
    vectors, comparisons = planted(rng, n=400, n_controls=3)  # few controls make their rows alike
    found = measure(vectors, comparisons, seed=0, n_permutations=200)
    assert (found.magnitude_p <= 0.05).mean() == pytest.approx(0.05, abs=0.03)
    assert (found.consistency_p <= 0.05).mean() == pytest.approx(0.05, abs=0.03)
    assert not (found.magnitude_p_adjusted <= 0.05).any()
    assert found.consistency.mean() > 0.2
    assert found.consistency.mean() == pytest.approx(found.null_consistency.mean(), abs=0.03)
    assert found.coefficient.mean() == pytest.approx(found.null_coefficient.mean(), abs=0.01)


def test_perturbations_that_were_planted_are_found_and_those_that_were_not_are_not(rng):
    moved, of_moved = planted(rng, n=60, shift=1.5)
    still, of_still = planted(rng, n=60)
    of_still = [one.__class__(one.treated + len(moved), one.controls + len(moved), *strata(one)) for one in of_still]
    found = measure(np.concatenate([moved, still]), [*of_moved, *of_still], seed=0)
    for told in (found.magnitude_p_adjusted <= 0.05, found.consistency_p_adjusted <= 0.05):
        assert told[:60].mean() > 0.9
        assert told[60:].mean() < 0.1
    assert found.consistency[:60].mean() > found.null_consistency[:60].mean() + 0.3


def strata(one):
    return one.treated_strata, one.control_strata


def test_what_plates_differ_by_is_no_perturbation(rng):
    vectors, comparisons = planted(rng, n=30, n_treated=7, n_controls=9, n_strata=3, shift=1.0)
    apart = vectors.copy()
    for one in comparisons:
        apart[one.treated] += 10 * one.treated_strata[:, None]
        apart[one.controls] += 10 * one.control_strata[:, None]
    found, wanted = measure(apart, comparisons, seed=0), measure(vectors, comparisons, seed=0)
    assert found.magnitude == pytest.approx(wanted.magnitude)
    assert found.consistency == pytest.approx(wanted.consistency)
    assert np.array_equal(found.magnitude_p, wanted.magnitude_p)
    assert np.array_equal(found.consistency_p, wanted.consistency_p)


def test_what_has_too_few_rows_is_not_asked_and_weighs_on_nobody(rng):
    vectors, comparisons = planted(rng, n=3, shift=3.0)
    one, two, three = comparisons
    single = Comparison(one.treated[:1], one.controls, one.treated_strata[:1], one.control_strata)
    few = Comparison(two.treated[:2], two.controls[:2], two.treated_strata[:2], two.control_strata[:2])
    alone = Comparison(two.treated, two.controls[:0], two.treated_strata, two.control_strata[:0])
    assert [is_asked(each) for each in (single, few, alone, three)] == [False, False, False, True]
    found = measure(vectors, [single, few, alone, three], seed=0)
    assert np.isnan(found.magnitude[:3]).all()
    assert np.isnan(found.consistency_p_adjusted[:3]).all()
    assert found.magnitude_p_adjusted[3] == found.magnitude_p[3] < 0.05
    assert np.isnan(measure(vectors, [single], seed=0).magnitude_p_adjusted).all()


def test_rows_with_nan_and_rows_without_a_control_of_their_stratum_are_left_out(rng):
    vectors, [given] = planted(rng, n=1, n_treated=6, n_controls=6)
    whole = measure(vectors, [given], seed=0)
    extra = np.vstack([vectors, np.full(12, np.nan), vectors[:1] + 9])
    more = Comparison(
        np.r_[given.treated, 12, 13], given.controls, np.r_[given.treated_strata, 0, 7], given.control_strata
    )
    found = measure(extra, [more], seed=0)
    assert found.magnitude == pytest.approx(whole.magnitude)
    assert found.consistency_p == whole.consistency_p
    blind = extra.copy()
    blind[given.controls] = np.nan
    assert np.isnan(measure(blind, [more], seed=0).magnitude).all()


def test_where_all_rows_are_the_same_nothing_moves():
    same = np.ones((10, 3))
    nothing = np.zeros(5, int)
    found = measure(same, [Comparison(np.arange(5), np.arange(5, 10), nothing, nothing)], seed=0)
    assert (found.magnitude[0], found.coefficient[0], found.magnitude_p[0]) == (0.0, 0.0, 1.0)
    assert (found.consistency[0], found.consistency_p[0]) == (0.0, 1.0)


def test_of_very_many_rows_some_are_chosen_from_every_stratum(rng, monkeypatch):
    monkeypatch.setattr(perturbations, "MOST_ROWS", 6)
    monkeypatch.setattr(perturbations, "MOST_CONTROLS", 9)
    _, [given] = planted(rng, n=1, n_treated=30, n_controls=60, n_strata=3)
    own = perturbations.chosen(given, np.ones(90, bool), rng=rng)
    assert len(own.treated) == 6
    assert set(own.control_strata.tolist()) == set(own.treated_strata.tolist())
    assert np.unique(own.control_strata, return_counts=True)[1].max() <= 9
    assert set(own.treated.tolist()) <= set(given.treated.tolist())


def test_the_seed_decides(rng):
    vectors, comparisons = planted(rng, n=20, shift=0.5)
    first, again, other = (measure(vectors, comparisons, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.magnitude_p, again.magnitude_p)
    assert not np.array_equal(first.magnitude_p, other.magnitude_p)
