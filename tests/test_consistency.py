"""Replicate consistency: pairs, null and statistics are those of slow loops and of scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from subcell_atlas.errors import BadInput
from subcell_atlas.evaluation import consistency
from subcell_atlas.evaluation.consistency import Replicates, codes, measure, null_pairs, replicate_pairs, size_free


def by_line(vectors, n_lines):
    """Rows of proteins in cell lines, line after line of each protein; replicates differ in the line."""
    n = len(vectors)
    line = np.tile(np.arange(n_lines), n // n_lines)
    return Replicates(vectors, np.repeat(np.arange(n // n_lines), n_lines), line, np.zeros(n, int), line)


def by_antibody(rng, *, n_proteins=60, n_lines=2, dim=24, signal=0.0, of_line=0.0):
    """Rows of two antibodies of each protein in each line, with what protein and line add to them."""
    protein, antibody, line = (part.ravel() for part in np.indices((n_proteins, 2, n_lines)))
    vectors = rng.normal(size=(len(protein), dim))
    vectors += signal * rng.normal(size=(n_proteins, dim))[protein] + of_line * rng.normal(size=(n_lines, dim))[line]
    return Replicates(vectors, protein, protein * 2 + antibody, line, line)


def slow_pairs(rows):
    return {
        (i, j)
        for i, j in itertools.combinations(range(len(rows.proteins)), 2)
        if rows.proteins[i] == rows.proteins[j] and rows.alike[i] == rows.alike[j] and rows.varied[i] != rows.varied[j]
    }


def may_stand_in(rows, kept, gone):
    return {
        k
        for k in range(len(rows.proteins))
        if rows.strata[k] == rows.strata[gone]
        and rows.proteins[k] != rows.proteins[kept]
        and rows.varied[k] != rows.varied[kept]
    }


def random_labels(rng, n=70):
    """Rows with labels at random, of which no two are the same."""
    keys = np.unique(rng.integers(0, [8, 5, 2], size=(n, 3)), axis=0)
    return Replicates(rng.normal(size=(len(keys), 6)), *keys.T, rng.integers(0, 4, len(keys)))


def test_pairs_and_their_null_are_those_of_the_definition(rng):
    for _ in range(5):
        rows = random_labels(rng)
        pairs = replicate_pairs(rows, seed=0)
        assert {tuple(sorted(pair)) for pair in pairs.tolist()} == slow_pairs(rows)
        assert len(pairs) == len(slow_pairs(rows))
        null, origin = null_pairs(rows, pairs, n_null=200, seed=0)
        for at, (i, j) in enumerate(pairs.tolist()):
            found = {tuple(pair) for pair in null[origin == at].tolist()}
            wanted = {(i, k) for k in may_stand_in(rows, i, j)} | {(j, k) for k in may_stand_in(rows, j, i)}
            assert found == wanted


def test_the_statistics_are_those_of_slow_loops_and_of_scipy(rng):
    rows = by_antibody(rng, n_proteins=12, signal=0.6)
    found = measure(rows, seed=3, n_null=6)
    pairs = replicate_pairs(rows, seed=3)
    null, origin = null_pairs(rows, pairs, n_null=6, seed=3)

    def cosine(i, j):
        a, b = rows.vectors[i], rows.vectors[j]
        return a @ b / np.sqrt((a @ a) * (b @ b))

    own, chance = [cosine(*pair) for pair in pairs], [cosine(*pair) for pair in null]
    assert found.ks == pytest.approx(stats.ks_2samp(own, chance).statistic)
    assert found.cvm == pytest.approx(stats.cramervonmises_2samp(own, chance).statistic)
    assert (found.n_replicates, found.n_null) == (24, 144)
    for at, protein in enumerate(found.proteins):
        of = [k for k, (i, _) in enumerate(pairs.tolist()) if rows.proteins[i] == protein]
        higher = [np.mean([own[k] > chance[q] for q in np.flatnonzero(origin == k)]) for k in of]
        assert found.auc[at] == pytest.approx(np.mean(higher))
        assert found.similarity[at] == pytest.approx(np.mean([own[k] for k in of]), abs=1e-6)
        assert found.null_similarity[at] == pytest.approx(
            np.mean([chance[q] for q in np.flatnonzero(np.isin(origin, of))]), abs=1e-6
        )
    assert found.p_adjusted == pytest.approx(stats.false_discovery_control(found.p))


def test_random_vectors_give_chance(rng):
    found = measure(by_line(rng.normal(size=(1500, 64)), 3), seed=0)
    assert found.ks < 0.06
    assert found.cvm_size_free < 0.002
    assert found.auc.mean() == pytest.approx(0.5, abs=0.03)
    assert (found.p <= 0.05).mean() == pytest.approx(0.05, abs=0.03)
    assert stats.kstest(found.p, "uniform").statistic < 0.07
    assert not (found.p_adjusted <= 0.05).any()


def test_a_planted_embedding_gives_what_was_planted(rng):
    n = 200
    signal = np.repeat(rng.normal(size=(n, 32)), 3, axis=0)
    vectors = rng.normal(size=(3 * n, 32))
    vectors[: 3 * n // 2] += 2 * signal[: 3 * n // 2]  # the first half of the proteins
    found = measure(by_line(vectors, 3), seed=0)
    told = found.p_adjusted <= 0.05
    assert told[: n // 2].all()
    assert told[n // 2 :].mean() < 0.1
    assert found.similarity[: n // 2].mean() == pytest.approx(4 / 5, abs=0.03)  # signal 4, noise 1
    assert found.auc[: n // 2].mean() > 0.99
    assert found.auc[n // 2 :].mean() == pytest.approx(0.5, abs=0.05)


def test_what_a_cell_line_has_in_common_is_no_consistency(rng):
    rows = by_antibody(rng, of_line=2.0)
    found = measure(rows, seed=0)
    assert found.ks < 0.2
    assert found.auc.mean() == pytest.approx(0.5, abs=0.1)
    unmatched = Replicates(rows.vectors, rows.proteins, rows.varied, rows.alike, np.zeros_like(rows.strata))
    assert measure(unmatched, seed=0).ks > 0.4


def test_the_cramer_von_mises_statistic_grows_with_the_pairs_and_the_others_do_not(rng):
    few, many = (by_antibody(np.random.default_rng(1), n_proteins=n, signal=0.7) for n in (100, 800))
    one, other = (measure(rows, seed=0, n_draws=50) for rows in (few, many))
    assert other.cvm > 6 * one.cvm
    assert other.cvm_size_free == pytest.approx(one.cvm_size_free, rel=0.3)
    assert other.ks == pytest.approx(one.ks, abs=0.1)
    assert size_free(one.cvm, one.n_replicates, one.n_null) == one.cvm_size_free


def test_where_all_is_the_same_nothing_is_consistent():
    found = measure(by_line(np.ones((60, 4)), 3), seed=0)
    assert (found.ks, set(found.auc), set(found.p)) == (0.0, {0.5}, {1.0})


def test_rows_that_cannot_be_compared_are_left_out_and_counted(rng):
    vectors = rng.normal(size=(90, 8))
    vectors[4, 2] = np.nan
    vectors[9] = 0
    found = measure(by_line(vectors, 3), seed=0)
    assert found.n_left_out == 2
    assert found.n_pairs.tolist() == [3, 1, 3, 1, *[3] * 26]
    assert np.isfinite(found.p).all()


def test_without_replicates_or_without_other_proteins_nothing_is_found(rng):
    assert measure(by_line(rng.normal(size=(9, 4)), 1), seed=0) is None
    assert measure(by_line(rng.normal(size=(3, 4)), 3), seed=0) is None
    assert measure(by_line(rng.normal(size=(4, 4)), 2).of(np.zeros(4, bool)), seed=0) is None
    assert measure(by_line(np.full((6, 4), np.nan), 2), seed=0) is None


def test_one_antibody_of_two_proteins_is_not_its_own_null(rng):
    rows = by_antibody(rng, n_proteins=4, n_lines=1)
    shared = Replicates(
        rows.vectors, rows.proteins, np.where(rows.varied == 2, 0, rows.varied), rows.alike, rows.strata
    )
    null, _ = null_pairs(shared, replicate_pairs(shared, seed=0), n_null=100, seed=0)
    assert (shared.varied[null[:, 0]] != shared.varied[null[:, 1]]).all()


def test_of_very_many_replicates_some_are_chosen(rng, monkeypatch):
    monkeypatch.setattr(consistency, "MOST_ROWS", 4)
    rows = by_line(rng.normal(size=(40, 4)), 20)
    assert len(replicate_pairs(rows, seed=0)) == 2 * 6
    assert measure(rows, seed=0).n_replicates == 12


def test_there_are_fewer_null_pairs_of_each_where_replicates_are_very_many(rng, monkeypatch):
    rows = by_line(rng.normal(size=(60, 4)), 3)
    monkeypatch.setattr(consistency, "MOST_NULL", 250)
    found = measure(rows, seed=0)
    assert (found.n_replicates, found.n_null) == (60, 240)


def test_rows_that_differ_in_nothing_are_refused(rng):
    with pytest.raises(BadInput, match="average them first"):
        Replicates(rng.normal(size=(2, 3)), *np.zeros((4, 2), int))


def test_the_interval_of_the_statistic_is_around_it(rng):
    from subcell_atlas.evaluation.intervals import interval

    found = measure(by_antibody(rng, n_proteins=100, signal=0.7), seed=0)
    told = interval(found.observed_ks([f"P{i}" for i in found.proteins]), seed=0, n_draws=200)
    assert told.value == pytest.approx(found.ks, abs=1e-6)
    assert told.low < found.ks < told.high
    assert told.high - told.low < 0.25


def test_the_same_in_all_columns_has_the_same_number():
    assert codes(["a", None, "a", "b", None], [1, 1, 1, 1, 1]).tolist() == [0, 1, 0, 2, 1]


def test_the_seed_decides(rng):
    rows = by_antibody(rng, signal=0.3)
    first, again, other = (measure(rows, seed=seed) for seed in (0, 0, 1))
    assert first.ks == again.ks
    assert np.array_equal(first.p, again.p)
    assert not np.array_equal(first.p, other.p)
