"""Questions to the protein maps: what names a system, what in it is new, how two maps compare, pictures. Only reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import networkx as nx
import pyarrow as pa

from ._version import __version__
from .cellmap.comparison import Comparison, Recovery, compare_maps
from .cellmap.named import NamedMap
from .errors import BadInput, UnknownName
from .maps import MAIN, known_maps, map_of
from .query import map_graph
from .schema import TABLES
from .store import Store, one_of, quote

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "STYLES",
    "colors_of",
    "compare_with",
    "comparison_record",
    "draw_map",
    "map_meant",
    "map_summary",
    "named_map",
    "news",
    "system_meant",
    "terms_of",
]

NEWS_COLUMNS = (
    "protein_id", "gene_symbol", "localization", "n_cells", "system_id", "kind", "term_id", "term_name", "score",
)  # fmt: skip
STYLES = ("circles", "icicle")
# Ten colours that can be told apart on light and on dark (Tableau 10); what is rarer is gray.
PALETTE = ("#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#76b7b2", "#edc948", "#e15759", "#9c755f", "#ff9da7", "#86bc5a")


def map_summary(store: Store) -> list[dict[str, Any]]:
    """Return, for each map: map, its settings, counts, and the proteins that were left out of it."""
    return [
        {"map": name, "settings": about["settings"], "counts": about["counts"], "left_out": about["left_out"]}
        for name, about in known_maps(store).items()
    ]


def map_meant(store: Store, name: str | None, map_name: str) -> str:
    """Return the map that a system's name tells, such as `u2os` of `u2os:S3`; else `map_name`."""
    return map_of(name) if name and ":" in name and map_of(name) in known_maps(store) else map_name


def system_meant(graph: nx.DiGraph, name: str) -> str | None:
    """Return the id of the system that `name` means, in any case and with or without its map; None when none."""
    by_upper = {system.rpartition(":")[2].upper(): system for system in graph}
    by_upper |= {system.upper(): system for system in graph}
    return by_upper.get(name.strip().upper())


def named_map(store: Store, name: str = MAIN, *, by: str = "protein_id") -> NamedMap:
    """Return a map with the names of its proteins: their ids, or their symbols with `by="gene_symbol"`."""
    graph = map_graph(store, name)
    members: dict[str, list[str]] = {system: [] for system in graph}
    for row in store.read("system_members").to_pylist():
        if row["system_id"] in members:
            members[row["system_id"]].append(row["protein_id"])
    named = NamedMap(graph, members, about_map(store, name))
    return named if by == "protein_id" else by_symbol(store, named)


def by_symbol(store: Store, named: NamedMap) -> NamedMap:
    """Return a map of protein ids with the symbols of its proteins, where they have one."""
    proteins = store.read("proteins", ["protein_id", "gene_symbol"]).to_pylist()
    symbols = {row["protein_id"]: row["gene_symbol"] or row["protein_id"] for row in proteins}
    members = {system: [symbols.get(name, name) for name in held] for system, held in named.members.items()}
    return NamedMap(named.graph, members, named.about)


def about_map(store: Store, name: str) -> dict[str, Any]:
    """Return what a map rests on, as plain values: vectors and their recipe, method, seed, counts, release."""
    about = known_maps(store).get(name, {})
    settings = {key: value for key, value in about.get("settings", {}).items() if value is not None}
    vectors = settings.get("vectors", "image")
    recipe = store.metadata("proteins").get("recipes", {}).get(vectors) or {}
    counts = {f"n_{key}": value for key, value in about.get("counts", {}).items()}
    return {
        "title": "Protein map" if name == MAIN else f"Protein map {name}",
        "generated_by": f"subcell-atlas {about.get('built_from', {}).get('code_version', __version__)}",
        "source": store.uri.rstrip("/").rpartition("/")[2],
        "encoder": recipe.get("encoder"),
        "weights": recipe.get("weights_sha256"),
        "seed": about.get("built_from", {}).get("seed"),
        **{f"map_{key}": value for key, value in settings.items()},
        **counts,
    }


def terms_of(store: Store, system: str) -> pa.Table:
    """Return the terms that are over-represented in a system, best first, with the proteins that made them so."""
    if "system_terms" not in store.names():  # built by an older version
        return pa.table({column: [] for column in TABLES["system_terms"]})
    found = store.read("system_terms", where=f"system_id = {quote(system)}")
    score = [row["jaccard"] * row["information_content"] for row in found.to_pylist()]
    order = sorted(range(len(score)), key=lambda i: (not found["is_name"][i].as_py(), -score[i]))
    return found.take(pa.array(order, pa.int64()))


def news(store: Store, *, name: str = MAIN, system: str | None = None) -> pa.Table:
    """Return the discoveries of a map, or of one system, best first, with symbol and localization of the proteins."""
    known = map_graph(store, name)
    if system is not None and system not in known:
        raise UnknownName("system", system, known)
    rows = store.read("discoveries").to_pylist() if "discoveries" in store.names() else []
    rows = [row for row in rows if (row["system_id"] == system if system else map_of(row["system_id"]) == name)]
    ids = sorted({row["protein_id"] for row in rows})
    where = one_of("protein_id", ids) if ids else "false"
    proteins = store.read("proteins", ["protein_id", "gene_symbol", "localization", "n_cells"], where=where).to_pylist()
    facts = {row["protein_id"]: row for row in proteins}
    rows.sort(key=lambda row: (-row["score"], row["system_id"], row["protein_id"]))
    whole = [{**facts.get(row["protein_id"], {}), **row} for row in rows]
    return pa.table({column: [row.get(column) for row in whole] for column in NEWS_COLUMNS})


