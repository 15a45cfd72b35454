"""Fusion: planted latents found and no others, chance called chance, nothing learned from what is scored."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import eigh
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import Ridge

from subcell_atlas.errors import BadInput, UnknownName
from subcell_atlas.functions.features import Expansion
from subcell_atlas.functions.fusion import (
    MIN_PROTEINS,
    PENALTIES,
    Alignment,
    Held,
    Moments,
    Strength,
    choose_penalty,
    compare,
    concatenated,
    expected_error,
    fused,
    held_out_alignments,
    same_sequence,
    unit,
)

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def planted(*, n=600, widths=(40, 30), shared=4, private=6, noise=0.5, strength=1.0, bent=False, mean=2.0, seed=0):
    """Image and sequence vectors that have `shared` latents in common, and these latents (n, shared)."""
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(n, shared))
    blocks = []
    for width in widths:
        common = np.tanh(latents) if bent else latents
        own = rng.normal(size=(n, private)) @ rng.normal(size=(private, width))
        block = strength * common @ rng.normal(size=(shared, width)) + own + noise * rng.normal(size=(n, width))
        blocks.append((block + mean * rng.normal(size=width)).astype(np.float32))
    return *blocks, latents


def independent(*, n=400, widths=(40, 30), seed=0):
    """Image and sequence vectors with structure, but nothing in common."""
    image, _, _ = planted(n=n, widths=(widths[0], 2), seed=seed)
    _, sequence, _ = planted(n=n, widths=(2, widths[1]), seed=seed + 1000)
    return image, sequence


def explained(told, true, mean):
    """The share of the variance around `mean` that is told, columns weighing the same."""
    deviation = true.std(axis=0)
    return 1 - (((told - true) / deviation) ** 2).sum() / (((true - mean) / deviation) ** 2).sum()


def assert_same(first, second):
    """Two alignments are equal, bit by bit."""
    one, other = first.arrays(), second.arrays()
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.fixture(scope="module")
def trial():
    """600 proteins to learn from and 300 others, each image, sequence and latents; and what is learned."""
    image, sequence, latents = planted(n=900)
    known, new = np.arange(900) < 600, np.arange(900) >= 600
    alignment = Alignment.fit(image[known], sequence[known], seed=0)
    return alignment, [part[known] for part in (image, sequence)], [part[new] for part in (image, sequence, latents)]


def test_concatenated_blocks_are_standardized_and_weigh_the_same():
    image, sequence, _ = planted(widths=(50, 7))
    found = concatenated(image * 1000, sequence)
    assert found.shape == (600, 57)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(found[:, :50].var(axis=0), 1 / 50, rtol=1e-4)
    np.testing.assert_allclose(found[:, 50:].var(axis=0), 1 / 7, rtol=1e-4)
    expansion = Expansion.fit([image * 1000, sequence], np.zeros((600, 0), bool), products=False)
    np.testing.assert_array_equal(found, expansion([image * 1000, sequence]))


def test_concatenated_constant_columns_become_zero_and_leave_their_weight_to_others():
    image, sequence, _ = planted()
    image[:, :10] = 7
    found = concatenated(image, sequence)
    assert (found[:, :10] == 0).all()
    np.testing.assert_allclose(found[:, :40].var(axis=0).sum(), 1, rtol=1e-4)


def naive_canonical(image, sequence, penalty):
    """Squared canonical correlations and weights of the image, from the generalized eigenproblem of both sides."""
    image, sequence = ((b - b.mean(axis=0)) / b.std(axis=0) / np.sqrt(b.shape[1]) for b in (image, sequence))
    image, sequence = image.astype(np.float64), sequence.astype(np.float64)
    xx, yy, xy = image.T @ image, sequence.T @ sequence, image.T @ sequence
    xx, yy = xx + penalty * np.eye(len(xx)), yy + penalty * np.eye(len(yy))
    squares, weights = eigh(xy @ np.linalg.solve(yy, xy.T), xx)
    return squares[::-1], weights[:, ::-1]


@pytest.mark.parametrize("widths", [(12, 9), (9, 12)])
def test_canonical_correlations_are_those_of_scikit_learn_when_proteins_are_many(widths):
    image, sequence, _ = planted(n=2000, widths=widths, shared=3)
    moments = Moments.of(image, sequence)
    pair = moments.canonical(1e-4)
    u, v = moments.image(image) @ pair.image, moments.sequence(sequence) @ pair.sequence
    theirs = CCA(n_components=3, max_iter=5000, tol=1e-10).fit(image, sequence).transform(image, sequence)
    for i in range(3):
        own, twin = (np.corrcoef(pair[0][:, i], pair[1][:, i])[0, 1] for pair in ((u, v), theirs))
        assert own == pytest.approx(twin, abs=1e-4)
    np.testing.assert_allclose(np.corrcoef(u.T), np.eye(u.shape[1]), atol=1e-3)  # variates do not vary together
    np.testing.assert_allclose(u.std(axis=0), 1, atol=1e-3)


@pytest.mark.parametrize("widths", [(30, 20), (20, 30)])
@pytest.mark.parametrize("penalty", [0.1, 3.0, 100.0])
def test_ridged_directions_are_those_of_the_generalized_eigenproblem(widths, penalty):
    image, sequence, _ = planted(n=60, widths=widths)
    pair = Moments.of(image, sequence).canonical(penalty)
    squares, weights = naive_canonical(image, sequence, penalty)
    for i in range(5):
        cosine = unit(pair.image[:, [i]].T)[0] @ unit(weights[:, [i]].T)[0]
        assert abs(cosine) == pytest.approx(1, abs=1e-3)
    moments = Moments.of(image, sequence)
    found = np.einsum("ij,ij->j", pair.image, moments.cross @ pair.sequence)[:5] / 60
    np.testing.assert_allclose(found, np.sqrt(squares[:5]), rtol=1e-3)
    np.testing.assert_allclose(pair.image_back.T @ pair.image, np.eye(pair.k), atol=1e-2)
    assert (pair.image.max(axis=0) == np.abs(pair.image).max(axis=0)).all()  # which sign is up is not left to chance


@pytest.mark.parametrize("shared", [1, 4, 8])
def test_as_many_dimensions_are_found_as_were_planted(shared):
    image, sequence, _ = planted(n=1500, shared=shared, widths=(60, 50), noise=1.0)
    alignment = Alignment.fit(image, sequence, seed=0)
    assert alignment.k == pytest.approx(shared, abs=1)
    assert (alignment.correlations[:shared] > 0.5).all()
    assert alignment.n == 1500
    assert alignment.penalty in PENALTIES


def test_the_shared_space_holds_the_latents_and_not_what_is_private(trial):
    alignment, _, (image, sequence, latents) = trial
    for place in (alignment.share(image=image), alignment.share(sequence=sequence)):
        told = place @ np.linalg.lstsq(place, latents, rcond=None)[0]
        assert 1 - ((told - latents) ** 2).sum() / (latents**2).sum() > 0.9


def test_places_from_either_modality_are_near_and_of_both_their_mean(trial):
    alignment, _, (image, sequence, _) = trial
    one, other = alignment.share(image=image), alignment.share(sequence=sequence)
    assert one.dtype == np.float32
    assert one.shape == (300, alignment.k)
    assert np.median(compare(one, other, np.float32(0))[:, 2]) < 0.01
    np.testing.assert_allclose(alignment.share(image, sequence), (one + other) / 2, atol=1e-6)


def test_what_is_filled_in_is_nearer_than_the_mean(trial):
    alignment, (known_image, known_sequence), (image, sequence, _) = trial
    assert explained(alignment.fill_image(sequence), image, known_image.mean(axis=0)) > 0.3
    assert explained(alignment.fill_sequence(image), sequence, known_sequence.mean(axis=0)) > 0.3
    assert alignment.fill_image(sequence).dtype == np.float32


@pytest.mark.parametrize(
    ("n", "kind"),
    [
        (300, {"widths": (200, 150), "noise": 2.0}),
        (1500, {"widths": (120, 90), "noise": 1.0, "private": 60, "bent": True}),
    ],
)  # fmt: skip
def test_what_is_filled_in_is_nearer_than_what_the_best_of_ridge_regressions_says(n, kind):
    image, sequence, _ = planted(n=n + 500, shared=8, **kind)
    mean, alignment = image[:n].mean(axis=0), Alignment.fit(image[:n], sequence[:n], seed=0)
    standard = concatenated(image, sequence)[:, image.shape[1] :]
    ridges = [Ridge(alpha=penalty).fit(standard[:n], image[:n]).predict(standard[n:]) for penalty in PENALTIES]
    best = max(explained(told, image[n:], mean) for told in ridges)
    assert explained(alignment.fill_image(sequence[n:]), image[n:], mean) > best > 0


def test_what_is_filled_in_is_as_long_as_it_is_expected_to_be():
    image, sequence, _ = planted(n=3000, shared=8, private=30, noise=2.0, bent=True)
    alignment = Alignment.fit(image[:1500], sequence[:1500], seed=0)
    told_image, told_sequence = alignment.fill_image(sequence[1500:]), alignment.fill_sequence(image[1500:])
    for side, told, true in (
        (alignment.image, told_image, image[1500:]),
        (alignment.sequence, told_sequence, sequence[1500:]),
    ):
        told, true = side.standard(told), side.standard(true)
        assert (told * true).sum() / (told**2).sum() == pytest.approx(1, abs=0.2)
        assert (told**2).sum() < 0.2 * (true**2).sum()


def test_full_length_keeps_the_direction_and_finds_the_own_picture_where_all_have_much_in_common():
    image, sequence, _ = planted(n=900, private=40, bent=True, mean=20.0, widths=(80, 60))
    alignment = Alignment.fit(image[:600], sequence[:600], seed=0)
    mean, true = alignment.image.standard.mean, image[600:]
    short, full = (alignment.fill_image(sequence[600:], full_length=length) for length in (False, True))
    np.testing.assert_allclose(unit(short - mean), unit(full - mean), atol=1e-3)
    length = np.sqrt(((image[:600] - mean) ** 2).sum(axis=1).mean())
    np.testing.assert_allclose(np.linalg.norm(full - mean, axis=1), length, rtol=1e-3)
    zero = np.zeros_like(mean)  # by plain cosine
    assert np.median(compare(full, true, zero)[:, 2]) < np.median(compare(short, true, zero)[:, 2])


@pytest.mark.parametrize(("n", "widths"), [(400, (40, 30)), (60, (100, 80)), (600, (40, 120))])
def test_independent_modalities_are_told_no_better_than_chance(n, widths):
    cosines, ranks = [], []
    for seed in range(3):
        error = expected_error(*independent(n=n, widths=widths, seed=seed), groups=None, seed=seed)
        assert error.n == n
        for told in (error.image, error.sequence):
            cosines.append(told.cosine - told.chance)
            ranks.append(told.median_rank)
    assert abs(np.mean(cosines)) < 0.05
    assert max(np.abs(cosines)) < 4 / np.sqrt(n)
    assert np.mean(ranks) == pytest.approx(0.5, abs=2 / np.sqrt(n))


def test_in_the_sample_independent_modalities_look_related_and_that_is_not_what_is_said():
    image, sequence = independent(n=60, widths=(100, 80))
    moments = Moments.of(image, sequence)
    pair = moments.canonical(PENALTIES[0])
    u, v = moments.image(image) @ pair.image[:, 0], moments.sequence(sequence) @ pair.sequence[:, 0]
    assert np.corrcoef(u, v)[0, 1] > 0.9
    alignment = Alignment.fit(image, sequence, seed=0)
    assert alignment.k <= 2
    assert alignment.correlations.max() < 0.5
    told = alignment.fill_image(sequence) - alignment.image.standard.mean
    assert (told**2).sum() < 0.1 * ((image - image.mean(axis=0)) ** 2).sum()


def test_a_space_of_nothing_shared_still_has_places():
    image, sequence = independent()
    alignment = Alignment.fit(image, sequence, seed=0)
    assert alignment.k >= 1
    place = replace(alignment, correlations=np.zeros_like(alignment.correlations)).share(image=image)
    assert (np.abs(place).sum(axis=1) > 0).all()


def test_dimensions_that_are_held_out_the_other_way_round_tell_nothing():
    rng = np.random.default_rng(0)
    parts = [Strength.of(rng.normal(size=(30, 50)), rng.normal(size=(30, 50))) for _ in range(3)]
    strength = Strength.mean_of(parts)
    away = strength.correlations < -0.1
    assert away.any()
    assert (strength.image_slopes[away] == 0).all()
    assert (strength.sequence_slopes[away] == 0).all()
    assert strength.n == 90


def test_related_modalities_are_told_better_than_chance():
    image, sequence, _ = planted()
    error = expected_error(image, sequence, groups=None, seed=0)
    for told in (error.image, error.sequence):
        assert told.cosine > 0.4
        assert abs(told.chance) < 0.02
        assert told.median_rank < 0.05
        assert list(told.quantiles.values()) == sorted(told.quantiles.values())
        assert told.quantiles[0.05] < told.cosine < told.quantiles[0.95]


def test_expected_error_is_what_new_proteins_have(trial):
    alignment, (known_image, known_sequence), (image, sequence, _) = trial
    error = expected_error(known_image, known_sequence, groups=None, seed=0)
    new = compare(alignment.fill_image(sequence), image, alignment.image.standard.mean)
    assert error.image.cosine == pytest.approx(new[:, 0].mean(), abs=0.05)
    assert error.image.quantiles[0.5] == pytest.approx(np.median(new[:, 0]), abs=0.05)


def test_comparison_by_hand():
    true = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    told = np.array([[2, 0], [1, 0], [-1, -1]], np.float32)
    half = np.sqrt(0.5)
    found = compare(told, true, np.zeros(2, np.float32))
    np.testing.assert_allclose(found[:, 0], [1, 0, -1], atol=1e-6)
    np.testing.assert_allclose(found[:, 1], [half / 2, (1 + half) / 2, -half], atol=1e-6)
    np.testing.assert_allclose(found[:, 2], [0, 1, 1], atol=1e-6)


def test_ranks_are_those_of_a_loop_and_a_tie_counts_half():
    rng = np.random.default_rng(0)
    true = np.eye(6, dtype=np.float32)[rng.integers(0, 6, 80)]  # many the same
    told, mean = rng.normal(size=(80, 6)).astype(np.float32), true.mean(axis=0)
    found = compare(told, true, mean)[:, 2]
    for i in range(80):
        cosines = [
            np.dot(told[i] - mean, t - mean) / np.linalg.norm(told[i] - mean) / np.linalg.norm(t - mean) for t in true
        ]
        others = [0.5 if (true[j] == true[i]).all() else float(cosines[j] > cosines[i]) for j in range(80) if j != i]
        assert found[i] == pytest.approx(np.mean(others), abs=1e-6)


def test_told_to_be_the_mean_ranks_in_the_middle():
    true = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    found = compare(np.tile(true.mean(axis=0), (30, 1)), true, true.mean(axis=0))
    np.testing.assert_array_equal(found, np.tile([0, 0, 0.5], (30, 1)))


def test_training_does_not_see_the_partners_of_held_out_proteins():
    image, sequence, _ = planted(n=150)
    groups = np.arange(150)
    rng = np.random.default_rng(1)
    for out, alignment in held_out_alignments(image, sequence, groups, n_folds=5, seed=0):
        other = image.copy()
        other[out] = 100 * rng.normal(size=other[out].shape)
        same = [
            found
            for rows, found in held_out_alignments(other, sequence, groups, n_folds=5, seed=0)
            if (rows == out).all()
        ]
        assert_same(alignment, *same)


def test_groups_are_not_split_between_learning_and_scoring():
    rng = np.random.default_rng(0)
    families = np.repeat(np.arange(60), 5)  # of one look and one sequence, which have nothing to do with each other
    image = rng.normal(size=(60, 30))[families] + 0.1 * rng.normal(size=(300, 30))
    sequence = rng.normal(size=(60, 20))[families] + 0.1 * rng.normal(size=(300, 20))
    assert expected_error(image, sequence, groups=np.arange(300), seed=0).image.cosine > 0.2  # has seen the family
    told = expected_error(image, sequence, groups=families, seed=0).image
    assert abs(told.cosine) < 0.1
    assert told.median_rank == pytest.approx(0.5, abs=0.1)
    assert Alignment.fit(image, sequence, seed=0, groups=np.arange(300)).k > 10
    assert Alignment.fit(image, sequence, seed=0, groups=families).k < 4
    for out, alignment in held_out_alignments(image, sequence, families, n_folds=3, seed=0):
        assert not np.isin(families[out], families[~out]).any()
        assert_same(alignment, Alignment.fit(image[~out], sequence[~out], seed=0, groups=families[~out]))


def test_without_groups_proteins_of_the_same_sequence_are_one():
    rng = np.random.default_rng(0)
    families = np.repeat(np.arange(60), 5)
    image = rng.normal(size=(60, 30))[families] + 0.1 * rng.normal(size=(300, 30))
    sequence = rng.normal(size=(60, 20)).astype(np.float32)[families]
    assert abs(expected_error(image, sequence, groups=None, seed=0).image.cosine) < 0.1
    np.testing.assert_array_equal(np.unique(same_sequence(sequence), return_counts=True)[1], 5)
    assert len(np.unique(same_sequence(np.array([[0.0], [-0.0]], np.float32)))) == 1


def test_the_same_seed_gives_the_same_alignment_and_error():
    image, sequence, _ = planted(n=200)
    assert_same(Alignment.fit(image, sequence, seed=3), Alignment.fit(image, sequence, seed=3))
    one, other = (expected_error(image, sequence, groups=None, seed=3) for _ in range(2))
    assert one == other


@pytest.mark.parametrize("grouped", [False, True])
def test_the_order_of_rows_does_not_matter(grouped):
    image, sequence, _ = planted(n=300)
    groups = np.random.default_rng(2).integers(0, 50, 300) if grouped else None
    order = np.random.default_rng(3).permutation(300)
    one = Alignment.fit(image, sequence, seed=0, groups=groups)
    other = Alignment.fit(image[order], sequence[order], seed=0, groups=groups[order] if grouped else None)
    assert one.k == other.k
    assert one.penalty == other.penalty
    np.testing.assert_allclose(one.fill_image(sequence), other.fill_image(sequence), atol=1e-3)
    np.testing.assert_allclose(one.share(image, sequence), other.share(image, sequence), atol=1e-3)
    concatenation = concatenated(image, sequence)
    np.testing.assert_allclose(concatenation[order], concatenated(image[order], sequence[order]), atol=1e-5)


def test_units_do_not_matter():
    image, sequence, _ = planted(n=300)
    factors = np.geomspace(0.01, 100, 40).astype(np.float32)
    one, other = Alignment.fit(image, sequence, seed=0), Alignment.fit(image * factors + 3, sequence, seed=0)
    np.testing.assert_allclose(one.share(image=image), other.share(image=image * factors + 3), atol=5e-3)
    np.testing.assert_allclose(
        one.fill_image(sequence), (other.fill_image(sequence) - 3) / factors, atol=5e-3 * np.abs(image).max()
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float64, "list"])
def test_other_kinds_of_numbers_are_taken(dtype):
    image, sequence, _ = planted(n=60)
    given = [part.tolist() if dtype == "list" else part.astype(dtype) for part in (image, sequence)]
    found = Alignment.fit(*given, seed=0, groups=np.arange(60))
    assert found.share(*given).dtype == np.float32
    np.testing.assert_allclose(
        found.fill_image(given[1]),
        Alignment.fit(image, sequence, seed=0, groups=np.arange(60)).fill_image(sequence),
        atol=0.02,
    )


def test_constant_columns_are_filled_with_their_value():
    image, sequence, _ = planted()
    image[:, :3], sequence[:, 5] = 0.1, -4
    alignment = Alignment.fit(image, sequence, seed=0)
    np.testing.assert_allclose(alignment.fill_image(sequence)[:, :3], 0.1)
    np.testing.assert_allclose(alignment.fill_sequence(image)[:, 5], -4)
    assert np.isfinite(alignment.share(image, sequence)).all()
    odd = image.copy()
    odd[:, :3] = 1e6  # did not vary before: says nothing
    np.testing.assert_array_equal(alignment.share(image=odd), alignment.share(image=image))


def test_repeated_proteins_and_columns_and_few_proteins_for_many_numbers_do_no_harm():
    image, sequence, _ = planted(n=30, widths=(100, 120), noise=0.1, private=2)
    alignment = Alignment.fit(image, sequence, seed=0)
    assert np.isfinite(alignment.fill_image(sequence)).all()
    twice = Alignment.fit(np.vstack([image, image]), np.vstack([sequence, sequence]), seed=0)
    assert np.isfinite(twice.share(image, sequence)).all()
    wide = Alignment.fit(np.hstack([image] * 3), np.hstack([sequence] * 3), seed=0)
    np.testing.assert_allclose(
        wide.fill_image(np.hstack([sequence] * 3))[:, :100], alignment.fill_image(sequence), atol=0.02
    )


def test_one_protein_unlike_all_others_does_no_harm():
    image, sequence, _ = planted()
    image[0] *= 1e6
    sequence[1] *= -1e6
    alignment = Alignment.fit(image, sequence, seed=0)
    assert np.isfinite(alignment.fill_image(sequence)).all()
    assert np.isfinite(expected_error(image, sequence, groups=None, seed=0).image.cosine)


def test_few_proteins_are_refused_with_the_number_needed():
    image, sequence, _ = planted(n=3)
    with pytest.raises(BadInput, match=rf"at least {MIN_PROTEINS} proteins with both a picture and a sequence.* got 3"):
        Alignment.fit(image, sequence, seed=0)
    with pytest.raises(BadInput, match=r"at least 25 proteins with both.* got 3"):
        expected_error(image, sequence, groups=None, seed=0)
    image, sequence, _ = planted(n=25)
    assert expected_error(image, sequence, groups=None, seed=0).n == 25
    assert Alignment.fit(image[:20], sequence[:20], seed=0).n == 20


@pytest.mark.parametrize("groups", [np.zeros(200, int), np.r_[np.zeros(195, int), 1:6]])
def test_one_group_that_is_nearly_all_is_refused(groups):
    image, sequence, _ = planted(n=200)
    with pytest.raises(BadInput, match=r"got 200 proteins in \d groups"):
        Alignment.fit(image, sequence, seed=0, groups=groups)
    with pytest.raises(BadInput, match="without the largest fold"):
        expected_error(image, sequence, groups=groups, seed=0)


def test_vectors_that_are_all_the_same_are_refused():
    image, sequence, _ = planted(n=50)
    with pytest.raises(BadInput, match="All 50 picture vectors are the same"):
        Alignment.fit(np.full_like(image, 0.1), sequence, seed=0)
    with pytest.raises(BadInput, match="All 40 sequence vectors are the same"):
        expected_error(image, np.full_like(sequence, 0.1), groups=np.arange(50), seed=0)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda image, sequence: (image[:-1], sequence), "Got 49 image vectors and 50 sequence vectors"),
        (lambda image, sequence: (image[:0], sequence[:0]), "Got 0 image vectors"),
        (lambda image, sequence: (image[0], sequence), "image vectors should be"),
        (lambda image, sequence: (image[:, :0], sequence), "image vectors should be"),
        (lambda image, sequence: (np.where(image == image[7], np.nan, image), sequence), "1 of 50 image .* in row 7"),
        (lambda image, sequence: (image, sequence.astype(np.float64) * 1e60), "50 of 50 sequence vectors are not"),
        (lambda image, sequence: ([["a"]] * 50, sequence), "image vectors are not a table of numbers"),
        (lambda image, sequence: ([[1.0], [1.0, 2.0]], sequence), "image vectors are not a table of numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(damage, message):
    image, sequence, _ = planted(n=50)
    damaged = damage(image, sequence)
    for use in (
        lambda: Alignment.fit(*damaged, seed=0),
        lambda: concatenated(*damaged),
        lambda: expected_error(*damaged, groups=None, seed=0),
    ):
        with pytest.raises(BadInput, match=message):
            use()


def test_wrong_groups_folds_and_places_are_refused(trial):
    alignment, (image, sequence), _ = trial
    with pytest.raises(BadInput, match=r"one for each of 600 proteins; got \(3,\)"):
        Alignment.fit(image, sequence, seed=0, groups=np.arange(3))
    with pytest.raises(BadInput, match="2 folds or more; got 1"):
        expected_error(image, sequence, groups=None, seed=0, n_folds=1)
    with pytest.raises(BadInput, match="got neither"):
        alignment.share()
    with pytest.raises(BadInput, match="Got 4 image vectors and 5 sequence vectors"):
        alignment.share(image[:4], sequence[:5])
    with pytest.raises(BadInput, match="have 30 numbers; the alignment was learned from 40"):
        alignment.share(image=sequence)
    with pytest.raises(BadInput, match="have 40 numbers; the alignment was learned from 30"):
        alignment.fill_image(image)


def test_no_proteins_to_fill_are_no_vectors(trial):
    alignment, (image, sequence), _ = trial
    assert alignment.fill_image(sequence[:0]).shape == (0, 40)
    assert alignment.share(image=image[:0]).shape == (0, alignment.k)


def test_an_alignment_is_the_same_after_storing_it(trial):
    alignment, (image, sequence), _ = trial
    expansion = Expansion.fit([image, sequence], np.zeros((600, 0), bool), products=False)
    file = io.BytesIO()
    np.savez(file, **alignment.arrays(), **expansion.arrays())
    file.seek(0)
    with np.load(file) as arrays:
        read = Alignment.of_arrays(dict(arrays))
    assert_same(alignment, read)
    assert isinstance(read.penalty, float)
    assert isinstance(read.n, int)
    np.testing.assert_array_equal(read.fill_image(sequence), alignment.fill_image(sequence))


def test_the_penalty_is_chosen_on_one_part_when_proteins_are_many():
    class Part:
        image, sequence = np.zeros((4000, 1)), None

        def strength(self, penalty):
            raise AssertionError("a second part was used")

    image, sequence, _ = planted(n=300)
    first = Held.out(image, sequence, np.arange(300) < 100)
    assert choose_penalty([first, Part(), Part()]) in PENALTIES


def some_missing(n=300):
    """Masks of proteins with both (first third), with an image, with a sequence and, the last ten, with neither."""
    has_image, has_sequence = np.zeros(n, bool), np.zeros(n, bool)
    has_image[: 2 * n // 3] = True
    has_sequence[: n // 3] = has_sequence[2 * n // 3 : -10] = True
    return has_image, has_sequence


def without(vectors, has):
    """The vectors, with nothing where there are none."""
    return np.where(has[:, None], vectors, np.nan)


@pytest.mark.parametrize("how", ["concatenation", "shared"])
def test_a_protein_has_a_vector_of_what_it_has_and_none_of_nothing(trial, how):
    alignment, _, (image, sequence, _) = trial
    has_image, has_sequence = some_missing()
    found = fused(
        without(image, has_image), without(sequence, has_sequence), has_image, has_sequence, alignment, how=how
    )
    assert found.dtype == np.float32
    assert np.isfinite(found[:-10]).all()
    assert np.isnan(found[-10:]).all()
    garbage = fused(
        np.where(has_image[:, None], image, 1e30), np.where(has_sequence[:, None], sequence, np.inf),
        has_image, has_sequence, alignment, how=how,
    )  # fmt: skip
    np.testing.assert_array_equal(found, garbage)


def test_fused_side_by_side_is_concatenated_with_the_missing_filled_in(trial):
    alignment, (known_image, known_sequence), (image, sequence, _) = trial
    everyone = np.ones(600, bool)
    np.testing.assert_array_equal(
        fused(known_image, known_sequence, everyone, everyone, alignment, how="concatenation"),
        concatenated(known_image, known_sequence),
    )
    has_image, has_sequence = some_missing()
    before = image.copy(), sequence.copy()
    found = fused(image, sequence, has_image, has_sequence, alignment, how="concatenation")
    np.testing.assert_array_equal(before[0], image)
    np.testing.assert_array_equal(before[1], sequence)
    np.testing.assert_array_equal(found[:200, :40], alignment.image.standard(image[:200]))
    only_sequence, only_image = slice(200, 290), slice(100, 200)
    np.testing.assert_allclose(
        found[only_sequence, :40], alignment.image.standard(alignment.fill_image(sequence[only_sequence])), atol=1e-6
    )
    np.testing.assert_allclose(
        found[only_image, 40:], alignment.sequence.standard(alignment.fill_sequence(image[only_image])), atol=1e-6
    )


def test_fused_in_the_shared_space_is_the_place_of_what_there_is(trial):
    alignment, _, (image, sequence, _) = trial
    has_image, has_sequence = some_missing()
    found = fused(image, sequence, has_image, has_sequence, alignment, how="shared")
    np.testing.assert_allclose(found[:100], alignment.share(image[:100], sequence[:100]), atol=1e-6)
    np.testing.assert_allclose(found[100:200], alignment.share(image=image[100:200]), atol=1e-6)
    np.testing.assert_allclose(found[200:290], alignment.share(sequence=sequence[200:290]), atol=1e-6)


def test_what_is_known_of_a_protein_alone_finds_the_same_neighbors_as_both(trial):
    alignment, _, (image, sequence, _) = trial
    half = np.arange(300) < 150
    found = fused(image, sequence, half, ~half, alignment, how="shared")
    both = alignment.share(image, sequence)
    assert np.median(compare(found, both, np.float32(0))[:, 2]) < 0.01


def test_fusion_of_nobody_and_by_nobody(trial):
    alignment, _, (image, sequence, _) = trial
    nobody, everybody = np.zeros(300, bool), np.ones(300, bool)
    for how in ("concatenation", "shared"):
        assert np.isnan(fused(image, sequence, nobody, nobody, alignment, how=how)).all()
        none = fused(image[:0], sequence[:0], nobody[:0], nobody[:0], alignment, how=how)
        assert len(none) == 0
        assert np.isfinite(fused(image, sequence, nobody, everybody, alignment, how=how)).all()


def test_a_fusion_that_makes_no_sense_is_refused(trial):
    alignment, _, (image, sequence, _) = trial
    has = np.ones(300, bool)
    with pytest.raises(UnknownName, match="way of fusion 'sum'"):
        fused(image, sequence, has, has, alignment, how="sum")
    with pytest.raises(BadInput, match="1 of 300 image vectors are not finite, the first in row 4"):
        fused(np.where(image == image[4], np.nan, image), sequence, has, has, alignment, how="shared")
    with pytest.raises(BadInput, match="has_image should say of each of 300 proteins"):
        fused(image, sequence, has[:5], has, alignment, how="shared")
    with pytest.raises(BadInput, match="Got 300 rows of image vectors and 299 of sequence"):
        fused(image, sequence[1:], has, has[1:], alignment, how="shared")
    with pytest.raises(BadInput, match="have 30 numbers; the alignment was learned from 40"):
        fused(sequence, image, has, has, alignment, how="concatenation")


def localizations_and_dipeptides(folder):
    """Profiles of localization (n, places) and composition in pairs of amino acids (n, 400) of real proteins."""
    with (folder / "idmaps" / "gene_ids.csv").open(encoding="utf-8-sig") as file:
        gene_of = {row["uniprot_id"]: row["ensg_id"] for row in csv.DictReader(file)}
    entries = [entry.split("\n", 1) for entry in (folder / "sequences" / "hou.fasta").read_text().split(">")[1:]]
    residues = {
        gene_of[head.split()[0]]: body.replace("\n", "") for head, body in entries if head.split()[0] in gene_of
    }
    with (folder / "hpa_tables" / "subcellular_location_2022.tsv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["Gene"] in residues]
    places = [set(f"{row['Main location']};{row['Additional location']}".split(";")) - {""} for row in rows]
    names = sorted(set().union(*places))
    image = np.array([[name in own for name in names] for own in places], np.float32)
    at = {first + second: i for i, (first, second) in enumerate((a, b) for a in AMINO_ACIDS for b in AMINO_ACIDS)}
    sequence = np.zeros((len(rows), 400), np.float32)
    for i, row in enumerate(rows):
        chain = residues[row["Gene"]]
        pairs = [at[chain[j : j + 2]] for j in range(len(chain) - 1) if chain[j : j + 2] in at]
        sequence[i] = np.bincount(pairs, minlength=400) / len(pairs)
    return image, sequence


def test_real_sequences_say_something_of_the_place(real_data):
    image, sequence = localizations_and_dipeptides(real_data)
    error = expected_error(image, sequence, groups=None, seed=0)
    assert error.n > 3000
    for told in (error.image, error.sequence):
        assert told.cosine > told.chance + 0.03
        assert told.median_rank < 0.4
    shuffled = np.random.default_rng(0).permutation(len(image))
    nothing = expected_error(image[shuffled], sequence, groups=None, seed=0)
    assert abs(nothing.image.cosine - nothing.image.chance) < 0.03
    assert nothing.image.median_rank == pytest.approx(0.5, abs=0.05)
