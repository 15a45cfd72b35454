"""The training loop: one process, or several under `torchrun`; killed and started again, it goes on where it was.

Every random number of a step follows from the seed and the step's number: which cells, which views, which patches are
hidden, which units are dropped. So a checkpoint holds weights, the optimizer's moments and a number, and a batch shared
among processes is the batch that one would have.
"""

from __future__ import annotations

import csv
import dataclasses
import gc
import json
import os
import pickle
import signal
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from tqdm import tqdm

from ..devices import fastest_precision
from ..encoders.vit import SubCellNetwork
from ..encoders.weights import sha256_of_state
from ..errors import AtlasError, BadInput
from ..interrupts import REQUESTS, interrupts_blocked, interrupts_noted
from ..writing import written_whole
from .augment import draw_view, make_view
from .batches import Batches
from .config import OptimizerConfig, PretrainConfig
from .objective import LOSSES, Objective, draw_kept

__all__ = ["CHECKPOINT", "LOG", "Crops", "TrainingData", "device_of_process", "train"]

CHECKPOINT = "checkpoint.pt"
LOG = "log.csv"
LOG_COLUMNS = ("step", "epoch", "loss", *LOSSES, "learning_rate", "gradient_norm", "crops_per_second")
CHECKPOINT_SECONDS = 600
REFERENCE_BATCH = 256  # crops that the learning rate is given for
VIEWS, MASKING, DROPOUT = range(3)  # streams of random numbers

Batch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # crops, masks, labels, cells


class Crops(Protocol):
    """Cells by number; it travels to worker processes."""

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return crops (n, C, H, W) and where the cell is in each, (n, H, W) bool."""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Crops, and for each its antibody and its stratum, cell line and field of view.

    protein: that channel's number. digest: of what the crops were made from.
    """

    crops: Crops
    antibodies: Sequence[str | None]
    strata: Sequence[str]
    protein: int
    digest: str


