"""Consistency of an atlas: replicates of every kind, and what is said where there are none."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from subcell_atlas.build import build
from subcell_atlas.cli import main
from subcell_atlas.consistency_evaluation import REPLICATES, kinds_with_replicates, measure_consistency, read_replicates
from subcell_atlas.errors import NotBuilt, UnknownName
from subcell_atlas.evaluate import evaluate, last_results
from subcell_atlas.evaluated import EvaluationOptions, Subject
from subcell_atlas.profiles import vector_array, vectors_of
from subcell_atlas.recipe import Recipe
from subcell_atlas.store import Store


def planted_atlas(uri, rng, *, n_proteins=30, signal=2.0, **columns):
    """An atlas of cells of each protein, by default two on each of two plates in two lines; `columns` replace them."""
    protein, line, plate, fov = (part.ravel() for part in np.indices((n_proteins, 2, 2, 2)))
    of_protein, of_plate = rng.normal(size=(n_proteins, 16)), rng.normal(size=(2, 2, 16))
    vectors = rng.normal(size=(len(protein), 16)) + signal * of_protein[protein] + 3 * of_plate[line, plate]
    names = [f"P{at}" for at in protein]
    table = {
        "cell_id": [f"c{at}" for at in range(len(names))],
        "protein_id": names,
        "gene_symbol": names,
        "antibody": [f"HPA{at}" for at in protein],
        "cell_line": [f"line {at}" for at in line],
        "plate": [f"plate {at}{of}" for at, of in zip(line, plate, strict=True)],
        "well": names,
        "fov": [f"{at}_{of}_{name}" for at, of, name in zip(plate, fov, names, strict=True)],
        "embedding": vector_array(vectors),
        "picture_id": names,
    }
    store = Store.create(str(uri))
    recipe = Recipe(encoder="planted", dim=16)
    store.append_cells(pa.table({**table, **columns}), recipe=recipe)
    build(store, ["profiles"], seed=0)
    return store


def found(store, replicates=None, **options):
    return measure_consistency(Subject(store), EvaluationOptions(replicates=replicates, **options)).metrics


def test_replicates_that_were_planted_are_found_of_every_kind(tmp_path, rng):
    store = planted_atlas(tmp_path / "atlas", rng)
    assert list(kinds_with_replicates(store)) == ["cell_line", "plate", "fov"]
    for kind, n_pairs in (("cell_line", 30), ("plate", 60), ("fov", 120)):
        told = found(store, kind)
        assert (told["replicates"], told["n_proteins"], told["n_replicates"]) == (kind, 30, n_pairs)
        assert told["consistent"] == 1
        assert told["auc"] > 0.95
        assert told["least_consistent"] == []
    assert found(store)["replicates"] == "cell_line"


def test_without_a_signal_plates_alone_make_nothing_consistent(tmp_path, rng):
    store = planted_atlas(tmp_path / "atlas", rng, signal=0)
    for kind in ("cell_line", "plate", "fov"):
        told = found(store, kind)
        assert told["consistent"] == 0
        assert told["auc"] == pytest.approx(0.5, abs=0.12)
        assert len(told["least_consistent"]) == 10
        assert told["least_consistent"][0]["p"] == max(row["p"] for row in told["least_consistent"])


def test_plates_are_centred_like_profiles(tmp_path, rng):
    store = planted_atlas(tmp_path / "atlas", rng)
    names, rows = read_replicates(Subject(store), REPLICATES["plate"])
    profiles = store.read("profiles")
    at = profiles["profile_id"].to_pylist().index("P3|HPA3|line 1|")
    own = rows.vectors[rows.proteins == names.index("P3")]
    line = vectors_of(profiles["embedding"])[at]
    assert min(np.abs((own[i] + own[j]) / 2 - line).max() for i in range(4) for j in range(4) if i != j) < 1e-5


def test_what_lacks_replicates_says_of_which_kind_there_are(tmp_path, rng):
    store = planted_atlas(tmp_path / "atlas", rng)
    with pytest.raises(NotBuilt, match=r"by antibody. Replicates there are by: cell_line, plate, fov \(--replicates\)"):
        found(store, "antibody")
    with pytest.raises(UnknownName, match="cell_line"):
        found(store, "cellline")


def test_an_atlas_without_any_replicates_says_so(tmp_path, rng):
    n = 30 * 8
    nothing = pa.nulls(n, pa.string())
    bare = {"antibody": nothing, "cell_line": nothing, "plate": nothing, "fov": nothing}
    store = planted_atlas(tmp_path / "atlas", rng, **bare)
    with pytest.raises(NotBuilt, match="No protein has a second antibody"):
        found(store)
    with pytest.raises(NotBuilt, match="Nor are there replicates by another"):
        found(store, "fov")


def test_a_protein_alone_in_its_stratum_is_held_against_nobody(tmp_path, rng):
    store = planted_atlas(tmp_path / "atlas", rng, n_proteins=1)
    with pytest.raises(NotBuilt, match="No other protein"):
        found(store, "plate")


def test_sequences_have_no_replicates(function_atlas):
    with pytest.raises(NotBuilt, match="Only pictures have replicates"):
        measure_consistency(Subject(Store.open(function_atlas), "sequence"), EvaluationOptions())


def test_the_command_keeps_what_was_measured_with_intervals(tmp_path, rng):
    store = planted_atlas(tmp_path / "atlas", rng)
    own = ["evaluate", "consistency", "--atlas", store.uri]
    answer = CliRunner().invoke(main, [*own, "--replicates", "plate"])
    assert answer.exit_code == 0, answer.output
    kept = last_results(store)["consistency"]
    assert kept["replicates"] == "plate"
    for name in ("ks", "auc", "similarity"):
        assert kept[f"{name}_low"] <= kept[name] + 1e-6
        assert kept[name] <= kept[f"{name}_high"] + 1e-6
    assert CliRunner().invoke(main, [*own, "--replicates", "antibody"]).exit_code == 1


def test_the_simulated_proteome_is_consistent(demo_atlas):
    told = evaluate(Subject(Store.open(demo_atlas)), ["consistency"])["consistency"].metrics
    assert told["auc"] > 0.8
    assert told["similarity"] > told["null_similarity"] + 0.3
