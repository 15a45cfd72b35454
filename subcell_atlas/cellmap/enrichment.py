"""What systems are: terms whose proteins are in a system more often than chance explains.

A source is one catalogue of terms (GO, CORUM, Reactome …). Its background is the proteins of the map that it says
anything about: what was never annotated cannot be missing from a system. The test is the one-sided hypergeometric one,
corrected after Benjamini and Hochberg over all systems and terms of all sources together. The root, which holds every
protein, is not tested.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    import networkx as nx

__all__ = [
    "Enrichment",
    "Enrichments",
    "Source",
    "Term",
    "enrich_systems",
    "membership",
]

ROOT = "S0"  # the system of all proteins
MIN_TERM = 3  # proteins of a term in the background: two could be one lucky pair
MAX_TERM_SHARE = 0.5  # of the background: what most proteins have tells no place from another
MAX_P = 0.01  # adjusted, for a term to be significant
MIN_SHARED = 2  # proteins, likewise
MIN_JACCARD = 0.1  # for a significant term to name a system, as in cellmaps_hierarchyeval
MIN_SHARE = 0.25  # of a system's annotated members, likewise: the whole is not called after a small part
MIN_CONTRAST = 1.5  # share of these members that has the term over that of all other proteins, likewise
N_BEST = 20  # terms reported of a system
NEGLIGIBLE = 1e-12  # part of a probability


@dataclass(frozen=True)
class Source:
    """A catalogue of annotations: term id -> rows of the proteins that have it."""

    name: str
    terms: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Enrichment:
    """A term that is over-represented in a system.

    n_members, n_system: the system's members, and those that the source says anything about. information_content:
    -log2 of the term's share of the background, in bits. score: jaccard × information_content × the share of the
    members that the source knows. rows: the proteins that are in both, ascending.
    """

    system: str
    source: str
    term_id: str
    n_shared: int
    n_members: int
    n_system: int
    n_term: int
    n_background: int
    p_value: float
    p_adjusted: float
    jaccard: float
    information_content: float
    score: float
    rows: np.ndarray


class Term(NamedTuple):
    """A term of a source."""

    source: str
    term_id: str


@dataclass(frozen=True)
class Enrichments:
    """What the terms say of the systems.

    best: of each system the `N_BEST` significant terms of the highest score, and its name if that is not among them.
    names: system -> the term that names it; a system without a name is not in it.
    significant: system -> all its significant terms.
    """

    best: list[Enrichment]
    names: dict[str, Enrichment]
    significant: dict[str, frozenset[Term]]


@dataclass(frozen=True)
class Background:
    """What a source says of the proteins of the map.

    has: (terms, rows) of 0 and 1. known: the rows that have any term. sizes: the rows that each term has.
    """

    has: sparse.csr_matrix
    known: np.ndarray
    sizes: np.ndarray

    @property
    def too_common(self) -> np.ndarray:
        """Whether each term is too common to tell a place from another."""
        return self.sizes > MAX_TERM_SHARE * len(self.known)


@dataclass(frozen=True)
class Tests:
    """Pairs of a system and a term that share proteins, as columns of one length.

    system and term: positions in the list of systems and in that of the terms of all sources.
    """

    system: np.ndarray
    term: np.ndarray
    n_shared: np.ndarray
    n_members: np.ndarray
    n_system: np.ndarray
    n_term: np.ndarray
    n_background: np.ndarray
    p_value: np.ndarray
    p_adjusted: np.ndarray
    jaccard: np.ndarray
    information_content: np.ndarray
    score: np.ndarray


def enrich_systems(
    members: Mapping[str, np.ndarray], graph: nx.DiGraph, sources: Sequence[Source], *, preferred: Collection[str] = ()
) -> Enrichments:
    """Find the terms that describe each system, and the one that names it.

    A term is significant with an adjusted p of at most 0.01 and two shared proteins. It may name the system when its
    Jaccard index is at least 0.1 even without one of the shared proteins, a quarter of the annotated members have it,
    and 1.5 times as large a share as of all other proteins. The best name has the highest Jaccard index × information
    content (the smallest p favors the large and general) × share of the members that its source knows (so that a
    catalogue of few proteins does not speak for the rest).

    And of a system and its relatives (those above it, below it, and beside it under one parent) a term names only the
    one that it describes best. So no two of them share a name, a part of the ribosome is not called after the whole,
    nor the whole after a part. What is left without a term of its own has no name, which is an answer too.

    A system of four can be named after two proteins that share a rare term. It cannot be named after a term of 30
    proteins or more, of which it is too small a part: that is reported, and may name what the system lies in.

    Parameters
    ----------
    members
        system -> rows of proteins; the root holds all of the map.
    graph
        parent -> child between all the systems, from the root.
    sources
        What is known; rows that are not in the map are left out.
    preferred
        Ids of terms that go before all others as names: a system is a place seen in pictures, so a place that explains
        it is the better name even where a function fits too.
    """
    systems = [system for system in members if system != ROOT]
    terms = terms_of(sources)
    if not systems or not terms:
        return Enrichments([], {}, {})
    backgrounds = backgrounds_of(members, sources)
    in_system = membership({system: members[system] for system in systems}, backgrounds[0].has.shape[1])
    tests = significant_tests(in_system, backgrounds)
    by_score = np.lexsort((tests.term, tests.system, -tests.n_shared, -tests.score))
    fitting = by_score[is_name(tests)[by_score]]
    at_home = best_among_relatives(tests, fitting, relatives_of(graph, systems), [term.term_id for term in terms])
    first = [i for i in at_home if terms[tests.term[i]].term_id in preferred]
    named = {int(tests.system[i]): int(i) for i in reversed([*first, *at_home])}  # the first that is a system's stays
    chosen = reported(tests, by_score, always=set(named.values()))
    shared = shared_rows(in_system[tests.system[chosen]], terms_by_rows(backgrounds)[tests.term[chosen]])
    rows = {
        i: as_row(tests, i, systems[tests.system[i]], terms[tests.term[i]], proteins)
        for i, proteins in zip(chosen, shared, strict=True)
    }
    names = {systems[system]: rows[named[system]] for system in sorted(named)}
    return Enrichments(list(rows.values()), names, significant_terms(tests, systems, terms))


def terms_of(sources: Sequence[Source]) -> list[Term]:
    """Return the terms of all sources, in order."""
    return [Term(source.name, term) for source in sources for term in source.terms]


def backgrounds_of(members: Mapping[str, np.ndarray], sources: Sequence[Source]) -> list[Background]:
    """Return what each source says of the proteins of the map, which are those in any system."""
    in_map = np.concatenate([np.asarray(rows, np.int64) for rows in members.values()])
    is_in_map = np.zeros(in_map.max() + 1, bool)
    is_in_map[in_map] = True
    return [background_of(source, is_in_map) for source in sources]


def background_of(source: Source, is_in_map: np.ndarray) -> Background:
    """Return what a source says of the rows (n,) that are in the map."""
    of_term = {}
    for term, rows in source.terms.items():
        within = np.asarray(rows, np.int64)[np.asarray(rows) < len(is_in_map)]
        of_term[term] = within[is_in_map[within]]
    has = membership(of_term, len(is_in_map))
    return Background(has, np.unique(has.indices), np.diff(has.indptr))


def terms_by_rows(backgrounds: Sequence[Background]) -> sparse.csr_matrix:
    """Return which rows have which term, of all sources: (terms, rows) of 0 and 1."""
    return sparse.vstack([background.has for background in backgrounds], format="csr")


def significant_tests(in_system: sparse.csr_matrix, backgrounds: Sequence[Background]) -> Tests:
    """Test every system for every term that is neither too rare nor too common; return the significant pairs.

    in_system: (systems, rows) of 0 and 1.
    """
    n_members = np.diff(in_system.indptr)
    blocks, n_tests, n_terms = [], 0, 0
    for background in backgrounds:
        tested = np.flatnonzero((background.sizes >= MIN_TERM) & ~background.too_common)
        in_term = background.has[tested][:, background.known]
        blocks.append(count_shared(in_system[:, background.known], in_term, n_terms + tested))
        n_tests += in_system.shape[0] * len(tested)
        n_terms += len(background.sizes)
    counts = np.hstack(blocks)
    p = hypergeometric_tail(*counts[2:])
    adjusted = adjust(p, n_tests)
    chosen = (adjusted <= MAX_P) & (counts[2] >= MIN_SHARED)
    return as_tests(counts[:, chosen], n_members, p[chosen], adjusted[chosen])


def count_shared(in_system: sparse.csr_matrix, in_term: sparse.csr_matrix, term: np.ndarray) -> np.ndarray:
    """Return counts as rows (6, pairs) for the pairs that share proteins: the columns of `Tests` but `n_members`.

    in_system and in_term: (systems, known) and (terms, known) of 0 and 1. term: the positions of the terms.
    """
    shared = (in_system @ in_term.T).tocoo()  # (systems, terms)
    n_system, n_term = (np.diff(sets.indptr) for sets in (in_system, in_term))
    n_background = np.full(len(shared.data), in_system.shape[1])
    columns = [shared.row, term[shared.col], shared.data, n_system[shared.row], n_term[shared.col], n_background]
    return np.stack(columns).astype(np.int64)


def hypergeometric_tail(
    n_shared: np.ndarray, n_system: np.ndarray, n_term: np.ndarray, n_background: np.ndarray
) -> np.ndarray:
    """Return the chance that as many random proteins as the system has share as many or more with the term.

    As `scipy.stats.hypergeom.sf(n_shared - 1, …)`, which takes a tenth of a millisecond for each. Of the pairs that
    share no more than expected the chance is 0.5 or more, and is given as 1: no correction can make a difference of it.
    """
    p = np.ones(len(n_shared))
    more = np.flatnonzero(n_shared * n_background > n_system * n_term)
    k, a, b, n = n_shared[more], n_system[more], n_term[more], n_background[more]
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n.max(initial=0) + 1)))])

    def log_ways(of: np.ndarray, how_many: np.ndarray) -> np.ndarray:
        return log_factorial[of] - log_factorial[how_many] - log_factorial[of - how_many]

    exactly = np.exp(log_ways(b, k) + log_ways(n - b, a - k) - log_ways(n, a))
    p[more] = np.minimum(exactly * tail_over_first(k, a, b, n), 1)
    return p


def tail_over_first(k: np.ndarray, a: np.ndarray, b: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Return the chance of sharing k or more over that of sharing k, of a proteins with b of n.

    Above the expected number each further one is less likely by a factor that keeps falling.
    """
    total, part = np.ones(len(k)), np.ones(len(k))
    left, k = np.arange(len(k)), k.copy()
    while len(left):
        j, a_left, b_left, n_left = k[left], a[left], b[left], n[left]
        part[left] *= (a_left - j) * (b_left - j) / ((j + 1) * (n_left - a_left - b_left + j + 1))
        total[left] += part[left]
        k[left] += 1
        left = left[part[left] > NEGLIGIBLE * total[left]]
    return total


