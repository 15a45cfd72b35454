"""Localization of an atlas: what is planted is told, by gene and by antibody, and leaks are counted."""

from __future__ import annotations

import csv
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from subcell_atlas.cli import main
from subcell_atlas.errors import BadInput, NotBuilt
from subcell_atlas.evaluate import evaluate
from subcell_atlas.evaluated import EvaluationOptions, Subject
from subcell_atlas.localization_evaluation import (
    measure_localization,
    read_antibodies,
    read_curated,
    shared_genes,
)
from subcell_atlas.profiles import vector_array
from subcell_atlas.store import Store

PLACES = ("Cytosol", "Nucleoli", "Golgi Apparatus", "Cell junctions")  # as some tables write them
N = 60


def write_atlas(uri, rng, *, signal=2.0, condition=None):
    """60 genes in one of four places, two antibodies each in two cell lines; the last two in places of their own."""
    store = Store.create(str(uri))
    of_place = rng.normal(size=(4, 16))
    places = [[PLACES[at % 4]] for at in range(N)]
    places[-2:] = [["Midbody"], ["Kinetochore"]]
    rows, vectors = [], []
    for at in range(N):
        for antibody in "ab":
            for line in ("A", "B"):
                row = {
                    "profile_id": f"{at}{antibody}{line}",
                    "protein_id": f"P{at:02}",
                    "antibody": f"HPA{at}{antibody}",
                }
                rows.append(row | {"cell_line": line, "localization": places[at], "condition": condition})
                vectors.append(signal * of_place[at % 4] + rng.normal(size=16))
    table = pa.Table.from_pylist(rows).append_column("embedding", vector_array(np.array(vectors)))
    at = table.column_names.index("condition")
    store.write("profiles", table.set_column(at, "condition", table["condition"].cast(pa.string())))
    proteins = {"protein_id": [f"P{at:02}" for at in range(N)], "localization": places}
    vectors = vector_array(np.array(vectors)[::4])
    store.write("proteins", pa.table({**proteins, "image": vectors, "sequence": vectors}))
    return store


def test_planted_places_are_told_by_gene_and_by_antibody_with_intervals(tmp_path, rng):
    store = write_atlas(tmp_path / "a", rng)
    metrics = evaluate(Subject(store), ["localization"])["localization"].metrics
    for way in ("gene", "antibody"):
        for probe in ("linear", "nearest"):
            own = metrics[way][probe]
            assert own["macro_ap"] > 0.95
            assert own["macro_ap_low"] <= own["macro_ap"] <= own["macro_ap_high"]
            assert own["coarse_macro_ap"] > 0.95
    assert metrics["gene"]["genes_on_both_sides"] == 0
    assert metrics["antibody"]["genes_on_both_sides"] > 30
    assert metrics["gene"]["linear"]["macro_ap_chance"] < 0.4
    assert metrics["classes"]["Golgi apparatus"] | {"linear_ap": 0, "nearest_ap": 0} == {
        "n_genes": 14, "n_rows": 56, "linear_ap": 0, "nearest_ap": 0,
    }  # fmt: skip
    assert list(metrics["classes"]) == ["Cell Junctions", "Cytosol", "Golgi apparatus", "Nucleoli"]
    assert list(metrics["coarse_classes"]) == ["Cytosol", "Endomembrane system", "Nucleoli", "Plasma membrane"]
    assert metrics["left_out"] == {"Midbody": 1}
    assert metrics["n_genes"] == 59  # one is in no class


def test_random_vectors_tell_nothing(tmp_path, rng):
    metrics = measure_localization(Subject(write_atlas(tmp_path / "a", rng, signal=0)), EvaluationOptions()).metrics
    for probe in ("linear", "nearest"):
        own = metrics["gene"][probe]
        assert own["macro_ap"] == pytest.approx(own["macro_ap_chance"], abs=0.12)


@pytest.mark.parametrize("vectors", ["sequence", "image"])
def test_proteins_are_asked_of_other_vectors_than_pictures_and_where_there_are_no_profiles(vectors, tmp_path, rng):
    store = write_atlas(tmp_path / "a", rng)
    store.drop("profiles") if vectors == "image" else None
    metrics = measure_localization(Subject(store, vectors), EvaluationOptions()).metrics
    assert metrics["n_rows"] == metrics["n_genes"] == 59
    assert metrics["gene"]["linear"]["macro_ap"] > 0.9
    assert "antibody" not in metrics


def test_treated_cells_are_asked_only_where_there_are_no_others(tmp_path, rng):
    store = write_atlas(tmp_path / "a", rng)
    treated = store.read("profiles")
    ids = pa.array([f"{name}+drug" for name in treated["profile_id"].to_pylist()])
    treated = treated.set_column(0, "profile_id", ids)
    at = treated.column_names.index("condition")
    treated = treated.set_column(at, "condition", pa.array(["drug"] * len(ids)))
    store.upsert("profiles", treated)
    assert store.count("profiles") == 8 * N
    assert len(read_curated(Subject(store), seed=0).ids) == 4 * (N - 1)
    assert len(read_curated(Subject(write_atlas(tmp_path / "b", rng, condition="drug")), seed=0).ids) == 4 * (N - 1)


