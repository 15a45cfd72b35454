"""Ready-made vectors into an atlas, of cells or of proteins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from subcell_atlas._version import __version__
from subcell_atlas.errors import BadInput, RecipeMismatch, UnknownName
from subcell_atlas.identifiers import Gene, protein_id
from subcell_atlas.profiles import vector_array
from subcell_atlas.proteins import write_proteins
from subcell_atlas.recipe import Recipe
from subcell_atlas.runs import Run
from subcell_atlas.schema import TABLES
from subcell_atlas.store import Store, quote

from .job import Counts
from .named import Named, known_proteins
from .reports import said_how
from .sources import digest, source_name
from .vector_files import Vectors, read_vectors

__all__ = ["LEVELS", "MODALITIES", "VectorCounts", "ingest_embeddings"]

MODALITIES = ("image", "sequence")
LEVELS = ("cell", "protein")


@dataclass
class VectorCounts(Counts):
    """What became of the vectors of a run, and, of proteins, whose they are."""

    joined_by: dict[str, int] = field(default_factory=dict)  # the kind of name that told which protein of the atlas
    new: int = 0  # of proteins that the atlas did not have
    ambiguous: int = 0  # of these, whose name several proteins have
    matrices: int = 0  # arrays of which the mean over residues was taken

    def notes(self) -> Iterator[str]:
        """Say whose the vectors are, and what to look at."""
        joined = sum(self.joined_by.values())
        if joined or self.new:
            how = f" ({said_how(self.joined_by)})" if joined else ""
            several = f", {self.ambiguous} of them of a name that several proteins have" if self.ambiguous else ""
            yield f"{joined} are of proteins of this atlas{how}, {self.new} of new ones{several}."
        if self.matrices:
            yield f"{self.matrices} were matrices of residues: the mean over the residues is stored."
        if self.remark:
            yield self.remark


def ingest_embeddings(
    store: Store, path: Path, *, modality: str, level: str, encoder: str = "ready-made"
) -> VectorCounts:
    """Take the vectors of a file: of cells into `cells`, of proteins into the column `modality` of `proteins`.

    `encoder` names what made them; vectors of two names are not mixed. A row without a usable vector, or at the level
    of proteins without a name, goes into `rejects`. Raise BadInput when the file as a whole cannot be used.
    """
    for kind, value, allowed in (("modality", modality, MODALITIES), ("level", level, LEVELS)):
        if value not in allowed:
            raise UnknownName(kind, value, allowed)
    if level == "cell" and modality != "image":
        raise BadInput("Vectors of sequences are per protein: use --level protein.")
    source = source_name(path)
    counts = VectorCounts()
    chunks = read_vectors(path)
    first = next(chunks, None)
    if first is None or not len(first.vectors):
        raise BadInput(f"{path} has no rows.")
    if level == "cell" and first.labels is not None:
        raise BadInput(f"{path} has a vector for each protein: use --level protein.")
    recipe = Recipe(encoder=encoder, dim=first.vectors.shape[1], code_version=__version__)
    table, column = ("cells", "embedding") if level == "cell" else ("proteins", modality)
    check_recipe(store, recipe, table=table, column=column, path=path)
    found, rejects = Named(known_proteins(store)) if level == "protein" else None, Rejects(source)
    of_proteins: list[pa.Array] = []
    run = Run.start(store, kind="ingest", recipe=recipe)
    store.ensure("rejects")
    for chunk in chain([first], chunks):
        if chunk.vectors.shape[1] != recipe.dim:
            lengths = f"{chunk.vectors.shape[1]} and {recipe.dim}"
            raise BadInput(f"{path}: all vectors must have one length; found {lengths}.")
        counts.matrices += chunk.n_matrices
        good = rejects.sieve(chunk, counts, found)
        counts.cells += len(good)
        vectors, columns = chunk.vectors[good], chunk.columns.take(pa.array(good, pa.int64()))
        if found is not None:
            of_proteins.append(vector_array(vectors))
        elif good:
            write_cells(store, vectors, columns, recipe, source=source, run_id=run.run_id)
    if found:
        found.check_species(path)
        rows = found.table().append_column(modality, pa.chunked_array(of_proteins))
        write_proteins(store, rows, vector=modality, recipe=recipe)
        counts.joined_by, counts.new, counts.ambiguous = found.joined_by, found.n_new, found.n_ambiguous
        counts.remark = found.remark() or counts.remark
    rejects.write(store, run.run_id)
    counts.rejected = len(rejects.reasons)
    run.finish(counts.__dict__)
    return counts


def check_recipe(store: Store, recipe: Recipe, *, table: str, column: str, path: Path) -> None:
    """Raise RecipeMismatch when the atlas holds other vectors where these would go."""
    stored = store.recipe(table, column)
    if (table, column) == ("proteins", "image") and store.has("cells"):
        msg = f"{path.name} cannot be mixed with this atlas: its proteins' picture vectors are made from its cells."
        raise RecipeMismatch(f"{msg}\nPut them into another atlas (--atlas).")
    if stored is not None:
        stored.check_same(recipe, here=f"the {column} vectors of this atlas", there=f"{path.name}")


class Rejects:
    """Rows that cannot be used, by label or as `row N`, which counts from 1, with the reason."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.reasons: dict[str, str] = {}

    def sieve(self, chunk: Vectors, counts: VectorCounts, found: Named | None) -> list[int]:
        """Return the rows that can be used; with `found`, into which they go, the first of each protein."""
        finite = np.isfinite(chunk.vectors).all(axis=1)
        nonzero = np.count_nonzero(chunk.vectors, axis=1)
        good = []
        for row, gene in enumerate(chunk.genes):
            counts.pictures += 1
            reason = None
            if not finite[row]:
                reason = "the vector holds NaN or infinite numbers"
            elif not nonzero[row]:
                reason = "the vector is zero"
            elif found is not None:
                reason = second_vector(found, gene) if gene else "it names no protein"
            if reason:
                name = chunk.labels[row] if chunk.labels else ""
                is_own = name and name not in self.reasons
                self.reasons[name if is_own else f"row {counts.pictures}"] = reason
            else:
                good.append(row)
        return good

    def write(self, store: Store, run_id: str) -> None:
        """Write the rejects of this file in place of those of an earlier run."""
        store.delete("rejects", f"source = {quote(self.source)}")
        if self.reasons:
            n = len(self.reasons)
            columns = {"source": [self.source] * n, "image": list(self.reasons), "reason": list(self.reasons.values())}
            store.upsert("rejects", pa.table({**columns, "run_id": [run_id] * n}))


