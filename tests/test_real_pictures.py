"""Real pictures of the Human Protein Atlas and of CM4AI through the whole ingest, where they are at hand."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from fake_encoder import write_manifest
from PIL import Image
from scipy import ndimage

from ingest.job import Options, ingest_pictures
from ingest.manifest import read_manifest
from subcell_atlas.encoders import load_encoder
from subcell_atlas.encoders.specs import ENCODERS
from subcell_atlas.images.crops import cytoplasm_of
from subcell_atlas.images.files import decode_channel, decode_channels, decode_labels
from subcell_atlas.images.segmentation import segment_cells
from subcell_atlas.images.thumbnails import decode_thumbnail
from subcell_atlas.store import Store

DATA = Path(__file__).parents[2] / "shared" / "data"
COLOR_OF = {"microtubules": "red", "er": "yellow", "nucleus": "blue", "protein": "green"}
CHANNELS = tuple(COLOR_OF)
HPA_UM = 0.0800885
TILE_PX = 512

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no real data beside the repository")


@pytest.fixture(scope="module")
def encoder():
    return load_encoder("demo")


@pytest.fixture
def ingest(tmp_path, encoder):
    """Ingest rows of a manifest; return the counts and the cells."""

    def run(rows, *, crops=False):
        store = Store.create(str(tmp_path / "atlas"))
        manifest = write_manifest(tmp_path / "real.csv", rows)
        source = read_manifest(manifest, channels=CHANNELS, encoder="demo", crops=crops)
        counts = ingest_pictures(store, source, encoder, Options(workers=0, progress=False))
        assert not store.has("rejects"), store.read("rejects").to_pylist()
        return counts, store.read("cells").to_pylist()

    return run


def files(prefix: Path, suffix: str) -> dict[str, str]:
    return {channel: f"{prefix}_{color}.{suffix}" for channel, color in COLOR_OF.items()}


def read(paths: dict[str, str]) -> dict[str, np.ndarray]:
    return {channel: decode_channel(Path(path).read_bytes(), path) for channel, path in paths.items()}


def check_cells(cells):
    """Every cell has a finite vector, unlike any other, and a thumbnail that shows something in every channel."""
    vectors = np.array([cell["embedding"] for cell in cells])
    assert np.isfinite(vectors).all()
    assert len(np.unique(vectors.round(5), axis=0)) == len(cells)
    for cell in cells:
        tiles = decode_thumbnail(cell["thumbnail"])
        assert tiles.shape == (4, 128, 128)
        assert (tiles.max(axis=(1, 2)) > 200).all()
    return np.array([decode_thumbnail(cell["thumbnail"]) for cell in cells])


def test_masked_cells_of_a_grid_are_cut_out_one_by_one(ingest, tmp_path):
    with (DATA / "hpa_cells" / "cells.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    images = sorted({row["image"] for row in table})[:3]
    rows = []
    for image in images:
        paths = files(DATA / "hpa_cells" / "images" / image, "jpg")
        lit = np.max(list(read(paths).values()), axis=0) > 8
        mask = np.zeros(lit.shape, np.uint8)
        for row in table:
            if row["image"] == image:
                tile = 3 * int(row["tile_row"]) + int(row["tile_col"])
                box = tuple(
                    slice(TILE_PX * int(row[at]) + int(row[low]), TILE_PX * int(row[at]) + int(row[high]))
                    for at, low, high in (("tile_row", "y0", "y1"), ("tile_col", "x0", "x1"))
                )
                mask[box] = ndimage.binary_fill_holes(lit[box]) * (tile + 1)
        Image.fromarray(mask).save(tmp_path / f"{image}.png")
        rows.append({"image_id": image, **paths, "mask": f"{image}.png"})
    counts, cells = ingest(rows)
    assert counts.cells == len(cells) == 27 - counts.left_out["cut by the border"]
    assert len(cells) >= 24  # some tiles are bright up to the edge of the picture
    assert {cell["mask_source"] for cell in cells} == {"given"}
    thumbnails = check_cells(cells)
    for cell, tiles in zip(cells, thumbnails, strict=True):
        tile = cell["y0"] // TILE_PX, cell["x0"] // TILE_PX
        known = next(
            row for row in table
            if row["image"] == cell["image_id"] and (int(row["tile_row"]), int(row["tile_col"])) == tile
        )  # fmt: skip
        box = [int(known[name]) for name in ("y0", "x0", "y1", "x1")]
        own = [
            cell["y0"] % TILE_PX,
            cell["x0"] % TILE_PX,
            (cell["y1"] - 1) % TILE_PX + 1,
            (cell["x1"] - 1) % TILE_PX + 1,
        ]
        assert np.abs(np.subtract(own, box)).max() <= 25
        for bright in np.nonzero(tiles.max(axis=0) > 60):
            off_center_um = ((bright.min() + bright.max()) / 2 - 64) * ENCODERS["demo"].crop_um / 128
            assert abs(off_center_um) < 4


def test_cells_of_a_whole_field_are_found_from_their_nuclei(ingest):
    paths = files(DATA / "hpa_fields" / "rpl4_57_F11_1" / "57_F11_1", "png")
    channels = read(paths)
    labels = segment_cells(channels["nucleus"], cytoplasm_of(channels), pixel_size_um=HPA_UM).labels
    counts, cells = ingest([{"image_id": "57_F11_1", **paths, "gene_symbol": "RPL4", "cell_line": "A-431"}])
    assert counts.cells == len(cells) == len(np.unique(labels)) - 1
    assert 6 <= counts.cells <= 14
    assert {cell["mask_source"] for cell in cells} == {"watershed"}
    check_cells(cells)
    for cell in cells:
        height, width = ((cell[high] - cell[low]) * HPA_UM for low, high in (("y0", "y1"), ("x0", "x1")))
        assert 10 < height < 80  # the ER of this field shows other cells than its nuclei do
        assert 10 < width < 80
        inside = labels[cell["y0"] : cell["y1"], cell["x0"] : cell["x1"]]
        label = np.bincount(inside[inside > 0]).argmax()
        assert channels["nucleus"][labels == label].max() > 100


def test_ready_made_crops_of_one_field_are_cells_as_they_are(ingest):
    crops = sorted((DATA / "hpa_fields" / "mtm1_56_F11_1").glob("*.npy"))
    order = "microtubules;protein;nucleus;er"
    rows = [
        {
            "image_id": path.stem,
            "image": path,
            "channels": order,
            "gene_symbol": "MTM1",
            "pixel_size_um": 640 * HPA_UM / 224,
        }
        for path in crops
    ]
    counts, cells = ingest(rows, crops=True)
    assert counts.cells == len(cells) == len(crops) == 13
    check_cells(cells)
    by_name = {cell["image_id"]: decode_thumbnail(cell["thumbnail"]) for cell in cells}
    window = ENCODERS["demo"].crop_um / (640 * HPA_UM)
    for path in crops:
        given = dict(zip(order.split(";"), decode_channels(path.read_bytes(), path.name), strict=True))
        for channel, tile in zip(CHANNELS, by_name[path.stem], strict=True):
            side = given[channel].shape[0]
            box = (side * (1 - window) / 2, side * (1 - window) / 2, side * (1 + window) / 2, side * (1 + window) / 2)
            shown = Image.fromarray(given[channel]).resize(tile.shape, Image.Resampling.BILINEAR, box=box)
            assert np.corrcoef(np.asarray(shown).ravel(), tile.ravel())[0, 1] > 0.9


@pytest.mark.parametrize("name", ["A1_R2", "A1_R5"])
def test_most_given_nuclei_of_a_field_lie_in_a_cell_of_ours(ingest, name):
    folder = DATA / "cm4ai_fields" / "A1_A2_target_unknown"
    paths = files(folder / f"B2AI_1_Paclitaxel_{name}_z01", "jpg")
    counts, cells = ingest([{"image_id": name, **paths, "condition": "paclitaxel", "cell_line": "MDA-MB-468"}])
    assert 8 <= counts.cells == len(cells) <= 50
    check_cells(cells)
    channels = read(paths)
    labels = segment_cells(channels["nucleus"], cytoplasm_of(channels), pixel_size_um=HPA_UM).labels
    mask = folder / "nuclei_masks" / f"b2ai_1_paclitaxel_{name.lower()}_z01_nuclei_mask.png"
    nuclei = whole_nuclei(decode_labels(mask.read_bytes(), mask.name), channels["nucleus"])
    found = np.mean([labels[y, x] > 0 for y, x in nuclei])
    assert len(nuclei) >= 8
    assert found >= 0.7, f"{found:.0%} of {len(nuclei)}"


def whole_nuclei(given: np.ndarray, dna: np.ndarray) -> list[tuple[int, int]]:
    """Return the centroids of the given nuclei that do not touch the border and that hold DNA (some outline debris)."""
    centroids = []
    for label, window in enumerate(ndimage.find_objects(given), start=1):
        if window is None:
            continue
        inside = given[window] == label
        at_border = any(s.start <= 1 or s.stop >= side - 1 for s, side in zip(window, given.shape, strict=True))
        if at_border or inside.sum() < 2000 or dna[window][inside].mean() < 0.25 * np.percentile(dna[given > 0], 90):
            continue
        y, x = ndimage.center_of_mass(inside)
        centroids.append((window[0].start + int(y), window[1].start + int(x)))
    return centroids
