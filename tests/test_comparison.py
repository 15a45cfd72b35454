"""Two maps: what is found again, what chance would find, and what cannot be compared."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from subcell_atlas.cellmap.comparison import chance_jaccards, compare_maps
from subcell_atlas.cellmap.enrichment import membership
from subcell_atlas.errors import BadInput


def named(**systems):
    """Systems of proteins P0, P1, … from ranges."""
    return {system: {f"P{i}" for i in own} for system, own in systems.items()}


def random_map(rng, *, n=120, n_systems=15):
    systems = {f"S{i}": rng.choice(n, rng.integers(4, 40), replace=False) for i in range(1, n_systems)}
    return named(S0=range(n), **systems)


def by_system(recovery):
    return {match.system: match for match in recovery.matches}


def test_a_map_is_found_in_itself_and_the_root_is_not_counted(rng):
    one = random_map(rng)
    result = compare_maps(one, one, seed=0)
    for recovery in (result.a_in_b, result.b_in_a):
        assert {match.system: match.match for match in recovery.matches} == {s: s for s in one if s != "S0"}
        assert recovery.n_set_aside == 1
        assert recovery.share_shared == recovery.median_jaccard == 1.0
        assert recovery.expected_jaccard < 0.4
    assert (result.n_common, result.n_only_a, result.n_only_b) == (120, 0, 0)


def test_matches_equal_a_slow_twin(rng):
    one, other = random_map(rng), random_map(rng, n_systems=10)
    result = compare_maps(one, other, seed=3, n_permutations=50)
    for match in result.a_in_b.matches:
        own = one[match.system]
        jaccards = {s: len(own & its) / len(own | its) for s, its in other.items() if s != "S0"}
        assert match.jaccard == max(jaccards.values())
        assert match.match == max(jaccards, key=jaccards.get)
        assert match.n_shared == len(own & other[match.match])
        assert (match.n_system, match.n_match) == (len(own), len(other[match.match]))
    p = [match.p_value for match in result.a_in_b.matches]
    assert [match.p_adjusted for match in result.a_in_b.matches] == pytest.approx(false_discovery_control(p))


def test_chance_equals_a_slow_twin(rng):
    others = {f"S{i}": rng.choice(60, size, replace=False) for i, size in enumerate((4, 9, 30, 5))}
    sizes = np.array([4, 7, 25])
    chance = chance_jaccards(membership(others, 60), sizes, 20, seed=5)
    permutations = np.random.default_rng(5)
    for row in chance:
        new_label = permutations.permutation(60)
        for size, best in zip(sizes, row, strict=True):
            relabelled = [{int(new_label[i]) for i in own} for own in others.values()]
            own = set(range(size))
            assert best == max(len(own & its) / len(own | its) for its in relabelled)


def test_p_values_count_how_often_chance_does_as_well(rng):
    one, other = random_map(rng), random_map(rng)
    result = compare_maps(one, other, seed=1, n_permutations=400)
    matches = by_system(result.a_in_b)
    system = max(matches, key=lambda system: matches[system].jaccard)
    rows = {s: np.array(sorted(int(name[1:]) for name in own)) for s, own in other.items() if s != "S0"}
    sets = [set(own.tolist()) for own in rows.values()]
    n_as_good = 0
    for _ in range(400):
        own = set(rng.choice(120, len(one[system]), replace=False).tolist())
        n_as_good += max(len(own & its) / len(own | its) for its in sets) >= matches[system].jaccard
    assert matches[system].p_value == pytest.approx((1 + n_as_good) / 401, abs=0.08)


def test_permuted_labels_share_nothing(rng):
    one = random_map(rng)
    order = rng.permutation(120)
    shuffled = {system: {f"P{order[int(name[1:])]}" for name in own} for system, own in one.items()}
    result = compare_maps(one, shuffled, seed=0)
    assert result.a_in_b.share_shared == result.a_in_b.share_partly == 0
    assert result.a_in_b.median_jaccard == pytest.approx(result.a_in_b.expected_jaccard, abs=0.05)
    assert result.a_in_b.expected_shared < 0.05


def test_verdicts_are_shared_partly_and_new():
    one = named(S0=range(300), same=range(20), half=range(30, 50), gone=range(60, 80))
    other = named(S0=range(300), a=range(1, 20), b=range(40, 62), c=range(200, 250))
    matches = by_system(compare_maps(one, other, seed=0).a_in_b)
    assert {system: match.verdict for system, match in matches.items()} == {
        "same": "shared",
        "half": "partly",
        "gone": "new",
    }
    assert matches["half"].jaccard == pytest.approx(10 / 32)


def test_a_system_that_meets_no_other_has_no_match():
    one, other = named(S0=range(50), far=range(10)), named(S0=range(50), near=range(20, 30))
    (match,) = compare_maps(one, other, seed=0).a_in_b.matches
    assert (match.match, match.n_match, match.jaccard, match.p_value, match.verdict) == (None, 0, 0.0, 1.0, "new")


def test_only_common_proteins_count_and_what_loses_too_many_is_set_aside():
    one = named(S0=range(100), kept=range(10), few=range(97, 110), most_gone=[*range(20, 26), *range(200, 210)])
    other = named(S0=range(98), kept=[*range(8), 300], large=range(20, 25))
    result = compare_maps(one, other, seed=0)
    assert (result.n_common, result.n_only_a, result.n_only_b) == (98, 22, 1)
    assert list(by_system(result.a_in_b)) == ["kept"]
    assert result.a_in_b.n_set_aside == 3  # the root among them
    assert by_system(result.a_in_b)["kept"].n_match == 8


def test_a_small_map_is_compared_with_a_large_one():
    small = named(S0=range(20), a=range(8), b=range(8, 16))
    large = named(S0=range(1000), a=[*range(7), *range(100, 400)], b=[*range(8, 16), *range(500, 900)])
    result = compare_maps(small, large, seed=0)
    assert result.a_in_b.share_shared == 1
    assert result.b_in_a.matches == []
    assert math.isnan(result.b_in_a.share_shared)
    assert result.b_in_a.n_set_aside == 3


def test_the_same_seed_gives_the_same_and_both_are_said(rng):
    one, other = random_map(rng), random_map(rng)
    results = [compare_maps(one, other, seed=seed, n_permutations=30) for seed in (4, 4, 5)]
    assert results[0] == results[1]
    assert results[0] != results[2]
    assert (results[0].seed, results[0].n_permutations) == (4, 30)


def test_nothing_in_common_is_refused_with_an_example_of_each():
    symbols = {"S0": ["TOMM20", "LMNA"], "S1": ["TOMM20"]}
    ids = {"S0": ["ENSG00000173726", "ENSG00000160789"]}
    with pytest.raises(BadInput, match=r"like 'LMNA', the second like 'ENSG00000160789'.\n.*Ensembl id"):
        compare_maps(symbols, ids, seed=0)
    with pytest.raises(BadInput, match="has no proteins"):
        compare_maps(symbols, {}, seed=0)


def test_maps_whose_systems_are_all_too_small_are_refused():
    one, other = named(S0=range(9), a=range(3)), named(S0=range(9), a=range(5))
    with pytest.raises(BadInput, match="9 proteins in common; of their systems 0 of 2 and 1 of 2 hold 4 or more"):
        compare_maps(one, other, seed=0)
    assert len(compare_maps(one, other, seed=0, min_size=3).a_in_b.matches) == 1
