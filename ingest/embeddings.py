"""Ready-made vectors: Parquet, CSV and NPZ files, of cells or of proteins."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from subcell_atlas._version import __version__
from subcell_atlas.errors import BadInput, RecipeMismatch, UnknownName
from subcell_atlas.identifiers import protein_id
from subcell_atlas.profiles import vector_array
from subcell_atlas.proteins import write_proteins
from subcell_atlas.recipe import Recipe
from subcell_atlas.runs import Run
from subcell_atlas.schema import TABLES
from subcell_atlas.store import Store, quote

from .job import Counts
from .sources import digest, source_name

__all__ = ["FORMATS", "LEVELS", "MODALITIES", "ingest_embeddings"]

FORMATS = (".parquet", ".csv", ".tsv", ".npz")
MODALITIES = ("image", "sequence")
LEVELS = ("cell", "protein")
ID_COLUMNS = ("ensembl_id", "uniprot_accession", "gene_symbol")
NUMBERED = re.compile(r"^(.*?)(\d+)$")
ROWS_AT_A_TIME = 4096
CSV_BLOCK = 2**25  # bytes; some thousand rows, so that commits are few
MIN_DIM = 2


@dataclass(frozen=True)
class Vectors:
    """Some rows of a file: vectors (n, dim) float32 and the other columns."""

    vectors: np.ndarray
    columns: pa.Table


def ingest_embeddings(store: Store, path: Path, *, modality: str, level: str, encoder: str = "ready-made") -> Counts:
    """Take the vectors of a file: of cells into `cells`, of proteins into the column `modality` of `proteins`.

    `encoder` names what made them; vectors of two names are not mixed. A row without a usable vector, or at the level
    of proteins without a name, goes into `rejects`. Raise BadInput when the file as a whole cannot be used.
    """
    for kind, value, allowed in (("modality", modality, MODALITIES), ("level", level, LEVELS)):
        if value not in allowed:
            raise UnknownName(kind, value, allowed)
    if level == "cell" and modality != "image":
        raise BadInput("Vectors of sequences are per protein: use --level protein.")
    known = KnownProteins(store)
    source = source_name(path)
    counts, rejects = Counts(), Rejects(source, known)
    chunks = read_vectors(path)
    first = next(chunks, None)
    if first is None or not len(first.vectors):
        raise BadInput(f"{path} has no rows.")
    recipe = Recipe(encoder=encoder, dim=first.vectors.shape[1], code_version=__version__)
    table, column = ("cells", "embedding") if level == "cell" else ("proteins", modality)
    check_recipe(store, recipe, table=table, column=column, path=path)
    if not any(name in first.columns.column_names for name in ID_COLUMNS):
        have = ", ".join(first.columns.column_names) or "none"
        raise BadInput(f"{path} names no protein: it needs one of {', '.join(ID_COLUMNS)}; its other columns: {have}.")
    run = Run.start(store, kind="ingest", recipe=recipe)
    store.ensure("rejects")
    parts = []
    for chunk in chain([first], chunks):
        if chunk.vectors.shape[1] != recipe.dim:
            found = f"{chunk.vectors.shape[1]} and {recipe.dim}"
            raise BadInput(f"{path}: all vectors must have one length; found {found}.")
        good = rejects.sieve(chunk, counts, named=level == "protein")
        if level == "cell" and len(good.vectors):
            write_cells(store, good, recipe, source=source, run_id=run.run_id)
        elif level == "protein":
            parts.append(good)
        counts.cells += len(good.vectors)
    if parts and counts.cells:
        write_protein_vectors(store, parts, known, modality=modality, recipe=recipe)
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
    """Rows that cannot be used, with the reason; `row N` counts from 1."""

    def __init__(self, source: str, known: KnownProteins) -> None:
        self.source = source
        self._known = known
        self.reasons: dict[str, str] = {}
        self._proteins: set[str] = set()

    def sieve(self, chunk: Vectors, counts: Counts, *, named: bool) -> Vectors:
        """Return the rows that can be used; `named`: only those that name a protein, the first of each."""
        finite = np.isfinite(chunk.vectors).all(axis=1)
        nonzero = np.count_nonzero(chunk.vectors, axis=1)
        keep = []
        for row, names in enumerate(chunk.columns.select(ids_in(chunk.columns)).to_pylist()):
            counts.pictures += 1
            protein = self._known.find(names)
            reason = None
            if not finite[row]:
                reason = "the vector holds NaN or infinite numbers"
            elif not nonzero[row]:
                reason = "the vector is zero"
            elif named and protein is None:
                reason = "it names no protein"
            elif named and protein in self._proteins:
                reason = f"a second vector of {protein}; use --level cell to average them"
            if reason:
                self.reasons[f"row {counts.pictures}"] = reason
            else:
                keep.append(row)
                if protein:
                    self._proteins.add(protein)
        return Vectors(chunk.vectors[keep], chunk.columns.take(pa.array(keep, pa.int64())))

    def write(self, store: Store, run_id: str) -> None:
        """Write the rejects of this file in place of those of an earlier run."""
        store.delete("rejects", f"source = {quote(self.source)}")
        if self.reasons:
            n = len(self.reasons)
            columns = {"source": [self.source] * n, "image": list(self.reasons), "reason": list(self.reasons.values())}
            store.upsert("rejects", pa.table({**columns, "run_id": [run_id] * n}))


def write_cells(store: Store, good: Vectors, recipe: Recipe, *, source: str, run_id: str) -> None:
    """Write vectors of cells; a row's id is computed from its vector and columns, so the same row is stored once."""
    rows: list[dict[str, Any]] = []
    strings = [name for name in good.columns.column_names if name in TABLES["cells"]]
    for vector, given in zip(good.vectors, good.columns.to_pylist(), strict=True):
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
    columns = {}
    for name, kind in TABLES["cells"].items():
        if name == "embedding":
            continue
        try:
            columns[name] = pa.array([rows[number].get(name) for number in numbers], kind)
        except (pa.ArrowException, TypeError, ValueError) as exc:
            raise BadInput(f"The column {name!r} of {source!r} must hold {kind} values: {exc}") from exc
    table = pa.table({**columns, "embedding": vector_array(good.vectors[numbers])})
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


