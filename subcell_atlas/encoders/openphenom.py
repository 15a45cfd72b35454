"""The OpenPhenom network: a vision transformer that takes any channels, each cut into patches of its own.

Kraus et al., "Masked Autoencoders for Microscopy are Scalable Learners of Cellular Biology" (arXiv:2404.10242); the
published encoder is a ViT-S/16 of parallel blocks as in arXiv:2302.05442 (attention and MLP side by side, queries and
keys normalized), with layer scale. This is an implementation of our own; the published weights come under a licence of
their own, for non-commercial use.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import BadInput
from .network import Network, project_patches
from .readout import OWN
from .specs import OpenPhenomConfig

__all__ = ["OpenPhenomNetwork"]

LAYER_NORM_EPS = 1e-6  # timm's default, which the published encoder has
INSTANCE_NORM_EPS = 1e-5
LAYER_SCALE = 1e-4  # of an untrained network
WAVELENGTHS = 10000.0  # the longest wave of the positions, in units of the shortest
PREFIX = "encoder.vit_backbone."

# our module path or parameter -> the published name behind the prefix; `N` stands for the number of a block
PUBLISHED_NAMES = {
    "class_token": "cls_token",
    "positions": "pos_embed",
    "patches": "patch_embed.proj",
    "blocks.N.norm": "blocks.N.in_norm",
    "blocks.N.mlp_and_qkv": "blocks.N.in_proj",
    "blocks.N.mlp_bias": "blocks.N.mlp_bias",
    "blocks.N.query_norm": "blocks.N.q_norm",
    "blocks.N.key_norm": "blocks.N.k_norm",
    "blocks.N.attention_out": "blocks.N.attn_out_proj",
    "blocks.N.mlp_out": "blocks.N.mlp_out_proj",
    "blocks.N.scale": "blocks.N.ls.gamma",
    "norm": "fc_norm",
}


class ParallelBlock(nn.Module):
    """One transformer block: attention and MLP read the same normalized tokens, and their scaled sum is added."""

    def __init__(self, config: OpenPhenomConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.widths = [config.mlp_width, config.width, config.width, config.width]
        head_width = config.width // config.n_heads
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.mlp_and_qkv = nn.Linear(config.width, sum(self.widths), bias=False)
        self.mlp_bias = nn.Parameter(torch.zeros(config.mlp_width))
        self.query_norm = nn.LayerNorm(head_width, eps=LAYER_NORM_EPS)
        self.key_norm = nn.LayerNorm(head_width, eps=LAYER_NORM_EPS)
        self.attention_out = nn.Linear(config.width, config.width)
        self.mlp_out = nn.Linear(config.mlp_width, config.width)
        self.scale = nn.Parameter(torch.full((config.width,), LAYER_SCALE))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, T, width) to the same shape."""
        hidden, *qkv = self.mlp_and_qkv(self.norm(tokens)).split(self.widths, dim=-1)
        query, key, value = (part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for part in qkv)
        mixed = functional.scaled_dot_product_attention(self.query_norm(query), self.key_norm(key), value)
        attended = self.attention_out(mixed.transpose(1, 2).flatten(-2))  # (B, heads, T, head width) -> (B, T, width)
        return tokens + self.scale * (attended + self.mlp_out(functional.gelu(hidden + self.mlp_bias)))