@dataclass(frozen=True)
class Processes:
    """The processes that share the training; rank 0 writes."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """Return which of `n` rows are this process's."""
        return slice(self.rank * n // self.count, (self.rank + 1) * n // self.count)


@dataclass(frozen=True)
class Steps(Dataset["Batch | AtlasError"]):
    """The batches of a training by their number, this process's share of each.

    What cannot be read comes as the error, which a worker process would otherwise wrap in its traceback.
    """

    crops: Crops
    batches: Batches
    share: slice

    def __getitem__(self, step: int) -> Batch | AtlasError:
        indices, labels = self.batches.batch(step)
        try:
            crops, masks = self.crops.read(indices[self.share])
        except AtlasError as exc:
            return exc
        return crops, masks, labels[self.share], indices[self.share]


def train(
    network: SubCellNetwork, config: PretrainConfig, *, data: TrainingData, out: Path, device: str, workers: int = 0,
    progress: bool = True,
) -> Batches | None:  # fmt: skip
    """Train `network` in place as `config` says; return on what batches, None in all but the first process.

    The log and checkpoints go into `out`; a checkpoint that is there is gone on from. workers: processes that read
    crops, 0 reads in this one. Raise BadInput when `out` holds another training, and AtlasError when a loss is not
    finite or on an interrupt, which saves first.
    """
    with torchrun(device) as processes:
        training = Training(network, config, data, out, processes)
        training.run(workers=workers, progress=progress)
        return training.batches if processes.first else None


class Training:
    """What changes while it goes on: weights, the optimizer's state, the number of the step."""

    def __init__(
        self, network: SubCellNetwork, config: PretrainConfig, data: TrainingData, out: Path, processes: Processes
    ) -> None:
        self.config, self.data, self.out, self.processes = config, data, out, processes
        batches = config.batches
        self.batches = Batches(
            data.antibodies,
            data.strata,
            n_antibodies=batches.antibodies,
            n_cells=batches.cells,
            min_cells=batches.fewest_cells,
            seed=config.seed,
        )
        self.n_crops = batches.antibodies * batches.cells
        if self.n_crops % processes.count:
            msg = f"A batch of {self.n_crops} crops cannot be shared evenly by {processes.count} processes."
            raise BadInput(f"{msg}\nChange antibodies or cells in [batches], or the number of processes.")
        self.n_steps = config.optimizer.epochs * self.batches.steps_per_epoch
        self.halves = config.optimizer.precision == "bfloat16" == fastest_precision(processes.device.type)
        self.begun = sha256_of_state(network)
        objective = Objective(network, config.objective, seed=config.seed)
        self.objective = objective.to(processes.device).train()
        self.optimizer = make_optimizer(self.objective, config.optimizer)
        self.step = 0

    def run(self, *, workers: int, progress: bool) -> None:
        """Go on to the last step."""
        self.out.mkdir(parents=True, exist_ok=True)
        self.resume()
        if progress and self.processes.first:
            tqdm.write(self.summary(), file=sys.stderr)
        model: nn.Module = self.objective
        if dist.is_initialized():
            devices = [self.processes.device] if self.processes.device.type == "cuda" else None
            model = DistributedDataParallel(model, device_ids=devices)
        saved = time.monotonic()
        bar = tqdm(
            initial=self.step, total=self.n_steps, unit="step", disable=not (progress and self.processes.first),
            mininterval=0.5 if sys.stderr.isatty() else 30.0, dynamic_ncols=True,
        )  # fmt: skip
        with (
            interrupts_noted() as interrupted,
            bar,
            Log(self.out / LOG, self.step, shown=self.processes.first) as log,
            closing(self.share_of_batches(workers)) as batches,
        ):
            began = time.monotonic()
            for batch in batches:
                try:
                    losses, norm = self.take_step(model, *batch)
                except torch.OutOfMemoryError as exc:
                    raise AtlasError(self.too_large()) from exc
                row = self.agree({**losses, "gradient": norm, "stop": float(interrupted())})
                stop = row.pop("stop") > 0
                if not all(np.isfinite(value) for value in row.values()):
                    self.refuse(row)
                norm = row.pop("gradient")
                now = time.monotonic()
                log.write(self.row(row, norm, self.n_crops / (now - began)))
                began = now
                self.step += 1
                bar.update()
                bar.set_postfix({name: f"{value:.3f}" for name, value in row.items()}, refresh=False)
                if stop or now - saved > CHECKPOINT_SECONDS or self.step == self.n_steps:
                    self.save()
                    saved = now
                if stop and self.step < self.n_steps:
                    msg = f"Interrupted after step {self.step} of {self.n_steps}; it is saved."
                    raise AtlasError(f"{msg} Run the same command again to go on.")

    def summary(self) -> str:
        """Say what it trains on, what it leaves out, and where it begins."""
        batches, left_out = self.batches, self.batches.left_out
        lines = [
            f"{len(batches.antibodies)} antibodies, {batches.steps_per_epoch} steps of {self.n_crops} crops an epoch."
        ]
        if left_out.n_antibodies_few or left_out.n_cells_unknown:
            lines.append(
                f"Left out: {left_out.n_antibodies_few} antibodies of fewer than {self.config.batches.fewest_cells} "
                f"cells, {left_out.n_cells_unknown} cells of no known antibody."
            )
        if self.config.optimizer.precision == "bfloat16" and not self.halves:
            lines.append("This processor does not multiply bfloat16: the training is in float32.")
        if self.step:
            lines.append(f"Going on after step {self.step} of {self.n_steps}.")
        return "\n".join(lines)

    def share_of_batches(self, workers: int) -> Generator[Batch, None, None]:
        """Yield this process's share of every batch that is left."""
        loader = DataLoader(
            Steps(self.data.crops, self.batches, self.processes.share(self.n_crops)),
            batch_size=None,
            sampler=range(self.step, self.n_steps),
            num_workers=workers,
            multiprocessing_context="spawn" if workers else None,  # torch does not survive a fork
            collate_fn=unchanged,
            worker_init_fn=leave_requests_to_parent,
        )
        with interrupts_blocked():
            batches = iter(loader)
        try:
            for batch in batches:
                if isinstance(batch, AtlasError):
                    raise batch
                yield batch
        finally:
            if isinstance(batches, _MultiProcessingDataLoaderIter):
                end_readers(batches)

    def take_step(
        self, model: nn.Module, crops: np.ndarray, masks: np.ndarray, labels: np.ndarray, cells: np.ndarray
    ) -> tuple[dict[str, float], float]:
        """Change the weights by one batch; return the losses and the length of the gradient before it was clipped."""
        optimizer, device = self.config.optimizer, self.processes.device
        torch.manual_seed(one_seed(self.config.seed, DROPOUT, self.step, self.processes.rank))
        first, second = self.views(crops, masks)
        kept = self.kept().to(device) if self.objective.decoder else None
        numbers = [torch.from_numpy(part).to(device) for part in (labels, cells)]
        with torch.autocast(device.type, torch.bfloat16, enabled=self.halves):
            losses: dict[str, Tensor] = model(first, second, *numbers, kept)
        self.optimizer.zero_grad()
        losses["loss"].backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.objective.parameters(), optimizer.clip)
        rate = learning_rate(self.step, self.batches.steps_per_epoch, optimizer, n_crops=self.n_crops)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if torch.isfinite(norm):  # the weights stay usable when it is not, and the training ends
            self.optimizer.step()
        return {name: float(loss.detach()) for name, loss in losses.items()}, float(norm)

    def kept(self) -> Tensor:
        """Return the patches of this process's first views that are seen, (crops, k)."""
        n_patches, ratio = self.objective.network.config.grid**2, self.config.objective.mask_ratio
        kept = draw_kept(self.n_crops, n_patches, ratio, seed=(self.config.seed, MASKING, self.step))
        return kept[self.processes.share(self.n_crops)]

    def views(self, crops: np.ndarray, masks: np.ndarray) -> list[Tensor]:
        """Return the two views of this process's share of a batch."""
        here, spec = self.processes.device, self.objective.network.config
        pixels, inside = (torch.from_numpy(np.ascontiguousarray(part)).to(here) for part in (crops, masks))
        both = self.config.objective.photometric == "both"
        plans = [
            draw_view(
                self.n_crops,
                crops.shape[-1],
                self.config.augmentations,
                n_channels=spec.n_channels,
                protein=self.data.protein,
                photometric=both or number == 1,
                seed=(self.config.seed, VIEWS, self.step, number),
            ).rows(self.processes.share(self.n_crops))
            for number in range(2)
        ]
        return [make_view(pixels, inside, plan) for plan in plans]

    def agree(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the mean of values over the processes, the same for all."""
        if not dist.is_initialized():
            return dict(values)
        total = torch.tensor(list(values.values()), dtype=torch.float64)
        total = total.to(self.processes.device)
        dist.all_reduce(total)
        return dict(zip(values, (total / self.processes.count).tolist(), strict=True))

    def too_large(self) -> str:
        """Say what to do when a GPU's memory does not suffice."""
        own = self.n_crops // self.processes.count
        msg = f"The GPU has too little memory for two views of {own} crops."
        return f"{msg}\nLower antibodies in [batches], or share the batch among more GPUs, by torchrun."

    def row(self, losses: Mapping[str, float], norm: float, rate: float) -> dict[str, float]:
        """Return a row of the log."""
        return {
            "step": self.step,
            "epoch": self.step // self.batches.steps_per_epoch,
            **losses,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "gradient_norm": norm,
            "crops_per_second": round(rate, 1),
        }

    def refuse(self, values: Mapping[str, float]) -> None:
        """Raise AtlasError for losses or a gradient that are not finite."""
        bad = next(name for name, value in values.items() if not np.isfinite(value))
        what = bad if bad in ("loss", "gradient") else f"{bad} loss"
        saved = (self.out / CHECKPOINT).exists()
        kept = f"The last checkpoint stands in {str(self.out)!r}." if saved else "Nothing was saved yet."
        msg = f"At step {self.step} the {what} is {values[bad]}. {kept}"
        raise AtlasError(f'{msg}\nLower learning_rate, or use precision = "float32", in another --out.')

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        if not self.processes.first:
            return
        state = {
            "about": self.about(),
            "step": self.step,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with written_whole(self.out / CHECKPOINT) as part, part.open("wb") as file:
            torch.save(state, file)

    def resume(self) -> None:
        """Take up the checkpoint of this very training, if there is one."""
        path = self.out / CHECKPOINT
        if not path.exists():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            about, step = state["about"], int(state["step"])
            parts = state["objective"], state["optimizer"]
        except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError, OSError) as exc:
            msg = f"The checkpoint {str(path)!r} cannot be read; it is damaged or none.\nDelete it to begin anew."
            raise BadInput(msg) from exc
        if about != self.about():
            msg = f"{str(self.out)!r} holds a training by another configuration, of other weights or on other cells."
            raise BadInput(f"{msg}\nChoose another --out, or delete {CHECKPOINT} there to begin anew.")
        try:
            self.objective.load_state_dict(parts[0])
            self.optimizer.load_state_dict(parts[1])
        except (RuntimeError, ValueError, KeyError) as exc:
            msg = f"The checkpoint {str(path)!r} was written by another version of this package, or is damaged."
            raise BadInput(f"{msg}\nChoose another --out, or delete it to begin anew.") from exc
        self.step = step

    def about(self) -> str:
        """Say which training this is; another one cannot go on from its checkpoint."""
        shape = dataclasses.asdict(self.objective.network.config)
        cells = [self.batches.digest, self.data.digest]
        return json.dumps(
            {**self.config.as_dict(), "network": shape, "begun": self.begun, "cells": cells}, sort_keys=True
        )


class Log:
    """A CSV with one row a step, which a training that goes on takes up at its step."""

    def __init__(self, path: Path, step: int, *, shown: bool) -> None:
        self._file = None
        if shown:
            before: list[dict[str, str]] = []
            if step and path.exists():
                with path.open(newline="", encoding="utf-8") as file:
                    before = [row for row in csv.DictReader(file) if int(row["step"]) < step]
            with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, LOG_COLUMNS, restval="")
                writer.writeheader()
                writer.writerows(before)
            self._file = path.open("a", newline="", encoding="utf-8")
            self._writer = csv.DictWriter(self._file, LOG_COLUMNS, restval="")

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()

    def write(self, row: Mapping[str, float]) -> None:
        """Add a row; it can be read at once."""
        if self._file:
            self._writer.writerow(row)
            self._file.flush()


