"""Compounds and the genes they hit, from an atlas and a file of the truth."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from planted_screen import DIM, write_screen

from subcell_atlas.cli import main
from subcell_atlas.compound_matching import measure_compounds, read_truth
from subcell_atlas.condition_retrieval import condition_facts
from subcell_atlas.errors import BadInput, NotBuilt
from subcell_atlas.evaluated import EvaluationOptions
from subcell_atlas.wells import read_wells

CONTROLS = "condition = 'DMSO'"
N = 40


def screen(uri, rng, *, named=True):
    """40 knock-outs and 12 compounds at two concentrations, the higher of which does what the lack of a gene does."""
    effects = {f"G{at:02}": 2 * rng.normal(size=DIM) for at in range(N)}
    extras, lines = {}, ["gene_symbol,nM_value,measurement_type,database,treatment"]
    for at in range(12):
        for concentration in (0.1, 10):
            name = f"compound {at:02} at {concentration}" if named else f"compound {at:02}"
            effects[name] = effects[f"G{at:02}"] * (concentration == 10)
            extras[name] = {"treatment": f"compound {at:02}", "concentration": str(concentration)}
            extras[name] = extras[name] if named else None
        lines.append(f"G{at:02},{100 + at},IC50,ChEMBL,compound {at:02}")
        lines.append(f"G{at + 20:02},50000,IC50,ChEMBL,compound {at:02}")
    lines += [f"G{at:02},,IC50,PubChem,compound 00" for at in range(1, N)]
    truth = uri.parent / "truth.csv"
    truth.write_text("\n".join(lines))
    return write_screen(uri, rng, effects, extras=extras), truth


def measured(store, truth, **options):
    options = EvaluationOptions(truth=truth, **options)
    wells = read_wells(store, options.controls)
    return measure_compounds(wells, condition_facts(store), read_truth(truth), options)


def test_compounds_are_matched_to_the_genes_they_hit(tmp_path, rng):
    store, truth = screen(tmp_path / "a", rng)
    found = measured(store, truth, controls=CONTROLS)
    record = found.metrics["compound_gene"]
    assert record["10"]["ap"] > 0.95
    assert record["max"]["ap"] > 0.9
    assert record["max"]["z"] > 5
    assert abs(record["0.1"]["z"]) < 3
    assert (record["max"]["n"], record["n_genes"], record["n_skipped"]) == (12, N, 0)
    observed = found.observed["compound_gene/max/ap"]
    assert observed.value() == pytest.approx(record["max"]["ap"])
    assert observed.ids[0] == "compound 00"


def test_conditions_may_be_named_as_the_truth_names_them(tmp_path, rng):
    store, truth = screen(tmp_path / "a", rng, named=False)  # the lower concentration is written over
    record = measured(store, truth, controls=CONTROLS).metrics["compound_gene"]
    assert record["max"]["ap"] > 0.9
    assert list(record)[:2] == ["unknown", "max"]
    assert record["unknown"]["auc"] == record["max"]["auc"]


def test_the_command_takes_the_truth_and_tells_of_it(tmp_path, rng):
    store, truth = screen(tmp_path / "a", rng)
    asked = ["evaluate", "retrieval", "--atlas", store.uri, "--controls", CONTROLS, "--truth", str(truth), "--json"]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)["retrieval"]["compound_gene"]["max"]
    assert 0.5 < record["ap_low"] <= record["ap"] <= record["ap_high"]


def test_a_truth_of_which_nothing_is_in_the_atlas_is_told(tmp_path, rng):
    store, truth = screen(tmp_path / "a", rng)
    truth.write_text("gene_symbol,nM_value,treatment\nTP53,1,aspirin\n")
    with pytest.raises(NotBuilt, match="0 compounds and 0 genes"):
        measured(store, truth)


def test_the_least_measured_concentration_counts_and_none_is_none(tmp_path):
    path = tmp_path / "truth.csv"
    path.write_text("gene_symbol,nM_value,treatment\nA,500,x\nA,20,x\nA,,x\nB,,x\n")
    truth = read_truth(path)
    assert truth["x", "A"] == 20
    assert np.isnan(truth["x", "B"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gene,treatment\nA,x\n", "lacks the columns gene_symbol, nM_value; it has gene, treatment"),
        ("gene_symbol,nM_value,treatment\nA,strong,x\n", "line 2: nM_value 'strong' is no number"),
        ("", "lacks the columns"),
    ],
)
def test_a_truth_that_cannot_be_used_is_told(text, said, tmp_path):
    path = tmp_path / "truth.csv"
    path.write_text(text)
    with pytest.raises(BadInput, match=said):
        read_truth(path)
    with pytest.raises(BadInput, match="cannot be read"):
        read_truth(tmp_path / "nowhere.csv")


def test_a_concentration_that_is_no_number_is_told(tmp_path, rng):
    store, truth = screen(tmp_path / "a", rng)
    wells, facts = read_wells(store, None), condition_facts(store)
    facts["compound 00 at 10"]["concentration"] = "high"
    with pytest.raises(BadInput, match="'high' of 'compound 00 at 10' is no number"):
        measure_compounds(wells, facts, read_truth(truth), EvaluationOptions())
