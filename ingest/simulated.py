"""The simulated proteome as a source of pictures, with its truth, and as files for trying everything on."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from subcell_atlas.images.simulated import (
    CHANNELS,
    FIELD_UM,
    VERSION,
    SimulatedProteome,
    describe_cell,
    make_cell,
    make_proteome,
)
from subcell_atlas.proteins import write_proteins
from subcell_atlas.store import Store, quote

from .sources import Picture, digest

__all__ = ["SimulatedSource", "source_of_demo", "write_files", "write_truth"]

PICTURE_PX = 256  # about the demonstration encoder's pixel size


@dataclass(frozen=True)
class SimulatedItem:
    """One simulated cell; it is drawn when it is loaded."""

    proteome: SimulatedProteome
    protein: int
    cell: int

    @property
    def image_id(self) -> str:
        """The protein's symbol and the number of the cell."""
        return f"{self.proteome.proteins[self.protein].gene_symbol}_{self.cell}"

    @property
    def metadata(self) -> dict[str, Any]:
        """Everything but the picture."""
        described = describe_cell(self.proteome, self.protein, self.cell)
        return {**described, "localization": list(described["localization"])}

    @property
    def is_crop(self) -> bool:
        """Whether it shows one cell: it does."""
        return True

    def looks(self) -> str:
        """Say what it is drawn from."""
        return self.picture_id()

    def picture_id(self) -> str:
        """Hash what the picture is drawn from."""
        n = len(self.proteome.proteins)
        parts = (VERSION, self.proteome.seed, n, self.protein, self.cell, PICTURE_PX)
        return digest("simulated", *(str(part) for part in parts))

    def reading(self) -> str:
        """Nothing: there is one way to draw it."""
        return ""

    def load(self) -> Picture:
        """Draw the cell."""
        cell = make_cell(self.proteome, self.protein, self.cell, size=PICTURE_PX)
        return Picture(
            channels=dict(zip(CHANNELS, cell.channels, strict=True)),
            labels=cell.mask.astype("int32"),
            pixel_size_um=cell.pixel_size_um,
            is_crop=True,
        )


@dataclass(frozen=True)
class SimulatedSource:
    """`n_cells` cells of each protein of a simulated proteome."""

    proteome: SimulatedProteome
    n_cells: int

    @property
    def name(self) -> str:
        """The numbers that make the proteome what it is."""
        return f"simulated proteome {VERSION}.{self.proteome.seed}.{len(self.proteome.proteins)}"

    def __len__(self) -> int:
        return len(self.proteome.proteins) * self.n_cells

    def item(self, index: int) -> SimulatedItem:
        """Return one cell; the cells of a protein follow each other."""
        protein, cell = divmod(index, self.n_cells)
        return SimulatedItem(self.proteome, protein, cell)


def source_of_demo(store: Store) -> SimulatedSource | None:
    """Return what the cells of an atlas were simulated by; None when they were not, or by another release."""
    names = store.read("cells", ["source"])["source"].unique().to_pylist() if store.has("cells") else []
    seed, n_proteins = (names[0] or "").split(".")[-2:] if len(names) == 1 and names[0].count(".") > 1 else ("", "")
    if not (seed.isdigit() and n_proteins.isdigit()):
        return None
    n_cells = store.count("cells") // int(n_proteins)
    source = SimulatedSource(make_proteome(int(n_proteins), seed=int(seed)), n_cells)
    return source if source.name == names[0] else None


def write_truth(store: Store, source: SimulatedSource) -> None:
    """Write what was planted: terms, annotations, sequences; nothing when it is there already."""
    annotations, terms = source.proteome.annotations(), source.proteome.terms()
    if store.count("annotations", f"source = {quote(source.name)}") == annotations.num_rows:
        return
    proteins = source.proteome.proteins
    names = ("protein_id", "gene_symbol", "ensembl_id", "uniprot_accession")
    columns = {name: [getattr(protein, name) for protein in proteins] for name in names}
    write_proteins(store, pa.table({**columns, "amino_acids": [protein.sequence for protein in proteins]}))
    store.upsert("terms", with_source(terms, source.name))
    store.upsert("annotations", with_source(annotations, source.name))


def with_source(rows: pa.Table, source: str) -> pa.Table:
    """Return `rows` with the column `source`."""
    return rows.append_column("source", pa.array([source] * rows.num_rows))


def write_files(source: SimulatedSource, folder: Path) -> Path:
    """Write the cells as PNG files, one a channel and one for the mask, with a manifest of crops; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(len(source)):
        item = source.item(index)
        picture = item.load()
        planes = {**picture.channels, "mask": np.asarray(picture.labels, np.uint8)}
        files = {name: f"{item.image_id}_{name}.png" for name in planes}
        for name, plane in planes.items():
            Image.fromarray(plane).save(folder / files[name])
        metadata = {**item.metadata, "localization": ";".join(item.metadata["localization"])}
        rows.append({"image_id": item.image_id, **files, **metadata, "pixel_size_um": FIELD_UM / PICTURE_PX})
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return manifest
