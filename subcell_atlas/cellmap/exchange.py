"""Maps for other programs: CX2 and HCX (NDEx, Cytoscape), Newick (tree viewers), HiDeF's tables.

HCX is the hierarchy as CX2: each system lists its proteins by their node ids in the interactome, a second CX2 file.
What a map needs beyond the format is from Cytoscape Web, its viewer: one root, one `interaction` for all edges, and ids
from 1, because a first member of id 0 is taken for no member.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from scipy import sparse

from .._version import __version__
from ..errors import BadInput
from ..schema import VECTORS
from ..writing import written_whole
from .cx2 import Network, plain, write_cx2
from .named import ABOUT, NamedMap, check_map, label, levels, one_root

__all__ = ["NamedMap", "hidef_pair", "write_hcx", "write_hidef", "write_interactome", "write_newick"]

ORIGINS = ("source", "encoder", "weights")  # keys of `about` that tell what a map was derived from
INTERACTION = "contains"  # the same on all edges: Cytoscape Web takes mixed ones for no hierarchy
PIXELS = 60  # between neighbors in a picture of a network; nodes are 10 to 60 wide


def write_interactome(
    path: Path, proteins: Sequence[Mapping[str, Any]], neighbors: sparse.csr_matrix, about: Mapping[str, Any]
) -> None:
    """Write the neighbor graph of the proteins as CX2.

    proteins: rows of the table; the id of a node is its row, counted from 1. With x and y they are drawn there.
    neighbors: (n, n) symmetric similarities; an edge is written once.
    """
    upper = sparse.triu(neighbors, k=1).tocoo()
    weights = upper.data.astype(np.float64).round(6).tolist()
    ends = zip((upper.row + 1).tolist(), (upper.col + 1).tolist(), weights, strict=True)
    nodes = {row: protein_attributes(protein) for row, protein in enumerate(proteins, start=1)}
    network = Network(
        network_attributes(about),
        nodes,
        [(one, other, {"weight": weight}) for one, other, weight in ends],
        places=protein_places(proteins),
        style=INTERACTOME_STYLE,
    )
    write_cx2(path, network)


def protein_attributes(protein: Mapping[str, Any]) -> dict[str, Any]:
    """Return a protein's columns as node attributes, named by its gene symbol."""
    left_out = {"x", "y", *VECTORS}  # which no viewer shows
    name = protein.get("gene_symbol") or protein["protein_id"]
    return {"name": name, **{column: value for column, value in protein.items() if column not in left_out}}


def protein_places(proteins: Sequence[Mapping[str, Any]]) -> dict[int, tuple[float, float]]:
    """Return places in pixels for the proteins with x and y, scaled so that they do not cover each other."""
    found = {row: (plain(p.get("x")), plain(p.get("y"))) for row, p in enumerate(proteins, start=1)}
    placed = {row: xy for row, xy in found.items() if None not in xy}
    extent = max((max(axis) - min(axis) for axis in zip(*placed.values(), strict=True)), default=0)
    scale = PIXELS * math.sqrt(len(placed)) / extent if extent else 1.0
    return {row: (x * scale, -y * scale) for row, (x, y) in placed.items()}  # in CX2 y goes down


