"""Questions to an atlas, against slow twins."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx
import numpy as np
import pyarrow as pa
import pytest

from subcell_atlas import query
from subcell_atlas.encoders.specs import ENCODERS
from subcell_atlas.errors import BadInput, NotBuilt, RecipeMismatch, UnknownName
from subcell_atlas.profiles import vector_array, vectors_of
from subcell_atlas.recipe import Recipe
from subcell_atlas.store import Store


@pytest.fixture(scope="module")
def store(demo_atlas) -> Store:
    return Store.open(demo_atlas)


def slow_neighbors(store, names, k):
    proteins = store.read("proteins")
    symbols = proteins["gene_symbol"].to_pylist()
    vectors = vectors_of(proteins["image"]).astype(np.float64)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = [symbols.index(name) for name in names]
    similarity = units @ units[rows].mean(0) / np.linalg.norm(units[rows].mean(0))
    order = [i for i in np.argsort(-similarity) if i not in rows][:k]
    return [symbols[i] for i in order], similarity[order]


@pytest.mark.parametrize("names", [["DEMO001"], ["DEMO003", "DEMO010", "DEMO011"]])
def test_neighbors_equal_a_slow_twin(store, names):
    hits = query.similar(store, names, k=7)
    wanted, similarity = slow_neighbors(store, names, 7)
    assert hits["gene_symbol"].to_pylist() == wanted
    assert hits["similarity"].to_numpy() == pytest.approx(similarity, abs=1e-5)
    assert hits["rank"].to_pylist() == list(range(1, 8))
    assert hits.column_names == ["rank", "protein_id", "gene_symbol", "similarity", "localization", "n_cells"]


def test_the_named_are_left_out_and_all_others_can_be_had(store):
    hits = query.similar(store, ["DEMO001"], k=1000)
    assert hits.num_rows == 39
    assert "DEMO001" not in hits["gene_symbol"].to_pylist()


def test_a_condition_filters_before_the_search(store):
    place = query.protein_row(store, "DEMO002")["localization"][0]
    hits = query.similar(store, ["DEMO001"], k=5, where=f"array_has(localization, '{place}')")
    assert 0 < hits.num_rows <= 5
    assert all(place in places for places in hits["localization"].to_pylist())


def test_a_cell_line_compares_what_was_seen_there(store):
    hits = query.similar(store, ["DEMO001"], k=5, cell_line="Demo-B")
    profiles = store.read("profiles", where="cell_line = 'Demo-B'")
    vectors, n_cells = vectors_of(profiles["embedding"]), profiles["n_cells"].to_numpy()
    proteins = np.array(profiles["protein_id"].to_pylist())
    mean = {p: np.average(vectors[proteins == p], axis=0, weights=n_cells[proteins == p]) for p in set(proteins)}
    asked = mean.pop("DEMOG00000000001")
    cosine = {p: v @ asked / np.linalg.norm(v) / np.linalg.norm(asked) for p, v in mean.items()}
    wanted = sorted(cosine, key=lambda p: -cosine[p])[:5]
    assert hits["protein_id"].to_pylist() == wanted
    assert hits["similarity"].to_numpy() == pytest.approx([cosine[p] for p in wanted], abs=1e-5)
    assert hits["n_cells"].to_pylist() == [n_cells[proteins == p].sum() for p in wanted]
    with pytest.raises(UnknownName, match="Demo-B"):
        query.similar(store, ["DEMO001"], cell_line="Demo-X")


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda s: query.similar(s, ["DEM001"]), UnknownName, "DEMO001"),
        (lambda s: query.similar(s, ["DEMO001"], modality="sequence", cell_line="Demo-A"), BadInput, "about pictures"),
        (lambda s: query.similar(s, ["DEMO001"], k=0), BadInput, "k is 0"),
        (lambda s: query.similar(s, ["DEMO001"], where="nonsense > 1"), BadInput, "Columns"),
        (lambda s: query.system_members(s, "S999"), UnknownName, "S999"),
        (lambda s: query.compare(s, "DEMO001", by="condition"), NotBuilt, "none is known"),
        (lambda s: query.compare(s, "DEMO001", by="moon"), UnknownName, "cell_line"),
    ],
)
def test_questions_that_have_no_answer_say_why(store, ask, error, message):
    with pytest.raises(error, match=message):
        ask(store)


def test_a_picture_of_the_atlas_finds_its_own_protein(store, demo_source):
    from subcell_atlas.atlas import open_atlas

    with open_atlas(store.uri) as atlas:
        found = 0
        for protein in range(10):
            picture = demo_source.proteome and demo_source.item(protein * 4).load()
            stack = np.stack(list(picture.channels.values()))
            hits = atlas.similar_to_image(stack, pixel_size_um=picture.pixel_size_um, mask=picture.labels, k=8)
            found += f"DEMO{protein + 1:03d}" in hits["gene_symbol"].to_pylist()
    assert found >= 6


def test_the_vector_of_a_picture_is_centred_like_the_proteins(store, demo_source):
    class Known:
        def recipe(self, *, masking):
            return store.recipe("cells", "embedding")

        def embed(self, crops):
            return np.full((len(crops), ENCODERS["demo"].dim), 7.0, np.float32)

    profiles = store.read("profiles")
    shift = vectors_of(profiles["uncentered"]) - vectors_of(profiles["embedding"])
    center = np.average(shift, axis=0, weights=profiles["n_cells"].to_numpy())
    vector = query.vector_of_cells(store, Known(), np.zeros((2, 4, 8, 8)), cell_line=None)
    assert np.abs(center).max() > 0.1
    assert vector == pytest.approx(7.0 - center, abs=1e-4)


def test_a_picture_with_other_channels_is_refused(store):
    from subcell_atlas.atlas import open_atlas

    with open_atlas(store.uri) as atlas, pytest.raises(BadInput, match="microtubules, er, nucleus, protein"):
        atlas.similar_to_image(np.zeros((3, 64, 64), np.uint8), pixel_size_um=0.2)


def test_embeddings_of_another_recipe_are_never_compared(store):
    class Other:
        def recipe(self, *, masking):
            from dataclasses import replace

            return replace(store.recipe("cells", "embedding"), weights_sha256="other", masking=masking)

    with pytest.raises(RecipeMismatch, match="weights_sha256"):
        query.vector_of_cells(store, Other(), np.zeros((1, 4, 128, 128)), cell_line=None)


def test_compare_gives_each_pair_of_groups_with_its_percentile(store):
    pairs = query.compare(store, "DEMO001", by="cell_line").to_pylist()
    assert [(p["a"], p["b"]) for p in pairs] == [("Demo-A", "Demo-B"), ("Demo-A", "Demo-C"), ("Demo-B", "Demo-C")]
    profiles = store.read("profiles")
    vectors, n_cells = vectors_of(profiles["embedding"]), profiles["n_cells"].to_numpy()
    keys = list(zip(profiles["protein_id"].to_pylist(), profiles["cell_line"].to_pylist(), strict=True))

    def similarity(protein, a, b):
        rows = [[i for i, key in enumerate(keys) if key == (protein, line)] for line in (a, b)]
        one, two = (np.average(vectors[r], axis=0, weights=n_cells[r]) for r in rows)
        return one @ two / np.linalg.norm(one) / np.linalg.norm(two)

    lines = [("Demo-A", "Demo-B"), ("Demo-A", "Demo-C"), ("Demo-B", "Demo-C")]
    everyone = [similarity(p, *pair) for p in dict.fromkeys(key[0] for key in keys) for pair in lines]
    for pair in pairs:
        own = similarity("DEMOG00000000001", pair["a"], pair["b"])
        assert pair["similarity"] == pytest.approx(own, abs=1e-5)
        assert pair["percentile"] == pytest.approx(100 * np.mean(np.array(everyone) < own - 1e-9), abs=0.9)


def test_the_map_is_a_digraph_with_the_columns_of_systems(store):
    graph = query.map_graph(store)
    assert isinstance(graph, nx.DiGraph)
    assert graph.nodes["S0"]["size"] == 40
    assert {"system_id", "level", "term_name", "p_adjusted", "persistence"} <= set(graph.nodes["S0"])
    members = query.system_members(store, "S0")
    assert members.num_rows == 40
    assert "image" not in members.column_names


def test_paths_lead_from_the_root_to_systems_that_hold_the_gene(store):
    symbol, paths = query.paths_of(store, "demo007")
    graph = query.map_graph(store)
    assert symbol == "DEMO007"
    own = store.read("system_members", where="protein_id = 'DEMOG00000000007'")["system_id"].to_pylist()
    assert {path[-1] for path in paths} == {s for s in own if not set(graph.successors(s)) & set(own)}
    for path in paths:
        assert path[0] == "S0"
        assert all(graph.has_edge(a, b) for a, b in pairwise(path))
        assert "DEMO007" in query.system_members(store, path[-1])["gene_symbol"].to_pylist()


def test_thumbnails_are_of_each_cell_line_in_turn_and_in_the_order_asked(store):
    proteins = [query.protein_row(store, name)["protein_id"] for name in ("DEMO004", "DEMO001")]
    cells = query.thumbnails(store, proteins, n=3)
    assert cells["protein_id"].to_pylist() == [proteins[0]] * 3 + [proteins[1]] * 3
    assert cells["cell_line"].to_pylist() == ["Demo-A", "Demo-B", "Demo-C"] * 2
    assert query.thumbnails(store, proteins, cell_line="Demo-B")["cell_line"].unique().to_pylist() == ["Demo-B"]
    assert query.thumbnails(store, ["nobody"]).num_rows == 0


def test_who_is_least_like_the_others_has_the_lowest_cohesion(tmp_path):
    store = Store.create(str(tmp_path / "atlas"))
    vectors = np.array([[1, 0.1, 0], [1, 0, 0.1], [1, 0.1, 0.1], [0, 0, 9]], np.float32)
    ids = ["a", "b", "c", "d"]
    store.write("proteins", pa.table({"protein_id": ids, "gene_symbol": ids, "image": vector_array(vectors)}))
    found = query.cohesion(store, ids, modality="image", cell_line=None)
    assert np.argmin(found) == 3
    assert min(found[:3]) > 0.7


def test_predicted_places_are_shares_of_cells(tmp_path):
    store = Store.create(str(tmp_path / "atlas"))
    places = [["Cytosol"], ["Cytosol", "Nucleoli"], None, []]
    ids = [f"c{i}" for i in range(4)]
    rows = {"cell_id": ids, "picture_id": ids, "protein_id": ["p"] * 4, "predicted_localization": places}
    vectors = vector_array(np.ones((4, 2)))
    store.append_cells(pa.table({**rows, "embedding": vectors}), recipe=Recipe(encoder="x", dim=2))
    assert query.predicted_places(store, "p").to_pylist() == [
        {"localization": "Cytosol", "share": pytest.approx(2 / 3)},
        {"localization": "Nucleoli", "share": pytest.approx(1 / 3)},
    ]
    assert query.predicted_places(store, "none").num_rows == 0


@pytest.mark.parametrize("modality", ["image", "sequence"])
@pytest.mark.parametrize("where", [None, "n_cells > 3 AND gene_symbol <> 'DEMO004'"])
def test_vectors_in_memory_give_the_answers_of_the_store(store, modality, where):
    held = query.HeldVectors(store, modality)
    asked = {"k": 9, "modality": modality, "where": where}
    mine, theirs = (query.similar(store, ["DEMO001", "DEMO007"], **asked, held=own) for own in (held, None))
    assert mine.drop_columns(["similarity"]) == theirs.drop_columns(["similarity"])
    np.testing.assert_allclose(mine["similarity"], theirs["similarity"], atol=1e-6)
