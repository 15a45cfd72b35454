"""Cells to profiles to proteins: means over cells, each cell centred on its batch first, or corrected otherwise.

`corrections` has the other ways; this is the usual one. A batch is a cell line and plate. What its proteins have in
common (staining, microscope, the look of the cell line) is its mean, and is taken away. A batch with few proteins has
little in common but those proteins, and its mean would take their signal away: below `MIN_PROTEINS` the cell line's
mean stands in, below that the mean over all.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .corrections import MIN_PROTEINS, Space
from .errors import BadInput

__all__ = [
    "CELL_COLUMNS",
    "CellSums",
    "Corrected",
    "Group",
    "merge_proteins",
    "profiles_table",
    "proteins_table",
    "vector_array",
    "vectors_of",
]

CELL_COLUMNS = (
    "protein_id",
    "gene_symbol",
    "ensembl_id",
    "uniprot_accession",
    "antibody",
    "cell_line",
    "plate",
    "condition",
    "localization",
    "embedding",
    "extra",
)
NAMES = ("gene_symbol", "ensembl_id", "uniprot_accession")


class Group(NamedTuple):
    """Cells that are averaged together, on one plate."""

    protein_id: str
    antibody: str | None
    cell_line: str | None
    condition: str | None
    plate: str | None


@dataclass
class CellSums:
    """Sums over cells by group, added batch by batch, so that no cell is held in memory."""

    n: dict[Group, int] = field(default_factory=dict)
    total: dict[Group, np.ndarray] = field(default_factory=dict)
    squares: dict[Group, float] = field(default_factory=dict)
    localization: dict[Group, Counter[str]] = field(default_factory=dict)
    names: dict[str, dict[str, str]] = field(default_factory=dict)  # by protein
    n_without_protein: int = 0

    def add(self, cells: pa.RecordBatch | pa.Table) -> None:
        """Add cells with the columns of `CELL_COLUMNS`; those of no protein are only counted."""
        vectors = vectors_of(cells["embedding"]).astype(np.float64)
        columns = [cells[name].to_pylist() for name in Group._fields]
        rows_of: dict[Group, list[int]] = {}
        for row, key in enumerate(zip(*columns, strict=True)):
            if key[0] is None:
                self.n_without_protein += 1
            else:
                rows_of.setdefault(Group(*key), []).append(row)
        localizations = cells["localization"].to_pylist()
        names = [cells[name].to_pylist() for name in NAMES]
        extra = cells["extra"].to_pylist() if "extra" in cells.schema.names else [None] * len(localizations)
        for group, rows in rows_of.items():
            chosen = vectors[rows]
            self.n[group] = self.n.get(group, 0) + len(rows)
            self.total[group] = self.total.get(group, 0) + chosen.sum(axis=0)
            self.squares[group] = self.squares.get(group, 0.0) + float((chosen**2).sum())
            places = self.localization.setdefault(group, Counter())
            for row in rows:
                places.update(localizations[row] or [])
            known = self.names.setdefault(group.protein_id, {})
            for name, values in zip(NAMES, names, strict=True):
                if values[rows[0]] and name not in known:
                    known[name] = values[rows[0]]
            if "reliability" not in known and (reliability := reliability_in(extra[rows[0]])):
                known["reliability"] = reliability

    def centers(self) -> dict[Group, np.ndarray]:
        """Return, for each group, the mean that its cells are centred on; each protein of a batch counts the same."""
        everything = mean_over_proteins(self, self.n)
        by_line: dict[str | None, list[Group]] = {}
        by_batch: dict[tuple[str | None, str | None], list[Group]] = {}
        for group in self.n:
            by_line.setdefault(group.cell_line, []).append(group)
            by_batch.setdefault((group.cell_line, group.plate), []).append(group)
        center_of_line = {line: self._center(groups, everything) for line, groups in by_line.items()}
        centers = {}
        for (line, _), groups in by_batch.items():
            center = self._center(groups, center_of_line[line])
            centers.update(dict.fromkeys(groups, center))
        return centers

    def _center(self, groups: Sequence[Group], otherwise: np.ndarray) -> np.ndarray:
        enough = len({group.protein_id for group in groups}) >= MIN_PROTEINS
        return mean_over_proteins(self, groups) if enough else otherwise


def reliability_in(extra: str | None) -> str | None:
    """Return what a manifest's other columns (JSON) say of how sure the localization is, as HPA grades it."""
    if not extra or '"reliability"' not in extra.lower():
        return None
    found = {name.lower(): value for name, value in json.loads(extra).items()}
    return str(found["reliability"]) if found.get("reliability") else None


