"""Replicates that agree are kept, others by chance alone, and the look of a cell line is no agreement."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import binom

from subcell_atlas.errors import BadInput
from subcell_atlas.pretraining import curation
from subcell_atlas.pretraining.curation import REASONS, CurationConfig, consistency_table, kept_by_either

ALPHA = 0.05


def table_of(vectors, labels, strata=None, *, seed=0, **options):
    config = CurationConfig(seed=seed, **{"alpha": ALPHA, "n_permutations": 400, **options})
    return consistency_table(
        vectors, labels, strata=strata if strata is not None else [""] * len(labels), config=config
    )


def by_name(table):
    return {row["antibody"]: row for row in table.to_pylist()}


def cosine(a, b):
    return float(sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b))


def slow_center(vectors, strata):
    units = [[x / math.hypot(*row) for x in row] for row in vectors.astype(float)]
    means = {s: np.mean([u for u, own in zip(units, strata, strict=True) if own == s], axis=0) for s in strata}
    return [np.array(u) - means[s] for u, s in zip(units, strata, strict=True)]


def slow_agreement(vectors, rows):
    pairs = list(itertools.combinations(rows, 2))
    return sum(cosine(vectors[a], vectors[b]) for a, b in pairs) / len(pairs)


def slow_null(vectors, own, strata):
    """Return the agreement of every set there is with as many replicates of each stratum."""
    pools = [
        itertools.combinations([row for row, s in enumerate(strata) if s == stratum], n)
        for stratum, n in Counter(strata[row] for row in own).items()
    ]
    return [slow_agreement(vectors, sum(parts, ())) for parts in itertools.product(*pools)]


def planted(rng, *, n_antibodies, n_replicates=4, dim=24, signal=0.0, n_lines=3):
    """Make antibodies whose replicates share `signal` of a direction, seen in cell lines that look different."""
    lines = rng.normal(size=(n_lines, dim)) * 2
    rows = [
        (f"A{i:03d}", f"line {line}", lines[line] + signal * own + rng.normal(size=dim))
        for i, own in enumerate(rng.normal(size=(n_antibodies, dim)))
        for line in rng.integers(n_lines, size=n_replicates)
    ]
    labels, strata, vectors = zip(*rows, strict=True)
    return np.array(vectors, np.float32), list(labels), list(strata)


def most_by_chance(n, alpha=ALPHA):
    """How many of `n` a test at alpha keeps at most, but in one of a million trials."""
    return binom.ppf(1 - 1e-6, n, alpha)


def test_agreement_and_its_null_equal_a_slow_twin(rng):
    labels = [*"AAABBBBCCCDD"]
    strata = ["x", "x", "y", "y", "y", "x", "x", "x", "x", "x", "y", "y"]
    vectors = rng.normal(size=(12, 5)) + 0.5
    found = by_name(table_of(vectors, labels, strata, n_permutations=20_000, min_replicates=2))
    vectors = slow_center(vectors, strata)
    assert set(found) == set("ABCD")
    for name, row in found.items():
        own = [i for i, label in enumerate(labels) if label == name]
        assert row["n_replicates"] == len(own)
        if row["reason"] == "too few to compare with":  # D has both of 5 in y: 10 sets
            assert name == "D"
            continue
        null = slow_null(vectors, own, strata)
        p = np.mean([value >= slow_agreement(vectors, own) - 1e-9 for value in null])
        assert row["agreement"] == pytest.approx(slow_agreement(vectors, own), abs=1e-5)
        assert row["null_mean"] == pytest.approx(np.mean(null), abs=0.01)
        assert row["p_value"] == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / 20_000) + 1e-4)


@pytest.mark.parametrize(("size", "n"), [(1, 2), (2, 4), (3, 7), (3, 4), (4, 4), (2, 30)])
def test_sets_are_drawn_without_repeats_and_every_set_equally_often(size, n):
    drawn = curation.draw_sets(20_000, size, n, generator=np.random.default_rng(2))
    assert drawn.shape == (20_000, size)
    assert (np.diff(np.sort(drawn, axis=1), axis=1) > 0).all()
    for part in range(1, size + 1):  # the first ones of a set are a set as well
        sets = Counter(map(tuple, np.sort(drawn[:, :part], axis=1).tolist()))
        expected = 20_000 / math.comb(n, part)
        assert len(sets) == math.comb(n, part)
        assert max(abs(count - expected) for count in sets.values()) < 6 * math.sqrt(expected)


def test_what_agrees_is_kept_and_what_is_shuffled_is_kept_by_chance_alone(rng):
    vectors, labels, strata = planted(rng, n_antibodies=200, signal=2.0)
    assert table_of(vectors, labels, strata)["kept"].to_numpy().mean() > 0.95
    for line in set(strata):  # shuffled within the cell lines, everything but the antibodies stays as it was
        rows = np.flatnonzero(np.array(strata) == line)
        vectors[rows] = vectors[rng.permutation(rows)]
    shuffled = table_of(vectors, labels, strata)["kept"].to_numpy()
    assert shuffled.sum() <= most_by_chance(200)


def test_shuffled_antibodies_are_kept_at_the_rate_of_alpha(rng):
    vectors, labels, strata = planted(rng, n_antibodies=600, n_replicates=3, dim=8)
    p_values = table_of(vectors, labels, strata, n_permutations=1000)["p_value"].to_numpy()
    for alpha in (0.01, 0.05, 0.5):
        assert (p_values < alpha).sum() <= most_by_chance(600, alpha)
        assert (p_values < alpha).sum() >= 600 * alpha - 6 * math.sqrt(600 * alpha)


def test_the_look_of_a_cell_line_is_not_taken_for_agreement(rng):
    lines = rng.normal(size=(6, 16)) * 5
    labels, strata, vectors = [], [], []
    for antibody in range(240):
        line = antibody % 6
        for _ in range(4):
            labels.append(f"A{antibody:03d}")
            strata.append(f"line {line}")
            vectors.append(lines[line] + rng.normal(size=16))
    kept_within = table_of(np.array(vectors), labels, strata)["kept"].to_numpy().sum()
    kept_over_all = table_of(np.array(vectors), labels)["kept"].to_numpy().sum()
    assert kept_within <= most_by_chance(240)
    assert kept_over_all > 220


def test_p_is_never_zero_and_the_same_seed_gives_the_same(rng):
    vectors, labels, strata = planted(rng, n_antibodies=30, signal=50.0)
    first = table_of(vectors, labels, strata, seed=4)
    p_values = first["p_value"].to_numpy()
    assert p_values.min() == pytest.approx(1 / 401)
    assert first.equals(table_of(vectors, labels, strata, seed=4))
    assert not first["null_mean"].equals(table_of(vectors, labels, strata, seed=5)["null_mean"])
    assert json.loads(first.schema.metadata[b"curation"]) == {
        "seed": 4, "alpha": ALPHA, "n_permutations": 400, "min_replicates": 3
    }  # fmt: skip


def test_little_memory_gives_as_good_an_answer(rng, monkeypatch):
    vectors, labels, strata = planted(rng, n_antibodies=60, signal=0.5)
    whole = table_of(vectors, labels, strata, n_permutations=2000)
    monkeypatch.setattr(curation, "MEMORY", 100_000)
    pieces = table_of(vectors, labels, strata, n_permutations=2000)
    assert pieces["agreement"].equals(whole["agreement"])
    np.testing.assert_allclose(pieces["null_mean"], whole["null_mean"], atol=0.02)
    np.testing.assert_allclose(pieces["p_value"], whole["p_value"], atol=0.06)


def test_the_length_of_a_vector_says_nothing(rng):
    vectors, labels, strata = planted(rng, n_antibodies=20, signal=1.0)
    scaled = vectors * 2.0 ** rng.integers(-9, 9, size=(len(vectors), 1))
    assert table_of(scaled, labels, strata).equals(table_of(vectors, labels, strata))


def test_what_all_replicates_have_in_common_and_what_a_plate_adds_does_not_matter(rng):
    vectors, labels, strata = planted(rng, n_antibodies=60, signal=1.5, n_lines=1)
    common = 100 * rng.normal(size=vectors.shape[1])
    kept = table_of(vectors + common, labels, strata)["kept"].to_numpy().mean()
    assert kept > 0.8
    plates = rng.integers(2, size=len(labels))
    shifted = vectors + common + 5 * rng.normal(size=(2, vectors.shape[1]))[plates]
    kept_by_plate = table_of(shifted, labels, [f"plate {plate}" for plate in plates])["kept"].to_numpy().mean()
    assert kept_by_plate > 0.8
    assert table_of(shifted, labels, strata)["kept"].to_numpy().mean() < kept_by_plate


def test_a_stratum_of_one_replicate_adds_nothing(rng):
    vectors, labels, strata = planted(rng, n_antibodies=20, signal=5.0)
    strata[0] = "alone"
    rows = by_name(table_of(vectors, labels, strata))
    found = rows["A000"]["agreement"]
    centred = slow_center(vectors, strata)
    pairs = [cosine(centred[a], centred[b]) for a, b in itertools.combinations([1, 2, 3], 2)]
    assert found == pytest.approx(sum(pairs) / 6, abs=1e-5)


def test_vectors_that_are_all_alike_agree_no_more_than_any_others():
    vectors = np.tile(np.random.default_rng(0).normal(size=50), (60, 1))
    table = table_of(vectors, [f"A{i // 6}" for i in range(60)])
    assert table["p_value"].to_pylist() == [1.0] * 10
    assert table["reason"].to_pylist() == ["not consistent"] * 10


def test_too_few_replicates_are_not_tested_and_no_name_is_no_antibody(rng):
    labels = ["A"] * 3 + ["B"] * 2 + [None, ""] + [f"C{i}" for i in range(20) for _ in range(3)]
    table = by_name(table_of(rng.normal(size=(len(labels), 4)), labels))
    assert len(table) == 22
    untested = {"agreement": None, "null_mean": None, "p_value": None, "kept": False}
    assert table["B"] == {"antibody": "B", "n_replicates": 2, **untested, "reason": "too few replicates"}
    assert table["A"]["p_value"] is not None
    assert {row["reason"] for row in table.values()} <= set(REASONS)


def test_replicates_of_no_antibody_are_not_compared_with(rng):
    vectors, labels, strata = planted(rng, n_antibodies=20, signal=1.0)
    more = np.concatenate([vectors, np.full((9, vectors.shape[1]), np.nan, np.float32)])
    assert table_of(more, [*labels, *[None] * 9], [*strata, *["line 0"] * 9]).equals(table_of(vectors, labels, strata))


def test_an_antibody_alone_in_its_cell_line_has_nothing_to_be_compared_with(rng):
    vectors, labels, strata = planted(rng, n_antibodies=20, signal=5.0)
    alone = np.ones((4, vectors.shape[1]))
    table = by_name(table_of(np.concatenate([vectors, alone]), [*labels, *["Z"] * 4], [*strata, *["its own"] * 4]))
    assert table["Z"]["reason"] == "too few to compare with"
    assert table["Z"]["p_value"] is None
    assert table["A000"]["kept"]


def test_no_replicates_give_no_rows():
    for labels in ([], [None, ""]):
        table = table_of(np.zeros((len(labels), 3)), labels)
        assert table.num_rows == 0
        assert table.column_names[0] == "antibody"


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_vectors_without_a_direction_are_refused(rng, bad):
    vectors, labels, _ = planted(rng, n_antibodies=5)
    vectors[7] = bad
    with pytest.raises(BadInput, match="1 of 20 replicates have a vector that is zero or not finite"):
        table_of(vectors, labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "between 0 and 1"),
        ({"alpha": 2.0}, "between 0 and 1"),
        ({"alpha": 0.01, "n_permutations": 99}, "cannot give a p-value below 0.01; take at least 100"),
        ({"n_permutations": 0}, "take at least 20"),
        ({"min_replicates": 1}, "between 2 at least"),
    ],
)
def test_a_test_that_can_say_nothing_is_refused(options, message):
    with pytest.raises(BadInput, match=message):
        CurationConfig(seed=0, **{"alpha": ALPHA, **options})


def test_either_of_two_encoders_may_keep_an_antibody(rng):
    labels = [f"A{i:02d}" for i in range(40) for _ in range(3)]
    own = np.repeat(rng.normal(size=(40, 16)), 3, axis=0)
    seen_by_first, seen_by_second = np.repeat(np.arange(40) < 20, 3), np.repeat(np.arange(40) % 2 == 0, 3)
    tables = [
        table_of(rng.normal(size=(120, 16)) + 20 * own * seen[:, None], labels, alpha=0.01)
        for seen in (seen_by_first, seen_by_second)
    ]
    both = by_name(kept_by_either(*tables))
    kept = [{name for name, row in by_name(table).items() if row["kept"]} for table in tables]
    assert {name for name, row in both.items() if row["kept"]} == kept[0] | kept[1]
    assert kept[0] - kept[1]
    assert kept[1] - kept[0]
    for name, row in both.items():
        assert row["p_value"] == min(by_name(table)[name]["p_value"] for table in tables)


def test_an_antibody_that_one_encoder_has_not_seen_is_judged_by_the_other(rng):
    vectors, labels, strata = planted(rng, n_antibodies=20, signal=5.0)
    whole = table_of(vectors, labels, strata)
    fewer = table_of(vectors[4 : 4 * 19 + 2], labels[4 : 4 * 19 + 2], strata[4 : 4 * 19 + 2])
    joined = by_name(kept_by_either(fewer, whole))
    assert by_name(fewer)["A019"]["reason"] == "too few replicates"
    assert joined["A000"] == by_name(whole)["A000"]
    assert joined["A019"] == by_name(whole)["A019"]
    assert kept_by_either(whole).equals(whole)
