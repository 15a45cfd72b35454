"""The protein maps of an atlas: read the store, call `cellmap/`, write the store.

An atlas has its own map, `main`, and may have others: of a cell line, of another modality, by another method. Their
systems are called NAME:S1, those of `main` S1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from ._version import __version__
from .cellmap.discoveries import Discovery, find_discoveries
from .cellmap.enrichment import Enrichment, Enrichments, Source, enrich_systems
from .corrected_profiles import corrected_space
from .errors import BadInput, NotBuilt, UnknownName
from .profiles import vectors_of
from .proteins import write_proteins
from .resampling import DRAW_COLUMNS, CellDraws
from .schema import VECTORS, table_schema
from .store import Store, conform, quote

if TYPE_CHECKING:
    from .cellmap.hierarchy import Hierarchy
    from .cellmap.methods import Method

__all__ = [
    "MAIN",
    "MAP_TABLES",
    "MapSettings",
    "build_map_named",
    "check_cell_line",
    "known_maps",
    "map_inputs",
    "map_of",
    "settings_of",
]

MAIN = "main"
PLACES = ("cellular_component", "complex", "localization")  # aspects of terms that say where
LOCALIZATION = "localization"  # the source that the proteins' own localizations are
MAP_TABLES = ("system_edges", "system_members", "system_terms", "discoveries", "systems")  # written in this order
SYSTEM = re.compile(r"[Ss]\d+")
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class MapSettings:
    """What a map is made of, and how.

    vectors: a modality; cell_line: of pictures in this one alone. method: of `cellmap.methods`; weights: of the edges
    of its graph, for multiresolution. tested: leave out systems that do not come back. layout: of `cellmap.layout`, or
    "keep" for the places of before, with new proteins placed among them.
    """

    name: str = MAIN
    vectors: str = "image"
    cell_line: str | None = None
    method: str = "multiresolution"
    weights: str = "cosine"
    tested: bool = True
    layout: str = "default"

    def check(self) -> None:
        """Raise BadInput or UnknownName when a map cannot be made so."""
        from .cellmap.graph import WEIGHTS
        from .cellmap.layout import PRESETS
        from .cellmap.methods import METHODS

        for kind, value, known in (
            ("vectors", self.vectors, VECTORS),
            ("method", self.method, METHODS),
            ("weights of edges", self.weights, WEIGHTS),
            ("layout", self.layout, (*PRESETS, "keep")),
        ):
            if value not in known:
                raise UnknownName(kind, value, known)
        if not NAME.fullmatch(self.name) or SYSTEM.fullmatch(self.name):
            msg = f"{self.name[:80]!r} is no name for a map: letters, digits, '-', '_' and '.', at most 64 of them"
            raise BadInput(f"{msg}, and not S1 or the like, which is a system.")
        if self.cell_line is not None and self.vectors != "image":
            raise BadInput(
                f"A cell line can be chosen for image vectors, not for {self.vectors}: it is about pictures."
            )
        if self.weights != "cosine" and self.method != "multiresolution":
            raise BadInput(f"Weights of edges can be chosen for the method multiresolution, not for {self.method!r}.")


class MapVectors(NamedTuple):
    """The proteins of a map and their vectors (n, dim), and those that have one that cannot be used."""

    ids: list[str]
    vectors: np.ndarray
    left_out: list[str]


def map_of(system: str) -> str:
    """Return the name of the map that a system is of."""
    return system.rpartition(":")[0] or MAIN


def known_maps(store: Store) -> dict[str, dict[str, Any]]:
    """Return what is stored of each map that was built: settings, built_from, counts, left_out."""
    return dict(store.metadata("systems").get("maps", {}))


def settings_of(store: Store, name: str) -> MapSettings:
    """Return how a map is made: as it was built last, else as usual."""
    return MapSettings(**known_maps(store).get(name, {}).get("settings", {"name": name}))


def map_inputs(store: Store, settings: MapSettings, seed: int) -> dict[str, Any]:
    """Return what a map depends on: vectors, what names its systems, how it is made, the release."""
    mark = store.metadata("proteins").get("marks", {}).get(settings.vectors)
    tables = ("annotations", "terms", *(("profiles",) if settings.cell_line else ()))
    versions = {table: store.version(table) for table in tables}
    return {"vectors": mark, **versions, "seed": seed, "settings": asdict(settings), "code_version": __version__}


def build_map_named(store: Store, settings: MapSettings, seed: int) -> dict[str, Any]:
    """Make a map and write it in place of the one of its name; return what was counted."""
    settings.check()
    built_from = map_inputs(store, settings, seed)
    data = map_vectors(store, settings)
    found = find_systems_of(store, data, settings, seed=seed)
    meaning = explain(store, data, found)
    if settings.name == MAIN:
        write_places(store, data, settings, seed=seed)
    counts = {
        "systems": len(found.graph),
        "not_trusted": found.n_dropped,
        "named": len(meaning.enriched.names),
        "named_by_id": sum(term_name(meaning.terms, n.term_id) == n.term_id for n in meaning.enriched.names.values()),
        "proteins": len(data.ids),
        "left_out": len(data.left_out),
        "discoveries": len(meaning.discoveries),
    }
    about = {"settings": asdict(settings), "built_from": built_from, "counts": counts, "left_out": data.left_out}
    write_map(store, settings.name, rows_of(settings.name, data.ids, found, meaning), about)
    return counts


def find_systems_of(store: Store, data: MapVectors, settings: MapSettings, *, seed: int) -> Hierarchy:
    """Return the systems of a map; they are tested with other draws of the cells where these are known."""
    from .cellmap.hierarchy import find_hierarchy
    from .cellmap.trust import Trust

    method = method_of(settings)
    if not settings.tested:
        return find_hierarchy(data.vectors, method, seed=seed)
    trust = Trust()
    draws = cell_draws(store, data, settings, n_draws=trust.reruns, seed=seed)
    resample = None if draws is None else partial(draws.vectors, otherwise=data.vectors)
    return find_hierarchy(data.vectors, method, seed=seed, trust=trust, resample=resample)


class TermFacts(NamedTuple):
    """What `terms` says of one."""

    name: str
    aspect: str | None


class Meaning(NamedTuple):
    """What annotations say of the systems of a map."""

    terms: dict[str, TermFacts]
    enriched: Enrichments
    discoveries: list[Discovery]


def explain(store: Store, data: MapVectors, found: Hierarchy) -> Meaning:
    """Name the systems of a map, and find the proteins that nothing known of them puts there."""
    terms = known_terms(store)
    sources = sources_of(store, data.ids)
    preferred = {term for term, of in terms.items() if of.aspect in PLACES}
    enriched = enrich_systems(found.members, found.graph, sources, preferred=preferred)
    stability = {name: 1.0 if known is None else known for name, known in found.graph.nodes(data="stability")}
    news = find_discoveries(found.members, found.graph, sources, enriched, preferred=preferred, stability=stability)
    return Meaning(terms, enriched, news)


def rows_of(name: str, ids: Sequence[str], found: Hierarchy, meaning: Meaning) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each table of a map."""
    prefix = "" if name == MAIN else f"{name}:"
    names, terms = meaning.enriched.names, meaning.terms
    return {
        "systems": [
            {"system_id": prefix + system, "map": name, **node, **name_columns(names.get(system), terms)}
            for system, node in found.graph.nodes(data=True)
        ],
        "system_edges": [
            {"parent_id": prefix + parent, "child_id": prefix + child, "overlap": overlap}
            for parent, child, overlap in found.graph.edges(data="overlap")
        ],
        "system_members": [
            {"system_id": prefix + system, "protein_id": ids[row]}
            for system, members in found.members.items()
            for row in members
        ],
        "system_terms": [term_row(prefix, each, names, terms, ids) for each in meaning.enriched.best],
        "discoveries": [
            {
                "protein_id": ids[each.row],
                "system_id": prefix + each.system,
                "kind": each.kind,
                "term_id": each.term_id,
                "term_name": term_name(terms, each.term_id),
                "score": each.score,
            }
            for each in meaning.discoveries
        ],
    }


