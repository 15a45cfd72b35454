"""Files of ready-made vectors: tables with a row a vector, and files with an array a protein.

The second are what protein language models leave behind: UniProt's and bio_embeddings' HDF5, esm-extract's `.pt`, NPZ.
Such an array is a vector, or a matrix of residues, whose mean over the residues is taken.
"""

from __future__ import annotations

import json
import math
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from subcell_atlas.errors import BadInput
from subcell_atlas.identifiers import Gene
from subcell_atlas.joining import ID_COLUMNS
from subcell_atlas.profiles import vector_array

if TYPE_CHECKING:
    import h5py

__all__ = ["FORMATS", "Vectors", "read_vectors"]

NUMBERED = re.compile(r"^(.*?)(\d+)$")
ROWS_AT_A_TIME = 4096
CSV_BLOCK = 2**25  # bytes; some thousand rows, so that commits are few
MIN_DIM = 2
MAX_NUMBERS = 2**28  # in one array of HDF5; titin's 36,000 residues by 5,120, the widest ESM-2's, are fewer
MATRIX = ("embedding", "embeddings")  # what the array of all vectors is called
LABELS = ("ids", "labels")
LAYERS = ("mean_representations", "representations")  # of esm-extract: of the protein, else of its residues
NO_LABEL = re.compile(r"arr_\d+|x|features?|vectors?|representations?", re.IGNORECASE)  # of an array, but of no protein
NEEDED = "Needed is a vector (dim,) or matrix (residues, dim) for each protein, or all vectors as 'embedding' (n, dim)"


@dataclass(frozen=True)
class Vectors:
    """Some rows of a file: vectors (n, dim) float32, the gene that each names, and the other columns.

    labels: what a file with an array a protein calls each; None of a table. n_matrices: how many arrays were matrices.
    """

    vectors: np.ndarray
    genes: Sequence[Gene | None]
    columns: pa.Table
    labels: Sequence[str] | None = None
    n_matrices: int = 0


def read_vectors(path: Path) -> Iterator[Vectors]:
    """Yield the rows of a file, some thousands at a time; raise BadInput when it cannot be read.

    A folder is that of esm-extract, with a `.pt` file a protein.
    """
    suffix = path.suffix.lower()
    try:
        if path.is_dir():
            suffix = ".pt"
        elif suffix not in FORMATS:
            raise BadInput(f"{path.name}: vectors are read from {', '.join(FORMATS)}, not {suffix or 'no suffix'!r}.")
        elif not path.is_file():
            raise BadInput(f"There is no file {str(path)!r}.")
        yield from FORMATS[suffix](path)
    except (
        pa.ArrowException, ValueError, KeyError, zipfile.BadZipFile, zlib.error, OSError, EOFError, MemoryError,
        RuntimeError,  # what HDF5 and zip files raise of some damage
    ) as exc:  # fmt: skip
        why = (str(exc).splitlines() or [type(exc).__name__])[0][:160]
        raise BadInput(f"{path} cannot be read as {suffix[1:]}: {why}") from exc


def read_parquet(path: Path) -> Iterator[Vectors]:
    """Yield the rows of a Parquet file."""
    for batch in pq.ParquetFile(path).iter_batches(ROWS_AT_A_TIME):
        yield split_vectors(pa.Table.from_batches([batch]), path)


def read_csv(path: Path) -> Iterator[Vectors]:
    """Yield the rows of a CSV or TSV file."""
    parse = pa_csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    kinds = dict.fromkeys((*ID_COLUMNS, "cell_id", "plate", "well"), pa.string())
    with pa_csv.open_csv(path, parse_options=parse, convert_options=convert(kinds)) as reader:
        guessed = reader.schema  # from the first rows: whole numbers there may be followed by fractions
    kinds |= {field.name: pa.float64() for field in guessed if is_numbered(field)}
    blocks = pa_csv.ReadOptions(block_size=CSV_BLOCK)
    with pa_csv.open_csv(path, blocks, parse, convert(kinds)) as reader:
        for batch in reader:
            yield split_vectors(pa.Table.from_batches([batch]), path)


def convert(kinds: Mapping[str, pa.DataType]) -> pa_csv.ConvertOptions:
    """Return the options to read the named columns of a CSV as these types."""
    return pa_csv.ConvertOptions(column_types=kinds)


