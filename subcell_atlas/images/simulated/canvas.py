"""Drawing in micrometres: smooth noise, dots and filaments, blur. Nothing here knows about cells.

Randomness is drawn on lattices and points in µm, never per pixel, so that a picture of another size shows the same
scene. Coordinates are (y, x) in µm from the centre of the picture, which spans FIELD_UM.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_array

__all__ = [
    "FIELD_UM",
    "blur",
    "brightness",
    "grid",
    "paint_dots",
    "paint_spots",
    "pixel_size_um",
    "sample",
    "smooth_noise",
    "speckle",
]

FIELD_UM = 51.2566  # 640 px of 0.0800885 µm, what SubCell was trained on
CLUMP_UM = 0.25


def pixel_size_um(size: int) -> float:
    """Return the pixel size of a picture of `size` pixels a side."""
    return FIELD_UM / size


@lru_cache(maxsize=8)
def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return y (size, 1) and x (1, size), float32 µm, of the pixels' centres."""
    axis = ((np.arange(size) + 0.5) * pixel_size_um(size) - FIELD_UM / 2).astype(np.float32)
    return axis[:, None], axis[None, :]


@lru_cache(maxsize=128)
def _spline_basis(size: int, n_knots: int) -> csr_array:
    """Return (size, n_knots + 3) cubic B-spline weights whose rows have length 1, so that the noise has variance 1."""
    at = (np.arange(size) + 0.5) / size * n_knots
    distance = np.abs(at[:, None] - (np.arange(n_knots + 3) - 1)[None, :])
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = np.clip(2 - distance, 0, None) ** 3 / 6
    weights = np.where(distance < 1, near, far)
    return csr_array((weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32))


def smooth_noise(rng: np.random.Generator, size: int, grain_um: float) -> np.ndarray:
    """Return (size, size) float32 noise of mean 0 and variance 1 whose blobs are about `grain_um` wide."""
    n_knots = max(2, round(FIELD_UM / (0.7 * grain_um)))
    basis = _spline_basis(size, n_knots)
    lattice = rng.standard_normal((n_knots + 3, n_knots + 3), dtype=np.float32)
    return basis @ np.ascontiguousarray((basis @ lattice).T)


def speckle(rng: np.random.Generator, size: int, contrast: float) -> np.ndarray:
    """Return (size, size) factors of mean 1: antibodies stick in clumps, so that no stain is an even paint.

    contrast: standard deviation of the factors' logarithm, before any lens.
    """
    return np.exp(contrast * smooth_noise(rng, size, CLUMP_UM) - contrast**2 / 2)


def paint_dots(points: np.ndarray, light: np.ndarray | float, size: int) -> np.ndarray:
    """Return (size, size) float32: the light of `points` (n, 2), per µm², shared among the four nearest pixels."""
    at = (points + FIELD_UM / 2) / pixel_size_um(size) - 0.5
    light = np.broadcast_to(np.asarray(light, dtype=np.float64), len(at))
    visible = np.all((at >= 0) & (at < size - 1), axis=1)
    at, light = at[visible], light[visible]
    corner = at.astype(np.int64)
    fy, fx = (at - corner).T
    first = corner[:, 0] * size + corner[:, 1]
    top, bottom = light * (1 - fy), light * fy
    index = np.concatenate([first, first + 1, first + size, first + size + 1])
    weight = np.concatenate([top * (1 - fx), top * fx, bottom * (1 - fx), bottom * fx])
    total = np.bincount(index, weight, size * size).reshape(size, size)
    return (total / pixel_size_um(size) ** 2).astype(np.float32)


def blur(image: np.ndarray, sigma_um: float) -> np.ndarray:
    """Return `image` (size, size) as a lens with a Gaussian spot of `sigma_um` would show it."""
    return gaussian_filter(image, sigma_um / pixel_size_um(image.shape[-1]), mode="nearest", truncate=3.0)


def paint_spots(points: np.ndarray, sigma_um: np.ndarray | float, light: np.ndarray | float, size: int) -> np.ndarray:
    """Return (size, size) float32: the sum of round Gaussian spots of height `light` at `points` (n, 2)."""
    if not len(points):
        return np.zeros((size, size), dtype=np.float32)
    sigma = np.broadcast_to(np.asarray(sigma_um, dtype=np.float64), len(points)) / pixel_size_um(size)
    at = (points + FIELD_UM / 2) / pixel_size_um(size) - 0.5
    reach = int(np.ceil(3 * sigma.max()))
    pixels = np.rint(at).astype(np.int64)[:, :, None] + np.arange(-reach, reach + 1)  # (n, 2, width)
    rows, columns = np.moveaxis(np.exp(-(((pixels - at[:, :, None]) / sigma[:, None, None]) ** 2) / 2), 1, 0)
    visible = (pixels >= 0) & (pixels < size)
    rows = rows * visible[:, 0] * np.broadcast_to(np.asarray(light), len(points))[:, None]
    weight = rows[:, :, None] * (columns * visible[:, 1])[:, None, :]  # (n, width, width)
    y, x = np.moveaxis(pixels.clip(0, size - 1), 1, 0)
    index = y[:, :, None] * size + x[:, None, :]
    return np.bincount(index.ravel(), weight.ravel(), size * size).reshape(size, size).astype(np.float32)


def brightness(image: np.ndarray, area_um2: float) -> float:
    """Return the value above which the brightest `area_um2` of `image` lies; more than 0."""
    bright = image[image > 0.1 * image.max()]
    n = min(len(bright), max(1, round(area_um2 / pixel_size_um(image.shape[-1]) ** 2)))
    return float(np.partition(bright, -n)[-n]) if n else 1.0


def sample(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return (n,) values of `image` (size, size) at the pixels nearest to `points` (n, 2)."""
    size = image.shape[-1]
    at = ((points + FIELD_UM / 2) / pixel_size_um(size)).astype(np.int64).clip(0, size - 1)
    return image[at[:, 0], at[:, 1]]
