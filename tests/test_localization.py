"""The probes of localization: scikit-learn's figures, groups held out whole."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

from subcell_atlas.errors import BadInput
from subcell_atlas.evaluation import localization
from subcell_atlas.evaluation.intervals import interval, paired_difference
from subcell_atlas.evaluation.localization import (
    PROBES,
    Line,
    MacroPrecision,
    class_precisions,
    dealt_rows,
    folds_of,
    nearest_rows,
    probe_localization,
    shares,
    standardize,
)


def planted(rng, *, n_genes=90, per_gene=2, dim=20, signal=1.5, noise=1.0, own=0.0):
    """Rows of genes in one to two of six classes: what their classes share, what is the gene's own, and noise."""
    of_gene = np.repeat(np.arange(n_genes), per_gene)
    truth = np.zeros((n_genes, 6), bool)
    truth[np.arange(n_genes), rng.integers(0, 6, n_genes)] = True
    truth[np.arange(n_genes), rng.integers(0, 6, n_genes)] |= rng.random(n_genes) < 0.4
    of_class, of_genes = rng.normal(size=(6, dim)), rng.normal(size=(n_genes, dim))
    vectors = signal * truth @ of_class + own * of_genes
    return vectors[of_gene] + noise * rng.normal(size=(len(of_gene), dim)), truth[of_gene], of_gene.astype(str)


@pytest.mark.parametrize("dim", [5, 60])
def test_the_line_is_sklearns_ridge_with_more_and_with_fewer_rows_than_dimensions(dim, rng):
    rows, asked = rng.normal(size=(40, dim)), rng.normal(size=(7, dim))
    rows, asked = standardize(rows, asked)
    truth = rng.random((40, 3)) < 0.3
    for regularization, found in zip((0.01, 1.0), Line(rows).scores(truth, asked, (0.01, 1.0)), strict=True):
        wanted = Ridge(alpha=regularization * 40).fit(rows, truth.astype(float)).predict(asked)
        assert found == pytest.approx(wanted, abs=1e-4)


def test_standardizing_is_sklearns_and_a_constant_dimension_says_nothing(rng):
    train, test = rng.normal(3, 2, size=(30, 4)), rng.normal(size=(5, 4))
    train[:, 2] = 7.1
    scaler = StandardScaler().fit(train)
    known, asked = standardize(train, test)
    kept = [0, 1, 3]
    assert known[:, kept] == pytest.approx(scaler.transform(train)[:, kept], abs=1e-5)
    assert asked[:, kept] == pytest.approx(scaler.transform(test)[:, kept], abs=1e-5)
    assert not known[:, 2].any()
    assert not asked[:, 2].any()


def test_neighbors_are_the_rows_of_highest_cosine_each_counted_by_it(rng, monkeypatch):
    monkeypatch.setattr(localization, "ROWS_AT_A_TIME", 3)
    train, asked, truth = rng.normal(size=(30, 4)), rng.normal(size=(8, 4)), rng.random((30, 5)) < 0.4
    found = shares(truth, *nearest_rows(train, asked))
    for row, vector in enumerate(asked):
        cosines = train @ vector / np.linalg.norm(train, axis=1) / np.linalg.norm(vector)
        nearest = sorted(range(30), key=lambda at: -cosines[at])[:10]
        weights = np.maximum(cosines[nearest], 0)
        assert found[row] == pytest.approx(weights @ truth[nearest] / weights.sum(), abs=1e-5)
    alone = shares(np.array([[True], [False]]), *nearest_rows(np.array([[1.0, 0], [2, 0]]), np.array([[-1.0, 0]])))
    assert alone[0, 0] == pytest.approx(0.5)


def test_average_precision_of_a_class_is_sklearns_with_weights_and_ties(rng):
    truth = rng.random((80, 4)) < [0.5, 0.2, 0.05, 0]
    scores = np.round(rng.random((80, 4)), 1)
    found = class_precisions(truth, scores)
    wanted = [average_precision_score(truth[:, at], scores[:, at]) for at in range(3)]
    assert found[:3] == pytest.approx(wanted)
    assert np.isnan(found[3])
    statistic = MacroPrecision(truth, scores)
    assert statistic(np.arange(80), np.ones(80)) == pytest.approx(np.mean(wanted))
    weights = rng.integers(0, 3, 80)
    own = [average_precision_score(truth[:, at], scores[:, at], sample_weight=weights) for at in range(3)]
    assert statistic(np.arange(80), weights) == pytest.approx(np.mean(own))
    some = rng.permutation(80)[:50]
    has = [at for at in range(3) if truth[some, at].any()]
    part = [average_precision_score(truth[some, at], scores[some, at]) for at in has]
    assert statistic(some.astype(float), np.ones(50)) == pytest.approx(np.mean(part))


