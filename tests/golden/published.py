"""Checkpoints in the published SubCell format with made-up numbers, and pictures: the inputs of the golden outputs.

Every number comes from uniform draws of `numpy.random.RandomState`, whose stream is frozen, by sums, products,
quotients and square roots only, so the bits are the same on every machine. The tensors are slices of one long draw.

The scales make the outputs tell mistakes apart: attention is sharp, and the tokens are small, so that a wrong epsilon
in a layer norm shows. The class token starts so small that the epsilon itself shapes its first norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

LETTERS = "rybg"  # microtubules, ER, nucleus, protein
WIDTH, N_BLOCKS, MLP_WIDTH, PATCH, GRID = 768, 12, 3072, 16, 28
POOLER_WIDTH, POOLER_HEADS = 512, 2
HEAD_WIDTHS = {0: (512, 1536), 3: (256, 512), 6: (31, 256)}  # published number of a layer -> (outputs, inputs)

POOL_SIZE = 4_194_301  # a prime above the largest tensor
STEP = 1_000_003  # slices start this far apart, around the end of the draw

HEAD_SEEDS = (0, 1)
ENCODER_SEED = 23  # picked because its pooling gives the class token a visible weight
TOKEN = 0.005  # scale of the tokens, whose standard deviation grows from 0.01 to 0.03
CLASS_TOKEN = 2e-6  # near the square root of the epsilon, 1e-12
ATTENTION = 1.5  # gain of queries and keys
POOLING = 3.5  # gain of the pooling scores


class Draw:
    """Slices of one long uniform draw with mean 0 and variance 1."""

    def __init__(self, seed: int) -> None:
        draws = (np.random.RandomState(seed).random_sample(POOL_SIZE) - 0.5).astype(np.float32)
        self.pool = draws * np.float32(math.sqrt(12))
        self.start = 0

    def tensor(self, *shape: int, scale: float, mean: float = 0.0) -> torch.Tensor:
        size = math.prod(shape)
        self.start = (self.start + STEP) % POOL_SIZE
        values = np.empty(size, dtype=np.float32)
        first = min(size, POOL_SIZE - self.start)
        np.multiply(self.pool[self.start : self.start + first], np.float32(scale), out=values[:first])
        np.multiply(self.pool[: size - first], np.float32(scale), out=values[first:])
        if mean:
            values += np.float32(mean)
        return torch.from_numpy(values.reshape(shape))

    def linear(
        self, name: str, n_out: int, n_in: int, *, gain: float, bias: float
    ) -> Iterator[tuple[str, torch.Tensor]]:
        yield f"{name}.weight", self.tensor(n_out, n_in, scale=gain / math.sqrt(n_in))
        yield f"{name}.bias", self.tensor(n_out, scale=bias)

    def norm(self, name: str, *, gain: float = 1.0) -> Iterator[tuple[str, torch.Tensor]]:
        yield f"{name}.weight", self.tensor(WIDTH, scale=0.25 * gain, mean=gain)
        yield f"{name}.bias", self.tensor(WIDTH, scale=0.25 * gain)


def encoder_state(channels: str) -> dict[str, torch.Tensor]:
    """Return a checkpoint of the encoder that reads `channels`, some letters of 'rybg'.

    It is the four-channel one, less the patch weights of the channels left out.
    """
    draw = Draw(ENCODER_SEED)
    embeddings = "encoder.embeddings"
    positions = draw.tensor(1, GRID**2 + 1, WIDTH, scale=0.7 * TOKEN)
    positions[:, 0] *= CLASS_TOKEN / TOKEN
    state = {
        f"{embeddings}.cls_token": draw.tensor(1, 1, WIDTH, scale=CLASS_TOKEN),
        f"{embeddings}.position_embeddings": positions,
    }
    projection = f"{embeddings}.patch_embeddings.projection"
    weight = draw.tensor(WIDTH, len(LETTERS), PATCH, PATCH, scale=12 * TOKEN / math.sqrt(len(LETTERS) * PATCH**2))
    state[f"{projection}.weight"] = weight[:, [LETTERS.index(letter) for letter in channels]]
    state[f"{projection}.bias"] = draw.tensor(WIDTH, scale=0.3 * TOKEN)
    for number in range(N_BLOCKS):
        block = f"encoder.encoder.layer.{number}"
        for part in ("query", "key"):
            state.update(draw.linear(f"{block}.attention.attention.{part}", WIDTH, WIDTH, gain=ATTENTION, bias=0.2))
        state.update(draw.linear(f"{block}.attention.attention.value", WIDTH, WIDTH, gain=1.0, bias=0.2))
        state.update(draw.linear(f"{block}.attention.output.dense", WIDTH, WIDTH, gain=0.7 * TOKEN, bias=0.1 * TOKEN))
        state.update(draw.linear(f"{block}.intermediate.dense", MLP_WIDTH, WIDTH, gain=2.0, bias=0.2))
        state.update(draw.linear(f"{block}.output.dense", WIDTH, MLP_WIDTH, gain=TOKEN, bias=0.1 * TOKEN))
        state.update(draw.norm(f"{block}.layernorm_before"))
        state.update(draw.norm(f"{block}.layernorm_after"))
    state.update(draw.norm("encoder.layernorm", gain=2.0))
    for part in ("v", "u"):
        state.update(draw.linear(f"pool_model.attention_{part}.1", POOLER_WIDTH, WIDTH, gain=1.0, bias=0.3))
    state.update(draw.linear("pool_model.attention", POOLER_HEADS, POOLER_WIDTH, gain=POOLING, bias=0.5))
    return state


def head_state(seed: int) -> dict[str, torch.Tensor]:
    """Return a checkpoint of a localization head: 1536 numbers in, 31 localizations out."""
    draw = Draw(seed)
    state: dict[str, torch.Tensor] = {}
    for number, (n_out, n_in) in HEAD_WIDTHS.items():
        state.update(draw.linear(str(number), n_out, n_in, gain=1.4, bias=0.3))
    return state


def crops(channels: str, height: int, width: int) -> np.ndarray:
    """Return one picture (1, channels, height, width) float32 in [0, 1]: a masked cell of blobs and grain.

    It is min-max normalized over its channels together, as the published inference does it.
    """
    random = np.random.RandomState(height * 10_000 + width)
    rows = ((np.arange(height) + 0.5) / height)[:, None]
    columns = ((np.arange(width) + 0.5) / width)[None, :]
    cell = (rows - 0.5) ** 2 / 0.45**2 + (columns - 0.5) ** 2 / 0.4**2 < 1
    picture = np.zeros((len(LETTERS), height, width))
    for channel in picture:
        for _ in range(24):
            row, column, brightness = random.random_sample(3)
            radius = 0.04 + 0.25 * random.random_sample()
            squares = ((rows - row) ** 2 + (columns - column) ** 2) / radius**2
            channel += brightness * np.maximum(1 - squares, 0) ** 2
        channel *= 0.7 + 0.6 * random.random_sample((height, width))
    picture = (picture * cell)[[LETTERS.index(letter) for letter in channels]].astype(np.float32)
    low, high = picture.min(), picture.max()
    return ((picture - low) / (high - low + np.float32(1e-6)))[None]
