"""Guards: crops that would give embeddings without an error, and wrong ones.

A network that was trained on raw intensities, in one order of the channels, takes anything of the right shape.
`check_crops` refuses what cannot be raw crops; `swapped_channels` looks at what the channels show.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull

from ..errors import BadInput
from .specs import ENCODERS

__all__ = ["check_crops", "swapped_channels"]

RAW_DTYPES = tuple(np.dtype(name) for name in ("uint8", "uint16", "float16", "float32", "float64"))
MIN_FLOAT_RANGE = 1e-4  # below, the 1e-6 that keeps min-max scaling from dividing by 0 dims a crop by more than 1 %
MIN_LEVELS = 2  # steps between the darkest and the brightest pixel of integers
MOST_CHANNELS = 8  # a last axis at most as long holds channels, not pixels
MOST_NAMED = 5  # crops named in a message

# How much a channel looks like DNA is a number of 0 to 1, measured on 455 cells of HPA and CM4AI, masked and not, and
# on 600 simulated ones: medians are 0.72 to 0.86 for DNA, 0.36 to 0.53 for microtubules and ER.
LOOK_PX = 64  # a cell is looked at this wide, more or less: 25 px for a nucleus, and microtubules are still lines
LOOK_SIGMA_PX = 1.0
MIN_PART = 0.2  # bright parts smaller than this share of the largest are dirt
UNLIKE_DNA = 0.6
LIKE_DNA = 0.65
MARGIN = 0.15  # in the right order no more than 2.5 % of crops look swapped by these three
MIN_SHARE = 0.4  # of crops that must say so; nucleus swapped with ER: 60 to 90 % do, with mixed proteins: about half
MIN_CROPS = 4  # that must say so
MOST_CROPS = 64  # that are looked at


def check_crops(crops: np.ndarray, channels: Sequence[str], *, patch: int, encoder: str) -> None:
    """Raise BadInput for crops that cannot be raw pictures (N, C, H, W) of `channels`, or that show nothing.

    patch: sides must be multiples of it, in pixels. encoder: its name, for the message. What is too dim to be raw is
    judged by all crops together: a single cell may be dark.
    """
    check_shape(crops.shape, channels, patch=patch, encoder=encoder)
    if crops.dtype.newbyteorder("=") not in RAW_DTYPES:
        hint = "a mask is no picture" if crops.dtype == np.bool_ else "counts of 0 to 65535 fit into uint16"
        raise BadInput(f"Crops are uint8, uint16 or float intensities; got {crops.dtype}: {hint}.")
    if len(crops) == 0:
        return
    with np.errstate(invalid="ignore"):
        low = np.array([crop.min() for crop in crops])
        high = np.array([crop.max() for crop in crops])
    if crops.dtype.kind == "f":
        if len(bad := np.flatnonzero(~(np.isfinite(low) & np.isfinite(high)))):
            raise BadInput(f"Crops hold NaN or infinite values: {name_crops(bad, len(crops))}.")
        if len(bad := np.flatnonzero(low < 0)):
            msg = (
                f"Intensities cannot be negative: {name_crops(bad, len(crops))}, down to {low.min():.3g}. Were they "
                "z-scored or scaled to [-1, 1]? Give the raw picture; if its background was taken off, clip it at 0."
            )
            raise BadInput(msg)
    if len(bad := np.flatnonzero(low == high)):
        what = "empty (0 everywhere)" if not high[bad].any() else "constant"
        raise BadInput(f"Crops that are {what} show no cell: {name_crops(bad, len(crops))}.")
    if crops.dtype.kind == "f" and float(high.max()) - float(low.min()) < MIN_FLOAT_RANGE:
        msg = (
            f"Crops lie between {low.min():.3g} and {high.max():.3g}: a range below {MIN_FLOAT_RANGE:g} is not that of "
            "raw intensities. Were they scaled down twice? Give the raw picture."
        )
        raise BadInput(msg)
    if crops.dtype.kind == "u" and (high - low < MIN_LEVELS).all():
        msg = (
            f"Crops have two intensities only, such as {low[0]} and {high[0]}: a mask, or floats of [0, 1] turned into "
            f"{crops.dtype}? Give the raw picture."
        )
        raise BadInput(msg)


def check_shape(shape: tuple[int, ...], channels: Sequence[str], *, patch: int, encoder: str) -> None:
    """Raise BadInput when crops of a shape are not (N, C, H, W) with sides that `patch` divides."""
    n_channels = len(channels)
    if len(shape) != 4 or shape[1] != n_channels:
        msg = (
            f"{encoder!r} takes crops (N, {n_channels}, H, W) with the channels {', '.join(channels)}, in this order; "
            f"got shape {shape}. {hint_for_shape(shape, n_channels)}"
        )
        raise BadInput(msg.rstrip())
    wrong = [side for side in dict.fromkeys(shape[2:]) if side % patch or side == 0]
    if wrong:
        nearest = "; ".join(f"near {side}: {' or '.join(map(str, multiples_near(side, patch)))}" for side in wrong)
        msg = f"{encoder!r} takes sides that are multiples of {patch} px; got {shape[2]} x {shape[3]} ({nearest})."
        raise BadInput(msg)


def hint_for_shape(shape: tuple[int, ...], n_channels: int) -> str:
    """Return what a wrong shape may come from, or nothing."""
    if len(shape) == 4 and shape[3] <= MOST_CHANNELS < shape[1]:
        return (
            "The axes look like (N, H, W, C): give crops.transpose(0, 3, 1, 2), and see that the channels have this "
            "order: an RGB file has another."
        )
    if len(shape) == 3 and shape[0] == n_channels:
        return "One crop is given as crop[None]."
    if len(shape) == 3 and shape[2] == n_channels:
        return "The axes look like (H, W, C): one crop is given as crop.transpose(2, 0, 1)[None]."
    if len(shape) == 4:
        return others_with(shape[1])
    return ""


def others_with(n_channels: int) -> str:
    """Return which published SubCell encoders take so many channels, or nothing."""
    names: dict[tuple[str, ...], list[str]] = {}
    for spec in ENCODERS.values():
        if spec.name.startswith("subcell-") and len(spec.channels) == n_channels:
            names.setdefault(spec.channels, []).append(spec.name)
    if not names:
        return ""
    listed = "; ".join(f"{' and '.join(group)} take {', '.join(channels)}" for channels, group in names.items())
    return f"{n_channels} channels: {listed}."


def multiples_near(side: int, patch: int) -> list[int]:
    """Return the multiples of `patch` below and above `side`, without 0."""
    below = side // patch * patch
    return [size for size in (below, below + patch) if size > 0]


def name_crops(indices: np.ndarray, n_crops: int) -> str:
    """Return the first few of the indices and how many of how many crops they are."""
    first = ", ".join(str(i) for i in indices[:MOST_NAMED])
    return f"{len(indices)} of {n_crops} crops ({first}{', …' if len(indices) > MOST_NAMED else ''})"


def swapped_channels(crops: np.ndarray, channels: Sequence[str]) -> str | None:
    """Return a sentence when the nucleus channel does not show nuclei and another does; None when nothing is amiss.

    crops: (N, C, H, W) raw intensities, masked or not. Right crops are not suspected; swapped ones may be missed: fewer
    than 4 always, and where the protein that stands for the nucleus is a nuclear one. Swaps that leave the nucleus in
    its place cannot be seen.
    """
    if "nucleus" not in channels or crops.ndim != 4 or crops.shape[1] != len(channels) or len(crops) < MIN_CROPS:
        return None
    looked_at = crops[:: -(-len(crops) // MOST_CROPS)]
    likeness = np.array([likeness_to_dna(crop) for crop in looked_at])  # (N, C)
    nucleus = likeness[:, [list(channels).index("nucleus")]]
    says_so = (nucleus < UNLIKE_DNA) & (likeness > LIKE_DNA) & (likeness - nucleus > MARGIN)
    votes = {name: int(n) for name, n in zip(channels, says_so.sum(axis=0), strict=True)}
    enough = [name for name, n in votes.items() if n >= max(MIN_CROPS, MIN_SHARE * len(looked_at))]
    if not enough:
        return None
    suspect = max(enough, key=lambda name: (name != "protein", votes[name]))  # a protein may well be in nuclei
    return (
        f"The {suspect} channel looks like DNA, the nucleus channel does not ({votes[suspect]} of {len(looked_at)} "
        f"crops): are the channels in the order {', '.join(channels)}?"
    )


def likeness_to_dna(crop: np.ndarray) -> np.ndarray:
    """Return how much each channel of a crop (C, H, W) looks like DNA, 0 to 1: (C,).

    Nuclei are bright and all else is dark, so the channel parts well in two (Otsu's separability); and the bright parts
    are filled and convex, whereas microtubules and ER leave the nucleus out and are frayed (solidity: area by area of
    the convex hull). The number is the product of both.
    """
    likeness = np.zeros(len(crop))
    small = around_the_cell(crop)
    lit = (small > small.min(axis=(1, 2), keepdims=True)).any(axis=0)
    if not lit.any() or not np.isfinite(small).all():
        return likeness
    for i, channel in enumerate(small):
        smooth = ndimage.gaussian_filter(channel, LOOK_SIGMA_PX)
        smooth = np.minimum(smooth, np.percentile(smooth[lit], 99.5))  # a speck shall not be all that is bright
        threshold, separability = part_in_two(smooth[lit])
        likeness[i] = separability * solidity((smooth > threshold) & lit)
    return likeness


def around_the_cell(crop: np.ndarray) -> np.ndarray:
    """Return the part of (C, H, W) that is not black, about `LOOK_PX` wide, as sums of blocks in float32."""
    stride = max(1, min(crop.shape[1:]) // LOOK_PX)
    sample = crop[:, ::stride, ::stride]
    lit = (sample > sample.min(axis=(1, 2), keepdims=True)).any(axis=0)
    if lit.any():
        rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
        crop = crop[
            :, rows[0] * stride : (rows[-1] + 1) * stride, columns[0] * stride : (columns[-1] + 1) * stride
        ]  # fmt: skip
    n_channels, height, width = crop.shape
    block = max(1, min(round(max(height, width) / LOOK_PX), height, width))
    height, width = height // block, width // block
    kept = crop[:, : height * block, : width * block]
    strips = kept.reshape(n_channels, height, block, width * block).sum(axis=2, dtype=np.float32)
    return strips.reshape(n_channels, height, width, block).sum(axis=3)


def part_in_two(values: np.ndarray) -> tuple[float, float]:
    """Return Otsu's threshold and how much of the variance lies between the two sides of it, 0 to 1.

    Otsu 1979, doi:10.1109/TSMC.1979.4310076.
    """
    counts, edges = np.histogram(values, 128)
    centers = (edges[1:] + edges[:-1]) / 2 - edges[0]
    share = np.cumsum(counts) / len(values)
    mean = np.cumsum(counts * centers) / len(values)
    variance = float((counts * centers**2).sum() / len(values) - mean[-1] ** 2)
    below = share[:-1]
    within = below * (1 - below)
    between = np.divide((mean[-1] * below - mean[:-1]) ** 2, within, out=np.zeros_like(below), where=within > 1e-9)
    best = int(between.argmax())
    return float(edges[best + 1]), float(between[best]) / variance if variance > 0 else 0.0


def solidity(bright: np.ndarray) -> float:
    """Return the area of the bright parts of (H, W) bool by that of their convex hulls; 1: convex and filled."""
    labels, _ = ndimage.label(bright)
    areas = np.bincount(labels.ravel())[1:]
    if not len(areas):
        return 0.0
    large = areas >= MIN_PART * areas.max()
    windows = ndimage.find_objects(labels)
    hulls = sum(area_of_hull(labels[windows[i]] == i + 1) for i in np.flatnonzero(large))
    return float(areas[large].sum()) / hulls


def area_of_hull(part: np.ndarray) -> float:
    """Return the area of the convex hull of the pixels, as squares, of a connected part (H, W) bool cut to its box."""
    height, width = part.shape
    rows = np.arange(height)
    left, right = part.argmax(axis=1), width - part[:, ::-1].argmax(axis=1)
    corners = [np.stack([rows + below, side], axis=1) for below in (0, 1) for side in (left, right)]
    return float(ConvexHull(np.concatenate(corners)).volume)  # in two dimensions, the area
