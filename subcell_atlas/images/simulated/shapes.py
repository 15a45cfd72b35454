"""Outlines of cells and nuclei: star-shaped, a table of radii by angle, so that inside and outside cost no search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

__all__ = ["CELL_SHAPES", "CellShape", "Outline", "make_cell_outline", "make_nucleus_outline"]

N_ANGLES = 720
LARGEST_UM = 46.0  # a cell fits into the picture
_ANGLES = np.arange(N_ANGLES) * (2 * np.pi / N_ANGLES)
_UNIT = np.stack([np.sin(_ANGLES), np.cos(_ANGLES)], axis=1)


@dataclass(frozen=True)
class CellShape:
    """What cells of one line look like; lengths in µm.

    corners: fewest and most; concavity: how far sides are drawn in, 0 to 1; rounding: degrees of smoothing.
    aspect: length over width; irregularity: standard deviation of the log distance of a corner.
    """

    radius_um: float
    aspect: float
    corners: tuple[int, int]
    irregularity: float
    concavity: float
    rounding: float
    nucleus_radius_um: float
    nucleus_aspect: float
    n_microtubules: int
    centrosomal: float
    nucleoli: tuple[int, int]


CELL_SHAPES: dict[str, CellShape] = {
    "Demo-A": CellShape(10.2, 2.3, (4, 6), 0.26, 0.42, 4, 5.2, 1.4, 160, 0.6, (2, 5)),
    "Demo-B": CellShape(10.4, 1.3, (5, 7), 0.15, 0.12, 4, 5.5, 1.15, 190, 0.35, (3, 6)),
    "Demo-C": CellShape(13.8, 1.25, (6, 12), 0.15, 0.25, 6, 6.6, 1.2, 250, 0.65, (3, 6)),
}


@dataclass(frozen=True)
class Outline:
    """centre: (2,) µm; radii: (N_ANGLES,) µm."""

    centre: np.ndarray
    radii: np.ndarray

    def radius_at(self, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
        """Return the radius of the outline in the direction of each (dy, dx), in µm."""
        turn = np.arctan2(dy, dx) * (N_ANGLES / (2 * np.pi))
        return self.radii[turn.astype(np.int32) % N_ANGLES]

    def level(self, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return distance from the centre relative to the outline's (1: on it), and the outline's in µm."""
        dy, dx = y - float(self.centre[0]), x - float(self.centre[1])
        radius = self.radius_at(dy, dx)
        return np.sqrt(dy * dy + dx * dx) / radius, radius

    def points(self, scale: float = 1.0) -> np.ndarray:
        """Return (N_ANGLES, 2) points in µm on the outline, shrunk or grown by `scale`."""
        return self.centre + scale * self.radii[:, None] * _UNIT


def make_cell_outline(rng: np.random.Generator, shape: CellShape) -> Outline:
    """Return an outline whose bounding box is centred on (0, 0)."""
    curve = _draw_polygon(rng, shape)
    radii = _radii_by_angle(curve)
    radii = gaussian_filter1d(radii, shape.rounding * N_ANGLES / 360, mode="wrap")
    radii *= 1 + _ripple(rng, rng.uniform(0.008, 0.025), 5, 90)
    radii *= 1 + _protrusions(rng)
    area_radius = np.sqrt(np.mean(radii**2))
    radii *= shape.radius_um * np.exp(rng.normal(0, 0.17)) / area_radius
    points = radii[:, None] * _UNIT
    low, high = points.min(axis=0), points.max(axis=0)
    fit = min(1.0, LARGEST_UM / float((high - low).max()))
    return Outline(-(low + high) / 2 * fit, (radii * fit).astype(np.float32))


