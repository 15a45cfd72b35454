"""Views of cells, as SubCell's training makes them: a crop turned, moved and bent, its stains and focus changed.

What happens to each crop is drawn first, as a plan with one row a crop; then it is done to the whole batch at once, on
any device. Processes that share a batch draw the plan of all of it and each makes the views of its own rows: they are
those that one process would make of the whole.

Gupta et al. (bioRxiv 10.1101/2024.12.06.627299); each operation means what torchvision's of the same name does.
Strengths are in units of pixels scaled to [0, 1], lengths in shares of the crop's side unless px is said.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..encoders.network import MIN_MAX_EPS, min_max

__all__ = ["Augmentations", "ViewPlan", "draw_view", "make_view"]

VALUES_AT_ONCE = {"cpu": 2**20, "gpu": 2**28}  # so that a processor's cache, and a GPU's memory, hold them
BLUR_REACH = 3  # px to each side: the published kernel is 7 wide
CORNERS = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])  # of a crop, (x, y)
CHANCES = (
    "flip",
    "perspective_share",
    "perspective_chance",
    "remove_channel",
    "rescale_protein",
    "blur_chance",
    "sharpen_chance",
    "noise_chance",
    "erase_chance",
    "masked",
)
PAIRS = ("scale", "blur_sigma", "noise", "erase_area", "erase_ratio")
# the lowest and the highest value that a strength may have; what divides stays above 0
LIMITS = {
    **dict.fromkeys(CHANCES, (0.0, 1.0)),
    "rotation_degrees": (0, 180),
    "translate": (0, 1),
    "scale": (0.01, 100),
    "perspective": (0, 0.5),  # from 2/3 on, a corner may cross the line between its neighbors
    "jitter": (0, 1),
    "blur_sigma": (0.01, 100),
    "sharpness": (0, 100),
    "noise": (0, 100),
    "erase_area": (0, 1),
    "erase_ratio": (0.01, 100),
}


@dataclass(frozen=True, kw_only=True)
class Augmentations:
    """How strongly and how often views differ from their crops; by default as the published configuration says.

    A crop is turned by up to `rotation_degrees`, moved by up to `translate` and scaled, or else (`perspective_share` of
    crops) has its corners drawn inwards by up to `perspective` of half a side. It is blurred or sharpened, either with
    equal chance. Of a pair, the first is the lowest.
    """

    masked: float = 0.5  # chance that what lies outside the cell is blackened
    flip: float = 0.5  # chance, in x and in y
    perspective_share: float = 0.5
    rotation_degrees: float = 90
    translate: float = 0.2
    scale: tuple[float, float] = (0.8, 1.2)
    perspective: float = 0.25
    perspective_chance: float = 0.5  # among the crops of `perspective_share`
    remove_channel: float = 0.25  # chance that a reference channel is blackened
    rescale_protein: float = 0.25  # chance that it is multiplied by up to 2 over the crop's maximum
    jitter: float = 0.5  # of brightness and contrast, each channel
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # px
    blur_chance: float = 0.5  # of each channel, in crops to be blurred
    sharpness: float = 2  # 1: as it is
    # the published code lets torchvision toss a coin of its own before it sharpens or erases: 0.25 in effect, both
    sharpen_chance: float = 0.25  # of each channel, in crops to be sharpened
    noise: tuple[float, float] = (0.01, 0.05)  # standard deviation, each channel
    noise_chance: float = 0.5  # of a crop
    erase_area: tuple[float, float] = (0.02, 0.1)
    erase_ratio: tuple[float, float] = (0.3, 3.3)  # height / width
    erase_chance: float = 0.25  # of a channel

    def __post_init__(self) -> None:
        for name, (lowest, highest) in LIMITS.items():
            value = getattr(self, name)
            low, high = value if name in PAIRS else (value, value)
            if not lowest <= low <= high <= highest:
                kind = "two ascending numbers" if name in PAIRS else "a number"
                raise ValueError(f"{name} must be {kind} from {lowest} to {highest}, not {value}")


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewPlan:
    """What happens to each of n crops of C channels; tensors on the CPU.

    Places are (x, y) with the crop's center at 0 and its sides at -1 and 1.
    """

    size: int  # side of the crops, px
    protein: int  # channel
    masked: Tensor  # (n,) bool
    homography: Tensor  # (n, 3, 3) float32: from a place in the view to the place in the crop that is seen there
    removed: Tensor  # (n,) channel; -1: none
    rescaled: Tensor  # (n,) by what the protein is multiplied, over the crop's maximum; -1: it is not
    brightness: Tensor  # (n, C) factor; 1: as it is
    contrast: Tensor  # (n, C) factor; 1: as it is
    contrast_first: Tensor  # (n, C) bool
    blur_sigma: Tensor  # (n, C) px; 0: not blurred
    sharpness: Tensor  # (n, C); 1: as it is
    noise: Tensor  # (n, C) standard deviation; 0: none
    noise_seed: Tensor  # (n,) int64
    erased: Tensor  # (n, C, 4) px: top, left, bottom, right; all 0: nothing

    def __len__(self) -> int:
        return len(self.masked)

    def rows(self, rows: slice) -> ViewPlan:
        """Return the plan of some of the crops."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        cut: dict[str, Any] = {name: value[rows] for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **cut)


