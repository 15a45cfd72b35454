"""Does SubCell's objective help? Each loss alone, pairs, all three, beside random weights and handmade features.

    python benchmarks/objective.py FOLDER [--epochs 16] [--seeds 3] [--real FOLDER] [--only NAME …]

Trains the demonstration encoder's network on its simulated proteome for a while, with each set of losses and seed, and
asks of every result what the neighbors of a protein share, on a simulated proteome whose proteins and complexes no
training has seen, and, with `--real`, what can be read off real cells (see `real_cells.py`), never trained on. Results
go into FOLDER/results.jsonl; what is there is not measured again. The encoder that comes with the package is measured
as well.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from subcell_atlas.encoders.specs import EncoderSpec, write_spec
from subcell_atlas.encoders.weights import save_weights
from subcell_atlas.evaluation.handmade import handmade_features
from subcell_atlas.evaluation.probing import probe
from subcell_atlas.evaluation.retrieval import evaluate_retrieval
from subcell_atlas.images.simulated import SimulatedProteome, make_proteome
from subcell_atlas.pretraining.config import PretrainConfig, read_config
from subcell_atlas.pretraining.objective import LOSSES
from subcell_atlas.profiles import CELL_COLUMNS, CellSums, profiles_table, proteins_table, vector_array, vectors_of

HELD_OUT_SEED, HELD_OUT_PROTEINS, HELD_OUT_CELLS = 303, 240, 12
HANDMADE, RANDOM, BUILT_IN = "handmade features", "random weights", "the encoder that comes along"
METRICS = ("localization_map", "complex_map", "real_linear", "real_nearest")

Embed = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class HeldOut:
    """Cells of proteins that no training has seen, and what is planted in them."""

    proteome: SimulatedProteome
    cells: CropFile

    def measure(self, embed: Embed) -> dict[str, float]:
        """Return the mean average precision of neighbors, by the way that an atlas takes from cells to proteins."""
        sums = CellSums()
        vectors = embed(self.masked())
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


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--only", nargs="*", help="some of the variants, by name")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    base = read_config("demo")
    spec = spec_of(base)
    held_out = make_held_out(args.folder / "held-out", spec)
    real = read_real_cells(args.real, spec) if args.real else None
    path = args.folder / "results.jsonl"
    done = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for name, seed, make in variants(base, spec, args.folder, epochs=args.epochs, seeds=args.seeds):
        about = {"variant": name, "seed": seed, "epochs": args.epochs}
        if (args.only and name not in args.only) or any(about.items() <= row.items() for row in done):
            continue
        embed = make()
        row = {**about, **held_out.measure(embed), **(measure_real(real, embed) if real else {})}
        done.append(row)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)
    show([row for row in done if row["epochs"] == args.epochs])


def make_held_out(path: Path, spec: EncoderSpec) -> HeldOut:
    """Cut the cells of the held-out proteome."""
    proteome = make_proteome(HELD_OUT_PROTEINS, seed=HELD_OUT_SEED)
    shape = {"channels": spec.channels, "crop_um": spec.crop_um, "crop_px": spec.crop_px}
    source = SimulatedSource(proteome, HELD_OUT_CELLS)
    return HeldOut(proteome, write_crops(source, path, **shape, pixel_size_um=spec.pixel_size_um))


def variants(
    base: PretrainConfig, spec: EncoderSpec, folder: Path, *, epochs: int, seeds: int
) -> Iterator[tuple[str, int, Callable[[], Embed]]]:
    """Yield what is measured: its name, its seed, and what makes the way from crops to vectors."""
    yield HANDMADE, 0, lambda: lambda crops: standardized(handmade_features(crops, channels=spec.channels))
    yield BUILT_IN, 0, lambda: load_encoder("demo").embed
    for seed in range(seeds):
        yield RANDOM, seed, lambda seed=seed: untrained(base, spec, folder / f"random-{seed}", seed)
        for size in (1, 2, 3):
            for chosen in combinations(LOSSES, size):
                name = " + ".join(chosen)
                out = folder / f"{'-'.join(chosen)}-{seed}-{epochs}"
                config = with_losses(base, chosen, epochs=epochs, seed=seed)
                yield name, seed, lambda config=config, out=out: trained(config, out, cells=folder / "cells")


def with_losses(base: PretrainConfig, chosen: tuple[str, ...], *, epochs: int, seed: int) -> PretrainConfig:
    """Return the configuration with the weights of all but the chosen losses at 0, and a shorter training."""
    weights = {name: 0.0 for name in LOSSES if name not in chosen}
    if "reconstruction" not in chosen:
        weights["mask_ratio"] = 0.0
    objective = dataclasses.replace(base.objective, **weights)
    optimizer = dataclasses.replace(base.optimizer, epochs=epochs, warmup_epochs=1)
    return dataclasses.replace(base, seed=seed, objective=objective, optimizer=optimizer)


def trained(config: PretrainConfig, out: Path, *, cells: Path) -> Embed:
    """Train, or take what was trained before."""
    made = pretrain(
        None, config, out=out, cells=cells, init=None, device=None, workers=None, crops=False, pixel_size_um=1.0
    )
    assert made is not None
    return load_encoder(str(made.spec)).embed


def untrained(base: PretrainConfig, spec: EncoderSpec, out: Path, seed: int) -> Embed:
    """Return the network as a training would begin with it."""
    out.mkdir(exist_ok=True)
    save_weights(begin(spec, dataclasses.replace(base, seed=seed), None), out / "encoder.safetensors")
    write_spec(dataclasses.replace(spec, name=out.name), out / "encoder.toml", weights="encoder.safetensors")
    return load_encoder(str(out / "encoder.toml")).embed


def standardized(features: np.ndarray) -> np.ndarray:
    """Return features (n, F) with mean 0 and variance 1 each."""
    return (features - features.mean(axis=0)) / np.maximum(features.std(axis=0), 1e-9)


def measure_real(real: RealCells, embed: Embed) -> dict[str, Any]:
    """Return what probes read off real cells, whole pictures held out."""
    found = probe(embed(real.crops), real.localization, real.image, seed=0)
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


def interval(values: list[float]) -> str:
    """Return the mean and half the width of its confidence interval."""
    if len(values) < 2:
        return f"{values[0]:.3f}"
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values):.3f} ± {half:.3f}"


if __name__ == "__main__":
    main()
