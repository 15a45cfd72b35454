"""A cell's crop: the window of fixed size in µm around it, neighbors out, at the scale the encoder was made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..errors import BadImage
from .cells import MIN_CELL_PX, Box, find_cells
from .segmentation import Segmented, choose_cells, segment_cells

__all__ = ["MASKINGS", "CutCells", "cut_cells"]

MASKINGS = ("cell", "none")
MAX_WINDOW_PX = 8192  # 51 µm at 0.0063 µm a pixel
MIN_SIDE_PX = 16  # a picture with a shorter side shows no cell


@dataclass(frozen=True)
class CutCells:
    """The cells of one picture. crops: (n, C, size, size); mask_source: given, the segmenter's name, or none.

    left_out: cells that are not among them, by reason. masks: (n, size, size) bool, where the cell is in each crop;
    None when they were not asked for.
    """

    crops: np.ndarray
    boxes: list[Box]
    mask_source: str
    left_out: Mapping[str, int]
    masks: np.ndarray | None = None


def cut_cells(
    channels: Mapping[str, np.ndarray],
    labels: np.ndarray | None,
    *,
    is_crop: bool,
    masking: str,
    pixel_size_um: float,
    crop_um: float,
    crop_px: int,
    segmenter: str = "watershed",
    keep_masks: bool = False,
) -> CutCells:
    """Cut the cells of a picture out.

    channels: name -> (H, W) intensities, in the encoder's order.
    labels: (H, W) int32, a number for each cell; None when the cells are not known: those of a field are then found by
    `segmenter`, a crop is one cell. Which cells of a field are left out is said in `segmentation`.
    masking: `cell` blackens what lies outside the cell, `none` keeps it.
    keep_masks: say of each pixel of a crop whether it shows the cell; all do where the cell is not known.
    The crop spans `crop_um` in the cell and becomes `crop_px` wide. Raise BadImage when the picture cannot be used or
    shows no cell.
    """
    check_channels(channels)
    stack = np.stack(list(channels.values()))
    if labels is not None and labels.shape != stack.shape[1:]:
        height, width = labels.shape
        raise BadImage(f"the mask is {height} x {width} px, the picture {stack.shape[1]} x {stack.shape[2]}")
    mask_source = "none" if labels is None else "given"
    left_out: Mapping[str, int] = {}
    if is_crop:
        boxes = [whole_picture(labels, stack.shape[1:])]
    else:
        if labels is None:
            found = cells_of_field(channels, pixel_size_um=pixel_size_um, segmenter=segmenter)
            mask_source = segmenter
        else:
            boxes = find_cells(labels)  # before any is left out: a mask of one number is no mask of cells
            found = choose_cells(labels, fragment_px=MIN_CELL_PX)
        labels, left_out = found.labels, found.left_out
        boxes = find_cells(labels) if left_out or mask_source != "given" else boxes
    side_px = crop_um / pixel_size_um
    crops, masks = [], []
    for box in boxes:
        cell = None
        if labels is not None and (masking == "cell" or keep_masks):
            cell = cut_window(labels[None], box.center, side_px=side_px) == box.label  # (1, side, side)
        window = cut_window(stack, box.center, side_px=side_px)
        crops.append(resize(window * cell if cell is not None and masking == "cell" else window, crop_px))
        if keep_masks:
            masks.append(shrink_mask(cell, crop_px))
    shown = [i for i, crop in enumerate(crops) if crop.min() < crop.max() and (not keep_masks or masks[i].any())]
    if not shown:
        raise BadImage(nothing_shown(boxes, left_out))
    kept = np.stack([masks[i] for i in shown]) if keep_masks else None
    return CutCells(np.stack([crops[i] for i in shown]), [boxes[i] for i in shown], mask_source, left_out, kept)


def cells_of_field(channels: Mapping[str, np.ndarray], *, pixel_size_um: float, segmenter: str) -> Segmented:
    """Return where the cells of a field without a mask are."""
    if "nucleus" not in channels:
        raise BadImage("without a nucleus channel its cells cannot be found; give a mask")
    cytoplasm = cytoplasm_of(channels)
    return segment_cells(channels["nucleus"], cytoplasm, pixel_size_um=pixel_size_um, segmenter=segmenter)


def nothing_shown(boxes: list[Box], left_out: Mapping[str, int]) -> str:
    """Return why a picture gives no cell."""
    if boxes:
        return "its cells are constant: they show nothing"
    reasons = ", ".join(f"{n} {reason}" for reason, n in left_out.items())
    return f"none of its cells is whole: {reasons}" if reasons else "no cell was found in it"


def whole_picture(labels: np.ndarray | None, shape: tuple[int, ...]) -> Box:
    """Return the one cell of a picture that is a crop: the largest label, seen from the middle of the picture."""
    if labels is None:
        return Box(1, 0, 0, shape[0], shape[1])
    areas = np.bincount(labels.ravel().clip(min=0), minlength=2)
    areas[0] = 0
    if not areas.any():
        raise BadImage("the mask is empty")
    return Box(int(areas.argmax()), 0, 0, shape[0], shape[1])


def cytoplasm_of(channels: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return (H, W) float32 intensities that fill the cell: ER and microtubules where there are, else all there is."""
    names = [name for name in ("er", "microtubules") if name in channels] or list(channels)
    scaled = [channels[name].astype(np.float32) / max(float(channels[name].max()), 1e-6) for name in names]
    return np.sum(scaled, axis=0)


