"""Pictures of the simulated proteome: four channels of one cell, as a microscope and its plate would give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from subcell_atlas.images.simulated.canvas import blur, brightness, grid, pixel_size_um, smooth_noise, speckle
from subcell_atlas.images.simulated.proteome import SimulatedProtein, SimulatedProteome
from subcell_atlas.images.simulated.scene import Scene, make_scene
from subcell_atlas.images.simulated.stains import stain_protein

__all__ = ["CHANNELS", "VERSION", "SimulatedCell", "describe_cell", "make_cell"]

CHANNELS = ("microtubules", "er", "nucleus", "protein")
VERSION = 4

WELLS_PER_PLATE = 96
REPLICATES = 2  # plates on which the same antibody is seen, in each cell line
CELLS_PER_FOV = 4
SPOT_UM = 0.125  # standard deviation of the lens's spot
VARIABLE_SD = 0.4  # of log brightness, that a variable protein has on top
PHOTONS = np.array([180.0, 150.0, 6000.0, 150.0])[:, None, None]  # that fill the camera's range, by channel
MISSED_BORDERS, MISSED_UM = 0.4, (-1.5, 4.0)  # share of borders that a segmentation draws wrongly, and by how much
TUBULIN_CLUMPS, ER_CLUMPS, PROTEIN_CLUMPS = 0.45, 0.85, (0.2, 0.8)  # see speckle; differs between antibodies
_SCENE, _STAIN, _CAMERA, _PLATE, _ANTIBODY, _FOV, _CLUMPS, _NEIGHBOURS, _MASK = range(2, 11)  # streams of randomness


@dataclass(frozen=True)
class SimulatedCell:
    """channels: (4, H, W) uint8 in the order of CHANNELS; mask: (H, W) bool, the cell as a segmentation finds it."""

    channels: np.ndarray
    mask: np.ndarray
    gene_symbol: str
    ensembl_id: str
    uniprot_accession: str
    antibody: str
    cell_line: str
    plate: str
    well: str
    fov: str
    localization: tuple[str, ...]
    pixel_size_um: float


def describe_cell(proteome: SimulatedProteome, protein_index: int, cell_index: int) -> dict[str, Any]:
    """Return the fields of a SimulatedCell that need no picture: names, place, plate, well and field of view."""
    protein = proteome.proteins[protein_index]
    round_, line_index = divmod(cell_index, len(proteome.cell_lines))
    cell_line = proteome.cell_lines[line_index]
    replicate = round_ % REPLICATES
    antibody = protein.antibodies[(round_ + round_ // REPLICATES) % len(protein.antibodies)]
    block, position = divmod(_antibody_number(antibody) - 1, WELLS_PER_PLATE)
    plate = f"demo-plate-{cell_line.removeprefix('Demo-')}{REPLICATES * block + replicate + 1}"
    well = f"{'ABCDEFGH'[position // 12]}{position % 12 + 1}"
    sample = round_ // (REPLICATES * CELLS_PER_FOV) + 1
    return {
        "gene_symbol": protein.gene_symbol,
        "ensembl_id": protein.ensembl_id,
        "uniprot_accession": protein.uniprot_accession,
        "antibody": antibody,
        "cell_line": cell_line,
        "plate": plate,
        "well": well,
        "fov": f"{plate}_{well}_{sample}",
        "localization": protein.localization_in[cell_line],
    }


def make_cell(proteome: SimulatedProteome, protein_index: int, cell_index: int, *, size: int = 192) -> SimulatedCell:
    """Return one cell; the same for the same proteome, indices and `size` (pixels of a side of FIELD_UM)."""
    about = describe_cell(proteome, protein_index, cell_index)
    protein = proteome.proteins[protein_index]
    key = (proteome.seed, protein_index, cell_index)
    scene = make_scene(_stream(_SCENE, *key), about["cell_line"], size)
    clumps = _stream(_CLUMPS, *key)
    tubes = scene.microtubules / brightness(scene.microtubules, 20.0) + 0.05 * scene.thickness
    light = np.stack(
        [
            tubes * speckle(clumps, size, TUBULIN_CLUMPS),
            scene.er / brightness(scene.er, 10.0) * speckle(clumps, size, ER_CLUMPS),
            _stain_dna(scene),
            _stain_target(scene, protein, about, _stream(_STAIN, *key), proteome.seed),
        ]
    )
    neighbours = _place_neighbours(_stream(_NEIGHBOURS, *key), scene)
    channels = _photograph(light, scene, neighbours, about, _stream(_CAMERA, *key), proteome.seed)
    mask = _segment(_stream(_MASK, *key), scene, neighbours)
    return SimulatedCell(channels=channels, mask=mask, pixel_size_um=pixel_size_um(size), **about)


def _stream(kind: int, *key: int) -> np.random.Generator:
    return np.random.default_rng([kind, VERSION, *key])


def _antibody_number(antibody: str) -> int:
    return int(antibody.removeprefix("DEMOAB"))


def _stain_dna(scene: Scene) -> np.ndarray:
    rim = 0.15 * np.exp(-(((scene.beyond_um + 0.5) / 0.5) ** 2))
    return 0.62 * scene.in_nucleus * np.clip(1 + 0.22 * scene.chromatin + rim - 0.62 * scene.nucleoli, 0.12, None)


def _stain_target(
    scene: Scene, protein: SimulatedProtein, about: dict[str, Any], rng: np.random.Generator, seed: int
) -> np.ndarray:
    """Return the protein channel: its place or places, light all over the cell, and what the antibody adds."""
    texture, places = protein.texture, about["localization"]
    state = rng.uniform(0.1, 1.0) if protein.variable else 1.0
    second_share = texture.second_share * (rng.uniform(0, 1.6) if protein.variable else 1.0)
    image = stain_protein(scene, texture, places[0], rng)
    if len(places) > 1:
        image = (1 - second_share) * image + second_share * stain_protein(scene, texture, places[1], rng)
    sticky, nuclear, clumps = _antibody_background(about["antibody"], seed)
    diffuse = (texture.diffuse + sticky + 0.12 * (1 - state)) * scene.thickness * (1 - 0.3 * scene.in_nucleus)
    diffuse = diffuse + nuclear * scene.in_nucleus * (1 + 0.12 * scene.chromatin - 0.5 * scene.nucleoli)
    level = texture.brightness * float(np.exp(rng.normal(0, texture.cell_sd + VARIABLE_SD * protein.variable)))
    dense = 1 - 0.85 * scene.nucleoli  # where so much of a target lies that clumps cannot be told apart
    return level * (state * image + diffuse) * speckle(rng, scene.size, clumps) ** dense


@lru_cache(maxsize=4096)
def _antibody_background(antibody: str, seed: int) -> tuple[float, float, float]:
    """Return what an antibody does whatever its target.

    The light that it leaves all over the cell, that in the nucleus, and how strongly it clumps.
    """
    rng = _stream(_ANTIBODY, seed, _antibody_number(antibody))
    everywhere, nuclear = min(rng.exponential(0.05), 0.25), rng.choice([0.0, 0.0, 0.05, 0.12, 0.2])
    return float(everywhere), float(nuclear), float(rng.uniform(*PROTEIN_CLUMPS))


@dataclass(frozen=True)
class _Plate:
    """gain and background: (4, 1, 1), by channel; blur: relative to SPOT_UM."""

    gain: np.ndarray
    background: np.ndarray
    blur: float


@lru_cache(maxsize=512)
def _make_plate(plate: str, seed: int) -> _Plate:
    rng = _stream(_PLATE, seed, *plate.encode())
    gain = np.exp(rng.normal(0, 0.18, (4, 1, 1))).clip(0.65, 1.4)
    background = rng.uniform(0.006, 0.045, (4, 1, 1))
    return _Plate(gain.astype(np.float32), background.astype(np.float32), float(rng.uniform(0.9, 1.5)))


def _photograph(
    light: np.ndarray,
    scene: Scene,
    neighbours: Sequence[_Neighbour],
    about: dict[str, Any],
    rng: np.random.Generator,
    seed: int,
) -> np.ndarray:
    """Return (4, H, W) uint8: lens, neighbours, lamp and camera."""
    plate = _make_plate(about["plate"], seed)
    fov = _stream(_FOV, seed, *about["fov"].encode())
    spot_um = SPOT_UM * plate.blur * float(np.exp(fov.normal(0, 0.08)))
    lamp = 1 + 0.07 * smooth_noise(fov, scene.size, 30.0)
    sharp = np.stack([blur(channel, spot_um) for channel in light])
    beside = [own.light * (1 - scene.inside) * own.shifted(sharp) for own in neighbours]
    sharp = np.sum([sharp, *beside], axis=0)
    signal = sharp * plate.gain * lamp + plate.background
    noise = rng.standard_normal(signal.shape, dtype=np.float32) * np.sqrt(signal / PHOTONS + 0.006**2)
    return np.clip((signal + noise) * 235, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class _Neighbour:
    """The cell itself, turned by half. direction: (y, x) to it; border_um: how far off in it the two come closest."""

    direction: np.ndarray
    border_um: float
    shift: np.ndarray
    light: float

    def shifted(self, image: np.ndarray) -> np.ndarray:
        """Return what is the cell's in `image` (C, H, W) where the neighbour is."""
        return _shifted(image[:, ::-1, ::-1], self.shift)


