"""Retrieval of labels by neighbors: scikit-learn's average precision, and chance for noise."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from subcell_atlas.errors import BadInput
from subcell_atlas.evaluation.retrieval import evaluate_retrieval
from subcell_atlas.ranking import average_precision_at


def test_retrieval_equals_sklearns_average_precision(rng):
    vectors = rng.normal(size=(300, 6))  # more than one block of queries
    places = rng.integers(0, 5, 300)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    others = ~np.eye(300, dtype=bool)
    wanted = [
        average_precision_score((places == places[i])[others[i]], (units @ units[i])[others[i]]) for i in range(300)
    ]
    found = evaluate_retrieval(vectors, [frozenset({str(place)}) for place in places], seed=0)
    assert found.mean_ap == pytest.approx(np.mean(wanted), abs=1e-5)
    assert found.n == 300


def test_labels_that_nobody_shares_give_no_number():
    assert evaluate_retrieval(np.eye(3), [frozenset({name}) for name in "abc"], seed=0).n == 0


def test_planted_neighbors_are_found_and_random_ones_are_not(rng):
    labels = [frozenset({str(i // 5)}) for i in range(60)]
    planted = np.repeat(rng.normal(size=(12, 8)), 5, axis=0) + rng.normal(size=(60, 8)) * 0.05
    good = evaluate_retrieval(planted, labels, seed=0)
    bad = evaluate_retrieval(rng.normal(size=(60, 8)), labels, seed=0)
    assert good.mean_ap > 0.95
    assert good.shuffled < 0.25
    assert abs(bad.mean_ap - bad.shuffled) < 0.1
    assert good.n == 60


def test_each_querys_precision_is_sklearns_where_many_rows_are_equally_like_it(rng):
    vectors = rng.integers(0, 2, size=(80, 4)).astype(float)  # few different ones, some of no length
    labels = [frozenset(rng.choice(list("abcde"), rng.integers(0, 3), replace=False)) for _ in range(80)]
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    similarity = np.round(units @ units.T, 6)
    wanted = np.full(80, np.nan)
    for row, own in enumerate(labels):
        others = [at for at, of in enumerate(labels) if of and at != row]
        relevant = [bool(own & labels[at]) for at in others]
        if own and any(relevant):
            wanted[row] = average_precision_score(relevant, similarity[row, others])
    found = evaluate_retrieval(vectors, labels, seed=0)
    assert found.precisions == pytest.approx(wanted, abs=1e-6, nan_ok=True)
    assert found.n == np.isfinite(wanted).sum() > 40
    assert found.mean_ap == pytest.approx(np.nanmean(wanted))


def test_vectors_that_are_all_the_same_are_worth_what_shuffled_labels_are():
    labels = [frozenset({str(i % 4)}) for i in range(40)]  # in an order that ranking by row number would be favored by
    found = evaluate_retrieval(np.ones((40, 3)), labels, seed=0)
    assert found.mean_ap == pytest.approx(9 / 39)
    assert found.shuffled == pytest.approx(9 / 39)


def test_rows_without_a_label_and_labels_of_one_row_are_no_queries(rng):
    labels = [frozenset("a"), frozenset("a"), frozenset(), frozenset("b")]
    found = evaluate_retrieval(rng.normal(size=(4, 3)), labels, seed=0)
    assert np.isfinite(found.precisions).tolist() == [True, True, False, False]
    assert evaluate_retrieval(np.zeros((0, 3)), [], seed=0).n == 0


def test_vectors_that_are_not_finite_are_refused():
    with pytest.raises(BadInput, match="NaN or infinite"):
        evaluate_retrieval(np.array([[1, np.nan], [1, 2]]), [frozenset("a")] * 2, seed=0)


def test_precision_at_ranks_is_the_mean_of_what_is_right_so_far():
    assert average_precision_at(np.array([4, 1, 2])) == pytest.approx((1 / 1 + 2 / 2 + 3 / 4) / 3)
    assert average_precision_at(np.array([3, 3])) == pytest.approx(2 / 3)
    assert np.isnan(average_precision_at(np.array([], int)))