def mean_over_proteins(sums: CellSums, groups: Iterable[Group]) -> np.ndarray:
    """Return the mean (dim,) over proteins of the mean of their cells; zero when there is one protein alone."""
    n: dict[str, int] = {}
    total: dict[str, np.ndarray] = {}
    for group in groups:
        n[group.protein_id] = n.get(group.protein_id, 0) + sums.n[group]
        total[group.protein_id] = total.get(group.protein_id, 0) + sums.total[group]
    means = [total[protein] / n[protein] for protein in n]
    return np.mean(means, axis=0) if len(means) > 1 else np.zeros_like(means[0])


class Corrected(NamedTuple):
    """What gives the sum (k,) over a group's corrected cells, and what was done to all batches alike; None: nothing."""

    total: Callable[[Group], np.ndarray]
    space: Space | None


def profiles_table(sums: CellSums, corrected: Corrected | None = None) -> pa.Table:
    """Return the table `profiles` from the sums: one row per protein, antibody, cell line and condition.

    corrected: what another correction than the usual made of them. `spread` is that of centred cells all the same.
    """
    centers = sums.centers()
    total = corrected.total if corrected else partial(centred_sum, sums, centers)
    members: dict[tuple[str | None, ...], list[Group]] = {}
    for group in sums.n:
        members.setdefault(group[:-1], []).append(group)
    rows = []
    uncentred = np.empty((len(members), len(next(iter(sums.total.values())))), np.float32)
    embeddings = np.empty((len(members), len(total(next(iter(sums.n))))), np.float32)
    for row, key in enumerate(sorted(members, key=lambda key: tuple(part or "" for part in key))):
        groups = members[key]
        n = sum(sums.n[group] for group in groups)
        embeddings[row] = sum(total(g) for g in groups) / n
        uncentred[row] = sum(sums.total[g] for g in groups) / n
        rows.append(
            {
                "profile_id": "|".join(part or "" for part in key),
                **dict(zip(Group._fields[:-1], key, strict=True)),
                "n_cells": n,
                "n_plates": len(groups),
                "localization": ordered_places(sums, groups),
                "spread": spread_of(sums, groups, centers),
            }
        )
    table = pa.Table.from_pylist(rows)
    table = table.append_column("embedding", vector_array(embeddings))
    return table.append_column("uncentered", vector_array(uncentred))


def centred_sum(sums: CellSums, centers: Mapping[Group, np.ndarray], group: Group) -> np.ndarray:
    """Return the sum (dim,) over a group's cells, each centred on its batch."""
    return sums.total[group] - sums.n[group] * centers[group]


def spread_of(sums: CellSums, groups: Sequence[Group], centers: dict[Group, np.ndarray]) -> float | None:
    """Return the root mean square distance of centred cells to their mean; None for a single cell."""
    n = sum(sums.n[g] for g in groups)
    if n < 2:
        return None
    total = np.sum([centred_sum(sums, centers, g) for g in groups], axis=0)
    squares = sum(
        sums.squares[g] - 2 * float(centers[g] @ sums.total[g]) + sums.n[g] * float(centers[g] @ centers[g])
        for g in groups
    )
    return float(np.sqrt(max(squares - float(total @ total) / n, 0.0) / (n - 1)))


def ordered_places(sums: CellSums, groups: Iterable[Group]) -> list[str]:
    """Return the localizations of some groups' cells, the most frequent first."""
    places: Counter[str] = Counter()
    for group in groups:
        places.update(sums.localization[group])
    return [place for place, _ in sorted(places.items(), key=lambda item: (-item[1], item[0]))]


def proteins_table(profiles: pa.Table, names: dict[str, dict[str, str]]) -> pa.Table:
    """Return the columns of `proteins` that come from pictures: the mean over a protein's cells and what they tell."""
    vectors = vectors_of(profiles["embedding"]).astype(np.float64)
    weights = profiles["n_cells"].to_numpy().astype(np.float64)
    rows_of: dict[str, list[int]] = {}
    for row, protein in enumerate(profiles["protein_id"].to_pylist()):
        rows_of.setdefault(protein, []).append(row)
    records = profiles.drop_columns(["embedding", "uncentered"]).to_pylist()
    spreads = [record["spread"] for record in records if record["spread"] is not None]
    usual = float(np.median(spreads)) if spreads else 0.0
    rows = [protein_row(protein, [records[r] for r in rows], names, usual) for protein, rows in rows_of.items()]
    images = [np.average(vectors[rows], axis=0, weights=weights[rows]) for rows in rows_of.values()]
    return pa.Table.from_pylist(rows).append_column("image", vector_array(np.stack(images)))


