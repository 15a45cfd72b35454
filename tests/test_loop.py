"""The training loop: exact resume, several processes, what it logs and when it stops."""

from __future__ import annotations

import csv
import dataclasses
import multiprocessing
import os
import signal
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from test_objective import CONFIG, SHAPE
from torch.multiprocessing import spawn

from subcell_atlas.encoders.vit import SubCellNetwork
from subcell_atlas.errors import AtlasError, BadInput
from subcell_atlas.pretraining import loop
from subcell_atlas.pretraining.augment import Augmentations
from subcell_atlas.pretraining.config import BatchConfig, OptimizerConfig, PretrainConfig
from subcell_atlas.pretraining.loop import (
    LOG,
    TrainingData,
    device_of_process,
    learning_rate,
    make_optimizer,
    train,
)
from subcell_atlas.pretraining.objective import Objective, initialize

TRAINING = PretrainConfig(
    encoder="tiny",
    seed=11,
    objective=CONFIG,
    batches=BatchConfig(antibodies=4, cells=2),
    augmentations=Augmentations(),
    optimizer=OptimizerConfig(learning_rate=0.05, epochs=4, warmup_epochs=1),
)


@dataclass(frozen=True)
class FakeCrops:
    """8 antibodies of 4 cells; an antibody's cells are bright in the same row."""

    broken_at: int | None = None

    def __len__(self) -> int:
        return 32

    def read(self, indices):
        rng = np.random.default_rng(0)
        every = rng.integers(0, 80, (32, 3, 32, 32), dtype=np.uint8)
        for cell in range(32):
            every[cell, 2, 4 * (cell // 4) : 4 * (cell // 4) + 4] += 150
        return every[indices], np.ones((len(indices), 32, 32), bool)


class Unreadable(FakeCrops):
    """Crops whose file was damaged."""

    def read(self, indices):
        raise BadInput("The crops are damaged.")


def make_data() -> TrainingData:
    antibodies = [f"AB{cell // 4}" for cell in range(32)]
    return TrainingData(
        crops=FakeCrops(), antibodies=antibodies, strata=[str(i % 2) for i in range(32)], protein=2, digest="fake"
    )


def make_network(seed: int = 1) -> SubCellNetwork:
    network = SubCellNetwork(SHAPE)
    initialize(network, seed=seed)
    return network


def run(out, config: PretrainConfig = TRAINING, *, network: SubCellNetwork | None = None, workers: int = 0):
    network = network or make_network()
    train(network, config, data=make_data(), out=out, device="cpu", workers=workers, progress=False)
    with (out / LOG).open(encoding="utf-8") as file:
        return network, list(csv.DictReader(file))


def without_times(rows):
    return [{key: value for key, value in row.items() if key != "crops_per_second"} for row in rows]


def test_the_losses_fall_on_cells_that_can_be_told_apart(tmp_path):
    config = dataclasses.replace(
        TRAINING,
        objective=dataclasses.replace(CONFIG, protein=1.0),
        augmentations=Augmentations(remove_channel=0, noise_chance=0, erase_chance=0),
        optimizer=OptimizerConfig(learning_rate=0.3, epochs=40, warmup_epochs=2),
    )
    _, rows = run(tmp_path, config)
    for name in ("reconstruction", "cell", "protein"):
        values = [float(row[name]) for row in rows]
        assert np.mean(values[-10:]) < np.mean(values[:10])


def test_a_killed_training_goes_on_to_the_same_losses_and_weights(tmp_path, monkeypatch):
    whole, expected = run(tmp_path / "whole")
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)  # after every step

    class Killed(BaseException):
        pass

    take_step = loop.Training.take_step

    def dies_in_step_5(self, *args):
        if self.step == 5:
            raise Killed
        return take_step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "take_step", dies_in_step_5)
        with pytest.raises(Killed):
            run(tmp_path / "killed")
    torch.manual_seed(99)  # nothing hangs on the state of the process
    resumed, rows = run(tmp_path / "killed")
    assert without_times(rows) == without_times(expected)
    assert [int(row["step"]) for row in rows] == list(range(8))
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_an_interrupt_finishes_the_step_saves_and_says_how_to_go_on(tmp_path, monkeypatch):
    take_step = loop.Training.take_step

    def interrupted_in_step_2(self, *args):
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return take_step(self, *args)

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "take_step", interrupted_in_step_2)
        with pytest.raises(AtlasError, match=r"Interrupted after step 3 of 8; it is saved\. Run the same command"):
            run(tmp_path / "stopped")
    assert signal.getsignal(signal.SIGINT) is before
    _, rows = run(tmp_path / "stopped")
    _, expected = run(tmp_path / "whole")
    assert without_times(rows) == without_times(expected)