def draw_view(
    n: int,
    size: int,
    augmentations: Augmentations,
    *,
    n_channels: int,
    protein: int,
    photometric: bool,
    seed: Sequence[int],
) -> ViewPlan:
    """Draw what happens to `n` crops of `size` px a side.

    protein: its channel, which is never removed. photometric: whether stains and focus change too; the geometry of a
    seed is the same with and without. seed: for example (seed of the run, step, number of the view).
    """
    if not 0 <= protein < n_channels:
        raise ValueError(f"protein must be one of the {n_channels} channels, counted from 0, not {protein}")
    if size <= BLUR_REACH:
        raise ValueError(f"size must be above {BLUR_REACH} px, not {size}")
    rng = np.random.default_rng(list(seed))
    plan = ViewPlan(
        size=size,
        protein=protein,
        masked=torch.from_numpy(rng.random(n) < augmentations.masked),
        homography=as_float(draw_geometry(n, augmentations, rng=rng)),
        removed=torch.full((n,), -1),
        rescaled=torch.full((n,), -1.0),
        brightness=torch.ones(n, n_channels),
        contrast=torch.ones(n, n_channels),
        contrast_first=torch.zeros(n, n_channels, dtype=torch.bool),
        blur_sigma=torch.zeros(n, n_channels),
        sharpness=torch.ones(n, n_channels),
        noise=torch.zeros(n, n_channels),
        noise_seed=torch.zeros(n, dtype=torch.int64),
        erased=torch.zeros(n, n_channels, 4, dtype=torch.int64),
    )
    return add_photometric(plan, augmentations, rng=rng) if photometric else plan


def draw_geometry(n: int, augmentations: Augmentations, *, rng: np.random.Generator) -> np.ndarray:
    """Draw homographies (n, 3, 3) from places in views to places in crops."""
    flips = np.where(rng.random((n, 2)) < augmentations.flip, -1.0, 1.0)
    angle = np.deg2rad(rng.uniform(-augmentations.rotation_degrees, augmentations.rotation_degrees, n))
    moved = 2 * rng.uniform(-augmentations.translate, augmentations.translate, (n, 2))  # a side is 2 long
    scale = rng.uniform(*augmentations.scale, n)
    corners = CORNERS * (1 - rng.uniform(0, augmentations.perspective, (n, 4, 2)))
    in_perspective = rng.random(n) < augmentations.perspective_share
    is_bent = rng.random(n) < augmentations.perspective_chance

    backwards = affine_backwards(angle, moved, scale=scale)
    backwards[in_perspective] = np.eye(3)
    bent = in_perspective & is_bent
    backwards[bent] = perspective_backwards(corners[bent])
    backwards[:, :2] *= flips[:, :, None]  # crops are flipped before they are turned
    return backwards


def affine_backwards(angle: np.ndarray, moved: np.ndarray, *, scale: np.ndarray) -> np.ndarray:
    """Return the inverse of turning by `angle` (radians, clockwise on the screen), scaling, then moving."""
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    inverse = np.zeros((len(angle), 3, 3))
    inverse[:, 0, 0], inverse[:, 0, 1] = cos, sin
    inverse[:, 1, 0], inverse[:, 1, 1] = -sin, cos
    inverse[:, :2, 2] = -(inverse[:, :2, :2] @ moved[:, :, None])[..., 0]
    inverse[:, 2, 2] = 1
    return inverse