def method_of(settings: MapSettings) -> Method:
    """Return the method that settings name."""
    from .cellmap.graph import GraphOptions
    from .cellmap.methods import METHODS, MultiResolution

    if settings.method == "multiresolution":
        return MultiResolution(graph=GraphOptions(weights=settings.weights))
    return METHODS[settings.method]()


def map_vectors(store: Store, settings: MapSettings) -> MapVectors:
    """Return what a map is made of; proteins without a vector are not in it."""
    if settings.vectors not in store.vector_columns("proteins"):
        fix = " Run: subcell-atlas build profiles" if settings.vectors == "image" else ""
        raise NotBuilt(f"The proteins of this atlas have no {settings.vectors} vectors yet.{fix}")
    if settings.cell_line is None:
        where = f"{settings.vectors} IS NOT NULL"
        proteins = store.read("proteins", ["protein_id", settings.vectors], where=where).sort_by("protein_id")
        ids, vectors = proteins["protein_id"].to_pylist(), vectors_of(proteins[settings.vectors])
    else:
        ids, vectors = vectors_in_cell_line(store, settings.cell_line)
    usable = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
    left_out = [name for name, good in zip(ids, usable, strict=True) if not good]
    if not usable.any():
        raise NotBuilt(f"None of the {len(ids)} {settings.vectors} vectors can be used: all are zero or not finite.")
    return MapVectors([name for name, good in zip(ids, usable, strict=True) if good], vectors[usable], left_out)


