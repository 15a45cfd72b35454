"""Questions to an atlas, and their answers with evidence. Only reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import networkx as nx
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .cell_index import probing_for
from .corrected_profiles import corrected_space
from .errors import BadInput, NotBuilt, RecipeMismatch, UnknownName
from .identifiers import NAME_COLUMNS, find_protein
from .maps import MAIN, check_cell_line, known_maps, map_of
from .profiles import vectors_of
from .recipe import Recipe
from .schema import VECTORS
from .store import Store, one_of, quote

if TYPE_CHECKING:
    from .encoders.encoder import Encoder

__all__ = [
    "HeldVectors",
    "cohesion",
    "compare",
    "compare_among",
    "map_graph",
    "pairs_within_proteins",
    "paths_of",
    "predicted_places",
    "profiles_of",
    "protein_row",
    "recipe_of_cells",
    "similar",
    "similar_cells",
    "similar_to_vector",
    "system_members",
    "thumbnails",
    "vector_of_cell",
    "vector_of_new_cells",
]

CELL_HIT_COLUMNS = (
    "rank", "cell_id", "protein_id", "gene_symbol", "similarity", "localization", "antibody", "cell_line", "condition",
    "image_id",
)  # fmt: skip
HIT_COLUMNS = ("rank", "protein_id", "gene_symbol", "similarity", "localization", "n_cells")


def protein_row(store: Store, name: str) -> dict[str, Any]:
    """Return the plain columns of the protein that `name` means (see `identifiers.find_protein`)."""
    names = store.read("proteins", NAME_COLUMNS)
    protein = names["protein_id"][find_protein(name, names)].as_py()
    wanted = [column for column in store.columns("proteins") if column not in VECTORS]
    return store.read("proteins", wanted, where=f"protein_id = {quote(protein)}").to_pylist()[0]


class HeldVectors:
    """The vectors of one modality of all proteins in memory, for one who asks again and again.

    An answer is the same as the store's, ten times as soon: 10 ms of 13,000 vectors of 1,536 numbers, in 80 MB.
    """

    def __init__(self, store: Store, modality: str) -> None:
        check_modality(store, modality)
        plain = [name for name in HIT_COLUMNS if name not in ("rank", "similarity")]
        found = store.read("proteins", [*plain, modality])
        found = found.filter(found[modality].is_valid())
        vectors = vectors_of(found[modality])
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        self._units = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
        self._proteins = found.select(plain)
        self._row_of = {protein: row for row, protein in enumerate(found["protein_id"].to_pylist())}

    def direction(self, protein: str) -> np.ndarray | None:
        """Return the vector (dim,) of a protein at unit length; None when it has none, or zero."""
        row = self._row_of.get(protein)
        return self._units[row] if row is not None and self._units[row].any() else None

    def nearest(self, store: Store, vector: np.ndarray, *, k: int, where: str | None) -> pa.Table:
        """Return what `Store.nearest` does of the proteins."""
        similarity = self._units @ (np.asarray(vector, np.float32) / np.linalg.norm(vector).astype(np.float32))
        rows = np.arange(len(similarity))
        if where:
            allowed = store.read("proteins", ["protein_id"], where=where)["protein_id"].to_pylist()
            rows = np.array([self._row_of[name] for name in allowed if name in self._row_of], np.int64)
        best = rows[np.argsort(-similarity[rows], kind="stable")[:k]]
        return self._proteins.take(pa.array(best)).append_column("similarity", pa.array(similarity[best]))


def similar(
    store: Store,
    names: Sequence[str],
    *,
    k: int = 10,
    modality: str = "image",
    where: str | None = None,
    cell_line: str | None = None,
    held: HeldVectors | None = None,
) -> pa.Table:
    """Return the `k` proteins most like the named ones, with the columns of `HIT_COLUMNS`; similarity is the cosine.

    Several names ask for what is like their mean, each with the same weight; the named themselves are left out.
    `where` is a SQL condition over the columns of `proteins`. `cell_line` compares what was seen in that line alone.
    `held`: the vectors of this modality, where they are in memory.
    """
    names_table = store.read("proteins", NAME_COLUMNS)
    rows = [find_protein(name, names_table) for name in names]
    proteins = [names_table["protein_id"][row].as_py() for row in rows]
    if cell_line is not None:
        check_cell_line(store, cell_line)
    known = [held.direction(protein) if held and cell_line is None else None for protein in proteins]
    vectors = [
        vector_of(store, protein, modality=modality, cell_line=cell_line) if vector is None else vector
        for protein, vector in zip(proteins, known, strict=True)
    ]
    vector = np.mean([v / np.linalg.norm(v) for v in vectors], axis=0)
    return similar_to_vector(
        store, vector, k=k, modality=modality, where=where, cell_line=cell_line, leave_out=proteins, held=held
    )


def similar_to_vector(
    store: Store,
    vector: np.ndarray,
    *,
    k: int = 10,
    modality: str = "image",
    where: str | None = None,
    cell_line: str | None = None,
    leave_out: Sequence[str] = (),
    held: HeldVectors | None = None,
) -> pa.Table:
    """Return the `k` proteins whose vectors are most like `vector` (dim,), the same columns as `similar`."""
    if k < 1:
        raise BadInput(f"k is {k}; at least one neighbor is asked for.")
    if cell_line is None and held is not None:
        hits = held.nearest(store, vector, k=k + len(leave_out), where=where)
    elif cell_line is None:
        check_modality(store, modality)
        hits = store.nearest("proteins", modality, vector, k=k + len(leave_out), where=where)
    else:
        hits = similar_in_cell_line(store, vector, where=where, cell_line=cell_line)
    others = pc.invert(pc.is_in(hits["protein_id"], value_set=pa.array(leave_out, pa.string())))
    hits = hits.filter(others).slice(0, k)
    return hits.append_column("rank", pa.array(range(1, hits.num_rows + 1), pa.int32())).select(list(HIT_COLUMNS))


def similar_cells(
    store: Store, vector: np.ndarray, *, k: int = 10, where: str | None = None, exact: bool = False,
    leave_out: str | None = None,
) -> pa.Table:  # fmt: skip
    """Return the `k` cells whose vectors are most like `vector` (dim,), with the columns of `CELL_HIT_COLUMNS`.

    `where` is a SQL condition over the columns of `cells`. Many cells are searched through their index, which finds at
    least 0.99 of the true neighbors (see `cell_index`), unless `exact` asks to compare them all. `leave_out`: the id of
    a cell that is not wanted.
    """
    if k < 1:
        raise BadInput(f"k is {k}; at least one neighbor is asked for.")
    probing = None if exact else probing_for(store, where)
    n = k + (leave_out is not None)
    hits = store.nearest("cells", "embedding", vector, k=n, where=where, columns=CELL_HIT_COLUMNS, probing=probing)
    if leave_out is not None:
        hits = hits.filter(pc.not_equal(hits["cell_id"], leave_out))
    hits = hits.slice(0, k)
    return hits.append_column("rank", pa.array(range(1, hits.num_rows + 1), pa.int32())).select(list(CELL_HIT_COLUMNS))


def vector_of_cell(store: Store, cell: str) -> np.ndarray:
    """Return the vector (dim,) of the cell with this id; raise BadInput when there is none."""
    found = store.read("cells", ["embedding"], where=f"cell_id = {quote(cell)}")
    if not found.num_rows:
        hint = "subcell-atlas sql \"SELECT cell_id FROM cells WHERE gene_symbol = '…'\""
        raise BadInput(f"There is no cell {cell!r} in this atlas. Its cells: {hint}")
    return vectors_of(found["embedding"])[0]


def similar_in_cell_line(store: Store, vector: np.ndarray, *, where: str | None, cell_line: str) -> pa.Table:
    """Compare `vector` with every protein as it was seen in one cell line, best first."""
    allowed = store.read("proteins", ["protein_id", "gene_symbol", "localization"], where=where)
    row_of = {protein: row for row, protein in enumerate(allowed["protein_id"].to_pylist())}
    profiles = store.read("profiles", ["protein_id", "n_cells", "embedding"], where=f"cell_line = {quote(cell_line)}")
    rows_of: dict[str, list[int]] = {}
    for row, protein in enumerate(profiles["protein_id"].to_pylist()):
        if protein in row_of:
            rows_of.setdefault(protein, []).append(row)
    vectors, n_cells = vectors_of(profiles["embedding"]), profiles["n_cells"].to_numpy()
    means = [np.average(vectors[rows], axis=0, weights=n_cells[rows]) for rows in rows_of.values()]
    similarity = np.array([cosine(vector, mean) for mean in means], np.float32)
    order = np.argsort(-similarity, kind="stable")
    proteins, groups = list(rows_of), list(rows_of.values())
    hits = allowed.take(pa.array([row_of[proteins[i]] for i in order], pa.int64()))
    hits = hits.append_column("similarity", pa.array(similarity[order], pa.float32()))
    return hits.append_column("n_cells", pa.array([int(n_cells[groups[i]].sum()) for i in order], pa.int32()))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Return the cosine of two vectors; 0 when one of them is zero."""
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norm if norm else 0.0


