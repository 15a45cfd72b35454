"""What systems are named, what is significant in them, and which of their proteins are discoveries."""

from __future__ import annotations

import itertools

import networkx as nx
import numpy as np
import pytest
from scipy.stats import false_discovery_control, fisher_exact, hypergeom

from subcell_atlas.cellmap import enrichment
from subcell_atlas.cellmap.discoveries import Discovery, find_discoveries
from subcell_atlas.cellmap.enrichment import (
    Source,
    enrich_systems,
    hypergeometric_tail,
    membership,
    relatives_of,
)


def rows(*ranges):
    """Rows from (first, end) pairs."""
    return np.concatenate([np.arange(first, end) for first, end in ranges])


def tree(*edges):
    return nx.DiGraph([tuple(edge.split(">")) for edge in edges])


def a_map(rng, *, n=300, n_systems=12, n_terms=40):
    """Random systems under the root, two sources of random terms, and terms that copy a system but for some rows."""
    members = {"S0": np.arange(n)}
    members |= {f"S{i}": np.sort(rng.choice(n, rng.integers(4, 40), replace=False)) for i in range(1, n_systems)}
    terms = {f"T{i}": rng.choice(n, rng.integers(1, 60), replace=False) for i in range(n_terms)}
    copies = {f"C{s}": np.append(own[: len(own) - 1], rng.integers(n)) for s, own in members.items() if s != "S0"}
    graph = nx.DiGraph([("S0", system) for system in members if system != "S0"])
    return members, graph, [Source("one", terms), Source("two", copies | {"everything": np.arange(0, n, 2)})]


def slow_tests(members, sources):
    """All tests, one by one: (system, source, term) -> (shared, in the system, in the term, background, p)."""
    in_map = set(np.concatenate(list(members.values())).tolist())
    found = {}
    for source in sources:
        of_term = {term: set(own.tolist()) & in_map for term, own in source.terms.items()}
        known = set().union(*of_term.values())
        for system, (term, own) in itertools.product(members, of_term.items()):
            if system != "S0" and 3 <= len(own) <= len(known) / 2:
                inside = set(members[system].tolist()) & known
                k = len(inside & own)
                p = hypergeom.sf(k - 1, len(known), len(own), len(inside))
                found[system, source.name, term] = (k, len(inside), len(own), len(known), p)
    return found


def test_the_tail_equals_scipys_where_more_is_shared_than_expected(rng):
    n = rng.integers(10, 500, 400)
    in_term, in_system = rng.integers(1, n), rng.integers(1, n)
    shared = np.array(
        [rng.integers(max(1, a + b - m), min(a, b) + 1) for a, b, m in np.stack([in_system, in_term, n], 1)]
    )
    p = hypergeometric_tail(shared, in_system, in_term, n)
    exact = hypergeom.sf(shared - 1, n, in_term, in_system)
    more = shared * n > in_system * in_term
    assert 100 < more.sum() < 300
    assert p[more] == pytest.approx(exact[more], rel=1e-8, abs=1e-300)
    assert (p[~more] == 1).all()
    assert exact[~more].min() >= 0.5


def test_the_tail_of_large_numbers_equals_fishers_exact_test():
    p = hypergeometric_tail(*(np.array([value]) for value in (60, 400, 900, 13000)))
    assert p[0] == pytest.approx(fisher_exact([[60, 340], [840, 11760]], alternative="greater").pvalue, rel=1e-7)