def read_npz(path: Path) -> Iterator[Vectors]:
    """Yield the vectors of an NPZ file; arrays of objects are not read."""
    with path.open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise BadInput(f"{path} is a single array, which names no protein.\n{NEEDED}.")
        if is_table_of_arrays(arrays.files):
            yield from read_arrays({name: arrays[name] for name in arrays.files}, path)
        else:
            yield from read_labelled(((name, arrays[name]) for name in arrays.files), path)


def read_h5(path: Path) -> Iterator[Vectors]:
    """Yield the vectors of an HDF5 file; where a dataset has an `original_id`, that is its label."""
    import h5py

    with h5py.File(path, "r") as file:
        if is_table_of_arrays(file):
            yield from read_arrays({name: read_dataset(file[name], path) for name in file}, path)
        else:
            datasets = (file[name] for name in file)
            yield from read_labelled(((label_of(each), read_dataset(each, path)) for each in datasets), path)


def label_of(dataset: h5py.Dataset) -> str:
    """Return the label of a dataset."""
    label = dataset.attrs.get("original_id", dataset.name)
    text = label.decode(errors="replace") if isinstance(label, bytes) else str(label)
    return text.removeprefix("/")


def read_dataset(dataset: h5py.Dataset, path: Path) -> np.ndarray:
    """Return a dataset as an array."""
    import h5py

    if not isinstance(dataset, h5py.Dataset):
        raise BadInput(f"{path}: {dataset.name!r} is no array but a group of others.\n{NEEDED}.")
    if math.prod(dataset.shape or (0,)) > MAX_NUMBERS:
        raise BadInput(f"{path}: {dataset.name!r} has the shape {dataset.shape}, which is too large.\n{NEEDED}.")
    return dataset.asstr()[()] if h5py.check_string_dtype(dataset.dtype) else dataset[()]


def read_pt(path: Path) -> Iterator[Vectors]:
    """Yield the vectors of a file of tensors, or of a folder of them; no code in them is run."""
    files = sorted(path.glob("*.pt")) if path.is_dir() else [path]
    if not files:
        raise BadInput(f"The folder {str(path)!r} holds no .pt file, as esm-extract writes.")
    of_folder = path.is_dir()
    return read_labelled((pair for file in files for pair in labelled_tensors(file, of_folder=of_folder)), path)


