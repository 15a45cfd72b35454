"""Recall of relationships of an atlas: from files of pairs and from sets, with coverage, intervals and hashes."""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from ingest.annotate import annotate
from subcell_atlas.cli import main
from subcell_atlas.errors import BadInput, NotBuilt
from subcell_atlas.evaluate import evaluate, last_results
from subcell_atlas.evaluated import EvaluationOptions, Subject
from subcell_atlas.evaluation.relationships import measure_recall
from subcell_atlas.profiles import vector_array
from subcell_atlas.relationship_evaluation import MOST_MEMBERS, known_relations, measure_relationships
from subcell_atlas.store import Store

N = 90
NAMES = [f"GENE{i}" for i in range(N)]
GROUPS = [NAMES[i : i + 3] for i in range(0, 60, 3)]  # are alike
WITHOUT_VECTOR = NAMES[-5:]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(N, 12)).astype(np.float32)
    vectors[:60] = np.repeat(rng.normal(size=(20, 12)), 3, axis=0) + 0.2 * vectors[:60]
    return vectors


@pytest.fixture
def store(tmp_path, vectors) -> Store:
    store = Store.create(str(tmp_path / "atlas"))
    missing = np.isin(NAMES, WITHOUT_VECTOR)
    rows = {"protein_id": NAMES, "gene_symbol": NAMES, "image": vector_array(vectors, missing=missing)}
    store.write("proteins", pa.table(rows))
    return store


@pytest.fixture
def give(tmp_path, store):
    def give(text, name):
        (tmp_path / name).write_text(text, encoding="utf-8")
        annotate(store, tmp_path / name)
        return tmp_path / name

    return give


def as_file(pairs):
    return "\n".join(["entity1,entity2", *(",".join(pair) for pair in pairs)]) + "\n"


def within(groups):
    return [(one, other) for own in groups for one in own for other in own if one < other]


def clusters(groups):
    return "".join(f"complex {number}\t{' '.join(own)}\n" for number, own in enumerate(groups))


def measured(store, **options):
    return measure_relationships(Subject(store), EvaluationOptions(**options))


def test_planted_pairs_are_recalled_and_random_ones_as_chance_would(store, give, vectors):
    rng = np.random.default_rng(0)
    give(as_file(within(GROUPS)), "planted.txt")
    give(as_file([(NAMES[a], NAMES[b]) for a, b in rng.integers(0, N - 5, (400, 2))]), "random.txt")
    found = measured(store).metrics
    assert found["planted"]["high_tail"] > 0.95
    assert found["planted"]["low_tail"] == 0
    assert found["planted"]["p"] == pytest.approx(1 / 101)
    assert found["planted"]["pairs"] == 60
    assert found["planted"]["null_pairs"] == 85 * 84 // 2
    assert found["random"]["permuted_low"] <= found["random"]["recall"] <= found["random"]["permuted_high"]
    assert found["random"]["chance"] == pytest.approx(0.1)


