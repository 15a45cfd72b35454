"""Maps from elsewhere: HCX (ours, cellmaps', NDEx's), HiDeF's tables, DDOT's .ont, and edge lists."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import networkx as nx

from ..errors import BadInput
from .cx2 import Network, parse_cx2
from .exchange import hidef_pair
from .named import ABOUT, NamedMap, check_acyclic, check_map, levels, one_root

__all__ = ["read_map"]

KNOWN = "Maps are read from .cx2, HiDeF's .nodes and .edges, DDOT's .ont, and edge lists (.tsv, .csv: parent, child)."
HEADS = (  # how the first two columns of an edge list are called, in tables that have a first row of names
    ("parent", "child"),
    ("parent_id", "child_id"),
    ("source", "target"),
    ("from", "to"),
    ("system_id", "protein_id"),
    ("system", "member"),
    ("term", "gene"),
)
KIND_HEADS = ("type", "edgetype", "kind")
GENE_KINDS = ("gene", "gene-term")  # of CliXO and DDOT
MEMBER_ATTRIBUTES = ("HCX::members", "HCX::memberNames", "CD_MemberList")
REPLACED = {  # attributes that are members, or that columns of ours stand for
    *("name", "represents", "CD_CommunityName", "CD_Labeled", "HiDeF_persistence"),
    *("CD_MemberList", "CD_MemberList_Size", "CD_MemberList_LogSize"),
}


class Edge(NamedTuple):
    """A row of an edge list."""

    parent: str
    child: str
    kind: str
    line: int


def read_map(path: Path) -> NamedMap:
    """Read a hierarchy, whatever program wrote it. The members of systems are as the file gives them.

    In edge lists and .ont files a system holds what lies under it. A map with several roots gets one above them.
    Systems carry system_id, level, size, persistence and term_name (either may be None) and what else the file has.
    """
    path = Path(path)
    if path.suffix in (".nodes", ".edges"):
        named = read_hidef(path)
    else:
        text = read_text(path)
        is_json = path.suffix == ".cx2" or text.lstrip().startswith(("[", "{"))
        named = hierarchy(parse_cx2(text, path), path) if is_json else from_edges(text, path)
    check_map(named, repr(str(path)))
    return one_root(completed(named))


def completed(named: NamedMap) -> NamedMap:
    """Give systems and edges what maps of this package have: id, level, size, name and overlap."""
    graph, members = named.graph, named.members
    for system, level in levels(graph).items():
        node = {"term_name": None, "persistence": None, "level": level, **graph.nodes[system]}
        graph.nodes[system].update(node, system_id=system, size=len(members[system]))
    held = {system: set(names) for system, names in members.items()}
    for parent, child, edge in graph.edges(data=True):
        edge.setdefault("overlap", len(held[parent] & held[child]) / len(held[child]))
    return named


def read_text(path: Path, *, empty: bool = False) -> str:
    """Return the text of a file, which must be UTF-8; it may be `empty` if told so."""
    if path.is_dir():
        raise BadInput(f"{str(path)!r} is a folder; name a file.\n{KNOWN}")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise BadInput(f"There is no file {str(path)!r}. Check its name and folder.") from None
    except OSError as exc:
        raise BadInput(f"{str(path)!r} cannot be read: {exc.strerror}.") from exc
    if content.startswith((b"\x1f\x8b", b"PK\x03\x04")):
        raise BadInput(f"{str(path)!r} is compressed; unpack it first.")
    if b"\x00" in content:
        raise BadInput(f"{str(path)!r} is no text in UTF-8 but binary.\n{KNOWN}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise BadInput(
            f"{str(path)!r} is no text in UTF-8: line {line} has the byte 0x{content[exc.start]:02x}. Save it as UTF-8."
        ) from exc
    if not text.strip() and not empty:
        raise BadInput(f"{str(path)!r} is empty.\n{KNOWN}")
    return text


def hierarchy(network: Network, path: Path) -> NamedMap:
    """Return the hierarchy that a CX2 network is."""
    if not network.nodes:
        raise BadInput(f"{str(path)!r} is a network without nodes.")
    if not any(node.get(name) for node in network.nodes.values() for name in MEMBER_ATTRIBUTES):
        raise BadInput(
            f"{str(path)!r} is a network but no hierarchy: none of its {len(network.nodes)} nodes has "
            f"{', '.join(MEMBER_ATTRIBUTES[:2])} or {MEMBER_ATTRIBUTES[2]}.\nGive the file of the systems (HCX)."
        )
    systems = system_ids(network.nodes)
    members = members_of(network, path)
    graph = nx.DiGraph()
    for number, system in systems.items():
        graph.add_node(system, **system_columns(network.nodes[number], system))
    for parent, child, edge in network.edges:
        overlap = edge.get("overlap")
        add_edge(graph, systems[parent], systems[child], path, **({} if overlap is None else {"overlap": overlap}))
    return NamedMap(graph, {systems[number]: names for number, names in members.items()}, about_of(network, path))


def system_ids(nodes: Mapping[int, Mapping[str, Any]]) -> dict[int, str]:
    """Return what each node is called: by the first attribute that tells them all apart, or by its number."""
    for name in ("system_id", "represents", "name"):
        found = {number: str(node.get(name) or "") for number, node in nodes.items()}
        if "" not in found.values() and len(set(found.values())) == len(nodes):
            return found
    return {number: str(number) for number in nodes}


def system_columns(node: Mapping[str, Any], system: str) -> dict[str, Any]:
    """Return the attributes of a node, without members, under the names that this package has for them."""
    columns = {name: value for name, value in node.items() if name not in REPLACED and not name.startswith("HCX::")}
    called = node.get("CD_CommunityName") or node.get("name")
    if called and called != system:
        columns.setdefault("term_name", called)
    if "HiDeF_persistence" in node:
        columns.setdefault("persistence", node["HiDeF_persistence"])
    return columns


def members_of(network: Network, path: Path) -> dict[int, list[str]]:
    """Return the names of each node's members: from the interactome where it is beside the file, else its own lists."""
    beside = interactome_beside(network, path)
    names = protein_names(beside) if beside else {}
    found: dict[int, list[str]] = {}
    for number, node in network.nodes.items():
        held: list[str] = []
        if beside and node.get("HCX::members"):
            held = names_of(node["HCX::members"], names, beside)
        elif node.get("HCX::memberNames"):
            held = [str(name) for name in node["HCX::memberNames"]]
        elif node.get("CD_MemberList"):
            held = str(node["CD_MemberList"]).split()
        elif node.get("HCX::members"):
            raise unnamed(network, path)
        found[number] = list(dict.fromkeys(held))
    return found


