"""Ready-made vectors of cells into the table `cells`: what is there is skipped, what is new appended."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from subcell_atlas.profiles import vector_array
from subcell_atlas.recipe import Recipe
from subcell_atlas.store import Store

from .columns import cell_columns, row_texts
from .ledger import Digests
from .sources import digest

__all__ = ["CellWriter"]


class CellWriter:
    """Writes vectors of cells, one commit each time, while the next are read.

    A row's fingerprint is computed from its vector and columns; so is its id, unless the file gives one, which counts
    within the file: a row whose id is stored with another fingerprint is replaced.
    """

    def __init__(self, store: Store, recipe: Recipe, *, source: str, run_id: str) -> None:
        self._store, self._recipe, self._source, self._run_id = store, recipe, source, run_id
        known = store.read("cells", ["cell_id", "fingerprint"]) if store.has("cells") else None
        self._fingerprints = Digests(known["fingerprint"].to_pylist() if known else ())
        self._stored = Digests(known["cell_id"].to_pylist() if known else ())
        self.n_written = self.n_skipped = 0
        self._written: set[bytes] = set()  # ids, of this run
        self._writing = ThreadPoolExecutor(1, "write")
        self._commit: Future[None] | None = None

    def __enter__(self) -> CellWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writing.shutdown(wait=True)

    def write(self, vectors: np.ndarray, columns: pa.Table) -> None:
        """Begin to write some rows: vectors (n, dim), and what is known of each."""
        fingerprints = fingerprints_of(vectors, columns)
        ids = list(fingerprints)
        if "cell_id" in columns.column_names:
            given = columns["cell_id"].cast(pa.string()).to_pylist()
            ids = [digest(self._source, own) if own else ids[row] for row, own in enumerate(given)]
        last = {cell: number for number, cell in enumerate(ids)}  # of the same cell the last counts
        is_last = np.fromiter((last[cell] == number for number, cell in enumerate(ids)), bool, len(ids))
        to_write = is_last & ~self._fingerprints.which(fingerprints)
        written = np.fromiter((bytes.fromhex(cell) in self._written for cell in ids), bool, len(ids))
        replacing = to_write & (self._stored.which(ids) | written)
        table = self._table(vectors, columns, ids, fingerprints)
        self._written.update(bytes.fromhex(ids[number]) for number in np.flatnonzero(to_write))
        self.wait()
        self._commit = self._writing.submit(self._write, rows(table, to_write & ~replacing), rows(table, replacing))
        self.n_written += int(to_write.sum())
        self.n_skipped += int((is_last & ~to_write).sum())

    def wait(self) -> None:
        """Wait until what was begun is stored."""
        if self._commit is not None:
            commit, self._commit = self._commit, None
            commit.result()

    def _write(self, new: pa.Table, changed: pa.Table) -> None:
        if new.num_rows:
            self._store.append_cells(new, recipe=self._recipe)
        if changed.num_rows:
            self._store.upsert("cells", changed)

    def _table(
        self, vectors: np.ndarray, columns: pa.Table, ids: Sequence[str], fingerprints: Sequence[str]
    ) -> pa.Table:
        """Return the rows as `cells` stores them."""
        n = len(ids)
        known = cell_columns(columns)
        made = {"picture_id": pa.array(fingerprints), "fingerprint": pa.array(fingerprints), "cell_id": pa.array(ids)}
        same = {"source": pa.array([self._source] * n), "run_id": pa.array([self._run_id] * n)}
        return pa.table({**known, **made, **same, "embedding": vector_array(vectors)})


def fingerprints_of(vectors: np.ndarray, columns: pa.Table) -> list[str]:
    """Return a digest of each row's vector (n, dim) and columns."""
    prints = []
    for vector, text in zip(np.ascontiguousarray(vectors, np.float32), row_texts(columns), strict=True):
        content = hashlib.sha256(vector)  # the fastest here by far: processors have instructions for it
        content.update(text)
        prints.append(content.hexdigest()[:32])
    return prints


def rows(table: pa.Table, chosen: np.ndarray) -> pa.Table:
    """Return the chosen rows (n,) bool of a table."""
    return table if chosen.all() else table.filter(pa.array(chosen))
