"""One cell before any stain: where its outline, nucleus, nucleoli, centrosome, microtubules and ER are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from subcell_atlas.images.simulated.canvas import grid, paint_dots, paint_spots, pixel_size_um, smooth_noise
from subcell_atlas.images.simulated.shapes import (
    CELL_SHAPES,
    CellShape,
    Outline,
    make_cell_outline,
    make_nucleus_outline,
)

__all__ = ["Scene", "make_scene", "soft_step"]

STEP_UM = 0.2  # between two points of a filament


@dataclass(frozen=True)
class Scene:
    """Images are (size, size) float32.

    level, nuclear_level: 0 at the centre, 1 on the outline of the cell or nucleus.
    depth_um: distance inward from the cell's outline; beyond_um: outward from the nucleus's.
    inside, in_nucleus, nucleoli: 0 to 1, soft at the edge; nucleolar_field: 0.5 at the edge of a nucleolus.
    thickness: light of a dye that fills the cell; holes: 0 in vacuoles, else 1.
    filaments: (n, 2) µm, points of the microtubules, with their light (n,).
    """

    size: int
    shape: CellShape
    cell: Outline
    nucleus: Outline
    centrosome: np.ndarray
    level: np.ndarray
    nuclear_level: np.ndarray
    depth_um: np.ndarray
    beyond_um: np.ndarray
    inside: np.ndarray
    in_nucleus: np.ndarray
    nucleolar_field: np.ndarray
    nucleoli: np.ndarray
    chromatin: np.ndarray
    thickness: np.ndarray
    holes: np.ndarray
    filaments: np.ndarray
    filament_light: np.ndarray
    microtubules: np.ndarray
    er: np.ndarray

    @property
    def in_cytoplasm(self) -> np.ndarray:
        """Where the cell is and its nucleus is not, 0 to 1."""
        return self.inside * (1 - self.in_nucleus)


def make_scene(rng: np.random.Generator, cell_line: str, size: int) -> Scene:
    """Draw one cell of a line, with everything that stains can follow."""
    shape = CELL_SHAPES[cell_line]
    cell = make_cell_outline(rng, shape)
    nucleus = make_nucleus_outline(rng, shape, cell)
    centrosome = _place_centrosome(rng, cell, nucleus)
    level, radius = cell.level(*grid(size))
    nuclear_level, nuclear_radius = nucleus.level(*grid(size))
    depth_um, beyond_um = (1 - level) * radius, (nuclear_level - 1) * nuclear_radius
    inside, in_nucleus = soft_step(depth_um, 0.15), soft_step(-beyond_um, 0.15)
    field = _nucleolar_field(rng, nucleus, shape, size)
    holes = 1 - 0.85 * soft_step(smooth_noise(rng, size, 2.2) - 2.2, 0.12)
    thickness = _thickness(rng, depth_um, beyond_um, shape) * inside
    filaments, light = _grow_microtubules(rng, cell, nucleus, centrosome, shape)
    return Scene(
        size=size,
        shape=shape,
        cell=cell,
        nucleus=nucleus,
        centrosome=centrosome,
        level=level,
        nuclear_level=nuclear_level,
        depth_um=depth_um,
        beyond_um=beyond_um,
        inside=inside,
        in_nucleus=in_nucleus,
        nucleolar_field=field,
        nucleoli=soft_step(field - 0.5, 0.06) * in_nucleus,
        chromatin=0.6 * smooth_noise(rng, size, 2.0) + 0.5 * smooth_noise(rng, size, 0.8),
        thickness=thickness,
        holes=holes,
        filaments=filaments,
        filament_light=light,
        microtubules=paint_dots(filaments, light, size),
        er=_weave_er(rng, size, beyond_um, inside, in_nucleus, thickness) * holes,
    )


def soft_step(x: np.ndarray, width: float) -> np.ndarray:
    """Return 0 well below 0, 1 well above, with a smooth ramp about `width` wide to each side."""
    t = np.clip(x * (0.25 / width) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _place_centrosome(rng: np.random.Generator, cell: Outline, nucleus: Outline) -> np.ndarray:
    """Return (2,): beside the nucleus, on a side where the cell has room."""
    edge = nucleus.points()
    level, radius = cell.level(*edge.T)
    room = (1 - level) * radius
    i = int(rng.choice(len(edge), p=room**2 / np.sum(room**2)))
    outward = (edge[i] - nucleus.centre) / nucleus.radii[i]
    return edge[i] + outward * min(rng.uniform(0.6, 1.8), 0.6 * room[i])


def _nucleolar_field(rng: np.random.Generator, nucleus: Outline, shape: CellShape, size: int) -> np.ndarray:
    """Return lumps of a few lobes each; above 0.5 is nucleolus."""
    n = int(rng.integers(shape.nucleoli[0], shape.nucleoli[1] + 1))
    centres = _scatter(rng, nucleus, n, 0.68)
    lobes = np.repeat(centres, 3, axis=0) + rng.normal(0, 0.4, (3 * n, 2))
    sigma = np.repeat(rng.uniform(0.4, 0.8, n), 3) * rng.uniform(0.6, 1.15, 3 * n)
    return paint_spots(lobes, sigma, 0.8, size) + 0.07 * smooth_noise(rng, size, 0.8)


def _scatter(rng: np.random.Generator, outline: Outline, n: int, reach: float) -> np.ndarray:
    """Return (n, 2) points spread evenly over the part of `outline` within `reach` of its radius."""
    i = rng.integers(len(outline.radii), size=n)
    spread = np.sqrt(rng.random(n))[:, None] * reach
    return outline.centre + spread * (outline.points()[i] - outline.centre)


def _thickness(rng: np.random.Generator, depth_um: np.ndarray, beyond_um: np.ndarray, shape: CellShape) -> np.ndarray:
    """Return 0 to 1: thick around the nucleus, thin towards the edge, where some cells are flatter than others."""
    edge = 1 - np.exp(-np.clip(depth_um, 0, None) / np.exp(rng.uniform(np.log(0.8), np.log(3.6))))
    flat, slope_um = rng.uniform(0.12, 0.35), 0.42 * shape.radius_um * np.exp(rng.normal(0, 0.25))
    return edge * (flat + (1 - flat) * np.exp(-np.clip(beyond_um, 0, None) / slope_um))


def _grow_microtubules(
    rng: np.random.Generator, cell: Outline, nucleus: Outline, centrosome: np.ndarray, shape: CellShape
) -> tuple[np.ndarray, np.ndarray]:
    """Return points (n, 2) in µm and light (n,) of filaments that bend along the cell's edge and round the nucleus."""
    n, steps = shape.n_microtubules, int(1.5 * shape.radius_um / STEP_UM)
    start, heading = _start_microtubules(rng, n, nucleus, centrosome, shape)
    curvature = rng.normal(0, 0.07, (n, 1)) * STEP_UM
    turns = np.cumsum(rng.normal(0, 0.07, (n, steps)) + curvature, axis=1) + heading[:, None]
    path = np.stack([np.cumsum(np.sin(turns), axis=1), np.cumsum(np.cos(turns), axis=1)], axis=2) * STEP_UM
    points = path + start[:, None]
    alive = np.arange(steps) < rng.uniform(0.35, 1.0, (n, 1)) * steps
    light = np.exp(rng.normal(0, 0.3, (n, 1))) * alive
    over = np.broadcast_to(rng.random((n, 1)) < 0.35, light.shape)
    kept = alive.ravel()
    points, light, over = points.reshape(-1, 2)[kept], light.ravel()[kept], over.ravel()[kept]
    points, hidden = _round_nucleus(points, nucleus, over)
    points, outside = _keep_inside(points, cell)
    return points, light * hidden * outside


