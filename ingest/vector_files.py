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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from subcell_atlas.encoders.localizations import LOCALIZATIONS
from subcell_atlas.errors import BadInput
from subcell_atlas.identifiers import Gene
from subcell_atlas.joining import ID_COLUMNS

from .anndata_files import h5ad_chunks
from .columns import Naming, localization_lists

if TYPE_CHECKING:
    import h5py

__all__ = ["FORMATS", "Vectors", "read_vectors"]

NUMBERED = re.compile(r"^(.*?)(\d+)$")
ROWS_AT_A_TIME = 4096
MOST_ROWS = 65536
CHUNK_BYTES = 2**26  # of vectors; what is in memory is some times as much, and larger commits write no faster
CLASSES = "prob"  # what SubCellPortable calls its columns of probabilities, before their number
PROBABILITIES = "_probabilities"  # what ends the names of its files of these
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
    """Some rows of a file: vectors (n, dim) float32, and the other columns, named as in the atlas.

    labels: what a file with an array a protein calls each; None of a table. n_matrices: how many arrays were matrices.
    """

    vectors: np.ndarray
    columns: pa.Table
    labels: Sequence[str] | None = None
    n_matrices: int = 0

    def genes(self) -> list[Gene | None]:
        """Return the gene that each row names."""
        if self.labels is not None:
            return [Gene.of_label(label) if label.strip() else None for label in self.labels]
        kinds = [kind for kind in ID_COLUMNS if kind in self.columns.column_names]
        genes: list[Gene | None] = []
        for row in self.columns.select(kinds).to_pylist():
            names = {kind: name for kind in kinds if row[kind] is not None and (name := str(row[kind]).strip())}
            genes.append(Gene(next(iter(names.values())), **names) if names else None)
        return genes


def read_vectors(path: Path, naming: Naming | None = None, *, key: str | None = None) -> Iterator[Vectors]:
    """Yield the rows of a file, some thousands at a time; raise BadInput when it cannot be read.

    naming: what its columns are called. key: which array holds the vectors, in files of several. A folder is that of
    esm-extract, with a `.pt` file a protein, or that of SubCellPortable, with a `.npy` file a cell.
    """
    suffix = path.suffix.lower()
    naming = naming or Naming()
    try:
        if path.is_dir():
            suffix = ".npy" if any(path.glob("*.npy")) else ".pt"
        elif suffix not in FORMATS:
            raise BadInput(f"{path.name}: vectors are read from {', '.join(FORMATS)}, not {suffix or 'no suffix'!r}.")
        elif not path.is_file():
            raise BadInput(f"There is no file {str(path)!r}.")
        if key is not None and suffix not in (".h5ad", ".npz"):
            raise BadInput(f"{path.name} has no arrays to choose from: --vectors is for h5ad and npz.")
        read: Callable[..., Iterator[Vectors]] = FOLDERS[suffix] if path.is_dir() else FORMATS[suffix]
        yield from read(path, naming, key) if suffix in (".h5ad", ".npz") else read(path, naming)
    except (
        pa.ArrowException, ValueError, KeyError, zipfile.BadZipFile, zlib.error, OSError, EOFError, MemoryError,
        RuntimeError,  # what HDF5 and zip files raise of some damage
    ) as exc:  # fmt: skip
        why = (str(exc).splitlines() or [type(exc).__name__])[0][:160]
        raise BadInput(f"{path} cannot be read as {suffix[1:]}: {why}") from exc


def read_parquet(path: Path, naming: Naming) -> Iterator[Vectors]:
    """Yield the rows of a Parquet file."""
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(rows_at_a_time(file)):
            yield split_vectors(pa.Table.from_batches([batch]), path, naming)


