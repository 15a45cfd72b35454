"""The profiles of an atlas under a batch correction: read the cells, correct them, and tell how it was done.

What a correction does to all batches alike is kept, for what is no profile: a new picture, a single cell, other draws
of cells (see `CorrectedSpace`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from .corrections import CORRECTIONS, Space, Wells, check_correction, correct
from .errors import BadInput, NotBuilt
from .gene_functions import models_table, of_bytes, to_bytes
from .profiles import CELL_COLUMNS, CellSums, Corrected, profiles_table, proteins_table, vectors_of
from .recipe import CENTER, Recipe
from .store import Store, quote

__all__ = [
    "CorrectedSpace",
    "CorrectionSettings",
    "Made",
    "corrected_recipe",
    "corrected_space",
    "forget_other_spaces",
    "make_profiles",
    "settings_of_correction",
    "write_space",
]

KIND = "correction"  # of the row of `models`
WELL = ("well", "image_id", "fov")  # what tells wells of controls apart: the first that is known
WELL_COLUMNS = ("cell_line", "plate", *WELL, "embedding")


@dataclass(frozen=True, kw_only=True)
class CorrectionSettings:
    """How batches are corrected. name: of `CORRECTIONS`. controls: a `WHERE` of cells that nothing was done to."""

    name: str = CENTER
    controls: str | None = None

    def check(self) -> None:
        """Raise UnknownName or BadInput when batches cannot be corrected so."""
        check_correction(self.name, has_controls=self.controls is not None)

    def __str__(self) -> str:
        return self.name if self.controls is None else f"{self.name} on {self.controls}"

    def inputs(self, seed: int) -> dict[str, Any]:
        """Return what profiles depend on beside their cells; nothing for the usual way."""
        if self == CorrectionSettings():
            return {}
        return {"correction": str(self)} | ({"seed": seed} if CORRECTIONS[self.name].is_random else {})


def settings_of_correction(store: Store) -> CorrectionSettings:
    """Return how batches are corrected: as they were last, else as usual."""
    stored = store.metadata("profiles").get("correction", {})
    return CorrectionSettings(name=stored.get("name", CENTER), controls=stored.get("controls"))


def corrected_recipe(recipe: Recipe | None, settings: CorrectionSettings, dim: int) -> Recipe | None:
    """Return the recipe of vectors that were made of cells with a `recipe` by a correction."""
    return replace(recipe, correction=str(settings), dim=dim) if recipe else None


@dataclass
class ControlSums:
    """Sums over controls by cell line, plate and well, added batch by batch; those on other plates are left out."""

    batches: set[tuple[str | None, str | None]]
    n: dict[tuple[str | None, ...], int] = field(default_factory=dict)
    total: dict[tuple[str | None, ...], np.ndarray] = field(default_factory=dict)

    def add(self, cells: pa.RecordBatch | pa.Table) -> None:
        """Add cells with the columns of `WELL_COLUMNS`."""
        columns = [cells[name].to_pylist() for name in WELL_COLUMNS[:-1]]
        vectors = vectors_of(cells["embedding"]).astype(np.float64)
        rows_of: dict[tuple[str | None, ...], list[int]] = {}
        for row, (line, plate, *names) in enumerate(zip(*columns, strict=True)):
            if (line, plate) in self.batches:
                well = next((name for name in names if name), None)
                rows_of.setdefault((line, plate, well), []).append(row)
        for key, rows in rows_of.items():
            self.n[key] = self.n.get(key, 0) + len(rows)
            self.total[key] = self.total.get(key, 0) + vectors[rows].sum(axis=0)


class Made(NamedTuple):
    """Profiles and proteins that were made of cells, and what is said of how: see `Corrected` and `CellSums`."""

    profiles: pa.Table
    proteins: pa.Table
    space: Space | None
    about: dict[str, Any]
    n_without_protein: int


def make_profiles(store: Store, settings: CorrectionSettings, *, seed: int) -> Made:
    """Return the tables `profiles` and, as far as cells tell them, `proteins`, without writing them.

    `about`: the settings, and how many wells the correction was fitted on, controls or all. Raise NotBuilt when no cell
    names a protein, BadInput when controls are missing or too few.
    """
    settings.check()
    sums = CellSums()
    for batch in store.batches("cells", CELL_COLUMNS):
        sums.add(batch)
    if not sums.n:
        msg = f"None of the {sums.n_without_protein} cells names a gene, so there are no profiles to build."
        raise NotBuilt(f"{msg}\nGive gene_symbol, ensembl_id or uniprot_accession in the manifest and ingest again.")
    about: dict[str, Any] = asdict(settings)
    corrected = None
    if settings.name != CENTER:
        controls = read_controls(store, settings.controls, sums) if settings.controls is not None else None
        about["wells"] = len(sums.n) if controls is None else len(controls.n)
        corrected = corrected_sums(sums, settings.name, controls, seed=seed)
    profiles = profiles_table(sums, corrected)
    proteins = proteins_table(profiles, sums.names)
    return Made(profiles, proteins, corrected.space if corrected else None, about, sums.n_without_protein)


def read_controls(store: Store, where: str, sums: CellSums) -> ControlSums:
    """Return the sums of the cells that meet `where` and are on a plate of `sums`; raise BadInput when none is."""
    controls = ControlSums({(group.cell_line, group.plate) for group in sums.n})
    for batch in store.batches("cells", WELL_COLUMNS, where=where):
        controls.add(batch)
    if not controls.n:
        msg = f"No cell on a plate of proteins meets the condition {where!r} of controls."
        raise BadInput(f'{msg}\nWhich there are: subcell-atlas sql "SELECT DISTINCT condition FROM cells"')
    return controls


def corrected_sums(sums: CellSums, name: str, controls: ControlSums | None, *, seed: int) -> Corrected:
    """Return what a correction makes of the sums over each group's cells."""
    if CORRECTIONS[name].fit is None:
        return Corrected(sums.total.__getitem__, None)
    found = correct(name, wells_of(sums, controls), seed=seed)
    row_of = {group: row for row, group in enumerate(sums.n)}
    return Corrected(lambda group: sums.n[group] * found.vectors[row_of[group]], found.space)


