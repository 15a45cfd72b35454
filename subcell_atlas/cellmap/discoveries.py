"""What in named systems is new: proteins that nothing known of them puts there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from .enrichment import Enrichment, Enrichments, Source, Term, backgrounds_of, lines_of, terms_by_rows, terms_of

if TYPE_CHECKING:
    import networkx as nx

__all__ = ["Discovery", "find_discoveries"]

MIN_MAJORITY = 0.5  # of a system's annotated members must have its name, for the others to be discoveries


@dataclass(frozen=True)
class Discovery:
    """A protein of a named system that its annotations do not explain.

    kind: "unannotated" when nothing is known of it, "unexpected" when what is known is something else. source and
    term_id: the system's name. score: in [0, 1], how far the case is to be trusted.
    """

    row: int
    system: str
    kind: str
    source: str
    term_id: str
    score: float


def find_discoveries(
    members: Mapping[str, np.ndarray],
    graph: nx.DiGraph,
    sources: Sequence[Source],
    found: Enrichments,
    *,
    preferred: Collection[str] = (),
    stability: Mapping[str, float] | None = None,
) -> list[Discovery]:
    """Find the proteins that are in a named system and that nothing known of them puts there, best first.

    What is known of a protein is its annotations in the source of the system's name; when the name is one of the
    `preferred` terms, then in all of those: that a protein is in no complex on record is no news when its compartment
    is known. Terms of more than half of the background say nothing and do not count. A protein is

    - unannotated: nothing is known of it;
    - unexpected: something is, but none of it is significant in the system, above or below it.

    Only systems count whose name at least half of the annotated members have: the others say little of one more. A
    protein is reported once, in the smallest system in which it is a discovery. The score is the share of the
    annotated members that have the name × the system's stability. The share is (k + 1) / (n + 2), so that two of two
    do not go before nineteen of twenty.

    Parameters
    ----------
    members, graph, sources, preferred
        As they were given to `enrich_systems`. Leave out sources that were made from the same pictures: with them
        every protein is annotated where it is seen.
    found
        What it returned.
    stability
        system -> how often it comes back, in [0, 1]; 1 for all when not given.
    """
    if not found.names:
        return []
    known = Known.of(members, sources, preferred)
    lines = lines_of(graph, found.names)
    found_before: set[int] = set()
    discoveries = []
    for system in sorted(found.names, key=lambda system: len(members[system])):
        name = found.names[system]
        if name.n_shared < MIN_MAJORITY * name.n_system:
            continue
        significant = {term for other in (system, *lines[system]) for term in found.significant.get(other, ())}
        rows = np.array(sorted(set(members[system].tolist()) - found_before), np.int64)
        score = (name.n_shared + 1) / (name.n_system + 2) * (1.0 if stability is None else stability[system])
        for row, kind in known.unexplained(rows, name, significant):
            found_before.add(row)
            discoveries.append(Discovery(row, system, kind, name.source, name.term_id, score))
    return sorted(discoveries, key=lambda discovery: -discovery.score)


@dataclass(frozen=True)
class Known:
    """What is known of each protein.

    has: (rows, terms) of 0 and 1. position: the column of each term. The rest tells of each column what it is: whether
    it says anything (is not too common), its source, whether it is preferred.
    """

    has: sparse.csr_matrix
    position: dict[Term, int]
    is_telling: np.ndarray
    source: np.ndarray
    is_preferred: np.ndarray

    @classmethod
    def of(cls, members: Mapping[str, np.ndarray], sources: Sequence[Source], preferred: Collection[str]) -> Known:
        """Collect it from sources."""
        backgrounds = backgrounds_of(members, sources)
        is_telling = np.concatenate([~background.too_common for background in backgrounds])
        has = terms_by_rows(backgrounds).T.tocsr()
        terms = terms_of(sources)
        position = {term: i for i, term in enumerate(terms)}
        is_preferred = np.array([term.term_id in preferred for term in terms], bool)
        return cls(has, position, is_telling, np.array([term.source for term in terms]), is_preferred)

    def unexplained(self, rows: np.ndarray, name: Enrichment, significant: Iterable[Term]) -> list[tuple[int, str]]:
        """Return those of the rows of a system with this name that no significant term explains, and their kind."""
        by_place = self.is_preferred[self.position[Term(name.source, name.term_id)]]
        counts = self.is_telling & (self.is_preferred if by_place else self.source == name.source)
        is_significant = np.zeros(len(counts), bool)
        is_significant[[self.position[term] for term in significant]] = True
        own = self.has[rows]
        n_known, n_explaining = (own @ which.astype(np.int64) for which in (counts, counts & is_significant))
        kinds = ["unexpected" if n else "unannotated" for n in n_known]
        return [(int(row), kind) for row, kind, n in zip(rows, kinds, n_explaining, strict=True) if not n]