def interactome_beside(network: Network, path: Path) -> Path | None:
    """Return the interactome's file in the folder of the hierarchy `path`, if it is there."""
    name = network.attributes.get("HCX::interactionNetworkName")
    uuid = network.attributes.get("HCX::interactionNetworkUUID")
    named = [Path(str(name)).name] if name else []  # never a way out of the folder
    numbered = [f"{Path(str(uuid)).name}.cx2"] if uuid else []
    for candidate in (path.with_name(file) for file in [*named, *numbered] if file):
        if candidate.is_file() and candidate.resolve() != path.resolve():
            return candidate
    return None


def protein_names(path: Path) -> dict[int, str]:
    """Return the name of each node of an interactome: the protein id in ours, else `name`."""
    nodes = parse_cx2(read_text(path), path).nodes
    names = {number: node.get("protein_id") or node.get("name") for number, node in nodes.items()}
    return {number: str(name) for number, name in names.items() if name}


def names_of(ids: list[int], names: Mapping[int, str], interactome: Path) -> list[str]:
    """Return the names that `ids` have in the interactome."""
    missing = [number for number in ids if number not in names]
    if missing:
        raise BadInput(
            f"A system holds the protein {missing[0]}, and {str(interactome)!r} names none of this id."
            "\nPut the interactome of this hierarchy beside it, or none."
        )
    return [names[number] for number in ids]


def unnamed(network: Network, path: Path) -> BadInput:
    """Return the error about a hierarchy whose members are numbers of a network that is not there."""
    name = network.attributes.get("HCX::interactionNetworkName")
    uuid = network.attributes.get("HCX::interactionNetworkUUID")
    file = name or (f"{uuid}.cx2" if uuid else None)
    todo = f"Put it there, as {file}." if file else "Write the hierarchy with HCX::memberNames."
    return BadInput(
        f"{str(path)!r} gives its proteins by number only; the interactome that names them is not beside it.\n{todo}"
    )


def about_of(network: Network, path: Path) -> dict[str, Any]:
    """Return what the network says about itself, under the keys of `NamedMap.about`."""
    keys = {attribute: key for key, attribute in ABOUT.items()}
    own = {keys.get(name, name): value for name, value in network.attributes.items() if not is_plumbing(name)}
    return {"title": path.stem, **own}


def is_plumbing(attribute: str) -> bool:
    """Tell whether a network attribute ties files together, and says nothing about the map."""
    return attribute == "ndexSchema" or attribute.startswith(("HCX::", "__"))


def read_hidef(path: Path) -> NamedMap:
    """Read HiDeF's two files, of which `path` is one."""
    nodes_path, edges_path = hidef_pair(path)
    for other in (nodes_path, edges_path):
        if not other.exists() and path.exists():
            raise BadInput(f"There is no {other.name!r} beside {str(path)!r}. HiDeF writes both; put them together.")
    graph = nx.DiGraph()
    members: dict[str, list[str]] = {}
    for line, row in enumerate(read_text(nodes_path).splitlines(), start=1):
        fields = [field.strip() for field in row.split("\t")]
        is_head = line == 1 and len(fields) > 1 and fields[1] != "" and number(fields[1]) is None
        if fields == [""] or is_head:
            continue
        if len(fields) < 3 or not fields[0]:
            raise BadInput(
                f"Line {line} of {str(nodes_path)!r} has not the columns of HiDeF: name, size, proteins, persistence."
            )
        if fields[0] in members:
            raise BadInput(f"{str(nodes_path)!r} has the system {fields[0]!r} twice, again in line {line}.")
        members[fields[0]] = list(dict.fromkeys(fields[2].split()))
        persistence = number(fields[3]) if len(fields) > 3 else None
        graph.add_node(fields[0], persistence=None if persistence is None else int(persistence))
    for edge in edge_rows(read_text(edges_path, empty=True), edges_path):
        unknown = [system for system in (edge.parent, edge.child) if system not in graph]
        if unknown:
            raise BadInput(f"Line {edge.line} of {str(edges_path)!r} has {unknown[0]!r}, not in {nodes_path.name!r}.")
        add_edge(graph, edge.parent, edge.child, edges_path)
    return NamedMap(graph, members, {"title": nodes_path.stem})