def write_protein_vectors(
    store: Store, parts: Sequence[Vectors], known: KnownProteins, *, modality: str, recipe: Recipe
) -> None:
    """Write vectors of proteins into a column of `proteins`, joined by the ids they name."""
    columns: dict[str, list[object]] = {name: [] for name in ("protein_id", *ID_COLUMNS)}
    for part in parts:
        for names in part.columns.select(ids_in(part.columns)).to_pylist():
            columns["protein_id"].append(known.find(names))
            for name, value in own_ids(names).items():
                columns[name].append(value)
    vectors = np.concatenate([part.vectors for part in parts])
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    write_proteins(store, table.append_column(modality, vector_array(vectors)), vector=modality, recipe=recipe)


class KnownProteins:
    """The proteins of the atlas, and which of them a row of a file means."""

    def __init__(self, store: Store) -> None:
        columns = ["protein_id", *ID_COLUMNS]
        rows = store.read("proteins", columns).to_pylist() if store.has("proteins") else []
        self._rows = {row["protein_id"]: row for row in rows}
        self._by: dict[str, dict[str, list[str]]] = {name: {} for name in ID_COLUMNS}
        for row in rows:
            for name in ID_COLUMNS:
                self._by[name].setdefault(row[name], []).append(row["protein_id"])

    def find(self, names: Mapping[str, object]) -> str | None:
        """Return the key of the protein that `names` mean, one of the atlas where there is one; None without a name.

        A name that several proteins share means none of them, nor does one whose better id says otherwise.
        """
        own = own_ids(names)
        for position, name in enumerate(ID_COLUMNS):
            found = self._by[name].get(own[name] or "", [])
            if len(found) == 1:
                row = self._rows[found[0]]
                better = ID_COLUMNS[:position]
                if all(own[other] is None or row[other] in (None, own[other]) for other in better):
                    return found[0]
        return protein_id(own)


def own_ids(names: Mapping[str, object]) -> dict[str, str | None]:
    """Return the names of a protein that a row of a file has, as text."""
    return {name: (str(names[name]).strip() or None) if names.get(name) is not None else None for name in ID_COLUMNS}


def ids_in(columns: pa.Table) -> list[str]:
    """Return which columns name a protein."""
    return [name for name in ID_COLUMNS if name in columns.column_names]


