"""Ready-made vectors into an atlas, of cells or of proteins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from subcell_atlas._version import __version__
from subcell_atlas.errors import BadInput, RecipeMismatch, UnknownName
from subcell_atlas.identifiers import Gene
from subcell_atlas.profiles import vector_array
from subcell_atlas.proteins import write_proteins
from subcell_atlas.recipe import Recipe
from subcell_atlas.runs import Run
from subcell_atlas.store import Store, quote

from .cell_vectors import CellWriter
from .columns import Naming
from .counts import Counts
from .metadata import Metadata, with_metadata
from .named import Named, known_proteins
from .reports import said_how
from .sources import source_name
from .vector_files import Vectors, read_vectors

__all__ = ["LEVELS", "MODALITIES", "Reading", "VectorCounts", "ingest_embeddings"]

MODALITIES = ("image", "sequence")
LEVELS = ("cell", "protein")


@dataclass
class VectorCounts(Counts):
    """What became of the vectors of a run, and, of proteins, whose they are."""

    joined_by: dict[str, int] = field(default_factory=dict)  # the kind of name that told which protein of the atlas
    new: int = 0  # of proteins that the atlas did not have
    ambiguous: int = 0  # of these, whose name several proteins have
    matrices: int = 0  # arrays of which the mean over residues was taken
    renamed: dict[str, str] = field(default_factory=dict)  # columns of the file -> what they are in the atlas

    def notes(self) -> Iterator[str]:
        """Say whose the vectors are, and what to look at."""
        joined = sum(self.joined_by.values())
        if joined or self.new:
            how = f" ({said_how(self.joined_by)})" if joined else ""
            several = f", {self.ambiguous} of them of a name that several proteins have" if self.ambiguous else ""
            yield f"{joined} are of proteins of this atlas{how}, {self.new} of new ones{several}."
        if self.renamed:
            yield "Columns: " + ", ".join(f"{name} as {target}" for name, target in self.renamed.items()) + "."
        if self.matrices:
            yield f"{self.matrices} were matrices of residues: the mean over the residues is stored."
        if self.remark:
            yield self.remark


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a file of vectors is read. names: columns of the file -> of the atlas; vectors: the array, of several."""

    names: Mapping[str, str] = field(default_factory=dict)
    vectors: str | None = None
    metadata: Path | None = None  # a table of what is known of the cells, joined by its first column with their ids


def ingest_embeddings(
    store: Store, path: Path, *, modality: str, level: str, encoder: str = "ready-made", reading: Reading | None = None
) -> VectorCounts:
    """Take the vectors of a file: of cells into `cells`, of proteins into the column `modality` of `proteins`.

    `encoder` names what made them; vectors of two names are not mixed. A row without a usable vector, or at the level
    of proteins without a name, goes into `rejects`. What is stored already is skipped. Raise BadInput when the file
    as a whole cannot be used; of cells, what was read before that is stored.
    """
    for kind, value, allowed in (("modality", modality, MODALITIES), ("level", level, LEVELS)):
        if value not in allowed:
            raise UnknownName(kind, value, allowed)
    if level == "cell" and modality != "image":
        raise BadInput("Vectors of sequences are per protein: use --level protein.")
    reading = reading or Reading()
    naming = Naming(reading.names)
    source = source_name(path)
    counts = VectorCounts()
    chunks = read_vectors(path, naming, key=reading.vectors)
    if reading.metadata is not None:
        chunks = with_metadata(chunks, Metadata.read(reading.metadata, naming), path)
    first = next(chunks, None)
    if first is None or not len(first.vectors):
        raise BadInput(f"{path} has no rows.")
    if level == "cell" and first.labels is not None:
        raise BadInput(f"{path} has a vector for each protein: use --level protein.")
    counts.renamed = dict(naming.told)
    recipe = Recipe(encoder=encoder, dim=first.vectors.shape[1], code_version=__version__)
    table, column = ("cells", "embedding") if level == "cell" else ("proteins", modality)
    check_recipe(store, recipe, table=table, column=column, path=path)
    run = Run.start(store, kind="ingest", recipe=recipe)
    rejects = Rejects(store, source, run.run_id)
    take = take_cells if level == "cell" else take_proteins
    checked = of_one_length(chain([first], chunks), recipe.dim, path)
    take(store, checked, counts, rejects, recipe=recipe, run_id=run.run_id, path=path, modality=modality)
    rejects.finish()
    counts.rejected = rejects.n
    run.finish(counts.__dict__)
    return counts


def take_cells(
    store: Store, chunks: Iterable[Vectors], counts: VectorCounts, rejects: Rejects, *, recipe: Recipe, run_id: str,
    path: Path, modality: str,
) -> None:  # fmt: skip
    """Write the vectors of cells as they come."""
    try:
        with CellWriter(store, recipe, source=source_name(path), run_id=run_id) as writer:
            for chunk in read_ahead(chunks):
                good = rejects.sieve(chunk, counts, None)
                vectors, columns = chunk.vectors, chunk.columns
                if not good.all():
                    vectors, columns = vectors[good], columns.filter(pa.array(good))
                writer.write(vectors, columns)
                counts.cells, counts.done_before = writer.n_written, writer.n_skipped
            writer.wait()
        store.drop_doubles()
    except BadInput as exc:
        if not counts.cells:
            raise
        raise BadInput(f"{exc}\nThe {counts.cells} rows before are stored: mend the file and run this again.") from exc