def labelled_tensors(path: Path, *, of_folder: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of a file of tensors with their labels; of an output of esm-extract that of the last layer.

    A file of a folder may be one tensor and be called after its protein; by itself such a matrix has no label.
    """
    import torch

    stored = load_tensors(path)
    if isinstance(stored, torch.Tensor) and (stored.ndim == 1 or of_folder):
        yield path.stem, as_array(stored, path)
        return
    told = stored if isinstance(stored, dict) else {}
    layers: dict[int, Any] = next((told[name] for name in LAYERS if isinstance(told.get(name), dict)), {})
    matrix = next((told[name] for name in MATRIX if name in told), None)
    labels = next((told[name] for name in LABELS if name in told), None)
    if layers and all(isinstance(layer, int) for layer in layers):
        label = told.get("label")
        yield label if isinstance(label, str) else path.stem, as_array(layers[max(layers)], path)
    elif isinstance(matrix, torch.Tensor) and isinstance(labels, list | tuple) and len(labels) == len(matrix):
        yield from zip(map(str, labels), as_array(matrix, path), strict=True)
    elif told and all(isinstance(name, str) and isinstance(each, torch.Tensor) for name, each in told.items()):
        yield from ((name, as_array(tensor, path)) for name, tensor in told.items())
    else:
        msg = f"{path} holds no labelled vectors. It needs a tensor for each label, what esm-extract writes,"
        raise BadInput(f"{msg} or 'ids' and 'embeddings' of the same length.")


def load_tensors(path: Path) -> Any:
    """Return what torch saved. Raise BadInput when it is damaged or more than tensors and plain values."""
    import torch

    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle that torch did not write, before it is refused
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as exc:  # damage raises nearly anything
        msg = f"{path} is no readable file of tensors: it is damaged, of another format,"
        raise BadInput(f"{msg} or holds code, which is never run.") from exc


def as_array(tensor: Any, path: Path) -> np.ndarray:
    """Return a tensor of real numbers as an array of float32."""
    import torch

    is_plain = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and not tensor.is_quantized
    if not is_plain or tensor.is_complex() or tensor.device.type != "cpu":
        raise BadInput(f"{path} holds something other than plain numbers where a vector should be.\n{NEEDED}.")
    return tensor.detach().to(torch.float32).numpy()


FORMATS = {
    ".parquet": read_parquet,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".npz": read_npz,
    ".h5": read_h5,
    ".hdf5": read_h5,
    ".pt": read_pt,
}


def is_table_of_arrays(names: Iterable[str]) -> bool:
    """Tell whether arrays are the columns of a table, one of them all vectors, rather than one a protein."""
    return bool(set(names) & {*MATRIX, *ID_COLUMNS, *LABELS})


def read_arrays(arrays: Mapping[str, np.ndarray], path: Path) -> Iterator[Vectors]:
    """Yield arrays that are a table: `embedding` (n, dim), columns (n,), or labels (n,) under `ids`."""
    vectors = next((arrays[name] for name in MATRIX if name in arrays), None)
    if vectors is None or vectors.ndim != 2:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise BadInput(f"{path} needs an array 'embedding' of shape (n, dim); it has: {shapes or 'nothing'}.")
    columns = {name: array.astype(str) for name, array in arrays.items() if array.shape == (len(vectors),)}
    labels = next((columns[name] for name in LABELS if name in columns), None)
    if labels is not None and not columns.keys() & set(ID_COLUMNS):
        yield from read_labelled(zip(labels.tolist(), vectors, strict=True), path)
    else:
        table = pa.table({name: pa.array(column) for name, column in columns.items()})
        yield split_vectors(table.append_column("embedding", vector_array(vectors)), path)


def read_labelled(arrays: Iterable[tuple[str, np.ndarray]], path: Path) -> Iterator[Vectors]:
    """Yield arrays that have a label each, some thousands at a time."""
    labels: list[str] = []
    vectors: list[np.ndarray] = []
    n_matrices = 0
    for label, array in arrays:
        vector = vector_of(array, label, path)
        if vectors and len(vector) != len(vectors[0]):
            found = f"{len(vector)} and {len(vectors[0])}"
            raise BadInput(f"{path}: all vectors must have one length; found {found} (of {label[:40]!r}).")
        labels.append(label)
        vectors.append(vector)
        n_matrices += array.ndim == 2
        if len(labels) == ROWS_AT_A_TIME:
            yield labelled(labels, vectors, n_matrices)
            labels, vectors, n_matrices = [], [], 0
    if labels:
        yield labelled(labels, vectors, n_matrices)


def labelled(labels: Sequence[str], vectors: Sequence[np.ndarray], n_matrices: int) -> Vectors:
    """Return vectors with their labels."""
    genes = [Gene.of_label(label) if label.strip() else None for label in labels]
    return Vectors(np.stack(vectors), genes, pa.table({"label": labels}), labels, n_matrices)


def vector_of(array: np.ndarray, label: str, path: Path) -> np.ndarray:
    """Return an array (dim,), or the mean over the residues of one (residues, dim), as float32."""
    is_shaped = array.ndim in (1, 2) and array.shape[-1] >= MIN_DIM
    if not is_shaped or array.dtype.kind not in "fiu" or NO_LABEL.fullmatch(label):
        raise BadInput(f"{path}: {label[:40]!r} {array.shape} of {array.dtype} is no vector of a protein.\n{NEEDED}.")
    if not len(array):
        return np.full(array.shape[1], np.nan, np.float32)
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is rejected
        return (array if array.ndim == 1 else array.mean(axis=0, dtype=np.float64)).astype(np.float32)


def split_vectors(table: pa.Table, path: Path) -> Vectors:
    """Part the vectors from the other columns: a list column `embedding`, else the longest run of numbered columns."""
    if "embedding" in table.column_names:
        columns = table.drop_columns(["embedding"])
        return Vectors(list_vectors(table["embedding"], path), genes_of(columns, path), columns)
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
    columns = table.drop_columns(names)
    return Vectors(vectors, genes_of(columns, path), columns)


def genes_of(columns: pa.Table, path: Path) -> list[Gene | None]:
    """Return the gene that each row names. Raise BadInput when there is no column for it."""
    kinds = [kind for kind in ID_COLUMNS if kind in columns.column_names]
    if not kinds:
        have = ", ".join(columns.column_names) or "none"
        needed = ", ".join(sorted(ID_COLUMNS))
        raise BadInput(f"{path} names no protein: it needs one of {needed}; its other columns: {have}.")
    genes: list[Gene | None] = []
    for row in columns.select(kinds).to_pylist():
        names = {kind: name for kind in kinds if row[kind] is not None and (name := str(row[kind]).strip())}
        genes.append(Gene(next(iter(names.values())), **names) if names else None)
    return genes


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
