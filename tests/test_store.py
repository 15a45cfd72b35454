"""What is written, read back, replaced and refused."""

from __future__ import annotations

import json
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from subcell_atlas import schema
from subcell_atlas.cli import main
from subcell_atlas.errors import AtlasError, AtlasNotFound, BadInput, NotBuilt, RecipeMismatch, SchemaMismatch
from subcell_atlas.profiles import vector_array
from subcell_atlas.recipe import Recipe
from subcell_atlas.schema import KEYS, TABLES, VECTOR, table_schema
from subcell_atlas.store import Store, open_datasets

RECIPE = Recipe(encoder="test", dim=3)


def cells(ids, *, picture, value=1.0):
    return pa.table(
        {
            "cell_id": ids,
            "picture_id": [picture] * len(ids),
            "gene_symbol": [picture.upper()] * len(ids),
            "embedding": vector_array(np.full((len(ids), 3), value)),
        }
    )


@pytest.fixture
def store(tmp_path):
    return Store.create(str(tmp_path / "atlas"))


def test_every_table_has_its_key_columns_and_only_cells_proteins_profiles_hold_vectors():
    for table, key in KEYS.items():
        assert set(key) <= set(TABLES[table])
    with_vectors = {table for table, columns in TABLES.items() if VECTOR in columns.values()}
    assert with_vectors == {"cells", "profiles", "proteins"}


def test_what_is_written_is_read_back(store, rng):
    rows = pa.table(
        {"protein_id": ["a", "b"], "localization": [["X"], []], "image": vector_array(rng.normal(size=(2, 3)))}
    )
    store.write("proteins", rows, metadata={"marks": {"image": "m"}})
    read = store.read("proteins")
    assert read["image"].to_pylist() == rows["image"].to_pylist()
    assert read["localization"].to_pylist() == [["X"], []]
    assert read["sequence"].to_pylist() == [None, None]
    assert store.vector_columns("proteins") == ["image"]
    assert store.metadata("proteins") == {"schema_version": 1, "marks": {"image": "m"}}


def test_cells_of_a_picture_are_replaced_never_doubled(store):
    store.replace_cells(cells(["1", "2"], picture="a"), ["a"], recipe=RECIPE)
    store.replace_cells(cells(["3"], picture="b"), ["b"], recipe=RECIPE)
    store.replace_cells(cells(["2", "4"], picture="a", value=2.0), ["a"], recipe=RECIPE)
    read = store.read("cells").sort_by("cell_id")
    assert read["cell_id"].to_pylist() == ["2", "3", "4"]
    assert [vector[0] for vector in read["embedding"].to_pylist()] == [2.0, 1.0, 2.0]
    assert store.recipe("cells", "embedding") == RECIPE


def test_cells_of_another_recipe_are_refused_even_when_the_table_was_begun_meanwhile(store):
    store.replace_cells(cells(["1"], picture="a"), ["a"], recipe=RECIPE)
    with pytest.raises(RecipeMismatch, match="encoder is 'other'"):
        store.replace_cells(cells(["2"], picture="b"), ["b"], recipe=Recipe(encoder="other", dim=3))
    assert store.count("cells") == 1


def test_a_condition_cannot_end_the_bracket_it_is_put_into(store):
    rows = {"protein_id": ["a", "b"], "image": vector_array(np.eye(2), missing=np.array([False, True]))}
    store.write("proteins", pa.table(rows))
    with pytest.raises(BadInput):
        store.nearest("proteins", "image", np.ones(2), k=2, where="true) OR (true")
    assert store.nearest("proteins", "image", np.ones(2), k=2, where="true -- all").num_rows == 1


def test_upsert_replaces_rows_of_the_same_key(store):
    row = {"protein_id": ["p"], "term_id": ["t"], "source": ["s"], "evidence": ["old"]}
    store.upsert("annotations", pa.table(row))
    store.upsert("annotations", pa.table({**row, "evidence": ["new"]}))
    assert store.read("annotations")["evidence"].to_pylist() == ["new"]


def test_nearest_equals_a_slow_twin_and_honours_conditions(store, rng):
    vectors = rng.normal(size=(50, 3)).astype(np.float32)
    missing = np.zeros(50, bool)
    missing[3] = True
    rows = pa.table(
        {
            "protein_id": [f"p{i}" for i in range(50)],
            "n_cells": pa.array(range(50), pa.int32()),
            "image": vector_array(vectors, missing=missing),
        }
    )
    store.write("proteins", rows)
    query = rng.normal(size=3)
    cosine = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    allowed = [i for i in range(50) if i >= 20]
    wanted = sorted(allowed, key=lambda i: -cosine[i])[:5]
    hits = store.nearest("proteins", "image", query, k=5, where="n_cells >= 20")
    assert hits["protein_id"].to_pylist() == [f"p{i}" for i in wanted]
    assert hits["similarity"].to_numpy() == pytest.approx(cosine[wanted], abs=1e-5)
    assert "p3" not in store.nearest("proteins", "image", query, k=50)["protein_id"].to_pylist()