def check_modality(store: Store, modality: str) -> None:
    """Raise UnknownName or NotBuilt when the atlas cannot be searched by `modality`."""
    if modality not in VECTORS:
        raise UnknownName("modality", modality, VECTORS)
    if modality not in store.vector_columns("proteins"):
        fix = {
            "image": "Run: subcell-atlas build",
            "sequence": "Put some in: subcell-atlas ingest sequences FASTA",
            "fused": "Run: subcell-atlas build fusion",
        }
        there = ", ".join(store.vector_columns("proteins"))
        raise NotBuilt(
            f"This atlas has no {modality} vectors (it has: {there or 'none'}). {fix.get(modality, '')}".rstrip()
        )


def vector_of(store: Store, protein: str, *, modality: str, cell_line: str | None) -> np.ndarray:
    """Return the vector (dim,) of a protein; of its profiles in `cell_line`, weighted by their cells, when given."""
    if cell_line is None:
        check_modality(store, modality)
        found = store.read("proteins", [modality], where=f"protein_id = {quote(protein)}")
        if not found.num_rows or not found[modality][0].is_valid:  # asking for it in `where` would read every vector
            raise NotBuilt(f"{protein} has no {modality} vector in this atlas.")
        vector = vectors_of(found[modality])[0]
    else:
        if modality != "image":
            raise BadInput(f"A cell line can be chosen for modality image, not {modality}: it is about pictures.")
        condition = f"protein_id = {quote(protein)} AND cell_line = {quote(cell_line)}"
        found = store.read("profiles", ["n_cells", "embedding"], where=condition)
        if not found.num_rows:
            raise NotBuilt(f"{protein} was not seen in the cell line {cell_line!r}.")
        vector = np.average(vectors_of(found["embedding"]), axis=0, weights=found["n_cells"].to_numpy())
    if not np.any(vector):
        msg = f"The {modality} vector of {protein} is zero, as in an atlas of one protein: nothing can be compared."
        raise NotBuilt(msg)
    return vector


