"""What systems come back, and how many would in vectors without groups."""

from __future__ import annotations

import numpy as np
import pytest
from planted import nested, recovery
from scipy import sparse

from subcell_atlas.cellmap.hierarchy import ROOT, find_hierarchy
from subcell_atlas.cellmap.methods import METHODS, MultiResolution, Sweep
from subcell_atlas.cellmap.partitions import best_overlaps, distinct_sets, jaccard_at_least
from subcell_atlas.cellmap.trust import Trust, candidates, find_systems, groupless, keep_best, overlaps_with
from subcell_atlas.cellmap.trust import tested as with_p_values

FEW = Trust(reruns=5, enough=150, most_nulls=3)


def sets_of(*groups, n=10):
    matrix = np.zeros((len(groups), n), np.int32)
    for row, group in enumerate(groups):
        matrix[row, list(group)] = 1
    return sparse.csr_matrix(matrix)


def random_partitions(rng, n, numbers):
    return [np.unique(rng.integers(0, k, n), return_inverse=True)[1] for k in numbers]


def test_the_best_overlaps_equal_a_slow_twin(rng):
    (labels,) = random_partitions(rng, 50, [6])
    groups = [set(rng.choice(50, size, replace=False).tolist()) for size in (4, 7, 20, 49)]
    parts = [set(np.flatnonzero(labels == k).tolist()) for k in np.unique(labels)]
    wanted = [max(len(group & part) / len(group | part) for part in parts) for group in groups]
    assert best_overlaps(sets_of(*groups, n=50), labels) == pytest.approx(wanted)
    assert len(best_overlaps(sets_of(n=50), labels)) == 0


def test_pairs_that_are_alike_equal_a_slow_twin(rng):
    groups = [set(rng.choice(12, size, replace=False).tolist()) for size in rng.integers(4, 9, 1100)]
    found = jaccard_at_least(sets_of(*groups, n=12), 0.5)[:40].toarray()
    wanted = [[len(a & b) >= 0.5 * len(a | b) for b in groups] for a in groups[:40]]
    assert np.array_equal(found == 1, wanted)


def test_distinct_groups_know_the_first_partition_that_has_them():
    partitions = [np.array([0, 0, 0, 0, 0, 0]), np.array([0, 0, 0, 1, 1, 1]), np.array([1, 1, 1, 0, 0, 2])]
    sets, first = distinct_sets(partitions, 6, min_size=3)
    assert sets.toarray().tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]  # not all, nor what is too small
    assert first.tolist() == [1, 1]


def test_sets_are_counted_where_they_are_found_and_weigh_by_how_much_alike():
    halves = np.array([0] * 5 + [1] * 5)
    nearly = np.array([0] * 4 + [1] * 6)  # Jaccard index of 0.8 with the first half
    found = overlaps_with(sets_of(range(5)), Sweep([halves, nearly, np.zeros(10, int)], np.ones(3)))
    assert (found.returns[0], found.best[0]) == (2, 1)
    assert found.support[0] == pytest.approx(1 + (0.8 - 0.75) / 0.25)


def test_of_sets_that_are_alike_the_best_supported_is_kept():
    sets = sets_of(range(8), range(7), range(4), [8, 9])
    assert keep_best(sets, np.array([2.0, 3.0, 1.0, 0.0])).tolist() == [1, 2]
    assert keep_best(sets_of(), np.empty(0)).tolist() == []


def test_a_set_between_two_others_does_not_take_their_place():
    small, large = set(range(16)), set(range(24))
    between = set(range(20))  # 0.8 with the one, 0.83 with the other: found with both
    as_labels = [np.array([int(row not in group) for row in range(40)]) for group in (small, between, large)]
    sweep = Sweep([as_labels[i] for i in (0, 0, 0, 0, 1, 2, 2, 2, 2)], np.ones(9))
    found, support = candidates(sweep, 40, min_size=4)
    assert found.persistence[(found.size == 20) & (found.sets[:, [0]].toarray()[:, 0] == 1)].tolist() == [9]
    kept = found.only(keep_best(found.sets, support))
    assert {16, 24} <= set(kept.size.tolist())
    assert 20 not in kept.size