def test_coverage_and_hashes_are_told_of_files(store, give):
    here, nobody, without = ("GENE0", "GENE1"), ("GENE0", "NOBODY"), ("GENE1", WITHOUT_VECTOR[0])
    path = give(as_file([here, here[::-1], nobody, without]), "lab.txt")
    found = measured(store).metrics["lab"]
    assert (found["pairs"], found["pairs_in_source"], found["coverage"]) == (1, 3, pytest.approx(1 / 3))
    assert (found["genes"], found["genes_in_source"]) == (2, 4)
    assert found["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found["pairs_sha256"] == hashlib.sha256(b"GENE0\tGENE1").hexdigest()
    assert (found["file"], found["made_of"]) == ("lab.txt", "pairs")


def test_complexes_are_turned_into_pairs_that_count_as_if_they_were_given(store, give):
    give(clusters([*GROUPS, ["GENE0", "GENE1"], ["GENE70"]]), "CORUM_clusters.tsv")
    give(as_file(within(GROUPS)), "pairs.txt")
    found = measured(store).metrics
    sets, pairs = found["CORUM_clusters"], found["pairs"]
    same = ("recall", "low_tail", "high_tail", "permuted", "permuted_low", "p", "pairs", "pairs_sha256", "recall_low")
    assert {key: sets.get(key) for key in same} == {key: pairs.get(key) for key in same}
    assert (sets["made_of"], sets["file"], sets["genes_in_source"]) == ("sets", "CORUM_clusters.tsv", 61)
    assert sets["sha256"] != pairs["sha256"]


def test_sets_of_more_members_than_are_taken_and_of_other_aspects_make_no_pairs(store, give):
    most = MOST_MEMBERS["pathway"]
    sets = {"R-HSA-1": NAMES[:most], "R-HSA-2": NAMES[: most + 1], "R-HSA-3": NAMES[50:52]}
    give("".join("\t".join([name, name, *own]) + "\n" for name, own in sets.items()), "Reactome.gmt")
    give("gene,term_id,aspect\nGENE0,GO:1,cellular_component\nGENE1,GO:1,cellular_component\n", "go.csv")
    relations = known_relations(store)
    assert set(relations) == {"Reactome"}
    assert len(relations["Reactome"].pairs) == most * (most - 1) // 2 + 1


def test_a_source_of_pairs_and_of_sets_is_told_twice(store, give):
    give(clusters(GROUPS), "CORUM.tsv")
    give(as_file([("GENE0", "GENE1")]), "CORUM.txt")
    found = measured(store).metrics
    assert (found["CORUM"]["pairs"], found["CORUM sets"]["pairs"]) == (1, 60)
    assert (found["CORUM"]["file"], found["CORUM sets"]["file"]) == ("CORUM.txt", "CORUM.tsv")


def test_a_source_without_a_pair_here_is_told_to_have_none(store, give):
    give(as_file(within(GROUPS)), "planted.txt")
    give(as_file([("GENE0", "NOBODY"), ("GENE1", "NOONE")]), "elsewhere.txt")
    found = evaluate(Subject(store), ["relationships"])["relationships"]
    own = found.metrics["elsewhere"]
    assert (own["pairs"], own["pairs_in_source"], own["coverage"]) == (0, 2, 0)
    assert math.isnan(own["recall"])
    assert math.isnan(own["p"])
    assert "elsewhere/recall" not in found.observed


def test_recall_has_an_interval_and_the_values_that_it_is_made_of(store, give, vectors):
    give(as_file(within(GROUPS[:6])), "a_b.txt")
    found = evaluate(Subject(store), ["relationships"])["relationships"]
    own, observed = found.metrics["a_b"], found.observed["a_b/recall"]
    assert observed.value() == own["recall"]
    assert own["recall_low"] <= own["recall"] <= own["recall_high"]
    assert set(observed.ids) == {"|".join(pair) for pair in within(GROUPS[:6])}
    assert [f"{one}|{other}" for one, other in observed.drawn] == list(observed.ids)
    row_of = {name: row for row, name in enumerate(NAMES)}
    pairs = np.array([[row_of[name] for name in own.split("|")] for own in observed.ids])
    tail = measure_recall(vectors[:-5], {"a": pairs}, n_permutations=0, seed=0)["a"].tail
    assert np.array_equal(observed.values, tail != 0)


def test_a_source_whose_name_has_a_slash_is_measured_too(store, tmp_path):
    (tmp_path / "x.txt").write_text(as_file(within(GROUPS)))
    annotate(store, tmp_path / "x.txt", source="lab/2026")
    found = evaluate(Subject(store), ["relationships"])["relationships"].metrics["lab_2026"]
    assert found["recall_low"] <= found["recall"]


def test_tails_and_permutations_are_as_asked(store, give):
    give(as_file(within(GROUPS)), "planted.txt")
    found = measured(store, tails=(0.2, 0.7), n_permutations=20).metrics["planted"]
    assert (found["chance"], found["tails"], found["n_permutations"]) == (pytest.approx(0.5), [0.2, 0.7], 20)
    assert found["p"] >= 1 / 21
    with pytest.raises(BadInput, match="two ranks between 0 and 1"):
        measured(store, tails=(0.5, 1.5))


def test_an_atlas_that_knows_no_relationship_says_what_to_give(store):
    with pytest.raises(NotBuilt, match="annotate FILE"):
        measured(store)


def test_relationships_of_proteins_without_vectors_are_not_built(store, give):
    give(as_file([tuple(WITHOUT_VECTOR[:2])]), "lab.txt")
    with pytest.raises(NotBuilt, match="No two proteins with image vectors"):
        measured(store)


def test_the_command_prints_a_row_a_source_or_json_and_keeps_the_figures(store, give):
    give(as_file(within(GROUPS)), "planted.txt")
    command = ["evaluate", "relationships", "--atlas", store.uri, "--tails", "0.1,0.9", "--permutations", "10"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert "planted" in done.output
    assert "below 0.1 or above 0.9 of all 3,570; chance 0.200" in done.output
    as_json = CliRunner().invoke(main, [*command, "--json"])
    document = json.loads(as_json.stdout)
    assert set(document["relationships"]) == {"planted"}
    assert document["relationships"]["planted"]["recall"] > 0.95
    assert last_results(store)["relationships"] == document["relationships"]


@pytest.mark.parametrize("tails", ["5", "a,b", "0.1,0.2,0.9"])
def test_tails_that_cannot_be_read_are_wrong_usage(store, tails):
    done = CliRunner().invoke(main, ["evaluate", "relationships", "--atlas", store.uri, "--tails", tails])
    assert done.exit_code == 2
    assert "two numbers" in done.output