class OpenPhenomNetwork(Network):
    """Crops of any 1 to `max_channels` channels in, embeddings out.

    Poolings: `own`, the mean over all patch tokens, and `channels`, such means for each channel, joined, both without
    the last normalization, as the authors publish them; `cls` and `patches` are normalized after pooling.
    """

    own_pooling = "mean of patches, no norm"
    normalization = "each channel to mean 0 and variance 1"
    unused_prefixes = ("decoder.", "encoder_decoder_proj.", "decoder_pred.")

    def __init__(self, config: OpenPhenomConfig) -> None:
        super().__init__()
        if not 1 <= config.n_channels <= config.max_channels:
            raise BadInput(f"OpenPhenom takes 1 to {config.max_channels} channels, not {config.n_channels}.")
        self.config = config
        self.positions: Tensor
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.register_buffer("positions", fixed_positions(config))
        self.patches = nn.Conv2d(1, config.width, config.patch_size, stride=config.patch_size)
        self.blocks = nn.ModuleList(ParallelBlock(config) for _ in range(config.n_blocks))
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)

    @staticmethod
    def published_names(name: str) -> tuple[str, ...]:
        """Return the published name of one of our parameters, such as `blocks.3.mlp_out.weight`."""
        number = name.split(".")[1] if name.startswith("blocks.") else "N"
        name = name.replace(f".{number}.", ".N.", 1)
        module, _, leaf = name.rpartition(".")
        published = PUBLISHED_NAMES.get(name) or f"{PUBLISHED_NAMES[module]}.{leaf}"
        return (PREFIX + published.replace(".N.", f".{number}."),)

    @property
    def poolings(self) -> Mapping[str, int]:
        """See Network."""
        width = self.config.width
        return {OWN: width, "cls": width, "patches": width, "channels": width * self.config.n_channels}

    def normalize(self, crops: Tensor) -> Tensor:
        """Bring each channel of each crop to mean 0 and variance 1.

        The network was made for 0 to 255, and the epsilon is in those units: intensities are taken as they are,
        whatever their depth (larger ones make the epsilon smaller still); of floats up to 1, 1 counts as 255.
        """
        pixels = crops.float()
        if not crops.is_floating_point():
            pixels = pixels / 255
        else:
            highest = pixels.amax(dim=(1, 2, 3), keepdim=True)
            pixels = torch.where(highest > 1, pixels / 255, pixels)
        return functional.instance_norm(pixels, eps=INSTANCE_NORM_EPS)

    def embed_patches(self, pixels: Tensor) -> Tensor:
        """Map (B, C, H, W), H and W the picture's of the spec, to tokens (B, 1 + C * patches, width).

        After the class token come the patches of the first channel row by row, then those of the second, …
        """
        n, dtype = len(pixels), self.norm.weight.dtype
        single = pixels.flatten(0, 1).unsqueeze(1)  # (B * C, 1, H, W)
        tokens = project_patches(single, self.patches, in_half=False).reshape(n, -1, self.config.width)
        tokens = torch.cat([self.class_token.expand(n, -1, -1), tokens], dim=1)  # (B, 1 + C * patches, width)
        return (tokens + self.positions[:, : tokens.shape[1]]).to(dtype)

    def pool(self, tokens: Tensor, pooling: str, *, final_norm: bool) -> Tensor:
        """Pool the tokens (B, T, width) of a block into (B, poolings[pooling])."""
        if pooling == "channels":
            per_channel = tokens[:, 1:].reshape(len(tokens), self.config.n_channels, -1, self.config.width)
            return per_channel.mean(dim=2).flatten(1)  # (B, C, patches, width) -> (B, C * width)
        pooled = tokens[:, 0] if pooling == "cls" else tokens[:, 1:].mean(dim=1)
        return self.norm(pooled) if final_norm and pooling != OWN else pooled

    def bytes_per_crop(self, height: int, width: int) -> int:
        """See Network. The peak is inside a block: the tokens, their joint projection, and the MLP's hidden layer."""
        config = self.config
        tokens = 1 + config.n_channels * (height // config.patch_size) * (width // config.patch_size)
        units = 8 * config.width + 4 * config.mlp_width
        pixels = config.n_channels * height * width
        return tokens * units * self.norm.weight.element_size() + pixels * 14  # raw, float32, scaled, normalized

    def use_precision(self, dtype: torch.dtype) -> None:
        """Compute all but the patches, whose pixels need more than 8 bits, in `dtype`."""
        for module in (self.blocks, self.norm):
            module.to(dtype)


def fixed_positions(config: OpenPhenomConfig) -> Tensor:
    """Return the positions of all tokens, (1, 1 + max_channels * patches, width): 0 for the class token.

    The same for each channel: waves over the row, sines then cosines, and over the column likewise.
    """
    side, n_waves = config.image_size // config.patch_size, config.width // 4
    frequencies = WAVELENGTHS ** -(torch.arange(n_waves) / n_waves)
    angles = torch.arange(side)[:, None] * frequencies  # (side, waves)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # (side, width / 2)
    rows, columns = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    grid = torch.cat([rows, columns], dim=2).flatten(0, 1)  # (patches, width)
    return torch.cat([torch.zeros(1, config.width), grid.repeat(config.max_channels, 1)]).unsqueeze(0)
