"""Predictors of functions: against sklearn and loops, on planted data, and that nothing leaks."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

from subcell_atlas.errors import BadInput
from subcell_atlas.functions.calibration import Calibration
from subcell_atlas.functions.features import Expansion, telling_axes
from subcell_atlas.functions.prediction import (
    MODELS,
    N_INNER,
    NEIGHBORS,
    PENALTIES,
    PREDICTORS,
    Held,
    LinearPredictor,
    NeighborPredictor,
    Ridge,
    choose_penalties,
    cross_validate,
    mean_average_precision,
)
from subcell_atlas.functions.splits import make_folds

N, N_KINDS = 180, 3
ALONE = np.arange(N)
EITHER = 2 * N_KINDS  # the term of place 0 with family 0, or place 1 with family 1


@pytest.fixture(scope="module")
def blocks():
    """Pictures, of three places, and sequences, of three families; each is in the first numbers of its block."""
    rng = np.random.default_rng(11)
    place, family = kinds()
    image = 2 * np.eye(N_KINDS, 8)[place] + rng.normal(0, 0.5, (N, 8))
    sequence = 2 * np.eye(N_KINDS, 5)[family] + rng.normal(0, 0.5, (N, 5))
    return [(40 + 9 * image).astype(np.float32), sequence.astype(np.float32)]


@pytest.fixture(scope="module")
def truth():
    """Three places, three families, and what is done by one family here and by another there."""
    place, family = kinds()
    own = [place == kind for kind in range(N_KINDS)] + [family == kind for kind in range(N_KINDS)]
    return np.stack([*own, (place == family) & (place < 2)], axis=1)


def kinds():
    return np.random.default_rng(5).integers(N_KINDS, size=(2, N))


def of_rows(blocks, rows):
    return [block[rows] for block in blocks]


def test_each_block_is_standardized_and_weighs_the_same(blocks, truth):
    features = Expansion.fit(blocks, truth, products=False)(blocks)
    assert features.dtype == np.float32
    slow = np.hstack([StandardScaler().fit_transform(block) / np.sqrt(block.shape[1]) for block in blocks])
    assert features == pytest.approx(slow, abs=1e-5)
    assert features[:, :8].var(axis=0).sum() == pytest.approx(1, abs=1e-4)
    assert features[:, 8:].var(axis=0).sum() == pytest.approx(1, abs=1e-4)


def test_others_are_standardized_by_the_training_proteins(blocks, truth):
    expansion = Expansion.fit(of_rows(blocks, slice(100)), truth[:100], products=True)
    some = expansion(of_rows(blocks, slice(100, None)))
    assert some[:5] == pytest.approx(expansion(of_rows(blocks, slice(100, 105))), abs=1e-6)
    scaler = StandardScaler().fit(blocks[1][:100])
    assert some[:, 8:13] == pytest.approx(scaler.transform(blocks[1][100:]) / np.sqrt(5), abs=1e-5)


def test_a_column_that_does_not_vary_becomes_0_and_takes_no_weight(blocks, truth):
    image = np.insert(blocks[0], 3, np.float32(1000.1), axis=1)
    expansion = Expansion.fit([image], truth, products=False)
    features = expansion([image])
    assert not features[:, 3].any()
    assert np.delete(features, 3, axis=1) == pytest.approx(Expansion.fit(blocks[:1], truth, products=False)(blocks[:1]))
    other = image.copy()
    other[:, 3] = 5
    assert np.array_equal(expansion([other]), features)
    assert not Expansion.fit([np.ones((5, 4), np.float32)], truth[:5], products=False)([np.eye(5, 4)]).any()


def test_products_are_those_of_a_loop(blocks, truth):
    expansion = Expansion.fit(blocks, truth, products=True)
    features = expansion(blocks)
    image, sequence = expansion.standardized(blocks)
    n_axes = truth.shape[1]
    assert expansion.widths == (8, 5, n_axes * n_axes)
    slow = np.array(
        [
            [
                float(image[row] @ expansion.axes[0][:, a]) * float(sequence[row] @ expansion.axes[1][:, b])
                for a in range(n_axes)
                for b in range(n_axes)
            ]
            for row in range(N)
        ]
    )
    slow -= slow.mean(axis=0)
    slow /= np.sqrt(slow.var(axis=0).sum())
    assert features[:, 13:] == pytest.approx(slow, abs=1e-4)
    assert np.array_equal(features[:, :13], Expansion.fit(blocks, truth, products=False)(blocks))


def test_axes_are_those_along_which_a_ridge_regression_of_all_terms_varies(blocks, truth):
    (block,) = Expansion.fit(blocks[:1], truth, products=False).standardized(blocks[:1])
    axes = telling_axes(block, truth)
    told = SklearnRidge(alpha=30, fit_intercept=False).fit(block, StandardScaler().fit_transform(truth)).predict(block)
    wanted = np.linalg.svd(told, compute_uv=False)
    along = np.linalg.norm(block @ axes, axis=0)[::-1]
    assert along[: N_KINDS - 1] == pytest.approx(wanted[: N_KINDS - 1], rel=1e-3)
    assert along.max() == along[0]


def test_axes_of_very_many_terms_are_found_from_mixtures_of_them(blocks, truth):
    """Each term 130 times: 910, which vary along the same directions as the seven."""
    (block,) = Expansion.fit(blocks[:1], truth, products=False).standardized(blocks[:1])
    few, many = (block @ telling_axes(block, each) for each in (truth, np.tile(truth, 130)))
    assert many.shape == (N, 32)
    told, others = (np.linalg.svd(each, full_matrices=False)[0][:, :2] for each in (few, many))
    assert np.linalg.svd(told.T @ others, compute_uv=False).min() > 0.95


def test_an_expansion_comes_back_from_its_arrays(blocks, truth):
    for products in (False, True):
        expansion = Expansion.fit(blocks, truth, products=products)
        back = Expansion.of_arrays({**expansion.arrays(), "weights": np.zeros(3), "means": np.zeros(3)})
        assert np.array_equal(back(blocks), expansion(blocks))


def test_proteins_of_fewer_groups_than_are_held_out_are_refused(blocks, truth):
    for predictor in PREDICTORS.values():
        with pytest.raises(BadInput, match=r"3 parts.*these are of 2 groups"):
            predictor.fit(blocks, truth, np.arange(N) % 2, seed=0)


def test_a_ridge_regression_is_sklearns_with_columns_scaled_for_each_blocks_penalty(blocks, truth):
    ridge = Ridge.of(blocks, truth, products=True)
    penalties = (0.3, 3.0, 30.0)
    weights = ridge.solve(penalties)
    features = ridge.expansion(blocks).astype(np.float64)
    scale = np.sqrt(np.repeat(penalties, ridge.expansion.widths))
    slow = SklearnRidge(alpha=1, solver="cholesky").fit(features / scale, truth.astype(float))
    assert weights.dtype == np.float32
    assert weights == pytest.approx(slow.coef_.T / scale[:, None], abs=1e-3)
    assert features @ weights + ridge.means == pytest.approx(slow.predict(features / scale), abs=1e-3)
    some = ridge.solve(penalties, np.array([4, 1]))
    assert some == pytest.approx(weights[:, [4, 1]], abs=1e-4)
    assert np.array_equal(ridge.solve(penalties), weights)


def test_scores_of_held_out_proteins_are_a_regression_of_the_others(blocks, truth):
    rows = ALONE < 60
    scores = Held.out(blocks, truth, rows, products=False).scores((2.0, 2.0))
    scalers = [StandardScaler().fit(block[60:]) for block in blocks]
    features = np.hstack([s.transform(b) / np.sqrt(b.shape[1]) for s, b in zip(scalers, blocks, strict=True)])
    slow = SklearnRidge(alpha=2).fit(features[60:], truth[60:].astype(float)).predict(features[:60])
    assert scores == pytest.approx(slow, abs=1e-3)


def test_what_is_known_of_held_out_proteins_does_not_reach_their_scores(blocks, truth):
    rows, other = ALONE % 3 == 0, truth.copy()
    other[rows] = ~other[rows]
    scores = [Held.out(blocks, each, rows, products=True).scores((1.0, 1.0, 1.0)) for each in (truth, other)]
    assert np.array_equal(*scores)


def test_penalties_are_chosen_that_rank_held_out_proteins_best(blocks, truth):
    parts = make_folds(ALONE, N_INNER, seed=0)
    held = [Held.out(blocks[:1], truth[:, :3], parts == part, products=False) for part in range(N_INNER)]
    (chosen,) = choose_penalties(held, truth[:, :3], seed=0)

    def quality(penalty):
        scores = np.empty((N, 3))
        for part in held:
            scores[part.rows] = part.scores((penalty,))
        return np.mean([average_precision_score(truth[:, t], scores[:, t]) for t in range(3)])

    at = PENALTIES.index(chosen)
    beside = PENALTIES[max(at - 1, 0) : at + 2]
    assert quality(chosen) == max(map(quality, beside))


@pytest.mark.parametrize("name", PREDICTORS)
def test_no_probability_knows_what_is_known_of_its_own_fold(name, blocks, truth):
    folds = make_folds(ALONE, 4, seed=1)
    out, other = folds == 2, truth.copy()
    other[out] = truth[out][np.random.default_rng(0).permutation(out.sum())]
    assert not np.array_equal(other, truth)
    options = {"folds": folds, "groups": ALONE, "seed": 0}
    told = [cross_validate(PREDICTORS[name], blocks, each, **options) for each in (truth, other)]
    assert np.array_equal(told[0][out], told[1][out])
    assert not np.array_equal(told[0][~out], told[1][~out])
    model = PREDICTORS[name].fit(of_rows(blocks, ~out), truth[~out], ALONE[~out], seed=0)
    assert told[0][out] == pytest.approx(model.probabilities(of_rows(blocks, out)), abs=1e-6)


@pytest.mark.parametrize("name", PREDICTORS)
def test_planted_places_and_families_are_told_of_proteins_held_out(name, blocks, truth):
    folds = make_folds(ALONE, 3, seed=0)
    told = cross_validate(PREDICTORS[name], blocks, truth, folds=folds, groups=ALONE, seed=0)
    assert told.dtype == np.float32
    for term in range(EITHER):
        assert average_precision_score(truth[:, term], told[:, term]) > 0.9
    share = truth.mean(axis=0)
    assert np.mean((told - truth) ** 2) < 0.5 * np.mean((share - truth) ** 2)
    assert told.mean(axis=0) == pytest.approx(share, abs=0.06)


def test_products_tell_what_a_family_does_in_one_place_and_a_mere_sum_does_not(blocks, truth):
    folds, found = make_folds(ALONE, 3, seed=0), {}
    for products in (False, True):
        way = LinearPredictor(products=products)
        told = cross_validate(way, blocks, truth, folds=folds, groups=ALONE, seed=0)[:, EITHER]
        found[products] = average_precision_score(truth[:, EITHER], told)
    assert found[False] < 0.6
    assert found[True] > 0.9


def test_one_modality_has_no_products(blocks, truth):
    plain, crossed = (LinearPredictor(products=p).fit(blocks[:1], truth, ALONE, seed=0) for p in (False, True))
    assert np.array_equal(plain.probabilities(blocks[:1]), crossed.probabilities(blocks[:1]))


def slow_votes(queries, units, truth, k):
    """The share of likeness, one protein and one neighbor after the other."""
    shares = np.zeros((len(queries), truth.shape[1]))
    for row, query in enumerate(queries):
        cosines = [float(query @ other) for other in units]
        near = sorted(range(len(units)), key=lambda i: -cosines[i])[:k]
        weights = [max(cosines[i], 0) + 1e-6 for i in near]
        for i, weight in zip(near, weights, strict=True):
            shares[row] += weight / sum(weights) * truth[i]
    return shares


def test_neighbors_vote_as_in_a_loop(blocks, truth):
    blocks, asked, truth = of_rows(blocks, slice(90)), of_rows(blocks, slice(90, 100)), truth[:90]
    groups = np.arange(90)
    model = NeighborPredictor().fit(blocks, truth, groups, seed=0)
    features = np.hstack([StandardScaler().fit_transform(block) / np.sqrt(block.shape[1]) for block in blocks])
    new = np.hstack(
        [StandardScaler().fit(b).transform(a) / np.sqrt(b.shape[1]) for a, b in zip(asked, blocks, strict=True)]
    )
    units, queries = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (features, new))
    units = units.astype(np.float16).astype(np.float64)
    parts, scores = make_folds(groups, N_INNER, seed=0), {}
    for k in NEIGHBORS:
        scores[k] = np.zeros(truth.shape)
        for part in range(N_INNER):
            out = parts == part
            scores[k][out] = slow_votes(units[out], units[~out], truth[~out], k)
    quality = {k: mean_average_precision(truth, of.astype(np.float32)) for k, of in scores.items()}
    assert quality[model.k] == pytest.approx(max(quality.values()), abs=1e-6)
    slow = Calibration.fit(scores[model.k], truth)(slow_votes(queries, units, truth, model.k))
    assert model.probabilities(asked) == pytest.approx(slow, abs=2e-3)


@pytest.mark.parametrize("name", PREDICTORS)
@pytest.mark.parametrize("n_blocks", [1, 2])
def test_a_model_comes_back_from_its_arrays(name, n_blocks, blocks, truth):
    model = PREDICTORS[name].fit(blocks[:n_blocks], truth, ALONE, seed=0)
    back = MODELS[name].of_arrays(model.arrays())
    assert np.array_equal(back.probabilities(blocks[:n_blocks]), model.probabilities(blocks[:n_blocks]))


@pytest.mark.parametrize("name", PREDICTORS)
def test_a_seed_gives_the_same_model(name, blocks, truth):
    first, second = (PREDICTORS[name].fit(blocks, truth, ALONE, seed=4).arrays() for _ in range(2))
    assert all(np.array_equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("name", PREDICTORS)
def test_terms_that_nobody_or_everybody_in_a_training_part_has_are_told_as_such(name, blocks, truth):
    folds = make_folds(ALONE, 3, seed=0)
    rare = np.zeros(N, bool)
    rare[np.flatnonzero(folds == 1)[:2]] = True
    truth = np.column_stack([truth, rare, np.zeros(N, bool), np.ones(N, bool)])
    told = cross_validate(PREDICTORS[name], blocks, truth, folds=folds, groups=ALONE, seed=0)
    assert np.isfinite(told).all()
    assert np.all((told > 0) & (told < 1))
    assert told[folds == 1, -3].max() < 0.01  # the training part has no member
    assert told[:, -2].max() < 0.01
    assert told[:, -1].min() > 0.99


@pytest.mark.parametrize("name", PREDICTORS)
def test_proteins_of_a_group_are_on_one_side_of_every_inner_split(name, blocks, truth):
    """Each protein twice: split apart, its copy would tell of it, and noise would seem to be told."""
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(N // 2, 20)).astype(np.float32)
    labels = rng.random((N // 2, 6)) < 0.3
    twice, labels = np.repeat(noise, 2, axis=0), np.repeat(labels, 2, axis=0)
    asked = [rng.normal(size=(200, 20)).astype(np.float32)]
    spread = {}
    for kept, groups in ((True, ALONE // 2), (False, ALONE)):
        told = PREDICTORS[name].fit([twice], labels, groups, seed=0).probabilities(asked)
        spread[kept] = told.std(axis=0).mean()
    assert spread[True] < 0.05
    assert spread[False] > 2 * spread[True]


def test_mean_average_precision_is_sklearns(rng):
    truth, scores = rng.random((80, 7)) < 0.2, rng.random((80, 7))
    truth[:, 3] = False
    slow = [average_precision_score(truth[:, t], scores[:, t]) for t in range(7) if t != 3]
    assert mean_average_precision(truth, scores) == pytest.approx(np.mean(slow))
    assert mean_average_precision(truth[:, [3]], scores[:, [3]]) == 0