def take_proteins(
    store: Store, chunks: Iterable[Vectors], counts: VectorCounts, rejects: Rejects, *, recipe: Recipe, run_id: str,
    path: Path, modality: str,
) -> None:  # fmt: skip
    """Write the vectors of proteins, once all have come."""
    found = Named(known_proteins(store))
    of_proteins: list[pa.Array] = []
    for chunk in chunks:
        counts.matrices += chunk.n_matrices
        good = rejects.sieve(chunk, counts, found)
        counts.cells += int(good.sum())
        of_proteins.append(vector_array(chunk.vectors[good]))
    if found:
        found.check_species(path)
        rows = found.table().append_column(modality, pa.chunked_array(of_proteins))
        write_proteins(store, rows, vector=modality, recipe=recipe)
        counts.joined_by, counts.new, counts.ambiguous = found.joined_by, found.n_new, found.n_ambiguous
        counts.remark = found.remark() or counts.remark


def read_ahead(chunks: Iterable[Vectors]) -> Iterator[Vectors]:
    """Yield chunks, the next of which is read while one is used."""
    remaining = iter(chunks)
    with ThreadPoolExecutor(1, "read") as pool:
        coming = pool.submit(next, remaining, None)
        while (chunk := coming.result()) is not None:
            coming = pool.submit(next, remaining, None)
            yield chunk


def of_one_length(chunks: Iterable[Vectors], dim: int, path: Path) -> Iterator[Vectors]:
    """Yield chunks; raise BadInput when the vectors of one have another length than `dim`."""
    for chunk in chunks:
        if chunk.vectors.shape[1] != dim:
            raise BadInput(f"{path}: all vectors must have one length; found {chunk.vectors.shape[1]} and {dim}.")
        yield chunk


def check_recipe(store: Store, recipe: Recipe, *, table: str, column: str, path: Path) -> None:
    """Raise RecipeMismatch when the atlas holds other vectors where these would go."""
    stored = store.recipe(table, column)
    if (table, column) == ("proteins", "image") and store.has("cells"):
        msg = f"{path.name} cannot be mixed with this atlas: its proteins' picture vectors are made from its cells."
        raise RecipeMismatch(f"{msg}\nPut them into another atlas (--atlas).")
    if stored is not None:
        stored.check_same(recipe, here=f"the {column} vectors of this atlas", there=f"{path.name}")


class Rejects:
    """Rows that cannot be used, by label or as `row N`, which counts from 1, with the reason; written as they come."""

    def __init__(self, store: Store, source: str, run_id: str) -> None:
        self.n = 0
        self._store, self._source, self._run_id = store, source, run_id
        self._names: set[str] = set()  # of rows that have a label
        store.ensure("rejects")

    def sieve(self, chunk: Vectors, counts: VectorCounts, found: Named | None) -> np.ndarray:
        """Return which rows can be used, (n,) bool; with `found`, into which they go, the first of each protein."""
        good = np.isfinite(chunk.vectors).all(axis=1) & chunk.vectors.any(axis=1)
        genes = chunk.genes() if found is not None else None
        reasons: dict[str, str] = {}
        for row in range(len(good)) if genes else np.flatnonzero(~good):
            reason = None
            if not good[row]:
                is_finite = np.isfinite(chunk.vectors[row]).all()
                reason = "the vector is zero" if is_finite else "the vector holds NaN or infinite numbers"
            elif found is not None and genes is not None:
                gene = genes[row]
                reason = second_vector(found, gene) if gene else "it names no protein"
            if reason:
                good[row] = False
                reasons[self._name(chunk, int(row), counts.pictures + int(row) + 1)] = reason
        counts.pictures += len(good)
        self._write(reasons)
        return good

    def _name(self, chunk: Vectors, row: int, number: int) -> str:
        label = chunk.labels[row] if chunk.labels else ""
        if label and label not in self._names:
            self._names.add(label)
            return label
        return f"row {number}"

    def _write(self, reasons: Mapping[str, str]) -> None:
        self.n += len(reasons)
        if reasons:
            n = len(reasons)
            columns = {"source": [self._source] * n, "image": list(reasons), "reason": list(reasons.values())}
            self._store.upsert("rejects", pa.table({**columns, "run_id": [self._run_id] * n}))

    def finish(self) -> None:
        """Forget the rejects of earlier runs over this file: those that stand were found anew."""
        self._store.delete("rejects", f"source = {quote(self._source)} AND run_id != {quote(self._run_id)}")


def second_vector(found: Named, gene: Gene) -> str | None:
    """Take a gene; return why not when its protein has a vector already."""
    protein = found.add(gene)
    return f"a second vector of {protein}; use --level cell to average them" if protein else None
