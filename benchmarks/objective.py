"""Does SubCell's objective help? Each loss alone, pairs, all three, beside random weights and handmade features.

    python benchmarks/objective.py FOLDER [--epochs 16] [--size PX] [--seeds 3] [--real FOLDER] [--only NAME …]

Trains the demonstration encoder's network on its simulated proteome for a while, with each set of losses and seed, and
asks of every result what the neighbors of a protein share, on a simulated proteome whose proteins and complexes no
training has seen, and, with `--real`, what can be read off real cells (see `real_cells.py`), never trained on. `--size`
trains on the same cells in fewer pixels, which is faster. Results go into FOLDER/results.jsonl; what is there is not
measured again. The encoder that comes with the package is measured as well, at its own size.

Means over the cells of a protein are compared by their cosine, as an atlas does, and once more after whitening the
embedding by its covariance over all cells, in which no label takes part: it shows what is held in directions of small
variance. Reconstruction alone trains no pooler; its vectors are the mean over patches.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from real_cells import RealCells, read_real_cells
from scipy import stats

from ingest.crop_file import CropFile, write_crops
from ingest.pretrain import begin, pretrain, spec_of
from ingest.simulated import SimulatedSource
from subcell_atlas.encoders import load_encoder
from subcell_atlas.encoders.readout import OWN
from subcell_atlas.encoders.specs import EncoderSpec, write_spec
from subcell_atlas.encoders.speed import median_seconds
from subcell_atlas.encoders.weights import save_weights
from subcell_atlas.evaluation.handmade import handmade_features
from subcell_atlas.evaluation.probing import probe
from subcell_atlas.evaluation.retrieval import evaluate_retrieval
from subcell_atlas.hashing import sha256_of_file
from subcell_atlas.images.simulated import VERSION, SimulatedProteome, make_proteome
from subcell_atlas.pretraining.config import PretrainConfig, read_config
from subcell_atlas.pretraining.objective import LOSSES
from subcell_atlas.profiles import CELL_COLUMNS, CellSums, profiles_table, proteins_table, vector_array, vectors_of

HELD_OUT_SEED, HELD_OUT_PROTEINS, HELD_OUT_CELLS = 303, 240, 12
HANDMADE, RANDOM, BUILT_IN = "handmade features", "random weights", "the encoder that comes along"
WHITENED = "_whitened"
RECALLS = ("real_recall", "real_recall_nearest")
NEIGHBORS = ("localization_map", "complex_map")
METRICS = (*NEIGHBORS, *(name + WHITENED for name in NEIGHBORS), "real_linear", "real_nearest")
SHRINKAGE = 0.1  # of the covariance, towards an even one, when an embedding is whitened

Embed = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class HeldOut:
    """Cells of proteins that no training has seen, and what is planted in them."""

    proteome: SimulatedProteome
    cells: CropFile

    def measure(self, embed: Embed) -> dict[str, float]:
        """Return the mean average precision of neighbors, by the way that an atlas takes from cells to proteins."""
        vectors = embed(self.masked())
        plain, whitened = self.retrieve(vectors), self.retrieve(whiten(vectors))
        return plain | {name + WHITENED: value for name, value in whitened.items()}

    def retrieve(self, vectors: np.ndarray) -> dict[str, float]:
        """Return the mean average precision of the neighbors of vectors (cells, dim)."""
        sums = CellSums()
        known = self.cells.cells.select([name for name in CELL_COLUMNS if name in self.cells.cells.column_names])
        for name in CELL_COLUMNS:
            if name not in (*known.column_names, "embedding"):
                known = known.append_column(name, pa.nulls(len(known), pa.string()))
        sums.add(known.append_column("embedding", vector_array(vectors)))
        proteins = proteins_table(profiles_table(sums), sums.names)
        truth = {protein.protein_id: protein for protein in self.proteome.proteins}
        ids = proteins["protein_id"].to_pylist()
        images = vectors_of(proteins["image"])
        places = [frozenset(truth[name].localization) for name in ids]
        complexes = [frozenset(filter(None, [truth[name].complex_id])) for name in ids]
        labels = {"localization": places, "complex": complexes}
        return {f"{kind}_map": evaluate_retrieval(images, own, seed=0).mean_ap for kind, own in labels.items()}

    def masked(self) -> np.ndarray:
        """Return all crops, black outside of the cell."""
        crops, masks = self.cells.read(range(len(self.cells)))
        return crops * masks[:, None]


@dataclass(frozen=True)
class Variant:
    """What is measured: the cells it takes, what it depends on, and what makes the way from crops to vectors."""

    name: str
    seed: int
    spec: EncoderSpec
    recipe: dict[str, Any]
    make: Callable[[], Embed]

    def fingerprint(self) -> str:
        """Return what tells one state of the variant from another: the simulated cells, and its recipe."""
        told = {"simulation": VERSION, "cells": [self.spec.crop_um, self.spec.crop_px], **self.recipe}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--size", type=int, help="pixels along a crop's side, a multiple of 16")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--only", nargs="*", help="some of the variants, by name")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    base = read_config("demo")
    shipped = spec_of(base)
    if args.size:
        base = dataclasses.replace(base, encoder=str(smaller(shipped, args.size, args.folder)))
    path = args.folder / "results.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    cells_of = lru_cache(lambda spec: cells_to_measure(spec, args.folder, args.real))
    known: list[dict[str, Any]] = []
    for variant in variants(base, shipped, args.folder, epochs=args.epochs, seeds=args.seeds):
        about = {"variant": variant.name, "seed": variant.seed, "recipe": variant.fingerprint()}
        known.append(about)
        if (args.only and variant.name not in args.only) or any(about.items() <= row.items() for row in done):
            continue
        embed = variant.make()
        held_out, real = cells_of(variant.spec)
        row = {**about, **held_out.measure(embed), **(measure_real(real, embed) if real else {})}
        done.append(row)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)
    show([row for row in done if any(about.items() <= row.items() for about in known)])
    show_speed(cells_of(shipped)[0].masked())


def smaller(spec: EncoderSpec, size: int, folder: Path) -> Path:
    """Write the description of an encoder that sees the same field in `size` pixels; return the file."""
    network = dataclasses.replace(spec.network, image_size=size)
    made = dataclasses.replace(
        spec, name=f"demo-{size}", crop_px=size, pixel_size_um=spec.crop_um / size, network=network, own_weights=None
    )
    write_spec(made, folder / f"network-{size}.toml", weights="none")
    return folder / f"network-{size}.toml"


def cells_to_measure(spec: EncoderSpec, folder: Path, real: Path | None) -> tuple[HeldOut, RealCells | None]:
    """Return the cells that encoders of this size are measured on."""
    held_out = make_held_out(folder / f"held-out-{spec.crop_px}", spec)
    return held_out, read_real_cells(real, spec) if real else None


def make_held_out(path: Path, spec: EncoderSpec) -> HeldOut:
    """Cut the cells of the held-out proteome."""
    proteome = make_proteome(HELD_OUT_PROTEINS, seed=HELD_OUT_SEED)
    shape = {"channels": spec.channels, "crop_um": spec.crop_um, "crop_px": spec.crop_px}
    source = SimulatedSource(proteome, HELD_OUT_CELLS)
    return HeldOut(proteome, write_crops(source, path, **shape, pixel_size_um=spec.pixel_size_um))


def variants(base: PretrainConfig, shipped: EncoderSpec, folder: Path, *, epochs: int, seeds: int) -> Iterator[Variant]:
    """Yield what is measured."""
    spec = spec_of(base)
    network = {"encoder": dataclasses.asdict(spec.network)}
    assert shipped.own_weights is not None
    handmade, weights = partial(handmade_features, channels=shipped.channels), sha256_of_file(shipped.own_weights)
    yield Variant(HANDMADE, 0, shipped, {}, lambda: lambda crops: standardized(handmade(crops)))
    yield Variant(BUILT_IN, 0, shipped, {"weights": weights}, lambda: load_encoder("demo").embed)
    for seed in range(seeds):
        random = folder / f"random-{spec.crop_px}-{seed}"
        make: Callable[[], Embed] = partial(untrained, base, spec, random, seed)
        yield Variant(RANDOM, seed, spec, network, make)
        for size in (1, 2, 3):
            for chosen in combinations(LOSSES, size):
                config, cells = with_losses(base, chosen, epochs=epochs, seed=seed), folder / f"cells-{spec.crop_px}"
                out = folder / f"{'-'.join(chosen)}-{spec.crop_px}-{seed}-{epochs}"
                make = partial(trained, config, out, cells=cells)
                yield Variant(" + ".join(chosen), seed, spec, config.as_dict() | network, make)


def with_losses(base: PretrainConfig, chosen: tuple[str, ...], *, epochs: int, seed: int) -> PretrainConfig:
    """Return the configuration with the chosen losses alone, which weigh the same, and a shorter training."""
    weights = {name: float(name in chosen) for name in LOSSES}
    objective = dataclasses.replace(base.objective, **weights)
    optimizer = dataclasses.replace(base.optimizer, epochs=epochs, warmup_epochs=1)
    return dataclasses.replace(base, seed=seed, objective=objective, optimizer=optimizer)


def trained(config: PretrainConfig, out: Path, *, cells: Path) -> Embed:
    """Train, or take what was trained before."""
    made = pretrain(
        None, config, out=out, cells=cells, init=None, device=None, workers=None, crops=False, pixel_size_um=1.0
    )
    assert made is not None
    has_pooler = config.objective.cell or config.objective.protein
    return load_encoder(str(made.spec), pooling=OWN if has_pooler else "patches").embed


def untrained(base: PretrainConfig, spec: EncoderSpec, out: Path, seed: int) -> Embed:
    """Return the network as a training would begin with it."""
    out.mkdir(exist_ok=True)
    save_weights(begin(spec, dataclasses.replace(base, seed=seed), None), out / "encoder.safetensors")
    write_spec(dataclasses.replace(spec, name=out.name), out / "encoder.toml", weights="encoder.safetensors")
    return load_encoder(str(out / "encoder.toml")).embed


def standardized(features: np.ndarray) -> np.ndarray:
    """Return features (n, F) with mean 0 and variance 1 each."""
    return (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-9)


def whiten(vectors: np.ndarray) -> np.ndarray:
    """Return standardized vectors (n, dim) turned to their principal axes, each scaled to nearly the same variance."""
    even = standardized(vectors.astype(np.float64))
    variances, axes = np.linalg.eigh(np.cov(even.T))
    return (even @ axes / np.sqrt(variances.clip(0) + SHRINKAGE * variances.mean())).astype(np.float32)


def measure_real(real: RealCells, embed: Embed) -> dict[str, Any]:
    """Return what probes read off real cells, whole pictures held out."""
    found = probe(embed(real.crops), real.localization, real.image, seed=0, n_repeats=5)
    return {
        "real_linear": found.linear.mean,
        "real_nearest": found.nearest.mean,
        "real_linear_by_chance": found.linear.chance,
        "real_recall": found.linear.recall,
        "real_recall_nearest": found.nearest.recall,
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print a table in Markdown: the mean over seeds and its 95 % confidence interval."""
    metrics = [metric for metric in METRICS if any(metric in row for row in rows)]
    print(f"| | seeds | {' | '.join(metrics)} |\n|{'---|' * (len(metrics) + 2)}")
    for name in dict.fromkeys(row["variant"] for row in rows):
        of = [row for row in rows if row["variant"] == name]
        print(f"| {name} | {len(of)} | {' | '.join(interval([row[metric] for row in of]) for metric in metrics)} |")
    if "real_linear" in metrics:
        show_recalls(rows)


