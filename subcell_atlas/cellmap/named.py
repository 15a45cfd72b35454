"""A hierarchy whose members have names: what maps of this package and of others have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import networkx as nx

from ..errors import BadInput

__all__ = ["ABOUT", "NamedMap", "check_acyclic", "check_map", "label", "levels", "one_root"]

ABOUT = {  # key of `about` -> network attribute that NDEx knows
    "title": "name",
    "description": "description",
    "generated_by": "prov:wasGeneratedBy",
    "derived_from": "prov:wasDerivedFrom",
}


@dataclass(frozen=True)
class NamedMap:
    """A hierarchy whose members have names.

    graph: systems with their columns (system_id, level, size, term_name, ...; a value may be None); edges go from
        parent to child and carry overlap, the share of the child in the parent.
    members: system -> names of its proteins: protein ids, or gene symbols in a map from elsewhere.
    about: title, description, generated_by, derived_from, and any other provenance.
    """

    graph: nx.DiGraph
    members: dict[str, list[str]]
    about: dict[str, Any]


def check_map(named: NamedMap, what: str) -> None:
    """Raise BadInput when `named`, called `what`, is no hierarchy of systems that hold proteins."""
    if not len(named.graph):
        raise BadInput(f"{what} holds no systems.")
    check_acyclic(named.graph, what)
    empty = [system for system in named.graph if not named.members.get(system)]
    if empty:
        raise BadInput(
            f"{what} has {len(empty)} of {len(named.graph)} systems without proteins, first {empty[0]!r}."
            "\nGive every system its proteins, or leave it out."
        )


def check_acyclic(graph: nx.DiGraph, what: str) -> None:
    """Raise BadInput when a system of the graph lies inside itself."""
    try:
        loop = [parent for parent, _ in nx.find_cycle(graph)]
    except nx.NetworkXNoCycle:
        return
    way = " → ".join(repr(system) for system in [*loop[:5], *(["…"] if len(loop) > 5 else []), loop[0]])
    raise BadInput(f"{what} is no hierarchy: a system lies inside itself ({way}).\nLeave out one of these edges.")


def one_root(named: NamedMap) -> NamedMap:
    """Return the map with a root above its roots, which holds what they hold; a map of one root as it is."""
    roots = [system for system, n_parents in named.graph.in_degree if n_parents == 0]
    if len(roots) == 1:
        return named
    root = "root"
    while root in named.graph:
        root += "_"
    held = list(dict.fromkeys(name for system in roots for name in named.members[system]))
    graph = nx.DiGraph()
    graph.add_node(root, system_id=root, size=len(held))
    graph.add_nodes_from((system, dict(node)) for system, node in named.graph.nodes(data=True))
    graph.add_edges_from(named.graph.edges(data=True))
    graph.add_edges_from((root, system, {"overlap": 1.0}) for system in roots)
    for system, level in levels(graph).items():
        graph.nodes[system]["level"] = level
    return NamedMap(graph, {root: held, **named.members}, named.about)


def levels(graph: nx.DiGraph) -> dict[str, int]:
    """Return each system's level: the length of the longest path from a root."""
    level: dict[str, int] = {}
    for system in nx.topological_sort(graph):
        level[system] = max((level[parent] + 1 for parent in graph.predecessors(system)), default=0)
    return level


def label(graph: nx.DiGraph, system: str) -> str:
    """Return what people read for a system: the name of its term, or its id."""
    return str(graph.nodes[system].get("term_name") or system)