def test_tests_and_their_correction_equal_a_slow_twin(rng):
    members, graph, sources = a_map(rng)
    found = enrich_systems(members, graph, sources)
    slow = slow_tests(members, sources)
    adjusted = dict(zip(slow, false_discovery_control([test[-1] for test in slow.values()]), strict=True))
    wanted = {key for key, p in adjusted.items() if p <= 0.01 and slow[key][0] >= 2}
    assert len(wanted) > 8
    assert {(row.system, row.source, row.term_id) for row in found.best} == wanted
    assert {(s, *term) for s, own in found.significant.items() for term in own} == wanted
    for row in found.best:
        k, n_system, n_term, n_background, p = slow[row.system, row.source, row.term_id]
        assert (row.n_shared, row.n_system, row.n_term, row.n_background) == (k, n_system, n_term, n_background)
        assert row.n_members == len(members[row.system])
        assert row.p_value == pytest.approx(p, rel=1e-8)
        assert row.p_adjusted == pytest.approx(adjusted[row.system, row.source, row.term_id], rel=1e-8)
        assert row.jaccard == pytest.approx(k / (n_system + n_term - k))
        assert row.information_content == pytest.approx(-np.log2(n_term / n_background))
        assert row.score == pytest.approx(row.jaccard * row.information_content * n_system / row.n_members)
        terms = {source.name: source.terms for source in sources}[row.source]
        assert row.rows.tolist() == sorted(set(terms[row.term_id].tolist()) & set(members[row.system].tolist()))


def test_names_equal_a_slow_twin(rng):
    members, _, sources = a_map(rng, n_systems=9)
    for number in range(9, 14):  # systems inside and beside others, and terms that fit several
        members[f"S{number}"] = (
            members[f"S{number - 8}"][:-1] if number % 2 else members[f"S{number - 8}"][: 2 + number]
        )
    graph = nx.DiGraph([("S0", f"S{i}") for i in range(1, 9)] + [(f"S{i - 8}", f"S{i}") for i in range(9, 14)])
    found = enrich_systems(members, graph, sources, preferred={"C2", "T1"})
    fits = [row for row in found.best if fits_slowly(row)]

    def related(a, b):
        parents = [set(graph.predecessors(system)) for system in (a, b)]
        return bool(parents[0] & parents[1]) or b in nx.ancestors(graph, a) | nx.descendants(graph, a)

    def key(row):
        return (-row.score, -row.n_shared, list(members).index(row.system))

    home = [
        row
        for row in fits
        if not any(
            row.term_id == other.term_id and related(row.system, other.system) and key(other) < key(row)
            for other in fits
            if other.system != row.system
        )
    ]
    wanted = {}
    for row in sorted(home, key=lambda row: (row.term_id not in {"C2", "T1"}, *key(row))):
        wanted.setdefault(row.system, row.term_id)
    assert {system: row.term_id for system, row in found.names.items()} == wanted
    assert len(wanted) >= 8
    assert len(wanted) < len({row.system for row in fits})


def fits_slowly(row):
    elsewhere = (row.n_term - row.n_shared) / (row.n_background - row.n_system)
    share = row.n_shared / row.n_system
    without_one = (row.n_shared - 1) / (row.n_system + row.n_term - row.n_shared + 1)
    return without_one >= 0.1 and share >= 0.25 and share >= 1.5 * elsewhere


def test_the_specific_term_names_a_system_and_not_the_one_with_the_smallest_p():
    members = {"S0": np.arange(400), "S1": np.arange(20)}
    terms = {"large": np.arange(120), "small": np.arange(14), "rest": np.arange(400)}
    found = enrich_systems(members, tree("S0>S1"), [Source("GO", terms)])
    by_term = {row.term_id: row for row in found.best}
    assert by_term["large"].score < by_term["small"].score
    assert found.names["S1"].term_id == "small"


def test_a_child_does_not_take_a_name_that_describes_its_parent_better():
    members = {"S0": np.arange(400), "S1": np.arange(30), "S2": np.arange(15)}
    terms = {"ribosome": np.arange(28), "subunit": np.arange(13), "rest": np.arange(400)}
    graph = tree("S0>S1", "S1>S2")
    names = enrich_systems(members, graph, [Source("GO", terms)]).names
    assert {system: row.term_id for system, row in names.items()} == {"S1": "ribosome", "S2": "subunit"}
    del terms["subunit"]
    found = enrich_systems(members, graph, [Source("GO", terms)])
    assert list(found.names) == ["S1"]
    assert ("GO", "ribosome") in found.significant["S2"]  # it is still said