def show_recalls(rows: list[dict[str, Any]]) -> None:
    """Print a table of how many cells of each place the probes find, linear and nearest neighbor, over seeds."""
    places = list(rows[0]["real_recall"])
    print(f"\n| linear / nearest | {' | '.join(places)} |\n|{'---|' * (len(places) + 1)}")
    for name in dict.fromkeys(row["variant"] for row in rows):
        of = [row for row in rows if row["variant"] == name]
        pairs = [[np.mean([row[kind][place] for row in of]) for kind in RECALLS] for place in places]
        print(f"| {name} | {' | '.join(f'{linear:.2f} / {nearest:.2f}' for linear, nearest in pairs)} |")


def show_speed(crops: np.ndarray) -> None:
    """Print how fast the built-in encoder embeds here, and how fast it was trained, by its log."""
    embed = load_encoder("demo").embed
    embedding = len(crops) / median_seconds(lambda: embed(crops), "cpu")
    with (Path(__file__).parent / "demo_encoder" / "log.csv").open(encoding="utf-8") as file:
        training = 2 * float(np.median([float(row["crops_per_second"]) for row in csv.DictReader(file)]))
    print(
        f"Embeds {embedding:.0f} crops/s here; was trained on {training:.0f} views/s, {training / embedding:.2f} of it."
    )


def interval(values: list[float]) -> str:
    """Return the mean and half the width of its confidence interval."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.3f} ± {half:.3f}"


if __name__ == "__main__":
    main()
