"""An encoder whose vectors can be computed in the head, and pictures for it."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from subcell_atlas.recipe import Recipe

CHANNELS = ("microtubules", "er", "nucleus", "protein")
SIDE = 32
PIXEL_UM = 0.8


@dataclass(frozen=True)
class FakeSpec:
    name: str = "fake"
    channels: tuple[str, ...] = CHANNELS
    crop_px: int = SIDE
    crop_um: float = SIDE * PIXEL_UM  # a picture of SIDE px at PIXEL_UM is its own crop


class FakeEncoder:
    """Embeds a crop as the mean of each channel."""

    def __init__(self, name: str = "fake", *, interrupt_at: int | None = None) -> None:
        self.spec = FakeSpec(name)
        self.n_calls = 0
        self.n_crops = 0
        self._interrupt_at = interrupt_at

    def recipe(self, *, masking: str) -> Recipe:
        return Recipe(encoder=self.spec.name, dim=len(CHANNELS), channels=CHANNELS, masking=masking)

    has_heads = False
    device = torch.device("cpu")

    def batch_size(self) -> int:
        return 64

    def check_precision(self, crops: np.ndarray) -> float:
        return 1.0

    def embed(self, crops: np.ndarray) -> np.ndarray:
        self.n_calls += 1
        if self.n_calls == self._interrupt_at:
            raise KeyboardInterrupt
        self.n_crops += len(crops)
        return crops.mean(axis=(2, 3), dtype=np.float64).astype(np.float32)


def draw_cell(seed: int = 0, *, side: int = SIDE) -> dict[str, np.ndarray]:
    """Return four 8-bit channels of one cell: a disc with a nucleus, its brightness told by the seed."""
    rows, columns = np.mgrid[:side, :side]
    radius = np.hypot(rows - side / 2, columns - side / 2)
    body, nucleus = radius < 0.45 * side, radius < 0.2 * side
    noise = np.random.default_rng(seed).integers(0, 20, (4, side, side))
    planes = (body * 60, body * 90, nucleus * 150, body * (40 + seed % 100))
    return {
        name: (plane + noise[i] * body).astype(np.uint8)
        for i, (name, plane) in enumerate(zip(CHANNELS, planes, strict=True))
    }


def write_cell(folder: Path, name: str, seed: int = 0, *, side: int = SIDE) -> dict[str, str]:
    """Write a cell as a PNG a channel; return its row of a manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    row = {"image_id": name}
    for channel, plane in draw_cell(seed, side=side).items():
        row[channel] = f"{name}_{channel}.png"
        Image.fromarray(plane).save(folder / row[channel])
    return row


def write_manifest(path: Path, rows: Sequence[Mapping[str, object]], *, delimiter: str = ",") -> Path:
    """Write rows as a CSV; a value that a row lacks is empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, delimiter=delimiter, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path
