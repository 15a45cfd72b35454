"""CX2, version 2 of the Cytoscape exchange format: networks whose attributes have declared types.

The package `ndex2`, of those who keep the format, makes and reads the documents.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import BadInput, MissingExtra
from ..writing import written_whole

__all__ = ["Network", "declared_type", "parse_cx2", "plain", "write_cx2"]


@dataclass(frozen=True)
class Network:
    """A network as CX2 holds it. Attributes whose value is None are left out.

    nodes: id -> attributes.
    edges: (source, target, attributes).
    places: id -> x and y in pixels, y downwards.
    style: the aspect visualProperties: `default`, `nodeMapping`, `edgeMapping`.
    """

    attributes: dict[str, Any]
    nodes: dict[int, dict[str, Any]]
    edges: list[tuple[int, int, dict[str, Any]]]
    places: dict[int, tuple[float, float]] = field(default_factory=dict)
    style: dict[str, Any] = field(default_factory=dict)


def write_cx2(path: Path, network: Network) -> None:
    """Write `network`, with the types of its attributes declared."""
    written = ndex2_cx2().CX2Network()
    # Types are declared before anything is added: ndex2 declares an attribute by the first value it meets, so that a
    # 0 makes p-values integers, a first empty list has no type, and numbers of the network become text.
    attributes = {name: plain(value) for name, value in network.attributes.items()}
    declared = {
        "networkAttributes": declarations([attributes]),
        "nodes": declarations(network.nodes.values()),
        "edges": declarations(values for *_, values in network.edges),
    }
    written.set_attribute_declarations(declared)
    written.set_network_attributes({name: value for name, value in attributes.items() if value is not None})
    for number, values in network.nodes.items():
        x, y = network.places.get(number, (None, None))
        written.add_node(number, {name: plain(value) for name, value in values.items()}, x=x, y=y)
    for number, (source, target, values) in enumerate(network.edges, start=1):
        written.add_edge(number, source, target, {name: plain(value) for name, value in values.items()})
    written.set_visual_properties(network.style)
    with written_whole(path) as part, part.open("w", encoding="utf-8") as file:
        file.writelines(lines(written.to_cx2()))


def lines(document: list[dict[str, Any]]) -> Iterator[str]:
    """Give the document an aspect a line. ndex2's own writer indents, which puts every member on a line of its own."""
    for number, aspect in enumerate(document):
        yield ("[" if number == 0 else ",\n") + json.dumps(aspect, separators=(",", ":"), allow_nan=False)
    yield "]\n"


def declarations(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the declared type of each attribute of the `rows`, of all their values together."""
    columns: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, []).append(plain(value))
    return {name: {"d": declared_type(values)} for name, values in columns.items()}


def declared_type(values: Iterable[Any]) -> str:
    """Return the narrowest CX2 type that holds all the `values`, as `plain` gives them."""
    values = [value for value in values if value is not None]
    lists = [value for value in values if isinstance(value, list)]
    if not lists:
        return scalar_type(values)
    if len(lists) < len(values):
        return "string"
    return f"list_of_{scalar_type([item for value in lists for item in value])}"


def scalar_type(values: list[Any]) -> str:
    """Return the narrowest CX2 type that holds all the `values`, none of them a list."""
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return "boolean"
    if kinds == {int}:
        return "integer" if all(-(2**31) <= value < 2**31 for value in values) else "long"
    if kinds and kinds <= {int, float}:
        return "double"
    return "string"


def plain(value: Any) -> Any:
    """Return `value` as CX2 can hold it: a truth value, a number, text or a list of them; None is left out."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        items = [plain(item) for item in value]
        return [str(item) if isinstance(item, list) else item for item in items if item is not None]
    if isinstance(value, float):
        return value if math.isfinite(value) else None  # JSON has no other numbers
    if value is None or isinstance(value, bool | int | str):
        return value
    return json.dumps(value, default=str) if isinstance(value, dict) else str(value)


def parse_cx2(text: str, path: Path) -> Network:
    """Return the network in `text`, the content of the file `path`, with defaults and aliases resolved."""
    document = checked_document(text, path)
    cx2 = ndex2_cx2()
    try:
        found = cx2.RawCX2NetworkFactory().get_cx2network(document)
    except (cx2.NDExError, AttributeError, LookupError, OverflowError, TypeError, ValueError) as exc:
        # ndex2 takes the shape of what it reads for granted, and stumbles over any other
        reason = str(exc).splitlines()[0][:160].rstrip(".") if str(exc) else type(exc).__name__
        raise BadInput(
            f"{str(path)!r} is CX2 that cannot be read: {reason}.\nWrite it again, or fetch it again."
        ) from exc
    nodes = {number: node["v"] for number, node in found.get_nodes().items()}
    edges = [(edge["s"], edge["t"], edge["v"]) for edge in found.get_edges().values()]
    missing = [end for source, target, _ in edges for end in (source, target) if end not in nodes]
    if missing:
        raise BadInput(f"{str(path)!r} has an edge to the node {missing[0]}, which is not in it. Is the file whole?")
    return Network(found.get_network_attributes(), nodes, edges)


def checked_document(text: str, path: Path) -> list[dict[str, Any]]:
    """Return the aspects of a CX2 document, or say why it is none."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as exc:
        reason = str(exc).splitlines()[0][:160]
        raise BadInput(f"{str(path)!r} is no whole JSON file: {reason}.\nWrite it again, or fetch it again.") from exc
    if not (isinstance(document, list) and document and all(isinstance(aspect, dict) for aspect in document)):
        raise BadInput(f"{str(path)!r} is JSON but not CX2, which is a list of aspects. Save the network as CX2.")
    if any("numberVerification" in aspect for aspect in document):
        raise BadInput(f"{str(path)!r} is CX version 1. Save the network as CX2, which NDEx and Cytoscape offer too.")
    version = document[0].get("CXVersion")
    if version != "2.0":
        found = f"CXVersion {version!r}" if version else "no CXVersion"
        raise BadInput(f"{str(path)!r} starts with {found}, where CX2 has '2.0'. Save the network as CX2.")
    return document


def ndex2_cx2() -> Any:
    """Return the module `ndex2.cx2`, which takes seconds to import."""
    try:
        return importlib.import_module("ndex2.cx2")
    except ImportError:
        raise MissingExtra("ndex2", "ndex", "CX2") from None
