"""An atlas as large as the Human Protein Atlas's: 13,000 proteins, 200,000 cells, made in minutes from drawn vectors.

Proteins lie in nested groups, cells around their protein; thumbnails are of 240 simulated cells, used again and again.
What is slow or quick to show does not depend on what the vectors mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from subcell_atlas.build import MapSettings, build
from subcell_atlas.images.crops import cut_cells
from subcell_atlas.images.simulated import CHANNELS, make_cell, make_proteome
from subcell_atlas.images.thumbnails import encode_thumbnail
from subcell_atlas.profiles import vector_array
from subcell_atlas.recipe import Recipe
from subcell_atlas.store import Store

__all__ = ["make_atlas"]

PLACES = (
    "Nucleoplasm", "Cytosol", "Mitochondria", "Plasma membrane", "Vesicles", "Golgi apparatus", "Nucleoli",
    "Endoplasmic reticulum", "Nuclear speckles", "Centrosome", "Cell junctions", "Microtubules", "Nuclear membrane",
    "Actin filaments", "Focal adhesion sites", "Lipid droplets", "Peroxisomes", "Midbody",
)  # fmt: skip
LINES = ("U-2 OS", "A-431", "U-251MG", "HeLa", "HEK293", "MCF-7", "HepG2", "RT4")
PARTS = 12  # subgroups of each place
N_THUMBNAILS = 240
ROWS = 10_000  # a commit


def make_atlas(uri: str, *, proteins: int, cells: int, dim: int = 1536, seed: int = 0) -> None:
    """Write and build an atlas."""
    rng = np.random.default_rng(seed)
    store = Store.create(uri)
    group = rng.integers(0, len(PLACES) * PARTS, proteins)
    places = rng.normal(0, 1, (len(PLACES), dim))
    parts = places.repeat(PARTS, axis=0) + rng.normal(0, 0.7, (len(PLACES) * PARTS, dim))
    center = (parts[group] + rng.normal(0, 0.9, (proteins, dim))).astype(np.float32)
    thumbnails = draw_thumbnails(N_THUMBNAILS, seed)
    recipe = Recipe(encoder="demo", dim=dim, channels=CHANNELS, masking="cell", precision="float32")
    of_cell = np.sort(rng.integers(0, proteins, cells))
    for first in range(0, cells, ROWS):
        mine = of_cell[first : first + ROWS]
        vectors = center[mine] + rng.normal(0, 1.2, (len(mine), dim)).astype(np.float32)
        rows = cell_rows(first, mine, group, thumbnails, rng)
        store.append_cells(rows.append_column("embedding", vector_array(vectors)), recipe=recipe)
    build(store, ["index", "profiles"])
    build(store, ["map"], map_settings=MapSettings(tested=False))


def cell_rows(
    first: int, proteins: np.ndarray, group: np.ndarray, thumbnails: Sequence[bytes], rng: np.random.Generator
) -> pa.Table:
    """Return the columns of some cells but their vectors."""
    ids = [f"cell{first + i:07}" for i in range(len(proteins))]
    symbols = [f"GENE{i:05}" for i in proteins]
    return pa.table(
        {
            "cell_id": ids,
            "picture_id": ids,
            "fingerprint": ids,
            "protein_id": symbols,
            "gene_symbol": symbols,
            "ensembl_id": [f"ENSG{i:011}" for i in proteins],
            "antibody": [
                f"HPA{2 * i + j:06}" for i, j in zip(proteins, rng.integers(0, 2, len(proteins)), strict=True)
            ],
            "cell_line": [LINES[i] for i in rng.integers(0, len(LINES), len(proteins))],
            "plate": [f"{i}" for i in rng.integers(0, 400, len(proteins))],
            "localization": [[PLACES[group[i] // PARTS]] for i in proteins],
            "thumbnail": [thumbnails[i] for i in rng.integers(0, len(thumbnails), len(proteins))],
        }
    )


def draw_thumbnails(n: int, seed: int) -> list[bytes]:
    """Return thumbnails of simulated cells."""
    proteome, drawn = make_proteome(n, seed=seed), []
    for protein in range(n):
        cell = make_cell(proteome, protein, 0, size=256)
        cut = cut_cells(
            dict(zip(CHANNELS, cell.channels, strict=True)), cell.mask.astype(np.int32), is_crop=True, masking="cell",
            pixel_size_um=cell.pixel_size_um, crop_um=256 * cell.pixel_size_um, crop_px=256,
        )  # fmt: skip
        drawn.append(encode_thumbnail(cut.crops[0]))
    return drawn
