"""Maps for other programs, and maps from them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from ndex2.cx2 import RawCX2NetworkFactory
from scipy import sparse

from subcell_atlas._version import __version__
from subcell_atlas.cellmap.cx2 import declared_type, plain
from subcell_atlas.cellmap.exchange import (
    NamedMap,
    newick_name,
    write_hcx,
    write_hidef,
    write_interactome,
    write_newick,
)
from subcell_atlas.cellmap.named import one_root
from subcell_atlas.cellmap.read_maps import read_map
from subcell_atlas.errors import BadInput, MissingExtra

UUID = "1366ba85-9acc-11ef-9702-005056ae6f73"
PROTEINS = [
    {
        "protein_id": f"P{row}",
        "gene_symbol": f"GENE{row}" if row else None,
        "localization": ["Cytosol", "Nucleoplasm"] if row == 1 else [],
        "n_cells": 10 * row,
        "x": float(row),
        "y": float(-row),
        "image": [0.5, 0.5],
    }
    for row in range(8)
]
MEMBERS = {
    "S0": [f"P{row}" for row in range(8)],
    "S1": ["P0", "P1", "P2", "P3", "P4"],
    "S2": ["P3", "P4", "P5", "P6"],
    "S3": ["P3", "P4"],
}
ABOUT = {"title": "A map", "description": "of eight", "encoder": "demo", "weights": "built in", "seed": 7}


def small_map(*, two_parents=True) -> NamedMap:
    """Make a map of four systems, the last under two others unless told not to."""
    graph = nx.DiGraph()
    for system, names in MEMBERS.items():
        graph.add_node(system, system_id=system, size=len(names), persistence=9, term_name=None, stability=1)
    graph.nodes["S1"].update(term_name="the cell's skin", p_adjusted=0, stability=0.25)
    graph.nodes["S3"].update(p_adjusted=1e-5, stability=float("nan"))
    edges = [("S0", "S1"), ("S0", "S2"), ("S1", "S3"), *([("S2", "S3")] if two_parents else [])]
    graph.add_edges_from((parent, child, {"overlap": 0.75}) for parent, child in edges)
    return NamedMap(graph, dict(MEMBERS), {})


def neighbor_ring() -> sparse.csr_matrix:
    """Link each of the eight proteins to the next."""
    rows = np.arange(8)
    half = sparse.coo_matrix((np.linspace(0.1, 0.8, 8, dtype=np.float32), (rows, (rows + 1) % 8)), shape=(8, 8))
    return (half + half.T).tocsr()


def aspects(path):
    """Return the document in a CX2 file as aspect -> content, and the names of its aspects in order."""
    document = json.loads(path.read_text())
    found = {}
    for aspect in document:
        found.update(aspect)
    return found, [next(iter(aspect)) for aspect in document]


def hcx(path, named=None, **options):
    """Write a map as HCX and return its aspects."""
    write_hcx(path, named or small_map(), PROTEINS, ABOUT, **{"interactome": UUID, "host": None, **options})
    return aspects(path)[0]


def sets(named):
    return {system: set(names) for system, names in named.members.items()}


# Interactome


def test_an_interactome_has_ids_from_one_in_row_order_and_each_edge_once(tmp_path):
    ring = (neighbor_ring() + sparse.identity(8)).tocsr()  # an edge to oneself is none
    write_interactome(tmp_path / "net.cx2", PROTEINS, ring, ABOUT)
    found, _ = aspects(tmp_path / "net.cx2")
    assert [node["id"] for node in found["nodes"]] == list(range(1, 9))
    assert [node["v"]["protein_id"] for node in found["nodes"]] == [f"P{row}" for row in range(8)]
    edges = {(edge["s"], edge["t"]): edge["v"]["weight"] for edge in found["edges"]}
    assert len(found["edges"]) == len(edges) == 8
    assert edges[1, 2] == 0.1  # not 0.10000000149, as its float32 would print
    assert edges[1, 8] == 0.8


def test_proteins_are_named_by_symbol_and_keep_their_columns_but_no_vectors(tmp_path):
    write_interactome(tmp_path / "net.cx2", PROTEINS, neighbor_ring(), ABOUT)
    found, _ = aspects(tmp_path / "net.cx2")
    nodes = {node["id"]: node["v"] for node in found["nodes"]}
    assert nodes[1]["name"] == "P0"
    assert "gene_symbol" not in nodes[1]
    assert nodes[2] == {
        "name": "GENE1",
        "protein_id": "P1",
        "gene_symbol": "GENE1",
        "localization": ["Cytosol", "Nucleoplasm"],
        "n_cells": 10,
    }
    declared = found["attributeDeclarations"][0]
    assert declared["nodes"]["localization"] == {"d": "list_of_string"}
    assert declared["nodes"]["n_cells"] == {"d": "integer"}
    assert declared["edges"]["weight"] == {"d": "double"}


def test_proteins_are_drawn_where_they_lie_with_room_between_them_and_up_is_up(tmp_path):
    write_interactome(tmp_path / "net.cx2", [*PROTEINS[:7], {"protein_id": "P7"}], neighbor_ring(), ABOUT)
    nodes = aspects(tmp_path / "net.cx2")[0]["nodes"]
    xs, ys = ([node[axis] for node in nodes[:7]] for axis in "xy")
    assert np.allclose(np.diff(xs), np.diff(xs)[0])
    assert max(xs) - min(xs) > 7 * 20 / 2
    assert np.allclose(xs, ys)  # y of the table is -x, and CX2's y goes down
    assert "x" not in nodes[7]


def test_localizations_are_declared_as_lists_even_if_all_are_empty(tmp_path):
    rows = [{"protein_id": "P0", "localization": []}, {"protein_id": "P1", "localization": None}]
    write_interactome(tmp_path / "net.cx2", rows, sparse.csr_matrix((2, 2)), {})
    found, _ = aspects(tmp_path / "net.cx2")
    assert found["attributeDeclarations"][0]["nodes"]["localization"] == {"d": "list_of_string"}
    assert found["edges"] == []


# HCX


def test_a_document_starts_with_its_version_and_ends_with_its_status(tmp_path):
    hcx(tmp_path / "map.cx2")
    found, names = aspects(tmp_path / "map.cx2")
    assert found["CXVersion"] == "2.0"
    assert names[:2] == ["CXVersion", "metaData"]
    assert names[-1] == "status"
    assert found["status"] == [{"error": "", "success": True}]
    counts = {entry["name"]: entry["elementCount"] for entry in found["metaData"]}
    assert counts == {name: len(found[name]) for name in names[2:-1]}
    assert not list(tmp_path.glob(".*"))  # nothing half written is left


def test_a_hierarchy_has_one_root_ids_from_one_and_members_by_row(tmp_path):
    found = hcx(tmp_path / "map.cx2")
    nodes = found["nodes"]
    assert [node["id"] for node in nodes] == [1, 2, 3, 4]
    assert [node["v"]["HCX::isRoot"] for node in nodes] == [True, False, False, False]
    assert nodes[3]["v"]["HCX::members"] == [4, 5]
    assert {(edge["s"], edge["t"]) for edge in found["edges"]} == {(1, 2), (1, 3), (2, 4), (3, 4)}
    assert {edge["v"]["interaction"] for edge in found["edges"]} == {"contains"}


def test_systems_carry_what_viewers_of_cell_maps_know(tmp_path):
    skin, second = (node["v"] for node in hcx(tmp_path / "map.cx2")["nodes"][1:3])
    assert skin["CD_CommunityName"] == skin["name"] == "the cell's skin"
    assert second["CD_CommunityName"] == "S2"
    assert skin["CD_MemberList"] == "P0 GENE1 GENE2 GENE3 GENE4"
    assert skin["CD_MemberList_Size"] == 5
    assert second["CD_MemberList_LogSize"] == 2.0
    assert skin["HiDeF_persistence"] == 9
    assert skin["system_id"] == skin["represents"] == "S1"


def test_a_symbol_with_a_blank_stays_one_name_in_the_list_of_members(tmp_path):
    named = NamedMap(small_map().graph, {**MEMBERS, "S3": ["P3", "P4"]}, {})
    proteins = [{**p, "gene_symbol": "HLA A"} if p["protein_id"] == "P3" else p for p in PROTEINS]
    write_hcx(tmp_path / "map.cx2", named, proteins, {}, interactome=UUID, host=None)
    assert aspects(tmp_path / "map.cx2")[0]["nodes"][3]["v"]["CD_MemberList"] == "HLA_A GENE4"


def test_types_are_declared_by_all_values_not_by_the_first(tmp_path):
    found = hcx(tmp_path / "map.cx2")
    declared = {name: kind["d"] for name, kind in found["attributeDeclarations"][0]["nodes"].items()}
    assert declared["HCX::members"] == "list_of_integer"
    assert declared["HCX::isRoot"] == declared["CD_Labeled"] == "boolean"
    assert declared["CD_MemberList"] == declared["system_id"] == "string"
    assert declared["CD_MemberList_Size"] == declared["HiDeF_persistence"] == "integer"
    assert declared["CD_MemberList_LogSize"] == "double"
    assert declared["p_adjusted"] == declared["stability"] == "double"  # their first values are 0 and 1
    network = {name: kind["d"] for name, kind in found["attributeDeclarations"][0]["networkAttributes"].items()}
    assert network["HCX::modelFileCount"] == network["seed"] == "integer"


def test_what_is_unknown_is_left_out(tmp_path):
    root, *_, last = (node["v"] for node in hcx(tmp_path / "map.cx2")["nodes"])
    assert "term_name" not in root
    assert "p_adjusted" not in root
    assert "stability" not in last  # it is not a number
    assert last["p_adjusted"] == 1e-5


@pytest.mark.parametrize(
    ("interactome", "host", "wanted"),
    [
        (UUID, None, {"HCX::modelFileCount": 2, "HCX::interactionNetworkUUID": UUID}),
        (
            UUID,
            "https://www.ndexbio.org/",
            {
                "HCX::modelFileCount": 2,
                "HCX::interactionNetworkUUID": UUID,
                "HCX::interactionNetworkHost": "www.ndexbio.org",
            },
        ),
        ("some/folder/net.cx2", None, {"HCX::modelFileCount": 2, "HCX::interactionNetworkName": "net.cx2"}),
        ("https://a.org/n.cx2", None, {"HCX::modelFileCount": 2, "HCX::interactionNetworkURL": "https://a.org/n.cx2"}),
        (None, None, {"HCX::modelFileCount": 1}),
    ],
)
def test_a_hierarchy_says_where_its_interactome_is(tmp_path, interactome, host, wanted):
    attributes = hcx(tmp_path / "map.cx2", interactome=interactome, host=host)["networkAttributes"][0]
    assert {name: value for name, value in attributes.items() if name.startswith("HCX::")} == wanted
    assert attributes["ndexSchema"] == "hierarchy_v0.1"


@pytest.mark.parametrize("interactome", ["", "not a uuid", "net.csv", "/dev/null", ".cx2"])
def test_an_interactome_that_can_be_none_is_refused(tmp_path, interactome):
    with pytest.raises(BadInput, match="is no network"):
        hcx(tmp_path / "map.cx2", interactome=interactome)


def test_the_network_says_what_made_it_and_from_what(tmp_path):
    attributes = hcx(tmp_path / "map.cx2")["networkAttributes"][0]
    assert attributes["name"] == "A map"
    assert attributes["description"] == "of eight"
    assert attributes["prov:wasGeneratedBy"] == f"subcell-atlas {__version__}"
    assert attributes["prov:wasDerivedFrom"] == "encoder demo, weights built in"
    assert attributes["seed"] == 7


def test_the_style_sizes_by_members_labels_by_name_and_names_attributes_that_exist(tmp_path):
    found = hcx(tmp_path / "map.cx2")
    mapping = found["visualProperties"][0]["nodeMapping"]
    assert mapping["NODE_WIDTH"]["definition"]["attribute"] == "CD_MemberList_LogSize"
    assert mapping["NODE_LABEL"]["definition"]["attribute"] == "CD_CommunityName"
    declared = found["attributeDeclarations"][0]["nodes"]
    for entry in mapping.values():
        assert declared[entry["definition"]["attribute"]]["d"] == entry["definition"]["type"]


def test_systems_are_drawn_below_their_parents_and_none_on_another(tmp_path):
    found = hcx(tmp_path / "map.cx2")
    places = {node["id"]: (node["x"], node["y"]) for node in found["nodes"]}
    assert len(set(places.values())) == 4
    assert all(places[edge["s"]][1] < places[edge["t"]][1] for edge in found["edges"])
    assert places[1][0] == pytest.approx((places[2][0] + places[3][0]) / 2)


def test_a_map_of_several_roots_is_written_with_one_above_them(tmp_path):
    graph = nx.DiGraph()
    graph.add_nodes_from(["root", "B"])
    found = hcx(tmp_path / "map.cx2", NamedMap(graph, {"root": ["P1"], "B": ["P1", "P2"]}, {}))
    nodes = {node["v"]["system_id"]: node["v"] for node in found["nodes"]}
    assert [system for system, node in nodes.items() if node["HCX::isRoot"]] == ["root_"]
    assert nodes["root_"]["HCX::members"] == [2, 3]
    assert len(found["edges"]) == 2


def test_a_map_of_one_root_stays_as_it_is():
    named = small_map()
    assert one_root(named) is named


def test_a_protein_that_is_not_in_the_interactome_is_refused(tmp_path):
    named = NamedMap(small_map().graph, {**MEMBERS, "S3": ["P3", "TOMM20"]}, {})
    with pytest.raises(BadInput, match=r"'S3' holds 'TOMM20', which is none of the 8 proteins"):
        hcx(tmp_path / "map.cx2", named)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(BadInput, match="cannot be written"):
        hcx(tmp_path / "nowhere" / "map.cx2")


def test_ndex2_reads_what_was_written_as_it_was(tmp_path):
    hcx(tmp_path / "map.cx2")
    network = RawCX2NetworkFactory().get_cx2network(str(tmp_path / "map.cx2"))
    assert network.get_name() == "A map"
    assert len(network.get_edges()) == 4
    assert network.get_node(4)["v"]["HCX::members"] == [4, 5]
    assert network.get_node(2)["v"]["stability"] == 0.25
    assert network.to_cx2() == json.loads((tmp_path / "map.cx2").read_text())


def test_without_ndex2_the_extra_to_install_is_named(tmp_path, monkeypatch):
    hcx(tmp_path / "map.cx2")
    monkeypatch.setitem(sys.modules, "ndex2.cx2", None)
    for question in (lambda: hcx(tmp_path / "again.cx2"), lambda: read_map(tmp_path / "map.cx2")):
        with pytest.raises(MissingExtra, match=r"subcell-atlas\[ndex\]"):
            question()


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([True, None], "boolean"),
        ([1, 2**31 - 1], "integer"),
        ([1, 2**31], "long"),
        ([0, 0.5], "double"),
        ([1, "a"], "string"),
        ([True, 1], "string"),
        ([[], [1]], "list_of_integer"),
        ([[0], [0.5]], "list_of_double"),
        ([[], []], "list_of_string"),
        ([["a"], "a"], "string"),
        ([], "string"),
    ],
)
def test_the_declared_type_holds_all_values(values, wanted):
    assert declared_type(values) == wanted


def test_values_become_what_json_and_cx2_can_hold(tmp_path):
    assert plain(np.float64("nan")) is None
    assert plain(float("inf")) is None
    assert plain(np.int64(3)) == 3
    assert type(plain(np.bool_(True))) is bool
    assert plain(np.array([1.5, np.nan])) == [1.5]
    assert plain([["a", 1], "b"]) == ["['a', 1]", "b"]
    assert plain({"k": tmp_path}) == json.dumps({"k": str(tmp_path)})


# There and back


@pytest.mark.parametrize("interactome", ["net.cx2", UUID, None])
def test_a_map_comes_back_whole_with_systems_of_two_parents(tmp_path, interactome):
    file = f"{UUID}.cx2" if interactome == UUID else "net.cx2"
    write_interactome(tmp_path / file, PROTEINS, neighbor_ring(), ABOUT)
    hcx(tmp_path / "map.cx2", interactome=interactome)
    back = read_map(tmp_path / "map.cx2")
    assert set(back.graph.edges) == set(small_map().graph.edges)
    assert set(back.graph.predecessors("S3")) == {"S1", "S2"}
    assert sets(back) == {system: set(names) for system, names in MEMBERS.items()}
    assert {overlap for *_, overlap in back.graph.edges(data="overlap")} == {0.75}
    assert back.graph.nodes["S1"] == {
        "system_id": "S1",
        "level": 1,
        "size": 5,
        "persistence": 9,
        "term_name": "the cell's skin",
        "p_adjusted": 0.0,
        "stability": 0.25,
    }
    assert back.graph.nodes["S2"]["term_name"] is None
    assert back.graph.nodes["S3"]["level"] == 2
    assert (back.about["title"], back.about["seed"]) == ("A map", 7)
    assert back.about["derived_from"] == "encoder demo, weights built in"
    assert not [key for key in back.about if key.startswith(("HCX", "ndex"))]


def test_without_its_interactome_a_map_comes_back_with_symbols(tmp_path):
    hcx(tmp_path / "map.cx2")
    assert sets(read_map(tmp_path / "map.cx2"))["S1"] == {"P0", "GENE1", "GENE2", "GENE3", "GENE4"}


def test_a_map_read_from_elsewhere_is_written_again_the_same(tmp_path):
    hcx(tmp_path / "map.cx2", interactome=None)
    back = read_map(tmp_path / "map.cx2")
    write_hcx(tmp_path / "again.cx2", back, PROTEINS, back.about, interactome=None, host=None)
    again = read_map(tmp_path / "again.cx2")
    assert nx.to_dict_of_dicts(again.graph) == nx.to_dict_of_dicts(back.graph)
    assert dict(again.graph.nodes(data=True)) == dict(back.graph.nodes(data=True))
    assert again.about == back.about


def test_hidef_tables_come_back_from_either_file(tmp_path):
    write_hidef(tmp_path / "v1.2.nodes", small_map())
    assert (tmp_path / "v1.2.nodes").read_text().splitlines()[3] == "S3\t2\tP3 P4\t9"
    assert (tmp_path / "v1.2.edges").read_text().splitlines()[0] == "S0\tS1\tdefault"
    for file in ("v1.2.nodes", "v1.2.edges"):
        back = read_map(tmp_path / file)
        assert set(back.graph.edges) == set(small_map().graph.edges)
        assert sets(back) == {system: set(names) for system, names in MEMBERS.items()}
        assert back.graph.nodes["S3"]["persistence"] == 9
        assert back.graph.edges["S2", "S3"]["overlap"] == 1.0


def test_hidef_of_a_root_alone_comes_back(tmp_path):
    graph = nx.DiGraph()
    graph.add_node("S0")
    write_hidef(tmp_path / "map", NamedMap(graph, {"S0": ["A", "B"]}, {}))
    assert read_map(tmp_path / "map.edges").members == {"S0": ["A", "B"]}


def test_hidef_refuses_names_that_its_tables_would_break(tmp_path):
    graph = nx.DiGraph()
    graph.add_node("S0")
    with pytest.raises(BadInput, match="'HLA A' has one"):
        write_hidef(tmp_path / "map.nodes", NamedMap(graph, {"S0": ["HLA A"]}, {}))
    graph = nx.relabel_nodes(graph, {"S0": "a\tb"})
    with pytest.raises(BadInput, match=r"the system 'a\\tb' has a tab"):
        write_hidef(tmp_path / "map.nodes", NamedMap(graph, {"a\tb": ["p"]}, {}))


# Newick


def parsed(text):
    """Parse Newick into (label, children), with a reader that shares nothing with the writer."""
    tokens = re.findall(r"'(?:[^']|'')*'|[(),;]|[^(),;']+", text)
    position = 0

    def node():
        nonlocal position
        children = []
        if tokens[position] == "(":
            while tokens[position] in "(,":
                position += 1
                children.append(node())
            assert tokens[position] == ")"
            position += 1
        label = tokens[position]
        assert label not in "(),;"
        position += 1
        return (label[1:-1].replace("''", "'") if label[0] == "'" else label), children

    tree = node()
    assert tokens[position:] == [";"]
    return tree


def flat(tree):
    """Return label -> labels of children of all inner nodes."""
    label, children = tree
    found = {label: [name for name, _ in children]} if children else {}
    for child in children:
        found.update(flat(child))
    return found


def test_a_tree_has_each_protein_once_under_the_smallest_system_that_holds_it(tmp_path):
    write_newick(tmp_path / "map.nwk", small_map(two_parents=False))
    text = (tmp_path / "map.nwk").read_text()
    assert text.endswith(";\n")
    tree = flat(parsed(text.strip()))
    assert tree == {
        "S0": ["S1 the cell's skin", "S2", "P7"],
        "S1 the cell's skin": ["S3", "P0", "P1", "P2"],
        "S3": ["P3", "P4"],
        "S2": ["P5", "P6"],
    }
    assert "'S1 the cell''s skin'" in text


def test_the_smallest_system_has_a_protein_even_where_a_larger_one_is_deeper(tmp_path):
    graph = nx.DiGraph([("A", "B"), ("B", "C"), ("A", "D")])
    members = {"A": list("pqrst"), "B": list("pqrs"), "C": list("pqr"), "D": list("pt")}
    write_newick(tmp_path / "map.nwk", NamedMap(graph, members, {}))
    tree = flat(parsed((tmp_path / "map.nwk").read_text().strip()))
    assert tree == {"A": ["B", "D"], "B": ["C", "s"], "C": ["q", "r"], "D": ["p", "t"]}


def test_a_system_whose_proteins_all_lie_elsewhere_does_not_become_a_protein(tmp_path):
    graph = nx.DiGraph([("A", "B"), ("A", "C")])
    write_newick(tmp_path / "map.nwk", NamedMap(graph, {"A": ["p", "q", "r"], "B": ["p", "q"], "C": ["q", "p"]}, {}))
    assert flat(parsed((tmp_path / "map.nwk").read_text().strip())) == {"A": ["B", "r"], "B": ["p", "q"]}


def test_a_deep_map_is_written_as_newick(tmp_path):
    graph = nx.path_graph(3000, create_using=nx.DiGraph)
    graph = nx.relabel_nodes(graph, str)
    write_newick(tmp_path / "map.nwk", NamedMap(graph, {system: ["p"] for system in graph}, {}))
    assert (tmp_path / "map.nwk").read_text().startswith("(" * 3000 + "p)'2999')'2998')")


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("TOMM20", "TOMM20"),
        ("HLA-A.1", "HLA-A.1"),
        ("a_b", "'a_b'"),
        ("12", "'12'"),
        ("it's", "'it''s'"),
        ("(x,y:z);[1]", "'(x,y:z);[1]'"),
        ("two\n words", "'two words'"),
        ("", "''"),
    ],
)
def test_names_are_quoted_where_newick_would_misread_them(name, wanted):
    assert newick_name(name) == wanted


def test_a_map_with_two_parents_is_no_tree_and_the_error_says_what_to_do(tmp_path):
    with pytest.raises(
        BadInput, match=r"1 of 4 systems have several parents, first 'S3' under 'S1' and 'S2'"
    ) as caught:
        write_newick(tmp_path / "map.nwk", small_map())
    assert "--method average" in str(caught.value)
    assert not list(tmp_path.iterdir())


# Maps from elsewhere


def cx2_file(path, nodes, edges=(), *, declared=None, **attributes):
    """Write CX2 by hand: `nodes` are id -> attributes, `edges` pairs."""
    document = [
        {"CXVersion": "2.0", "hasFragments": False},
        {"attributeDeclarations": [declared or {}]},
        {"networkAttributes": [attributes]},
        {"nodes": [{"id": number, "v": values} for number, values in nodes.items()]},
        {"edges": [{"id": number, "s": source, "t": target} for number, (source, target) in enumerate(edges)]},
        {"status": [{"success": True}]},
    ]
    path.write_text(json.dumps(document))
    return path


def test_the_toolkits_hcx_is_read_with_aliases_and_lists_of_members(tmp_path):
    declared = {
        "nodes": {
            "name": {"a": "n", "d": "string"},
            "CD_MemberList": {"d": "string"},
            "HCX::members": {"d": "list_of_long"},
            "HCX::isRoot": {"d": "boolean", "v": False},
        },
        "networkAttributes": {"HCX::modelFileCount": {"d": "integer"}},
    }
    path = cx2_file(
        tmp_path / "hierarchy.cx2",
        {
            0: {"n": "C1", "CD_MemberList": "A B C", "HCX::members": [7, 8, 9], "HCX::isRoot": True},
            5: {"n": "C2", "CD_MemberList": "A B", "HCX::members": [7, 8], "CD_CommunityName": "ribosome"},
        },
        [(0, 5)],
        declared=declared,
        **{"name": "cellmaps", "HCX::interactionNetworkName": "hierarchy_parent.cx2", "HCX::modelFileCount": 2},
    )
    named = read_map(path)
    assert named.members == {"C1": ["A", "B", "C"], "C2": ["A", "B"]}
    assert list(named.graph.edges) == [("C1", "C2")]
    assert named.graph.nodes["C2"]["term_name"] == "ribosome"
    assert named.about == {"title": "cellmaps"}
    cx2_file(tmp_path / "hierarchy_parent.cx2", {7: {"name": "X"}, 8: {"name": "Y"}, 9: {"name": "Z"}})
    assert read_map(path).members == {"C1": ["X", "Y", "Z"], "C2": ["X", "Y"]}


def test_an_interactome_outside_the_folder_is_not_looked_at(tmp_path):
    folder = tmp_path / "maps"
    folder.mkdir()
    cx2_file(tmp_path / "net.cx2", {1: {"name": "SECRET"}})
    nodes = {0: {"name": "C1", "HCX::members": [1], "CD_MemberList": "A"}}
    path = cx2_file(folder / "map.cx2", nodes, **{"HCX::interactionNetworkName": "../net.cx2"})
    assert read_map(path).members == {"C1": ["A"]}


def test_member_names_go_before_the_list_of_text(tmp_path):
    nodes = {0: {"name": "C1", "HCX::memberNames": ["HLA A", "B", "B"], "CD_MemberList": "HLA A B"}}
    assert read_map(cx2_file(tmp_path / "map.cx2", nodes)).members == {"C1": ["HLA A", "B"]}


def test_systems_are_called_by_what_tells_them_apart(tmp_path):
    nodes = {number: {"name": "unknown", "CD_MemberList": "A B"} for number in (3, 4)}
    named = read_map(cx2_file(tmp_path / "map.cx2", nodes, [(3, 4)]))
    assert list(named.graph) == ["3", "4"]
    assert named.graph.nodes["4"]["term_name"] == "unknown"


def test_members_of_foreign_maps_are_kept_even_where_a_parent_lacks_them(tmp_path):
    nodes = {0: {"name": "A", "CD_MemberList": "p q"}, 1: {"name": "B", "CD_MemberList": "q r"}}
    named = read_map(cx2_file(tmp_path / "map.cx2", nodes, [(0, 1)]))
    assert named.members == {"A": ["p", "q"], "B": ["q", "r"]}
    assert named.graph.edges["A", "B"]["overlap"] == 0.5


def test_a_map_of_several_roots_gets_one(tmp_path):
    (tmp_path / "map.nodes").write_text("A\t2\tp q\t5\nB\t2\tq r\t\n")
    (tmp_path / "map.edges").write_text("")
    named = read_map(tmp_path / "map.nodes")
    assert named.members["root"] == ["p", "q", "r"]
    assert [node["level"] for _, node in named.graph.nodes(data=True)] == [0, 1, 1]
    assert [node.get("persistence") for _, node in named.graph.nodes(data=True)] == [None, 5, None]


def test_hidef_tables_may_have_a_row_of_names_and_sizes_with_a_point(tmp_path):
    (tmp_path / "map.nodes").write_text("name\tsize\tmembers\tpersistence\nA\t2.0\tp q\t5.0\n\n")
    (tmp_path / "map.edges").write_text("")
    named = read_map(tmp_path / "map.nodes")
    assert named.members == {"A": ["p", "q"]}
    assert named.graph.nodes["A"]["persistence"] == 5


ONT = "A\tB\tdefault\nA\tp\tgene\nB\tq\tgene\nB\tB\tgene\n"  # a gene may be called like a system


def test_in_an_ont_file_genes_belong_to_all_systems_above_and_may_be_called_like_one(tmp_path):
    (tmp_path / "map.ont").write_text(ONT)
    named = read_map(tmp_path / "map.ont")
    assert sets(named) == {"A": {"p", "q", "B"}, "B": {"q", "B"}}
    assert list(named.graph.edges) == [("A", "B")]
    assert named.about == {"title": "map"}


@pytest.mark.parametrize(
    "text",
    [
        "A\tB\nA\tp\nB\tq\nB\tr\n",
        "# a comment\nA,B\n\nA,p\nB,q\nB,r",
        "Parent,Child\r\nA,B\r\nA,p\r\nB,q\r\nB,r\r\n",
        "\ufeffchild;weight;parent\nB;1;A\np;1;A\nq;1;B\nr;1;B\n",
        "A B\nA p\nB q\nB r\n",
        '"A","B"\n"A","p"\n"B","q"\n"B","r"\n',
        "Parent\tChild\tEdgeType\nA\tB\tChild-Parent\nA\tp\tGene-Term\nB\tq\tGene-Term\nB\tr\tGene-Term\n",
    ],
)
def test_edge_lists_are_read_however_they_are_written(tmp_path, text):
    (tmp_path / "map.txt").write_text(text, encoding="utf-8")
    named = read_map(tmp_path / "map.txt")
    assert sets(named) == {"A": {"p", "q", "r"}, "B": {"q", "r"}}
    assert list(named.graph.edges) == [("A", "B")]


def test_genes_are_found_through_every_parent(tmp_path):
    (tmp_path / "map.tsv").write_text("A\tB\nA\tC\nB\tD\nC\tD\nD\tp\nB\tq\nC\tr\nC\ts\n")
    named = read_map(tmp_path / "map.tsv")
    assert sets(named) == {"A": set("pqrs"), "B": set("pq"), "C": set("prs"), "D": set("p")}
    assert set(named.graph.predecessors("D")) == {"B", "C"}


# What cannot be read


def refused(path: Path) -> str:
    """Return what `read_map` says against a file; it must be short, and name it."""
    with pytest.raises(BadInput) as caught:
        read_map(path)
    message = str(caught.value)
    assert len(message.splitlines()) <= 2
    assert path.stem in message
    return message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "binary"),
        (b"\x1f\x8b\x08\x00", "unpack it"),
        ("A,Ångström\n".encode("latin-1"), "line 1 has the byte 0xc5"),
        ("A\tB\n".encode("utf-16"), "binary"),
        (b"A\nB\n", "Line 1 .* has one column"),
        (b"A,B\nA\n", "Line 2 .* has one column"),
        (b"A,p\nA,\n", "Line 2 .* lacks the parent or the child"),
        (b'A,p\nA,"q\n', "Line 2 .* is no row of a table"),
        (b"A,B\nB,C\nC,A\nC,p\n", r"inside itself \('A' → 'B' → 'C' → 'A'\)"),
        (b"A,A\n", r"inside itself \('A' → 'A'\)"),
        (b"A,B\nB,p\nB,q\nA,B\n", "edge from 'A' to 'B' twice"),
        (b"A,p\nA,q\nA,p\n", "edge from 'A' to 'p' twice"),
        (b"a,b\nb,c\nb,d\nd,c\n", "3 systems over 1 genes"),
        (b"parent,child\n", "holds no systems"),
    ],
)
def test_a_table_that_is_no_map_is_refused_with_the_reason(tmp_path, content, message):
    (tmp_path / "bad.csv").write_bytes(content)
    assert re.search(message, refused(tmp_path / "bad.csv"))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert "There is no file" in refused(tmp_path / "none.cx2")
    assert "There is no file" in refused(tmp_path / "none.nodes")
    assert "is a folder" in refused(tmp_path)


def test_an_ont_file_without_genes_is_refused(tmp_path):
    (tmp_path / "bad.ont").write_text("A\tB\tdefault\n")
    assert "has 2 of 2 systems without proteins, first 'A'" in refused(tmp_path / "bad.ont")


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        ("A\t1\tp\t5\n", None, "There is no 'bad.edges' beside"),
        (None, "A\tB\tdefault\n", "There is no 'bad.nodes' beside"),
        ("A\t1\tp\t5\n", "A\tB\tdefault\n", "Line 1 .* has 'B', not in 'bad.nodes'"),
        ("A\t1\tp\t5\nB\t0\t\t5\n", "A\tB\tdefault\n", "has 1 of 2 systems without proteins, first 'B'"),
        ("A\t1\tp\t5\nA\t1\tq\t5\n", "", "has the system 'A' twice, again in line 2"),
        ("A\tp q\n", "", "has not the columns of HiDeF|holds no systems"),
        ("A\t1\tp\t5\nB\t1\n", "", "Line 2 .* has not the columns of HiDeF"),
        ("A\t1\tp\t5\nB\t1\tp\t5\n", "A\tB\tdefault\nA\tB\tdefault\n", "twice"),
        ("A\t1\tp\t5\nB\t1\tp\t5\n", "A\tB\tdefault\nB\tA\tdefault\n", "inside itself"),
    ],
)
def test_hidef_tables_that_do_not_fit_are_refused(tmp_path, nodes, edges, message):
    for ending, text in (("nodes", nodes), ("edges", edges)):
        if text is not None:
            (tmp_path / f"bad.{ending}").write_text(text)
    assert re.search(message, refused(tmp_path / ("bad.nodes" if nodes is not None else "bad.edges")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"CXVersion": "2.0"}', "is no whole JSON file"),
        ("[" * 200_000, "is no whole JSON file"),
        ('{"elements": {"nodes": []}}', "is JSON but not CX2"),
        ("[]", "is JSON but not CX2"),
        ("[1, 2]", "is JSON but not CX2"),
        ('[{"numberVerification": []}]', "is CX version 1"),
        ('[{"metaData": []}]', "starts with no CXVersion"),
        ('[{"CXVersion": "3.0"}]', "CXVersion '3.0'"),
        ('[{"CXVersion": "2.0"}, {"nodes": []}]', "without nodes"),
        ('[{"CXVersion": "2.0"}, {"nodes": [{"v": {}}]}]', "Node requires id"),
        ('[{"CXVersion": "2.0"}, {"nodes": 5}]', "cannot be read"),
        ('[{"CXVersion": "2.0"}, {"networkAttributes": []}]', "cannot be read"),
        ('[{"CXVersion": "2.0"}, {"nodes": [{"id": 1}, {"id": 1}]}]', "already exists"),
        ('[{"CXVersion": "2.0"}, {"nodes": [{"id": 1}]}, {"edges": [{"id": 1, "s": 1, "t": 2}]}]', "to the node 2"),
    ],
)
@pytest.mark.parametrize("name", ["bad.cx2", "bad.txt"])
def test_json_that_is_no_cx2_is_refused(tmp_path, text, message, name):
    (tmp_path / name).write_text(text)
    assert message in refused(tmp_path / name)


def test_an_interactome_is_no_hierarchy(tmp_path):
    write_interactome(tmp_path / "net.cx2", PROTEINS, neighbor_ring(), ABOUT)
    assert "no hierarchy: none of its 8 nodes has HCX::members" in refused(tmp_path / "net.cx2")


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        ({0: {"CD_MemberList": "A"}, 1: {"name": "x"}}, [(0, 1)], "has 1 of 2 systems without proteins, first '1'"),
        ({0: {"CD_MemberList": "A"}, 1: {"CD_MemberList": "A"}}, [(0, 1), (1, 0)], "inside itself"),
        ({0: {"CD_MemberList": "A"}, 1: {"CD_MemberList": "A"}}, [(0, 1), (0, 1)], "edge from '0' to '1' twice"),
        ({0: {"HCX::members": [1, 2]}}, [], "Write the hierarchy with HCX::memberNames"),
    ],
)
def test_an_hcx_that_is_no_hierarchy_is_refused(tmp_path, nodes, edges, message):
    assert message in refused(cx2_file(tmp_path / "bad.cx2", nodes, edges))


def test_members_by_number_need_their_interactome(tmp_path):
    nodes = {0: {"HCX::members": [1, 2]}}
    path = cx2_file(tmp_path / "bad.cx2", nodes, **{"HCX::interactionNetworkUUID": UUID})
    assert f"Put it there, as {UUID}.cx2" in refused(path)
    cx2_file(tmp_path / f"{UUID}.cx2", {1: {"name": "A"}})
    with pytest.raises(BadInput, match=rf"holds the protein 2, and '.*{UUID}.cx2' names none"):
        read_map(path)
    (tmp_path / f"{UUID}.cx2").write_text("[")
    with pytest.raises(BadInput, match=rf"{UUID}.cx2' is no whole JSON"):
        read_map(path)


@pytest.mark.parametrize("write", [write_newick, write_hidef])
def test_a_map_without_systems_or_proteins_is_not_written(tmp_path, write):
    graph = nx.DiGraph()
    with pytest.raises(BadInput, match="The map holds no systems"):
        write(tmp_path / "map.nwk", NamedMap(graph, {}, {}))
    graph.add_edge("A", "B")
    with pytest.raises(BadInput, match="has 1 of 2 systems without proteins, first 'B'"):
        write(tmp_path / "map.nwk", NamedMap(graph, {"A": ["p"], "B": []}, {}))
    assert not list(tmp_path.iterdir())
