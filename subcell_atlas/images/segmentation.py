"""Where the cells of a field of view are, found by one of `SEGMENTERS`, and which of them are left out.

Left out and counted are:

- cells cut by the border: more of their outline lies on it than 0.3 sides of a square of their area;
- fragments: of less than 80 µm² (a mask that is given: of less than 64 px);
- doublets: their nucleus is a clump (larger than 1.6 times the field's median and with a solidity below 0.85), or they
  are larger than 5 times the median of the field's cells where it has 5 or more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import BadImage, UnknownName

__all__ = ["CELLS_VERSION", "SEGMENTERS", "Segmented", "Segmenter", "choose_cells", "segment_cells"]

CELLS_VERSION = 2  # counted up when other cells would be found in a field, or left out, so that fields are cut anew
CUT = 0.3
FRAGMENT_UM2 = 80.0
LARGE = 5.0  # times the median area of the field's cells
N_FOR_MEDIAN = 5  # cells; of fewer the median says little


@dataclass(frozen=True)
class Segmented:
    """Labels (H, W) int32, 0 outside of cells; and how many cells were left out for which reason."""

    labels: np.ndarray
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Raw:
    """What a segmenter found: labels (h, w) int32 of all cells, at its own scale, and those with a clump of nuclei."""

    labels: np.ndarray
    pixel_um: float
    clumps: Sequence[int] = ()


@dataclass(frozen=True)
class Segmenter:
    """A way to find cells. `find` takes nucleus and cytoplasm (H, W) and the size of a pixel in µm."""

    note: str
    find: Callable[[np.ndarray, np.ndarray, float], Raw]


def find_by_watershed(nucleus: np.ndarray, cytoplasm: np.ndarray, pixel_size_um: float) -> Raw:
    """Find cells by watershed (see `watershed`)."""
    from .watershed import watershed_cells

    labels, pixel_um, clumps = watershed_cells(nucleus, cytoplasm, pixel_size_um)
    return Raw(labels, pixel_um, clumps)


def find_by_cellpose(nucleus: np.ndarray, cytoplasm: np.ndarray, pixel_size_um: float) -> Raw:
    """Find cells by Cellpose (see `cellpose`)."""
    from .cellpose import cellpose_cells

    return Raw(*cellpose_cells(nucleus, cytoplasm, pixel_size_um))


SEGMENTERS: dict[str, Segmenter] = {
    "watershed": Segmenter("nuclei by threshold, cells by watershed; needs no weights", find_by_watershed),
    "cellpose": Segmenter("needs pip install 'subcell-atlas[cellpose]' and its weights", find_by_cellpose),
}


def segment_cells(
    nucleus: np.ndarray, cytoplasm: np.ndarray, *, pixel_size_um: float, segmenter: str = "watershed"
) -> Segmented:
    """Label the cells of a field of view.

    nucleus, cytoplasm: (H, W) intensities; `cytoplasm` is whatever fills the cell (ER, microtubules, or their sum).
    Raise BadImage when no nucleus stands out.
    """
    if segmenter not in SEGMENTERS:
        raise UnknownName("segmentation", segmenter, SEGMENTERS)
    raw = SEGMENTERS[segmenter].find(nucleus, cytoplasm, pixel_size_um)
    fragment = FRAGMENT_UM2 / raw.pixel_um**2
    chosen = choose_cells(raw.labels, fragment_px=fragment, clumps=raw.clumps)
    return Segmented(enlarge(chosen.labels, nucleus.shape), chosen.left_out)


def choose_cells(labels: np.ndarray, *, fragment_px: float, clumps: Sequence[int] = ()) -> Segmented:
    """Leave out the cells that are cut, fragments or doublets. labels: (H, W) int32; clumps: labels of doublets."""
    areas = np.bincount(labels.ravel().clip(min=0))
    areas[0] = 0
    n_on_border = border_pixels(labels, len(areas))
    there = areas > 0
    fragment = there & (areas < fragment_px)
    border = there & ~fragment & (n_on_border > CUT * np.sqrt(areas))
    whole = there & ~fragment & ~border
    doublet = np.zeros(len(areas), bool)
    doublet[list(clumps)] = True
    if whole.sum() >= N_FOR_MEDIAN:
        doublet |= areas > LARGE * np.median(areas[whole])
    doublet &= whole
    reasons = {"cut by the border": border, "fragments": fragment, "doublets": doublet}
    left_out = {reason: int(which.sum()) for reason, which in reasons.items() if which.any()}
    if not left_out:
        return Segmented(labels)
    keep = np.where(fragment | border | doublet, 0, np.arange(len(areas)))
    return Segmented(keep[labels.clip(min=0)].astype(np.int32), left_out)


def border_pixels(labels: np.ndarray, n: int) -> np.ndarray:
    """Return how many pixels of the picture's border each of `n` labels has."""
    border = np.concatenate([labels[0], labels[-1], labels[1:-1, 0], labels[1:-1, -1]])
    return np.bincount(border.clip(min=0), minlength=n)


def enlarge(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return labels at the size of the picture, each pixel as the nearest one."""
    if labels.shape == shape:
        return labels.astype(np.int32, copy=False)
    rows, columns = (np.arange(to) * of // to for of, to in zip(labels.shape, shape, strict=True))
    return np.repeat(labels[:, columns], np.bincount(rows, minlength=len(labels)), axis=0).astype(np.int32, copy=False)


def no_nucleus() -> BadImage:
    """Return the error of a field in which no nucleus stands out."""
    return BadImage("no nucleus stands out in the nucleus channel")
