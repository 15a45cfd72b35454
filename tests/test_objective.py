"""SubCell's objective around a network, and features that several processes share."""

from __future__ import annotations

import dataclasses
import gc
import os
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel

from subcell_atlas.encoders.specs import NetworkConfig
from subcell_atlas.encoders.vit import SubCellNetwork
from subcell_atlas.pretraining.config import ObjectiveConfig
from subcell_atlas.pretraining.losses import cut_patches, nt_xent, sup_con
from subcell_atlas.pretraining.objective import LOSSES, Objective, draw_kept, initialize, sine_positions

SHAPE = NetworkConfig(
    n_channels=3, image_size=32, patch_size=8, width=12, n_blocks=2, n_heads=3, mlp_width=20, pooler_width=7
)
NECK = dataclasses.replace(SHAPE, neck=(14, 10))
STEM = dataclasses.replace(NECK, stem=(6, 8, 12))
CONFIG = ObjectiveConfig(
    projection_hidden=16,
    projection_dim=8,
    decoder_width=8,
    decoder_blocks=1,
    decoder_heads=2,
    decoder_mlp_width=16,
    pooler_dropout=0.0,
)


def make_objective(config: ObjectiveConfig = CONFIG, shape: NetworkConfig = SHAPE) -> Objective:
    network = SubCellNetwork(shape)
    initialize(network, seed=3)
    return Objective(network, config, seed=4).train()


def make_batch(n: int = 8):
    generator = torch.Generator().manual_seed(5)
    first, second = (torch.rand(n, 3, 32, 32, generator=generator) for _ in range(2))
    labels = torch.arange(n) // 2
    return first, second, labels, torch.arange(n), draw_kept(n, 16, 0.25, seed=(1, 2))


def test_the_weighted_sum_of_the_three_losses_is_the_loss():
    losses = make_objective()(*make_batch())
    assert set(losses) == {*LOSSES, "loss"}
    expected = 1.0 * losses["reconstruction"] + 1.0 * losses["cell"] + 0.1 * losses["protein"]
    assert torch.allclose(losses["loss"], expected)


