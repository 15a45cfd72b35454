"""Average precision by rules of who is like whom: that of copairs, and of slow loops where there are ties."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from copairs import map as copairs
from copairs.map.multilabel import average_precision as multilabel_precision
from copairs.map.normalization import expected_ap
from sklearn.metrics import average_precision_score

from subcell_atlas.errors import BadInput
from subcell_atlas.evaluation import matching
from subcell_atlas.evaluation.matching import (
    Precisions,
    Rules,
    expected_precision,
    match,
    match_labels,
    mean_precisions,
)

RULES = {
    "replicates": Rules(["protein"], ["antibody"], ["line"], ["protein"]),
    "non-replicates": Rules(["protein"], [], [], ["protein"]),
    "activity": Rules(["protein", "control"], ["antibody"], ["line"], ["control", "protein"]),
    "two of a kind": Rules(["protein", "line"], ["antibody", "plate"], ["line", "plate"], ["protein"]),
}


def profiles(rng, n=240):
    names = {"protein": 40, "antibody": 3, "line": 2, "plate": 3, "control": 2}
    return {name: [f"{name}{at}" for at in rng.integers(0, k, n)] for name, k in names.items()}


def of_copairs(vectors, columns, rules):
    sides = (rules.pos_sameby, rules.pos_diffby, rules.neg_sameby, rules.neg_diffby)
    return copairs.average_precision(pd.DataFrame(columns), vectors, *map(list, sides), progress_bar=False)


def slowly(vectors, columns, rules):
    """Every query with its right and its wrong rows, one pair at a time."""
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    similarity = np.round(units @ units.T, 6)

    def paired(a, b, same, differ):
        have = [(columns[name][a], columns[name][b]) for name in (*same, *differ)]
        if a == b or any(None in pair for pair in have):
            return False
        return all((x == y) == (at < len(same)) for at, (x, y) in enumerate(have))

    found = []
    for row in range(len(vectors)):
        right = [at for at in range(len(vectors)) if paired(row, at, rules.pos_sameby, rules.pos_diffby)]
        wrong = [at for at in range(len(vectors)) if paired(row, at, rules.neg_sameby, rules.neg_diffby)]
        told = [1] * len(right) + [0] * len(wrong)
        scores = similarity[row, right + wrong]
        precision = average_precision_score(told, scores) if right and wrong else np.nan
        found.append((precision, len(right), len(wrong)))
    return np.array(found).T


@pytest.mark.parametrize("name", RULES)
def test_average_precision_is_that_of_copairs(name, rng):
    columns, vectors = profiles(rng), rng.normal(size=(240, 12))
    found, wanted = match(vectors, columns, RULES[name]), of_copairs(vectors, columns, RULES[name])
    told = np.isfinite(found.average_precision)
    assert told.sum() > 30
    assert found.n_pos.tolist() == wanted["n_pos_pairs"].tolist()
    assert (found.n_pos + found.n_neg).tolist() == wanted["n_total_pairs"].tolist()
    assert found.average_precision[told] == pytest.approx(wanted["average_precision"].to_numpy()[told])


@pytest.mark.parametrize("name", RULES)
def test_what_is_unknown_is_in_no_pair_and_what_is_equally_like_is_one_step(name, rng):
    vectors = rng.integers(-1, 2, size=(120, 3)).astype(float)
    columns = {
        key: [None if rng.random() < 0.1 else value for value in values] for key, values in profiles(rng, 120).items()
    }
    found, (wanted, n_pos, n_neg) = match(vectors, columns, RULES[name]), slowly(vectors, columns, RULES[name])
    asked = [all(columns[k][row] is not None for k in RULES[name].columns) for row in range(120)]
    assert found.average_precision == pytest.approx(wanted, abs=1e-6, nan_ok=True)
    assert found.n_pos[asked].tolist() == n_pos[asked].tolist()
    assert found.n_neg[asked].tolist() == n_neg[asked].tolist()


def test_blocks_do_not_change_what_is_found_and_only_what_is_asked_is(rng, monkeypatch):
    columns, vectors = profiles(rng), rng.normal(size=(240, 12))
    whole = match(vectors, columns, RULES["replicates"])
    monkeypatch.setattr(matching, "MOST_PAIRS", 300)
    asked = rng.random(240) < 0.5
    found = match(vectors, columns, RULES["replicates"], asked=asked)
    assert np.array_equal(found.average_precision[asked], whole.average_precision[asked], equal_nan=True)
    assert np.isnan(found.average_precision[~asked]).all()


def test_vectors_that_are_all_the_same_are_perfect_for_copairs_and_chance_here(rng):
    columns, vectors = profiles(rng), np.ones((240, 3))
    found = match(vectors, columns, RULES["non-replicates"])
    assert of_copairs(vectors, columns, RULES["non-replicates"])["average_precision"].min() == 1
    assert found.average_precision == pytest.approx(found.n_pos / (found.n_pos + found.n_neg))


def test_one_replicate_or_nobody_to_stand_against_it_is_no_answer():
    columns = {"protein": ["a", "a", "b"], "antibody": ["1", "2", "1"], "line": ["U", "U", "V"]}
    found = match(np.eye(3), columns, RULES["replicates"])
    assert np.isnan(found.average_precision).all()
    assert (found.n_pos.tolist(), found.n_neg.tolist()) == ([1, 1, 0], [0, 0, 0])
    assert mean_precisions(found, ["a", "a", "b"], seed=0) is None
    empty = match(np.zeros((0, 3)), {name: [] for name in columns}, RULES["replicates"])
    assert mean_precisions(empty, [], seed=0) is None


def test_bad_input_is_refused(rng):
    columns = profiles(rng, 10)
    with pytest.raises(BadInput, match="told apart"):
        Rules(["protein"], [], [], ["plate"])
    with pytest.raises(BadInput, match="NaN or infinite"):
        match(np.full((10, 2), np.nan), columns, RULES["replicates"])
    with pytest.raises(BadInput, match="a value in every column; got 10"):
        match(np.ones((11, 2)), columns, RULES["replicates"])


def test_means_p_values_and_correction_are_those_of_copairs_where_no_chance_is_as_good(rng, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    columns = profiles(rng, 600)
    places = rng.normal(size=(40, 12))
    vectors = rng.normal(size=(600, 12)) + 0.8 * places[[int(name[7:]) for name in columns["protein"]]]
    found = match(vectors, columns, RULES["replicates"])
    told = mean_precisions(found, columns["protein"], seed=3, null_size=2000)
    assert not list(tmp_path.iterdir())  # nothing is kept between questions
    table = of_copairs(vectors, columns, RULES["replicates"])
    wanted = copairs.mean_average_precision(
        table, ["protein"], null_size=2000, threshold=0.05, seed=3, progress_bar=False, cache_dir=tmp_path
    ).set_index("protein")
    wanted = wanted.loc[told.names]
    assert told.mean_ap == pytest.approx(wanted["mean_average_precision"].to_numpy())
    assert told.p == pytest.approx(wanted["p_value"].to_numpy(), abs=2e-3)
    assert told.p_adjusted == pytest.approx(wanted["corrected_p_value"].to_numpy(), abs=2e-3)
    assert 0.1 < (told.p_adjusted < 0.05).mean() <= 1
    assert told.observed()["retrieved"].value() == (told.p_adjusted < 0.05).mean()


def test_random_vectors_are_as_good_as_chance_and_seldom_retrieved(rng):
    columns = profiles(rng, 800) | {"protein": [f"P{at // 4}" for at in range(800)]}
    found = match(rng.normal(size=(800, 64)), columns, RULES["replicates"])
    told = mean_precisions(found, columns["protein"], seed=0, null_size=2000)
    assert told.mean_ap.mean() == pytest.approx(told.chance.mean(), rel=0.25)
    assert (told.p_adjusted < 0.05).mean() < 0.03
    assert 0.02 < (told.p < 0.05).mean() < 0.08


def test_chance_that_is_as_good_counts_as_it_does_not_for_copairs(tmp_path):
    first = np.arange(400) % 4 == 0  # one right row among four: chance puts it first in a quarter of the queries
    found = Precisions(np.where(first, 1.0, 1 / 3), np.ones(400, int), np.full(400, 3))
    names = [f"P{at:03}" for at in range(400)]
    told = mean_precisions(found, names, seed=0, null_size=2000)
    assert not (told.p_adjusted < 0.05).any()
    assert told.p[first] == pytest.approx(0.25, abs=0.03)
    table = pd.DataFrame(
        {"p": names, "average_precision": found.average_precision, "normalized_average_precision": 0.0}
        | {"n_pos_pairs": found.n_pos, "n_total_pairs": 4}
    )
    strict = copairs.mean_average_precision(
        table, ["p"], null_size=2000, threshold=0.05, seed=0, progress_bar=False, cache_dir=tmp_path
    )
    assert strict["below_corrected_p"].mean() == pytest.approx(0.25)


def test_a_null_that_would_not_fit_the_memory_is_smaller(monkeypatch):
    monkeypatch.setattr(matching, "MOST_RANKED", 4 * 1500)
    found = Precisions(np.ones(3), np.ones(3, int), np.full(3, 3))
    assert mean_precisions(found, list("abc"), seed=0).null_size == 1500
    monkeypatch.setattr(matching, "MOST_RANKED", 1)
    assert mean_precisions(found, list("abc"), seed=0).null_size == 1000


def test_expected_precision_is_that_of_copairs():
    sizes = [(1, 1), (1, 9), (3, 4), (20, 500)]
    found = expected_precision(*np.array(sizes).T)
    assert found == pytest.approx([expected_ap(*each) for each in sizes])


def test_each_label_of_a_row_is_asked_as_copairs_asks(rng):
    vectors = rng.normal(size=(90, 8))
    labels = [frozenset(rng.choice(list("abcdefg"), rng.integers(1, 4), replace=False)) for _ in range(90)]
    line = rng.choice(["U", "V"], 90).tolist()
    found = match_labels(vectors, labels, within=line)
    meta = pd.DataFrame({"moa": [sorted(own) for own in labels], "line": line, "row": range(90)})
    wanted = multilabel_precision(
        meta, vectors, ["moa", "line"], [], ["line"], ["moa"], multilabel_col="moa", progress_bar=False
    ).set_index(["row", "moa"])
    told = dict(zip(zip(found.rows.tolist(), found.labels, strict=True), found.of.average_precision, strict=True))
    assert len(wanted) > 100
    for (row, label), each in wanted.iterrows():
        assert told[row, label] == pytest.approx(each["average_precision"]), (row, label)


def test_rows_without_labels_are_neither_right_nor_wrong(rng):
    vectors = np.vstack([np.eye(4), np.eye(4)])
    labels = [frozenset("a"), frozenset("b"), frozenset(), frozenset()] * 2
    found = match_labels(vectors, labels)
    assert found.rows.tolist() == [0, 1, 4, 5]
    assert found.of.n_neg.tolist() == [2] * 4
    assert found.of.average_precision.tolist() == [1] * 4
    assert len(match_labels(vectors, [frozenset()] * 8).rows) == 0