def write_cells(
    store: Store, vectors: np.ndarray, columns: pa.Table, recipe: Recipe, *, source: str, run_id: str
) -> None:
    """Write vectors of cells; a row's id is computed from its vector and columns, so the same row is stored once."""
    rows: list[dict[str, Any]] = []
    strings = [name for name in columns.column_names if name in TABLES["cells"]]
    for vector, given in zip(vectors, columns.to_pylist(), strict=True):
        content = digest(hashlib.sha256(vector.tobytes()).hexdigest(), json.dumps(given, sort_keys=True, default=str))
        known = {name: as_stored(name, given[name]) for name in strings}
        extra = {k: v for k, v in given.items() if (k not in TABLES["cells"] or k == "cell_id") and v is not None}
        rows.append(
            {
                **known,
                "cell_id": digest(source, str(known["cell_id"])) if known.get("cell_id") else content,
                "protein_id": protein_id(known),
                "localization": known.get("localization") or [],
                "source": source,
                "picture_id": content,
                "fingerprint": content,
                "extra": json.dumps(extra, sort_keys=True, default=str) if extra else None,
                "run_id": run_id,
            }
        )
    by_id = {row["cell_id"]: number for number, row in enumerate(rows)}  # the last of the same cell counts
    numbers = sorted(by_id.values())
    stored = {}
    for name, kind in TABLES["cells"].items():
        if name == "embedding":
            continue
        try:
            stored[name] = pa.array([rows[number].get(name) for number in numbers], kind)
        except (pa.ArrowException, TypeError, ValueError) as exc:
            raise BadInput(f"The column {name!r} of {source!r} must hold {kind} values: {exc}") from exc
    table = pa.table({**stored, "embedding": vector_array(vectors[numbers])})
    store.replace_cells(table, [rows[number]["picture_id"] for number in numbers], recipe=recipe)


def as_stored(name: str, value: object) -> object:
    """Return a value of a file as the column `name` of `cells` stores it."""
    if TABLES["cells"][name] == TABLES["cells"]["localization"]:
        if isinstance(value, str):
            return [place.strip() for place in value.split(";") if place.strip()]
        return value
    if value is None or value == "":
        return None
    return str(value) if pa.types.is_string(TABLES["cells"][name]) else value


def second_vector(found: Named, gene: Gene) -> str | None:
    """Take a gene; return why not when its protein has a vector already."""
    protein = found.add(gene)
    return f"a second vector of {protein}; use --level cell to average them" if protein else None
