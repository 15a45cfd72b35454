"""Pairs of genes into an atlas: which proteins are meant, what is replaced, what is kept of the file."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from ingest.annotate import annotate
from subcell_atlas.about import describe
from subcell_atlas.cli import main
from subcell_atlas.errors import BadInput, NotBuilt
from subcell_atlas.profiles import vector_array
from subcell_atlas.store import Store

GENES = ["TOMM20", "TOMM22", "LMNA", "LMNB1", "NPM1"]


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store.create(str(tmp_path / "atlas"))
    rows = {
        "protein_id": [f"ENSG0000000000{9 - i}" for i in range(len(GENES))],
        "ensembl_id": [f"ENSG0000000000{9 - i}" for i in range(len(GENES))],
        "gene_symbol": GENES,
        "synonyms": [["MAS20"], None, None, None, None],
        "image": vector_array(np.random.default_rng(0).normal(size=(len(GENES), 4))),
    }
    store.write("proteins", pa.table(rows))
    return store


@pytest.fixture
def write(tmp_path):
    def write(*pairs, name="CORUM.txt"):
        (tmp_path / name).write_text("\n".join(["entity1,entity2", *pairs]) + "\n", encoding="utf-8")
        return tmp_path / name

    return write


def stored(store, **where):
    symbols = store.lookup("proteins", "protein_id", "gene_symbol")
    rows = [row for row in store.read("pairs").to_pylist() if where.items() <= row.items()]
    return sorted((*sorted((symbols[row["protein_id"]], symbols[row["other_id"]])), row["source"]) for row in rows)


def test_pairs_of_proteins_that_are_here_are_stored_in_order_and_counted(store, write):
    path = write("MAS20,TOMM22", "TOMM22,MAS20", "MAS20,LMNA", "NPM1,NOBODY", "NPM1,NPM1")
    report = annotate(store, path)
    assert stored(store) == [("LMNA", "TOMM20", "CORUM"), ("TOMM20", "TOMM22", "CORUM")]
    rows = store.read("pairs").to_pylist()
    assert all(row["protein_id"] < row["other_id"] for row in rows)
    assert (report.pairs_in_file, report.pairs, report.proteins, report.replaced) == (3, 2, 3, 0)
    assert (report.identifiers.n, report.identifiers.joined, report.identifiers.missing) == (5, 4, 1)
    assert report.skipped == {"a gene with itself": 1}


def test_a_pair_of_two_names_of_one_protein_is_none(store, write):
    annotate(store, write("TOMM20,ENSG00000000009", "LMNA,LMNB1"))
    assert stored(store) == [("LMNA", "LMNB1", "CORUM")]


def test_what_is_kept_of_a_source_is_its_file_and_how_much_of_it_is_here(store, write):
    path = write("TOMM20,TOMM22", "NPM1,NOBODY")
    annotate(store, path)
    assert store.metadata("pairs")["sources"] == {
        "CORUM": {
            "file": "CORUM.txt",
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "date": None,
            "licence": None,
            "pairs_in_file": 2,
            "genes_in_file": 4,
        }
    }


def test_a_source_that_is_given_again_replaces_its_pairs_and_no_others(store, write):
    annotate(store, write("TOMM20,TOMM22", "LMNA,LMNB1"))
    annotate(store, write("TOMM20,TOMM22", name="SIGNOR.txt"))
    report = annotate(store, write("NPM1,LMNB1"))
    assert report.replaced == 2
    assert stored(store) == [("LMNB1", "NPM1", "CORUM"), ("TOMM20", "TOMM22", "SIGNOR")]
    assert set(store.metadata("pairs")["sources"]) == {"CORUM", "SIGNOR"}
    assert store.metadata("pairs")["sources"]["CORUM"]["pairs_in_file"] == 1


def test_a_source_without_a_pair_here_is_known_all_the_same(store, write):
    report = annotate(store, write("TOMM20,NOBODY", "LMNA,NOONE"))
    assert report.pairs == store.count("pairs") == 0
    assert "CORUM" in store.metadata("pairs")["sources"]


def test_pairs_make_no_terms_and_take_no_ontology(store, write, tmp_path):
    annotate(store, write("TOMM20,TOMM22"))
    assert {"terms", "annotations"}.isdisjoint(store.names())
    (tmp_path / "go.obo").write_text("format-version: 1.2\n\n[Term]\nid: GO:0000001\nname: a\n")
    with pytest.raises(BadInput, match="has pairs of genes and no terms"):
        annotate(store, write("TOMM20,TOMM22"), ontology=tmp_path / "go.obo")


def test_pairs_of_another_species_and_of_nobody_are_refused_and_nothing_is_written(store, write):
    annotate(store, write("TOMM20,TOMM22"))
    before = store.version("pairs")
    for pairs in (("Tomm20,Tomm22", "Lmna,Lmnb1"), ("x1,x2", "x2,x3")):
        with pytest.raises(BadInput, match="looks like another species"):
            annotate(store, write(*pairs))
    assert store.version("pairs") == before


def test_an_atlas_without_proteins_says_what_to_build(tmp_path, write):
    empty = Store.create(str(tmp_path / "empty"))
    with pytest.raises(NotBuilt):
        annotate(empty, write("TOMM20,TOMM22"))


def test_the_command_says_how_many_pairs_are_stored_and_info_names_their_file(store, write):
    path = write("TOMM20,TOMM22", "NPM1,NOBODY")
    done = CliRunner().invoke(main, ["annotate", str(path), "--atlas", store.uri])
    assert done.exit_code == 0, done.output
    assert "1 of 2 pairs, of 2 proteins; stored as 'CORUM' (pairs)." in done.output
    assert "evaluate relationships" in done.output
    as_json = CliRunner().invoke(main, ["annotate", str(path), "--atlas", store.uri, "--json"])
    assert json.loads(as_json.stdout)["pairs"] == 1
    about = describe(store)
    assert about["tables"]["pairs"] == 1
    source = next(each for each in about["sources"] if each["of"] == "pairs")
    assert (source["source"], source["rows"], source["file"]) == ("CORUM", 1, "CORUM.txt")