def recipe_of_cells(store: Store) -> dict[str, Any]:
    """Return the recipe of the cells' embeddings as an object; empty when there are none."""
    return store.metadata("cells").get("recipes", {}).get("embedding") or {}


def recipe_for_pictures(store: Store) -> Recipe:
    """Return the recipe by which a picture is to be embedded; raise NotBuilt or RecipeMismatch when there is none."""
    stored = store.recipe("cells", "embedding")
    if stored is None:
        raise NotBuilt("The atlas holds no cells to compare a picture with.")
    if stored.masking is None:
        raise RecipeMismatch("This atlas was made from ready-made vectors: how to embed a picture is not known to it.")
    return stored


def vector_of_cells(store: Store, encoder: Encoder, crops: np.ndarray, *, cell_line: str | None) -> np.ndarray:
    """Embed crops (N, C, H, W) that are not in the atlas and return their mean (k,), corrected like the proteins.

    By what the correction does to all batches alike, and its mean shift over the atlas (or `cell_line`): the plate of a
    new picture is not known to it. See `CorrectedSpace` for which corrections that is exact.
    Raise RecipeMismatch when `encoder` is not the atlas's.
    """
    vector = vector_of_new_cells(store, encoder, crops)
    where = f"cell_line = {quote(cell_line)}" if cell_line else None
    if cell_line:
        check_cell_line(store, cell_line)
    profiles = store.read("profiles", ["n_cells", "embedding", "uncentered"], where=where)
    space = corrected_space(store)
    return space.project(vector) + np.average(space.shifts(profiles), axis=0, weights=profiles["n_cells"].to_numpy())


def vector_of_new_cells(store: Store, encoder: Encoder, crops: np.ndarray) -> np.ndarray:
    """Embed crops (N, C, H, W) that are not in the atlas and return their mean (dim,), as cells are stored.

    Raise RecipeMismatch when `encoder` is not the atlas's.
    """
    stored = recipe_for_pictures(store)
    stored.check_same(encoder.recipe(masking=stored.masking or "none"), here="this atlas", there="This encoder")
    return encoder.embed(crops).mean(axis=0)


def compare(store: Store, name: str, *, by: str) -> pa.Table:
    """Tell whether a protein's localization changes between its cell lines, conditions or antibodies.

    One row per pair of groups: a, b, n_cells_a, n_cells_b, similarity (cosine of the two profiles), and percentile: the
    share, in percent, of the same comparison over all proteins whose similarity is lower. A low percentile says that
    the two differ more than in most proteins.
    """
    allowed = ("cell_line", "condition", "antibody")
    if by not in allowed:
        raise UnknownName("comparison", by, allowed)
    return compare_among(pairs_within_proteins(store, by), store, name, by=by)