@pytest.mark.parametrize("n_layers", [0, 1, 2])
def test_a_head_has_the_hidden_layers_it_is_given(n_layers: int):
    head = make_objective(dataclasses.replace(CONFIG, projection_layers=n_layers), STEM).protein_head
    widths = [10, *n_layers * [CONFIG.projection_hidden], CONFIG.projection_dim]
    linear = [tuple(part.weight.shape) for part in head if isinstance(part, torch.nn.Linear)]
    assert linear == [(b, a) for a, b in pairwise(widths)]
    assert len(head) == 3 * n_layers + 1


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [SHAPE, STEM])
def test_a_loss_of_weight_0_is_not_computed_and_nothing_is_left_untrained(name: str, shape: NetworkConfig):
    config = dataclasses.replace(CONFIG, **{other: 0.0 for other in LOSSES if other != name})
    objective = make_objective(config, shape=shape)
    *batch, kept = make_batch()
    losses = objective(*batch, kept if name == "reconstruction" else None)
    assert set(losses) == {name, "loss"}
    losses["loss"].backward()
    without = [key for key, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert not without


def test_the_losses_are_those_of_the_pooled_views():
    objective = make_objective()
    first, second, labels, cells, kept = make_batch()
    losses = objective(first, second, labels, cells, kept)
    network = objective.network
    seen = torch.zeros(8, 16, dtype=torch.bool).scatter_(1, kept, value=True)
    tokens = network.embed_patches(first)
    chosen = torch.stack([torch.cat([own[:1], own[1:][shown]]) for own, shown in zip(tokens, seen, strict=True)])
    for block in network.blocks:
        chosen = block(chosen)
    one = network.pooler(network.norm(chosen))
    other = network(second, blocks=(2,))[:, 0]
    fresh = make_objective()  # batch normalization keeps statistics only; the output is that of the batch
    projected = [fresh.cell_head(pooled) for pooled in (one, other)]
    assert torch.allclose(losses["cell"], nt_xent(*projected, temperature=0.1), atol=1e-5)
    projected = torch.cat([fresh.protein_head(pooled) for pooled in (one, other)])
    assert torch.allclose(losses["protein"], sup_con(projected, labels.repeat(2), temperature=0.1), atol=1e-5)


@pytest.mark.parametrize("shape", [SHAPE, STEM])
def test_what_is_hidden_is_not_seen(shape: NetworkConfig):
    objective = make_objective(shape=shape).eval()
    first, _, _, _, kept = make_batch()
    shown = torch.zeros(8, 16).scatter_(1, kept, 1.0)
    elsewhere = nn.functional.interpolate(1 - shown.reshape(8, 1, 4, 4), scale_factor=8)
    changed = first + elsewhere * torch.rand(8, 3, 32, 32)
    same, other = (objective._tokens(view, kept) for view in (first, changed))
    assert torch.equal(same, other)
    assert not torch.allclose(objective._tokens(first, None), objective._tokens(changed, None))


def test_the_decoder_returns_each_patch_to_its_place():
    objective = make_objective()
    kept = draw_kept(2, 16, 0.25, seed=(7,))
    tokens = torch.zeros(2, 13, 12)
    before = objective.decoder(tokens, kept)
    tokens[0, 1 + 4] = 1.0  # the fifth patch seen
    seen = (objective.decoder(tokens, kept) - before).abs().sum(-1)
    assert seen.argmax(dim=1)[0] == kept[0, 4]
    assert before.shape == cut_patches(torch.zeros(2, 3, 32, 32), 8).shape


def test_the_patches_seen_are_as_many_as_the_ratio_says_and_the_same_for_the_same_seed():
    kept = draw_kept(50, 16, 0.25, seed=(1,))
    assert kept.shape == (50, 12)
    assert (kept.diff(dim=1) > 0).all()
    assert torch.equal(kept, draw_kept(50, 16, 0.25, seed=(1,)))
    assert not torch.equal(kept, draw_kept(50, 16, 0.25, seed=(2,)))
    counts = np.bincount(draw_kept(4000, 16, 0.25, seed=(3,)).flatten(), minlength=16) / 4000
    assert np.abs(counts - 0.75).max() < 0.04  # six standard deviations


def test_positions_tell_rows_from_columns():
    positions = sine_positions(17, 12)[0]
    assert torch.equal(positions[0], torch.zeros(12))
    grid = positions[1:].reshape(4, 4, 12)
    assert torch.allclose(grid[2, 3, :3], torch.sin(3.0 * torch.tensor([1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3)])))
    assert torch.allclose(grid[2, 3, 6:9], torch.sin(2.0 * torch.tensor([1.0, 10_000 ** (-1 / 3), 10_000 ** (-2 / 3)])))
    assert torch.equal(grid[:, 0, 6:], grid[:, 3, 6:])
    assert torch.equal(grid[0, :, :6], grid[3, :, :6])


def test_fixed_positions_are_not_trained():
    assert not make_objective().network.positions.requires_grad
    assert make_objective(dataclasses.replace(CONFIG, fixed_positions=False)).network.positions.requires_grad


def test_dropout_of_the_pooler_acts_in_training_only():
    objective = make_objective(dataclasses.replace(CONFIG, pooler_dropout=0.5))
    tokens = torch.randn(2, 5, 12)
    pooler = objective.network.pooler
    assert not torch.equal(pooler(tokens), pooler(tokens))
    pooler.eval()
    assert torch.equal(pooler(tokens), pooler(tokens))


def one_of_two(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    share_a_batch(rank, folder)  # frees the model before its process group
    gc.collect()
    dist.barrier()
    dist.destroy_process_group()


def share_a_batch(rank: int, folder: str) -> None:
    objective = make_objective(shape=NECK)
    model = DistributedDataParallel(objective)
    own = slice(4 * rank, 4 * rank + 4)
    losses = model(*(part[own] for part in make_batch()))
    losses["loss"].backward()
    total = losses["loss"].detach().clone()
    dist.all_reduce(total)
    if rank == 0:
        gradients = {name: p.grad for name, p in objective.named_parameters() if p.requires_grad}
        buffers = dict(objective.named_buffers())
        torch.save({"loss": total / 2, "gradients": gradients, "buffers": buffers}, f"{folder}/two.pt")


def test_two_processes_have_the_loss_and_the_gradients_of_one_with_the_joined_batch(tmp_path, free_port: int):
    spawn(one_of_two, args=(free_port, str(tmp_path)), nprocs=2)
    two = torch.load(tmp_path / "two.pt")
    objective = make_objective(shape=NECK)
    loss = objective(*make_batch())["loss"]
    loss.backward()
    assert torch.allclose(two["loss"], loss, atol=1e-6)
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(two["gradients"][name], parameter.grad, rtol=1e-3, atol=1e-4), name
    for name, buffer in objective.named_buffers():
        assert torch.allclose(two["buffers"][name], buffer, atol=1e-6), name