def test_vectors_without_groups_keep_mean_and_covariance(rng):
    vectors, *_ = nested(rng, n_large=6, n_small=10, size=40, dim=5)
    null = groupless(vectors)(rng)
    assert null.shape == vectors.shape
    assert np.allclose(null.mean(axis=0), vectors.mean(axis=0), atol=0.1)
    assert np.allclose(np.cov(null.T), np.cov(vectors.T), atol=0.15)
    assert not np.allclose(null, vectors, atol=0.5)
    few = groupless(vectors[:3])(rng)  # fewer than dimensions
    assert np.isfinite(few).all()
    assert np.linalg.matrix_rank(few - vectors[:3].mean(axis=0), tol=1e-3) <= 2


def noises(rng, n=300, dim=24):
    """Yield vectors without any groups, of several kinds."""
    yield rng.normal(size=(n, dim))
    yield rng.normal(size=(n, dim)) / np.arange(1, dim + 1) ** 0.5  # correlated, once turned
    yield rng.normal(size=(n, dim)) + 3
    yield rng.standard_t(4, size=(n, dim))
    groups, *_ = nested(rng, n_large=3, n_small=5, size=20, dim=dim)
    yield np.stack([rng.permutation(column) for column in groups.T], axis=1)


def test_of_the_systems_of_noise_at_most_a_twentieth_is_trusted(rng):
    found = trusted = 0
    for vectors in noises(rng):
        plain = find_hierarchy(vectors, seed=0)
        trusted_map = find_hierarchy(vectors, seed=0, trust=FEW)
        assert trusted_map.n_dropped + len(trusted_map.graph) == len(plain.graph)
        found += len(plain.graph) - 1
        trusted += len(trusted_map.graph) - 1
    assert found > 60
    assert trusted <= 0.05 * found


@pytest.mark.parametrize("method", ["subcell", "average"])
def test_the_other_methods_are_tested_too(rng, method):
    few = Trust(reruns=3, enough=50, most_nulls=2)
    noise = rng.normal(size=(200, 24))
    plain, trusted = (find_hierarchy(noise, METHODS[method](), seed=0, trust=trust) for trust in (None, few))
    assert trusted.n_dropped == len(plain.graph) - 1
    vectors, _, small = nested(rng, n_large=3, n_small=4, size=40)
    assert recovery(find_hierarchy(vectors, METHODS[method](), seed=0, trust=few).members, small) > 0.9


def test_planted_groups_pass_the_test_and_precision_rises(rng):
    vectors, large, small = nested(rng, n_large=5, n_small=6, size=14, dim=48, noise=0.8)
    plain, trusted = (find_hierarchy(vectors, seed=0, trust=trust) for trust in (None, FEW))
    assert recovery(trusted.members, large) > recovery(plain.members, large) - 0.02
    assert recovery(trusted.members, small) > 0.8
    assert precision(trusted, large, small) > precision(plain, large, small)
    for system, node in trusted.graph.nodes(data=True):
        if system != ROOT:
            assert 0.5 < node["stability"] <= 1
            assert 0 < node["null_p_adjusted"] <= 0.05


def precision(found, *labelings):
    """Return the share of systems with a Jaccard index of at least 0.5 with a planted group."""
    groups = [set(np.flatnonzero(labels == g).tolist()) for labels in labelings for g in np.unique(labels)]
    systems = [set(rows.tolist()) for name, rows in found.members.items() if name != ROOT]
    return np.mean([max(len(s & g) / len(s | g) for g in groups) >= 0.5 for s in systems])


def test_p_values_are_corrected_and_count_the_null_systems(rng):
    vectors = rng.normal(size=(200, 16))
    found = find_systems(vectors, MultiResolution(), FEW, min_size=4, seed=0)
    settings = {"min_size": 4, "seed": 0, "resample": None}
    p = with_p_values(vectors, found, MultiResolution(), FEW, **settings).p_adjusted
    assert ((p > 0) & (p <= 1)).all()
    assert p.min() > 0.05
    again = with_p_values(vectors, found, MultiResolution(), FEW, **settings).p_adjusted
    assert np.array_equal(p, again)


def test_what_other_cells_do_not_show_is_not_trusted(rng):
    vectors, large, _ = nested(rng, n_large=4, n_small=3, size=20)
    other = rng.permutation(len(vectors))
    same = find_hierarchy(vectors, seed=0, trust=FEW, resample=lambda _: vectors)
    scrambled = find_hierarchy(vectors, seed=0, trust=FEW, resample=lambda _: vectors[other])
    assert recovery(same.members, large) > 0.9
    assert len(scrambled.graph) <= 2
