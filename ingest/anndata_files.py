"""AnnData files (.h5ad) read a part at a time with h5py, those without AnnData's encoding too.

The layout is that of anndata.readthedocs.io/en/stable/fileformat-prose.html. SubCellPortable writes `X`, `obs/index`
and `obsm/probabilities` with h5py alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa

from subcell_atlas.errors import BadInput

__all__ = ["h5ad_chunks"]

INDEX = "cell_id"  # what the names of the observations become
OF_CLASSES = "obsm/probabilities"


def h5ad_chunks(path: Path, key: str | None, *, rows: int) -> Iterator[tuple[np.ndarray, pa.Table, np.ndarray | None]]:
    """Yield vectors (n, dim) float32, the columns of their observations, and probabilities (n, 31) where there are any.

    key: which matrix holds the vectors, such as `obsm/X_subcell`; `X` when None. Raise BadInput when it is not there.
    """
    with h5py.File(path, "r") as file:
        matrix = find_matrix(file, key, path)
        n, dim = shape_of(matrix, path)
        observations = file.get("obs")
        if not isinstance(observations, h5py.Group):
            raise BadInput(f"{path} has no group 'obs', which names its rows.")
        index, *others = column_names(observations)
        columns = {
            INDEX if name == index and INDEX not in others else name: Column(observations[name])
            for name in (index, *others)
        }
        wrong = [name for name, column in columns.items() if len(column) != n]
        if wrong:
            raise BadInput(f"{path}: obs/{wrong[0]} has {len(columns[wrong[0]])} rows, the vectors {n}.")
        classes = file.get(OF_CLASSES)
        classes = classes if isinstance(classes, h5py.Dataset) and classes.shape[:1] == (n,) else None
        for start in range(0, n, rows):
            stop = min(start + rows, n)
            known = {name: column.read(start, stop) for name, column in columns.items()}
            yield read_rows(matrix, start, stop, dim), pa.table(known), None if classes is None else classes[start:stop]


def find_matrix(file: h5py.File, key: str | None, path: Path) -> h5py.Dataset | h5py.Group:
    """Return the matrix under `key`, or `X`."""
    found = file.get(key or "X")
    if found is None:
        there = [name for name in ("X", "raw/X") if name in file]
        for group in ("obsm", "layers"):
            there += [f"{group}/{name}" for name in file.get(group, {})]
        hint = "" if key else " Name one: --vectors obsm/NAME."
        raise BadInput(f"{path} has no {key or 'X'!r}; it has: {', '.join(there) or 'no matrix'}.{hint}")
    return found


def shape_of(matrix: h5py.Dataset | h5py.Group, path: Path) -> tuple[int, int]:
    """Return (n, dim) of a dense or sparse matrix."""
    if isinstance(matrix, h5py.Dataset):
        shape = matrix.shape
    elif encoding(matrix) == "csr_matrix":
        shape = tuple(matrix.attrs.get("shape", matrix.attrs.get("h5sparse_shape", ())))
    else:
        raise BadInput(f"{path}: {matrix.name!r} is a {encoding(matrix) or 'group'}; vectors are dense or csr_matrix.")
    if len(shape) != 2:
        raise BadInput(f"{path}: {matrix.name!r} has the shape {tuple(shape)}; vectors have (n, dim).")
    return int(shape[0]), int(shape[1])


def encoding(group: h5py.Group) -> str:
    """Return what AnnData says a group is, of older files too."""
    kind = group.attrs.get("encoding-type", group.attrs.get("h5sparse_format", ""))
    text = kind.decode() if isinstance(kind, bytes) else str(kind)
    return f"{text}_matrix" if text in ("csr", "csc") else text


def read_rows(matrix: h5py.Dataset | h5py.Group, start: int, stop: int, dim: int) -> np.ndarray:
    """Return some rows of a matrix, (n, dim) float32."""
    if isinstance(matrix, h5py.Dataset):
        return matrix[start:stop].astype(np.float32)
    from scipy.sparse import csr_array

    pointers = matrix["indptr"][start : stop + 1]
    first, last = int(pointers[0]), int(pointers[-1])
    values = (matrix["data"][first:last], matrix["indices"][first:last], pointers - first)
    return csr_array(values, shape=(stop - start, dim)).toarray().astype(np.float32)


def column_names(observations: h5py.Group) -> list[str]:
    """Return the names of the columns of `obs`, and of what holds the rows' names, the first."""
    index = observations.attrs.get("_index", b"index")
    name = index.decode() if isinstance(index, bytes) else str(index)
    others = [each for each in observations if each not in (name, "__categories")]
    if name not in observations:
        raise ValueError(f"obs has no {name!r}, the names of its rows")
    return [name, *others]


class Column:
    """A column of `obs`: an array, or categories and the code of each row."""

    def __init__(self, stored: h5py.Dataset | h5py.Group) -> None:
        self._codes, self._categories = stored, None
        if isinstance(stored, h5py.Group):
            if "codes" in stored and "categories" in stored:
                self._codes, self._categories = stored["codes"], texts(stored["categories"][()])
            elif "values" in stored:  # nullable numbers and texts; `mask` tells which are missing
                self._codes = stored["values"]
            else:
                raise ValueError(f"{stored.name} is a {encoding(stored) or 'group'}, which is not read")
        elif "categories" in stored.attrs:  # before AnnData 0.8
            self._categories = texts(stored.file[stored.attrs["categories"]][()])

    def __len__(self) -> int:
        return len(self._codes)

    def read(self, start: int, stop: int) -> pa.Array:
        """Return the values of some rows."""
        values = self._codes[start:stop]
        if self._categories is None:
            return texts(values)
        return self._categories.take(pa.array(values, mask=values < 0))


def texts(values: np.ndarray) -> pa.Array:
    """Return an array of HDF5 for Arrow: bytes and objects become texts."""
    if values.dtype.kind in "OS":
        return pa.array(
            [each.decode() if isinstance(each, bytes) else str(each) for each in values.tolist()], pa.string()
        )
    return pa.array(values)
