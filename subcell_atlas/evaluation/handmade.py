"""Classical features of a cell's picture: the plain baseline that a trained encoder has to beat.

What an analyst would write in an afternoon: how unevenly the protein's light is spread, how it goes along with each
reference channel, how grainy it is at which scale, how much of it is in the nucleus, near it, near the cell's border.
Lengths are in µm, so that crops of the same window in 128 and in 256 px have nearly the same features; ratios are
log2, where 0 says "no difference"; making a picture brighter as a whole changes nothing. What a picture cannot tell,
such as a ratio to a nucleus that is not there, is 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..errors import BadInput

__all__ = ["feature_names", "handmade_features"]

KNOWN_CHANNELS = ("microtubules", "er", "nucleus", "protein")
WINDOW_UM = 51.2566  # side of SubCell's crops: 640 px of 0.0800885 µm
GRAIN_UM = (0.2, 0.4, 0.8, 1.6, 3.2)  # sigmas of the blurs whose differences are the bands; 0.4 is 1 px of 128
TEXTURE_UM = (0.4, 1.6)  # of the band in which two channels' structures are held against each other
DOT_UM = 2.0  # structures narrower than this are what the top-hat keeps
SMOOTH_UM = 0.4  # of the nucleus channel, before its threshold
RIM_UM = 1.0
NEAR_UM = 2.0  # of the ring around the nucleus
MIN_PIECE = 0.25  # of the largest nucleus: what is smaller is dirt, or a neighbor's
N_RINGS = 4  # from the nucleus to the border, of equal width
MOST_RATIO = 64.0  # so that a ratio to a dark part cannot outweigh everything else
FLAT = 1e-6  # deviation below this part of the mean is rounding


@dataclass(frozen=True)
class Cell:
    """One cell, cut to its box and a pixel more on each side.

    light: (H, W) of each channel, 1 for the brightest pixel of all channels, 0 outside of the cell; inside, nucleus:
    (H, W) bool, the nucleus empty where there is none to see.
    """

    light: Mapping[str, np.ndarray]
    inside: np.ndarray
    nucleus: np.ndarray
    pixel_um: float

    @property
    def protein(self) -> np.ndarray:
        """The protein channel (H, W)."""
        return self.light["protein"]

    @property
    def references(self) -> list[str]:
        """Names of the reference channels that there are."""
        return [name for name in KNOWN_CHANNELS if name in self.light and name != "protein"]


def feature_names(channels: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the features of crops with these channels, in their order."""
    check_channels(channels)
    dark = np.zeros((len(channels), 1, 1))
    return tuple(describe(cut(dark, None, channels=channels, pixel_um=1.0)))


def handmade_features(
    crops: np.ndarray,
    masks: np.ndarray | None = None,
    *,
    channels: Sequence[str],
    window_um: float = WINDOW_UM,
) -> np.ndarray:
    """Return the features (N, F) float32 of each cell, named by `feature_names(channels)`.

    crops: (N, C, H, W) intensities of any type, those below 0 count as 0; masks: (N, H, W), where the cell is; without
    them it is the largest piece in which any channel is above 0, its holes filled: right for crops that are black
    outside of the cell, the whole crop for others. channels: names, in the order of C, the protein among them; the
    features of the others that are absent are left out. window_um: width of a crop.
    """
    check_channels(channels)
    if crops.ndim != 4 or crops.shape[1] != len(channels) or 0 in crops.shape[2:]:
        msg = f"Crops are (N, {len(channels)}, H, W) for the channels {', '.join(channels)}; got shape {crops.shape}."
        raise BadInput(msg)
    if masks is not None and masks.shape != (len(crops), *crops.shape[2:]):
        msg = f"Masks of these crops are {(len(crops), *crops.shape[2:])}; got shape {masks.shape}."
        raise BadInput(msg)
    pixel_um = window_um / crops.shape[3]
    features = np.zeros((len(crops), len(feature_names(channels))), np.float32)
    for row, crop in enumerate(crops):
        if not np.isfinite(crop).all():
            raise BadInput(f"Crop {row} holds NaN or infinite values.")
        mask = None if masks is None else masks[row] > 0
        features[row] = list(describe(cut(crop, mask, channels=channels, pixel_um=pixel_um)).values())
    return features