def check_channels(channels: Mapping[str, np.ndarray]) -> None:
    """Raise BadImage when the channels of a picture, (H, W) each, differ in size, are tiny, or show nothing."""
    shapes = {name: channel.shape for name, channel in channels.items()}
    if len(set(shapes.values())) > 1:
        listed = ", ".join(f"{name} {shape[0]} x {shape[1]}" for name, shape in shapes.items())
        raise BadImage(f"the channels differ in size: {listed}")
    dtypes = {name: str(channel.dtype) for name, channel in channels.items()}
    if len(set(dtypes.values())) > 1:
        raise BadImage("the channels differ in depth: " + ", ".join(f"{name} {kind}" for name, kind in dtypes.items()))
    for name, channel in channels.items():
        if min(channel.shape) < MIN_SIDE_PX:
            raise BadImage(f"{channel.shape[0]} x {channel.shape[1]} px is too small to show a cell")
        if channel.min() == channel.max():
            raise BadImage(f"the {name} channel is constant ({channel.flat[0]}): it shows nothing")


def shrink_mask(cell: np.ndarray | None, size: int) -> np.ndarray:
    """Return where the cell is in its crop, (size, size) bool: the pixels of which it fills half or more.

    cell: (1, side, side) bool in the window, None when it is not known: the whole crop is the cell then.
    """
    if cell is None:
        return np.ones((size, size), bool)
    return resize(cell.astype(np.float32), size)[0] >= 0.5


def cut_window(picture: np.ndarray, center: tuple[float, float], *, side_px: float) -> np.ndarray:
    """Return the window (C, side, side) of a picture (C, H, W) around a cell; beyond the picture's edge it is 0."""
    side = max(1, round(side_px))
    if side > MAX_WINDOW_PX:
        msg = f"the crop would be {side} px wide, more than {MAX_WINDOW_PX}; is the pixel size right?"
        raise BadImage(msg)
    top, left = round(center[0] - side / 2), round(center[1] - side / 2)
    height, width = picture.shape[1:]
    rows = slice(max(top, 0), min(top + side, height))
    columns = slice(max(left, 0), min(left + side, width))
    window = np.zeros((len(picture), side, side), picture.dtype)
    inside = np.s_[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    window[inside] = picture[:, rows, columns]
    return window


def resize(window: np.ndarray, size: int) -> np.ndarray:
    """Resize (C, side, side) to (C, size, size); dtype kept.

    By a whole number the mean of each block of pixels is taken, which is how SubCell's training crops were made (896 px
    to 448); otherwise bilinear, with the support widened when shrinking.
    """
    side = window.shape[1]
    if side == size:
        return window
    if side % size == 0:
        blocks = window.reshape(len(window), size, side // size, size, side // size)
        means = blocks.mean(axis=(2, 4), dtype=np.float32)
        return means.astype(window.dtype) if window.dtype.kind == "f" else np.rint(means).astype(window.dtype)
    planes = []
    for plane in window:
        image = Image.fromarray(plane if plane.dtype == np.uint8 else plane.astype(np.float32))
        planes.append(np.asarray(image.resize((size, size), Image.Resampling.BILINEAR)))
    resized = np.stack(planes)
    return resized if resized.dtype == window.dtype else np.rint(resized).astype(window.dtype)
