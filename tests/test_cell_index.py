"""The index of the cells' vectors: what it finds is measured, exact search is brute force, and nothing is lost."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from subcell_atlas import cell_index, open_atlas
from subcell_atlas.build import build
from subcell_atlas.cell_index import (
    build_cell_index,
    exact_neighbors,
    index_record,
    is_fresh,
    needs_index,
    probing_for,
    stored_index,
)
from subcell_atlas.cli import main
from subcell_atlas.errors import BadInput
from subcell_atlas.profiles import vector_array
from subcell_atlas.query import similar_cells
from subcell_atlas.recipe import Recipe
from subcell_atlas.store import Probing, Store

N, DIM = 4000, 32
RECIPE = Recipe(encoder="made up", dim=DIM)


def cells_table(first: int, n: int, seed: int) -> pa.Table:
    random = np.random.default_rng(seed)
    proteins = random.integers(0, 60, n)
    centers = np.random.default_rng(99).standard_normal((60, DIM))
    vectors = centers[proteins] + 0.5 * random.standard_normal((n, DIM))
    ids = [hashlib.md5(str(first + i).encode()).hexdigest() for i in range(n)]
    columns = {"cell_id": ids, "picture_id": ids, "protein_id": [f"P{i}" for i in proteins], "fingerprint": ids}
    lines = ["rare" if i % 100 == 0 else f"L{i % 3}" for i in range(n)]
    return pa.table(
        {**columns, "gene_symbol": columns["protein_id"], "cell_line": lines, "embedding": vector_array(vectors)}
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> str:
    uri = str(tmp_path_factory.mktemp("index") / "atlas")
    store = Store.create(uri)
    store.append_cells(cells_table(0, N, 1), recipe=RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cell_index, "EXACT_NUMBERS", 1000)
        patch.setattr(cell_index, "ROWS_A_PARTITION", 100)
        assert build(store) == ["index", "profiles"] or build(store) == []
    return uri


@pytest.fixture
def store(made, monkeypatch) -> Store:
    monkeypatch.setattr(cell_index, "EXACT_NUMBERS", 1000)
    return Store.open(made)


def brute(store: Store, vector: np.ndarray, *, k: int, where=None) -> list[str]:
    rows = store.read("cells", ["cell_id", "embedding"], where=where)
    vectors = np.array(rows["embedding"].to_pylist())
    similarity = vectors @ vector / np.linalg.norm(vectors, axis=1)
    return [rows["cell_id"][int(i)].as_py() for i in np.argsort(-similarity)[:k]]


def a_vector(seed: int) -> np.ndarray:
    return np.array(cells_table(0, 50, seed)["embedding"][seed].as_py(), np.float32)


def test_the_exact_neighbors_of_batches_are_those_of_all_at_once(store):
    queries = np.stack([a_vector(i) for i in range(5)])
    for below, where in ((None, None), ("40000000", "cell_id < '40000000'")):
        found = exact_neighbors(store.batches("cells", ("cell_id", "embedding"), size=300), queries, k=10, below=below)
        assert found == [set(brute(store, query, k=10, where=where)) for query in queries]


def test_what_is_stored_says_how_it_is_searched_and_how_much_that_finds(store):
    index = stored_index(store)
    assert (index.rows, index.dim, index.partitions) == (N, DIM, N // 100)
    assert set(index.recall) == {"all", "tenth", "hundredth"}
    assert (index.recall["all"] >= 0.99) == (index.probing["all"] is not None)
    filtered = min(index.recall["tenth"], index.recall["hundredth"])
    assert (filtered >= 0.99) == (index.probing["filtered"] is not None)
    assert index.probing["filtered"].nprobes == index.partitions
    assert index_record(store)["indexed"] == N
    assert is_fresh(store)
    assert build(store, ["index"]) == []


def test_recall_is_what_a_count_of_found_neighbors_gives(store):
    index = stored_index(store)
    queries = [a_vector(i) for i in range(20)]
    found = [similar_cells(store, q)["cell_id"].to_pylist() for q in queries]
    truth = [brute(store, q, k=10) for q in queries]
    share = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)])
    assert share >= min(index.recall["all"], 0.99) - 0.03


@pytest.mark.parametrize(
    "where", [None, "cell_line = 'L1'", "cell_line = 'rare'", "protein_id IN ('P1', 'P2')", "cell_id < '08'"]
)
def test_exact_search_is_brute_force_and_filters_never_lose(store, where):
    n_found = 0
    for seed in range(12):
        query = a_vector(seed)
        exact = similar_cells(store, query, where=where, exact=True)["cell_id"].to_pylist()
        assert exact == brute(store, query, k=10, where=where)
        found = similar_cells(store, query, where=where)
        assert found.num_rows == len(exact)
        n_found += len(set(found["cell_id"].to_pylist()) & set(exact))
        assert (np.diff(found["similarity"].to_numpy()) <= 1e-6).all()
    assert n_found >= 0.93 * 12 * len(exact)  # 32 numbers in a bit each; hundreds are told apart far better


def test_few_matching_cells_are_compared_all_and_many_through_the_index(store, monkeypatch):
    monkeypatch.setattr(cell_index, "EXACT_NUMBERS", 4000)
    index = stored_index(store)
    assert probing_for(store, None) == index.probing["all"]
    assert probing_for(store, "cell_line = 'L1'") == index.probing["filtered"]
    assert probing_for(store, "cell_id < '001'") is None
    assert similar_cells(store, a_vector(0), where="cell_id < '0'").num_rows == 0


def test_more_than_there_are_gives_all_of_them(store):
    assert similar_cells(store, a_vector(1), k=N + 50, where="cell_line = 'rare'").num_rows == store.count(
        "cells", "cell_line = 'rare'"
    )


def test_few_cells_have_no_index_and_are_compared(tmp_path):
    store = Store.create(str(tmp_path / "atlas"))
    store.append_cells(cells_table(0, 300, 1), recipe=RECIPE)
    assert not needs_index(store)
    assert build(store, ["index"]) == []
    assert index_record(store) is None
    assert similar_cells(store, a_vector(2))["cell_id"].to_pylist() == brute(store, a_vector(2), k=10)


def test_where_no_effort_finds_enough_all_are_compared_and_that_is_said(tmp_path, monkeypatch):
    store = Store.create(str(tmp_path / "atlas"))
    random = np.random.default_rng(0)
    table = cells_table(0, 1000, 1).drop_columns(["embedding"])
    store.append_cells(
        table.append_column("embedding", vector_array(random.standard_normal((1000, DIM)))), recipe=RECIPE
    )
    found = build_cell_index(store, 0, ladder=[Probing(1, 1)])
    assert found["recall"]["all"] < 0.99
    assert found["probing"]["all"] is None


def test_cells_that_come_go_and_change_after_the_index_are_found_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(cell_index, "EXACT_NUMBERS", 1000)
    monkeypatch.setattr(cell_index, "ROWS_A_PARTITION", 100)
    store = Store.create(str(tmp_path / "atlas"))
    store.append_cells(cells_table(0, 2000, 1), recipe=RECIPE)
    build(store)
    more = cells_table(2000, 150, 2)
    store.append_cells(more, recipe=RECIPE)
    query = np.array(more["embedding"][7].as_py(), np.float32)
    assert similar_cells(store, query)["cell_id"][0].as_py() == more["cell_id"][7].as_py()
    assert is_fresh(store)  # 150 of 2150 are not in the index
    changed = more.slice(7, 1).set_column(more.column_names.index("embedding"), "embedding", vector_array(-query[None]))
    store.replace_cells(changed, changed["picture_id"].to_pylist(), recipe=RECIPE)
    assert store.count("cells") == 2150
    assert similar_cells(store, query)["cell_id"][0].as_py() != more["cell_id"][7].as_py()
    assert similar_cells(store, -query)["cell_id"][0].as_py() == more["cell_id"][7].as_py()
    gone = more["cell_id"][3].as_py()
    store.delete("cells", f"cell_id = '{gone}'")
    near = np.array(more["embedding"][3].as_py(), np.float32)
    assert gone not in similar_cells(store, near, k=50)["cell_id"].to_pylist()
    store.compact("cells")
    assert similar_cells(store, -query)["cell_id"][0].as_py() == more["cell_id"][7].as_py()
    store.append_cells(cells_table(3000, 900, 3), recipe=RECIPE)
    assert not is_fresh(store)
    assert build(store)[0] == "index"
    assert is_fresh(store)
    assert store.count("cells") == len(set(store.read("cells", ["cell_id"])["cell_id"].to_pylist())) == 3049


def test_a_cell_is_asked_for_by_its_id_and_is_not_its_own_neighbor(made):
    with open_atlas(made) as atlas:
        cell = atlas.cells(where="protein_id = 'P3'", columns=["cell_id"])["cell_id"][0].as_py()
        hits = atlas.similar_cells(cell, k=5)
        assert hits["rank"].to_pylist() == [1, 2, 3, 4, 5]
        assert cell not in hits["cell_id"].to_pylist()
        assert hits["protein_id"].to_pylist().count("P3") >= 4
        assert atlas.info()["index"]["rows"] == N


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nobody", "--cells"], 1, "There is no cell 'nobody'"),
        (["a", "b", "--cells"], 2, "one cell_id, or a picture"),
        (["P1", "--exact"], 2, "--exact is for --cells"),
        (["--cells"], 2, "one cell_id, or a picture"),
        (["ID", "--cells", "--where", "nothing = 1"], 1, "cannot be used"),
        (["ID", "--cells", "--where", "1=1) OR (1=1"], 1, "closes a bracket"),
    ],
)
def test_wrong_questions_about_cells_are_answered_in_a_line_or_two(made, arguments, code, said):
    cell = Store.open(made).read("cells", ["cell_id"], limit=1)["cell_id"][0].as_py()
    result = CliRunner().invoke(main, ["similar", *[cell if a == "ID" else a for a in arguments], "--atlas", made])
    assert result.exit_code == code
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_info_says_how_much_the_index_finds(made):
    said = CliRunner().invoke(main, ["info", "--atlas", made]).stdout
    assert "4,000 cells are indexed. Recall of the ten nearest" in said
    assert json.loads(CliRunner().invoke(main, ["info", "--json", "--atlas", made]).stdout)["index"]["rows"] == N


def test_the_command_prints_cells_as_json(made):
    cell = Store.open(made).read("cells", ["cell_id"], limit=1)["cell_id"][0].as_py()
    for exact in ([], ["--exact"]):
        result = CliRunner().invoke(main, ["similar", cell, "--cells", "-k", "3", "--json", "--atlas", made, *exact])
        found = json.loads(result.stdout)
        assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3]
        assert found["query"]["cell_id"] == cell


def test_a_question_about_nothing_is_refused(store):
    with pytest.raises(BadInput, match="k is 0"):
        similar_cells(store, a_vector(0), k=0)
