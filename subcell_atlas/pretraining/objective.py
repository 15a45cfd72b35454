"""SubCell's objective around a network: two views of each cell in, the losses out.

The published model (`MAE-CellS-ProtS`, CellProfiling/subcell-embed, MIT) hides a quarter of the patches of the first
view and reconstructs them, shows all of the second, and asks the pooled vectors of both to agree within a cell
(NT-Xent) and within an antibody (SupCon), each through a projection head of its own. `ViT-ProtS` keeps the last of the
three.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional

from ..encoders.specs import NetworkConfig
from ..encoders.vit import LAYER_NORM_EPS, Block, SubCellNetwork
from .config import ObjectiveConfig
from .losses import nt_xent, reconstruction_loss, sup_con

__all__ = ["LOSSES", "Objective", "draw_kept", "gather", "initialize"]

LOSSES = ("reconstruction", "cell", "protein")
SINE_BASE = 10_000.0  # of the fixed positions, as in the transformer and in masked autoencoders


class Decoder(nn.Module):
    """The light transformer that fills hidden patches in: those seen go in, all come out, in pixels."""

    def __init__(self, network: NetworkConfig, config: ObjectiveConfig) -> None:
        super().__init__()
        shape = NetworkConfig(
            n_channels=network.n_channels,
            image_size=network.image_size,
            patch_size=network.patch_size,
            width=config.decoder_width,
            n_blocks=config.decoder_blocks,
            n_heads=config.decoder_heads,
            mlp_width=config.decoder_mlp_width,
            pooler_width=1,
        )
        self.narrow = nn.Linear(network.width, shape.width)
        self.hidden = nn.Parameter(torch.zeros(1, 1, shape.width))  # stands for a patch that was not seen
        self.positions = nn.Parameter(torch.zeros(1, shape.grid**2 + 1, shape.width), requires_grad=False)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.n_blocks))
        self.norm = nn.LayerNorm(shape.width, eps=LAYER_NORM_EPS)
        self.pixels = nn.Linear(shape.width, shape.n_channels * shape.patch_size**2)

    def forward(self, tokens: Tensor, kept: Tensor) -> Tensor:
        """Map the class token and those of the patches `kept` (B, k), tokens (B, 1 + k, width), to all patches' pixels.

        Returns (B, patches, C * p * p).
        """
        seen = self.narrow(tokens)  # (B, 1 + k, decoder width)
        place = torch.cat([torch.zeros_like(kept[:, :1]), kept + 1], dim=1).unsqueeze(-1).expand_as(seen)
        everywhere = self.hidden.to(seen.dtype).expand(len(seen), self.positions.shape[1], -1)
        filled = everywhere.scatter(1, place, seen) + self.positions
        for block in self.blocks:
            filled = block(filled)
        return self.pixels(self.norm(filled))[:, 1:]


class ProjectionHead(nn.Sequential):
    """From the embedding to the space in which a loss compares: hidden layers, batch-normalized."""

    def __init__(self, dim: int, config: ObjectiveConfig) -> None:
        layers: list[nn.Module] = []
        for _ in range(config.projection_layers):
            hidden = config.projection_hidden
            layers += [nn.Linear(dim, hidden), nn.BatchNorm1d(hidden), nn.ReLU()]
            dim = hidden
        super().__init__(*layers, nn.Linear(dim, config.projection_dim, bias=False))


class Objective(nn.Module):
    """A network with what only its training needs, begun from `seed`. A loss of weight 0 has no part and no cost."""

    def __init__(self, network: SubCellNetwork, config: ObjectiveConfig, *, seed: int) -> None:
        super().__init__()
        self.config = config
        self.network = network
        self.decoder = Decoder(network.config, config) if config.reconstruction else None
        self.cell_head = ProjectionHead(network.config.dim, config) if config.cell else None
        self.protein_head = ProjectionHead(network.config.dim, config) if config.protein else None
        for number, part in enumerate((self.decoder, self.cell_head, self.protein_head), start=1):
            if part:
                initialize(part, seed=seed + number)
        network.pooler.dropout = config.pooler_dropout
        network.positions.requires_grad_(not config.fixed_positions)
        for pooling in (network.pooler, network.neck):
            pooling.requires_grad_(bool(config.cell or config.protein))  # nothing else would train it

    def forward(
        self, first: Tensor, second: Tensor, labels: Tensor, cells: Tensor, kept: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the losses by name, and their weighted sum as `loss`.

        first, second: two views of the same cells, (B, C, H, W) float32; labels, cells: (B,), the number of the
        antibody and of the cell of each; kept: (B, k), the patches of the first view that are seen, needed to
        reconstruct the others. In several processes each gives its share of the batch; cells are compared with those
        of all.
        """
        config, losses = self.config, {}
        seen = self._tokens(first, kept if self.decoder else None)
        if self.decoder:
            assert kept is not None
            size = self.network.config.patch_size
            hidden = ~self.is_kept(kept)
            losses["reconstruction"] = reconstruction_loss(self.decoder(seen, kept), first, hidden, patch_size=size)
        if self.cell_head or self.protein_head:
            pooled = [self.network.pooler(tokens) for tokens in (seen, self._tokens(second, None))]
            one, other = (self.network.neck(gather(vectors.float())) for vectors in pooled)
            if self.cell_head:  # each view is normalized by its own batch, as published
                views = self.cell_head(one), self.cell_head(other)
                losses["cell"] = nt_xent(*views, temperature=config.cell_temperature, cells=gather(cells))
            if self.protein_head:
                projected = torch.cat([self.protein_head(one), self.protein_head(other)])
                twice = gather(labels).repeat(2)
                losses["protein"] = sup_con(projected, twice, temperature=config.protein_temperature)
        weights = {name: getattr(config, name) for name in losses}
        losses["loss"] = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        return losses

    def _tokens(self, view: Tensor, kept: Tensor | None) -> Tensor:
        """Return the network's last tokens of a view, (B, 1 + patches seen, width)."""
        if kept is not None and self.network.config.stem:
            grid, size = self.network.config.grid, self.network.config.patch_size
            shown = self.is_kept(kept).reshape(-1, 1, grid, grid).to(view.dtype)  # (B, 1, rows, columns)
            view = view * functional.interpolate(shown, scale_factor=size)  # a stem would see the neighbors otherwise
        tokens = self.network.embed_patches(view)
        if kept is not None:
            rows = kept.unsqueeze(-1).expand(-1, -1, tokens.shape[-1])
            tokens = torch.cat([tokens[:, :1], tokens[:, 1:].gather(1, rows)], dim=1)
        for block in self.network.blocks:
            tokens = block(tokens)
        return self.network.norm(tokens)

    def is_kept(self, kept: Tensor) -> Tensor:
        """Return (B, patches) bool of the numbers of the patches that are seen, (B, k)."""
        shown = torch.zeros(len(kept), self.network.config.grid**2, dtype=torch.bool, device=kept.device)
        return shown.scatter(1, kept, value=True)


