"""The SubCell network: a vision transformer whose tokens are pooled by gated attention.

Gupta et al., "SubCell: proteome-wide vision foundation models for microscopy capture single-cell biology"
(bioRxiv 10.1101/2024.12.06.627299); the transformer is ViT (arXiv:2010.11929) with pre-norm blocks, the pooler gated
attention (arXiv:1802.04712) with a GELU in place of its sigmoid and two heads. One class makes the published
ViT-B/16 and any smaller or larger configuration of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from .network import Network, min_max, project_patches
from .readout import OWN
from .specs import NetworkConfig

__all__ = ["LocalizationHead", "SubCellNetwork"]

LAYER_NORM_EPS = 1e-12  # as in the published configuration
HEAD_WIDTHS = (512, 256)

# our module path -> the published names that make it, in order; `N` stands for the number of a block
PUBLISHED_NAMES = {
    "class_token": ("encoder.embeddings.cls_token",),
    "positions": ("encoder.embeddings.position_embeddings",),
    "patches": ("encoder.embeddings.patch_embeddings.projection",),
    "stem.N.convolution": ("encoder.embeddings.patch_embeddings.stem.N.convolution",),
    "stem.N.norm": ("encoder.embeddings.patch_embeddings.stem.N.norm",),
    "blocks.N.norm_before": ("encoder.encoder.layer.N.layernorm_before",),
    "blocks.N.attention.qkv": (
        "encoder.encoder.layer.N.attention.attention.query",
        "encoder.encoder.layer.N.attention.attention.key",
        "encoder.encoder.layer.N.attention.attention.value",
    ),
    "blocks.N.attention.output": ("encoder.encoder.layer.N.attention.output.dense",),
    "blocks.N.norm_after": ("encoder.encoder.layer.N.layernorm_after",),
    "blocks.N.mlp_in": ("encoder.encoder.layer.N.intermediate.dense",),
    "blocks.N.mlp_out": ("encoder.encoder.layer.N.output.dense",),
    "norm": ("encoder.layernorm",),
    "pooler.content": ("pool_model.attention_v.1",),
    "pooler.gate": ("pool_model.attention_u.1",),
    "pooler.score": ("pool_model.attention",),
    "neck.layers.N": ("pool_model.neck.layers.N",),
    "neck.norms.N": ("pool_model.neck.norms.N",),
}


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.width, 3 * config.width)  # query, key and value at once
        self.output = nn.Linear(config.width, config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, T, width) to the same shape."""
        mixed = functional.scaled_dot_product_attention(*self.split(tokens))  # (B, heads, T, head width)
        return self.output(mixed.transpose(1, 2).flatten(-2))  # (B, T, width)

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return query, key and value, (B, heads, T, head width) each."""
        qkv = self.qkv(tokens).unflatten(-1, (3, self.n_heads, -1))  # (B, T, 3, heads, head width)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        return query, key, value

    def of_class_token(self, tokens: Tensor) -> Tensor:
        """Return how much the class token attends to each token, (B, heads, T); sums to 1 over the tokens."""
        query, key, _ = self.split(tokens)
        scores = query[:, :, :1] @ key.transpose(-2, -1) / query.shape[-1] ** 0.5  # (B, heads, 1, T)
        return scores.squeeze(2).float().softmax(dim=-1)


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

    dropout = 0.0  # share of each token that is hidden from the scores, in training

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.content = nn.Linear(config.width, config.pooler_width)
        self.gate = nn.Linear(config.width, config.pooler_width)
        self.score = nn.Linear(config.pooler_width, config.pooler_heads)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, T, width) to (B, heads * width)."""
        return (self.attention(tokens).to(tokens.dtype) @ tokens).flatten(1)

    def attention(self, tokens: Tensor) -> Tensor:
        """Return how much each head looks at each token, (B, heads, T) float32; sums to 1 over the tokens."""
        content, gate = (functional.dropout(tokens, self.dropout, self.training) for _ in range(2))
        gated = torch.tanh(self.content(content)) * functional.gelu(self.gate(gate))
        return self.score(gated).transpose(1, 2).float().softmax(dim=-1)


class BatchNorm(nn.Module):
    """Normalize each dimension over the batch, later as in training; torch's own also keeps a count, no weight."""

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))

    def forward(self, rows: Tensor) -> Tensor:
        """Map (B, width) to the same shape."""
        return functional.batch_norm(rows, self.mean, self.variance, self.weight, self.bias, self.training)


