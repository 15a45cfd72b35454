"""Real cells to measure on: a folder of pictures, each a grid of masked cells, and a `cells.csv` of what they show.

A picture is four files: `NAME_red.jpg` microtubules, `_green` protein, `_blue` nucleus, `_yellow` ER; tiles of 512 px.
`cells.csv` has image, tile_row, tile_col, localization and the box y0, x0, y1, x1 of the cell in its tile.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from subcell_atlas.encoders import EncoderSpec
from subcell_atlas.encoders.specs import HPA_PIXEL_SIZE_UM
from subcell_atlas.images.crops import cut_window, resize

COLORS = {"microtubules": "red", "er": "yellow", "nucleus": "blue", "protein": "green"}
TILE_PX = 512


@dataclass(frozen=True)
class RealCells:
    """crops: (n, C, size, size) uint8 as an encoder takes them; localization and image of each."""

    crops: np.ndarray
    localization: list[str]
    image: list[str]


def read_real_cells(folder: Path, spec: EncoderSpec, *, pixel_size_um: float = HPA_PIXEL_SIZE_UM) -> RealCells:
    """Return the cells of a folder in the channels and at the scale of an encoder."""
    with (folder / "cells.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    crops = []
    for row in rows:
        top, left = (TILE_PX * int(row[name]) for name in ("tile_row", "tile_col"))
        tile = picture(folder, row["image"], spec.channels)[:, top : top + TILE_PX, left : left + TILE_PX]
        y0, x0, y1, x1 = (int(row[name]) for name in ("y0", "x0", "y1", "x1"))
        center = ((y0 + y1) / 2, (x0 + x1) / 2)
        window = cut_window(tile, center, side_px=spec.crop_um / pixel_size_um)
        crops.append(resize(window, spec.crop_px))
    return RealCells(np.stack(crops), [row["localization"] for row in rows], [row["image"] for row in rows])


@lru_cache(maxsize=2)
def picture(folder: Path, name: str, channels: tuple[str, ...]) -> np.ndarray:
    """Return a picture's channels, (C, H, W) uint8."""
    planes = []
    for channel in channels:
        with Image.open(folder / "images" / f"{name}_{COLORS[channel]}.jpg") as image:
            planes.append(np.asarray(image.convert("L")))
    return np.stack(planes)
