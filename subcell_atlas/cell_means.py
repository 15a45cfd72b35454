"""Means over the cells of an atlas, by well or by field of view; no cell is held in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from .errors import NotBuilt
from .profiles import CellSums, Group, vectors_of
from .store import Store

__all__ = ["CellMeans", "control_cells", "read_means"]


@dataclass
class CellMeans:
    """Sums over cells that agree in some columns, added batch by batch.

    keys: what each group has in these columns -> its row; totals, n: the sum of its cells and how many they are.
    """

    columns: tuple[str, ...]
    keys: dict[tuple[Any, ...], int] = field(default_factory=dict)
    totals: list[np.ndarray] = field(default_factory=list)
    n: list[int] = field(default_factory=list)

    def add(self, cells: pa.RecordBatch | pa.Table) -> None:
        """Add cells with the columns that are asked, and `embedding`."""
        values = zip(*(cells[name].to_pylist() for name in self.columns), strict=True)
        row = [self.keys.setdefault(key, len(self.keys)) for key in values]
        rows, at = np.unique(row, return_inverse=True)
        if not len(rows):
            return
        chosen = sparse.csr_matrix((np.ones(len(at), np.float32), (at, np.arange(len(at)))))
        for number, total, n in zip(rows, chosen @ vectors_of(cells["embedding"]), np.bincount(at), strict=True):
            if number < len(self.n):
                self.totals[number] += total
                self.n[number] += int(n)
            else:
                self.totals.append(total.copy())
                self.n.append(int(n))

    def column(self, name: str) -> list[Any]:
        """Return what each group has in a column."""
        at = self.columns.index(name)
        return [key[at] for key in self.keys]

    def vectors(self) -> np.ndarray:
        """Return the mean (groups, dim) of each group's cells."""
        return np.stack(self.totals) / np.array(self.n, np.float32)[:, None]

    def centred(self) -> np.ndarray:
        """Return the means, each less the mean of its batch, as profiles are; the columns hold those of `Group`."""
        groups = [Group(*key) for key in zip(*(self.column(name) for name in Group._fields), strict=True)]
        sums = CellSums()
        for group, total, n in zip(groups, self.totals, self.n, strict=True):
            sums.n[group] = sums.n.get(group, 0) + n
            sums.total[group] = sums.total[group] + total if group in sums.total else total
        centers = sums.centers()
        vectors = self.vectors()
        for row, group in enumerate(groups):
            vectors[row] -= centers[group]
        return vectors


def control_cells(store: Store, where: str) -> pa.Array:
    """Return the ids of the cells that nothing was done to, those that meet `where`; raise NotBuilt when none does."""
    found = store.read("cells", ["cell_id"], where=where)["cell_id"].combine_chunks()
    if not len(found):
        raise NotBuilt(f"No cell of this atlas meets {where}. Name the controls with --controls.")
    return found


def read_means(
    store: Store, columns: Sequence[str], *, named: bool = False, marked: pa.Array | None = None
) -> CellMeans:
    """Return the means over cells that agree in `columns`.

    named: leave cells out of which no protein is known, as profiles do. marked: ids of cells that are kept apart from
    others; a last column, `marked`, tells which are.
    """
    read = [*columns, "embedding", *(["cell_id"] if marked is not None else [])]
    means = CellMeans((*columns, *(["marked"] if marked is not None else [])))
    for batch in store.batches("cells", read):
        if named:
            batch = batch.filter(pc.is_valid(batch["protein_id"]))
        if marked is not None:
            batch = batch.append_column("marked", pc.is_in(batch["cell_id"], value_set=marked))
        means.add(batch)
    return means