class Neck(nn.Module):
    """Fully connected layers from the pooled vector to the embedding, each normalized; float32."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(*shape) for shape in config.neck_layers)
        self.norms = nn.ModuleList(BatchNorm(width) for width in config.neck)

    def forward(self, pooled: Tensor) -> Tensor:
        """Map (B, heads * width) to (B, dim)."""
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            pooled = functional.relu(pooled) if number else pooled.float()
            pooled = norm(layer(pooled))
        return pooled


class StemLayer(nn.Module):
    """A convolution of small patches (kernel and stride are equal) or of overlapping ones, normalized over all."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int) -> None:
        super().__init__()
        padding = 0 if kernel == stride else kernel // 2
        self.convolution = nn.Conv2d(n_in, n_out, kernel, stride=stride, padding=padding, bias=False)
        self.norm = nn.GroupNorm(1, n_out)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, n_in, H, W) to (B, n_out, H / stride, W / stride)."""
        return self.norm(self.convolution(maps))


class SubCellNetwork(Network):
    """Crops in, embeddings out."""

    own_pooling = "gated attention"
    normalization = "joint min-max over channels, after masking"

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions = nn.Parameter(torch.zeros(1, config.grid**2 + 1, config.width))
        if config.stem:
            self.stem = nn.ModuleList(StemLayer(*shape) for shape in config.stem_layers)
        else:
            self.patches = nn.Conv2d(config.n_channels, config.width, config.patch_size, stride=config.patch_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_blocks))
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPS)
        self.pooler = GatedAttentionPooler(config)
        self.neck = Neck(config)

    @staticmethod
    def published_names(name: str) -> tuple[str, ...]:
        """Return the published names of one of our parameters, such as `blocks.3.mlp_in.weight`."""
        if name in PUBLISHED_NAMES:
            return PUBLISHED_NAMES[name]
        module, _, leaf = name.rpartition(".")
        parts = module.split(".")
        number = next(filter(str.isdigit, parts), "")
        generic = ".".join("N" if part == number else part for part in parts)
        return tuple(f"{key}.{leaf}".replace(".N.", f".{number}.") for key in PUBLISHED_NAMES[generic])

    @property
    def poolings(self) -> Mapping[str, int]:
        """See Network."""
        return {OWN: self.config.dim, "cls": self.config.width, "patches": self.config.width}

    def normalize(self, crops: Tensor) -> Tensor:
        """Scale each crop by the minimum and maximum over all its channels together."""
        return min_max(crops)

    def embed_patches(self, pixels: Tensor) -> Tensor:
        """Map (B, C, H, W), H and W multiples of the patch, to tokens (B, 1 + patches, width)."""
        dtype = self.norm.weight.dtype
        if self.config.stem:
            patches = self.convolve(pixels)
        else:
            patches = project_patches(pixels, self.patches, in_half=dtype != torch.float32)
        positions = self.positions_for(*(side // self.config.patch_size for side in pixels.shape[-2:]))
        tokens = torch.cat([self.class_token.expand(len(pixels), -1, -1), patches], dim=1)
        return (tokens + positions).to(dtype)

    def convolve(self, pixels: Tensor) -> Tensor:
        """Map (B, C, H, W) by the stem to patches (B, rows * columns, width)."""
        maps = pixels.contiguous(memory_format=torch.channels_last)  # twice as fast on a processor
        for layer in self.stem[:-1]:
            maps = functional.relu(layer(maps))
        return self.stem[-1](maps).flatten(2).transpose(1, 2).float()

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

    def pool(self, tokens: Tensor, pooling: str, *, final_norm: bool) -> Tensor:
        """Pool the tokens (B, T, width) of a block into (B, poolings[pooling])."""
        if pooling == OWN:
            return self.neck(self.pooler(self.norm(tokens)))
        tokens = self.norm(tokens) if final_norm else tokens
        return tokens[:, 0] if pooling == "cls" else tokens[:, 1:].mean(dim=1)

    def bytes_per_crop(self, height: int, width: int) -> int:
        """See Network. The MLP is the peak: the tokens, their hidden layer before and after GELU, and a little more."""
        config = self.config
        tokens = 1 + (height // config.patch_size) * (width // config.patch_size)
        units = 3 * config.width + 2 * config.mlp_width
        pixels = config.n_channels * height * width
        stem = 0
        if config.stem:  # its first maps, before, in and after the norm
            _, channels, _, stride = config.stem_layers[0]
            stem = 12 * channels * (height // stride) * (width // stride)
        return tokens * units * self.norm.weight.element_size() + pixels * 10 + stem  # raw, float32, normalized

    def use_precision(self, dtype: torch.dtype) -> None:
        """Compute all in `dtype` but the patches or the stem, whose pixels need more than 8 bits, and the neck."""
        for module in (self.blocks, self.norm, self.pooler):
            module.to(dtype)

    def attention_maps(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the network looks, in two ways, over the grid of patches; float32.

        The last block's attention of the class token (B, heads, rows, columns), and the pooler's
        (B, pooler heads, rows, columns). Both leave out the class token's own share, as the published code does.
        """
        rows, columns = (side // self.config.patch_size for side in pixels.shape[-2:])
        tokens = self.embed_patches(pixels)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        last = self.blocks[-1]
        assert isinstance(last, Block)
        of_class = last.attention.of_class_token(last.norm_before(tokens))
        of_pooler = self.pooler.attention(self.norm(last(tokens)))
        block_map, pooler_map = (
            maps[..., 1:].reshape(*maps.shape[:2], rows, columns) for maps in (of_class, of_pooler)
        )
        return block_map, pooler_map


class LocalizationHead(nn.Module):
    """Embeddings to localization: one of the classifiers that are published beside each encoder."""

    def __init__(self, dim: int, n_classes: int) -> None:
        super().__init__()
        widths = (dim, *HEAD_WIDTHS, n_classes)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Map (B, dim) to probabilities (B, classes), each class on its own."""
        hidden = embeddings
        for layer in self.layers[:-1]:
            hidden = functional.relu(layer(hidden))
        return self.layers[-1](hidden).sigmoid()