def adjust(p: np.ndarray, n_tests: int) -> np.ndarray:
    """Return p-values corrected after Benjamini-Hochberg; those of the `n_tests` that are not given are 1."""
    order = np.argsort(p)
    adjusted = np.empty(len(p))
    scaled = np.minimum(p[order] * n_tests / np.arange(1, len(p) + 1), 1)
    adjusted[order] = np.minimum.accumulate(scaled[::-1])[::-1]
    return adjusted


def as_tests(counts: np.ndarray, n_members: np.ndarray, p: np.ndarray, adjusted: np.ndarray) -> Tests:
    """Return tests from what `count_shared` returns, the sizes of all systems, and the p-values of the tests."""
    system, term, n_shared, n_system, n_term, n_background = counts
    jaccard = n_shared / (n_system + n_term - n_shared)
    information = -np.log2(n_term / n_background)
    return Tests(
        system=system,
        term=term,
        n_shared=n_shared,
        n_members=n_members[system],
        n_system=n_system,
        n_term=n_term,
        n_background=n_background,
        p_value=p,
        p_adjusted=adjusted,
        jaccard=jaccard,
        information_content=information,
        score=jaccard * information * n_system / n_members[system],
    )


def is_name(tests: Tests) -> np.ndarray:
    """Tell of each test whether its term may name its system."""
    union = tests.n_system + tests.n_term - tests.n_shared
    share = tests.n_shared / tests.n_system
    share_elsewhere = (tests.n_term - tests.n_shared) / np.maximum(tests.n_background - tests.n_system, 1)
    exact = tests.n_shared - 1 >= MIN_JACCARD * (union + 1)
    return exact & (share >= MIN_SHARE) & (share >= MIN_CONTRAST * share_elsewhere)


