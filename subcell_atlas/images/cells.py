"""The cells of a labelled mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..errors import BadImage

__all__ = ["MIN_CELL_PX", "Box", "find_cells"]

MIN_CELL_PX = 64  # a labelled area below this many pixels is dirt


@dataclass(frozen=True)
class Box:
    """One cell: its label in the mask and its bounding box in pixels, half open."""

    label: int
    y0: int
    x0: int
    y1: int
    x1: int

    @property
    def center(self) -> tuple[float, float]:
        """Middle of the box, (row, column)."""
        return (self.y0 + self.y1) / 2, (self.x0 + self.x1) / 2


def find_cells(labels: np.ndarray) -> list[Box]:
    """Return the cells of a labelled mask (H, W), by label.

    Raise BadImage for a mask that tells cell from background only: its cells would pass for one.
    """
    boxes = []
    for label, window in enumerate(ndimage.find_objects(labels), start=1):
        if window is not None:
            rows, columns = window
            boxes.append(Box(label, rows.start, columns.start, rows.stop, columns.stop))
    if len(boxes) == 1:
        parts = np.bincount(ndimage.label(labels == boxes[0].label)[0].ravel())[1:]
        if (n_large := int((parts >= MIN_CELL_PX).sum())) > 1:
            raise BadImage(f"the mask has one number in {n_large} areas; give each cell a number of its own")
    return boxes
