"""Searching blocks: what is planted is found, what luck gave is taken off, and nothing is asked that was learned."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import recall_score

from subcell_atlas.encoders.readout import Readout
from subcell_atlas.errors import BadInput
from subcell_atlas.evaluation.blocks import Readings, choose_readout, folds, read_labels

LAST = Readout(block=4)


def cells(rng, *, n_groups=24, per_group=5, n_classes=3):
    """Labels and groups of cells; each group is of one class."""
    groups = np.repeat(np.arange(n_groups), per_group)
    return [f"class {group % n_classes}" for group in groups], [f"plate {group}" for group in groups]


def planted(rng, labels, strengths):
    """Vectors of a readout a block, that tell the class as strongly as told; 0 tells nothing."""
    _, truth = np.unique(labels, return_inverse=True)
    axes = np.eye(truth.max() + 1, 6)
    return {
        Readout(block=block): (strength * axes[truth] + rng.normal(size=(len(truth), 6))).astype(np.float32)
        for block, strength in enumerate(strengths, start=1)
    }


def guessed(rng, *, n_readouts, n=120):
    """Readings of cells whose labels were guessed."""
    labels, groups = cells(rng)
    truth, of_group = (np.unique(names, return_inverse=True)[1] for names in (labels, groups))
    right = (rng.random((n_readouts, n)) < 1 / 3).astype(np.float32)
    return Readings([Readout(block=block) for block in range(1, n_readouts + 1)], right, truth, of_group)


def test_accuracies_are_those_of_scikit_learn_for_any_weights(rng):
    labels, groups = cells(rng)
    truth, of_group = (np.unique(names, return_inverse=True)[1] for names in (labels, groups))
    predicted = rng.integers(0, 3, (4, len(truth)))
    readings = Readings(
        [Readout(block=block) for block in (1, 2, 3, 4)], (predicted == truth).astype(np.float32), truth, of_group
    )
    weights = readings.draw(seed=1, n_draws=20)
    found = readings.accuracies(weights)
    for draw, own in enumerate(weights):
        for row in range(4):
            counts = own > 0
            wanted = recall_score(
                truth[counts],
                predicted[row, counts],
                labels=np.unique(truth[counts]),
                average="macro",
                sample_weight=own[counts],
            )
            assert found[draw, row] == pytest.approx(wanted, abs=1e-6)
    assert np.isnan(readings.accuracies(np.zeros((1, len(truth)), np.float32))).all()


def test_classes_of_few_groups_count_as_much_as_others():
    n_groups, shares = (2, 2, 20, 20), (0.2, 0.2, 0.8, 0.8)
    truth = np.repeat(np.arange(4), [5 * n for n in n_groups])
    right = np.array(shares)[truth][None].repeat(2, axis=0)
    readings = Readings([Readout(block=1), LAST], right, truth, np.arange(len(truth)) // 5)
    chosen = choose_readout(readings, against=LAST, seed=0)
    assert chosen.figure()[0] == pytest.approx(0.5)
    assert chosen.figure_against() == pytest.approx((0.5, 0.5, 0.5))
    assert readings.curve(seed=0)[LAST] == pytest.approx((0.5, 0.5, 0.5))


def test_whole_groups_are_drawn(rng):
    readings = guessed(rng, n_readouts=1)
    weights = readings.draw(seed=0, n_draws=50)
    for group in range(24):
        own = weights[:, readings.groups == group]
        assert (own == own[:, :1]).all()
    assert (weights.reshape(50, 24, 5)[:, :, 0].sum(axis=1) == 24).all()


def test_no_group_is_learned_from_and_asked_about(rng):
    labels, groups = cells(rng)
    truth, of_group = (np.unique(names, return_inverse=True)[1] for names in (labels, groups))
    parts = folds(truth, of_group, seed=3, n_repeats=2)
    assert len(parts) == 10
    for part in parts:
        learned, asked = of_group[part.train], of_group[part.test]
        assert not set(learned) & set(asked)
        (inner_train, inner_test) = part.inner[0]
        assert not set(learned[inner_train]) & set(learned[inner_test])
    assert sorted(np.concatenate([part.test for part in parts[:5]])) == list(range(len(truth)))


def test_the_block_that_tells_most_is_chosen_and_beats_the_last(rng):
    labels, groups = cells(rng, n_groups=45)
    vectors = planted(rng, labels, (0.0, 2.5, 0.8, 0.5))
    readings = read_labels(vectors, labels, groups, seed=0)
    chosen = choose_readout(readings, against=LAST, seed=0)
    assert chosen.readout == Readout(block=2)
    assert chosen.share() > 0.95
    value, low, high = chosen.figure()
    assert 0.7 < low < value < high <= 1
    curve = readings.curve(seed=0)
    assert abs(curve[Readout(block=1)][0] - 1 / 3) < 0.12
    assert abs(value - curve[chosen.readout][0]) < 0.02
    difference = chosen.difference()
    assert difference["value"] == pytest.approx(value - chosen.figure_against()[0])
    assert 0 < difference["low"] < difference["value"] < difference["high"]
    assert difference["p"] < 0.01


def test_what_luck_gave_the_best_of_many_is_taken_off():
    naive, honest, shown = [], [], 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        readings = guessed(rng, n_readouts=60)
        chosen = choose_readout(readings, against=LAST, seed=seed, n_draws=300)
        naive.append(readings.curve(seed=seed)[chosen.readout][0])
        honest.append(chosen.figure()[0])
        shown += chosen.difference()["low"] > 0
    assert np.mean(naive) > 1 / 3 + 0.07
    assert abs(np.mean(honest) - 1 / 3) < 0.02
    assert shown == 0


def test_of_equals_the_first_is_chosen_and_nothing_is_gained_over_it(rng):
    readings = guessed(rng, n_readouts=1)
    twins = Readings(
        [Readout(block=1), Readout(block=2)], np.repeat(readings.right, 2, axis=0), readings.truth, readings.groups
    )
    chosen = choose_readout(twins, against=Readout(block=2), seed=0)
    assert chosen.readout == Readout(block=1)
    assert chosen.share() == 1
    difference = chosen.difference()
    assert (difference["value"], difference["low"], difference["high"], difference["p"]) == (0, 0, 0, 1)


def test_processes_seeds_and_other_readouts_change_nothing(rng):
    labels, groups = cells(rng)
    vectors = planted(rng, labels, (0.4, 1.0))
    whole = read_labels(vectors, labels, groups, seed=0, n_repeats=1)
    assert np.array_equal(read_labels(vectors, labels, groups, seed=0, n_repeats=1, workers=2).right, whole.right)
    alone = {Readout(block=2): vectors[Readout(block=2)]}
    assert np.array_equal(read_labels(alone, labels, groups, seed=0, n_repeats=1).right[0], whole.right[1])
    assert not np.array_equal(read_labels(vectors, labels, groups, seed=1, n_repeats=1).right, whole.right)


def test_a_class_in_one_group_and_vectors_that_are_not_numbers_are_refused(rng):
    labels, groups = cells(rng)
    vectors = planted(rng, labels, (1.0,))
    lone = ["alone" if group == "plate 0" else label for label, group in zip(labels, groups, strict=True)]
    with pytest.raises(BadInput, match="in one alone: alone"):
        read_labels(vectors, lone, groups, seed=0)
    vectors[Readout(block=1)][3, 2] = np.nan
    with pytest.raises(BadInput, match="NaN"):
        read_labels(vectors, labels, groups, seed=0)
