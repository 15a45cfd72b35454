"""Probes: no group is in two parts, nothing is chosen on what it is scored on, chance is chance."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold

from subcell_atlas.errors import BadInput
from subcell_atlas.evaluation import probing
from subcell_atlas.evaluation.probing import linear_predictions, nearest_predictions, probe, standardize


def planted(*, separation, n_classes=3, groups_per_class=5, rows_per_group=6, dim=8, seed=0):
    """Rows of a class lie around its own axis; each group has one class. With a separation of 0 they tell nothing."""
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.arange(n_classes), groups_per_class * rows_per_group)
    groups = np.repeat(np.arange(n_classes * groups_per_class), rows_per_group)
    vectors = separation * np.eye(n_classes, dim)[classes] + rng.normal(0, 1, (len(classes), dim))
    return vectors, [f"class {k}" for k in classes], [f"picture {g}" for g in groups]


def group_signature(*, seed):
    """Vectors that encode their group and nothing else, as those of one picture do by its stain."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(20), 6)
    centers = rng.normal(0, 1, (20, 16))
    labels = np.array(["a", "b"])[rng.permutation(np.arange(20) % 2)]
    return centers[groups] + rng.normal(0, 0.05, (120, 16)), labels[groups], groups


def test_both_probes_read_planted_classes_off_and_not_by_chance():
    vectors, labels, groups = planted(separation=30)
    result = probe(vectors, labels, groups, seed=0, n_repeats=2)
    for score in (result.linear, result.nearest):
        assert score.mean == 1.0
        assert score.deviation == 0.0
        assert score.recall == {"class 0": 1.0, "class 1": 1.0, "class 2": 1.0}
        assert score.chance < 0.6
    assert result.n == {"class 0": 30, "class 1": 30, "class 2": 30}
    assert result.n_groups == {"class 0": 5, "class 1": 5, "class 2": 5}
    assert (result.n_folds, result.n_repeats, sum(result.chosen.values())) == (5, 2, 10)


def test_vectors_that_tell_nothing_are_probed_at_chance():
    found = []
    for seed in range(3):
        vectors, labels, groups = planted(separation=0, n_classes=4, groups_per_class=6, seed=seed)
        result = probe(vectors, labels, groups, seed=seed, n_repeats=1)
        found.append([result.linear.mean, result.nearest.mean, result.linear.chance, result.nearest.chance])
    assert np.abs(np.mean(found, axis=0) - 1 / 4).max() < 0.08


def test_vectors_that_know_their_group_alone_are_probed_at_chance():
    naive, ours = [], []
    for seed in range(4):
        vectors, labels, groups = group_signature(seed=seed)
        predicted = np.empty_like(labels)
        for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(vectors, labels):
            predicted[test] = nearest_predictions(vectors[train], labels[train], vectors[test])
        naive.append(balanced_accuracy_score(labels, predicted))
        result = probe(vectors, labels, groups, seed=seed, n_repeats=1)
        ours.append([result.linear.mean, result.nearest.mean])
    assert np.mean(naive) > 0.99
    assert np.mean(ours, axis=0).max() < 0.65


def test_regularization_is_chosen_without_the_rows_that_are_asked_about(monkeypatch):
    vectors, labels, groups = planted(separation=1)
    row_of = {vector.tobytes(): row for row, vector in enumerate(vectors)}
    seen, asked = [], []

    def choose(train, truth, parts):
        rows = [row_of[vector.tobytes()] for vector in train]
        seen.append({groups[row] for row in rows})
        return 0.01

    def spy(truth, of_group, *, at_most, rng):
        for train, test in real_split(truth, of_group, at_most=at_most, rng=rng):
            if at_most == probing.N_FOLDS:  # not of those within the part learned from
                asked.append({groups[row] for row in test})
            yield train, test

    real_split = probing.split
    monkeypatch.setattr(probing, "choose_regularization", choose)
    monkeypatch.setattr(probing, "split", spy)
    probe(vectors, labels, groups, seed=0, n_repeats=1)
    assert len(seen) == len(asked) == 10
    for chosen_on, tested in zip(seen, asked, strict=True):
        assert tested
        assert not chosen_on & tested
        assert chosen_on | tested == set(groups)


def test_other_vectors_of_the_rows_asked_about_change_no_choice(monkeypatch):
    vectors, labels, groups = planted(separation=1.5, dim=40)
    choices = []
    real_choose = probing.choose_regularization

    def choose(*args, **kwargs):
        choices[-1].append(real_choose(*args, **kwargs))
        return choices[-1][-1]

    monkeypatch.setattr(probing, "choose_regularization", choose)
    truth, of_group = (np.unique(names, return_inverse=True)[1] for names in (labels, groups))
    _, first_test = next(probing.split(truth, of_group, at_most=5, rng=np.random.default_rng(0)))
    spoiled = vectors.copy()
    spoiled[first_test] = 1e3 * np.random.default_rng(1).normal(size=(len(first_test), 40))
    for given in (vectors, spoiled):
        choices.append([])
        probing.predict_all(given, truth, of_group, rng=np.random.default_rng(0))
    assert choices[0][0] == choices[1][0]
    assert choices[0][1:] != choices[1][1:]  # where the spoiled rows are learned from, they do matter


