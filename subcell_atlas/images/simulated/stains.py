"""What a protein of each pattern looks like in a given cell.

A stain is (size, size) float32, in light of its own scale.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from subcell_atlas.images.simulated.canvas import (
    FIELD_UM,
    blur,
    brightness,
    paint_dots,
    paint_spots,
    sample,
    smooth_noise,
)
from subcell_atlas.images.simulated.places import PATTERNS
from subcell_atlas.images.simulated.proteome import Texture
from subcell_atlas.images.simulated.scene import Scene, soft_step

__all__ = ["STAINS", "stain_protein"]

Stain = Callable[[Scene, Texture, np.random.Generator], np.ndarray]


def stain_protein(scene: Scene, texture: Texture, pattern: str, rng: np.random.Generator) -> np.ndarray:
    """Return the stain of `pattern` with the protein's texture; its brightest part is about 1."""
    image = STAINS[pattern](scene, texture, rng) * _modulation(scene, texture, pattern, rng)
    image /= brightness(image, PATTERNS[pattern].bright_um2)
    if texture.spot_share:
        image += texture.spot_share * _spots(scene, texture, image, rng)
    return image


def _modulation(scene: Scene, texture: Texture, pattern: str, rng: np.random.Generator) -> np.ndarray:
    """Return what the texture does to any stain: grains, uneven regions, a slope away from the nucleus."""
    grains = smooth_noise(rng, scene.size, texture.grain_um) * (1 - 0.8 * scene.nucleoli)
    grains = 1 + 0.6 * texture.granularity * grains
    regions = 1 + 0.45 * texture.unevenness * smooth_noise(rng, scene.size, 7.0)
    if PATTERNS[pattern].compartment == "nucleus":
        away = 2 * np.clip(scene.nuclear_level, 0, 1) - 1
    else:
        away = 2 * np.clip(scene.beyond_um / (0.8 * scene.shape.radius_um), 0, 1) - 1
    slope = np.exp(0.6 * texture.nuclear_distance * away)
    return np.clip(grains, 0.05, None) * np.clip(regions, 0.15, None) * slope


