"""Recall of relationships: against EFAAR_benchmarking's own numbers, an obvious loop, and what was planted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from golden.make_relationships import TAILS, made_up
from sklearn.metrics.pairwise import cosine_similarity

from subcell_atlas.errors import BadInput
from subcell_atlas.evaluation.relationships import find_thresholds, measure_recall, set_pairs
from subcell_atlas.functions.annotations import read_annotations

GOLDEN = Path(__file__).parent / "golden" / "relationships.json"


def recalled_by_counting(null, query, tails):
    """Count, value by value."""
    below, above = [], []
    for q in query:
        at_most = sum(value <= q for value in null.tolist()) / len(null)
        less = sum(value < q for value in null.tolist()) / len(null)
        below.append(at_most <= tails[0])
        above.append(less >= tails[1])
    return np.array(below), np.array(above)


def recalled_by_sorting(null, query, tails):
    """Rank among all at once, as EFAAR_benchmarking does."""
    ordered = np.sort(null)
    at_most, less = (np.searchsorted(ordered, query, side=side) / len(null) for side in ("right", "left"))
    return at_most <= tails[0], less >= tails[1]


def rows_of_pairs(names, pairs):
    """Return the different pairs of different names that are here, as rows."""
    at = {name: row for row, name in enumerate(names)}
    rows = {tuple(sorted((at[a], at[b]))) for a, b in pairs if a in at and b in at and a != b}
    return np.array(sorted(rows), int).reshape(-1, 2)


def random_pairs(rng, n, m):
    pairs = np.unique(np.sort(rng.integers(0, n, (4 * m, 2)), axis=1), axis=0)
    return rng.permutation(pairs[pairs[:, 0] < pairs[:, 1]])[:m]


@pytest.mark.parametrize(("tails", "recall"), [((0.1, 0.9), 0.0), ((0.2, 0.8), 1.0)])
def test_the_ends_of_five_numbers_are_recalled_as_in_the_test_of_efaar(tails, recall):
    found = find_thresholds(np.arange(1.0, 6.0), tails)
    assert np.mean([q < found.low or q > found.high for q in (1, 5)]) == recall
    assert found.n_null == 5


@pytest.mark.parametrize("tails", TAILS)
def test_recall_is_that_of_the_authors_code(tails):
    names, vectors, pairs = made_up()
    rows = {source: rows_of_pairs(names, own) for source, own in pairs.items()}
    found = measure_recall(vectors, rows, tails=tails, n_permutations=0, seed=0)
    golden = json.loads(GOLDEN.read_text())
    assert {row["source"] for row in golden} == {"near", "alike", "strange"}
    for row in golden:
        own = found[row["source"]]
        assert own.recall == row[f"recall_{tails[0]}_{tails[1]}"]
        assert (own.thresholds.n_null, own.pairs) == (row["null_distribution_size"], row["query_distribution_size"])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("tails", [(0.05, 0.95), (0.0, 1.0), (0.3, 0.31), (0.1, 0.7), (1 / 3, 2 / 3)])
def test_thresholds_decide_as_counting_does(rng, ties, tails):
    for n in (1, 2, 3, 10, 99, 100):
        null = rng.integers(0, 6, n).astype(np.float32) if ties else rng.normal(size=n).astype(np.float32)
        query = np.concatenate([null, rng.normal(size=20).astype(np.float32)])
        found = find_thresholds(null.copy(), tails)
        below, above = recalled_by_counting(null, query, tails)
        assert np.array_equal(query < found.low, below)
        assert np.array_equal(query > found.high, above)


@pytest.mark.parametrize("kind", ["random", "ties", "float64"])
def test_recall_is_that_of_ranking_every_pair(rng, kind):
    vectors = rng.normal(size=(150, 8)).astype(np.float64 if kind == "float64" else np.float32)
    if kind == "ties":
        vectors[50:100] = vectors[:50]
    pairs = random_pairs(rng, 150, 400)
    cosines = cosine_similarity(vectors)
    null = cosines[np.triu_indices(150, k=1)]
    for tails in ((0.05, 0.95), (0.2, 0.6)):
        found = measure_recall(vectors, {"a": pairs}, tails=tails, n_permutations=0, seed=0)["a"]
        below, above = recalled_by_sorting(null, cosines[pairs[:, 0], pairs[:, 1]], tails)
        assert np.array_equal(found.tail, above.astype(float) - below)
        assert (found.low_tail, found.high_tail) == (below.mean(), above.mean())
        assert found.recall == (below | above).mean()
        assert found.chance == pytest.approx(tails[0] + 1 - tails[1])


def test_permuted_names_recall_what_a_loop_over_permutations_finds(rng):
    vectors = rng.normal(size=(60, 5)).astype(np.float32)
    pairs = random_pairs(rng, 60, 80)
    found = measure_recall(vectors, {"a": pairs}, n_permutations=30, seed=4)["a"]
    cosines = cosine_similarity(vectors)
    null = cosines[np.triu_indices(60, k=1)]
    draws = np.random.default_rng(4)
    recalls = []
    for _ in range(30):
        names = draws.permutation(60)
        query = [cosines[names[a], names[b]] for a, b in pairs]
        recalls.append(np.logical_or(*recalled_by_sorting(null, query, (0.05, 0.95))).mean())
    assert found.permuted == pytest.approx(np.mean(recalls), abs=1e-12)
    assert (found.permuted_low, found.permuted_high) == pytest.approx(np.quantile(recalls, [0.025, 0.975]))
    assert found.p == (1 + sum(recall >= found.recall for recall in recalls)) / 31


def test_vectors_that_are_not_finite_are_left_out_with_their_pairs(rng):
    vectors = rng.normal(size=(80, 4)).astype(np.float32)
    pairs = random_pairs(rng, 80, 200)
    broken = vectors.copy()
    broken[[3, 40]] = np.nan
    broken[7, 1] = np.inf
    kept = np.setdiff1d(np.arange(80), [3, 7, 40])
    used = np.isin(pairs, kept).all(axis=1)
    found = measure_recall(broken, {"a": pairs}, seed=1)["a"]
    alone = measure_recall(vectors[kept], {"a": np.searchsorted(kept, pairs[used])}, seed=1)["a"]
    assert 0 < used.sum() < len(pairs)
    assert np.array_equal(np.isnan(found.tail), ~used)
    assert np.array_equal(found.tail[used], alone.tail)
    assert (found.recall, found.pairs, found.genes, found.p) == (alone.recall, used.sum(), alone.genes, alone.p)
    assert found.thresholds == alone.thresholds


def test_a_vector_of_zeros_has_the_cosine_zero_with_all(rng):
    vectors = rng.normal(size=(50, 4)).astype(np.float32)
    vectors[0] = 0
    found = measure_recall(vectors, {"a": np.array([[0, 1], [0, 2]])}, seed=0)["a"]
    assert found.thresholds.n_null == 50 * 49 // 2
    assert found.tail.tolist() == [0, 0]


def test_a_source_without_pairs_has_no_recall_and_disturbs_no_other(rng):
    vectors = rng.normal(size=(40, 4)).astype(np.float32)
    pairs = random_pairs(rng, 40, 50)
    both = measure_recall(vectors, {"none": np.empty((0, 2), int), "a": pairs}, seed=0)
    alone = measure_recall(vectors, {"a": pairs}, seed=0)
    none = both["none"]
    assert (none.pairs, none.genes, len(none.tail)) == (0, 0, 0)
    assert all(np.isnan([none.recall, none.low_tail, none.high_tail, none.permuted, none.p]))
    assert (both["a"].recall, both["a"].permuted, both["a"].p) == (alone["a"].recall, alone["a"].permuted, alone["a"].p)


def test_without_permutations_nothing_is_said_of_them(rng):
    found = measure_recall(rng.normal(size=(9, 3)), {"a": np.array([[0, 1]])}, n_permutations=0, seed=0)["a"]
    assert np.isfinite(found.recall)
    assert np.isnan([found.permuted, found.permuted_low, found.permuted_high, found.p]).all()


def test_tails_may_come_in_either_order(rng):
    vectors, pairs = rng.normal(size=(40, 3)), {"a": random_pairs(rng, 40, 60)}
    one, other = (measure_recall(vectors, pairs, tails=tails, seed=0)["a"] for tails in ((0.1, 0.8), (0.8, 0.1)))
    assert (one.recall, one.thresholds, one.chance) == (other.recall, other.thresholds, other.chance)


@pytest.mark.parametrize("tails", [(-0.1, 0.9), (0.5, 0.5), (0.1, 1.1), (float("nan"), 0.9)])
def test_tails_that_are_none_are_refused(tails):
    with pytest.raises(BadInput, match="two ranks between 0 and 1"):
        find_thresholds(np.arange(9.0), tails)


@pytest.mark.parametrize(
    ("vectors", "pairs", "message"),
    [
        (np.ones((4, 2)), [[0, 4]], "rows that are not there"),
        (np.ones((4, 2)), [[-1, 2]], "rows that are not there"),
        (np.ones((4, 2)), [[2, 2]], "with itself"),
        (np.ones((4, 2)), [[0, 1, 2]], "expected"),
        (np.array([[1.0, 2.0], [np.nan, 1.0]]), [[0, 1]], "1 of 2 are"),
    ],
)
def test_bad_input_is_refused(vectors, pairs, message):
    with pytest.raises(BadInput, match=message):
        measure_recall(vectors, {"a": np.array(pairs)}, seed=0)


def test_sets_make_each_pair_once_and_large_ones_none():
    sets = {"a": [3, 1, 2], "b": [2, 3], "one": [5], "large": list(range(10)), "c": [7, 6]}
    found = set_pairs({name: np.array(own) for name, own in sets.items()}, most=9)
    assert found.tolist() == [[1, 2], [1, 3], [2, 3], [6, 7]]
    assert set_pairs({}, most=9).shape == (0, 2)


@pytest.mark.parametrize("source", ["CORUM", "SIGNOR", "StringDB"])
def test_random_vectors_of_real_pairs_give_chance(real_data, source):
    file = read_annotations(real_data / "complexes" / f"{source}.txt")
    genes = file.genes()
    row_of = {gene: row for row, gene in enumerate(genes)}
    pairs = np.array([[row_of[one], row_of[other]] for one, other in file.pairs])
    vectors = np.random.default_rng(5).normal(size=(len(genes), 32)).astype(np.float32)
    found = measure_recall(vectors, {source: pairs}, seed=5)[source]
    assert (found.pairs, found.genes) == (len(file.pairs), len(genes))
    assert found.permuted == pytest.approx(0.1, abs=0.003)
    assert found.permuted_low - 0.003 < found.recall < found.permuted_high + 0.003
    assert found.p > 0.01
    assert found.low_tail + found.high_tail == pytest.approx(found.recall)


def test_planted_complexes_are_recalled_above_and_opposites_below(real_data):
    file = read_annotations(real_data / "complexes" / "CORUM_clusters.tsv")
    row_of = {gene: row for row, gene in enumerate(file.genes())}
    sets: dict[str, list[int]] = {}
    for row in file.rows:
        sets.setdefault(row.term_id, []).append(row_of[row.gene])
    rng = np.random.default_rng(6)
    vectors = rng.normal(size=(len(row_of), 32)).astype(np.float32)
    planted, seen = {}, set()
    for name, own in sets.items():
        if 4 <= len(own) <= 12 and not seen & set(own):
            seen |= set(own)
            planted[name] = np.array(own)
            vectors[own] = rng.normal(size=32) + 0.3 * vectors[own]
    pairs = set_pairs(planted, most=12)
    opposite = np.array(sorted(seen))[:40]
    vectors[opposite[20:]] = -vectors[opposite[:20]]
    pairs = pairs[~np.isin(pairs, opposite).any(axis=1)]
    against = np.stack([opposite[:20], opposite[20:]], axis=1)
    found = measure_recall(vectors, {"complexes": pairs, "opposites": against}, seed=0)
    assert found["complexes"].high_tail > 0.99
    assert found["complexes"].low_tail == 0
    assert found["complexes"].p == pytest.approx(1 / 101)
    assert (found["opposites"].low_tail, found["opposites"].high_tail) == (1, 0)
