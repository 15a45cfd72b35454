"""The encoder of an OpenPhenom checkpoint with made-up numbers, and pictures: the inputs of the golden outputs.

Every number but the positions comes from uniform draws of `numpy.random.RandomState`, whose stream is frozen.

The scales make the outputs tell mistakes apart: the blocks change the tokens much, attention is sharp, queries and keys
are so small before their norms that the epsilon shows, and one channel of the pictures is all but dark.
"""

from __future__ import annotations

import math

import numpy as np
import torch

WIDTH, N_BLOCKS, N_HEADS, MLP_WIDTH, PATCH, GRID, MAX_CHANNELS = 384, 12, 6, 1536, 16, 16, 11
PREFIX = "encoder.vit_backbone"
SEED = 5
QUERY_KEY = 0.002  # standard deviation of queries and keys before their norms; squared it is 4 times the epsilon
CLASS_TOKEN = 0.002
DIM_CHANNEL = 1  # of the pictures: 0 or 1 of 255, now and then 2
CONSTANT_CHANNEL = 3  # of the second picture


def state() -> dict[str, torch.Tensor]:
    """Return the 162 tensors by their published names, float32."""
    random = np.random.RandomState(SEED)

    def draw(*shape: int, scale: float, mean: float = 0.0) -> torch.Tensor:
        values = (random.random_sample(shape) - 0.5) * (scale * math.sqrt(12)) + mean
        return torch.from_numpy(values.astype(np.float32))

    def norm(name: str, width: int, *, gain: float = 1.0) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": draw(width, scale=0.3 * gain, mean=gain), f"{name}.bias": draw(width, scale=0.2)}

    tensors = {
        "cls_token": draw(1, 1, WIDTH, scale=CLASS_TOKEN),
        "pos_embed": torch.from_numpy(positions()),
        "patch_embed.proj.weight": draw(WIDTH, 1, PATCH, PATCH, scale=1 / PATCH),
        "patch_embed.proj.bias": draw(WIDTH, scale=0.2),
    }
    for number in range(N_BLOCKS):
        block = f"blocks.{number}"
        projection = draw(MLP_WIDTH + 3 * WIDTH, WIDTH, scale=1.2 / math.sqrt(WIDTH))
        projection[MLP_WIDTH : MLP_WIDTH + 2 * WIDTH] *= QUERY_KEY
        tensors |= norm(f"{block}.in_norm", WIDTH)
        tensors |= {f"{block}.in_proj.weight": projection, f"{block}.mlp_bias": draw(MLP_WIDTH, scale=0.3)}
        tensors |= norm(f"{block}.q_norm", WIDTH // N_HEADS, gain=1.5)
        tensors |= norm(f"{block}.k_norm", WIDTH // N_HEADS, gain=1.5)
        tensors |= {
            f"{block}.attn_out_proj.weight": draw(WIDTH, WIDTH, scale=1.5 / math.sqrt(WIDTH)),
            f"{block}.attn_out_proj.bias": draw(WIDTH, scale=0.2),
            f"{block}.mlp_out_proj.weight": draw(WIDTH, MLP_WIDTH, scale=1 / math.sqrt(MLP_WIDTH)),
            f"{block}.mlp_out_proj.bias": draw(WIDTH, scale=0.2),
            f"{block}.ls.gamma": draw(WIDTH, scale=0.1, mean=0.4),
        }
    tensors |= norm("fc_norm", WIDTH)
    return {f"{PREFIX}.{name}": tensor for name, tensor in tensors.items()}


def positions() -> np.ndarray:
    """Return the fixed positions (1, 1 + 256 * 11, 384): of each patch, sines and cosines of its row and column."""
    n = WIDTH // 4
    values = np.zeros((1 + MAX_CHANNELS * GRID**2, WIDTH))
    for patch in range(GRID**2):
        for wave in range(n):
            row, column = (place * 10000 ** (-wave / n) for place in divmod(patch, GRID))
            waves = math.sin(row), math.cos(row), math.sin(column), math.cos(column)
            values[1 + patch :: GRID**2, wave::n] = waves
    return values[None].astype(np.float32)


def pictures(n_channels: int) -> np.ndarray:
    """Return two pictures (2, C, 256, 256) uint8 of blobs and grain."""
    random = np.random.RandomState(100 + n_channels)
    side = GRID * PATCH
    rows, columns = np.arange(side)[:, None] / side, np.arange(side)[None, :] / side
    found = np.zeros((2, n_channels, side, side))
    for picture in found:
        for channel in picture:
            for _ in range(12):
                row, column, brightness, size = random.random_sample(4)
                squares = ((rows - row) ** 2 + (columns - column) ** 2) / (0.05 + 0.2 * size) ** 2
                channel += 150 * brightness * np.maximum(1 - squares, 0) ** 2
            channel += 25 * random.random_sample((side, side))
    found[:, DIM_CHANNEL] *= 2.5 / found[:, DIM_CHANNEL].max()
    found[1, CONSTANT_CHANNEL] = 90
    return np.clip(found, 0, 255).astype(np.uint8)