def best_among_relatives(
    tests: Tests, by_score: np.ndarray, relatives: Sequence[set[int]], ids: Sequence[str]
) -> list[int]:
    """Return those of the tests, best first, whose term describes none of the system's relatives better."""
    before: dict[str, set[int]] = {}
    at_home = []
    for i in by_score.tolist():
        system = int(tests.system[i])
        described = before.setdefault(ids[tests.term[i]], set())
        if relatives[system].isdisjoint(described):
            at_home.append(i)
        described.add(system)
    return at_home


def reported(tests: Tests, by_score: np.ndarray, *, always: Collection[int]) -> list[int]:
    """Return the tests that are reported: the best of each system, and `always` some; by system, then best first."""
    n: dict[int, int] = {}
    chosen = []
    for i in by_score.tolist():
        system = int(tests.system[i])
        n[system] = n.get(system, 0) + 1
        if n[system] <= N_BEST or i in always:
            chosen.append(i)
    return sorted(chosen, key=lambda i: tests.system[i])


def shared_rows(one: sparse.csr_matrix, other: sparse.csr_matrix) -> list[np.ndarray]:
    """Return, for each pair of rows of 0 and 1, where both are 1."""
    both = sparse.csr_matrix(one.multiply(other))
    both.sort_indices()
    return np.split(both.indices.astype(np.int64), both.indptr[1:-1]) if both.shape[0] else []


