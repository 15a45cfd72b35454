"""Wells of an atlas: means over their cells of one condition, protein and cell line; and which of them are controls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .cell_means import control_cells, read_means
from .store import Store

__all__ = ["Wells", "read_wells"]

OF_WELL = ("condition", "plate", "well", "cell_line", "protein_id")


@dataclass(frozen=True)
class Wells:
    """Means over the cells of wells (n, dim), with their columns, and which of them are controls.

    centred: whether on the controls of their plates; n_left_out: wells of plates without controls.
    """

    columns: dict[str, list[str | None]]
    vectors: np.ndarray
    control: np.ndarray
    centred: bool = False
    n_left_out: int = 0

    def where(self, rows: np.ndarray) -> Wells:
        """Return the rows (n,) that are true."""
        kept = np.flatnonzero(rows)
        columns = {name: [values[row] for row in kept] for name, values in self.columns.items()}
        return Wells(columns, self.vectors[kept], self.control[kept], self.centred, self.n_left_out)

    @property
    def treated(self) -> Wells:
        """Return those to which something was done."""
        return self.where(~self.control)

    def keys(self, *names: str) -> list[str]:
        """Return what each well has in some columns, as one text."""
        columns = [self.columns[name] for name in names]
        return ["|".join(value or "" for value in row) for row in zip(*columns, strict=True)]

    def means(self, *names: str) -> Wells:
        """Return the mean over the wells that are alike in some columns, in order of what these hold."""
        keys, first, at = np.unique(np.array(self.keys(*names)), return_index=True, return_inverse=True)
        total = np.zeros((len(keys), self.vectors.shape[1]))
        np.add.at(total, at, self.vectors)
        columns = {name: [values[row] for row in first] for name, values in self.columns.items()}
        return Wells(columns, total / np.bincount(at)[:, None], self.control[first], self.centred, self.n_left_out)


def read_wells(store: Store, controls: str | None) -> Wells:
    """Return the wells that have a condition, or are controls: `controls` is a `WHERE` of cells.

    With controls, a well is centred on the mean of those of its plate and cell line.
    """
    marked = control_cells(store, controls) if controls is not None else None
    means = read_means(store, OF_WELL, marked=marked)
    columns = {name: means.column(name) for name in OF_WELL}
    control = np.array(means.column("marked"), bool) if marked is not None else np.zeros(len(means.n), bool)
    wells = Wells(located(columns), means.vectors(), control)
    wells = wells.where(np.array([bool(value) for value in columns["condition"]], bool) | control)
    return centred_on_controls(wells) if marked is not None else wells


def located(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Return columns of wells, a well named by its plate too, and what has no cell line or condition by no letters."""
    wells = zip(columns["plate"], columns["well"], strict=True)
    named = [f"{plate or ''}|{well}" if well is not None else None for plate, well in wells]
    unnamed = {name: [value or "" for value in columns[name]] for name in ("cell_line", "condition")}
    return columns | {"well": named} | unnamed


def centred_on_controls(wells: Wells) -> Wells:
    """Return wells less the mean of the controls of their plate and cell line, without those where there are none."""
    places = np.unique(np.array(wells.keys("plate", "cell_line")), return_inverse=True)[1]
    n = np.bincount(places[wells.control], minlength=places.max(initial=-1) + 1)
    total = np.zeros((len(n), wells.vectors.shape[1]))
    np.add.at(total, places[wells.control], wells.vectors[wells.control])
    kept = n[places] > 0
    vectors = wells.vectors - (total / np.maximum(n, 1)[:, None])[places]
    found = Wells(wells.columns, vectors, wells.control, centred=True, n_left_out=int((~kept).sum()))
    return found.where(kept)