def test_a_parent_is_not_called_after_its_part():
    members = {"S0": np.arange(400), "S1": np.arange(30), "S2": np.arange(12)}
    terms = {"core": np.arange(12), "rest": np.arange(400)}
    names = enrich_systems(members, tree("S0>S1", "S1>S2"), [Source("GO", terms)]).names
    assert list(names) == ["S2"]


def test_siblings_never_share_a_name_and_strangers_may():
    members = {"S0": np.arange(400), "S1": np.arange(10), "S2": rows((10, 18)), "S3": rows((300, 340))}
    terms = {"complex": np.arange(18), "rest": np.arange(400)}
    siblings = tree("S0>S1", "S0>S2", "S0>S3")
    assert list(enrich_systems(members, siblings, [Source("GO", terms)]).names) == ["S1"]
    members |= {"S4": rows((100, 130), (10, 18))}
    strangers = tree("S0>S1", "S0>S4", "S4>S2", "S0>S3")
    assert list(enrich_systems(members, strangers, [Source("GO", terms)]).names) == ["S1", "S2"]


def test_of_equals_the_first_keeps_the_name():
    members = {"S0": np.arange(200), "S2": rows((5, 10)), "S1": np.arange(5)}
    terms = {"complex": np.arange(10), "rest": np.arange(200)}
    names = enrich_systems(members, tree("S0>S1", "S0>S2"), [Source("GO", terms)]).names
    assert list(names) == ["S2"]


def test_a_preferred_term_names_a_system_even_where_another_fits_better():
    members = {"S0": np.arange(100), "S1": np.arange(10)}
    sources = [Source("GO", {"function": np.arange(10), "place": np.arange(11), "rest": np.arange(100)})]
    names = [enrich_systems(members, tree("S0>S1"), sources, preferred=which).names for which in ((), {"place"})]
    assert [name["S1"].term_id for name in names] == ["function", "place"]


def test_a_large_system_is_not_called_after_a_small_part_of_it():
    members = {"S0": np.arange(400), "S1": np.arange(40)}
    found = enrich_systems(members, tree("S0>S1"), [Source("CORUM", {"complex": np.arange(9), "rest": np.arange(400)})])
    assert found.best[0].p_adjusted < 1e-6
    assert found.best[0].jaccard > 0.2
    assert found.names == {}


def test_a_name_does_not_hang_on_one_protein():
    members = {"S0": np.arange(2000), "S1": np.arange(4)}
    for n_term, named in ((7, True), (8, False)):
        term = rows((2, 4), (100, 100 + n_term - 2))
        found = enrich_systems(members, tree("S0>S1"), [Source("GO", {"term": term, "rest": np.arange(2000)})])
        assert [row.n_shared for row in found.best] == [2]
        assert bool(found.names) == named


def test_a_catalogue_of_few_proteins_does_not_speak_for_the_rest():
    members = {"S0": np.arange(1000), "S1": np.arange(40)}
    complexes = Source("CORUM", {"complex": np.arange(8), "others": rows((8, 10), (100, 200))})
    places = Source("GO", {"place": rows((0, 30), (500, 520)), "rest": np.arange(1000)})
    found = enrich_systems(members, tree("S0>S1"), [complexes, places])
    by_term = {row.term_id: row for row in found.best}
    assert by_term["complex"].jaccard > by_term["place"].jaccard
    assert found.names["S1"].term_id == "place"


def test_a_system_without_annotated_members_has_no_name_and_breaks_nothing():
    members = {"S0": np.arange(100), "S1": rows((90, 100)), "S2": np.arange(6)}
    sources = [Source("empty", {}), Source("GO", {"a": np.arange(6), "rest": np.arange(80)}), Source("none", {"b": []})]
    found = enrich_systems(members, tree("S0>S1", "S0>S2"), sources)
    assert list(found.names) == ["S2"]
    assert {row.system for row in found.best} == {"S2"}