def compare_among(pairs: pa.Table, store: Store, name: str, *, by: str) -> pa.Table:
    """Return what `compare` does, from the `pairs` of all proteins."""
    protein = protein_row(store, name)["protein_id"]
    mine = pairs.filter(pc.equal(pairs["protein_id"], protein))
    if not mine.num_rows:
        of_protein = store.read("profiles", [by], where=f"protein_id = {quote(protein)} AND {by} IS NOT NULL")
        seen = f"{of_protein[by][0]} is the only one known of it" if of_protein.num_rows else "none is known of it"
        raise NotBuilt(f"{name} cannot be compared by {by}: {seen}.")
    everyone = np.sort(pairs["similarity"].to_numpy())
    lower = np.searchsorted(everyone, mine["similarity"].to_numpy())
    return mine.append_column("percentile", pa.array(100 * lower / len(everyone))).drop_columns(["protein_id"])


def pairs_within_proteins(store: Store, by: str) -> pa.Table:
    """Return every pair of groups of every protein: protein_id, a, b, n_cells_a, n_cells_b, similarity.

    A group is what a protein's profiles with the same value of `by` tell, weighted by their cells; similarity is the
    cosine of two groups' means.
    """
    profiles = store.read("profiles", ["protein_id", by, "n_cells", "embedding"], where=f"{by} IS NOT NULL")
    rows_of: dict[str, dict[str, list[int]]] = {}
    for row, (protein, group) in enumerate(zip(*(profiles[c].to_pylist() for c in ("protein_id", by)), strict=True)):
        rows_of.setdefault(protein, {}).setdefault(group, []).append(row)
    vectors, n_cells = vectors_of(profiles["embedding"]), profiles["n_cells"].to_numpy()
    columns: dict[str, list[Any]] = {name: [] for name in ("protein_id", "a", "b", "n_cells_a", "n_cells_b")}
    similarity = [np.empty(0)]
    for protein, rows in rows_of.items():
        if len(rows) < 2:
            continue
        groups = sorted(rows)
        means = np.stack([n_cells[rows[group]] @ vectors[rows[group]] for group in groups])
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-300)
        n_of = [int(n_cells[rows[group]].sum()) for group in groups]
        first, second = np.triu_indices(len(groups), 1)
        similarity.append((means @ means.T)[first, second])
        columns["protein_id"] += [protein] * len(first)
        for name, index in (("a", first), ("b", second)):
            columns[name] += [groups[i] for i in index]
            columns[f"n_cells_{name}"] += [n_of[i] for i in index]
    kinds = (pa.string(), pa.string(), pa.string(), pa.int32(), pa.int32())
    table = {name: pa.array(values, kind) for (name, values), kind in zip(columns.items(), kinds, strict=True)}
    return pa.table({**table, "similarity": pa.array(np.concatenate(similarity))})


def map_graph(store: Store, name: str = MAIN) -> nx.DiGraph:
    """Return a protein map: nodes are systems and carry the columns of `systems`, edges parent -> child `overlap`.

    Raise UnknownName when the atlas has no map of this name.
    """
    graph = nx.DiGraph()
    for row in store.read("systems").to_pylist():
        if map_of(row["system_id"]) == name:
            graph.add_node(row["system_id"], **row)
    if not graph:
        raise UnknownName("map", name, known_maps(store))
    for row in store.read("system_edges").to_pylist():
        if map_of(row["parent_id"]) == name:
            graph.add_edge(row["parent_id"], row["child_id"], overlap=row["overlap"])
    return graph


def system_members(store: Store, system: str) -> pa.Table:
    """Return the proteins of a system, without their vectors, by symbol."""
    known = store.read("systems", ["system_id"])["system_id"].to_pylist()
    if system not in known:
        raise UnknownName("system", system, known)
    ids = store.read("system_members", ["protein_id"], where=f"system_id = {quote(system)}")["protein_id"].to_pylist()
    wanted = ["protein_id", "gene_symbol", "localization", "n_cells", "variability", "x", "y"]
    return store.read("proteins", wanted, where=one_of("protein_id", ids)).sort_by("gene_symbol")


