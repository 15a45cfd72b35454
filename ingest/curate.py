"""Curating the pictures to train on: the rows of a manifest whose antibody looks consistent in an atlas of them."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from subcell_atlas.errors import BadInput, NotBuilt, UnknownName
from subcell_atlas.identifiers import protein_id
from subcell_atlas.pretraining.curation import REASONS, CurationConfig, consistency_table, kept_by_either, unit_rows
from subcell_atlas.profiles import vectors_of
from subcell_atlas.store import Store
from subcell_atlas.writing import check_file_place, written_whole

from .addresses import is_remote
from .manifest import CHANNEL_COLUMNS, Manifest, read_manifest

__all__ = ["REPLICATES", "Curated", "curate", "write_table"]

REPLICATES = {"fov": "fields of view", "cell": "cells"}
NAME_COLUMNS = ("antibody", "ensembl_id", "uniprot_accession", "gene_symbol")
PLACE_COLUMNS = ("cell_line", "condition", "plate", "well")
CELL_COLUMNS = (*NAME_COLUMNS, *PLACE_COLUMNS, "fov", "source", "image_id", "cell_id")
MIN_ANTIBODIES = 10  # on a plate, for it to be compared within
PICTURE_COLUMNS = (*CHANNEL_COLUMNS, "image", "mask")  # of a manifest, that name files


@dataclass(frozen=True, kw_only=True)
class Curated:
    """What became of the antibodies and of the rows.

    A row or a cell that names no antibody is taken by its protein; when no row names one, all cells are.
    `n_cells_without_fov`: cells, over the atlases, that name no field of view, so that their picture stood for it.
    """

    table: pa.Table  # one row per antibody: n_replicates, agreement, null_mean, p_value, kept, reason
    n_rows: int
    n_written: int
    n_rows_not_kept: int
    n_rows_not_embedded: int  # no cell of their antibody is in the atlas
    n_rows_unnamed: int  # name neither an antibody nor a protein
    n_rows_by_protein: int  # name a protein and no antibody
    n_cells_without_fov: int

    def reasons(self) -> dict[str, int]:
        """Return how many antibodies there are for each reason."""
        found = Counter(self.table["reason"].to_pylist())
        return {reason: found[reason] for reason in REASONS}

    def rows(self) -> dict[str, int]:
        """Return how many rows of the manifest there are, and what became of them."""
        return {
            "all": self.n_rows,
            "written": self.n_written,
            "antibody not kept": self.n_rows_not_kept,
            "antibody not in the atlas": self.n_rows_not_embedded,
            "no antibody or gene": self.n_rows_unnamed,
        }

    def notes(self) -> list[str]:
        """Say what a person should know besides."""
        notes = {
            "rows are of an antibody that is not in the atlas; they were left out": self.n_rows_not_embedded,
            "rows name neither an antibody nor a gene; they were left out": self.n_rows_unnamed,
            "rows name no antibody; they were taken by their gene": self.n_rows_by_protein,
            "cells name no field of view; their picture was taken for it": self.n_cells_without_fov,
        }
        return [f"{n} {note}." for note, n in notes.items() if n]


@dataclass(frozen=True, kw_only=True)
class Replicates:
    """The vector of each replicate (n, dim), not of length 1; its antibody and its stratum."""

    vectors: np.ndarray
    labels: Sequence[str]
    strata: Sequence[str]
    n_cells_without_fov: int


def curate(
    stores: Sequence[Store], manifest_path: Path, output: Path, *, alpha: float = 0.01, n_permutations: int = 10_000,
    min_replicates: int = 3, replicate: str = "fov", seed: int = 0, source: str | None = None,
) -> Curated:  # fmt: skip
    """Write to `output` the rows of a manifest whose antibody has replicates that agree, p < alpha, in one of `stores`.

    A replicate is a field of view, the mean of its cells' embeddings at length 1; with `replicate="cell"` it is a cell,
    and memory grows with the cells. The null is drawn within cell line, condition and plate; an antibody of fewer
    replicates than `min_replicates` is left out. `source`: only the cells that the atlas says came from there. Files
    that the rows name relative to the manifest are named relative to `output`. Raise AtlasError, and write nothing,
    when no row is left.
    """
    config = CurationConfig(seed=seed, alpha=alpha, n_permutations=n_permutations, min_replicates=min_replicates)
    if replicate not in REPLICATES:
        raise UnknownName("kind of replicate", replicate, REPLICATES)
    manifest = read_manifest(manifest_path, channels=(), encoder="", crops=True)
    check_file_place(output, manifest_path)
    by_protein = not any(row.get("antibody") for row in manifest.rows)
    tables, n_cells_without_fov = [], 0
    for store in stores:
        found = read_replicates(store, by_cell=replicate == "cell", by_protein=by_protein, source=source)
        check_replicates(found, config, where=store.uri, replicate=replicate)
        tables.append(consistency_table(found.vectors, found.labels, strata=found.strata, config=config))
        n_cells_without_fov += found.n_cells_without_fov
    table = kept_by_either(*tables)
    names = table["antibody"].to_pylist()
    kept = {name for name, keep in zip(names, table["kept"].to_pylist(), strict=True) if keep}
    labelled = [(row, label_of(row, by_protein=by_protein)) for row in manifest.rows]
    chosen = [row for row, label in labelled if label in kept]
    embedded = set(names)
    n_seen = sum(label in embedded for _, label in labelled)
    n_unnamed = sum(label is None for _, label in labelled)
    if not n_seen:
        kind = "a protein" if by_protein else "an antibody"
        msg = f"No row of {manifest_path} is of {kind} that {uris(stores)} has, such as {names[0]!r}"
        raise BadInput(f"{msg}.\nName the atlas that these pictures were ingested into, by the same names: --atlas.")
    if not chosen:
        raise BadInput(nothing_left(table, config, n_kept=len(kept)))
    write_manifest(chosen, manifest, output)
    return Curated(
        table=table,
        n_rows=len(manifest.rows),
        n_written=len(chosen),
        n_rows_not_kept=n_seen - len(chosen),
        n_rows_not_embedded=len(labelled) - n_unnamed - n_seen,
        n_rows_unnamed=n_unnamed,
        n_rows_by_protein=sum(label is not None and not row.get("antibody") for row, label in labelled),
        n_cells_without_fov=n_cells_without_fov,
    )


def label_of(row: Mapping[str, Any], *, by_protein: bool) -> str | None:
    """Return what a row or a cell is grouped by: its antibody, where it names none its protein; or always that."""
    return (None if by_protein else row.get("antibody")) or protein_id(row)


def read_replicates(store: Store, *, by_cell: bool, by_protein: bool, source: str | None) -> Replicates:
    """Add up the cells of each replicate, batch by batch. Cells of no antibody or protein are left out."""
    if not store.has("cells"):
        raise NotBuilt(
            f"The atlas {store.uri!r} has no cells yet. Put them in: subcell-atlas ingest images MANIFEST.csv"
        )
    sums: dict[tuple[str, ...], np.ndarray] = {}
    sources: set[str] = set()
    n_without_fov = 0
    for batch in store.batches("cells", [*CELL_COLUMNS, "embedding"]):
        units = unit_rows(vectors_of(batch["embedding"]), what=f"cells in a batch of {store.uri!r}")
        rows_of: dict[tuple[str, ...], list[int]] = {}
        for row, cell in enumerate(batch.select(list(CELL_COLUMNS)).to_pylist()):
            label = label_of(cell, by_protein=by_protein)
            sources.add(cell["source"] or "")
            if label is None or source not in (None, cell["source"]):
                continue
            n_without_fov += not cell["fov"]
            field = cell["fov"] or f"{cell['source']}\0{cell['image_id']}"
            place = [cell[name] or "" for name in PLACE_COLUMNS]
            rows_of.setdefault((label, *place, field, cell["cell_id"] if by_cell else ""), []).append(row)
        for key, rows in rows_of.items():
            total = units[rows].sum(axis=0)
            sums[key] = sums[key] + total if key in sums else total
    if source is not None and source not in sources:
        raise UnknownName("source", source, sorted(sources))
    if not sums:
        msg = f"No cell of {store.uri!r} names its antibody or its protein, so there is nothing to group"
        raise BadInput(f"{msg}.\nGive antibody, gene_symbol, ensembl_id or uniprot_accession, and ingest again.")
    return Replicates(
        vectors=np.stack(list(sums.values())),
        labels=[key[0] for key in sums],
        strata=strata_of(list(sums)),
        n_cells_without_fov=n_without_fov,
    )


def strata_of(keys: Sequence[tuple[str, ...]]) -> list[str]:
    """Return what each replicate, which its key tells, is compared within: cell line, condition and plate.

    Small plates of a cell line and condition are taken together: one alone holds too little to compare with.
    """
    antibodies: dict[tuple[str, ...], set[str]] = {}
    for label, *place, _, _, _ in keys:
        antibodies.setdefault(tuple(place), set()).add(label)
    large = {place for place, labels in antibodies.items() if len(labels) >= MIN_ANTIBODIES}
    return ["\0".join(key[1:4] if key[1:4] in large else key[1:3]) for key in keys]


def check_replicates(found: Replicates, config: CurationConfig, *, where: str, replicate: str) -> None:
    """Raise BadInput when no antibody has enough replicates to be tested."""
    most = max(Counter(found.labels).values())
    if most >= config.min_replicates:
        return
    fixes = [f"--min-replicates {most}"] if most >= 2 else []
    fixes += ["--replicate cell, which takes each cell as a replicate"] if replicate != "cell" else []
    msg = f"No antibody in {where!r} has {config.min_replicates} {REPLICATES[replicate]}; the most is {most}."
    raise BadInput(f"{msg}\nTry {' or '.join(fixes)}." if fixes else f"{msg} Ingest more pictures.")


def nothing_left(table: pa.Table, config: CurationConfig, *, n_kept: int) -> str:
    """Say why no row of the manifest is left."""
    if n_kept:
        return f"None of the {n_kept} antibodies that are consistent is in this manifest. Nothing was written."
    reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(table["reason"].to_pylist()).items())
    p_values = [p for p in table["p_value"].to_pylist() if p is not None]
    lowest = f"; the lowest p-value is {min(p_values):.2g}" if p_values else ""
    msg = f"None of {table.num_rows} antibodies is consistent at p < {config.alpha} ({reasons}{lowest})."
    return f"{msg} Nothing was written.\nIs the encoder trained? More fields of view help; --alpha sets another bound."


def write_manifest(rows: Sequence[Mapping[str, str]], manifest: Manifest, path: Path) -> None:
    """Write `rows` of a manifest with all their columns; the files they name are found from the folder of `path`."""
    delimiter = "\t" if path.suffix.lower() in (".tsv", ".tab") else ","
    folders = (Path(manifest.folder).resolve(), path.parent.resolve())
    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            files = {name: moved(row[name], *folders) for name in PICTURE_COLUMNS if row.get(name)}
            writer.writerow({**row, **files})


def moved(name: str, old: Path, new: Path) -> str:
    """Return the file that `name` means in the folder `old`, named from the folder `new`."""
    if old == new or is_remote(name) or Path(name).is_absolute():
        return name
    return Path(os.path.relpath(old / name, new)).as_posix()


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as CSV."""
    with written_whole(path) as part:
        pa_csv.write_csv(table, part)


def uris(stores: Sequence[Store]) -> str:
    """Return the addresses of some atlases for a message."""
    return " or ".join(repr(store.uri) for store in stores)