def check_channels(channels: Sequence[str]) -> None:
    """Raise BadInput for channels that are not ours, that come twice, or that lack the protein."""
    wrong = [name for name in channels if name not in KNOWN_CHANNELS]
    if wrong or "protein" not in channels or len(set(channels)) < len(channels):
        msg = f"Channels are {', '.join(KNOWN_CHANNELS)}, each once, protein at least; got {', '.join(channels)}."
        raise BadInput(msg)


def cut(crop: np.ndarray, mask: np.ndarray | None, *, channels: Sequence[str], pixel_um: float) -> Cell:
    """Return the cell of a crop (C, H, W)."""
    inside = largest_piece(np.any(crop > 0, axis=0)) if mask is None else mask
    boxes = ndimage.find_objects(inside.astype(np.int8))
    box = boxes[0] if boxes else np.s_[:0, :0]
    inside = np.pad(inside[box], 1)  # so that the crop's edge is a border too
    planes = np.pad(crop[:, *box].astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    planes = np.where(inside, np.maximum(planes, 0), 0)
    light = dict(zip(channels, planes / (planes.max() or 1.0), strict=True))
    nucleus = find_nucleus(light["nucleus"], inside, pixel_um) if "nucleus" in light else np.zeros_like(inside)
    return Cell(light, inside, nucleus, pixel_um)


def largest_piece(lit: np.ndarray) -> np.ndarray:
    """Return the largest connected part (H, W) bool with its holes filled; compression leaves specks around a cell."""
    pieces, n = ndimage.label(lit)
    if not n:
        return lit
    return ndimage.binary_fill_holes(pieces == np.bincount(pieces.ravel())[1:].argmax() + 1)


def find_nucleus(dna: np.ndarray, inside: np.ndarray, pixel_um: float) -> np.ndarray:
    """Return where the nucleus channel lies above Otsu's threshold of the cell (H, W) bool; nowhere when it is flat."""
    from skimage.filters import threshold_otsu

    smooth = blur(dna, inside, SMOOTH_UM / pixel_um)
    if is_flat(smooth[inside]):
        return np.zeros_like(inside)
    lit = inside & (smooth > threshold_otsu(smooth[inside]))
    pieces, _ = ndimage.label(ndimage.binary_fill_holes(lit) & inside)
    areas = np.bincount(pieces.ravel())
    areas[0] = 0
    return (areas >= MIN_PIECE * areas.max())[pieces] & (pieces > 0)


def describe(cell: Cell) -> dict[str, float]:
    """Return the features of one cell by name."""
    return {
        **shape_features(cell),
        **brightness_features(cell),
        **overlap_features(cell),
        **grain_features(cell),
        **nucleus_features(cell),
        **position_features(cell),
    }


def shape_features(cell: Cell) -> dict[str, float]:
    """Return areas; log2 of µm², for cells differ by factors."""
    cell_um2, nucleus_um2 = (area.sum() * cell.pixel_um**2 for area in (cell.inside, cell.nucleus))
    features = {"cell_area": float(np.log2(1 + cell_um2))}
    if "nucleus" in cell.light:
        features["nucleus_area"] = float(np.log2(1 + nucleus_um2))
        features["nucleus_part_of_area"] = float(nucleus_um2 / cell_um2) if cell_um2 else 0.0
    return features


def brightness_features(cell: Cell) -> dict[str, float]:
    """Return how unevenly the protein's light is spread over the cell, and each channel's share of all light."""
    values = cell.protein[cell.inside]
    low, middle, top = quantiles(values, (0.1, 0.5, 0.99))
    total = sum(float(plane.sum()) for plane in cell.light.values())
    shares = {f"light_share_{name}": float(cell.light[name].sum()) / (total or 1.0) for name in cell.light}
    return {
        "protein_variation": variation(values),
        "protein_skewness": skewness(values),
        "protein_top_to_mean": log_ratio(top, mean(values)),
        "protein_low_to_median": log_ratio(low, middle),
        **shares,
    }


def overlap_features(cell: Cell) -> dict[str, float]:
    """Return how the protein goes along with each reference channel: in light, in fine structure, in area.

    The area is Manders' way: the part of the protein's light that lies where the reference is above Otsu's threshold,
    to the part of the cell's area that does.
    """
    from skimage.filters import threshold_otsu

    features = {}
    values = cell.protein[cell.inside]
    texture = band(cell, "protein", TEXTURE_UM)
    for name in cell.references:
        reference = cell.light[name][cell.inside]
        features[f"correlation_{name}"] = correlation(values, reference)
        features[f"fine_correlation_{name}"] = correlation(texture, band(cell, name, TEXTURE_UM))
        lit = reference > (threshold_otsu(reference) if not is_flat(reference) else np.inf)
        features[f"overlap_{name}"] = log_ratio(mean(values[lit]), mean(values)) if lit.any() else 0.0
    return features


def grain_features(cell: Cell) -> dict[str, float]:
    """Return the deviation of the protein's light in bands of scale, and what is left of it by a top-hat, to its mean.

    The bands are differences of Gaussian blurs: log2 of their deviation to the mean light.
    """
    average = mean(cell.protein[cell.inside])
    features = {}
    for finer, coarser in zip((0.0, *GRAIN_UM), GRAIN_UM, strict=False):
        energy = np.sqrt(mean(band(cell, "protein", (finer, coarser)) ** 2))
        features[f"grain_{coarser:g}_um"] = log_ratio(energy, average)
    features["dots"] = mean(top_hat(cell)[cell.inside]) / (average or 1.0)
    return features


def nucleus_features(cell: Cell) -> dict[str, float]:
    """Return the protein's light in the nucleus, against the cytoplasm and within; nothing without that channel."""
    if "nucleus" not in cell.light:
        return {}
    within = cell.protein[cell.nucleus]
    cytoplasm = cell.protein[cell.inside & ~cell.nucleus]
    total = float(cell.protein.sum())
    both = len(within) and len(cytoplasm)
    middle, top = quantiles(within, (0.5, 0.99))
    return {
        "nucleus_to_cytoplasm": log_ratio(mean(within), mean(cytoplasm)) if both else 0.0,
        "nucleus_part_of_light": float(within.sum()) / (total or 1.0),
        "nucleus_variation": variation(within),
        "nucleus_top_to_median": log_ratio(top, middle),
        "nucleus_correlation": correlation(within, cell.light["nucleus"][cell.nucleus]),
        "cytoplasm_variation": variation(cytoplasm),
    }


def position_features(cell: Cell) -> dict[str, float]:
    """Return where the protein's light is between the nucleus and the cell's border."""
    values = cell.protein[cell.inside]
    from_border = ndimage.distance_transform_edt(cell.inside) * cell.pixel_um
    rim = from_border <= max(RIM_UM, cell.pixel_um)
    features = {
        "border_distance": log_ratio(weighted_mean(from_border[cell.inside], values), mean(from_border[cell.inside])),
        "rim_to_mean": log_ratio(mean(cell.protein[cell.inside & rim]), mean(values)),
    }
    if "nucleus" not in cell.light:
        return features
    rings = [f"ring_{number}_to_mean" for number in range(1, N_RINGS + 1)]
    outside = cell.inside & ~cell.nucleus
    if not cell.nucleus.any() or not outside.any():
        return features | dict.fromkeys(["nucleus_distance", "near_nucleus_to_cytoplasm", *rings], 0.0)
    from_nucleus = ndimage.distance_transform_edt(~cell.nucleus) * cell.pixel_um
    near = outside & (from_nucleus <= max(NEAR_UM, cell.pixel_um))
    cytoplasm = cell.protein[outside]
    features["nucleus_distance"] = log_ratio(
        weighted_mean(from_nucleus[outside], cytoplasm), mean(from_nucleus[outside])
    )
    features["near_nucleus_to_cytoplasm"] = log_ratio(mean(cell.protein[near]), mean(cytoplasm))
    way = from_nucleus[outside] / (from_nucleus[outside] + from_border[outside])  # 0 at the nucleus, 1 at the border
    ring_of = np.minimum((way * N_RINGS).astype(int), N_RINGS - 1)
    for number, name in enumerate(rings):
        ring = cytoplasm[ring_of == number]
        features[name] = log_ratio(mean(ring), mean(values)) if len(ring) else 0.0
    return features


def band(cell: Cell, name: str, sigmas_um: tuple[float, float]) -> np.ndarray:
    """Return the difference of two blurs of a channel inside of the cell (pixels,); a blur of 0 µm is the picture."""
    fine, coarse = (blur(cell.light[name], cell.inside, sigma / cell.pixel_um) for sigma in sigmas_um)
    return (fine - coarse)[cell.inside]


def top_hat(cell: Cell) -> np.ndarray:
    """Return what of the protein channel (H, W) an opening takes away, the black around the cell being no structure."""
    side = 2 * round(DOT_UM / cell.pixel_um / 2) + 1
    darkest = ndimage.grey_erosion(np.where(cell.inside, cell.protein, np.inf), size=side)
    opened = ndimage.grey_dilation(np.where(cell.inside, darkest, -np.inf), size=side)
    return np.where(cell.inside, cell.protein - np.where(cell.inside, opened, 0), 0)


def blur(plane: np.ndarray, inside: np.ndarray, sigma_px: float) -> np.ndarray:
    """Blur (H, W) over the cell alone: the black around it would make its border the strongest structure."""
    if not sigma_px or not inside.any():
        return plane
    weight = ndimage.gaussian_filter(inside.astype(np.float64), sigma_px, mode="constant")
    blurred = ndimage.gaussian_filter(np.where(inside, plane, 0), sigma_px, mode="constant")
    return np.where(inside, blurred / np.where(inside, weight, 1), 0)


def mean(values: np.ndarray) -> float:
    """Return the mean; 0 of nothing."""
    return float(values.mean()) if values.size else 0.0


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    """Return the weighted mean; the plain one where all weights are 0."""
    return float(np.average(values, weights=weights)) if weights.sum() > 0 else mean(values)


def quantiles(values: np.ndarray, parts: Sequence[float]) -> list[float]:
    """Return quantiles; 0 of nothing."""
    return [float(q) for q in np.quantile(values, parts)] if values.size else [0.0] * len(parts)


def is_flat(values: np.ndarray) -> bool:
    """Whether all values are the same, but for rounding."""
    return not values.size or float(values.std()) <= FLAT * float(np.abs(values).max())


def variation(values: np.ndarray) -> float:
    """Return the coefficient of variation."""
    return 0.0 if is_flat(values) else float(values.std() / values.mean())


def skewness(values: np.ndarray) -> float:
    """Return the skewness; 0 of constant values, of which scipy warns."""
    from scipy.stats import skew

    return 0.0 if is_flat(values) else float(skew(values))


def correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Pearson's correlation; 0 with constant values."""
    return 0.0 if is_flat(first) or is_flat(second) else float(np.corrcoef(first, second)[0, 1])


def log_ratio(part: float, whole: float) -> float:
    """Return log2 of a ratio of amounts of at least 0, limited to that of `MOST_RATIO`; 0 when there is no light."""
    if part <= 0 and whole <= 0:
        return 0.0
    limit = np.log2(MOST_RATIO)
    with np.errstate(divide="ignore"):
        return float(np.clip(np.log2(part) - np.log2(whole), -limit, limit))
