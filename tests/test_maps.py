"""The maps of an atlas: how they are made, kept and asked."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from planted import nested

from ingest.embeddings import ingest_embeddings
from subcell_atlas import open_atlas
from subcell_atlas.build import MapSettings, build
from subcell_atlas.errors import BadInput, NotBuilt, UnknownName
from subcell_atlas.export import ExportOptions, export
from subcell_atlas.map_query import compare_with, comparison_record, draw_map, map_summary, named_map, news, terms_of
from subcell_atlas.maps import known_maps, map_of
from subcell_atlas.query import map_graph, paths_of
from subcell_atlas.store import Store

N_LARGE, N_SMALL, SIZE = 4, 3, 24
LOST, FOUND = "P3", "P40"  # a protein said to be elsewhere, and one nothing is said of


@pytest.fixture(scope="module")
def planted_uri(tmp_path_factory) -> str:
    """288 proteins of ready-made vectors in planted groups, with terms for both levels, and a map."""
    folder = tmp_path_factory.mktemp("planted")
    rng = np.random.default_rng(3)
    vectors, large, small = nested(rng, n_large=N_LARGE, n_small=N_SMALL, size=SIZE, noise=0.2)
    ids = [f"P{row}" for row in range(len(vectors))]
    np.savez(folder / "vectors.npz", embedding=vectors, gene_symbol=np.array(ids))
    store = Store.create(str(folder / "atlas"))
    ingest_embeddings(store, folder / "vectors.npz", modality="image", level="protein", encoder="planted")
    said = [(protein, f"L{g}") for protein, g in zip(ids, large, strict=True) if protein not in (LOST, FOUND)]
    said += [(protein, f"M{g}") for protein, g in zip(ids, small, strict=True) if protein not in (LOST, FOUND)]
    said += [(LOST, "L3"), (LOST, "M11")]
    rows = {"protein_id": [p for p, _ in said], "term_id": [t for _, t in said], "source": ["test"] * len(said)}
    store.upsert("annotations", pa.table(rows))
    terms = sorted({term for _, term in said})
    store.upsert(
        "terms",
        pa.table(
            {"term_id": terms, "name": [f"place {t}" for t in terms], "aspect": ["cellular_component"] * len(terms)}
        ),
    )
    build(store, seed=0)
    return store.uri


@pytest.fixture
def store(planted_uri) -> Store:
    return Store.open(planted_uri)


def test_planted_groups_are_the_systems_and_carry_their_terms(store):
    graph = map_graph(store)
    names = {node["term_name"] for _, node in graph.nodes(data=True)}
    assert {f"place L{g}" for g in range(N_LARGE)} <= names
    assert {f"place M{g}" for g in range(N_LARGE * N_SMALL)} <= names
    for system, node in graph.nodes(data=True):
        assert node["map"] == "main"
        if system != "S0":
            assert 0.5 < node["stability"] <= 1
            assert node["null_p_adjusted"] <= 0.05
    (summary,) = map_summary(store)
    assert summary["counts"]["systems"] == len(graph)
    assert summary["counts"]["proteins"] == N_LARGE * N_SMALL * SIZE


def test_a_systems_terms_say_which_proteins_made_them_so(store):
    graph = map_graph(store)
    system = next(s for s, node in graph.nodes(data=True) if node["term_id"] == "M1")
    first = terms_of(store, system).to_pylist()[0]
    assert first["is_name"]
    assert (first["term_id"], first["source"], first["n_term"], first["n_background"]) == ("M1", "test", 23, 287)
    assert set(first["proteins"]) == {f"P{row}" for row in range(24, 48)} - {FOUND}


def test_proteins_where_nothing_known_puts_them_are_news(store):
    found = {row["protein_id"]: row for row in news(store).to_pylist()}
    assert set(found) == {LOST, FOUND}
    assert (found[LOST]["kind"], found[LOST]["term_name"]) == ("unexpected", "place M0")
    assert (found[FOUND]["kind"], found[FOUND]["term_name"]) == ("unannotated", "place M1")
    assert [row["protein_id"] for row in news(store, system=found[LOST]["system_id"]).to_pylist()] == [LOST]
    with pytest.raises(UnknownName, match="system 'S99'"):
        news(store, system="S99")


def test_a_protein_that_is_in_the_map_has_a_way_from_the_root(store):
    symbol, paths = paths_of(store, "P20")
    assert symbol == "P20"
    assert all(path[0] == "S0" and "P20" in named_map(store).members[path[-1]] for path in paths)


def test_a_second_map_stands_beside_the_first_and_is_kept_up_to_date(planted_uri, tmp_path):
    import shutil

    shutil.copytree(planted_uri, tmp_path / "copy")
    store = Store.open(str(tmp_path / "copy"))
    before = store.read("systems").to_pylist()
    settings = MapSettings(name="tree", method="average", tested=False)
    assert build(store, ["map"], map_settings=settings) == ["map tree"]
    rows = store.read("systems").to_pylist()
    assert [row for row in rows if row["map"] == "main"] == before
    assert {map_of(row["system_id"]) for row in rows} == {"main", "tree"}
    assert set(map_graph(store, "tree")) == {row["system_id"] for row in rows if row["map"] == "tree"}
    assert all(node["stability"] is None for _, node in map_graph(store, "tree").nodes(data=True))
    assert build(store) == []
    store.upsert("annotations", pa.table({"protein_id": ["x"], "term_id": ["y"], "source": ["z"]}))
    assert build(store) == ["map", "map tree", "functions"]
    assert known_maps(store)["tree"]["settings"]["method"] == "average"
    record = comparison_record(*compare_with(store, "tree"))
    assert record["n_common"] == N_LARGE * N_SMALL * SIZE
    assert record["here"]["share_shared"] > 0.9
    assert record["here"]["expected_shared"] < 0.2
    with pytest.raises(BadInput, match="no map of this atlas"):
        compare_with(store, "moon")
    export(store, tmp_path / "tree.nwk", kind="newick", options=ExportOptions(map_name="tree"))
    tree = (tmp_path / "tree.nwk").read_text()
    assert tree.endswith(";\n")
    assert tree.count("P") >= N_LARGE * N_SMALL * SIZE


def test_proteins_whose_vectors_cannot_be_used_are_counted_and_listed(planted_uri, tmp_path):
    store = Store.create(str(tmp_path / "atlas"))
    vectors = np.random.default_rng(0).normal(size=(30, 4))
    vectors[[3, 8]] = 0
    np.savez(tmp_path / "v.npz", embedding=vectors, gene_symbol=np.array([f"P{i}" for i in range(30)]))
    ingest_embeddings(store, tmp_path / "v.npz", modality="image", level="protein", encoder="x")
    build(store)
    (summary,) = map_summary(store)
    left_out = summary["left_out"]
    assert summary["counts"]["proteins"] + len(left_out) == store.count("proteins", "image IS NOT NULL")
    assert set(left_out) <= {"P3", "P8"}


def test_settings_that_do_not_go_together_are_refused(store):
    for settings, match in (
        (MapSettings(method="louvain"), "method 'louvain'"),
        (MapSettings(vectors="sound"), "vectors 'sound'"),
        (MapSettings(name="a b"), "no name for a map"),
        (MapSettings(name=""), "no name for a map"),
        (MapSettings(name="S1"), "which is a system"),
        (MapSettings(cell_line="U-2 OS", vectors="sequence"), "about pictures"),
        (MapSettings(weights="shared", method="average"), "for the method multiresolution"),
        (MapSettings(layout="circle"), "layout 'circle'"),
    ):
        with pytest.raises((BadInput, UnknownName), match=match):
            build(store, ["map"], map_settings=settings)
    with pytest.raises(NotBuilt, match="no sequence vectors"):
        build(store, ["map"], map_settings=MapSettings(name="s", vectors="sequence"))
    with pytest.raises(UnknownName, match="map 'moon'"):
        map_graph(store, "moon")


def test_a_cell_line_has_a_map_of_its_own_and_draws_its_cells(demo_atlas, tmp_path):
    import shutil

    shutil.copytree(demo_atlas, tmp_path / "copy")
    store = Store.open(str(tmp_path / "copy"))
    lines = store.read("profiles", ["cell_line", "protein_id"]).to_pylist()
    line = lines[0]["cell_line"]
    build(store, ["map"], map_settings=MapSettings(name="line", cell_line=line))
    assert known_maps(store)["line"]["counts"]["proteins"] == len(
        {r["protein_id"] for r in lines if r["cell_line"] == line}
    )
    with pytest.raises(UnknownName, match="cell line"):
        build(store, ["map"], map_settings=MapSettings(name="line", cell_line="HeLa S9"))


def places_of(store):
    rows = store.read("proteins", ["protein_id", "x", "y"]).to_pylist()
    return {row["protein_id"]: (row["x"], row["y"]) for row in rows}


def test_kept_places_stay_and_new_proteins_stand_among_them(planted_uri, tmp_path):
    import shutil

    shutil.copytree(planted_uri, tmp_path / "copy")
    store = Store.open(str(tmp_path / "copy"))
    old = places_of(store)
    vector = np.asarray(store.read("proteins", ["image"], where="protein_id = 'P20'")["image"][0].as_py())
    np.savez(tmp_path / "new.npz", embedding=vector[None] + 1e-3, gene_symbol=np.array(["NEW"]))
    ingest_embeddings(store, tmp_path / "new.npz", modality="image", level="protein", encoder="planted")
    build(store, ["map"], map_settings=MapSettings(layout="keep"))
    places = places_of(store)
    assert {protein: places[protein] for protein in old} == old
    apart = np.ptp(np.array(list(old.values())), axis=0).max()
    assert np.hypot(*np.subtract(places["NEW"], old["P20"])) < 0.1 * apart


def test_the_map_goes_out_as_hcx_with_its_interactome_and_comes_back(store, tmp_path):
    pytest.importorskip("ndex2")
    from subcell_atlas.cellmap.read_maps import read_map

    export(store, tmp_path / "net.cx2", kind="cx2")
    export(store, tmp_path / "map.cx2", kind="hcx", options=ExportOptions(interactome="net.cx2"))
    back, mine = read_map(tmp_path / "map.cx2"), named_map(store)
    assert {frozenset(held) for held in back.members.values()} == {frozenset(held) for held in mine.members.values()}
    network = json.loads((tmp_path / "net.cx2").read_text())
    nodes = next(part["nodes"] for part in network if "nodes" in part)
    assert len(nodes) == N_LARGE * N_SMALL * SIZE
    record = comparison_record(*compare_with(store, str(tmp_path / "map.cx2")))
    assert record["here"]["share_shared"] == 1
    export(store, tmp_path / "map", kind="hidef")
    assert {path.name for path in tmp_path.glob("map.*")} == {"map.cx2", "map.nodes", "map.edges"}
    assert comparison_record(*compare_with(store, str(tmp_path / "map.nodes")))["here"]["share_shared"] == 1


@pytest.mark.parametrize("style", ["circles", "icicle"])
def test_the_map_is_drawn_with_its_names(store, tmp_path, style):
    pytest.importorskip("matplotlib")
    from subcell_atlas.cellmap.figures import write_figure

    write_figure(tmp_path / "map.svg", draw_map(store, style=style))
    assert "place L1" in (tmp_path / "map.svg").read_text()
    with pytest.raises(UnknownName, match="style 'pie'"):
        draw_map(store, style="pie")


def test_python_offers_the_same(planted_uri):
    with open_atlas(planted_uri) as atlas:
        assert set(atlas.discoveries()["protein_id"].to_pylist()) == {LOST, FOUND}
        assert atlas.compare_map(planted_uri)["here"]["share_shared"] == 1
        assert len(atlas.map("main")) == len(atlas.map())
