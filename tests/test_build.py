"""The stages of the build, and the evaluations, against slow twins and by what a person would notice."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pytest

from subcell_atlas.build import build
from subcell_atlas.errors import NotBuilt, UnknownName
from subcell_atlas.evaluate import evaluate
from subcell_atlas.evaluated import Subject
from subcell_atlas.evaluation.agreement import best_overlap, evaluate_map
from subcell_atlas.profiles import vector_array
from subcell_atlas.proteins import write_proteins
from subcell_atlas.query import map_graph
from subcell_atlas.ranking import average_precisions
from subcell_atlas.recipe import Recipe
from subcell_atlas.store import Store


@pytest.fixture
def copy(demo_atlas, tmp_path) -> Store:
    shutil.copytree(demo_atlas, tmp_path / "copy")
    return Store.open(str(tmp_path / "copy"))


def test_only_what_is_out_of_date_is_made(copy):
    assert build(copy) == []
    assert build(copy, ["map"], force=True) == ["map"]
    copy.upsert("annotations", pa.table({"protein_id": ["x"], "term_id": ["y"], "source": ["z"]}))
    assert build(copy) == ["map", "functions"]
    copy.delete("cells", "gene_symbol = 'DEMO005'")
    assert build(copy) == ["profiles", "fusion", "map", "places", "functions"]
    gone = copy.read("proteins", where="gene_symbol = 'DEMO005'").to_pylist()[0]
    assert (gone["image"], gone["n_cells"], gone["x"]) == (None, None, None)
    assert gone["amino_acids"]
    assert build(copy) == []


def test_a_corrected_gene_and_a_renamed_term_reach_the_map(copy):
    cells = copy.read("cells", where="gene_symbol = 'DEMO005'")
    renamed = {name: pa.array(["NEW5"] * 4) for name in ("protein_id", "ensembl_id", "gene_symbol")}
    for name, values in renamed.items():
        cells = cells.set_column(cells.column_names.index(name), name, values)
    copy.replace_cells(cells, cells["picture_id"].to_pylist(), recipe=copy.recipe("cells", "embedding"))
    assert build(copy) == ["profiles", "fusion", "map", "places", "functions"]
    members = copy.read("system_members", where="system_id = 'S0'")["protein_id"].to_pylist()
    assert "NEW5" in members
    assert "DEMOG00000000005" not in members
    evaluate(Subject(copy))
    copy.upsert("terms", pa.table({"term_id": ["GO:0005634"], "name": ["kernel"], "aspect": ["cellular_component"]}))
    assert build(copy) == ["map", "functions"]


def test_an_interrupted_build_leaves_no_map_of_two_halves(copy, monkeypatch):
    def fail(table, *_, **__):
        if table == "system_members":
            raise KeyboardInterrupt

    write = copy.write
    monkeypatch.setattr(copy, "write", lambda table, *a, **k: fail(table) or write(table, *a, **k))
    with pytest.raises(KeyboardInterrupt):
        build(copy, ["map"], force=True)
    monkeypatch.undo()
    with pytest.raises(NotBuilt, match="build map"):
        map_graph(copy)
    assert build(copy) == ["map"]
    assert len(map_graph(copy)) > 1


def test_a_build_that_was_interrupted_between_proteins_and_profiles_goes_on(copy, monkeypatch):
    write = copy.write

    def interrupted(table, *arguments, **options):
        if table == "profiles":
            raise KeyboardInterrupt
        write(table, *arguments, **options)

    copy.drop("profiles")
    monkeypatch.setattr(copy, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build(copy)
    monkeypatch.undo()
    assert "profiles" in build(copy)


def test_a_new_release_adds_ready_made_vectors_to_those_of_the_old_one(tmp_path):
    store = Store.create(str(tmp_path / "atlas"))
    for release, protein in (("0.1", "a"), ("0.2", "b")):
        table = pa.table({"protein_id": [protein], "image": vector_array(np.ones((1, 2)))})
        recipe = Recipe(encoder="theirs", dim=2, code_version=release)
        write_proteins(store, table, vector="image", recipe=recipe)
    assert store.count("proteins", "image IS NOT NULL") == 2


def test_a_missing_table_is_made_again(copy):
    copy.drop("proteins")
    assert "profiles" in build(copy)


def test_proteins_of_sequences_alone_need_no_cells(tmp_path):
    store = Store.create(str(tmp_path / "atlas"))
    table = pa.table({"protein_id": ["a", "b"], "sequence": vector_array(np.eye(2))})
    write_proteins(store, table, vector="sequence", recipe=Recipe(encoder="esm", dim=2))
    assert build(store) == []


def test_a_map_cannot_be_evaluated_without_labels(tmp_path, rng):
    store = Store.create(str(tmp_path / "atlas"))
    columns = {"protein_id": [f"p{i}" for i in range(30)], "image": vector_array(rng.normal(size=(30, 6)))}
    write_proteins(store, pa.table(columns), vector="image", recipe=Recipe(encoder="theirs", dim=6))
    build(store)
    with pytest.raises(NotBuilt, match="share a localization"):
        evaluate(Subject(store))


def test_the_same_seed_gives_the_same_map_and_another_is_made_anew(copy):
    before = copy.read("systems").to_pylist()
    assert build(copy, force=True) == ["profiles", "sequence", "fusion", "map", "places", "functions"]
    assert copy.read("systems").to_pylist() == before
    assert build(copy, seed=1) == ["fusion", "map", "places", "functions"]


def test_an_unknown_stage_and_an_empty_atlas_say_what_to_do(copy, tmp_path):
    with pytest.raises(UnknownName, match="profiles"):
        build(copy, ["profile"])
    with pytest.raises(NotBuilt, match="ingest images"):
        build(Store.create(str(tmp_path / "new")))


def test_ready_made_vectors_of_proteins_can_be_mapped_without_cells(tmp_path, rng):
    store = Store.create(str(tmp_path / "atlas"))
    columns = {"protein_id": [f"p{i}" for i in range(30)], "image": vector_array(rng.normal(size=(30, 6)))}
    write_proteins(store, pa.table(columns), vector="image", recipe=Recipe(encoder="theirs", dim=6))
    assert build(store) == ["map"]
    assert build(store) == []
    assert store.count("proteins", "x IS NOT NULL") == 30


def test_sequences_of_proteins_survive_a_rebuild(copy):
    before = copy.read("proteins", ["protein_id", "amino_acids"]).sort_by("protein_id")
    assert all(before["amino_acids"].to_pylist())
    build(copy, force=True)
    assert copy.read("proteins", ["protein_id", "amino_acids"]).sort_by("protein_id") == before


def test_average_precision_equals_the_definition():
    found = average_precisions(np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0]], bool))
    assert found[0] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert np.isnan(found[1])
    assert found[2] == 1


def test_agreement_is_one_for_the_truth_and_nothing_for_noise(rng):
    labels = [str(i // 20) for i in range(100)]
    truth = {f"S{g}": list(range(g * 20, g * 20 + 20)) for g in range(5)}
    assert evaluate_map(truth, labels, seed=0).ami == pytest.approx(1)
    assert abs(evaluate_map(truth, labels, seed=0).shuffled) < 0.05
    mixed = {f"S{g}": rng.permutation(100)[:20].tolist() for g in range(5)}
    assert evaluate_map(mixed, labels, seed=0).ami < 0.15


def test_best_overlap_is_the_mean_of_the_best_jaccard():
    systems = {"a": [1, 2, 3], "b": [4, 5]}
    assert best_overlap(systems, {"x": [1, 2, 3], "y": [4, 5, 6, 7]}) == pytest.approx((1 + 0.5) / 2)


def test_evaluations_are_kept_in_runs_and_beat_shuffled_labels(copy):
    results = evaluate(Subject(copy))
    assert results["retrieval"].metrics["localization_map"] > results["retrieval"].metrics["localization_map_shuffled"]
    assert results["map"].metrics["level_1_ami"] > results["map"].metrics["level_1_ami_shuffled"]
    kinds = copy.read("runs", ["kind"])["kind"].to_pylist()
    assert {"ingest", "build profiles", "build map", "evaluate retrieval", "evaluate map"} <= set(kinds)
    with pytest.raises(UnknownName, match="retrieval"):
        evaluate(Subject(copy), ["retrievel"])


def test_the_grade_of_a_localization_reaches_the_protein(copy):
    cells = copy.read("cells", where="gene_symbol = 'DEMO005'")
    grades = ['{"Reliability": "Supported", "other": 1}'] + [None] * (cells.num_rows - 1)
    cells = cells.set_column(cells.column_names.index("extra"), "extra", pa.array(grades, pa.string()))
    copy.replace_cells(cells, cells["picture_id"].to_pylist(), recipe=copy.recipe("cells", "embedding"))
    build(copy, ["profiles"])
    grade_of = copy.lookup("proteins", "gene_symbol", "reliability")
    assert grade_of.pop("DEMO005") == "Supported"
    assert set(grade_of.values()) == {None}