def rows_at_a_time(file: pq.ParquetFile) -> int:
    """Return how many rows of a Parquet file make a chunk of about `CHUNK_BYTES`."""
    about = file.metadata
    n_bytes = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
    return int(min(max(CHUNK_BYTES * about.num_rows // max(n_bytes, 1), ROWS_AT_A_TIME), MOST_ROWS))


def read_csv(path: Path, naming: Naming) -> Iterator[Vectors]:
    """Yield the rows of a CSV or TSV file."""
    parse = pa_csv.ParseOptions(delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    kinds = dict.fromkeys((*ID_COLUMNS, "cell_id", "plate", "well"), pa.string())
    with pa_csv.open_csv(path, parse_options=parse, convert_options=convert(kinds)) as reader:
        guessed = reader.schema  # from the first rows: whole numbers there may be followed by fractions
    kinds |= {
        name: pa.string()
        for name, target in zip(guessed.names, naming.of(guessed.names), strict=True)
        if target in kinds
    }
    kinds |= {field.name: pa.float64() for field in guessed if is_numbered(field)}
    blocks = pa_csv.ReadOptions(block_size=CSV_BLOCK)
    with pa_csv.open_csv(path, blocks, parse, convert(kinds)) as reader:
        for batch in reader:
            yield split_vectors(pa.Table.from_batches([batch]), path, naming)


def convert(kinds: Mapping[str, pa.DataType]) -> pa_csv.ConvertOptions:
    """Return the options to read the named columns of a CSV as these types."""
    return pa_csv.ConvertOptions(column_types=kinds)


def read_npz(path: Path, naming: Naming, key: str | None) -> Iterator[Vectors]:
    """Yield the vectors of an NPZ file; arrays of objects are not read."""
    with path.open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise BadInput(f"{path} is a single array, which names no protein.\n{NEEDED}.")
        names = [naming.given.get(name, name) for name in arrays.files]
        if key is not None and key not in arrays.files:
            raise BadInput(f"{path} has no array {key!r}; it has: {', '.join(arrays.files)}.")
        if key is not None or is_table_of_arrays(names):
            yield from read_table_of_arrays(path, arrays, naming, key)
        else:
            yield from read_labelled(((name, arrays[name]) for name in arrays.files), path)


def read_table_of_arrays(
    path: Path, arrays: np.lib.npyio.NpzFile, naming: Naming, key: str | None
) -> Iterator[Vectors]:
    """Yield the rows of an NPZ file whose arrays are the columns of a table; the vectors come a part at a time."""
    matrix = key or next((name for name in MATRIX if name in arrays.files), None)
    others = {name: arrays[name] for name in arrays.files if name != matrix}
    if matrix is None:
        yield from read_arrays(others, path, naming)
        return
    with zipfile.ZipFile(path) as archive, archive.open(f"{matrix}.npy") as member:
        shape, dtype = array_header(member)
        if len(shape) != 2 or dtype.kind not in "fiu":
            listed = "".join(f", {name} {array.shape}" for name, array in others.items())
            msg = f"{path} needs an array 'embedding' of shape (n, dim); it has: {matrix} {shape} of {dtype}"
            raise BadInput(f"{msg}{listed}.")
        columns = {name: array for name, array in others.items() if array.shape == shape[:1]}
        for start, part in rows_of_member(member, shape, dtype):
            taken = {name: column[start : start + len(part)] for name, column in columns.items()}
            yield from read_arrays({**taken, "embedding": part}, path, naming)


def array_header(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and dtype of an array in NumPy's format, of which the numbers follow, row after row."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(member)
    if by_columns and len(shape) > 1:
        raise ValueError("the vectors lie column after column (Fortran order); save them as numpy.ascontiguousarray")
    return shape, dtype


def rows_of_member(member: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the rows of a matrix, some at a time, each part with the number of its first row."""
    width = shape[1] * dtype.itemsize
    step = max(1, min(CHUNK_BYTES // max(width, 1), MOST_ROWS))
    for start in range(0, shape[0], step):
        n = min(step, shape[0] - start)
        content = member.read(n * width)
        if len(content) < n * width:
            raise ValueError("the file ends before its vectors do")
        yield start, np.frombuffer(content, dtype).reshape(n, shape[1])


def read_h5ad(path: Path, naming: Naming, key: str | None) -> Iterator[Vectors]:
    """Yield the rows of an AnnData file, or of what SubCellPortable writes under that name."""
    for vectors, columns, probabilities in h5ad_chunks(path, key, rows=ROWS_AT_A_TIME):
        known = columns
        if probabilities is not None:
            for name, column in predicted(probabilities).items():
                known = known.append_column(name, column)
        yield with_names(Vectors(vectors, naming.rename(known)), path)


def read_h5(path: Path, naming: Naming) -> Iterator[Vectors]:
    """Yield the vectors of an HDF5 file; where a dataset has an `original_id`, that is its label."""
    import h5py

    with h5py.File(path, "r") as file:
        if is_table_of_arrays(file):
            yield from read_arrays({name: read_dataset(file[name], path) for name in file}, path, naming)
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


def read_pt(path: Path, _: Naming) -> Iterator[Vectors]:
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


def read_npy_folder(path: Path, naming: Naming) -> Iterator[Vectors]:
    """Yield the vectors of a folder with a `.npy` file a cell, as SubCellPortable writes; its name is the cell's id."""
    files = sorted(file for file in path.glob("*.npy") if not file.stem.endswith(PROBABILITIES))
    for start in range(0, len(files), ROWS_AT_A_TIME):
        some = files[start : start + ROWS_AT_A_TIME]
        vectors = [np.load(file, allow_pickle=False).ravel() for file in some]
        lengths = {len(vector) for vector in vectors}
        if len(lengths) > 1:
            raise BadInput(f"{path}: all vectors must have one length; found {min(lengths)} and {max(lengths)}.")
        ids = [file.stem.removesuffix("_embedding") for file in some]
        columns = {"cell_id": pa.array(ids)}
        beside = [path / f"{cell}{PROBABILITIES}.npy" for cell in ids]
        if all(file.is_file() for file in beside):
            found = np.stack([np.load(file, allow_pickle=False).ravel() for file in beside])
            columns |= predicted(found)
        yield Vectors(np.stack(vectors).astype(np.float32), naming.rename(pa.table(columns)))


def predicted(probabilities: np.ndarray) -> dict[str, pa.Array]:
    """Return the column of predicted localizations of (n, 31) probabilities; none of other numbers of classes."""
    if probabilities.ndim != 2 or probabilities.shape[1] != len(LOCALIZATIONS):
        return {}
    return {"predicted_localization": localization_lists(probabilities)}


FORMATS: dict[str, Callable[..., Iterator[Vectors]]] = {
    ".parquet": read_parquet,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".npz": read_npz,
    ".h5ad": read_h5ad,
    ".h5": read_h5,
    ".hdf5": read_h5,
    ".pt": read_pt,
}
FOLDERS = {".pt": read_pt, ".npy": read_npy_folder}


def is_table_of_arrays(names: Iterable[str]) -> bool:
    """Tell whether arrays are the columns of a table, one of them all vectors, rather than one a protein."""
    return bool(set(names) & {*MATRIX, *ID_COLUMNS, *LABELS})


def read_arrays(arrays: Mapping[str, np.ndarray], path: Path, naming: Naming) -> Iterator[Vectors]:
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
        table = naming.rename(pa.table({name: pa.array(column) for name, column in columns.items()}))
        yield with_names(Vectors(vectors.astype(np.float32, copy=False), table), path)


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
    return Vectors(np.stack(vectors), pa.table({"label": labels}), labels, n_matrices)


def vector_of(array: np.ndarray, label: str, path: Path) -> np.ndarray:
    """Return an array (dim,), or the mean over the residues of one (residues, dim), as float32."""
    is_shaped = array.ndim in (1, 2) and array.shape[-1] >= MIN_DIM
    if not is_shaped or array.dtype.kind not in "fiu" or NO_LABEL.fullmatch(label):
        raise BadInput(f"{path}: {label[:40]!r} {array.shape} of {array.dtype} is no vector of a protein.\n{NEEDED}.")
    if not len(array):
        return np.full(array.shape[1], np.nan, np.float32)
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is rejected
        return (array if array.ndim == 1 else array.mean(axis=0, dtype=np.float64)).astype(np.float32)


def split_vectors(table: pa.Table, path: Path, naming: Naming) -> Vectors:
    """Part the vectors from the other columns: a list column `embedding`, else the longest run of numbered columns."""
    table = naming.rename(table)
    if "embedding" in table.column_names:
        columns = table.drop_columns(["embedding"])
        return with_names(Vectors(list_vectors(table["embedding"], path), columns), path)
    runs: dict[str, list[tuple[int, str]]] = {}
    for name in table.column_names:
        match = NUMBERED.match(name)
        if match and is_numbered(table.schema.field(name)):
            runs.setdefault(match[1], []).append((int(match[2]), name))
    of_classes = [name for _, name in sorted(runs.get(CLASSES, []))]
    longest: list[tuple[int, str]] = max(runs.values(), key=len, default=[])
    run = sorted(longest)
    if len(run) < MIN_DIM:
        have = ", ".join(table.column_names[:8])
        msg = f"{path} holds no vectors: a list column 'embedding' or numbered columns are needed; it has: {have} …"
        raise BadInput(msg)
    if [number for number, _ in run] != list(range(run[0][0], run[0][0] + len(run))):
        raise BadInput(f"{path}: the numbered columns {run[0][1]} … {run[-1][1]} have gaps.")
    names = [name for _, name in run]
    columns = table.drop_columns(names)
    if len(of_classes) == len(LOCALIZATIONS) and names != of_classes:
        for name, column in predicted(matrix_of(columns, of_classes)).items():
            columns = columns.drop_columns(of_classes).append_column(name, column)
    return with_names(Vectors(matrix_of(table, names), columns), path)


def matrix_of(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    """Return columns of numbers as (n, columns) float32."""
    return np.column_stack([table[name].to_numpy() for name in names]).astype(np.float32)


def with_names(vectors: Vectors, path: Path) -> Vectors:
    """Return vectors whose columns name a protein or a cell; raise BadInput when they do neither."""
    columns = vectors.columns.column_names
    if not {*ID_COLUMNS, "cell_id"} & set(columns):
        have, needed = ", ".join(columns) or "none", ", ".join(sorted(ID_COLUMNS))
        raise BadInput(f"{path} names no protein: it needs one of {needed}; its other columns: {have}.")
    return vectors


def is_numbered(column: pa.Field) -> bool:
    """Tell whether a column has a number in its name, and in its rows numbers or nothing at all."""
    kind = column.type
    is_number = pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)
    return bool(is_number and NUMBERED.match(column.name))


def list_vectors(column: pa.ChunkedArray, path: Path) -> np.ndarray:
    """Return a column of lists, or of JSON lists, as (n, dim) float32; a missing list becomes NaN."""
    array = column.combine_chunks()
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        array = pa.array([json.loads(text) if text else None for text in array.to_pylist()])
    kind = array.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise BadInput(f"{path}: the column 'embedding' must hold lists of numbers, not {column.type}.")
    is_there = array.is_valid()
    present = array.filter(is_there) if array.null_count else array
    lengths = present.value_lengths().unique().to_pylist()
    if len(lengths) != 1:
        found = ", ".join(str(length) for length in sorted(lengths)[:5]) or "none"
        raise BadInput(f"{path}: all vectors must have one length; found {found}.")
    numbers = present.flatten().cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False)  # a null becomes NaN
    vectors = numbers.reshape(len(present), lengths[0])
    if len(present) == len(array):
        return vectors
    filled = np.full((len(array), lengths[0]), np.nan, np.float32)
    filled[is_there.to_numpy(zero_copy_only=False)] = vectors
    return filled