def test_groups_are_dealt_to_folds_whole_and_evenly(rng):
    groups = rng.integers(0, 23, 200).astype(str)
    folds = folds_of(groups, seed=1)
    assert all(len(set(folds[groups == name])) == 1 for name in set(groups))
    sizes = [len(set(groups[folds == fold])) for fold in range(5)]
    assert max(sizes) - min(sizes) <= 1
    assert not np.array_equal(folds, folds_of(groups, seed=2))


def test_labels_are_dealt_from_gene_to_gene_whole():
    of_gene = np.array([0, 0, 0, 1, 2, 2])
    donors = dealt_rows(of_gene, seed=4)
    given = [set(of_gene[donors[of_gene == gene]]) for gene in range(3)]
    assert all(len(own) == 1 for own in given)
    assert {donor for own in given for donor in own} == {0, 1, 2}


def test_planted_classes_are_told_and_random_vectors_tell_no_more_than_chance(rng):
    vectors, truth, genes = planted(rng)
    folds = folds_of(genes, seed=0)
    found = probe_localization(vectors, {"fine": truth}, folds=folds, genes=genes, seed=0)["fine"]
    noise = probe_localization(rng.normal(size=vectors.shape), {"fine": truth}, folds=folds, genes=genes, seed=0)[
        "fine"
    ]
    share = truth.mean()
    for probe in PROBES:
        assert found.macro(probe) > 0.85
        assert found.micro(probe) > 0.8
        assert found.macro_chance(probe) == pytest.approx(share, abs=0.12)
        assert noise.macro(probe) == pytest.approx(share, abs=0.12)
    assert len(found.chosen) == 5


def test_a_gene_on_both_sides_is_told_by_its_looks_which_chance_shows(rng):
    """Vectors that tell genes apart and classes not at all: by gene nothing can be told, by row everything."""
    vectors, truth, genes = planted(rng, signal=0, own=3, per_gene=3, dim=60)
    by_gene = probe_localization(vectors, {"fine": truth}, folds=folds_of(genes, seed=0), genes=genes, seed=0)["fine"]
    rows = [str(row) for row in range(len(genes))]
    leaking = probe_localization(vectors, {"fine": truth}, folds=folds_of(rows, seed=0), genes=genes, seed=0)["fine"]
    assert by_gene.macro("nearest") < 0.35
    assert leaking.macro("nearest") > 0.7
    assert leaking.macro_chance("nearest") > 0.7
    assert by_gene.macro_chance("nearest") < 0.35


def test_a_fold_is_told_by_models_that_have_not_seen_it(rng):
    """What is scored of a row does not change with its own labels."""
    vectors, truth, genes = planted(rng)
    folds = folds_of(genes, seed=0)
    other = truth.copy()
    other[folds == 2] = ~other[folds == 2]
    first, second = (
        probe_localization(vectors, {"fine": own}, folds=folds, genes=genes, seed=0)["fine"] for own in (truth, other)
    )
    for probe in PROBES:
        assert np.array_equal(first.scores[probe][folds == 2], second.scores[probe][folds == 2])


def test_rows_to_learn_from_alone_are_not_tested(rng):
    vectors, truth, genes = planted(rng)
    folds = np.where(np.arange(len(genes)) < 120, -1, 0)
    found = probe_localization(vectors, {"fine": truth}, folds=folds, genes=genes, seed=0)["fine"]
    assert found.rows.tolist() == list(range(120, 180))
    assert found.scores["linear"].shape == (60, 6)
    assert found.macro("linear") > 0.8


def test_intervals_are_over_genes_and_embeddings_are_compared_row_by_row(rng):
    vectors, truth, genes = planted(rng)
    folds, ids = folds_of(genes, seed=0), [f"row {at}" for at in range(len(genes))]
    good = probe_localization(vectors, {"fine": truth}, folds=folds, genes=genes, seed=0)["fine"]
    mixed = vectors + 4 * rng.normal(size=vectors.shape)
    bad = probe_localization(mixed, {"fine": truth}, folds=folds, genes=genes, seed=0)["fine"]
    observed = good.observed("linear", ids, genes)
    ends = interval(observed, seed=0, n_draws=200)
    assert good.macro("linear") == pytest.approx(ends.value)
    assert ends.low < ends.value < ends.high
    assert ends.n_drawn == 90
    difference = paired_difference(observed, bad.observed("linear", ids, genes), seed=0, n_draws=200)
    assert difference.low > 0
    assert difference.difference == pytest.approx(good.macro("linear") - bad.macro("linear"))


def test_bad_input_is_refused(rng):
    vectors, truth, genes = planted(rng)
    with pytest.raises(BadInput, match="two folds"):
        probe_localization(vectors, {"fine": truth}, folds=np.zeros(len(genes)), genes=genes, seed=0)
    vectors[0, 0] = np.nan
    with pytest.raises(BadInput, match="NaN"):
        probe_localization(vectors, {"fine": truth}, folds=folds_of(genes, seed=0), genes=genes, seed=0)