def read_vectors(path: Path) -> Iterator[Vectors]:
    """Yield the rows of a file, some thousands at a time; raise BadInput when it cannot be read."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise BadInput(f"{path.name}: vectors are read from {', '.join(FORMATS)}, not {suffix or 'no suffix'!r}.")
    try:
        if not path.is_file():
            raise BadInput(f"There is no file {str(path)!r}.")
        for table in read_tables(path, suffix):
            yield split_vectors(table, path)
    except (pa.ArrowException, ValueError, KeyError, zipfile.BadZipFile, OSError, EOFError) as exc:
        raise BadInput(f"{path} cannot be read as {suffix[1:]}: {str(exc).splitlines()[0][:160]}") from exc


def read_tables(path: Path, suffix: str) -> Iterator[pa.Table]:
    """Yield the file as Arrow tables."""
    if suffix == ".parquet":
        for batch in pq.ParquetFile(path).iter_batches(ROWS_AT_A_TIME):
            yield pa.Table.from_batches([batch])
    elif suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            yield npz_table({name: arrays[name] for name in arrays.files}, path)
    else:
        parse = pa_csv.ParseOptions(delimiter="\t" if suffix == ".tsv" else ",")
        kinds = dict.fromkeys((*ID_COLUMNS, "cell_id", "plate", "well"), pa.string())
        with pa_csv.open_csv(path, parse_options=parse, convert_options=convert(kinds)) as reader:
            guessed = reader.schema  # from the first rows: whole numbers there may be followed by fractions
        kinds |= {field.name: pa.float64() for field in guessed if is_numbered(field)}
        blocks = pa_csv.ReadOptions(block_size=CSV_BLOCK)
        with pa_csv.open_csv(path, blocks, parse, convert(kinds)) as reader:
            for batch in reader:
                yield pa.Table.from_batches([batch])


def convert(kinds: Mapping[str, pa.DataType]) -> pa_csv.ConvertOptions:
    """Return the options to read the named columns of a CSV as these types."""
    return pa_csv.ConvertOptions(column_types=kinds)


def npz_table(arrays: Mapping[str, np.ndarray], path: Path) -> pa.Table:
    """Return the arrays of an NPZ file as a table: `embedding` (n, dim) and columns (n,)."""
    if "embedding" not in arrays or arrays["embedding"].ndim != 2:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise BadInput(f"{path} needs an array 'embedding' of shape (n, dim); it has: {shapes or 'nothing'}.")
    vectors = arrays["embedding"]
    columns = {name: pa.array(array.astype(str)) for name, array in arrays.items() if array.shape == (len(vectors),)}
    return pa.table({**columns, "embedding": vector_array(vectors)})


def split_vectors(table: pa.Table, path: Path) -> Vectors:
    """Part the vectors from the other columns: a list column `embedding`, else the longest run of numbered columns."""
    if "embedding" in table.column_names:
        return Vectors(list_vectors(table["embedding"], path), table.drop_columns(["embedding"]))
    runs: dict[str, list[tuple[int, str]]] = {}
    for name in table.column_names:
        match = NUMBERED.match(name)
        if match and is_numbered(table.schema.field(name)):
            runs.setdefault(match[1], []).append((int(match[2]), name))
    longest: list[tuple[int, str]] = max(runs.values(), key=len, default=[])
    run = sorted(longest)
    if len(run) < MIN_DIM:
        have = ", ".join(table.column_names[:8])
        msg = f"{path} holds no vectors: a list column 'embedding' or numbered columns are needed; it has: {have} …"
        raise BadInput(msg)
    if [number for number, _ in run] != list(range(run[0][0], run[0][0] + len(run))):
        raise BadInput(f"{path}: the numbered columns {run[0][1]} … {run[-1][1]} have gaps.")
    names = [name for _, name in run]
    vectors = np.column_stack([table[name].to_numpy() for name in names]).astype(np.float32)
    return Vectors(vectors, table.drop_columns(names))


def is_numbered(column: pa.Field) -> bool:
    """Tell whether a column has a number in its name, and in its rows numbers or nothing at all."""
    kind = column.type
    is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)
    return bool(is_number and NUMBERED.match(column.name))


def list_vectors(column: pa.ChunkedArray, path: Path) -> np.ndarray:
    """Return a column of lists, or of JSON lists, as (n, dim) float32; a missing list becomes NaN."""
    lists = column.to_pylist()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        lists = [json.loads(text) if text else None for text in lists]
    if not all(vector is None or isinstance(vector, list) for vector in lists):
        raise BadInput(f"{path}: the column 'embedding' must hold lists of numbers, not {column.type}.")
    lengths = {len(vector) for vector in lists if vector is not None}
    if len(lengths) != 1:
        found = ", ".join(str(length) for length in sorted(lengths)[:5]) or "none"
        raise BadInput(f"{path}: all vectors must have one length; found {found}.")
    empty = [np.nan] * lengths.pop()
    return np.array([empty if v is None else v for v in lists], np.float32)