def check_cell_line(store: Store, cell_line: str) -> None:
    """Raise UnknownName when no protein was seen in `cell_line`."""
    known = store.read("profiles", ["cell_line"])["cell_line"].drop_null().unique().to_pylist()
    if cell_line not in known:
        raise UnknownName("cell line", cell_line, known)


def vectors_in_cell_line(store: Store, cell_line: str) -> tuple[list[str], np.ndarray]:
    """Return the proteins seen in a cell line, and the mean (n, dim) over their cells there."""
    if "profiles" not in store.names():
        raise NotBuilt("This atlas has no profiles of cells, so no cell line is known of its proteins.")
    check_cell_line(store, cell_line)
    wanted = ["protein_id", "n_cells", "embedding"]
    profiles = store.read("profiles", wanted, where=f"cell_line = {quote(cell_line)}").sort_by("protein_id")
    vectors, n_cells = vectors_of(profiles["embedding"]), profiles["n_cells"].to_numpy()
    ids, at = np.unique(np.array(profiles["protein_id"].to_pylist(), object), return_inverse=True)
    sums = np.zeros((len(ids), vectors.shape[1]))
    np.add.at(sums, at, vectors * n_cells[:, None])
    return ids.tolist(), (sums / np.bincount(at, n_cells)[:, None]).astype(np.float32)


def cell_draws(store: Store, data: MapVectors, settings: MapSettings, *, n_draws: int, seed: int) -> CellDraws | None:
    """Return draws of the cells that the vectors are means of; None when they are not of cells."""
    from_cells = "image" in store.metadata("proteins").get("from_cells", [])
    if settings.vectors != "image" or not from_cells or not store.has("cells"):
        return None
    profiles = store.read("profiles", ["profile_id", "embedding", "uncentered"])
    space = corrected_space(store)
    shifts = dict(zip(profiles["profile_id"].to_pylist(), space.shifts(profiles), strict=True))
    rows = {protein: row for row, protein in enumerate(data.ids)}
    draws = CellDraws(rows, shifts, n_draws, seed, settings.cell_line, space.project)
    for batch in store.batches("cells", DRAW_COLUMNS):
        draws.add(batch)
    return draws


def known_terms(store: Store) -> dict[str, TermFacts]:
    """Return the name and aspect of each term, by its id; the proteins' own localizations are terms too."""
    facts = {}
    if store.has("terms"):
        for row in store.read("terms", ["term_id", "name", "aspect"]).to_pylist():
            facts[row["term_id"]] = TermFacts(row["name"], row["aspect"])
    for places in store.read("proteins", ["localization"])["localization"].to_pylist():
        for place in places or ():
            facts[f"{LOCALIZATION}:{place}"] = TermFacts(place, LOCALIZATION)
    return facts


def term_name(terms: Mapping[str, TermFacts], term_id: str) -> str:
    """Return the name of a term; its id when it has none."""
    return (terms[term_id].name if term_id in terms else None) or term_id