def compare_with(store: Store, other: str, *, name: str = MAIN, seed: int = 0) -> tuple[Comparison, NamedMap, NamedMap]:
    """Compare a map with another of this atlas by name, that of another atlas, or one in a file (see `read_map`).

    Return the comparison and the two maps. Proteins are matched by id, or by symbol where that finds more of them.
    """
    mine = by_both(store, name)
    theirs = other_map(store, other)
    shared = {by: len(proteins_in(mine[by]) & proteins_in(theirs[by])) for by in mine}
    by = max(shared, key=lambda key: shared[key])
    return compare_maps(mine[by].members, theirs[by].members, seed=seed), mine[by], theirs[by]


def by_both(store: Store, name: str) -> dict[str, NamedMap]:
    """Return a map with its proteins by id and by symbol."""
    by_id = named_map(store, name)
    return {"protein_id": by_id, "gene_symbol": by_symbol(store, by_id)}


def other_map(store: Store, other: str) -> dict[str, NamedMap]:
    """Return the map that `other` means, with its proteins by id and by symbol, where these are known."""
    from .cellmap.read_maps import read_map

    if other in known_maps(store):
        return by_both(store, other)
    if "://" in other or (Path(other).is_dir() and any(Path(other).glob("*.lance"))):
        return by_both(Store.open(other), MAIN)
    if not Path(other).exists():
        kept = ", ".join(known_maps(store))
        raise BadInput(
            f"{other!r} is no map of this atlas (it has: {kept}), and no file or atlas of that name is there."
        )
    read = read_map(Path(other))
    return dict.fromkeys(("protein_id", "gene_symbol"), read)


def proteins_in(named: NamedMap) -> set[str]:
    """Return the names of all proteins of a map."""
    return set[str]().union(*named.members.values())


def comparison_record(found: Comparison, mine: NamedMap, theirs: NamedMap) -> dict[str, Any]:
    """Return a comparison as the command's JSON has it."""
    return {
        "n_common": found.n_common,
        "n_only_here": found.n_only_a,
        "n_only_there": found.n_only_b,
        "n_permutations": found.n_permutations,
        "seed": found.seed,
        "here": recovery_record(found.a_in_b, mine, theirs),
        "there": recovery_record(found.b_in_a, theirs, mine),
    }


def recovery_record(found: Recovery, own: NamedMap, other: NamedMap) -> dict[str, Any]:
    """Return how much of one map is in the other, and the match of each system."""
    record = {key: value for key, value in asdict(found).items() if key != "matches"}
    matches = []
    for each in found.matches:
        match = None if each.match is None else other.graph.nodes[each.match].get("term_name")
        matches.append({**asdict(each), "name": own.graph.nodes[each.system].get("term_name"), "match_name": match})
    return {**record, "systems": matches}


def draw_map(store: Store, *, name: str = MAIN, style: str = "circles", highlight: Sequence[str] = ()) -> Figure:
    """Return a picture of a map, coloured by where most members of each system are."""
    from .cellmap.figures import draw_circles, draw_icicle

    if style not in STYLES:
        raise UnknownName("style", style, STYLES)
    graph = map_graph(store, name)
    main = main_places(store, graph)
    legend = colors_of(main.values())
    labels = {system: label(node, system) for system, node in graph.nodes(data=True)}
    draw = draw_circles if style == "circles" else draw_icicle
    colors = {system: legend[place] for system, place in main.items() if place in legend}
    return draw(graph, colors=colors, labels=labels, legend=legend, highlight=highlight)


def label(node: Mapping[str, Any], system: str) -> str:
    """Return what a picture calls a system."""
    return "all proteins" if node["level"] == 0 else node["term_name"] or system


def main_places(store: Store, graph: nx.DiGraph) -> dict[str, str]:
    """Return the most frequent first localization of each system's members; one without any is left out."""
    proteins = store.read("proteins", ["protein_id", "localization"]).to_pylist()
    first = {row["protein_id"]: row["localization"][0] for row in proteins if row["localization"]}
    found: dict[str, Counter[str]] = {}
    for row in store.read("system_members").to_pylist():
        if row["system_id"] in graph and row["protein_id"] in first:
            found.setdefault(row["system_id"], Counter())[first[row["protein_id"]]] += 1
    return {system: min(counts, key=lambda place: (-counts[place], place)) for system, counts in found.items()}


def colors_of(places: Iterable[str]) -> dict[str, str]:
    """Return a colour for each of the most frequent places."""
    counts = Counter(places)
    ranked = sorted(counts, key=lambda place: (-counts[place], place))
    return dict(zip(ranked, PALETTE, strict=False))