def perspective_backwards(corners: np.ndarray) -> np.ndarray:
    """Return what maps `corners` (n, 4, 2) to the crop's."""
    # for each corner (x, y) -> (u, v): a x + b y + c - u (g x + h y) = u, and likewise for v
    ones, zeros = np.ones_like(corners[..., :1]), np.zeros_like(corners[..., :1])
    place = np.concatenate([corners, ones], axis=-1)  # (n, 4, 3)
    none = np.concatenate([zeros, zeros, zeros], axis=-1)
    of_u = np.concatenate([place, none, -CORNERS[:, :1] * corners], axis=-1)  # (n, 4, 8)
    of_v = np.concatenate([none, place, -CORNERS[:, 1:] * corners], axis=-1)
    known = np.broadcast_to(np.concatenate([CORNERS[:, 0], CORNERS[:, 1]])[:, None], (len(corners), 8, 1))
    solved = np.linalg.solve(np.concatenate([of_u, of_v], axis=1), known)[..., 0]  # (n, 8)
    return np.concatenate([solved, np.ones((len(corners), 1))], axis=1).reshape(-1, 3, 3)


def add_photometric(plan: ViewPlan, augmentations: Augmentations, *, rng: np.random.Generator) -> ViewPlan:
    """Draw what happens to stains and focus, and add it to the plan of a geometry."""
    n, n_channels = shape = plan.brightness.shape
    factors = (max(0.0, 1 - augmentations.jitter), 1 + augmentations.jitter)
    references = np.delete(np.arange(n_channels), plan.protein)
    removed, rescaled = np.full(n, -1), rng.uniform(0, 2, n)
    if n_channels > 2:  # else a crop would be left with one
        removed = np.where(rng.random(n) < augmentations.remove_channel, rng.choice(references, n), -1)
    rescaled[rng.random(n) >= augmentations.rescale_protein] = -1
    brightness, contrast = rng.uniform(*factors, shape), rng.uniform(*factors, shape)
    contrast_first = rng.random(shape) < 0.5

    to_blur = rng.random((n, 1)) < 0.5
    blur_sigma = rng.uniform(*augmentations.blur_sigma, shape)
    blur_sigma[~(to_blur & (rng.random(shape) < augmentations.blur_chance))] = 0
    is_sharpened = ~to_blur & (rng.random(shape) < augmentations.sharpen_chance)

    noise = rng.uniform(*augmentations.noise, shape)
    noise[rng.random(n) >= augmentations.noise_chance] = 0
    noise_seed = rng.integers(2**63, size=n)
    erased = draw_rectangles(shape, plan.size, augmentations=augmentations, rng=rng)
    erased[rng.random(shape) >= augmentations.erase_chance] = 0
    return replace(
        plan,
        removed=torch.from_numpy(removed),
        rescaled=as_float(rescaled),
        brightness=as_float(brightness),
        contrast=as_float(contrast),
        contrast_first=torch.from_numpy(contrast_first),
        blur_sigma=as_float(blur_sigma),
        sharpness=as_float(np.where(is_sharpened, augmentations.sharpness, 1)),
        noise=as_float(noise),
        noise_seed=torch.from_numpy(noise_seed),
        erased=torch.from_numpy(erased),
    )


def draw_rectangles(
    shape: tuple[int, ...], size: int, *, augmentations: Augmentations, rng: np.random.Generator
) -> np.ndarray:
    """Draw rectangles (*shape, 4) within a crop of `size` px a side: top, left, bottom, right."""
    area = size**2 * rng.uniform(*augmentations.erase_area, shape)
    lowest, highest = np.log(augmentations.erase_ratio)
    ratio = np.exp(rng.uniform(lowest, highest, shape))
    sides = np.stack([np.sqrt(area * ratio), np.sqrt(area / ratio)], axis=-1).round().clip(0, size)
    start = np.floor(rng.random(sides.shape) * (size - sides + 1))
    return np.concatenate([start, start + sides], axis=-1).astype(np.int64)