def sources_of(store: Store, ids: Sequence[str]) -> list[Source]:
    """Return what is known of the proteins `ids`, by source: term -> their rows."""
    row_of = {protein: row for row, protein in enumerate(ids)}
    rows: dict[str, dict[str, list[int]]] = {}
    for protein in store.read("proteins", ["protein_id", "localization"]).to_pylist():
        for place in protein["localization"] or ():
            if protein["protein_id"] in row_of:
                of_source = rows.setdefault(LOCALIZATION, {})
                of_source.setdefault(f"{LOCALIZATION}:{place}", []).append(row_of[protein["protein_id"]])
    if store.has("annotations"):
        table = store.read("annotations", ["protein_id", "term_id", "source"])
        columns = (table[name].to_pylist() for name in ("protein_id", "term_id", "source"))
        for protein, term, source in zip(*columns, strict=True):
            if protein in row_of:
                rows.setdefault(source or "", {}).setdefault(term, []).append(row_of[protein])
    return [
        Source(name, {term: np.unique(own) for term, own in sorted(of_source.items())})
        for name, of_source in sorted(rows.items())
    ]


def name_columns(name: Enrichment | None, terms: Mapping[str, TermFacts]) -> dict[str, Any]:
    """Return the columns of `systems` that say what names one."""
    if name is None:
        return {"term_id": None, "term_name": None, "p_adjusted": None}
    return {"term_id": name.term_id, "term_name": term_name(terms, name.term_id), "p_adjusted": name.p_adjusted}


def term_row(
    prefix: str, found: Enrichment, names: Mapping[str, Enrichment], terms: Mapping[str, TermFacts], ids: Sequence[str]
) -> dict[str, Any]:
    """Return a row of `system_terms`."""
    return {
        "system_id": prefix + found.system,
        "term_id": found.term_id,
        "term_name": term_name(terms, found.term_id),
        "source": found.source,
        "is_name": names.get(found.system) is found,
        "n_shared": found.n_shared,
        "n_system": found.n_system,
        "n_term": found.n_term,
        "n_background": found.n_background,
        "p_value": found.p_value,
        "p_adjusted": found.p_adjusted,
        "jaccard": found.jaccard,
        "information_content": found.information_content,
        "proteins": [ids[row] for row in found.rows],
    }


def write_places(store: Store, data: MapVectors, settings: MapSettings, *, seed: int) -> None:
    """Lay the proteins out and write where they stand; with the layout "keep" those of before stay."""
    from .cellmap.layout import layout_proteins, place_proteins

    if settings.layout == "keep":
        stored = store.read("proteins", ["protein_id", "x", "y"], where="x IS NOT NULL AND y IS NOT NULL")
        before = {row["protein_id"]: (row["x"], row["y"]) for row in stored.to_pylist()}
        old = np.array([name in before for name in data.ids])
        if not old.any():
            raise NotBuilt("There is no layout to keep yet. Build the map once without it.")
        places = np.empty((len(data.ids), 2), np.float32)
        places[old] = [before[name] for name in data.ids if name in before]
        if not old.all():
            places[~old] = place_proteins(data.vectors[~old], data.vectors[old], places[old], seed=seed)
    else:
        places = layout_proteins(data.vectors, seed=seed, preset=settings.layout)
    columns = {"protein_id": data.ids, "x": pa.array(places[:, 0]), "y": pa.array(places[:, 1])}
    write_proteins(store, pa.table(columns), anew=("x", "y"))


def write_map(store: Store, name: str, rows: Mapping[str, list[dict[str, Any]]], about: Mapping[str, Any]) -> None:
    """Write the tables of a map beside those of the others; until all are written the atlas has no map."""
    maps = known_maps(store) | {name: about}
    tables = {table: beside_others(store, table, name, rows[table]) for table in MAP_TABLES}
    store.drop("systems")  # its tables are never of two builds
    for table in MAP_TABLES:
        store.write(table, tables[table], metadata={"maps": maps} if table == "systems" else None)


def beside_others(store: Store, table: str, name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return the rows of one map after those that the table has of others."""
    schema = table_schema(table)
    new = pa.Table.from_pylist(list(rows), schema=schema)
    if table not in store.names():
        return new
    old = store.read(table)
    key = "parent_id" if table == "system_edges" else "system_id"
    others = old.filter(pa.array([map_of(system) != name for system in old[key].to_pylist()], pa.bool_()))
    return pa.concat_tables([conform(others, schema), new])