class _Gather(torch.autograd.Function):
    """Join the rows of all processes; the gradient of a row is the sum of what all processes ask of it."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor) -> Tensor:
        """Return (processes * B, …), in the order of the processes."""
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        """Return the share of this process."""
        total = gradient.clone(memory_format=torch.contiguous_format)  # autograd may still need its own
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gather(rows: Tensor) -> Tensor:
    """Return the rows (B, …) of all processes joined, with gradients; `rows` where there is one process.

    Every process computes the same loss from them. The gradient of its own rows is then as many times too large as
    there are processes, which the averaging of `DistributedDataParallel` puts right; that of the heads, which all
    compute from the same rows, is averaged over equals. So no batch normalization has to be synchronized.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    joined: Tensor = _Gather.apply(rows)  # type: ignore[no-untyped-call]
    return joined


def draw_kept(n: int, n_patches: int, mask_ratio: float, *, seed: tuple[int, ...]) -> Tensor:
    """Draw the patches that are seen, (n, k) int64 ascending; the same for the same seed."""
    n_kept = max(1, int(n_patches * (1 - mask_ratio)))
    order = np.random.default_rng(seed).random((n, n_patches)).argsort(axis=1)
    return torch.from_numpy(np.sort(order[:, :n_kept], axis=1))


def initialize(module: nn.Module, *, seed: int) -> None:
    """Begin from random weights, as masked autoencoders do: Xavier's for matrices, fixed sines for positions."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, part in module.named_modules():
            if isinstance(part, nn.Linear | nn.Conv2d):
                parts = 3 if name.endswith("qkv") else 1  # query, key and value are matrices of their own
                for weight in part.weight.flatten(1).chunk(parts):
                    bound = (6 / sum(weight.shape)) ** 0.5
                    weight.uniform_(-bound, bound, generator=generator)
                if part.bias is not None:
                    part.bias.zero_()
            elif isinstance(part, nn.LayerNorm | nn.BatchNorm1d):
                part.reset_parameters()
            for own, parameter in part.named_parameters(recurse=False):
                if own == "positions":
                    parameter.copy_(sine_positions(*parameter.shape[1:]))
                elif own in ("class_token", "hidden"):
                    parameter.normal_(0, 0.02, generator=generator)


def sine_positions(n_tokens: int, width: int) -> Tensor:
    """Return (1, n_tokens, width): zeros for the class token, then sines and cosines of each patch's row and column."""
    side = round((n_tokens - 1) ** 0.5)
    quarter = width // 4
    rate = SINE_BASE ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angle = torch.arange(side, dtype=torch.float64)[:, None] * rate  # (side, quarter)
    wave = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows = wave[:, None].expand(side, side, -1)
    columns = wave[None, :].expand(side, side, -1)
    positions = torch.zeros(n_tokens, width)
    positions[1:, : 4 * quarter] = torch.cat([columns, rows], dim=2).flatten(0, 1).float()
    return positions[None]