def as_row(tests: Tests, i: int, system: str, term: Term, rows: np.ndarray) -> Enrichment:
    """Return one of the tests with the names of what was tested."""
    values: dict[str, Any] = {name: column[i].item() for name, column in vars(tests).items()}
    names = {"system": system, "source": term.source, "term_id": term.term_id}
    del values["term"]
    return Enrichment(**(values | names), rows=rows)


def significant_terms(tests: Tests, systems: Sequence[str], terms: Sequence[Term]) -> dict[str, frozenset[Term]]:
    """Return the terms of each system that has any."""
    found: dict[str, set[Term]] = {}
    for system, term in zip(tests.system.tolist(), tests.term.tolist(), strict=True):
        found.setdefault(systems[system], set()).add(terms[term])
    return {system: frozenset(own) for system, own in found.items()}


def relatives_of(graph: nx.DiGraph, systems: Sequence[str]) -> list[set[int]]:
    """Return the positions of the systems above, below and beside each; the root is nobody's relative."""
    position = {system: i for i, system in enumerate(systems)}
    lines = lines_of(graph, systems)
    found = []
    for system in systems:
        beside = {other for parent in graph.predecessors(system) for other in graph.successors(parent)}
        found.append({position[other] for other in (lines[system] | beside) - {system}})
    return found


def lines_of(graph: nx.DiGraph, systems: Iterable[str]) -> dict[str, set[str]]:
    """Return the systems above and below each; the root is not among them."""
    return {system: reach(system, graph.predecessors) | reach(system, graph.successors) for system in systems}


def reach(start: str, step: Callable[[str], Iterable[str]]) -> set[str]:
    """Return all that one or more steps from `start` lead to, the root aside."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = {system for system in step(waiting.pop()) if system != ROOT} - found
        found |= new
        waiting.extend(new)
    return found


def membership(sets: Mapping[str, np.ndarray], n: int) -> sparse.csr_matrix:
    """Return sets of indices as rows (len(sets), n) of 0 and 1."""
    rows = np.repeat(np.arange(len(sets)), [len(indices) for indices in sets.values()])
    columns = np.concatenate([np.empty(0, np.int64), *(np.asarray(indices, np.int64) for indices in sets.values())])
    found = sparse.csr_matrix((np.ones(len(rows), np.int64), (rows, columns)), shape=(len(sets), n))
    found.data[:] = 1  # an index that was there twice counts once
    return found
