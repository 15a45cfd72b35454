"""Where the cells of a field of view are: from a mask that is given, or by watershed from nuclei."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..errors import BadImage

__all__ = ["Box", "find_cells", "segment_cells"]

WORKING_PIXEL_UM = 0.4  # segmentation looks at the field at this scale: fast, and a nucleus is still 30 px wide
NUCLEUS_MIN_UM2 = 30.0
CELL_MIN_UM2 = 80.0
NUCLEUS_RADIUS_UM = 4.0  # two centres closer than this are one nucleus
REACH_UM = 20.0  # this far from its nucleus a pixel is as unlikely to be a cell's as in the dark
CUT = 0.3  # a cell with more of its outline on the border than this, in sides of a square of its area, is cut by it
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
    """Return the cells of a labelled mask (H, W), by label; areas below `MIN_CELL_PX` pixels are left out.

    Raise BadImage for a mask that tells cell from background only: its cells would pass for one.
    """
    areas = np.bincount(labels.ravel().clip(min=0))
    boxes = []
    for label, window in enumerate(ndimage.find_objects(labels), start=1):
        if window is not None and areas[label] >= MIN_CELL_PX:
            rows, columns = window
            boxes.append(Box(label, rows.start, columns.start, rows.stop, columns.stop))
    if len(boxes) == 1:
        parts = np.bincount(ndimage.label(labels == boxes[0].label)[0].ravel())[1:]
        if (n_large := int((parts >= MIN_CELL_PX).sum())) > 1:
            raise BadImage(f"the mask has one number in {n_large} areas; give each cell a number of its own")
    return boxes


def segment_cells(nucleus: np.ndarray, cytoplasm: np.ndarray, *, pixel_size_um: float) -> np.ndarray:
    """Label the cells of a field: nuclei by threshold and distance, cells by watershed from them.

    nucleus, cytoplasm: (H, W) intensities; `cytoplasm` is whatever fills the cell (ER, microtubules, or their sum).
    Returns (H, W) int32 labels. Cells that the border cuts are left out, as are those smaller than 80 µm². A pixel
    between two nuclei goes to the nearer one unless it is dark in between. Raise BadImage when no nucleus stands out.
    """
    from skimage import filters, segmentation, transform

    shape = nucleus.shape
    scale = min(1.0, pixel_size_um / WORKING_PIXEL_UM)
    small = tuple(max(8, round(side * scale)) for side in shape)
    pixel_um = pixel_size_um * shape[0] / small[0]
    dna = filters.gaussian(transform.resize(stretch(nucleus), small, anti_aliasing=True), 1.0 / pixel_um)
    body = filters.gaussian(transform.resize(stretch(cytoplasm), small, anti_aliasing=True), 0.8 / pixel_um)
    if dna.max() - dna.min() < 1e-6:
        raise BadImage("no nucleus stands out in the nucleus channel")
    nuclei = label_nuclei(dna, pixel_um=pixel_um)
    if nuclei.max() == 0:
        raise BadImage("no nucleus stands out in the nucleus channel")
    inside = ndimage.binary_fill_holes((body > filters.threshold_li(body)) | (nuclei > 0))
    far = ndimage.distance_transform_edt(nuclei == 0) * (pixel_um / REACH_UM)
    cells = segmentation.watershed(far - body, markers=nuclei, mask=inside)
    areas = np.bincount(cells.ravel())
    border = np.concatenate([cells[0], cells[-1], cells[:, 0], cells[:, -1]])
    on_border = np.bincount(border, minlength=len(areas))
    unfit = (areas * pixel_um**2 < CELL_MIN_UM2) | (on_border > CUT * np.sqrt(areas))
    cells[unfit[cells]] = 0
    enlarged = transform.resize(cells, shape, order=0, preserve_range=True, anti_aliasing=False)
    return enlarged.astype(np.int32)


def label_nuclei(dna: np.ndarray, *, pixel_um: float) -> np.ndarray:
    """Label the nuclei of a smoothed DNA channel (H, W), touching ones parted where they are narrowest."""
    from skimage import feature, filters, measure, segmentation
    from skimage.morphology import remove_small_objects

    foreground = ndimage.binary_fill_holes(dna > filters.threshold_li(dna))
    foreground = remove_small_objects(foreground, max_size=round(NUCLEUS_MIN_UM2 / pixel_um**2))
    distance = filters.gaussian(ndimage.distance_transform_edt(foreground), 1.0 / pixel_um)
    peaks = feature.peak_local_max(
        distance, min_distance=max(1, round(NUCLEUS_RADIUS_UM / pixel_um)), labels=measure.label(foreground)
    )
    markers = np.zeros(dna.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return segmentation.watershed(-distance, markers=markers, mask=foreground)


def stretch(channel: np.ndarray) -> np.ndarray:
    """Scale intensities to [0, 1] between their 1st and 99.5th percentile."""
    low, high = np.percentile(channel, (1, 99.5))
    return np.clip((channel.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