def _start_microtubules(
    rng: np.random.Generator, n: int, nucleus: Outline, centrosome: np.ndarray, shape: CellShape
) -> tuple[np.ndarray, np.ndarray]:
    """Return starts (n, 2) and headings (n,): at the centrosome, the others anywhere around the nucleus."""
    free = rng.random(n) > shape.centrosomal
    i = rng.integers(len(nucleus.radii), size=n)
    around = nucleus.centre + rng.uniform(0.9, 2.2, (n, 1)) * (nucleus.points()[i] - nucleus.centre)
    start = np.where(free[:, None], around, centrosome + rng.normal(0, 0.35, (n, 2)))
    outward = np.arctan2(*(around - nucleus.centre).T)
    heading = np.where(free, outward + rng.normal(0, 1.3, n), rng.uniform(0, 2 * np.pi, n))
    return start, heading


def _round_nucleus(points: np.ndarray, nucleus: Outline, over: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Push points out of the nucleus, save those `over` it; return them and how much of their light is in focus."""
    level, _ = nucleus.level(*points.T)
    pushed = np.where((level < 1) & ~over, np.maximum(level, 1e-3) ** -0.75, 1.0)
    light = np.where(level < 1, 0.42, 1.0)
    return nucleus.centre + pushed[:, None] * (points - nucleus.centre), light


def _keep_inside(points: np.ndarray, cell: Outline) -> tuple[np.ndarray, np.ndarray]:
    """Bend points near the edge along it; return them and the light (n,) left: none for those far outside."""
    level, _ = cell.level(*points.T)
    bent = np.where(level < 0.7, level, 0.7 + 0.28 * (1 - np.exp(-(level - 0.7) / 0.28)))
    scale = bent / np.maximum(level, 1e-6)
    return cell.centre + scale[:, None] * (points - cell.centre), np.clip(2.0 - 1.25 * level, 0, 1)


def _weave_er(
    rng: np.random.Generator,
    size: int,
    beyond_um: np.ndarray,
    inside: np.ndarray,
    in_nucleus: np.ndarray,
    thickness: np.ndarray,
) -> np.ndarray:
    """Return the ER: sheets and the envelope at the nucleus, further out the lines of a net."""
    net = np.maximum(*(np.exp(-((smooth_noise(rng, size, g) / 0.28) ** 2)) for g in (1.5, 1.2)))
    clouds = np.clip(1 + 0.35 * smooth_noise(rng, size, 3.5), 0.2, None)
    near = np.exp(-np.clip(beyond_um, 0, None) / 3.5)
    sheets = near * (0.7 + 0.25 * smooth_noise(rng, size, 0.7))
    envelope = np.exp(-((beyond_um / 0.35) ** 2)) * (0.5 / max(1.0, pixel_size_um(size)))
    body = (net * (0.35 + 0.65 * near) + 0.8 * np.clip(sheets, 0, None)) * (0.3 + 0.7 * thickness) * clouds
    return (body * (1 - 0.82 * in_nucleus) + envelope * (0.4 + 0.6 * clouds)) * inside