def test_rows_outside_the_map_and_rows_given_twice_change_nothing():
    members = {"S0": np.arange(100), "S1": np.arange(6)}
    plain = Source("GO", {"a": np.arange(6), "rest": np.arange(100)})
    noisy = Source("GO", {"a": np.array([5, 4, 3, 2, 1, 0, 0, 700]), "rest": np.arange(100), "b": np.arange(500, 900)})
    one, two = (enrich_systems(members, tree("S0>S1"), [source]).names["S1"] for source in (plain, noisy))
    for name, value in vars(one).items():
        assert np.array_equal(value, getattr(two, name))


def test_without_annotations_or_systems_nothing_is_named():
    nothing = enrich_systems({"S0": np.arange(9), "S1": np.arange(5)}, tree("S0>S1"), [])
    assert (nothing.best, nothing.names, nothing.significant) == ([], {}, {})
    root = nx.DiGraph()
    root.add_node("S0")
    assert enrich_systems({"S0": np.arange(9)}, root, [Source("GO", {"a": np.arange(4)})]).names == {}
    assert find_discoveries({"S0": np.arange(9)}, root, [], nothing) == []


def test_shuffled_annotations_name_next_to_nothing(rng):
    members, graph, sources = a_map(rng)
    n_named = 0
    for _ in range(20):
        order = rng.permutation(300)
        shuffled = [Source(s.name, {term: order[own] for term, own in s.terms.items()}) for s in sources]
        n_named += len(enrich_systems(members, graph, shuffled).names)
    assert n_named <= 0.01 * 20 * (len(members) - 1)


def test_the_best_terms_of_a_system_are_listed_and_its_name_always(monkeypatch):
    monkeypatch.setattr(enrichment, "N_BEST", 3)
    members = {"S0": np.arange(200), "S1": np.arange(20)}
    terms = {f"function {i}": np.arange(20 - i) for i in range(6)} | {"place": rows((10, 30)), "rest": np.arange(200)}
    found = enrich_systems(members, tree("S0>S1"), [Source("GO", terms)], preferred={"place"})
    assert [row.term_id for row in found.best] == ["function 0", "function 1", "function 2", "place"]
    assert len(found.significant["S1"]) == 7
    assert found.names["S1"] is found.best[-1]


def test_relatives_are_above_below_and_beside():
    graph = tree("S0>S1", "S0>S2", "S1>S3", "S1>S4", "S2>S4", "S2>S5", "S3>S6")
    systems = [f"S{i}" for i in range(1, 7)]
    positions = relatives_of(graph, systems)
    found = {system: {systems[i] for i in own} for system, own in zip(systems, positions, strict=True)}
    assert found["S1"] == {"S2", "S3", "S4", "S6"}
    assert found["S4"] == {"S1", "S2", "S3", "S5"}
    assert found["S6"] == {"S1", "S3"}


def test_membership_is_rows_of_0_and_1():
    sets = {"a": np.array([3, 1, 1]), "b": np.array([], int)}
    assert membership(sets, 4).toarray().tolist() == [[0, 1, 0, 1], [0, 0, 0, 0]]
    assert membership({}, 4).shape == (0, 4)


@pytest.fixture
def organelles():
    """A mitochondrion of 20 with a ribosome of 8 in it, and a nucleus; some of their proteins have other terms."""
    members = {"S0": np.arange(200), "S1": np.arange(20), "S2": np.arange(8), "S3": rows((100, 130))}
    terms = {
        "mitochondrion": rows((0, 2), (3, 17)),  # not 2, 17, 18, 19
        "ribosome": np.arange(7)[np.arange(7) != 2],  # not 2, 7
        "nucleus": rows((17, 18), (100, 128)),
        "elsewhere": rows((2, 3), (140, 190)),
        "protein": np.delete(np.arange(200), [2, 18]),  # 19 has nothing else
    }
    return members, tree("S0>S1", "S1>S2", "S0>S3"), [Source("GO", terms)]