def paths_of(store: Store, name: str, map_name: str = MAIN) -> tuple[str, list[list[str]]]:
    """Return the symbol of a protein and the paths from the root to each of the smallest systems that hold it."""
    graph = map_graph(store, map_name)
    row = protein_row(store, name)
    where = f"protein_id = {quote(row['protein_id'])}"
    own = set(store.read("system_members", ["system_id"], where=where)["system_id"].to_pylist()) & set(graph)
    if not own:
        raise NotBuilt(f"{name} has no vector that could be mapped, so it is not in the map.")
    smallest = sorted(system for system in own if not own.intersection(graph.successors(system)))
    root = next(system for system in graph if graph.in_degree(system) == 0)
    paths: list[list[str]] = []
    for system in smallest:
        paths.extend([[root]] if system == root else nx.all_simple_paths(graph, root, system))
    return row["gene_symbol"] or row["protein_id"], paths


def profiles_of(store: Store, protein: str) -> pa.Table:
    """Return the profiles of a protein by id, those with the most cells first, without their vectors.

    similarity: the cosine of the profile and the protein's vector, null where the protein has none.
    """
    wanted = ["antibody", "cell_line", "condition", "n_cells", "n_plates", "localization", "spread"]
    if not store.has("profiles"):
        return pa.table({name: pa.nulls(0) for name in (*wanted, "similarity")})
    found = store.read("profiles", [*wanted, "embedding"], where=f"protein_id = {quote(protein)}")
    found = found.sort_by([("n_cells", "descending")])
    whole = store.read("proteins", ["image"], where=f"protein_id = {quote(protein)}")
    likeness: list[float | None] = [None] * found.num_rows
    if whole.num_rows and whole["image"][0].is_valid:
        vector = vectors_of(whole["image"])[0]
        likeness = [cosine(vector, profile) for profile in vectors_of(found["embedding"])]
    return found.select(wanted).append_column("similarity", pa.array(likeness, pa.float32()))


def predicted_places(store: Store, protein: str) -> pa.Table:
    """Return the localizations predicted of a protein's cells, by id, and the share of cells with each, most first."""
    where = f"protein_id = {quote(protein)} AND predicted_localization IS NOT NULL"
    cells = store.read("cells", ["predicted_localization"], where=where) if store.has("cells") else pa.table({})
    counts = Counter(place for places in cells.to_pylist() for place in places["predicted_localization"])
    ranked = counts.most_common()
    shares = [n / cells.num_rows for _, n in ranked]
    return pa.table({"localization": pa.array([p for p, _ in ranked], pa.string()), "share": pa.array(shares)})


def cohesion(store: Store, proteins: Sequence[str], *, modality: str, cell_line: str | None) -> list[float]:
    """Return of each protein, by id, the cosine with the mean of the others: who has the lowest is the odd one out."""
    vectors = [vector_of(store, protein, modality=modality, cell_line=cell_line) for protein in proteins]
    directions = np.array([vector / np.linalg.norm(vector) for vector in vectors])
    return [cosine(own, directions.sum(axis=0) - own) for own in directions]


def thumbnails(store: Store, proteins: Sequence[str], *, n: int = 6, cell_line: str | None = None) -> pa.Table:
    """Return at most `n` cells of each of `proteins` that have a thumbnail, of each cell line in turn.

    Columns: cell_id, protein_id, cell_line, antibody, plate, localization, thumbnail; ordered as `proteins`.
    """
    where = f"{one_of('protein_id', proteins)} AND thumbnail IS NOT NULL"
    if cell_line is not None:
        where += f" AND cell_line = {quote(cell_line)}"
    known = store.read("cells", ["cell_id", "protein_id", "cell_line"], where=where)
    known = known.sort_by([("cell_line", "ascending"), ("cell_id", "ascending")])
    by_protein: dict[str, dict[str | None, list[str]]] = {protein: {} for protein in proteins}
    for row in known.to_pylist():
        by_protein[row["protein_id"]].setdefault(row["cell_line"], []).append(row["cell_id"])
    chosen = [cell for lines in by_protein.values() for cell in in_turn(list(lines.values()))[:n]]
    wanted = ["cell_id", "protein_id", "cell_line", "antibody", "plate", "localization", "thumbnail"]
    found = store.read("cells", wanted, where=one_of("cell_id", chosen) if chosen else "false")
    row_of = {cell: row for row, cell in enumerate(found["cell_id"].to_pylist())}
    return found.take(pa.array([row_of[cell] for cell in chosen], pa.int64()))


def in_turn(lists: Sequence[Sequence[str]]) -> list[str]:
    """Return the items of some lists: the first of each, then the second of each, and so on."""
    return [item for turn in zip_longest(*lists) for item in turn if item is not None]