def test_very_many_profiles_are_drawn_from(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("subcell_atlas.localization_evaluation.MOST_ROWS", 50)
    subject = Subject(write_atlas(tmp_path / "a", rng))
    first, again, other = (read_curated(subject, seed=seed).ids for seed in (0, 0, 1))
    assert len(first) == 50
    assert first == again != other


def test_a_split_of_antibodies_can_be_given(tmp_path, rng):
    store = write_atlas(tmp_path / "a", rng)
    path = tmp_path / "test_antibodies.txt"
    path.write_text("\n".join([f"HPA{at}a" for at in range(0, N, 3)] + ["HPA999999"]))
    result = CliRunner().invoke(
        main, ["evaluate", "localization", "--atlas", store.uri, "--split", str(path), "--json"]
    )
    assert result.exit_code == 0, result.output
    published = json.loads(result.stdout)["localization"]["published"]
    assert published["genes_on_both_sides"] == 20
    assert published["n_tested"] == 40
    assert published["linear"]["macro_ap"] > 0.9
    path.write_text("HPA999999")
    with pytest.raises(BadInput, match="names the antibodies of 0 of 236 profiles"):
        measure_localization(Subject(store), EvaluationOptions(split=path))
    with pytest.raises(BadInput, match="cannot be read"):
        read_antibodies(tmp_path / "nowhere")


def test_too_little_that_is_known_is_told(tmp_path, rng):
    store = write_atlas(tmp_path / "a", rng)
    profiles = store.read("profiles")
    at = profiles.column_names.index("localization")
    store.write("profiles", profiles.set_column(at, "localization", pa.array([["Cytosol"]] * 4 * N)))
    with pytest.raises(NotBuilt, match="Fewer than two classes have 5 genes"):
        measure_localization(Subject(store), EvaluationOptions())


def test_the_published_split_leaks_genes(real_data):
    """Of SubCell's split, among the antibodies of which a table at hand names the gene."""
    tables = real_data / "hpa_tables"
    tested, learned = (read_antibodies(tables / f"{name}_antibodies.txt") for name in ("test", "train"))
    assert (len(tested), len(learned), len(tested & learned)) == (3460, 10433, 0)
    with (tables / "cellmaps_samples.csv").open(newline="") as file:
        genes = {row["antibody"]: row["ensembl_ids"] for row in csv.DictReader(file)}
    known = [antibody for antibody in genes if antibody in tested | learned]
    folds = np.array([0 if antibody in tested else -1 for antibody in known])
    several = Counter(genes[antibody] for antibody in known)
    assert (len(known), len(several), sum(n > 1 for n in several.values())) == (216, 155, 56)
    assert shared_genes([genes[antibody] for antibody in known], folds) == 25  # of the 56 that could be


def test_the_command_prints_a_table_and_tells_of_genes_on_both_sides(tmp_path, rng):
    store = write_atlas(tmp_path / "a", rng)
    result = CliRunner().invoke(main, ["evaluate", "localization", "--atlas", store.uri])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "localization: 4 classes, 59 genes" in lines[0]
    (of_genes,) = [line.split() for line in lines if line.split()[:2] == ["gene", "linear"]]
    assert of_genes[-1] == "0"
    assert any(line.split()[:4] == ["Golgi", "apparatus", "14", "56"] for line in lines)
    assert "genes are on both sides of the split by antibody" in result.stdout


def test_an_atlas_of_which_no_localization_is_known_is_told_what_to_do(tmp_path, rng):
    store = write_atlas(tmp_path / "a", rng)
    store.write("profiles", store.read("profiles").drop_columns(["localization"]))
    with pytest.raises(NotBuilt, match="Fewer than two classes"):
        measure_localization(Subject(store), EvaluationOptions())


def test_what_an_annotation_file_says_counts_where_nothing_came_with_the_pictures(tmp_path, rng):
    store = write_atlas(tmp_path / "a", rng)
    known = measure_localization(Subject(store), EvaluationOptions()).metrics
    profiles = store.read("profiles")
    places = dict(zip(profiles["protein_id"].to_pylist(), profiles["localization"].to_pylist(), strict=True))
    rows = [{"protein_id": p, "term_id": f"HPA:{place}", "source": "hpa"} for p, own in places.items() for place in own]
    at = profiles.column_names.index("localization")
    empty = pa.array([[]] * profiles.num_rows, profiles["localization"].type)
    store.write("profiles", profiles.set_column(at, "localization", empty))
    with pytest.raises(NotBuilt):
        measure_localization(Subject(store), EvaluationOptions())
    store.write("annotations", pa.Table.from_pylist(rows))
    assert measure_localization(Subject(store), EvaluationOptions()).metrics["gene"] == known["gene"]
