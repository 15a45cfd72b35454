"""Compounds against knock-outs: scores are scikit-learn's, what is planted is matched, noise is chance."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from subcell_atlas.errors import BadInput
from subcell_atlas.evaluation.compounds import Compounds, ap_and_auc, match_compounds

N_GENES = 60
DIM = 128


def genes(rng):
    return {f"G{at:02}": vector for at, vector in enumerate(rng.normal(size=(N_GENES, DIM)))}


def planted(rng, knockouts, *, sign=-1.0):
    """30 compounds at two concentrations, the higher of which does what the lack of two genes does, or the opposite."""
    names, concentrations, vectors, truth = [], [], [], {}
    for at in range(30):
        hit = [f"G{at:02}", f"G{at + 30:02}"]
        truth |= {(f"drug {at:02}", gene): 100.0 for gene in hit}
        for concentration in (0.1, 10):
            names.append(f"drug {at:02}")
            concentrations.append(concentration)
            effect = sign * sum(knockouts[gene] for gene in hit) if concentration == 10 else 0
            vectors.append(effect + rng.normal(size=DIM))
    return Compounds(names, np.array(concentrations), np.array(vectors)), truth


def test_precision_and_area_are_those_of_sklearn_also_with_ties(rng):
    for decimals in (1, 6):
        scores = np.round(rng.random(40), decimals)
        told = np.arange(40) < 9
        found = ap_and_auc(scores[told], scores[~told])
        assert found == pytest.approx((average_precision_score(told, scores), roc_auc_score(told, scores)))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_compounds_that_do_what_a_knock_out_does_or_the_opposite_are_matched(rng, sign):
    knockouts = genes(rng)
    compounds, truth = planted(rng, knockouts, sign=sign)
    found = match_compounds(compounds, knockouts, truth, seed=0)
    assert list(found.by_concentration) == ["0.1", "10", "max"]
    high, low, most = (found.by_concentration[name] for name in ("10", "0.1", "max"))
    assert high.ap > 0.99
    assert high.auc > 0.99
    assert most.ap > 0.99
    assert most.z > 10
    assert abs(low.z) < 3
    assert low.auc == pytest.approx(0.5, abs=0.1)
    assert (high.n, found.n_genes, found.n_skipped) == (30, N_GENES, 0)
    assert np.mean(list(found.by_compound.values())) == pytest.approx(most.ap)


def test_random_compounds_are_as_good_as_random_scores(rng):
    knockouts = genes(rng)
    compounds, truth = planted(rng, knockouts)
    noise = Compounds(compounds.names, compounds.concentrations, rng.normal(size=compounds.vectors.shape))
    found = match_compounds(noise, knockouts, truth, seed=0)
    for each in found.by_concentration.values():
        assert each.ap == pytest.approx(each.random_ap, abs=0.08)
        assert abs(each.z) < 4
    # two hits among twenty-two: what sklearn gives random scores
    told = np.arange(22) < 2
    by_chance = np.mean([average_precision_score(told, rng.random(22)) for _ in range(4000)])
    assert found.by_concentration["max"].random_ap == pytest.approx(by_chance, abs=0.01)


def test_the_seed_decides(rng):
    knockouts = genes(rng)
    compounds, truth = planted(rng, knockouts)
    noise = Compounds(compounds.names, compounds.concentrations, rng.normal(size=compounds.vectors.shape))
    first, again, other = (match_compounds(noise, knockouts, truth, seed=seed, n_seeds=5) for seed in (0, 0, 1))
    assert first == again != other


def test_what_is_hit_a_little_is_neither_right_nor_wrong(rng):
    knockouts = genes(rng)
    aimed = dict.fromkeys(knockouts, knockouts["G00"])  # all alike: whoever is ranked ties
    truth = {("drug", "G00"): 1000.0, ("drug", "G01"): 10_000.0, ("drug", "G02"): 10_001.0, ("drug", "G03"): np.nan}
    truth |= {("other", name): 1.0 for name in knockouts}
    compounds = Compounds(["drug"], np.array([1.0]), knockouts["G00"][None])
    found = match_compounds(compounds, aimed, truth, seed=0)
    assert found.by_concentration["max"].ap == pytest.approx(1 / 21)
    assert found.by_concentration["max"].auc == 0.5
    few = dict(list(aimed.items())[:21])  # 19 that may stand against it: one is hit, one hit a little
    assert match_compounds(compounds, few, truth, seed=0).by_concentration == {}
    assert match_compounds(compounds, few, truth, seed=0).n_skipped == 1
    enough = dict(list(aimed.items())[:22])
    assert match_compounds(compounds, enough, truth, seed=0).by_compound == {"drug": pytest.approx(1 / 21)}


def test_genes_without_a_vector_and_compounds_that_the_truth_does_not_name_are_left_out(rng):
    knockouts = genes(rng)
    compounds, truth = planted(rng, knockouts)
    del knockouts["G00"], knockouts["G30"]
    more = Compounds(
        [*compounds.names, "water"],
        np.append(compounds.concentrations, np.nan),
        np.vstack([compounds.vectors, np.ones(DIM)]),
    )
    found = match_compounds(more, knockouts, truth, seed=0, n_seeds=3)
    assert "drug 00" not in found.by_compound
    assert "water" not in found.by_compound
    assert (len(found.by_compound), found.n_genes, found.n_skipped) == (29, 58, 1)
    assert match_compounds(more, {}, truth, seed=0).by_compound == {}
    assert match_compounds(more, knockouts, {}, seed=0).by_compound == {}


def test_bad_input_is_refused(rng):
    knockouts = genes(rng)
    truth = {("drug 00", "G00"): 1.0}
    twice = Compounds(["drug 00"] * 2, np.array([1.0, 1.0]), np.ones((2, DIM)))
    with pytest.raises(BadInput, match="two vectors of one concentration"):
        match_compounds(twice, knockouts, truth, seed=0)
    with pytest.raises(BadInput, match="NaN or infinite"):
        match_compounds(Compounds(["drug 00"], np.ones(1), np.full((1, DIM), np.nan)), knockouts, truth, seed=0)
    with pytest.raises(BadInput, match="a name and a concentration"):
        match_compounds(Compounds(["drug 00"], np.ones(2), np.ones((1, DIM))), knockouts, truth, seed=0)