def _spots(scene: Scene, texture: Texture, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return dots that lie where `image` is bright."""
    points = rng.uniform(-0.46, 0.46, (round(700 * texture.spot_number), 2)) * FIELD_UM
    light = sample(image, points) * np.exp(rng.normal(0, 0.4, len(points)))
    lit = light > 0.2
    return paint_spots(points[lit], texture.spot_um, light[lit] * 2.2, scene.size)


def _nucleoplasm(scene: Scene, texture: Texture, rng: np.random.Generator) -> np.ndarray:
    spared = 0.25 + 0.65 * texture.purity
    dots = (0.1 + 0.3 * texture.granularity) * smooth_noise(rng, scene.size, 0.45)
    return scene.in_nucleus * (1 - spared * scene.nucleoli) * np.clip(1 + 0.12 * scene.chromatin + dots, 0.2, None)


def _nucleoli(scene: Scene, texture: Texture, rng: np.random.Generator) -> np.ndarray:
    return scene.nucleoli * (0.6 + 0.4 * np.clip(scene.nucleolar_field, 0, 1)) + (
        0.03 + 0.17 * (1 - texture.purity)
    ) * _nucleoplasm(scene, texture, rng)


def _nucleoli_rim(scene: Scene, texture: Texture, rng: np.random.Generator) -> np.ndarray:
    rim = np.exp(-(((scene.nucleolar_field - 0.42) / 0.13) ** 2)) * scene.in_nucleus
    return rim + 0.15 * scene.nucleoli + 0.1 * _nucleoplasm(scene, texture, rng)


def _nuclear_speckles(scene: Scene, texture: Texture, rng: np.random.Generator) -> np.ndarray:
    lumps = smooth_noise(rng, scene.size, 0.8 + 1.2 * texture.spot_um)
    speckles = soft_step(lumps - 1.25 + 0.22 * float(np.log(texture.spot_number)), 0.12)
    room = np.clip(1 - 1.5 * scene.nucleoli, 0, None) * soft_step(-scene.beyond_um - 0.6, 0.3)
    return speckles * room + 0.14 * _nucleoplasm(scene, texture, rng)


def _nuclear_membrane(scene: Scene, texture: Texture, rng: np.random.Generator) -> np.ndarray:
    rim = np.exp(-(((scene.beyond_um + 0.1) / 0.32) ** 2))
    folds = np.exp(-((smooth_noise(rng, scene.size, 4.0) / 0.07) ** 2)) * scene.in_nucleus
    return rim + 0.24 * scene.in_nucleus + 0.22 * folds * texture.unevenness


def _nuclear_bodies(scene: Scene, texture: Texture, rng: np.random.Generator) -> np.ndarray:
    points = _scatter_cell(rng, scene, rng.poisson(7 * texture.spot_number) + 2, 0.0, 0.88, nuclear=True)
    light = np.exp(rng.normal(0, 0.35, len(points))) * (1 - 0.9 * sample(scene.nucleoli, points))
    return paint_spots(points, 0.75 * texture.spot_um + 0.08, light, scene.size) + 0.13 * _nucleoplasm(
        scene, texture, rng
    )


def _cytosol(scene: Scene, texture: Texture, rng: np.random.Generator) -> np.ndarray:
    spared = 0.35 + 0.55 * texture.purity
    return scene.thickness * (1 - spared * scene.in_nucleus) * scene.holes


def _mitochondria(scene: Scene, texture: Texture, rng: np.random.Generator) -> np.ndarray:
    n = round(11 * scene.shape.radius_um * texture.spot_number**0.4)
    start = _scatter_cell(rng, scene, n, 1.05, 0.88, bias=2.3 - 0.7 * texture.nuclear_distance)
    outward = np.arctan2(*(start - scene.nucleus.centre).T)
    heading = outward + rng.normal(0, 1.0, n) + np.pi * rng.integers(2, size=n)
    points, light = _threads(rng, start, heading, length_um=rng.gamma(3.0, 0.35 + 0.6 * texture.rim, n), wiggle=0.17)
    level, _ = scene.cell.level(*points.T)
    nuclear, _ = scene.nucleus.level(*points.T)
    light = light * (level < 0.97) * np.where(nuclear < 1.0, 0.12, 1.0)
    threads = blur(paint_dots(points, light, scene.size), 0.1 + 0.35 * texture.spot_um)
    return threads + 0.6 * float(threads.max()) * _haze(scene, texture, rng)


def _haze(scene: Scene, texture: Texture, rng: np.random.Generator) -> np.ndarray:
    """Return what a protein of an organelle shows of the cytosol around it."""
    return (0.03 + 0.17 * (1 - texture.purity) ** 2) * _cytosol(scene, texture, rng)


def _endoplasmic_reticulum(scene: Scene, texture: Texture, rng: np.random.Generator) -> np.ndarray:
    return scene.er


def _golgi_apparatus(scene: Scene, texture: Texture, rng: np.random.Generator) -> np.ndarray:
    n = int(rng.integers(11, 18))
    ahead = scene.centrosome - scene.nucleus.centre
    turn = np.arctan2(*ahead) + rng.normal(0, 0.26, n)
    reach = np.hypot(*ahead) * np.exp(rng.normal(0.08, 0.1, n))
    start = scene.nucleus.centre + reach[:, None] * np.stack([np.sin(turn), np.cos(turn)], axis=1)
    heading = turn + np.pi / 2 + rng.normal(0, 0.5, n) + np.pi * rng.integers(2, size=n)
    points, light = _threads(rng, start, heading, length_um=rng.uniform(1.2, 3.6, n), wiggle=0.2)
    light = light * sample(scene.inside, points) * np.where(sample(scene.in_nucleus, points) > 0.5, 0.3, 1.0)
    stray = _scatter_cell(rng, scene, round(12 * texture.spot_number), 1.02, 0.7, bias=2.0)
    ribbon = blur(paint_dots(points, light, scene.size), 0.16 + 0.4 * texture.spot_um)
    return ribbon + paint_spots(stray, 0.2, 0.18 * float(ribbon.max()), scene.size)


def _vesicles(scene: Scene, texture: Texture, rng: np.random.Generator) -> np.ndarray:
    n = round(9.0 * scene.shape.radius_um * texture.spot_number)
    points = _scatter_cell(rng, scene, n, 1.03, 0.97, bias=1.15 - 0.65 * texture.nuclear_distance)
    light = np.exp(rng.normal(0, 0.55, n)) * sample(scene.inside, points)
    sigma = (0.12 + 0.35 * texture.spot_um) * np.exp(rng.normal(0, 0.15, n))
    return paint_spots(points, sigma, light, scene.size) + _haze(scene, texture, rng)


def _plasma_membrane(scene: Scene, texture: Texture, rng: np.random.Generator) -> np.ndarray:
    along = np.clip(1 + 0.45 * smooth_noise(rng, scene.size, 5.0) + 0.3 * smooth_noise(rng, scene.size, 0.9), 0.1, None)
    edge = np.exp(-(((scene.depth_um - 0.45) / 0.5) ** 2)) * along
    ruffles = np.exp(-((smooth_noise(rng, scene.size, 2.6) / 0.16) ** 2)) * np.exp(
        -np.clip(scene.depth_um, 0, None) / 2.5
    )
    grain = np.clip(1 + 0.4 * smooth_noise(rng, scene.size, 0.45), 0, None)
    over_nucleus = 1 - 0.45 * scene.in_nucleus
    surface = (0.13 + 0.7 * (1 - texture.rim)) * grain * (0.55 + 0.45 * scene.thickness) * over_nucleus
    return ((0.15 + 0.85 * texture.rim) * (edge + 0.3 * ruffles) + surface) * scene.inside


def _microtubules(scene: Scene, texture: Texture, rng: np.random.Generator) -> np.ndarray:
    return scene.microtubules + 0.04 * float(scene.microtubules.max()) * scene.thickness


def _actin_filaments(scene: Scene, texture: Texture, rng: np.random.Generator) -> np.ndarray:
    n = round(3.4 * scene.shape.radius_um * texture.spot_number**0.5)
    start = _scatter_cell(rng, scene, n, 0.0, 0.95)
    heading = rng.uniform(0, np.pi) + rng.normal(0, 0.16, n) + rng.uniform(0.3, 0.8) * (rng.random(n) < 0.3)
    points, light = _threads(
        rng, start, heading, length_um=rng.uniform(0.5, 1.7, n) * scene.shape.radius_um, wiggle=0.016
    )
    level, _ = scene.cell.level(*points.T)
    bundles = paint_dots(points, light * (level < 0.96), scene.size) * (1 - 0.45 * scene.in_nucleus)
    cortex = np.exp(-(((scene.depth_um - 0.4) / 0.45) ** 2)) * np.clip(
        1 + 0.5 * smooth_noise(rng, scene.size, 3.5), 0, None
    )
    return blur(bundles, 0.08) + (7.0 * cortex + 0.5 * scene.thickness * (1 - 0.5 * scene.in_nucleus)) * scene.inside


def _centrosome(scene: Scene, texture: Texture, rng: np.random.Generator) -> np.ndarray:
    apart = rng.normal(0, 0.32, 2)
    pair = np.stack([scene.centrosome + apart, scene.centrosome - apart])
    satellites = scene.centrosome + rng.normal(0, 1.1, (round(10 * texture.spot_number), 2))
    dots = paint_spots(pair, 0.2 + 0.4 * texture.spot_um, np.array([1.0, 0.85]), scene.size)
    return dots + paint_spots(satellites, 0.16, 0.14, scene.size) + 0.06 * scene.thickness


def _scatter_cell(
    rng: np.random.Generator,
    scene: Scene,
    n: int,
    inner: float,
    outer: float,
    *,
    bias: float = 1.0,
    nuclear: bool = False,
) -> np.ndarray:
    """Return (n, 2) points in µm.

    inner: in units of the nucleus's radius; outer: of the cell's, or of the nucleus's when `nuclear`.
    bias: 1 spreads them evenly over the area, more draws them inwards.
    """
    i = rng.integers(len(scene.nucleus.radii), size=n)
    far = (scene.nucleus if nuclear else scene.cell).points(outer)[i]
    near = scene.nucleus.points(inner)[i]
    if not nuclear and inner:
        far = scene.cell.centre + np.maximum(outer, 0) * (scene.cell.points()[i] - scene.cell.centre)
    way = np.sqrt(rng.random(n)) ** bias
    return near + way[:, None] * (far - near)


def _threads(
    rng: np.random.Generator, start: np.ndarray, heading: np.ndarray, *, length_um: np.ndarray, wiggle: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return points (m, 2) in µm and light (m,) of wiggly lines centred on `start` (n, 2)."""
    step = 0.16
    steps = int(np.ceil(length_um.max() / step)) + 1
    turns = heading[:, None] + np.cumsum(rng.normal(0, wiggle, (len(start), steps)), axis=1)
    path = np.stack([np.cumsum(np.sin(turns), axis=1), np.cumsum(np.cos(turns), axis=1)], axis=2) * step
    long = np.arange(steps)[None, :] * step < length_um[:, None]
    middle = np.minimum(steps - 1, (length_um / step / 2).astype(int))
    points = path - path[np.arange(len(start)), middle][:, None] + start[:, None]
    light = np.broadcast_to(np.exp(rng.normal(0, 0.25, (len(start), 1))), long.shape)
    return points[long], light[long]


STAINS: dict[str, Stain] = {
    "Nucleoplasm": _nucleoplasm,
    "Nucleoli": _nucleoli,
    "Nucleoli rim": _nucleoli_rim,
    "Nuclear speckles": _nuclear_speckles,
    "Nuclear membrane": _nuclear_membrane,
    "Nuclear bodies": _nuclear_bodies,
    "Cytosol": _cytosol,
    "Mitochondria": _mitochondria,
    "Endoplasmic reticulum": _endoplasmic_reticulum,
    "Golgi apparatus": _golgi_apparatus,
    "Vesicles": _vesicles,
    "Plasma membrane": _plasma_membrane,
    "Microtubules": _microtubules,
    "Actin filaments": _actin_filaments,
    "Centrosome": _centrosome,
}
