"""Arithmetic and expectations of speed."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from subcell_atlas.encoders import speed
from subcell_atlas.encoders.specs import ENCODERS
from subcell_atlas.encoders.vit import SubCellNetwork


def test_operations_are_those_that_torch_counts():
    config = ENCODERS["subcell-rybg-mae"].network
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        SubCellNetwork(config)(torch.empty(1, 4, 448, 448), blocks=(12,))
    wanted = speed.flops_per_crop(config, 448, 448)
    assert abs(counter.get_total_flops() / wanted - 1) < 0.01
    assert abs(wanted / 158.5e9 - 1) < 0.01


def test_operations_of_a_stem_are_counted_too():
    config = ENCODERS["demo"].network
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        SubCellNetwork(config).eval()(torch.empty(1, 4, 128, 128), blocks=(2,))
    assert abs(counter.get_total_flops() / speed.flops_per_crop(config, 128, 128) - 1) < 0.01


def test_the_expectation_counts_every_block(monkeypatch):
    monkeypatch.setattr(speed, "median_seconds", lambda call, device, **_: call() is None or 0.5)
    spec = ENCODERS["demo"]  # 2 blocks: one with all around it, and one more
    assert speed.expected_speed(spec, "cpu", "float32") == 2 / (2 * 0.5)