def test_an_interrupt_that_reaches_the_readers_too_loses_nothing(tmp_path, monkeypatch):
    take_step = loop.Training.take_step

    def interrupted_in_step_2(self, *args):
        if self.step == 2:
            for reader in multiprocessing.active_children():
                os.kill(reader.pid, signal.SIGINT)
                os.kill(reader.pid, signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
        return take_step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Training, "take_step", interrupted_in_step_2)
        with pytest.raises(AtlasError, match=r"Interrupted after step 3 of 8; it is saved"):
            run(tmp_path, workers=2)
    assert torch.load(tmp_path / loop.CHECKPOINT)["step"] == 3


def test_a_second_interrupt_breaks_off(tmp_path, monkeypatch):
    def interrupted_twice(self, *args):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError

    monkeypatch.setattr(loop.Training, "take_step", interrupted_twice)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_cells_that_cannot_be_read_are_told_of_in_their_own_words(tmp_path, workers: int):
    data = dataclasses.replace(make_data(), crops=Unreadable())
    with pytest.raises(BadInput) as caught:
        train(make_network(), TRAINING, data=data, out=tmp_path, device="cpu", workers=workers, progress=False)
    assert str(caught.value) == "The crops are damaged."
    assert not multiprocessing.active_children()  # while the traceback is held; a reader would keep Python from ending


def test_a_gpu_whose_memory_does_not_suffice_is_told_of(tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate …")

    monkeypatch.setattr(loop.Training, "take_step", full)
    with pytest.raises(AtlasError, match=r"too little memory for two views of 8 crops\.\nLower antibodies"):
        run(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop.torch, "save", full)
    with pytest.raises(BadInput, match=r"checkpoint\.pt' cannot be written: No space left on device"):
        run(tmp_path)
    assert not [path.name for path in tmp_path.iterdir() if path.name != LOG]


def test_each_process_of_torchrun_takes_its_own_gpu(monkeypatch):
    assert device_of_process("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert device_of_process("cuda") == "cuda:3"
    assert device_of_process("cpu") == "cpu"
    monkeypatch.setattr(loop.torch.cuda, "is_available", lambda: True)
    assert device_of_process(None) == "cuda:3"


HALVED = dataclasses.replace(TRAINING, optimizer=dataclasses.replace(TRAINING.optimizer, precision="bfloat16"))


def test_half_precision_gives_nearly_the_same_losses(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "fastest_precision", lambda device: "bfloat16")
    (_, whole), (_, halved) = run(tmp_path / "float32"), run(tmp_path / "bfloat16", HALVED)
    assert float(whole[0]["loss"]) == pytest.approx(float(halved[0]["loss"]), rel=0.02)
    assert whole[0]["loss"] != halved[0]["loss"]


def test_a_processor_without_bfloat16_trains_in_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "fastest_precision", lambda device: "float32")
    (_, whole), (_, halved) = run(tmp_path / "float32"), run(tmp_path / "bfloat16", HALVED)
    assert without_times(whole) == without_times(halved)


def test_worker_processes_read_the_same_batches(tmp_path):
    _, rows = run(tmp_path / "here")
    _, of_workers = run(tmp_path / "workers", workers=2)
    assert without_times(rows) == without_times(of_workers)


def one_of_two(rank: int, port: int, out) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    network = make_network()
    batches = train(network, TRAINING, data=make_data(), out=out, device="cpu", progress=False)
    assert (batches is not None) == (rank == 0)
    if batches:
        assert (len(batches.antibodies), batches.n_used) == (8, len(make_data().antibodies))
        torch.save(network.state_dict(), out / "network.pt")


def test_two_processes_train_as_one_with_the_joined_batch(tmp_path, free_port: int):
    (tmp_path / "two").mkdir()
    spawn(one_of_two, args=(free_port, tmp_path / "two"), nprocs=2)
    network, rows = run(tmp_path / "one")
    with (tmp_path / "two" / LOG).open(encoding="utf-8") as file:
        of_two = list(csv.DictReader(file))
    assert len(of_two) == len(rows) == 8
    for one, two in zip(rows, of_two, strict=True):
        for name in ("loss", "reconstruction", "cell", "protein", "learning_rate"):
            assert float(two[name]) == pytest.approx(float(one[name]), rel=2e-3), (one["step"], name)
    stored = torch.load(tmp_path / "two" / "network.pt")
    for name, tensor in network.state_dict().items():
        if name == "pooler.score.bias":  # a softmax does not change with it: its gradient is rounding, made steps of
            continue
        assert torch.allclose(stored[name], tensor, atol=5e-3), name


def test_another_configuration_or_other_cells_do_not_go_on_from_a_checkpoint(tmp_path):
    run(tmp_path)
    other = dataclasses.replace(TRAINING, seed=12)
    with pytest.raises(BadInput, match=r"another configuration.*\n.*--out"):
        run(tmp_path, other)
    with pytest.raises(BadInput, match="of other weights"):
        run(tmp_path, network=make_network(seed=2))
    data = make_data()
    other_crops = dataclasses.replace(data, digest="other")
    with pytest.raises(BadInput, match="other cells"):
        train(make_network(), TRAINING, data=other_crops, out=tmp_path, device="cpu", progress=False)
    renamed = dataclasses.replace(data, antibodies=[f"{name}x" for name in data.antibodies])
    with pytest.raises(BadInput, match="other cells"):
        train(make_network(), TRAINING, data=renamed, out=tmp_path, device="cpu", progress=False)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04"])
def test_a_damaged_checkpoint_is_named(tmp_path, content: bytes):
    (tmp_path / loop.CHECKPOINT).write_bytes(content)
    with pytest.raises(BadInput, match=r"checkpoint\.pt' cannot be read; .*\nDelete it to begin anew"):
        run(tmp_path)


def test_a_checkpoint_of_another_version_is_named(tmp_path):
    run(tmp_path)
    state = torch.load(tmp_path / loop.CHECKPOINT)
    del state["objective"]["network.class_token"]
    torch.save(state, tmp_path / loop.CHECKPOINT)
    with pytest.raises(BadInput, match=r"was written by another version of this package, or is damaged\.\nChoose"):
        run(tmp_path)


def test_a_loss_that_is_not_finite_ends_it_and_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)
    make_view = loop.make_view

    def broken(pixels, inside, plan):
        view = make_view(pixels, inside, plan)
        return view * float("nan") if broken.calls > 6 else view

    def counting(*args):
        broken.calls += 1
        return broken(*args)

    broken.calls = 0
    monkeypatch.setattr(loop, "make_view", counting)
    with pytest.raises(AtlasError, match=r"At step 3 the [a-z ]+ is nan\. The last checkpoint stands in .*\nLower"):
        run(tmp_path)
    state = torch.load(tmp_path / loop.CHECKPOINT)
    assert state["step"] == 3
    assert all(torch.isfinite(tensor).all() for tensor in state["objective"].values())