def protein_row(
    protein: str, profiles: Sequence[dict[str, Any]], names: dict[str, dict[str, str]], usual_spread: float
) -> dict[str, Any]:
    """Return the plain columns of one protein from its profiles."""
    places: Counter[str] = Counter()
    for profile in profiles:
        places.update(dict.fromkeys(profile["localization"], profile["n_cells"]))
    spreads = [p["spread"] for p in profiles if p["spread"] is not None]
    known = names.get(protein, {})
    return {
        "protein_id": protein,
        "gene_symbol": known.get("gene_symbol"),
        "ensembl_id": known.get("ensembl_id"),
        "uniprot_accession": known.get("uniprot_accession"),
        "localization": [place for place, _ in sorted(places.items(), key=lambda item: (-item[1], item[0]))],
        "n_cells": sum(p["n_cells"] for p in profiles),
        "n_antibodies": len({p["antibody"] for p in profiles if p["antibody"]}),
        "cell_lines": sorted({p["cell_line"] for p in profiles if p["cell_line"]}),
        "reliability": known.get("reliability"),
        "variability": float(np.mean(spreads) / usual_spread) if spreads and usual_spread > 0 else None,
    }


def merge_proteins(old: pa.Table | None, new: pa.Table) -> pa.Table:
    """Return `old` with the columns that `new` has taken from `new`, row by protein_id; rows of either are kept.

    Where a protein is in both, a null or an empty list in `new` leaves what `old` had, so that names of one source
    complete the other's.
    """
    if old is None or old.num_rows == 0:
        return new
    ids = list(dict.fromkeys([*old["protein_id"].to_pylist(), *new["protein_id"].to_pylist()]))
    at_old = positions(old["protein_id"].to_pylist(), ids)
    at_new = positions(new["protein_id"].to_pylist(), ids)
    columns = {"protein_id": pa.array(ids)}
    for name in dict.fromkeys([*old.column_names, *new.column_names]):
        if name == "protein_id":
            continue
        if not says_something(new, name) and name in old.column_names:
            columns[name] = old[name].take(at_old)
        elif not says_something(old, name):
            columns[name] = new[name].take(at_new)
        else:
            columns[name] = first_known(new[name], at_new, old[name], at_old)
    return pa.table(columns)


def says_something(table: pa.Table, name: str) -> bool:
    """Tell whether a table has a column that could hold a value."""
    return name in table.column_names and not pa.types.is_null(table.schema.field(name).type)


def first_known(
    first: pa.ChunkedArray, at_first: pa.Array, second: pa.ChunkedArray, at_second: pa.Array
) -> pa.ChunkedArray:
    """Return the rows `at_first` of `first`; where they are null or empty lists, the rows `at_second` of `second`.

    A column of `second` that can hold no vectors yet holds nothing.
    """
    if pa.types.is_fixed_size_list(first.type) and not pa.types.is_fixed_size_list(second.type):
        return first.take(at_first)
    known = first.is_valid()
    if pa.types.is_list(first.type):
        known = pc.and_(known, pc.coalesce(pc.greater(pc.list_value_length(first), 0), pa.scalar(value=False)))
    use_first = pc.coalesce(known.combine_chunks().take(at_first), pa.scalar(value=False))
    beyond_first = pc.add(at_second, len(first))
    both = pa.chunked_array([*first.chunks, *second.cast(first.type).chunks])
    return both.take(pc.if_else(use_first, at_first, beyond_first))


def positions(ids: Sequence[str], wanted: Sequence[str]) -> pa.Array:
    """Return where each of `wanted` stands in `ids`; null when it does not."""
    at = {name: index for index, name in enumerate(ids)}
    return pa.array([at.get(name) for name in wanted], pa.int64())


def vector_array(vectors: np.ndarray, *, missing: np.ndarray | None = None) -> pa.FixedSizeListArray:
    """Return (n, dim) numbers as an Arrow array of float32 vectors; null where `missing` (n,) is true."""
    flat = np.ascontiguousarray(vectors, np.float32)
    mask = pa.array(missing) if missing is not None else None
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1], mask=mask)


def vectors_of(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return an Arrow column of vectors as (n, dim) float32; raise BadInput when one is null."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if column.null_count:
        raise BadInput(f"{column.null_count} of {len(column)} vectors are missing.")
    dim = column.type.list_size
    return np.asarray(column.flatten(), np.float32).reshape(len(column), dim)