def wells_of(sums: CellSums, controls: ControlSums | None) -> Wells:
    """Return the means of groups, then those of controls."""
    parts: list[CellSums | ControlSums] = [sums] if controls is None else [sums, controls]
    n = np.concatenate([list(part.n.values()) for part in parts])
    means = np.empty((len(n), len(next(iter(sums.total.values())))))
    for row, total in enumerate(chain.from_iterable(part.total.values() for part in parts)):
        means[row] = total / n[row]
    proteins: list[str | None] = [group.protein_id for group in sums.n]
    batches = [(group.cell_line, group.plate) for group in sums.n]
    if controls is not None:
        proteins += [None] * len(controls.n)
        batches += [(line, plate) for line, plate, _ in controls.n]
    lines, plates = zip(*batches, strict=True)
    is_control = None if controls is None else np.arange(len(n)) >= len(sums.n)
    return Wells(means, proteins, lines, plates, is_control)


@dataclass(frozen=True)
class CorrectedSpace:
    """The space in which an atlas's profiles lie, for vectors of cells that are no profiles.

    Cells are corrected as x -> A(x - m) + shift. A and m, of all batches alike, are stored; shift is what takes the
    mean of a profile's cells to the profile. That is what none, center and spherize do. It is an approximation of
    center-scale and pca-center-scale, which scale each batch by its own deviations (A has their root mean square), of
    tvn and tvn-recentered, which turn each by its own covariance (A has the pooled one), and of harmony, which moves
    each well by the clusters that it is in (A has the principal axes).
    """

    space: Space | None = None

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Return vectors (…, dim) of cells, as they came from the encoder, as (…, k): A(x - m)."""
        return vectors if self.space is None else self.space.project(vectors)

    def shifts(self, profiles: pa.Table) -> np.ndarray:
        """Return what is to be added (n, k) to projected cells of each profile, from `embedding` and `uncentered`."""
        return vectors_of(profiles["embedding"]) - self.project(vectors_of(profiles["uncentered"]))


def corrected_space(store: Store) -> CorrectedSpace:
    """Return the space of an atlas's profiles."""
    name = store.metadata("profiles").get("correction", {}).get("space")
    if name is None:
        return CorrectedSpace()
    rows = store.read("models", ["arrays"], where=f"name = {quote(name)}")
    if not rows.num_rows:
        raise NotBuilt("What corrects new pictures is missing. Run: subcell-atlas build profiles --force")
    return CorrectedSpace(Space.of_arrays(of_bytes(rows["arrays"][0].as_py())))


def write_space(store: Store, space: Space | None) -> str | None:
    """Write what a correction does to all batches alike beside what is there; return what its row is called."""
    if space is None:
        return None
    content = to_bytes(space.arrays())
    name = f"{KIND} {hashlib.sha256(content).hexdigest()[:16]}"  # so that profiles never meet another's
    row: Mapping[str, Any] = {"name": name, "modality": "image", "kind": KIND, "term_ids": None, "about": None}
    store.upsert("models", models_table([{**row, "arrays": content}]))
    return name


def forget_other_spaces(store: Store, name: str | None) -> None:
    """Delete what corrections did whose profiles are no more."""
    store.delete("models", f"kind = '{KIND}'" + (f" AND name <> {quote(name)}" if name else ""))