def as_float(values: np.ndarray) -> Tensor:
    """Return numbers as a float32 tensor."""
    return torch.from_numpy(values.astype(np.float32))


def make_view(crops: Tensor, masks: Tensor | None, plan: ViewPlan) -> Tensor:
    """Do to raw crops (B, C, H, W) of any dtype, on any device, what the plan says; (B, C, H, W) float32.

    masks: (B, H, W) bool, where the cell is; without them nothing is blackened. Pixels come to lie in [0, 1], which
    only noise and a rescaled protein leave. Noise is drawn on the crops' device, and differs between kinds of device.
    """
    check_batch(crops, masks, plan)
    view = torch.empty(crops.shape, device=crops.device)
    at_once = max(1, VALUES_AT_ONCE["cpu" if crops.device.type == "cpu" else "gpu"] // crops.shape[1:].numel())
    for start in range(0, len(crops), at_once):
        part = slice(start, start + at_once)
        view[part] = make_part(crops[part], None if masks is None else masks[part], plan.rows(part))
    return view


def make_part(crops: Tensor, masks: Tensor | None, plan: ViewPlan) -> Tensor:
    """Make the views of crops that go through memory at once."""
    pixels = crops.float()
    if masks is not None and plan.masked.any():
        outside = ~masks & plan.masked.to(masks.device)[:, None, None]
        pixels = pixels.masked_fill(outside[:, None], 0)
    view = warp(min_max(pixels), plan.homography)
    remove_channels(view, plan.removed)
    rescale_protein(view, plan.rescaled, protein=plan.protein)
    is_jittered = (plan.brightness != 1) | (plan.contrast != 1)
    change(view, is_jittered, jitter, plan.brightness, plan.contrast, plan.contrast_first)
    change(view, plan.blur_sigma > 0, blur, plan.blur_sigma)
    change(view, plan.sharpness != 1, sharpen, plan.sharpness)
    add_noise(view, plan.noise, seeds=plan.noise_seed)
    erase(view, plan.erased)
    return view


def check_batch(crops: Tensor, masks: Tensor | None, plan: ViewPlan) -> None:
    """Raise ValueError when crops or masks are not those that the plan is for."""
    planned = (*plan.brightness.shape, plan.size, plan.size)
    if crops.shape != planned:
        raise ValueError(f"the plan is for crops {planned}, not {tuple(crops.shape)}")
    if masks is not None and (masks.shape != (len(crops), *crops.shape[2:]) or masks.dtype != torch.bool):
        msg = f"masks must be {(len(crops), *crops.shape[2:])} bool, not {tuple(masks.shape)} {masks.dtype}"
        raise ValueError(msg)


def warp(pixels: Tensor, homography: Tensor) -> Tensor:
    """Return views of the pixels through homographies (B, 3, 3), bilinear, black outside; pixels may be reused."""
    is_moved = (homography != torch.eye(3)).flatten(1).any(dim=1)
    if not is_moved.any():
        return pixels
    size = pixels.shape[-1]
    centers = (torch.arange(size, device=pixels.device) + 0.5) * (2 / size) - 1
    # not as a matrix product, which a GPU or autocast may round to fewer bits than places need
    cells = homography.to(pixels.device)[:, :, :, None, None]  # (B, 3, 3, 1, 1)
    along_x, along_y = centers, centers[:, None]
    x, y, depth = (cells[:, row, 0] * along_x + (cells[:, row, 1] * along_y + cells[:, row, 2]) for row in range(3))
    view = functional.grid_sample(pixels, torch.stack([x / depth, y / depth], dim=-1), align_corners=False)
    still = (~is_moved).nonzero().squeeze(1).to(pixels.device)
    view[still] = pixels[still]  # exactly
    return view


def remove_channels(view: Tensor, removed: Tensor) -> None:
    """Blacken one channel of some crops."""
    crops = (removed >= 0).nonzero().squeeze(1)
    view[crops.to(view.device), removed[crops].to(view.device)] = 0


def rescale_protein(view: Tensor, rescaled: Tensor, *, protein: int) -> None:
    """Multiply the protein of some crops, over the maximum of the crop."""
    crops = (rescaled >= 0).nonzero().squeeze(1)
    if len(crops):
        factors, crops = rescaled[crops].to(view.device), crops.to(view.device)
        factors = factors / (view[crops].amax(dim=(1, 2, 3)) + MIN_MAX_EPS)
        view[crops, protein] *= factors[:, None, None]


def change(view: Tensor, chosen: Tensor, operation: Callable[..., Tensor], *strengths: Tensor) -> None:
    """Replace the chosen channels of crops, (B, C), by what `operation` makes of them with their strengths, (B, C)."""
    planes = view.flatten(0, 1)  # (B * C, H, W), the same memory
    if chosen.all():
        planes.copy_(operation(planes, *(strength.flatten()[:, None, None].to(view.device) for strength in strengths)))
    elif chosen.any():
        index = chosen.flatten().nonzero().squeeze(1)
        of_chosen = (strength.flatten()[index, None, None].to(view.device) for strength in strengths)
        index = index.to(view.device)
        planes[index] = operation(planes[index], *of_chosen)


def jitter(planes: Tensor, brightness: Tensor, contrast: Tensor, contrast_first: Tensor) -> Tensor:
    """Multiply planes by their brightness, and their difference from their mean by their contrast, in either order."""
    for is_contrast in (contrast_first, ~contrast_first):
        factor = torch.where(is_contrast, contrast, brightness)
        kept = torch.where(is_contrast, 1 - contrast, 0) * planes.mean(dim=(1, 2), keepdim=True)
        planes = torch.addcmul(kept, planes, factor).clamp_(0, 1)
    return planes


def blur(planes: Tensor, sigma: Tensor) -> Tensor:
    """Convolve planes with a Gaussian of 7 x 7 px, their borders mirrored."""
    weights = [torch.exp(-0.5 * (distance / sigma) ** 2) for distance in range(BLUR_REACH + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    # by shifts and not by a convolution, which a GPU rounds to TF32
    for dim, padding in ((2, (BLUR_REACH, BLUR_REACH, 0, 0)), (1, (0, 0, BLUR_REACH, BLUR_REACH))):
        size = planes.shape[dim]
        padded = functional.pad(planes[None], padding, mode="reflect")[0]
        planes = padded.narrow(dim, BLUR_REACH, size) * (weights[0] / total)
        for distance in range(1, BLUR_REACH + 1):
            before = padded.narrow(dim, BLUR_REACH - distance, size)
            after = padded.narrow(dim, BLUR_REACH + distance, size)
            planes.addcmul_(before + after, weights[distance] / total)
    return planes


def sharpen(planes: Tensor, sharpness: Tensor) -> Tensor:
    """Multiply the difference of planes from a smoothed copy by their sharpness; borders stay as they are."""
    center = planes[:, 1:-1, 1:-1]
    rows = planes[:, :-2] + planes[:, 1:-1] + planes[:, 2:]
    smooth = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * center) / 13  # 1s around a 5
    sharpened = planes.clone()
    sharpened[:, 1:-1, 1:-1] += (1 - sharpness) * (smooth - center)
    return sharpened.clamp_(0, 1)


def add_noise(view: Tensor, deviations: Tensor, *, seeds: Tensor) -> None:
    """Add Gaussian noise to each channel, crop by crop: so that it does not depend on the rest of the batch."""
    noisy = (deviations > 0).any(dim=1).nonzero().squeeze(1).tolist()
    generator = torch.Generator(view.device)
    on_device = deviations.to(view.device)[:, :, None, None]
    for crop in noisy:
        generator.manual_seed(int(seeds[crop]))
        noise = torch.randn(view.shape[1:], generator=generator, device=view.device)
        view[crop].addcmul_(noise, on_device[crop])


def erase(view: Tensor, rectangles: Tensor) -> None:
    """Blacken a rectangle of each channel."""
    if not rectangles.any():
        return
    top, left, bottom, right = rectangles.to(view.device)[..., None].unbind(dim=2)  # (B, C, 1) each
    pixels = torch.arange(view.shape[-1], device=view.device)
    in_rows = (pixels >= top) & (pixels < bottom)  # (B, C, H)
    in_columns = (pixels >= left) & (pixels < right)  # (B, C, W)
    view.masked_fill_(in_rows[..., :, None] & in_columns[..., None, :], 0)