def test_discoveries_are_what_nothing_known_explains_at_the_smallest_system(organelles):
    members, graph, sources = organelles
    found = enrich_systems(members, graph, sources)
    named = {system: row.term_id for system, row in found.names.items()}
    assert named == {"S1": "mitochondrion", "S2": "ribosome", "S3": "nucleus"}
    of_ribosome, of_mitochondrion, of_nucleus = 7 / 10, 17 / 21, 29 / 32
    assert find_discoveries(members, graph, sources, found) == [
        Discovery(128, "S3", "unannotated", "GO", "nucleus", of_nucleus),
        Discovery(129, "S3", "unannotated", "GO", "nucleus", of_nucleus),
        Discovery(17, "S1", "unexpected", "GO", "mitochondrion", of_mitochondrion),
        Discovery(18, "S1", "unannotated", "GO", "mitochondrion", of_mitochondrion),
        Discovery(19, "S1", "unannotated", "GO", "mitochondrion", of_mitochondrion),
        Discovery(2, "S2", "unexpected", "GO", "ribosome", of_ribosome),
    ]


def test_stability_weighs_discoveries(organelles):
    members, graph, sources = organelles
    found = enrich_systems(members, graph, sources)
    stability = {"S1": 1.0, "S2": 0.5, "S3": 0.1}
    discoveries = find_discoveries(members, graph, sources, found, stability=stability)
    assert [discovery.system for discovery in discoveries] == ["S1"] * 3 + ["S2"] + ["S3"] * 2
    assert discoveries[-1].score == pytest.approx(0.1 * 29 / 32)


def test_a_place_known_from_another_source_explains_a_protein_and_a_function_does_not(organelles):
    members, graph, (go,) = organelles
    other = Source("other", {"matrix": rows((4, 19)), "energy": rows((0, 18), (19, 20)), "rest": np.arange(150)})
    places = {"mitochondrion", "ribosome", "nucleus", "elsewhere", "matrix"}
    found = enrich_systems(members, graph, [go, other], preferred=places)
    assert found.names["S1"].term_id == "mitochondrion"
    assert {"matrix", "energy"} <= {term.term_id for term in found.significant["S1"]}
    discoveries = find_discoveries(members, graph, [go, other], found, preferred=places)
    assert {d.row for d in discoveries if d.system == "S1"} == {19}


def test_a_name_that_few_members_have_makes_no_discoveries():
    members = {"S0": np.arange(300), "S1": np.arange(30)}
    sources = [Source("GO", {"term": np.arange(12), "others": rows((12, 28), (100, 150)), "rest": np.arange(300)})]
    found = enrich_systems(members, tree("S0>S1"), sources)
    assert found.names["S1"].n_shared == 12
    assert find_discoveries(members, tree("S0>S1"), sources, found) == []


def test_discoveries_equal_a_slow_twin(rng):
    members, graph, sources = a_map(rng)
    found = enrich_systems(members, graph, sources)
    assert found.names
    wanted = {}
    for system in sorted(found.names, key=lambda system: len(members[system])):
        name = found.names[system]
        source = next(source for source in sources if source.name == name.source)
        known = set(np.concatenate(list(source.terms.values())).tolist())
        significant = {term for where, term in found.significant[system] if where == source.name}
        for row in members[system].tolist():
            own = {term for term, has in source.terms.items() if row in has and len(set(has)) <= len(known) / 2}
            if row not in wanted and not own & significant and name.n_shared >= name.n_system / 2:
                wanted[row] = (system, "unexpected" if own else "unannotated")
    discoveries = find_discoveries(members, graph, sources, found)
    assert {d.row: (d.system, d.kind) for d in discoveries} == wanted
    assert len(wanted) == len(discoveries) > 5