def _place_neighbours(rng: np.random.Generator, scene: Scene) -> list[_Neighbour]:
    """Return up to two neighbours, a cell's width away."""
    first, apart = rng.uniform(0, 2 * np.pi), rng.uniform(2.2, 4.1)
    neighbours = []
    for turn in (first, first + apart)[: rng.integers(3)]:
        direction = np.array([np.sin(turn), np.cos(turn)])
        reach = 2 * float(scene.cell.radius_at(*direction)) + rng.uniform(0.0, 4.0)
        shift = np.round((2 * scene.cell.centre + reach * direction) / pixel_size_um(scene.size)).astype(int)
        neighbours.append(_Neighbour(direction, reach / 2, shift, rng.uniform(0.4, 0.95)))
    return neighbours


def _segment(rng: np.random.Generator, scene: Scene, neighbours: Sequence[_Neighbour]) -> np.ndarray:
    """Return (H, W) bool: the cell a little too wide or too narrow, often cut straight from a neighbour, and wrongly.

    So masks of real cells are, which are grown from the nuclei: they end, where two cells touch, halfway between.
    """
    own = scene.depth_um > -rng.normal(0.1, 0.3)
    mask, cut = own.copy(), np.zeros_like(own)
    y, x = grid(scene.size)
    for neighbour in neighbours:
        missed_um = rng.uniform(*MISSED_UM)
        if rng.random() < MISSED_BORDERS:
            mask |= neighbour.shifted(own[None])[0]
            dy, dx = neighbour.direction
            cut |= dy * (y - scene.cell.centre[0]) + dx * (x - scene.cell.centre[1]) > neighbour.border_um + missed_um
    return mask & ~cut


def _shifted(image: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return `image` (C, H, W) moved by `shift` (y, x) pixels, black where it came from."""
    moved = np.zeros_like(image)
    target = tuple(slice(max(0, s), n + min(0, s)) for s, n in zip(shift, image.shape[1:], strict=True))
    source = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(shift, image.shape[1:], strict=True))
    if all(s.stop > s.start for s in target):
        moved[:, *target] = image[:, *source]
    return moved