def network_attributes(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return `about` as network attributes, with what made the network and what it was derived from."""
    origins = [f"{key} {about[key]}" for key in ORIGINS if about.get(key)]
    default = {
        "name": "Protein map",
        "prov:wasGeneratedBy": f"subcell-atlas {__version__}",
        "prov:wasDerivedFrom": ", ".join(origins) or None,
    }
    return {**default, **{ABOUT.get(key, key): value for key, value in about.items() if value is not None}}


def write_hcx(
    path: Path,
    named: NamedMap,
    proteins: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
    *,
    interactome: str | None,
    host: str | None,
) -> None:
    """Write the map as HCX.

    proteins: rows of the interactome, in its order.
    interactome: where the interactome is: its UUID in NDEx, its URL, or the name of its file beside this one. Cytoscape
        Web shows a hierarchy only with a UUID. None: there is none, and systems list their proteins by name.
    host: the server of the UUID, like www.ndexbio.org.
    """
    check_map(named, "The map")
    named = one_root(named)
    rows = {protein["protein_id"]: row for row, protein in enumerate(proteins, start=1)}
    symbols = {protein["protein_id"]: str(protein.get("gene_symbol") or protein["protein_id"]) for protein in proteins}
    ids = {system: number for number, system in enumerate(named.graph, start=1)}
    nodes = {}
    for system, number in ids.items():
        held = named.members[system]
        by_id = {"HCX::members": member_ids(system, held, rows)} if interactome else {"HCX::memberNames": held}
        names = [symbols.get(name, name) for name in held]
        nodes[number] = {**system_attributes(named.graph, system, names), **by_id}
    edges = [
        (ids[parent], ids[child], {"interaction": INTERACTION, "overlap": overlap})
        for parent, child, overlap in named.graph.edges(data="overlap")
    ]
    places = {ids[system]: place for system, place in tree_places(named.graph).items()}
    attributes = {
        **network_attributes(about),
        "ndexSchema": "hierarchy_v0.1",
        **interactome_attributes(interactome, host),
    }
    write_cx2(path, Network(attributes, nodes, edges, places, HIERARCHY_STYLE))


def member_ids(system: str, held: Sequence[str], rows: Mapping[str, int]) -> list[int]:
    """Return the node ids that the proteins of a system have in the interactome."""
    missing = [name for name in held if name not in rows]
    if missing:
        raise BadInput(
            f"The system {system!r} holds {missing[0]!r}, which is none of the {len(rows)} proteins of the interactome."
            "\nGive the proteins that the map was made of."
        )
    return sorted(rows[name] for name in held)


def system_attributes(graph: nx.DiGraph, system: str, names: Sequence[str]) -> dict[str, Any]:
    """Return the node attributes of a system: its columns, and those that viewers of cell maps know."""
    own = dict(graph.nodes[system])
    persistence = own.pop("persistence", None)
    return {
        **own,
        "name": label(graph, system),  # what Cytoscape Web shows
        "system_id": system,
        "represents": system,
        "HCX::isRoot": graph.in_degree(system) == 0,
        "CD_CommunityName": label(graph, system),
        "CD_Labeled": True,
        "CD_MemberList": " ".join(re.sub(r"\s+", "_", name) for name in names),
        "CD_MemberList_Size": len(names),
        "CD_MemberList_LogSize": math.log2(len(names)),
        "HiDeF_persistence": persistence,
    }


def interactome_attributes(interactome: str | None, host: str | None) -> dict[str, Any]:
    """Return the network attributes that tell where the interactome of a hierarchy is."""
    if interactome is None:
        return {"HCX::modelFileCount": 1}
    found: dict[str, Any] = {"HCX::modelFileCount": 2}
    if is_uuid(interactome):
        server = host and host.removeprefix("https://").rstrip("/")
        return {**found, "HCX::interactionNetworkUUID": interactome, "HCX::interactionNetworkHost": server}
    if re.match(r"https?://", interactome):
        return {**found, "HCX::interactionNetworkURL": interactome}
    if not re.fullmatch(r"[^/\\]+\.cx2", Path(interactome).name):
        raise BadInput(
            f"{interactome!r} is no network: give its UUID in NDEx, its address, or the name of its .cx2 file."
        )
    return {**found, "HCX::interactionNetworkName": Path(interactome).name}


def is_uuid(text: str) -> bool:
    """Tell whether `text` is a UUID as NDEx writes it."""
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def tree_places(graph: nx.DiGraph) -> dict[str, tuple[float, float]]:
    """Return a place for each system, under its first parent: parents above the middle of their children."""
    tree = nx.DiGraph()
    tree.add_nodes_from(graph)
    tree.add_edges_from((next(graph.predecessors(s)), s) for s, n_parents in graph.in_degree if n_parents)
    level = levels(graph)
    across: dict[str, float] = {}
    n_leaves = 0
    for system in nx.dfs_postorder_nodes(tree):
        below = [across[child] for child in tree.successors(system)]
        across[system] = sum(below) / len(below) if below else float(n_leaves)
        n_leaves += not below
    return {system: (x * PIXELS, level[system] * 2 * PIXELS) for system, x in across.items()}


def write_newick(path: Path, named: NamedMap) -> None:
    """Write a map in which no system has two parents as a Newick tree; its leaves are the proteins.

    A protein is put under the smallest system that holds it. Inner nodes are labelled by system and term.
    """
    check_map(named, "The map")
    named = one_root(named)
    graph = named.graph
    shared = [system for system, n_parents in graph.in_degree if n_parents > 1]
    if shared:
        parents = " and ".join(repr(parent) for parent in graph.predecessors(shared[0]))
        raise BadInput(
            f"The map is no tree: {len(shared)} of {len(graph)} systems have several parents, first {shared[0]!r} "
            f"under {parents}.\nNewick holds trees only: build one (build map --method average or subcell), or use hcx."
        )
    leaves = lowest(named)
    written: dict[str, str] = {}
    for system in reversed(list(nx.topological_sort(graph))):
        parts = [written.pop(child) for child in graph.successors(system)] + [newick_name(n) for n in leaves[system]]
        kept = [part for part in parts if part]  # a system all of whose proteins lie elsewhere would read as a protein
        term = graph.nodes[system].get("term_name")
        name = newick_name(f"{system} {term}" if term else system)
        written[system] = f"({','.join(kept)}){name}" if kept else ""
    (tree,) = written.values()
    with written_whole(path) as part:
        part.write_text(f"{tree};\n", encoding="utf-8")


def lowest(named: NamedMap) -> dict[str, list[str]]:
    """Return for each system the proteins that no smaller one holds; of two of a size the deeper has them."""
    depth = levels(named.graph)
    owner: dict[str, str] = {}
    for system in sorted(named.graph, key=lambda s: (len(named.members[s]), -depth[s])):
        for name in named.members[system]:
            owner.setdefault(name, system)
    held: dict[str, list[str]] = {system: [] for system in named.graph}
    for name, system in owner.items():
        held[system].append(name)
    return held


def newick_name(name: str) -> str:
    """Return a name as Newick reads it back: quoted where it holds more than letters, digits, `.` and `-`.

    A bare `_` would be read as a blank, and a bare number on an inner node as its support.
    """
    name = " ".join(name.split())
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9.-]*", name):
        return name
    return "'" + name.replace("'", "''") + "'"


def write_hidef(path: Path, named: NamedMap) -> None:
    """Write HiDeF's two tables: the systems into `path` (.nodes) and what lies in what beside it (.edges)."""
    check_map(named, "The map")
    blank = [name for held in named.members.values() for name in held if len(name.split()) != 1]
    if blank:
        raise BadInput(
            f"HiDeF separates proteins by blanks, and {blank[0]!r} has one. Export hcx, or rename the protein."
        )
    broken = [system for system in named.graph if re.search(r"[\t\r\n]", system)]
    if broken:
        raise BadInput(f"HiDeF separates columns by tabs, and the system {broken[0]!r} has a tab or a line break.")
    rows = []
    for system, node in named.graph.nodes(data=True):
        held = named.members[system]
        rows.append(f"{system}\t{len(held)}\t{' '.join(held)}\t{node.get('persistence') or 0}\n")
    edges = [f"{parent}\t{child}\tdefault\n" for parent, child in named.graph.edges]
    nodes_path, edges_path = hidef_pair(path)
    with written_whole(nodes_path) as nodes_part, written_whole(edges_path) as edges_part:
        nodes_part.write_text("".join(rows), encoding="utf-8")
        edges_part.write_text("".join(edges), encoding="utf-8")


def hidef_pair(path: Path) -> tuple[Path, Path]:
    """Return the paths of HiDeF's two files; `path` is either of them, or both without their ending."""
    stem = path.with_suffix("") if path.suffix in (".nodes", ".edges") else path
    return stem.with_name(f"{stem.name}.nodes"), stem.with_name(f"{stem.name}.edges")


def by_log_size(smallest: int, largest: int) -> dict[str, Any]:
    """Return a CX2 mapping of a system's size, as log2, to pixels; 2**14 is more than the proteome."""
    steps = [
        {"includeMin": False, "includeMax": False, "max": 0, "maxVPValue": smallest},
        {"includeMin": True, "includeMax": True, "min": 0, "minVPValue": smallest, "max": 14, "maxVPValue": largest},
        {"includeMin": False, "includeMax": False, "min": 14, "minVPValue": largest},
    ]
    return {
        "type": "CONTINUOUS",
        "definition": {"attribute": "CD_MemberList_LogSize", "type": "double", "map": steps},
    }


def by_text(attribute: str) -> dict[str, Any]:
    """Return a CX2 mapping that shows an attribute as it is."""
    return {"type": "PASSTHROUGH", "definition": {"attribute": attribute, "type": "string"}}


HIERARCHY_STYLE = {
    "default": {
        "network": {"NETWORK_BACKGROUND_COLOR": "#FFFFFF"},
        "node": {"NODE_SHAPE": "ellipse", "NODE_BACKGROUND_COLOR": "#9ECAE1", "NODE_LABEL_MAX_WIDTH": 200},
        "edge": {"EDGE_LINE_COLOR": "#999999", "EDGE_TARGET_ARROW_SHAPE": "triangle", "EDGE_WIDTH": 1},
    },
    "nodeMapping": {
        "NODE_WIDTH": by_log_size(10, PIXELS),
        "NODE_HEIGHT": by_log_size(10, PIXELS),
        "NODE_LABEL": by_text("CD_CommunityName"),
        "NODE_LABEL_FONT_SIZE": by_log_size(8, 20),
    },
    "edgeMapping": {},
}
INTERACTOME_STYLE = {
    "default": {
        "network": {"NETWORK_BACKGROUND_COLOR": "#FFFFFF"},
        "node": {"NODE_SHAPE": "ellipse", "NODE_BACKGROUND_COLOR": "#9ECAE1", "NODE_WIDTH": 20, "NODE_HEIGHT": 20},
        "edge": {"EDGE_LINE_COLOR": "#CCCCCC", "EDGE_WIDTH": 1},
    },
    "nodeMapping": {"NODE_LABEL": by_text("name")},
    "edgeMapping": {},
}