def test_regularization_is_strong_for_noise_around_a_signal_and_weak_for_a_thin_gap():
    noisy, labels, groups = planted(separation=2, dim=200, rows_per_group=4)
    strong = probe(noisy, labels, groups, seed=0, n_repeats=1).chosen
    rng = np.random.default_rng(0)
    side = np.repeat([-1.0, 1.0], 60)
    slope = rng.normal(0, 10, 120)
    thin = np.stack([slope + 0.2 * side, slope], axis=1)  # told apart by a small difference of two alike columns
    weak = probe(thin, side.astype(str), np.repeat(np.arange(20), 6), seed=0, n_repeats=1)
    assert sum(n for c, n in strong.items() if c <= 0.1) >= 4
    assert min(weak.chosen) >= 1.0
    assert weak.linear.mean > 0.9


def test_a_seed_gives_the_same_numbers_and_another_seed_others():
    vectors, labels, groups = planted(separation=1.5)
    first, again, other = (probe(vectors, labels, groups, seed=seed, n_repeats=1) for seed in (3, 3, 4))
    assert first == again
    assert first.linear != other.linear


def test_numbers_do_not_depend_on_the_scale_of_dimensions():
    vectors, labels, groups = planted(separation=1.5)
    scales = 10.0 ** np.arange(-4, 4)
    first = probe(vectors, labels, groups, seed=0, n_repeats=1)
    scaled = probe(vectors * scales + 5 * scales, labels, groups, seed=0, n_repeats=1)
    assert scaled.linear.mean == pytest.approx(first.linear.mean, abs=0.02)
    assert scaled.nearest.mean == pytest.approx(first.nearest.mean, abs=0.02)


def test_more_dimensions_than_rows_are_fitted_as_they_would_be_unturned():
    from sklearn.linear_model import LogisticRegression

    vectors, labels, _ = planted(separation=1, dim=150, rows_per_group=3)
    truth = np.unique(labels, return_inverse=True)[1]
    train, test = standardize(vectors[::2], vectors[1::2])
    turned = linear_predictions(train, truth[::2], test, path=[1e-3, 1e-2])
    for c, predicted in zip([1e-3, 1e-2], turned, strict=True):
        plain = LogisticRegression(C=c, class_weight="balanced", max_iter=500).fit(train, truth[::2]).predict(test)
        assert (plain == predicted).mean() > 0.95


def test_classes_count_the_same_whatever_their_size():
    rng = np.random.default_rng(0)
    sizes = {"common": 10, "rare": 2}
    labels = np.repeat(list(sizes), [n * 5 for n in sizes.values()])
    groups = np.repeat(np.arange(12), 5)
    vectors = rng.normal(0, 1, (60, 4)) + 3 * (labels == "rare")[:, None] * np.array([1.0, 0, 0, 0])
    result = probe(vectors, labels, groups, seed=0, n_repeats=2)
    assert result.linear.mean == pytest.approx(np.mean(list(result.linear.recall.values())))
    assert result.linear.recall["rare"] > 0.5


def test_labels_are_dealt_to_whole_groups():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(8), [3, 5, 2, 7, 4, 4, 6, 1])
    truth = np.array([0, 1, 2, 0, 1, 2, 0, 1])[groups]
    dealt = [probing.deal_labels(truth, groups, rng=rng) for _ in range(20)]
    for labels in dealt:
        of_group = [set(labels[groups == g]) for g in range(8)]
        assert all(len(own) == 1 for own in of_group)
        assert sorted(own.pop() for own in of_group) == [0, 0, 0, 1, 1, 1, 2, 2]
    assert len({labels.tobytes() for labels in dealt}) > 5


def test_a_class_in_one_group_is_refused_by_name():
    vectors, labels, groups = planted(separation=1)
    labels[:6] = ["Aggresome"] * 6
    with pytest.raises(BadInput, match=r"in one alone: Aggresome\."):
        probe(vectors, labels, groups, seed=0)


def test_fewer_groups_than_folds_give_fewer_folds():
    vectors, labels, groups = planted(separation=30, n_classes=2, groups_per_class=2, dim=2)
    result = probe(vectors, labels, groups, seed=0, n_repeats=2)
    assert result.n_folds == 4
    assert result.linear.mean == result.nearest.mean == 1.0


def test_classes_of_two_rows_are_probed_without_a_warning():
    vectors, labels, groups = planted(separation=30, n_classes=4, groups_per_class=2, rows_per_group=1, dim=4)
    result = probe(vectors, labels, groups, seed=0, n_repeats=3)
    assert result.n_folds == 2
    assert result.nearest.mean > 0.9


def test_constant_vectors_are_probed_at_chance():
    _, labels, groups = planted(separation=1)
    result = probe(np.ones((len(labels), 5), np.float32), labels, groups, seed=0, n_repeats=1)
    assert result.linear.mean == pytest.approx(1 / 3, abs=0.2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda v, y, g: (v[:-1], y, g), "a label and a group each"),
        (lambda v, y, g: (v[:, 0], y, g), "a label and a group each"),
        (lambda v, y, g: (v * np.nan, y, g), "NaN"),
        (lambda v, y, g: (v, ["one"] * len(y), g), "needs two; got one"),
    ],
)
def test_what_cannot_be_probed_is_refused(change, says):
    with pytest.raises(BadInput, match=says):
        probe(*change(*planted(separation=1)), seed=0)


def test_a_probe_is_repeated_once_at_least():
    with pytest.raises(BadInput, match="not 0 times"):
        probe(*planted(separation=1), seed=0, n_repeats=0)
