"""The neighbor graph and the hierarchy of systems."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
from planted import nested, recovery

from subcell_atlas.cellmap.enrichment import membership
from subcell_atlas.cellmap.graph import GraphOptions, drop_edges, neighbor_graph, unit_vectors
from subcell_atlas.cellmap.hierarchy import ROOT, add_edges, find_hierarchy
from subcell_atlas.cellmap.methods import METHODS, AverageLinkage, MultiResolution, Recursion
from subcell_atlas.cellmap.named import levels
from subcell_atlas.cellmap.trust import Trust
from subcell_atlas.errors import BadInput, UnknownName


def near(k, **options):
    return GraphOptions(nearest=k, far=0, **options)


def cosines(vectors):
    units = unit_vectors(vectors)
    return units @ units.T - 2 * np.eye(len(units))


def test_the_graph_equals_a_slow_twin(rng):
    vectors = rng.normal(size=(60, 5))
    graph = neighbor_graph(vectors, near(4)).toarray()
    cosine = cosines(vectors)
    wanted = np.zeros((60, 60))
    for row in range(60):
        for other in np.argsort(-cosine[row])[:4]:
            wanted[row, other] = wanted[other, row] = max(cosine[row, other], 0)
    assert np.allclose(graph, wanted, atol=1e-6)


def test_farther_neighbors_are_of_log_spaced_ranks_up_to_an_eighth(rng):
    options = GraphOptions(nearest=3, far=4, reach=250)
    assert options.ranks(199).tolist() == [0, 1, 2, 3, 6, 12, 23]  # 4, 7, 13 and 24 = 199 // 8, from 1
    vectors = rng.normal(size=(200, 6)) + 1
    cosine = cosines(vectors)
    chosen = {(row, other) for row in range(200) for other in np.argsort(-cosine[row])[options.ranks(199)]}
    graph = neighbor_graph(vectors, options)
    assert {tuple(pair) for pair in np.argwhere(graph.toarray() > 0)} == chosen | {(b, a) for a, b in chosen}
    assert GraphOptions(nearest=15, far=5, reach=250).ranks(13_000 - 1)[-1] == 249
    assert GraphOptions(nearest=15, far=5).ranks(60).tolist() == list(range(15))  # an eighth is nearer than that


def test_farther_neighbors_hold_together_what_small_groups_that_lie_apart_form(rng):
    vectors, large, small = nested(rng, n_small=6, size=20, noise=0.05)
    with_far, without = (find_hierarchy(vectors, MultiResolution(graph=g), seed=0) for g in (GraphOptions(), near(15)))
    assert recovery(with_far.members, large) > 0.95
    assert recovery(without.members, large) < 0.6
    assert recovery(with_far.members, small) > 0.95


def test_edges_can_weigh_what_their_ends_have_both_chosen(rng):
    vectors = rng.normal(size=(40, 6))
    cosine = cosines(vectors)
    chosen = [{row, *np.argsort(-cosine[row])[:5].tolist()} for row in range(40)]
    plain, shared = (neighbor_graph(vectors, near(5, weights=weights)).toarray() for weights in ("cosine", "shared"))
    assert ((plain > 0) == (shared > 0)).all()
    for row, other in zip(*np.nonzero(plain), strict=True):
        both = chosen[row] & chosen[other]
        assert shared[row, other] == pytest.approx(len(both) / len(chosen[row] | chosen[other]))


def test_rows_that_point_away_from_all_others_are_linked_to_none():
    vectors = np.array([[1.0, 0], [0.9, 0.1], [-1, 0]])
    for weights in ("cosine", "shared"):
        graph = neighbor_graph(vectors, near(2, weights=weights))
        assert graph.nnz == 2
        assert graph[2].nnz == 0


def test_a_zero_row_takes_no_place_among_the_neighbors():
    vectors = np.array([[1.0, 0], [0, 1], [0, 0]])
    assert neighbor_graph(vectors, near(1)).toarray().max() < 1e-6  # the others are at a right angle
    assert neighbor_graph(np.array([[1.0, 0], [1, 1], [0, 0]]), near(1))[0, 1] == pytest.approx(0.5**0.5)


def test_unknown_weights_are_refused():
    with pytest.raises(UnknownName, match="known: cosine, shared"):
        neighbor_graph(np.ones((3, 2)), near(1, weights="snn"))


def test_a_graph_of_few_proteins_links_them_all_and_of_none_is_refused():
    assert neighbor_graph(np.ones((3, 2)), GraphOptions()).nnz == 6
    with pytest.raises(BadInput, match="there are none"):
        neighbor_graph(np.ones((0, 2)), GraphOptions())


def test_a_share_of_the_edges_is_dropped_at_both_ends(rng):
    graph = neighbor_graph(rng.normal(size=(300, 8)), near(10))
    fewer = drop_edges(graph, 0.1, rng)
    assert (fewer != fewer.T).nnz == 0
    assert 0.07 < 1 - fewer.nnz / graph.nnz < 0.13
    kept = fewer.nonzero()
    assert np.array_equal(fewer[kept], graph[kept])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_planted_groups_again_and_is_repeatable(rng, method):
    vectors, large, small = nested(rng, n_large=3, n_small=4, size=40)
    one, two = (find_hierarchy(vectors, METHODS[method](), seed=3) for _ in range(2))
    assert nx.to_dict_of_dicts(one.graph) == nx.to_dict_of_dicts(two.graph)
    assert dict(one.graph.nodes(data=True)) == dict(two.graph.nodes(data=True))
    assert recovery(one.members, small) > 0.9
    if method != "subcell":  # whose first step asks for 100 neighbors, more than a small group has proteins
        assert recovery(one.members, large) > 0.9
    check_map(one)


def check_map(found):
    """Check that a hierarchy is a rooted acyclic graph whose numbers say what its sets say."""
    graph, members = found.graph, found.members
    assert nx.is_directed_acyclic_graph(graph)
    assert [node for node in graph if graph.in_degree(node) == 0] == [ROOT]
    assert graph.nodes[ROOT]["level"] == 0
    for system, node in graph.nodes(data=True):
        assert node["size"] == len(members[system])
    for parent, child, overlap in graph.edges(data="overlap"):
        shared = np.intersect1d(members[parent], members[child])
        assert overlap == pytest.approx(len(shared) / len(members[child]))
        assert graph.nodes[parent]["level"] < graph.nodes[child]["level"]


def test_a_system_is_found_at_as_many_resolutions_as_it_must(rng):
    vectors, *_ = nested(rng, noise=0.6)
    few, many = (find_hierarchy(vectors, MultiResolution(min_persistence=p), seed=0) for p in (4, 12))
    for found, least in ((few, 4), (many, 12)):
        assert min(found.graph.nodes[s]["persistence"] for s in found.graph if s != ROOT) >= least
    assert len(many.graph) < len(few.graph)


def test_the_highest_resolution_grows_with_the_proteins_at_the_same_steps():
    few, many = MultiResolution().resolutions(500), MultiResolution().resolutions(13_000)
    assert (few[-1], many[-1]) == pytest.approx((50, 1300))
    assert (len(few), len(many)) == (49, 75)
    assert many[1] / many[0] == pytest.approx(few[1] / few[0], rel=0.01)


def test_the_published_recursion_splits_each_cluster_again_and_carries_small_ones_down(rng):
    vectors, *_ = nested(rng, n_large=3, n_small=4, size=40)
    method = Recursion()
    sweep = method.sweep(method.prepare(vectors), seed=0)
    assert sweep.resolution.tolist() == [0.15, 0.2, 0.25, 0.30, 0.33, 0.36]
    for coarse, fine in zip(sweep.labels, sweep.labels[1:], strict=False):
        assert all(len(np.unique(coarse[fine == cluster])) == 1 for cluster in np.unique(fine))
    tiny = rng.normal(size=(60, 8))  # fewer than the 100 neighbors asked for at first
    first = method.sweep(method.prepare(tiny), seed=0).labels[0]
    assert set(first.tolist()) == {0}


def test_average_linkage_gives_a_tree(rng):
    vectors, *_ = nested(rng)
    found = find_hierarchy(vectors, AverageLinkage(), seed=0)
    assert all(n_parents <= 1 for _, n_parents in found.graph.in_degree)


@pytest.mark.parametrize("method", METHODS)
def test_maps_of_very_few_proteins_are_their_root(method):
    for n in (1, 2, 3):
        found = find_hierarchy(np.eye(3)[:n], METHODS[method](), seed=0, trust=Trust())
        assert list(found.graph) == [ROOT]
        assert found.members[ROOT].tolist() == list(range(n))


@pytest.mark.parametrize("method", METHODS)
def test_identical_vectors_give_a_map_without_systems(method):
    for trust in (None, Trust(reruns=2, most_nulls=2)):
        found = find_hierarchy(np.ones((12, 3)), METHODS[method](), seed=0, trust=trust)
        assert list(found.graph) == [ROOT]


def test_duplicated_vectors_are_in_one_system(rng):
    vectors, _, small = nested(rng, n_large=2, n_small=3)
    twice = np.concatenate([vectors, vectors])
    found = find_hierarchy(twice, seed=0)
    for rows in found.members.values():
        assert len(set(rows.tolist()) ^ {(row + len(vectors)) % len(twice) for row in rows.tolist()}) <= 0.2 * len(rows)
    assert recovery(found.members, np.concatenate([small, small])) > 0.8


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_vectors_that_cannot_be_compared_are_counted_and_refused(rng, bad):
    vectors = rng.normal(size=(30, 4))
    vectors[[7, 9]] = bad
    with pytest.raises(BadInput, match="2 of 30 vectors are zero or not finite"):
        find_hierarchy(vectors, seed=0)
    with pytest.raises(BadInput, match="there are none"):
        find_hierarchy(np.ones((0, 4)), seed=0)


def test_a_systems_level_is_its_longest_way_from_the_root():
    graph = nx.DiGraph([(ROOT, "S1"), ("S1", "S2"), (ROOT, "S2"), ("S2", "S3")])
    assert levels(graph) == {ROOT: 0, "S1": 1, "S2": 2, "S3": 3}


def test_a_system_may_have_two_parents_and_shortcuts_are_left_out():
    sets = {"S1": range(20), "S2": range(10, 30), "S3": range(10, 18), "S4": range(10, 14)}
    graph = nx.DiGraph()
    graph.add_nodes_from([ROOT, *sets])
    add_edges(graph, membership({s: np.array(rows) for s, rows in sets.items()}, 30))
    assert set(graph.predecessors("S3")) == {"S1", "S2"}
    assert list(graph.predecessors("S4")) == ["S3"]
    assert set(graph.successors(ROOT)) == {"S1", "S2"}
