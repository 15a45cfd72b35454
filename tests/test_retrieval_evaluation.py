"""Retrieval of an atlas: proteins, replicates, and what stands in where replicates lack."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from subcell_atlas.errors import NotBuilt
from subcell_atlas.evaluate import agreement_rows, evaluate
from subcell_atlas.evaluated import EvaluationOptions, Subject
from subcell_atlas.evaluation.retrieval import evaluate_retrieval
from subcell_atlas.profiles import vector_array
from subcell_atlas.retrieval_evaluation import label_sets, measure_replicates, measure_retrieval
from subcell_atlas.store import Store

PLACES = ("Cytosol", "Nucleoli", "Mitochondria")
N = 30


def write_atlas(uri, rng, *, antibodies=2, lines=("A", "B"), signal=2.0, condition=None):
    """30 proteins in three places, a profile for each antibody and cell line; each protein has a look of its own."""
    store = Store.create(str(uri))
    of_place, own = rng.normal(size=(3, 16)), rng.normal(size=(N, 16))
    places, images = [PLACES[at % 3] for at in range(N)], []
    rows, vectors = [], []
    for at in range(N):
        images.append(signal * of_place[at % 3] + own[at])
        for antibody in range(antibodies):
            for line in lines:
                names = {"protein_id": f"P{at:02}", "antibody": f"{at}-{antibody}", "cell_line": line}
                row = {"profile_id": f"{at}|{antibody}|{line}|", "localization": [places[at]], "condition": condition}
                rows.append(names | row)
                vectors.append(signal * own[at] + rng.normal(size=16))
    table = pa.Table.from_pylist(rows).append_column("embedding", vector_array(np.array(vectors)))
    at = table.column_names.index("condition")
    store.write("profiles", table.set_column(at, "condition", table["condition"].cast(pa.string())))
    proteins = {"protein_id": [f"P{at:02}" for at in range(N)], "localization": [[name] for name in places]}
    store.write("proteins", pa.table({**proteins, "image": vector_array(np.array(images))}))
    return store


def test_what_is_measured_of_proteins_is_what_the_pure_function_finds_with_an_interval(tmp_path, rng):
    store = write_atlas(tmp_path / "a", rng)
    subject = Subject(store)
    metrics = evaluate(subject, ["retrieval"])["retrieval"].metrics
    wanted = evaluate_retrieval(
        subject.proteins.vectors, label_sets(store, subject.proteins.ids)["localization"], seed=0
    )
    assert metrics["localization_map"] == wanted.mean_ap
    assert metrics["localization_map_shuffled"] == wanted.shuffled
    assert metrics["localization_queries"] == N
    assert metrics["localization_map_low"] < wanted.mean_ap < metrics["localization_map_high"]
    row = agreement_rows({"retrieval": metrics})[0]
    assert (row["found"], row["labels shuffled"]) == (wanted.mean_ap, wanted.shuffled)


def test_replicates_differ_in_antibody_and_are_found_by_what_the_protein_looks_like(tmp_path, rng):
    found = measure_replicates(Subject(write_atlas(tmp_path / "a", rng)), EvaluationOptions())
    assert found.metrics["replicate_differ_by"] == "antibody"
    assert found.metrics["replicate_map"] > 0.9 > 3 * found.metrics["replicate_map_chance"]
    assert found.metrics["replicate_retrieved"] > 0.9
    assert (found.metrics["replicate_proteins"], found.metrics["replicate_queries"]) == (N, 4 * N)
    assert found.metrics["replicate_null_size"] == 10_000
    assert found.observed["replicate_map"].ids == [f"P{at:02}" for at in range(N)]


def test_random_profiles_are_as_good_as_chance(tmp_path, rng):
    found = measure_replicates(Subject(write_atlas(tmp_path / "a", rng, signal=0)), EvaluationOptions())
    assert found.metrics["replicate_map"] == pytest.approx(found.metrics["replicate_map_chance"], abs=0.05)
    assert found.metrics["replicate_retrieved"] < 0.1


def test_cell_lines_stand_in_where_no_protein_has_two_antibodies_or_when_they_are_asked_for(tmp_path, rng):
    found = measure_replicates(Subject(write_atlas(tmp_path / "a", rng, antibodies=1)), EvaluationOptions())
    assert found.metrics["replicate_differ_by"] == "cell_line"
    assert found.metrics["replicate_map"] > 0.9
    both = write_atlas(tmp_path / "b", rng)
    asked = measure_replicates(Subject(both), EvaluationOptions(replicates="cell_line"))
    assert asked.metrics["replicate_differ_by"] == "cell_line"
    alone = Subject(write_atlas(tmp_path / "c", rng, antibodies=1, lines=("A",)))
    assert measure_replicates(alone, EvaluationOptions()) is None


def test_profiles_without_a_cell_line_are_all_of_one(tmp_path, rng):
    store = write_atlas(tmp_path / "a", rng, lines=("",))
    assert measure_replicates(Subject(store), EvaluationOptions()).metrics["replicate_map"] > 0.9


def test_of_sequences_only_proteins_are_asked_and_what_is_missing_is_told(tmp_path, rng):
    store = write_atlas(tmp_path / "a", rng)
    with pytest.raises(NotBuilt, match="no sequence vectors"):
        measure_retrieval(Subject(store, "sequence"), EvaluationOptions())
    bare = Store.create(str(tmp_path / "b"))
    with pytest.raises(NotBuilt):
        measure_retrieval(Subject(bare), EvaluationOptions())
    alone = write_atlas(tmp_path / "c", rng, antibodies=1, lines=("A",))
    alone.write("proteins", alone.read("proteins").drop_columns(["localization"]))
    with pytest.raises(NotBuilt, match="share a localization"):
        measure_retrieval(Subject(alone), EvaluationOptions())