def leave_requests_to_parent(_: int) -> None:
    """Let a process that reads crops end with its parent, which finishes its step first."""
    for number in REQUESTS:
        signal.signal(number, signal.SIG_IGN)


def end_readers(batches: _MultiProcessingDataLoaderIter) -> None:
    """End the processes that read crops, now.

    torch does it when the iterator is freed. After an error that is in a garbage collection, which closes the queues
    before the readers are told through them; deaf to SIGTERM, they would keep this process from ending.
    """
    batches._shutdown_workers()
    for reader in batches._workers:  # one that hangs on a file
        reader.kill()


def unchanged(batch: object) -> object:
    """Hand a batch through as arrays."""
    return batch


def make_optimizer(objective: Objective, config: OptimizerConfig) -> torch.optim.AdamW:
    """Return AdamW as published: biases and norms of network and decoder do not decay, the heads as they say."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    heads: list[nn.Parameter] = []
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            if name.startswith(("network.pooler", "network.neck", "cell_head", "protein_head")):
                heads.append(parameter)
            else:
                (decayed if parameter.ndim > 1 else free).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": free, "weight_decay": 0.0},
        {"params": heads, "weight_decay": config.head_weight_decay},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.learning_rate, betas=(config.beta1, config.beta2)
    )


def learning_rate(step: int, steps_per_epoch: int, config: OptimizerConfig, *, n_crops: int) -> float:
    """Return the learning rate of a step, counted from 0: it rises over the warm-up, then falls linearly."""
    highest = config.learning_rate * n_crops / REFERENCE_BATCH
    warmup, total = config.warmup_epochs * steps_per_epoch, config.epochs * steps_per_epoch
    if step < warmup:
        return highest * (step + 1) / warmup
    done = (step - warmup) / (total - warmup)
    return highest * (1 - done + done * config.final_share)


def one_seed(*key: int) -> int:
    """Return one seed made of several numbers."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def device_of_process(device: str | None) -> str | None:
    """Return the GPU of this process when `torchrun` started it and a GPU is meant, `device` otherwise."""
    rank = os.environ.get("LOCAL_RANK")
    on_gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
    return f"cuda:{rank}" if rank is not None and on_gpu else device


@contextmanager
def torchrun(device: str) -> Iterator[Processes]:
    """Join the processes that `torchrun` started, if it did; one process otherwise."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(0, 1, torch.device(device))
        return
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield Processes(dist.get_rank(), count, torch.device(device))
    finally:
        gc.collect()  # a model that still holds the group could abort the process at its end
        dist.destroy_process_group()