def test_a_condition_that_cannot_be_used_names_the_columns(store):
    store.write("proteins", pa.table({"protein_id": ["a"], "image": vector_array(np.ones((1, 2)))}))
    for ask in (
        lambda: store.read("proteins", where="colour = 'red'"),
        lambda: store.nearest("proteins", "image", np.ones(2), k=1, where="not sql at all ("),
    ):
        with pytest.raises(BadInput, match="n_cells"):
            ask()


def test_there_is_no_atlas_where_there_is_none(tmp_path):
    with pytest.raises(AtlasNotFound, match="subcell-atlas demo"):
        Store.open(str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"x")
    with pytest.raises(AtlasNotFound, match="holds no atlas"):
        Store.open(str(tmp_path / "photos"))
    with pytest.raises(BadInput, match="other files"):
        Store.create(str(tmp_path / "photos"))
    with pytest.raises(BadInput, match="is a file"):
        Store.create(str(tmp_path / "photos" / "cat.png"))


def test_a_missing_table_says_what_to_run(store):
    with pytest.raises(NotBuilt, match="subcell-atlas build map"):
        store.read("systems")
    assert store.count("systems") == 0


def test_an_atlas_of_a_newer_schema_asks_for_an_upgrade(store, monkeypatch):
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 99)
    newer = table_schema("terms")
    monkeypatch.undo()
    lancedb.connect(store.uri).create_table("terms", schema=newer)
    with pytest.raises(SchemaMismatch, match="pip install --upgrade"):
        store.read("terms")


def test_a_table_of_something_else_is_refused(store):
    lancedb.connect(store.uri).create_table("cells", pa.table({"cells": ["not ours"]}))
    with pytest.raises(SchemaMismatch, match="not written by"):
        store.count("cells")


def test_a_reader_sees_what_was_written_after_it_opened(store):
    reader = Store.create(store.uri)
    store.upsert("terms", pa.table({"term_id": ["a"]}))
    assert reader.count("terms") == 1
    store.upsert("terms", pa.table({"term_id": ["b"]}))
    assert reader.count("terms") == 2
    assert open_datasets(store.uri)["terms"].count_rows() == 2


def test_compacting_keeps_every_row(store):
    for i in range(12):
        store.replace_cells(cells([str(i)], picture=f"p{i}"), [f"p{i}"], recipe=RECIPE)
    store.compact("cells")
    assert store.count("cells") == 12


def test_metadata_is_json():
    stored = table_schema("cells", dims={"embedding": 2}, metadata={"recipes": {}}).metadata[schema.METADATA_KEY]
    assert json.loads(stored) == {"schema_version": 1, "recipes": {}}


@pytest.mark.parametrize("uri", ["x://bad", "{file}/below", "{tmp}/" + "a" * 300])
def test_addresses_that_cannot_be_are_refused(tmp_path, uri):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInput):
        Store.create(uri.format(file=tmp_path / "file", tmp=tmp_path))


def test_a_damaged_table_is_a_known_problem(store):
    store.upsert("terms", pa.table({"term_id": ["a"]}))
    for file in Path(store.uri).glob("terms.lance/data/*"):
        file.unlink()
    with pytest.raises(AtlasError, match="cannot be"):
        store.read("terms")
    (Path(store.uri) / "cells.lance").mkdir()
    with pytest.raises(AtlasError, match="cells"):
        store.count("cells")


def test_compacting_joins_files_and_forgets_versions_and_a_reader_reads_on(tmp_path):
    uri = str(tmp_path / "atlas")
    store = Store.create(uri)
    for number in range(5):
        store.upsert("terms", pa.table({"term_id": [f"T{number}"], "name": [f"name {number}"]}))
    reader = iter(store.batches("terms", ["term_id"], size=1))
    first = next(reader)
    command = ["compact", "--atlas", uri, "--json"]
    kept = json.loads(CliRunner().invoke(main, command).stdout)
    assert kept["before"]["terms"]["fragments"] == 5
    assert kept["after"]["terms"]["fragments"] == 1
    assert kept["after"]["terms"]["versions"] >= kept["before"]["terms"]["versions"]
    forgotten = json.loads(CliRunner().invoke(main, [*command, "--keep", "0"]).stdout)
    assert forgotten["after"]["terms"]["versions"] < forgotten["before"]["terms"]["versions"]
    assert first.num_rows == 1
    assert sorted(store.read("terms")["term_id"].to_pylist()) == [f"T{i}" for i in range(5)]
    said = CliRunner().invoke(main, command[:-1])
    assert (said.exit_code, "1 to 1" in said.stdout) == (0, True)


def test_batches_can_be_of_the_rows_that_meet_a_condition(store):
    store.append_cells(cells(["a", "b"], picture="p"), recipe=RECIPE)
    store.append_cells(cells(["c"], picture="q"), recipe=RECIPE)
    found = [batch.to_pydict() for batch in store.batches("cells", ["cell_id"], where="gene_symbol = 'Q'")]
    assert [row for batch in found for row in batch["cell_id"]] == ["c"]
    with pytest.raises(BadInput, match="cannot be used"):
        list(store.batches("cells", ["cell_id"], where="gen = 'Q'"))
