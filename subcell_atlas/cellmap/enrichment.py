"""Names for systems: which term's proteins are in a system more often than chance explains.

The background is the proteins of the map that have any term: what was not imaged cannot be missing from a system.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.stats import false_discovery_control, hypergeom

__all__ = ["Name", "name_systems"]

MIN_SHARED = 2
MAX_P = 0.01


@dataclass(frozen=True)
class Name:
    """The term that names a system, with its p-value after Benjamini-Hochberg over all systems and terms."""

    term_id: str
    p_adjusted: float
    jaccard: float


def name_systems(
    members: Mapping[str, np.ndarray], terms: Mapping[str, np.ndarray], *, preferred: Collection[str] = ()
) -> dict[str, Name]:
    """Name systems by the term that matches each best.

    members and terms: name -> indices of proteins, of one numbering. Of the terms with an adjusted p of at most 0.01
    (one-sided hypergeometric test) the one with the highest Jaccard index is taken: the smallest p favors the large and
    general. One of the `preferred` terms goes before any other: a system is a place seen in pictures, so a place that
    explains it is the better name even where a function fits too. A system without such a term has no name.
    """
    if not members or not terms:
        return {}
    known = np.unique(np.concatenate(list(terms.values())))
    n = int(max(known.max(), *(rows.max(initial=0) for rows in members.values()))) + 1
    in_system = membership(members, n)[:, known]
    in_term = membership(terms, n)[:, known]
    shared = (in_system @ in_term.T).tocoo()  # (systems, terms)
    size_of_system = np.asarray(in_system.sum(axis=1)).ravel()
    size_of_term = np.asarray(in_term.sum(axis=1)).ravel()
    p = hypergeom.sf(shared.data - 1, len(known), size_of_term[shared.col], size_of_system[shared.row])
    tests = np.ones(shared.shape[0] * shared.shape[1])  # a pair that shares nothing has p = 1 and counts as a test
    tests[: len(p)] = p
    adjusted = false_discovery_control(tests)[: len(p)]
    jaccard = shared.data / (size_of_system[shared.row] + size_of_term[shared.col] - shared.data)
    system_names, term_names = list(members), list(terms)
    names: dict[str, Name] = {}
    other = np.array([term_names[column] not in preferred for column in shared.col], bool)
    for i in np.lexsort((shared.col, adjusted, -jaccard, other)):
        system = system_names[shared.row[i]]
        if system not in names and adjusted[i] <= MAX_P and shared.data[i] >= MIN_SHARED:
            names[system] = Name(term_names[shared.col[i]], float(adjusted[i]), float(jaccard[i]))
    return names


def membership(sets: Mapping[str, np.ndarray], n: int) -> sparse.csr_matrix:
    """Return sets of indices as rows (len(sets), n) of 0 and 1."""
    rows = np.repeat(np.arange(len(sets)), [len(indices) for indices in sets.values()])
    columns = np.concatenate([np.asarray(indices, np.int64) for indices in sets.values()])
    return sparse.csr_matrix((np.ones(len(rows), np.int64), (rows, columns)), shape=(len(sets), n))
