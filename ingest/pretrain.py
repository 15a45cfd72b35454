"""Training an encoder on the cells of a manifest: cut them once, train, and write what loads like any other encoder."""

from __future__ import annotations

import dataclasses
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from subcell_atlas._version import __version__
from subcell_atlas.devices import choose_device
from subcell_atlas.encoders.encoder import PUBLISHED, RANDOM, load_network, make_network
from subcell_atlas.encoders.specs import EncoderSpec, NetworkConfig, check_name, find_spec, write_spec
from subcell_atlas.encoders.vit import SubCellNetwork
from subcell_atlas.encoders.weights import save_weights
from subcell_atlas.errors import BadInput
from subcell_atlas.images.simulated import make_proteome
from subcell_atlas.pretraining.config import PretrainConfig
from subcell_atlas.pretraining.loop import TrainingData, device_of_process, train
from subcell_atlas.pretraining.objective import initialize
from subcell_atlas.writing import writing

from .crop_file import CropFile, write_crops
from .manifest import read_manifest
from .simulated import SimulatedSource
from .sources import Source

__all__ = ["Trained", "pretrain", "spec_of"]

CROPS, WEIGHTS, SPEC = "cells", "encoder.safetensors", "encoder.toml"  # in the folder of a training
MOST_READERS = 8


@dataclass(frozen=True)
class Trained:
    """What came out: the description of the encoder, which names its weights, and how much it was trained on."""

    spec: Path
    n_cells: int
    n_antibodies: int


def spec_of(config: PretrainConfig) -> EncoderSpec:
    """Return the encoder that a configuration trains, SubCell's at the scale of its training."""
    spec = find_spec(config.encoder)
    if not isinstance(spec.network, NetworkConfig):
        raise BadInput(f"{spec.name!r} is not of SubCell's design; train demo, a subcell-… or your own FILE.toml.")
    if "protein" not in spec.channels:
        raise BadInput(f"{spec.name!r} does not see the protein channel; there is nothing to learn of proteins.")
    spec = spec.at_scale("training") if spec.heads else spec
    if spec.crop_px != spec.network.image_size:
        sizes = f"crop_px is {spec.crop_px}, image_size {spec.network.image_size}"
        raise BadInput(f"{spec.name!r} cannot be trained: {sizes}; they must be the same.")
    return spec


def pretrain(
    manifest: Path | None, config: PretrainConfig, *, out: Path, init: str | None, device: str | None,
    workers: int | None, crops: bool, pixel_size_um: float, cells: Path | None = None, name: str | None = None,
    half: bool = False, progress: bool = True,
) -> Trained | None:  # fmt: skip
    """Train the encoder of `config` on the cells of `manifest`, or on its simulated proteome when there is none.

    init: the weights to begin with, a file or `published`; random when None. crops: each row of the manifest is a cell
    already cut out. cells: a folder for the cells as they are cut, which several trainings on them may share; in `out`
    when None. half: write the weights in float16. Everything else goes into `out`: the log, the checkpoint, at the end
    the encoder. Returns what came out, None in all but the first of several processes.
    """
    spec = spec_of(config)
    made_name = out.resolve().name if name is None else name
    check_name(made_name)
    source = training_source(manifest, config, spec, crops=crops)
    device = choose_device(device_of_process(device))
    network = begin(spec, config, init)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    cut = write_crops(
        source,
        cells or out / CROPS,
        channels=spec.channels,
        crop_um=spec.crop_um,
        crop_px=spec.crop_px,
        pixel_size_um=pixel_size_um,
        workers=workers,
        replacing=cells is None,
        progress=progress,
    )
    if cut.n_rejected and progress:
        image, reason = next(iter(cut.rejects.items()))
        tqdm.write(f"{cut.n_rejected} pictures were refused; the first is {image!r}: {reason}.", file=sys.stderr)
    data = training_data(cut, spec.channels.index("protein"))
    readers = default_readers(device) if workers is None else workers
    batches = train(network, config, data=data, out=out, device=device, workers=readers, progress=progress)
    if batches is None:
        return None
    save_weights(network, out / WEIGHTS, half=half)
    made = dataclasses.replace(spec, name=made_name, licence="yours", origin=origin_of(config, manifest, init))
    write_spec(made, out / SPEC, weights=WEIGHTS)
    return Trained(out / SPEC, batches.n_used, len(batches.antibodies))


def default_readers(device: str) -> int:
    """Return how many processes read crops for a training: none where it has all cores for itself."""
    if device == "cpu":
        return 0
    n_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # trainings that share the cores, as torchrun says
    return max(1, min(MOST_READERS, (os.cpu_count() or 1) // n_here - 1))


def training_source(manifest: Path | None, config: PretrainConfig, spec: EncoderSpec, *, crops: bool) -> Source:
    """Return the pictures to train on."""
    if manifest is not None:
        return read_manifest(manifest, channels=spec.channels, encoder=spec.name, crops=crops)
    if config.simulated is None:
        raise BadInput("Name a manifest of pictures to train on; only a configuration with [simulated] needs none.")
    simulated = config.simulated
    return SimulatedSource(make_proteome(simulated.proteins, seed=simulated.seed), simulated.cells)


def training_data(cells: CropFile, protein: int) -> TrainingData:
    """Return the cells with what a batch needs to know: antibody, or protein where it is not told, and stratum."""
    columns = cells.cells.select(["antibody", "protein_id", "cell_line", "condition", "plate", "well", "fov"])
    rows = columns.to_pylist()
    antibodies = [row["antibody"] or row["protein_id"] for row in rows]
    if not any(antibodies):
        raise BadInput(
            "No cell of the manifest names its antibody or its gene; training needs to know which are alike."
        )
    strata = ["/".join(str(row[name] or "") for name in columns.column_names[2:]) for row in rows]
    return TrainingData(crops=cells, antibodies=antibodies, strata=strata, protein=protein, digest=cells.digest)


def begin(spec: EncoderSpec, config: PretrainConfig, init: str | None) -> SubCellNetwork:
    """Return the network with the weights that training begins with."""
    if init is None:
        network = make_network(spec, on="cpu")
        initialize(network, seed=config.seed)
    elif init == RANDOM:
        raise BadInput("Training begins with random weights when --init is left out.")
    elif init == PUBLISHED and spec.weights is None and spec.own_weights is None:
        raise BadInput(f"There are no published weights of {spec.name!r}; give a file, or leave --init out.")
    else:
        network, _ = load_network(spec, [] if init == PUBLISHED else [init])
    assert isinstance(network, SubCellNetwork)
    return network.requires_grad_(requires_grad=True)


def origin_of(config: PretrainConfig, manifest: Path | None, init: str | None) -> str:
    """Say what an encoder was trained from, in a line."""
    begun = f"from {Path(init).name}" if init else "from random weights"
    simulated = config.simulated
    on = manifest.name if manifest else f"a simulated proteome of {simulated.proteins} proteins" if simulated else ""
    return f"trained by subcell-atlas {__version__} {begun}, on {on}, seed {config.seed}"
