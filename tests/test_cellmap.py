"""The neighbor graph, the hierarchy, the names of systems and the layout."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from scipy.stats import hypergeom

from subcell_atlas.cellmap.enrichment import membership, name_systems
from subcell_atlas.cellmap.graph import neighbor_graph, unit_vectors
from subcell_atlas.cellmap.hierarchy import ROOT, HierarchyOptions, add_edges, find_hierarchy, levels
from subcell_atlas.cellmap.layout import layout_proteins
from subcell_atlas.errors import BadInput, UnknownName


def nested(rng, *, n_large=4, n_small=5, size=8, dim=32):
    """Make proteins in `n_large` groups of `n_small` subgroups of `size`; return vectors and both labels."""
    large = rng.normal(size=(n_large, dim))
    small = rng.normal(size=(n_large, n_small, dim)) * 0.5
    vectors = (large[:, None] + small)[:, :, None] + rng.normal(size=(n_large, n_small, size, dim)) * 0.15
    labels = np.indices((n_large, n_small, size))
    return vectors.reshape(-1, dim), labels[0].ravel(), (labels[0] * n_small + labels[1]).ravel()


def best_jaccard(members, wanted):
    return max(len(set(rows) & wanted) / len(set(rows) | wanted) for rows in members.values())


def test_the_graph_equals_a_slow_twin(rng):
    vectors = rng.normal(size=(60, 5))
    graph = neighbor_graph(vectors, k=4).toarray()
    units = unit_vectors(vectors)
    cosine = units @ units.T
    wanted = np.zeros((60, 60))
    for row in range(60):
        for other in sorted((o for o in range(60) if o != row), key=lambda o: -cosine[row, o])[:4]:
            wanted[row, other] = wanted[other, row] = max(cosine[row, other], 0)
    assert np.allclose(graph, wanted, atol=1e-6)


def test_edges_can_weigh_what_their_ends_have_both_chosen(rng):
    vectors = rng.normal(size=(40, 6))
    units = unit_vectors(vectors)
    cosine = units @ units.T - 2 * np.eye(40)
    chosen = [{row, *np.argsort(-cosine[row])[:5].tolist()} for row in range(40)]
    plain, shared = (neighbor_graph(vectors, k=5, weights=weights).toarray() for weights in ("cosine", "shared"))
    assert ((plain > 0) == (shared > 0)).all()
    for row, other in zip(*np.nonzero(plain), strict=True):
        both = chosen[row] & chosen[other]
        assert shared[row, other] == pytest.approx(len(both) / len(chosen[row] | chosen[other]))


def test_rows_that_point_away_from_all_others_are_linked_to_none():
    vectors = np.array([[1.0, 0], [0.9, 0.1], [-1, 0]])
    for weights in ("cosine", "shared"):
        graph = neighbor_graph(vectors, k=2, weights=weights)
        assert graph.nnz == 2
        assert graph[2].nnz == 0


def test_a_zero_row_takes_no_place_among_the_neighbors():
    vectors = np.array([[1.0, 0], [0, 1], [0, 0]])
    assert neighbor_graph(vectors, k=1).toarray().max() < 1e-6  # the others are at a right angle
    assert neighbor_graph(np.array([[1.0, 0], [1, 1], [0, 0]]), k=1)[0, 1] == pytest.approx(0.5**0.5)


def test_unknown_weights_are_refused():
    with pytest.raises(UnknownName, match="known: cosine, shared"):
        neighbor_graph(np.ones((3, 2)), k=1, weights="snn")


def test_a_graph_of_few_proteins_links_them_all_and_of_none_is_refused():
    assert neighbor_graph(np.ones((3, 2)), k=15).nnz == 6
    with pytest.raises(BadInput, match="there are none"):
        neighbor_graph(np.ones((0, 2)), k=15)


def test_a_map_of_one_protein_is_its_root():
    found = find_hierarchy(neighbor_graph(np.ones((1, 2)), k=15), HierarchyOptions(seed=0))
    assert list(found.graph) == [ROOT]
    assert found.members[ROOT].tolist() == [0]


def test_zero_vectors_stay_alone_and_do_no_harm(rng):
    vectors = rng.normal(size=(30, 4))
    vectors[7] = 0
    graph = neighbor_graph(vectors, k=5)
    assert np.isfinite(graph.data).all()
    assert graph[7].nnz == 0


def test_planted_groups_come_back_at_both_levels(rng):
    vectors, large, small = nested(rng)
    found = find_hierarchy(neighbor_graph(vectors, k=10), HierarchyOptions(seed=0))
    for labels in (large, small):
        overlaps = [best_jaccard(found.members, set(np.flatnonzero(labels == g))) for g in np.unique(labels)]
        assert np.mean(overlaps) > 0.8
    assert (
        min(node["persistence"] for _, node in found.graph.nodes(data=True)) >= HierarchyOptions(seed=0).min_persistence
    )
    strict = find_hierarchy(neighbor_graph(vectors, k=10), HierarchyOptions(seed=0, min_persistence=20))
    assert {n["persistence"] >= 20 for _, n in strict.graph.nodes(data=True)} == {True}
    assert len(strict.graph) < len(found.graph)


def test_a_systems_level_is_its_longest_way_from_the_root():
    graph = nx.DiGraph([(ROOT, "S1"), ("S1", "S2"), (ROOT, "S2"), ("S2", "S3")])
    assert levels(graph) == {ROOT: 0, "S1": 1, "S2": 2, "S3": 3}


def test_the_map_is_a_rooted_acyclic_graph_and_repeatable(rng):
    vectors, *_ = nested(rng)
    graph = neighbor_graph(vectors, k=10)
    one, two = (find_hierarchy(graph, HierarchyOptions(seed=3)) for _ in range(2))
    assert nx.is_directed_acyclic_graph(one.graph)
    assert [node for node in one.graph if one.graph.in_degree(node) == 0] == [ROOT]
    assert nx.to_dict_of_dicts(one.graph) == nx.to_dict_of_dicts(two.graph)
    for system, node in one.graph.nodes(data=True):
        assert node["size"] == len(one.members[system])
    for parent, child, overlap in one.graph.edges(data="overlap"):
        shared = np.intersect1d(one.members[parent], one.members[child])
        assert overlap == pytest.approx(len(shared) / len(one.members[child]))


def test_a_system_may_have_two_parents_and_shortcuts_are_left_out():
    sets = {"S1": range(20), "S2": range(10, 30), "S3": range(10, 18), "S4": range(10, 14)}
    graph = nx.DiGraph()
    graph.add_nodes_from([ROOT, *sets])
    add_edges(graph, membership({s: np.array(rows) for s, rows in sets.items()}, 30), 0.75)
    assert set(graph.predecessors("S3")) == {"S1", "S2"}
    assert list(graph.predecessors("S4")) == ["S3"]
    assert set(graph.successors(ROOT)) == {"S1", "S2"}


def test_identical_vectors_give_a_map_without_systems_or_one():
    found = find_hierarchy(neighbor_graph(np.ones((12, 3)), k=15), HierarchyOptions(seed=0))
    assert list(found.graph) == [ROOT]


def test_names_come_from_a_hypergeometric_test_against_what_is_annotated():
    members = {"S1": np.arange(10), "S2": np.arange(10, 40)}
    terms = {"GO:small": np.arange(9), "GO:everywhere": np.arange(0, 40, 2), "GO:large": np.arange(25)}
    names = name_systems(members, terms)
    assert names["S1"].term_id == "GO:small"
    n_known = len(set(np.concatenate(list(terms.values())).tolist()))
    p = hypergeom.sf(8, n_known, 9, 10)
    tests = [p] + [
        hypergeom.sf(len(np.intersect1d(members[s], terms[t])) - 1, n_known, len(terms[t]), k)
        for s, k in (("S1", 10), ("S2", len(np.intersect1d(members["S2"], np.concatenate(list(terms.values()))))))
        for t in terms
        if (s, t) != ("S1", "GO:small")
    ]
    rank = sorted(tests).index(p) + 1
    assert names["S1"].p_adjusted == pytest.approx(p * len(tests) / rank)
    assert "S2" not in names


def test_a_preferred_term_names_a_system_even_where_another_fits_better():
    members = {"S1": np.arange(10), "S2": np.arange(10, 40)}
    terms = {"function": np.arange(10), "place": np.arange(11), "everywhere": np.arange(40)}
    assert name_systems(members, terms)["S1"].term_id == "function"
    assert name_systems(members, terms, preferred={"place"})["S1"].term_id == "place"


def test_without_annotations_nothing_is_named():
    assert name_systems({"S1": np.arange(5)}, {}) == {}


def test_few_proteins_are_laid_out_by_principal_components():
    places = layout_proteins(np.array([[0.0, 0], [3, 0], [6, 0]]), seed=0)
    assert places.shape == (3, 2)
    assert sorted(np.abs(places[:, 0]).tolist()) == pytest.approx([0, 3, 3], abs=1e-5)
    assert layout_proteins(np.ones((1, 4)), seed=0).tolist() == [[0.0, 0.0]]
