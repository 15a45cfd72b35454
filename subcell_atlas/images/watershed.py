"""Cells by watershed: nuclei by threshold and distance, and each pixel of cytoplasm to the nucleus it belongs to."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from .segmentation import no_nucleus

__all__ = ["label_nuclei", "watershed_cells"]

WORKING_PIXEL_UM = 0.4  # a field is looked at at this scale: fast, and a nucleus is still 30 px wide
NUCLEUS_MIN_UM2 = 30.0
DIP_UM = 0.75  # nuclei touch where the distance to their outline falls by this much between their middles
REACH_UM = 20.0  # this far from its nucleus a pixel is as unlikely to be a cell's as in the dark
FARTHEST_UM = 30.0  # no cell reaches farther from its nucleus
THIN_UM = 1.0
MICRONUCLEUS = 0.1  # of the nucleus of a cell it touches; two cells side by side do not differ so
CLUMP_AREA, CLUMP_SOLIDITY = 1.6, 0.85  # of a nucleus, times the median, and the share of its convex hull


def watershed_cells(
    nucleus: np.ndarray, cytoplasm: np.ndarray, pixel_size_um: float
) -> tuple[np.ndarray, float, list[int]]:
    """Label the cells of a field, those at the border too, at `WORKING_PIXEL_UM` or the field's own scale if coarser.

    nucleus, cytoplasm: (H, W) intensities. Returns labels (h, w) int32, the size of their pixels in µm, and the labels
    whose nucleus is a clump of several. A pixel between two nuclei goes to the nearer one unless it is dark in between.
    Raise BadImage when no nucleus stands out.
    """
    from skimage import filters, segmentation

    shape = nucleus.shape
    scale = min(1.0, pixel_size_um / WORKING_PIXEL_UM)
    small = (max(8, round(shape[0] * scale)), max(8, round(shape[1] * scale)))
    pixel_um = pixel_size_um * shape[0] / small[0]
    dna = ndimage.gaussian_filter(stretch(shrink(nucleus, small)), 1.0 / pixel_um)
    body = ndimage.gaussian_filter(stretch(shrink(cytoplasm, small)), 0.8 / pixel_um)
    if dna.max() - dna.min() < 1e-6:
        raise no_nucleus()
    nuclei = label_nuclei(dna, pixel_um=pixel_um)
    if nuclei.max() == 0:
        raise no_nucleus()
    far_um = ndimage.distance_transform_edt(nuclei == 0) * pixel_um
    inside = ndimage.binary_fill_holes((body > filters.threshold_li(body)) | (nuclei > 0)) & (far_um < FARTHEST_UM)
    inside = without_bridges(inside, pixel_um) | (nuclei > 0)
    cells = segmentation.watershed(far_um / REACH_UM - body, markers=nuclei, mask=inside)
    return join_micronuclei(cells.astype(np.int32), nuclei), pixel_um, clumps_of(nuclei)


def join_micronuclei(cells: np.ndarray, nuclei: np.ndarray) -> np.ndarray:
    """Return cells (h, w) int32 in which what grew from a micronucleus belongs to the cell that it touches most.

    nuclei: (h, w) labels, those of the cells.
    """
    areas = np.bincount(nuclei.ravel())
    edges = []  # of pixels side by side, and one above the other, of two cells
    for one, other in ((cells[1:], cells[:-1]), (cells[:, 1:], cells[:, :-1])):
        there = (one != other) & (one > 0) & (other > 0)
        edges.append(np.stack([one[there], other[there]]))  # (2, n)
    one, other = np.concatenate(edges, axis=1)
    swap = areas[one] > areas[other]
    small, large = np.where(swap, other, one), np.where(swap, one, other)
    micro = areas[small] < MICRONUCLEUS * areas[large]
    joined = np.arange(len(areas), dtype=np.int32)
    touching, lengths = np.unique(np.stack([small[micro], large[micro]], axis=1), axis=0, return_counts=True)
    for i in np.argsort(lengths, kind="stable"):  # the longest edge last, so that it is the one kept
        joined[touching[i, 0]] = touching[i, 1]
    return joined[joined][cells]  # twice: a cell it joins may be joined itself


def without_bridges(inside: np.ndarray, pixel_um: float) -> np.ndarray:
    """Return an area (H, W) bool without what is thinner than twice `THIN_UM`: it joins cells that only touch."""
    core = ndimage.distance_transform_edt(inside) * pixel_um > THIN_UM
    return inside & (ndimage.distance_transform_edt(~core) * pixel_um <= THIN_UM)


def label_nuclei(dna: np.ndarray, *, pixel_um: float) -> np.ndarray:
    """Label the nuclei of a smoothed DNA channel (H, W), touching ones parted where they are narrowest."""
    from skimage import filters, measure, segmentation
    from skimage.morphology import remove_small_objects

    foreground = ndimage.binary_fill_holes(dna > filters.threshold_li(dna))
    foreground = remove_small_objects(foreground, max_size=round(NUCLEUS_MIN_UM2 / pixel_um**2))
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(foreground), 1.0 / pixel_um)
    markers = measure.label(middles(distance * pixel_um, foreground))
    if not markers.any():
        markers = measure.label(foreground)
    return segmentation.watershed(-distance, markers=markers, mask=foreground)


def middles(distance_um: np.ndarray, foreground: np.ndarray) -> np.ndarray:
    """Return where areas are widest, (H, W) bool: hills of the distance to the outline with `DIP_UM` between them."""
    from skimage.morphology import reconstruction

    found = np.zeros(foreground.shape, bool)
    areas = ndimage.label(foreground)[0]
    for area, window in enumerate(ndimage.find_objects(areas), start=1):  # to sort all pixels at once takes far longer
        hill = np.where(areas[window] == area, distance_um[window], 0)
        found[window] |= hill - reconstruction(np.maximum(hill - DIP_UM, 0), hill) > 0.99 * DIP_UM
    return found


def clumps_of(nuclei: np.ndarray) -> list[int]:
    """Return the labels of nuclei that are larger than others and not round: several that were not parted."""
    from skimage import measure

    found = measure.regionprops(nuclei)
    median = np.median([nucleus.area for nucleus in found])
    large = [nucleus for nucleus in found if nucleus.area > CLUMP_AREA * median]
    return [nucleus.label for nucleus in large if nucleus.solidity < CLUMP_SOLIDITY]


def shrink(channel: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a channel (H, W) as (h, w) float32, each pixel the mean of those that it covers."""
    if channel.shape == size:
        return channel.astype(np.float32)
    image = Image.fromarray(channel if channel.dtype == np.uint8 else channel.astype(np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BOX), np.float32)


def stretch(channel: np.ndarray) -> np.ndarray:
    """Scale intensities to [0, 1] between their 1st and 99.5th percentile."""
    low, high = (float(value) for value in np.percentile(channel, (1, 99.5)))
    return np.clip((channel.astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