def test_a_gradient_that_is_not_finite_ends_it_too(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    with pytest.raises(AtlasError, match=r"At step 0 the gradient is inf\. Nothing was saved yet\."):
        run(tmp_path)


def test_a_batch_that_processes_cannot_share_is_refused(tmp_path, monkeypatch):
    processes = loop.Processes(0, 3, torch.device("cpu"))
    with pytest.raises(BadInput, match=r"8 crops cannot be shared evenly by 3 processes"):
        loop.Training(make_network(), TRAINING, make_data(), tmp_path, processes)


def test_the_learning_rate_rises_over_the_warm_up_and_falls_to_a_thousandth():
    config = OptimizerConfig(learning_rate=1e-4, epochs=300, warmup_epochs=5)
    rates = [learning_rate(step, 10, config, n_crops=896) for step in range(3000)]
    assert rates[49] == pytest.approx(rates[50]) == pytest.approx(3.5e-4)  # as published: 1e-4 for 256 crops
    assert rates[0] == pytest.approx(3.5e-4 / 50)
    assert np.allclose(np.diff(rates[50:]), np.diff(rates[50:])[0])
    assert rates[-1] == pytest.approx(3.5e-4 * (0.001 + 0.999 / 2950))


def test_weights_decay_as_published():
    objective = Objective(make_network(), CONFIG, seed=0)
    groups = make_optimizer(objective, OptimizerConfig()).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    found = {name: decay.get(id(p)) for name, p in objective.named_parameters()}
    assert found["network.blocks.0.mlp_in.weight"] == found["decoder.pixels.weight"] == 0.05
    assert found["network.class_token"] == found["decoder.hidden"] == 0.05
    assert found["network.blocks.0.mlp_in.bias"] == found["network.norm.weight"] == 0.0
    assert found["network.pooler.score.weight"] == found["cell_head.0.bias"] == 0.01
    assert found["network.positions"] is found["decoder.positions"] is None
    assert len(decay) == sum(p.requires_grad for p in objective.parameters())
