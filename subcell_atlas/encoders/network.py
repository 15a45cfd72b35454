"""What every network here offers: raw crops are normalized, go through blocks, and their tokens are pooled.

The same few methods serve the embedding that the network's authors publish, any block's output, and all blocks in one
pass; `encoders.encoder` does the rest (checks, batches, precision, device).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .readout import OWN

__all__ = ["MIN_MAX_EPS", "Network", "min_max", "project_patches"]

MIN_MAX_EPS = 1e-6  # as in SubCell's training code


class Network(nn.Module):
    """A transformer over patches, whose tokens are pooled: `own`, `cls` (class token), `patches` (their mean)."""

    own_pooling: str  # what `own` means, for the recipe
    normalization: str  # what `normalize` does, for the recipe
    unused_prefixes: tuple[str, ...] = ()  # of keys that a published checkpoint may hold beside the network's
    blocks: nn.ModuleList

    @staticmethod
    @abstractmethod
    def published_names(name: str) -> tuple[str, ...]:
        """Return the keys of a published checkpoint that make our parameter `name`, joined along the rows."""

    @property
    @abstractmethod
    def poolings(self) -> Mapping[str, int]:
        """The poolings and the length of the embedding that each gives, `own` first."""

    @abstractmethod
    def normalize(self, crops: Tensor) -> Tensor:
        """Map raw crops (B, C, H, W) of any dtype to what `tokens_after` takes, float32."""

    @abstractmethod
    def embed_patches(self, pixels: Tensor) -> Tensor:
        """Map normalized crops to the tokens that the first block takes."""

    def tokens_after(self, pixels: Tensor, blocks: Sequence[int]) -> Iterator[Tensor]:
        """Yield the tokens after each of `blocks`, counted from 1 and ascending; compute none beyond the last."""
        tokens = self.embed_patches(pixels)
        for number, block in enumerate(self.blocks[: blocks[-1]], start=1):
            tokens = block(tokens)
            if number in blocks:
                yield tokens

    @abstractmethod
    def pool(self, tokens: Tensor, pooling: str, *, final_norm: bool) -> Tensor:
        """Pool tokens into (B, poolings[pooling]).

        `final_norm`: whether `cls` and `patches` read tokens that went through the network's last normalization; `own`
        does as its authors do.
        """

    def forward(
        self, pixels: Tensor, *, blocks: Sequence[int], ways: Sequence[tuple[str, bool]] = ((OWN, True),)
    ) -> Tensor:
        """Map normalized crops to the embeddings of `blocks` (B, len(blocks), dim), in one pass.

        ways: poolings, each with its `final_norm` (see `pool`); of several the embeddings stand side by side.
        """
        pooled = [
            torch.cat([self.pool(tokens, pooling, final_norm=norm) for pooling, norm in ways], dim=1)
            for tokens in self.tokens_after(pixels, blocks)
        ]
        return torch.stack(pooled, dim=1)

    @abstractmethod
    def bytes_per_crop(self, height: int, width: int) -> int:
        """Return about how much memory one crop of a batch takes at most, beside the weights."""

    def trim(self, n_blocks: int) -> None:
        """Drop every block after the first `n_blocks`."""
        del self.blocks[n_blocks:]

    @abstractmethod
    def use_precision(self, dtype: torch.dtype) -> None:
        """Compute the blocks in `dtype`, a half precision."""


def project_patches(pixels: Tensor, patches: nn.Conv2d, *, in_half: bool) -> Tensor:
    """Cut (B, C, H, W) into patches and project each, (B, rows * columns, width) float32.

    By a matrix product, which is exact in float32 on every device (a convolution on a GPU rounds to TF32). `in_half`
    lets a GPU compute it in float16, whose 11 bits hold pixels between 0 and 1; bfloat16's 8 do not.
    """
    side = patches.kernel_size[0]
    rows, columns = pixels.shape[-2] // side, pixels.shape[-1] // side
    cut = pixels.reshape(len(pixels), -1, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
    cut = cut.reshape(len(pixels), rows * columns, -1)  # (B, rows * columns, C * side * side)
    weight, bias = patches.weight.flatten(1), patches.bias
    assert bias is not None
    if in_half and pixels.is_cuda:
        return functional.linear(cut.half(), weight.half(), bias.half()).float()
    return functional.linear(cut, weight, bias)


def min_max(crops: Tensor) -> Tensor:
    """Scale each crop of (B, C, H, W) to [0, 1], float32, by the minimum and maximum over all its channels together."""
    pixels = crops.float()
    low = pixels.amin(dim=(1, 2, 3), keepdim=True)
    high = pixels.amax(dim=(1, 2, 3), keepdim=True)
    return (pixels - low).div_(high - low + MIN_MAX_EPS)