def number(field: str) -> float | None:
    """Return the finite number that a field holds, if it does."""
    try:
        value = float(field)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def from_edges(text: str, path: Path) -> NamedMap:
    """Return the hierarchy of an edge list. Genes are the children of type `gene`, or else all that are no parents."""
    edges = list(edge_rows(text, path))
    typed = path.suffix == ".ont" or any(edge.kind in GENE_KINDS for edge in edges)
    parents = {edge.parent for edge in edges}
    graph = nx.DiGraph()
    genes: dict[str, dict[str, bool]] = {}
    for edge in edges:
        graph.add_node(edge.parent)
        is_gene = edge.kind in GENE_KINDS if typed else edge.child not in parents
        if not is_gene:
            add_edge(graph, edge.parent, edge.child, path)
        elif edge.child in genes.setdefault(edge.parent, {}):
            raise twice(edge.parent, edge.child, path)
        else:
            genes[edge.parent][edge.child] = True
    check_acyclic(graph, repr(str(path)))
    n_genes = len({gene for held in genes.values() for gene in held})
    if not typed and len(graph) > n_genes:  # a binary tree has one system less than it has genes
        raise BadInput(
            f"{str(path)!r} has {len(graph)} systems over {n_genes} genes: it is a list of interactions, not a map."
            "\nGive a list of what lies in what; one with a third column that calls genes 'gene' is read in any case."
        )
    return NamedMap(graph, members_below(graph, genes), {"title": path.stem})


def members_below(graph: nx.DiGraph, genes: Mapping[str, Mapping[str, bool]]) -> dict[str, list[str]]:
    """Return for each system its own genes and those of all systems under it."""
    held: dict[str, dict[str, bool]] = {}
    for system in reversed(list(nx.topological_sort(graph))):
        held[system] = dict(genes.get(system, {}))
        for child in graph.successors(system):
            held[system].update(held[child])
    return {system: list(held[system]) for system in graph}


def edge_rows(text: str, path: Path) -> Iterator[Edge]:
    """Give the rows of an edge list in tabs, commas, semicolons or blanks, with or without a first row of names."""
    places = (0, 1, 2)
    first = True
    for line, fields in table_rows(text, path):
        if len(fields) < 2:
            raise BadInput(f"Line {line} of {str(path)!r} has one column; an edge has two: parent, child.\n{KNOWN}")
        if first and (named := column_places(fields)):
            places = named
        elif len(fields) <= max(places[:2]) or not (fields[places[0]] and fields[places[1]]):
            raise BadInput(f"Line {line} of {str(path)!r} lacks the parent or the child.")
        else:
            kind = fields[places[2]].lower() if len(fields) > places[2] else ""
            yield Edge(fields[places[0]], fields[places[1]], kind, line)
        first = False


def table_rows(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Give the rows of a table that are neither blank nor a comment, with their lines."""
    start = next((row for row in text.splitlines() if row.strip() and not row.startswith("#")), "")
    delimiter = next((mark for mark in "\t,;" if mark in start), " ")
    reader = csv.reader(text.splitlines(), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        for fields in reader:
            cleaned = [field.strip() for field in fields]
            if any(cleaned) and not cleaned[0].startswith("#"):
                yield reader.line_num, cleaned
    except csv.Error as exc:
        raise BadInput(f"Line {reader.line_num} of {str(path)!r} is no row of a table: {exc}.") from exc


def column_places(fields: list[str]) -> tuple[int, int, int] | None:
    """Return the columns of parent, child and type that a first row names, or None if it names none."""
    names = [field.lower() for field in fields]
    for parent, child in HEADS:
        if parent in names and child in names:
            kind = next((names.index(name) for name in KIND_HEADS if name in names), len(names))
            return names.index(parent), names.index(child), kind
    return None


def add_edge(graph: nx.DiGraph, parent: str, child: str, path: Path, **attributes: Any) -> None:
    """Add an edge that must not be there yet."""
    if graph.has_edge(parent, child):
        raise twice(parent, child, path)
    graph.add_edge(parent, child, **attributes)


def twice(parent: str, child: str, path: Path) -> BadInput:
    """Return the error about an edge that is in a file twice."""
    return BadInput(f"{str(path)!r} has the edge from {parent!r} to {child!r} twice. Leave out one of them.")