def make_nucleus_outline(rng: np.random.Generator, shape: CellShape, cell: Outline) -> Outline:
    """Return an ellipse-like outline, along the cell's long axis, well inside the cell."""
    aspect = shape.nucleus_aspect * np.exp(rng.normal(0, 0.1))
    turn = _long_axis(cell) + rng.normal(0, 0.25)
    radii = 1 / np.hypot(np.cos(_ANGLES - turn) / np.sqrt(aspect), np.sin(_ANGLES - turn) * np.sqrt(aspect))
    radii *= 1 + _ripple(rng, 0.022, 2, 6)
    radii *= 1 - _dent(rng)
    radii *= shape.nucleus_radius_um * np.exp(rng.normal(0, 0.08))
    offset = rng.normal(0, 0.11, 2) * cell.radii.mean()
    nucleus = Outline(cell.centre + offset, radii.astype(np.float32))
    level, _ = cell.level(*nucleus.points().T)
    fit = min(1.0, 0.84 / float(level.max()))
    return Outline(cell.centre + offset * fit, (radii * fit).astype(np.float32))


def _draw_polygon(rng: np.random.Generator, shape: CellShape) -> np.ndarray:
    """Return (n, 2) points, around the origin, on a polygon with sides drawn in."""
    n = int(rng.integers(shape.corners[0], shape.corners[1] + 1))
    angle = (np.arange(n) + rng.uniform(-0.3, 0.3, n)) * (2 * np.pi / n)
    reach = np.exp(rng.normal(0, shape.irregularity, n))
    stretch = np.sqrt(shape.aspect * np.exp(rng.normal(0, 0.2)))
    corners = np.stack([reach * np.sin(angle) / stretch, reach * np.cos(angle) * stretch], axis=1)
    after = np.roll(corners, -1, axis=0)
    control = (corners + after) / 2 * (1 - shape.concavity * rng.uniform(0.3, 1.4, (n, 1)))
    t = np.linspace(0, 1, 48, endpoint=False)[None, :, None]
    # (corners, 48, 2)
    curve = (1 - t) ** 2 * corners[:, None] + 2 * t * (1 - t) * control[:, None] + t**2 * after[:, None]
    turn = rng.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    return curve.reshape(-1, 2) @ rotation


def _radii_by_angle(curve: np.ndarray) -> np.ndarray:
    angle = np.arctan2(curve[:, 0], curve[:, 1]) % (2 * np.pi)
    order = np.argsort(angle)
    return np.interp(_ANGLES, angle[order], np.hypot(*curve.T)[order], period=2 * np.pi)


def _ripple(rng: np.random.Generator, sd: float, lowest: int, highest: int) -> np.ndarray:
    """Return (N_ANGLES,) waves of `lowest` to `highest` periods a turn, weaker the finer."""
    k = np.arange(lowest, highest + 1)
    waves = np.zeros(N_ANGLES // 2 + 1, dtype=np.complex128)
    waves[k] = rng.normal(0, sd, len(k)) * (lowest / k) * np.exp(1j * rng.uniform(0, 2 * np.pi, len(k)))
    return np.fft.irfft(waves, N_ANGLES) * (N_ANGLES / 2)


def _protrusions(rng: np.random.Generator) -> np.ndarray:
    """Return (N_ANGLES,): up to three narrow arms, in half of the cells."""
    n = int(rng.integers(1, 4)) if rng.random() < 0.5 else 0
    reach, width = rng.uniform(0.1, 0.5, (n, 1)), rng.uniform(0.04, 0.15, (n, 1))
    away = np.angle(np.exp(1j * (_ANGLES - rng.uniform(0, 2 * np.pi, (n, 1)))))
    return np.sum(reach * np.exp(-((away / width) ** 2) / 2), axis=0)


def _dent(rng: np.random.Generator) -> np.ndarray:
    """Return (N_ANGLES,): one nucleus in five has a side drawn in, like a bean."""
    depth = rng.uniform(0.12, 0.32) if rng.random() < 0.2 else 0.0
    away = np.angle(np.exp(1j * (_ANGLES - rng.uniform(0, 2 * np.pi))))
    return depth * np.exp(-((away / 0.4) ** 2) / 2)


def _long_axis(cell: Outline) -> float:
    double = np.sum(cell.radii**2 * np.exp(2j * _ANGLES))
    return float(np.angle(double) / 2)
