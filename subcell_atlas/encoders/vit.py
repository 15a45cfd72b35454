"""The SubCell network: a vision transformer whose tokens are pooled by gated attention.

Gupta et al., "SubCell: proteome-wide vision foundation models for microscopy capture single-cell biology"
(bioRxiv 10.1101/2024.12.06.627299); the transformer is ViT (arXiv:2010.11929) with pre-norm blocks, the pooler gated
attention (arXiv:1802.04712) with a GELU in place of its sigmoid and two heads. One class makes the published
ViT-B/16 and any smaller or larger configuration of it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .specs import NetworkConfig

__all__ = ["SubCellNetwork"]

LAYER_NORM_EPS = 1e-12  # as in the published configuration


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.output = nn.Linear(config.width, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, T, width) to the same shape."""
        query, key, value = (
            layer(tokens).reshape(*tokens.shape[:2], self.n_heads, -1).transpose(1, 2)  # (B, heads, T, head width)
            for layer in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.output(mixed.transpose(1, 2).flatten(-2))  # (B, T, width)


class Block(nn.Module):
    """One transformer block: pre-norm attention and a pre-norm MLP, each added to its input."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.norm_before = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.attention = Attention(config)
        self.norm_after = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.mlp_in = nn.Linear(config.width, config.mlp_width)
        self.mlp_out = nn.Linear(config.mlp_width, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, T, width) to the same shape."""
        tokens = tokens + self.attention(self.norm_before(tokens))
        return tokens + self.mlp_out(functional.gelu(self.mlp_in(self.norm_after(tokens))))


class GatedAttentionPooler(nn.Module):
    """Pool tokens, the class token among them, into one vector a head, and join the heads."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.content = nn.Linear(config.width, config.pooler_width)
        self.gate = nn.Linear(config.width, config.pooler_width)
        self.score = nn.Linear(config.pooler_width, config.pooler_heads)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, T, width) to (B, heads * width)."""
        gated = torch.tanh(self.content(tokens)) * functional.gelu(self.gate(tokens))
        weights = self.score(gated).transpose(1, 2).softmax(dim=-1)  # (B, heads, T)
        return (weights @ tokens).flatten(1)


class SubCellNetwork(nn.Module):
    """Crops in, embeddings out; no normalization of the pictures (see `encoders.encoder`)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions = nn.Parameter(torch.zeros(1, config.grid**2 + 1, config.width))
        self.patches = nn.Conv2d(config.n_channels, config.width, config.patch_size, stride=config.patch_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_blocks))
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.pooler = GatedAttentionPooler(config)

    def forward(self, crops: Tensor) -> Tensor:
        """Map crops (B, C, H, W), normalized, H and W multiples of the patch, to embeddings (B, dim)."""
        patches = self.patches(crops)  # (B, width, H / patch, W / patch)
        positions = self.positions_for(patches.shape[-2], patches.shape[-1])
        tokens = torch.cat([self.class_token.expand(len(crops), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = tokens + positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.pooler(self.norm(tokens))

    def positions_for(self, rows: int, columns: int) -> Tensor:
        """Return the position embeddings (1, 1 + rows * columns, width) of a grid, by bicubic interpolation.

        As the published inference does it: the class token's is left as it is, the patches' are resized to the grid
        with `align_corners=False`.
        """
        grid = self.config.grid
        if (rows, columns) == (grid, grid):
            return self.positions
        stored = self.positions[:, 1:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)  # (1, width, grid, grid)
        resized = functional.interpolate(stored, size=(rows, columns), mode="bicubic", align_corners=False)
        return torch.cat([self.positions[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)
